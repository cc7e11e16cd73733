//! The shared state of a cluster as one immutable value: what a read of the DCS yields.
//!
//! One file per key holds that key's exact JSON. A malformed value never fails the read: it counts as absent, as
//! Patroni documents it.

mod failover;
mod heartbeat;
mod history;
mod leader;
mod member;
mod origin;
mod status;
mod sync;
mod tags;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use failover::{Failover, FailoverKind};
pub use heartbeat::{Expired, Heartbeat, KnownHeartbeat, Sent, Takeover};
pub use history::{History, HistoryLine};
pub use leader::Leader;
pub use member::{Member, MemberData, PendingRestartReason, ScheduledRestart};
pub use origin::{Origin, Origins, Promotion};
pub use status::Status;
pub use sync::SyncState;
pub use tags::Tags;

use crate::pg::{Lsn, MemberName, SystemIdentifier, Timeline};

/// A revision of a key in the DCS, for compare-and-set. Opaque; comparable only with another one of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub i64);

/// The key `config`: the dynamic configuration as it stands in the DCS.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigKey {
    /// The key's revision, for compare-and-set and to see a change.
    pub version: Version,
    /// The JSON object.
    pub value: serde_json::Map<String, serde_json::Value>,
}

/// Its values may hold secrets, such as commands with a token: the log of a member that runs at level DEBUG shows the names.
impl std::fmt::Debug for ConfigKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.value.keys().collect();
        write!(f, "ConfigKey {{ version: {:?}, value: {names:?} }}", self.version)
    }
}

/// Everything the DCS holds about one cluster, at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cluster {
    /// The key `initialize` as it stands: absent, `""` while a member bootstraps, or a system identifier.
    pub initialize: Option<String>,
    /// The key `config`; `None` when it is absent, empty or malformed.
    pub config: Option<ConfigKey>,
    /// The key `leader`: who holds the lease.
    pub leader: Option<Leader>,
    /// The key `heartbeat`: the last renewal of the lock, if the leader writes any.
    pub heartbeat: Option<Heartbeat>,
    /// The key `status`: the leader's last published position and slots.
    pub status: Status,
    /// The keys below `members/`, sorted by name.
    pub members: Vec<Member>,
    /// The key `failover`: a switchover or failover that somebody asked for.
    pub failover: Option<Failover>,
    /// The key `sync`: the synchronous standbys.
    pub sync: SyncState,
    /// The key `history`.
    pub history: Option<History>,
    /// The key `origin`: the promotions that led to the leader's timeline.
    #[serde(default)]
    pub origins: Origins,
    /// The key `failsafe`: the members that must agree before a leader goes on without the DCS, and their REST
    /// addresses. `None` when absent or malformed.
    pub failsafe: Option<BTreeMap<MemberName, String>>,
    /// Goes up when another store answers than before: one that was wiped or restored from a backup, or another etcd cluster.
    #[serde(default)]
    pub generation: u64,
    /// A Citus coordinator's view of the workers, by their groups; empty otherwise.
    #[serde(default)]
    pub workers: BTreeMap<u32, Self>,
}

impl Cluster {
    /// Nobody holds the leader key.
    #[must_use]
    pub fn is_unlocked(&self) -> bool {
        self.leader.is_none()
    }

    /// The holder of the leader key.
    #[must_use]
    pub fn leader_name(&self) -> Option<&MemberName> {
        self.leader.as_ref().map(|leader| &leader.name)
    }

    /// Whether `name` holds the leader key.
    #[must_use]
    pub fn is_leader(&self, name: &MemberName) -> bool {
        self.leader_name() == Some(name)
    }

    /// The member with that name, if its key is there.
    #[must_use]
    pub fn member(&self, name: &MemberName) -> Option<&Member> {
        self.members.iter().find(|member| &member.name == name)
    }

    /// The leader's member key, if it is there.
    #[must_use]
    pub fn leader_member(&self) -> Option<&Member> {
        self.leader_name().and_then(|name| self.member(name))
    }

    /// The system identifier in `initialize`, if it is a valid one.
    #[must_use]
    pub fn system_identifier(&self) -> Option<SystemIdentifier> {
        self.initialize.as_deref().and_then(|text| text.parse().ok())
    }

    /// The cluster's timeline by `/history`: its last line's plus one; 1 for an empty list, `None` when unknown.
    #[must_use]
    pub fn timeline(&self) -> Option<Timeline> {
        self.history.as_ref().map(History::next_timeline)
    }

    /// How far the WAL of a member on this timeline goes that the cluster went on with ([`History::shared`]).
    #[must_use]
    pub fn shared_position(&self, timeline: Option<Timeline>, position: Lsn) -> Lsn {
        let known = self.history.as_ref().zip(timeline);
        known.map_or(position, |(history, timeline)| history.shared(timeline, position))
    }

    /// The last leader was stopped in an orderly way, and a member with this position has not got all of its WAL.
    #[must_use]
    pub fn lacks_the_end(&self, timeline: Option<Timeline>, position: Option<Lsn>) -> bool {
        // The shutdown checkpoint begins there, so whoever has it is past it.
        let position = self.shared_position(timeline, position.unwrap_or_default());
        self.status.is_final && Some(position) <= self.status.optime
    }

    /// Nothing at all is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self
            == Self {
                generation: self.generation,
                ..Self::default()
            }
    }
}
