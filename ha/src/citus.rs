//! What stands in `pg_dist_node` of a Citus coordinator, and how it becomes what it should be (Citus documentation,
//! "Metadata Tables", `pg_dist_node`, and "Utility Functions").
//!
//! Shards belong to a group, and a group's primary is one row for as long as the group lives: when another member becomes
//! primary the row gets its address. No two rows may have one address at any time, so that members that change places need
//! a third address for a moment.

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::pg::{MemberName, Role, ServerState};

/// The group of the coordinator.
pub const COORDINATOR: u32 = 0;

/// What is added to the host of a primary that is about to be none any more. As with Patroni.
const DEMOTED: &str = "-demoted";

/// Where a server takes connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// `nodename`.
    pub host: String,
    /// `nodeport`.
    pub port: u16,
}

/// What a group's rows should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// `groupid`.
    pub id: u32,
    /// Who takes writes.
    pub primary: Address,
    /// Who can be read from; sorted.
    pub secondaries: Vec<Address>,
}

/// A row of `pg_dist_node`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `nodeid`.
    pub id: i32,
    /// `groupid`.
    pub group: u32,
    /// `nodename` and `nodeport`.
    pub address: Address,
    /// `noderole` is `primary`.
    pub is_primary: bool,
}

/// One change of `pg_dist_node`, by the function of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `citus_update_node`
    Update {
        /// Which row.
        id: i32,
        /// Its new address.
        address: Address,
    },
    /// `citus_add_node`
    Add {
        /// In which group.
        group: u32,
        /// At which address.
        address: Address,
        /// As its primary.
        is_primary: bool,
    },
    /// `citus_remove_node`
    Remove(Address),
}

/// What a worker's leader tells the coordinator, `type` in `POST /citus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Its server is about to stop taking writes: writes are to wait.
    BeforeDemote,
    /// Its server is about to take writes, at its address.
    BeforePromote,
    /// Its server takes writes.
    AfterPromote,
}

/// The body of `POST /citus`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// What is about to happen.
    #[serde(rename = "type")]
    pub moment: Moment,
    /// In which group.
    pub group: u32,
    /// Who tells.
    pub leader: MemberName,
    /// After how many seconds what was begun is given up.
    pub timeout: f64,
    /// How long `citus_update_node` lets statements finish that hold locks, in milliseconds.
    pub cooldown: f64,
}

impl Address {
    /// The address in a member's `conn_url`.
    #[must_use]
    pub fn of_conn_url(url: &str) -> Option<Self> {
        let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
        let authority = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "5432"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
        })
    }

    /// Where nobody is: statements that need the primary wait, or fail, while it stands in its row.
    #[must_use]
    pub fn demoted(&self) -> Self {
        Self {
            host: format!("{}{DEMOTED}", self.real().host),
            port: self.port,
        }
    }

    fn real(&self) -> Self {
        let host = self.host.strip_suffix(DEMOTED).unwrap_or(&self.host);
        Self {
            host: host.to_owned(),
            port: self.port,
        }
    }
}

impl Group {
    /// The rows that a group should have by what the DCS says of it; `None` while it has no primary.
    #[must_use]
    pub fn of_cluster(id: u32, cluster: &Cluster) -> Option<Self> {
        let leader = cluster.leader_member()?;
        if leader.data.role != Some(Role::Primary) {
            return None;
        }
        let primary = Address::of_conn_url(leader.data.conn_url.as_deref()?)?;
        let mut secondaries: Vec<Address> = cluster
            .members
            .iter()
            .filter(|member| member.name != leader.name && member.data.state == Some(ServerState::Running))
            .filter(|member| !member.data.tags.noloadbalance())
            .filter_map(|member| Address::of_conn_url(member.data.conn_url.as_deref()?))
            .filter(|address| *address != primary)
            .collect();
        secondaries.sort();
        secondaries.dedup();
        Some(Self {
            id,
            primary,
            secondaries,
        })
    }

    /// All groups that a coordinator's view shows, its own among them.
    #[must_use]
    pub fn all(cluster: &Cluster) -> Vec<Self> {
        let workers = cluster.workers.iter().map(|(id, worker)| (*id, worker));
        std::iter::once((COORDINATOR, cluster))
            .chain(workers)
            .filter_map(|(id, cluster)| Self::of_cluster(id, cluster))
            .collect()
    }

    /// The rows of a group whose primary changes, and of which nothing else is known yet: the former one is read from.
    #[must_use]
    pub fn promoted(id: u32, primary: &Address, rows: &[Row]) -> Self {
        let mut secondaries: Vec<Address> = rows
            .iter()
            .filter(|row| row.group == id)
            .map(|row| row.address.real())
            .filter(|address| address != primary)
            .collect();
        secondaries.sort();
        secondaries.dedup();
        Self {
            id,
            primary: primary.clone(),
            secondaries,
        }
    }

    /// Whether these are the group's rows.
    #[must_use]
    pub fn is_kept_by(&self, rows: &[Row]) -> bool {
        self.changes(rows).is_empty()
    }

    /// The changes that make the group's rows what they should be, in an order in which no two rows have one address.
    #[must_use]
    pub fn changes(&self, rows: &[Row]) -> Vec<Change> {
        let own: Vec<&Row> = rows.iter().filter(|row| row.group == self.id).collect();
        let mut changes = Vec::new();
        let mut secondaries: Vec<Row> = own
            .iter()
            .filter(|row| !row.is_primary)
            .map(|row| (*row).clone())
            .collect();
        match own.iter().find(|row| row.is_primary) {
            Some(primary) if primary.address == self.primary => {}
            Some(primary) => changes.extend(self.move_primary(primary, &mut secondaries)),
            None => {
                let is_taken = |row: &Row| row.address == self.primary;
                if let Some(at) = secondaries.iter().position(is_taken) {
                    changes.push(Change::Remove(secondaries.remove(at).address));
                }
                changes.push(Change::Add {
                    group: self.id,
                    address: self.primary.clone(),
                    is_primary: true,
                });
            }
        }
        changes.extend(self.settle(secondaries));
        changes
    }

    /// The primary's row gets another address, which may be that of a secondary's row. `secondaries` as it is then.
    fn move_primary(&self, primary: &Row, secondaries: &mut Vec<Row>) -> Vec<Change> {
        let update = |id: i32, address: &Address| Change::Update {
            id,
            address: address.clone(),
        };
        let mut changes = Vec::new();
        if let Some(at) = secondaries.iter().position(|row| row.address == self.primary) {
            let former = primary.address.real();
            if self.secondaries.contains(&former) && !secondaries.iter().any(|row| row.address == former) {
                // They change places.
                if primary.address == former {
                    changes.push(update(primary.id, &former.demoted()));
                }
                changes.push(update(secondaries[at].id, &former));
                secondaries[at].address = former;
            } else {
                changes.push(Change::Remove(secondaries.remove(at).address));
            }
        }
        changes.push(update(primary.id, &self.primary));
        changes
    }

    /// Rows of secondaries that are none any more are used for others, or removed.
    fn settle(&self, secondaries: Vec<Row>) -> Vec<Change> {
        let (kept, mut free): (Vec<Row>, Vec<Row>) = secondaries
            .into_iter()
            .partition(|row| self.secondaries.contains(&row.address));
        let is_missing = |address: &&Address| !kept.iter().any(|row| row.address == **address);
        let missing: Vec<&Address> = self.secondaries.iter().filter(is_missing).collect();
        let mut changes = Vec::new();
        for address in missing {
            let address = address.clone();
            changes.push(match free.pop() {
                Some(row) => Change::Update { id: row.id, address },
                None => Change::Add {
                    group: self.id,
                    address,
                    is_primary: false,
                },
            });
        }
        changes.extend(free.into_iter().map(|row| Change::Remove(row.address)));
        changes
    }
}

/// What makes the writes to a group wait, because its primary is about to stop; nothing when that is so already.
#[must_use]
pub fn before_demote(group: u32, rows: &[Row]) -> Option<Change> {
    let row = rows.iter().find(|row| row.group == group && row.is_primary)?;
    let address = row.address.demoted();
    (row.address != address).then_some(Change::Update { id: row.id, address })
}

/// A slot that Citus itself uses while it moves or splits shards: `citus_shard_move_slot_1_2`, `citus_shard_split_slot_1_2_3`.
#[must_use]
pub fn is_shard_slot(name: &str) -> bool {
    let numbers = ["citus_shard_move_slot_", "citus_shard_split_slot_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    let is_number = |text: &str| {
        !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    numbers.is_some_and(|numbers| {
        let parts: Vec<&str> = numbers.split('_').collect();
        matches!(parts.len(), 2 | 3) && parts.into_iter().all(is_number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Address {
        Address {
            host: host.to_owned(),
            port: 5432,
        }
    }

    fn rows(rows: &[(i32, &str, bool)]) -> Vec<Row> {
        let row = |(id, host, is_primary): &(i32, &str, bool)| Row {
            id: *id,
            group: 1,
            address: at(host),
            is_primary: *is_primary,
        };
        rows.iter().map(row).collect()
    }

    fn group(primary: &str, secondaries: &[&str]) -> Group {
        Group {
            id: 1,
            primary: at(primary),
            secondaries: secondaries.iter().map(|host| at(host)).collect(),
        }
    }

    /// Carries changes out as Citus would: an address that another row has is an error.
    fn carry_out(mut rows: Vec<Row>, changes: &[Change]) -> Vec<Row> {
        for change in changes {
            let is_taken = |rows: &[Row], address: &Address| rows.iter().any(|row| row.address == *address);
            match change {
                Change::Update { id, address } => {
                    assert!(!is_taken(&rows, address), "{address:?} is taken in {changes:?}");
                    rows.iter_mut().find(|row| row.id == *id).unwrap().address = address.clone();
                }
                Change::Add {
                    group,
                    address,
                    is_primary,
                } => {
                    assert!(!is_taken(&rows, address), "{address:?} is taken in {changes:?}");
                    rows.push(Row {
                        id: 100 + i32::try_from(rows.len()).unwrap(),
                        group: *group,
                        address: address.clone(),
                        is_primary: *is_primary,
                    });
                }
                Change::Remove(address) => {
                    assert!(is_taken(&rows, address), "{changes:?}");
                    rows.retain(|row| row.address != *address);
                }
            }
        }
        rows
    }

    #[test]
    fn every_state_becomes_every_other_by_changes_that_citus_accepts() {
        let hosts = ["a", "b", "c"];
        let mut states = Vec::new();
        for primary in hosts {
            for mask in 0..8 {
                let secondaries: Vec<&str> = (0..3)
                    .filter(|bit| mask & (1 << bit) != 0)
                    .map(|bit| hosts[bit])
                    .filter(|host| *host != primary)
                    .collect();
                states.push((primary, secondaries));
            }
        }
        for (primary, secondaries) in &states {
            for demoted in [false, true] {
                let host = if demoted {
                    format!("{primary}-demoted")
                } else {
                    (*primary).to_owned()
                };
                let mut before = rows(&[(1, &host, true)]);
                for (number, host) in secondaries.iter().enumerate() {
                    before.extend(rows(&[(2 + i32::try_from(number).unwrap(), host, false)]));
                }
                for (primary, secondaries) in &states {
                    let wanted = group(primary, secondaries);
                    let after = carry_out(before.clone(), &wanted.changes(&before));
                    assert!(wanted.is_kept_by(&after), "{before:?} {wanted:?}");
                    let row = after.iter().find(|row| row.is_primary).unwrap();
                    assert_eq!(
                        (row.id, &row.address),
                        (1, &at(primary)),
                        "the group keeps its primary's row"
                    );
                    let rest: Vec<&str> = after
                        .iter()
                        .filter(|row| !row.is_primary)
                        .map(|row| row.address.host.as_str())
                        .collect();
                    assert_eq!(rest.len(), wanted.secondaries.len());
                }
            }
        }
    }

    #[test]
    fn a_new_group_is_added_and_members_change_places() {
        let added = |host: &str, is_primary| Change::Add {
            group: 1,
            address: at(host),
            is_primary,
        };
        assert_eq!(
            group("a", &["b"]).changes(&[]),
            [added("a", true), added("b", false)]
        );
        let moved = |id, host: &str| Change::Update {
            id,
            address: at(host),
        };
        let before = rows(&[(4, "a", true), (5, "b", false)]);
        assert_eq!(
            group("b", &["a"]).changes(&before),
            [moved(4, "a-demoted"), moved(5, "a"), moved(4, "b")]
        );
        assert_eq!(before_demote(1, &before), Some(moved(4, "a-demoted")));
        let waiting = rows(&[(4, "a-demoted", true), (5, "b", false)]);
        assert_eq!(before_demote(1, &waiting), None);
        assert_eq!(
            group("b", &["a"]).changes(&waiting),
            [moved(5, "a"), moved(4, "b")]
        );
        assert_eq!(group("a", &["b"]).changes(&waiting), [moved(4, "a")]);
        assert_eq!(Group::promoted(1, &at("b"), &waiting), group("b", &["a"]));
        assert_eq!(Group::promoted(1, &at("a"), &waiting), group("a", &["b"]));
        // Another group's rows are not touched.
        let mut foreign = before;
        foreign.iter_mut().for_each(|row| row.group = 2);
        assert_eq!(before_demote(1, &foreign), None);
    }

    #[test]
    fn notices_are_those_of_patroni() {
        let text = r#"{"type":"before_demote","group":1,"leader":"w1","timeout":30.0,"cooldown":10000.0}"#;
        let notice: Notice = serde_json::from_str(text).unwrap();
        assert_eq!(notice.moment, Moment::BeforeDemote);
        assert_eq!(serde_json::to_string(&notice).unwrap(), text);
        let whole: Notice = serde_json::from_str(
            r#"{"type":"after_promote","group":2,"leader":"x","timeout":30,"cooldown":10000}"#,
        )
        .unwrap();
        assert!((whole.timeout - 30.0).abs() < f64::EPSILON);
    }

    #[test]
    fn addresses_and_slots() {
        for (url, expected) in [
            ("postgres://10.0.0.1:5433/postgres", Some(("10.0.0.1", 5433))),
            ("postgres://u:p@db1/x", Some(("db1", 5432))),
            ("postgres://[fe80::1]:5432/x", Some(("fe80::1", 5432))),
            ("nonsense", None),
        ] {
            let address = Address::of_conn_url(url);
            assert_eq!(
                address
                    .as_ref()
                    .map(|address| (address.host.as_str(), address.port)),
                expected,
                "{url}"
            );
        }
        for (name, is_one) in [
            ("citus_shard_move_slot_1_2", true),
            ("citus_shard_split_slot_10_2_3", true),
            ("citus_shard_move_slot_1", false),
            ("citus_shard_move_slot_1_02", false),
            ("citus_shard_move_slot_1_2_3_4", false),
            ("mine_citus_shard_move_slot_1_2", false),
        ] {
            assert_eq!(is_shard_slot(name), is_one, "{name}");
        }
    }
}
