//! Whether a copy that a method has made can follow the cluster: a backup may be of a timeline that was abandoned, of
//! another cluster, or need WAL that is nowhere any more.

use crate::process::Postmaster;
use crate::server::locked;
use crate::{Error, Instant, LeaderFacts, Result, Server, Source};
use ha::pg::{Lsn, SystemIdentifier, Timeline};
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

/// How long the source may take to tell its history.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// After how many copies that could not follow another method is tried.
const FAILURES_MAX: u32 = 2;

/// A process that replays WAL needs more of a processor than one that asks for it again and again, in ticks per second.
const BUSY_TICKS_PER_SECOND: u64 = 20;

/// Where a copy's recovery begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Begin {
    system_identifier: Option<SystemIdentifier>,
    timeline: Timeline,
    lsn: Lsn,
}

impl Server {
    /// Whether the copy in the data directory can follow `source`, as far as the histories tell. A source that does not
    /// tell its history is no reason against the copy.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] when it cannot.
    pub async fn check_copy(&self, source: &Source, deadline: Instant) -> Result<()> {
        let facts = match self
            .leader_facts(source, deadline.min(Instant::now() + ANSWER_TIME))
            .await
        {
            Ok(facts) => facts,
            Err(error) => {
                tracing::warn!("could not compare the copy with the history of its source: {error}");
                return Ok(());
            }
        };
        let begin = self.begin_of_copy(deadline).await?;
        match misfit(&begin, &facts) {
            None => Ok(()),
            Some(why) => Err(Error::Unsuitable(format!(
                "the copy cannot follow the cluster: {why}"
            ))),
        }
    }

    async fn begin_of_copy(&self, deadline: Instant) -> Result<Begin> {
        let control = self.control_data(deadline).await?;
        let label = net::file::read_text(self.data_dir().join("backup_label")).unwrap_or_default();
        let (timeline, lsn) = begin_in_label(&label).unwrap_or((control.timeline, control.checkpoint));
        Ok(Begin {
            system_identifier: control.system_identifier,
            timeline,
            lsn,
        })
    }

    /// Ends when the recovery of a copy has not moved for `patience`: what it needs is nowhere. Never ends while it does
    /// something. To be run beside the start.
    pub async fn recovery_stands_still(&self, patience: Duration) {
        let interval = patience / 4;
        let mut seen = None;
        let mut since = Instant::now();
        loop {
            let now = self.recovery_progress(interval);
            if seen.as_ref().is_none_or(|before| now.differs_from(before)) {
                seen = Some(now);
                since = Instant::now();
            } else if since.elapsed() >= patience {
                return;
            }
            tokio::time::sleep(interval).await;
        }
    }

    fn recovery_progress(&self, interval: Duration) -> RecoveryProgress {
        let data_dir = self.data_dir();
        let mut hasher = DefaultHasher::new();
        let wal = fs::read_dir(data_dir.join("pg_wal")).into_iter().flatten();
        let mut paths: Vec<_> = wal.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.push(data_dir.join("global/pg_control"));
        paths.sort();
        for path in paths {
            if let Ok(meta) = fs::metadata(&path)
                && meta.is_file()
            {
                (path, meta.len(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
            }
        }
        let children = self
            .postmaster()
            .ok()
            .flatten()
            .map(|postmaster| postmaster.children())
            .unwrap_or_default();
        let startup = children
            .into_iter()
            .find(|child| command_line(child).contains("startup"));
        RecoveryProgress {
            files: hasher.finish(),
            ticks: startup.as_ref().map_or(0, ticks),
            fetching: startup
                .iter()
                .flat_map(Postmaster::children)
                .map(|child| child.pid())
                .collect(),
            busy_ticks: interval.as_secs().max(1).saturating_mul(BUSY_TICKS_PER_SECOND),
        }
    }

    /// The methods that are worth a try: those whose copies could not follow are left out, unless nothing else is there.
    pub(super) fn is_given_up(&self, method: &str) -> bool {
        locked(&self.shared.failed_copies)
            .get(method)
            .is_some_and(|failures| *failures >= FAILURES_MAX)
    }

    pub(super) fn forget_failed_copies(&self) {
        locked(&self.shared.failed_copies).clear();
    }

    /// A copy of that method could not follow: it is removed, and counts against the method.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn reject_copy(&self, method: &str) -> Result<()> {
        *locked(&self.shared.failed_copies)
            .entry(method.to_owned())
            .or_default() += 1;
        self.remove_data_directory().await
    }

    /// The copy follows.
    pub fn accept_copy(&self) {
        self.forget_failed_copies();
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RecoveryProgress {
    files: u64,
    ticks: u64,
    /// The programs that fetch WAL from the archive. One that takes long is at work.
    fetching: Vec<i32>,
    busy_ticks: u64,
}

impl RecoveryProgress {
    fn differs_from(&self, before: &Self) -> bool {
        self.files != before.files
            || self.ticks.saturating_sub(before.ticks) >= self.busy_ticks
            || self.fetching.iter().any(|pid| before.fetching.contains(pid))
    }
}

fn command_line(process: &Postmaster) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap_or_default();
    String::from_utf8_lossy(&line).into_owned()
}

/// The processor time of a process (proc(5), `utime` and `stime`).
fn ticks(process: &Postmaster) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let times = fields.split_whitespace().skip(11).take(2);
    times.filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// `START WAL LOCATION` and `START TIMELINE` of a `backup_label`; before version 11 it has no timeline.
fn begin_in_label(label: &str) -> Option<(Timeline, Lsn)> {
    let value = |name: &str| {
        label
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let lsn = value("START WAL LOCATION:")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let timeline = value("START TIMELINE:")?.parse().ok()?;
    Some((Timeline(timeline), lsn))
}

/// Why a recovery that begins there does not come to where the source is.
fn misfit(begin: &Begin, source: &LeaderFacts) -> Option<String> {
    if let (Some(ours), Some(theirs)) = (&begin.system_identifier, &source.system_identifier)
        && ours != theirs
    {
        return Some(format!(
            "its system identifier is {ours}, that of the cluster is {theirs}"
        ));
    }
    let Begin { timeline, lsn, .. } = begin;
    if *timeline == source.timeline {
        return (*lsn > source.lsn).then(|| {
            format!(
                "its recovery begins at {lsn} on timeline {timeline}, the source has only come to {}",
                source.lsn
            )
        });
    }
    match source.history.iter().find(|entry| entry.timeline == *timeline) {
        None => Some(format!(
            "it is on timeline {timeline}, which the history of timeline {} does not have",
            source.timeline
        )),
        Some(left) if *lsn > left.switch_lsn => Some(format!(
            "its recovery begins at {lsn} on timeline {timeline}, which the cluster left at {}: that branch was abandoned",
            left.switch_lsn
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha::pg::HistoryEntry;

    #[test]
    fn a_backup_is_compared_with_the_history_of_the_source() {
        let source = LeaderFacts {
            in_recovery: false,
            system_identifier: "7000000000000000001".parse().ok(),
            timeline: Timeline(3),
            lsn: Lsn(500),
            history: [(1, 100), (2, 300)]
                .map(|(timeline, lsn)| HistoryEntry {
                    timeline: Timeline(timeline),
                    switch_lsn: Lsn(lsn),
                    reason: String::new(),
                })
                .to_vec(),
        };
        for (timeline, lsn, fits) in [
            (1, 50, true),
            (1, 100, true),
            (1, 101, false),
            (2, 299, true),
            (2, 301, false),
            (3, 500, true),
            (3, 501, false),
            (4, 10, false),
        ] {
            let begin = Begin {
                system_identifier: source.system_identifier.clone(),
                timeline: Timeline(timeline),
                lsn: Lsn(lsn),
            };
            assert_eq!(misfit(&begin, &source).is_none(), fits, "{timeline} {lsn}");
            let foreign = Begin {
                system_identifier: "7000000000000000002".parse().ok(),
                ..begin
            };
            assert!(misfit(&foreign, &source).is_some_and(|why| why.contains("system identifier")));
        }
    }

    #[test]
    fn a_label_tells_where_recovery_begins() {
        let label = "START WAL LOCATION: 0/4000028 (file 000000020000000000000004)\nCHECKPOINT LOCATION: 0/4000080\n\
                     BACKUP METHOD: streamed\nSTART TIMELINE: 2\n";
        assert_eq!(begin_in_label(label), Some((Timeline(2), Lsn(0x400_0028))));
        assert_eq!(begin_in_label(""), None);
    }

    #[test]
    fn recovery_moves_while_it_reads_writes_or_fetches() {
        let still = RecoveryProgress {
            files: 1,
            ticks: 5,
            fetching: vec![7],
            busy_ticks: 20,
        };
        let other = |files, ticks, fetching: &[i32]| RecoveryProgress {
            files,
            ticks,
            fetching: fetching.to_vec(),
            busy_ticks: 20,
        };
        assert!(!other(1, 10, &[8]).differs_from(&still), "asks in vain");
        assert!(other(2, 5, &[]).differs_from(&still));
        assert!(other(1, 40, &[]).differs_from(&still));
        assert!(other(1, 5, &[7]).differs_from(&still), "one that takes long");
    }
}
