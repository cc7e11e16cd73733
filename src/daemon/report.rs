//! What a cycle writes to the log: its notes and its status line, by Patroni's rules about what need not be said.

use ha::reason::{Level, Note, Reason};

/// What was said before, for what need not be said again.
#[derive(Debug, Default)]
pub(crate) struct Report {
    last_heartbeat: Option<String>,
}

/// How much is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Records at `DEBUG` are shown: nothing is held back.
    pub(crate) debug: bool,
    /// `log.deduplicate_heartbeat_logs`.
    pub(crate) deduplicated: bool,
}

impl Report {
    /// The lines of a cycle, in order. Who owns the lock stands next to a heartbeat only for developers.
    pub(crate) fn lines(
        &mut self,
        notes: &[Note],
        reason: &Reason,
        is_paused: bool,
        wanted: Wanted,
    ) -> Vec<Note> {
        let status = reason.status_line(is_paused);
        let is_heartbeat = reason.is_steady();
        let mut lines: Vec<Note> = Vec::with_capacity(notes.len() + 1);
        for (at, note) in notes.iter().enumerate() {
            let is_last = at + 1 == notes.len();
            let is_owner = note.level == Level::Info && note.text.starts_with("Lock owner: ");
            if !(is_owner && is_last && is_heartbeat && !wanted.debug) {
                lines.push(note.clone());
            }
        }
        let is_repeat = is_heartbeat
            && lines.is_empty()
            && wanted.deduplicated
            && self.last_heartbeat.as_ref() == Some(&status);
        self.last_heartbeat = is_heartbeat.then(|| status.clone());
        if !is_repeat {
            lines.push(Note::info(status));
        }
        lines
    }
}

/// Writes a note to the log.
pub(crate) fn log(note: &Note) {
    let text = &note.text;
    match note.level {
        Level::Debug => tracing::debug!("{text}"),
        Level::Info => tracing::info!("{text}"),
        Level::Warning => tracing::warn!("{text}"),
        Level::Error => tracing::error!("{text}"),
        Level::Critical => tracing::error!(critical = true, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Wanted = Wanted {
        debug: false,
        deduplicated: true,
    };

    fn texts(report: &mut Report, notes: &[Note], reason: &Reason, wanted: Wanted) -> Vec<String> {
        let lines = report.lines(notes, reason, false, wanted);
        lines.into_iter().map(|note| note.text).collect()
    }

    #[test]
    fn the_owner_of_the_lock_is_not_told_beside_a_heartbeat() {
        let owner = [Note::info("Lock owner: a; I am a")];
        let leader = Reason::Leader("a".into());
        let steady = "no action. I am (a), the leader with the lock";
        let mut report = Report::default();
        assert_eq!(texts(&mut report, &owner, &leader, QUIET), [steady]);
        assert_eq!(
            texts(&mut report, &owner, &Reason::LostRace, QUIET),
            [owner[0].text.clone(), Reason::LostRace.to_string()]
        );
        let debug = Wanted {
            debug: true,
            deduplicated: false,
        };
        assert_eq!(texts(&mut report, &owner, &leader, debug).len(), 2);
    }

    #[test]
    fn a_heartbeat_is_left_out_only_right_after_its_like() {
        let leader = Reason::Leader("a".into());
        let warning = [Note::warning("something")];
        let mut report = Report::default();
        assert_eq!(texts(&mut report, &[], &leader, QUIET).len(), 1);
        assert!(texts(&mut report, &[], &leader, QUIET).is_empty());
        assert_eq!(texts(&mut report, &warning, &leader, QUIET).len(), 2);
        let loud = Wanted {
            deduplicated: false,
            ..QUIET
        };
        assert_eq!(texts(&mut report, &[], &leader, loud).len(), 1);
    }

    #[test]
    fn a_paused_cluster_says_so() {
        let lines = Report::default().lines(&[], &Reason::NotRunning, true, QUIET);
        assert_eq!(lines[0].text, "PAUSE: postgres is not running");
    }
}
