//! Health checks: what a load balancer is told (Patroni documentation, "Patroni REST API", "Health check endpoints").
//!
//! Leadership comes from the view alone: whether this member leads is its own knowledge, so `/primary` never waits
//! for PostgreSQL. Only checks about replicas look at the server.

use ha::cluster::Cluster;
use ha::facts::{Moment, TaskStatus};
use ha::pg::{Role, ServerState};
use ha::step::Task;
use serde_json::Value;

use super::json;
use super::query::Query;
use super::status::{Shown, SyncFlag};
use crate::daemon::view::View;

/// A health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    StandbyLeader,
    Leader,
    Primary,
    Replica,
    ReadOnly,
    Health,
    Sync,
    Quorum,
    Async,
    ReadOnlySync,
    ReadOnlyQuorum,
    Unknown,
}

impl Check {
    /// All that a path can name.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 11] = [
        Self::StandbyLeader,
        Self::Leader,
        Self::Primary,
        Self::Replica,
        Self::ReadOnly,
        Self::Health,
        Self::Sync,
        Self::Quorum,
        Self::Async,
        Self::ReadOnlySync,
        Self::ReadOnlyQuorum,
    ];

    /// The check for a path: the first rule that fits, most of them by a part of the path, as load balancers out there
    /// are configured by.
    pub(crate) fn of(path: &str) -> Self {
        let has = |word| path.contains(word);
        if has("standby_leader") || has("standby-leader") {
            Self::StandbyLeader
        } else if has("leader") {
            Self::Leader
        } else if path == "/" || has("master") || has("primary") || has("read-write") {
            Self::Primary
        } else if has("replica") {
            Self::Replica
        } else if has("read-only") && !has("sync") && !has("quorum") {
            Self::ReadOnly
        } else if has("health") {
            Self::Health
        } else {
            match path {
                "/sync" | "/synchronous" => Self::Sync,
                "/quorum" => Self::Quorum,
                "/async" | "/asynchronous" => Self::Async,
                "/read-only-sync" | "/read-only-synchronous" => Self::ReadOnlySync,
                "/read-only-quorum" => Self::ReadOnlyQuorum,
                _ => Self::Unknown,
            }
        }
    }

    fn ignores_tags(self) -> bool {
        matches!(self, Self::StandbyLeader | Self::Leader | Self::Primary)
    }

    fn needs_cluster(self) -> bool {
        matches!(
            self,
            Self::Sync | Self::Quorum | Self::Async | Self::ReadOnlySync | Self::ReadOnlyQuorum
        )
    }
}

/// What a check is judged by.
#[derive(Clone, Copy)]
pub(crate) struct Evidence<'a> {
    /// The daemon's view.
    pub(crate) view: &'a View,
    /// The moment of the request.
    pub(crate) now: Moment,
    /// The request's parameters.
    pub(crate) query: &'a Query,
    /// The server, if it has been looked at.
    pub(crate) server: Option<Shown<'a>>,
}

/// The code of a check: 200 or 503; `None` when only a look at the server can tell.
pub(crate) fn code(check: Check, evidence: Evidence<'_>) -> Option<u16> {
    let passes = evidence.passes(check)? && (check.ignores_tags() || evidence.has_tags());
    Some(if passes { 200 } else { 503 })
}

impl<'a> Evidence<'a> {
    fn cluster(&self) -> Option<&'a Cluster> {
        self.view.cluster(self.now).map(AsRef::as_ref)
    }

    fn passes(&self, check: Check) -> Option<bool> {
        if check.needs_cluster() && self.cluster().is_none() {
            return Some(false);
        }
        match check {
            Check::StandbyLeader => self.is_standby_leader(),
            Check::Leader => self.is_leader(),
            Check::Primary => self.is_primary(),
            Check::Replica => self.is_replica(),
            Check::ReadOnly => self.leads_or(Self::is_replica),
            Check::Health => Some(self.server?.state == Some(ServerState::Running)),
            Check::Sync => self.is_sync_standby(SyncFlag::Sync),
            Check::Quorum => self.is_sync_standby(SyncFlag::Quorum),
            Check::Async => Some(self.server?.sync.is_none() && self.is_replica()?),
            Check::ReadOnlySync => self.leads_or(|it| it.is_sync_standby(SyncFlag::Sync)),
            Check::ReadOnlyQuorum => self.leads_or(|it| it.is_sync_standby(SyncFlag::Quorum)),
            Check::Unknown => Some(false),
        }
    }

    fn leads_or(&self, otherwise: impl Fn(&Self) -> Option<bool>) -> Option<bool> {
        if self.is_primary()? || self.is_standby_leader()? {
            Some(true)
        } else {
            otherwise(self)
        }
    }

    /// Paused and without the DCS nobody's lock can be valid, and yet nothing is to be changed: the server's role counts.
    fn role_decides(&self) -> bool {
        self.view.is_paused() && self.cluster().is_none()
    }

    fn role(&self) -> Option<Role> {
        self.server.map(|server| server.role)
    }

    fn is_standby_cluster(&self) -> bool {
        self.view.config.standby_cluster.is_some()
    }

    fn is_leader(&self) -> Option<bool> {
        if self.role_decides() {
            return Some(matches!(self.role()?, Role::Primary | Role::StandbyLeader));
        }
        Some(self.view.is_leader(self.now))
    }

    fn is_primary(&self) -> Option<bool> {
        if self.role_decides() {
            return Some(self.role()? == Role::Primary);
        }
        Some(self.view.is_leader(self.now) && !self.is_standby_cluster() && !self.is_being_demoted())
    }

    /// The primary is stopped to be one no more. It holds the key until it has stopped, and takes no new sessions: load
    /// balancers that hear of it now send none to the replica that it soon is.
    fn is_being_demoted(&self) -> bool {
        match &self.view.task {
            TaskStatus::Running {
                task: Task::Stop { purpose, .. },
                ..
            } => purpose.demotion().is_some(),
            TaskStatus::Running { .. } | TaskStatus::Idle | TaskStatus::Done { .. } => false,
        }
    }

    fn is_standby_leader(&self) -> Option<bool> {
        if self.role_decides() {
            return Some(self.role()? == Role::StandbyLeader);
        }
        if !self.view.is_leader(self.now) || !self.is_standby_cluster() {
            return Some(false);
        }
        Some(matches!(self.role()?, Role::Replica | Role::StandbyLeader))
    }

    fn is_replica(&self) -> Option<bool> {
        let leads_standby_cluster =
            !self.role_decides() && self.view.is_leader(self.now) && self.is_standby_cluster();
        if self.view.node.tags.noloadbalance() || leads_standby_cluster {
            return Some(false);
        }
        let server = self.server?;
        Some(
            server.role == Role::Replica
                && server.state == Some(ServerState::Running)
                && !self.is_lagging(&server)
                && self.replicates_as_asked(&server),
        )
    }

    fn is_sync_standby(&self, flag: SyncFlag) -> Option<bool> {
        Some(self.server?.sync == Some(flag) && self.is_replica()?)
    }

    fn is_lagging(&self, server: &Shown<'_>) -> bool {
        let Some(lag_max) = self
            .query
            .get("lag")
            .and_then(|lag| config::parse_int(lag, Some("B")))
        else {
            return false;
        };
        let leader = i128::from(server.leader_lsn(self.cluster()).0);
        let replayed = server
            .sql
            .and_then(|sql| sql.replayed_location)
            .unwrap_or_default();
        leader > 0 && leader > i128::from(replayed.0) + i128::from(lag_max)
    }

    fn replicates_as_asked(&self, server: &Shown<'_>) -> bool {
        let state = server
            .sql
            .and_then(|sql| sql.replication_state)
            .map(|state| state.as_str());
        self.query
            .get("replication_state")
            .is_none_or(|asked| state == Some(asked))
    }

    fn has_tags(&self) -> bool {
        let tags = &self.view.node.tags.0;
        self.query.tags().all(|(key, asked)| match tags.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => text == asked,
            Some(other) => json::to_text(other).to_lowercase() == asked,
        })
    }
}

/// Why this member is not ready; `None` when it is. The inner `Option` of `server` as in [`Evidence`]; a leader is
/// ready without a look at the server.
pub(crate) fn unreadiness(evidence: Evidence<'_>) -> Option<Result<(), String>> {
    let Evidence {
        view,
        now,
        query,
        server,
    } = evidence;
    if view.is_leader(now) {
        return Some(Ok(()));
    }
    if view.state != ServerState::Running {
        return Some(Err("PostgreSQL is not running".to_owned()));
    }
    let server = server?;
    let streams =
        server.sql.and_then(|sql| sql.replication_state) == Some(ha::pg::ReplicationState::Streaming);
    let Some(sql) = server.sql.filter(|_| streams) else {
        return Some(Err("PostgreSQL does not stream WAL".to_owned()));
    };
    let cluster = view.cluster(now).map(AsRef::as_ref);
    if cluster.is_none() && sql.latest_end_lsn.is_none_or(|lsn| lsn.0 == 0) {
        let is_ready = view.failsafe_is_active(now);
        return Some(if is_ready {
            Ok(())
        } else {
            Err("the DCS does not answer".to_owned())
        });
    }
    let mode = if query.get("mode") == Some("write") {
        "write"
    } else {
        "apply"
    };
    let position = if mode == "write" {
        sql.received_location
    } else {
        sql.replayed_location
    };
    let lag = i128::from(server.leader_lsn(cluster).0) - i128::from(position.unwrap_or_default().0);
    let lag_max = query.get("lag").and_then(|lag| config::parse_int(lag, Some("B")));
    let lag_max = lag_max.map_or(i128::from(view.config.maximum_lag_on_failover_bytes), i128::from);
    Some(if lag > lag_max {
        Err(format!("the {mode} lag of {lag} bytes exceeds {lag_max} bytes"))
    } else {
        Ok(())
    })
}
