//! What only a member has: its session, its pod, and what it makes of a record of its own name.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use ha::pg::MemberName;
use tokio::task::JoinHandle;

use super::cache::Facts;
use super::record::{self, Claim, Decision, Patch};
use super::{Kubernetes, keys, lock};
use crate::clock::SendingClock;
use crate::{Record, Snapshot};

/// What only a member has: a name, a session, and the tasks that keep the copies.
pub(super) struct Holder {
    pub(super) name: MemberName,
    /// Tells this agent from another one of its name. Nothing in Kubernetes expires with it.
    pub(super) session: i64,
    /// The session and those of agents before us.
    pub(super) sessions: Mutex<Vec<i64>>,
    pub(super) clock: SendingClock,
    pub(super) last_renewal: Mutex<jiff::Timestamp>,
    /// The store that was read last.
    pub(super) seen: AtomicU64,
    /// The Service without which the control plane deletes the Endpoints object with the configuration.
    pub(super) needs_service: AtomicBool,
    pub(super) tasks: Vec<JoinHandle<()>>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What was found instead of a pod to write to.
pub(super) enum Pod {
    Unchanged,
    Missing,
    Taken,
}

impl Holder {
    /// The time of a renewal; never the same one twice.
    pub(super) fn next_renewal(&self) -> String {
        let mut last = lock(&self.last_renewal);
        let step = Duration::from_micros(1);
        let now = jiff::Timestamp::now();
        *last = if now > *last {
            now
        } else {
            last.checked_add(step).unwrap_or(now)
        };
        last.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
    }
}

impl Kubernetes {
    pub(super) fn decide_on_pod(
        &self,
        holder: &Holder,
        sessions: &[i64],
        facts: &Facts<'_>,
        data: &str,
        labels: impl Fn(bool) -> Vec<(String, Option<String>)>,
    ) -> Decision<Pod> {
        let Some(pod) = facts.object else {
            return Decision::Answer(Pod::Missing);
        };
        let layout = &self.place.layout;
        let session = keys::member_session(pod);
        let known = facts.key(&layout.member(&holder.name));
        let is_fresh = known.is_some_and(|known| known.since.elapsed() < self.api.timing().ttl);
        if session != 0 && !sessions.contains(&session) && is_fresh {
            return Decision::Answer(Pod::Taken);
        }
        let is_ours = |record: &Record| record.value == holder.name.0 && sessions.contains(&record.lease);
        let holds_lock = facts
            .key(&layout.leader())
            .is_some_and(|known| is_ours(&known.record));
        let labels = labels(holds_lock);
        let annotations = vec![
            (keys::STATUS, Some(data.to_owned())),
            (keys::SESSION, Some(holder.session.to_string())),
        ];
        let has_labels = labels
            .iter()
            .all(|(name, value)| pod.labels.get(name) == value.as_ref());
        if has_labels && keys::are_written(pod, &annotations) {
            return Decision::Settled(Pod::Unchanged);
        }
        Decision::Send(Patch {
            annotations,
            labels,
            is_guarded: true,
            ..Patch::default()
        })
    }

    /// What a member sees: a record of its own name that another agent has left is nobody's when its time is over.
    pub(super) fn without_former_self(&self, holder: &Holder, mut snapshot: Snapshot) -> Snapshot {
        let layout = &self.place.layout;
        let is_foreign =
            |record: &Record| record.lease != 0 && !lock(&holder.sessions).contains(&record.lease);
        let ttl = self.api.timing().ttl;
        let leader = snapshot.records.get(&layout.leader());
        if leader.is_some_and(|record| record.value == holder.name.0 && is_foreign(record)) {
            let (config, sessions) = (self.config(), lock(&holder.sessions).clone());
            let claim = Claim {
                place: &self.place,
                config: &config,
                name: &holder.name,
                session: holder.session,
                sessions: &sessions,
                ttl,
                renew_time: String::new(),
                sent: holder.clock.now(),
            };
            let (which, name) = self.leader_object();
            if self
                .cache
                .decide(which, name, |facts| record::is_over(&claim, facts, ttl))
            {
                snapshot.records.remove(&layout.leader());
                snapshot.records.remove(&layout.heartbeat());
            }
        }
        let path = layout.member(&holder.name);
        let known = self.cache.key(&path).filter(|known| known.since.elapsed() >= ttl);
        if let Some(record) = snapshot.records.get_mut(&path)
            && is_foreign(record)
            && known.is_some()
        {
            record.lease = 0;
        }
        snapshot
    }
}
