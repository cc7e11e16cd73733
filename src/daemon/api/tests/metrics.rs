//! Metrics: names, order, types and values.

use expect_test::{Expect, expect};
use ha::pg::{Role, ServerState};
use postgres::RestStatus;
use serde_json::json;

use super::fixture::{NOW, primary, primary_sql, replica, standby_sql, with_tags, with_voters};
use crate::daemon::api::metrics::text;
use crate::daemon::api::status::Shown;
use crate::daemon::view::View;

fn metrics(view: &View, sql: Option<&RestStatus>) -> String {
    text(view, NOW, Shown::new(view, NOW, sql), &[])
}

/// The samples without their labels.
fn check(view: &View, sql: Option<&RestStatus>, expected: &Expect) {
    let text = metrics(view, sql).replace("{scope=\"demo\",name=\"a\"}", "");
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    expected.assert_eq(&samples.join("\n"));
}

#[test]
fn every_sample_has_its_help_type_and_labels() {
    let text = metrics(&primary(&json!({})), Some(&primary_sql()));
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("# Values"))
        .collect();
    for sample in lines.chunks(3) {
        let name = sample[0].split(' ').nth(2).unwrap();
        assert!(
            sample[0].starts_with(&format!("# HELP {name} "))
                && sample[1].starts_with(&format!("# TYPE {name} ")),
            "{sample:?}"
        );
        assert!(
            sample[2].starts_with(&format!("{name}{{scope=\"demo\",name=\"a\"}} ")),
            "{sample:?}"
        );
        let counter = matches!(
            name,
            "patroni_xlog_location" | "patroni_xlog_received_location" | "patroni_xlog_replayed_location"
        );
        assert_eq!(sample[1].ends_with(" counter"), counter, "{sample:?}");
    }
    assert!(text.contains(
        "# Values: 0=initdb, 1=initdb_failed, 2=custom_bootstrap, 3=custom_bootstrap_failed, 4=creating_replica, \
         5=running, 6=starting, 7=bootstrap_starting, 8=start_failed, 9=restarting, 10=restart_failed, 11=stopping, \
         12=stopped, 13=stop_failed, 14=crashed\n# TYPE patroni_postgres_state gauge\n"
    ));
    assert!(text.ends_with('\n'));
}

#[test]
fn of_a_primary() {
    check(
        &primary(&json!({})),
        Some(&primary_sql()),
        &expect![[r#"
        patroni_version 040105
        patroni_postgres_running 1
        patroni_postmaster_start_time 1767607200.123456
        patroni_primary 1
        patroni_xlog_location 67395656
        patroni_standby_leader 0
        patroni_replica 0
        patroni_sync_standby 0
        patroni_quorum_standby 0
        patroni_xlog_received_location 0
        patroni_xlog_replayed_location 0
        patroni_xlog_replayed_timestamp 0
        patroni_xlog_paused 0
        patroni_postgres_streaming 0
        patroni_postgres_in_archive_recovery 0
        patroni_postgres_server_version 160004
        patroni_cluster_unlocked 0
        patroni_failsafe_mode_is_active 0
        patroni_failsafe_mode_enabled 0
        patroni_failsafe_member 0
        patroni_postgres_timeline 2
        patroni_dcs_last_seen 1767607200
        patroni_pending_restart 0
        patroni_is_paused 0
        patroni_postgres_state 5
        patroni_failover_priority 1
        tamada_member_names_taken 0"#]],
    );
}

#[test]
fn of_a_quorum_standby() {
    let view = with_voters(
        replica(&json!({"synchronous_mode": "quorum", "pause": true, "failsafe_mode": true})),
        "a",
    );
    let view = with_tags(view, json!({"failover_priority": 5}));
    let sql = RestStatus {
        replayed_timestamp: Some("2026-01-05 10:00:00+00:00".to_owned()),
        replay_paused: true,
        ..standby_sql()
    };
    check(
        &view,
        Some(&sql),
        &expect![[r#"
        patroni_version 040105
        patroni_postgres_running 1
        patroni_postmaster_start_time 1767607200.123456
        patroni_primary 0
        patroni_xlog_location 0
        patroni_standby_leader 0
        patroni_replica 1
        patroni_sync_standby 0
        patroni_quorum_standby 1
        patroni_xlog_received_location 999000
        patroni_xlog_replayed_location 990000
        patroni_xlog_replayed_timestamp 1767607200.0
        patroni_xlog_paused 1
        patroni_postgres_streaming 1
        patroni_postgres_in_archive_recovery 0
        patroni_postgres_server_version 160004
        patroni_cluster_unlocked 0
        patroni_failsafe_mode_is_active 0
        patroni_failsafe_mode_enabled 1
        patroni_failsafe_member 0
        patroni_postgres_timeline 2
        patroni_dcs_last_seen 1767607200
        patroni_pending_restart 0
        patroni_is_paused 1
        patroni_postgres_state 5
        patroni_failover_priority 5
        tamada_member_names_taken 0"#]],
    );
}

#[test]
fn of_a_stopped_member_without_dcs() {
    let view = View {
        state: ServerState::Stopped,
        role: Role::Replica,
        cluster: None,
        ..replica(&json!({}))
    };
    check(
        &with_tags(view, json!({"nofailover": true})),
        None,
        &expect![[r#"
        patroni_version 040105
        patroni_postgres_running 0
        patroni_postmaster_start_time 0
        patroni_primary 0
        patroni_xlog_location 0
        patroni_standby_leader 0
        patroni_replica 1
        patroni_sync_standby 0
        patroni_quorum_standby 0
        patroni_xlog_received_location 0
        patroni_xlog_replayed_location 0
        patroni_xlog_replayed_timestamp 0
        patroni_xlog_paused 0
        patroni_postgres_server_version 0
        patroni_cluster_unlocked 1
        patroni_failsafe_mode_is_active 0
        patroni_failsafe_mode_enabled 0
        patroni_failsafe_member 0
        patroni_postgres_timeline 0
        patroni_dcs_last_seen 1767607200
        patroni_pending_restart 0
        patroni_is_paused 0
        patroni_postgres_state 12
        patroni_failover_priority 0
        tamada_member_names_taken 0"#]],
    );
}

#[test]
fn labels_are_escaped() {
    let mut view = replica(&json!({}));
    std::sync::Arc::make_mut(&mut view.node).scope = "a\"b\\c".to_owned();
    assert!(metrics(&view, None).contains(r#"{scope="a\"b\\c",name="a"}"#));
}

#[test]
fn strangers_under_the_names_of_members_show() {
    let mut view = primary(&json!({}));
    for strangers in [0, 2] {
        view.strangers = strangers;
        let text = metrics(&view, Some(&primary_sql()));
        let sample = format!("tamada_member_names_taken{{scope=\"demo\",name=\"a\"}} {strangers}");
        assert!(text.lines().any(|line| line == sample), "{text}");
    }
}

#[test]
fn a_guard_that_is_missing_shows() {
    let mut view = primary(&json!({}));
    for (is_missing, sample) in [
        (None, None),
        (
            Some(false),
            Some("tamada_guard_missing{scope=\"demo\",name=\"a\"} 0"),
        ),
        (
            Some(true),
            Some("tamada_guard_missing{scope=\"demo\",name=\"a\"} 1"),
        ),
    ] {
        view.guard_is_missing = is_missing;
        let text = metrics(&view, Some(&primary_sql()));
        let found = text.lines().find(|line| line.starts_with("tamada_guard_missing"));
        assert_eq!(found, sample);
    }
}
