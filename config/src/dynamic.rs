//! `DynamicConfig`: the typed view of the DCS's `/config` key. Patroni documentation: dynamic configuration settings.

use crate::problem::{Problem, Problems};
use crate::settings::unknown_in;
use crate::value::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// The smallest values that the three timers may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minimums {
    /// Of `ttl`.
    pub ttl: Duration,
    /// Of `loop_wait`.
    pub loop_wait: Duration,
    /// Of `retry_timeout`.
    pub retry_timeout: Duration,
}

impl Minimums {
    /// A cluster of our own members alone: 3 s, 1 s, 1 s.
    pub const TAMADA: Self = Self::seconds(3, 1, 1);
    /// A cluster with a Patroni member: 20 s, 1 s, 3 s.
    pub const PATRONI: Self = Self::seconds(20, 1, 3);

    const fn seconds(ttl: u64, loop_wait: u64, retry_timeout: u64) -> Self {
        Self {
            ttl: Duration::from_secs(ttl),
            loop_wait: Duration::from_secs(loop_wait),
            retry_timeout: Duration::from_secs(retry_timeout),
        }
    }
}

/// What the cluster has agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicConfig {
    /// `ttl` of the leader key; default 30 s.
    pub ttl: Duration,
    /// `loop_wait`; default 10 s.
    pub loop_wait: Duration,
    /// `retry_timeout`; default 10 s.
    pub retry_timeout: Duration,
    /// `maximum_lag_on_failover`; default 1 MiB.
    pub maximum_lag_on_failover_bytes: u64,
    /// `maximum_lag_on_syncnode`; `None` (default, written as 0 or less) = no limit.
    pub maximum_lag_on_syncnode_bytes: Option<u64>,
    /// `check_timeline`
    pub check_timeline: bool,
    /// `max_timelines_history`: entries kept in `/history`; `None` (default, written 0) = all.
    pub max_timelines_history: Option<u32>,
    /// `primary_start_timeout` (or `master_start_timeout`); default 300 s.
    pub primary_start_timeout: Duration,
    /// `primary_stop_timeout` (or `master_stop_timeout`); `None` (default, written 0) = no limit.
    pub primary_stop_timeout: Option<Duration>,
    /// `primary_probe_timeout`: how long a primary may run and not work before another member takes over; `None`
    /// (default, written 0) = for ever. Patroni has no such setting.
    pub primary_probe_timeout: Option<Duration>,
    /// `primary_race_backoff`; default 0.
    pub primary_race_backoff: Duration,
    /// `synchronous_mode`; see [`DynamicConfig::synchronous_mode`] for the one in force.
    pub configured_synchronous_mode: SynchronousMode,
    /// `synchronous_mode_strict`
    pub synchronous_mode_strict: bool,
    /// `synchronous_node_count`; default 1; at least 1 when strict.
    pub synchronous_node_count: u32,
    /// `synchronized_standby_slots: members`: which slots logical replication waits for follows from the members; `false`
    /// (default): the parameter of that name says so. Patroni has no such setting.
    pub derives_synchronized_standby_slots: bool,
    /// `failsafe_mode`
    pub failsafe_mode: bool,
    /// `pause`
    pub pause: bool,
    /// `member_slots_ttl`; default 30 min; zero = slots of absent members are dropped at once.
    pub member_slots_ttl: Duration,
    /// `slots` (or `permanent_slots`, `permanent_replication_slots`), by slot name.
    pub slots: BTreeMap<String, SlotConfig>,
    /// `ignore_slots`
    pub ignore_slots: Vec<SlotMatcher>,
    /// `standby_cluster`, when it names a host, a port or a restore_command.
    pub standby_cluster: Option<StandbyCluster>,
    /// `postgresql`, as written; [`crate::PostgresqlSettings`] reads it.
    pub postgresql: Map,
    /// The document as it was given.
    pub document: serde_json::Value,
}

/// `synchronous_mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SynchronousMode {
    /// Asynchronous, as far as this program is concerned.
    Off,
    /// `synchronous_standby_names` by priority.
    On,
    /// `quorum`: `ANY k (...)`.
    Quorum,
}

/// One permanent slot of `slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotConfig {
    /// Physical or logical.
    pub kind: SlotKind,
    /// `cluster_type`: `primary` or `standby`, if the slot shall exist only there.
    pub cluster_type: Option<String>,
}

/// `type` of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// `physical`
    Physical,
    /// `logical`
    Logical {
        /// `database`
        database: String,
        /// `plugin`
        plugin: String,
    },
}

/// One matcher of `ignore_slots`: a slot that agrees with every written part is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMatcher {
    /// `name`
    pub name: Option<String>,
    /// `type`
    pub kind: Option<String>,
    /// `database`
    pub database: Option<String>,
    /// `plugin`
    pub plugin: Option<String>,
}

/// `standby_cluster`: this cluster replicates from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyCluster {
    /// `host`: one or several, separated by commas.
    pub host: Option<String>,
    /// `port`: one or several, separated by commas.
    pub port: Option<String>,
    /// `primary_slot_name`
    pub primary_slot_name: Option<String>,
    /// `create_replica_methods`
    pub create_replica_methods: Option<Vec<String>>,
    /// `restore_command`
    pub restore_command: Option<String>,
    /// `archive_cleanup_command`
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay`
    pub recovery_min_apply_delay: Option<String>,
}

const SECOND: Duration = Duration::from_secs(1);

/// The longest timer: a leader key that lives longer than a day is none.
const LONGEST_TIMER_SECONDS: u64 = 86_400;

/// The longest of the other durations, 68 years, as PostgreSQL has it: what is added to a time must not overflow.
const LONGEST_SECONDS: u64 = i32::MAX as u64;

/// The largest lag: what is added to a WAL position must not overflow.
const LARGEST_LAG_BYTES: u64 = 1 << 62;

impl DynamicConfig {
    /// Reads the document of the `/config` key. Nothing in it can make it fail: a value that makes no sense is replaced
    /// by its default, timers below their minimum are raised, and `loop_wait` and `retry_timeout` are shortened until
    /// `loop_wait + 2*retry_timeout <= ttl`; each with a warning. Keys that nothing reads are warned about too; those of
    /// `postgresql` when [`crate::PostgresqlSettings`] reads it.
    #[must_use]
    pub fn read(document: &serde_json::Value, minimums: Minimums) -> (Self, Problems) {
        let value = Value::from(document);
        let empty = Map::new();
        let mut reader = Reader {
            map: value.as_map().unwrap_or(&empty),
            problems: Problems::default(),
        };
        if value.as_map().is_none() && !value.is_null() {
            let found = value.describe();
            reader.problems.push(Problem::warning(
                "",
                None,
                format!("the dynamic configuration must be a mapping, found {found}: using the defaults"),
            ));
        }
        let timers = reader.timers(minimums);
        let strict = reader.flag("synchronous_mode_strict");
        let start_timeout = reader.renamed("primary_start_timeout", "master_start_timeout");
        let stop_timeout = reader.renamed("primary_stop_timeout", "master_stop_timeout");
        let config = Self {
            ttl: timers.ttl,
            loop_wait: timers.loop_wait,
            retry_timeout: timers.retry_timeout,
            maximum_lag_on_failover_bytes: reader
                .count("maximum_lag_on_failover", 1_048_576, None)
                .min(LARGEST_LAG_BYTES),
            maximum_lag_on_syncnode_bytes: reader
                .positive("maximum_lag_on_syncnode")
                .map(|bytes| bytes.min(LARGEST_LAG_BYTES)),
            check_timeline: reader.flag("check_timeline"),
            max_timelines_history: reader.positive("max_timelines_history").map(saturated),
            primary_start_timeout: reader.seconds(start_timeout, 300, None),
            primary_stop_timeout: reader.limit(stop_timeout),
            primary_probe_timeout: reader.limit("primary_probe_timeout"),
            primary_race_backoff: reader.seconds("primary_race_backoff", 0, None),
            configured_synchronous_mode: reader.synchronous_mode(),
            synchronous_mode_strict: strict,
            synchronous_node_count: saturated(reader.count("synchronous_node_count", 1, None))
                .max(u32::from(strict)),
            derives_synchronized_standby_slots: reader.is_derived("synchronized_standby_slots"),
            failsafe_mode: reader.flag("failsafe_mode"),
            pause: reader.flag("pause"),
            member_slots_ttl: reader.seconds("member_slots_ttl", 1800, Some("s")),
            slots: reader.slots(),
            ignore_slots: reader.ignore_slots(),
            standby_cluster: reader.standby_cluster(),
            postgresql: reader.mapping("postgresql").cloned().unwrap_or_default(),
            document: document.clone(),
        };
        reader.problems.0.extend(unknown_in(reader.map).0);
        (config, reader.problems)
    }

    /// The synchronous mode in force: always off in a standby cluster.
    #[must_use]
    pub fn synchronous_mode(&self) -> SynchronousMode {
        if self.standby_cluster.is_some() {
            SynchronousMode::Off
        } else {
            self.configured_synchronous_mode
        }
    }

    /// `postgresql.use_slots`; default true.
    #[must_use]
    pub fn use_slots(&self) -> bool {
        self.postgresql
            .get("use_slots")
            .is_none_or(|value| value.to_bool().unwrap_or(false))
    }

    /// The document with the timers that are in force, for the cache file and for a `/config` key that this member has
    /// to write. The key in the DCS keeps what was written as long as it exists.
    #[must_use]
    pub fn adjusted_document(&self) -> serde_json::Value {
        let mut map = Value::from(&self.document).as_map().cloned().unwrap_or_default();
        let timers = [
            ("ttl", self.ttl, 30),
            ("loop_wait", self.loop_wait, 10),
            ("retry_timeout", self.retry_timeout, 10),
        ];
        for (key, in_force, default) in timers {
            let in_force = i64::try_from(in_force.as_secs()).unwrap_or(i64::MAX);
            let written = map
                .get(key)
                .and_then(|value| value.to_int(None))
                .unwrap_or(default);
            if written != in_force {
                map.insert(key, in_force);
            }
        }
        serde_json::Value::from(&map)
    }
}

struct Timers {
    ttl: Duration,
    loop_wait: Duration,
    retry_timeout: Duration,
}

struct Reader<'a> {
    map: &'a Map,
    problems: Problems,
}

impl<'a> Reader<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn reject(&mut self, path: &str, expected: &str, found: &Value, instead: &str) {
        let message = format!("expected {expected}, found {}: {instead}", found.describe());
        self.problems
            .push(Problem::warning(path, found.position.as_ref(), message));
    }

    fn integer(&mut self, key: &str, default: i64, base_unit: Option<&str>) -> i64 {
        let Some(value) = self.get(key) else {
            return default;
        };
        value.to_int(base_unit).unwrap_or_else(|| {
            self.reject(
                key,
                "a whole number",
                value,
                &format!("using the default {default}"),
            );
            default
        })
    }

    /// `members` or `off`.
    fn is_derived(&mut self, key: &str) -> bool {
        let Some(value) = self.get(key) else {
            return false;
        };
        let word = crate::settings::word(value, &["members", "off"]);
        if word.is_none() {
            self.reject(key, "members or off", value, "using the default off");
        }
        word == Some("members")
    }

    /// A number that may not be negative.
    fn count(&mut self, key: &str, default: u32, base_unit: Option<&str>) -> u64 {
        let number = self.integer(key, i64::from(default), base_unit);
        u64::try_from(number).unwrap_or_else(|_| {
            let message = format!("{number} is less than 0: using the default {default}");
            self.problems.push(Problem::warning(key, None, message));
            u64::from(default)
        })
    }

    /// A number of seconds that may not be negative.
    fn seconds(&mut self, key: &str, default: u32, base_unit: Option<&str>) -> Duration {
        let seconds = self.count(key, default, base_unit);
        self.at_most(key, seconds, LONGEST_SECONDS)
    }

    /// A number of seconds of which 0 means "no limit".
    fn limit(&mut self, key: &str) -> Option<Duration> {
        let seconds = self.positive(key)?;
        Some(self.at_most(key, seconds, LONGEST_SECONDS))
    }

    fn at_most(&mut self, key: &str, seconds: u64, most: u64) -> Duration {
        if seconds > most {
            let text = format!("{key}={seconds} can't be larger than {most}, adjusting...");
            self.problems.push(Problem::notice(text));
        }
        Duration::from_secs(seconds.min(most))
    }

    /// A number whose absence, zero and negative values mean "no limit".
    fn positive(&mut self, key: &str) -> Option<u64> {
        u64::try_from(self.integer(key, 0, None))
            .ok()
            .filter(|number| *number > 0)
    }

    fn flag(&mut self, key: &str) -> bool {
        let Some(value) = self.get(key) else {
            return false;
        };
        value.to_bool().unwrap_or_else(|| {
            self.reject(key, "on or off", value, "using off");
            false
        })
    }

    fn renamed(&self, new: &'static str, old: &'static str) -> &'static str {
        if self.map.contains_key(new) { new } else { old }
    }

    fn mapping(&mut self, key: &str) -> Option<&'a Map> {
        let value = self.get(key)?;
        if value.as_map().is_none() && value.is_truthy() {
            self.reject(key, "a mapping", value, "ignored");
        }
        value.as_map()
    }

    fn synchronous_mode(&mut self) -> SynchronousMode {
        let Some(value) = self.get("synchronous_mode") else {
            return SynchronousMode::Off;
        };
        if value
            .as_str()
            .is_some_and(|text| text.eq_ignore_ascii_case("quorum"))
        {
            return SynchronousMode::Quorum;
        }
        match value.to_bool() {
            Some(true) => SynchronousMode::On,
            Some(false) => SynchronousMode::Off,
            None => {
                self.reject("synchronous_mode", "on, off or quorum", value, "using off");
                SynchronousMode::Off
            }
        }
    }

    fn timer(&mut self, key: &str, default: u32, minimum: Duration) -> Duration {
        let number = self.integer(key, i64::from(default), None);
        let seconds = Duration::from_secs(u64::try_from(number).unwrap_or(0));
        if seconds < minimum {
            let minimum = minimum.as_secs();
            let text = format!("{key}={number} can't be smaller than {minimum}, adjusting...");
            self.problems.push(Problem::notice(text));
        }
        let seconds = self.at_most(key, seconds.as_secs(), LONGEST_TIMER_SECONDS);
        seconds.max(minimum)
    }

    fn timers(&mut self, minimums: Minimums) -> Timers {
        let ttl = self.timer("ttl", 30, minimums.ttl);
        let loop_wait = self.timer("loop_wait", 10, minimums.loop_wait);
        let retry_timeout = self.timer("retry_timeout", 10, minimums.retry_timeout);
        let twice = retry_timeout.saturating_mul(2);
        let (shorter_loop, shorter_retry) = if SECOND.saturating_add(twice) > ttl {
            (SECOND, Duration::from_secs(ttl.as_secs().saturating_sub(1) / 2))
        } else if loop_wait.saturating_add(twice) > ttl {
            (ttl - twice, retry_timeout)
        } else {
            return Timers {
                ttl,
                loop_wait,
                retry_timeout,
            };
        };
        self.problems.push(Problem::notice(format!(
            "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl={}. Adjusting loop_wait from {} to {} \
             and retry_timeout from {} to {}",
            ttl.as_secs(),
            loop_wait.as_secs(),
            shorter_loop.as_secs(),
            retry_timeout.as_secs(),
            shorter_retry.as_secs()
        )));
        Timers {
            ttl,
            loop_wait: shorter_loop,
            retry_timeout: shorter_retry,
        }
    }

    /// The first of the three names that is not empty counts.
    fn slots(&mut self) -> BTreeMap<String, SlotConfig> {
        let names = ["permanent_replication_slots", "permanent_slots", "slots"];
        let Some(key) = names
            .into_iter()
            .find(|key| self.get(key).is_some_and(Value::is_truthy))
        else {
            return BTreeMap::new();
        };
        let Some(map) = self.mapping(key) else {
            return BTreeMap::new();
        };
        let mut slots = BTreeMap::new();
        for (name, value) in map.iter() {
            match slot(name, value) {
                Ok(slot) => {
                    slots.insert(name.to_owned(), slot);
                }
                Err(why) => self.problems.push(Problem::warning(
                    &format!("{key}.{name}"),
                    value.position.as_ref(),
                    format!("{why}: the slot is ignored"),
                )),
            }
        }
        slots
    }

    fn ignore_slots(&mut self) -> Vec<SlotMatcher> {
        let Some(value) = self.get("ignore_slots") else {
            return Vec::new();
        };
        let Some(list) = value.as_list() else {
            if value.is_truthy() {
                self.reject("ignore_slots", "a list of mappings", value, "ignored");
            }
            return Vec::new();
        };
        let mut matchers = Vec::new();
        for (n, value) in list.iter().enumerate() {
            let text = |key: &str| value.get(key).map(Value::python_text);
            if value.as_map().is_some() {
                let (name, kind, database, plugin) =
                    (text("name"), text("type"), text("database"), text("plugin"));
                matchers.push(SlotMatcher {
                    name,
                    kind,
                    database,
                    plugin,
                });
            } else {
                let expected = "a mapping of name, type, database, plugin";
                self.reject(&format!("ignore_slots.{n}"), expected, value, "ignored");
            }
        }
        matchers
    }

    fn standby_cluster(&mut self) -> Option<StandbyCluster> {
        let map = self.mapping("standby_cluster")?;
        StandbyCluster::read(map)
    }
}

impl StandbyCluster {
    /// Reads the section; `None` when it names neither a host nor a port nor a restore_command, which means that this
    /// is no standby cluster.
    #[must_use]
    pub fn read(map: &Map) -> Option<Self> {
        let text = |key: &str| map.get(key).filter(|value| value.is_truthy()).map(joined);
        let methods = map
            .get("create_replica_methods")
            .filter(|value| value.is_truthy());
        let cluster = Self {
            host: text("host"),
            port: text("port"),
            primary_slot_name: text("primary_slot_name"),
            create_replica_methods: methods.map(|value| match value.as_list() {
                Some(list) => list.iter().map(Value::python_text).collect(),
                None => vec![value.python_text()],
            }),
            restore_command: text("restore_command"),
            archive_cleanup_command: text("archive_cleanup_command"),
            recovery_min_apply_delay: text("recovery_min_apply_delay"),
        };
        let is_active = cluster.host.is_some() || cluster.port.is_some() || cluster.restore_command.is_some();
        is_active.then_some(cluster)
    }
}

/// A text, or a list of texts separated by commas.
fn joined(value: &Value) -> String {
    match value.as_list() {
        Some(list) => list.iter().map(Value::python_text).collect::<Vec<_>>().join(","),
        None => value.python_text(),
    }
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// PostgreSQL manual, section "Querying and Manipulating Replication Slots": lower-case letters, digits, underscores.
fn is_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn slot(name: &str, value: &Value) -> Result<SlotConfig, String> {
    if !is_slot_name(name) {
        return Err(format!(
            "{name:?} is no name of a slot (1 to 63 lower-case letters, digits and underscores)"
        ));
    }
    if !value.is_truthy() {
        return Ok(SlotConfig {
            kind: SlotKind::Physical,
            cluster_type: None,
        });
    }
    if value.as_map().is_none() {
        return Err(format!("expected a mapping, found {}", value.describe()));
    }
    let text = |key: &str| value.get(key).filter(|v| v.is_truthy()).map(Value::python_text);
    let (database, plugin) = (text("database"), text("plugin"));
    let implied = if database.is_some() && plugin.is_some() {
        "logical"
    } else {
        "physical"
    };
    let kind = match (
        text("type")
            .map_or_else(|| implied.to_owned(), |t| t.to_ascii_lowercase())
            .as_str(),
        database,
        plugin,
    ) {
        ("physical", _, _) => SlotKind::Physical,
        ("logical", Some(database), Some(plugin)) => SlotKind::Logical { database, plugin },
        ("logical", _, _) => return Err("a logical slot needs database and plugin".to_owned()),
        (other, _, _) => return Err(format!("type must be physical or logical, found {other:?}")),
    };
    Ok(SlotConfig {
        kind,
        cluster_type: text("cluster_type").map(|t| t.to_ascii_lowercase()),
    })
}
