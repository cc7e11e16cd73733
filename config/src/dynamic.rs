//! `DynamicConfig`: the typed view of the DCS's `/config` key. Patroni documentation: dynamic configuration settings.

use crate::value::Map;
use std::collections::BTreeMap;
use std::time::Duration;

/// The smallest values that the three timers may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minimums {
    /// Of `ttl`.
    pub ttl: Duration,
    /// Of `loop_wait`.
    pub loop_wait: Duration,
    /// Of `retry_timeout`.
    pub retry_timeout: Duration,
}

impl Minimums {
    /// A cluster of our own members alone: 3 s, 1 s, 1 s.
    pub const TAMADA: Self = Self::seconds(3, 1, 1);
    /// A cluster with a Patroni member: 20 s, 1 s, 3 s.
    pub const PATRONI: Self = Self::seconds(20, 1, 3);

    const fn seconds(ttl: u64, loop_wait: u64, retry_timeout: u64) -> Self {
        Self {
            ttl: Duration::from_secs(ttl),
            loop_wait: Duration::from_secs(loop_wait),
            retry_timeout: Duration::from_secs(retry_timeout),
        }
    }
}

/// What the cluster has agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicConfig {
    /// `ttl` of the leader key; default 30 s.
    pub ttl: Duration,
    /// `loop_wait`; default 10 s.
    pub loop_wait: Duration,
    /// `retry_timeout`; default 10 s.
    pub retry_timeout: Duration,
    /// `maximum_lag_on_failover`; default 1 MiB.
    pub maximum_lag_on_failover_bytes: u64,
    /// `maximum_lag_on_syncnode`; `None` (default, written as 0 or less) = no limit.
    pub maximum_lag_on_syncnode_bytes: Option<u64>,
    /// `check_timeline`
    pub check_timeline: bool,
    /// `max_timelines_history`: entries kept in `/history`; `None` (default, written 0) = all.
    pub max_timelines_history: Option<u32>,
    /// `primary_start_timeout` (or `master_start_timeout`); default 300 s.
    pub primary_start_timeout: Duration,
    /// `primary_stop_timeout` (or `master_stop_timeout`); `None` (default, written 0) = no limit.
    pub primary_stop_timeout: Option<Duration>,
    /// `primary_race_backoff`; default 0.
    pub primary_race_backoff: Duration,
    /// `synchronous_mode`; see [`DynamicConfig::synchronous_mode`] for the one in force.
    pub configured_synchronous_mode: SynchronousMode,
    /// `synchronous_mode_strict`
    pub synchronous_mode_strict: bool,
    /// `synchronous_node_count`; default 1; at least 1 when strict.
    pub synchronous_node_count: u32,
    /// `failsafe_mode`
    pub failsafe_mode: bool,
    /// `pause`
    pub pause: bool,
    /// `member_slots_ttl`; default 30 min; zero = slots of absent members are dropped at once.
    pub member_slots_ttl: Duration,
    /// `slots` (or `permanent_slots`, `permanent_replication_slots`), by slot name.
    pub slots: BTreeMap<String, SlotConfig>,
    /// `ignore_slots`
    pub ignore_slots: Vec<SlotMatcher>,
    /// `standby_cluster`, when it names a host, a port or a restore_command.
    pub standby_cluster: Option<StandbyCluster>,
    /// `postgresql`, as written; [`crate::PostgresqlSettings`] reads it.
    pub postgresql: Map,
    /// The document as it was given.
    pub document: serde_json::Value,
}

/// `synchronous_mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SynchronousMode {
    /// Asynchronous, as far as this program is concerned.
    Off,
    /// `synchronous_standby_names` by priority.
    On,
    /// `quorum`: `ANY k (...)`.
    Quorum,
}

/// One permanent slot of `slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotConfig {
    /// Physical or logical.
    pub kind: SlotKind,
    /// `cluster_type`: `primary` or `standby`, if the slot shall exist only there.
    pub cluster_type: Option<String>,
}

/// `type` of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// `physical`
    Physical,
    /// `logical`
    Logical {
        /// `database`
        database: String,
        /// `plugin`
        plugin: String,
    },
}

/// One matcher of `ignore_slots`: a slot that agrees with every written part is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMatcher {
    /// `name`
    pub name: Option<String>,
    /// `type`
    pub kind: Option<String>,
    /// `database`
    pub database: Option<String>,
    /// `plugin`
    pub plugin: Option<String>,
}

/// `standby_cluster`: this cluster replicates from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyCluster {
    /// `host`: one or several, separated by commas.
    pub host: Option<String>,
    /// `port`: one or several, separated by commas.
    pub port: Option<String>,
    /// `primary_slot_name`
    pub primary_slot_name: Option<String>,
    /// `create_replica_methods`
    pub create_replica_methods: Option<Vec<String>>,
    /// `restore_command`
    pub restore_command: Option<String>,
    /// `archive_cleanup_command`
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay`
    pub recovery_min_apply_delay: Option<String>,
}
