//! When the guard is told: with every renewal, before a job, and at the end of every cycle.

use std::time::Duration;

use ha::facts::{Moment, Progress, TaskStatus};
use ha::step::Task;

use super::posture::{Order, Situation, order};
use super::{Guard, Posture, RunsAs};
use crate::daemon::cycle::Daemon;
use crate::daemon::watchdog::Watchdog;

impl Daemon {
    /// The leader key was proved ours by a request that was sent at `sent_at`: the deadline of a primary moves at once.
    pub(crate) fn lease_was_renewed(&mut self, sent_at: Moment) {
        self.note_lease(sent_at);
        // What calls for taking the lease back waits for the end of the cycle, when the server has been looked at.
        if self.guard_order(true, None) == Order::Arm {
            self.tell_guard(Order::Arm);
            self.world.watchdog.lease_was_renewed(sent_at);
        }
    }

    /// The leader key was proved ours, and guard and watchdog have heard of it where they should have.
    pub(crate) fn note_lease(&mut self, sent_at: Moment) {
        let ttl = self.world.settings.config.ttl;
        self.world.lease = Some(Posture::Armed { sent_at, ttl });
        self.world.lock_valid_until.send_replace(Some(sent_at.after(ttl)));
    }

    /// For renewals that are answered while a step takes its time.
    pub(crate) fn moves_deadline(&mut self) -> MovesDeadline {
        let is_armed = self.guard_order(true, None) == Order::Arm;
        let postmaster = self.world.seen.postmaster.as_ref();
        MovesDeadline {
            guard: self.world.guard.clone().filter(|_| is_armed),
            watchdog: is_armed.then(|| self.world.watchdog.clone()),
            postmaster: postmaster.map(postgres::process::Postmaster::pid),
            ttl: self.world.settings.config.ttl,
        }
    }

    /// A job is about to begin: before it makes a primary the guard has to know of the lease.
    ///
    /// # Errors
    /// The guard does not answer, or the watchdog cannot be activated, and that is required.
    pub(crate) async fn guard_before(&mut self, task: &Task) -> Result<(), String> {
        let has_lock = self.world.lease.is_some();
        let order = self.guard_order(has_lock, Some(task));
        match order {
            Order::Arm => self.world.watchdog.prepare()?,
            Order::Disarm => self.world.watchdog.disable(),
            Order::Keep => {}
        }
        let (Some(guard), Some(posture)) = (&self.world.guard, self.posture(order)) else {
            return Ok(());
        };
        if !matches!(posture, Posture::Armed { .. }) {
            guard.keep(posture, None);
        } else if !guard.confirm(posture).await && guard.is_required {
            return Err("there is no guard, and guard.mode is required".to_owned());
        }
        Ok(())
    }

    /// The cycle is over: what it has seen counts.
    pub(crate) fn guard_after_cycle(&mut self) {
        if self.memory.lock.is_none() {
            self.world.lease = None;
        }
        let order = self.guard_order(self.memory.lock.is_some(), None);
        self.tell_guard(order);
        self.watchdog_after_cycle(order);
        let (Some(guard), Some(lease)) = (&self.world.guard, self.world.dcs.lease()) else {
            return;
        };
        if self.world.lease_remembered.as_ref() != Some(&lease) {
            guard.remember_lease(lease.clone());
            self.world.lease_remembered = Some(lease);
        }
    }

    /// Only a renewal arms the watchdog, or pings it.
    fn watchdog_after_cycle(&self, order: Order) {
        let has_stopped = self.world.seen.runs_as == RunsAs::Stopped && self.memory.lock.is_none();
        if order == Order::Disarm || has_stopped {
            self.world.watchdog.disable();
        }
    }

    fn tell_guard(&self, order: Order) {
        if let Some(guard) = &self.world.guard {
            let postmaster = self.world.seen.postmaster.as_ref();
            let posture = self.posture(order).unwrap_or(Posture::AsItIs);
            guard.keep(posture, postmaster.map(postgres::process::Postmaster::pid));
        }
    }

    fn posture(&self, order: Order) -> Option<Posture> {
        match order {
            Order::Arm => self.world.lease,
            Order::Disarm => Some(Posture::Disarmed),
            Order::Keep => None,
        }
    }

    fn guard_order(&mut self, has_lock: bool, begins: Option<&Task>) -> Order {
        let running = match self.world.jobs.shown() {
            TaskStatus::Running { task, progress, .. } => Some((task, progress)),
            TaskStatus::Idle | TaskStatus::Done { .. } => None,
        };
        let running = running.as_ref().map(|(task, progress)| (task, *progress));
        order(Situation {
            is_paused: self.world.settings.config.pause,
            has_lock,
            role: self.memory.role,
            task: begins.map(|task| (task, Progress::Working)).or(running),
            runs_as: self.world.seen.runs_as,
        })
    }
}

/// Moves the guard's deadline, where a renewal is to move it.
pub(crate) struct MovesDeadline {
    guard: Option<Guard>,
    watchdog: Option<Watchdog>,
    postmaster: Option<i32>,
    ttl: Duration,
}

impl MovesDeadline {
    /// The leader key was proved ours by a request that was sent at `sent_at`.
    pub(crate) fn to(&self, sent_at: Moment) {
        if let Some(guard) = &self.guard {
            let ttl = self.ttl;
            guard.keep(Posture::Armed { sent_at, ttl }, self.postmaster);
        }
        if let Some(watchdog) = &self.watchdog {
            watchdog.lease_was_renewed(sent_at);
        }
    }
}

/// What the server was seen to be.
pub(crate) fn runs_as(server: &ha::facts::Server) -> RunsAs {
    match &server.sql {
        _ if server.is_stopped() => RunsAs::Stopped,
        Some(sql) if sql.in_recovery => RunsAs::Standby,
        Some(_) => RunsAs::Primary,
        None => RunsAs::Unknown,
    }
}
