//! What the daemon shows of itself: published after every cycle and every change of the long job, read by the REST
//! API, metrics and health checks. An immutable value behind a `watch` channel: a reader never waits for a cycle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::{DynamicConfig, LocalConfig};
use ha::cluster::{Cluster, Origin, PendingRestartReason, ScheduledRestart, Version};
use ha::facts::{Moment, Node, SqlFacts, TaskStatus};
use ha::memory::Memory;
use ha::pg::{Lsn, MemberName, Role, ServerState, SystemIdentifier, Timeline};
use tokio::sync::watch;

use super::settings::Settings;

/// What the daemon knew at the end of its newest cycle.
#[derive(Debug, Clone)]
pub struct View {
    /// This member, as it is published.
    pub node: Arc<Node>,
    /// The node's own configuration in force: REST settings, tags, the credentials for asking other members.
    pub local: Arc<LocalConfig>,
    /// The dynamic configuration in force.
    pub config: Arc<DynamicConfig>,
    /// The newest reading of the DCS, and when it was made. [`View::cluster`] says whether it still counts.
    pub cluster: Option<(Arc<Cluster>, Moment)>,
    /// Until when the leader key is ours by our own clock; `None` while we do not hold it.
    pub lock_valid_until: Option<Moment>,
    /// The server's role as last known or intended.
    pub role: Role,
    /// The server's state as last known or intended.
    pub state: ServerState,
    /// What the newest cycle's query told of the server; `None` when it was not asked or did not answer.
    pub sql: Option<SqlFacts>,
    /// The timeline: a primary's own, a standby's last known one.
    pub timeline: Option<Timeline>,
    /// Which promotion that timeline comes from.
    pub origin: Option<Origin>,
    /// The cluster did not go on with that.
    pub stands_back: bool,
    /// A standby: the newest position of its upstream that its WAL receiver has heard of (`latest_end_lsn`).
    pub latest_end_lsn: Option<Lsn>,
    /// The identity of the data directory.
    pub system_identifier: Option<SystemIdentifier>,
    /// Settings that wait for a restart; empty when none does.
    pub pending_restart: BTreeMap<String, PendingRestartReason>,
    /// A restart that was asked for at a later time.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The long job.
    pub task: TaskStatus,
    /// When the next cycle is due at the latest.
    pub next_run: Moment,
    /// When the DCS was last read, in seconds since 1970; 0 when never.
    pub dcs_last_seen: i64,
    /// As the leader: why the DCS refuses writes, while it does.
    pub dcs_refuses_writes: Option<String>,
    /// As a standby: why it does not stream.
    pub trouble: Option<String>,
    /// A watchdog is required and cannot be used.
    pub watchdog_failed: bool,
    /// Whether the guard that the configuration asks for is missing; `None` when it asks for none.
    pub guard_is_missing: Option<bool>,
    /// As the primary: how many members' names are used by connections that are not theirs.
    pub strangers: usize,
    /// Until when a check of the failsafe members lets this cluster go on without the DCS.
    pub failsafe_until: Option<Moment>,
    /// The key `failsafe` as last read or written.
    pub failsafe_members: Option<BTreeMap<MemberName, String>>,
    /// The last switchover or failover that failed here: the revision of the key `failover`, and why.
    pub failed_handover: Option<(Version, String)>,
    /// The newest cycle's status line.
    pub status_line: String,
}

impl View {
    /// The cached reading of the DCS; `None` when it is older than `ttl`.
    #[must_use]
    pub fn cluster(&self, now: Moment) -> Option<&Arc<Cluster>> {
        let (cluster, loaded_at) = self.cluster.as_ref()?;
        (now.since(*loaded_at) < self.config.ttl).then_some(cluster)
    }

    /// Whether this member is the leader by its own clock.
    #[must_use]
    pub fn is_leader(&self, now: Moment) -> bool {
        self.lock_valid_until.is_some_and(|until| now < until)
    }

    /// The cluster is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.config.pause
    }

    /// Members agreed a short while ago that this cluster goes on without the DCS.
    #[must_use]
    pub fn failsafe_is_active(&self, now: Moment) -> bool {
        self.failsafe_until.is_some_and(|until| now < until)
    }

    /// Cycles happen as they should: `GET /liveness` (Patroni documentation, "Patroni REST API", health checks).
    #[must_use]
    pub fn is_live(&self, now: Moment) -> bool {
        let is_primary = self.role == Role::Primary && self.state == ServerState::Running;
        let grace: Duration = self.config.ttl * if is_primary { 1 } else { 2 };
        self.is_paused() || now < self.next_run.after(grace)
    }
}

/// Where the newest view is read.
pub type ViewReceiver = watch::Receiver<Arc<View>>;

impl View {
    /// What is known before the first cycle.
    pub(crate) fn first(settings: &Settings, memory: &Memory, cluster: Cluster, now: Moment) -> Self {
        Self {
            node: Arc::clone(&settings.node),
            local: Arc::clone(&settings.local),
            config: Arc::clone(&settings.config),
            cluster: Some((Arc::new(cluster), now)),
            lock_valid_until: None,
            role: memory.role,
            state: memory.state,
            sql: None,
            timeline: None,
            origin: None,
            stands_back: false,
            latest_end_lsn: None,
            system_identifier: None,
            pending_restart: BTreeMap::new(),
            scheduled_restart: None,
            task: TaskStatus::Idle,
            next_run: now,
            dcs_last_seen: super::clock::epoch_seconds(),
            dcs_refuses_writes: None,
            trouble: None,
            watchdog_failed: false,
            guard_is_missing: None,
            strangers: 0,
            failsafe_until: None,
            failsafe_members: None,
            failed_handover: None,
            status_line: String::new(),
        }
    }
}
