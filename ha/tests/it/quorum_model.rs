//! A whole cluster in every order of events, gone through by a model checker: whoever takes over between any two
//! changes of `synchronous_standby_names` and of the key `sync` has every commit that was acknowledged, and the changes
//! come to an end.
//!
//! The changes are those of [`Situation::next`]. Whether a member takes over, what it publishes then and whom its first
//! commit waits for is what [`tamada_ha::decide`] says of the key and of what the others answer. The rest is the world:
//! standbys get WAL when they will, leaders crash and come back, and what PostgreSQL may acknowledge it does at once.
//!
//! Every event uses something up, so that no way is endless: what never settles is found at its end.

mod world;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use stateright::{Checker, HasDiscoveries, Model, Property};
use tamada_ha::cluster::{SyncState, Version};
use tamada_ha::quorum::{Change, Claim, Situation, Target};
use tamada_ha::standby_names::StandbyNames;
use tamada_ha::step::{Action, Key, Step, Task};

use crate::language;
use world::{Asked, Left, Members, Phase, Place, Published, Setting, State};

const NOTHING_IS_LOST: &str = "whoever takes over has every acknowledged commit";
const THE_CLAIM_HOLDS: &str = "of any quorum + 1 voters one has every acknowledged commit";
const EACH_STEP_IS_SAFE: &str = "a step is one change, and what is published holds before it and after";
const STEPS_ARE_FEW: &str = "few steps lead to what is wanted";
const STEPS_GO_ON: &str = "the steps do not end before";
const ALL_IS_AS_WANTED: &str = "at last all is as wanted";

/// So many changes bring about whatever is wanted.
const CHANGES_MAX: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A transaction ends on the primary.
    Write,
    /// A standby gets the next record, or is rewound.
    Receive(Place),
    /// All of the primary's processes have read the setting.
    Settle,
    /// The primary looks who has reached what, and makes the next change.
    Step,
    /// A standby may be waited for.
    Join(Place),
    /// It may not any more.
    Leave(Place),
    /// `synchronous_node_count` changes.
    WaitFor(usize),
    /// `synchronous_mode` changes.
    SwitchMode,
    /// The leader is gone.
    Crash,
    /// And is back, as a replica.
    Return(Place),
    /// A member wins the race, in the mode that it knows of, and publishes that.
    TakeOver(Place, bool),
    Promote,
}

type Next = fn(&Situation, &Target) -> Option<Change>;

/// What a primary answers to [`Asked`].
struct Plan {
    next: Option<Change>,
    has_arrived: bool,
    /// It is one change, and what is published holds before it and after.
    is_safe: bool,
}

fn plan(asked: &Asked, next: Next) -> Plan {
    let wanted = asked.wanted.setting;
    let target = Target {
        names: wanted.names(),
        voters: wanted.members.names(),
        live: wanted.members.names(),
        counts_votes: asked.wanted.counts_votes,
    };
    let situation = Situation {
        claim: asked.published.claim(),
        names: asked.setting.names(),
        reached: asked.reached.names(),
    };
    let (claim, names) = (&situation.claim, &situation.names);
    let next = next(&situation, &target);
    let is_safe = match &next {
        None => true,
        Some(Change::Publish(next)) => next != claim && next.holds_under(names),
        Some(Change::Arm(next)) => next != names && claim.holds_under(names) && claim.holds_under(next),
    };
    Plan {
        has_arrived: situation.has_arrived(&target),
        next,
        is_safe,
    }
}

/// What a member publishes before its promotion, if that is not there yet, and whom its first commit waits for; `None`
/// when it is not promoted.
type Won = Option<(Option<Published>, Setting)>;

/// Lets a member race with the answers of some of the others: any of them may be out of reach.
fn race(scenario: &str) -> Won {
    let (peers, rest): (Vec<&str>, Vec<&str>) = scenario.lines().partition(|line| line.starts_with("peer "));
    (0..1 << peers.len()).map(Members).find_map(|answering| {
        let answers = answering.places().map(|place| peers[place]);
        let lines: Vec<&str> = rest.iter().copied().chain(answers).collect();
        let (mut published, mut setting) = (None, Setting::default());
        for step in language::steps(&lines.join("\n")) {
            match step {
                Step::Act(Action::Write {
                    key: Key::Sync,
                    value,
                    ..
                }) => {
                    let sync = SyncState::parse(Version(1), &value);
                    let (voters, quorum) = (sync.voters.iter().collect(), sync.quorum);
                    published = Some(Published { voters, quorum });
                }
                Step::Act(Action::SetSynchronousStandbyNames(Some(text))) => {
                    setting = Setting::of(&StandbyNames::parse(&text).unwrap());
                }
                Step::Act(Action::Begin(Task::Promote { .. })) => return Some((published, setting)),
                Step::Act(_) | Step::Observe(_) | Step::Finish(_) => {}
            }
        }
        None
    })
}

/// Answers that were given before.
struct Memo<K, V>(Mutex<HashMap<K, V>>);

impl<K: Hash + Eq, V: Clone> Memo<K, V> {
    fn get(&self, key: K, ask: impl FnOnce(&K) -> V) -> V {
        self.0.lock().unwrap().entry(key).or_insert_with_key(ask).clone()
    }
}

/// What may happen to a cluster of `N` members.
struct Cluster<const N: usize> {
    /// Whether `synchronous_mode` is `quorum`.
    modes: &'static [bool],
    left: Left,
    /// What a primary changes next.
    next: Next,
    /// Members tell which promotion their timeline comes from; those of Patroni do not.
    tell_origins: bool,
    plans: Memo<Asked, Arc<Plan>>,
    races: Memo<String, Won>,
}

impl<const N: usize> Cluster<N> {
    fn new(modes: &'static [bool], records: u8, wishes: u8, crashes: u8) -> Self {
        Self {
            modes,
            left: Left {
                records,
                wishes,
                crashes,
            },
            next: Situation::next,
            tell_origins: true,
            plans: Memo(Mutex::default()),
            races: Memo(Mutex::default()),
        }
    }

    fn plan(&self, state: &State<N>) -> Option<Arc<Plan>> {
        let asked = (state.phase == Phase::Led).then(|| state.asked())?;
        Some(self.plans.get(asked, |asked| Arc::new(plan(asked, self.next))))
    }

    /// All who shall be waited for have everything, and there is nothing to do although something else is wanted.
    fn is_stuck(&self, state: &State<N>) -> bool {
        let has_all = |place: Place| state.wal[place] == state.wal[state.leader];
        let all_have_all = state.wanted().setting.members.places().all(has_all);
        let is_quiet = state.before.is_none() && state.since.is_some() && all_have_all;
        let ends_early = |plan: Arc<Plan>| plan.next.is_none() && !plan.has_arrived;
        is_quiet && self.plan(state).is_some_and(ends_early)
    }

    /// This stays so, whatever happens.
    fn is_settled(&self, state: &State<N>) -> bool {
        let is_over = state.left == Left::default() && state.streaming().count() + 1 == N;
        is_over && self.plan(state).is_some_and(|plan| plan.has_arrived)
    }

    /// What may happen to a primary and its standbys, and what else may be wanted.
    fn under_a_primary(&self, state: &State<N>, standbys: &[Place], events: &mut Vec<Event>) {
        events.extend([Event::Settle, Event::Step]);
        events.extend(standbys.iter().copied().map(Event::Receive));
        if state.left.records > 0 {
            events.push(Event::Write);
        }
        if state.left.wishes > 0 {
            events.extend(standbys.iter().map(|place| match state.away.has(*place) {
                true => Event::Join(*place),
                false => Event::Leave(*place),
            }));
            events.push(Event::WaitFor(3 - state.number));
            events.extend((self.modes.len() > 1).then_some(Event::SwitchMode));
        }
    }
}

impl<const N: usize> Model for Cluster<N> {
    type State = State<N>;
    type Action = Event;

    /// The standbys that are there, how many of them are to be waited for, and the mode. Which ones these are is all the
    /// same.
    fn init_states(&self) -> Vec<State<N>> {
        let away = (0..N).map(|there| (there + 1..N).collect());
        let numbers = away.flat_map(|away| [(away, 1), (away, 2)]);
        let modes = |(away, number)| self.modes.iter().map(move |mode| (away, number, *mode));
        let all = numbers.flat_map(modes);
        all.map(|(away, number, mode)| State::new(self.left, away, number, mode))
            .collect()
    }

    fn actions(&self, state: &State<N>, events: &mut Vec<Event>) {
        let others = (0..N).filter(|place| !state.leads(*place));
        let (up, down): (Vec<Place>, Vec<Place>) = others.partition(|place| state.up.has(*place));
        events.extend(down.into_iter().map(Event::Return));
        if state.left.crashes > 0 && state.phase != Phase::Leaderless {
            events.push(Event::Crash);
        }
        match state.phase {
            Phase::Leaderless => {
                let races = |place| self.modes.iter().map(move |mode| Event::TakeOver(place, *mode));
                events.extend(up.into_iter().flat_map(races));
            }
            Phase::Elected => events.push(Event::Promote),
            Phase::Led => self.under_a_primary(state, &up, events),
        }
    }

    fn next_state(&self, before: &State<N>, event: Event) -> Option<State<N>> {
        let mut state = *before;
        match event {
            Event::Write => state.write(),
            Event::Receive(place) => state.receive(place),
            Event::Settle => state.settle(),
            Event::Step if state.changes > CHANGES_MAX => return None,
            Event::Step => state.change(self.plan(&state)?.next.as_ref()?)?,
            Event::Join(place) => state.away = state.away.without(place),
            Event::Leave(place) => state.away = state.away.with(place),
            Event::WaitFor(number) => state.number = number,
            Event::SwitchMode => state.by_quorum = !state.by_quorum,
            Event::Crash => state.crash(),
            Event::Return(place) => state.up = state.up.with(place),
            Event::TakeOver(place, by_quorum) => {
                let scenario = state.scenario(place, by_quorum, self.tell_origins);
                let (published, setting) = self.races.get(scenario, |scenario| race(scenario))?;
                state.elect(place, published, setting);
            }
            Event::Promote => state.promote(),
        }
        match event {
            Event::Write => state.left.records -= 1,
            Event::Join(_) | Event::Leave(_) | Event::WaitFor(_) | Event::SwitchMode => {
                state.left.wishes -= 1
            }
            Event::Crash => state.left.crashes -= 1,
            Event::Receive(_) | Event::Settle | Event::Step => {}
            Event::Return(_) | Event::TakeOver(..) | Event::Promote => {}
        }
        state.release();
        if state.wanted() != before.wanted() {
            state.changes = 0;
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOTHING_IS_LOST, |_, state: &State<N>| {
                state.phase == Phase::Leaderless || !state.lacks_something(state.leader)
            }),
            Property::always(THE_CLAIM_HOLDS, |_, state: &State<N>| {
                let Published { voters, quorum } = state.published;
                voters
                    .places()
                    .filter(|place| state.lacks_something(*place))
                    .count()
                    <= quorum
            }),
            Property::always(EACH_STEP_IS_SAFE, |model: &Self, state| {
                model.plan(state).is_none_or(|plan| plan.is_safe)
            }),
            Property::always(STEPS_ARE_FEW, |_, state: &State<N>| state.changes <= CHANGES_MAX),
            Property::always(STEPS_GO_ON, |model: &Self, state| !model.is_stuck(state)),
            Property::eventually(ALL_IS_AS_WANTED, |model: &Self, state| model.is_settled(state)),
            Property::sometimes(
                "a member is elected while others lack something",
                |_, state: &State<N>| {
                    state.phase == Phase::Elected
                        && state.up.places().any(|place| state.lacks_something(place))
                },
            ),
        ]
    }
}

const ON: &[bool] = &[false];
const QUORUM: &[bool] = &[true];

/// Goes through all that may happen; returns how many states there are.
fn hold<const N: usize>(cluster: Cluster<N>) -> usize {
    let checker = cluster.checker().finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

/// Finds a way on which this does not hold.
fn refute(property: &'static str, cluster: Cluster<3>) -> impl Checker<Cluster<3>> {
    let is_refuted = HasDiscoveries::AnyOf([property].into());
    let checker = cluster.checker().finish_when(is_refuted).spawn_bfs().join();
    checker.assert_any_discovery(property);
    checker
}

/// A primary that changes something else than it should.
fn changing(next: Next, modes: &'static [bool]) -> Cluster<3> {
    let cluster = Cluster::new(modes, 1, 1, 1);
    Cluster { next, ..cluster }
}

#[test]
fn all_of_the_chosen_standbys_are_waited_for() {
    println!("{} states", hold::<3>(Cluster::new(ON, 1, 1, 1)));
}

#[test]
fn any_of_the_standbys_are_waited_for() {
    println!("{} states", hold::<3>(Cluster::new(QUORUM, 1, 1, 1)));
}

#[test]
#[ignore = "long: make test-all"]
fn four_members() {
    println!("{} states", hold::<4>(Cluster::new(ON, 1, 1, 1)));
    println!("{} states by quorum", hold::<4>(Cluster::new(QUORUM, 1, 1, 1)));
}

#[test]
#[ignore = "long: make test-all"]
fn all_are_waited_for_and_two_leaders_crash() {
    println!("{} states", hold::<3>(Cluster::new(ON, 1, 1, 2)));
}

#[test]
fn any_are_waited_for_and_two_leaders_crash() {
    println!("{} states", hold::<3>(Cluster::new(QUORUM, 1, 1, 2)));
}

#[test]
fn the_mode_changes() {
    println!("{} states", hold::<3>(Cluster::new(&[false, true], 1, 2, 1)));
}

fn publish(situation: &Situation, target: &Target) -> Option<Change> {
    (situation.claim != target.claim()).then(|| Change::Publish(target.claim()))
}

fn arm(situation: &Situation, target: &Target) -> Option<Change> {
    (situation.names != target.names).then(|| Change::Arm(target.names.clone()))
}

/// Whom commits wait for counts as having all.
fn change_blindly(situation: &Situation, target: &Target) -> Option<Change> {
    let mut believed = situation.clone();
    believed.reached.extend(situation.names.names.iter().cloned());
    believed.next(target)
}

/// The key lists who is not waited for yet, lists who has not caught up, or still lists who is not waited for any more.
#[test]
fn in_another_order_commits_are_lost() {
    use Event::{Crash, Receive, Settle, Step, TakeOver, WaitFor, Write};
    for (modes, by_quorum) in [(ON, false), (QUORUM, true)] {
        let loses = |next: Next, way: &[&[Event]]| {
            let checker = refute(NOTHING_IS_LOST, changing(next, modes));
            checker.assert_discovery(NOTHING_IS_LOST, way.concat());
        };
        let b_wins = [Crash, TakeOver(1, by_quorum)];
        loses(
            |from, to| publish(from, to).or_else(|| arm(from, to)),
            &[&[Step, Write], &b_wins],
        );
        loses(change_blindly, &[&[Write, Step, Step], &b_wins]);
        // With `FIRST` it is the second one that is not waited for any more, with `ANY` the one that is late.
        let (has, lacks) = if by_quorum { (2, 1) } else { (1, 2) };
        let fewer = [Step, Settle, Step, WaitFor(1), Step];
        let wins = [Crash, TakeOver(lacks, by_quorum)];
        loses(
            |from, to| arm(from, to).or_else(|| publish(from, to)),
            &[&fewer, &[Write, Receive(has)], &wins],
        );
    }
}

#[test]
fn what_stands_still_or_goes_in_circles_is_found() {
    for modes in [ON, QUORUM] {
        refute(STEPS_GO_ON, changing(|_, _| None, modes));
        refute(ALL_IS_AS_WANTED, changing(|_, _| None, modes));
        let circle: Next = |from, to| from.next(to).or(Some(Change::Publish(Claim::default())));
        refute(STEPS_ARE_FEW, changing(circle, modes));
        refute(EACH_STEP_IS_SAFE, changing(publish, modes));
        refute(THE_CLAIM_HOLDS, changing(publish, modes));
    }
}

/// Two leaders in a row are promoted to timelines of one number, as the second one knows nothing of the first. When it is
/// gone too, a member on the first one's timeline must not win, which lacks what the second one acknowledged. (The record
/// that begins a timeline stands for a commit here.)
#[test]
fn timelines_of_one_number_are_told_apart() {
    use Event::{Crash, Promote, Receive, Return, Settle, Step, TakeOver};
    println!("{} states", hold::<3>(Cluster::new(QUORUM, 0, 0, 3)));
    let armed = [Step, Settle, Step, Crash];
    let b_leads = [TakeOver(1, true), Promote, Crash, Return(0)];
    let c_leads = [TakeOver(2, true), Promote, Receive(0), Crash, Return(1)];
    let way = [&armed[..], &b_leads, &c_leads, &[TakeOver(1, true)]].concat();
    let of_patroni = Cluster {
        tell_origins: false,
        ..Cluster::new(QUORUM, 0, 0, 3)
    };
    refute(NOTHING_IS_LOST, of_patroni).assert_discovery(NOTHING_IS_LOST, way);
}
