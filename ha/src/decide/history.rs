//! The key `history`: which timelines there were, and who was promoted when.

use crate::cluster::{Cluster, History, HistoryLine};
use crate::cycle::{Cycle, Flow};
use crate::pg::{HistoryEntry, Timeline};
use crate::step::{Expect, Key};

/// Keeps `/history` in line with the timeline this primary is on.
pub(super) fn keep(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    let server = super::observe::server(c)?;
    let Some(timeline) = server.sql.and_then(|sql| sql.timeline) else {
        return Ok(());
    };
    let current = cluster.history.clone();
    if timeline == Timeline(1) {
        if current.is_none_or(|history| !history.lines.is_empty()) {
            drop(c.write(Key::History, History::default().to_json(), Expect::Anything)?);
        }
        return Ok(());
    }
    let known = current.unwrap_or_default();
    if c.memory.checked_history.as_ref() == Some(&(timeline, known.clone())) {
        return Ok(());
    }
    let Some(entries) = c.history_file(timeline)? else {
        return Ok(());
    };
    let now = c.given().wall_clock.to_string().replace('Z', "+00:00");
    let history = merge(&known, &entries, &now, c.me().as_str(), limit(c));
    // The file need not have the timeline before this one, and somebody may have changed any line of the key.
    let is_right = history == known
        || c.write(Key::History, history.to_json(), Expect::Anything)?
            .is_ok_and(|written| written.is_some());
    c.memory.checked_history = is_right.then_some((timeline, history));
    Ok(())
}

/// How many timelines are remembered in the DCS.
pub(super) fn limit(c: &Cycle<'_>) -> Option<usize> {
    let limit = c.config().max_timelines_history;
    limit
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|limit| *limit > 0)
}

/// The lines of the history file; those that are known keep their time and leader, the last one gets `now` and `me`.
fn merge(known: &History, entries: &[HistoryEntry], now: &str, me: &str, limit: Option<usize>) -> History {
    let last = entries.len().saturating_sub(1);
    let line = |(index, entry): (usize, &HistoryEntry)| {
        let old = known
            .lines
            .iter()
            .find(|line| line.timeline == entry.timeline && line.switch_lsn == entry.switch_lsn);
        let is_new = index == last && old.is_none_or(|old| old.new_leader.is_none());
        HistoryLine {
            timeline: entry.timeline,
            switch_lsn: entry.switch_lsn,
            reason: entry.reason.clone(),
            timestamp: if is_new {
                Some(now.to_owned())
            } else {
                old.and_then(|old| old.timestamp.clone())
            },
            new_leader: if is_new {
                Some(me.to_owned())
            } else {
                old.and_then(|old| old.new_leader.clone())
            },
        }
    };
    let mut lines: Vec<HistoryLine> = entries.iter().enumerate().map(line).collect();
    if let Some(limit) = limit {
        lines.drain(..lines.len().saturating_sub(limit));
    }
    History { lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;

    #[test]
    fn known_lines_keep_their_time_and_leader() {
        let entry = |timeline, lsn| HistoryEntry {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(lsn),
            reason: "no recovery target specified".to_owned(),
        };
        let known =
            History::parse(r#"[[1,100,"no recovery target specified","2026-01-01T00:00:00+00:00","a"]]"#);
        let merged = merge(
            &known,
            &[entry(1, 100), entry(2, 200)],
            "2026-02-02T00:00:00+00:00",
            "b",
            None,
        );
        assert_eq!(
            merged.to_json(),
            r#"[[1,100,"no recovery target specified","2026-01-01T00:00:00+00:00","a"],"#.to_owned()
                + r#"[2,200,"no recovery target specified","2026-02-02T00:00:00+00:00","b"]]"#
        );
        let cut = merge(&known, &[entry(1, 100), entry(2, 200)], "now", "b", Some(1));
        assert_eq!(cut.lines.len(), 1);
        assert_eq!(cut.lines[0].timeline, Timeline(2));
    }
}
