//! Stories from given events.

use std::time::Duration;

use expect_test::{Expect, expect};
use ha::cluster::FailoverKind;
use ha::event::{Gain, Loss, Race, Rival};
use ha::facts::Moment;
use ha::pg::{Lsn, Timeline};
use ha::reason::Reason;
use ha::step::{StopMode, StopPurpose, Task, TaskOutcome};
use jiff::Timestamp;

use super::*;

/// Event number `id` of a member, so many milliseconds after 03:12.
fn event(id: u64, milliseconds: i64, member: &str, what: What) -> Event {
    let start: Timestamp = "2026-01-31T03:12:00Z".parse().unwrap();
    Event {
        id,
        at: Timestamp::from_millisecond(start.as_millisecond() + milliseconds).unwrap(),
        moment: Moment::default(),
        member: member.into(),
        what,
    }
}

fn gone(from: &str) -> What {
    What::Leader {
        from: Some(from.into()),
        to: None,
        is_expired: false,
        silent_for: Some(Duration::from_millis(8050)),
    }
}

fn race(position: u64, verdict: Verdict, rivals: &[(&str, Option<u64>)], why: &[&str]) -> What {
    let rival = |(name, position): &(&str, Option<u64>)| Rival {
        name: (*name).into(),
        position: position.map(Lsn),
        timeline: position.map(|_| Timeline(1)),
        not_running_because: None,
        failure: position.is_none().then(|| "connection refused".to_owned()),
    };
    What::Race(Box::new(Race {
        position: Some(Lsn(position)),
        timeline: Some(Timeline(1)),
        published: Some(Lsn(position)),
        former_leader: Some("pg1".into()),
        rivals: rivals.iter().map(rival).collect(),
        verdict,
        why: why.iter().map(|why| (*why).to_owned()).collect(),
    }))
}

fn gained() -> What {
    What::LockGained {
        how: Gain::Acquired,
        valid_until: Moment(Duration::from_secs(30)),
        valid_for: Duration::from_secs(30),
    }
}

fn ended(task: Task, milliseconds: u64) -> What {
    What::TaskEnded {
        task,
        outcome: TaskOutcome::Success,
        took: Some(Duration::from_millis(milliseconds)),
    }
}

fn promoted(milliseconds: u64) -> What {
    let task = Task::Promote {
        lock_valid_until: Moment::default(),
        archive_may_have_more: false,
    };
    ended(task, milliseconds)
}

fn check(mut events: Vec<Event>, silent: &[(&str, &str)], expected: &Expect) {
    event_log::sort(&mut events);
    let silent: Vec<_> = silent
        .iter()
        .map(|(name, why)| ((*name).to_owned(), (*why).to_owned()))
        .collect();
    let answer = Answer {
        story: story::tell(&events, None, &silent),
        now: vec!["now pg2 leads".to_owned()],
        silent: &silent,
    };
    expected.assert_eq(&answer.pretty());
}

#[test]
fn the_primary_has_vanished() {
    let follows = What::Done {
        what: "follows pg2 from now on".to_owned(),
        failure: None,
    };
    let ahead = "Wal position of pg2 is ahead of my wal position";
    check(
        vec![
            event(1, -900_000, "pg2", gone("pg9")),
            event(7, 8_100, "pg2", gone("pg1")),
            event(5, 8_150, "pg3", gone("pg1")),
            event(
                8,
                8_200,
                "pg2",
                race(0x5000, Verdict::Won, &[("pg3", Some(0x4000)), ("pg1", None)], &[]),
            ),
            event(9, 8_210, "pg2", gained()),
            event(
                6,
                8_220,
                "pg3",
                race(0x4000, Verdict::Waived, &[("pg2", Some(0x5000))], &[ahead]),
            ),
            event(10, 8_410, "pg2", promoted(200)),
            event(7, 8_500, "pg3", follows),
            event(
                11,
                900_000,
                "pg2",
                What::DcsLost {
                    error: "later".to_owned(),
                },
            ),
        ],
        &[("pg1", "connection refused")],
        &expect![[r#"
            failover: pg2 took the leader key from pg1 at 2026-01-31 03:12:08.210

              03:12:08.100  pg2  saw that the leader key of pg1 is gone: nobody leads; its last renewal was seen 8.05 s before
              03:12:08.150  pg3  saw that the leader key of pg1 is gone: nobody leads; its last renewal was seen 8.05 s before
              03:12:08.200  pg2  won the race: I am at 0/5000 on timeline 1; pg3 is at 0/4000 on timeline 1; pg1 did not answer
              03:12:08.210  pg2  took the leader key, which nobody held; the lease lasts 30 s
              03:12:08.220  pg3  does not take the leader key: I am at 0/4000 on timeline 1; pg2 is at 0/5000 on timeline 1; Wal position of pg2 is ahead of my wal position
              03:12:08.410  pg2  promote is done, after 0.2 s
              03:12:08.500  pg3  follows pg2 from now on

            pg1 has told nothing of its end, as when its agent or its machine is gone: its last renewal was of 2026-01-31 03:12:00.050, and pg2 noticed at 2026-01-31 03:12:08.100 that it was over
            pg2 took over at 0/5000, because nobody who runs is further: pg3 is behind, at 0/4000, pg1 did not answer
            pg3 did not: Wal position of pg2 is ahead of my wal position
            no writes for at most 8.360 s: 8.160 s from the last renewal of pg1 until pg2 took the leader key, 0.200 s more until it was primary
            now pg2 leads
            pg1 has not told its part: connection refused
        "#]],
    );
}

#[test]
fn somebody_asked_for_a_switchover() {
    let asked = What::Asked {
        operation: FailoverKind::Switchover,
        leader: Some("pg1".into()),
        candidate: Some("pg2".into()),
        scheduled_at: None,
    };
    let demotion = What::Demotion {
        purpose: StopPurpose::Switchover,
        because: Reason::Demoting(FailoverKind::Switchover).to_string(),
    };
    let stop = Task::Stop {
        mode: StopMode::Fast,
        checkpoint: true,
        purpose: StopPurpose::Switchover,
    };
    let released = What::LockLost {
        why: Loss::Released,
        valid_until: Moment::default(),
    };
    check(
        vec![
            event(1, 0, "pg1", asked),
            event(2, 20, "pg1", demotion),
            event(3, 120, "pg1", ended(stop, 100)),
            event(4, 130, "pg1", released),
            event(1, 140, "pg2", gone("pg1")),
            event(2, 150, "pg2", race(0x5000, Verdict::Won, &[], &[])),
            event(3, 160, "pg2", gained()),
            event(4, 260, "pg2", promoted(100)),
        ],
        &[],
        &expect![[r#"
            switchover: pg2 took the leader key from pg1 at 2026-01-31 03:12:00.160

              03:12:00.000  pg1  somebody asked for a switchover from pg1 to pg2
              03:12:00.020  pg1  Demoting self (graceful): switchover: demoting myself
              03:12:00.120  pg1  switchover: demote is done, after 0.1 s
              03:12:00.130  pg1  gave the leader key up
              03:12:00.140  pg2  saw that the leader key of pg1 is gone: nobody leads; its last renewal was seen 8.05 s before
              03:12:00.150  pg2  won the race: I am at 0/5000 on timeline 1
              03:12:00.160  pg2  took the leader key, which nobody held; the lease lasts 30 s
              03:12:00.260  pg2  promote is done, after 0.1 s

            pg1 led until 2026-01-31 03:12:00.020: Demoting self (graceful): switchover: demoting myself
            pg2 took over at 0/5000: it had nobody to compare itself with
            no writes for 0.240 s: 0.140 s from the stop of pg1 until pg2 took the leader key, 0.100 s more until it was primary
            now pg2 leads
        "#]],
    );
}

#[test]
fn a_demotion_that_nobody_followed() {
    let demotion = What::Demotion {
        purpose: StopPurpose::DcsOutage,
        because: Reason::DemotedDcsOutage.to_string(),
    };
    let events = vec![
        event(
            1,
            0,
            "pg1",
            What::DcsLost {
                error: "etcd: deadline exceeded".to_owned(),
            },
        ),
        event(2, 20_000, "pg1", demotion),
        event(
            3,
            21_000,
            "pg1",
            What::DcsBack {
                after: Duration::from_secs(21),
            },
        ),
    ];
    check(
        events,
        &[],
        &expect![[r#"
        demotion of pg1 at 2026-01-31 03:12:20.000

          03:12:00.000  pg1  the DCS does not answer: etcd: deadline exceeded
          03:12:20.000  pg1  Demoting self (offline): demoted self because DCS is not accessible and I was a leader
          03:12:21.000  pg1  the DCS answers again, after 21 s

        pg1 was stopped: Demoting self (offline): demoted self because DCS is not accessible and I was a leader
        nobody is known to have taken the leader key since then
        now pg2 leads
    "#]],
    );
}

#[test]
fn nothing_has_happened() {
    check(
        Vec::new(),
        &[],
        &expect![[r#"
        no failover, switchover or demotion is known, as far as the members' events go back

        now pg2 leads
    "#]],
    );
}
