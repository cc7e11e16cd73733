//! The task that keeps the copy: it reads all keys, then follows their changes on a session of its own, to which no key is bound. What it
//! asks for keeps nobody's keys alive.
//!
//! Where the servers know the watch of a whole tree (ZooKeeper 3.6), they tell which keys have changed, and those are read again. Others
//! tell of one change of each key that was read, and all are read again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::calls::Channel;
use super::connection::Connection;
use super::fault::Fault;
use super::heartbeat::Heartbeats;
use super::same_store;
use super::tree::{self, Tree};
use super::wire::Event;
use crate::cache::Cache;
use crate::{Layout, Snapshot};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often changes may come while keys are read.
const MOST_ROUNDS: usize = 64;

/// What the task works with.
pub(super) struct Watcher {
    pub(super) channel: Channel,
    pub(super) cache: Arc<Cache>,
    pub(super) layout: Layout,
    pub(super) heartbeats: Arc<Heartbeats>,
    /// The servers do not know the watch of a tree.
    pub(super) is_plain: AtomicBool,
    /// The connection broke when the watch of a tree was asked for.
    pub(super) has_broken: AtomicBool,
}

enum Follow {
    /// Connections are to be made anew.
    Moved,
    /// The copy could not be read.
    NotBegun(String),
    /// The watch was kept for a while.
    Ended(String),
}

/// A copy that is being kept.
struct Kept {
    connection: Arc<Connection>,
    events: mpsc::Receiver<Event>,
    is_plain: bool,
    tree: Tree,
}

impl Watcher {
    /// Follows the keys for ever.
    pub(super) async fn keep(self) {
        let mut pause = Duration::ZERO;
        loop {
            let (was_well, trouble) = match self.follow().await {
                Follow::Moved => continue,
                Follow::NotBegun(trouble) => (false, trouble),
                Follow::Ended(trouble) => (true, trouble),
            };
            if was_well {
                tracing::info!("the watch of {} ended: {trouble}", self.layout.prefix());
                pause = Duration::ZERO;
            } else {
                tracing::debug!("no watch of {}: {trouble}", self.layout.prefix());
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            }
            self.cache.invalidate(trouble);
            sleep(pause).await;
        }
    }

    async fn follow(&self) -> Follow {
        let calls = &self.channel.calls;
        let mut moves = calls.moves();
        let budget = calls.persistent();
        let begun = self.channel.run("read the cluster", budget, |connection, _| {
            Box::pin(async move {
                let begun = self.begin(connection.clone()).await;
                if begun.is_err() {
                    // Its events are not heard any more.
                    connection.close("the cluster could not be read");
                }
                begun
            })
        });
        let kept = match begun.await {
            Ok(kept) => kept,
            Err(error) => return Follow::NotBegun(error.failure().to_string()),
        };
        moves.mark_unchanged();
        if let Some(key) = same_store::contradiction(&self.cache, &kept.connection, &kept.tree) {
            calls.accept_proved(&kept.connection.history, kept.tree.zxid, &key);
            return Follow::Moved;
        }
        self.replace(&kept);
        let server = kept.connection.server.clone();
        let connection = kept.connection.clone();
        tokio::select! {
            changed = moves.changed() => match changed {
                Ok(()) => Follow::Moved,
                Err(_) => Follow::Ended("it is being shut down".to_owned()),
            },
            trouble = self.listen(kept) => {
                connection.close(&trouble);
                Follow::Ended(format!("ZooKeeper at {server}: {trouble}"))
            }
        }
    }

    fn replace(&self, kept: &Kept) {
        let snapshot = Snapshot {
            revision: kept.tree.zxid,
            generation: kept.connection.history.generation,
            records: kept.tree.records.clone(),
        };
        if let Some(heartbeat) = snapshot.records.get(&self.layout.heartbeat()) {
            self.heartbeats.saw(snapshot.generation, heartbeat.mod_revision);
        }
        self.cache.replace(snapshot);
    }

    /// Watches, and reads all keys until none has changed meanwhile.
    async fn begin(&self, connection: Arc<Connection>) -> Result<Kept, Fault> {
        let Some(mut events) = connection.take_events() else {
            return Err(Fault::NotSent("the connection is used already".to_owned()));
        };
        let top = self.layout.read_prefix().trim_end_matches('/');
        let top = if top.is_empty() { "/" } else { top };
        if !self.is_plain.load(Ordering::Relaxed) && !self.watch_tree(&connection, top).await? {
            return Err(Fault::NotSent(
                "the watch of a tree is not known: begin without".to_owned(),
            ));
        }
        let is_plain = self.is_plain.load(Ordering::Relaxed);
        let mut tree = tree::read(&connection, &self.layout, is_plain).await?;
        let mut rounds = 0;
        loop {
            let changed = self.heard(&connection, &mut events);
            if changed.is_empty() {
                break;
            }
            rounds += 1;
            if rounds > MOST_ROUNDS {
                return Err(Fault::NotSent("keys change faster than they are read".to_owned()));
            }
            if is_plain {
                tree = tree::read(&connection, &self.layout, true).await?;
                continue;
            }
            let (found, zxid) = tree::again(&connection, changed).await?;
            for (path, record) in found {
                match record {
                    Some(record) => tree.records.insert(path, record),
                    None => tree.records.remove(&path),
                };
            }
            tree.zxid = tree.zxid.max(zxid);
        }
        Ok(Kept {
            connection,
            events,
            is_plain,
            tree,
        })
    }

    /// Servers that do not know the request refuse it, and end the session or the connection.
    async fn watch_tree(&self, connection: &Connection, top: &str) -> Result<bool, Fault> {
        let is_known = match connection.watch_tree(top).await {
            Ok(is_known) => is_known,
            // Once may be chance.
            Err(Fault::Lost(_)) if self.has_broken.swap(true, Ordering::Relaxed) => false,
            Err(fault) => return Err(fault),
        };
        self.has_broken.store(false, Ordering::Relaxed);
        if !is_known {
            tracing::info!(
                "ZooKeeper at {} does not know the watch of a tree (3.6 does): every key is watched by itself",
                connection.server
            );
            self.is_plain.store(true, Ordering::Relaxed);
        }
        Ok(is_known)
    }

    /// The keys that have changed, as far as was told.
    fn heard(&self, connection: &Connection, events: &mut mpsc::Receiver<Event>) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        while let Ok(event) = events.try_recv() {
            self.note(connection, &event, &mut changed);
        }
        changed
    }

    fn note(&self, connection: &Connection, event: &Event, changed: &mut BTreeSet<String>) {
        let Some(path) = connection.relative(&event.path).filter(|path| !path.is_empty()) else {
            return;
        };
        if self.is_plain.load(Ordering::Relaxed) || tree::is_key(&self.layout, path) {
            changed.insert(path.to_owned());
        }
    }

    /// Applies what is told, until it ends; why it did.
    async fn listen(&self, mut kept: Kept) -> String {
        loop {
            let timing = self.channel.calls.timing();
            let quiet = (timing.loop_wait / 2)
                .clamp(Duration::from_millis(500), Duration::from_secs(5))
                .min(kept.connection.timeout / 3);
            let mut changed = BTreeSet::new();
            if let Ok(heard) = timeout(quiet, kept.events.recv()).await {
                let Some(event) = heard else {
                    return "the server closed the connection".to_owned();
                };
                self.note(&kept.connection, &event, &mut changed);
            }
            // A connection on which nothing happens is asked whether it lives: a dead peer sends no reset.
            let answer_by = Instant::now() + (timing.retry_timeout / 3).max(Duration::from_millis(250));
            let Ok(applied) = timeout_at(answer_by, self.apply(&mut kept, changed)).await else {
                return "no answer in time".to_owned();
            };
            if let Err(fault) = applied {
                return fault.to_string();
            }
        }
    }

    /// Reads what has changed, with what changes meanwhile, and applies it as a whole.
    async fn apply(&self, kept: &mut Kept, mut changed: BTreeSet<String>) -> Result<(), Fault> {
        let connection = kept.connection.clone();
        changed.extend(self.heard(&connection, &mut kept.events));
        if changed.is_empty() {
            let top = self.layout.prefix().trim_end_matches('/');
            connection
                .exists(if top.is_empty() { "/" } else { top }, false)
                .await?;
            return Ok(());
        }
        let mut found = Vec::new();
        let mut rounds = 0;
        while !changed.is_empty() {
            rounds += 1;
            if rounds > MOST_ROUNDS {
                return Err(Fault::Lost("keys change faster than they are read".to_owned()));
            }
            if kept.is_plain {
                kept.tree = tree::read(&connection, &self.layout, true).await?;
                changed = self.heard(&connection, &mut kept.events);
                continue;
            }
            let (read, zxid) = tree::again(&connection, changed).await?;
            for (path, record) in read {
                let revision = record.as_ref().map_or(zxid, |record| record.mod_revision);
                if path == self.layout.heartbeat() && record.is_some() {
                    self.heartbeats.saw(connection.history.generation, revision);
                }
                found.push((path, revision, record));
            }
            changed = self.heard(&connection, &mut kept.events);
        }
        if kept.is_plain {
            self.replace(kept);
        }
        self.cache.apply_all(found);
        Ok(())
    }
}
