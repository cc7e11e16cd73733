//! What a seed chooses before anything happens: the cluster, its settings, and which faults are in play.
//!
//! Swarm testing: a run that has only a few kinds of faults gets further into the states those lead to than one in which
//! everything fails at once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::random::Random;
use crate::slots::{DATABASE, FEED, PLUGIN};

/// A kind of trouble, or something that people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Agent and server of a member are gone at once.
    CrashMember,
    /// The postmaster is killed.
    KillPostmaster,
    /// The agent is killed and the server goes on: without a guard two primaries follow.
    KillAgent,
    /// The whole host stands still for a while.
    FreezeHost,
    /// A member does not reach the DCS.
    IsolateFromDcs,
    /// A member does not reach the other members.
    IsolateFromMembers,
    /// A member reaches nobody.
    Isolate,
    /// Two members do not reach each other.
    CutLink,
    /// Nobody reaches the DCS.
    DcsOutage,
    /// The DCS answers slowly.
    SlowDcs,
    /// The local server answers slowly.
    SlowServer,
    /// Replication takes long.
    SlowReplication,
    /// A switchover is asked for.
    Switchover,
    /// A failover to a candidate is asked for.
    Failover,
    /// An agent is told to end, and started again later.
    StopAgent,
    /// A restart of the server is asked for.
    RestartRequest,
    /// A new copy is asked for.
    ReinitializeRequest,
    /// The cluster is paused for a while.
    Pause,
    /// Another cluster's data is put into a data directory.
    ForeignData,
    /// The data directory is emptied while nothing runs.
    LoseData,
    /// An agent cannot look at its server and its data directory: it has no descriptors left.
    LoseSight,
    /// A postmaster hangs: its sessions go on, and a look at it finds no sign of life.
    HangServer,
    /// Nobody reaches what a standby cluster replicates from.
    LoseRemote,
    /// What a standby cluster replicates from goes on to a new timeline.
    RemoteFailover,
    /// A standby cluster is promoted, or demoted again.
    ChangePlaces,
    /// A WAL receiver stays connected and takes nothing.
    StallReceiver,
    /// The store is full: leases are kept alive, and nothing is written.
    FullStore,
    /// The members lose their permission to write to the store.
    ReadOnlyStore,
    /// The store is wiped.
    WipeStore,
    /// The store is restored from a backup.
    RestoreStore,
    /// Somebody writes a name into the leader key, which is bound to no lease then.
    WriteLeaderKey,
}

/// All kinds but those that need a guard to be harmless.
const KINDS: [Fault; 20] = [
    Fault::CrashMember,
    Fault::KillPostmaster,
    Fault::FreezeHost,
    Fault::IsolateFromDcs,
    Fault::IsolateFromMembers,
    Fault::Isolate,
    Fault::CutLink,
    Fault::DcsOutage,
    Fault::SlowDcs,
    Fault::SlowServer,
    Fault::SlowReplication,
    Fault::Switchover,
    Fault::Failover,
    Fault::StopAgent,
    Fault::RestartRequest,
    Fault::ReinitializeRequest,
    Fault::Pause,
    Fault::ForeignData,
    Fault::LoseData,
    Fault::LoseSight,
];

/// `ttl`, `loop_wait` and `retry_timeout`: any that are legal with a `ttl` of 3 s to an hour, short ones more often, and often
/// with no second to spare.
fn timers(random: &mut Random) -> (u64, u64, u64) {
    let longest = match random.below(40) {
        0 => 3600,
        1..10 => 300,
        10..20 => 30,
        _ => 10,
    };
    let ttl = 3 + random.below(longest - 2);
    let retry_timeout = 1 + random.below((ttl - 1) / 2);
    let room = ttl - 2 * retry_timeout;
    let loop_wait = match random.below(4) {
        0 => room,
        1 if ttl <= 60 => 1,
        _ => 1 + random.below(room),
    };
    (ttl, loop_wait, retry_timeout)
}

/// The choices of a seed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many members there are.
    pub members: usize,
    /// `ttl`, `loop_wait` and `retry_timeout`, in seconds.
    pub timing_seconds: (u64, u64, u64),
    /// `primary_start_timeout`, in seconds.
    pub primary_start_timeout_seconds: u64,
    /// `maximum_lag_on_failover`.
    pub maximum_lag_bytes: u64,
    /// `check_timeline`.
    pub check_timeline: bool,
    /// `use_slots`.
    pub use_slots: bool,
    /// `use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `remove_data_directory_on_rewind_failure` and `_on_diverged_timelines`.
    pub may_remove_data: bool,
    /// Recovery settings need a restart, as before PostgreSQL 13.
    pub is_old_postgresql: bool,
    /// A guard stops the server when the lease runs out, whatever the agent does.
    pub has_guard: bool,
    /// The agent's lease is taken up again by its next life.
    pub keeps_lease: bool,
    /// Peers tell the positions of their last cycle, not those of the moment.
    pub peers_are_stale: bool,
    /// How old the copy may be that a read of the DCS is answered from.
    pub stale_read_millis: u64,
    /// The largest difference between a clock's rate and true time.
    pub drift_parts_per_million: u64,
    /// One member has the tag `nofailover`.
    pub has_nofailover: bool,
    /// The last member has the tag `nosync`.
    pub has_nosync: bool,
    /// Members have different priorities.
    pub has_priorities: bool,
    /// `synchronous_mode`: whether members count votes; `None` when it is off.
    pub synchronous_by_quorum: Option<bool>,
    /// `synchronous_mode_strict`.
    pub is_strict: bool,
    /// `synchronous_node_count`.
    pub synchronous_node_count: usize,
    /// `failsafe_mode`.
    pub is_failsafe: bool,
    /// `primary_probe_timeout`, in seconds; `None` when nobody looks.
    pub primary_probe_timeout_seconds: Option<u64>,
    /// Which faults are in play.
    pub faults: Vec<Fault>,
    /// The mean time between two faults.
    pub fault_interval: Duration,
    /// How long faults are in play.
    pub chaos: Duration,
    /// There is a remote cluster to replicate from.
    pub has_remote: bool,
    /// `slots` has a permanent logical slot.
    pub has_logical_slot: bool,
    /// `standby_cluster` is in the configuration now.
    pub is_standby_cluster: bool,
    /// The members that have the tag `replicatefrom`, and whose WAL they take; loops are among them.
    pub replicate_from: Vec<(usize, usize)>,
    /// The member that has the tag `nostream`. There is no archive: it gets no WAL.
    pub without_stream: Option<usize>,
}

impl Plan {
    /// What `random` chooses. With `agent_dies`, agents are killed although no guard is there.
    #[must_use]
    pub(crate) fn choose(random: &mut Random, agent_dies: bool, is_synchronous: bool) -> Self {
        let timing_seconds = timers(random);
        let has_guard = random.percent(20);
        let share = [15, 30, 60][random.index(3)];
        let mut faults: Vec<Fault> = KINDS.into_iter().filter(|_| random.percent(share)).collect();
        if agent_dies || (has_guard && random.percent(50)) {
            faults.push(Fault::KillAgent);
        }
        let ttl = timing_seconds.0;
        // A run with a long `ttl` is not much longer than others: something happens more often in it.
        let rhythm = ttl.min(75);
        let (mut by_quorum, mut is_strict, mut node_count) = (None, false, 1);
        if is_synchronous {
            by_quorum = Some(random.percent(50));
            is_strict = random.percent(40);
            node_count = [1, 1, 2][random.index(3)];
        }
        let is_failsafe = random.percent(40);
        if is_failsafe {
            faults.extend([Fault::DcsOutage, Fault::IsolateFromDcs]);
        }
        let probes = random.percent(25);
        if probes {
            faults.push(Fault::HangServer);
        }
        let mut plan = Self {
            members: [2, 3, 3, 3, 4, 5][random.index(6)],
            timing_seconds,
            primary_start_timeout_seconds: [300, 300, 20, 0][random.index(4)],
            maximum_lag_bytes: [1_048_576, 1_048_576, 100][random.index(3)],
            check_timeline: random.percent(30),
            use_slots: random.percent(80),
            use_pg_rewind: random.percent(80),
            may_remove_data: random.percent(50),
            is_old_postgresql: random.percent(15),
            has_guard,
            keeps_lease: random.percent(50),
            // A vote is worth what its position is: the program's answers are those of the moment.
            peers_are_stale: random.percent(30) && by_quorum != Some(true),
            stale_read_millis: [0, 20, 500][random.index(3)],
            drift_parts_per_million: [0, 0, 50][random.index(3)],
            has_nofailover: random.percent(15),
            has_priorities: random.percent(20),
            has_nosync: is_synchronous && random.percent(15),
            synchronous_by_quorum: by_quorum,
            is_strict,
            synchronous_node_count: node_count,
            is_failsafe,
            primary_probe_timeout_seconds: probes.then(|| 1 + random.below(ttl)),
            faults,
            fault_interval: Duration::from_millis(random.below(rhythm * 3000) + rhythm * 300),
            chaos: Duration::from_secs(rhythm * 12 + random.below(rhythm * 12) + ttl * 2),
            has_remote: false,
            is_standby_cluster: false,
            has_logical_slot: false,
            replicate_from: Vec::new(),
            without_stream: None,
        };
        if !agent_dies {
            plan.choose_replication(&mut random.clone(), is_synchronous);
        }
        plan
    }

    /// What only some clusters have. The stream is a copy, so that the runs of all others stay as they are.
    fn choose_replication(&mut self, random: &mut Random, is_synchronous: bool) {
        if !is_synchronous {
            self.choose_remote(&mut random.clone());
        }
        // Not the number that has decided on a remote cluster.
        random.next();
        self.has_logical_slot = self.use_slots && !self.has_remote && random.percent(35);
        self.choose_cascades(&mut random.clone());
        self.choose_store(&mut random.clone());
        self.choose_hand(&mut random.clone());
    }

    /// In some clusters people write keys by hand.
    fn choose_hand(&mut self, random: &mut Random) {
        for _ in 0..5 {
            random.next();
        }
        if random.percent(8) {
            self.faults.push(Fault::WriteLeaderKey);
        }
    }

    /// Some clusters have members that do not stream from the leader, or stop taking WAL.
    fn choose_cascades(&mut self, random: &mut Random) {
        random.next();
        if random.percent(30) {
            self.faults.push(Fault::StallReceiver);
        }
        // The slots that are looked for at the end are those of members that stream from the primary.
        if self.has_remote || self.has_logical_slot || self.members < 3 {
            return;
        }
        if random.percent(30) {
            for member in 0..self.members {
                if random.percent(40) {
                    let upstream = random.index(self.members);
                    self.replicate_from.push((member, upstream));
                }
            }
        } else if random.percent(20) && self.synchronous_by_quorum.is_none() && !self.is_failsafe {
            self.without_stream = Some(self.members - 1);
        }
    }

    /// Some clusters have a store that refuses writes or is replaced.
    fn choose_store(&mut self, random: &mut Random) {
        for _ in 0..3 {
            random.next();
        }
        // People write the configuration of a standby cluster while the store is to take it.
        if self.has_remote || !random.percent(30) {
            return;
        }
        let kinds = [
            Fault::FullStore,
            Fault::ReadOnlyStore,
            Fault::WipeStore,
            Fault::RestoreStore,
        ];
        let chosen: Vec<Fault> = kinds.into_iter().filter(|_| random.percent(50)).collect();
        if chosen.contains(&Fault::WipeStore) {
            // A member without data that finds an empty store, and no other member, has to begin a new cluster.
            self.faults
                .retain(|fault| !matches!(fault, Fault::LoseData | Fault::ForeignData));
        }
        self.faults.extend(chosen);
    }

    /// Some clusters replicate from another one.
    fn choose_remote(&mut self, random: &mut Random) {
        if !random.percent(15) {
            return;
        }
        self.has_remote = true;
        self.is_standby_cluster = true;
        // A standby leader whose WAL has parted has nobody to be copied from.
        self.use_pg_rewind = true;
        let kinds = [Fault::LoseRemote, Fault::RemoteFailover, Fault::ChangePlaces];
        let chosen = kinds.into_iter().filter(|_| random.percent(50));
        self.faults.extend(chosen);
    }

    /// Commits wait for standbys.
    #[must_use]
    pub(crate) fn is_synchronous(&self) -> bool {
        self.synchronous_by_quorum.is_some()
    }

    /// The key `config` of the cluster.
    #[must_use]
    pub(crate) fn config(&self, is_paused: bool) -> Value {
        let (ttl, loop_wait, retry_timeout) = self.timing_seconds;
        let mut config = json!({
            "ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout,
            "maximum_lag_on_failover": self.maximum_lag_bytes,
            "primary_start_timeout": self.primary_start_timeout_seconds,
            "check_timeline": self.check_timeline,
            "postgresql": {"use_slots": self.use_slots, "use_pg_rewind": self.use_pg_rewind},
        });
        if let (Some(by_quorum), Some(map)) = (self.synchronous_by_quorum, config.as_object_mut()) {
            let mode = if by_quorum { "quorum" } else { "on" };
            map.insert("synchronous_mode".to_owned(), mode.into());
            map.insert("synchronous_mode_strict".to_owned(), self.is_strict.into());
            map.insert(
                "synchronous_node_count".to_owned(),
                self.synchronous_node_count.into(),
            );
        }
        if self.has_logical_slot
            && let Some(map) = config.as_object_mut()
        {
            let slot = json!({"type": "logical", "database": DATABASE, "plugin": PLUGIN});
            map.insert("slots".to_owned(), json!({FEED: slot}));
        }
        if self.is_failsafe
            && let Some(map) = config.as_object_mut()
        {
            map.insert("failsafe_mode".to_owned(), Value::Bool(true));
        }
        if let (Some(seconds), Some(map)) = (self.primary_probe_timeout_seconds, config.as_object_mut()) {
            map.insert("primary_probe_timeout".to_owned(), seconds.into());
        }
        if self.is_standby_cluster
            && let Some(map) = config.as_object_mut()
        {
            let remote = json!({"host": "remote", "port": 5432});
            map.insert("standby_cluster".to_owned(), remote);
        }
        if is_paused && let Some(map) = config.as_object_mut() {
            map.insert("pause".to_owned(), Value::Bool(true));
        }
        config
    }

    /// `ttl`.
    #[must_use]
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_secs(self.timing_seconds.0)
    }

    /// `loop_wait`.
    #[must_use]
    pub(crate) fn loop_wait(&self) -> Duration {
        Duration::from_secs(self.timing_seconds.1)
    }

    /// `retry_timeout`.
    #[must_use]
    pub(crate) fn retry_timeout(&self) -> Duration {
        Duration::from_secs(self.timing_seconds.2)
    }
}
