//! `PostgresqlSettings`: what the running server shall have, local and dynamic side together, for one PostgreSQL
//! version and one role.

mod read;
mod standby;

use crate::local::LocalPostgresql;
use crate::value::Map;
pub use standby::StandbyDefaults;
use std::collections::BTreeMap;

/// Which `parameters_<role>`, `pg_hba_<role>` and `pg_ident_<role>` are laid over the common ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParameterRole {
    /// A primary, or a replica being promoted.
    Primary,
    /// A replica, or a demoted primary.
    Replica,
    /// The leader of a standby cluster.
    StandbyLeader,
}

/// The effective PostgreSQL settings.
#[derive(Clone, Debug, PartialEq)]
pub struct PostgresqlSettings {
    /// What only the local side may say.
    pub local: LocalPostgresql,
    /// The major version for which these are, as PostgreSQL's version number (150000); `None` = not known yet.
    pub major_version: Option<u32>,
    /// All parameters that go into postgresql.conf, controlled ones included, by their lower-case name, in GUC text form
    /// (booleans as `on` and `off`). Recovery parameters that were written here are in `recovery_conf` instead.
    pub parameters: BTreeMap<String, String>,
    /// The controlled parameters for the postmaster's command line, in Patroni's order (without `wal_keep_size`).
    pub controlled: Vec<(String, String)>,
    /// `synchronous_standby_names` is the HA cycle's, and the user's value not in `parameters`.
    pub manages_synchronous_standby_names: bool,
    /// `pg_hba`: lines; `None` = the file is not ours.
    pub pg_hba: Option<Vec<String>>,
    /// `pg_ident`: lines; `None` = the file is not ours.
    pub pg_ident: Option<Vec<String>>,
    /// `recovery_conf`: additional recovery parameters, by lower-case name.
    pub recovery_conf: BTreeMap<String, String>,
    /// What a standby gets unless somebody has set it; follows from `ttl`.
    pub standby_defaults: StandbyDefaults,
    /// `custom_conf`: included instead of `<base>.base.conf`.
    pub custom_conf: Option<String>,
    /// `krbsrvname`
    pub krbsrvname: Option<String>,
    /// `use_unix_socket`
    pub use_unix_socket: bool,
    /// `use_unix_socket_repl`
    pub use_unix_socket_repl: bool,
    /// `use_slots`: dynamic side only; default true.
    pub use_slots: bool,
    /// `use_pg_rewind`
    pub use_pg_rewind: bool,
    /// `remove_data_directory_on_rewind_failure`
    pub remove_data_directory_on_rewind_failure: bool,
    /// `remove_data_directory_on_diverged_timelines`
    pub remove_data_directory_on_diverged_timelines: bool,
    /// `rewind`: additional options of pg_rewind, as `(name, value)`.
    pub rewind: Vec<(String, Option<String>)>,
    /// `pg_ctl_timeout`; default 60 s.
    pub pg_ctl_timeout: std::time::Duration,
    /// `callbacks`
    pub callbacks: Callbacks,
    /// `create_replica_methods` with each method's section; default: basebackup alone.
    pub create_replica_methods: Vec<ReplicaMethod>,
    /// All method sections of `postgresql`, for the methods that `standby_cluster.create_replica_methods` names.
    pub method_sections: Map,
    /// `pre_promote`: a command line.
    pub pre_promote: Option<String>,
    /// `before_stop`: a command line.
    pub before_stop: Option<String>,
}

/// `postgresql.callbacks`: command lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// `on_reload`
    pub on_reload: Option<String>,
    /// `on_restart`
    pub on_restart: Option<String>,
    /// `on_role_change`
    pub on_role_change: Option<String>,
    /// `on_start`
    pub on_start: Option<String>,
    /// `on_stop`
    pub on_stop: Option<String>,
}

/// One way to make a replica.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaMethod {
    /// pg_basebackup
    Basebackup {
        /// Options in their order, as `(name, value)`; those that the program gives itself are left out.
        options: Vec<(String, Option<String>)>,
    },
    /// A script.
    Custom {
        /// The method's name.
        name: String,
        /// `command`; default: the name.
        command: String,
        /// `no_params`: scope, role, datadir and connstring are not passed.
        no_params: bool,
        /// `no_leader`: works without a running source.
        no_leader: bool,
        /// `keep_data`: the data directory is not wiped before.
        keep_data: bool,
        /// The arguments from the section in its order, `--key=value` each.
        options: Vec<(String, String)>,
    },
}
