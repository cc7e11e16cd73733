//! The member's events: taken in from the loop without waiting, kept on disk by a thread of its own, read by the REST
//! API.
//!
//! A disk that is slow or full costs events, and nothing else. The newest stay in memory, so that they can be read even
//! then. Of every cycle that did something the whole journal is kept beside them.

mod files;
mod newest;
mod writer;

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use config::LocalConfig;
use ha::event::{Event, Record, What};
use ha::pg::MemberName;
use jiff::Timestamp;
use tokio::sync::{oneshot, watch};

use super::clock;
use files::Files;
use newest::Newest;

/// How many messages may wait for the disk.
const QUEUE: usize = 64;

/// More events are never given at once, nor kept for certain.
pub(crate) const KEPT: usize = 10_000;

/// Nor more text than that; whoever wants more asks for what comes after.
pub(crate) const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The member's events. Clones are cheap.
#[derive(Clone)]
pub struct Events {
    member: MemberName,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// What the thread that writes and those who read have in common.
struct Shared {
    files: Files,
    newest: Mutex<Newest>,
    /// The id of the newest event.
    last_id: watch::Sender<u64>,
    has_lost: std::sync::atomic::AtomicBool,
}

enum Message {
    Happened(Vec<Event>, Option<Box<Record>>),
    Close(oneshot::Sender<()>),
}

/// Which events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// From when on.
    pub(crate) since: Since,
    /// How many at most.
    pub(crate) limit: usize,
}

/// From when on events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// The newest of all.
    Ever,
    /// The newest since then.
    Time(Timestamp),
    /// The first after the event with this id.
    Id(u64),
}

/// Some events, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The id of the newest event that there is.
    pub(crate) newest: u64,
    /// Each as a JSON object.
    pub(crate) lines: Vec<String>,
}

impl Events {
    /// Begins to keep events.
    ///
    /// # Errors
    /// The thread that writes cannot be started.
    pub fn start(local: &LocalConfig) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            files: Files::new(stem(local)),
            newest: Mutex::default(),
            last_id: watch::Sender::new(0),
            has_lost: false.into(),
        });
        let member = MemberName(local.name.clone());
        writer::start(member.clone(), Arc::clone(&shared), messages)?;
        Ok(Self {
            member,
            queue,
            shared,
        })
    }

    /// Takes in what a cycle was. Never waits.
    pub(crate) fn take_in(&self, events: Vec<Event>, record: Record) {
        self.send(Message::Happened(events, Some(Box::new(record))));
    }

    /// Something has happened now. Never waits.
    pub(crate) fn tell(&self, what: What) {
        let event = Event {
            id: 0,
            at: Timestamp::now(),
            moment: clock::now(),
            member: self.member.clone(),
            what,
        };
        self.send(Message::Happened(vec![event], None));
    }

    fn send(&self, message: Message) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(message)
            && !self
                .shared
                .has_lost
                .swap(true, std::sync::atomic::Ordering::Relaxed)
        {
            tracing::warn!("events are lost: the disk is too slow to keep them");
        }
    }

    /// Waits until what was taken in is written, or for so long.
    pub(crate) async fn close(&self, limit: Duration) {
        let (sender, closed) = oneshot::channel();
        self.send(Message::Close(sender));
        let _ = tokio::time::timeout(limit, closed).await;
    }

    /// Waits until there is an event after the one with this id, or for so long.
    pub(crate) async fn wait_after(&self, id: u64, limit: Duration) {
        let mut last_id = self.shared.last_id.subscribe();
        let _ = tokio::time::timeout(limit, last_id.wait_for(|last| *last != id)).await;
    }

    /// Reads events. Waits for the disk.
    pub(crate) fn read(&self, wanted: Wanted) -> Page {
        let last = *self.shared.last_id.borrow();
        // Whoever knows of later events than there are has known a log that is gone.
        let since = match wanted.since {
            Since::Id(id) if id > last => Since::Ever,
            since => since,
        };
        let newest = self.shared.newest().clone();
        let in_memory = if let Since::Id(id) = since {
            newest.all_after(id)
        } else {
            None
        };
        let mut lines = in_memory.unwrap_or_else(|| {
            let mut lines = self.shared.files.read(since, wanted.limit);
            let last_id = lines.last().map_or(0, |(id, _)| *id);
            lines.extend(newest.after(last_id, since));
            lines
        });
        match since {
            Since::Id(_) => {
                let fitting = fitting(lines.iter(), wanted.limit);
                lines.truncate(fitting);
            }
            Since::Ever | Since::Time(_) => {
                let excess = lines.len() - fitting(lines.iter().rev(), wanted.limit);
                lines.drain(..excess);
            }
        }
        Page {
            newest: last,
            lines: lines.into_iter().map(|(_, line)| line).collect(),
        }
    }

    /// The member whose events these are.
    pub(crate) fn member(&self) -> &MemberName {
        &self.member
    }
}

/// How many of these lines, in this order, fit into a page; always one, if one is wanted.
fn fitting<'a>(lines: impl Iterator<Item = &'a (u64, String)>, limit: usize) -> usize {
    let mut bytes = 0;
    let fits = |(index, (_, line)): &(usize, &(u64, String))| {
        bytes += line.len();
        *index == 0 || bytes <= PAGE_BYTES
    };
    lines.take(limit).enumerate().take_while(fits).count()
}

impl Shared {
    fn newest(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

/// Beside the data directory, which a new copy removes, or where the log is; without the ending.
fn stem(local: &LocalConfig) -> PathBuf {
    let beside_data = local.postgresql.data_dir.parent().map(PathBuf::from);
    let folder = local.log.dir.clone().or(beside_data).unwrap_or_default();
    let name = format!("{}-{}", local.scope, local.name);
    folder.join(name.replace('/', "-"))
}
