//! Where the server gets its WAL from: the recovery settings, and whether the running ones are those wanted.

use crate::{Conninfo, Instant, Result, Server};
use ha::pg::SlotName;
use std::collections::BTreeMap;

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
        todo!()
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
    pub(crate) current: Option<Recovery>,
}

impl Server {
    /// Compares the recovery settings in force with those that `follow` asks for.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn drift(&self, follow: &Follow, deadline: Instant) -> Result<Drift> {
        todo!()
    }

    /// Writes the recovery settings and reloads.
    ///
    /// # Errors
    /// When a file cannot be written or the server is not running.
    pub async fn follow(&self, follow: &Follow, deadline: Instant) -> Result<()> {
        todo!()
    }

    /// Resumes WAL replay that was paused.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn resume_replay(&self, deadline: Instant) -> Result<()> {
        todo!()
    }

    /// The connection string for replication from `source`, without password.
    #[must_use]
    pub fn replication_conninfo(&self, source: &Source) -> Conninfo {
        todo!()
    }
}
