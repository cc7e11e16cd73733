//! The cluster's znodes as a snapshot: which ones matter, and reading all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use super::connection::{Connection, Node, Read};
use super::fault::Fault;
use crate::{Key, Layout, Record};

/// Keys of the cluster that lie right below its path, besides those of [`Key`].
const OTHERS: [&str; 2] = ["leader", "heartbeat"];

const KEYS: [Key; 8] = [
    Key::Initialize,
    Key::Config,
    Key::Failover,
    Key::Sync,
    Key::History,
    Key::Status,
    Key::Failsafe,
    Key::Origin,
];

/// All that was read, as it was at one moment.
pub(super) struct Tree {
    pub(super) records: BTreeMap<String, Record>,
    /// The transaction up to which the server had come.
    pub(super) zxid: i64,
}

/// Whether a path is one of the cluster's keys, or for a Citus coordinator of any group's. Others are not read, whatever they hold.
pub(super) fn is_key(layout: &Layout, path: &str) -> bool {
    let in_group = layout.worker_of(path).map(|(_, rest)| rest);
    let Some(name) = path.strip_prefix(layout.prefix()).or(in_group) else {
        return false;
    };
    if name == "optime/leader" {
        return true;
    }
    if let Some(member) = name.strip_prefix("members/") {
        return !member.is_empty() && !member.contains('/');
    }
    OTHERS.contains(&name) || KEYS.iter().any(|key| key.as_str() == name)
}

/// Reads all of it. `watch`: every change is told once.
pub(super) async fn read(connection: &Connection, layout: &Layout, watch: bool) -> Result<Tree, Fault> {
    let top = layout.read_prefix().trim_end_matches('/');
    let mut tree = Tree {
        records: BTreeMap::new(),
        zxid: 0,
    };
    let mut paths = BTreeSet::new();
    // The cluster's own path, and those of a Citus cluster's groups; below them `members` and `optime`.
    let mut level = vec![if top.is_empty() { "/" } else { top }.to_owned()];
    for _ in 0..3 {
        let listed = join_all(level.iter().map(|path| connection.children(path, watch))).await;
        let mut below = Vec::new();
        for (path, listed) in level.into_iter().zip(listed) {
            let Read { value, zxid } = listed?;
            tree.zxid = tree.zxid.max(zxid);
            let prefix = path.trim_end_matches('/');
            match value {
                Some(names) => {
                    for name in names {
                        let child = format!("{prefix}/{name}");
                        if is_directory(layout, &child) {
                            below.push(child);
                        } else if is_key(layout, &child) {
                            paths.insert(child);
                        }
                    }
                }
                // Not there: that it appears is told, too.
                None if watch && connection.exists(&path, true).await?.value => {
                    return Err(Fault::NotSent(format!("{path} was created meanwhile")));
                }
                None => {}
            }
        }
        level = below;
    }
    let read = join_all(paths.into_iter().map(|path| get(connection, path, watch))).await;
    for read in read {
        let (path, node) = read?;
        tree.zxid = tree.zxid.max(node.zxid);
        if let Some(node) = node.value {
            tree.records.insert(path, record(node));
        }
    }
    Ok(tree)
}

/// Reads some keys again.
pub(super) async fn again(
    connection: &Connection,
    paths: BTreeSet<String>,
) -> Result<(Vec<(String, Option<Record>)>, i64), Fault> {
    let read = join_all(paths.into_iter().map(|path| get(connection, path, false))).await;
    let (mut found, mut newest) = (Vec::new(), 0);
    for read in read {
        let (path, Read { value, zxid }) = read?;
        newest = newest.max(zxid);
        found.push((path, value.map(record)));
    }
    Ok((found, newest))
}

async fn get(
    connection: &Connection,
    path: String,
    watch: bool,
) -> Result<(String, Read<Option<Node>>), Fault> {
    let node = connection.get(&path, watch).await?;
    Ok((path, node))
}

/// Whether keys may lie below a path.
fn is_directory(layout: &Layout, path: &str) -> bool {
    let with_slash = format!("{path}/");
    if with_slash == layout.prefix() {
        return true;
    }
    let in_group = layout.worker_of(&with_slash).map(|(_, rest)| rest);
    match with_slash.strip_prefix(layout.prefix()).or(in_group) {
        Some(rest) => matches!(rest, "" | "members/" | "optime/"),
        None => false,
    }
}

pub(super) fn record(node: Node) -> Record {
    Record {
        value: node.data,
        mod_revision: node.stat.mzxid,
        lease: node.stat.ephemeral_owner,
    }
}

/// What is confirmed by a quorum just now.
pub(super) async fn read_confirmed(connection: Arc<Connection>, layout: &Layout) -> Result<Tree, Fault> {
    connection
        .sync(layout.read_prefix().trim_end_matches('/'))
        .await?;
    read(&connection, layout, false).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clusters_keys_are_read() {
        let layout = Layout::new("service", "a", None);
        for key in [
            "leader",
            "heartbeat",
            "config",
            "members/x",
            "optime/leader",
            "origin",
        ] {
            assert!(is_key(&layout, &format!("/service/a/{key}")), "{key}");
        }
        for key in [
            "members",
            "members/x/y",
            "members/",
            "unknown",
            "optime",
            "0/leader",
        ] {
            assert!(!is_key(&layout, &format!("/service/a/{key}")), "{key}");
        }
        assert!(!is_key(&layout, "/service/ab/leader"));
        assert!(is_directory(&layout, "/service/a/members") && !is_directory(&layout, "/service/a/config"));
        let coordinator = Layout::new("service", "c", Some(0));
        for path in [
            "/service/c/0",
            "/service/c/12",
            "/service/c/12/members",
            "/service/c/0/optime",
        ] {
            assert!(is_directory(&coordinator, path), "{path}");
        }
        assert!(!is_directory(&coordinator, "/service/c/x"));
        assert!(is_key(&coordinator, "/service/c/12/leader") && is_key(&coordinator, "/service/c/0/leader"));
    }
}
