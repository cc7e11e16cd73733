//! The table of members as it is printed.

use dcs::{Layout, Record, Snapshot};
use expect_test::{Expect, expect};

use super::*;

fn cluster(keys: &[(&str, &str)]) -> Cluster {
    let record = |value: &str| Record {
        value: value.to_owned(),
        mod_revision: 1,
        lease: 0,
    };
    let records = keys
        .iter()
        .map(|(key, value)| (format!("/service/c/{key}"), record(value)))
        .collect();
    Snapshot {
        revision: 1,
        generation: 0,
        records,
    }
    .cluster(&Layout::new("service", "c", None))
}

fn check(view: &View, format: Format, expected: &Expect) {
    expected.assert_eq(&render(view, "c", format, false));
}

fn member(host: &str, rest: &str) -> String {
    format!(r#"{{"conn_url":"postgres://{host}/postgres","state":"running","role":"replica"{rest}}}"#)
}

#[test]
fn lag_is_in_mebibytes_to_the_nearest_and_to_the_even_one() {
    for (bytes, expected) in [
        (0, 0),
        (524_287, 0),
        (524_288, 0),
        (524_289, 1),
        (1_572_863, 1),
        (1_572_864, 2),
        (2_621_440, 2),
    ] {
        assert_eq!(mebibytes(bytes), expected, "{bytes}");
    }
}

#[test]
fn ports_show_when_one_is_unusual_or_a_host_has_two_members() {
    for (hosts, expected) in [
        (["h1:5432", "h2"], ["h1", "h2"]),
        (["h1:5432", "h2:5433"], ["h1:5432", "h2:5433"]),
        (["h1:5432", "h1:5432"], ["h1:5432", "h1:5432"]),
        (["h1", ""], ["h1", ""]),
    ] {
        let members = hosts.map(|host| member(host, ""));
        let keys = [
            ("members/a", members[0].as_str()),
            ("members/b", members[1].as_str()),
        ];
        let text = render(&View::of(cluster(&keys)), "c", Format::Tsv, false);
        let shown: Vec<_> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split('\t').nth(2))
            .collect();
        assert_eq!(shown, expected, "{hosts:?}");
    }
}

#[test]
fn a_position_published_for_both_counts_by_the_state() {
    let (streaming, archive) = (
        member("a", r#","xlog_location":100,"replication_state":"streaming""#),
        member(
            "b",
            r#","xlog_location":100,"replication_state":"in archive recovery""#,
        ),
    );
    let only_replayed = member("c", r#","xlog_location":100,"replay_lsn":90"#);
    let keys = [
        ("status", r#"{"optime":5242980}"#),
        ("members/a", streaming.as_str()),
        ("members/b", archive.as_str()),
        ("members/c", only_replayed.as_str()),
    ];
    check(
        &View::of(cluster(&keys)),
        Format::Tsv,
        &expect![[r#"
        Cluster	Member	Host	Role	State	TL	Receive LSN	Receive Lag	Replay LSN	Replay Lag
        c	a	a	Replica	streaming		0/64	5	unknown	
        c	b	b	Replica	in archive recovery		unknown		0/64	5
        c	c	c	Replica	running		unknown		0/5A	5
    "#]],
    );
}

#[test]
fn a_loop_of_replicatefrom_is_shown_where_it_is_broken() {
    let from = |name: &str| member(name, &format!(r#","tags":{{"replicatefrom":"{name}"}}"#));
    let (a, b, c, d) = (member("a", ""), from("c"), from("b"), from("d"));
    let keys = [
        ("leader", "a"),
        ("members/a", a.as_str()),
        ("members/b", b.as_str()),
        ("members/c", c.as_str()),
        ("members/d", d.as_str()),
    ];
    let cluster = cluster(&keys);
    let labels: Vec<_> = topology(&cluster).into_iter().map(|(label, _)| label).collect();
    let broken = [
        "a",
        "+ b (replicatefrom loop: b, c)",
        "  + c",
        "+ d (replicatefrom loop: d)",
    ];
    assert_eq!(labels, broken);
}

#[test]
fn what_members_say_themselves_stands_beside_their_keys() {
    let leader = member("a", "").replace("replica", "primary");
    let failed = member("b", "").replace("running", "start failed");
    let keys = [
        ("initialize", "7000000000000000001"),
        ("leader", "a"),
        ("members/a", leader.as_str()),
        ("members/b", failed.as_str()),
    ];
    let mut view = View::of(cluster(&keys));
    let remark = |name: &str, server, reason: &str| Remark {
        group: 0,
        member: name.into(),
        server,
        label: "start failed: ",
        reason: reason.to_owned(),
    };
    view.remarks = vec![
        remark(
            "a",
            Some((Role::Demoted, ServerState::Stopped)),
            "it holds the key",
        ),
        remark("b", None, "FATAL: no space"),
    ];
    check(
        &view,
        Format::Pretty,
        &expect![[r#"
        + Cluster: c (7000000000000000001) ------+----+-------------+-----+------------+-----+
        | Member | Host | Role    | State        | TL | Receive LSN | Lag | Replay LSN | Lag |
        +--------+------+---------+--------------+----+-------------+-----+------------+-----+
        | a      | a    | Replica | stopped      |    |             |     |            |     |
        | b      | b    | Replica | start failed |    |     unknown |     |    unknown |     |
        +--------+------+---------+--------------+----+-------------+-----+------------+-----+
         a: demoted, stopped: it holds the key
         b: start failed: FATAL: no space
    "#]],
    );
    let text = render(&view, "c", Format::Json, false);
    assert!(
        text.contains(r#""State": "start failed""#) && text.contains(r#""Reason": "FATAL: no space""#),
        "{text}"
    );
    view.remarks.clear();
    assert!(!render(&view, "c", Format::Json, false).contains("Reason"));
}

#[test]
fn a_citus_cluster_is_shown_by_groups() {
    let (a, b) = (member("a", ""), member("b", ""));
    let coordinator = cluster(&[
        ("initialize", "7000000000000000001"),
        ("leader", "a"),
        ("members/a", &a),
    ]);
    let worker = cluster(&[
        ("leader", "b"),
        ("members/b", &b),
        ("config", r#"{"pause":true}"#),
    ]);
    let view = View {
        groups: [(0, coordinator), (1, worker.clone())].into(),
        is_citus: true,
        group: None,
        remarks: Vec::new(),
    };
    check(
        &view,
        Format::Pretty,
        &expect![[r#"
        + Citus cluster: c -----+--------+---------+----+-------------+-----+------------+-----+
        | Group | Member | Host | Role   | State   | TL | Receive LSN | Lag | Replay LSN | Lag |
        +-------+--------+------+--------+---------+----+-------------+-----+------------+-----+
        |     0 | a      | a    | Leader | running |    |             |     |            |     |
        |     1 | b      | b    | Leader | running |    |             |     |            |     |
        +-------+--------+------+--------+---------+----+-------------+-----+------------+-----+
        Citus group: 1
         Maintenance mode: on
    "#]],
    );
    check(
        &view,
        Format::Tsv,
        &expect![[r#"
        Cluster	Group	Member	Host	Role	State	TL	Receive LSN	Receive Lag	Replay LSN	Replay Lag
        c	0	a	a	Leader	running					
        c	1	b	b	Leader	running					
    "#]],
    );
    let view = View {
        groups: [(1, worker)].into(),
        is_citus: true,
        group: Some(1),
        remarks: Vec::new(),
    };
    check(
        &view,
        Format::Pretty,
        &expect![[r#"
        + Citus cluster: c (group: 1, uninitialized) ---------+-----+------------+-----+
        | Member | Host | Role   | State   | TL | Receive LSN | Lag | Replay LSN | Lag |
        +--------+------+--------+---------+----+-------------+-----+------------+-----+
        | b      | b    | Leader | running |    |             |     |            |     |
        +--------+------+--------+---------+----+-------------+-----+------------+-----+
         Maintenance mode: on
    "#]],
    );
}

#[test]
fn nothing_that_others_have_written_moves_the_cursor_or_makes_a_line() {
    for hostile in [
        "\u{1b}]0;x\u{7}\u{1b}[2J",
        "x\n| pg9 | 10.0.0.9 | Leader | running |",
        "\r\u{9b}2K\u{85}\u{2028}\u{202e}1gp\u{200b}\u{7f}",
        "a\tb",
    ] {
        let key = serde_json::json!({
            "conn_url": format!("postgres://{hostile}:5432/postgres"), "api_url": hostile, "state": hostile, "role": hostile,
            "version": hostile, "tags": {hostile: hostile, "nofailover": hostile, "replicatefrom": hostile},
            "pending_restart": true, "pending_restart_reason": {hostile: {"old_value": hostile, "new_value": hostile}},
            "scheduled_restart": {"schedule": hostile, "postgres_version": hostile},
        });
        let failover = serde_json::json!({"leader": hostile, "member": hostile, "scheduled_at": hostile});
        let (key, failover, name) = (
            key.to_string(),
            failover.to_string(),
            format!("members/{hostile}"),
        );
        let keys = [
            (name.as_str(), key.as_str()),
            ("members/pg1", "{}"),
            ("leader", hostile),
            ("failover", failover.as_str()),
            ("initialize", hostile),
        ];
        for format in [
            Format::Pretty,
            Format::Topology,
            Format::Tsv,
            Format::Json,
            Format::Yaml,
        ] {
            let text = render(&View::of(cluster(&keys)), hostile, format, true);
            let is_bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || escape::is_hidden(c);
            assert!(!text.contains(is_bad), "{format:?}: {text:?}");
            if format.is_grid() {
                assert!(
                    !text
                        .lines()
                        .any(|line| line.trim_start_matches("| ").starts_with("pg9")),
                    "{text}"
                );
                assert!(!text.contains('\t'), "{text:?}");
            }
        }
    }
}
