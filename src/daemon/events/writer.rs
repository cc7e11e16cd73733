//! The thread that gives events their ids and writes them.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use ha::event::{Event, Record};
use ha::pg::MemberName;
use serde::Serialize;

use super::files::Rotated;
use super::{Message, Shared, Since};

/// The journal of a cycle, as it is kept: with the ids of its events.
#[derive(Serialize)]
struct Kept<'a> {
    v: u32,
    /// The version of the program that decided.
    program: &'static str,
    member: &'a MemberName,
    events: [u64; 2],
    #[serde(flatten)]
    record: &'a Record,
}

pub(super) fn start(
    member: MemberName,
    shared: Arc<Shared>,
    messages: Receiver<Message>,
) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("events".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            Writer {
                member,
                events: shared.files.events(),
                journals: shared.files.journals(),
                shared: &shared,
                last_id: 0,
                written_id: 0,
                has_warned: false,
            }
            .run(&messages);
        })?;
    Ok(())
}

struct Writer<'a> {
    member: MemberName,
    shared: &'a Shared,
    events: Rotated<'a>,
    journals: Rotated<'a>,
    last_id: u64,
    /// The newest event on disk.
    written_id: u64,
    has_warned: bool,
}

impl Writer<'_> {
    fn run(mut self, messages: &Receiver<Message>) {
        self.take_up();
        while let Ok(message) = messages.recv() {
            match message {
                Message::Happened(events, record) => self.keep(events, record.as_deref()),
                Message::Close(sender) => {
                    let _ = sender.send(());
                }
            }
        }
    }

    /// Goes on behind what an agent before us has left.
    fn take_up(&mut self) {
        let lines = self.shared.files.read(Since::Ever, 64);
        let mut newest = self.shared.newest();
        for (id, line) in lines {
            self.last_id = id;
            if let Ok(event) = serde_json::from_str::<Event>(&line) {
                newest.push(id, event.at, line);
            }
        }
        self.written_id = self.last_id;
        self.shared.last_id.send_replace(self.last_id);
    }

    fn keep(&mut self, events: Vec<Event>, record: Option<&Record>) {
        let first = self.last_id + 1;
        for mut event in events {
            event.id = self.last_id + 1;
            let at = event.at;
            // Nothing in an event can fail to become JSON.
            let Ok(line) = serde_json::to_string(&event) else {
                continue;
            };
            self.last_id = event.id;
            self.shared.newest().push(event.id, at, line);
        }
        self.write(first, record);
        self.shared.last_id.send_replace(self.last_id);
    }

    /// Writes what is in memory and not on disk, which may be more than the newest when the disk was full.
    fn write(&mut self, first: u64, record: Option<&Record>) {
        let lines: Vec<String> = {
            let newest = self.shared.newest();
            newest
                .after(self.written_id, Since::Ever)
                .map(|(_, line)| line)
                .collect()
        };
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut written = self.events.append(&text, lines.len());
        if written.is_ok() {
            self.written_id = self.last_id;
            written = record.map_or(Ok(()), |record| self.write_journal([first, self.last_id], record));
        }
        match written {
            Ok(()) => self.has_warned = false,
            // Before the first bootstrap there may be no folder yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::debug!("events are kept in memory only: {error}");
            }
            Err(error) if !self.has_warned => {
                self.has_warned = true;
                tracing::warn!("events cannot be kept on disk: {error}");
            }
            Err(_) => {}
        }
    }

    fn write_journal(&mut self, events: [u64; 2], record: &Record) -> std::io::Result<()> {
        let kept = Kept {
            v: ha::event::VERSION,
            program: env!("CARGO_PKG_VERSION"),
            member: &self.member,
            events,
            record,
        };
        let mut line = serde_json::to_string(&kept)?;
        line.push('\n');
        self.journals.append(&line, 1)
    }
}
