//! What the DCS holds about one cluster, or about every group of a Citus cluster.

use std::collections::BTreeMap;

use config::{DynamicConfig, Minimums};
use ha::cluster::{Cluster, Member};
use ha::pg::Role;

use super::remarks::Remark;

/// What one read of the DCS yields.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The clusters by Citus group; one alone, as group 0 or the group that was asked for, if there is nothing to
    /// tell apart.
    pub(crate) groups: BTreeMap<u32, Cluster>,
    /// Whether it is a Citus cluster.
    pub(crate) is_citus: bool,
    /// The group that was asked for.
    pub(crate) group: Option<u32>,
    /// What members have said beside their keys.
    pub(crate) remarks: Vec<Remark>,
}

/// Which members `--role` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoleFilter {
    /// Who holds the leader key.
    Leader,
    /// Who holds the leader key, unless it says it is a standby leader.
    Primary,
    /// Who holds the leader key, unless it says it is a primary.
    StandbyLeader,
    /// Everybody but the leader.
    Replica,
    /// The same, by its other name.
    Standby,
    /// Everybody.
    Any,
}

impl RoleFilter {
    /// Reads the value of `--role`.
    pub(crate) fn parse(word: &str) -> Result<Self, String> {
        match word {
            "leader" => Ok(Self::Leader),
            "primary" => Ok(Self::Primary),
            "standby-leader" => Ok(Self::StandbyLeader),
            "replica" => Ok(Self::Replica),
            "standby" => Ok(Self::Standby),
            "any" => Ok(Self::Any),
            other => Err(format!(
                "'{other}' is not one of 'leader', 'primary', 'standby-leader', 'replica', 'standby', 'any'."
            )),
        }
    }

    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Primary => "primary",
            Self::StandbyLeader => "standby-leader",
            Self::Replica => "replica",
            Self::Standby => "standby",
            Self::Any => "any",
        }
    }
}

impl View {
    /// The view of one ordinary cluster.
    #[cfg(test)]
    pub(crate) fn of(cluster: Cluster) -> Self {
        Self {
            groups: BTreeMap::from([(0, cluster)]),
            is_citus: false,
            group: None,
            remarks: Vec::new(),
        }
    }

    /// The cluster that commands for a single one work with: the group that was asked for, else the coordinator.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.groups.values().next()
    }

    /// Its dynamic configuration.
    pub(crate) fn dynamic_config(&self) -> DynamicConfig {
        dynamic_config(self.cluster())
    }

    /// The members of a role, of all groups; those of one group in the order of their names. A leader without a
    /// member key is no member.
    pub(crate) fn members(&self, role: RoleFilter) -> Vec<&Member> {
        self.groups
            .values()
            .flat_map(|cluster| members_of(cluster, role))
            .collect()
    }

    /// Members with a REST address, the leader first.
    pub(crate) fn leader_first(&self) -> Vec<&Member> {
        let Some(cluster) = self.cluster() else {
            return Vec::new();
        };
        let mut members: Vec<_> = cluster
            .members
            .iter()
            .filter(|member| member.data.api_url.is_some())
            .collect();
        members.sort_by_key(|member| !cluster.is_leader(&member.name));
        members
    }
}

/// The dynamic configuration of a cluster; the defaults when there is none.
pub(crate) fn dynamic_config(cluster: Option<&Cluster>) -> DynamicConfig {
    let document = cluster
        .and_then(|cluster| cluster.config.as_ref())
        .map_or(serde_json::Value::Null, |config| {
            serde_json::Value::Object(config.value.clone())
        });
    DynamicConfig::read(&document, Minimums::TAMADA).0
}

fn members_of(cluster: &Cluster, role: RoleFilter) -> Vec<&Member> {
    let leader_if = |is_meant: fn(Option<Role>) -> bool| -> Vec<&Member> {
        cluster
            .leader_member()
            .filter(|leader| is_meant(leader.data.role))
            .into_iter()
            .collect()
    };
    match role {
        RoleFilter::Leader => leader_if(|_| true),
        RoleFilter::Primary => leader_if(|role| role != Some(Role::StandbyLeader)),
        RoleFilter::StandbyLeader => leader_if(|role| role != Some(Role::Primary)),
        RoleFilter::Replica | RoleFilter::Standby => cluster
            .members
            .iter()
            .filter(|member| !cluster.is_leader(&member.name))
            .collect(),
        RoleFilter::Any => cluster.members.iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use ha::cluster::{Leader, MemberData, Version};

    use super::*;

    fn cluster(leader: Option<&str>, members: &[(&str, &str)]) -> Cluster {
        Cluster {
            leader: leader.map(|name| Leader {
                version: Version(1),
                name: name.into(),
                session: String::new(),
            }),
            members: members
                .iter()
                .map(|(name, role)| Member {
                    version: Version(1),
                    name: (*name).into(),
                    session: String::new(),
                    data: MemberData {
                        role: Role::parse(role),
                        ..MemberData::default()
                    },
                })
                .collect(),
            ..Cluster::default()
        }
    }

    #[test]
    fn a_role_means_these_members() {
        let normal = cluster(Some("a"), &[("a", "primary"), ("b", "replica"), ("c", "replica")]);
        let standby = cluster(Some("a"), &[("a", "standby_leader"), ("b", "replica")]);
        let promoting = cluster(Some("a"), &[("a", "replica"), ("b", "replica")]);
        let leaderless = cluster(None, &[("a", "replica"), ("b", "replica")]);
        for (role, expected) in [
            ("leader", ["a", "a", "a", ""]),
            ("primary", ["a", "", "a", ""]),
            ("standby-leader", ["", "a", "a", ""]),
            ("replica", ["bc", "b", "b", "ab"]),
            ("standby", ["bc", "b", "b", "ab"]),
            ("any", ["abc", "ab", "ab", "ab"]),
        ] {
            let filter = RoleFilter::parse(role).unwrap();
            assert_eq!(filter.as_str(), role);
            let names = [&normal, &standby, &promoting, &leaderless].map(|cluster| {
                View::of(cluster.clone())
                    .members(filter)
                    .iter()
                    .map(|member| member.name.as_str())
                    .collect::<String>()
            });
            assert_eq!(names, expected, "{role}");
        }
    }

    #[test]
    fn an_unknown_role_is_refused_with_the_choices() {
        assert!(RoleFilter::parse("master").is_err_and(|text| text.contains("'standby-leader'")));
    }
}
