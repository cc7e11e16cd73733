//! A step of the cycle that takes its time, and the renewals of the lease that are sent meanwhile: the simulated
//! counterpart of the program's way to wait for a step.

use std::time::Duration;

use ha::Renewal;
use ha::facts::LockAnswer;

use crate::world::{Id, World};

impl World {
    /// How long the step that a member's cycle waits for may take.
    pub(crate) fn patience(&self, id: Id) -> Duration {
        let agent = &self.members[id].agent;
        match &agent.cycle {
            Some((facts, _)) => ha::patience(facts, agent.memory(), self.clock(id)),
            None => self.plan.retry_timeout(),
        }
    }

    /// As long as a cycle waits for the local server to say how it is.
    pub(crate) fn sql_patience(&self, id: Id) -> Duration {
        self.patience(id).min(self.plan.retry_timeout() / 2)
    }

    /// A step is waited for from now on, or an answer to a renewal was learnt: the next renewal is sent in its time. What
    /// was sent before and is not answered does not count any more.
    pub(crate) fn keep_lease(&mut self, id: Id) {
        let agent = &mut self.members[id].agent;
        agent.renewal += 1;
        let number = agent.renewal;
        let Some((facts, _)) = &agent.cycle else { return };
        let Some(renewal) = ha::renewal_meanwhile(facts, agent.memory()) else {
            return;
        };
        let delay = self.until(id, renewal.not_before);
        let owner = self.as_agent(id);
        self.schedule(delay, owner, move |world| {
            world.renew_meanwhile(id, number, renewal);
        });
    }

    fn renew_meanwhile(&mut self, id: Id, number: u64, renewal: Renewal) {
        let now = self.clock(id);
        let agent = &mut self.members[id].agent;
        if agent.renewal != number || agent.cycle.is_none() {
            return;
        }
        if now > renewal.not_after {
            self.marks.hit("meanwhile: stuck");
            return;
        }
        agent.meanwhile = Some(renewal.action);
        self.marks.hit("meanwhile: sent");
        self.note(id, || "  meanwhile the lease is prolonged".to_owned());
        self.call_dcs_meanwhile(id);
    }

    /// The answer to a renewal that was sent while the step is waited for.
    pub(crate) fn learn_meanwhile(&mut self, id: Id, lock: LockAnswer) {
        let now = self.clock(id);
        let agent = &mut self.members[id].agent;
        let (Some((facts, _)), Some(action)) = (agent.cycle.as_mut(), agent.meanwhile.take()) else {
            return;
        };
        facts.learn_meanwhile(action, lock.clone(), now);
        self.note(id, || format!("  meanwhile: {lock:?}"));
        match lock {
            LockAnswer::Held { sent_at } | LockAnswer::HeldByLeaseAlone { sent_at, .. } => {
                self.marks.hit("meanwhile: held");
                self.move_deadline(id, sent_at);
            }
            LockAnswer::NotHeld => self.marks.hit("meanwhile: lost"),
            LockAnswer::Unknown(_) => self.marks.hit("meanwhile: unknown"),
        }
        self.keep_lease(id);
    }
}
