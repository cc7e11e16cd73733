//! The answers of another store than before: which of them are believed, and from when on.

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::{Budget, Calls, Heard, LinkError, Newest, lock};

impl Calls {
    /// An answer that a quorum has confirmed is proved to be another store's than that of `generation`, though neither revision
    /// nor raft term went back.
    pub(in crate::etcd3) fn accept_proved(&self, generation: u64, key: &str) {
        let mut newest = lock(&self.newest);
        if newest.generation != generation {
            return;
        }
        newest.generation += 1;
        drop(newest);
        tracing::warn!(
            "etcd holds {key} as it has never been there since this agent reads it: etcd was wiped or restored, or is another one"
        );
        self.moves.send_modify(|count| *count += 1);
    }

    /// Which store is spoken to: goes up when another one is accepted.
    pub(in crate::etcd3) fn generation(&self) -> u64 {
        lock(&self.newest).generation
    }

    /// An answer was not believed. An etcd that was wiped or restored from a backup at its addresses has the same cluster id
    /// and begins with the first raft term; another etcd cluster has another id. Both are accepted when all endpoints that
    /// answer agree, each by a read that a quorum has confirmed: a member that has only lost touch answers no such read.
    /// Several calls may doubt at the same time, each with the store of `generation`: the first of them accepts the other store.
    pub(super) async fn accepts_another_store(&self, budget: Budget, generation: u64) -> bool {
        let order = lock(&self.endpoints).order();
        let known = *lock(&self.newest);
        // At the same time: an endpoint that does not answer takes the others no time.
        let asked = order.iter().map(|url| self.ask_quorum(url, budget));
        let heard: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        let mut newest = lock(&self.newest);
        if newest.generation != generation {
            return true;
        }
        let Some(&((cluster_id, _), _)) = heard.first() else {
            return false;
        };
        // Compared with what was known before they were asked: a quorum of the same store is never behind that.
        let is_other =
            |header: (u64, u64), revision: i64| known.doubts(header).is_some() || revision < known.revision;
        let agree =
            |(header, revision): &((u64, u64), i64)| header.0 == cluster_id && is_other(*header, *revision);
        if known.generation != generation || !heard.iter().all(agree) {
            return false;
        }
        let raft_term = heard.iter().map(|((_, term), _)| *term).max().unwrap_or_default();
        let revision = heard
            .iter()
            .map(|(_, revision)| *revision)
            .max()
            .unwrap_or_default();
        tracing::warn!(
            "all {} endpoints of etcd that answer are at revision {revision} in raft term {raft_term} of cluster \
             {cluster_id:x}, after revision {} in term {} of cluster {:x}: etcd was wiped or restored, or is another one",
            heard.len(),
            known.revision,
            known.raft_term,
            known.cluster_id
        );
        *newest = Newest {
            cluster_id,
            raft_term,
            revision,
            generation: newest.generation + 1,
        };
        drop(newest);
        self.moves.send_modify(|count| *count += 1);
        true
    }

    /// The state of the consensus by a read that a quorum has confirmed; `None` without an answer.
    async fn ask_quorum(&self, url: &str, budget: Budget) -> Option<((u64, u64), i64)> {
        let until = budget.deadline.min(Instant::now() + budget.slice);
        let asked = timeout_at(until, async {
            let client = self.client(url, budget.slice).await?;
            let response = client.kv_client().get(self.probe.as_str(), None).await?;
            let heard = Heard::confirmed((), response.header());
            Ok::<_, LinkError>(heard.header.zip(heard.revision))
        });
        asked.await.ok()?.ok()?
    }
}
