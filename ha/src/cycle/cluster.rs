//! What the DCS says, and who leads by it.

use std::sync::Arc;
use std::time::Duration;

use super::{Cycle, Flow};
use crate::cluster::{Cluster, Expired, KnownHeartbeat, Leader, Version};
use crate::decide::replaced_store;
use crate::facts::{Answer, DcsFailure, Moment};
use crate::reason::notes;
use crate::step::Question;

impl Cycle<'_> {
    /// Reads the DCS anew.
    pub(crate) fn load_cluster(&mut self) -> Flow<Result<Arc<Cluster>, DcsFailure>> {
        // The answer may lie there while this host stands still.
        let asked_at = self.now();
        match self.ask(Question::Cluster)? {
            Answer::Cluster(Ok(cluster)) => {
                let now = self.now();
                let cluster = &replaced_store::notice(self, cluster);
                let cluster = self.without_expired_leader(cluster);
                let cluster = &self.with_failsafe_leader(cluster);
                self.note_failsafe_members(cluster);
                self.memory.cluster = Some((Arc::clone(cluster), asked_at));
                if !cluster.is_unlocked() || self.memory.led_cluster.is_none() {
                    self.memory.led_cluster = Some(Arc::clone(cluster));
                }
                let since = self.memory.unlocked_since.unwrap_or(now);
                self.memory.unlocked_since = cluster.is_unlocked().then_some(since);
                let is_ours = cluster.is_leader(self.me())
                    || self.leads_by_failsafe(cluster)
                    || replaced_store::has_to_be_led(self);
                if !is_ours {
                    self.memory.lock = None;
                }
                Ok(Ok(Arc::clone(cluster)))
            }
            Answer::Cluster(Err(failure)) => {
                self.memory.cluster = None;
                Ok(Err(failure.clone()))
            }
            _ => Err(self.defect("wrong answer about the cluster")),
        }
    }

    /// A leader that has not renewed its lock for all of its time does not lead, whatever the key says.
    fn without_expired_leader(&mut self, cluster: &Arc<Cluster>) -> Arc<Cluster> {
        self.expired = None;
        let now = self.now();
        let heartbeat = cluster.heartbeat.as_ref();
        self.memory.heartbeat =
            heartbeat.map(|heartbeat| KnownHeartbeat::of(heartbeat, self.memory.heartbeat, now));
        self.notice_unproved_leader(cluster);
        let Some((expired, since, ttl)) = self.last_renewal(cluster) else {
            return Arc::clone(cluster);
        };
        // Two clocks that count the same time may differ a little.
        let over = since.after(ttl).after(ttl / 50);
        if now < over {
            self.again_at(over);
            return Arc::clone(cluster);
        }
        if let Some(leader) = &cluster.leader {
            self.note(match self.memory.unproved_leader {
                Some(_) => notes::unproved_lock_is_over(&leader.name),
                None => notes::lock_of_leader_is_over(&leader.name, now.since(since)),
            });
        }
        self.expired = Some(expired);
        if self.memory.led_cluster.is_none() {
            self.memory.led_cluster = Some(Arc::clone(cluster));
        }
        Arc::new(Cluster {
            leader: None,
            ..(**cluster).clone()
        })
    }

    /// A key that no session keeps and no heartbeat proves was written by hand, and would stand for ever. Every renewal of
    /// the leader before that fails from then on, so its lock is over when `ttl` has passed since.
    fn notice_unproved_leader(&mut self, cluster: &Cluster) {
        let heartbeat = cluster.heartbeat.as_ref();
        let unproved = cluster
            .leader
            .as_ref()
            .filter(|leader| !self.is_held(leader) && leader.is_unproved(heartbeat));
        let before = self.memory.unproved_leader;
        self.memory.unproved_leader = unproved.map(|leader| match before {
            Some((version, since)) if version == leader.version => (version, since),
            _ => (leader.version, self.now()),
        });
    }

    fn is_held(&self, leader: &Leader) -> bool {
        leader.name == *self.me() && self.memory.holds_lock(self.now())
    }

    /// The leader's last renewal of its lock, how the lock can be taken when it is over, and the time that it lasts.
    fn last_renewal(&self, cluster: &Cluster) -> Option<(Expired, Moment, Duration)> {
        let leader = cluster.leader.as_ref()?;
        let heartbeat = cluster.heartbeat.as_ref();
        if let Some((version, since)) = self.memory.unproved_leader {
            let beaten = heartbeat.map(|heartbeat| heartbeat.ttl);
            let ttl = self.config().ttl.max(beaten.unwrap_or_default());
            let expired = Expired {
                leader: version,
                heartbeat: heartbeat.map_or(Version(0), |heartbeat| heartbeat.version),
                // No lease is the lock: a renewal looks at the key.
                takeover: None,
            };
            return Some((expired, since, ttl));
        }
        let (heartbeat, known) = (heartbeat?, self.memory.heartbeat?);
        let expired = heartbeat.expired(leader).filter(|_| leader.name != *self.me())?;
        Some((expired, known.sent_before, heartbeat.ttl))
    }

    /// Nobody holds the key in the DCS, but a leader that does not reach it has pinged us: that one leads.
    fn with_failsafe_leader(&self, cluster: Arc<Cluster>) -> Arc<Cluster> {
        let now = self.now();
        let leader = self
            .given
            .failsafe
            .as_ref()
            .filter(|accepted| accepted.ping.name != *self.me() && now < accepted.until);
        match leader {
            Some(leader) if self.config().failsafe_mode && cluster.is_unlocked() => leader.leads(&cluster),
            Some(_) | None => cluster,
        }
    }

    /// Our key has run out in the DCS, and all members have agreed that we go on: the lock is ours all the same.
    fn leads_by_failsafe(&self, cluster: &Cluster) -> bool {
        let now = self.now();
        cluster.is_unlocked() && self.memory.failsafe.until.is_some_and(|until| now < until)
    }

    /// Whom to ask before we lead without the DCS. A reading may be older than what we have written.
    fn note_failsafe_members(&mut self, cluster: &Cluster) {
        let is_ours = cluster.is_leader(self.me()) || self.leads_by_failsafe(cluster);
        let began = self.given.now;
        let failsafe = &mut self.memory.failsafe;
        failsafe.known_since.get_or_insert(began);
        failsafe.refused_since = None;
        if !is_ours || failsafe.written == cluster.failsafe {
            failsafe.written = None;
        }
        failsafe.members = match (&failsafe.written, failsafe.members.take()) {
            (Some(_), Some(mut members)) => {
                members.extend(cluster.failsafe.clone().unwrap_or_default());
                Some(members)
            }
            (Some(_) | None, _) => cluster.failsafe.clone(),
        };
    }

    /// The leader key names this member, but the lock is not proved to be its own: another one may count on it still.
    pub(crate) fn is_named_without_proof(&self) -> bool {
        self.memory.unproved_leader.is_some()
    }

    /// What must still be so to take the key from a leader whose lock is over, if there is one.
    pub(crate) fn expired(&self) -> Option<Expired> {
        self.expired
    }
}
