//! What happens to `restore_command` before a promotion.
//!
//! The startup process asks the archive several times before it ends recovery: for the next segment, and for the histories of
//! newer timelines. With a slow `restore_command` that takes long, usually for nothing. So the agent asks once, and takes the
//! setting out of force if the archive has nothing that this server lacks. What it has is never left out: PostgreSQL
//! restores it as usual.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ha::pg::Timeline;

use crate::command::Invocation;
use crate::control::fill_placeholders;
use crate::files::postgresql_conf::{self, is_recovery_parameter};
use crate::server::locked;
use crate::status::StatusWants;
use crate::{Error, Instant, Recovery, Result, Server};

/// How long the archive may take to answer; PostgreSQL waits for as long as it takes.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(30);

/// What `restore_command` says of a file by its exit code (PostgreSQL documentation, "Recovering Using a Continuous Archive
/// Backup"): more than this, or a signal, is a failure of the command and no answer.
const NOT_THERE_MAX: i32 = 125;

impl Server {
    /// Takes `restore_command` out of force, or puts it into force if `archive_may_have_more` and it has, or does not answer.
    /// What the startup process has begun it ends first. Before version 14 the setting needs a restart, and stays.
    ///
    /// # Errors
    /// The configuration could not be written, or the server's version is not known.
    pub(crate) async fn stop_restoring(&self, archive_may_have_more: bool, deadline: Instant) -> Result<()> {
        let text = net::file::read_text(self.config_path()).unwrap_or_default();
        let mut present = postgresql_conf::read_settings(&text);
        present.retain(|name, _| is_recovery_parameter(name));
        let current = locked(&self.shared.follow).current.clone();
        let is_in_force = |command: &&String| !command.trim().is_empty();
        let in_force = present.get("restore_command").filter(is_in_force).cloned();
        // A standby that streams has none in force.
        let Some(command) = in_force
            .clone()
            .or_else(|| self.configured_restore_command(current.as_ref()))
        else {
            return Ok(());
        };
        if !self.version(deadline).await?.is_at_least(14) {
            return Ok(());
        }
        let is_needed = archive_may_have_more && self.archive_may_be_needed(&command, deadline).await;
        if is_needed == in_force.is_some() {
            return Ok(());
        }
        let wanted = match current {
            Some(Recovery::Follow(mut follow)) => {
                follow.only_streams = !is_needed;
                Recovery::Follow(follow)
            }
            Some(Recovery::Primary | Recovery::Custom(_) | Recovery::Keep) | None => {
                let command = if is_needed { command } else { String::new() };
                present.insert("restore_command".to_owned(), command);
                Recovery::Custom(present)
            }
        };
        self.write_postgresql_conf(Some(&wanted), deadline).await?;
        self.reload()
    }

    /// Whether the archive has WAL that this server lacks. One that does not answer is left to PostgreSQL.
    async fn archive_may_be_needed(&self, command: &str, deadline: Instant) -> bool {
        match self.archive_has_more(command, deadline).await {
            Ok(true) => {
                tracing::info!(
                    "The archive has WAL that this server lacks: it is restored before the promotion"
                );
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!("the promotion may have to wait for restore_command: {error}");
                true
            }
        }
    }

    fn configured_restore_command(&self, current: Option<&Recovery>) -> Option<String> {
        let settings = self.settings();
        let overridden = match current {
            Some(Recovery::Follow(follow)) => follow.overrides.get("restore_command"),
            _ => None,
        };
        let configured = overridden.or_else(|| settings.recovery_conf.get("restore_command"));
        configured.filter(|command| !command.trim().is_empty()).cloned()
    }

    /// Whether the archive has the segment in which this server's WAL ends, or the history of a newer timeline.
    async fn archive_has_more(&self, command: &str, deadline: Instant) -> Result<bool> {
        let deadline = deadline.min(Instant::now() + ARCHIVE_PATIENCE);
        let status = self.status(StatusWants::default(), deadline).await?;
        let (_, segment_size) = self.control_file(deadline).await?.wal_sizes()?;
        let mut timelines = self.local_histories();
        timelines.extend([status.control_timeline].into_iter().chain(status.timeline));
        let newest = timelines.last().map_or(1, |timeline| timeline.0);
        let mut files = vec![format!("{:08X}.history", newest + 1)];
        files.extend(
            timelines
                .iter()
                .map(|timeline| segment_name(*timeline, status.lsn.0 / segment_size, segment_size)),
        );
        let directory =
            tempfile::tempdir().map_err(Error::file("create a directory in", std::env::temp_dir()))?;
        let asked = files
            .iter()
            .map(|file| self.archive_has(command, file, directory.path(), deadline));
        let answers = futures_util::future::try_join_all(asked).await?;
        Ok(answers.contains(&true))
    }

    async fn archive_has(
        &self,
        command: &str,
        file: &str,
        directory: &Path,
        deadline: Instant,
    ) -> Result<bool> {
        let path = directory.join(file);
        // Nothing in the archive may be removed for this: no file's name is smaller.
        let command = command.replace("%r", &"0".repeat(24));
        let filled = fill_placeholders(&command, &path.display().to_string(), file);
        let script = format!("cd \"$1\" && {filled}");
        let invocation = Invocation::new("/bin/sh", ["-c", &script, "sh"]).arg(self.data_dir());
        let output = invocation.gently().run(deadline).await?;
        match output.status.code() {
            Some(0) => Ok(path.exists()),
            Some(code) if code <= NOT_THERE_MAX => Ok(false),
            Some(_) | None => output.into_success().map(|_| false),
        }
    }

    /// The timelines whose histories lie in `pg_wal`, at least the first.
    fn local_histories(&self) -> BTreeSet<Timeline> {
        let entries = fs::read_dir(self.data_dir().join("pg_wal"));
        let histories = entries.into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_suffix(".history")?;
            u32::from_str_radix(number, 16).ok().map(Timeline)
        });
        // The newest is enough, and those that this server was on stand in its status.
        histories.max().into_iter().collect()
    }
}

/// A segment's file name (PostgreSQL source, `XLogFileName`).
fn segment_name(timeline: Timeline, number: u64, segment_size: u64) -> String {
    let per_id = 0x1_0000_0000 / segment_size;
    format!("{:08X}{:08X}{:08X}", timeline.0, number / per_id, number % per_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_postgresql_names_them() {
        let megabytes = 1 << 20;
        let name = |position: u64, size| segment_name(Timeline(2), position / size, size);
        assert_eq!(name(0x0A00_00A0, 16 * megabytes), "00000002000000000000000A");
        assert_eq!(name(0x1_FF00_0000, 16 * megabytes), "0000000200000001000000FF");
        assert_eq!(name(0x1_FF00_0000, 64 * megabytes), "00000002000000010000003F");
        assert_eq!(name(0x1_FF00_0000, megabytes), "000000020000000100000FF0");
    }
}
