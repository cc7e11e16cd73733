//! The cluster: members, network, store and clients, moved by a queue of events in simulated time.
//!
//! An event belongs to the world, to one life of an agent, or to one life of a server, and is dropped when that life has
//! ended. Events of a frozen host wait until it goes on. Nothing here decides: what members do is what [`ha::decide`]
//! says, step by step, and each step takes time in which everybody else goes on.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use ha::cluster::Tags;
use ha::facts::{Moment, Node};
use ha::pg::MemberName;

use crate::agent::Agent;
use crate::check::Violation;
use crate::consumer::Consumer;
use crate::dcs::Dcs;
use crate::journal::Journal;
use crate::marks::Marks;
use crate::plan::Plan;
use crate::random::Random;
use crate::server::Server;
use crate::slots::Vacuum;
use crate::wal::{Position, Wal};
use crate::workload::Ledger;

/// The index of a member.
pub(crate) type Id = usize;

/// Whose event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    World,
    Agent(Id, u64),
    Server(Id, u64),
}

type Act = Box<dyn FnOnce(&mut World)>;

struct Scheduled {
    at: Duration,
    number: u64,
    owner: Owner,
    act: Act,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest: the heap gives it first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A machine with its agent and server.
pub(crate) struct Member {
    pub(crate) node: Arc<Node>,
    pub(crate) agent: Agent,
    pub(crate) server: Server,
    /// The host stands still; so does everything on it.
    pub(crate) is_frozen: bool,
    deferred: Vec<(Owner, Act)>,
    clock_offset: Duration,
    /// How much the clock gains, in parts per million.
    clock_drift: u64,
    /// Without a guard, two primaries are possible until then.
    pub(crate) hazard_until: Duration,
    /// Since when its postmaster hangs.
    pub(crate) hangs_since: Option<Duration>,
    /// It cannot take part: another cluster's data.
    pub(crate) is_foreign: bool,
    /// Somebody has asked for a new copy, whatever is there.
    pub(crate) reinitialize_is_asked: bool,
    /// Its agent cannot look at server and data directory.
    pub(crate) is_blind: bool,
}

impl Member {
    pub(crate) fn name(&self) -> &MemberName {
        &self.node.name
    }

    fn life(&self, owner: Owner) -> bool {
        match owner {
            Owner::World => true,
            Owner::Agent(_, life) => self.agent.is_alive && self.agent.life == life,
            Owner::Server(_, life) => self.server.life == life,
        }
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) now: Duration,
    queue: BinaryHeap<Scheduled>,
    number: u64,
    pub(crate) random: Random,
    pub(crate) plan: Plan,
    pub(crate) members: Vec<Member>,
    /// Pairs that do not reach each other, smaller index first.
    pub(crate) cut: BTreeSet<(Id, Id)>,
    /// Members that do not reach the DCS.
    pub(crate) cut_from_dcs: BTreeSet<Id>,
    pub(crate) dcs: Dcs,
    pub(crate) wal: Wal,
    pub(crate) ledger: Ledger,
    pub(crate) vacuums: Vec<Vacuum>,
    pub(crate) consumer: Consumer,
    /// Somebody has asked for a failover by hand, which may lose what was acknowledged.
    pub(crate) accepts_loss: bool,
    /// Which paths were taken.
    pub(crate) marks: Marks,
    pub(crate) journal: Journal,
    pub(crate) violation: Option<Violation>,
    /// When something last went wrong or was still wrong.
    pub(crate) disturbed_at: Duration,
    /// How much of everything is slow now.
    pub(crate) slow: Slow,
    pub(crate) is_paused: bool,
    /// When this last became a standby cluster, if it was none before.
    pub(crate) standby_since: Option<Duration>,
    /// Where the primary was when writes were last taken.
    pub(crate) last_primary: Option<Id>,
    pub(crate) next_request: u64,
    /// What the cluster last acknowledged, and whether it was handed over in quiet.
    pub(crate) handover: Option<Handover>,
    /// The leader key was released for a switchover when nothing was wrong: by whom, and when.
    pub(crate) released: Option<Handover>,
    /// Nothing is wrong but that the store is another one: no member's data is touched.
    pub(crate) keeps_data: bool,
}

/// A switchover or a graceful stop that began when nothing was wrong: no acknowledged write may get lost in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handover {
    pub(crate) from: Id,
    pub(crate) begun: Duration,
}

/// What is slow at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slow {
    pub(crate) dcs: bool,
    pub(crate) server: bool,
    pub(crate) replication: bool,
}

impl World {
    /// The cluster of `plan` before anything has happened.
    pub(crate) fn new(plan: Plan, mut random: Random, journal: Journal) -> Self {
        let members = (0..plan.members + usize::from(plan.has_remote))
            .map(|id| member(&plan, &mut random, id))
            .collect();
        let mut world = Self {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            number: 0,
            dcs: Dcs::new(),
            random,
            plan,
            members,
            cut: BTreeSet::new(),
            cut_from_dcs: BTreeSet::new(),
            wal: Wal::default(),
            ledger: Ledger::default(),
            vacuums: Vec::new(),
            consumer: Consumer::default(),
            accepts_loss: false,
            marks: Marks::default(),
            journal,
            violation: None,
            disturbed_at: Duration::ZERO,
            slow: Slow::default(),
            is_paused: false,
            standby_since: None,
            last_primary: None,
            next_request: 0,
            handover: None,
            released: None,
            keeps_data: false,
        };
        world.create_remote();
        for id in world.ids() {
            let delay = world.random.millis(0, 2000);
            world.schedule(delay, Owner::World, move |world| world.boot_agent(id));
        }
        world.schedule(Duration::from_millis(100), Owner::World, Self::write_as_client);
        if world.plan.has_logical_slot {
            world.schedule(Duration::from_millis(100), Owner::World, Self::keep_slots);
        }
        world
    }

    /// Lets events happen until `end`, or until a rule is broken.
    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(next) if next.at <= end => self.step(),
                Some(_) | None => {
                    self.now = self.now.max(end);
                    return;
                }
            }
        }
    }

    /// Lets events happen until `condition` holds; whether it does before `end`.
    pub(crate) fn run_until_true(&mut self, end: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        while self.violation.is_none() && self.now < end {
            if condition(self) {
                return true;
            }
            self.step();
        }
        false
    }

    fn step(&mut self) {
        let Some(Scheduled { at, owner, act, .. }) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(at);
        if let Owner::Agent(id, _) | Owner::Server(id, _) = owner {
            let member = &mut self.members[id];
            if !member.life(owner) {
                return;
            }
            if member.is_frozen {
                member.deferred.push((owner, act));
                return;
            }
        }
        act(self);
        self.check();
    }

    /// Lets `act` happen `delay` from now, if its owner still lives then.
    pub(crate) fn schedule(&mut self, delay: Duration, owner: Owner, act: impl FnOnce(&mut Self) + 'static) {
        self.schedule_boxed(delay, owner, Box::new(act));
    }

    fn schedule_boxed(&mut self, delay: Duration, owner: Owner, act: Act) {
        self.number += 1;
        self.queue.push(Scheduled {
            at: self.now + delay,
            number: self.number,
            owner,
            act,
        });
    }

    /// The owner of what this life of the agent does.
    pub(crate) fn as_agent(&self, id: Id) -> Owner {
        Owner::Agent(id, self.members[id].agent.life)
    }

    /// The owner of what this life of the server does.
    pub(crate) fn as_server(&self, id: Id) -> Owner {
        Owner::Server(id, self.members[id].server.life)
    }

    /// Stops a whole host.
    pub(crate) fn freeze(&mut self, id: Id) {
        self.members[id].is_frozen = true;
    }

    /// Lets a host go on, with everything that waited, in order.
    pub(crate) fn thaw(&mut self, id: Id) {
        let member = &mut self.members[id];
        if !member.is_frozen {
            return;
        }
        member.is_frozen = false;
        let deferred = std::mem::take(&mut member.deferred);
        if self.plan.has_guard {
            self.guard(id);
        } else {
            self.hazard(id);
        }
        let mut delay = Duration::ZERO;
        for (owner, act) in deferred {
            delay += self.random.millis(0, 3);
            self.schedule_boxed(delay, owner, act);
        }
        self.resume_streams();
    }

    /// From now on two primaries are possible because of this member, until its agent must have noticed.
    pub(crate) fn hazard(&mut self, id: Id) {
        let plan = &self.plan;
        let bound = plan.loop_wait() + plan.retry_timeout() * 3 + Duration::from_secs(5);
        let member = &mut self.members[id];
        if member.agent.is_alive || member.hazard_until != Duration::MAX {
            member.hazard_until = self.now + bound;
        }
    }

    /// All members.
    pub(crate) fn ids(&self) -> std::ops::Range<Id> {
        0..self.plan.members
    }

    /// Whether two members reach each other, and both are there to answer.
    pub(crate) fn reaches(&self, from: Id, to: Id) -> bool {
        let pair = (from.min(to), from.max(to));
        !self.cut.contains(&pair) && !self.members[from].is_frozen && !self.members[to].is_frozen
    }

    /// Whether a member reaches the DCS.
    pub(crate) fn reaches_dcs(&self, id: Id) -> bool {
        !self.dcs.is_down && !self.cut_from_dcs.contains(&id) && !self.members[id].is_frozen
    }

    /// What the member's clock shows.
    pub(crate) fn clock(&self, id: Id) -> Moment {
        let member = &self.members[id];
        let gain = self.now.as_micros() as u64 / 1_000_000 * member.clock_drift;
        Moment(member.clock_offset + self.now + Duration::from_micros(gain))
    }

    /// How long it is until the member's clock shows `moment`; the clock's gain in that time is left out.
    pub(crate) fn until(&self, id: Id, moment: Moment) -> Duration {
        moment.since(self.clock(id))
    }

    /// The member of that name.
    pub(crate) fn find(&self, name: &MemberName) -> Option<Id> {
        self.members.iter().position(|member| member.name() == name)
    }

    /// A line for the journal.
    pub(crate) fn note(&mut self, id: Id, text: impl FnOnce() -> String) {
        let who = self.members[id].node.name.as_str();
        self.journal.add(self.now, who, text);
    }

    /// A line for the journal about everybody.
    pub(crate) fn note_world(&mut self, text: impl FnOnce() -> String) {
        self.journal.add(self.now, "--", text);
    }

    /// Where a member's WAL ends.
    pub(crate) fn position(&self, id: Id) -> Option<Position> {
        self.members[id].server.data.as_ref().map(|data| data.at)
    }
}

fn member(plan: &Plan, random: &mut Random, id: Id) -> Member {
    let name = if id < plan.members {
        format!("m{}", id + 1)
    } else {
        "remote".to_owned()
    };
    let mut tags = serde_json::Map::new();
    if plan.has_nofailover && id == 1 {
        tags.insert("nofailover".to_owned(), true.into());
    } else if plan.has_priorities {
        tags.insert("failover_priority".to_owned(), (id + 1).into());
    }
    if plan.without_stream == Some(id) {
        tags.insert("nostream".to_owned(), true.into());
    }
    if let Some((_, upstream)) = plan.replicate_from.iter().find(|(member, _)| *member == id) {
        tags.insert("replicatefrom".to_owned(), format!("m{}", upstream + 1).into());
    }
    if plan.has_nosync && id + 1 == plan.members && plan.members > 2 {
        tags.insert("nosync".to_owned(), true.into());
    }
    let node = Node {
        scope: "sim".to_owned(),
        conn_url: format!("postgres://{name}:5432/postgres"),
        api_url: format!("http://{name}:8008/patroni"),
        name: MemberName(name),
        proxy_url: None,
        tags: Tags(tags),
        version: "4.1.5".to_owned(),
        may_bootstrap: true,
        has_custom_bootstrap: false,
        has_method_without_leader: false,
        use_slots: plan.use_slots,
        use_pg_rewind: plan.use_pg_rewind,
        remove_data_directory_on_rewind_failure: plan.may_remove_data,
        remove_data_directory_on_diverged_timelines: plan.may_remove_data,
        config_json: plan.config(false).to_string(),
        citus_group: None,
        server_version: if plan.is_old_postgresql { 120_010 } else { 150_004 },
    };
    Member {
        agent: Agent::new(&node, plan),
        node: Arc::new(node),
        server: Server::default(),
        is_frozen: false,
        deferred: Vec::new(),
        clock_offset: random.millis(1_000, 1_000_000),
        clock_drift: random.below(plan.drift_parts_per_million + 1),
        hazard_until: Duration::ZERO,
        hangs_since: None,
        is_foreign: false,
        reinitialize_is_asked: false,
        is_blind: false,
    }
}
