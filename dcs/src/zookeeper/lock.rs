//! The lock: leader key and heartbeat, and the transactions by which they change.
//!
//! The leader key goes with the session that created it. Each holder raises its version to 1 when it creates it, which Patroni does not:
//! what names version 1 never hits a key of a Patroni member. The heartbeat is written with every renewal. Its version only grows, so a
//! transaction that names it fails as soon as anybody else has held the lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha::cluster::{Expired, Heartbeat, Version};
use ha::pg::MemberName;
use tokio::time::Instant;

use super::calls::Channel;
use super::connection::{Connection, Node, lock};
use super::fault::Fault;
use super::heartbeat::Heartbeats;
use super::same_store;
use super::tree;
use super::wire::{Multi, Op, code};
use crate::cache::Cache;
use crate::clock::SendingClock;
use crate::{Key, Layout, Record, Renewed, WhenGone};

/// The version of a leader key that a member of ours has created.
const LEADER_VERSION: i32 = 1;
/// What a release leaves in the heartbeat: its lock is over.
const WITHDRAWN: &str = "{}";
/// How often a transaction is tried again on what was read anew.
const MOST_CONFLICTS: usize = 5;

/// Who may hold the lock.
pub(super) struct Holder {
    pub(super) name: MemberName,
    pub(super) layout: Layout,
    pub(super) channel: Channel,
    pub(super) cache: Arc<Cache>,
    pub(super) heartbeats: Arc<Heartbeats>,
    pub(super) clock: SendingClock,
    /// Our last renewal.
    renewed: Mutex<Option<Renewal>>,
}

#[derive(Debug, Clone, Copy)]
struct Renewal {
    session: i64,
    /// The heartbeat's version.
    version: i32,
    at: Instant,
}

/// Leader key and heartbeat, as a quorum has confirmed them.
struct Lock {
    leader: Option<Node>,
    heartbeat: Option<Node>,
    zxid: i64,
}

/// What came of one transaction.
enum Taken {
    Yes,
    /// Something else stands there by now.
    Conflict,
}

impl Holder {
    pub(super) fn new(
        name: MemberName,
        layout: Layout,
        channel: Channel,
        cache: Arc<Cache>,
        heartbeats: Arc<Heartbeats>,
    ) -> Self {
        Self {
            name,
            layout,
            channel,
            cache,
            heartbeats,
            clock: SendingClock::new(),
            renewed: Mutex::default(),
        }
    }

    fn ttl(&self) -> Duration {
        self.channel.calls.timing().ttl
    }

    fn heartbeat(&self) -> String {
        Heartbeat::without_lease(&self.name, self.ttl(), Some(self.clock.now()))
    }

    async fn read(&self, connection: &Connection) -> Result<Lock, Fault> {
        let (leader, heartbeat) = (self.layout.leader(), self.layout.heartbeat());
        // Answers come in the order of the requests: both reads show what the first has brought.
        let (synced, leader, heartbeat) = tokio::join!(
            connection.sync(&leader),
            connection.get(&leader, false),
            connection.get(&heartbeat, false)
        );
        synced?;
        let (leader, heartbeat) = (leader?, heartbeat?);
        if let Some(node) = &heartbeat.value {
            self.heartbeats
                .saw(connection.history.generation, node.stat.mzxid);
        }
        Ok(Lock {
            leader: leader.value,
            heartbeat: heartbeat.value,
            zxid: heartbeat.zxid,
        })
    }

    /// The writes that make us the holder. `leader`: the version of the key that stands there; both are conditions.
    fn claim(&self, leader: Option<i32>, heartbeat: Option<i32>) -> Vec<Op> {
        let path = self.layout.leader();
        let mut ops = Vec::new();
        if let Some(version) = leader {
            ops.push(Op::delete(&path, version));
        }
        ops.push(Op::create(&path, &self.name.0, true));
        ops.push(Op::set(&path, &self.name.0, 0));
        ops.push(self.write_heartbeat(&self.heartbeat(), heartbeat));
        ops
    }

    fn write_heartbeat(&self, value: &str, version: Option<i32>) -> Op {
        let path = self.layout.heartbeat();
        match version {
            Some(version) => Op::set(&path, value, version),
            None => Op::create(&path, value, false),
        }
    }

    async fn take(
        &self,
        connection: &Connection,
        leader: Option<i32>,
        heartbeat: Option<i32>,
    ) -> Result<Taken, Fault> {
        self.commit(connection, &self.claim(leader, heartbeat)).await
    }

    /// Carries out writes of leader key and heartbeat, and knows them at once.
    async fn commit(&self, connection: &Connection, ops: &[Op]) -> Result<Taken, Fault> {
        let begun = Instant::now();
        let (zxid, stats) = match connection.multi(ops).await? {
            Multi::Done { zxid, stats } => (zxid, stats),
            Multi::Failed { index, code: found } => {
                *lock(&self.renewed) = None;
                // Somebody has written below the leader key by hand.
                if found == code::NOT_EMPTY
                    && let Some(op) = ops.get(index)
                {
                    connection.delete_tree(op.path(), false).await?;
                }
                return Ok(Taken::Conflict);
            }
        };
        let session = connection.session.id;
        let mut last = BTreeMap::new();
        for (op, stat) in ops.iter().zip(stats) {
            let (data, is_ephemeral) = match op {
                Op::Create {
                    data, is_ephemeral, ..
                } => (data, *is_ephemeral),
                Op::Set { path, data, .. } => (data, *path == self.layout.leader()),
                Op::Delete { path, .. } => {
                    last.insert(path.as_str(), None);
                    continue;
                }
                Op::Check { .. } => continue,
            };
            if op.path() == self.layout.heartbeat() && data != WITHDRAWN {
                self.heartbeats.saw(connection.history.generation, zxid);
                *lock(&self.renewed) = Some(Renewal {
                    session,
                    version: stat.map_or(0, |stat| stat.version),
                    at: begun,
                });
            }
            let record = Record {
                value: data.clone(),
                mod_revision: zxid,
                lease: if is_ephemeral { session } else { 0 },
            };
            last.insert(op.path(), Some(record));
        }
        for (path, record) in last {
            self.cache.tell(path, zxid, record, true);
        }
        Ok(Taken::Yes)
    }

    fn learn(&self, found: &Lock) {
        let leader = found.leader.clone().map(tree::record);
        let revision = leader.as_ref().map_or(found.zxid, |record| record.mod_revision);
        self.cache.tell(&self.layout.leader(), revision, leader, false);
    }

    fn is_ours(&self, connection: &Connection, node: &Node) -> bool {
        node.data == self.name.0 && node.stat.ephemeral_owner == connection.session.id
    }

    /// Whether a key that is gone leaves a lock behind that may be in use: the heartbeat is another member's, and not old enough.
    fn may_be_held(&self, connection: &Connection, heartbeat: Option<&Node>) -> bool {
        let Some(node) = heartbeat else { return false };
        let version = node.stat.mzxid;
        let others =
            Heartbeat::parse(Version(version), &node.data).filter(|heartbeat| heartbeat.leader != self.name);
        let generation = connection.history.generation;
        others.is_some_and(|heartbeat| !self.heartbeats.is_over(generation, version, heartbeat.ttl))
    }

    /// Creates the key where there is none.
    pub(super) async fn acquire(&self, connection: &Connection) -> Result<bool, Fault> {
        for _ in 0..MOST_CONFLICTS {
            let found = self.read(connection).await?;
            let heartbeat = version(found.heartbeat.as_ref());
            let empty = match &found.leader {
                Some(leader) if self.is_ours(connection, leader) => {
                    match self
                        .renew_known(connection, leader.stat.version, heartbeat)
                        .await?
                    {
                        Taken::Yes => return Ok(true),
                        Taken::Conflict => continue,
                    }
                }
                Some(leader) if !leader.data.is_empty() => {
                    self.learn(&found);
                    return Ok(false);
                }
                Some(leader) => Some(leader.stat.version),
                None => None,
            };
            if self.may_be_held(connection, found.heartbeat.as_ref()) {
                self.learn(&found);
                return Ok(false);
            }
            if let Taken::Yes = self.take(connection, empty, heartbeat).await? {
                return Ok(true);
            }
        }
        Err(Fault::Later(code::BAD_VERSION))
    }

    /// Takes the key from a holder that has not renewed its lock since. Its key may have gone meanwhile.
    pub(super) async fn supersede(
        &self,
        connection: &Connection,
        expired: Expired,
        is_repeat: bool,
    ) -> Result<bool, Fault> {
        let found = self.read(connection).await?;
        let heartbeat = version(found.heartbeat.as_ref());
        let leader = match &found.leader {
            Some(leader) if is_repeat && self.is_ours(connection, leader) => {
                return Ok(matches!(
                    self.renew_known(connection, leader.stat.version, heartbeat)
                        .await?,
                    Taken::Yes
                ));
            }
            Some(leader)
                // An agent leaves one version; a key that was written by hand has any.
                if leader.stat.mzxid == expired.leader.0 =>
            {
                Some(leader.stat.version)
            }
            None => None,
            Some(_) => {
                self.learn(&found);
                return Ok(false);
            }
        };
        let is_same = found.heartbeat.as_ref().map_or(0, |node| node.stat.mzxid) == expired.heartbeat.0;
        if !is_same {
            self.learn(&found);
            return Ok(false);
        }
        Ok(matches!(
            self.take(connection, leader, heartbeat).await?,
            Taken::Yes
        ))
    }

    /// Renews a key of ours that is in this version, where the heartbeat is in that.
    async fn renew_known(
        &self,
        connection: &Connection,
        leader: i32,
        heartbeat: Option<i32>,
    ) -> Result<Taken, Fault> {
        if leader != LEADER_VERSION {
            return self.take(connection, Some(leader), heartbeat).await;
        }
        let ops = [
            Op::check(&self.layout.leader(), LEADER_VERSION),
            self.write_heartbeat(&self.heartbeat(), heartbeat),
        ];
        self.commit(connection, &ops).await
    }

    /// The heartbeat's version, where it is sure that nobody has deleted and created both keys since: a version alone would not tell.
    fn known_version(&self, connection: &Connection) -> Option<i32> {
        let renewed = (*lock(&self.renewed))?;
        let is_fresh = renewed.session == connection.session.id && renewed.at.elapsed() < self.ttl() / 2;
        is_fresh.then_some(renewed.version)
    }

    pub(super) async fn renew(&self, connection: &Connection, when_gone: WhenGone) -> Result<Renewed, Fault> {
        if let Some(version) = self.known_version(connection)
            && let Taken::Yes = self
                .renew_known(connection, LEADER_VERSION, Some(version))
                .await?
        {
            return Ok(Renewed::Yes);
        }
        for _ in 0..MOST_CONFLICTS {
            let found = self.read(connection).await?;
            let heartbeat = version(found.heartbeat.as_ref());
            let taken = match &found.leader {
                Some(leader) if self.is_ours(connection, leader) => {
                    self.renew_known(connection, leader.stat.version, heartbeat)
                        .await?
                }
                Some(leader) if self.is_own_of_before(connection, leader, found.heartbeat.as_ref()) => {
                    self.take(connection, Some(leader.stat.version), heartbeat)
                        .await?
                }
                None if when_gone == WhenGone::Recreate && self.has_led_last(found.heartbeat.as_ref()) => {
                    self.take(connection, None, heartbeat).await?
                }
                Some(_) | None => {
                    self.learn(&found);
                    return Ok(Renewed::No);
                }
            };
            if let Taken::Yes = taken {
                return Ok(Renewed::Yes);
            }
        }
        Err(Fault::Later(code::BAD_VERSION))
    }

    /// The lock is lost: fails if that is because another store answers, as its other keys tell.
    pub(super) async fn check_store(&self, connection: &Connection) -> Result<(), Fault> {
        let Ok(tree) = tree::read(connection, &self.layout, false).await else {
            return Ok(());
        };
        match same_store::contradiction(&self.cache, connection, &tree) {
            Some(key) => {
                let calls = &self.channel.calls;
                calls.accept_proved(&connection.history, tree.zxid, &key);
                Err(Fault::Replaced)
            }
            None => Ok(()),
        }
    }

    /// The key carries our name, and is bound to a former session of this agent, or to none where nobody else counts on the lock.
    fn is_own_of_before(&self, connection: &Connection, leader: &Node, heartbeat: Option<&Node>) -> bool {
        let is_own = match leader.stat.ephemeral_owner {
            0 => !self.may_be_held(connection, heartbeat),
            owner => self.channel.knows(owner),
        };
        leader.data == self.name.0 && is_own
    }

    /// No other member has led since we did, or nobody ever has, as in a store that was wiped.
    fn has_led_last(&self, heartbeat: Option<&Node>) -> bool {
        heartbeat.is_none_or(|node| {
            Heartbeat::parse(Version(node.stat.mzxid), &node.data)
                .is_some_and(|heartbeat| heartbeat.leader == self.name)
        })
    }

    pub(super) async fn take_whatever(&self, connection: &Connection) -> Result<bool, Fault> {
        for _ in 0..MOST_CONFLICTS {
            let found = self.read(connection).await?;
            let (leader, heartbeat) = (version(found.leader.as_ref()), version(found.heartbeat.as_ref()));
            if let Taken::Yes = self.take(connection, leader, heartbeat).await? {
                return Ok(true);
            }
        }
        Err(Fault::Later(code::BAD_VERSION))
    }

    /// Status first: whoever sees the key gone finds the last position. The heartbeat's version is a condition: a request that arrives
    /// late has no effect once the key was acquired or renewed again.
    pub(super) async fn release(
        &self,
        connection: &Connection,
        status: Option<&str>,
        is_repeat: bool,
    ) -> Result<bool, Fault> {
        let path = self.layout.key(Key::Status);
        let mut has_status = true;
        for _ in 0..MOST_CONFLICTS {
            let found = self.read(connection).await?;
            let Some(leader) = found.leader.as_ref().filter(|leader| {
                self.is_ours(connection, leader)
                    || self.is_own_of_before(connection, leader, found.heartbeat.as_ref())
            }) else {
                self.learn(&found);
                return Ok(is_repeat && found.leader.is_none());
            };
            let write = status.map(|status| match has_status {
                true => Op::set(&path, status, -1),
                false => Op::create(&path, status, false),
            });
            let mut ops: Vec<Op> = write.into_iter().collect();
            ops.push(match &found.heartbeat {
                // Of somebody else who may count on it.
                Some(node) if !self.has_led_last(Some(node)) => {
                    Op::check(&self.layout.heartbeat(), node.stat.version)
                }
                heartbeat => self.write_heartbeat(WITHDRAWN, version(heartbeat.as_ref())),
            });
            ops.push(Op::delete(&self.layout.leader(), leader.stat.version));
            let conflict = self.commit(connection, &ops).await?;
            if let Taken::Yes = conflict {
                *lock(&self.renewed) = None;
                return Ok(true);
            }
            if status.is_some() {
                has_status = connection.exists(&path, false).await?.value;
            }
        }
        Err(Fault::Later(code::BAD_VERSION))
    }
}

fn version(node: Option<&Node>) -> Option<i32> {
    node.map(|node| node.stat.version)
}
