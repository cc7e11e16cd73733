//! A member's agent: the interpreter of [`ha::decide`]'s steps, as the program has it, in simulated time.

use std::sync::Arc;
use std::time::Duration;

use ::dcs::memory::Session;
use ::dcs::{Identity, Layout};
use config::{DynamicConfig, Minimums};
use ha::cluster::Version;
use ha::facts::{
    Answer, CheckpointStatus, Given, LockAnswer, Moment, Node, Request, TaskStatus, Unresponsive,
};
use ha::failsafe::Promise;
use ha::memory::Memory;
use ha::pg::{Role, ServerState};
use ha::step::{Action, Exit, Outcome, Step, Task, TaskOutcome};
use ha::{Facts, STEPS_MAX};
use jiff::Timestamp;

use crate::plan::Plan;
use crate::server::{Condition, Process};
use crate::slot_work::Work;
use crate::task::Job;
use crate::world::{Id, Member, World};

/// An agent.
pub(crate) struct Agent {
    pub(crate) is_alive: bool,
    /// Goes up whenever a process begins.
    pub(crate) life: u64,
    /// When this life began.
    pub(crate) booted_at: Duration,
    memory: Memory,
    /// The cycle that is going on, and its step that waits for an answer.
    pub(crate) cycle: Option<(Facts, Step)>,
    pub(crate) session: Session,
    /// Which store was read last.
    pub(crate) generation: u64,
    /// The newest revision of the store that this agent has written.
    pub(crate) revision: i64,
    /// The number of the newest call to the store, or of no call when it has been answered.
    pub(crate) call: u64,
    /// The number of the renewal that may be sent, or was, while the step is waited for.
    pub(crate) renewal: u64,
    /// The renewal that was sent.
    pub(crate) meanwhile: Option<Action>,
    config: Arc<DynamicConfig>,
    config_version: Option<Version>,
    pub(crate) job: Option<Job>,
    pub(crate) done: Option<(Task, TaskOutcome)>,
    pub(crate) jobs: u64,
    pub(crate) checkpoint: CheckpointStatus,
    pub(crate) slot_work: Work,
    pub(crate) requests: Vec<Request>,
    /// What it has promised to a leader that does not reach the DCS.
    pub(crate) promise: Promise,
    pub(crate) is_stopping: bool,
    next_run: Duration,
    wake_number: u64,
    is_woken: bool,
    /// The last outcome's variant.
    pub(crate) reason: String,
    /// What a guard would hold.
    pub(crate) guard_deadline: Option<Moment>,
    /// Cycles in a row without time between them.
    spins: u64,
    cycle_began: Duration,
}

impl Agent {
    pub(crate) fn new(node: &Node, plan: &Plan) -> Self {
        let (config, _) = DynamicConfig::read(&plan.config(false), Minimums::TAMADA);
        Self {
            is_alive: false,
            life: 0,
            booted_at: Duration::ZERO,
            memory: Memory::new(Role::Uninitialized, ServerState::Stopped),
            cycle: None,
            session: session(node, None, plan.ttl()),
            generation: 0,
            revision: 0,
            call: 0,
            renewal: 0,
            meanwhile: None,
            config: Arc::new(config),
            config_version: None,
            job: None,
            done: None,
            jobs: 0,
            checkpoint: CheckpointStatus::Idle,
            slot_work: Work::default(),
            requests: Vec::new(),
            promise: Promise::default(),
            is_stopping: false,
            next_run: Duration::ZERO,
            wake_number: 0,
            is_woken: false,
            reason: String::new(),
            guard_deadline: None,
            spins: 0,
            cycle_began: Duration::ZERO,
        }
    }

    /// It believes that the cluster is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.config.pause
    }

    /// Between two cycles: what it remembers is what it believes.
    pub(crate) fn rests(&self) -> bool {
        self.is_alive && self.cycle.is_none()
    }

    /// The position and role that its REST API told after the last cycle.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// A step and its answer in one line, without what says little.
fn brief(step: &Step, answer: &Answer) -> String {
    let mut text = match (step, answer) {
        (_, Answer::Cluster(Ok(cluster))) => {
            let members = cluster.members.iter().map(|member| {
                let data = &member.data;
                let role = data.role.map_or("?", Role::as_str);
                let state = data.state.map_or("?", ServerState::as_str);
                format!(
                    " {}={role}/{state}/{:?}",
                    member.name,
                    data.timeline.map(|timeline| timeline.0)
                )
            });
            let leader = cluster.leader_name().map_or("nobody", |name| name.as_str());
            let failover = cluster
                .failover
                .as_ref()
                .map(|failover| (&failover.leader, &failover.candidate));
            let optime = cluster.status.optime.unwrap_or_default();
            let members: String = members.collect();
            format!("Cluster: leader {leader}, optime {optime}, failover {failover:?},{members}")
        }
        (Step::Act(Action::TouchMember(data)), answer) => {
            format!(
                "TouchMember {:?} {:?} {:?} -> {answer:?}",
                data.state, data.role, data.xlog_location
            )
        }
        (Step::Observe(question), Answer::Server(server)) => match &server.sql {
            Some(sql) => format!(
                "{question:?} -> primary {}, timeline {:?}, at {:?}, {:?}, slots {:?}",
                !sql.in_recovery,
                sql.timeline,
                sql.position(),
                sql.replication_state,
                sql.slots.iter().map(|slot| &slot.name.0).collect::<Vec<_>>()
            ),
            None => format!(
                "{question:?} -> running {:?}, {:?}",
                server.running, server.accepts
            ),
        },
        (step, answer) => format!("{step:?} -> {answer:?}"),
    };
    for noise in [
        "Observe(",
        "MemberName",
        "SystemIdentifier",
        "conn_url: ",
        "member: ",
        "postgres://",
    ] {
        text = text.replace(noise, "");
    }
    text.chars().take(900).collect()
}

fn session(node: &Node, lease: Option<i64>, ttl: Duration) -> Session {
    let identity = Identity {
        name: node.name.clone(),
        lease: lease.map(|lease| lease.to_string()),
    };
    Session::new(Layout::new("/service/", "sim", None), &identity, ttl)
}

impl World {
    /// Starts a member's agent.
    pub(crate) fn boot_agent(&mut self, id: Id) {
        let member = &mut self.members[id];
        if member.agent.is_alive || id >= self.plan.members {
            return;
        }
        let lease = member.agent.session.lease().filter(|_| self.plan.keeps_lease);
        let former = member.agent.session.lease();
        let generation = self.dcs.store.generation();
        let life = member.agent.life + 1;
        let was_paused = member.agent.config.pause;
        let jobs = member.agent.jobs;
        let calls = member.agent.call;
        let guard_deadline = member.agent.guard_deadline;
        member.agent = Agent::new(&member.node, &self.plan);
        member.agent.session = session(&member.node, lease, self.plan.ttl());
        // Nobody listens at our address, so the agent before us has ended, and its leases are ours.
        former
            .into_iter()
            .for_each(|lease| member.agent.session.adopt_lease(lease));
        member.agent.generation = generation;
        member.agent.is_alive = true;
        member.agent.life = life;
        member.agent.booted_at = self.now;
        member.agent.jobs = jobs;
        member.agent.call = calls + 1;
        member.agent.guard_deadline = guard_deadline;
        let data = member.server.data.as_ref();
        let (role, state) = match (member.server.process, data) {
            (_, None) => (Role::Uninitialized, ServerState::Stopped),
            (_, Some(data)) if data.condition == Condition::Partial => {
                (Role::Uninitialized, ServerState::Stopped)
            }
            (Process::Primary, _) => (Role::Primary, ServerState::Running),
            (Process::Standby, _) => (Role::Replica, ServerState::Running),
            (Process::Starting { as_primary: true }, _) => (Role::Primary, ServerState::Starting),
            (Process::Starting { as_primary: false }, _) => (Role::Replica, ServerState::Starting),
            (_, Some(data)) if data.has_recovery_signal => (Role::Replica, ServerState::Stopped),
            (Process::Stopping { .. } | Process::Down, _) => (Role::Demoted, ServerState::Stopped),
        };
        member.agent.memory = Memory::new(role, state);
        self.note(id, || format!("agent starts: {role}, {state}"));
        if was_paused || self.members[id].hazard_until == Duration::MAX {
            self.members[id].hazard_until = Duration::ZERO;
            self.hazard(id);
        }
        self.wake(id);
    }

    /// Asks for a cycle at once, or after the one that is going on.
    pub(crate) fn wake(&mut self, id: Id) {
        let agent = &mut self.members[id].agent;
        if !agent.is_alive {
            return;
        }
        if agent.cycle.is_some() {
            agent.is_woken = true;
            return;
        }
        self.wake_after(id, Duration::from_micros(500));
    }

    fn wake_after(&mut self, id: Id, delay: Duration) {
        let agent = &mut self.members[id].agent;
        agent.wake_number += 1;
        let number = agent.wake_number;
        let owner = self.as_agent(id);
        self.schedule(delay, owner, move |world| {
            let agent = &world.members[id].agent;
            if agent.wake_number == number && agent.cycle.is_none() {
                world.begin_cycle(id);
            }
        });
    }

    fn begin_cycle(&mut self, id: Id) {
        let now = self.clock(id);
        let seconds = i64::try_from(self.now.as_secs()).unwrap_or(0);
        let unresponsive = self.members[id].hangs_since.map(|since| Unresponsive {
            since: Moment(now.0.saturating_sub(self.now - since)),
            why: "it hangs".to_owned(),
        });
        let member = &mut self.members[id];
        let agent = &mut member.agent;
        agent.spins = if self.now.saturating_sub(agent.cycle_began) < Duration::from_millis(20) {
            agent.spins + 1
        } else {
            0
        };
        agent.cycle_began = self.now;
        agent.next_run = agent.next_run.min(self.now);
        agent.is_woken = false;
        let task = match (&agent.job, agent.done.take()) {
            (Some(job), _) => job.status(),
            (None, Some((task, outcome))) => TaskStatus::Done { task, outcome },
            (None, None) => TaskStatus::Idle,
        };
        let facts = Facts::new(Given {
            now,
            wall_clock: Timestamp::from_second(1_800_000_000 + seconds).unwrap_or_default(),
            node: Arc::clone(&member.node),
            config: Arc::clone(&agent.config),
            task,
            checkpoint: agent.checkpoint,
            requests: agent.requests.clone(),
            scheduled_restart: None,
            failsafe: agent.promise.accepted(now).cloned(),
            is_stopping: agent.is_stopping,
            guard_is_missing: false,
            watchdog_is_missing: false,
            unresponsive,
        });
        if self.members[id].agent.spins > 200 {
            self.break_rule(id, "a member runs cycle after cycle without a pause");
            return;
        }
        self.advance(id, facts);
    }

    /// The answer to the step that a member's cycle waits for.
    pub(crate) fn learn(&mut self, id: Id, answer: Answer) {
        let now = self.clock(id);
        let Some((mut facts, step)) = self.members[id].agent.cycle.take() else {
            return;
        };
        match &answer {
            Answer::Lock(LockAnswer::Held { .. } | LockAnswer::HeldByLeaseAlone { .. }) => {
                self.members[id].agent.promise.settle(true);
            }
            Answer::Lock(LockAnswer::NotHeld) => self.members[id].agent.promise.settle(false),
            _ => {}
        }
        if let Answer::Lock(lock) = &answer
            && let Some(sent_at) = lock.held_since()
        {
            self.move_deadline(id, sent_at);
        }
        self.note(id, || format!("  {}", brief(&step, &answer)));
        facts.learn(step, answer, now);
        self.advance(id, facts);
    }

    /// The lease was prolonged by a request that was sent then.
    pub(crate) fn move_deadline(&mut self, id: Id, sent_at: Moment) {
        let deadline = sent_at.after(self.plan.ttl());
        self.members[id].agent.guard_deadline = Some(deadline);
        if self.plan.has_guard {
            let delay = self.until(id, deadline).saturating_sub(Duration::from_millis(50));
            // The guard is a process of its own: it outlives the agent.
            self.schedule(delay, Self::WORLD, move |world| world.guard(id));
        }
    }

    fn advance(&mut self, id: Id, facts: Facts) {
        let agent = &mut self.members[id].agent;
        let step = ha::decide(&facts, &mut agent.memory);
        let steps = facts.journal.iter().filter(|entry| !entry.is_meanwhile);
        if steps.count() > STEPS_MAX {
            self.break_rule(id, "a cycle took too many steps");
            return;
        }
        match step.clone() {
            Step::Observe(question) => {
                self.members[id].agent.cycle = Some((facts, step));
                self.keep_lease(id);
                self.ask(id, question);
            }
            Step::Act(action) => {
                self.members[id].agent.cycle = Some((facts, step));
                self.keep_lease(id);
                self.perform(id, action);
            }
            Step::Finish(outcome) => self.finish(id, *outcome),
        }
    }

    fn finish(&mut self, id: Id, outcome: Outcome) {
        let variant = format!("{:?}", outcome.reason);
        let end = variant.find([' ', '(', '{']).unwrap_or(variant.len());
        let variant = variant[..end].to_owned();
        self.marks.hit(&format!("reason: {variant}"));
        self.note(id, || {
            let notes: Vec<String> = outcome
                .notes
                .iter()
                .map(|note| format!("[{}] ", note.text))
                .collect();
            format!("{}{}", notes.concat(), outcome.reason)
        });
        if variant == "Defect" {
            self.break_rule(id, "decide calls itself defective");
            return;
        }
        self.settle_slots(id, &outcome);
        let was_paused = self.members[id].agent.config.pause;
        let name = self.members[id].name().clone();
        let agent = &mut self.members[id].agent;
        agent.reason = variant;
        let another_leads = agent.memory.another_leads(&name);
        agent.promise.end_cycle(agent.memory.leads(), another_leads);
        for reply in &outcome.replies {
            agent.requests.retain(|request| match request {
                Request::Restart { id, .. } | Request::Reinitialize { id, .. } => *id != reply.id,
            });
        }
        if let Some((cluster, _)) = &agent.memory.cluster
            && let Some(key) = &cluster.config
            && agent.config_version != Some(key.version)
        {
            let document = serde_json::Value::Object(key.value.clone());
            agent.config = Arc::new(DynamicConfig::read(&document, Minimums::TAMADA).0);
            agent.config_version = Some(key.version);
            if was_paused && !agent.config.pause {
                self.hazard(id);
            }
        }
        if let Some(exit) = outcome.exit {
            self.end_agent(id, exit, was_paused);
            return;
        }
        self.sleep(id, outcome.again_at);
    }

    /// What the end of a cycle means for logical slots: whether somebody was warned of one, and which settings hold.
    fn settle_slots(&mut self, id: Id, outcome: &Outcome) {
        let Member {
            node, agent, server, ..
        } = &mut self.members[id];
        let warning = "Logical replication slots that might be unsafe";
        let is_warned_of = outcome.notes.iter().any(|note| note.text.starts_with(warning));
        server.is_slot_doubtful.get_or_insert(is_warned_of);
        if let Some((cluster, _)) = &agent.memory.cluster {
            server.has_feedback = ha::forces_hot_standby_feedback(node, &agent.config, cluster);
        }
    }

    fn sleep(&mut self, id: Id, again_at: Option<Moment>) {
        let again = again_at.map(|moment| self.until(id, moment));
        let loop_wait = self.plan.loop_wait();
        let now = self.now;
        let agent = &mut self.members[id].agent;
        if agent.is_woken {
            agent.next_run = now + loop_wait;
            self.wake_after(id, Duration::from_micros(500));
            return;
        }
        agent.next_run += loop_wait;
        agent.next_run = agent.next_run.max(now);
        let nap = agent.next_run - now;
        self.wake_after(id, again.map_or(nap, |again| again.min(nap)));
    }

    fn end_agent(&mut self, id: Id, exit: Exit, was_paused: bool) {
        self.note(id, || format!("agent ends: {exit:?}"));
        self.kill_agent(id);
        match exit {
            Exit::Graceful => {
                if self.members[id].server.process != Process::Down {
                    if !was_paused {
                        self.break_rule(id, "the agent ended and left its server running");
                    }
                    // Nobody looks after the server until the next agent comes.
                    self.members[id].hazard_until = Duration::MAX;
                }
                self.marks.hit("graceful end");
            }
            Exit::Failure => {
                self.marks.hit("exit with failure");
                let delay = self.random.millis(5_000, 15_000);
                self.schedule(delay, Self::WORLD, move |world| world.boot_agent(id));
            }
            Exit::FailedBootstrap => {
                self.marks.hit("bootstrap failed");
                if self.members[id].server.process != Process::Down {
                    self.server_dies(id);
                }
                self.members[id].server.data = None;
                let delay = self.random.millis(5_000, 15_000);
                self.schedule(delay, Self::WORLD, move |world| world.boot_agent(id));
            }
        }
    }

    /// The agent's process is gone; the server is left as it is.
    pub(crate) fn kill_agent(&mut self, id: Id) {
        // What it would have said is not known.
        self.members[id].server.is_slot_doubtful.get_or_insert(true);
        let agent = &mut self.members[id].agent;
        agent.is_alive = false;
        agent.cycle = None;
        agent.job = None;
        agent.done = None;
        agent.requests.clear();
    }
}
