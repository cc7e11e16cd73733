//! What the operator wants: Patroni's configuration files, read, checked and merged.
//!
//! The way of a configuration: `yaml` and `env` give a [`Value`] tree whose nodes know their position; `layers` puts
//! file and environment together (the *local* side) and the document of the DCS's `/config` key (the *dynamic* side)
//! under it; [`LocalConfig`], [`DynamicConfig`] and [`PostgresqlSettings`] are the typed views that the rest of the
//! program reads. Nothing here touches a file, the network or the clock: the caller passes texts and maps.

pub mod bounds;
mod commands;
mod controlled;
mod dynamic;
mod endpoint;
pub mod env;
pub mod escape;
pub mod layers;
mod local;
mod local_dcs;
mod number;
mod postgresql;
mod problem;
mod read;
mod secret;
pub mod settings;
mod tags;
mod validate;
mod value;
pub mod yaml;

pub use dynamic::{
    DynamicConfig, Minimums, SlotConfig, SlotKind, SlotMatcher, StandbyCluster, SynchronousMode,
};
pub use endpoint::{AddressError, HostPort, ListenAddress};
pub use local::{
    Authentication, BasicAuth, BinNames, BootstrapConfig, BootstrapMethod, CitusConfig, ClientConfig,
    CtlConfig, GuardConfig, GuardMode, LocalConfig, LocalPostgresql, LogConfig, LogType, RestApiConfig, Role,
    ServerTokens, VerifyClient, WatchdogConfig, WatchdogMode,
};
pub use local_dcs::{
    Consistency, ConsulConfig, DcsConfig, DcsKind, EtcdConfig, EtcdEndpoints, ExhibitorConfig,
    KubernetesConfig, KubernetesPort, ZookeeperAcl, ZookeeperConfig, consul_service_name,
};
pub use number::{parse_bool, parse_int, parse_major_version, parse_real, parse_server_version};
pub use postgresql::{Callbacks, ParameterRole, PostgresqlSettings, ReplicaMethod, StandbyDefaults};
pub use problem::{Problem, Problems, Severity};
pub use secret::{HIDDEN, Secret, shown_parameter};
pub use tags::Tags;
pub use validate::{validate, validate_strictly};
pub use value::{Entry, Kind, Map, Position, Value};
