//! Between two cycles: waits for the time, or for whatever makes it worth to look at once.

use dcs::Changes;
use ha::facts::{Moment, Request};
use ha::step::Callback;
use postgres::process::WalSenders;

use super::cycle::Daemon;
use super::inbox::Message;
use super::schedule::Essence;
use super::signals::Asked;
use super::{apply, clock, notify};

/// What ended a wait.
enum Event {
    Time,
    Job,
    Checkpoint,
    Probe,
    Applied(Option<apply::Outcome>),
    PostmasterEnded,
    StandbyGone,
    Guard,
    StoreChanged,
    Message(Message),
    Signal(Asked),
}

impl Daemon {
    /// Waits until the next cycle shall begin. Many events at once make one cycle.
    pub(crate) async fn wait(&mut self, again_at: Option<Moment>) {
        let due = self.schedule.next_run();
        let until = again_at.map_or(due, |moment| moment.min(due));
        loop {
            let event = self.event(until).await;
            self.pulse.beat_before(until);
            if self.is_worth_a_cycle(event, until).await {
                self.schedule.woken(clock::now());
                return;
            }
        }
    }

    async fn event(&mut self, until: Moment) -> Event {
        let postmaster = self.world.seen.postmaster.clone();
        let postmaster_ended = async {
            match postmaster {
                Some(postmaster) => postmaster.exited().await,
                None => std::future::pending().await,
            }
        };
        let guard_has_news = async {
            match &mut self.world.guard {
                Some(guard) => guard.news().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            asked = self.signals.next() => Event::Signal(asked),
            () = postmaster_ended => Event::PostmasterEnded,
            () = guard_has_news => Event::Guard,
            () = self.world.seen.synchronous_senders.one_ended() => Event::StandbyGone,
            () = self.world.jobs.news() => Event::Job,
            Some(message) = self.inbox.recv() => Event::Message(message),
            Ok(()) = self.changes.changed() => Event::StoreChanged,
            () = self.world.checkpoint.ended() => Event::Checkpoint,
            () = self.world.probe.may_be_overdue() => Event::Probe,
            applied = self.applier.ended() => Event::Applied(applied),
            () = tokio::time::sleep(until.since(clock::now())) => Event::Time,
            never = self.pulse.beat_until(Some(until)) => match never {},
        }
    }

    async fn is_worth_a_cycle(&mut self, event: Event, until: Moment) -> bool {
        match event {
            Event::Time | Event::Guard | Event::Job | Event::Checkpoint => true,
            Event::Probe => self.world.probe.is_overdue(),
            Event::Applied(applied) => self.note_applied(applied),
            Event::PostmasterEnded => {
                self.world.seen.postmaster = None;
                true
            }
            Event::StandbyGone => {
                self.world.seen.synchronous_senders = WalSenders::default();
                true
            }
            Event::StoreChanged => self.concerns_us(until).await,
            Event::Message(message) => {
                self.take_in(message).await;
                true
            }
            Event::Signal(Asked::Reload) => {
                self.reload().await;
                true
            }
            Event::Signal(Asked::Stop) => {
                let is_first = !self.is_stopping;
                if is_first {
                    tracing::info!("the daemon was told to end");
                    notify::stopping();
                    self.is_stopping = true;
                    self.rest = None;
                }
                is_first
            }
        }
    }

    fn note_applied(&mut self, applied: Option<apply::Outcome>) -> bool {
        // The next cycle begins what has become due meanwhile.
        let is_due = self.applier.is_due();
        let Some(applied) = applied else {
            // Not at once: what failed may need its time.
            self.applier.request();
            return is_due;
        };
        if applied.reloaded {
            self.world
                .server
                .run_callback(Callback::OnReload, self.memory.role);
        }
        let Some(pending) = applied.pending_restart else {
            return is_due;
        };
        let is_news = pending != self.world.seen.pending_restart;
        self.world.seen.pending_restart = pending;
        is_news || is_due
    }

    /// Whether something that matters to us is other than the last cycle has seen it. What it has written itself and
    /// positions do not count. It is looked at until the next cycle is due, and no longer.
    async fn concerns_us(&mut self, until: Moment) -> bool {
        let changes = Changes {
            status: 0,
            history: 0,
            failsafe: 0,
            ..*self.changes.borrow_and_update()
        };
        if std::mem::replace(&mut self.changes_seen, changes) == changes {
            return false;
        }
        let Some((before, _)) = &self.memory.cluster else {
            return true;
        };
        let me = &self.world.settings.node.name;
        let before = Essence::of(before, me);
        let left = until.since(clock::now());
        match tokio::time::timeout(left, self.world.dcs.load()).await {
            Ok(Ok(cluster)) => Essence::of(&cluster, me) != before,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    async fn take_in(&mut self, message: Message) {
        match message {
            Message::Restart { conditions, reply } => {
                self.requests.add(reply, |id| Request::Restart { id, conditions });
            }
            Message::Reinitialize {
                force,
                from_leader,
                reply,
            } => {
                self.requests.add(reply, |id| Request::Reinitialize {
                    id,
                    force,
                    from_leader,
                });
            }
            Message::Reload => self.reload().await,
            Message::WakeUp => {}
        }
    }
}
