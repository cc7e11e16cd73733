//! What `backup-list` of WAL-E and WAL-G tells of the latest backup.

use std::process::Command;

use ha::pg::Lsn;
use serde::Deserialize;

use super::Outcome;

/// A base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backup {
    /// Of the data directory, unpacked.
    pub(super) size_bytes: u64,
    /// Where WAL is needed from.
    pub(super) start: Lsn,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{command} cannot be run: {source} (envdir is in Debian's package daemontools)")]
    Run { command: String, source: std::io::Error },
    #[error("{command}: {status}: {stderr}")]
    Status {
        command: String,
        status: std::process::ExitStatus,
        stderr: String,
    },
    #[error("the list of backups has no usable column {0}")]
    Column(&'static str),
    #[error("the list has {0} rows where the latest backup alone was asked for")]
    Rows(usize),
    #[error("the list of backups is no JSON that is understood: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Rows(_) => Outcome::Failed,
            Self::Run { .. } | Self::Status { .. } | Self::Column(_) | Self::Json(_) => Outcome::RetryLater,
        }
    }
}

/// What a command prints.
pub(super) fn output(command: &mut Command) -> Result<String, Error> {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let text = words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let output = command.output().map_err(|source| Error::Run {
        command: text.clone(),
        source,
    })?;
    if !output.status.success() {
        return Err(Error::Status {
            command: text,
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// WAL-E's: columns between tabs, names in the first line.
pub(super) fn of_wal_e(list: &str) -> Result<Option<Backup>, Error> {
    let mut lines = list.lines().filter(|line| !line.trim().is_empty());
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split('\t').collect()).collect();
    let row = match rows.as_slice() {
        [] => return Ok(None),
        [row] => row,
        rows => return Err(Error::Rows(rows.len())),
    };
    let column = |name: &'static str| {
        let index = names.iter().position(|column| column.trim() == name);
        let cell = index.and_then(|index| row.get(index));
        cell.map(|cell| cell.trim()).ok_or(Error::Column(name))
    };
    let number = |name: &'static str| column(name)?.parse::<u64>().map_err(|_| Error::Column(name));
    let segment = "wal_segment_backup_start";
    let start = start_of_segment(column(segment)?).ok_or(Error::Column(segment))?;
    let offset = number("wal_segment_offset_backup_start")?;
    Ok(Some(Backup {
        size_bytes: number("expanded_size_bytes")?,
        start: Lsn(start.saturating_add(offset)),
    }))
}

/// Where a segment begins, by the name of its file: timeline, upper half of the position, number of the segment of
/// 16 MiB, each of eight hexadecimal digits (PostgreSQL manual, "WAL Internals").
fn start_of_segment(name: &str) -> Option<u64> {
    let number = |range| u32::from_str_radix(name.get(range)?, 16).ok();
    let (upper, segment) = (number(8..16)?, number(16..24)?);
    Some((u64::from(upper) << 32) + (u64::from(segment) << 24))
}

/// WAL-G's: a JSON list, in any order.
pub(super) fn of_wal_g(list: &str) -> Result<Option<Backup>, Error> {
    #[derive(Deserialize)]
    struct Detail {
        uncompressed_size: u64,
        start_lsn: u64,
    }
    let backups: Vec<Detail> = serde_json::from_str(list)?;
    let latest = backups.into_iter().max_by_key(|backup| backup.start_lsn);
    Ok(latest.map(|backup| Backup {
        size_bytes: backup.uncompressed_size,
        start: Lsn(backup.start_lsn),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_wal_e_is_read() {
        let list = "name\tlast_modified\texpanded_size_bytes\twal_segment_backup_start\t\
                    wal_segment_offset_backup_start\n\
                    base_0\t2015-05-18T10:13:25.000Z\t167310\t00000001000000020000007F\t00000240\n";
        let backup = of_wal_e(list).unwrap().unwrap();
        assert_eq!(backup.size_bytes, 167_310);
        assert_eq!(backup.start.to_string(), "2/7F0000F0");
        assert!(of_wal_e("name\n").unwrap().is_none());
        assert!(of_wal_e("").unwrap().is_none());
    }

    #[test]
    fn a_list_that_is_not_understood_is_an_error() {
        let told = |list| of_wal_e(list).unwrap_err().to_string();
        assert_eq!(
            told("name\nbase_0\nbase_1\n"),
            "the list has 2 rows where the latest backup alone was asked for"
        );
        assert_eq!(
            told("name\nbase_0\n"),
            "the list of backups has no usable column wal_segment_backup_start"
        );
        let odd =
            "expanded_size_bytes\twal_segment_backup_start\twal_segment_offset_backup_start\nmany\té\t1\n";
        assert_eq!(
            told(odd),
            "the list of backups has no usable column wal_segment_backup_start"
        );
    }

    #[test]
    fn the_latest_backup_of_wal_g_is_taken() {
        let list = r#"[{"backup_name":"base_1","start_lsn":33554472,"uncompressed_size":1000,"x":null},
                       {"backup_name":"base_2","start_lsn":67108904,"uncompressed_size":2000}]"#;
        let backup = of_wal_g(list).unwrap().unwrap();
        assert_eq!(
            (backup.size_bytes, backup.start.to_string()),
            (2000, "0/4000028".to_owned())
        );
        assert!(of_wal_g("[]").unwrap().is_none());
        assert!(of_wal_g("No backups found").is_err());
    }
}
