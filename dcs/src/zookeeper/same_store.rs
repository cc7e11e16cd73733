//! Whether ZooKeeper still is what it was: one that was wiped or restored answers at the same addresses.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::calls::{Budget, Calls};
use super::connection::{Connection, History, Wanted, lock};
use super::fault::Fault;
use super::tree::Tree;
use crate::cache::Cache;

impl Calls {
    /// Servers turned us away. A ZooKeeper that was wiped or restored is behind what was seen, and turns away who has seen more. It is
    /// accepted when all servers that answer agree, each by a new session, which a quorum has confirmed: a server that has only lost
    /// touch gives no sessions.
    pub(super) async fn accepts_another_store(&self, budget: Budget, known: &Arc<History>) -> bool {
        let order = lock(&self.endpoints).order();
        let seen = known.zxid.load(Ordering::Relaxed);
        let until = budget.deadline.min(Instant::now() + budget.slice);
        // At the same time: a server that does not answer takes the others no time.
        let asked = order.iter().map(|server| async move {
            let asked = timeout_at(until, self.ask(server)).await;
            asked.ok()?.ok()
        });
        let heard: Vec<i64> = join_all(asked).await.into_iter().flatten().collect();
        let Some(newest) = heard.iter().max().copied().filter(|newest| *newest < seen) else {
            return !Arc::ptr_eq(&self.history(), known);
        };
        let why = format!(
            "all {} servers that answer are at transaction {newest:#x}, after {seen:#x}",
            heard.len()
        );
        self.accept(known, newest, &why);
        true
    }

    /// The transaction up to which a server has come, as a quorum has confirmed.
    async fn ask(&self, server: &str) -> Result<i64, Fault> {
        let config = self.config();
        let wanted = Wanted {
            config: &config,
            server,
            session: None,
            timeout: self.timing().ttl,
            history: Arc::default(),
        };
        let connection = Connection::open(&wanted).await?;
        connection.sync("/").await?;
        let zxid = connection.exists("/", false).await?.zxid;
        connection.close_session().await;
        Ok(zxid)
    }

    /// A key proves that another store answers.
    pub(super) fn accept_proved(&self, known: &Arc<History>, zxid: i64, key: &str) {
        self.accept(known, zxid, &format!("{key} was never as it is"));
    }

    /// A store is accepted once, however many calls find it.
    fn accept(&self, known: &Arc<History>, zxid: i64, why: &str) {
        let mut history = lock(&self.history);
        if !Arc::ptr_eq(&history, known) {
            return;
        }
        tracing::warn!("{why}: ZooKeeper was wiped or restored, or is another one");
        *history = Arc::new(History {
            zxid: AtomicI64::new(zxid),
            generation: known.generation + 1,
        });
        drop(history);
        self.moves.send_modify(|count| *count += 1);
    }
}

/// A key that was never so in the store that the copy is of. Transactions alone do not tell where a store was wiped and has come as far
/// since as the former one.
pub(super) fn contradiction(cache: &Cache, connection: &Connection, fresh: &Tree) -> Option<String> {
    let copy = cache.watched(connection.history.generation)?;
    let is_impossible = |key: &str, found: &crate::Record| {
        match copy.records.get(key) {
            Some(known) if known.mod_revision == found.mod_revision => known != found,
            // One of the two is older, and was read when the newer one was there already.
            Some(known) if known.mod_revision > found.mod_revision => known.mod_revision <= fresh.zxid,
            Some(_) => found.mod_revision <= copy.revision,
            // It may have been deleted after it was read.
            None => found.mod_revision <= copy.revision && fresh.zxid >= copy.revision,
        }
    };
    let found = fresh
        .records
        .iter()
        .find(|(key, found)| is_impossible(key, found));
    found.map(|(key, _)| key.clone())
}
