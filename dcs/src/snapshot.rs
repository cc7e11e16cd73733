//! All keys below one prefix at one revision, and what they say about the cluster.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use ha::cluster::{
    Cluster, ConfigKey, Failover, Heartbeat, History, Leader, Member, MemberData, Origins, Status, SyncState,
    Version,
};
use ha::pg::MemberName;
use serde_json::Value;

use crate::{Changes, Layout};

/// One key's value, when it was last written, and its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: String,
    /// The revision at which it was last written.
    pub mod_revision: i64,
    /// The lease it is bound to; 0 for none.
    pub lease: i64,
}

/// All keys below one prefix, by their full path, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The store's revision.
    pub revision: i64,
    /// Which store this is: goes up when another one answers than before.
    pub generation: u64,
    /// The keys.
    pub records: BTreeMap<String, Record>,
}

impl Snapshot {
    /// What the keys say about the cluster at `layout`.
    #[must_use]
    pub fn cluster(&self, layout: &Layout) -> Cluster {
        let get = |name: &str| self.records.get(&format!("{}{name}", layout.prefix()));
        Cluster {
            generation: self.generation,
            initialize: get("initialize").map(|record| record.value.clone()),
            config: get("config").and_then(config),
            leader: get("leader")
                .filter(|record| !record.value.is_empty())
                .map(|record| Leader {
                    version: Version(record.mod_revision),
                    name: record.value.as_str().into(),
                    session: record.lease.to_string(),
                }),
            heartbeat: get("heartbeat")
                .and_then(|record| Heartbeat::parse(Version(record.mod_revision), &record.value)),
            // Before 2.1 Patroni kept the leader's position alone, in a key of its own.
            status: get("status")
                .or_else(|| get("optime/leader"))
                .map(|record| Status::parse(&record.value))
                .unwrap_or_default(),
            members: self.members(layout),
            failover: get("failover")
                .and_then(|record| Failover::parse(Version(record.mod_revision), &record.value)),
            sync: get("sync")
                .map(|record| SyncState::parse(Version(record.mod_revision), &record.value))
                .unwrap_or_default(),
            history: get("history").map(|record| History::parse(&record.value)),
            origins: get("origin")
                .map(|record| Origins::parse(&record.value))
                .unwrap_or_default(),
            failsafe: get("failsafe").and_then(failsafe),
            workers: self.workers(layout),
        }
    }

    fn workers(&self, layout: &Layout) -> BTreeMap<u32, Cluster> {
        let groups = self.records.keys().filter_map(|key| layout.worker_of(key));
        let groups: std::collections::BTreeSet<u32> = groups.map(|(group, _)| group).collect();
        let clusters = groups
            .into_iter()
            .filter_map(|group| Some((group, layout.worker(group)?)));
        clusters
            .map(|(group, layout)| (group, self.cluster(&layout)))
            .collect()
    }

    fn members(&self, layout: &Layout) -> Vec<Member> {
        let prefix = layout.member(&"".into());
        let below = self
            .records
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix));
        below
            .map(|(key, record)| (&key[prefix.len()..], record))
            .filter(|(name, _)| !name.is_empty() && !name.contains('/'))
            .map(|(name, record)| Member {
                version: Version(record.mod_revision),
                name: name.into(),
                session: record.lease.to_string(),
                data: MemberData::parse(&record.value),
            })
            .collect()
    }
}

impl Changes {
    /// Counts the change of one key from `old` to `new`.
    pub(crate) fn note(&mut self, layout: &Layout, key: &str, old: Option<&Record>, new: Option<&Record>) {
        let Some(name) = key.strip_prefix(layout.prefix()) else {
            let worker = layout.worker_of(key).map(|(_, name)| name);
            let matters = worker.is_some_and(|name| name == "leader" || name.starts_with("members/"));
            if matters && old.map(|record| &record.value) != new.map(|record| &record.value) {
                self.workers = self.workers.wrapping_add(1);
            }
            return;
        };
        // A heartbeat says the same every time; that it was written again is what counts.
        let is_changed = if name == "heartbeat" {
            old != new
        } else {
            old.map(|record| &record.value) != new.map(|record| &record.value)
        };
        if !is_changed {
            return;
        }
        let counter = match name {
            "leader" => &mut self.leader,
            "config" => &mut self.config,
            "failover" => &mut self.failover,
            "sync" => &mut self.sync,
            "status" | "optime/leader" => &mut self.status,
            "initialize" => &mut self.initialize,
            "history" => &mut self.history,
            "failsafe" => &mut self.failsafe,
            "heartbeat" => &mut self.heartbeat,
            name if name.starts_with("members/") => &mut self.members,
            _ => return,
        };
        *counter = counter.wrapping_add(1);
    }

    /// Counts everything that differs between two snapshots.
    pub(crate) fn note_all(&mut self, layout: &Layout, old: &Snapshot, new: &Snapshot) {
        let keys: std::collections::BTreeSet<_> = old.records.keys().chain(new.records.keys()).collect();
        for key in keys {
            self.note(layout, key, old.records.get(key), new.records.get(key));
        }
    }
}

fn config(record: &Record) -> Option<ConfigKey> {
    static COMPLAINED: AtomicI64 = AtomicI64::new(0);
    let value = object(record, "config", &COMPLAINED)?;
    (!value.is_empty()).then(|| ConfigKey {
        version: Version(record.mod_revision),
        value,
    })
}

/// The JSON object in a key that people edit. What is none is ignored, and each such value is warned of once.
fn object(record: &Record, key: &str, complained: &AtomicI64) -> Option<serde_json::Map<String, Value>> {
    let why = match serde_json::from_str(&record.value) {
        Ok(Value::Object(object)) => return Some(object),
        Ok(_) => "it is no object".to_owned(),
        Err(error) => error.to_string(),
    };
    let revision = record.mod_revision;
    if !record.value.is_empty() && complained.swap(revision, Ordering::Relaxed) != revision {
        tracing::warn!(
            "the key {key} in the DCS is no JSON object and is ignored, what was in force stays: {why}; write it again, for \
             config with \"tamada ctl edit-config --replace FILE\""
        );
    }
    None
}

fn failsafe(record: &Record) -> Option<BTreeMap<MemberName, String>> {
    static COMPLAINED: AtomicI64 = AtomicI64::new(0);
    let object = object(record, "failsafe", &COMPLAINED)?;
    Some(
        object
            .into_iter()
            .filter_map(|(name, url)| Some((MemberName(name), url.as_str()?.to_owned())))
            .collect(),
    )
}
