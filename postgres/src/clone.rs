//! Making a replica: pg_basebackup or a script.

mod join;
mod progress;

pub use progress::CloneProgress;
pub(crate) use progress::{CopyingCell, Shown};

use crate::bootstrap::directories_of_wal;
use crate::command::Invocation;
use crate::data_directory::{Elsewhere, Filling};
use crate::files::passfile::Credentials;
use crate::{Conninfo, Error, Instant, Result, Server, Source};
use config::ReplicaMethod;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How often pg_basebackup is tried, and what lies between.
const BASEBACKUP_ATTEMPTS: u32 = 2;
const BASEBACKUP_PAUSE: Duration = Duration::from_secs(5);

/// How long the source may take to name its tablespaces.
const SOURCE_ANSWER_TIME: Duration = Duration::from_secs(5);

/// Options of pg_basebackup that are given here.
const FORBIDDEN: [&str; 11] = [
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
];

/// What a replica is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSource {
    /// The member's name, for messages; `None` without a source.
    pub name: Option<String>,
    /// Where it is; `None`: only methods that work without a leader.
    pub source: Option<Source>,
}

/// Which methods are tried, in their order.
#[derive(Debug, Clone, PartialEq)]
pub enum CloneMethods {
    /// `create_replica_methods`.
    Configured,
    /// `standby_cluster.create_replica_methods`, looked up in the settings' sections.
    Named(Vec<String>),
    /// pg_basebackup alone, as `reinit --from-leader` asks for.
    BasebackupOnly,
}

impl Server {
    /// Makes the data directory a copy of `from`. Returns the name of the method that worked. Dropping the call kills
    /// the running method; the directory is then recognised as unfinished.
    ///
    /// # Errors
    /// When no method worked; the data directory is empty then, unless a method with `keep_data` was the last that was
    /// tried.
    pub async fn create_replica(
        &self,
        from: &CloneSource,
        methods: &CloneMethods,
        deadline: Instant,
    ) -> Result<String> {
        let _shown = Shown::new(&self.shared.copying);
        let settings = self.settings();
        let methods = match methods {
            CloneMethods::Configured => settings.create_replica_methods.clone(),
            CloneMethods::Named(names) => settings.methods(names),
            CloneMethods::BasebackupOnly => vec![settings.basebackup()],
        };
        let mut failure =
            Error::Setting("no configured method can make a replica without a running source".to_owned());
        if methods
            .iter()
            .all(|method| self.is_given_up(name_of_method(method)))
        {
            self.forget_failed_copies();
        }
        for method in &methods {
            if self.is_given_up(name_of_method(method)) {
                tracing::warn!(
                    "the method {} is skipped: its copies could not follow the cluster",
                    name_of_method(method)
                );
                continue;
            }
            let (name, outcome) = match method {
                ReplicaMethod::Basebackup { options } => match &from.source {
                    Some(source) => ("basebackup", self.basebackup(source, options, deadline).await),
                    None => continue,
                },
                ReplicaMethod::Custom { no_leader: false, .. } if from.source.is_none() => continue,
                ReplicaMethod::Custom { name, .. } => (
                    name.as_str(),
                    self.custom_clone(method, from.source.as_ref(), deadline).await,
                ),
            };
            match outcome {
                Ok(()) => {
                    tracing::info!("replica has been created using {name}");
                    self.mark_finished()?;
                    self.restore_configuration()?;
                    return Ok(name.to_owned());
                }
                Err(error @ Error::Timeout { .. }) => {
                    self.remove_unfinished_copy().await?;
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!("Error creating replica using method {name}: {error}");
                    failure = error;
                }
            }
        }
        self.remove_unfinished_copy().await?;
        Err(failure)
    }

    /// The connection string for a copy: under another name than the WAL receiver's, which commits may wait for, as what a copy
    /// has received is not a member's yet.
    fn copy_conninfo(&self, source: &Source) -> Conninfo {
        let mut conninfo = self.replication_conninfo(source);
        conninfo.set("application_name", Some(format!("copy for {}", self.name())));
        conninfo
    }

    async fn basebackup(
        &self,
        source: &Source,
        options: &[(String, Option<String>)],
        deadline: Instant,
    ) -> Result<()> {
        let role = self.settings().local.authentication.replication.clone();
        let credentials = Credentials::new(self.copy_conninfo(source), &role)?;
        let mut pgdata = OsString::from("--pgdata=");
        pgdata.push(self.data_dir());
        let mut args: Vec<OsString> = vec![pgdata, "-X".into(), "stream".into(), "--no-password".into()];
        args.push(format!("--dbname={}", credentials.conninfo.to_text()).into());
        // Otherwise the copy begins only after the next of the source's own checkpoints.
        if !options.iter().any(|(name, _)| name == "checkpoint") {
            args.push("--checkpoint=fast".into());
        }
        for (name, value) in options {
            if FORBIDDEN.contains(&name.as_str()) {
                tracing::error!("basebackup: the option {name} is not allowed and left out");
                continue;
            }
            args.push(
                value
                    .as_ref()
                    .map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
                    .into(),
            );
        }
        let mut invocation = Invocation::new(self.program("pg_basebackup"), args).env("LC_ALL", "C");
        invocation.env.extend(credentials.env.clone());
        let elsewhere = self.directories_elsewhere(Some(source), options, deadline).await;
        let mut attempt = 1;
        loop {
            self.make_place().await?;
            let filling = Filling {
                elsewhere: elsewhere.clone(),
                ..Filling::default()
            };
            let outcome = tokio::select! {
                outcome = self.fill(invocation.clone(), &filling, deadline) => outcome,
                never = self.learn_size(source, deadline) => match never {},
            };
            let outcome = outcome.and_then(crate::command::Output::into_success);
            let Err(error) = outcome else { return Ok(()) };
            self.discard_unfinished().await?;
            let next = Instant::now() + BASEBACKUP_PAUSE;
            if attempt == BASEBACKUP_ATTEMPTS || next >= deadline || matches!(error, Error::Spawn { .. }) {
                return Err(error);
            }
            tracing::warn!(
                "pg_basebackup is tried again in {} s: {error}",
                BASEBACKUP_PAUSE.as_secs()
            );
            tokio::time::sleep_until(next).await;
            attempt += 1;
        }
    }

    async fn custom_clone(
        &self,
        method: &ReplicaMethod,
        source: Option<&Source>,
        deadline: Instant,
    ) -> Result<()> {
        let ReplicaMethod::Custom {
            name,
            command,
            no_params,
            keep_data,
            options,
            ..
        } = method
        else {
            return Err(Error::Setting("pg_basebackup is no script".to_owned()));
        };
        let data_dir = self.data_dir();
        let mut filling = Filling {
            keep_data: *keep_data,
            ..Filling::default()
        };
        if !keep_data {
            filling.elsewhere = self.directories_elsewhere(source, &[], deadline).await;
            self.make_place().await?;
        }
        let role = self.settings().local.authentication.replication.clone();
        let conninfo = source.map_or_else(Conninfo::new, |source| self.copy_conninfo(source));
        let credentials = Credentials::new(conninfo, &role)?;
        let mut arguments = options.clone();
        if !no_params {
            let ours = [
                ("scope", self.scope().to_owned()),
                ("role", "replica".to_owned()),
                ("datadir", data_dir.display().to_string()),
                ("connstring", credentials.conninfo.to_text()),
            ];
            for (key, value) in ours {
                arguments.retain(|(name, _)| name != key);
                arguments.push((key.to_owned(), value));
            }
        }
        let mut invocation = Invocation::of_command_line(command)?;
        for (key, value) in arguments {
            invocation = invocation.arg(format!("--{key}={value}"));
        }
        invocation.env.extend(credentials.env.clone());
        let outcome = match source {
            Some(source) => tokio::select! {
                outcome = self.fill(invocation, &filling, deadline) => outcome,
                never = self.learn_size(source, deadline) => match never {},
            },
            None => self.fill(invocation, &filling, deadline).await,
        };
        let failure = match outcome {
            Err(error) => error,
            Ok(output) if !output.status.success() => output.failure(),
            Ok(_) if !self.holds_a_cluster() => Error::Unsuitable(format!(
                "replica method {name} succeeded, but left no cluster in {}",
                data_dir.display()
            )),
            Ok(_) => return Ok(()),
        };
        self.remove_unfinished_copy().await?;
        Err(failure)
    }

    /// The directories elsewhere that a copy of `source` with these options of pg_basebackup may fill: the source's
    /// tablespaces, and those of the copy that is replaced, as far as either is known.
    async fn directories_elsewhere(
        &self,
        source: Option<&Source>,
        options: &[(String, Option<String>)],
        deadline: Instant,
    ) -> Elsewhere {
        let mut elsewhere = self.linked_elsewhere();
        elsewhere.wal.extend(directories_of_wal(options));
        let mapped = options
            .iter()
            .filter(|(name, _)| name == "tablespace-mapping")
            .filter_map(|(_, value)| new_place(value.as_deref()?));
        elsewhere.tablespaces.extend(mapped);
        if let Some(source) = source {
            match self.tablespaces_of(source, deadline).await {
                Ok(places) => elsewhere.tablespaces.extend(places),
                Err(error) => tracing::info!(
                    "could not ask the source of the copy for its tablespaces: {error}; if the copy is cut off,                      directories of tablespaces that are new here have to be emptied by hand"
                ),
            }
        }
        elsewhere
    }

    async fn tablespaces_of(&self, source: &Source, deadline: Instant) -> Result<Vec<PathBuf>> {
        let deadline = deadline.min(Instant::now() + SOURCE_ANSWER_TIME);
        let sql = "SELECT pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace";
        let role = self.rewind_role();
        let answer = self
            .psql(self.conninfo_to(source, &role), &role, sql, deadline)
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            // Debian's configuration gives the superuser no password.
            Err(error) => {
                let role = self.settings().local.authentication.replication.clone();
                self.psql(self.conninfo_to(source, &role), &role, sql, deadline)
                    .await
                    .map_err(|_| error)?
            }
        };
        let lines = answer.lines().filter(|line| line.starts_with('/'));
        Ok(lines.map(PathBuf::from).collect())
    }

    /// The configured methods that work without a running source.
    #[must_use]
    pub fn methods_without_leader(&self) -> Vec<ReplicaMethod> {
        let works = |method: &ReplicaMethod| matches!(method, ReplicaMethod::Custom { no_leader: true, .. });
        self.settings()
            .create_replica_methods
            .iter()
            .filter(|method| works(method))
            .cloned()
            .collect()
    }
}

fn name_of_method(method: &ReplicaMethod) -> &str {
    match method {
        ReplicaMethod::Basebackup { .. } => "basebackup",
        ReplicaMethod::Custom { name, .. } => name,
    }
}

/// The second directory of `--tablespace-mapping=OLD=NEW`; a `=` in either is written as `\\=`.
fn new_place(mapping: &str) -> Option<PathBuf> {
    let split = mapping
        .char_indices()
        .find(|(at, c)| *c == '=' && !mapping[..*at].ends_with('\\'))?
        .0;
    Some(mapping[split + 1..].replace("\\=", "=").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_place_of_a_tablespace_is_read() {
        for (mapping, place) in [
            ("/a=/b", Some("/b")),
            ("/a\\=1=/b\\=2", Some("/b=2")),
            ("/a", None),
        ] {
            assert_eq!(new_place(mapping), place.map(PathBuf::from), "{mapping}");
        }
    }
}
