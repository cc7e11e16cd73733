//! Where the server gets its WAL from: the recovery settings, and whether the running ones are those wanted.

use crate::connection::{Purpose, quote_literal};
use crate::files::passfile;
use crate::files::postgresql_conf::RECOVERY_PARAMETERS;
use crate::parameters::{text, value};
use crate::server::locked;
use crate::{Conninfo, Error, Instant, RecoverySignal, Result, Server, ServerVersion};
use config::Role;
use ha::pg::SlotName;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::SimpleQueryRow;

/// Settings that may stand in a file of the user's without being ours.
const TOLERATED: [&str; 5] = [
    "archive_cleanup_command",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restore_command",
];

/// A server to replicate from or to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Host names or addresses; several, separated by commas, for a remote cluster.
    pub host: String,
    /// Port, or one for each host, separated by commas.
    pub port: String,
    /// The database of its `conn_url`; default `postgresql.database`.
    pub dbname: Option<String>,
    /// The slot on it that is reserved for this member.
    pub slot: Option<SlotName>,
    /// It is the remote side of a standby cluster: of several hosts the primary is taken.
    pub remote: bool,
}

impl Source {
    /// The source that a member's `conn_url` (`postgres://host:port/dbname`) names.
    ///
    /// # Errors
    /// [`crate::Error::Parse`] when it is no such URL.
    pub fn from_conn_url(conn_url: &str, slot: Option<SlotName>) -> Result<Self> {
        let conninfo = Conninfo::parse(conn_url)?;
        let host = conninfo
            .get("host")
            .ok_or_else(|| Error::parse("conn_url", "it names no host"))?;
        Ok(Self {
            host: host.to_owned(),
            port: conninfo.get("port").unwrap_or("5432").to_owned(),
            dbname: conninfo.get("dbname").map(str::to_owned),
            slot,
            remote: false,
        })
    }
}

/// What a standby is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Follow {
    /// What it streams from; `None`: from nothing, it stays read-only or restores from the archive.
    pub source: Option<Source>,
    /// Settings that go before `recovery_conf`: `restore_command`, `archive_cleanup_command` and
    /// `recovery_min_apply_delay` of `standby_cluster`.
    pub overrides: BTreeMap<String, String>,
    /// `wal_retrieve_retry_interval`, unless somebody has set it; `None`: that of a standby whose source answers.
    pub retry: Option<Duration>,
    /// The configured `restore_command` is not in force. Before version 14 that would take a restart, and it stays.
    pub only_streams: bool,
}

/// What a server does once it is started.
#[derive(Debug, Clone, PartialEq)]
pub enum Recovery {
    /// It is a primary: no signal file.
    Primary,
    /// It is a standby.
    Follow(Follow),
    /// Recovery after a custom bootstrap: `standby_mode` tells which signal file is written.
    Custom(BTreeMap<String, String>),
    /// The recovery settings that the data directory came with are left alone.
    Keep,
}

/// Whether the running recovery settings are the wanted ones; names what differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// They are.
    Same,
    /// A reload makes them so.
    Reload(Vec<String>),
    /// A restart is needed.
    Restart(Vec<String>),
}

#[derive(Default)]
pub(crate) struct FollowMemory {
    /// What the server was last told to do; `None`: it was running before us, or was started with [`Recovery::Keep`].
    pub(crate) current: Option<Recovery>,
}

impl Server {
    /// Compares the recovery settings in force with those that `follow` asks for.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn drift(&self, follow: &Follow, deadline: Instant) -> Result<Drift> {
        if self.recovery_signal() != RecoverySignal::Standby {
            return Ok(Drift::Restart(vec![crate::files::signal::STANDBY.to_owned()]));
        }
        let version = self.version(deadline).await?;
        let wanted = self
            .recovery_settings(&Recovery::Follow(follow.clone()), deadline)
            .await?;
        let names: Vec<String> = RECOVERY_PARAMETERS
            .iter()
            .map(|name| quote_literal(name))
            .collect();
        let sql = format!(
            "SELECT name, setting, unit, vartype, context, boot_val, sourcefile FROM pg_settings WHERE name IN ({})",
            names.join(", ")
        );
        let running = self
            .query_kept(
                Purpose::Heartbeat,
                "reading the recovery settings",
                &sql,
                deadline,
            )
            .await?;
        let our_file = self.config_path();
        let (mut reload, mut restart) = (Vec::new(), Vec::new());
        for row in &running {
            let name = text(row, "name");
            let is_foreign = row
                .get("sourcefile")
                .is_some_and(|file| our_file.as_os_str() != file);
            if differs(
                row,
                &name,
                wanted.get(&name).map(String::as_str),
                is_foreign,
                version,
            ) {
                let needs_restart = row.get("context") == Some("postmaster");
                if needs_restart {
                    restart.push(name)
                } else {
                    reload.push(name)
                }
            }
        }
        if let Some(source) = &follow.source
            && self.passfile_differs(&self.replication_conninfo(source))
        {
            reload.push("passfile".to_owned());
        }
        let interval = |recovery: Option<&Recovery>| {
            self.standby_defaults(recovery)
                .remove("wal_retrieve_retry_interval")
        };
        let wanted_interval = interval(Some(&Recovery::Follow(follow.clone())));
        if let (Some(wanted), Some(present)) = (wanted_interval, interval(None))
            && wanted != present
        {
            reload.push("wal_retrieve_retry_interval".to_owned());
        }
        Ok(match (reload.is_empty(), restart.is_empty()) {
            (true, true) => Drift::Same,
            (false, true) => Drift::Reload(reload),
            (_, false) => {
                restart.extend(reload);
                Drift::Restart(restart)
            }
        })
    }

    fn passfile_differs(&self, conninfo: &Conninfo) -> bool {
        let settings = self.settings();
        let Some(password) = &settings.local.authentication.replication.password else {
            return false;
        };
        let present = net::file::read_text(self.passfile()).unwrap_or_default();
        present != passfile::lines(conninfo, password.reveal())
    }

    /// Writes the recovery settings and reloads.
    ///
    /// # Errors
    /// When a file cannot be written or the server is not running.
    pub async fn follow(&self, follow: &Follow, deadline: Instant) -> Result<()> {
        let recovery = Recovery::Follow(follow.clone());
        if let Some(source) = &follow.source {
            self.write_passfile(&self.replication_conninfo(source))?;
        }
        self.write_postgresql_conf(Some(&recovery), deadline).await?;
        locked(&self.shared.follow).current = Some(recovery);
        self.reload_and_wait(deadline).await
    }

    /// Resumes WAL replay that was paused.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn resume_replay(&self, deadline: Instant) -> Result<()> {
        let sql = "SELECT pg_wal_replay_resume()";
        self.query_kept(Purpose::Heartbeat, "resuming WAL replay", sql, deadline)
            .await
            .map(drop)
    }

    /// The connection string for replication from `source`, without password.
    #[must_use]
    pub fn replication_conninfo(&self, source: &Source) -> Conninfo {
        let settings = self.settings();
        let mut conninfo = self.conninfo_to(source, &settings.local.authentication.replication);
        conninfo.set("application_name", Some(self.name().as_str()));
        conninfo
    }

    /// The connection string to `source` as `role`, without secrets.
    pub(crate) fn conninfo_to(&self, source: &Source, role: &Role) -> Conninfo {
        let settings = self.settings();
        let mut conninfo: Conninfo = role.options.clone().into_iter().collect();
        conninfo.set("user", role.username.clone());
        conninfo.set("host", Some(source.host.clone()));
        conninfo.set("port", Some(source.port.clone()));
        conninfo.set(
            "dbname",
            Some(
                source
                    .dbname
                    .clone()
                    .unwrap_or_else(|| settings.local.database.clone()),
            ),
        );
        conninfo.set("krbsrvname", settings.krbsrvname.clone());
        if source.remote && source.host.contains(',') {
            conninfo.set("target_session_attrs", Some("read-write"));
        }
        conninfo
    }

    /// `primary_conninfo` as it is written: with the password file, and libpq's defaults said aloud, so that our
    /// environment cannot change them.
    pub(crate) fn written_conninfo(&self, source: &Source, version: ServerVersion) -> Conninfo {
        let settings = self.settings();
        let role = &settings.local.authentication.replication;
        let mut conninfo = self.replication_conninfo(source);
        conninfo.set_default("sslmode", "prefer");
        for (since, keyword, default) in [
            (12, "gssencmode", "prefer"),
            (13, "channel_binding", "prefer"),
            (17, "sslnegotiation", "postgres"),
        ] {
            if version.is_at_least(since) {
                conninfo.set_default(keyword, default);
            } else {
                conninfo.set(keyword, None::<String>);
            }
        }
        // Before 13 another connection string needs a restart, and these change with ttl.
        if version.is_at_least(13) {
            for (keyword, value) in &settings.standby_defaults.connection {
                conninfo.set_default(keyword, value);
            }
        }
        if !version.is_at_least(14) {
            conninfo.set("sslcrldir", None::<String>);
        }
        if role.password.is_some() {
            conninfo.set("passfile", Some(self.passfile().display().to_string()));
        }
        if let Some(passphrase) = role.sslpassword.as_ref().filter(|_| version.is_at_least(13)) {
            conninfo.set("sslpassword", Some(passphrase.reveal()));
        }
        conninfo
    }
}

fn differs(
    row: &SimpleQueryRow,
    name: &str,
    wanted: Option<&str>,
    is_foreign: bool,
    version: ServerVersion,
) -> bool {
    let running = row.get("setting").unwrap_or_default();
    match wanted {
        None if is_foreign && TOLERATED.contains(&name) => false,
        None => row.get("boot_val").unwrap_or_default() != running,
        Some(wanted) if name == "primary_conninfo" => !same_conninfo(wanted, running, version),
        Some(wanted) => !value::same(
            row.get("vartype").unwrap_or_default(),
            row.get("unit"),
            wanted,
            running,
        ),
    }
}

/// Whether two connection strings lead to the same server in the same way. The database counts for version 17 and
/// later only, which use it.
fn same_conninfo(wanted: &str, running: &str, version: ServerVersion) -> bool {
    let read = |text: &str| {
        let mut conninfo = Conninfo::parse(text).ok()?;
        if !version.is_at_least(17) {
            conninfo.set("dbname", None::<String>);
        }
        Some(conninfo.to_text())
    };
    read(wanted).is_some() && read(wanted) == read(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_from_a_members_url() {
        let source = Source::from_conn_url("postgres://[::1]:5433/postgres", None).unwrap();
        assert_eq!((source.host.as_str(), source.port.as_str()), ("::1", "5433"));
        assert!(Source::from_conn_url("postgres:///x", None).is_err());
    }

    #[test]
    fn connection_strings_are_compared_by_meaning() {
        let (old, new) = (ServerVersion(150_000), ServerVersion(170_000));
        assert!(same_conninfo("host=a port=1", "port=1 host='a'", old));
        assert!(!same_conninfo("host=a port=1", "host=a port=2", old));
        assert!(same_conninfo("host=a dbname=x", "host=a", old));
        assert!(!same_conninfo("host=a dbname=x", "host=a", new));
    }
}
