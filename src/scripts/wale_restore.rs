//! `patroni_wale_restore`: a replica from WAL-E's or WAL-G's latest backup, where that is less work than a copy of the
//! primary; a replica method (Patroni documentation, "Replica imaging and bootstrap").

mod backup;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use postgres::{Conninfo, Instant, Session};

use self::backup::Backup;
use super::journal::Journal;
use super::run_to_end;
use crate::option_value;

/// Between two attempts.
const RETRY_SLEEP: Duration = Duration::from_secs(1);

/// How long the source may take to let in and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

const MEBIBYTE: u64 = 1024 * 1024;

/// Restore a replica from the latest backup of WAL-E or WAL-G, if it is recent enough
#[derive(Debug, Parser)]
#[command(
    name = "patroni_wale_restore",
    infer_long_args = true,
    allow_negative_numbers = true
)]
pub struct WaleRestore {
    /// The cluster's name
    #[arg(long)]
    scope: String,
    /// The role of the new member; of no consequence
    #[arg(long)]
    role: Option<String>,
    /// Where to restore to
    #[arg(long, value_name = "DIRECTORY")]
    datadir: PathBuf,
    /// How to reach the server to compare with; empty: the backup is used however old it is
    #[arg(long)]
    connstring: String,
    /// How often an attempt that may succeed later is made again
    #[arg(value_parser = option_value::whole::<u32>, long, value_name = "TIMES", default_value_t = 1)]
    retries: u32,
    /// envdir's folder with the environment of WAL-E or WAL-G
    #[arg(long, value_name = "DIRECTORY")]
    envdir: PathBuf,
    /// More WAL than this since the backup is too much, in MiB
    #[arg(value_parser = option_value::whole::<u64>, long = "threshold_megabytes", value_name = "MIB", default_value_t = 10240)]
    threshold_megabytes: u64,
    /// More WAL than this part of the backup's size is too much, in percent
    #[arg(
        value_parser = option_value::whole::<u64>,
        long = "threshold_backup_size_percentage",
        value_name = "PERCENT",
        default_value_t = 30
    )]
    threshold_backup_size_percentage: u64,
    /// 1: WAL-E uses the instance profile of AWS
    #[arg(value_parser = option_value::whole::<u8>, long = "use_iam", value_name = "0|1", default_value_t = 0)]
    use_iam: u8,
    /// 1: the backup is used when the server to compare with does not answer
    #[arg(value_parser = option_value::whole::<u8>, long = "no_leader", value_name = "0|1", default_value_t = 0)]
    no_leader: u8,
    /// Which program made the backups
    #[arg(long, value_enum, default_value_t = Archiver::WalE)]
    archiver: Archiver,
    /// Words for others
    #[arg(hide = true)]
    others: Vec<String>,
}

/// The program that makes and restores backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Archiver {
    WalE,
    WalG,
}

impl Archiver {
    fn program(self) -> &'static str {
        match self {
            Self::WalE => "wal-e",
            Self::WalG => "wal-g",
        }
    }
}

/// Exit codes, Patroni's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Restored.
    Done,
    /// It may succeed when it is tried again.
    RetryLater,
    /// It will not: the next replica method's turn.
    Failed,
    /// The archiver's own exit code.
    Archiver(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::RetryLater => 1,
            Outcome::Failed => 2,
            Outcome::Archiver(code) => code,
        })
    }
}

impl WaleRestore {
    /// Does it; tried again as often as is allowed.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let journal = Journal::console();
        run_to_end(&journal, Outcome::Failed, async {
            let mut attempts = 0;
            loop {
                let outcome = self.attempt(&journal).await;
                if !matches!(outcome, Outcome::RetryLater | Outcome::Archiver(1)) || attempts >= self.retries
                {
                    return outcome;
                }
                attempts += 1;
                tokio::time::sleep(RETRY_SLEEP).await;
            }
        })
        .into()
    }

    async fn attempt(&self, journal: &Journal) -> Outcome {
        if !self.envdir.exists() {
            journal.error(&format!(
                "the environment's folder {} does not exist: --envdir is that of envdir(8)",
                self.envdir.display()
            ));
            return Outcome::Failed;
        }
        let backup = match self.latest_backup() {
            Ok(Some(backup)) => backup,
            Ok(None) => {
                journal.warning(&format!("{} has no backup", self.archiver.program()));
                return Outcome::Failed;
            }
            Err(error) => {
                journal.error(&error.to_string());
                return error.outcome();
            }
        };
        match self.distance(&backup, journal).await {
            Some(bytes) if self.is_worth_it(&backup, bytes, journal) => self.fetch(journal),
            Some(_) | None => Outcome::Failed,
        }
    }

    /// `envdir DIRECTORY wal-e`.
    fn archiver(&self) -> Command {
        let mut command = Command::new("envdir");
        command.arg(&self.envdir).arg(self.archiver.program());
        if self.archiver == Archiver::WalE && self.use_iam == 1 {
            command.arg("--aws-instance-profile");
        }
        command
    }

    fn latest_backup(&self) -> Result<Option<Backup>, backup::Error> {
        let mut command = self.archiver();
        match self.archiver {
            Archiver::WalE => backup::of_wal_e(&backup::output(command.args([
                "backup-list",
                "--detail",
                "LATEST",
            ]))?),
            Archiver::WalG => backup::of_wal_g(&backup::output(command.args([
                "backup-list",
                "--detail",
                "--json",
            ]))?),
        }
    }

    /// How much WAL there is since the backup; `None` when nobody can tell and that matters.
    async fn distance(&self, backup: &Backup, journal: &Journal) -> Option<u64> {
        if self.connstring.is_empty() {
            return Some(0);
        }
        let mut attempts = 0;
        loop {
            let error = match position(&self.connstring).await {
                Ok(position) => return Some(backup.start.behind(position)),
                Err(error) => error,
            };
            journal.error(&format!(
                "the position of the server to compare with could not be had: {error}"
            ));
            if attempts >= self.retries {
                break;
            }
            attempts += 1;
            tokio::time::sleep(RETRY_SLEEP).await;
        }
        if self.no_leader == 0 {
            return None;
        }
        journal.info("the backup is used all the same, as --no_leader=1 says");
        Some(0)
    }

    fn is_worth_it(&self, backup: &Backup, distance: u64, journal: &Journal) -> bool {
        let by_size = self.threshold_megabytes.saturating_mul(MEBIBYTE);
        let percent = u128::from(self.threshold_backup_size_percentage);
        let by_share = u64::try_from(u128::from(backup.size_bytes) * percent / 100).unwrap_or(u64::MAX);
        let is_worth_it = distance < by_size && distance < by_share;
        let facts = format!(
            "{} of WAL since the backup of {}; allowed are {} and {} ({percent} % of the backup)",
            size(distance),
            size(backup.size_bytes),
            size(by_size),
            size(by_share)
        );
        let program = self.archiver.program();
        if is_worth_it {
            journal.info(&format!("the backup of {program} is used: {facts}"));
        } else {
            journal.info(&format!(
                "the backup of {program} is too old, another method does less: {facts}"
            ));
        }
        is_worth_it
    }

    fn fetch(&self, journal: &Journal) -> Outcome {
        let mut command = self.archiver();
        command.arg("backup-fetch").arg(&self.datadir).arg("LATEST");
        match command.status() {
            Ok(status) if status.success() => match mend_wal_directory(&self.datadir) {
                Ok(()) => Outcome::Done,
                Err(error) => {
                    journal.error(&format!(
                        "the folder pg_wal cannot be made in {}: {error}",
                        self.datadir.display()
                    ));
                    Outcome::Failed
                }
            },
            Ok(status) => {
                journal.error(&format!("{} backup-fetch: {status}", self.archiver.program()));
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                code.map_or(Outcome::RetryLater, Outcome::Archiver)
            }
            Err(error) => {
                journal.error(&format!(
                    "envdir cannot be run: {error} (Debian's package daemontools has it)"
                ));
                Outcome::RetryLater
            }
        }
    }
}

/// Where the server is: what it has written, received or replayed.
async fn position(connstring: &str) -> Result<ha::pg::Lsn, PositionError> {
    let conninfo = Conninfo::parse(connstring)?;
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let asked = async {
        let session = Session::open(&conninfo, deadline).await?;
        session
            .query(
                "the position",
                "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), \
                 pg_catalog.pg_last_wal_replay_lsn()) ELSE pg_catalog.pg_current_wal_lsn() END",
            )
            .await
    };
    let answer = tokio::time::timeout(CONNECT_TIMEOUT, asked)
        .await
        .map_err(|_| PositionError::Timeout)??;
    let text = answer.rows.into_iter().flatten().flatten().next();
    text.and_then(|text| text.parse().ok())
        .ok_or(PositionError::Nothing)
}

/// Why there is no position. A connection string is never part of it: a password may stand in it.
#[derive(Debug, thiserror::Error)]
enum PositionError {
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("it has received and replayed nothing yet")]
    Nothing,
}

/// A backup of a server whose WAL is elsewhere brings a link to a place that is not there: it becomes a folder.
fn mend_wal_directory(datadir: &Path) -> std::io::Result<()> {
    let path = datadir.join("pg_wal");
    if path.exists() {
        return Ok(());
    }
    if path.is_symlink() {
        std::fs::remove_file(&path)?;
    }
    std::fs::create_dir(&path)
}

/// In the largest unit that it fills.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", MEBIBYTE * MEBIBYTE),
        ("GiB", MEBIBYTE * 1024),
        ("MiB", MEBIBYTE),
        ("KiB", 1024),
    ];
    UNITS.into_iter().find(|(_, unit)| bytes >= *unit).map_or_else(
        || format!("{bytes} bytes"),
        |(name, unit)| format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_told_in_their_unit() {
        let told = [0, 1023, 1024, 1536, 10 * 1024 * 1024 * 1024, u64::MAX].map(size);
        assert_eq!(
            told,
            [
                "0 bytes",
                "1023 bytes",
                "1.0 KiB",
                "1.5 KiB",
                "10.0 GiB",
                "16777215.9 TiB"
            ]
        );
    }
}
