//! What a cycle does: the simulated counterpart of the program's actions.

use std::time::Duration;

use ha::facts::{Answer, CheckpointStatus, LockAnswer, Source};
use ha::standby_names::StandbyNames;
use ha::step::Action;

use crate::dcs::Request;
use crate::server::Process;
use crate::world::{Id, World};

impl World {
    /// Performs an action; its result is learnt after the time that it takes.
    pub(crate) fn perform(&mut self, id: Id, action: Action) {
        match action {
            Action::AcquireLeader | Action::SupersedeLeader { .. } if !self.may_race(id) => {
                self.marks.hit("failsafe: a promise holds back");
                self.answer_after(id, Duration::from_millis(1), |_, _| {
                    Answer::Lock(LockAnswer::NotHeld)
                });
            }
            Action::AcquireLeader => self.call_dcs(id, Request::Acquire),
            Action::SupersedeLeader { expired } => self.call_dcs(id, Request::Supersede(expired)),
            Action::ExtendLock { sent_at } => {
                self.marks.hit("failsafe: lock extended");
                self.answer_after(id, Duration::ZERO, move |_, _| {
                    Answer::Lock(LockAnswer::Held { sent_at })
                });
            }
            Action::RenewLeader { when_gone, .. } => self.call_dcs(id, Request::Renew(when_gone)),
            Action::TakeLeader => self.call_dcs(id, Request::Take),
            Action::ReleaseLeader { status } => {
                self.notice_release(id);
                let held = self.members[id].agent.session.held(&self.dcs.store);
                self.call_dcs(id, Request::Release(status.map(|status| status.to_json()), held));
            }
            Action::Write { key, value, expect } => {
                self.call_dcs(id, Request::Write(store_key(key), value, store_expect(expect)));
            }
            Action::Delete { key, expect } => {
                self.call_dcs(id, Request::Delete(store_key(key), store_expect(expect)));
            }
            Action::TouchMember(data) => self.call_dcs(id, Request::Touch(data.to_json())),
            Action::Begin(task) => {
                let result = self.begin_task(id, task);
                self.done_after(id, Duration::from_millis(1), result);
            }
            Action::RunCallbacks(_) => self.done_after(id, Duration::from_millis(1), Ok(())),
            Action::CancelTask => {
                self.cancel_task(id);
                self.done_after(id, Duration::from_millis(1), Ok(()));
            }
            Action::BeginCheckpoint => {
                self.begin_checkpoint(id);
                self.done_after(id, Duration::from_millis(1), Ok(()));
            }
            Action::Follow(source) => {
                self.follow(id, source);
                let delay = self.random.millis(2, 20);
                self.done_after(id, delay, Ok(()));
            }
            Action::BeginSlotWork(work) => self.begin_slot_work(id, work),
            Action::ResumeReplay => self.done_after(id, Duration::from_millis(2), Ok(())),
            Action::SetSynchronousStandbyNames(names) => {
                let names = StandbyNames::parse(names.as_deref().unwrap_or_default());
                self.set_names(id, names.unwrap_or_default());
                let delay = self.random.millis(2, 20);
                self.done_after(id, delay, Ok(()));
            }
            Action::KeepCitus(_) => self.done_after(id, Duration::ZERO, Ok(())),
            Action::ChangeSlots(changes) => {
                let result = self.change_slots(id, changes);
                let delay = self.random.millis(1, 20);
                self.done_after(id, delay, result);
            }
        }
    }

    fn may_race(&mut self, id: Id) -> bool {
        let now = self.clock(id);
        self.members[id].agent.promise.begin_race(now)
    }

    pub(crate) fn done_after(&mut self, id: Id, delay: Duration, result: Result<(), String>) {
        self.answer_after(id, delay, move |_, _| Answer::Done(result));
    }

    fn begin_checkpoint(&mut self, id: Id) {
        self.members[id].agent.checkpoint = CheckpointStatus::Running;
        let delay = self.random.mostly(20, 500, 20, 8_000);
        let owner = self.as_agent(id);
        let life = self.members[id].server.life;
        self.schedule(delay, owner, move |world| {
            let is_done = world.members[id].server.life == life && world.checkpoint_server(id);
            world.members[id].agent.checkpoint = if is_done {
                CheckpointStatus::Done
            } else {
                CheckpointStatus::Failed
            };
            world.wake(id);
        });
    }

    fn follow(&mut self, id: Id, source: Option<Source>) {
        let server = &mut self.members[id].server;
        if let Some(data) = server.data.as_mut() {
            data.source.clone_from(&source);
        }
        if server.process == Process::Standby
            && !self.plan.is_old_postgresql
            && !is_same_source(server.running_source.as_ref(), source.as_ref())
        {
            server.running_source = source;
            if server.receiver.is_some() {
                self.disconnect_receiver(id);
            }
        }
    }
}

/// Whatever the pace.
pub(crate) fn is_same_source(one: Option<&Source>, other: Option<&Source>) -> bool {
    let plain = |source: &Source| Source {
        retry: ha::facts::Retry::AtOnce,
        only_streams: false,
        ..source.clone()
    };
    one.map(plain) == other.map(plain)
}

fn store_key(key: ha::step::Key) -> ::dcs::Key {
    use ha::step::Key;
    match key {
        Key::Initialize => ::dcs::Key::Initialize,
        Key::Config => ::dcs::Key::Config,
        Key::Failover => ::dcs::Key::Failover,
        Key::Sync => ::dcs::Key::Sync,
        Key::History => ::dcs::Key::History,
        Key::Origin => ::dcs::Key::Origin,
        Key::Status => ::dcs::Key::Status,
        Key::Failsafe => ::dcs::Key::Failsafe,
    }
}

fn store_expect(expect: ha::step::Expect) -> ::dcs::Expect {
    use ha::step::Expect;
    match expect {
        Expect::Anything => ::dcs::Expect::Anything,
        Expect::Absent => ::dcs::Expect::Absent,
        Expect::Version(version) => ::dcs::Expect::Version(version),
    }
}
