//! Everything that is wrong with a local configuration, at once.

use crate::dynamic::Minimums;
use crate::endpoint::{HostPort, ListenAddress};
use crate::local::LocalConfig;
use crate::problem::{Problem, Problems, Severity};
use crate::read::{section, text};
use crate::settings;
use crate::value::{Map, Value};

/// All errors and warnings about the tree of a local configuration, in the order of the text.
#[must_use]
pub fn validate(tree: &Map) -> Problems {
    match LocalConfig::read(tree.clone()) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    }
}

/// [`validate`], and what else Patroni's `--validate-config` refuses although a member would start with it: what has to
/// be written and not left to a default, addresses that other hosts cannot reach, and a `bootstrap.dcs` that would be
/// put right silently (Patroni documentation, "Validating Patroni configuration").
#[must_use]
pub fn validate_strictly(tree: &Map) -> Problems {
    let mut problems = validate(tree);
    // For the member these are warnings, as the rest of the document can be used.
    let dynamic = settings::check_bootstrap(tree);
    problems
        .0
        .retain(|known| !dynamic.0.iter().any(|new| new.path == known.path));
    problems.0.extend(dynamic.0);
    let mut strict = Strict { tree, problems };
    strict.required();
    strict.addresses();
    strict.timers();
    strict.rule_of_timers();
    strict.tags();
    strict.standby_cluster();
    strict.problems.sorted()
}

/// What has to be written down.
const REQUIRED: [&str; 7] = [
    "restapi.listen",
    "restapi.connect_address",
    "postgresql.listen",
    "postgresql.connect_address",
    "postgresql.data_dir",
    "postgresql.authentication.replication.username",
    "postgresql.authentication.superuser.username",
];

/// What is told to other hosts.
const FOR_OTHERS: [&str; 3] = [
    "restapi.connect_address",
    "postgresql.connect_address",
    "postgresql.proxy_address",
];

/// Tags that say the same thing, of which one is enough.
const RIVALS: [(&str, &str); 2] = [("nofailover", "failover_priority"), ("nosync", "sync_priority")];

struct Strict<'a> {
    tree: &'a Map,
    problems: Problems,
}

impl Strict<'_> {
    fn value(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let first = self.tree.get(keys.next()?)?;
        keys.try_fold(first, |value, key| value.get(key))
    }

    fn error(&mut self, path: &str, message: &str) {
        if self.problems.errors().any(|known| known.path == path) {
            return;
        }
        let position = self.value(path).and_then(|value| value.position.clone());
        self.problems
            .push(Problem::error(path, position.as_ref(), message));
    }

    fn required(&mut self) {
        for path in REQUIRED {
            let is_there = self
                .value(path)
                .is_some_and(|value| !value.is_null() && value.as_str() != Some(""));
            if !is_there {
                self.error(path, "is not defined, but is needed");
            }
        }
        if self.tree.contains_key("bootstrap") && self.value("bootstrap.dcs").is_none_or(Value::is_null) {
            self.error(
                "bootstrap.dcs",
                "is not defined, but a new cluster takes its configuration from it",
            );
        }
    }

    fn addresses(&mut self) {
        for path in FOR_OTHERS {
            let Some(address) = self.value(path).and_then(Value::as_str) else {
                continue;
            };
            if is_only_here(address) {
                self.error(
                    path,
                    "other hosts cannot reach this address: expected one of this host's own, not a loopback \
                     address or all of them (127.0.0.1, 0.0.0.0, *, ::1, localhost)",
                );
            }
        }
    }

    fn timers(&mut self) {
        let document = section(section(self.tree, "bootstrap"), "dcs");
        let least = Minimums::TAMADA;
        for (key, least) in [
            ("ttl", least.ttl),
            ("loop_wait", least.loop_wait),
            ("retry_timeout", least.retry_timeout),
        ] {
            let written = document.get(key).and_then(|value| value.to_int(Some("s")));
            if written.is_some_and(|seconds| seconds < i64::try_from(least.as_secs()).unwrap_or(i64::MAX)) {
                let message = format!("expected at least {} seconds", least.as_secs());
                self.error(&format!("bootstrap.dcs.{key}"), &message);
            }
        }
    }

    /// Patroni documentation, `ttl`: loop_wait + 2 * retry_timeout <= ttl.
    fn rule_of_timers(&mut self) {
        let document = section(section(self.tree, "bootstrap"), "dcs");
        let timer = |key: &str, default: i64| {
            document
                .get(key)
                .filter(|value| !value.is_null())
                .map_or(Some(default), |value| value.to_int(Some("s")))
        };
        let (Some(ttl), Some(loop_wait), Some(retry_timeout)) = (
            timer("ttl", 30),
            timer("loop_wait", 10),
            timer("retry_timeout", 10),
        ) else {
            return;
        };
        let needed = retry_timeout.saturating_mul(2).saturating_add(loop_wait);
        if needed > ttl {
            let key = ["ttl", "retry_timeout", "loop_wait"]
                .into_iter()
                .find(|key| document.contains_key(key))
                .unwrap_or("ttl");
            let message = format!(
                "loop_wait + 2*retry_timeout is {needed} and must be at most ttl, which is {ttl}: raise ttl or lower \
                 the others"
            );
            self.error(&format!("bootstrap.dcs.{key}"), &message);
        }
    }

    fn tags(&mut self) {
        let tags = section(self.tree, "tags");
        for (flag, priority) in RIVALS {
            if tags.contains_key(flag) && tags.contains_key(priority) {
                let message =
                    format!("is written beside tags.{priority}, which says the same: keep one of them");
                self.error(&format!("tags.{flag}"), &message);
            }
        }
    }

    fn standby_cluster(&mut self) {
        let Some(standby) = self
            .value("bootstrap.dcs.standby_cluster")
            .and_then(Value::as_map)
        else {
            return;
        };
        if !["host", "port", "restore_command"]
            .iter()
            .any(|key| text(standby, key).is_some())
        {
            self.error(
                "bootstrap.dcs.standby_cluster",
                "expected where the primary is: host, port or restore_command, at least one of them",
            );
        }
    }
}

/// Whether only this host, or none, is reached by the address.
fn is_only_here(address: &str) -> bool {
    let hosts = match (
        HostPort::parse(address, Some(0)),
        ListenAddress::parse(address, Some(0)),
    ) {
        (Ok(address), _) => vec![address.host],
        (Err(_), Ok(address)) => address.hosts,
        (Err(_), Err(_)) => Vec::new(),
    };
    hosts
        .iter()
        .any(|host| matches!(host.as_str(), "127.0.0.1" | "0.0.0.0" | "*" | "::1" | "localhost"))
}

impl Problems {
    /// As lines for a person: a warning says that it is one.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |problem: &Problem| match problem.severity {
            Severity::Error => problem.to_string(),
            Severity::Warning => format!("warning: {problem}"),
        };
        self.0.iter().map(line).collect()
    }
}
