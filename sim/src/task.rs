//! The one long job of a member: the simulated counterpart of the program's task runner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ha::facts::{Moment, Progress, Source, TaskStatus};
use ha::pg::{DatabaseState, Lsn, SlotName, Timeline};
use ha::standby_names::StandbyNames;
use ha::step::{CloneSource, StartAs, StopMode, StopPurpose, Task, TaskOutcome};

use crate::server::{CHECKPOINT_RECORD, Condition, Data, Process};
use crate::world::{Id, World};

/// What the job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    Stopping,
    Starting,
    Promoting,
}

/// The job that runs.
#[derive(Debug)]
pub(crate) struct Job {
    number: u64,
    pub(crate) task: Task,
    since: Moment,
    progress: Progress,
    stage: Stage,
}

impl Job {
    pub(crate) fn status(&self) -> TaskStatus {
        TaskStatus::Running {
            task: self.task.clone(),
            since: self.since,
            progress: self.progress,
        }
    }
}

impl World {
    /// Begins a long job.
    pub(crate) fn begin_task(&mut self, id: Id, task: Task) -> Result<(), String> {
        let since = self.clock(id);
        let agent = &mut self.members[id].agent;
        if let Some(job) = &agent.job {
            return Err(format!("{} is already in progress", job.task.label()));
        }
        agent.jobs += 1;
        agent.job = Some(Job {
            number: agent.jobs,
            task: task.clone(),
            since,
            progress: Progress::Working,
            stage: Stage::Working,
        });
        self.note(id, || format!("job: {task:?}"));
        if matches!(task, Task::Bootstrap | Task::Clone { .. } | Task::Rewind { .. }) {
            self.check_data_is_kept(id, &task.label());
        }
        match task {
            Task::Bootstrap => self.begin_bootstrap(id),
            Task::PostBootstrap => {
                let delay = self.random.millis(50, 500);
                self.later(id, delay, |world, id| world.end_post_bootstrap(id));
            }
            Task::Clone { from, follow, .. } => self.begin_clone(id, &from, follow),
            Task::Start {
                start_as, timeout, ..
            } => self.begin_start(id, start_as, timeout),
            Task::Stop {
                mode,
                checkpoint,
                purpose,
            } => {
                self.set_stage(id, Stage::Stopping, Progress::Working);
                if self.members[id].server.process == Process::Down {
                    self.later(id, Duration::from_millis(1), |world, id| {
                        world.end_task(id, TaskOutcome::Success);
                    });
                } else if purpose == StopPurpose::Unresponsive {
                    // It does not answer to a signal, and is killed a moment later.
                    self.marks.hit("a server that hangs is killed");
                    self.later(id, Duration::from_secs(1), |world, id| world.server_dies(id));
                } else {
                    self.stop_server(id, mode, checkpoint);
                }
            }
            Task::Restart {
                start_as, timeout, ..
            } => self.begin_restart(id, start_as, timeout),
            Task::Promote { lock_valid_until, .. } => {
                let delay = self.random.mostly(1, 40, 5, 3000);
                self.later(id, delay, move |world, id| world.promote(id, lock_valid_until));
                // A slot that somebody was warned of is no better for the next promotion.
                let server = &mut self.members[id].server;
                server.is_slot_doubtful = server.is_slot_doubtful.filter(|is_warned_of| *is_warned_of);
            }
            Task::CopyLogicalSlots { leader, slots, .. } => self.begin_copy(id, leader, slots),
            Task::CrashRecovery => {
                let delay = self.random.mostly(200, 2000, 10, 10_000);
                self.later(id, delay, |world, id| world.end_crash_recovery(id));
            }
            Task::Rewind { source } => self.begin_rewind(id, source),
        }
        Ok(())
    }

    /// Goes on with the job after a while, if it is still the same.
    fn later(&mut self, id: Id, delay: Duration, act: impl FnOnce(&mut Self, Id) + 'static) {
        let owner = self.as_agent(id);
        let number = self.members[id].agent.jobs;
        self.schedule(delay, owner, move |world| {
            if world.members[id]
                .agent
                .job
                .as_ref()
                .is_some_and(|job| job.number == number)
            {
                act(world, id);
            }
        });
    }

    fn set_stage(&mut self, id: Id, stage: Stage, progress: Progress) {
        if let Some(job) = self.members[id].agent.job.as_mut() {
            job.stage = stage;
            job.progress = progress;
        }
    }

    fn stage(&self, id: Id) -> Option<Stage> {
        self.members[id].agent.job.as_ref().map(|job| job.stage)
    }

    fn end_task(&mut self, id: Id, outcome: TaskOutcome) {
        if let Some(job) = self.members[id].agent.job.take() {
            self.note(id, || format!("job ends: {}: {outcome:?}", job.task.label()));
            self.members[id].agent.done = Some((job.task, outcome));
            self.wake(id);
        }
    }

    fn fail_task(&mut self, id: Id, why: &str) {
        self.end_task(id, TaskOutcome::Failed(why.to_owned()));
    }

    /// Ends the job and what it started.
    pub(crate) fn cancel_task(&mut self, id: Id) {
        let Some(job) = &self.members[id].agent.job else {
            return;
        };
        self.marks.hit("job cancelled");
        let unfinished = matches!(job.task, Task::Clone { .. } | Task::Bootstrap);
        // A postmaster that was started goes on starting, and a promotion that was asked for cannot be taken back.
        if job.stage == Stage::Working && unfinished {
            self.members[id].server.data = None;
        }
        self.end_task(id, TaskOutcome::Cancelled);
    }

    fn begin_bootstrap(&mut self, id: Id) {
        let delay = self.random.millis(500, 4000);
        self.later(id, delay, |world, id| {
            let at = world.wal.create();
            let number = world.random.below(1_000_000_000);
            world.members[id].server.data = Some(Data {
                condition: Condition::Good,
                system_identifier: format!("74{number:017}"),
                at,
                replayed: at.lsn,
                state: DatabaseState::ShutDown,
                checkpoint: at.lsn,
                checkpoint_timeline: Timeline(1),
                has_recovery_signal: false,
                has_backup_label: false,
                source: None,
                slots: BTreeMap::new(),
                wal_from: at.lsn,
                histories: BTreeSet::new(),
                names: StandbyNames::default(),
                takes_clients: false,
            });
            world.set_stage(id, Stage::Starting, Progress::Starting);
            world.start_server(id, &StartAs::Primary);
        });
    }

    fn end_post_bootstrap(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        let is_made = server.process == Process::Primary
            || (server.process == Process::Standby && self.plan.is_standby_cluster);
        match server.data.as_mut().filter(|_| is_made) {
            Some(data) => {
                data.takes_clients = true;
                self.end_task(id, TaskOutcome::Success);
            }
            None => self.fail_task(id, "the server does not run"),
        }
    }

    fn begin_clone(&mut self, id: Id, from: &CloneSource, follow: Option<Source>) {
        self.check_clone(id);
        self.members[id].agent.slot_work.forget();
        self.server_dies(id);
        let source = from.source().and_then(|source| self.source_server(source));
        let Some(source) = source.filter(|source| *source != id) else {
            self.members[id].server.data = None;
            self.later(id, Duration::from_millis(5), |world, id| {
                world.fail_task(id, "nobody to copy from")
            });
            return;
        };
        let other = &self.members[source].server;
        let is_there = self.reaches(id, source) && other.is_up();
        let life = other.life;
        let Some(copy) = other.data.clone().filter(|data| is_there && data.takes_clients) else {
            self.members[id].server.data = None;
            self.later(id, Duration::from_millis(100), |world, id| {
                world.fail_task(id, "could not connect")
            });
            return;
        };
        self.members[id].server.data = Some(Data {
            condition: Condition::Partial,
            ..copy
        });
        let ttl = self.plan.ttl().as_millis() as u64;
        let delay = self.random.mostly(300, ttl / 4, 10, ttl * 2);
        self.later(id, delay, move |world, id| {
            world.end_clone(id, source, life, follow)
        });
    }

    fn end_clone(&mut self, id: Id, source: Id, life: u64, follow: Option<Source>) {
        let other = &self.members[source].server;
        let is_there = other.life == life && self.reaches(id, source);
        let copy = other.data.clone().filter(|_| is_there);
        // The WAL since the copy was begun comes with it.
        let begun = self.position(id).map(|position| position.lsn);
        self.members[id].server.data = copy.map(|data| Data {
            wal_from: begun.unwrap_or(data.at.lsn),
            replayed: data.at.lsn,
            state: DatabaseState::InArchiveRecovery,
            has_recovery_signal: true,
            has_backup_label: true,
            slots: BTreeMap::new(),
            source: follow.clone(),
            ..data
        });
        if self.members[id].server.data.is_none() {
            self.fail_task(id, "the connection was lost");
            return;
        }
        self.marks.hit("clone");
        self.set_stage(id, Stage::Starting, Progress::Starting);
        self.start_server(id, &StartAs::Standby(follow));
    }

    fn begin_start(&mut self, id: Id, start_as: StartAs, timeout: Option<Duration>) {
        if self.members[id].server.process != Process::Down || self.members[id].server.data.is_none() {
            self.later(id, Duration::from_millis(5), |world, id| {
                world.fail_task(id, "cannot be started")
            });
            return;
        }
        self.set_stage(id, Stage::Starting, Progress::Starting);
        self.start_server(id, &start_as);
        if let Some(timeout) = timeout {
            self.later(id, timeout, |world, id| {
                world.marks.hit("start timed out");
                world.end_task(id, TaskOutcome::TimedOut);
            });
        }
    }

    fn begin_copy(&mut self, id: Id, leader: Source, slots: Vec<SlotName>) {
        self.members[id].agent.slot_work.forget();
        let delay = self.random.mostly(5, 100, 10, 2_000);
        self.later(id, delay, move |world, id| {
            world.set_stage(id, Stage::Stopping, Progress::Working);
            if let Err(why) = world.read_slots(id, &leader, &slots) {
                world.fail_task(id, &why);
            }
        });
    }

    fn begin_restart(&mut self, id: Id, start_as: StartAs, timeout: Option<Duration>) {
        self.set_stage(id, Stage::Stopping, Progress::Working);
        if self.members[id].server.process == Process::Down {
            self.begin_start(id, start_as, timeout);
        } else {
            self.stop_server(id, StopMode::Fast, true);
        }
    }

    fn promote(&mut self, id: Id, lock_valid_until: Moment) {
        if self.clock(id) >= lock_valid_until {
            self.marks.hit("promotion too late");
            self.fail_task(id, "the lease of the leader key has run out");
        } else if self.members[id].server.process == Process::Standby {
            self.set_stage(id, Stage::Promoting, Progress::Working);
            self.promote_server(id);
        } else {
            self.fail_task(id, "the server is no running standby");
        }
    }

    /// A promotion has ended; the job with it.
    pub(crate) fn promotion_ended(&mut self, id: Id) {
        if self.stage(id) == Some(Stage::Promoting) {
            self.end_task(id, TaskOutcome::Success);
        }
    }

    fn end_crash_recovery(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        let Some(data) = server.data.as_mut() else {
            self.fail_task(id, "no data directory");
            return;
        };
        self.marks.hit("single-user recovery");
        data.state = DatabaseState::ShutDown;
        data.checkpoint = data.at.lsn;
        data.checkpoint_timeline = self.wal.timeline(data.at.branch);
        data.at.lsn = Lsn(data.at.lsn.0 + CHECKPOINT_RECORD);
        data.replayed = data.at.lsn;
        data.has_recovery_signal = false;
        self.end_task(id, TaskOutcome::Success);
    }

    fn begin_rewind(&mut self, id: Id, source: Source) {
        self.members[id].agent.slot_work.forget();
        if self.members[id].server.process != Process::Down {
            self.stop_server(id, StopMode::Fast, false);
            self.set_stage(id, Stage::Stopping, Progress::Working);
            return;
        }
        let delay = self.random.millis(10, 200);
        self.later(id, delay, move |world, id| world.rewind(id, &source));
    }

    fn rewind(&mut self, id: Id, source: &Source) {
        let upstream = self.source_server(source);
        let upstream = upstream.filter(|other| {
            self.reaches(id, *other) && self.members[*other].server.process == Process::Primary
        });
        let Some(upstream) = upstream else {
            self.lose_source(id, "could not connect to the primary");
            return;
        };
        let other = &self.members[upstream].server;
        let life = other.life;
        let checkpointed = other.data.as_ref().map(|data| data.checkpoint_timeline);
        let Some(mine) = self.members[id].server.data.as_mut() else {
            self.fail_task(id, "no data directory");
            return;
        };
        if checkpointed == Some(self.wal.timeline(mine.at.branch)) {
            // pg_rewind compares the control files' timelines, and a promotion does not change them at once.
            self.marks.hit("rewind before the checkpoint");
            let delay = self.random.millis(20, 200);
            self.later(id, delay, |world, id| world.end_task(id, TaskOutcome::Success));
            return;
        }
        mine.condition = Condition::Damaged;
        let ttl = self.plan.ttl().as_millis() as u64;
        let delay = self.random.mostly(100, 2000, 10, ttl * 2);
        self.later(id, delay, move |world, id| world.end_rewind(id, upstream, life));
    }

    fn end_rewind(&mut self, id: Id, upstream: Id, life: u64) {
        let other = &self.members[upstream].server;
        let is_there = other.life == life && self.reaches(id, upstream);
        let Some(theirs) = other.data.clone().filter(|_| is_there) else {
            self.lose_source(id, "the connection was lost");
            return;
        };
        if let Some(mine) = self.members[id].server.data.as_mut() {
            *mine = Data {
                replayed: theirs.at.lsn,
                state: DatabaseState::InArchiveRecovery,
                has_recovery_signal: true,
                has_backup_label: true,
                slots: BTreeMap::new(),
                source: mine.source.clone(),
                ..theirs
            };
        }
        self.marks.hit("rewind");
        self.end_task(id, TaskOutcome::Success);
    }

    fn lose_source(&mut self, id: Id, why: &str) {
        self.end_task(id, TaskOutcome::SourceNotReady(Some(why.to_owned())));
    }

    /// A server takes connections: what waited for that goes on.
    pub(crate) fn server_is_up(&mut self, id: Id) {
        if self.stage(id) == Some(Stage::Starting) {
            self.end_task(id, TaskOutcome::Success);
        }
    }

    /// A server has ended.
    pub(crate) fn server_is_down(&mut self, id: Id) {
        let Some(job) = &self.members[id].agent.job else {
            self.wake(id);
            return;
        };
        match (job.stage, job.task.clone()) {
            (
                Stage::Stopping,
                Task::Restart {
                    start_as, timeout, ..
                },
            ) => {
                self.set_stage(id, Stage::Working, Progress::Restarting);
                self.later(id, Duration::from_millis(10), move |world, id| {
                    world.begin_start(id, start_as, timeout);
                });
            }
            (Stage::Stopping, Task::CopyLogicalSlots { follow, .. }) => {
                self.write_slots(id);
                self.set_stage(id, Stage::Working, Progress::Restarting);
                self.later(id, Duration::from_millis(10), move |world, id| {
                    world.begin_start(id, StartAs::Standby(follow), None);
                });
            }
            (Stage::Stopping, Task::Rewind { source }) => {
                self.set_stage(id, Stage::Working, Progress::Working);
                self.begin_rewind(id, source);
            }
            (Stage::Stopping, _) => self.end_task(id, TaskOutcome::Success),
            (Stage::Starting, Task::Bootstrap) => {
                self.members[id].server.data = None;
                self.fail_task(id, "the server did not start");
            }
            (Stage::Starting | Stage::Promoting, _) => self.fail_task(id, "the server has ended"),
            (Stage::Working, _) => {}
        }
    }

    /// The shutdown checkpoint is written: from here on a standby may have everything.
    pub(crate) fn stop_has_checkpoint(&mut self, id: Id) {
        let checkpoint = self.members[id].server.data.as_ref().map(|data| data.checkpoint);
        if let (Some(Stage::Stopping), Some(checkpoint)) = (self.stage(id), checkpoint) {
            self.set_stage(id, Stage::Stopping, Progress::ShutDown { checkpoint });
            self.wake(id);
        }
    }
}
