//! A step of the cycle that takes its time, and the renewals of the lease that are sent meanwhile.
//!
//! Both are waited for by one task: a loop that is stuck prolongs nothing.

use std::sync::Arc;

use dcs::Dcs;
use ha::facts::{Answer, LockAnswer, Moment};
use ha::step::{Action, Step};
use ha::{Facts, Renewal};
use tokio::sync::watch;

use super::actions::renewed;
use super::clock;
use super::cycle::Daemon;
use super::guard::MovesDeadline;
use super::questions::dcs_failure;
use super::view::View;

impl Daemon {
    /// Takes a step other than one that begins a job or ends the cycle. Renewals that were sent meanwhile stand in the
    /// journal before its answer.
    pub(super) async fn take(&mut self, step: &Step, facts: &mut Facts) -> Answer {
        self.world.patience = ha::patience(facts, &self.memory, clock::now());
        let Some(mut renewal) = ha::renewal_meanwhile(facts, &self.memory) else {
            return self.world.take(step).await;
        };
        let keeper = Keeper {
            dcs: Arc::clone(&self.world.dcs),
            deadline: self.moves_deadline(),
            view: self.view.clone(),
        };
        // The last that says anything.
        let mut heard = None;
        let answer = {
            let world = &mut self.world;
            let answering = world.take(step);
            tokio::pin!(answering);
            loop {
                let lock = tokio::select! {
                    biased;
                    answer = &mut answering => break answer,
                    lock = keeper.renew(&renewal) => lock,
                };
                tracing::debug!("meanwhile: {:?} -> {lock:?}", renewal.action);
                if !matches!(lock, LockAnswer::Unknown(_)) {
                    heard = Some(lock.clone());
                }
                facts.learn_meanwhile(renewal.action, lock, clock::now());
                self.pulse.beat();
                match ha::renewal_meanwhile(facts, &self.memory) {
                    Some(next) => renewal = next,
                    None => break answering.await,
                }
            }
        };
        match heard {
            Some(LockAnswer::Held { sent_at } | LockAnswer::HeldByLeaseAlone { sent_at, .. }) => {
                self.note_lease(sent_at);
            }
            Some(LockAnswer::NotHeld) => self.world.lease = None,
            Some(LockAnswer::Unknown(_)) | None => {}
        }
        answer
    }
}

/// What a renewal needs and moves.
struct Keeper {
    dcs: Arc<dyn Dcs>,
    deadline: MovesDeadline,
    view: watch::Sender<Arc<View>>,
}

impl Keeper {
    /// Ends when the renewal was answered. May be dropped: what is not answered does not count.
    async fn renew(&self, renewal: &Renewal) -> LockAnswer {
        tokio::time::sleep(renewal.not_before.since(clock::now())).await;
        let Action::RenewLeader { when_gone, .. } = &renewal.action else {
            return std::future::pending().await;
        };
        let sent_at = clock::now();
        if sent_at > renewal.not_after {
            return std::future::pending().await;
        }
        let answer = self.dcs.renew_leader(*when_gone).await;
        let answer = renewed(sent_at, answer.map_err(|error| dcs_failure(&error)));
        if answer.held_since().is_some() {
            self.was_held(sent_at);
        }
        answer
    }

    /// Guard and REST API hear of it at once: the step may take longer than the lease that they know of.
    fn was_held(&self, sent_at: Moment) {
        self.deadline.to(sent_at);
        let ttl = self.view.borrow().config.ttl;
        show_lease(&self.view, sent_at.after(ttl));
    }
}

/// Moves the end of the lease that the REST API knows of; the cycle may take longer than that.
pub(super) fn show_lease(view: &watch::Sender<Arc<View>>, until: Moment) {
    view.send_if_modified(|view| {
        let is_newer = view.lock_valid_until.is_some_and(|known| known < until);
        if is_newer {
            Arc::make_mut(view).lock_valid_until = Some(until);
        }
        is_newer
    });
}
