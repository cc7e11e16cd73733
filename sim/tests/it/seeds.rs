//! Runs many seeds: none may break a rule, and together they must have been on the rare paths.

use tamada_sim::Marks;
use tamada_sim::run::{Setup, run};

/// Paths that every share of the seeds must have been on, else they prove little.
const OFTEN: [&str; 16] = [
    "another primary",
    "clone",
    "dcs call failed",
    "graceful stop in quiet",
    "meanwhile: held",
    "meanwhile: sent",
    "quiet handover",
    "reason: AcquiredLockAsLeader",
    "reason: DemotedDcsOutage",
    "reason: PromotedByAcquiringLock",
    "reason: ReleasedNotRunning",
    "rewind",
    "slots: copied",
    "slots: created",
    "store: replaced",
    "switchover in quiet",
];

/// Paths that many seeds together must have been on.
const SOMETIMES: [&str; 39] = [
    "exit with failure",
    "guard",
    "meanwhile: unknown",
    "operator: two timelines of one number",
    "reason: CrashRecovery",
    "reason: Demoting",
    "reason: DemotingWithoutLock",
    "reason: ForeignSystemIdentifier",
    "reason: HalfRewound",
    "reason: HoldingOff",
    "reason: LostInitializeRace",
    "reason: LostRace",
    "reason: NotAllowedToPromote",
    "reason: NotHealthiest",
    "reason: PromotedHavingLock",
    "reason: ReinitializeStarted",
    "reason: ReinitializingDiverged",
    "reason: RestartInitiated",
    "reason: Rewinding",
    "reason: StandbyLeaderByAcquiringLock",
    "reason: StartFailed",
    "reason: StartingPrimaryAfterFailure",
    "reason: StartingReadOnlyWithLock",
    "reason: StartingStandbyLeader",
    "reason: StoppedAfterStartTimeout",
    "reason: StoppedToFailOver",
    "slots: a copy lacks WAL",
    "slots: the consumer begins anew",
    "slots: the consumer goes on",
    "slots: warned with reason",
    "standby cluster: demoted",
    "standby cluster: handed over in quiet",
    "standby cluster: promoted",
    "standby cluster: there and back in quiet",
    "start timed out",
    "store: the primary stayed when it was restored",
    "store: the primary stayed when it was wiped",
    "store: the primary stayed while it was full",
    "writes lost",
];

/// So many seeds a test looks at: there are several, for all processors.
const SEEDS: u64 = 80;

/// So many are looked at for all of the paths, at most.
const MANY_SEEDS: u64 = 6_000;

/// Runs seeds from `from` on, `TAMADA_SIM_SEEDS` of them if that is set. None may break a rule.
fn part(from: u64) -> Marks {
    let count: u64 = std::env::var("TAMADA_SIM_SEEDS")
        .map_or(SEEDS, |text| text.parse().expect("TAMADA_SIM_SEEDS is a number"));
    asynchronous(from, count)
}

fn asynchronous(from: u64, count: u64) -> Marks {
    let mut marks = Marks::default();
    for seed in from..from + count {
        let setup = Setup {
            seed,
            ..Setup::default()
        };
        let verdict = run(setup);
        marks.merge(&verdict.marks);
        if let Some(violation) = verdict.violation {
            let again = run(Setup {
                journal_lines: 120,
                ..setup
            });
            println!("{:#?}\n{}", again.plan, again.journal.join("\n"));
            panic!(
                "seed {seed}: at {:.3} s: {}\nagain: cargo run --package tamada-sim -- --seed {seed} --verbose",
                violation.at.as_secs_f64(),
                violation.text
            );
        }
    }
    marks
}

#[test]
fn no_seed_breaks_a_rule() {
    let marks = part(0);
    for path in OFTEN {
        assert!(marks.count(path) > 0, "no seed has been on this path: {path}");
    }
}

#[test]
#[ignore = "long: make test-all"]
fn many_seeds_are_on_all_paths_and_break_no_rule() {
    let mut marks = Marks::default();
    let mut missed: Vec<&str> = OFTEN.into_iter().chain(SOMETIMES).collect();
    // From where no other test looks.
    let mut from = 1_000_000;
    while from < 1_000_000 + MANY_SEEDS && (from < 1_000_000 + 1_000 || !missed.is_empty()) {
        marks.merge(&asynchronous(from, 50));
        missed.retain(|path| marks.count(path) == 0);
        from += 50;
    }
    assert!(missed.is_empty(), "no seed has been on these paths: {missed:?}");
}

#[test]
fn no_seed_of_the_second_part_breaks_a_rule() {
    part(SEEDS);
}

#[test]
fn no_seed_of_the_third_part_breaks_a_rule() {
    part(2 * SEEDS);
}

#[test]
fn no_seed_of_the_fourth_part_breaks_a_rule() {
    part(3 * SEEDS);
}

/// With commits that wait for standbys nothing that was acknowledged is lost, unless somebody fails over by hand.
#[test]
fn with_synchronous_replication_nothing_is_lost() {
    let mut marks = Marks::default();
    for seed in 0..SEEDS {
        let verdict = run(Setup {
            seed,
            is_synchronous: true,
            ..Setup::default()
        });
        assert_eq!(
            verdict.violation, None,
            "again: cargo run --package tamada-sim -- --synchronous --seed {seed} --verbose"
        );
        marks.merge(&verdict.marks);
    }
    for path in [
        "acknowledged by a standby",
        "switchover in quiet",
        "graceful stop in quiet",
    ] {
        assert!(marks.count(path) > SEEDS / 8, "{path}");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [1, 2, 3] {
        let setup = Setup {
            seed,
            journal_lines: usize::MAX,
            ..Setup::default()
        };
        let (first, second) = (run(setup), run(setup));
        assert!(
            first.journal == second.journal,
            "seed {seed} gave two different runs"
        );
        assert!(first.journal.len() > 100);
    }
}

/// That the rule can be broken at all: with nobody to stop the server of an agent that was killed, two take writes.
#[test]
fn without_a_guard_a_killed_agent_leaves_two_primaries() {
    let mut marks = Marks::default();
    for seed in 0..40 {
        let verdict = run(Setup {
            seed,
            agent_dies: true,
            ..Setup::default()
        });
        assert_eq!(verdict.violation, None, "seed {seed}");
        marks.merge(&verdict.marks);
    }
    assert!(marks.count("two primaries after a hazard") > 0);
}
