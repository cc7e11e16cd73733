//! The store of the simulated cluster, and how requests reach it, late, twice or never.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::dcs::memory::{Held, Refused, Session, Store};
use ::dcs::{Expect, Key, Layout, Renewed, Snapshot, WhenGone};
use ha::cluster::{Cluster, Sent};
use ha::facts::{Answer, DcsFailure, LockAnswer, Moment};
use ha::pg::MemberName;

use crate::world::{Id, Owner, World};

/// The store.
pub(crate) struct Dcs {
    pub(crate) store: Store,
    pub(crate) layout: Layout,
    pub(crate) is_down: bool,
    /// How long the store's clock has stood still in all: leases do not run out while nobody leads the store.
    stood_still: Duration,
    /// What the store held, and since when, newest last.
    readings: VecDeque<Reading>,
    next_expiry: Option<Duration>,
    /// When another store last took the place of this one.
    pub(crate) replaced_at: Option<Duration>,
}

/// What the store held from a moment on. It is taken apart only when somebody looks.
struct Reading {
    since: Duration,
    snapshot: Snapshot,
    cluster: OnceCell<Arc<Cluster>>,
}

impl Reading {
    fn new(since: Duration, snapshot: Snapshot) -> Self {
        Self {
            since,
            snapshot,
            cluster: OnceCell::new(),
        }
    }

    fn cluster(&self, layout: &Layout) -> Arc<Cluster> {
        Arc::clone(
            self.cluster
                .get_or_init(|| Arc::new(self.snapshot.cluster(layout))),
        )
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.snapshot.records.get(key).map(|record| record.value.as_str())
    }
}

impl Dcs {
    pub(crate) fn new() -> Self {
        Self {
            store: Store::new(),
            layout: Layout::new("/service/", "sim", None),
            is_down: false,
            stood_still: Duration::ZERO,
            readings: VecDeque::from([Reading::new(Duration::ZERO, Snapshot::default())]),
            next_expiry: None,
            replaced_at: None,
        }
    }

    /// What the store holds now.
    pub(crate) fn newest(&self) -> Arc<Cluster> {
        let newest = self.readings.back();
        newest
            .map(|reading| reading.cluster(&self.layout))
            .unwrap_or_default()
    }

    /// Who holds the leader key now.
    pub(crate) fn holder(&self) -> Option<MemberName> {
        let name = self.readings.back()?.value(&self.layout.leader())?;
        Some(MemberName::from(name))
    }
}

/// A request to the store.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Load,
    Acquire,
    Supersede(ha::cluster::Expired),
    Renew(WhenGone),
    Take,
    Release(Option<String>, Held),
    Write(Key, String, Expect),
    Delete(Key, Expect),
    Touch(String),
}

/// A call of an agent: a request that is tried until the time for it is over.
#[derive(Debug, Clone)]
struct Call {
    number: u64,
    /// It prolongs the lease while a step of the cycle is waited for; `number` is that of the renewal.
    is_meanwhile: bool,
    request: Request,
    begun: Duration,
    /// How long it is waited for.
    patience: Duration,
    sent_at: Moment,
    attempt: u32,
}

impl World {
    /// Sends a request; the answer goes to [`World::learn`].
    pub(crate) fn call_dcs(&mut self, id: Id, request: Request) {
        let patience = self.patience(id);
        let agent = &mut self.members[id].agent;
        agent.call += 1;
        let call = Call {
            number: agent.call,
            is_meanwhile: false,
            request,
            begun: self.now,
            patience,
            sent_at: Moment::default(),
            attempt: 0,
        };
        self.attempt(id, call);
    }

    /// Sends a renewal beside the step that is waited for; the answer goes to [`World::learn_meanwhile`].
    pub(crate) fn call_dcs_meanwhile(&mut self, id: Id) {
        let call = Call {
            number: self.members[id].agent.renewal,
            is_meanwhile: true,
            request: Request::Renew(WhenGone::Recreate),
            begun: self.now,
            patience: self.plan.retry_timeout(),
            sent_at: Moment::default(),
            attempt: 0,
        };
        // A store without a leader of its own may say so at once.
        if self.dcs.is_down && self.random.percent(30) {
            let delay = self.latency();
            let owner = self.as_agent(id);
            self.schedule(delay, owner, move |world| {
                if world.is_awaited(id, &call) {
                    let failure = DcsFailure("the store has no leader".to_owned());
                    world.learn_meanwhile(id, LockAnswer::Unknown(failure));
                }
            });
            return;
        }
        self.attempt(id, call);
    }

    fn is_awaited(&self, id: Id, call: &Call) -> bool {
        let agent = &self.members[id].agent;
        let newest = if call.is_meanwhile {
            agent.renewal
        } else {
            agent.call
        };
        newest == call.number
    }

    fn end_call(&mut self, id: Id, call: &Call, answer: Answer) {
        match answer {
            Answer::Lock(lock) if call.is_meanwhile => self.learn_meanwhile(id, lock),
            answer => {
                self.members[id].agent.call += 1;
                self.learn(id, answer);
            }
        }
    }

    fn latency(&mut self) -> Duration {
        if self.slow.dcs {
            let retry = self.plan.retry_timeout().as_millis() as u64;
            self.random.mostly(5, retry / 4, 20, retry)
        } else {
            self.random.mostly(1, 4, 2, 100)
        }
    }

    fn attempt(&mut self, id: Id, mut call: Call) {
        call.sent_at = self.clock(id);
        call.attempt += 1;
        let there = self.latency();
        if self.reaches_dcs(id) {
            let arriving = call.clone();
            let life = self.members[id].agent.life;
            self.schedule(there, Self::WORLD, move |world| world.arrive(id, life, &arriving));
        }
        let retry = self.plan.retry_timeout();
        let left = (call.begun + call.patience).saturating_sub(self.now);
        let patience = left.min(retry / 3 + Duration::from_millis(1));
        let owner = self.as_agent(id);
        self.schedule(patience, owner, move |world| world.give_up_attempt(id, call));
    }

    fn give_up_attempt(&mut self, id: Id, call: Call) {
        if !self.is_awaited(id, &call) {
            return;
        }
        if call.begun + call.patience > self.now + Duration::from_millis(10) {
            self.attempt(id, call);
            return;
        }
        self.marks.hit("dcs call failed");
        let failure = DcsFailure("the store did not answer in time".to_owned());
        let answer = match call.request {
            Request::Load => Answer::Cluster(Err(failure)),
            Request::Acquire
            | Request::Supersede(_)
            | Request::Renew(_)
            | Request::Take
            | Request::Release(..) => Answer::Lock(LockAnswer::Unknown(failure)),
            Request::Write(..) | Request::Delete(..) => Answer::Written(Err(failure)),
            Request::Touch(_) => Answer::Done(Err(failure.0)),
        };
        self.end_call(id, &call, answer);
    }

    /// The request is at the store, whether or not anybody still waits for it.
    fn arrive(&mut self, id: Id, life: u64, call: &Call) {
        if self.dcs.is_down || self.cut_from_dcs.contains(&id) || self.members[id].agent.life != life {
            return;
        }
        self.advance_store();
        // Nothing that was decided on what one store held is done in another.
        let generation = self.dcs.store.generation();
        let is_known = self.members[id].agent.generation == generation;
        if !is_known && !matches!(call.request, Request::Load) {
            return;
        }
        // A lease is granted and known before a key is bound to it: the answer to that may be lost, not the lease.
        let mut session = self.members[id].agent.session.clone();
        let answer = self.apply(id, &mut session, call);
        self.members[id].agent.session = session;
        self.store_changed();
        let revision = self.dcs.store.revision();
        let (call, back) = (call.clone(), self.latency());
        self.schedule(back, Owner::Agent(id, life), move |world| {
            if !world.is_awaited(id, &call) || !world.reaches_dcs(id) {
                return;
            }
            let agent = &mut world.members[id].agent;
            if let Answer::Cluster(Ok(cluster)) = &answer {
                agent.generation = cluster.generation;
            }
            agent.revision = agent.revision.max(revision);
            world.end_call(id, &call, answer);
        });
    }

    fn apply(&mut self, id: Id, session: &mut Session, call: &Call) -> Answer {
        let is_repeat = call.attempt > 1;
        // Each life of an agent is another one: a number of its own.
        let agent = id as u64 * 1_000_000 + self.members[id].agent.life;
        session.send_at(Sent::new(
            u32::try_from(agent).unwrap_or_default(),
            call.sent_at.0,
        ));
        let is_awaited = self.is_awaited(id, call);
        let store = &mut self.dcs.store;
        let held = || LockAnswer::Held {
            sent_at: call.sent_at,
        };
        let lock = |is_held: Result<bool, Refused>| {
            Answer::Lock(match is_held {
                Ok(true) => held(),
                Ok(false) => LockAnswer::NotHeld,
                Err(refused) => LockAnswer::Unknown(DcsFailure(refused.to_string())),
            })
        };
        let unknown = || Answer::Written(Err(DcsFailure("a repeated write was refused".to_owned())));
        let refused = |refused: Refused| Answer::Written(Err(DcsFailure(refused.to_string())));
        match &call.request {
            Request::Load => Answer::Cluster(Ok(self.reading(id))),
            Request::Acquire => lock(session.acquire_leader(store)),
            Request::Supersede(expired) => lock(session.supersede_leader(store, *expired)),
            Request::Renew(when_gone) => Answer::Lock(match session.renew_leader(store, *when_gone) {
                Ok(Renewed::Yes) => held(),
                Ok(Renewed::ByLeaseAlone(why)) => LockAnswer::HeldByLeaseAlone {
                    sent_at: call.sent_at,
                    why: DcsFailure(why),
                },
                Ok(Renewed::No) => LockAnswer::NotHeld,
                Err(refused) => LockAnswer::Unknown(DcsFailure(refused.to_string())),
            }),
            Request::Take => lock(session.take_leader(store)),
            Request::Release(status, held) => {
                let mut released = session.release_leader(store, *held, status.as_deref());
                // Who still waits reads what there is, and tries again; what arrives late does not.
                if released == Ok(false) && is_awaited {
                    let held = session.held(store);
                    released = session.release_leader(store, held, status.as_deref());
                }
                lock(released.map(|_| false))
            }
            Request::Write(key, value, expect) => match session.write(store, *key, value, *expect) {
                Ok(None) if is_repeat => unknown(),
                Ok(written) => Answer::Written(Ok(written)),
                Err(why) => refused(why),
            },
            Request::Delete(key, expect) => match session.delete(store, *key, *expect) {
                Ok(false) if is_repeat => unknown(),
                Ok(true) => Answer::Written(Ok(Some(ha::cluster::Version(store.revision())))),
                Ok(false) => Answer::Written(Ok(None)),
                Err(why) => refused(why),
            },
            Request::Touch(data) => match session.touch_member(store, data) {
                Ok(_) => Answer::Done(Ok(())),
                Err(Refused::NameTaken) => Answer::NameTaken,
                Err(refused) => Answer::Done(Err(refused.to_string())),
            },
        }
    }

    /// What the member's copy of the store holds: it may lag, but never behind the member's own writes.
    fn reading(&mut self, id: Id) -> Arc<Cluster> {
        let lag = Duration::from_millis(self.random.below(self.plan.stale_read_millis + 1));
        let own = self.members[id].agent.revision;
        let seen = self.now.saturating_sub(lag);
        let mut readings = self.dcs.readings.iter().rev();
        let reading = readings.find(|reading| reading.since <= seen || reading.snapshot.revision <= own);
        reading.map_or_else(|| self.dcs.newest(), |reading| reading.cluster(&self.dcs.layout))
    }

    /// Lets the store's leases run out.
    fn advance_store(&mut self) {
        let now = self.now.saturating_sub(self.dcs.stood_still);
        self.dcs.store.advance(now);
        self.store_changed();
    }

    /// The keys and leases of `backup`, or of an empty store, take the place of those that there are.
    pub(crate) fn put_store(&mut self, backup: &Store) {
        self.advance_store();
        self.dcs.store.restore(backup);
        self.dcs.next_expiry = None;
        self.dcs.replaced_at = Some(self.now);
        self.store_changed();
    }

    /// The store was away; with `leases_ran`, time went on for its leases meanwhile.
    pub(crate) fn restore_dcs(&mut self, away: Duration, leases_ran: bool) {
        self.dcs.is_down = false;
        if !leases_ran {
            self.dcs.stood_still += away;
        }
        self.dcs.next_expiry = None;
        self.advance_store();
    }

    /// Tells everybody who watches, if something has changed.
    pub(crate) fn store_changed(&mut self) {
        self.plan_expiry();
        let (generation, revision) = (self.dcs.store.generation(), self.dcs.store.revision());
        if self
            .dcs
            .readings
            .back()
            .is_some_and(|old| (old.snapshot.generation, old.snapshot.revision) == (generation, revision))
        {
            return;
        }
        let layout = &self.dcs.layout;
        let new = Reading::new(self.now, self.dcs.store.range(layout.prefix()));
        let mut watched = vec![layout.leader()];
        watched.extend([Key::Failover, Key::Config, Key::Initialize].map(|key| layout.key(key)));
        let old = self.dcs.readings.back();
        let changed = |key: &String| old.is_none_or(|old| old.value(key) != new.value(key));
        let leader_changed = changed(&layout.leader());
        let wakes = watched.iter().any(changed);
        self.dcs.readings.push_back(new);
        if self.dcs.readings.len() > 200 {
            self.dcs.readings.pop_front();
        }
        if leader_changed {
            let name = self.dcs.holder();
            self.note_world(|| format!("leader key: {name:?}"));
        }
        if !wakes {
            return;
        }
        for id in 0..self.members.len() {
            let delay = self.latency();
            let owner = self.as_agent(id);
            self.schedule(delay, owner, move |world| {
                if world.reaches_dcs(id) {
                    // What woke the member is in the copy that it reads from.
                    let agent = &mut world.members[id].agent;
                    agent.revision = agent.revision.max(revision);
                    world.wake(id);
                }
            });
        }
    }

    fn plan_expiry(&mut self) {
        let due = self.dcs.store.next_expiry();
        if due == self.dcs.next_expiry || self.dcs.is_down {
            return;
        }
        self.dcs.next_expiry = due;
        let Some(due) = due else { return };
        // etcd looks for leases that ran out twice a second.
        let delay = (due + self.dcs.stood_still).saturating_sub(self.now) + self.random.millis(0, 500);
        self.schedule(delay, Self::WORLD, move |world| {
            if !world.dcs.is_down && world.dcs.next_expiry == Some(due) {
                world.dcs.next_expiry = None;
                world.advance_store();
                world.plan_expiry();
            }
        });
    }

    /// A person's write to the store, by a tool that reaches it.
    pub(crate) fn write_by_hand(&mut self, key: Key, value: &str) {
        if self.dcs.is_down {
            return;
        }
        self.advance_store();
        let session = self.members[0].agent.session.clone();
        let _ = session.write(&mut self.dcs.store, key, value, Expect::Anything);
        self.store_changed();
    }

    /// A person removes a key.
    pub(crate) fn delete_by_hand(&mut self, key: Key) {
        self.advance_store();
        let session = self.members[0].agent.session.clone();
        let _ = session.delete(&mut self.dcs.store, key, Expect::Anything);
        self.store_changed();
    }
}
