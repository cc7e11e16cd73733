//! The handle of the local server: its settings, its paths, and what is remembered between calls.

use crate::callbacks::Callbacks;
use crate::clone::CopyingCell;
use crate::connection::Connections;
use crate::follow::FollowMemory;
use crate::parameters::ParameterMemory;
use crate::process::Launcher;
use crate::process::postmaster::LastSeen;
use crate::status::StandbyTimeline;
use crate::{Error, Result, ServerVersion};
use config::{LocalPostgresql, PostgresqlSettings};
use ha::pg::MemberName;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a [`Server`] is made from.
#[derive(Clone)]
pub struct ServerOptions {
    /// The cluster's name.
    pub scope: String,
    /// This member's name: the `application_name` of its WAL receiver.
    pub name: MemberName,
    /// The effective settings; [`Server::configure`] replaces them.
    pub settings: PostgresqlSettings,
    /// `retry_timeout`: half of it bounds the repetition of a query.
    pub retry_timeout: Duration,
    /// How a postmaster is launched.
    pub launcher: Arc<dyn Launcher>,
}

/// The one local PostgreSQL server. Clones share everything.
#[derive(Clone)]
pub struct Server {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) scope: String,
    pub(crate) name: MemberName,
    pub(crate) launcher: Arc<dyn Launcher>,
    settings: Mutex<Arc<PostgresqlSettings>>,
    retry_timeout: Mutex<Duration>,
    version: Mutex<Option<ServerVersion>>,
    pub(crate) connections: Connections,
    pub(crate) parameters: Mutex<ParameterMemory>,
    /// Held while `postgresql.conf` is written.
    pub(crate) writing: Mutex<()>,
    pub(crate) follow: Mutex<FollowMemory>,
    pub(crate) callbacks: Mutex<Callbacks>,
    /// The copy that is being made.
    pub(crate) copying: CopyingCell,
    /// How many copies of each method could not follow the cluster, in a row.
    pub(crate) failed_copies: Mutex<BTreeMap<String, u32>>,
    pub(crate) standby_timeline: Mutex<StandbyTimeline>,
    pub(crate) postmaster: Mutex<LastSeen>,
}

/// A lock that outlives a panic of another holder: what it guards is replaced as a whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A handle on the server with these settings. Nothing is touched yet.
    #[must_use]
    pub fn new(options: ServerOptions) -> Self {
        let ServerOptions {
            scope,
            name,
            settings,
            retry_timeout,
            launcher,
        } = options;
        Self {
            shared: Arc::new(Shared {
                scope,
                name,
                launcher,
                settings: Mutex::new(Arc::new(settings)),
                retry_timeout: Mutex::new(retry_timeout),
                version: Mutex::new(None),
                connections: Connections::default(),
                parameters: Mutex::default(),
                writing: Mutex::default(),
                follow: Mutex::default(),
                callbacks: Mutex::default(),
                copying: CopyingCell::default(),
                failed_copies: Mutex::default(),
                standby_timeline: Mutex::default(),
                postmaster: Mutex::default(),
            }),
        }
    }

    /// Replaces the settings. Files and server stay as they are until [`Server::apply`] or the next start.
    pub fn configure(&self, settings: PostgresqlSettings, retry_timeout: Duration) {
        *locked(&self.shared.settings) = Arc::new(settings);
        *locked(&self.shared.retry_timeout) = retry_timeout;
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<PostgresqlSettings> {
        Arc::clone(&locked(&self.shared.settings))
    }

    pub(crate) fn retry_timeout(&self) -> Duration {
        *locked(&self.shared.retry_timeout)
    }

    /// The cluster's name.
    #[must_use]
    pub fn scope(&self) -> &str {
        &self.shared.scope
    }

    /// This member's name.
    #[must_use]
    pub fn name(&self) -> &MemberName {
        &self.shared.name
    }

    /// Directory of the data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.settings().local.data_dir.clone()
    }

    /// The path of one of PostgreSQL's programs by `bin_dir` and `bin_name`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        let settings = self.settings();
        settings
            .local
            .bin_dir
            .join(settings.local.bin_name.file_name(name))
    }

    /// The file that the program writes for libpq's passwords: `pgpass`, by default `$HOME/pgpass`.
    #[must_use]
    pub fn passfile(&self) -> PathBuf {
        passfile_path(&self.settings().local)
    }

    /// The version of the program `postgres`; asked for once, and again after the program was replaced by a restart.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub async fn version(&self, deadline: crate::Instant) -> Result<ServerVersion> {
        if let Some(version) = *locked(&self.shared.version) {
            return Ok(version);
        }
        let output = self
            .run("postgres", ["--version"], &BTreeMap::new(), deadline)
            .await?
            .into_success()?;
        let version = ServerVersion::parse(&output)
            .ok_or_else(|| Error::parse("the output of postgres --version", output.trim().to_owned()))?;
        *locked(&self.shared.version) = Some(version);
        Ok(version)
    }

    /// Forgets the version, for a start with a program that was upgraded meanwhile.
    pub(crate) fn forget_version(&self) {
        *locked(&self.shared.version) = None;
    }
}

pub(crate) fn passfile_path(local: &LocalPostgresql) -> PathBuf {
    match &local.pgpass {
        Some(path) => path.clone(),
        None => std::env::home_dir()
            .unwrap_or_else(std::env::temp_dir)
            .join("pgpass"),
    }
}
