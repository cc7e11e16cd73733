//! The lease that the leader key and the member key share.
//!
//! An etcd server keeps leases' remaining time in memory, and a deposed leader of etcd that does not know it yet goes
//! on to say that it prolonged a lease (etcd issue 15247). So a prolongation counts for the leader key only together
//! with a quorum's answer from the same raft term that came after it: [`Kept::term`].

use std::time::Duration;

use etcd_client::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::calls::{Budget, Calls, Heard, lock};
use super::faults;
use crate::Error;

/// The lease, known to be alive by a request of this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) id: i64,
    /// The raft term of the member that prolonged it; `None` for a lease that a quorum has just granted.
    pub(super) term: Option<u64>,
}

impl Kept {
    /// Whether a quorum's answer of raft term `term`, asked for after this, confirms it.
    pub(super) fn is_confirmed_by(self, term: Option<u64>) -> bool {
        self.term.is_none() || self.term == term
    }
}

#[derive(Debug, Clone, Copy)]
struct Held {
    id: i64,
    /// What it was granted for; `None` for a lease of an earlier life, until etcd has told.
    seconds: Option<i64>,
    refreshed: Option<Instant>,
}

/// This member's lease.
pub(super) struct Lease {
    /// Locked while etcd is asked, so that there is only one.
    held: Mutex<Option<Held>>,
    /// A copy for those who do not wait.
    known: std::sync::Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    id: Option<i64>,
    /// Leases that this agent had before: keys may still be bound to the last ones.
    former: Vec<i64>,
}

/// How many former leases are known.
const FORMER_LEASES: usize = 16;

impl Known {
    fn change(&mut self, id: Option<i64>) {
        if self.id != id
            && let Some(former) = std::mem::replace(&mut self.id, id)
        {
            self.add(former);
        }
    }

    fn add(&mut self, former: i64) {
        self.former.push(former);
        let surplus = self.former.len().saturating_sub(FORMER_LEASES);
        self.former.drain(..surplus);
    }
}

impl Lease {
    pub(super) fn new(known: Option<i64>) -> Self {
        let held = known.map(|id| Held {
            id,
            seconds: None,
            refreshed: None,
        });
        Self {
            held: Mutex::new(held),
            known: std::sync::Mutex::new(Known {
                id: known,
                former: Vec::new(),
            }),
        }
    }

    pub(super) fn id(&self) -> Option<i64> {
        lock(&self.known).id
    }

    /// Whether a lease is, or was, this agent's.
    pub(super) fn knows(&self, id: i64) -> bool {
        let known = lock(&self.known);
        known.id == Some(id) || known.former.contains(&id)
    }

    /// A lease of a process of ours that has ended.
    pub(super) fn adopt(&self, id: i64) {
        lock(&self.known).add(id);
    }

    /// Renews the lease now, or gets a new one if it is gone or `ttl` has changed.
    pub(super) async fn keep(&self, calls: &Calls, budget: Budget) -> Result<Kept, Error> {
        let mut held = self.held.lock().await;
        let wanted = seconds(calls.timing().ttl);
        if let Some(known) = held.filter(|held| held.seconds.is_none_or(|seconds| seconds == wanted)) {
            if let Some((granted, term)) = keep_alive(calls, budget, known.id).await? {
                let kept = Kept {
                    id: known.id,
                    term: Some(term),
                };
                // The server may give more than was asked for; a lease of an earlier life tells so only here.
                if known.seconds.is_some() || granted == wanted {
                    let refreshed = Some(Instant::now());
                    *held = Some(Held {
                        seconds: Some(wanted),
                        refreshed,
                        ..known
                    });
                    return Ok(kept);
                }
                match grant(calls, budget, wanted).await {
                    Ok(id) => return Ok(self.granted(&mut held, id, wanted)),
                    // A store that refuses writes grants no lease; one that lives longer than is wanted will do.
                    Err(Error::Rejected(_)) if granted > wanted => return Ok(kept),
                    Err(error) => return Err(error),
                }
            }
            tracing::info!("lease {} is gone", known.id);
            // A store that was wiped knows none of the leases: nothing is bound to a new one there before the keys were read.
            calls.confirm_store(budget).await?;
        } else if let Some(known) = *held
            && known.seconds.is_some_and(|seconds| seconds > wanted)
        {
            return self.exchange(calls, budget, &mut held, known.id, wanted).await;
        }
        let id = grant(calls, budget, wanted).await?;
        Ok(self.granted(&mut held, id, wanted))
    }

    /// Gets a lease of the length that is wanted now in the place of a longer one, which does until then.
    async fn exchange(
        &self,
        calls: &Calls,
        budget: Budget,
        held: &mut Option<Held>,
        id: i64,
        wanted: i64,
    ) -> Result<Kept, Error> {
        match grant(calls, budget, wanted).await {
            Err(Error::Rejected(failure)) => match keep_alive(calls, budget, id).await? {
                Some((_, term)) => Ok(Kept { id, term: Some(term) }),
                None => Err(Error::Rejected(failure)),
            },
            granted => Ok(self.granted(held, granted?, wanted)),
        }
    }

    fn granted(&self, held: &mut Option<Held>, id: i64, wanted: i64) -> Kept {
        *held = Some(Held {
            id,
            seconds: Some(wanted),
            refreshed: Some(Instant::now()),
        });
        lock(&self.known).change(Some(id));
        Kept { id, term: None }
    }

    /// As [`Lease::keep`], unless that was done less than half a cycle ago.
    pub(super) async fn keep_if_due(&self, calls: &Calls, budget: Budget) -> Result<i64, Error> {
        let timing = calls.timing();
        let fresh = self.held.lock().await.filter(|held| {
            held.seconds == Some(seconds(timing.ttl))
                && held
                    .refreshed
                    .is_some_and(|at| at.elapsed() < timing.loop_wait / 2)
        });
        match fresh {
            Some(held) => Ok(held.id),
            None => Ok(self.keep(calls, budget).await?.id),
        }
    }

    /// The lease was found to be gone.
    pub(super) async fn forget(&self, id: i64) {
        let mut held = self.held.lock().await;
        if held.is_some_and(|held| held.id == id) {
            *held = None;
            lock(&self.known).change(None);
        }
    }
}

/// Ends a lease, which no key is bound to; one that is gone has ended.
pub(super) async fn revoke(calls: &Calls, budget: Budget, id: i64) -> Result<(), Error> {
    let revoked = calls.run("revoke a lease", budget, move |mut client| {
        Box::pin(async move {
            match client.lease_revoke(id).await {
                Ok(response) => Ok(Heard::new((), response.header())),
                Err(error) if faults::is_lease_gone(&error) => Ok(Heard::new((), None)),
                Err(error) => Err(error),
            }
        })
    });
    revoked.await?;
    Ok(())
}

/// The lease without which this leader cannot be superseded. It is granted for a long time and not renewed: another one
/// takes its place now and then. What is lost with it is only a quicker failover.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    present: std::sync::Mutex<Option<(i64, Instant)>>,
    revoked: std::sync::Mutex<Option<i64>>,
}

/// The length of that lease, in `ttl`s.
const TAKEOVER_TTLS: u32 = 20;

impl Takeover {
    /// The present one.
    pub(super) fn id(&self) -> Option<i64> {
        lock(&self.present).map(|(id, _)| id)
    }

    /// Gets one if there is none or the present one has seen a quarter of its life.
    pub(super) async fn keep(&self, calls: &Calls) {
        let length = calls.timing().ttl * TAKEOVER_TTLS;
        let present = *lock(&self.present);
        if present.is_some_and(|(_, since)| since.elapsed() < length / 4) {
            return;
        }
        let since = Instant::now();
        match grant(calls, calls.brief(), seconds(length)).await {
            Ok(id) => *lock(&self.present) = Some((id, since)),
            Err(error) => tracing::debug!("{error:#}"),
        }
    }

    /// The leases of another store are worth nothing.
    pub(super) fn clear(&self) {
        *lock(&self.present) = None;
        *lock(&self.revoked) = None;
    }

    pub(super) fn is_revoked(&self, id: i64) -> bool {
        *lock(&self.revoked) == Some(id)
    }

    /// That lease does not exist any more.
    pub(super) fn revoked(&self, id: i64) {
        *lock(&self.revoked) = Some(id);
        *lock(&self.present) = None;
    }
}

async fn grant(calls: &Calls, budget: Budget, seconds: i64) -> Result<i64, Error> {
    let granted = calls.run("get a lease", budget, move |mut client| {
        Box::pin(async move {
            let response = client.lease_grant(seconds, None).await?;
            Ok(Heard::new(response.id(), response.header()))
        })
    });
    Ok(granted.await?.value)
}

/// The lease's length in seconds and the raft term; `None` if it is gone.
async fn keep_alive(calls: &Calls, budget: Budget, id: i64) -> Result<Option<(i64, u64)>, Error> {
    let kept = calls.run("prolong the lease", budget, move |client| {
        Box::pin(async move {
            match prolong(client, id).await {
                Ok(heard) => Ok(heard),
                Err(error) if faults::is_lease_gone(&error) => Ok(Heard::new(None, None)),
                Err(error) => Err(error),
            }
        })
    });
    Ok(kept.await?.value)
}

/// The client swallows the first answer of a stream with its header, so a second one is asked for.
async fn prolong(mut client: Client, id: i64) -> Result<Heard<Option<(i64, u64)>>, etcd_client::Error> {
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
    keeper.keep_alive().await?;
    let Some(answer) = answers.message().await? else {
        return Err(etcd_client::Error::LeaseKeepAliveError(
            "the stream ended".to_owned(),
        ));
    };
    let header = answer.header();
    let kept = (answer.ttl() > 0).then(|| (answer.ttl(), header.map_or(0, |header| header.raft_term())));
    Ok(Heard::new(kept, header))
}

/// etcd counts in whole seconds.
fn seconds(ttl: Duration) -> i64 {
    let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(whole.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_never_shorter_than_ttl() {
        assert_eq!(seconds(Duration::from_secs(30)), 30);
        assert_eq!(seconds(Duration::from_millis(2001)), 3);
        assert_eq!(seconds(Duration::ZERO), 1);
    }

    #[test]
    fn a_prolongation_needs_a_later_answer_of_the_same_term() {
        assert!(Kept { id: 1, term: None }.is_confirmed_by(Some(3)));
        assert!(Kept { id: 1, term: Some(3) }.is_confirmed_by(Some(3)));
        assert!(!Kept { id: 1, term: Some(2) }.is_confirmed_by(Some(3)));
        assert!(!Kept { id: 1, term: Some(2) }.is_confirmed_by(None));
    }
}
