//! The copy of the cluster's keys, and what of it tells the lock: whether the leader may still count on it though its key is gone.
//!
//! Consul deletes the leader key when its session ends, and a session may end at any time: the agent that it was created
//! on is restarted or leaves, its node is reaped, a check fails. The leader counts on its lock for `ttl` all the same. So a key
//! that is gone says nothing; the heartbeat does.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ha::cluster::{Cluster, Heartbeat, KnownHeartbeat, Version};
use ha::facts::Moment;
use ha::pg::MemberName;
use serde_json::Value;

use super::api::{Entry, Tree};
use super::session::{Session, number};
use crate::cache::Cache;
use crate::clock::boot_time;
use crate::http::lock;
use crate::{Layout, Record, Snapshot};

/// What a read says about the store it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// A newer one was taken already.
    Older,
    /// It may come from another store than before.
    Doubtful,
}

#[derive(Debug, Default)]
struct State {
    /// The highest index that this store has answered with.
    newest: i64,
    /// The tree's own index that was found to be right although it is lower.
    lower: i64,
    /// Which store this is.
    generation: u64,
    tree: Snapshot,
    /// Up to this index the tree has every write; own writes in it may be newer than those of others that it lacks.
    complete: i64,
    heartbeat: Option<KnownHeartbeat>,
    /// The leader's member key as it was last seen.
    leader_member: Option<(String, Record)>,
    /// The sessions that keys are locked by, by their numbers.
    sessions: BTreeMap<i64, String>,
}

impl State {
    /// Whether a tree has what was never in this store: a key that was last written before the copy was read, and that the copy has
    /// otherwise or not at all. `asked_at` as for [`Copy::take`].
    fn contradicts(&self, tree: &Tree, asked_at: i64) -> bool {
        let differs = |entry: &Entry| match self.tree.records.get(&path(&entry.key)) {
            Some(known) => known.mod_revision <= asked_at && known.mod_revision != entry.modify_index,
            None => true,
        };
        let mut old = tree
            .entries
            .iter()
            .filter(|entry| entry.modify_index <= self.complete);
        old.any(differs)
    }
}

/// The copy.
pub(super) struct Copy {
    pub(super) cache: Cache,
    layout: Layout,
    state: Mutex<State>,
}

impl Copy {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            cache: Cache::new(layout.clone()),
            layout,
            state: Mutex::default(),
        }
    }

    /// Which store this is: goes up when another one answers.
    pub(super) fn generation(&self) -> u64 {
        lock(&self.state).generation
    }

    /// The highest index that was heard of.
    pub(super) fn newest(&self) -> i64 {
        lock(&self.state).newest
    }

    /// An answer to a write has this index. Whether it fits what is known; `asked_at`: [`Copy::newest`] when it was sent.
    pub(super) fn hear(&self, index: i64, asked_at: i64) -> bool {
        let mut state = lock(&self.state);
        state.newest = state.newest.max(index);
        index >= asked_at
    }

    /// A read that was asked for when `asked_at` was the newest index.
    pub(super) fn take(&self, tree: &Tree, asked_at: i64, reads_the_past: bool) -> Taken {
        let mut state = lock(&self.state);
        let is_lower = tree.index < asked_at && tree.index != state.lower;
        if is_lower || (!reads_the_past && state.contradicts(tree, asked_at)) {
            return Taken::Doubtful;
        }
        // Of the same store, so it holds whatever was answered before it was asked for.
        let revision = if reads_the_past {
            tree.index
        } else {
            tree.index.max(asked_at)
        };
        if revision < state.tree.revision {
            return Taken::Older;
        }
        self.replace(&mut state, tree, revision);
        Taken::Yes
    }

    /// After a doubtful read: `newest` is the highest index of the store's keys, confirmed by a quorum, as is `tree`, which was read
    /// later; both were asked for when `asked_at` was the newest index. Whether it is another store.
    pub(super) fn settle(&self, tree: &Tree, newest: i64, asked_at: i64, generation: u64) -> bool {
        let mut state = lock(&self.state);
        if state.generation != generation {
            // Another call has found that out.
            return true;
        }
        let is_other = newest < asked_at || state.contradicts(tree, asked_at);
        if is_other {
            tracing::warn!(
                "Consul is at index {newest} of its keys, after index {asked_at}: it was wiped or restored, or is another one"
            );
            *state = State {
                generation: state.generation + 1,
                ..State::default()
            };
        }
        // Consul forgets of deleted keys after a while, and then the index of the others may be lower than before.
        state.lower = tree.index;
        let revision = if is_other {
            tree.index
        } else {
            tree.index.max(asked_at)
        };
        if revision >= state.tree.revision {
            self.replace(&mut state, tree, revision);
        }
        is_other
    }

    fn replace(&self, state: &mut State, tree: &Tree, revision: i64) {
        let records = tree.entries.iter().map(|entry| {
            let record = Record {
                value: entry.value.clone(),
                mod_revision: entry.modify_index,
                lease: entry.session.as_deref().map_or(0, number),
            };
            (path(&entry.key), record)
        });
        let snapshot = Snapshot {
            revision,
            generation: state.generation,
            records: records.collect(),
        };
        let sessions = tree.entries.iter().filter_map(|entry| entry.session.as_ref());
        state.sessions = sessions.map(|id| (number(id), id.clone())).collect();
        let highest = tree.entries.iter().map(|entry| entry.modify_index).max();
        state.newest = state.newest.max(tree.index).max(highest.unwrap_or_default());
        if let Some(heartbeat) = snapshot.records.get(&self.layout.heartbeat()).and_then(heartbeat) {
            state.heartbeat = Some(KnownHeartbeat::of(
                &heartbeat,
                state.heartbeat,
                Moment(boot_time()),
            ));
        }
        if let Some(leader) = snapshot.records.get(&self.layout.leader()) {
            let key = self.layout.member(&MemberName::from(leader.value.as_str()));
            if let Some(member) = snapshot.records.get(&key) {
                state.leader_member = Some((key, member.clone()));
            }
        }
        state.complete = revision;
        state.tree = snapshot.clone();
        self.cache.replace(snapshot);
    }

    /// A key as it was last read or written, however old that is.
    pub(super) fn record(&self, key: &str) -> Option<Record> {
        lock(&self.state).tree.records.get(key).cloned()
    }

    /// What this member has just written shows before a read shows it.
    pub(super) fn tell(&self, key: &str, revision: i64, record: Option<Record>) {
        let mut state = lock(&self.state);
        let known = state.tree.records.get(key);
        if revision < state.tree.revision && known.is_none_or(|known| known.mod_revision >= revision) {
            return;
        }
        match &record {
            Some(record) => state.tree.records.insert(key.to_owned(), record.clone()),
            None => state.tree.records.remove(key),
        };
        state.tree.revision = state.tree.revision.max(revision);
        self.cache.tell(key, revision, record, true);
    }

    /// Whether nobody counts on the lock any more, where the leader key is gone: there is no heartbeat, its holder has withdrawn
    /// it, it is this very agent's, or it is older than its `ttl`.
    pub(super) fn is_free(
        &self,
        heartbeat_record: Option<&Record>,
        me: &MemberName,
        session: &Session,
    ) -> bool {
        heartbeat_record.is_none_or(|record| is_own(record, me, session) || self.is_over(record))
    }

    /// Whether a heartbeat's holder counts on the lock no more, as far as the heartbeat and the own clock tell.
    fn is_over(&self, record: &Record) -> bool {
        let Some(heartbeat) = heartbeat(record).filter(|heartbeat| !heartbeat.ttl.is_zero()) else {
            return true;
        };
        let known = lock(&self.state).heartbeat;
        // Two clocks that count the same time may differ a little.
        known.is_some_and(|known| {
            let over = known.sent_before.after(heartbeat.ttl).after(heartbeat.ttl / 50);
            known.version == heartbeat.version && Moment(boot_time()) >= over
        })
    }

    /// What a member sees: a leader that may still count on its lock leads, though its key is gone.
    pub(super) fn view(&self, mut snapshot: Snapshot, session: &Session) -> Cluster {
        let leader = self.layout.leader();
        let record = snapshot.records.get(&self.layout.heartbeat());
        let holder = record.and_then(heartbeat).map(|heartbeat| heartbeat.leader);
        if !snapshot.records.contains_key(&leader)
            && record.is_some_and(|record| !self.is_over(record))
            && let Some(holder) = holder
        {
            let key = self.layout.member(&holder);
            let member = lock(&self.state).leader_member.clone();
            if let Some((_, member)) = member.filter(|(known, _)| *known == key) {
                let record = Record { lease: 0, ..member };
                snapshot.records.entry(key).or_insert(record);
            }
            let record = Record {
                value: holder.0,
                mod_revision: 0,
                lease: 0,
            };
            snapshot.records.insert(leader, record);
        }
        self.named(snapshot.cluster(&self.layout), session.id())
    }

    /// The keys as they were last read or written, however old that is.
    pub(super) fn known(&self) -> Cluster {
        let snapshot = lock(&self.state).tree.clone();
        self.named(snapshot.cluster(&self.layout), None)
    }

    /// What the keys say, with sessions by their names.
    fn named(&self, mut cluster: Cluster, session: Option<String>) -> Cluster {
        let state = lock(&self.state);
        let own = session.map(|id| (number(&id), id));
        let name = |session: &mut String| {
            let number: i64 = session.parse().unwrap_or_default();
            let own = own
                .as_ref()
                .filter(|(known, _)| *known == number)
                .map(|(_, id)| id);
            if let Some(id) = own.or_else(|| state.sessions.get(&number)) {
                session.clone_from(id);
            }
        };
        let workers = std::mem::take(&mut cluster.workers);
        let rename = |cluster: &mut Cluster| {
            let leader = cluster.leader.iter_mut().map(|leader| &mut leader.session);
            let members = cluster.members.iter_mut().map(|member| &mut member.session);
            leader.chain(members).for_each(name);
        };
        rename(&mut cluster);
        cluster.workers = workers;
        cluster.workers.values_mut().for_each(rename);
        cluster
    }
}

/// A key's path as the layout has it.
fn path(key: &str) -> String {
    format!("/{key}")
}

pub(super) fn heartbeat(record: &Record) -> Option<Heartbeat> {
    Heartbeat::parse(Version(record.mod_revision), &record.value)
}

/// Whether this very agent has written the heartbeat: the name alone would be that of another agent of this name as well.
pub(super) fn is_own(record: &Record, me: &MemberName, session: &Session) -> bool {
    let writer: Option<Value> = serde_json::from_str(&record.value).ok();
    let writer = writer.and_then(|value| value.get("session")?.as_str().map(str::to_owned));
    heartbeat(record).is_some_and(|heartbeat| heartbeat.leader == *me)
        && writer.is_some_and(|writer| session.knows(&writer))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OWN: &str = "63a670f2-4196-5bce-e84f-e50efbd33891";
    const OTHER: &str = "73a670f2-4196-5bce-e84f-e50efbd33891";

    fn entry(key: &str, value: &str, modify_index: i64) -> Entry {
        Entry {
            key: format!("service/a/{key}"),
            value: value.to_owned(),
            modify_index,
            session: None,
        }
    }

    fn beat(leader: &str, ttl_ms: u64, session: &str) -> String {
        format!(r#"{{"leader":"{leader}","ttl_ms":{ttl_ms},"session":"{session}"}}"#)
    }

    fn copy() -> (Copy, Session) {
        let copy = Copy::new(Layout::new("service", "a", None));
        (copy, Session::new("a-x".to_owned(), Some(OWN)))
    }

    fn tree(index: i64, entries: Vec<Entry>) -> Tree {
        Tree { index, entries }
    }

    fn led_by(copy: &Copy, session: &Session) -> Option<(String, String)> {
        let snapshot = lock(&copy.state).tree.clone();
        let leader = copy.view(snapshot, session).leader?;
        Some((leader.name.0, leader.session))
    }

    #[test]
    fn a_leader_without_its_key_leads_as_long_as_its_heartbeat_says() {
        let member = r#"{"conn_url":"postgres://h:1/x"}"#;
        let led = |value: &str| {
            let (copy, session) = copy();
            let leader = Entry {
                session: Some(OTHER.to_owned()),
                ..entry("leader", "y", 5)
            };
            let before = vec![leader, entry("members/y", member, 5)];
            assert_eq!(copy.take(&tree(5, before), 0, false), Taken::Yes);
            assert_eq!(
                led_by(&copy, &session),
                Some(("y".to_owned(), OTHER.to_owned())),
                "by its key"
            );
            copy.take(&tree(6, vec![entry("heartbeat", value, 6)]), 5, false);
            let snapshot = lock(&copy.state).tree.clone();
            let cluster = copy.view(snapshot, &session);
            if cluster.leader.is_some() {
                let member = cluster.member(&"y".into()).cloned().map(|member| member.data);
                let conn_url = member.and_then(|data| data.conn_url);
                assert_eq!(conn_url.as_deref(), Some("postgres://h:1/x"), "where it was");
            }
            led_by(&copy, &session)
        };
        let phantom = Some(("y".to_owned(), "0".to_owned()));
        assert_eq!(led(&beat("y", 30_000, OTHER)), phantom);
        // Withdrawn, malformed, or too old: nobody counts on the lock.
        for value in [beat("y", 0, OTHER), "{}".to_owned(), String::new()] {
            assert_eq!(led(&value), None, "{value}");
        }
        let (copy, session) = copy();
        copy.take(
            &tree(6, vec![entry("heartbeat", &beat("y", 20, OTHER), 6)]),
            0,
            false,
        );
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(led_by(&copy, &session), None, "it has expired");
    }

    #[test]
    fn only_a_heartbeat_of_this_very_agent_is_its_own() {
        for (name, writer, is_own) in [("x", OWN, true), ("x", OTHER, false), ("y", OWN, false)] {
            let (copy, session) = copy();
            let value = beat(name, 30_000, writer);
            copy.take(&tree(6, vec![entry("heartbeat", &value, 6)]), 0, false);
            let record = copy.record("/service/a/heartbeat");
            assert_eq!(copy.is_free(record.as_ref(), &"x".into(), &session), is_own);
            let leader = led_by(&copy, &session).map(|(name, _)| name);
            assert_eq!(leader.as_deref(), Some(name), "its own lock is valid, too");
        }
    }

    #[test]
    fn a_heartbeat_that_became_known_late_counts_from_when_it_was_sent() {
        let (copy, session) = copy();
        let sent = |at_ms, renewal| {
            format!(
                r#"{{"leader":"y","ttl_ms":5000,"sent":{{"agent":1,"at_ms":{at_ms}}},"renewal":{renewal}}}"#
            )
        };
        let heartbeat = |index, at_ms| tree(index, vec![entry("heartbeat", &sent(at_ms, index), index)]);
        copy.take(&heartbeat(6, 1000), 0, false);
        // As if the first had become known an hour ago.
        if let Some(known) = &mut lock(&copy.state).heartbeat {
            let hour = Duration::from_secs(3600);
            known.known_at = Moment(known.known_at.0.saturating_sub(hour));
        }
        let free = |copy: &Copy| {
            copy.is_free(
                copy.record("/service/a/heartbeat").as_ref(),
                &"x".into(),
                &session,
            )
        };
        copy.take(&heartbeat(7, 2000), 6, false);
        let has_been_up_for_long = boot_time() > Duration::from_secs(20);
        assert_eq!(free(&copy), has_been_up_for_long, "sent a second after the first");
        // Of another agent's clock nothing is known.
        let other = entry(
            "heartbeat",
            &sent(3000, 8).replace("\"agent\":1", "\"agent\":2"),
            8,
        );
        copy.take(&tree(8, vec![other]), 7, false);
        assert!(!free(&copy));
    }

    #[test]
    fn a_store_that_has_gone_back_is_doubted_and_a_forgotten_key_is_not() {
        let (copy, _) = copy();
        let config = |index| entry("config", "{}", index);
        copy.take(&tree(50, vec![config(40), entry("sync", "{}", 50)]), 0, false);
        // The index of what is left is lower once Consul has forgotten the deleted key.
        assert_eq!(copy.take(&tree(40, vec![config(40)]), 50, false), Taken::Doubtful);
        assert!(!copy.settle(&tree(40, vec![config(40)]), 70, 50, 0));
        assert_eq!(copy.record("/service/a/sync"), None);
        assert_eq!(copy.take(&tree(40, vec![config(40)]), 50, false), Taken::Yes);
        assert_eq!((copy.generation(), copy.newest()), (0, 50));
        // A key of an older index, and a highest index of all keys that is lower than it was.
        for (index, newest) in [(30, 90), (30, 20)] {
            let generation = copy.generation();
            let old = tree(index, vec![config(index)]);
            copy.take(&tree(60, vec![config(60)]), 0, false);
            assert_eq!(copy.take(&old, 60, false), Taken::Doubtful);
            assert!(copy.settle(&old, newest, 60, generation));
            assert!(copy.settle(&old, newest, 60, generation), "found out once");
            assert_eq!(copy.generation(), generation + 1);
            assert_eq!(copy.record("/service/a/config").unwrap().mod_revision, index);
        }
    }

    #[test]
    fn own_writes_show_until_a_read_shows_them() {
        let (copy, _) = copy();
        copy.take(&tree(5, vec![entry("config", "old", 5)]), 0, false);
        let record = |value: &str| Record {
            value: value.to_owned(),
            mod_revision: 7,
            lease: 0,
        };
        copy.tell("/service/a/config", 7, Some(record("own")));
        let value = || copy.record("/service/a/config").map(|record| record.value);
        assert_eq!(
            copy.take(&tree(6, vec![entry("config", "older", 6)]), 5, false),
            Taken::Older
        );
        assert_eq!(value().as_deref(), Some("own"));
        copy.tell("/service/a/config", 6, Some(record("late")));
        assert_eq!(value().as_deref(), Some("own"));
        assert_eq!(
            copy.take(&tree(8, vec![entry("config", "new", 8)]), 7, false),
            Taken::Yes
        );
        assert_eq!(value().as_deref(), Some("new"));
    }
}
