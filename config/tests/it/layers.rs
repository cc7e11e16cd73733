//! How files, environment and dynamic configuration are put together.

use crate::{FILE, json, tree, value, variables};
use expect_test::expect;
use proptest::prelude::*;
use serde_json::json;
use tamada_config::{Kind, Map, Value, layers};

fn files(texts: &[(&str, &str)]) -> Vec<(String, String)> {
    texts
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn later_files_win_null_removes_and_the_environment_beats_them_all() {
    let (tree, problems) = layers::local(
        &files(&[
            ("10.yml", "a: 1\nb: {x: 1, y: 2}\nname: f\n"),
            ("20.yml", "b: {x: null, z: 3}\na: '1'\n"),
        ]),
        &variables(&[("PATRONI_NAME", "e"), ("PATRONI_CONFIGURATION", "name: c")]),
    )
    .unwrap();
    assert_eq!(json(&tree), json!({"a": 1, "b": {"y": 2, "z": 3}, "name": "e"}));
    assert_eq!(problems.to_string(), "");
}

#[test]
fn the_configuration_variable_switches_all_others_off() {
    let (tree, _) = layers::local(
        &[],
        &variables(&[("PATRONI_CONFIGURATION", "scope: c"), ("PATRONI_NAME", "e")]),
    )
    .unwrap();
    assert_eq!(json(&tree), json!({"scope": "c"}));
    let (tree, _) = layers::local(&[], &variables(&[("PATRONI_NAME", "e")])).unwrap();
    assert_eq!(json(&tree), json!({"name": "e"}));
}

#[test]
fn every_file_that_cannot_be_read_is_reported() {
    let problems = layers::local(
        &files(&[
            ("a.yml", "a: [1\n"),
            ("b.yml", "- x\n"),
            ("c.yml", ""),
            ("d.yml", "ok: 1\n"),
        ]),
        &variables(&[]),
    )
    .unwrap_err();
    expect![[r#"
        a.yml:2:1: while parsing a flow sequence that begins in line 1: did not find expected ',' or ']': expected `,` or the `]` that closes the list
        b.yml does not contain a dict: expected `key: value` lines, found a list
        c.yml does not contain a dict: expected `key: value` lines, found nothing"#]].assert_eq(&problems.to_string());
    assert_eq!(
        layers::local(&[], &variables(&[])).unwrap_err().to_string(),
        "Config is empty."
    );
}

/// No single file is too large.
#[test]
fn all_files_together_have_the_limits_of_one() {
    let refused = |text: &dyn Fn(usize) -> String| {
        let texts: Vec<_> = (0..4).map(|n| (format!("{n}.yml"), text(n))).collect();
        layers::local(&texts, &variables(&[])).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&|n| format!("a{n}: {}", "x".repeat(300_000))),
        "all files together: 1200016 bytes of text; at most 1048576 are allowed"
    );
    assert_eq!(
        refused(&|n| format!("a{n}: [{}]", "x, ".repeat(3_000))),
        "all files together: more than 10000 entries"
    );
}

fn effective(local: serde_json::Value, dynamic: serde_json::Value) -> (serde_json::Value, String) {
    let (config, problems) = layers::effective(&value(local), &value(dynamic)).unwrap();
    (json(&config), problems.to_string())
}

#[test]
fn the_defaults_are_those_of_patroni() {
    let (config, _) = effective(json!({}), json!({}));
    expect![[r#"
        {
          "ttl": 30,
          "loop_wait": 10,
          "retry_timeout": 10,
          "standby_cluster": {
            "create_replica_methods": "",
            "host": "",
            "port": "",
            "primary_slot_name": "",
            "restore_command": "",
            "archive_cleanup_command": "",
            "recovery_min_apply_delay": ""
          },
          "postgresql": {
            "use_slots": true,
            "parameters": {
              "wal_level": "hot_standby",
              "hot_standby": "on",
              "max_connections": 100,
              "max_wal_senders": 10,
              "max_prepared_transactions": 0,
              "max_locks_per_transaction": 64,
              "track_commit_timestamp": "off",
              "max_replication_slots": 10,
              "max_worker_processes": 8,
              "wal_log_hints": "on"
            }
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&config).unwrap());
}

/// `patroni_effective.json` holds what Patroni 4.1.5 makes of random local and dynamic configurations, with the booleans
/// of controlled parameters written as `on` and `off`.
#[test]
fn the_configuration_in_force_is_the_one_of_patroni() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("patroni_effective.json")).unwrap();
    assert!(cases.len() >= 100);
    for case in cases {
        let sides = [&case["local"], &case["dynamic"]].map(|side| value(side.clone()));
        let (mut config, _) = layers::effective(&sides[0], &sides[1]).unwrap();
        if let Some(Kind::Map(postgresql)) = config.get_mut("postgresql").map(|value| &mut value.kind) {
            postgresql.remove("authentication");
        }
        let (config, expected) = (Value::from(config), Value::from(&case["effective"]));
        assert!(config.same(&expected), "{case}\nfound {config:?}");
    }
}

#[test]
fn each_side_says_only_what_it_may() {
    let (config, problems) = effective(
        json!({
            "ttl": 99, "standby_cluster": {"host": "x"}, "name": "p0", "tags": null, "citus": {"group": "x"},
            "postgresql": {
                "use_slots": false, "use_pg_rewind": true, "listen": "l",
                "parameters": {"max_connections": 1000, "Shared_Buffers": "1GB", "work_mem": "8MB"},
            },
        }),
        json!({
            "ttl": "20", "loop_wait": "x", "name": "dynamic", "maximum_lag_on_failover": 5,
            "standby_cluster": {"port": 5433, "other": 1},
            "postgresql": {
                "use_slots": true, "use_pg_rewind": false, "listen": "dynamic", "data_dir": "dynamic", "pg_hba": ["x"],
                "parameters": {"max_connections": "200", "work_mem": "4MB", "Wal_Level": "logical", "hot_standby": "off", "port": 1},
            },
        }),
    );
    assert_eq!(config["ttl"], 20);
    assert_eq!(config["loop_wait"], 10);
    assert_eq!(config["standby_cluster"]["port"], 5433);
    assert_eq!(config["standby_cluster"]["host"], "");
    assert_eq!((&config["name"], &config["tags"]), (&json!("p0"), &json!({})));
    assert!(config.get("citus").is_none() && config.get("maximum_lag_on_failover").is_none());
    let postgresql = &config["postgresql"];
    assert_eq!(postgresql["use_slots"], true);
    assert_eq!(postgresql["use_pg_rewind"], true);
    assert_eq!(postgresql["listen"], "l");
    assert!(postgresql.get("data_dir").is_none());
    assert_eq!(postgresql["pg_hba"], json!(["x"]));
    let parameters = &postgresql["parameters"];
    assert_eq!(parameters["max_connections"], 200);
    assert_eq!(parameters["shared_buffers"], "1GB");
    assert_eq!(parameters["work_mem"], "8MB");
    assert_eq!(parameters["wal_level"], "logical");
    assert_eq!(parameters["hot_standby"], "on");
    expect![[r#"
        postgresql parameter hot_standby=off failed validation, defaulting to on
        postgresql parameter port=1 failed validation, defaulting to None
        postgresql.parameters.max_connections: has no effect here: it must be the same on all members and belongs to the dynamic configuration (edit-config)"#]].assert_eq(&problems);
}

#[test]
fn a_controlled_parameter_that_is_not_valid_falls_back_to_its_default() {
    for (name, bad, default) in [
        ("wal_level", json!("minimal"), "hot_standby"),
        ("max_connections", json!(24), "100"),
        ("max_connections", json!("many"), "100"),
        ("max_wal_senders", json!(2), "10"),
        ("wal_keep_segments", json!(0), "8"),
        ("wal_keep_size", json!("15MB"), "128MB"),
        ("max_prepared_transactions", json!(-1), "0"),
        ("max_locks_per_transaction", json!(31), "64"),
        ("track_commit_timestamp", json!("x"), "off"),
        ("max_replication_slots", json!(3), "10"),
        ("max_worker_processes", json!(1), "8"),
        ("wal_log_hints", json!([]), "on"),
        ("cluster_name", json!("x"), "None"),
    ] {
        let mut parameters = serde_json::Map::new();
        parameters.insert(name.to_owned(), bad);
        let (_, problems) = effective(json!({}), json!({"postgresql": {"parameters": parameters}}));
        let begin = format!("postgresql parameter {name}=");
        let end = format!(" failed validation, defaulting to {default}");
        assert!(
            problems.starts_with(&begin) && problems.ends_with(&end),
            "{problems}"
        );
    }
}

#[test]
fn parameters_that_are_no_mapping_refuse_the_whole_configuration() {
    let local = tree("postgresql:\n  parameters: x\n");
    assert_eq!(
        layers::effective(&local, &Map::new()).unwrap_err().to_string(),
        "patroni.yml:2:15: postgresql.parameters is not a dictionary (in the local configuration)"
    );
    for (document, message) in [
        (json!([1]), "expected a mapping, found a list"),
        (
            json!({"postgresql": [1]}),
            "postgresql: expected a mapping, found a list",
        ),
        (
            json!({"postgresql": {"parameters": [1]}}),
            "postgresql.parameters: expected a mapping, found a list",
        ),
        (
            json!({"postgresql": {"parameters": "x"}}),
            "postgresql.parameters: expected a mapping, found a text",
        ),
        (
            json!({"standby_cluster": 1}),
            "standby_cluster: expected a mapping, found a number",
        ),
        (
            json!({"a": "x".repeat(1 << 20)}),
            "1048584 bytes of text; at most 1048576 are allowed",
        ),
        (json!({"a": vec![0; 10_000]}), "more than 10000 entries"),
        (
            (0..65).fold(json!({}), |inner, _| json!({ "a": inner })),
            "nested more than 64 levels deep",
        ),
    ] {
        assert_eq!(
            layers::check_document(&document).unwrap_err().to_string(),
            message
        );
    }
    for document in [
        json!({}),
        json!({"postgresql": null, "standby_cluster": false}),
        json!({"postgresql": {"parameters": null}}),
        json!({"a": vec![0; 9_999]}),
        (0..64).fold(json!({}), |inner, _| json!({ "a": inner })),
        json!({"ttl": [1], "slots": 1, "postgresql": {"parameters": {"a": [1]}}}),
    ] {
        layers::check_document(&document).unwrap();
        layers::effective(&tree(FILE), &value(document)).unwrap();
    }
}

pub(crate) fn any_map() -> impl Strategy<Value = Map> {
    let leaf = prop_oneof![
        Just(Value::default()),
        any::<bool>().prop_map(Value::from),
        (-3..3i64).prop_map(Value::from),
        "[0-2a]{1,2}".prop_map(Value::from),
    ];
    let node = leaf.prop_recursive(3, 20, 4, |inner| {
        prop::collection::vec(("[a-c]", inner), 0..4)
            .prop_map(|entries| Value::from(entries.into_iter().collect::<Map>()))
    });
    prop::collection::vec(("[a-d]", node), 0..4).prop_map(|entries| entries.into_iter().collect())
}

fn without_nulls(map: &Map) -> Map {
    let strip = |value: &Value| {
        value
            .as_map()
            .map_or_else(|| value.clone(), |map| without_nulls(map).into())
    };
    map.iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(k, v)| (k, strip(v)))
        .collect()
}

proptest! {
    #[test]
    fn an_empty_patch_and_a_patch_by_itself_change_nothing(map in any_map()) {
        let map = without_nulls(&map);
        let mut patched = map.clone();
        prop_assert!(!patched.patch(&Map::new()));
        prop_assert!(!patched.patch(&map));
        prop_assert_eq!(&patched, &map);
    }

    #[test]
    fn a_patch_says_truly_whether_it_changed_anything(map in any_map(), patch in any_map()) {
        let mut patched = map.clone();
        let changed = patched.patch(&patch);
        // New subtrees may bring nulls of their own; only the meaning is compared.
        let same = Value::from(patched.clone()).same(&map.clone().into());
        let only_nulls_removed = Value::from(without_nulls(&patched)).same(&without_nulls(&map).into());
        prop_assert!(changed != same || only_nulls_removed);
        // A second time there is nothing left to do, but for nulls that came in with a new subtree.
        let mut again = patched.clone();
        again.patch(&patch);
        prop_assert!(Value::from(without_nulls(&again)).same(&without_nulls(&patched).into()));
    }

    #[test]
    fn null_removes_and_what_the_patch_does_not_name_stays(map in any_map(), patch in any_map()) {
        let mut patched = map.clone();
        patched.patch(&patch);
        for (key, value) in patch.iter() {
            match value.as_map() {
                _ if value.is_null() => prop_assert!(!patched.contains_key(key)),
                Some(_) => prop_assert!(patched.get(key).unwrap().as_map().is_some()),
                None => prop_assert!(patched.get(key).unwrap().same(value)),
            }
        }
        for (key, value) in map.iter().filter(|(key, _)| !patch.contains_key(key)) {
            prop_assert_eq!(patched.get(key), Some(value));
        }
    }

    #[test]
    fn the_local_side_wins_where_it_may(local in any_map(), dynamic in any_map()) {
        let wrap = |map: &Map| value(json!({"postgresql": {"parameters": json(map), "use_pg_rewind": json(map).to_string()}}));
        let (config, _) = layers::effective(&wrap(&local), &wrap(&dynamic)).unwrap();
        let config = Value::from(config);
        let parameters = config.at("postgresql.parameters").unwrap().as_map().unwrap();
        for (key, value) in local.iter() {
            prop_assert_eq!(parameters.get(key), Some(value));
        }
        for (key, value) in dynamic.iter().filter(|(key, _)| !local.contains_key(key)) {
            prop_assert_eq!(parameters.get(key), Some(value));
        }
        prop_assert_eq!(config.at("postgresql.use_pg_rewind").unwrap().python_text(), json(&local).to_string());
    }
}
