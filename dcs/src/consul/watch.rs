//! The task that keeps the copy: one blocking query after another on all keys of the cluster. Each answer is the whole tree, so
//! nothing that happened in between is missed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::api::Read;
use super::copy::Taken;
use super::store::Store;
use crate::http::chain;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A store in which keys change all the time is not read more often than this.
const SHORTEST_QUERY: Duration = Duration::from_millis(5);

/// Follows the keys for ever.
pub(super) async fn keep(store: Arc<Store>) {
    let mut pause = Duration::ZERO;
    loop {
        let budget = store.api.http.persistent();
        let trouble = match store.refresh(budget, Read::Usual).await {
            Ok(()) => {
                let begun = Instant::now();
                let trouble = follow(&store).await;
                // A server that answers reads and no queries is not asked without a pause.
                if begun.elapsed() >= LONGEST_PAUSE {
                    pause = Duration::ZERO;
                } else {
                    pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                }
                tracing::info!("the watch of {} ended: {trouble}", store.layout.prefix());
                trouble
            }
            Err(error) => {
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                chain(error.failure())
            }
        };
        store.copy.cache.invalidate(trouble);
        sleep(pause).await;
    }
}

/// Queries until one fails; why it did.
async fn follow(store: &Store) -> String {
    let http = &store.api.http;
    let mut moves = http.moves();
    // The copy was read a moment ago: what has changed since shows in the first answer, which comes at once.
    let mut index = 1;
    loop {
        let server = http.current();
        let asked_at = store.copy.newest();
        let begun = Instant::now();
        // The query ends soon, so that a connection that has silently died is found out.
        let quiet =
            (store.api.timing().loop_wait / 2).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let answered = tokio::select! {
            answered = store.api.next_tree(&server, index, quiet) => answered,
            _ = moves.changed() => continue,
            () = store.again.notified() => { index = 1; continue }
        };
        let tree = match answered {
            Ok(tree) => tree,
            Err(why) => {
                http.leave(&server);
                return format!("Consul at {server}: {why}");
            }
        };
        // Deleted keys are forgotten after a while, and another store counts from its own beginning: start over.
        index = if tree.index < index { 1 } else { tree.index.max(1) };
        match store.copy.take(&tree, asked_at, store.api.reads_the_past()) {
            Taken::Yes | Taken::Older => {}
            Taken::Doubtful => {
                if let Err(error) = store.settle(http.persistent()).await {
                    return chain(error.failure());
                }
            }
        }
        if begun.elapsed() < SHORTEST_QUERY {
            sleep(SHORTEST_QUERY).await;
        }
    }
}
