//! The tree of the local side into [`LocalConfig`], with every error at once.

use super::{
    Authentication, BasicAuth, BinNames, BootstrapConfig, BootstrapMethod, CitusConfig, ClientConfig,
    CtlConfig, GuardConfig, GuardMode, LocalConfig, LocalPostgresql, LogConfig, LogType, RestApiConfig, Role,
    ServerTokens, VerifyClient, WatchdogConfig, WatchdogMode,
};
use super::{names, old_forms};
use crate::endpoint::{HostPort, ListenAddress};
use crate::layers;
use crate::local_dcs;
use crate::problem::{Problem, Problems};
use crate::read::{
    arguments, count, flag, is_one_of, lines, loose_flag, options, parameters, path, secret, section,
    strict_flag, text, texts,
};
use crate::settings::{GUARD_MODES, check_local, file_mode, word};
use crate::tags::Tags;
use crate::value::{Kind, Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Options of initdb that the program gives itself, or that would make an unsafe cluster.
const FORBIDDEN_INITDB_OPTIONS: [&str; 5] = ["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// Stands in synchronous_standby_names where strict mode has nobody, and so cannot be a member's name.
const PLACEHOLDER_NAME: &str = "__patroni_strict_sync_replica_placeholder__";

impl LocalConfig {
    /// Reads files (name and text) and `PATRONI_*` variables as [`layers::local`] puts them together.
    ///
    /// # Errors
    /// Everything that is wrong, at once: broken YAML, wrong types, what is missing. On success the warnings come with it.
    pub fn load(
        files: &[(String, String)],
        variables: &BTreeMap<String, String>,
    ) -> Result<(Self, Problems), Problems> {
        let (tree, mut problems) = layers::local(files, variables)?;
        match Self::read(tree) {
            Ok((config, warnings)) => {
                problems.0.extend(warnings.0);
                Ok((config, problems))
            }
            Err(errors) => {
                problems.0.extend(errors.0);
                Err(problems)
            }
        }
    }

    /// Reads a tree.
    ///
    /// # Errors
    /// Everything that is wrong, at once. On success the warnings come with it.
    pub fn read(mut tree: Map) -> Result<(Self, Problems), Problems> {
        let mut reader = Reader {
            problems: check_local(&tree),
        };
        old_forms::translate(&mut tree);
        let config = reader.config(tree);
        match config {
            Some(config) if !reader.problems.has_errors() => {
                reader
                    .problems
                    .0
                    .extend(config.tags.conflicts().into_iter().map(Problem::notice));
                Ok((config, reader.problems.sorted()))
            }
            _ => Err(reader.problems.sorted()),
        }
    }

    /// Makes the folders and files of PostgreSQL absolute: what is relative is below `working_directory`.
    pub fn resolve_paths(&mut self, working_directory: &Path) {
        let postgresql = &mut self.postgresql;
        for path in [&mut postgresql.data_dir, &mut postgresql.config_dir]
            .into_iter()
            .chain(&mut postgresql.pgpass)
        {
            *path = working_directory.join(&path);
        }
    }

    /// The folder of this cluster in the DCS: `/namespace/scope`, without doubled slashes and without one at its end.
    #[must_use]
    pub fn dcs_path(&self) -> String {
        dcs_path(&self.namespace, &self.scope)
    }
}

impl ClientConfig {
    /// Reads a tree for the command-line client. What the daemon needs may be missing, and a broken part that the client
    /// does not use is no error.
    ///
    /// # Errors
    /// What is wrong in `ctl`, `restapi` or the DCS section.
    pub fn read(tree: &Map) -> Result<(Self, Problems), Problems> {
        let is_used = |key: &str| {
            matches!(key, "scope" | "namespace" | "ctl" | "restapi" | "citus") || local_dcs::is_section(key)
        };
        let mut used = tree.clone();
        used.retain(|key, _| is_used(key));
        let mut reader = Reader {
            problems: check_local(&used),
        };
        let dcs = local_dcs::section(&used).and_then(|_| reader.dcs(&used));
        let config = Self {
            scope: text(&used, "scope"),
            namespace: namespace(&used),
            ctl: reader.ctl(&used),
            citus: used.get("citus").and_then(citus),
            dcs,
        };
        if reader.problems.has_errors() {
            Err(reader.problems)
        } else {
            Ok((config, reader.problems))
        }
    }

    /// The folder of the cluster `scope` in the DCS.
    #[must_use]
    pub fn dcs_path(&self, scope: &str) -> String {
        dcs_path(&self.namespace, scope)
    }
}

fn namespace(tree: &Map) -> String {
    text(tree, "namespace").unwrap_or_else(|| "service".to_owned())
}

fn dcs_path(namespace: &str, scope: &str) -> String {
    let parts = namespace
        .split('/')
        .chain(scope.split('/'))
        .filter(|part| !part.is_empty());
    parts.fold(String::new(), |path, part| path + "/" + part)
}

/// `citus`, when `group` is a whole number and `database` a text.
pub(crate) fn citus(value: &Value) -> Option<CitusConfig> {
    let Kind::Int(group) = value.get("group")?.kind else {
        return None;
    };
    let database = value.get("database")?.as_str()?.to_owned();
    Some(CitusConfig {
        group: u32::try_from(group).ok()?,
        database,
    })
}

struct Reader {
    problems: Problems,
}

impl Reader {
    /// `None` when something that is needed is missing, which has been reported then.
    fn config(&mut self, tree: Map) -> Option<LocalConfig> {
        let name = self.required(&tree, "", "name");
        if name.as_deref() == Some(PLACEHOLDER_NAME) {
            let position = tree.get("name").and_then(|value| value.position.as_ref());
            let message = format!("Node 'name' can't be set to '{PLACEHOLDER_NAME}'");
            self.problems.push(Problem::error("", position, message));
        }
        let scope = self.required(&tree, "", "scope");
        self.problems.0.extend(names::check(&tree));
        let postgresql = self.postgresql(&tree);
        let restapi = self.restapi(&tree);
        let dcs = self.dcs(&tree);
        let citus = tree.get("citus").and_then(citus);
        if citus.is_none() && tree.get("citus").is_some_and(Value::is_truthy) {
            let position = tree.get("citus").and_then(|value| value.position.as_ref());
            let message = "ignored: it needs group, a whole number from 0 up, and database, a text";
            self.problems.push(Problem::warning("citus", position, message));
        }
        let ctl = self.ctl(&tree);
        let bootstrap = self.bootstrap(&tree, citus.is_some());
        let watchdog = self.watchdog(&tree);
        let thread_pool_size = self.threads(&tree, "", "thread_pool_size");
        Some(LocalConfig {
            name: name?,
            scope: scope?,
            namespace: namespace(&tree),
            thread_pool_size,
            log: log(&tree),
            restapi: restapi?,
            ctl,
            watchdog,
            guard: guard(&tree),
            local_commands_only: flag(&tree, "local_commands_only"),
            tags: Tags::new(section(&tree, "tags").clone()),
            citus,
            bootstrap,
            postgresql: postgresql?,
            dcs: dcs?,
            tree,
        })
    }

    /// `prefix` is the section's path with a dot, or empty.
    fn required(&mut self, map: &Map, prefix: &str, key: &str) -> Option<String> {
        let found = text(map, key);
        // A value of a wrong type has been reported already.
        if found.is_none() && map.get(key).is_none_or(|value| !value.is_truthy()) {
            let position = map.entry(key).and_then(|entry| entry.key_position.as_ref());
            self.problems.push(Problem::error(
                &format!("{prefix}{key}"),
                position,
                "is not defined, but is needed",
            ));
        }
        found
    }

    fn address<T>(
        &mut self,
        (map, prefix, key): (&Map, &str, &str),
        parse: impl Fn(&str) -> Result<T, crate::endpoint::AddressError>,
    ) -> Option<T> {
        match parse(&text(map, key)?) {
            Ok(address) => Some(address),
            Err(why) => {
                let position = map.get(key).and_then(|value| value.position.clone());
                let problem = Problem::error(&format!("{prefix}{key}"), position.as_ref(), why.to_string());
                // A port that is no port has been reported by the comparison with the table.
                if !self.problems.0.contains(&problem) {
                    self.problems.push(problem);
                }
                None
            }
        }
    }

    fn threads(&mut self, map: &Map, prefix: &str, key: &str) -> u32 {
        let Some(value) = map.get(key).filter(|value| !value.is_null()) else {
            return 5;
        };
        match value.to_int(None).and_then(|n| u32::try_from(n).ok()) {
            Some(threads) if threads >= 5 => threads,
            _ => {
                let message = format!(
                    "expected a whole number from 5 up, found {}: using 5",
                    value.describe()
                );
                self.problems.push(Problem::warning(
                    &format!("{prefix}{key}"),
                    value.position.as_ref(),
                    message,
                ));
                5
            }
        }
    }

    fn login(&mut self, tree: &Map, name: &str) -> Option<BasicAuth> {
        let map = section(section(tree, name), "authentication");
        match (text(map, "username"), secret(map, "password")) {
            (Some(username), Some(password)) => Some(BasicAuth { username, password }),
            (None, None) => None,
            (username, _) => {
                let missing = if username.is_some() {
                    "password"
                } else {
                    "username"
                };
                let position = map
                    .entries()
                    .first()
                    .and_then(|entry| entry.key_position.as_ref());
                let message = format!("{missing} is not defined: username and password are needed together");
                self.problems.push(Problem::error(
                    &format!("{name}.authentication"),
                    position,
                    message,
                ));
                None
            }
        }
    }

    fn restapi(&mut self, tree: &Map) -> Option<RestApiConfig> {
        let map = section(tree, "restapi");
        let authentication = self.login(tree, "restapi");
        let thread_pool_size = self.threads(map, "restapi.", "thread_pool_size");
        let listen = self.required(map, "restapi.", "listen").and_then(|_| {
            self.address((map, "restapi.", "listen"), |text| {
                ListenAddress::parse(text, None)
            })
        });
        let connect_address = match map.get("connect_address") {
            Some(value) if value.is_truthy() => self.address((map, "restapi.", "connect_address"), |text| {
                HostPort::parse(text, None)
            }),
            _ => listen.as_ref().map(|listen| HostPort {
                host: listen.hosts.first().cloned().unwrap_or_default(),
                port: listen.port,
            }),
        };
        let headers = |key| arguments(section(map, key), &[]);
        Some(RestApiConfig {
            listen: listen?,
            connect_address: connect_address?,
            authentication,
            certfile: path(map, "certfile"),
            keyfile: path(map, "keyfile"),
            keyfile_password: secret(map, "keyfile_password"),
            cafile: path(map, "cafile"),
            ciphers: text(map, "ciphers"),
            verify_client: match choice(map, "verify_client", &["none", "optional", "required"]) {
                Some("optional") => VerifyClient::Optional,
                Some("required") => VerifyClient::Required,
                _ => VerifyClient::None,
            },
            allowlist: map.get("allowlist").map(texts).unwrap_or_default(),
            allowlist_include_members: flag(map, "allowlist_include_members"),
            http_extra_headers: headers("http_extra_headers"),
            https_extra_headers: headers("https_extra_headers"),
            request_queue_size: count(map, "request_queue_size", None, 5),
            thread_pool_size,
            server_tokens: match choice(map, "server_tokens", &["original", "minimal", "productonly"]) {
                Some("minimal") => ServerTokens::Minimal,
                Some("productonly") => ServerTokens::ProductOnly,
                _ => ServerTokens::Original,
            },
        })
    }

    fn ctl(&mut self, tree: &Map) -> CtlConfig {
        let (map, restapi) = (section(tree, "ctl"), section(tree, "restapi"));
        // What is wrong with the REST API's own login is reported with it.
        let fallback = section(restapi, "authentication");
        let fallback = text(fallback, "username").zip(secret(fallback, "password"));
        CtlConfig {
            authentication: self
                .login(tree, "ctl")
                .or_else(|| fallback.map(|(username, password)| BasicAuth { username, password })),
            insecure: strict_flag(map, "insecure"),
            cacert: path(map, "cacert").or_else(|| path(restapi, "cafile")),
            certfile: path(map, "certfile"),
            keyfile: path(map, "keyfile"),
            keyfile_password: secret(map, "keyfile_password"),
        }
    }

    fn dcs(&mut self, tree: &Map) -> Option<crate::DcsConfig> {
        local_dcs::read(tree, &mut self.problems)
    }

    fn watchdog(&mut self, tree: &Map) -> WatchdogConfig {
        let map = section(tree, "watchdog");
        let mode = map.get("mode").filter(|value| !value.is_null());
        let mode = match mode
            .map(|value| value.python_text().to_ascii_lowercase())
            .as_deref()
        {
            None | Some("auto" | "automatic") => WatchdogMode::Automatic,
            Some("require" | "required") => WatchdogMode::Required,
            Some("off" | "disable" | "disabled" | "false") => WatchdogMode::Off,
            Some(_) => {
                let position = mode.and_then(|value| value.position.as_ref());
                let message = "expected off, automatic or required: the watchdog is off";
                self.problems
                    .push(Problem::warning("watchdog.mode", position, message));
                WatchdogMode::Off
            }
        };
        WatchdogConfig {
            mode,
            device: path(map, "device").unwrap_or_else(|| "/dev/watchdog".into()),
            safety_margin_seconds: u32::try_from(count(map, "safety_margin", None, 5_i64)).ok(),
            driver: text(map, "driver").unwrap_or_else(|| "default".to_owned()),
        }
    }

    fn bootstrap(&mut self, tree: &Map, is_citus: bool) -> BootstrapConfig {
        let map = section(tree, "bootstrap");
        if let Some(entry) = map.entry("users").filter(|entry| entry.value.is_truthy()) {
            let message = "has no effect since Patroni 4.0: create users in a post_bootstrap script";
            self.problems.push(Problem::warning(
                "bootstrap.users",
                entry.key_position.as_ref(),
                message,
            ));
        }
        let mut dcs = section(map, "dcs").clone();
        if is_citus && !dcs.contains_key("synchronous_mode") {
            dcs.insert("synchronous_mode", "quorum");
        }
        let mut initdb = options(map.get("initdb"));
        initdb.retain(|(name, _)| {
            let allowed = !is_one_of(name, &FORBIDDEN_INITDB_OPTIONS);
            if !allowed {
                let position = map.entry("initdb").and_then(|entry| entry.key_position.as_ref());
                let message = format!("the option {name} cannot be set here and is ignored");
                self.problems
                    .push(Problem::warning("bootstrap.initdb", position, message));
            }
            allowed
        });
        BootstrapConfig {
            dcs: serde_json::Value::from(&dcs),
            method: self.bootstrap_method(map),
            initdb,
            post_bootstrap: text(map, "post_bootstrap").or_else(|| text(map, "post_init")),
            pg_hba: lines(map, "pg_hba").unwrap_or_default(),
        }
    }

    fn bootstrap_method(&mut self, bootstrap: &Map) -> BootstrapMethod {
        let Some(name) = text(bootstrap, "method").filter(|name| name != "initdb") else {
            return BootstrapMethod::Initdb;
        };
        let map = section(bootstrap, &name);
        let Some(command) = text(map, "command") else {
            let position = bootstrap.get("method").and_then(|value| value.position.as_ref());
            let message = format!("bootstrap.{name}.command is not defined: initdb is used instead");
            self.problems
                .push(Problem::warning("bootstrap.method", position, message));
            return BootstrapMethod::Initdb;
        };
        let own = [
            "command",
            "no_params",
            "keep_existing_recovery_conf",
            "recovery_conf",
            "scope",
            "datadir",
        ];
        BootstrapMethod::Custom {
            name,
            command,
            no_params: loose_flag(map, "no_params"),
            keep_existing_recovery_conf: loose_flag(map, "keep_existing_recovery_conf"),
            recovery_conf: map.get("recovery_conf").and_then(Value::as_map).map(parameters),
            options: arguments(map, &own),
        }
    }

    fn postgresql(&mut self, tree: &Map) -> Option<LocalPostgresql> {
        let map = section(tree, "postgresql");
        let at = |key| (map, "postgresql.", key);
        let listen = self
            .required(map, "postgresql.", "listen")
            .and_then(|_| self.address(at("listen"), |text| ListenAddress::parse(text, Some(5432))));
        let data_dir = self.required(map, "postgresql.", "data_dir");
        let connect_address = self.address(at("connect_address"), |text| HostPort::parse(text, Some(5432)));
        let proxy_address = self.address(at("proxy_address"), |text| HostPort::parse(text, Some(5432)));
        let roles = section(map, "authentication");
        let names = section(map, "bin_name");
        let data_dir = std::path::PathBuf::from(data_dir?);
        Some(LocalPostgresql {
            listen: listen?,
            connect_address,
            proxy_address,
            config_dir: path(map, "config_dir").unwrap_or_else(|| data_dir.clone()),
            data_dir,
            config_base_name: text(map, "config_base_name").unwrap_or_else(|| "postgresql".to_owned()),
            bin_dir: path(map, "bin_dir").unwrap_or_default(),
            bin_name: BinNames(
                names
                    .iter()
                    .filter_map(|(key, _)| Some((key.to_owned(), text(names, key)?)))
                    .collect(),
            ),
            database: text(map, "database").unwrap_or_else(|| "postgres".to_owned()),
            pgpass: path(map, "pgpass"),
            authentication: Authentication {
                superuser: role(section(roles, "superuser")),
                replication: role(section(roles, "replication")),
                rewind: roles.get("rewind").and_then(Value::as_map).map(role),
            },
        })
    }
}

fn role(map: &Map) -> Role {
    let is_option = |key: &&str| {
        [
            "sslmode",
            "sslcert",
            "sslkey",
            "sslrootcert",
            "sslcrl",
            "sslcrldir",
            "gssencmode",
            "channel_binding",
            "sslnegotiation",
            "tcp_user_timeout",
            "keepalives",
            "keepalives_idle",
            "keepalives_interval",
            "keepalives_count",
        ]
        .contains(key)
    };
    Role {
        username: text(map, "username"),
        password: secret(map, "password"),
        sslpassword: secret(map, "sslpassword"),
        options: map
            .iter()
            .map(|(key, _)| key)
            .filter(is_option)
            .filter_map(|key| Some((key.to_owned(), text(map, key)?)))
            .collect(),
    }
}

fn choice(map: &Map, key: &str, words: &[&'static str]) -> Option<&'static str> {
    map.get(key).and_then(|value| word(value, words))
}

fn guard(tree: &Map) -> GuardConfig {
    let section_mode = choice(section(tree, "guard"), "mode", GUARD_MODES);
    let mode = match section_mode.or_else(|| choice(tree, "guard", GUARD_MODES)) {
        Some("off") => GuardMode::Off,
        Some("required") => GuardMode::Required,
        _ => GuardMode::On,
    };
    GuardConfig { mode }
}

fn log(tree: &Map) -> LogConfig {
    let map = section(tree, "log");
    let level = |key: &str, default: &str| {
        text(map, key).map_or_else(|| default.to_owned(), |level| level.to_ascii_uppercase())
    };
    let loggers = section(map, "loggers");
    LogConfig {
        kind: match choice(map, "type", &["plain", "json"]) {
            Some("json") => LogType::Json,
            _ => LogType::Plain,
        },
        level: level("level", "INFO"),
        traceback_level: level("traceback_level", "ERROR"),
        format: map
            .get("format")
            .filter(|value| value.is_truthy())
            .cloned()
            .unwrap_or_else(|| Value::from("%(asctime)s %(levelname)s: %(message)s")),
        dateformat: text(map, "dateformat"),
        static_fields: section(map, "static_fields").clone(),
        // The queue is allocated at once.
        max_queue_size: count::<u32>(map, "max_queue_size", None, 1000).min(1_000_000),
        dir: path(map, "dir"),
        mode: map.get("mode").and_then(file_mode).map(|(mode, _)| mode),
        file_size_bytes: count(map, "file_size", None, 25_000_000),
        file_num: count(map, "file_num", None, 4),
        loggers: loggers
            .iter()
            .filter_map(|(key, _)| Some((key.to_owned(), text(loggers, key)?)))
            .collect(),
        deduplicate_heartbeat_logs: flag(map, "deduplicate_heartbeat_logs"),
    }
}
