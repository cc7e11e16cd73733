//! Every key of a configuration, and every variable: it is read, and a misspelt one is reported, or the list says why not.

mod list;

use crate::{FILE, tree, variables};
pub(crate) use list::set;
use list::{Claim, Key, Side, keys};
use serde_json::json;
use std::path::Path;
use tamada_config::settings::{DYNAMIC, Expected, LOCAL, Setting};
use tamada_config::{
    DynamicConfig, LocalConfig, Map, Minimums, ParameterRole, PostgresqlSettings, Problem, Problems, Tags,
    Value, env, layers, yaml,
};

/// Version of the server that the settings are for.
const MAJOR_VERSION: u32 = 180_000;

/// Sections of which every variable is known.
const OWN_VARIABLES: [&str; 9] = [
    "LOG",
    "RESTAPI",
    "CTL",
    "POSTGRESQL",
    "SUPERUSER",
    "REPLICATION",
    "REWIND",
    "CITUS",
    "ETCD3",
];

/// What the program gets to see of a configuration: typed settings alone, no tree as it was written.
#[derive(Debug, PartialEq)]
struct Seen {
    local: LocalConfig,
    tags: Vec<String>,
    dynamic: DynamicConfig,
    postgresql: Vec<PostgresqlSettings>,
}

/// What comes of both sides, and all that is said about them.
fn look(local: &Map, dynamic: &Map) -> (Option<Seen>, Vec<Problem>) {
    let document = serde_json::Value::from(dynamic);
    let (mut dynamic, Problems(mut said)) = DynamicConfig::read(&document, Minimums::TAMADA);
    let mut local = match LocalConfig::read(local.clone()) {
        Ok((local, problems)) => {
            said.extend(problems.0);
            local
        }
        Err(problems) => {
            said.extend(problems.0);
            return (None, said);
        }
    };
    let mut postgresql = Vec::new();
    for role in [
        ParameterRole::Primary,
        ParameterRole::Replica,
        ParameterRole::StandbyLeader,
    ] {
        match PostgresqlSettings::new(&local, &dynamic, Some(MAJOR_VERSION), Some(role)) {
            Ok((mut settings, problems)) => {
                settings.method_sections = Map::new();
                postgresql.push(settings);
                said.extend(problems.0);
            }
            Err(problems) => said.extend(problems.0),
        }
    }
    let tags = what_tags_say(&local.tags);
    local.tags = Tags::default();
    local.tree = Map::new();
    dynamic.document = json!(null);
    dynamic.postgresql = Map::new();
    let seen = Seen {
        local,
        tags,
        dynamic,
        postgresql,
    };
    (Some(seen), said)
}

fn what_tags_say(tags: &Tags) -> Vec<String> {
    let published: Vec<String> = tags
        .published()
        .iter()
        .filter(|(name, _)| name.as_str() == "zone")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    vec![
        tags.nofailover().to_string(),
        tags.failover_priority().to_string(),
        tags.clonefrom().to_string(),
        tags.noloadbalance().to_string(),
        tags.replicatefrom().unwrap_or_default(),
        tags.nosync().to_string(),
        tags.sync_priority().to_string(),
        tags.nostream().to_string(),
        published.concat(),
    ]
}

/// The stores besides the file's own.
const OTHER_STORES: [&str; 5] = ["consul", "etcd", "exhibitor", "kubernetes", "zookeeper"];

/// The file that a key is written to. It has no store yet if the key is one's.
fn file_for(key: &Key) -> Map {
    let mut file = tree(FILE);
    if OTHER_STORES.contains(&key.segments()[0]) {
        file.remove("etcd3");
    }
    file
}

/// File and dynamic configuration, without the key and with it.
fn sides(key: &Key, is_dynamic: bool) -> [(Map, Map); 2] {
    if is_dynamic {
        let (without, with) = key.written_to(&Map::new());
        [(tree(FILE), without), (tree(FILE), with)]
    } else {
        let (without, with) = key.written_to(&file_for(key));
        [(without, Map::new()), (with, Map::new())]
    }
}

fn check(key: &Key, is_dynamic: bool) {
    let [without, with] = sides(key, is_dynamic);
    let (before, _) = look(&without.0, &without.1);
    let (after, said) = look(&with.0, &with.1);
    let shown: Vec<String> = said.iter().map(ToString::to_string).collect();
    if key.claim == Claim::Told {
        let is_told = shown.iter().any(|line| line.contains(&key.reason));
        assert!(is_told, "{}: nothing says {:?}: {shown:?}", key.path, key.reason);
    } else {
        assert!(shown.is_empty(), "{}: {shown:?}", key.path);
    }
    let has_effect = before != after;
    match key.claim {
        Claim::Read | Claim::Own | Claim::Unused => {
            assert!(has_effect && after.is_some(), "{} has no effect", key.path);
            // That something is missing without it would prove little, but of a second name for what is needed.
            assert!(
                before.is_some() || key.path == "postgresql.name",
                "{} is needed",
                key.path
            );
        }
        Claim::Idle | Claim::Told => assert!(!has_effect, "{} has an effect", key.path),
        Claim::Silent | Claim::Program => panic!("{} is no variable", key.path),
    }
    check_misspelt(key, is_dynamic);
    if is_dynamic {
        check_bootstrap(key);
    }
}

/// A letter more in any part of the path, and the key is unknown, unless that part is the user's own name.
fn check_misspelt(key: &Key, is_dynamic: bool) {
    let segments = key.segments();
    let misspelt = match key.claim {
        Claim::Read | Claim::Unused | Claim::Idle => 0..segments.len(),
        _ => 0..0,
    };
    for n in misspelt.filter(|n| !matches!(segments[*n], "a" | "0")) {
        let wrong = format!("{}x", segments[n]);
        let mut path = segments.clone();
        path[n] = &wrong;
        let (mut local, mut dynamic) = (tree(FILE), Map::new());
        set(
            if is_dynamic { &mut dynamic } else { &mut local },
            &path,
            &key.value,
        );
        let expected = format!(
            "{}: unknown setting, ignored: did you mean {}?",
            path[..=n].join("."),
            segments[n]
        );
        let (_, said) = look(&local, &dynamic);
        let is_said = said.iter().any(|problem| problem.to_string() == expected);
        assert!(is_said, "nothing says {expected:?}: {said:?}");
    }
}

/// What may stand in `/config` may stand in `bootstrap.dcs`, from which that is made.
fn check_bootstrap(key: &Key) {
    let (_, document) = key.written_to(&Map::new());
    let mut local = tree(FILE);
    set(&mut local, &["bootstrap", "dcs"], &Value::from(document.clone()));
    let (config, problems) = LocalConfig::read(local).unwrap();
    assert_eq!(problems.to_string(), "", "{}", key.path);
    assert_eq!(
        config.bootstrap.dcs,
        serde_json::Value::from(&document),
        "{}",
        key.path
    );
}

/// The variable makes the same as the key in the file, and a letter more makes nothing.
fn check_variable(key: &Key) {
    let Some((name, _)) = key.variables.first() else {
        return;
    };
    let pairs = key
        .variables
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    let variables = variables(&pairs.collect::<Vec<_>>());
    let (made, problems) = env::read(&variables);
    assert_eq!(problems.to_string(), "", "{name}");
    let made = Value::from(made);
    let made = made
        .at(&key.path)
        .unwrap_or_else(|| panic!("{name} makes no {}", key.path));
    assert!(made.same(&key.value), "{name}: {made:?}");

    let (without, with) = key.written_to(&file_for(key));
    let files = [("patroni.yml".to_owned(), yaml::dump(&Value::from(without)))];
    let (tree, _) = layers::local(&files, &variables).unwrap();
    let is_same = look(&tree, &Map::new()).0 == look(&with, &Map::new()).0;
    assert!(is_same, "{name} is not the same as {}", key.path);
    check_misspelt_variable(&format!("{name}X"));
}

fn check_misspelt_variable(name: &str) {
    let (tree, problems) = env::read(&variables(&[(name, "1")]));
    assert!(tree.is_empty(), "{name}: {tree:?}");
    let is_own = name.starts_with("TAMADA_")
        || OWN_VARIABLES
            .iter()
            .any(|section| name.starts_with(&format!("PATRONI_{section}_")));
    let is_told = problems.to_string() == format!("{name}: this variable has no effect: set it in the file");
    assert_eq!(is_told, is_own, "{name}: {problems}");
}

/// A variable that makes no key.
fn check_keyless(key: &Key) {
    let (tree, problems) = env::read(&variables(&[(&key.path, &key.text)]));
    assert!(tree.is_empty(), "{}: {tree:?}", key.path);
    match key.claim {
        Claim::Told => assert_eq!(problems.to_string(), format!("{}: {}", key.path, key.reason)),
        Claim::Silent => assert_eq!(problems.to_string(), ""),
        Claim::Program => {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&key.text);
            let source = std::fs::read_to_string(&file).unwrap();
            assert!(
                source.contains(&format!("\"{}\"", key.path)),
                "{} in {file:?}",
                key.path
            );
        }
        _ => panic!("{} is a key", key.path),
    }
}

#[test]
fn every_key_does_what_the_list_says() {
    for key in keys() {
        match key.side {
            Side::Local => check(&key, false),
            Side::Dynamic => check(&key, true),
            Side::Both => {
                check(&key, false);
                check(&key, true);
            }
            Side::Variable => check_keyless(&key),
        }
        check_variable(&key);
    }
}

#[test]
fn a_key_on_the_wrong_side_has_no_effect_and_is_told() {
    let (base, _) = look(&tree(FILE), &Map::new());
    let is_of_postgresql = |key: &Key| key.path.starts_with("postgresql.");
    let mut count = 0;
    for key in keys().into_iter().filter(|key| key.claim == Claim::Read) {
        let (mut local, mut dynamic) = (tree(FILE), Map::new());
        let said_of = match key.side {
            Side::Dynamic => {
                set(&mut local, &key.segments(), &key.value);
                "has no effect here: it belongs to the dynamic configuration (edit-config"
            }
            Side::Local if is_of_postgresql(&key) => {
                set(&mut dynamic, &key.segments(), &key.value);
                "has no effect here: it belongs to the file of each member"
            }
            _ => continue,
        };
        let (seen, said) = look(&local, &dynamic);
        assert!(seen == base, "{} has an effect", key.path);
        let is_told = said.iter().any(|problem| problem.message.starts_with(said_of));
        assert!(is_told, "{}: {said:?}", key.path);
        count += 1;
    }
    assert!(count > 100, "{count}");
}

/// The paths of the rows, with `*` for a name or a place.
fn paths(rows: &[Setting], prefix: &str) -> Vec<String> {
    let mut all = Vec::new();
    for row in rows {
        let path = format!("{prefix}{}", row.path);
        match row.expected {
            Expected::Section(rows) => all.extend(paths(rows, &format!("{path}."))),
            Expected::Named(rows) | Expected::Sections(rows) => {
                all.extend(paths(rows, &format!("{path}.*.")));
            }
            _ => all.push(path),
        }
    }
    all
}

#[test]
fn the_list_has_all_that_is_read() {
    let keys = keys();
    let has = |side: Side, path: &str| {
        let pattern: Vec<&str> = path.split('.').collect();
        keys.iter().any(|key| {
            let segments = key.segments();
            (key.side == side || key.side == Side::Both)
                && segments.len() >= pattern.len()
                && segments.iter().zip(&pattern).all(|(a, b)| *b == "*" || a == b)
        })
    };
    let missing = |rows: &[Setting], side: Side| -> Vec<String> {
        let paths = paths(rows, "");
        paths.into_iter().filter(|path| !has(side, path)).collect()
    };
    assert_eq!(missing(LOCAL, Side::Local), Vec::<String>::new());
    assert_eq!(missing(DYNAMIC, Side::Dynamic), Vec::<String>::new());

    // The variables of the stores are made of one list of keys for all of them, as with Patroni.
    let stores = ["CONSUL", "ETCD", "ETCD3", "EXHIBITOR", "KUBERNETES", "ZOOKEEPER"];
    let is_a_stores = |name: &String| {
        stores
            .iter()
            .any(|store| name.starts_with(&format!("PATRONI_{store}_")))
    };
    let listed = |name: &String| {
        let mut of_keys = keys.iter().flat_map(|key| &key.variables);
        of_keys.any(|(listed, _)| listed == name)
    };
    let names = env::names();
    assert!(names.len() > 300, "{}", names.len());
    let unlisted: Vec<_> = names
        .into_iter()
        .filter(|name| !is_a_stores(name) && !listed(name))
        .collect();
    assert_eq!(unlisted, Vec::<String>::new());
    // The parameters that must be the same everywhere are on both sides of the list.
    let (defaults, _) = layers::effective(&Map::new(), &Map::new()).unwrap();
    let defaults = Value::from(defaults);
    let parameters = defaults.at("postgresql.parameters").and_then(Value::as_map);
    for (name, _) in parameters.unwrap().iter() {
        let path = format!("postgresql.parameters.{name}");
        assert!(has(Side::Local, &path) && has(Side::Dynamic, &path), "{path}");
    }
}
