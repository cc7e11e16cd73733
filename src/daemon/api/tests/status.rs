//! The status document in its different states, to the letter.

use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use ha::cluster::{Origin, PendingRestartReason, ScheduledRestart};
use ha::pg::{Lsn, Role, ServerState, Timeline};
use postgres::RestStatus;
use serde_json::json;

use super::fixture::{NOW, object, primary, primary_sql, replica, standby_sql, with_tags, with_voters};
use crate::daemon::api::json::to_text;
use crate::daemon::api::status::{Shown, document};
use crate::daemon::view::View;

fn check(view: &View, sql: Option<&RestStatus>, expected: &Expect) {
    expected.assert_eq(&to_text(&document(view, NOW, Shown::new(view, NOW, sql))));
}

#[test]
fn primary_and_replica() {
    let tagged = with_tags(primary(&json!({})), json!({"clonefrom": true}));
    check(
        &tagged,
        Some(&primary_sql()),
        &expect![[
            r#"{"state": "running", "postmaster_start_time": "2026-01-05 10:00:00.123456+00:00", "role": "primary", "server_version": 160004, "xlog": {"location": 67395656}, "timeline": 2, "replication": [{"usename": "replicator", "application_name": "b", "client_addr": "10.0.0.2", "state": "streaming", "sync_state": "async", "sync_priority": 0}], "dcs_last_seen": 1767607200, "tags": {"clonefrom": true}, "database_system_identifier": "7268616322854375442", "patroni": {"version": "4.1.5", "scope": "demo", "name": "a"}}"#
        ]],
    );
    check(
        &replica(&json!({})),
        Some(&standby_sql()),
        &expect![[
            r#"{"state": "running", "postmaster_start_time": "2026-01-05 10:00:00.123456+00:00", "role": "replica", "server_version": 160004, "xlog": {"received_location": 999000, "replayed_location": 990000, "replayed_timestamp": null, "paused": false}, "timeline": 2, "replication_state": "streaming", "dcs_last_seen": 1767607200, "database_system_identifier": "7268616322854375442", "patroni": {"version": "4.1.5", "scope": "demo", "name": "a"}}"#
        ]],
    );
}

#[test]
fn a_server_that_does_not_answer_or_does_not_run() {
    check(
        &replica(&json!({})),
        None,
        &expect![[
            r#"{"state": "unknown", "role": "replica", "dcs_last_seen": 1767607200, "database_system_identifier": "7268616322854375442", "patroni": {"version": "4.1.5", "scope": "demo", "name": "a"}}"#
        ]],
    );
    let stopped = View {
        state: ServerState::Stopped,
        role: Role::Demoted,
        ..replica(&json!({}))
    };
    check(
        &stopped,
        Some(&standby_sql()),
        &expect![[
            r#"{"state": "stopped", "role": "demoted", "dcs_last_seen": 1767607200, "database_system_identifier": "7268616322854375442", "patroni": {"version": "4.1.5", "scope": "demo", "name": "a"}}"#
        ]],
    );
}

#[test]
fn where_the_timeline_comes_from() {
    let origin = |timeline| Origin {
        timeline: Timeline(timeline),
        switch_lsn: Lsn(100),
        nonce: 42,
    };
    let mut view = replica(&json!({}));
    let shown = |view: &View| {
        let sql = standby_sql();
        document(view, NOW, Shown::new(view, NOW, Some(&sql)))["tamada_origin"].clone()
    };
    view.origin = Some(origin(2));
    assert_eq!(
        shown(&view),
        json!({"timeline": 2, "switch_lsn": 100, "nonce": "0000002a"})
    );
    view.stands_back = true;
    assert_eq!(shown(&view)["stands_back"], true);
    view.origin = Some(origin(1));
    assert_eq!(
        shown(&view),
        json!(null),
        "it is shown with the timeline that it belongs to"
    );
}

#[test]
fn everything_at_once() {
    let mut view = with_voters(
        replica(&json!({"synchronous_mode": "quorum", "pause": true})),
        "a",
    );
    view.pending_restart.insert(
        "max_connections".to_owned(),
        PendingRestartReason {
            old_value: "100".to_owned(),
            new_value: "200".to_owned(),
            error: None,
        },
    );
    view.watchdog_failed = true;
    view.failsafe_until = Some(NOW.after(Duration::from_secs(1)));
    let scheduled =
        json!({"schedule": "2026-12-05T10:00:00+02:00", "role": "replica", "postmaster_start_time": "x"});
    view.scheduled_restart = Some(ScheduledRestart(object(scheduled)));
    view.timeline = None;
    check(
        &view,
        Some(&RestStatus {
            replay_paused: true,
            ..standby_sql()
        }),
        &expect![[
            r#"{"state": "running", "postmaster_start_time": "2026-01-05 10:00:00.123456+00:00", "role": "replica", "server_version": 160004, "xlog": {"received_location": 999000, "replayed_location": 990000, "replayed_timestamp": null, "paused": true}, "quorum_standby": true, "timeline": null, "replication_state": "streaming", "pause": true, "failsafe_mode_is_active": true, "dcs_last_seen": 1767607200, "database_system_identifier": "7268616322854375442", "pending_restart": true, "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}}, "patroni": {"version": "4.1.5", "scope": "demo", "name": "a"}, "scheduled_restart": {"schedule": "2026-12-05T10:00:00+02:00", "role": "replica"}, "watchdog_failed": true}"#
        ]],
    );
    view.cluster = None;
    Arc::make_mut(&mut view.config).pause = false;
    check(
        &view,
        None,
        &expect![[
            r#"{"state": "unknown", "role": "replica", "cluster_unlocked": true, "failsafe_mode_is_active": true, "dcs_last_seen": 1767607200, "database_system_identifier": "7268616322854375442", "pending_restart": true, "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}}, "patroni": {"version": "4.1.5", "scope": "demo", "name": "a"}, "scheduled_restart": {"schedule": "2026-12-05T10:00:00+02:00", "role": "replica"}, "watchdog_failed": true}"#
        ]],
    );
}

#[test]
fn roles_of_a_standby_cluster() {
    let config = json!({"standby_cluster": {"host": "x"}});
    let role = |view: &View, sql: &RestStatus| Shown::new(view, NOW, Some(sql)).role;
    let leader = View {
        role: Role::StandbyLeader,
        ..primary(&config)
    };
    assert_eq!(role(&leader, &standby_sql()), Role::StandbyLeader);
    assert_eq!(role(&leader, &primary_sql()), Role::Primary);
    assert_eq!(role(&replica(&config), &standby_sql()), Role::Replica);
    assert_eq!(
        role(
            &View {
                role: Role::Demoted,
                ..replica(&json!({}))
            },
            &standby_sql()
        ),
        Role::Replica
    );
}
