//! How Patroni's early versions were configured.

use crate::read::{section, text};
use crate::value::{Kind, Map, Value};

/// Forms of Patroni's early versions: roles beside `authentication`, `exhibitor` within `zookeeper`, `name` within
/// `postgresql`.
pub(super) fn translate(tree: &mut Map) {
    let exhibitor = tree.get_mut("zookeeper").and_then(|value| match &mut value.kind {
        Kind::Map(map) => map.remove("exhibitor"),
        _ => None,
    });
    if let Some(exhibitor) = exhibitor {
        tree.remove("zookeeper");
        tree.insert("exhibitor", exhibitor);
    }
    let name = section(tree, "postgresql").get("name").cloned();
    if let (None, Some(name)) = (text(tree, "name"), name) {
        tree.insert("name", name);
    }
    let Some(Value {
        kind: Kind::Map(postgresql),
        ..
    }) = tree.get_mut("postgresql")
    else {
        return;
    };
    let pg_rewind = postgresql
        .get("pg_rewind")
        .filter(|value| !value.is_null())
        .cloned();
    if !postgresql.contains_key("authentication") {
        let roles = ["replication", "superuser"]
            .into_iter()
            .filter_map(|role| Some((role, postgresql.get(role)?.clone())));
        let roles: Map = roles.collect();
        if roles.is_empty() {
            return;
        }
        postgresql.insert("use_pg_rewind", pg_rewind.is_some());
        postgresql.insert("authentication", roles);
    }
    let Some(Value {
        kind: Kind::Map(roles),
        ..
    }) = postgresql.get_mut("authentication")
    else {
        return;
    };
    if let Some(pg_rewind) = pg_rewind.filter(|_| !roles.contains_key("superuser")) {
        roles.insert("superuser", pg_rewind);
    }
}
