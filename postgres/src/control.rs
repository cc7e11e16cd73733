//! `pg_controldata`, the last WAL record, and crash recovery in single-user mode.

use crate::command::Invocation;
use crate::files::signal;
use crate::rewind::REWINDING;
use crate::{Error, Instant, RecoverySignal, Result, Server};
use ha::pg::{ControlData, DatabaseState, Lsn, Timeline};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// Which files lie in the data directory that tell what a start would make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// `standby.signal` or `recovery.signal`.
    pub has_recovery_signal: bool,
    /// `backup_label`: the copy of a base backup that has not been recovered yet.
    pub has_backup_label: bool,
    /// pg_rewind has begun to change it and has not come to its end.
    pub is_half_rewound: bool,
}

/// The lines of `pg_controldata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlFile(BTreeMap<String, String>);

impl ControlFile {
    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        Self(text.lines().filter_map(line).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| Error::parse("the output of pg_controldata", format!("it has no line {name:?}")))
    }

    fn lsn(&self, name: &str) -> Result<Lsn> {
        self.get(name)?
            .parse()
            .map_err(|_| Error::parse("the output of pg_controldata", format!("bad {name}")))
    }

    fn number(&self, name: &str) -> Result<u32> {
        self.get(name)?
            .parse()
            .map_err(|_| Error::parse("the output of pg_controldata", format!("bad {name}")))
    }

    /// The sizes of a page and of a segment of the WAL, in bytes.
    pub(crate) fn wal_sizes(&self) -> Result<(u64, u64)> {
        let block_size = u64::from(self.number("WAL block size")?);
        let segment_size = u64::from(self.number("Bytes per WAL segment")?);
        if block_size == 0 || segment_size < block_size {
            let what = "the output of pg_controldata";
            return Err(Error::parse(what, "the sizes of the WAL make no sense"));
        }
        Ok((block_size, segment_size))
    }

    /// A setting that a standby's must not fall short of, by its parameter's name.
    pub(crate) fn parameter(&self, name: &str) -> Option<u64> {
        let line = match name {
            "max_connections" => "max_connections setting",
            "max_worker_processes" => "max_worker_processes setting",
            "max_wal_senders" => "max_wal_senders setting",
            "max_prepared_transactions" => "max_prepared_xacts setting",
            "max_locks_per_transaction" => "max_locks_per_xact setting",
            _ => return None,
        };
        self.get(line).ok()?.parse().ok()
    }

    pub(crate) fn data(&self) -> Result<ControlData> {
        let state = match self.get("Database cluster state")? {
            "starting up" => DatabaseState::StartingUp,
            "shut down" => DatabaseState::ShutDown,
            "shut down in recovery" => DatabaseState::ShutDownInRecovery,
            "shutting down" => DatabaseState::ShuttingDown,
            "in crash recovery" => DatabaseState::InCrashRecovery,
            "in archive recovery" => DatabaseState::InArchiveRecovery,
            "in production" => DatabaseState::InProduction,
            other => {
                return Err(Error::parse(
                    "the cluster state of pg_controldata",
                    other.to_owned(),
                ));
            }
        };
        let minimum_recovery_timeline = self.number("Min recovery ending loc's timeline")?;
        let hints = self.get("wal_log_hints setting").is_ok_and(|value| value == "on");
        let checksums = self
            .number("Data page checksum version")
            .is_ok_and(|version| version != 0);
        Ok(ControlData {
            system_identifier: self.get("Database system identifier")?.parse().ok(),
            state,
            checkpoint: self.lsn("Latest checkpoint location")?,
            redo: self.lsn("Latest checkpoint's REDO location")?,
            timeline: Timeline(self.number("Latest checkpoint's TimeLineID")?),
            minimum_recovery: self.lsn("Minimum recovery ending location")?,
            minimum_recovery_timeline: (minimum_recovery_timeline != 0)
                .then_some(Timeline(minimum_recovery_timeline)),
            can_be_rewound: hints || checksums,
        })
    }
}

/// One record as `pg_waldump` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalRecord {
    /// Where the record before it begins.
    pub(crate) previous: Lsn,
    /// Where it ends.
    pub(crate) end: Lsn,
}

/// Reads a line such as `rmgr: XLOG  len (rec/tot):  114/  114, tx: 0, lsn: 0/01500028, prev 0/014FFFF0, desc: ...`.
pub(crate) fn parse_wal_record(text: &str, block_size: u64, segment_size: u64) -> Option<WalRecord> {
    let line = text.lines().find(|line| line.starts_with("rmgr:"))?;
    let total: u64 = line
        .split_once("(rec/tot):")?
        .1
        .split_once('/')?
        .1
        .split(',')
        .next()?
        .trim()
        .parse()
        .ok()?;
    let start: Lsn = line
        .split_once("lsn:")?
        .1
        .split(',')
        .next()?
        .trim()
        .parse()
        .ok()?;
    let previous: Lsn = line
        .split_once("prev")?
        .1
        .split(',')
        .next()?
        .trim()
        .parse()
        .ok()?;
    Some(WalRecord {
        previous,
        end: end_of_record(start, total, block_size, segment_size),
    })
}

/// Where a record ends: its bytes, aligned to eight, and the headers of the pages that it runs into (PostgreSQL
/// source, `src/include/access/xlog_internal.h`: 24 bytes, 40 on the first page of a segment).
fn end_of_record(start: Lsn, total: u64, block_size: u64, segment_size: u64) -> Lsn {
    let mut position = start.0;
    let mut remaining = total;
    loop {
        let left_on_page = block_size - position % block_size;
        if remaining <= left_on_page {
            return Lsn((position + remaining).next_multiple_of(8));
        }
        remaining -= left_on_page;
        position += left_on_page;
        position += if position.is_multiple_of(segment_size) {
            40
        } else {
            24
        };
    }
}

impl Server {
    pub(crate) async fn control_file(&self, deadline: Instant) -> Result<ControlFile> {
        let data_dir = self.data_dir();
        let output = self
            .run(
                "pg_controldata",
                [data_dir.as_os_str()],
                &BTreeMap::new(),
                deadline,
            )
            .await?;
        Ok(ControlFile::parse(&output.into_success()?))
    }

    /// What the control file says.
    ///
    /// # Errors
    /// When there is no control file or it is damaged.
    pub async fn control_data(&self, deadline: Instant) -> Result<ControlData> {
        self.control_file(deadline).await?.data()
    }

    /// Which files lie in the data directory that tell what a start would make of it.
    ///
    /// # Errors
    /// When that cannot be looked at.
    pub fn marks(&self) -> Result<Marks> {
        let data_dir = self.data_dir();
        let has = |name: &str| {
            let path = data_dir.join(name);
            path.try_exists().map_err(Error::file("look for", path))
        };
        Ok(Marks {
            has_recovery_signal: has(signal::STANDBY)? || has(signal::RECOVERY)?,
            has_backup_label: has("backup_label")?,
            is_half_rewound: has(REWINDING)?,
        })
    }

    /// The record that begins at the latest checkpoint's location.
    pub(crate) async fn checkpoint_record(&self, deadline: Instant) -> Result<WalRecord> {
        let control = self.control_file(deadline).await?;
        let data = control.data()?;
        let args: [OsString; 6] = [
            "-p".into(),
            self.data_dir().join("pg_wal").into(),
            format!("--timeline={}", data.timeline).into(),
            format!("--start={}", data.checkpoint).into(),
            "-n".into(),
            "1".into(),
        ];
        let output = self.run("pg_waldump", args, &BTreeMap::new(), deadline).await?;
        let (block_size, segment_size) = control.wal_sizes()?;
        match parse_wal_record(&output.stdout, block_size, segment_size) {
            Some(record) => Ok(record),
            None if !output.status.success() => Err(output.failure()),
            None => Err(Error::parse("the output of pg_waldump", "it shows no record")),
        }
    }

    /// The position of the last record before the shutdown checkpoint of a cleanly stopped primary: what a standby must
    /// have received to lack nothing.
    ///
    /// # Errors
    /// When pg_waldump cannot read the WAL.
    pub async fn last_record_before_shutdown(&self, deadline: Instant) -> Result<Lsn> {
        Ok(self.checkpoint_record(deadline).await?.previous)
    }

    /// Lets the server recover from a crash in single-user mode, so that it can be rewound. WAL that waits to be
    /// archived is archived first. Dropping the call ends it.
    ///
    /// # Errors
    /// When it fails or takes longer than allowed.
    pub async fn single_user_recovery(&self, deadline: Instant) -> Result<()> {
        if self.postmaster()?.is_some() {
            return Err(Error::Unsuitable(
                "PostgreSQL runs: there is nothing to recover".to_owned(),
            ));
        }
        self.refuse_half_rewound()?;
        self.wait_for_leftovers(deadline).await?;
        // PostgreSQL keeps what is not archived.
        if let Err(error) = self.archive_waiting(deadline).await {
            tracing::warn!("could not archive the WAL that waits: {error}");
        }
        let data_dir = self.data_dir();
        signal::write(&data_dir, RecoverySignal::None)?;
        let mut options =
            postmaster_options(&net::file::read_text(data_dir.join("postmaster.opts")).unwrap_or_default());
        if !options.contains_key("config_file") {
            options.insert("config_file".to_owned(), self.config_path().display().to_string());
        }
        // What is replayed is archived already or was handled above.
        options.insert("archive_mode".to_owned(), "on".to_owned());
        options.insert("archive_command".to_owned(), "false".to_owned());
        let mut invocation = Invocation::new(self.program("postgres"), ["--single", "-D"]).arg(&data_dir);
        for (name, value) in options {
            invocation = invocation.arg("-c").arg(format!("{name}={value}"));
        }
        invocation = invocation.arg("template1").env("LC_ALL", "C");
        invocation.stdin = Some(String::new());
        invocation.gently().run(deadline).await?.into_success().map(drop)
    }
}

/// Replaces `%p`, `%f` and `%%` (PostgreSQL manual, "Continuous Archiving").
pub(crate) fn fill_placeholders(command: &str, path: &str, file: &str) -> String {
    let mut filled = String::new();
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next() {
                Some('p') => filled.push_str(path),
                Some('f') => filled.push_str(file),
                Some('%') | None => filled.push('%'),
                Some(other) => filled.extend(['%', other]),
            },
            c => filled.push(c),
        }
    }
    filled
}

/// The settings on the command line that a postmaster was started with, from `postmaster.opts`: the program and each
/// argument in double quotes.
pub(crate) fn postmaster_options(text: &str) -> BTreeMap<String, String> {
    let words = crate::command::split_words(text.trim()).unwrap_or_default();
    let option = |word: &String| {
        let (name, value) = word.strip_prefix("--")?.split_once('=')?;
        Some((name.replace('-', "_"), value.to_owned()))
    };
    words.iter().filter_map(option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
Database system identifier:           7268616322854375442
Database cluster state:               shut down
Latest checkpoint location:           0/3000028
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
wal_log_hints setting:                off
max_prepared_xacts setting:           7
Data page checksum version:           1
";

    #[test]
    fn control_data_is_read() {
        let file = ControlFile::parse(SAMPLE);
        let data = file.data().unwrap();
        assert_eq!(data.state, DatabaseState::ShutDown);
        assert_eq!((data.checkpoint, data.timeline), (Lsn(0x300_0028), Timeline(2)));
        assert!(data.can_be_rewound && data.minimum_recovery_timeline.is_none());
        assert_eq!(file.parameter("max_prepared_transactions"), Some(7));
        let unknown = SAMPLE.replace("shut down", "on holiday");
        assert!(ControlFile::parse(&unknown).data().is_err());
        let error = ControlFile::parse("").data().unwrap_err().to_string();
        assert!(error.contains("Database cluster state"), "{error}");
    }

    #[test]
    fn a_wal_record_ends_after_the_headers_it_runs_into() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/01500028, \
                    prev 0/014FFFF0, desc: CHECKPOINT_SHUTDOWN redo 0/1500028";
        let record = parse_wal_record(line, 8192, 16 << 20).unwrap();
        assert_eq!(
            record,
            WalRecord {
                previous: Lsn(0x14F_FFF0),
                end: Lsn(0x150_00A0)
            }
        );
        assert_eq!(
            end_of_record(Lsn(8192 * 3 - 40), 114, 8192, 16 << 20),
            Lsn(8192 * 3 + 24 + 80)
        );
        assert_eq!(
            end_of_record(Lsn((16 << 20) - 40), 114, 8192, 16 << 20),
            Lsn((16 << 20) + 40 + 80)
        );
        assert_eq!(end_of_record(Lsn(8192 - 120), 114, 8192, 16 << 20), Lsn(8192));
        assert_eq!(parse_wal_record("pg_waldump: error", 8192, 16 << 20), None);
    }

    #[test]
    fn the_options_of_the_last_start_are_read() {
        let text = "/usr/bin/postgres \"-D\" \"/data dir\" \"--config-file=/data/postgresql.conf\" \"--port=5432\"\n";
        let options = postmaster_options(text);
        assert_eq!(
            options.get("config_file").map(String::as_str),
            Some("/data/postgresql.conf")
        );
        assert_eq!(options.get("port").map(String::as_str), Some("5432"));
    }

    #[test]
    fn archive_commands_get_their_file() {
        assert_eq!(
            fill_placeholders("cp %p /a/%f 100%% %x", "pg_wal/1", "1"),
            "cp pg_wal/1 /a/1 100% %x"
        );
    }
}
