//! pg_rewind itself.
//!
//! From the moment that it is about to write until it has succeeded, a file in the data directory says so: what it has not
//! finished is neither the old state nor the new one, and no server may be started on it. pg_rewind removes what the source
//! does not have, that file too, so it is put back while pg_rewind runs.

use crate::archive::Waiting;
use crate::command::Invocation;
use crate::control::fill_placeholders;
use crate::files::passfile::Credentials;
use crate::files::{remove, write_if_changed};
use crate::process::launch::last_lines;
use crate::process::postmaster;
use crate::process::watch::Watch;
use crate::{Error, Follow, Instant, Recovery, Result, Server, Source};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Says that pg_rewind has begun to change the data directory and has not come to its end.
pub(crate) const REWINDING: &str = "tamada.rewinding";

/// How long processes are looked for when that does not succeed.
const LOOK_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// What pg_rewind says with `--progress` right before it changes the first file.
const BEGINS_TO_WRITE: &str = "need to copy";

/// What pg_rewind says when the control files name one timeline.
const NOTHING_TO_DO: &str = "no rewind required";

/// How long the source may take to say that it is still there.
const SOURCE_ANSWER_TIME: Duration = Duration::from_secs(5);

/// Options of pg_rewind that are given here or would defeat it.
const FORBIDDEN: [&str; 11] = [
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "write-recovery-conf",
    "dry-run",
    "restore-target-wal",
    "config-file",
    "no-ensure-shutdown",
    "progress",
    "version",
    "help",
];

/// What pg_rewind came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewound {
    /// The data directory follows the source's timeline now.
    Done,
    /// It failed; the last lines of its output.
    Failed(String),
    /// It failed, and the source does not answer: another one, or the same at another time, may do.
    SourceLost(String),
    /// It was not begun: WAL that may yet be archived would be thrown away.
    WalWaits(String),
}

impl Server {
    /// Runs pg_rewind against `leader`; the server must be stopped. WAL that pg_rewind misses is fetched through
    /// `restore_command`. Dropping the call kills it; [`Server::is_half_rewound`] tells then whether the data directory is
    /// of any use until another rewind succeeds.
    ///
    /// # Errors
    /// When it cannot be run or does not finish in time; a failure of its own is an outcome.
    pub async fn rewind(&self, leader: &Source, deadline: Instant) -> Result<Rewound> {
        if self.postmaster()?.is_some() {
            return Err(Error::Unsuitable(
                "pg_rewind needs PostgreSQL to be stopped".to_owned(),
            ));
        }
        self.end_abandoned_rewind().await?;
        self.wait_for_leftovers(deadline).await?;
        match self.archive_waiting(deadline).await {
            Ok(Waiting::Nothing) => {}
            Ok(Waiting::Later(why)) => return Ok(Rewound::WalWaits(why)),
            Ok(Waiting::Unable(why, files)) => {
                if let Err(error) = self.keep_waiting_wal(&why, &files) {
                    return Ok(Rewound::WalWaits(format!("{error} ({why})")));
                }
            }
            Err(error) => return Ok(Rewound::WalWaits(error.to_string())),
        }
        let was_half_rewound = self.is_half_rewound();
        let role = self.rewind_role();
        let credentials = Credentials::new(self.conninfo_to(leader, &role), &role)?;
        let mut env = credentials.env.clone();
        env.insert("PGOPTIONS".into(), "-c statement_timeout=0".into());
        let mut args: Vec<OsString> = vec!["-D".into(), self.data_dir().into(), "--progress".into()];
        args.extend(["--source-server".into(), credentials.conninfo.to_text().into()]);
        args.extend(self.restore_options(deadline).await?);
        args.extend(self.configured_options());
        let mut fetched = BTreeSet::new();
        loop {
            tracing::info!("running pg_rewind");
            let (succeeded, text) = self.run_marked(&args, &env, deadline).await?;
            let has_written = text.contains(BEGINS_TO_WRITE);
            if succeeded && was_half_rewound && text.contains(NOTHING_TO_DO) {
                // The one before this may have died between its last step and the files being on disk.
                return Ok(Rewound::Failed(
                    "an earlier pg_rewind did not come to its end, and this one finds nothing to do"
                        .to_owned(),
                ));
            }
            if succeeded || !(was_half_rewound || has_written) {
                remove(&self.data_dir().join(REWINDING))?;
            }
            if succeeded {
                return Ok(Rewound::Done);
            }
            if let Some(segment) = missing_segment(&text)
                && !has_written
                && fetched.insert(segment.clone())
                && self.fetch_segment(&segment, deadline).await
            {
                continue;
            }
            let soon = deadline.min(Instant::now() + SOURCE_ANSWER_TIME);
            return Ok(match self.leader_facts(leader, soon).await {
                Ok(_) => Rewound::Failed(last_lines(&text)),
                Err(_) => Rewound::SourceLost(last_lines(&text)),
            });
        }
    }

    /// Whether `leader` answers for replication and not to the role for rewinding, as in Debian's configuration, where the
    /// superuser has no password: trying again would be of no use.
    pub async fn is_refused_by(&self, leader: &Source) -> bool {
        let deadline = Instant::now() + SOURCE_ANSWER_TIME;
        let role = self.rewind_role();
        let answer = self
            .psql(self.conninfo_to(leader, &role), &role, "SELECT 1", deadline)
            .await;
        let replication = self.settings().local.authentication.replication.clone();
        answer.is_err()
            && self
                .is_in_hot_standby(self.conninfo_to(leader, &replication), deadline)
                .await
                .is_ok()
    }

    /// pg_rewind has begun to change the data directory and has not come to its end: no server may be started on it.
    #[must_use]
    pub fn is_half_rewound(&self) -> bool {
        self.data_dir().join(REWINDING).exists()
    }

    /// # Errors
    /// [`Error::Unsuitable`] after a rewind that did not come to its end.
    pub(crate) fn refuse_half_rewound(&self) -> Result<()> {
        let mark = self.data_dir().join(REWINDING);
        if mark.try_exists().map_err(Error::file("look for", mark))? {
            return Err(Error::Unsuitable(format!(
                "{} is in the middle of a rewind: it has to be rewound to its end or copied anew",
                self.data_dir().display()
            )));
        }
        Ok(())
    }

    /// Whether it succeeded, and what it printed.
    async fn run_marked(
        &self,
        args: &[OsString],
        env: &BTreeMap<OsString, OsString>,
        deadline: Instant,
    ) -> Result<(bool, String)> {
        self.mark_rewinding()?;
        let run = self.run("pg_rewind", args.iter().cloned(), env, deadline);
        let output = tokio::select! {
            output = run => output?,
            failed = self.keep_marked() => return Err(failed),
        };
        let text = format!("{}{}", output.stdout, output.stderr).replace('\r', "\n");
        for line in text.lines().filter(|line| !line.trim_end().ends_with("copied")) {
            tracing::info!("pg_rewind: {line}");
        }
        Ok((output.status.success(), text))
    }

    fn mark_rewinding(&self) -> Result<bool> {
        let text = "pg_rewind has begun to change this directory. No server may be started on it.\n";
        write_if_changed(&self.data_dir().join(REWINDING), text, 0o600)
    }

    /// Puts the mark back whenever pg_rewind removes it. Ends only with an error.
    async fn keep_marked(&self) -> Error {
        let data_dir = self.data_dir();
        loop {
            let watch = Watch::new(&[&data_dir]);
            if let Err(error) = self.mark_rewinding() {
                return error;
            }
            watch.changed(|name| name == REWINDING).await;
        }
    }

    /// `postgresql.rewind`: more options.
    fn configured_options(&self) -> Vec<OsString> {
        let mut options = Vec::new();
        for (name, value) in &self.settings().rewind {
            if FORBIDDEN.contains(&name.as_str()) {
                tracing::warn!("postgresql.rewind: the option {name} is not allowed and left out");
                continue;
            }
            let option = value
                .as_ref()
                .map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"));
            options.push(option.into());
        }
        options
    }

    /// Ends a pg_rewind that has outlived the agent which ran it: what it still writes must not meet a server. Another
    /// rewind is needed then, as after a call that was dropped.
    ///
    /// # Errors
    /// It cannot be looked for.
    pub async fn end_abandoned_rewind(&self) -> Result<()> {
        let until = Instant::now() + LOOK_TIME;
        for process in self.find_processes(postmaster::rewinding, until).await? {
            tracing::warn!(
                "ending pg_rewind (process {}), which an agent before this one has left behind",
                process.pid()
            );
            if process.signal(Signal::KILL).is_ok() {
                process.exited().await;
                // Whatever it has removed last: it did not come to its end.
                if let Err(error) = self.mark_rewinding() {
                    tracing::error!("{error}");
                }
            }
        }
        Ok(())
    }

    fn restore_command(&self) -> Option<String> {
        let command = self.settings().recovery_conf.get("restore_command").cloned();
        command.filter(|command| !command.trim().is_empty())
    }

    /// `--restore-target-wal`, where there is a restore_command that pg_rewind finds in the configuration and can use: it
    /// knows no `%r`.
    async fn restore_options(&self, deadline: Instant) -> Result<Vec<OsString>> {
        let settings = self.settings();
        let version = self.version(deadline).await?;
        let in_data_dir = settings.local.config_dir == settings.local.data_dir;
        let finds_config =
            in_data_dir && settings.local.config_base_name == "postgresql" || version.is_at_least(15);
        let can_be_used = self
            .restore_command()
            .is_some_and(|command| !command.contains("%r"));
        if !can_be_used || !version.is_at_least(13) || !finds_config {
            return Ok(Vec::new());
        }
        // A former primary's file may lack it.
        self.write_postgresql_conf(Some(&Recovery::Follow(Follow::default())), deadline)
            .await?;
        let mut options: Vec<OsString> = vec!["--restore-target-wal".into()];
        if version.is_at_least(15) {
            let config: PathBuf = self.config_path();
            let mut option = OsString::from("--config-file=");
            option.push(config);
            options.push(option);
        }
        Ok(options)
    }

    /// Fetches a segment of the WAL through `restore_command`. Whether it is there then.
    async fn fetch_segment(&self, segment: &str, deadline: Instant) -> bool {
        let Some(command) = self.restore_command() else {
            return false;
        };
        tracing::info!("pg_rewind lacks {segment}, it is fetched through restore_command");
        let data_dir = self.data_dir();
        let path = format!("pg_wal/{segment}");
        // Nothing in the archive may be removed for this: no file's name is smaller.
        let command = command.replace("%r", &"0".repeat(24));
        let script = format!("cd \"$1\" && {}", fill_placeholders(&command, &path, segment));
        let invocation = Invocation::new("/bin/sh", ["-c", &script, "sh"]).arg(&data_dir);
        let outcome = invocation
            .run(deadline)
            .await
            .and_then(crate::command::Output::into_success);
        if let Err(error) = outcome {
            tracing::warn!("restore_command could not fetch {segment}: {error}");
        }
        data_dir.join(path).exists()
    }
}

/// The segment whose file pg_rewind did not find.
fn missing_segment(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("could not open file \"")?;
    let (path, rest) = rest.split_once('"')?;
    let name = path.rsplit('/').next()?;
    let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_segment && path.contains("pg_wal/") && rest.starts_with(": No such file")).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_that_is_missing_is_read() {
        let text = "pg_rewind: servers diverged at WAL location 0/3000000 on timeline 1\n\
                    pg_rewind: error: could not open file \"/data/pg_wal/000000010000000000000002\": No such file or \
                    directory\npg_rewind: error: could not find previous WAL record at 0/2000100\n";
        assert_eq!(missing_segment(text).as_deref(), Some("000000010000000000000002"));
        for other in [
            "pg_rewind: error: could not open file \"/data/pg_wal/00000002.history\": No such file or directory",
            "pg_rewind: error: could not open file \"/data/pg_wal/000000010000000000000002\": Permission denied",
            "pg_rewind: error: could not open file \"/data/base/1/000000010000000000000002\": No such file or directory",
            "",
        ] {
            assert_eq!(missing_segment(other), None, "{other}");
        }
    }
}
