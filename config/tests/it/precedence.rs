//! Properties of putting layers together: mappings are merged level by level, and of each setting the highest layer
//! that may say it wins: environment, files from the last to the first, dynamic configuration, defaults.

use crate::keys::set;
use crate::layers::any_map;
use crate::{FILE, tree};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tamada_config::{
    DynamicConfig, LocalConfig, Map, Minimums, ParameterRole, PostgresqlSettings, Value, layers, yaml,
};

/// A tree as the list of its nodes by path: what a leaf holds, and nothing for a mapping.
type Nodes = BTreeMap<Vec<String>, Option<Value>>;

fn nodes(map: &Map) -> Nodes {
    let mut all = Nodes::new();
    for (key, value) in map.iter() {
        let leaf = value.as_map().is_none().then(|| value.clone());
        all.insert(vec![key.to_owned()], leaf);
        for (below, node) in value.as_map().map(nodes).unwrap_or_default() {
            all.insert([vec![key.to_owned()], below].concat(), node);
        }
    }
    all
}

/// What a patch makes, said of single nodes. Those of the patch come in the order of paths: a mapping before what it
/// holds.
fn merged(mut base: Nodes, patch: Nodes) -> Nodes {
    let mut brought = BTreeSet::new();
    for (path, node) in patch {
        let is_brought = brought.contains(&path[..path.len() - 1]);
        let is_same = match (base.get(&path), &node) {
            (Some(Some(old)), Some(new)) => old.same(new) && !new.is_null(),
            (Some(None), None) => true,
            _ => false,
        };
        if is_same && !is_brought {
            continue;
        }
        base.retain(|other, _| !other.starts_with(&path));
        if node.is_none() {
            brought.insert(path.clone());
        }
        // A null removes, but where everything around it is new there is nothing to remove.
        if is_brought || !node.as_ref().is_some_and(Value::is_null) {
            base.insert(path, node);
        }
    }
    base
}

proptest! {
    #[test]
    fn a_patch_changes_the_nodes_that_it_names_and_no_others(map in any_map(), patch in any_map()) {
        let mut patched = map.clone();
        patched.patch(&patch);
        prop_assert_eq!(nodes(&patched), merged(nodes(&map), nodes(&patch)));
    }

    #[test]
    fn files_are_laid_over_each_other_in_their_order(maps in prop::collection::vec(any_map(), 1..4)) {
        let file = |(n, map): (usize, &Map)| (format!("{n}.yml"), yaml::dump(&Value::from(map.clone())));
        let files: Vec<_> = maps.iter().enumerate().map(file).collect();
        let variables = BTreeMap::from([("PATRONI_NAME".to_owned(), "e".to_owned())]);
        let (tree, _) = layers::local(&files, &variables).unwrap();
        let mut expected = maps.iter().fold(Nodes::new(), |all, map| merged(all, nodes(map)));
        expected.insert(vec!["name".to_owned()], Some("e".into()));
        prop_assert_eq!(nodes(&tree), expected);
    }
}

/// Both sides, as the program reads them.
struct Loaded {
    local: LocalConfig,
    dynamic: DynamicConfig,
    postgresql: PostgresqlSettings,
}

/// A setting that several layers may name.
struct Row {
    path: &'static str,
    variable: Option<&'static str>,
    /// Whether the files count, and whether the dynamic configuration does.
    layers: (bool, bool),
    /// Values to choose from; the first is the default.
    values: &'static [&'static str],
    get: fn(&Loaded) -> String,
}

const NAMES: &[&str] = &["", "/a", "/b", "/c"];
const FLAGS: &[&str] = &["false", "true"];

const fn own(
    path: &'static str,
    variable: &'static str,
    values: &'static [&'static str],
    get: fn(&Loaded) -> String,
) -> Row {
    Row {
        path,
        variable: Some(variable),
        layers: (true, false),
        values,
        get,
    }
}

const fn row(
    path: &'static str,
    layers: (bool, bool),
    values: &'static [&'static str],
    get: fn(&Loaded) -> String,
) -> Row {
    Row {
        path,
        variable: None,
        layers,
        values,
        get,
    }
}

const BOTH: (bool, bool) = (true, true);
const DYNAMIC: (bool, bool) = (false, true);
const FILES: (bool, bool) = (true, false);

fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}

fn parameter(loaded: &Loaded, name: &str) -> String {
    loaded
        .postgresql
        .parameters
        .get(name)
        .cloned()
        .unwrap_or_default()
}

/// `FILE`, which is the first of the files, says some of the defaults.
const ROWS: &[Row] = &[
    own("name", "PATRONI_NAME", &["p0", "a", "b"], |it| {
        it.local.name.clone()
    }),
    own("namespace", "PATRONI_NAMESPACE", &["service", "a", "b"], |it| {
        it.local.namespace.clone()
    }),
    own(
        "log.level",
        "PATRONI_LOG_LEVEL",
        &["INFO", "DEBUG", "ERROR"],
        |it| it.local.log.level.clone(),
    ),
    own("log.file_num", "PATRONI_LOG_FILE_NUM", &["4", "5", "6"], |it| {
        it.local.log.file_num.to_string()
    }),
    own("ctl.insecure", "PATRONI_CTL_INSECURE", FLAGS, |it| {
        it.local.ctl.insecure.to_string()
    }),
    own(
        "postgresql.data_dir",
        "PATRONI_POSTGRESQL_DATA_DIR",
        &["/data", "/a", "/b"],
        |it| shown(&it.postgresql.local.data_dir),
    ),
    own("postgresql.bin_dir", "PATRONI_POSTGRESQL_BIN_DIR", NAMES, |it| {
        shown(&it.postgresql.local.bin_dir)
    }),
    own(
        "postgresql.authentication.superuser.username",
        "PATRONI_SUPERUSER_USERNAME",
        &["postgres", "a", "b"],
        |it| {
            let user = &it.postgresql.local.authentication.superuser.username;
            user.clone().unwrap_or_default()
        },
    ),
    row("postgresql.database", FILES, &["postgres", "a", "b"], |it| {
        it.postgresql.local.database.clone()
    }),
    row("tags.clonefrom", FILES, FLAGS, |it| {
        it.local.tags.clonefrom().to_string()
    }),
    row("postgresql.custom_conf", BOTH, NAMES, |it| {
        it.postgresql.custom_conf.clone().unwrap_or_default()
    }),
    row("postgresql.pre_promote", BOTH, NAMES, |it| {
        it.postgresql.pre_promote.clone().unwrap_or_default()
    }),
    row("postgresql.callbacks.on_start", BOTH, NAMES, |it| {
        it.postgresql.callbacks.on_start.clone().unwrap_or_default()
    }),
    row("postgresql.use_pg_rewind", BOTH, FLAGS, |it| {
        it.postgresql.use_pg_rewind.to_string()
    }),
    row("postgresql.use_unix_socket", BOTH, FLAGS, |it| {
        it.postgresql.use_unix_socket.to_string()
    }),
    row("postgresql.pg_ctl_timeout", BOTH, &["60", "70", "80"], |it| {
        it.postgresql.pg_ctl_timeout.as_secs().to_string()
    }),
    row(
        "postgresql.parameters.work_mem",
        BOTH,
        &["", "4MB", "8MB"],
        |it| parameter(it, "work_mem"),
    ),
    row("postgresql.parameters.jit", BOTH, &["", "on", "off"], |it| {
        parameter(it, "jit")
    }),
    row(
        "postgresql.parameters.max_connections",
        DYNAMIC,
        &["100", "25", "300"],
        |it| parameter(it, "max_connections"),
    ),
    row(
        "postgresql.parameters.wal_level",
        DYNAMIC,
        &["replica", "logical"],
        |it| parameter(it, "wal_level"),
    ),
    row(
        "postgresql.parameters.wal_log_hints",
        DYNAMIC,
        &["on", "off"],
        |it| parameter(it, "wal_log_hints"),
    ),
    row("postgresql.use_slots", DYNAMIC, &["true", "false"], |it| {
        it.postgresql.use_slots.to_string()
    }),
    row("ttl", DYNAMIC, &["30", "40", "50"], |it| {
        it.dynamic.ttl.as_secs().to_string()
    }),
    row("loop_wait", DYNAMIC, &["10", "3", "4"], |it| {
        it.dynamic.loop_wait.as_secs().to_string()
    }),
    row("retry_timeout", DYNAMIC, &["10", "5", "6"], |it| {
        it.dynamic.retry_timeout.as_secs().to_string()
    }),
    row("maximum_lag_on_failover", DYNAMIC, &["1048576", "1", "2"], |it| {
        it.dynamic.maximum_lag_on_failover_bytes.to_string()
    }),
    row("failsafe_mode", DYNAMIC, FLAGS, |it| {
        it.dynamic.failsafe_mode.to_string()
    }),
];

/// What the layers say of one row, as places in its values: dynamic, two files, environment.
type Choice = [Option<prop::sample::Index>; 4];

fn any_choices() -> impl Strategy<Value = Vec<Choice>> {
    let said = || prop::option::of(any::<prop::sample::Index>());
    prop::collection::vec([said(), said(), said(), said()], ROWS.len())
}

fn written(row: &Row, said: Option<prop::sample::Index>) -> Option<&'static str> {
    said.map(|index| row.values[index.index(row.values.len())])
}

fn load(choices: &[Choice]) -> Loaded {
    let mut trees = [Map::new(), Map::new(), Map::new()];
    let mut variables = BTreeMap::new();
    for (row, choice) in ROWS.iter().zip(choices) {
        let path: Vec<&str> = row.path.split('.').collect();
        for (tree, said) in trees.iter_mut().zip(choice) {
            if let Some(text) = written(row, *said) {
                set(tree, &path, &yaml::parse("", &format!("{text:?}")).unwrap());
            }
        }
        if let (Some(name), Some(text)) = (row.variable, written(row, choice[3])) {
            variables.insert(name.to_owned(), text.to_owned());
        }
    }
    let [dynamic, first, last] = trees;
    let file = |(name, map): (&str, Map)| (name.to_owned(), yaml::dump(&Value::from(map)));
    let files = [("00.yml", tree(FILE)), ("10.yml", first), ("20.yml", last)].map(file);
    let (local, _) = LocalConfig::load(&files, &variables).unwrap();
    let (dynamic, _) = DynamicConfig::read(&(&dynamic).into(), Minimums::TAMADA);
    let role = Some(ParameterRole::Replica);
    let (postgresql, _) = PostgresqlSettings::new(&local, &dynamic, Some(180_000), role).unwrap();
    Loaded {
        local,
        dynamic,
        postgresql,
    }
}

proptest! {
    #[test]
    fn the_highest_layer_that_may_say_it_wins(choices in any_choices()) {
        let loaded = load(&choices);
        for (row, choice) in ROWS.iter().zip(&choices) {
            let [dynamic, first, last, variable] = choice.map(|said| written(row, said));
            let (files_count, dynamic_counts) = row.layers;
            // An empty variable is as none, an empty text in a file hides what is below it.
            let variable = variable.filter(|text| row.variable.is_some() && !text.is_empty());
            let file = last.or(first).filter(|_| files_count);
            let dynamic = dynamic.filter(|_| dynamic_counts);
            let expected = variable.or(file).or(dynamic).unwrap_or(row.values[0]);
            prop_assert_eq!((row.get)(&loaded), expected, "{}: {:?}", row.path, choice);
        }
    }

    /// Neither a value that is too small nor one from a file comes into force.
    #[test]
    fn a_controlled_number_is_the_dynamic_one_or_the_default(
        dynamic in prop::collection::vec(prop::option::of(-5..60i64), 6),
        local in prop::collection::vec(prop::option::of(100..200i64), 6),
    ) {
        let rows = [
            ("max_connections", 25, 100),
            ("max_wal_senders", 3, 10),
            ("max_prepared_transactions", 0, 0),
            ("max_locks_per_transaction", 32, 64),
            ("max_replication_slots", 4, 10),
            ("max_worker_processes", 2, 8),
        ];
        let side = |said: &[Option<i64>]| {
            let mut map = Map::new();
            for ((name, ..), said) in rows.iter().zip(said) {
                if let Some(number) = said {
                    set(&mut map, &["postgresql", "parameters", name], &Value::from(*number));
                }
            }
            map
        };
        let (config, said) = layers::effective(&side(&local), &side(&dynamic)).unwrap();
        let config = Value::from(config);
        for ((name, minimum, default), number) in rows.iter().zip(&dynamic) {
            let in_force = config.at(&format!("postgresql.parameters.{name}")).unwrap().to_int(None);
            prop_assert_eq!(in_force, Some(number.filter(|number| number >= minimum).unwrap_or(*default)));
            let is_too_small = number.is_some_and(|number| number < *minimum);
            let complains = said.to_string().contains(&format!("postgresql parameter {name}="));
            prop_assert_eq!(complains, is_too_small);
        }
    }
}
