//! Work on logical slots, beside the loop: creating one waits for open transactions, moving one decodes WAL. One worker for
//! each database; while it works nothing more is begun there, for the next cycle will know better what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha::facts::SlotHorizons;
use ha::pg::SlotName;
use ha::step::SlotWork;
use postgres::{Instant, Server};
use tokio::task::JoinHandle;

use super::clock;
use super::questions::source_of;
use super::task::no_deadline;

/// SQLSTATEs of a slot that needs WAL which is not there: a missing file, and an invalidated slot.
const LACKS_WAL: [&str; 2] = ["58P01", "55000"];

/// The workers, and what they have found out.
#[derive(Default)]
pub(crate) struct Work {
    by_database: BTreeMap<String, JoinHandle<()>>,
    inquiry: Option<JoinHandle<()>>,
    found: Arc<Mutex<Found>>,
}

#[derive(Default)]
struct Found {
    lacks_wal: BTreeSet<SlotName>,
    horizons: Option<SlotHorizons>,
    /// What was last said of a slot, so that it is not said again in every cycle.
    complaints: BTreeMap<SlotName, String>,
    inquiry_complaint: Option<String>,
}

impl Work {
    /// Begins what is not going on. `patience`: how long the leader is waited for.
    pub(crate) fn begin(&mut self, server: &Server, work: &[SlotWork], patience: Duration) {
        self.by_database.retain(|_, worker| !worker.is_finished());
        let mut by_database: BTreeMap<&str, Vec<SlotWork>> = BTreeMap::new();
        for item in work {
            match item {
                SlotWork::Create { logical, .. } => {
                    let items = by_database.entry(&logical.database).or_default();
                    items.push(item.clone());
                }
                SlotWork::Advance { database, .. } => {
                    by_database.entry(database).or_default().push(item.clone());
                }
                SlotWork::AskLeader { .. } => self.inquire(server, item.clone(), patience),
            }
        }
        for (database, items) in by_database {
            if self.by_database.contains_key(database) {
                continue;
            }
            let (server, found) = (server.clone(), Arc::clone(&self.found));
            let worker = tokio::spawn(async move {
                for item in items {
                    do_item(&server, &found, item).await;
                }
            });
            self.by_database.insert(database.to_owned(), worker);
        }
    }

    fn inquire(&mut self, server: &Server, item: SlotWork, patience: Duration) {
        if self
            .inquiry
            .as_ref()
            .is_some_and(|inquiry| !inquiry.is_finished())
        {
            return;
        }
        let (server, found) = (server.clone(), Arc::clone(&self.found));
        self.inquiry = Some(tokio::spawn(async move {
            let asked = ask_leader(&server, &item, Instant::now() + patience).await;
            let mut found = lock(&found);
            match asked {
                Ok(horizons) => {
                    found.horizons = Some(horizons);
                    found.inquiry_complaint = None;
                }
                Err(why) if found.inquiry_complaint.as_ref() != Some(&why) => {
                    tracing::warn!("could not ask the leader what it keeps for logical slots: {why}");
                    found.inquiry_complaint = Some(why);
                }
                Err(_) => {}
            }
        }));
    }

    /// Whether moving this slot failed because WAL is not there.
    pub(crate) fn lacks_wal(&self, name: &SlotName) -> bool {
        lock(&self.found).lacks_wal.contains(name)
    }

    /// What the leader last said.
    pub(crate) fn horizons(&self) -> Option<SlotHorizons> {
        lock(&self.found).horizons.clone()
    }

    /// The slots will be others.
    pub(crate) fn forget(&mut self) {
        for worker in std::mem::take(&mut self.by_database).into_values() {
            worker.abort();
        }
        if let Some(inquiry) = self.inquiry.take() {
            inquiry.abort();
        }
        self.found = Arc::default();
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask_leader(server: &Server, item: &SlotWork, deadline: Instant) -> Result<SlotHorizons, String> {
    let SlotWork::AskLeader {
        source,
        physical,
        logical,
    } = item
    else {
        return Err("it is no question".to_owned());
    };
    let member = source.member.clone().ok_or("it is no member")?;
    let asked_at = clock::now();
    let asked = server
        .slot_horizons_of(&source_of(source)?, physical, logical, deadline)
        .await;
    let told = asked.map_err(|error| error.to_string())?;
    Ok(SlotHorizons {
        leader: member,
        asked_at,
        physical: told.physical,
        logical: told.logical,
    })
}

async fn do_item(server: &Server, found: &Mutex<Found>, item: SlotWork) {
    let (name, done, what) = match item {
        SlotWork::Create { name, logical } => {
            let created = server
                .create_logical_slot(&name, &logical.database, &logical.plugin, no_deadline())
                .await;
            if created.is_ok() {
                tracing::info!("Created logical replication slot '{name}'");
            }
            (name, created, "create")
        }
        SlotWork::Advance { name, database, to } => {
            let moved = server
                .advance_slot(&name, to, Some(&database), no_deadline())
                .await;
            (name, moved, "advance")
        }
        SlotWork::AskLeader { .. } => return,
    };
    let mut found = lock(found);
    let Err(error) = done else {
        found.complaints.remove(&name);
        return;
    };
    if what == "advance" && error.sqlstate().is_some_and(|code| LACKS_WAL.contains(&code)) {
        found.lacks_wal.insert(name.clone());
    }
    let text = error.to_string();
    if found.complaints.get(&name) != Some(&text) {
        tracing::error!("could not {what} logical replication slot '{name}': {text}");
        found.complaints.insert(name, text);
    }
}
