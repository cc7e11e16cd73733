//! The document of the `/config` key.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;
use tamada_config::{DynamicConfig, Minimums, SlotConfig, SlotKind, SynchronousMode};

fn read(document: serde_json::Value) -> (DynamicConfig, String) {
    let (config, problems) = DynamicConfig::read(&document, Minimums::TAMADA);
    (config, problems.to_string())
}

#[test]
fn an_empty_document_gives_the_defaults() {
    for document in [json!({}), json!(null)] {
        let (config, problems) = read(document);
        assert_eq!(problems, "");
        let seconds = |d: Duration| d.as_secs();
        assert_eq!(
            (
                seconds(config.ttl),
                seconds(config.loop_wait),
                seconds(config.retry_timeout)
            ),
            (30, 10, 10)
        );
        assert_eq!(config.maximum_lag_on_failover_bytes, 1_048_576);
        assert_eq!(config.maximum_lag_on_syncnode_bytes, None);
        assert_eq!(
            (seconds(config.primary_start_timeout), config.primary_stop_timeout),
            (300, None)
        );
        assert_eq!(config.synchronous_mode(), SynchronousMode::Off);
        assert_eq!(config.synchronous_node_count, 1);
        assert_eq!(seconds(config.member_slots_ttl), 1800);
        assert!(
            config.use_slots() && !config.pause && !config.failsafe_mode && config.standby_cluster.is_none()
        );
    }
}

#[test]
fn the_values_of_a_typical_document() {
    let (config, problems) = read(json!({
        "ttl": "20", "loop_wait": 5, "retry_timeout": 7, "maximum_lag_on_failover": 0, "maximum_lag_on_syncnode": 10,
        "synchronous_mode": "Quorum", "synchronous_mode_strict": "on", "synchronous_node_count": 0, "pause": true,
        "master_start_timeout": 0, "primary_stop_timeout": 5, "member_slots_ttl": "30min", "max_timelines_history": 3,
        "slots": {"a": null, "b": {"type": "logical", "database": "d", "plugin": "pgoutput"}, "c": {"type": "physical", "cluster_type": "standby"}},
        "ignore_slots": [{"type": "logical", "name": "x"}],
        "postgresql": {"use_slots": false, "parameters": {}},
    }));
    assert_eq!(problems, "");
    assert_eq!(config.ttl, Duration::from_secs(20));
    assert_eq!(config.maximum_lag_on_failover_bytes, 0);
    assert_eq!(config.maximum_lag_on_syncnode_bytes, Some(10));
    assert_eq!(config.synchronous_mode(), SynchronousMode::Quorum);
    assert_eq!(config.synchronous_node_count, 1);
    assert_eq!(config.primary_start_timeout, Duration::ZERO);
    assert_eq!(config.primary_stop_timeout, Some(Duration::from_secs(5)));
    assert_eq!(config.max_timelines_history, Some(3));
    assert!(config.pause && !config.use_slots());
    assert_eq!(
        config.slots["a"],
        SlotConfig {
            kind: SlotKind::Physical,
            cluster_type: None
        }
    );
    let logical = SlotKind::Logical {
        database: "d".into(),
        plugin: "pgoutput".into(),
    };
    assert_eq!(config.slots["b"].kind, logical);
    assert_eq!(config.slots["c"].cluster_type.as_deref(), Some("standby"));
    assert_eq!(config.ignore_slots[0].name.as_deref(), Some("x"));
}

#[test]
fn a_standby_cluster_knows_no_synchronous_mode() {
    let (config, _) =
        read(json!({"synchronous_mode": true, "standby_cluster": {"host": ["a", "b"], "port": 5433}}));
    assert_eq!(config.synchronous_mode(), SynchronousMode::Off);
    let standby = config.standby_cluster.unwrap();
    assert_eq!(
        (standby.host.as_deref(), standby.port.as_deref()),
        (Some("a,b"), Some("5433"))
    );
    let (config, _) =
        read(json!({"synchronous_mode": true, "standby_cluster": {"host": "", "primary_slot_name": "x"}}));
    assert_eq!(
        (config.synchronous_mode(), config.standby_cluster),
        (SynchronousMode::On, None)
    );
}

fn warnings(document: serde_json::Value, minimums: Minimums, expected: Expect) {
    let (config, problems) = DynamicConfig::read(&document, minimums);
    let timers = [config.ttl, config.loop_wait, config.retry_timeout].map(|d| d.as_secs());
    expected.assert_eq(&format!("{timers:?}\n{problems}\n"));
}

#[test]
fn the_rule_of_the_three_timers() {
    warnings(
        json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 10}),
        Minimums::PATRONI,
        expect![[r#"
            [20, 1, 9]
            Violated the rule "loop_wait + 2*retry_timeout <= ttl", where ttl=20. Adjusting loop_wait from 10 to 1 and retry_timeout from 10 to 9
        "#]],
    );
    warnings(
        json!({"ttl": 25}),
        Minimums::PATRONI,
        expect![[r#"
            [25, 5, 10]
            Violated the rule "loop_wait + 2*retry_timeout <= ttl", where ttl=25. Adjusting loop_wait from 10 to 5 and retry_timeout from 10 to 10
        "#]],
    );
    warnings(
        json!({"ttl": 3, "loop_wait": 1, "retry_timeout": 1}),
        Minimums::TAMADA,
        expect![[r"
            [3, 1, 1]

        "]],
    );
    warnings(
        json!({"ttl": 3, "loop_wait": 1, "retry_timeout": 1}),
        Minimums::PATRONI,
        expect![[r"
            [20, 1, 3]
            ttl=3 can't be smaller than 20, adjusting...
            retry_timeout=1 can't be smaller than 3, adjusting...
        "]],
    );
}

#[test]
fn what_makes_no_sense_falls_back_to_its_default() {
    warnings(
        json!({
            "ttl": "soon", "maximum_lag_on_failover": -1, "synchronous_mode": "sometimes", "pause": "maybe",
            "primary_start_timeout": [], "slots": {"Bad Name": {}, "half": {"type": "logical"}, "odd": {"type": "x"}},
            "ignore_slots": {"name": "x"}, "postgresql": [1],
        }),
        Minimums::TAMADA,
        expect![[r#"
            [30, 10, 10]
            ttl: expected a whole number, found the text "soon": using the default 30
            maximum_lag_on_failover: -1 is less than 0: using the default 1048576
            primary_start_timeout: expected a whole number, found a list: using the default 300
            synchronous_mode: expected on, off or quorum, found the text "sometimes": using off
            pause: expected on or off, found the text "maybe": using off
            slots.Bad Name: "Bad Name" is no name of a slot (1 to 63 lower-case letters, digits and underscores): the slot is ignored
            slots.half: a logical slot needs database and plugin: the slot is ignored
            slots.odd: type must be physical or logical, found "x": the slot is ignored
            ignore_slots: expected a list of mappings, found a mapping: ignored
            postgresql: expected a mapping, found a list: ignored
        "#]],
    );
    warnings(
        json!(["x"]),
        Minimums::TAMADA,
        expect![[r#"
        [30, 10, 10]
        the dynamic configuration must be a mapping, found a list: using the defaults
    "#]],
    );
}

#[test]
fn the_adjustment_is_for_memory_and_the_document_keeps_what_was_written() {
    let (config, _) = read(json!({"retry_timeout": 20, "x": {"y": 1}}));
    assert_eq!(config.document, json!({"retry_timeout": 20, "x": {"y": 1}}));
    assert_eq!(
        config.adjusted_document(),
        json!({"retry_timeout": 14, "x": {"y": 1}, "loop_wait": 1})
    );
    let (config, _) = read(json!({"ttl": "30"}));
    assert_eq!(config.adjusted_document(), json!({"ttl": "30"}));
}

proptest! {
    #[test]
    fn the_timers_in_force_always_keep_the_rule(ttl in -5..200i64, loop_wait in -5..200i64, retry_timeout in -5..200i64) {
        let document = json!({"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout});
        for minimums in [Minimums::TAMADA, Minimums::PATRONI] {
            let (config, _) = DynamicConfig::read(&document, minimums);
            prop_assert!(config.loop_wait + 2 * config.retry_timeout <= config.ttl);
            prop_assert!(config.ttl >= minimums.ttl && config.loop_wait >= Duration::from_secs(1));
            prop_assert!(config.retry_timeout >= Duration::from_secs(1));
            // What is in force stays in force when it is read again.
            let (again, problems) = DynamicConfig::read(&config.adjusted_document(), minimums);
            prop_assert_eq!((again.ttl, again.loop_wait, again.retry_timeout), (config.ttl, config.loop_wait, config.retry_timeout));
            prop_assert_eq!(problems.to_string(), "");
        }
    }
}
