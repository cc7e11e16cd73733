//! Member keys and the keys of the cluster.

use ha::cluster::Version;

use super::connection::{Connection, Node};
use super::fault::Fault;
use super::lock::Holder;
use super::tree;
use super::wire::{Multi, Op, Stat, code};
use crate::cache::Cache;
use crate::{Expect, Key, Layout, Record};

/// How often a write is tried again on what was read anew.
const MOST_CONFLICTS: usize = 5;
/// What stands for no synchronous state: Patroni's members do not delete that key either.
const NO_SYNC: &str = "{}";

/// What came of writing the member key.
pub(super) enum Touched {
    Yes,
    /// It is bound to a session of another agent.
    Taken,
}

/// The keys of a cluster, and the copy that shows own writes at once.
pub(super) struct Keys<'a> {
    pub(super) layout: &'a Layout,
    pub(super) cache: Option<&'a Cache>,
}

impl Keys<'_> {
    fn learn(&self, path: &str, zxid: i64, record: Option<Record>, is_own: bool) {
        if let Some(cache) = self.cache {
            let revision = record.as_ref().map_or(zxid, |record| record.mod_revision);
            cache.tell(path, revision, record, is_own);
        }
    }

    async fn read(&self, connection: &Connection, path: &str) -> Result<(Option<Node>, i64), Fault> {
        let (synced, read) = tokio::join!(connection.sync(path), connection.get(path, false));
        synced?;
        let read = read?;
        Ok((read.value, read.zxid))
    }

    /// `None`: what was expected does not hold.
    pub(super) async fn write(
        &self,
        connection: &Connection,
        (key, value): (Key, &str),
        expect: Expect,
        is_repeat: bool,
    ) -> Result<Option<Version>, Fault> {
        let path = self.layout.key(key);
        for _ in 0..MOST_CONFLICTS {
            let (found, zxid) = match expect {
                Expect::Anything => (None, 0),
                Expect::Absent | Expect::Version(_) => self.read(connection, &path).await?,
            };
            let op = match (expect, &found) {
                (Expect::Anything, _) => Op::set(&path, value, -1),
                (Expect::Absent, None) => Op::create(&path, value, false),
                (Expect::Absent, Some(node)) if key == Key::Sync && node.data == NO_SYNC => {
                    Op::set(&path, value, node.stat.version)
                }
                (Expect::Version(seen), Some(node)) if node.stat.mzxid == seen.0 => {
                    Op::set(&path, value, node.stat.version)
                }
                // Who has created a key is what matters: two members may both have written `""` to `initialize`.
                (Expect::Absent, Some(node)) if is_repeat && node.data == value => {
                    return Err(Fault::Unknown);
                }
                // Nobody else's write of the very same value can be told from ours, nor need it be.
                (Expect::Version(seen), Some(node))
                    if is_repeat && node.data == value && node.stat.mzxid > seen.0 =>
                {
                    return Ok(Some(Version(node.stat.mzxid)));
                }
                (Expect::Absent | Expect::Version(_), _) => {
                    self.learn(&path, zxid, found.map(tree::record), false);
                    return Ok(None);
                }
            };
            let mut result = connection.multi(std::slice::from_ref(&op)).await?;
            if expect == Expect::Anything
                && matches!(
                    result,
                    Multi::Failed {
                        code: code::NO_NODE,
                        ..
                    }
                )
            {
                result = connection.multi(&[Op::create(&path, value, false)]).await?;
            }
            if let Multi::Done { zxid, .. } = result {
                let record = Record {
                    value: value.to_owned(),
                    mod_revision: zxid,
                    lease: 0,
                };
                self.learn(&path, zxid, Some(record), true);
                return Ok(Some(Version(zxid)));
            }
        }
        Err(Fault::Later(code::BAD_VERSION))
    }

    /// `false`: what was expected does not hold.
    pub(super) async fn delete(
        &self,
        connection: &Connection,
        key: Key,
        expect: Expect,
        is_repeat: bool,
    ) -> Result<bool, Fault> {
        let path = self.layout.key(key);
        for _ in 0..MOST_CONFLICTS {
            let (found, zxid) = self.read(connection, &path).await?;
            let is_empty = |node: &Node| key == Key::Sync && node.data == NO_SYNC;
            let Some(node) = found.filter(|node| !is_empty(node)) else {
                self.learn(&path, zxid, None, false);
                return Ok(is_repeat || matches!(expect, Expect::Anything | Expect::Absent));
            };
            let is_expected = match expect {
                Expect::Anything => true,
                Expect::Absent => false,
                Expect::Version(version) => node.stat.mzxid == version.0,
            };
            if !is_expected {
                self.learn(&path, zxid, Some(tree::record(node)), false);
                return Ok(false);
            }
            let op = match key {
                Key::Sync => Op::set(&path, NO_SYNC, node.stat.version),
                _ => Op::delete(&path, node.stat.version),
            };
            match connection.multi(&[op]).await? {
                Multi::Done { zxid, .. } => {
                    let rest = (key == Key::Sync).then(|| Record {
                        value: NO_SYNC.to_owned(),
                        mod_revision: zxid,
                        lease: 0,
                    });
                    self.learn(&path, zxid, rest, true);
                    return Ok(true);
                }
                Multi::Failed {
                    code: code::NOT_EMPTY,
                    ..
                } => connection.delete_tree(&path, false).await?,
                Multi::Failed { .. } => {}
            }
        }
        Err(Fault::Later(code::BAD_VERSION))
    }
}

impl Holder {
    /// Reads the key, which keeps the session alive, and writes it where it is not as it should be.
    pub(super) async fn touch(&self, connection: &Connection, data: &str) -> Result<Touched, Fault> {
        let path = self.layout.member(&self.name);
        let mut read = connection.get(&path, false).await?;
        let mut is_confirmed = false;
        let session = connection.session.id;
        for _ in 0..MOST_CONFLICTS {
            let ops = match &read.value {
                Some(Node { data: known, stat }) if stat.ephemeral_owner == session => {
                    if known == data {
                        return Ok(Touched::Yes);
                    }
                    vec![Op::set(&path, data, stat.version)]
                }
                Some(Node {
                    stat:
                        Stat {
                            ephemeral_owner: owner,
                            version,
                            ..
                        },
                    ..
                }) => {
                    if *owner != 0 && !self.channel.knows(*owner) {
                        if is_confirmed {
                            return Ok(Touched::Taken);
                        }
                        // The server may be behind.
                        is_confirmed = true;
                        connection.sync(&path).await?;
                        read = connection.get(&path, false).await?;
                        continue;
                    }
                    // A node that exists is not bound to a session: another one takes its place.
                    vec![Op::delete(&path, *version), Op::create(&path, data, true)]
                }
                None => vec![Op::create(&path, data, true)],
            };
            match connection.multi(&ops).await? {
                Multi::Done { zxid, .. } => {
                    let record = Record {
                        value: data.to_owned(),
                        mod_revision: zxid,
                        lease: session,
                    };
                    self.cache.tell(&path, zxid, Some(record), true);
                    return Ok(Touched::Yes);
                }
                Multi::Failed {
                    code: code::NOT_EMPTY,
                    ..
                } => connection.delete_tree(&path, false).await?,
                Multi::Failed { .. } => {}
            }
            is_confirmed = true;
            connection.sync(&path).await?;
            read = connection.get(&path, false).await?;
        }
        Err(Fault::Later(code::BAD_VERSION))
    }
}
