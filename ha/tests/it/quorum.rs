//! The order of changes in synchronous replication, against a model of what standbys have and what was acknowledged:
//! in every order of events for two standbys, and along random ways for more.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use tamada_ha::pg::MemberName;
use tamada_ha::quorum::{Change, Claim, Situation, Target};
use tamada_ha::standby_names::{Method, StandbyNames};

const NAMES: [&str; 4] = ["b", "c", "d", "e"];

/// The primary, what it has written, and what its standbys have of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Model {
    situation: Situation,
    /// The setting that some of the server's processes may still have.
    before: Option<StandbyNames>,
    head: u8,
    has: Vec<u8>,
    acknowledged: u8,
    /// Where the primary was when the setting was in force for certain.
    since: Option<u8>,
}

impl Model {
    fn new(standbys: usize) -> Self {
        Self {
            situation: Situation {
                claim: Claim::default(),
                names: StandbyNames::default(),
                reached: BTreeSet::new(),
            },
            before: None,
            head: 0,
            has: vec![0; standbys],
            acknowledged: 0,
            since: None,
        }
    }

    fn has(&self, name: &MemberName) -> u8 {
        let place = NAMES.iter().position(|known| *known == name.0);
        place.and_then(|place| self.has.get(place)).copied().unwrap_or(0)
    }

    /// Acknowledges all that a server under this setting does.
    fn acknowledge(&mut self, names: &StandbyNames) {
        let mut have: Vec<u8> = names.names.iter().map(|name| self.has(name)).collect();
        have.sort_unstable_by(|a, b| b.cmp(a));
        let released = match names.number {
            0 => self.head,
            number => have.get(number - 1).copied().unwrap_or(0),
        };
        self.acknowledged = self.acknowledged.max(released);
    }

    /// Everything that the processes of the server may release now.
    fn release(&mut self) {
        let now = self.situation.names.clone();
        self.acknowledge(&now);
        if let Some(before) = self.before.clone() {
            self.acknowledge(&before);
            if now.method == Method::Any || before.method == Method::Any {
                self.acknowledge(&now.mixed_with(&before));
            }
        }
    }

    fn settle(&mut self) {
        self.before = None;
        self.since.get_or_insert(self.head);
    }

    fn observe(&mut self) {
        let Some(since) = self.since else { return };
        let reached = self
            .situation
            .names
            .names
            .iter()
            .filter(|name| self.has(name) >= since);
        let reached: Vec<MemberName> = reached.cloned().collect();
        self.situation.reached.extend(reached);
    }

    /// `false` when there is nothing to change.
    fn step(&mut self, target: &Target) -> bool {
        match self.situation.next(target) {
            None => false,
            // The next setting waits until this one is in force for certain.
            Some(Change::Arm(_)) if self.before.is_some() => false,
            Some(Change::Arm(names)) => {
                let before = std::mem::replace(&mut self.situation.names, names);
                self.before = Some(before);
                self.since = None;
                self.situation.reached.clear();
                true
            }
            Some(Change::Publish(claim)) => {
                self.situation.claim = claim;
                true
            }
        }
    }

    /// The rule of the race: whoever may win has everything; and what the winner publishes before it is promoted holds.
    fn check(&self) {
        let claim = &self.situation.claim;
        let lacking = claim
            .voters
            .iter()
            .filter(|name| self.has(name) < self.acknowledged);
        assert!(lacking.count() <= claim.quorum, "{self:?}");
        for winner in &claim.voters {
            let mine = self.has(winner);
            let others = claim.voters.iter().map(|name| self.has(name));
            let not_ahead = others.chain([self.head]).filter(|theirs| *theirs <= mine).count();
            if not_ahead > claim.quorum {
                assert!(mine >= self.acknowledged, "{winner} wins: {self:?}");
            }
        }
    }
}

/// What may be wanted of these standbys: those that stream, their number, and the mode.
fn targets(standbys: usize) -> Vec<Target> {
    let mut targets = Vec::new();
    for chosen in 0..1_usize << standbys {
        let live = NAMES.iter().take(standbys).enumerate();
        let live = live.filter(|(place, _)| chosen & (1 << place) != 0);
        let live: BTreeSet<MemberName> = live.map(|(_, name)| MemberName::from(*name)).collect();
        for number in 1..=2 {
            let first: BTreeSet<MemberName> = live.iter().take(number).cloned().collect();
            targets.push(Target {
                names: StandbyNames::all(first.clone()),
                voters: first,
                live: live.clone(),
                counts_votes: false,
            });
            targets.push(Target {
                names: StandbyNames::any(number, live.clone()),
                voters: live.clone(),
                live: live.clone(),
                counts_votes: true,
            });
        }
    }
    targets
}

/// All that may happen next.
fn successors(model: &Model, targets: &[Target], head_max: u8) -> Vec<Model> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Model)| {
        let mut next = model.clone();
        change(&mut next);
        all.push(next);
    };
    if model.head < head_max {
        add(&|next| next.head += 1);
    }
    for place in 0..model.has.len() {
        if model.has[place] < model.head {
            add(&|next| next.has[place] += 1);
        }
    }
    add(&Model::release);
    add(&Model::settle);
    add(&Model::observe);
    for target in targets {
        add(&|next| {
            next.step(target);
        });
    }
    all
}

/// With nothing else happening and everybody caught up, the target is reached.
fn arrives(model: &Model, target: &Target) {
    let mut quiet = model.clone();
    for _ in 0..12 {
        if quiet.situation.has_arrived(target) {
            return;
        }
        for (place, name) in NAMES.iter().enumerate().take(quiet.has.len()) {
            if target.live.contains(&MemberName::from(*name)) {
                quiet.has[place] = quiet.head;
            }
        }
        quiet.settle();
        quiet.observe();
        quiet.step(target);
        quiet.check();
    }
    panic!("{target:?} is not reached from {model:?}: {quiet:?}");
}

#[test]
fn in_every_order_of_events_nobody_takes_over_who_lacks_something() {
    let targets = targets(2);
    let mut seen = HashSet::from([Model::new(2)]);
    let mut open = vec![Model::new(2)];
    while let Some(model) = open.pop() {
        model.check();
        for next in successors(&model, &targets, 2) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    println!("{} states", seen.len());
    assert!(seen.len() > 1000);
    for model in seen.iter().filter(|model| model.head == 1) {
        targets.iter().for_each(|target| arrives(model, target));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn on_random_ways_as_well(ways in prop::collection::vec(any::<prop::sample::Index>(), 1..150)) {
        let targets = targets(4);
        let mut model = Model::new(4);
        for (number, way) in ways.iter().enumerate() {
            let next = successors(&model, &targets, 60);
            // As many steps of the plan as other events.
            let (events, steps) = next.split_at(next.len() - targets.len());
            model = if number % 3 == 0 { way.get(steps).clone() } else { way.get(events).clone() };
            model.check();
        }
        way_ends(&model, &targets);
    }
}

fn way_ends(model: &Model, targets: &[Target]) {
    targets.iter().for_each(|target| arrives(model, target));
}

/// A primary with these standbys, all caught up; each step of the plan as a line.
fn trace(steps: &[(&[&str], usize)]) -> Vec<String> {
    let mut model = Model::new(4);
    let mut lines = Vec::new();
    for (live, number) in steps {
        let live: BTreeSet<MemberName> = live.iter().map(|name| MemberName::from(*name)).collect();
        let target = Target {
            names: StandbyNames::any(*number, live.clone()),
            voters: live.clone(),
            live,
            counts_votes: true,
        };
        for _ in 0..6 {
            let before = model.situation.clone();
            if model.step(&target) {
                let now = &model.situation;
                if now.names != before.names {
                    lines.push(format!("sync {}", now.names));
                } else {
                    let voters: Vec<&str> = now.claim.voters.iter().map(MemberName::as_str).collect();
                    lines.push(format!("quorum {} {}", now.claim.quorum, voters.join(",")));
                }
            }
            model.settle();
            model.observe();
        }
        assert!(model.situation.has_arrived(&target), "{lines:?}");
    }
    lines
}

#[test]
fn the_ways_are_short() {
    let first = ["sync ANY 1 (b)", "quorum 0 b"];
    assert_eq!(trace(&[(&["b"], 1)]), first);
    let both: &[&str] = &["b", "c"];
    assert_eq!(
        trace(&[(&["b"], 1), (both, 1), (both, 2), (both, 1)])[2..],
        [
            "quorum 1 b,c",
            "sync ANY 1 (b,c)",
            "sync ANY 2 (b,c)",
            "quorum 0 b,c",
            "quorum 1 b,c",
            "sync ANY 1 (b,c)",
        ],
        "one more, then two to wait for, then one again"
    );
    assert_eq!(
        trace(&[(both, 1), (&["b"], 1), (&[], 1)]),
        [
            "sync ANY 1 (b,c)",
            "quorum 1 b,c",
            "sync ANY 1 (b)",
            "quorum 0 b",
            "quorum 0 ",
            "sync ",
        ],
        "one is lost, then all"
    );
}
