//! Which slots this server should have.

use std::collections::BTreeMap;

use config::{DynamicConfig, SlotConfig, SlotKind};

use crate::cascade::Cascade;
use crate::cluster::{Cluster, Member, Tags};
use crate::cycle::Cycle;
use crate::facts::{LogicalSlot, Node, Slot};
use crate::pg::{MemberName, ReplicationState, ServerState, SlotName};
use crate::reason::notes;

/// A slot that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    /// A physical one: somebody is expected to stream through it from this server.
    pub(super) is_used: bool,
}

/// What a slot is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Physical,
    Logical(LogicalSlot),
}

impl Kind {
    pub(super) fn is_of(&self, slot: &Slot) -> bool {
        match self {
            Self::Physical => slot.logical.is_none(),
            Self::Logical(wanted) => slot.logical.as_ref() == Some(wanted),
        }
    }
}

/// Members' slots on every node, so that they are there after a failover; those of members that were here a moment ago; the
/// permanent ones.
pub(super) fn wanted(c: &Cycle<'_>, cluster: &Cluster, retained: &[SlotName]) -> BTreeMap<SlotName, Wanted> {
    let mut wanted = BTreeMap::new();
    let nofailover = c.node().tags.nofailover();
    let leads = cluster.is_leader(c.me());
    let keeps_all = !c.config().member_slots_ttl.is_zero() && !nofailover;
    let physical = |is_used| Wanted {
        kind: Kind::Physical,
        is_used,
    };
    for member in streaming(c.me(), cluster) {
        let is_used = streams_from(c.me(), leads, cluster, member);
        if is_used || keeps_all {
            let slot: &mut Wanted = wanted
                .entry(member.name.slot_name())
                .or_insert_with(|| physical(is_used));
            slot.is_used |= is_used;
        }
    }
    if nofailover {
        return wanted;
    }
    let own = c.me().slot_name();
    if keeps_all {
        for slot in retained.iter().filter(|slot| **slot != own) {
            wanted.entry(slot.clone()).or_insert_with(|| physical(false));
        }
    }
    for (name, kind) in permanent(c.config()) {
        match kind {
            Kind::Physical if name == own => {}
            Kind::Physical => drop(wanted.entry(name).or_insert_with(|| physical(leads))),
            Kind::Logical(_) if clashes(cluster, &name) => {}
            Kind::Logical(_) if !leads && upstream_slot(c.me(), &c.node().tags, cluster).is_none() => {}
            Kind::Logical(logical) => {
                let kind = Kind::Logical(logical);
                wanted.insert(name, Wanted { kind, is_used: false });
            }
        }
    }
    wanted
}

/// Says which slots cannot be there as they are wanted.
pub(super) fn complain(c: &mut Cycle<'_>, cluster: &Cluster) {
    let mut by_slot: BTreeMap<SlotName, Vec<&str>> = BTreeMap::new();
    for member in streaming(c.me(), cluster) {
        let name = member.name.as_str();
        by_slot.entry(member.name.slot_name()).or_default().push(name);
    }
    for (slot, members) in by_slot.iter().filter(|(_, members)| members.len() > 1) {
        c.note(notes::slots_share_a_name(&slot.0, &members.join(", ")));
    }
    for (name, kind) in permanent(c.config()) {
        if matches!(kind, Kind::Logical(_)) && clashes(cluster, &name) {
            c.note(notes::slot_name_is_a_members(&name));
        }
    }
}

/// Other members that stream.
fn streaming<'a>(me: &'a MemberName, cluster: &'a Cluster) -> impl Iterator<Item = &'a Member> {
    let others = cluster.members.iter().filter(move |member| &member.name != me);
    others.filter(|member| !member.data.tags.nostream())
}

/// A member has, or will have, a physical slot of this name.
fn clashes(cluster: &Cluster, name: &SlotName) -> bool {
    let mut members = cluster.members.iter();
    members.any(|member| member.name.slot_name() == *name)
}

/// The permanent slots that this cluster is to have.
pub(super) fn permanent(config: &DynamicConfig) -> Vec<(SlotName, Kind)> {
    let is_standby = config.standby_cluster.is_some();
    let kind_of_cluster = if is_standby { "standby" } else { "primary" };
    let is_here = |slot: &SlotConfig| {
        let wanted = slot.cluster_type.as_deref();
        wanted.is_none_or(|wanted| wanted == kind_of_cluster)
    };
    let here = config.slots.iter().filter(|(_, slot)| is_here(slot));
    let kinds = here.filter_map(|(name, slot)| {
        let kind = match &slot.kind {
            SlotKind::Physical => Kind::Physical,
            // It is the remote cluster's business.
            SlotKind::Logical { .. } if is_standby => return None,
            SlotKind::Logical { database, plugin } => Kind::Logical(LogicalSlot {
                database: database.clone(),
                plugin: plugin.clone(),
            }),
        };
        Some((SlotName(name.clone()), kind))
    });
    kinds.collect()
}

fn streams_from(me: &MemberName, leads: bool, cluster: &Cluster, member: &Member) -> bool {
    match Cascade::new(cluster).instead_of_leader(&member.name) {
        Some(upstream) => &upstream.name == me,
        None => leads,
    }
}

/// The slot on the primary through which the WAL of this member comes, its own or that of the member that passes it on;
/// `None` when a part of the way is the archive.
pub(super) fn upstream_slot(me: &MemberName, tags: &Tags, cluster: &Cluster) -> Option<SlotName> {
    path(me, tags, cluster)?.last().map(|name| name.slot_name())
}

/// This member and those that pass WAL on to it, the last one under the leader at the end.
fn path(me: &MemberName, tags: &Tags, cluster: &Cluster) -> Option<Vec<MemberName>> {
    let way = Cascade::seen_by(cluster, me, tags).way_to_leader(me).ok()?;
    Some(way.into_iter().cloned().collect())
}

/// A standby must tell its upstream which rows of the catalogs its logical slots need, or those of members behind it: then
/// `hot_standby_feedback` is on whatever the configuration says (Patroni documentation, `slots`).
#[must_use]
pub fn forces_hot_standby_feedback(node: &Node, config: &DynamicConfig, cluster: &Cluster) -> bool {
    let is_logical = |(_, kind): &(SlotName, Kind)| matches!(kind, Kind::Logical(_));
    if !permanent(config).iter().any(is_logical) {
        return false;
    }
    let passes = |name: &MemberName, tags: &Tags| {
        let path = path(name, tags, cluster).filter(|_| !tags.nofailover());
        path.is_some_and(|path| path.contains(&node.name))
    };
    let mut others = cluster.members.iter().filter(|member| member.name != node.name);
    passes(&node.name, &node.tags)
        || (node.use_slots && others.any(|member| passes(&member.name, &member.data.tags)))
}

/// Since then logical replication can wait for physical slots.
const SYNCHRONIZED_SLOTS_SINCE: u32 = 170_000;

/// The slots for which logical replication waits, where that is to follow from the members (`synchronized_standby_slots:
/// members`): those of replicas that stream from the leader and may take over. A member that is down or is being copied holds
/// up no logical replication. `None`: the user's own list counts.
#[must_use]
pub fn synchronized_standby_slots(
    node: &Node,
    config: &DynamicConfig,
    cluster: &Cluster,
) -> Option<Vec<SlotName>> {
    let is_derived =
        config.derives_synchronized_standby_slots && node.server_version >= SYNCHRONIZED_SLOTS_SINCE;
    if !is_derived || !node.use_slots {
        return None;
    }
    let cascade = Cascade::new(cluster);
    let is_waited_for = |member: &&Member| {
        let data = &member.data;
        data.state == Some(ServerState::Running)
            && data.replication_state == Some(ReplicationState::Streaming)
            && !data.tags.nofailover()
            && cascade.instead_of_leader(&member.name).is_none()
    };
    let mut slots: Vec<SlotName> = streaming(&node.name, cluster)
        .filter(is_waited_for)
        .map(|member| member.name.slot_name())
        .collect();
    slots.sort();
    Some(slots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Leader, MemberData, Version};

    fn tags(text: &str) -> Tags {
        serde_json::from_str(text).expect("tags")
    }

    fn cluster() -> Cluster {
        let member = |(name, text): (&str, &str)| Member {
            name: name.into(),
            version: Version(1),
            session: String::new(),
            data: MemberData {
                tags: tags(text),
                conn_url: Some("postgres://host:5432/postgres".to_owned()),
                ..MemberData::default()
            },
        };
        let members = [
            ("a", "{}"),
            ("b", r#"{"replicatefrom":"a"}"#),
            ("c", r#"{"replicatefrom":"b"}"#),
            ("d", r#"{"replicatefrom":"c","nofailover":true}"#),
            ("archive", r#"{"nostream":true}"#),
            ("behind", r#"{"replicatefrom":"archive"}"#),
            ("round", r#"{"replicatefrom":"about"}"#),
            ("about", r#"{"replicatefrom":"round"}"#),
        ];
        Cluster {
            leader: Some(Leader {
                version: Version(1),
                name: "a".into(),
                session: String::new(),
            }),
            members: members.map(member).into(),
            ..Cluster::default()
        }
    }

    #[test]
    fn the_slot_on_the_primary_is_that_of_the_first_on_the_way() {
        let cluster = cluster();
        for (name, expected) in [
            ("b", Some("b")),
            ("c", Some("b")),
            ("d", Some("b")),
            ("archive", None),
            ("behind", None),
            ("about", Some("about")),
            ("round", Some("about")),
        ] {
            let member = cluster.member(&name.into()).expect("it is there");
            let slot = upstream_slot(&member.name, &member.data.tags, &cluster);
            assert_eq!(slot.as_ref().map(|slot| slot.0.as_str()), expected, "{name}");
        }
    }

    #[test]
    fn logical_replication_waits_for_replicas_that_stream_and_may_take_over() {
        let text = |name: &str, more: &str| format!(r#"{{"role":"replica",{more},"tags":{{{name}}}}}"#);
        let streams = r#""state":"running","replication_state":"streaming""#;
        let members = [
            ("a", r#"{"role":"primary","state":"running"}"#.to_owned()),
            ("b", text("", streams)),
            ("b-2", text("", streams)),
            ("down", text("", r#""state":"stopped""#)),
            ("copied", text("", r#""state":"creating replica""#)),
            (
                "archive",
                text(
                    "",
                    r#""state":"running","replication_state":"in archive recovery""#,
                ),
            ),
            ("never", text(r#""nofailover":true"#, streams)),
            ("apart", text(r#""nostream":true"#, streams)),
            ("behind", text(r#""replicatefrom":"b""#, streams)),
            ("alone", text(r#""replicatefrom":"nobody""#, streams)),
        ];
        let members = members.map(|(name, data)| Member {
            name: name.into(),
            version: Version(1),
            session: String::new(),
            data: MemberData {
                conn_url: Some("postgres://host:5432/postgres".to_owned()),
                ..MemberData::parse(&data)
            },
        });
        let cluster = Cluster {
            members: members.into(),
            ..cluster()
        };
        let slots = |me: &str, version: u32, document: serde_json::Value| {
            let (config, _) = DynamicConfig::read(&document, config::Minimums::TAMADA);
            let node: Node = serde_json::from_value(serde_json::json!({
                "name": me, "scope": "demo", "conn_url": "", "api_url": "", "proxy_url": null, "tags": {}, "version": "4.1.5",
                "may_bootstrap": true, "has_custom_bootstrap": false, "use_slots": config.use_slots(),
                "has_method_without_leader": false, "use_pg_rewind": true, "remove_data_directory_on_rewind_failure": false,
                "remove_data_directory_on_diverged_timelines": false, "config_json": "{}", "server_version": version,
            }))
            .expect("a node");
            let slots = synchronized_standby_slots(&node, &config, &cluster)?;
            Some(slots.into_iter().map(|slot| slot.0).collect::<Vec<_>>().join(","))
        };
        let on = serde_json::json!({"synchronized_standby_slots": "members"});
        assert_eq!(slots("a", 180_001, on.clone()).as_deref(), Some("alone,b,b_2"));
        assert_eq!(slots("b", 180_001, on.clone()).as_deref(), Some("alone,b_2"));
        assert_eq!(slots("a", 160_004, on), None);
        let off = serde_json::json!({"synchronized_standby_slots": false});
        assert_eq!(slots("a", 180_001, off), None);
        let without =
            serde_json::json!({"synchronized_standby_slots": "members", "postgresql": {"use_slots": false}});
        assert_eq!(slots("a", 180_001, without), None);
    }
}
