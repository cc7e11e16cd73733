//! How each action of the decision is done. Flat, and blind to the cluster's state.

use ha::citus::Group;
use ha::facts::{Answer, DcsFailure, LockAnswer, Source};
use ha::step::{Action, Expect, Key, SlotChange, Step};
use postgres::slots::SlotDrop;

use super::clock;
use super::questions::follow_of;
use super::world::World;

impl World {
    /// Takes a step. Bounded in time by [`World::patience`].
    pub(crate) async fn take(&mut self, step: &Step) -> Answer {
        match step {
            Step::Observe(question) => self.ask(question).await,
            Step::Act(action) => self.perform(action).await,
            Step::Finish(_) => Answer::Done(Ok(())),
        }
    }

    /// Does what the decision wants. Bounded in time by [`World::patience`]; long jobs are only begun.
    pub(crate) async fn perform(&mut self, action: &Action) -> Answer {
        match action {
            Action::AcquireLeader => {
                let sent_at = clock::now();
                if !self.promise().begin_race(sent_at) {
                    return Answer::Lock(LockAnswer::NotHeld);
                }
                lock(sent_at, self.in_time(self.dcs.acquire_leader()).await)
            }
            Action::SupersedeLeader { expired } => {
                let sent_at = clock::now();
                if !self.promise().begin_race(sent_at) {
                    return Answer::Lock(LockAnswer::NotHeld);
                }
                lock(sent_at, self.in_time(self.dcs.supersede_leader(*expired)).await)
            }
            Action::RenewLeader { when_gone, .. } => {
                let sent_at = clock::now();
                let answer = self.in_time(self.dcs.renew_leader(*when_gone)).await;
                Answer::Lock(renewed(sent_at, answer))
            }
            Action::TakeLeader => {
                let sent_at = clock::now();
                lock(sent_at, self.in_time(self.dcs.take_leader()).await)
            }
            Action::ReleaseLeader { status } => {
                let status = status.as_ref().map(ha::cluster::Status::to_json);
                let released = self.in_time(self.dcs.release_leader(status.as_deref()));
                Answer::Lock(match released.await {
                    Ok(_) => LockAnswer::NotHeld,
                    Err(failure) => LockAnswer::Unknown(failure),
                })
            }
            Action::ExtendLock { sent_at } => Answer::Lock(LockAnswer::Held { sent_at: *sent_at }),
            Action::Write { key, value, expect } => {
                let write = self.dcs.write(store_key(*key), value, store_expect(*expect));
                Answer::Written(self.in_time(write).await.map_err(logged))
            }
            Action::Delete { key, expect } => {
                let delete = self.dcs.delete(store_key(*key), store_expect(*expect));
                let deleted = self.in_time(delete).await;
                let version = |is_deleted: bool| is_deleted.then_some(ha::cluster::Version(0));
                Answer::Written(deleted.map(version).map_err(logged))
            }
            Action::TouchMember(data) => {
                let data = data.to_json();
                let touching = async {
                    match self.dcs.touch_member(&data).await {
                        Err(dcs::Error::NameTaken(_)) => Ok(false),
                        touched => touched.map(|_| true),
                    }
                };
                match self.in_time(touching).await {
                    Ok(true) => Answer::Done(Ok(())),
                    Ok(false) => Answer::NameTaken,
                    Err(failure) => Answer::Done(Err(logged(failure).0)),
                }
            }
            Action::Begin(task) => Answer::Done(self.begin(task)),
            Action::CancelTask => {
                self.jobs.cancel();
                Answer::Done(Ok(()))
            }
            Action::RunCallbacks(callbacks) => {
                for (callback, role) in callbacks {
                    self.server.run_callback(*callback, *role);
                }
                Answer::Done(Ok(()))
            }
            Action::BeginCheckpoint => {
                self.checkpoint.begin(self.server.clone());
                Answer::Done(Ok(()))
            }
            Action::Follow(source) => Answer::Done(self.follow(source.as_ref()).await),
            Action::ResumeReplay => done(self.server.resume_replay(self.sql_deadline()).await),
            Action::SetSynchronousStandbyNames(names) => {
                let deadline = self.sql_deadline();
                done(
                    self.server
                        .set_synchronous_standby_names(names.clone(), deadline)
                        .await,
                )
            }
            Action::KeepCitus(groups) => Answer::Done(self.keep_citus(groups)),
            Action::BeginSlotWork(work) => {
                let patience = self.settings.config.retry_timeout;
                self.slot_work.begin(&self.server, work, patience);
                Answer::Done(Ok(()))
            }
            Action::ChangeSlots(changes) => Answer::Done(self.change_slots(changes).await),
        }
    }

    fn keep_citus(&self, groups: &[Group]) -> Result<(), String> {
        let keeper = self.citus.as_ref().ok_or("this is no Citus coordinator")?;
        keeper.keep(groups);
        Ok(())
    }

    async fn follow(&self, source: Option<&Source>) -> Result<(), String> {
        let follow = follow_of(&self.settings.local, &self.settings.config, source)?;
        self.server
            .follow(&follow, self.deadline())
            .await
            .map_err(|error| {
                tracing::error!("could not change the recovery settings: {error}");
                error.to_string()
            })
    }

    /// One slot that cannot be changed does not keep the others from it.
    async fn change_slots(&self, changes: &[SlotChange]) -> Result<(), String> {
        let deadline = self.deadline();
        let mut failure = None;
        for change in changes {
            let changed = match change {
                SlotChange::CreatePhysical(name) => self.server.create_physical_slot(name, deadline).await,
                SlotChange::Advance(name, to) => self.server.advance_slot(name, *to, None, deadline).await,
                SlotChange::Drop(name) => {
                    self.server
                        .drop_slot(name, deadline)
                        .await
                        .map(|dropped| match dropped {
                            SlotDrop::Dropped => tracing::info!("Dropped replication slot '{name}'"),
                            SlotDrop::Active => {
                                tracing::warn!("Unable to drop replication slot '{name}', slot is active");
                            }
                            SlotDrop::Missing => {}
                        })
                }
            };
            if let Err(error) = changed {
                tracing::error!("could not change replication slots: {change:?}: {error}");
                failure.get_or_insert(error.to_string());
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

fn lock(sent_at: ha::facts::Moment, answer: Result<bool, DcsFailure>) -> Answer {
    Answer::Lock(match answer {
        Ok(true) => LockAnswer::Held { sent_at },
        Ok(false) => LockAnswer::NotHeld,
        Err(failure) => LockAnswer::Unknown(failure),
    })
}

/// What came of a renewal that was sent at `sent_at`.
pub(super) fn renewed(sent_at: ha::facts::Moment, answer: Result<dcs::Renewed, DcsFailure>) -> LockAnswer {
    match answer {
        Ok(dcs::Renewed::Yes) => LockAnswer::Held { sent_at },
        Ok(dcs::Renewed::ByLeaseAlone(why)) => LockAnswer::HeldByLeaseAlone {
            sent_at,
            why: DcsFailure(why),
        },
        Ok(dcs::Renewed::No) => LockAnswer::NotHeld,
        Err(failure) => LockAnswer::Unknown(failure),
    }
}

fn done<E: std::fmt::Display>(result: Result<(), E>) -> Answer {
    Answer::Done(result.map_err(|error| {
        let text = format!("{error:#}");
        tracing::error!("{text}");
        text
    }))
}

fn logged(failure: DcsFailure) -> DcsFailure {
    tracing::error!("{}", failure.0);
    failure
}

fn store_key(key: Key) -> dcs::Key {
    match key {
        Key::Initialize => dcs::Key::Initialize,
        Key::Config => dcs::Key::Config,
        Key::Failover => dcs::Key::Failover,
        Key::Sync => dcs::Key::Sync,
        Key::History => dcs::Key::History,
        Key::Origin => dcs::Key::Origin,
        Key::Status => dcs::Key::Status,
        Key::Failsafe => dcs::Key::Failsafe,
    }
}

fn store_expect(expect: Expect) -> dcs::Expect {
    match expect {
        Expect::Anything => dcs::Expect::Anything,
        Expect::Absent => dcs::Expect::Absent,
        Expect::Version(version) => dcs::Expect::Version(version),
    }
}
