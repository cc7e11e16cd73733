//! Full service for every legal combination of `ttl`, `loop_wait` and `retry_timeout`: a leader that nothing disturbs
//! publishes everything, hands over, and takes over, and its next cycle begins in time.

use std::time::Duration;

use proptest::prelude::*;
use tamada_ha::pg::Role;
use tamada_ha::step::{Action, Key, Step, StopPurpose, Task};

use crate::language::{self, Cycle};

/// `ttl`, `loop_wait`, `retry_timeout`, in seconds.
type Timers = (u64, u64, u64);

const LEADER: &str = "
me a
remember known primary running lock=12
cluster leader=a optime=100
member a primary 100
member b replica 100
peer b replica 120
server primary 120
sender b 120 async
";

const CANDIDATE: &str = "
me b
remember known replica running
cluster optime=100 sync=a,b
member a primary 100
member b replica 100
peer a down
server replica 100
data recovery
";

fn with(timers: Timers, settings: &str, text: &str) -> String {
    let (ttl, loop_wait, retry_timeout) = timers;
    format!("config ttl={ttl} loop_wait={loop_wait} retry_timeout={retry_timeout} {settings}\n{text}")
}

/// Each step takes a moment: a hundredth of the time that it may take.
fn run(timers: Timers, settings: &str, text: &str) -> Vec<Cycle> {
    let moment = Duration::from_secs(timers.2) / 100;
    language::cycles(&with(timers, settings, text), 2, moment)
}

fn does(cycles: &[Cycle], is_it: impl Fn(&Action) -> bool) -> bool {
    let mut steps = cycles.iter().flat_map(|cycle| &cycle.steps);
    steps.any(|step| matches!(step, Step::Act(action) if is_it(action)))
}

fn writes(cycles: &[Cycle], wanted: Key) -> bool {
    does(
        cycles,
        |action| matches!(action, Action::Write { key, .. } if *key == wanted),
    )
}

/// What a leader lacks that has these timers; nothing when it serves in full.
fn missing(timers: Timers) -> Vec<&'static str> {
    let led = run(timers, "synchronous_mode failsafe_mode", LEADER);
    let asked = LEADER.replace("optime=100", "optime=100 failover=a>b");
    let switched = run(timers, "", &asked);
    let taken = run(timers, "synchronous_mode", CANDIDATE);
    let hands_over = |action: &Action| {
        let Action::Begin(task) = action else { return false };
        matches!(task, Task::Stop { purpose, .. } if *purpose == StopPurpose::Switchover)
    };
    let promotes = |action: &Action| matches!(action, Action::Begin(Task::Promote { .. }));
    let publishes =
        |action: &Action| matches!(action, Action::TouchMember(data) if data.role == Some(Role::Primary));
    let ttl = Duration::from_secs(timers.0);
    let in_time = led.iter().all(|cycle| cycle.until_next < ttl.mul_f64(0.9));
    [
        ("member key", does(&led, publishes)),
        ("status", writes(&led, Key::Status)),
        ("sync", writes(&led, Key::Sync)),
        ("failsafe", writes(&led, Key::Failsafe)),
        (
            "slots",
            does(&led, |action| matches!(action, Action::ChangeSlots(_))),
        ),
        ("switchover", does(&switched, hands_over)),
        ("sync before a promotion", writes(&taken, Key::Sync)),
        ("promotion", does(&taken, promotes)),
        ("a renewal in time", in_time),
    ]
    .into_iter()
    .filter_map(|(what, is_done)| (!is_done).then_some(what))
    .collect()
}

/// All with a short `ttl`, and the edges of the others.
#[test]
fn every_legal_combination_of_timers_gives_full_service() {
    for ttl in (3_u64..=20).chain([30, 60, 121, 300]) {
        for retry_timeout in 1..=(ttl - 1) / 2 {
            let longest = ttl - 2 * retry_timeout;
            for loop_wait in [1, longest.div_ceil(2), longest] {
                let timers = (ttl, loop_wait, retry_timeout);
                assert_eq!(missing(timers), Vec::<&str>::new(), "{timers:?}");
            }
        }
    }
}

fn legal() -> impl Strategy<Value = Timers> {
    (3_u64..=300)
        .prop_flat_map(|ttl| (Just(ttl), 1..=(ttl - 1) / 2))
        .prop_flat_map(|(ttl, retry_timeout)| (Just(ttl), 1..=ttl - 2 * retry_timeout, Just(retry_timeout)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_legal_combination_of_timers_gives_full_service(timers in legal()) {
        prop_assert_eq!(missing(timers), Vec::<&str>::new());
    }
}
