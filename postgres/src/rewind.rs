//! Facts for the question whether this server's WAL has diverged from the leader's, and pg_rewind. Nothing is decided
//! here.

mod run;

pub(crate) use run::REWINDING;
pub use run::Rewound;

use crate::files::passfile::Credentials;
use crate::{Conninfo, Error, Instant, Result, Server, Source};
use config::Role;
use ha::pg::{DatabaseState, HistoryEntry, Lsn, SystemIdentifier, Timeline, parse_history_file};
use std::collections::BTreeMap;

/// Whether pg_rewind can be used at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewindAbility {
    /// It can.
    Possible,
    /// It cannot, and why.
    Impossible(String),
}

/// How far the local WAL reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPosition {
    /// Timeline of the last record.
    pub timeline: Timeline,
    /// Position of the last record; of a stopped former primary that of its shutdown checkpoint.
    pub lsn: Lsn,
    /// It is, or was when it stopped, a standby.
    pub in_recovery: bool,
}

/// What the leader says about timelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderFacts {
    /// It is itself in recovery: nothing can be rewound to it.
    pub in_recovery: bool,
    /// Its system identifier.
    pub system_identifier: Option<SystemIdentifier>,
    /// Its timeline.
    pub timeline: Timeline,
    /// Its flushed position.
    pub lsn: Lsn,
    /// The history of its timeline; empty on timeline 1.
    pub history: Vec<HistoryEntry>,
}

/// Both sides' facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// This server's.
    pub local: LocalPosition,
    /// The leader's.
    pub leader: LeaderFacts,
    /// Former primary: where its shutdown checkpoint record ends, if the leader left that timeline later.
    pub shutdown_checkpoint_end: Option<Lsn>,
}

/// The answer to `IDENTIFY_SYSTEM` (PostgreSQL manual, "Streaming Replication Protocol").
#[derive(Debug, Clone, PartialEq, Eq)]
struct SystemIdentity {
    system_identifier: Option<SystemIdentifier>,
    timeline: Timeline,
    lsn: Lsn,
}

impl SystemIdentity {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim().split('|');
        Some(Self {
            system_identifier: fields.next()?.parse().ok(),
            timeline: Timeline(fields.next()?.parse().ok()?),
            lsn: fields.next()?.parse().ok()?,
        })
    }
}

impl Server {
    /// Whether pg_rewind can be used: the setting, the program, and what the control file says.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub async fn rewind_ability(&self, deadline: Instant) -> Result<RewindAbility> {
        if !self.settings().use_pg_rewind {
            return Ok(RewindAbility::Impossible("use_pg_rewind is off".to_owned()));
        }
        let helps = self
            .run("pg_rewind", ["--help"], &BTreeMap::new(), deadline)
            .await;
        if let Err(error) = helps.and_then(crate::command::Output::into_success) {
            return Ok(RewindAbility::Impossible(error.to_string()));
        }
        if self.control_data(deadline).await?.can_be_rewound {
            Ok(RewindAbility::Possible)
        } else {
            Ok(RewindAbility::Impossible(
                "neither wal_log_hints nor data checksums are on".to_owned(),
            ))
        }
    }

    /// How far the local WAL reaches, running or stopped.
    ///
    /// # Errors
    /// When neither the server nor the control file can tell.
    pub async fn local_position(&self, deadline: Instant) -> Result<LocalPosition> {
        if self.postmaster()?.is_some()
            && let Ok(position) = self.running_position(deadline).await
        {
            return Ok(position);
        }
        let control = self.control_data(deadline).await?;
        let was_standby = matches!(
            control.state,
            DatabaseState::ShutDownInRecovery | DatabaseState::InArchiveRecovery
        );
        match control.minimum_recovery_timeline {
            Some(timeline) if was_standby && control.minimum_recovery != Lsn::ZERO => Ok(LocalPosition {
                timeline,
                lsn: control.minimum_recovery,
                in_recovery: true,
            }),
            _ => Ok(LocalPosition {
                timeline: control.timeline,
                lsn: control.checkpoint,
                in_recovery: false,
            }),
        }
    }

    async fn running_position(&self, deadline: Instant) -> Result<LocalPosition> {
        let status = self.status(crate::StatusWants::default(), deadline).await?;
        if !status.in_recovery {
            let timeline = status.timeline.unwrap_or(status.control_timeline);
            return Ok(LocalPosition {
                timeline,
                lsn: status.lsn,
                in_recovery: false,
            });
        }
        let identity = self.identify_local_system(deadline).await?;
        let lsn = status.replayed.unwrap_or(identity.lsn);
        Ok(LocalPosition {
            timeline: identity.timeline,
            lsn,
            in_recovery: true,
        })
    }

    /// The timeline of a running server, standby or primary, over a replication connection to itself.
    ///
    /// # Errors
    /// When it does not let the replication role in.
    pub async fn local_timeline(&self, deadline: Instant) -> Result<Timeline> {
        Ok(self.identify_local_system(deadline).await?.timeline)
    }

    async fn identify_local_system(&self, deadline: Instant) -> Result<SystemIdentity> {
        let settings = self.settings();
        let mut conninfo = Conninfo::new();
        self.local_address(settings.use_unix_socket_repl)
            .write_to(&mut conninfo);
        let role = &settings.local.authentication.replication;
        conninfo.set("user", role.username.clone());
        for (keyword, value) in &role.options {
            conninfo.set(keyword, Some(value.clone()));
        }
        self.identify_system(conninfo, deadline).await
    }

    async fn identify_system(&self, conninfo: Conninfo, deadline: Instant) -> Result<SystemIdentity> {
        let role = self.settings().local.authentication.replication.clone();
        let conninfo = conninfo.with("replication", "1");
        let answer = self.psql(conninfo, &role, "IDENTIFY_SYSTEM", deadline).await?;
        SystemIdentity::parse(&answer).ok_or_else(|| Error::parse("the answer to IDENTIFY_SYSTEM", answer))
    }

    /// Whether it is in recovery, over a connection for replication; PostgreSQL 14 and newer can tell.
    async fn is_in_hot_standby(&self, conninfo: Conninfo, deadline: Instant) -> Result<bool> {
        let role = self.settings().local.authentication.replication.clone();
        let conninfo = conninfo.with("replication", "1");
        let answer = self
            .psql(conninfo, &role, "SHOW in_hot_standby", deadline)
            .await?;
        Ok(answer.trim() != "off")
    }

    /// Executes one statement through psql, which knows all of libpq's ways to authenticate and, unlike our own
    /// client, speaks the replication protocol.
    pub(crate) async fn psql(
        &self,
        mut conninfo: Conninfo,
        role: &Role,
        sql: &str,
        deadline: Instant,
    ) -> Result<String> {
        conninfo.set_default("connect_timeout", "3");
        conninfo.set_default("application_name", "Patroni heartbeat");
        let credentials = Credentials::new(conninfo, role)?;
        let conninfo = credentials.conninfo.to_text();
        let args = [
            "-X",
            "-q",
            "-A",
            "-t",
            "-w",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            "-d",
            &conninfo,
        ];
        self.run("psql", args, &credentials.env, deadline)
            .await?
            .into_success()
    }

    /// The role for rewinding: `rewind`, by default the superuser.
    pub(crate) fn rewind_role(&self) -> Role {
        let authentication = &self.settings().local.authentication;
        authentication
            .rewind
            .clone()
            .unwrap_or_else(|| authentication.superuser.clone())
    }

    /// Asks how large the source's databases are, for those who want to know how far a copy is; never ends.
    pub(crate) async fn learn_size(&self, source: &Source, deadline: Instant) -> std::convert::Infallible {
        let role = self.rewind_role();
        let sql = "SELECT pg_catalog.sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database";
        let answer = self
            .psql(self.conninfo_to(source, &role), &role, sql, deadline)
            .await;
        match answer.map(|text| text.trim().parse().ok()) {
            Ok(total) => self.note_copying(|copying| copying.total = total),
            Err(error) => tracing::debug!("could not ask the source for its size: {error}"),
        }
        std::future::pending().await
    }

    /// What `leader` says about its timelines.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn leader_facts(&self, leader: &Source, deadline: Instant) -> Result<LeaderFacts> {
        let role = self.rewind_role();
        let conninfo = self.conninfo_to(leader, &role);
        let answer = self
            .psql(conninfo, &role, "SELECT pg_catalog.pg_is_in_recovery()", deadline)
            .await;
        let replication = self.settings().local.authentication.replication.clone();
        let conninfo = self.conninfo_to(leader, &replication);
        let in_recovery = match answer {
            Ok(answer) => answer.trim() != "f",
            // Debian's configuration gives the superuser no password, and lets only replication in from other hosts.
            Err(error) => self
                .is_in_hot_standby(conninfo.clone(), deadline)
                .await
                .map_err(|_| error)?,
        };
        let identity = self.identify_system(conninfo.clone(), deadline).await?;
        let mut history = Vec::new();
        if identity.timeline > Timeline(1) {
            let command = format!("TIMELINE_HISTORY {}", identity.timeline);
            let answer = self
                .psql(
                    conninfo.with("replication", "1"),
                    &replication,
                    &command,
                    deadline,
                )
                .await?;
            let content = answer
                .split_once('|')
                .map(|(_, content)| content)
                .unwrap_or_default();
            history = parse_history_file(content);
            if history.is_empty() {
                return Err(Error::parse("the answer to TIMELINE_HISTORY", "it has no lines"));
            }
        }
        let SystemIdentity {
            system_identifier,
            timeline,
            lsn,
        } = identity;
        Ok(LeaderFacts {
            in_recovery,
            system_identifier,
            timeline,
            lsn,
            history,
        })
    }

    /// The facts of both sides.
    ///
    /// # Errors
    /// When either side cannot tell.
    pub async fn divergence(&self, leader: &Source, deadline: Instant) -> Result<Divergence> {
        let local = self.local_position(deadline).await?;
        let leader = self.leader_facts(leader, deadline).await?;
        let switch = leader
            .history
            .iter()
            .find(|entry| entry.timeline == local.timeline);
        let was_left_later = switch.is_some_and(|entry| local.lsn < entry.switch_lsn);
        let mut shutdown_checkpoint_end = None;
        if !local.in_recovery && was_left_later && self.postmaster()?.is_none() {
            shutdown_checkpoint_end = Some(self.shutdown_checkpoint_end(deadline).await?);
        }
        Ok(Divergence {
            local,
            leader,
            shutdown_checkpoint_end,
        })
    }

    /// Where the shutdown checkpoint record of a stopped former primary ends.
    ///
    /// # Errors
    /// When pg_waldump cannot read the WAL.
    pub async fn shutdown_checkpoint_end(&self, deadline: Instant) -> Result<Lsn> {
        Ok(self.checkpoint_record(deadline).await?.end)
    }

    /// Executes CHECKPOINT on the leader, so that its control file names its timeline. With a `rewind` role, which may
    /// not do so, only looks whether it has happened. Returns whether it has.
    ///
    /// # Errors
    /// When the leader cannot be reached.
    pub async fn checkpoint_on(&self, leader: &Source, deadline: Instant) -> Result<bool> {
        let role = self.rewind_role();
        let conninfo = self
            .conninfo_to(leader, &role)
            .with("options", "-c statement_timeout=0");
        if self.settings().local.authentication.rewind.is_none() {
            self.psql(conninfo, &role, "CHECKPOINT", deadline).await?;
            return Ok(true);
        }
        let sql = "SELECT NOT pg_catalog.pg_is_in_recovery() AND timeline_id = \
                   ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))\
                   ::pg_catalog.bit(32)::pg_catalog.int4 FROM pg_catalog.pg_control_checkpoint()";
        Ok(self.psql(conninfo, &role, sql, deadline).await?.trim() == "t")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systems_identity_is_read() {
        let identity = SystemIdentity::parse("7268616322854375442|3|0/3000158|\n").unwrap();
        assert_eq!((identity.timeline, identity.lsn), (Timeline(3), Lsn(0x300_0158)));
        assert_eq!(
            identity.system_identifier.unwrap().as_str(),
            "7268616322854375442"
        );
        assert_eq!(SystemIdentity::parse("psql: error"), None);
    }
}
