//! What survives from one cycle to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, History, KnownHeartbeat, Origin, Version};
use crate::facts::{Moment, Source};
use crate::pg::{Lsn, MemberName, Role, ServerState, SlotName, SystemIdentifier, Timeline, Xid};
use crate::step::RequestId;

/// What is known of whether our WAL parted from the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RewindState {
    /// Nothing calls for a look.
    #[default]
    Unneeded,
    /// It has to be looked at.
    Check,
    /// It parted: a rewind or a new copy is needed.
    Needed,
    /// Our timeline is another one of that number than the leader's: pg_rewind, which goes by the numbers, would ruin the data.
    OtherOrigin,
    /// pg_rewind did its work and the server has not been started since.
    Done,
    /// pg_rewind failed, and trying again would not help.
    Failed,
}

/// How far the creation of a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Bootstrap {
    /// None is made here.
    #[default]
    No,
    /// The data is there and the server was started.
    Started,
    /// Users are there and the operator's script has run.
    Populated,
    /// It failed; why.
    Failed(String),
}

/// The checkpoint after a promotion: until it is done others cannot rewind themselves against this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Checkpoint {
    /// Whether one is needed has not been looked at in this life of the agent.
    #[default]
    Unknown,
    /// None is needed.
    None,
    /// It has to be begun.
    Due,
    /// It was begun.
    Begun,
}

/// The lock as this node believes it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Until then the leader key is ours, whatever happens: the moment *before* the last successful request was sent,
    /// plus ttl.
    pub valid_until: Moment,
}

/// The DCS was wiped, restored from a backup, or exchanged for another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplacedStore {
    /// When that was noticed.
    pub at: Moment,
    /// The last reading of the store before.
    #[serde(with = "crate::event::shared::arc_option")]
    pub before: Option<Arc<Cluster>>,
    /// Our lock was valid at that moment: the leader key is ours, whatever the new store says.
    pub led: bool,
    /// As the leader: the cluster's keys were written again.
    pub is_written: bool,
}

/// What is known of a primary whose leader key is gone and that may still be alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaceBackoff {
    /// Of which absence of a leader this tells.
    pub unlocked_since: Moment,
    /// The newest position of our own.
    pub position: Lsn,
    /// When it was reached.
    pub moved_at: Moment,
}

/// Synchronous replication, as the primary sees it, and as a standby that is about to stop does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Synchronous {
    /// `synchronous_standby_names` in force.
    pub names: Option<String>,
    /// In which postmaster.
    pub postmaster_started: Option<i64>,
    /// Since when this setting is known to be in force.
    pub seen_at: Moment,
    /// Where the primary was at a moment when every process of the server had read it.
    pub since: Option<Lsn>,
    /// Standbys that have been seen at `since` or after it.
    pub reached: BTreeSet<MemberName>,
    /// A write of the key `sync` had no answer: it may still come into force.
    pub is_unsure: bool,
    /// How many cycles in a row have waited for standbys.
    pub waits: u32,
    /// When this member was promoted: others may not have found it yet.
    pub promoted_at: Option<Moment>,
    /// Somebody has been told that commits wait because there is no standby.
    pub nobody_was_said: bool,
    /// Members whose names are used by connections that are not theirs.
    #[serde(default)]
    pub strangers: BTreeSet<MemberName>,
    /// Those of them that somebody has been told of.
    #[serde(default)]
    pub strangers_told: BTreeSet<MemberName>,
    /// A standby that is about to stop asks since then to be waited for no more.
    pub leaving_since: Option<Moment>,
}

/// `failsafe_mode`: who must agree before this member leads without the DCS, and who has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Failsafe {
    /// All that the key `failsafe` may list: as read, and as written since.
    pub members: Option<BTreeMap<MemberName, String>>,
    /// As the leader: what was written last and may not be in the newest reading.
    pub written: Option<BTreeMap<MemberName, String>>,
    /// All have agreed, and the lock is ours until then.
    pub until: Option<Moment>,
    /// Since when not all of them agree.
    pub refused_since: Option<Moment>,
    /// When this life of the agent began to read the DCS: what one before it has promised is not known.
    pub known_since: Option<Moment>,
}

/// Replication slots: as the leader those of members that are away, as a standby the logical ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Slots {
    /// The leader: when each slot of a member was last seen while the member was there.
    pub last_seen: BTreeMap<SlotName, Moment>,
    /// The leader: what the last one has kept is in `last_seen`.
    pub adopted: bool,
    /// A standby: in which postmaster the logical slots below were found.
    pub found_in: Option<i64>,
    /// A standby: who led then, and the timeline here: what the last primary has kept the next one may throw away.
    pub found_under: Option<(MemberName, Option<Timeline>)>,
    /// A standby: since when that has been so. What was asked before tells nothing.
    pub found_since: Option<Moment>,
    /// A standby: logical slots of which it is not certain yet that the primary has kept the catalog rows that they need.
    /// With the `catalog_xmin` that the slot had on the primary when our physical slot began to keep some there.
    pub unproven: BTreeMap<SlotName, Option<Xid>>,
    /// A standby: how far those were confirmed when they were found. WAL that they need is here once they have moved on.
    pub found_at: BTreeMap<SlotName, Lsn>,
    /// On which timeline this server last was the leader's: while its WAL is of that one, its logical slots are what they
    /// were then.
    pub led_on: Option<Timeline>,
    /// A standby: no logical slot is copied before then.
    pub copy_not_before: Option<Moment>,
}

/// A planned stop of the primary, from the request to the new leader.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Handover {
    /// The request whose candidates are looked at before the stop.
    pub preparation: Option<Preparation>,
    /// The server was stopped for a switchover, and the leader key is still ours.
    pub is_stopped: bool,
    /// Since when the shutdown checkpoint is written and a member that has it is waited for.
    pub waits_since: Option<Moment>,
    /// The last request that failed: the revision of the key `failover`, and why.
    pub failed: Option<(Version, String)>,
    /// The request after which the primary was started again. It is not carried out once more, though its key may still be there.
    pub undone: Option<Version>,
    /// Since when a server that was stopped in an orderly way cannot be started again.
    pub start_fails_since: Option<Moment>,
}

/// A switchover whose candidates have to catch up before the primary is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preparation {
    /// The revision of the key `failover`.
    pub request: Version,
    /// When this member began to look.
    pub since: Moment,
    /// Where the WAL of this member ended then.
    pub goal: Lsn,
}

/// What survives from cycle to cycle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The server's role as last known or intended.
    pub role: Role,
    /// The server's state as last known or intended.
    pub state: ServerState,
    /// The lock, while we hold it.
    pub lock: Option<Lock>,
    /// The newest reading of the DCS, and a moment before it was asked for.
    #[serde(with = "crate::event::shared::arc_and")]
    pub cluster: Option<(Arc<Cluster>, Moment)>,
    /// Which store answered last.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Another store has answered than before.
    #[serde(default)]
    pub replaced_store: Option<ReplacedStore>,
    /// The newest heartbeat of a leader.
    pub heartbeat: Option<KnownHeartbeat>,
    /// The version of a leader key that proves no lock, and since when it is known.
    #[serde(default)]
    pub unproved_leader: Option<(Version, Moment)>,
    /// The timeline whose history file the key `history` was compared with, and what the key said.
    #[serde(default)]
    pub checked_history: Option<(Timeline, History)>,
    /// The operator's scripts were last told of a leader here: before the key is released they are told that it is none.
    #[serde(default)]
    pub told_as_leader: bool,
    /// They have been told of the stop that runs.
    #[serde(default)]
    pub stop_was_told: bool,
    /// The last reading that had a leader: its members are asked in a race even when their keys have expired.
    #[serde(with = "crate::event::shared::arc_option")]
    pub led_cluster: Option<Arc<Cluster>>,
    /// Since when no reading has shown a leader.
    pub unlocked_since: Option<Moment>,
    /// Whether WAL has come since then.
    pub race_backoff: Option<RaceBackoff>,
    /// How far the creation of the cluster is, if it is made here.
    pub bootstrap: Bootstrap,
    /// An agent before this one was ended while it created the cluster: the empty key `initialize` may be of it.
    #[serde(default)]
    pub creation_was_cut_off: bool,
    /// A start was begun by recovery and its end has not been judged.
    pub is_recovering: bool,
    /// Rewind.
    pub rewind: RewindState,
    /// Whose WAL ours was last rewound to.
    pub rewound_to: Option<Source>,
    /// Crash recovery in single-user mode was tried since the last good start.
    pub crash_recovery_tried: bool,
    /// When the primary was stopped to become a standby; it has not been started since.
    pub demoted_at: Option<Moment>,
    /// The server was seen to run in this life of the agent; `on_start` has been called.
    pub start_was_announced: bool,
    /// Since when the server has been starting.
    pub starting_since: Option<Moment>,
    /// How long the start that is going on may take, in a request's own words.
    pub start_timeout: Option<std::time::Duration>,
    /// When the operator's `pre_promote` refused: the key is given up, and no race for `ttl` after it.
    pub pre_promote_failed_at: Option<Moment>,
    /// The last cycle was one in pause: servers may have changed behind the agents' backs.
    pub was_paused: bool,
    /// The requests that nothing was done for yet, and since when they wait.
    #[serde(default)]
    pub waiting_requests: Vec<(RequestId, Moment)>,
    /// Who waits for the end of a restart.
    pub restart_request: Option<RequestId>,
    /// The scheduled restart as it was first seen, and which postmaster ran then: only that one is meant.
    pub planned_restart: Option<(RequestId, Option<i64>)>,
    /// The restart that runs was scheduled.
    pub scheduled_restart_runs: bool,
    /// The checkpoint after our promotion.
    pub checkpoint: Checkpoint,
    /// The system identifier of the data directory, while the same postmaster runs on it.
    pub system_identifier: Option<SystemIdentifier>,
    /// Which postmaster was last seen, by its start.
    pub postmaster_started: Option<i64>,
    /// Replication slots.
    pub slots: Slots,
    /// The status that was last written, so that an equal one is not written again.
    pub published_status: Option<String>,
    /// Our last known position, for a status written when the server is down.
    pub last_position: Option<Lsn>,
    /// Our last known timeline as a standby.
    pub last_timeline: Option<Timeline>,
    /// Which promotion our last known timeline comes from. That stays true when its beginning is not in `pg_wal` any more.
    pub origin: Option<Origin>,
    /// The same of a timeline before that one.
    pub origin_before: Option<Origin>,
    /// Our last known timeline is not the one that the last leader was on: no race for the key.
    pub stands_back: bool,
    /// The member key was written in this life of the agent.
    #[serde(default)]
    pub was_published: bool,
    /// Why the DCS refuses writes, while it does: the lease alone is the lock.
    #[serde(default)]
    pub writes_refused: Option<String>,
    /// Since when this standby runs without streaming.
    pub awaits_stream_since: Option<Moment>,
    /// How many jobs have failed since the last one that did not.
    pub failed_tasks: u32,
    /// Nothing that failed is tried again before this moment.
    pub hold_off_until: Option<Moment>,
    /// The crash recovery that was begun: how many bytes it has to replay, and since when.
    pub replaying: Option<(u64, Moment)>,
    /// How many bytes of WAL the last crash recovery that was long enough to tell has replayed in a second.
    pub replay_bytes_per_second: Option<u64>,
    /// Synchronous replication.
    pub synchronous: Synchronous,
    /// Leading without the DCS.
    pub failsafe: Failsafe,
    /// Why this standby does not stream although its source runs.
    #[serde(default)]
    pub trouble: Option<String>,
    /// This standby streams, or did so a moment ago: it needs no archive.
    #[serde(default)]
    pub only_streams: bool,
    /// A planned stop of the primary.
    #[serde(default)]
    pub handover: Handover,
    /// The source that this standby does not stream from although it runs: its address, and since when.
    #[serde(default)]
    pub unanswered: Option<(String, Moment)>,
    /// The loop of `replicatefrom` that this member has broken, and said so.
    #[serde(default)]
    pub replication_loop: Vec<MemberName>,
}

impl Memory {
    /// The memory of an agent that has just been started.
    #[must_use]
    pub fn new(role: Role, state: ServerState) -> Self {
        Self {
            role,
            state,
            lock: None,
            cluster: None,
            generation: None,
            replaced_store: None,
            heartbeat: None,
            unproved_leader: None,
            checked_history: None,
            // Of a primary that has been demoted an agent before this one may have told.
            told_as_leader: matches!(role, Role::Primary | Role::StandbyLeader | Role::Demoted),
            stop_was_told: false,
            led_cluster: None,
            unlocked_since: None,
            race_backoff: None,
            bootstrap: Bootstrap::No,
            creation_was_cut_off: false,
            is_recovering: false,
            rewind: RewindState::Unneeded,
            rewound_to: None,
            crash_recovery_tried: false,
            demoted_at: None,
            start_was_announced: false,
            starting_since: None,
            start_timeout: None,
            pre_promote_failed_at: None,
            was_paused: false,
            waiting_requests: Vec::new(),
            restart_request: None,
            planned_restart: None,
            scheduled_restart_runs: false,
            checkpoint: Checkpoint::Unknown,
            system_identifier: None,
            postmaster_started: None,
            slots: Slots::default(),
            published_status: None,
            last_position: None,
            last_timeline: None,
            origin: None,
            origin_before: None,
            stands_back: false,
            was_published: false,
            writes_refused: None,
            awaits_stream_since: None,
            failed_tasks: 0,
            hold_off_until: None,
            replaying: None,
            replay_bytes_per_second: None,
            synchronous: Synchronous::default(),
            failsafe: Failsafe::default(),
            handover: Handover::default(),
            unanswered: None,
            only_streams: false,
            trouble: None,
            replication_loop: Vec::new(),
        }
    }

    /// Takes note of the server's timeline, and of what is seen of its origin.
    pub(crate) fn see_timeline(&mut self, timeline: Timeline, origin: Option<Origin>) {
        self.last_timeline = Some(timeline);
        if self.origin_of(timeline).is_none() {
            self.origin_before = self.origin.take().filter(|before| before.timeline < timeline);
        }
        self.origin = origin.or(self.origin);
    }

    /// Which promotion that timeline of ours comes from.
    #[must_use]
    pub fn origin_of(&self, timeline: Timeline) -> Option<Origin> {
        self.origin.filter(|origin| origin.timeline == timeline)
    }

    /// The data is not what it was.
    pub(crate) fn forget_origin(&mut self) {
        (self.origin, self.origin_before, self.stands_back) = (None, None, false);
    }

    /// Whether the lock is certainly ours at `now`.
    #[must_use]
    pub fn holds_lock(&self, now: Moment) -> bool {
        self.lock.is_some_and(|lock| now < lock.valid_until)
    }

    /// Whether this member is a leader, or may be: then it promises no other one anything.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads_until().is_some() || (self.role == Role::Primary && self.state == ServerState::Running)
    }

    /// Whether another member was seen to lead.
    #[must_use]
    pub fn another_leads(&self, me: &MemberName) -> bool {
        let cluster = self.cluster.as_ref();
        let leader = cluster.and_then(|(cluster, _)| cluster.leader_name());
        leader.is_some_and(|leader| leader != me)
    }

    /// Until when this member is to be taken for the leader: not while it gives its place up, though its lease runs on.
    #[must_use]
    pub fn leads_until(&self) -> Option<Moment> {
        let gives_up = self.role == Role::Demoted || self.demoted_at.is_some();
        self.lock.filter(|_| !gives_up).map(|lock| lock.valid_until)
    }
}
