//! One story for each kind of transition, also where the events of several are mixed.

use std::time::Duration;

use ha::cluster::FailoverKind;
use ha::event::{Event, Gain, Loss, Race, Rival, Verdict, What};
use ha::facts::Moment;
use ha::pg::{Lsn, Role, ServerState, Timeline};
use ha::reason::Reason;
use ha::step::{Exit, StartAs, StartReason, StopMode, StopPurpose, Task, TaskOutcome};
use jiff::Timestamp;

use super::event_log::{self, NO_EVENTS};
use super::story;

/// What happens on one member, so many milliseconds after 03:12.
type Line<'a> = (i64, &'a str, What);

fn events(lines: &[Line<'_>]) -> Vec<Event> {
    let start: Timestamp = "2026-01-31T03:12:00Z".parse().unwrap();
    let event = |(index, (milliseconds, member, what)): (usize, &Line<'_>)| Event {
        id: index as u64 + 1,
        at: Timestamp::from_millisecond(start.as_millisecond() + milliseconds).unwrap(),
        moment: Moment::default(),
        member: (*member).into(),
        what: what.clone(),
    };
    let mut events: Vec<Event> = lines.iter().enumerate().map(event).collect();
    event_log::sort(&mut events);
    events
}

fn leader(from: Option<&str>, to: Option<&str>) -> What {
    What::Leader {
        from: from.map(Into::into),
        to: to.map(Into::into),
        is_expired: false,
        silent_for: (to.is_none() && from.is_some()).then_some(Duration::from_secs(8)),
    }
}

fn gained(how: Gain) -> What {
    What::LockGained {
        how,
        valid_until: Moment(Duration::from_secs(30)),
        valid_for: Duration::from_secs(30),
    }
}

fn lost(why: Loss) -> What {
    let valid_until = Moment::default();
    What::LockLost { why, valid_until }
}

fn race(verdict: Verdict, former: &str) -> What {
    What::Race(Box::new(Race {
        position: Some(Lsn(0x5000)),
        timeline: Some(Timeline(1)),
        published: None,
        former_leader: Some(former.into()),
        rivals: vec![Rival {
            name: "pg9".into(),
            position: None,
            timeline: None,
            not_running_because: None,
            failure: Some("connection refused".to_owned()),
        }],
        verdict,
        why: Vec::new(),
    }))
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

fn started(milliseconds: u64) -> What {
    let task = Task::Start {
        start_as: StartAs::Standby(None),
        timeout: None,
        why: StartReason::AfterFailure,
    };
    ended(task, milliseconds)
}

fn stop(purpose: StopPurpose) -> Task {
    Task::Stop {
        mode: StopMode::Fast,
        checkpoint: true,
        purpose,
    }
}

fn signalled() -> What {
    What::StopSignalled { mode: StopMode::Fast }
}

fn demotion(purpose: StopPurpose) -> What {
    let because = "because".to_owned();
    What::Demotion { purpose, because }
}

fn asked(from: &str, to: &str) -> What {
    What::Asked {
        operation: FailoverKind::Switchover,
        leader: Some(from.into()),
        candidate: Some(to.into()),
        scheduled_at: None,
    }
}

fn asked_no_more() -> What {
    let operation = FailoverKind::Switchover;
    What::AskedNoMore { operation }
}

fn agent_started() -> What {
    What::AgentStarted {
        version: "0".to_owned(),
        role: Role::Primary,
        state: ServerState::Stopped,
        after: None,
    }
}

fn follows(name: &str) -> What {
    What::Done {
        what: format!("follows {name} from now on"),
        failure: None,
    }
}

fn status(reason: Reason) -> What {
    What::Status {
        status: reason.status_line(false),
        reason,
        notes: Vec::new(),
    }
}

fn crashed() -> What {
    What::Server {
        from_role: Role::Primary,
        from_state: ServerState::Running,
        role: Role::Primary,
        state: ServerState::Crashed,
    }
}

fn dcs_lost() -> What {
    let error = "etcd: deadline exceeded".to_owned();
    What::DcsLost { error }
}

/// pg1 leads from an hour before on.
fn before() -> Vec<Line<'static>> {
    vec![
        (-3_600_000, "pg1", gained(Gain::Taken)),
        (-3_599_000, "pg2", leader(None, Some("pg1"))),
        (-3_598_000, "pg3", leader(None, Some("pg1"))),
    ]
}

/// pg1 and its host are gone, and pg2 takes over. It ends 600 ms after `at`.
fn failover(at: i64, from: &'static str, to: &'static str, other: &'static str) -> Vec<Line<'static>> {
    vec![
        (at, to, leader(Some(from), None)),
        (at + 50, other, leader(Some(from), None)),
        (at + 100, to, race(Verdict::Won, from)),
        (at + 110, to, gained(Gain::Acquired)),
        (at + 120, other, race(Verdict::Late, from)),
        (at + 130, other, leader(None, Some(to))),
        (at + 400, to, promoted(300)),
        (at + 410, to, status(Reason::Leader(to.into()))),
        (at + 600, other, follows(to)),
    ]
}

/// The former leader of a failover comes back.
fn comes_back(at: i64, name: &'static str, to: &'static str) -> Vec<Line<'static>> {
    vec![
        (at, name, agent_started()),
        (at + 100, name, leader(None, Some(to))),
        (at + 2_000, name, started(1_500)),
        (at + 2_100, name, follows(to)),
    ]
}

/// Somebody asks for it, and it is done. It takes 400 ms.
fn switchover(at: i64, from: &'static str, to: &'static str) -> Vec<Line<'static>> {
    vec![
        (at, from, asked(from, to)),
        (at + 10, from, demotion(StopPurpose::Switchover)),
        (at + 60, from, signalled()),
        (at + 150, from, ended(stop(StopPurpose::Switchover), 140)),
        (at + 160, from, lost(Loss::Released)),
        (at + 170, to, leader(Some(from), None)),
        (at + 180, to, race(Verdict::Won, from)),
        (at + 190, to, gained(Gain::Acquired)),
        (at + 360, to, promoted(170)),
        (at + 370, to, asked_no_more()),
    ]
}

/// Name, events, the headline without its time, the first step, and the line about times.
type Case<'a> = (&'a str, Vec<Line<'a>>, &'a str, (&'a str, &'a str), &'a str);

fn check((name, lines, headline, (member, first), times): &Case<'_>, silent: &[(String, String)]) {
    let events = events(lines);
    let story = story::tell(&events, None, silent).unwrap_or_else(|| panic!("{name}: nothing is told"));
    let text = format!("{name}: {story:#?}");
    assert!(story.headline.starts_with(headline), "{text}");
    let step = story.steps.first().unwrap_or_else(|| panic!("{text}"));
    assert_eq!(step.member.as_str(), *member, "{text}");
    assert!(step.what.to_string().starts_with(first), "{text}");
    assert!(story.conclusions.iter().any(|line| line == times), "{text}");
}

fn concat(parts: &[Vec<Line<'static>>]) -> Vec<Line<'static>> {
    parts.concat()
}

#[test]
fn each_transition_is_told_by_its_own_events() {
    let gone = ("pg2", "saw that the leader key of pg1 is gone");
    let kill = "no writes for at most 8.400 s: 8.110 s from the last renewal of pg1 until pg2 took the leader key, \
                0.290 s more until it was primary";
    let asked_first = ("pg2", "somebody asked for a switchover from pg2 to pg1");
    let quick = "no writes for 0.300 s: 0.130 s from the stop of pg2 until pg1 took the leader key, 0.170 s more \
                 until it was primary";
    let switch = "switchover: pg1 took the leader key from pg2 at ";
    let cases: Vec<Case<'_>> = vec![
        (
            "kill",
            concat(&[before(), failover(0, "pg1", "pg2", "pg3")]),
            "failover: pg2 took the leader key from pg1 at ",
            gone,
            kill,
        ),
        (
            "kill and return",
            concat(&[
                before(),
                failover(0, "pg1", "pg2", "pg3"),
                comes_back(35_000, "pg1", "pg2"),
            ]),
            "failover: pg2 took the leader key from pg1 at ",
            gone,
            kill,
        ),
        (
            "kill, return, switchover",
            concat(&[
                before(),
                failover(0, "pg1", "pg2", "pg3"),
                comes_back(35_000, "pg1", "pg2"),
                switchover(43_000, "pg2", "pg1"),
            ]),
            switch,
            asked_first,
            quick,
        ),
        (
            "a switchover while the former leader is still on its way back",
            concat(&[
                before(),
                failover(0, "pg1", "pg2", "pg3"),
                vec![
                    (700, "pg1", agent_started()),
                    (750, "pg1", leader(None, Some("pg2"))),
                    (900, "pg1", status(Reason::Rewinding("pg2".to_owned()))),
                    (4_400, "pg1", ended(Task::CrashRecovery, 3_600)),
                    (4_450, "pg1", started(3_700)),
                ],
                switchover(4_300, "pg2", "pg3"),
            ]),
            "switchover: pg3 took the leader key from pg2 at ",
            ("pg2", "somebody asked for a switchover from pg2 to pg3"),
            "no writes for 0.300 s: 0.130 s from the stop of pg2 until pg3 took the leader key, 0.170 s more until it \
             was primary",
        ),
        (
            "switchover and failover within two seconds",
            concat(&[
                before(),
                switchover(0, "pg1", "pg2"),
                vec![(380, "pg1", started(100)), (390, "pg3", follows("pg2"))],
                failover(2_000, "pg2", "pg3", "pg1"),
            ]),
            "failover: pg3 took the leader key from pg2 at ",
            ("pg3", "saw that the leader key of pg2 is gone"),
            "no writes for at most 8.400 s: 8.110 s from the last renewal of pg2 until pg3 took the leader key, 0.290 s \
             more until it was primary",
        ),
        (
            "a failover after a return to the first leader",
            concat(&[
                before(),
                failover(0, "pg1", "pg2", "pg3"),
                comes_back(20_000, "pg1", "pg2"),
                switchover(30_000, "pg2", "pg1"),
                failover(60_000, "pg1", "pg2", "pg3"),
            ]),
            "failover: pg2 took the leader key from pg1 at ",
            gone,
            kill,
        ),
    ];
    for case in &cases {
        check(case, &[]);
    }
}

#[test]
fn a_crash_an_outage_and_an_orderly_stop_are_told_apart() {
    let end = |at: i64, former: &'static str| {
        vec![
            (at, "pg2", leader(Some(former), None)),
            (at + 10, "pg2", race(Verdict::Won, former)),
            (at + 20, "pg2", gained(Gain::Acquired)),
            (at + 120, "pg2", promoted(100)),
        ]
    };
    let shutdown = |at: i64| {
        let task = stop(StopPurpose::Shutdown);
        vec![
            (at, "pg1", What::TaskBegun { task: task.clone() }),
            (at + 5, "pg1", status(Reason::ShuttingDown)),
            (at + 20, "pg1", signalled()),
            (at + 200, "pg1", ended(task, 200)),
            (at + 210, "pg1", lost(Loss::Released)),
            (at + 215, "pg1", status(Reason::ShutDown)),
            (at + 260, "pg1", What::AgentEnded { exit: Exit::Graceful }),
        ]
    };
    let cases: Vec<Case<'_>> = vec![
        (
            "the agent is stopped, as at an orderly poweroff",
            concat(&[before(), shutdown(0), end(220, "pg1")]),
            "planned hand-over: pg2 took the leader key from pg1 at ",
            ("pg1", "PostgreSQL was told to stop (fast)"),
            "no writes for 0.320 s: 0.220 s from the stop of pg1 until pg2 took the leader key, 0.100 s more until it \
             was primary",
        ),
        (
            "PostgreSQL crashes; an earlier crash was recovered from in place",
            concat(&[
                before(),
                vec![
                    (-600_000, "pg1", crashed()),
                    (-599_000, "pg1", status(Reason::StartingPrimaryAfterFailure)),
                    (-598_000, "pg1", status(Reason::Leader("pg1".into()))),
                    (0, "pg1", crashed()),
                    (10, "pg1", lost(Loss::Released)),
                ],
                end(20, "pg1"),
            ]),
            "failover: pg2 took the leader key from pg1 at ",
            ("pg1", "the server (primary) was running and is crashed"),
            "no writes for 0.140 s: 0.040 s from the end of PostgreSQL on pg1 until pg2 took the leader key, 0.100 s more \
             until it was primary",
        ),
        (
            "the leader loses the DCS; so it did before, and came back",
            concat(&[
                before(),
                vec![
                    (-600_000, "pg1", dcs_lost()),
                    (
                        -590_000,
                        "pg1",
                        What::DcsBack {
                            after: Duration::from_secs(10),
                        },
                    ),
                    (0, "pg1", dcs_lost()),
                    (9_000, "pg1", demotion(StopPurpose::DcsOutage)),
                    (9_010, "pg1", signalled()),
                    (9_100, "pg1", lost(Loss::Gone)),
                ],
                end(10_000, "pg1"),
            ]),
            "failover: pg2 took the leader key from pg1 at ",
            ("pg1", "the DCS does not answer"),
            "no writes for 1.110 s: 1.010 s from the stop of pg1 until pg2 took the leader key, 0.100 s more until it \
             was primary",
        ),
        (
            "the same leader comes back after an outage",
            concat(&[
                before(),
                vec![
                    (0, "pg1", dcs_lost()),
                    (9_000, "pg1", demotion(StopPurpose::DcsOutage)),
                    (9_010, "pg1", signalled()),
                    (9_100, "pg1", lost(Loss::Gone)),
                    (
                        20_000,
                        "pg1",
                        What::DcsBack {
                            after: Duration::from_secs(20),
                        },
                    ),
                    (20_010, "pg1", race(Verdict::Won, "pg1")),
                    (20_020, "pg1", gained(Gain::Acquired)),
                    (20_120, "pg1", promoted(100)),
                ],
            ]),
            "return: pg1 took the leader key back at ",
            ("pg1", "the DCS does not answer"),
            "no writes for 11.110 s: 11.010 s from the stop of pg1 until pg1 took the leader key, 0.100 s more until it \
             was primary",
        ),
        (
            "the guard stops a primary whose agent stands still",
            concat(&[
                before(),
                vec![(
                    0,
                    "pg1",
                    What::Fencing {
                        stage: "fast".to_owned(),
                    },
                )],
                end(1_000, "pg1"),
                vec![(5_000, "pg1", lost(Loss::Taken("pg2".into())))],
            ]),
            "failover: pg2 took the leader key from pg1 at ",
            ("pg1", "the lease was not renewed in time"),
            "no writes for 1.120 s: 1.020 s from the moment when the guard stopped pg1 until pg2 took the leader key, \
             0.100 s more until it was primary",
        ),
        (
            "a switchover that came to nothing, and a later one",
            concat(&[
                before(),
                vec![
                    (-60_000, "pg1", asked("pg1", "pg3")),
                    (-59_000, "pg1", asked_no_more()),
                ],
                switchover(0, "pg1", "pg2"),
            ]),
            "switchover: pg2 took the leader key from pg1 at ",
            ("pg1", "somebody asked for a switchover from pg1 to pg2"),
            "no writes for 0.300 s: 0.130 s from the stop of pg1 until pg2 took the leader key, 0.170 s more until it \
             was primary",
        ),
        (
            "an agent that was started again in between is no sign",
            concat(&[
                before(),
                vec![
                    (-60_000, "pg1", agent_started()),
                    (-59_000, "pg1", gained(Gain::Found)),
                    (-50_000, "pg3", agent_started()),
                    (-49_000, "pg3", leader(None, Some("pg1"))),
                ],
                failover(0, "pg1", "pg2", "pg3"),
            ]),
            "failover: pg2 took the leader key from pg1 at ",
            ("pg2", "saw that the leader key of pg1 is gone"),
            "no writes for at most 8.400 s: 8.110 s from the last renewal of pg1 until pg2 took the leader key, 0.290 s \
             more until it was primary",
        ),
    ];
    for case in &cases {
        check(case, &[]);
    }
}

#[test]
fn members_that_keep_no_events_are_told_by_the_others() {
    let silent = [("patroni1".to_owned(), NO_EVENTS.to_owned())];
    let to_patroni = (
        "a switchover to Patroni",
        concat(&[
            before(),
            vec![
                (0, "pg1", asked("pg1", "patroni1")),
                (10, "pg1", demotion(StopPurpose::Switchover)),
                (20, "pg1", signalled()),
                (160, "pg1", lost(Loss::Released)),
                (170, "pg2", leader(Some("pg1"), None)),
                (300, "pg2", leader(None, Some("patroni1"))),
                (310, "pg1", leader(None, Some("patroni1"))),
                (400, "pg2", follows("patroni1")),
            ],
        ]),
        "switchover: patroni1 took the leader key from pg1 at 2026-01-31 03:12:00.300 at the latest, as pg2 saw",
        ("pg1", "somebody asked for a switchover from pg1 to patroni1"),
        "0.280 s from the stop of pg1 until patroni1 took the leader key",
    );
    let from_patroni = |at: i64| {
        vec![
            (at, "pg2", leader(Some("patroni1"), None)),
            (at + 10, "pg2", race(Verdict::Won, "patroni1")),
            (at + 20, "pg2", gained(Gain::Acquired)),
            (at + 120, "pg2", promoted(100)),
        ]
    };
    let killed = (
        "a failover from Patroni",
        concat(&[
            before(),
            vec![
                (-60_000, "pg1", leader(None, Some("patroni1"))),
                (-60_000, "pg2", leader(Some("pg1"), Some("patroni1"))),
            ],
            from_patroni(0),
        ]),
        "failover: pg2 took the leader key from patroni1 at ",
        ("pg2", "saw that the leader key of patroni1 is gone"),
        "no writes for at most 8.120 s: 8.020 s from the last renewal of patroni1 until pg2 took the leader key, 0.100 s \
         more until it was primary",
    );
    let asked_of_patroni = (
        "a switchover from Patroni",
        concat(&[
            vec![(-60_000, "pg2", leader(None, Some("patroni1")))],
            vec![(-100, "pg2", asked("patroni1", "pg2"))],
            from_patroni(0),
            vec![(200, "pg2", asked_no_more())],
        ]),
        "switchover: pg2 took the leader key from patroni1 at ",
        ("pg2", "somebody asked for a switchover from patroni1 to pg2"),
        "no writes for at most 8.120 s: 8.020 s from the last renewal of patroni1 until pg2 took the leader key, 0.100 s \
         more until it was primary",
    );
    for case in [to_patroni, killed, asked_of_patroni] {
        check(&case, &silent);
    }
}

#[test]
fn the_nearest_story_is_told_without_the_others() {
    let lines = concat(&[
        before(),
        failover(0, "pg1", "pg2", "pg3"),
        comes_back(2_000, "pg1", "pg2"),
        switchover(5_000, "pg2", "pg1"),
        failover(9_000, "pg1", "pg3", "pg2"),
    ]);
    let events = events(&lines);
    for (at, headline, last) in [
        (
            "2026-01-31T03:12:00Z",
            "failover: pg2 took the leader key from pg1",
            4_999,
        ),
        (
            "2026-01-31T03:12:05Z",
            "switchover: pg1 took the leader key from pg2",
            8_999,
        ),
        (
            "2026-01-31T03:12:20Z",
            "failover: pg3 took the leader key from pg1",
            20_000,
        ),
    ] {
        let story = story::tell(&events, Some(at.parse().unwrap()), &[]).unwrap();
        assert!(story.headline.starts_with(headline), "{at}: {story:#?}");
        let start: Timestamp = "2026-01-31T03:12:00Z".parse().unwrap();
        let at_last = story.steps.last().unwrap().at.duration_since(start).as_millis();
        assert!(at_last <= last, "{at}: {story:#?}");
        assert!(story.steps.len() >= 6, "{at}: {story:#?}");
    }
}
