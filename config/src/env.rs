//! `PATRONI_*` variables as a configuration tree, and `TAMADA_*` for the settings that Patroni lacks. Patroni documentation:
//! environment configuration settings.

use crate::number::{parse_bool, parse_int};
use crate::problem::{Problem, Problems};
use crate::settings::{Expected, LOCAL};
use crate::value::{Kind, Map, Position, Value};
use crate::yaml;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The complete configuration as one YAML document; if it is set and no file is given, no other variable counts.
pub const CONFIGURATION: &str = "PATRONI_CONFIGURATION";

/// How a variable's text becomes a value.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Bool,
    Int,
    List,
    Map,
    /// A text with a Python format, or the list of the fields of JSON lines.
    LogFormat,
}
use Form::{Bool, Int, List, LogFormat, Map as Mapping, Text};

const SIMPLE: &[(&str, Form)] = &[
    ("NAME", Text),
    ("NAMESPACE", Text),
    ("SCOPE", Text),
    ("THREAD_POOL_SIZE", Text),
    ("THREAD_STACK_SIZE", Text),
];

const LOG: &[(&str, Form)] = &[
    ("TYPE", Text),
    ("LEVEL", Text),
    ("TRACEBACK_LEVEL", Text),
    ("FORMAT", LogFormat),
    ("DATEFORMAT", Text),
    ("STATIC_FIELDS", Mapping),
    ("MAX_QUEUE_SIZE", Int),
    ("DIR", Text),
    ("MODE", Int),
    ("FILE_SIZE", Int),
    ("FILE_NUM", Int),
    ("LOGGERS", Mapping),
    ("DEDUPLICATE_HEARTBEAT_LOGS", Bool),
];

const RESTAPI: &[(&str, Form)] = &[
    ("LISTEN", Text),
    ("CONNECT_ADDRESS", Text),
    ("CERTFILE", Text),
    ("KEYFILE", Text),
    ("KEYFILE_PASSWORD", Text),
    ("CAFILE", Text),
    ("CIPHERS", Text),
    ("VERIFY_CLIENT", Text),
    ("HTTP_EXTRA_HEADERS", Mapping),
    ("HTTPS_EXTRA_HEADERS", Mapping),
    ("ALLOWLIST", List),
    ("ALLOWLIST_INCLUDE_MEMBERS", Bool),
    ("REQUEST_QUEUE_SIZE", Int),
    ("SERVER_TOKENS", Text),
];

const CTL: &[(&str, Form)] = &[
    ("INSECURE", Bool),
    ("CACERT", Text),
    ("CERTFILE", Text),
    ("KEYFILE", Text),
    ("KEYFILE_PASSWORD", Text),
];

const LOGIN: &[(&str, Form)] = &[("USERNAME", Text), ("PASSWORD", Text)];

const POSTGRESQL: &[(&str, Form)] = &[
    ("LISTEN", Text),
    ("CONNECT_ADDRESS", Text),
    ("PROXY_ADDRESS", Text),
    ("CONFIG_DIR", Text),
    ("DATA_DIR", Text),
    ("PGPASS", Text),
    ("BIN_DIR", Text),
];

const BIN: &[(&str, Form)] = &[
    ("PG_CTL", Text),
    ("INITDB", Text),
    ("PG_CONTROLDATA", Text),
    ("PG_BASEBACKUP", Text),
    ("POSTGRES", Text),
    ("PG_ISREADY", Text),
    ("PG_REWIND", Text),
];

const ROLE: &[(&str, Form)] = &[
    ("USERNAME", Text),
    ("PASSWORD", Text),
    ("SSLMODE", Text),
    ("SSLCERT", Text),
    ("SSLKEY", Text),
    ("SSLPASSWORD", Text),
    ("SSLROOTCERT", Text),
    ("SSLCRL", Text),
    ("SSLCRLDIR", Text),
    ("GSSENCMODE", Text),
    ("CHANNEL_BINDING", Text),
    ("SSLNEGOTIATION", Text),
];

const RAFT: &[(&str, Form)] = &[
    ("DATA_DIR", Text),
    ("SELF_ADDR", Text),
    ("PARTNER_ADDRS", List),
    ("PASSWORD", Text),
    ("BIND_ADDR", Text),
    ("APPEND_ENTRIES_PERIOD", Text),
    ("MIN_TIMEOUT", Text),
    ("MAX_TIMEOUT", Text),
    ("CONNECTION_TIMEOUT", Text),
    ("CONNECTION_RETRY_TIME", Text),
    ("LEADER_FALLBACK_TIMEOUT", Text),
];

const CITUS: &[(&str, Form)] = &[("GROUP", Int), ("DATABASE", Text)];

/// One list for all kinds of DCS, as in Patroni.
const DCS: &[(&str, Form)] = &[
    ("HOST", Text),
    ("HOSTS", List),
    ("PORT", Int),
    ("USE_PROXIES", Bool),
    ("PROTOCOL", Text),
    ("SRV", Text),
    ("SRV_SUFFIX", Text),
    ("URL", Text),
    ("PROXY", Text),
    ("CACERT", Text),
    ("CERT", Text),
    ("KEY", Text),
    ("VERIFY", Bool),
    ("TOKEN", Text),
    ("CHECKS", List),
    ("DC", Text),
    ("CONSISTENCY", Text),
    ("REGISTER_SERVICE", Bool),
    ("SERVICE_TAGS", List),
    ("SERVICE_CHECK_INTERVAL", Text),
    ("SERVICE_CHECK_TLS_SERVER_NAME", Text),
    ("NAMESPACE", Text),
    ("CONTEXT", Text),
    ("USE_ENDPOINTS", Bool),
    ("SCOPE_LABEL", Text),
    ("ROLE_LABEL", Text),
    ("TMP_ROLE_LABEL", Text),
    ("LEADER_LABEL_VALUE", Text),
    ("FOLLOWER_LABEL_VALUE", Text),
    ("STANDBY_LEADER_LABEL_VALUE", Text),
    ("POD_IP", Text),
    ("PORTS", List),
    ("LABELS", Mapping),
    ("BOOTSTRAP_LABELS", Mapping),
    ("BYPASS_API_SERVICE", Bool),
    ("RETRIABLE_HTTP_CODES", List),
    ("KEY_PASSWORD", Text),
    // A text in Patroni, where any, even `false`, turns TLS on.
    ("USE_SSL", Bool),
    ("SET_ACLS", Mapping),
    ("AUTH_DATA", Mapping),
];
const DCS_SECTIONS: [&str; 6] = ["CONSUL", "ETCD", "ETCD3", "EXHIBITOR", "KUBERNETES", "ZOOKEEPER"];

/// The tree that the variables make. Empty values do not count. A value that does not fit is left out with a warning,
/// as is a variable of one of our sections that nobody reads.
#[must_use]
pub fn read(variables: &BTreeMap<String, String>) -> (Map, Problems) {
    let mut reader = Reader::new(variables);
    reader.all();
    reader.report_unknown();
    (reader.tree, reader.problems)
}

/// The names of all variables that [`read`] reads.
#[must_use]
pub fn names() -> Vec<String> {
    let nothing = BTreeMap::new();
    let mut reader = Reader::new(&nothing);
    reader.all();
    reader.known
}

/// Whether this variable is meant for the configuration. Child processes do not inherit it.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PATRONI) || own_section(name)
}

/// Whether the variables can be a configuration without any file. `TAMADA_*` alone cannot.
#[must_use]
pub fn is_configuration(variables: &BTreeMap<String, String>) -> bool {
    variables.keys().any(|name| name.starts_with(PATRONI))
}

const PATRONI: &str = "PATRONI_";
const TAMADA: &str = "TAMADA_";

/// Whether the name is `TAMADA_` with a section of the configuration, or with a setting of ours: variables such as `TAMADA_TEST_PG_BIN` are not.
fn own_section(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(TAMADA) else {
        return false;
    };
    let section = rest.split('_').next().unwrap_or_default().to_ascii_lowercase();
    let is_in = |path: &str| {
        path.strip_prefix(section.as_str())
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let is_of = |own: String| name.starts_with(&own);
    LOCAL
        .iter()
        .any(|row| is_in(row.path) || row.own_variable().is_some_and(is_of))
}

struct Reader<'a> {
    variables: &'a BTreeMap<String, String>,
    tree: Map,
    problems: Problems,
    known: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(variables: &'a BTreeMap<String, String>) -> Self {
        Self {
            variables,
            tree: Map::new(),
            problems: Problems::default(),
            known: Vec::new(),
        }
    }

    fn all(&mut self) {
        self.section("", "", SIMPLE);
        // Names from before there was a section `log`; the section's own win.
        for (old, key) in [
            ("LOGLEVEL", "level"),
            ("LOGFORMAT", "format"),
            ("LOG_DATEFMT", "dateformat"),
        ] {
            self.variable(
                &format!("PATRONI_{old}"),
                &["log", key],
                if key == "format" { LogFormat } else { Text },
            );
        }
        for (prefix, path, rows) in [
            ("LOG_", "log", LOG),
            ("RESTAPI_", "restapi", RESTAPI),
            ("RESTAPI_", "restapi.authentication", LOGIN),
            ("CTL_", "ctl", CTL),
            ("CTL_", "ctl.authentication", LOGIN),
            ("POSTGRESQL_", "postgresql", POSTGRESQL),
            ("POSTGRESQL_BIN_", "postgresql.bin_name", BIN),
            ("SUPERUSER_", "postgresql.authentication.superuser", ROLE),
            ("REPLICATION_", "postgresql.authentication.replication", ROLE),
            ("REWIND_", "postgresql.authentication.rewind", ROLE),
            ("RAFT_", "raft", RAFT),
            ("CITUS_", "citus", CITUS),
        ] {
            self.section(prefix, path, rows);
        }
        for section in DCS_SECTIONS {
            let path = section.to_ascii_lowercase();
            let prefix = format!("{section}_");
            self.section(&prefix, &path, DCS);
            // User and password alone do not make a section.
            if matches!(section, "ETCD" | "ETCD3") {
                if self.tree.contains_key(&path) {
                    self.section(&prefix, &path, LOGIN);
                } else {
                    self.known
                        .extend(LOGIN.iter().map(|(name, _)| format!("PATRONI_{prefix}{name}")));
                }
            }
        }
        self.variable(
            "PATRONI_EXHIBITOR_POLL_INTERVAL",
            &["exhibitor", "poll_interval"],
            Int,
        );
        // What Patroni documents; there only the name with the section's works, which goes before this one.
        let codes = ["kubernetes", "retriable_http_codes"];
        let kubernetes = self.tree.get(codes[0]);
        if kubernetes.is_some_and(|section| section.get(codes[1]).is_none()) {
            self.variable("PATRONI_RETRIABLE_HTTP_CODES", &codes, List);
        } else {
            self.known.push("PATRONI_RETRIABLE_HTTP_CODES".to_owned());
        }
        self.own();
    }

    /// The settings that Patroni lacks. A text that does not fit is refused when the settings are checked, as in a file.
    fn own(&mut self) {
        for row in LOCAL {
            let Some(name) = row.own_variable() else {
                continue;
            };
            let form = match row.expected {
                Expected::Scalars | Expected::Mapping | Expected::Section(_) | Expected::Named(_) => Mapping,
                Expected::Lines | Expected::Texts | Expected::Options | Expected::Sections(_) => List,
                Expected::Bool => Bool,
                _ => Text,
            };
            let path: Vec<&str> = row.path.split('.').collect();
            self.variable(&name, &path, form);
        }
    }

    fn section(&mut self, prefix: &str, path: &str, rows: &[(&str, Form)]) {
        for (name, form) in rows {
            let key = name.to_ascii_lowercase();
            let path: Vec<&str> = path
                .split('.')
                .filter(|part| !part.is_empty())
                .chain([key.as_str()])
                .collect();
            self.variable(&format!("PATRONI_{prefix}{name}"), &path, *form);
        }
    }

    fn variable(&mut self, name: &str, path: &[&str], form: Form) {
        self.known.push(name.to_owned());
        let Some(text) = self.variables.get(name).filter(|text| !text.is_empty()) else {
            return;
        };
        match convert(name, text, form) {
            Ok(value) => insert(&mut self.tree, path, value, name),
            Err(expected) => self.problems.push(Problem::warning(
                &path.join("."),
                Some(&position(name)),
                format!("expected {expected}: the variable is ignored"),
            )),
        }
    }

    /// Only within the sections that are ours alone: images and orchestrators set other variables with this prefix.
    fn report_unknown(&mut self) {
        let sections = [
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
        for name in self.variables.keys() {
            if own_section(name) && !self.known.contains(name) {
                let patroni = name.replacen(TAMADA, PATRONI, 1);
                let remedy = if self.known.contains(&patroni) {
                    format!("set {patroni}")
                } else {
                    "set it in the file".to_owned()
                };
                let message = format!("this variable has no effect: {remedy}");
                self.problems
                    .push(Problem::warning("", Some(&position(name)), message));
            }
            let section = name
                .strip_prefix("PATRONI_")
                .and_then(|rest| rest.split_once('_'))
                .map(|(section, _)| section);
            if section.is_some_and(|section| sections.contains(&section)) && !self.known.contains(name) {
                let message = "this variable has no effect: set it in the file";
                self.problems
                    .push(Problem::warning("", Some(&position(name)), message));
            }
        }
    }
}

fn position(name: &str) -> Position {
    Position {
        source: Arc::from(name),
        line: 0,
        column: 0,
    }
}

fn insert(tree: &mut Map, path: &[&str], value: Value, name: &str) {
    let Some((key, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        tree.insert(*key, value);
        return;
    }
    if tree.get(key).is_none() {
        tree.insert(
            *key,
            Value {
                kind: Kind::Map(Map::new()),
                position: Some(position(name)),
                is_respelled: false,
            },
        );
    }
    if let Some(Value {
        kind: Kind::Map(map), ..
    }) = tree.get_mut(key)
    {
        insert(map, rest, value, name);
    }
}

fn convert(name: &str, text: &str, form: Form) -> Result<Value, &'static str> {
    let kind = match form {
        Form::Text => Kind::String(text.to_owned()),
        Form::Bool => Kind::Bool(parse_bool(text).ok_or("on or off")?),
        Form::Int => Kind::Int(parse_int(text, None).ok_or("a whole number")?),
        Form::List => collection(name, text, ['[', ']'], "a list: a, b, c")?,
        Form::Map => collection(name, text, ['{', '}'], "a mapping: name: value, name: value")?,
        Form::LogFormat if text.contains("%(") => Kind::String(text.to_owned()),
        Form::LogFormat => collection(
            name,
            text,
            ['[', ']'],
            "a format with %(...), or a list of fields",
        )?,
    };
    Ok(Value {
        kind,
        position: Some(position(name)),
        is_respelled: false,
    })
}

/// A YAML list or mapping, with brackets or without.
fn collection(
    name: &str,
    text: &str,
    [open, close]: [char; 2],
    expected: &'static str,
) -> Result<Kind, &'static str> {
    let is_list = open == '[';
    let is_block = is_list && text.trim_start().starts_with('-');
    let bracketed = if is_block || text.trim_start().starts_with(open) {
        text.to_owned()
    } else {
        format!("{open}{text}{close}")
    };
    let parsed = yaml::parse(name, &bracketed).map(|mut value| {
        move_to(&mut value, &position(name));
        value.kind
    });
    match parsed {
        Ok(kind @ Kind::List(_)) if is_list => Ok(kind),
        Ok(kind @ Kind::Map(_)) if !is_list => Ok(kind),
        // An address of IPv6 in brackets is no list within the list.
        _ if is_list => addresses(text).ok_or(expected).map(|addresses| {
            let item = |text: &str| Value {
                position: Some(position(name)),
                ..Value::from(text)
            };
            Kind::List(addresses.into_iter().map(item).collect())
        }),
        _ => Err(expected),
    }
}

/// The items of a list in which brackets stand around IPv6 addresses alone: `e1:2379,[fd00::1]:2379`.
fn addresses(text: &str) -> Option<Vec<&str>> {
    let inner = text
        .trim()
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    [Some(text), inner].into_iter().flatten().find_map(|list| {
        let items: Vec<&str> = list
            .split(',')
            .map(|item| item.trim().trim_matches(['"', '\'']))
            .collect();
        items.iter().all(|item| is_address(item)).then_some(items)
    })
}

/// A text without brackets, or `[address]` with a port perhaps.
fn is_address(item: &str) -> bool {
    let rest = match item.strip_prefix('[').map(|rest| rest.split_once(']')) {
        None => item,
        Some(Some((address, port)))
            if address.contains(':') && (port.is_empty() || port.starts_with(':')) =>
        {
            port
        }
        Some(_) => return false,
    };
    !item.is_empty() && !rest.contains(['[', ']', '{', '}', '"', '\''])
}

/// Lines and columns within a variable would only confuse.
fn move_to(value: &mut Value, position: &Position) {
    value.position = Some(position.clone());
    match &mut value.kind {
        Kind::List(list) => list.iter_mut().for_each(|item| move_to(item, position)),
        Kind::Map(map) => map.values_mut().for_each(|item| move_to(item, position)),
        Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::String(_) => {}
    }
}
