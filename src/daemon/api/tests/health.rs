//! The table of health checks.

use std::sync::Arc;
use std::time::Duration;

use ha::facts::{Moment, Progress, TaskStatus};
use ha::pg::{Lsn, Role, ServerState};
use ha::step::{StopMode, StopPurpose, Task};
use postgres::RestStatus;
use serde_json::json;

use super::fixture::{NOW, cluster, primary, primary_sql, replica, standby_sql, with_tags, with_voters};
use crate::daemon::api::health::{self, Check, Evidence};
use crate::daemon::api::query::Query;
use crate::daemon::api::status::Shown;
use crate::daemon::view::View;

fn code_at(now: Moment, path: &str, view: &View, sql: Option<&RestStatus>) -> u16 {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = Query::parse(query);
    let server = Some(Shown::new(view, now, sql));
    health::code(
        Check::of(path),
        Evidence {
            view,
            now,
            query: &query,
            server,
        },
    )
    .unwrap()
}

fn code(path: &str, view: &View, sql: Option<&RestStatus>) -> u16 {
    code_at(NOW, path, view, sql)
}

fn without_dcs(view: View) -> View {
    View {
        cluster: None,
        ..view
    }
}

/// `+` for 200, `-` for 503, in the order of the paths.
fn codes(view: &View, sql: Option<&RestStatus>) -> String {
    let paths = [
        "/",
        "/leader",
        "/replica",
        "/read-only",
        "/health",
        "/sync",
        "/async",
        "/quorum",
        "/standby-leader",
    ];
    let sign = |path: &&str| if code(path, view, sql) == 200 { '+' } else { '-' };
    let liveness = if view.is_live(NOW) { '+' } else { '-' };
    paths.iter().map(sign).chain([liveness]).collect()
}

#[test]
fn situations_of_a_member() {
    let (none, on, quorum) = (
        json!({}),
        json!({"synchronous_mode": true}),
        json!({"synchronous_mode": "quorum"}),
    );
    let (standby_cluster, paused) = (json!({"standby_cluster": {"host": "x"}}), json!({"pause": true}));
    let (primary_sql, standby_sql) = (primary_sql(), standby_sql());
    let (p, s) = (Some(&primary_sql), Some(&standby_sql));
    let starting = View {
        state: ServerState::Starting,
        ..replica(&none)
    };
    let standby_leader = View {
        role: Role::StandbyLeader,
        ..primary(&standby_cluster)
    };
    let failsafe = View {
        failsafe_until: Some(NOW.after(Duration::from_secs(9))),
        ..without_dcs(primary(&none))
    };
    let demoted = without_dcs(View {
        role: Role::Demoted,
        ..replica(&none)
    });
    let paused_standby_leader = View {
        role: Role::StandbyLeader,
        ..replica(&json!({"pause": true, "standby_cluster": {"host": "x"}}))
    };
    //                                                     / leader replica read-only health sync async quorum standby live
    for (situation, expected, view, sql) in [
        ("primary with lock", "++-++----+", primary(&none), p),
        ("running replica", "--+++-+--+", replica(&none), s),
        (
            "sync standby, mode on",
            "--++++---+",
            with_voters(replica(&on), "a"),
            s,
        ),
        (
            "sync standby of another case",
            "--++++---+",
            with_voters(replica(&on), "A,c"),
            s,
        ),
        (
            "not in /sync, mode on",
            "--+++-+--+",
            with_voters(replica(&on), "c"),
            s,
        ),
        (
            "in /sync, mode off",
            "--+++-+--+",
            with_voters(replica(&none), "a"),
            s,
        ),
        (
            "quorum standby",
            "--+++--+-+",
            with_voters(replica(&quorum), "a"),
            s,
        ),
        (
            "noloadbalance",
            "----+----+",
            with_tags(replica(&none), json!({"noloadbalance": true})),
            s,
        ),
        ("standby leader", "-+-++---++", standby_leader, s),
        (
            "replica of a standby cluster",
            "--+++-+--+",
            replica(&standby_cluster),
            s,
        ),
        ("replica, starting", "---------+", starting, None),
        ("replica, does not answer", "---------+", replica(&none), None),
        ("primary, does not answer", "++-+-----+", primary(&none), None),
        ("replica, no DCS", "--+++----+", without_dcs(replica(&none)), s),
        ("primary, failsafe", "++-++----+", failsafe, p),
        ("demoted, runs read-only", "--+++----+", demoted.clone(), s),
        (
            "demoted, stopped",
            "---------+",
            View {
                state: ServerState::Stopped,
                ..demoted
            },
            None,
        ),
        (
            "primary, lock run out",
            "----+----+",
            View {
                lock_valid_until: Some(NOW),
                ..primary(&none)
            },
            p,
        ),
        (
            "primary without lock, paused, no DCS",
            "++-++----+",
            without_dcs(View {
                lock_valid_until: None,
                ..primary(&paused)
            }),
            p,
        ),
        (
            "replica, paused, no DCS",
            "--+++----+",
            without_dcs(replica(&paused)),
            s,
        ),
        (
            "standby leader, paused, no DCS",
            "-+-++---++",
            without_dcs(paused_standby_leader),
            s,
        ),
        (
            "primary without lock, paused, DCS there",
            "----+----+",
            View {
                lock_valid_until: None,
                ..primary(&paused)
            },
            p,
        ),
    ] {
        assert_eq!(codes(&view, sql), expected, "{situation}");
    }
}

#[test]
fn a_view_counts_for_ttl() {
    let (view, sql) = (
        with_voters(replica(&json!({"synchronous_mode": true})), "a"),
        standby_sql(),
    );
    let at = |seconds| NOW.after(Duration::from_secs(seconds));
    assert_eq!(code_at(at(29), "/sync", &view, Some(&sql)), 200);
    assert_eq!(code_at(at(30), "/sync", &view, Some(&sql)), 503);
    let view = primary(&json!({}));
    assert_eq!(code_at(at(29), "/", &view, None), 200);
    assert_eq!(code_at(at(30), "/", &view, None), 503);
    assert!(
        view.is_live(at(39)) && !view.is_live(at(40)),
        "a primary is live until next_run + ttl"
    );
    let view = replica(&json!({}));
    assert!(
        view.is_live(at(69)) && !view.is_live(at(70)),
        "a replica is live until next_run + 2 ttl"
    );
    assert!(replica(&json!({"pause": true})).is_live(at(70)));
}

#[test]
fn paths_match_by_their_parts_in_order() {
    for (path, check) in [
        ("/", Check::Primary),
        ("/master", Check::Primary),
        ("/primary/x", Check::Primary),
        ("/read-write", Check::Primary),
        ("/myleaderx", Check::Leader),
        ("/standby_leader", Check::StandbyLeader),
        ("/standby-leader", Check::StandbyLeader),
        ("/replica-leader", Check::Leader),
        ("/replica", Check::Replica),
        ("/read-only", Check::ReadOnly),
        ("/read-only-x", Check::ReadOnly),
        ("/read-only-sync", Check::ReadOnlySync),
        ("/read-only-synchronous", Check::ReadOnlySync),
        ("/read-only-quorum", Check::ReadOnlyQuorum),
        ("/healthz", Check::Health),
        ("/sync", Check::Sync),
        ("/synchronous", Check::Sync),
        ("/sync/", Check::Unknown),
        ("/quorum", Check::Quorum),
        ("/async", Check::Async),
        ("/asynchronous", Check::Async),
        ("/asyncx", Check::Unknown),
        ("", Check::Unknown),
        ("/liveness", Check::Unknown),
        ("/patroni", Check::Unknown),
    ] {
        assert_eq!(Check::of(path), check, "{path}");
    }
}

#[test]
fn read_only_checks_take_the_leader_too() {
    let (primary_sql, standby_sql) = (primary_sql(), standby_sql());
    let sync = with_voters(replica(&json!({"synchronous_mode": true})), "a");
    let quorum = with_voters(replica(&json!({"synchronous_mode": "quorum"})), "a");
    for (path, view, sql, expected) in [
        ("/read-only-sync", primary(&json!({})), &primary_sql, 200),
        ("/read-only-quorum", primary(&json!({})), &primary_sql, 200),
        (
            "/read-only-sync",
            without_dcs(primary(&json!({}))),
            &primary_sql,
            503,
        ),
        ("/read-only-sync", sync.clone(), &standby_sql, 200),
        ("/read-only-quorum", sync, &standby_sql, 503),
        ("/read-only-synchronous", quorum.clone(), &standby_sql, 503),
        ("/read-only-quorum", quorum, &standby_sql, 200),
        ("/read-only-sync", replica(&json!({})), &standby_sql, 503),
    ] {
        assert_eq!(code(path, &view, Some(sql)), expected, "{path} {:?}", view.role);
    }
}

#[test]
fn lag_replication_state_and_tags_filter() {
    let tags =
        json!({"clonefrom": true, "zone": "b", "weight": 1.4, "rack": 7, "key2": false, "nothing": null});
    let view = with_tags(replica(&json!({})), tags.clone());
    let behind = RestStatus {
        replayed_location: Some(Lsn(0)),
        ..standby_sql()
    };
    let archive = RestStatus {
        replication_state: Some(ha::pg::ReplicationState::InArchiveRecovery),
        ..standby_sql()
    };
    let sql = standby_sql();
    for (path, sql, expected) in [
        ("/replica?lag=10000", &sql, 200),
        ("/replica?lag=9999", &sql, 503),
        ("/replica?lag=9999&lag=10000", &sql, 503),
        ("/replica?lag=10kB", &sql, 200),
        ("/replica?lag=9kB", &sql, 503),
        ("/replica?lag=1MB", &behind, 200),
        ("/replica?lag=976kB", &behind, 503),
        ("/replica?lag=", &behind, 200),
        ("/replica?lag=1mb", &behind, 200),
        ("/replica?lag=nonsense", &behind, 200),
        ("/async?lag=9999", &sql, 503),
        ("/read-only?lag=9999", &sql, 503),
        ("/health?lag=9999", &sql, 200),
        ("/replica?replication_state=streaming", &sql, 200),
        ("/replica?replication_state=streaming", &archive, 503),
        ("/replica?replication_state=in+archive+recovery", &archive, 200),
        ("/replica?tag_zone=b&tag_clonefrom=true", &sql, 200),
        ("/replica?tag_zone=b&tag_clonefrom=false", &sql, 503),
        ("/replica?tag_weight=1.4&tag_rack=7", &sql, 200),
        ("/replica?tag_key2=false", &sql, 200),
        ("/replica?tag_nothing=null", &sql, 503),
        ("/replica?tag_noloadbalance=false", &sql, 503),
        ("/health?tag_zone=c", &sql, 503),
        ("/async?tag_zone=c", &sql, 503),
    ] {
        assert_eq!(code(path, &view, Some(sql)), expected, "{path}");
    }
    let view = with_tags(primary(&json!({})), tags);
    for (path, expected) in [
        ("/?tag_zone=c", 200),
        ("/leader?tag_zone=c", 200),
        ("/read-only?tag_zone=c", 503),
    ] {
        assert_eq!(code(path, &view, Some(&primary_sql())), expected, "{path}");
    }
}

#[test]
fn lag_counts_from_the_newest_position_that_is_known() {
    let sql = RestStatus {
        latest_end_lsn: Some(Lsn(2_000_000)),
        ..standby_sql()
    };
    let view = replica(&json!({}));
    assert_eq!(code("/replica?lag=1009999", &view, Some(&sql)), 503);
    assert_eq!(code("/replica?lag=1010000", &view, Some(&sql)), 200);
    let unknown = RestStatus {
        latest_end_lsn: None,
        ..standby_sql()
    };
    assert_eq!(
        code(
            "/replica?lag=0",
            &without_dcs(replica(&json!({}))),
            Some(&unknown)
        ),
        200
    );
}

#[test]
fn leadership_needs_no_look_at_the_server() {
    let known = |path: &str, view: &View| {
        let query = Query::default();
        health::code(
            Check::of(path),
            Evidence {
                view,
                now: NOW,
                query: &query,
                server: None,
            },
        )
    };
    let (leads, follows) = (primary(&json!({})), replica(&json!({})));
    for (path, of_primary, of_replica) in [
        ("/primary", Some(200), Some(503)),
        ("/leader", Some(200), Some(503)),
        ("/standby-leader", Some(503), Some(503)),
        ("/read-only", Some(200), None),
        ("/replica", None, None),
        ("/health", None, None),
        ("/nonsense", Some(503), Some(503)),
    ] {
        assert_eq!(
            (known(path, &leads), known(path, &follows)),
            (of_primary, of_replica),
            "{path}"
        );
    }
    let paused = View {
        cluster: None,
        ..primary(&json!({"pause": true}))
    };
    assert_eq!(
        known("/primary", &paused),
        None,
        "paused and without the DCS the server's role decides"
    );
}

#[test]
fn readiness() {
    let ready_at = |view: &View, sql: Option<&RestStatus>, query: &str| {
        let query = Query::parse(query);
        let server = Some(Shown::new(view, NOW, sql));
        health::unreadiness(Evidence {
            view,
            now: NOW,
            query: &query,
            server,
        })
        .unwrap()
    };
    let sql = standby_sql();
    let silent = RestStatus {
        latest_end_lsn: None,
        ..standby_sql()
    };
    let archive = RestStatus {
        replication_state: None,
        ..standby_sql()
    };
    let config = json!({"maximum_lag_on_failover": 10_000});
    let failsafe = View {
        failsafe_until: Some(NOW.after(Duration::from_secs(1))),
        ..without_dcs(replica(&config))
    };
    let stopped = View {
        state: ServerState::Stopped,
        ..replica(&config)
    };
    for (situation, view, sql, query, expected) in [
        ("leader", primary(&config), None, "", true),
        ("stopped", stopped, None, "", false),
        ("does not answer", replica(&config), None, "", false),
        ("within the limit", replica(&config), Some(&sql), "", true),
        ("lag too large", replica(&config), Some(&sql), "lag=9999", false),
        (
            "lag of write",
            replica(&config),
            Some(&sql),
            "lag=1000&mode=write",
            true,
        ),
        (
            "lag of write too large",
            replica(&config),
            Some(&sql),
            "lag=999&mode=write",
            false,
        ),
        (
            "unknown mode",
            replica(&config),
            Some(&sql),
            "lag=1000&mode=x",
            false,
        ),
        ("invalid lag", replica(&config), Some(&sql), "lag=x", true),
        ("no stream", replica(&config), Some(&archive), "", false),
        (
            "no DCS, upstream known",
            without_dcs(replica(&config)),
            Some(&sql),
            "",
            true,
        ),
        (
            "no DCS, upstream unknown",
            without_dcs(replica(&config)),
            Some(&silent),
            "",
            false,
        ),
        ("failsafe", failsafe, Some(&silent), "", true),
    ] {
        assert_eq!(ready_at(&view, sql, query).is_ok(), expected, "{situation}");
    }
}

#[test]
fn a_cluster_without_position_lags_nobody() {
    let mut view = replica(&json!({}));
    let mut without = cluster("b");
    without.status.optime = None;
    view.cluster = Some((Arc::new(without), NOW));
    let sql = RestStatus {
        latest_end_lsn: None,
        replayed_location: None,
        ..standby_sql()
    };
    assert_eq!(code("/replica?lag=0", &view, Some(&sql)), 200);
}

#[test]
fn a_primary_that_is_being_demoted_takes_no_writes() {
    for (purpose, is_primary) in [
        (StopPurpose::Switchover, false),
        (StopPurpose::Failover, false),
        (StopPurpose::DcsOutage, false),
        (StopPurpose::GiveUp, false),
        (StopPurpose::Shutdown, true),
    ] {
        let mut view = primary(&json!({}));
        view.state = ServerState::Stopping;
        view.task = TaskStatus::Running {
            task: Task::Stop {
                mode: StopMode::Fast,
                checkpoint: false,
                purpose,
            },
            since: NOW,
            progress: Progress::Working,
        };
        let code = |path| code(path, &view, None);
        let expected = if is_primary { 200 } else { 503 };
        for path in ["/", "/primary", "/read-write"] {
            assert_eq!(code(path), expected, "{path} {purpose:?}");
        }
        assert_eq!(code("/leader"), 200, "it holds the key");
    }
}
