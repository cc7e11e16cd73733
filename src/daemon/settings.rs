//! The settings in force: the node's own configuration and the cluster's, and what follows from both.

use std::path::Path;
use std::sync::Arc;

use config::{
    BootstrapMethod, DynamicConfig, HostPort, LocalConfig, Minimums, ParameterRole, PostgresqlSettings,
    Problem, Problems, ReplicaMethod, Severity,
};
use ha::cluster::{Cluster, Tags};
use ha::facts::Node;
use ha::pg::{MemberName, Role, SlotName};

/// The settings in force.
pub(crate) struct Settings {
    pub(crate) local: Arc<LocalConfig>,
    pub(crate) config: Arc<DynamicConfig>,
    pub(crate) node: Arc<Node>,
    /// The server program's version as in `server_version_num`; `None` while it could not be asked.
    server_version: Option<u32>,
    role: Option<ParameterRole>,
    members: FromMembers,
}

/// What of the parameters follows from the members as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FromMembers {
    /// `hot_standby_feedback` is on whatever the configuration says, while this is no primary.
    forces_feedback: bool,
    /// `synchronized_standby_slots`, where it is not the user's own.
    synchronized_standby_slots: Option<String>,
}

impl FromMembers {
    fn of(node: &Node, config: &DynamicConfig, cluster: &Cluster) -> Self {
        let slots = ha::synchronized_standby_slots(node, config, cluster);
        let names = |slots: Vec<SlotName>| {
            slots
                .into_iter()
                .map(|slot| slot.0)
                .collect::<Vec<_>>()
                .join(", ")
        };
        Self {
            forces_feedback: ha::forces_hot_standby_feedback(node, config, cluster),
            synchronized_standby_slots: slots.map(names),
        }
    }
}

impl Settings {
    /// The settings that follow from both sides.
    ///
    /// # Errors
    /// The two do not go together: everything that is wrong.
    pub(crate) fn new(
        local: Arc<LocalConfig>,
        config: Arc<DynamicConfig>,
        server_version: Option<u32>,
        role: Role,
        cluster: &Cluster,
    ) -> Result<(Self, PostgresqlSettings), Problems> {
        let role = parameter_role(role);
        let (mut postgresql, warnings) =
            PostgresqlSettings::new(&local, &config, server_version.map(major), role)?;
        log_problems(&warnings);
        let node = Arc::new(node(&local, &config, &postgresql, server_version));
        let members = FromMembers::of(&node, &config, cluster);
        let settings = Self {
            local,
            config,
            node,
            server_version,
            role,
            members,
        };
        settings.force(&mut postgresql);
        Ok((settings, postgresql))
    }

    /// The same with another part replaced.
    ///
    /// # Errors
    /// As [`Settings::new`], or the dynamic configuration is none; the settings in force stay as they are.
    pub(crate) fn replaced(&self, change: Change) -> Result<(Self, PostgresqlSettings), Problems> {
        let (mut local, mut config) = (Arc::clone(&self.local), Arc::clone(&self.config));
        let (mut version, mut role) = (self.server_version, self.role);
        let mut members = self.members.clone();
        match change {
            Change::Local(new) => local = new,
            Change::Dynamic(new) => {
                config::layers::check_document(&new.document).map_err(|problem| {
                    let message = format!("the key config in the DCS cannot be used: {problem}");
                    Problem::error("", None, message)
                })?;
                config = new;
            }
            Change::Role(new) => role = parameter_role(new),
            Change::ServerVersion(new) => version = Some(new),
            Change::Members(new) => members = new,
        }
        let (mut postgresql, warnings) = PostgresqlSettings::new(&local, &config, version.map(major), role)?;
        log_problems(&warnings);
        let node = Arc::new(node(&local, &config, &postgresql, version));
        let settings = Self {
            local,
            config,
            node,
            server_version: version,
            role,
            members,
        };
        settings.force(&mut postgresql);
        Ok((settings, postgresql))
    }

    fn force(&self, postgresql: &mut PostgresqlSettings) {
        let parameters = &mut postgresql.parameters;
        if self.members.forces_feedback && self.role != Some(ParameterRole::Primary) {
            parameters.insert("hot_standby_feedback".to_owned(), "on".to_owned());
        }
        if let Some(slots) = &self.members.synchronized_standby_slots {
            parameters.insert("synchronized_standby_slots".to_owned(), slots.clone());
        }
    }

    /// Whether settings made for this cluster, with its members as they are, would be others: what has changed.
    pub(crate) fn change_for(&self, cluster: &Cluster) -> Option<Change> {
        let members = FromMembers::of(&self.node, &self.config, cluster);
        (members != self.members).then_some(Change::Members(members))
    }

    /// Whether settings made for this role would be others.
    pub(crate) fn is_for(&self, role: Role) -> bool {
        self.role == parameter_role(role)
    }

    /// Whether settings made for a server of this version would be others.
    pub(crate) fn is_of_version(&self, server_version: u32) -> bool {
        self.server_version == Some(server_version)
    }
}

/// A part of the settings that has changed.
pub(crate) enum Change {
    Local(Arc<LocalConfig>),
    Dynamic(Arc<DynamicConfig>),
    Role(Role),
    ServerVersion(u32),
    Members(FromMembers),
}

fn major(server_version: u32) -> u32 {
    server_version / 10_000 * 10_000
}

fn parameter_role(role: Role) -> Option<ParameterRole> {
    match role {
        Role::Primary | Role::Promoted => Some(ParameterRole::Primary),
        Role::Replica | Role::Demoted => Some(ParameterRole::Replica),
        Role::StandbyLeader => Some(ParameterRole::StandbyLeader),
        Role::Uninitialized => None,
    }
}

/// The shortest timers that all members of a cluster permit.
pub(crate) fn minimums(cluster: &Cluster) -> Minimums {
    if cluster.members.iter().all(|member| member.data.is_of_tamada()) {
        Minimums::TAMADA
    } else {
        Minimums::PATRONI
    }
}

/// Reads the document of the `/config` key, and tells of what in it cannot be used.
///
/// The document itself may be refused by [`config::layers::check_document`]: where there is none before it, what can be used of it is.
pub(crate) fn read_dynamic(document: &serde_json::Value, minimums: Minimums) -> DynamicConfig {
    let (config, problems) = DynamicConfig::read(document, minimums);
    log_problems(&problems);
    config
}

/// Tells of the findings about a configuration.
pub(crate) fn log_problems(problems: &Problems) {
    for problem in &problems.0 {
        match problem.severity {
            Severity::Warning => tracing::warn!("{problem}"),
            Severity::Error => tracing::error!("{problem}"),
        }
    }
}

/// What this member publishes of itself, and what its decisions depend on.
fn node(
    local: &LocalConfig,
    config: &DynamicConfig,
    postgresql: &PostgresqlSettings,
    server_version: Option<u32>,
) -> Node {
    let url = |address: &HostPort| format!("postgres://{address}/{}", local.postgresql.database);
    let scheme = if local.restapi.certfile.is_some() {
        "https"
    } else {
        "http"
    };
    let is_without_leader =
        |method: &ReplicaMethod| matches!(method, ReplicaMethod::Custom { no_leader: true, .. });
    Node {
        name: MemberName(local.name.clone()),
        scope: local.scope.clone(),
        conn_url: url(&connect_address(local)),
        api_url: format!("{scheme}://{}/patroni", local.restapi.connect_address),
        proxy_url: local.postgresql.proxy_address.as_ref().map(url),
        tags: Tags(local.tags.published()),
        version: crate::PATRONI_VERSION.to_owned(),
        may_bootstrap: local.tree.contains_key("bootstrap"),
        has_custom_bootstrap: matches!(local.bootstrap.method, BootstrapMethod::Custom { .. }),
        has_method_without_leader: postgresql.create_replica_methods.iter().any(is_without_leader),
        use_pg_rewind: postgresql.use_pg_rewind && has_program(local, "pg_rewind"),
        use_slots: postgresql.use_slots,
        remove_data_directory_on_rewind_failure: postgresql.remove_data_directory_on_rewind_failure,
        remove_data_directory_on_diverged_timelines: postgresql.remove_data_directory_on_diverged_timelines,
        config_json: config.adjusted_document().to_string(),
        citus_group: local.citus.as_ref().map(|citus| citus.group),
        server_version: server_version.unwrap_or_default(),
    }
}

/// Where other members reach this server: as written, else where it listens itself.
pub(crate) fn connect_address(local: &LocalConfig) -> HostPort {
    let listen = &local.postgresql.listen;
    let is_everywhere = |host: &str| matches!(host, "" | "*" | "0.0.0.0" | "::");
    local
        .postgresql
        .connect_address
        .clone()
        .unwrap_or_else(|| HostPort {
            host: match listen.hosts.first() {
                Some(host) if !is_everywhere(host) => host.clone(),
                Some(_) | None => "localhost".to_owned(),
            },
            port: listen.port,
        })
}

/// Whether one of PostgreSQL's programs is there.
pub(crate) fn has_program(local: &LocalConfig, program: &str) -> bool {
    let name = local.postgresql.bin_name.file_name(program);
    let is_in = |dir: &Path| dir.join(name).is_file();
    if local.postgresql.bin_dir.as_os_str().is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| is_in(&dir))
    } else {
        is_in(&local.postgresql.bin_dir)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "{name: a, scope: s, etcd3: {host: '127.0.0.1:2379'}, restapi: {listen: '127.0.0.1:1',
        connect_address: '127.0.0.1:1'}, postgresql: {listen: '127.0.0.1:2', data_dir: /nowhere, authentication: {
        superuser: {username: s, password: s}, replication: {username: r, password: r}}}}";

    fn dynamic(document: &serde_json::Value) -> Arc<DynamicConfig> {
        Arc::new(DynamicConfig::read(document, Minimums::TAMADA).0)
    }

    /// At a start it is used as far as it can be; later the former one stays.
    #[test]
    fn a_document_that_cannot_be_used_ends_nothing() {
        let tree = config::yaml::parse("test.yml", FILE).unwrap();
        let local = Arc::new(LocalConfig::read(tree.as_map().cloned().unwrap()).unwrap().0);
        let start = |document: &serde_json::Value| {
            let (local, cluster) = (Arc::clone(&local), Cluster::default());
            Settings::new(local, dynamic(document), Some(150_000), Role::Replica, &cluster).unwrap()
        };
        let good =
            json!({"ttl": 20, "postgresql": {"use_pg_rewind": true, "parameters": {"work_mem": "4MB"}}});
        let (in_force, _) = start(&good);
        for (document, path) in [
            (json!([1]), "expected a mapping"),
            (json!({"ttl": 40, "postgresql": "x"}), "postgresql: "),
            (
                json!({"ttl": 40, "postgresql": {"parameters": [1]}}),
                "postgresql.parameters: ",
            ),
            (json!({"ttl": 40, "standby_cluster": 1}), "standby_cluster: "),
            (
                json!({"ttl": 40, "x": vec![0; 10_000]}),
                "more than 10000 entries",
            ),
        ] {
            let Err(problems) = in_force.replaced(Change::Dynamic(dynamic(&document))) else {
                panic!("{document}")
            };
            assert!(problems.to_string().contains(path), "{problems}");
            let (_, postgresql) = start(&document);
            assert_eq!(
                postgresql.parameters.get("max_connections").map(String::as_str),
                Some("100")
            );
        }
        assert_eq!(in_force.config.ttl.as_secs(), 20);
        // Beside it other parts of the settings still change.
        let (other, _) = in_force.replaced(Change::Role(Role::Primary)).unwrap();
        assert_eq!(other.config.ttl.as_secs(), 20);
        let better =
            dynamic(&json!({"ttl": 40, "slots": [1], "postgresql": {"parameters": {"work_mem": [1]}}}));
        assert_eq!(
            in_force
                .replaced(Change::Dynamic(better))
                .unwrap()
                .0
                .config
                .ttl
                .as_secs(),
            40
        );
    }
}
