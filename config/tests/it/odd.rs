//! Values of another type than a setting has, and extreme ones: what Patroni understands is understood, the rest is refused,
//! no secret is shown, and no number makes a time overflow.

use crate::keys::set;
use crate::{FILE, tree};
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;
use tamada_config::settings::{DYNAMIC, Expected, LOCAL, Setting};
use tamada_config::{
    DynamicConfig, GuardMode, LocalConfig, Minimums, ParameterRole, PostgresqlSettings, Problems,
    ReplicaMethod, Tags, Value, yaml,
};

/// A text that must not be seen.
const SECRET: &str = "hunter2-XyZ";

fn load(path: &str, value: &Value) -> Result<(LocalConfig, Problems), Problems> {
    let mut file = tree(FILE);
    set(&mut file, &path.split('.').collect::<Vec<_>>(), value);
    LocalConfig::read(file)
}

fn yaml(text: &str) -> Value {
    yaml::parse("odd.yml", text).unwrap()
}

/// Files that Patroni runs with, and what is said about them.
#[test]
fn what_patroni_understands_is_understood_with_a_warning() {
    for (path, text, said) in [
        ("tags.replicatefrom", "false", "read as not set"),
        ("tags.replicatefrom", "''", ""),
        ("tags.nofailover", "''", "read as off"),
        ("tags.nofailover", "[]", "read as off"),
        ("tags.clonefrom", "maybe", "read as on"),
        ("tags.failover_priority", "'${X:-0}'", "read as not set"),
        ("tags.sync_priority", "true", "read as not set"),
        ("postgresql.use_unix_socket", "/path", "read as on"),
        (
            "postgresql.create_replica_methods",
            "{wal_g: x, basebackup: y}",
            "its keys are read",
        ),
        ("log.mode", "644", "read as the permissions 0644"),
        ("log.mode", "0640", ""),
        ("postgresql.callbacks", "{on_stop: false}", "read as not set"),
        ("postgresql.callbacks", "false", "read as not set"),
        ("postgresql.pg_hba", "false", "read as not set"),
        ("postgresql.parameters", "[]", "read as not set"),
        ("postgresql.basebackup", "false", "read as not set"),
        ("watchdog", "off", "read as not set"),
        ("tags", "''", "read as not set"),
        ("ctl", "[]", "read as not set"),
        ("log.type", "''", "read as not set"),
        ("restapi.verify_client", "false", "read as not set"),
        ("restapi.allowlist", "false", "read as not set"),
        ("guard", "off", "read as guard.mode"),
        ("log.level", "010", "read as the text 8"),
    ] {
        let (_, problems) = load(path, &yaml(text)).unwrap_or_else(|why| panic!("{path}: {text}: {why}"));
        let shown = problems.to_string();
        assert_eq!(shown.is_empty(), said.is_empty(), "{path}: {text}: {shown}");
        assert!(shown.contains(said), "{path}: {text}: {shown}");
        assert!(
            shown.is_empty() || shown.contains("odd.yml:1:"),
            "{path}: {text}: {shown}"
        );
    }
    let (config, _) = load("guard", &yaml("off")).unwrap();
    assert_eq!(config.guard.mode, GuardMode::Off);
    let (config, _) = load("log.mode", &yaml("644")).unwrap();
    assert_eq!(config.log.mode, Some(0o644));
    assert!(!Tags::from_json(&json!({"nofailover": ""})).nofailover());
    // Nobody's data is removed, and nobody trusted, for a misspelt word.
    for path in [
        "ctl.insecure",
        "postgresql.remove_data_directory_on_rewind_failure",
    ] {
        assert!(load(path, &yaml("perhaps")).is_err(), "{path}");
    }
}

/// Whatever stands at a setting, it is taken, or refused by an error that names the setting.
#[test]
fn every_setting_takes_or_refuses_every_kind_of_value() {
    let odd = [
        "false",
        "true",
        "0",
        "1.5",
        "''",
        "[]",
        "{}",
        "[a]",
        "{a: b}",
        "text",
        "-1",
        "0123456",
        "99999999999999999999",
        "9223372036854775807",
        "-9223372036854775808",
        ".inf",
        ".nan",
        "[[a]]",
        "{a: {b: c}}",
        "2024-01-01",
        "~",
    ];
    for row in LOCAL.iter().filter(|row| !row.path.contains('*')) {
        for text in odd {
            let Err(problems) = load(row.path, &yaml(text)) else {
                continue;
            };
            let names_it = |path: &str| path.starts_with(row.path) || row.path.starts_with(path);
            let has_own = problems
                .errors()
                .any(|problem| !problem.message.is_empty() && names_it(&problem.path));
            assert!(has_own, "{}: {text}: {problems}", row.path);
        }
    }
}

fn secrets(rows: &[Setting], prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for row in rows {
        let path = format!("{prefix}{}", row.path);
        match row.expected {
            Expected::Secret => paths.push(path),
            Expected::Section(rows) => paths.extend(secrets(rows, &format!("{path}."))),
            _ => {}
        }
    }
    paths
}

#[test]
fn a_secret_that_yaml_reads_as_another_text_is_refused() {
    let paths = secrets(LOCAL, "");
    assert!(paths.len() > 10, "{paths:?}");
    for path in paths {
        for text in [
            "0123456", "0x1F", "1_000", "+5", "1:30", "1.50", "true", "off", "[a]", "{a: b}",
        ] {
            let problems = load(&path, &yaml(text)).unwrap_err().to_string();
            assert!(
                problems.contains("put the value in quotes"),
                "{path}: {text}: {problems}"
            );
        }
        for text in ["123456", "'0123456'", "2024-01-01"] {
            let is_refused =
                load(&path, &yaml(text)).is_err_and(|problems| problems.to_string().contains("in quotes"));
            assert!(!is_refused, "{path}: {text}");
        }
    }
    let (config, _) = load("postgresql.authentication.superuser.password", &yaml("123456")).unwrap();
    let password = config.postgresql.authentication.superuser.password.unwrap();
    assert_eq!(password.reveal(), "123456");
}

/// A secret at its place in a wrong form, above its place, and in YAML that is none.
#[test]
fn no_message_shows_a_secret() {
    let mut places = [
        "restapi",
        "ctl",
        "etcd3",
        "postgresql",
        "postgresql.authentication",
    ]
    .map(str::to_owned)
    .to_vec();
    for path in secrets(LOCAL, "") {
        places.push(path.rsplit_once('.').unwrap().0.to_owned());
        places.push(path);
    }
    for path in places {
        for wrong in [
            json!(SECRET),
            json!([SECRET]),
            json!([[SECRET]]),
            json!({"x": [SECRET]}),
        ] {
            let (Ok((_, said)) | Err(said)) = load(&path, &Value::from(&wrong));
            assert!(!said.to_string().contains(SECRET), "{path}: {said}");
        }
    }
    for broken in [
        "!S", "*S", "!!int S", "!!bool S", "@S", "%S", "`S", "'S", "\"S", "[S", "{S", "S: S", "|S", "<<: S",
    ] {
        let broken = broken.replace('S', SECRET);
        for text in [
            format!("postgresql:\n  password: {broken}\n  x: [\n"),
            format!("password: {broken}"),
            format!("- {broken}\nx: y"),
            broken.clone(),
        ] {
            let said = tamada_config::layers::local(
                &[("odd.yml".to_owned(), text)],
                &std::collections::BTreeMap::new(),
            );
            if let Err(said) = said {
                assert!(!said.to_string().contains(SECRET), "{broken}: {said}");
            }
        }
    }
}

/// Every duration can be added to a time, and the rule of the timers holds, whatever is written.
#[test]
fn no_number_is_too_large() {
    let numbers = [
        json!(i64::MIN),
        json!(-1),
        json!(0),
        json!(1),
        json!(86_400),
        json!(i32::MAX),
        json!(u32::MAX),
        json!(10_000_000_000_i64),
        json!(i64::MAX - 1),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(-1e300),
        json!("9223372036854775807"),
        json!("1e18"),
        json!("99999999999d"),
    ];
    for row in DYNAMIC.iter().filter(|row| !row.path.contains('.')) {
        for number in &numbers {
            let document = json!({row.path: number});
            let (config, _) = DynamicConfig::read(&document, Minimums::TAMADA);
            let durations = [
                Some(config.ttl),
                Some(config.loop_wait),
                Some(config.retry_timeout),
                Some(config.primary_start_timeout),
                config.primary_stop_timeout,
                config.primary_probe_timeout,
                Some(config.primary_race_backoff),
                Some(config.member_slots_ttl),
            ];
            for duration in durations.into_iter().flatten() {
                assert!(
                    duration <= Duration::from_secs(2_147_483_647),
                    "{document}: {duration:?}"
                );
            }
            assert!(
                config.loop_wait + config.retry_timeout * 2 <= config.ttl,
                "{document}"
            );
            assert!(config.ttl <= Duration::from_secs(86_400), "{document}");
            let lags = [
                Some(config.maximum_lag_on_failover_bytes),
                config.maximum_lag_on_syncnode_bytes,
            ];
            let is_small = |lag: u64| lag.checked_add(1 << 62).is_some();
            assert!(lags.into_iter().flatten().all(is_small), "{document}");
        }
    }
}

/// Of every setting that is a number: what its range holds is taken, what it does not is refused or warned about, and no number of
/// any size is a panic.
#[test]
fn every_number_has_its_range() {
    let mut drawn = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move || {
        drawn = drawn
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (drawn >> 1).cast_signed() >> (drawn % 60)
    };
    let mut looked_at = 0;
    // A file's mode is read as the octal number that it is written as.
    let others = [
        "consul.",
        "etcd.",
        "exhibitor.",
        "kubernetes.",
        "raft.",
        "zookeeper.",
    ];
    let is_number = |row: &&Setting| {
        let is_of_another_store = others.iter().any(|store| row.path.starts_with(store));
        !row.path.contains('*') && row.path != "log.mode" && !is_of_another_store
    };
    for row in LOCAL.iter().chain(DYNAMIC).filter(is_number) {
        let (Expected::Int(min, max) | Expected::Quantity(min, max, _)) = row.expected else {
            continue;
        };
        let is_dynamic = DYNAMIC.iter().any(|dynamic| dynamic.path == row.path);
        looked_at += 1;
        let mut numbers = vec![min, max, min.saturating_add(1), max.saturating_sub(1)];
        numbers.extend([
            i64::MIN,
            i64::MAX,
            -1,
            0,
            1,
            min.saturating_sub(1),
            max.saturating_add(1),
        ]);
        numbers.extend((0..40).map(|_| draw()));
        for number in numbers {
            let said = if is_dynamic {
                let document = json!({row.path: number});
                let (config, problems) = DynamicConfig::read(&document, Minimums::TAMADA);
                let (local, _) = LocalConfig::read(tree(FILE)).unwrap();
                PostgresqlSettings::new(&local, &config, Some(180_000), None).unwrap();
                let mut file = tree(FILE);
                set(&mut file, &["bootstrap", "dcs", row.path], &Value::from(number));
                let strict = tamada_config::validate_strictly(&file);
                let is_about = |path: &str| path.ends_with(row.path);
                let is_wrong = strict.errors().any(|problem| is_about(&problem.path));
                assert!(
                    is_wrong || (min..=max).contains(&number),
                    "{}: {number}: {problems}",
                    row.path
                );
                // The rule of the timers is another one.
                is_wrong && !matches!(row.path, "ttl" | "loop_wait" | "retry_timeout")
            } else {
                load(row.path, &Value::from(number)).is_err()
            };
            if (min..=max).contains(&number) {
                assert!(!said, "{}: {number} is within its range", row.path);
            } else if !is_dynamic {
                assert!(said, "{}: {number} is beyond its range", row.path);
            }
        }
    }
    assert!(looked_at > 15, "{looked_at} settings are numbers");
}

/// Options that the program gives itself, however they are spelt.
#[test]
fn options_of_our_own_are_ignored_in_any_spelling() {
    for text in [
        "[format=tar]",
        "[--format=tar]",
        "['format tar']",
        "[{format: tar}]",
        "{format: tar}",
        "{'--format': tar}",
        "['form=tar']",
        "[--form=tar]",
        "[FORMAT=tar]",
        "{'format=tar': true}",
        "[wal-m=none, 'pgda=/x']",
    ] {
        let (local, _) = load("postgresql.basebackup", &yaml(text)).unwrap();
        let (dynamic, _) = DynamicConfig::read(&json!({}), Minimums::TAMADA);
        let (settings, problems) = PostgresqlSettings::new(&local, &dynamic, Some(180_000), None).unwrap();
        let ReplicaMethod::Basebackup { options } = settings.basebackup() else {
            panic!("{text}");
        };
        assert!(options.is_empty(), "{text}: {options:?}");
        assert!(
            problems.to_string().contains("cannot be set here"),
            "{text}: {problems}"
        );
    }
    let written = "[nosync, --pgdata=/x, 'pwf /x', no-data-checksums, waldir=/wal]";
    let (local, _) = load("bootstrap.initdb", &yaml(written)).unwrap();
    let left = [
        ("no-data-checksums".to_owned(), None),
        ("waldir".to_owned(), Some("/wal".to_owned())),
    ];
    assert_eq!(local.bootstrap.initdb, left);
}

#[test]
fn a_key_that_is_written_twice_is_a_warning() {
    let (_, warnings) =
        yaml::parse_with_warnings("odd.yml", "a: 1\nb: {c: 1, c: 2}\na: 3\n<<: {d: 1}\nd: 2\n").unwrap();
    assert_eq!(
        warnings.to_string(),
        "odd.yml:2:5: c: is written again in line 2, and only what stands there counts\n\
         odd.yml:1:1: a: is written again in line 3, and only what stands there counts"
    );
}

#[test]
fn addresses_are_of_one_form() {
    for (path, text) in [
        ("restapi.connect_address", "10.0.3.1 172.16.5.1:5432"),
        ("postgresql.connect_address", "http://10.0.3.1:5432"),
        ("postgresql.connect_address", "u:p@10.0.3.1:5432"),
        ("postgresql.listen", "a b:5432"),
        ("postgresql.listen", "a,,b:5432"),
        ("postgresql.listen", "[::1:5432"),
        ("restapi.listen", "10.0.0.1/24:8008"),
    ] {
        let said = load(path, &Value::from(text)).unwrap_err().to_string();
        assert!(said.contains(path), "{text}: {said}");
    }
    for (listen, host) in [
        ("[::]:5432", "::1"),
        ("0.0.0.0,[::]:5432", "localhost"),
        ("*:5432", "localhost"),
        ("10.0.0.1,[::1]:5432", "::1"),
    ] {
        let (config, _) = load("postgresql.listen", &Value::from(listen)).unwrap();
        assert_eq!(config.postgresql.listen.local_host(), host, "{listen}");
    }
}

#[test]
fn hosts_in_the_environment_may_be_ipv6() {
    for (text, expected) in [
        ("e1:2379,[fd00::1]:2379", json!(["e1:2379", "[fd00::1]:2379"])),
        ("[fd00::1]:2379", json!(["[fd00::1]:2379"])),
        ("[e1:2379,[fd00::1]:2379]", json!(["e1:2379", "[fd00::1]:2379"])),
        (
            "'e1:2379', '[fd00::1]:2379'",
            json!(["e1:2379", "[fd00::1]:2379"]),
        ),
        ("[fd00::1],[fd00::2]:1", json!(["[fd00::1]", "[fd00::2]:1"])),
    ] {
        let variables = crate::variables(&[("PATRONI_ETCD3_HOSTS", text)]);
        let (tree, problems) = tamada_config::env::read(&variables);
        assert_eq!(
            crate::json(&tree),
            json!({"etcd3": {"hosts": expected}}),
            "{text}: {problems}"
        );
    }
}

/// `--validate-config` refuses timers that would be put right silently.
#[test]
fn the_rule_of_the_timers_is_checked() {
    for (timers, is_right) in [
        ("{ttl: 30, loop_wait: 10, retry_timeout: 10}", true),
        ("{ttl: 29, loop_wait: 10, retry_timeout: 10}", false),
        ("{ttl: 20}", false),
        ("{retry_timeout: 11}", false),
        ("{loop_wait: 11}", false),
        ("{}", true),
        ("{ttl: 10000000000}", false),
    ] {
        let mut file = tree(FILE);
        set(&mut file, &["bootstrap", "dcs"], &yaml(timers));
        let problems = tamada_config::validate_strictly(&file);
        let is_said = problems
            .errors()
            .any(|problem| problem.path.starts_with("bootstrap.dcs"));
        assert_eq!(is_said, !is_right, "{timers}: {problems}");
    }
}

/// A key of the parameters that PostgreSQL's file would read as something else: a directive, two words, several lines.
#[test]
fn what_is_no_name_of_a_parameter_is_ignored() {
    let names = [
        "include",
        "INCLUDE_IF_EXISTS",
        "include_dir",
        "a b",
        "work mem",
        "work_mem = '4MB'\nlog_min_messages",
        "",
        "4x",
        "x.",
        ".x",
        "x#",
        "x'",
        "x=1",
        "\u{e9}t\u{e9}",
    ];
    let mut parameters = serde_json::Map::new();
    for name in names {
        parameters.insert(name.to_owned(), json!("/etc/passwd"));
    }
    for name in ["work_mem", "auto_explain.log_min_duration", "my$x._y"] {
        parameters.insert(name.to_owned(), json!("4MB"));
    }
    for section in ["parameters", "parameters_replica", "recovery_conf"] {
        let document = json!({"postgresql": {section: parameters}});
        let (config, _) = DynamicConfig::read(&document, Minimums::TAMADA);
        let (local, _) = LocalConfig::read(tree(FILE)).unwrap();
        let (settings, problems) =
            PostgresqlSettings::new(&local, &config, Some(180_000), Some(ParameterRole::Replica)).unwrap();
        let text = format!("{:?} {:?}", settings.parameters, settings.recovery_conf);
        assert!(!text.contains("/etc/passwd"), "{section}: {text}");
        let has_good_ones = text.contains("auto_explain.log_min_duration");
        assert!(has_good_ones || section == "recovery_conf", "{section}: {text}");
        let said = problems
            .0
            .iter()
            .filter(|problem| problem.message.contains("no name of a parameter"));
        assert_eq!(said.count(), names.len(), "{section}: {problems:?}");
    }
}

/// A document with any number of unknown settings is read in a time and with a number of warnings that are bounded.
#[test]
fn unknown_settings_are_named_up_to_a_number() {
    let document: serde_json::Map<_, _> = (0..5000).map(|n| (format!("x{n}"), json!(n))).collect();
    let (_, problems) = DynamicConfig::read(&json!(document), Minimums::TAMADA);
    assert!((40..60).contains(&problems.0.len()), "{}", problems.0.len());
    let last = problems.0.last().unwrap();
    assert!(last.message.contains("and so are others"), "{last:?}");
}

/// Any JSON, three levels deep.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|it| json!(it)),
        any::<i64>().prop_map(|it| json!(it)),
        any::<u64>().prop_map(|it| json!(it)),
        any::<f64>().prop_map(|it| json!(it)),
        ".{0,6}".prop_map(|it| json!(it)),
        "(on|off|-1|[0-9]{1,30}[a-z]{0,2})".prop_map(|it| json!(it)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|it| json!(it)),
            prop::collection::btree_map("([a-z_]{1,8}|.{0,3})", inner, 0..4).prop_map(|it| json!(it)),
        ]
    })
}

/// Every documented setting of the dynamic configuration, and the sections above them.
fn dynamic_paths() -> Vec<&'static str> {
    let shared = LOCAL.iter().filter(|row| row.path.starts_with("postgresql."));
    let rows = DYNAMIC.iter().chain(shared).map(|row| row.path);
    let mut paths: Vec<_> = rows.collect();
    for path in paths.clone() {
        paths.extend(path.match_indices('.').map(|(end, _)| &path[..end]));
    }
    paths.extend([
        "postgresql.parameters.work_mem",
        "postgresql.my_method",
        "slots.a",
        "slots.a.type",
    ]);
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[test]
fn all_settings_are_drawn() {
    let paths = dynamic_paths();
    for path in [
        "ttl",
        "postgresql",
        "postgresql.parameters",
        "standby_cluster",
        "standby_cluster.host",
    ] {
        assert!(paths.contains(&path), "{path}");
    }
}

/// An agent can start with this document: what follows from it is there, for every role and version.
fn starts_with(document: &serde_json::Value) -> Result<(), String> {
    let local = LocalConfig::read(tree(FILE)).unwrap().0;
    let dynamic = DynamicConfig::read(document, Minimums::PATRONI).0;
    let (primary, replica) = (Some(ParameterRole::Primary), Some(ParameterRole::Replica));
    for role in [None, primary, replica, Some(ParameterRole::StandbyLeader)] {
        for version in [None, Some(90_600), Some(150_000), Some(180_000)] {
            let (settings, _) = PostgresqlSettings::new(&local, &dynamic, version, role)
                .map_err(|problems| format!("{document}: {problems}"))?;
            if settings.parameters.is_empty() {
                return Err(format!("{document}: no parameters"));
            }
        }
    }
    let _ = dynamic.adjusted_document();
    let _ = tamada_config::layers::check_document(document);
    Ok(())
}

/// Whatever stands at any key, alone: an agent starts, and where a section is no section the document is refused by its name.
#[test]
fn every_dynamic_setting_takes_every_kind_of_value() {
    for path in dynamic_paths() {
        for odd in [
            json!(null),
            json!(false),
            json!(1),
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!("x"),
            json!([]),
            json!([1]),
            json!([[1]]),
            json!({}),
            json!({"a": 1}),
            json!({"": {"": null}}),
            (0..120).fold(json!(1), |inner, _| json!([inner])),
        ] {
            let mut document = tamada_config::Map::new();
            set(
                &mut document,
                &path.split('.').collect::<Vec<_>>(),
                &Value::from(&odd),
            );
            let document = serde_json::Value::from(&document);
            starts_with(&document).unwrap();
            let refused = tamada_config::layers::check_document(&document);
            let is_section = ["postgresql", "standby_cluster", "postgresql.parameters"].contains(&path);
            if is_section && !odd.is_object() && Value::from(&odd).is_truthy() {
                let refused = refused.unwrap_err();
                assert!(
                    refused.path == path || refused.message.contains("64 levels"),
                    "{refused}"
                );
            }
        }
    }
}

proptest! {
    /// Whatever stands in the DCS, an agent whose own file is right can start.
    #[test]
    fn no_document_in_the_dcs_keeps_an_agent_from_starting(
        values in prop::collection::vec((prop::sample::select(dynamic_paths()), any_json()), 1..6),
        whole in prop_oneof![9 => Just(None), 1 => any_json().prop_map(Some)],
    ) {
        let mut document = tamada_config::Map::new();
        for (path, value) in &values {
            set(&mut document, &path.split('.').collect::<Vec<_>>(), &Value::from(value));
        }
        let document = whole.unwrap_or_else(|| serde_json::Value::from(&document));
        prop_assert_eq!(starts_with(&document), Ok(()));
    }
}
