//! What is refused, with which texts, and what comes of the rest.

use std::time::Duration;

use ha::cluster::{Cluster, Failover, Tags, Version};
use ha::facts::{PeerAnswer, PeerStatus, RestartConditions};
use ha::pg::Role;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fixture::{dynamic, leader, member, object, voters};
use crate::daemon::api::answer::Answer;
use crate::daemon::api::control::{
    Action, Plan, RestartPlan, check_delete_switchover, check_restart, check_switchover, read_reinitialize,
};

use Action::{Failover as F, Switchover as S};

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn three() -> Cluster {
    let api = |name: &str| json!({"api_url": format!("http://{name}/patroni")});
    Cluster {
        leader: leader("a"),
        members: ["a", "b", "c"].map(|name| member(name, &api(name))).to_vec(),
        ..Cluster::default()
    }
}

fn plan(asked: Action, body: &Value, cluster: &Cluster, config: &Value) -> Result<Plan, Answer> {
    check_switchover(asked, &object(body.clone()), cluster, &dynamic(config), now())
}

fn names(plan: &Plan) -> Option<String> {
    let names = plan.candidates.as_ref()?.iter().map(|peer| peer.name.to_string());
    Some(names.collect::<Vec<_>>().join(","))
}

#[test]
fn refusals_of_switchover_and_failover() {
    let (plain, paused) = (json!({}), json!({"pause": true}));
    let (sync, quorum) = (
        json!({"synchronous_mode": true}),
        json!({"synchronous_mode": "quorum"}),
    );
    let with_sync = Cluster {
        sync: voters("b"),
        ..three()
    };
    let alone = Cluster {
        members: three().members[..1].to_vec(),
        ..three()
    };
    let later = "2026-12-05T10:00:00+01:00";
    for (asked, body, cluster, config, status, text) in [
        (
            F,
            json!({"leader": "a"}),
            three(),
            &plain,
            400,
            "Failover could be performed only to a specific candidate",
        ),
        (
            S,
            json!({"candidate": "b"}),
            three(),
            &plain,
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            S,
            json!({"leader": "", "candidate": "b"}),
            three(),
            &plain,
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            F,
            json!({"candidate": "b", "scheduled_at": later}),
            three(),
            &plain,
            400,
            "Failover can't be scheduled",
        ),
        (
            S,
            json!({"leader": "a", "scheduled_at": later}),
            three(),
            &paused,
            400,
            "Can't schedule switchover in the paused state",
        ),
        (
            S,
            json!({"leader": "a", "scheduled_at": "2026-12-05T10:00"}),
            three(),
            &plain,
            400,
            "Timezone information is mandatory for the scheduled switchover",
        ),
        (
            S,
            json!({"leader": "a", "scheduled_at": "2026-11-05T10:00Z"}),
            three(),
            &plain,
            422,
            "Cannot schedule switchover in the past",
        ),
        (
            S,
            json!({"leader": "a", "scheduled_at": 5}),
            three(),
            &plain,
            422,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
        ),
        (
            S,
            json!({"leader": "a"}),
            three(),
            &paused,
            400,
            "Switchover is possible only to a specific candidate in a paused state",
        ),
        (
            S,
            json!({"leader": "a", "candidate": "a"}),
            three(),
            &plain,
            400,
            "Switchover target and source are the same",
        ),
        (
            F,
            json!({"leader": "b", "member": "b"}),
            three(),
            &plain,
            400,
            "Switchover target and source are the same",
        ),
        (
            S,
            json!({"leader": "b"}),
            three(),
            &plain,
            412,
            "leader name does not match",
        ),
        (
            F,
            json!({"leader": "b", "candidate": "c"}),
            three(),
            &plain,
            412,
            "leader name does not match",
        ),
        (
            S,
            json!({"leader": "a", "candidate": "c"}),
            with_sync,
            &sync,
            412,
            "candidate name does not match with sync_standby",
        ),
        (
            S,
            json!({"leader": "a", "candidate": "x"}),
            three(),
            &plain,
            412,
            "candidate does not exists",
        ),
        (
            F,
            json!({"candidate": "x"}),
            three(),
            &sync,
            412,
            "candidate does not exists",
        ),
        (
            S,
            json!({"leader": "a"}),
            three(),
            &sync,
            412,
            "switchover is not possible: can not find sync_standby",
        ),
        (
            S,
            json!({"leader": "a"}),
            alone.clone(),
            &plain,
            412,
            "switchover is not possible: cluster does not have members except leader",
        ),
        (
            S,
            json!({"leader": "a"}),
            alone,
            &quorum,
            412,
            "switchover is not possible: cluster does not have members except leader",
        ),
    ] {
        let refused = plan(asked, &body, &cluster, config).unwrap_err();
        assert_eq!(
            (refused.status, refused.body.as_str()),
            (status, text),
            "{asked:?} {body}"
        );
    }
}

#[test]
fn who_is_asked_and_what_is_written() {
    let (plain, sync, quorum) = (
        json!({}),
        json!({"synchronous_mode": true}),
        json!({"synchronous_mode": "quorum"}),
    );
    let with_sync = Cluster {
        sync: voters("B"),
        ..three()
    };
    let leaderless = Cluster {
        leader: None,
        ..three()
    };
    let later = json!({"leader": "a", "candidate": "x", "scheduled_at": "2026-12-05 10:00 +0100"});
    for (asked, body, cluster, config, asks, key) in [
        (
            S,
            json!({"leader": "a"}),
            three(),
            &plain,
            Some("b,c"),
            r#"{"leader":"a"}"#,
        ),
        (
            S,
            json!({"leader": "a", "member": "c"}),
            three(),
            &plain,
            Some("c"),
            r#"{"leader":"a","member":"c"}"#,
        ),
        (
            S,
            json!({"leader": "a"}),
            with_sync.clone(),
            &sync,
            Some("b"),
            r#"{"leader":"a"}"#,
        ),
        (
            S,
            json!({"leader": "a", "candidate": "c"}),
            with_sync.clone(),
            &quorum,
            Some("c"),
            r#"{"leader":"a","member":"c"}"#,
        ),
        (
            F,
            json!({"candidate": "c"}),
            with_sync,
            &sync,
            Some("c"),
            r#"{"member":"c"}"#,
        ),
        (
            F,
            json!({"candidate": "c"}),
            leaderless,
            &plain,
            Some("c"),
            r#"{"member":"c"}"#,
        ),
        (
            S,
            later,
            three(),
            &sync,
            None,
            r#"{"leader":"a","member":"x","scheduled_at":"2026-12-05T10:00:00+01:00"}"#,
        ),
    ] {
        let plan = plan(asked, &body, &cluster, config).unwrap();
        assert_eq!(
            (names(&plan).as_deref(), plan.key().as_str()),
            (asks, key),
            "{body}"
        );
        let scheduled = plan.scheduled().map(|answer| (answer.status, answer.body));
        assert_eq!(
            scheduled,
            asks.is_none().then(|| (202, "Switchover scheduled".to_owned()))
        );
    }
    let turned = plan(F, &json!({"leader": "a", "candidate": "b"}), &three(), &plain).unwrap();
    assert_eq!(turned.action, S, "a failover from a named leader is a switchover");
}

#[test]
fn one_fit_candidate_is_enough() {
    let plan = plan(F, &json!({"candidate": "b"}), &three(), &json!({})).unwrap();
    let status = |tags: Value, watchdog_failed| {
        Ok(PeerStatus {
            tags: Tags(object(tags)),
            watchdog_failed,
            ..PeerStatus::default()
        })
    };
    let unfit = [
        Err("no answer".to_owned()),
        status(json!({"nofailover": true}), false),
        status(json!({"failover_priority": 0}), false),
        status(json!({}), true),
    ];
    let mut answers: Vec<PeerAnswer> = unfit
        .map(|status| PeerAnswer {
            name: "b".into(),
            status,
        })
        .to_vec();
    let refused = plan.check_answers(&answers).unwrap_err();
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (
            412,
            "failover is not possible: no good candidates have been found"
        )
    );
    assert!(plan.check_answers(&[]).is_err());
    let without_stream = PeerAnswer {
        name: "d".into(),
        status: status(json!({"nostream": true}), false),
    };
    assert_eq!(
        plan.check_answers(std::slice::from_ref(&without_stream)),
        Ok(()),
        "a failover may lose"
    );
    let mut switchover = plan.clone();
    switchover.action = S;
    let refused = switchover.check_answers(&[without_stream]).unwrap_err();
    assert_eq!(
        refused.body,
        "switchover is not possible: no good candidates have been found: d has the tag nostream and cannot receive the \
         last WAL of the leader"
    );
    answers.push(PeerAnswer {
        name: "c".into(),
        status: status(json!({}), false),
    });
    assert_eq!(plan.check_answers(&answers), Ok(()));
}

#[test]
fn how_it_ends() {
    let asked = Failover::parse(Version(2), r#"{"leader":"a","member":"b"}"#);
    let after = |name: Option<&str>, is_asked: bool| Cluster {
        leader: name.and_then(leader),
        failover: asked.clone().filter(|_| is_asked),
        ..three()
    };
    let switchover = plan(S, &json!({"leader": "a", "candidate": "b"}), &three(), &json!({})).unwrap();
    let anybody = plan(S, &json!({"leader": "a"}), &three(), &json!({})).unwrap();
    let failover = plan(F, &json!({"candidate": "b"}), &three(), &json!({})).unwrap();
    for (plan, cluster, expected) in [
        (&switchover, after(Some("a"), true), None),
        (&switchover, after(None, true), None),
        (
            &switchover,
            after(Some("b"), true),
            Some((200, "Successfully switched over to \"b\"")),
        ),
        (
            &switchover,
            after(Some("c"), false),
            Some((200, "Switched over to \"c\" instead of \"b\"")),
        ),
        (
            &switchover,
            after(Some("a"), false),
            Some((503, "Switchover failed")),
        ),
        (
            &anybody,
            after(Some("c"), false),
            Some((200, "Successfully switched over to \"c\"")),
        ),
        (
            &failover,
            after(Some("b"), false),
            Some((200, "Successfully failed over to \"b\"")),
        ),
        (
            &failover,
            after(Some("c"), false),
            Some((200, "Failed over to \"c\" instead of \"b\"")),
        ),
        (&failover, after(None, false), Some((503, "Failover failed"))),
    ] {
        let result = plan.result(&cluster).map(|answer| (answer.status, answer.body));
        assert_eq!(result, expected.map(|(status, text)| (status, text.to_owned())));
    }
    let unknown = failover.unknown(Duration::from_secs(20));
    assert_eq!(
        unknown.body,
        "Failover status unknown after 20 seconds; operation may still be in progress"
    );
    assert_eq!(unknown.status, 503);
}

#[test]
fn a_scheduled_switchover_is_taken_back() {
    let with = |key: &str| Cluster {
        failover: Failover::parse(Version(7), key),
        ..three()
    };
    let scheduled = with(r#"{"leader":"a","scheduled_at":"2026-12-05T10:00:00+01:00"}"#);
    assert_eq!(check_delete_switchover(&scheduled).unwrap().version, Version(7));
    for cluster in [three(), with(r#"{"leader":"a"}"#)] {
        let refused = check_delete_switchover(&cluster).unwrap_err();
        assert_eq!(
            (refused.status, refused.body.as_str()),
            (404, "no switchover is scheduled")
        );
    }
}

#[test]
fn refusals_of_restart() {
    for (body, paused, status, text) in [
        (
            json!({"schedule": "2026-12-05T10:00Z"}),
            true,
            500,
            "Can't schedule restart in the paused state",
        ),
        (
            json!({"schedule": "2026-12-05T10:00"}),
            false,
            400,
            "Timezone information is mandatory for the scheduled restart",
        ),
        (
            json!({"schedule": "2026-10-05T10:00Z"}),
            false,
            422,
            "Cannot schedule restart in the past",
        ),
        (
            json!({"schedule": ""}),
            false,
            422,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
        ),
        (
            json!({"role": "leader"}),
            false,
            400,
            "PostgreSQL role should be either primary, standby_leader, or replica",
        ),
        (
            json!({"role": null}),
            false,
            400,
            "PostgreSQL role should be either primary, standby_leader, or replica",
        ),
        (
            json!({"postgres_version": "x.1"}),
            false,
            400,
            "Invalid PostgreSQL version: x.1",
        ),
        (
            json!({"postgres_version": "16"}),
            false,
            400,
            "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 16",
        ),
        (
            json!({"postgres_version": "9.6"}),
            false,
            400,
            "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 9.6",
        ),
        (
            json!({"timeout": "soon"}),
            false,
            400,
            "Timeout should be a positive number of seconds",
        ),
        (
            json!({"timeout": 0}),
            false,
            400,
            "Timeout should be a positive number of seconds",
        ),
        (
            json!({"timeout": -5}),
            false,
            400,
            "Timeout should be a positive number of seconds",
        ),
        (
            json!({"role": "replica", "x": 1}),
            false,
            400,
            "Unknown filter for the scheduled restart: x",
        ),
        (
            json!({"timeout": 0, "x": 1}),
            false,
            400,
            "Timeout should be a positive number of seconds",
        ),
    ] {
        let refused = check_restart(&object(body.clone()), paused, now()).unwrap_err();
        assert_eq!((refused.status, refused.body.as_str()), (status, text), "{body}");
    }
}

#[test]
fn conditions_of_restart() {
    let check = |body: Value| check_restart(&object(body), false, now()).unwrap();
    assert_eq!(check(json!({})), RestartPlan::Now(RestartConditions::default()));
    let conditions = RestartConditions {
        role: Some(Role::Replica),
        version_below: Some(160_004),
        only_pending: true,
        timeout: Some(Duration::from_secs(120)),
    };
    let body =
        json!({"role": "replica", "postgres_version": "16.4", "restart_pending": false, "timeout": "2min"});
    assert_eq!(check(body.clone()), RestartPlan::Now(conditions.clone()));
    let mut later = object(body);
    later.insert("schedule".to_owned(), "2026-12-05 10:00 UTC".into());
    let RestartPlan::Later {
        at,
        conditions: of_later,
        shown,
    } = check(Value::Object(later))
    else {
        panic!("it is scheduled")
    };
    assert_eq!((at, of_later), ("2026-12-05T10:00Z".parse().unwrap(), conditions));
    assert_eq!(
        Value::Object(shown.0).to_string(),
        r#"{"role":"replica","postgres_version":"16.4","restart_pending":false,"timeout":120,"schedule":"2026-12-05T10:00:00+00:00"}"#
    );
    let version = |text: &str| match check(json!({"postgres_version": text})) {
        RestartPlan::Now(conditions) => conditions.version_below,
        RestartPlan::Later { .. } => None,
    };
    assert_eq!((version("9.6.3"), version("10.1")), (Some(90_603), Some(100_001)));
}

#[test]
fn options_of_reinitialize() {
    for (body, expected) in [
        (json!({}), (false, false)),
        (json!({"force": true}), (true, false)),
        (json!({"force": "on", "from_leader": "true"}), (true, true)),
        (json!({"force": "x", "from-leader": 1}), (false, true)),
    ] {
        assert_eq!(read_reinitialize(&object(body.clone())), expected, "{body}");
    }
}
