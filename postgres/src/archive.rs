//! WAL that waits to be archived when the server is stopped. What replaces it, a rewind or a new copy, would throw it away.

use crate::command::Invocation;
use crate::control::fill_placeholders;
use crate::files::with_suffix;
use crate::{Error, Instant, Result, Server};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

/// How many file names a message shows.
const SHOWN_MAX: usize = 5;

/// How the server that was stopped archives its WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Archiving {
    /// Not at all: nothing waits, whatever the files say.
    Off,
    /// By this command.
    Command(String),
    /// In a way that only a running server has, or it could not be found out; why.
    NotFromHere(String),
}

/// What became of the WAL that waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing waits any more.
    Nothing,
    /// It may be archived later; what is wrong now.
    Later(String),
    /// It cannot be archived from here; why, and which files.
    Unable(String, Vec<String>),
}

impl Server {
    /// Archives what waits for it, as the archiver would: timeline histories first, then the segments in their order. One
    /// that fails holds none of the others up.
    ///
    /// # Errors
    /// When the directory that tells what waits cannot be read.
    pub(crate) async fn archive_waiting(&self, deadline: Instant) -> Result<Waiting> {
        let waiting = self.waiting_for_archive()?;
        if waiting.is_empty() {
            return Ok(Waiting::Nothing);
        }
        let command = match self.archiving(deadline).await {
            Archiving::Off => return Ok(Waiting::Nothing),
            Archiving::NotFromHere(why) => return Ok(Waiting::Unable(why, waiting)),
            Archiving::Command(command) => command,
        };
        let mut failed = Vec::new();
        let mut reason = None;
        for file in waiting {
            if !self.data_dir().join("pg_wal").join(&file).exists() {
                tracing::warn!("cannot archive {file}: it is missing in pg_wal");
                self.set_archive_status(&file, None);
                continue;
            }
            match self.archive_segment(&command, &file, deadline).await {
                Ok(()) => self.set_archive_status(&file, Some("done")),
                Err(error @ Error::Timeout { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!("could not archive {file} while PostgreSQL is down: {error}");
                    reason.get_or_insert(error.to_string());
                    failed.push(file);
                }
            }
        }
        Ok(match reason {
            None => Waiting::Nothing,
            Some(why) => Waiting::Later(format!(
                "WAL waits for the archive ({}) and archive_command fails: {why}; repair it; `tamada ctl reinit` \
                 replaces the data directory all the same and keeps the WAL beside it",
                shown(&failed)
            )),
        })
    }

    /// The same before the data directory is replaced as a whole: what cannot be archived is kept beside it.
    ///
    /// # Errors
    /// When it can neither be archived nor kept.
    pub async fn save_waiting_wal(&self, deadline: Instant) -> Result<()> {
        match self.archive_waiting(deadline).await? {
            Waiting::Nothing => Ok(()),
            Waiting::Later(why) => self.keep_waiting_wal(&why, &self.waiting_for_archive()?),
            Waiting::Unable(why, files) => self.keep_waiting_wal(&why, &files),
        }
    }

    /// Keeps files of the WAL beside the data directory, as links where that is possible.
    pub(crate) fn keep_waiting_wal(&self, why: &str, files: &[String]) -> Result<()> {
        let place = with_suffix(&self.data_dir(), "unarchived");
        let failed = || Error::file("keep WAL that is not archived in", &place);
        fs::create_dir_all(&place).map_err(failed())?;
        for file in files {
            let (from, to) = (self.data_dir().join("pg_wal").join(file), place.join(file));
            if to.exists() || !from.exists() {
                continue;
            }
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(failed())?;
            }
        }
        tracing::warn!(
            "WAL that is not archived ({}) is kept in {}, to be archived by hand: {why}",
            shown(files),
            place.display()
        );
        Ok(())
    }

    fn status_dir(&self) -> PathBuf {
        self.data_dir().join("pg_wal/archive_status")
    }

    fn waiting_for_archive(&self) -> Result<Vec<String>> {
        let status_dir = self.status_dir();
        let entries = match fs::read_dir(&status_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file("read", status_dir)(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::file("read", &status_dir))?.file_name();
            if let Some(file) = name.to_str().and_then(|name| name.strip_suffix(".ready")) {
                files.push(file.to_owned());
            }
        }
        files.sort_by_key(|file| (!file.ends_with(".history"), file.clone()));
        Ok(files)
    }

    /// `None`: the file is gone, and with it what there was to tell of it.
    fn set_archive_status(&self, file: &str, status: Option<&str>) {
        let status_dir = self.status_dir();
        let from = status_dir.join(format!("{file}.ready"));
        let changed = match status {
            Some(status) => fs::rename(&from, status_dir.join(format!("{file}.{status}"))),
            None => fs::remove_file(&from),
        };
        if let Err(error) = changed {
            tracing::warn!("could not change the archive status of {file}: {error}");
        }
    }

    /// PostgreSQL itself is asked: the settings may stand in any file, in any spelling, or on the last command line.
    async fn archiving(&self, deadline: Instant) -> Archiving {
        let mode = match self.setting_of_stopped("archive_mode", deadline).await {
            Ok(mode) => mode,
            Err(error) => {
                return Archiving::NotFromHere(format!("archive_mode could not be found out: {error}"));
            }
        };
        if mode == "off" {
            return Archiving::Off;
        }
        let has_library = self
            .version(deadline)
            .await
            .is_ok_and(|version| version.is_at_least(15));
        if has_library {
            match self.setting_of_stopped("archive_library", deadline).await {
                Ok(library) if library.is_empty() => {}
                Ok(library) => {
                    return Archiving::NotFromHere(format!(
                        "archive_library {library:?} works in a running server only"
                    ));
                }
                Err(error) => {
                    return Archiving::NotFromHere(format!(
                        "archive_library could not be found out: {error}"
                    ));
                }
            }
        }
        match self.setting_of_stopped("archive_command", deadline).await {
            Ok(command) if command.is_empty() => {
                Archiving::NotFromHere("archive_mode is on and archive_command is empty".to_owned())
            }
            Ok(command) => Archiving::Command(command),
            Err(error) => Archiving::NotFromHere(format!("archive_command could not be found out: {error}")),
        }
    }

    /// Runs the archive command for one file of `pg_wal`, as the archiver would.
    async fn archive_segment(&self, command: &str, segment: &str, deadline: Instant) -> Result<()> {
        let filled = fill_placeholders(command, &format!("pg_wal/{segment}"), segment);
        let script = format!("cd \"$1\" && {filled}");
        let invocation = Invocation::new("/bin/sh", ["-c", &script, "sh"]).arg(self.data_dir());
        invocation.gently().run(deadline).await?.into_success().map(drop)
    }

    /// Archives the segment with the shutdown checkpoint of a server that was stopped. It is not full, so that
    /// PostgreSQL leaves it; but who has only the archive needs it to go on where this server ended.
    ///
    /// # Errors
    /// When the archive command fails, or the control file cannot be read.
    pub async fn archive_shutdown_checkpoint(&self, deadline: Instant) -> Result<()> {
        let command = match self.archiving(deadline).await {
            Archiving::Command(command) => command,
            Archiving::Off => {
                tracing::info!("Not archiving latest checkpoint WAL file. Archiving is not configured.");
                return Ok(());
            }
            Archiving::NotFromHere(why) => {
                tracing::warn!("Not archiving latest checkpoint WAL file. {why}");
                return Ok(());
            }
        };
        let control = self.control_file(deadline).await?;
        let segment = control.get("Latest checkpoint's REDO WAL file")?;
        self.archive_segment(&command, segment, deadline).await?;
        tracing::info!("Archived {segment}, which holds the shutdown checkpoint");
        Ok(())
    }

    /// The value that a setting would have if the server was started as it was the last time.
    async fn setting_of_stopped(&self, name: &str, deadline: Instant) -> Result<String> {
        let mut args: Vec<OsString> = vec!["-C".into(), name.into(), "-D".into(), self.data_dir().into()];
        let mut config_file = OsString::from("--config-file=");
        config_file.push(self.config_path());
        args.push(config_file);
        let last = net::file::read_text(self.data_dir().join("postmaster.opts")).unwrap_or_default();
        let of_last_start = crate::control::postmaster_options(&last);
        if let Some(value) = of_last_start.get(name) {
            args.push(format!("--{name}={value}").into());
        }
        let output = self.run("postgres", args, &BTreeMap::new(), deadline).await?;
        Ok(output.into_success()?.trim().to_owned())
    }
}

fn shown(files: &[String]) -> String {
    let first: Vec<&str> = files.iter().take(SHOWN_MAX).map(String::as_str).collect();
    let more = files.len().saturating_sub(SHOWN_MAX);
    if more == 0 {
        first.join(", ")
    } else {
        format!("{} and {more} more", first.join(", "))
    }
}
