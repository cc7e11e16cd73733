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
    id: std::sync::Mutex<Option<i64>>,
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
            id: std::sync::Mutex::new(known),
        }
    }

    pub(super) fn id(&self) -> Option<i64> {
        *lock(&self.id)
    }

    /// Prolongs the lease now, or takes a new one if it is gone or `ttl` has changed.
    pub(super) async fn keep(&self, calls: &Calls, budget: Budget) -> Result<Kept, Error> {
        let mut held = self.held.lock().await;
        let wanted = seconds(calls.timing().ttl);
        if let Some(known) = held.filter(|held| held.seconds.is_none_or(|seconds| seconds == wanted)) {
            if let Some((granted, term)) = keep_alive(calls, budget, known.id).await? {
                // The server may give more than was asked for; a lease of an earlier life tells so only here.
                if known.seconds.is_some() || granted == wanted {
                    let refreshed = Some(Instant::now());
                    *held = Some(Held {
                        seconds: Some(wanted),
                        refreshed,
                        ..known
                    });
                    return Ok(Kept {
                        id: known.id,
                        term: Some(term),
                    });
                }
            } else {
                tracing::info!("lease {} is gone", known.id);
            }
        }
        let id = grant(calls, budget, wanted).await?;
        *held = Some(Held {
            id,
            seconds: Some(wanted),
            refreshed: Some(Instant::now()),
        });
        *lock(&self.id) = Some(id);
        Ok(Kept { id, term: None })
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
            *lock(&self.id) = None;
        }
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
