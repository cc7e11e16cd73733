//! `LocalConfig`: the typed view of the node's own configuration, file and environment together.

mod names;
mod old_forms;
mod read;

pub(crate) use read::citus;

use crate::endpoint::{HostPort, ListenAddress};
use crate::local_dcs::DcsConfig;
use crate::secret::Secret;
use crate::tags::Tags;
use crate::value::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the node's file and its environment say. Settings of `postgresql` that the dynamic configuration may hold too
/// are not here: [`crate::PostgresqlSettings`] has them.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalConfig {
    /// The member's name.
    pub name: String,
    /// The cluster's name.
    pub scope: String,
    /// First part of the DCS path; default `service`.
    pub namespace: String,
    /// `thread_pool_size`: worker threads; at least 5.
    pub thread_pool_size: u32,
    /// `log`
    pub log: LogConfig,
    /// `restapi`
    pub restapi: RestApiConfig,
    /// `ctl`: also the daemon's settings as a client of the other members' REST API.
    pub ctl: CtlConfig,
    /// `watchdog`
    pub watchdog: WatchdogConfig,
    /// `guard`
    pub guard: GuardConfig,
    /// `local_commands_only`: the dynamic configuration names no commands, libraries and files.
    pub local_commands_only: bool,
    /// `tags`
    pub tags: Tags,
    /// `citus`, when both its settings are valid.
    pub citus: Option<CitusConfig>,
    /// `bootstrap`
    pub bootstrap: BootstrapConfig,
    /// `postgresql`: what only the local side may say.
    pub postgresql: LocalPostgresql,
    /// The DCS section.
    pub dcs: DcsConfig,
    /// The tree itself, which [`crate::PostgresqlSettings`] reads on.
    pub tree: Map,
}

/// What the command-line client needs: nothing of it has to be there.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConfig {
    /// The cluster's name, if it is written.
    pub scope: Option<String>,
    /// First part of the DCS path; default `service`.
    pub namespace: String,
    /// `ctl`
    pub ctl: CtlConfig,
    /// `citus`, when both its settings are valid.
    pub citus: Option<CitusConfig>,
    /// The DCS section, if there is one.
    pub dcs: Option<DcsConfig>,
}

/// `log`
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `type`
    pub kind: LogType,
    /// `level`, a Python level name in capitals; default `INFO`.
    pub level: String,
    /// `traceback_level`; default `ERROR`.
    pub traceback_level: String,
    /// `format`: a Python record format, or the list of fields of JSON lines.
    pub format: Value,
    /// `dateformat`: a strftime format; `None` = `2026-01-02 03:04:05,678`.
    pub dateformat: Option<String>,
    /// `static_fields` of JSON lines.
    pub static_fields: Map,
    /// `max_queue_size`: records; default 1000.
    pub max_queue_size: u32,
    /// `dir`: write `<dir>/patroni.log` instead of standard error.
    pub dir: Option<PathBuf>,
    /// `mode` of the log file.
    pub mode: Option<u32>,
    /// `file_size` at which the file is rotated, in bytes; default 25000000.
    pub file_size_bytes: u64,
    /// `file_num`: rotated files kept; default 4.
    pub file_num: u32,
    /// `loggers`: level by logger name.
    pub loggers: BTreeMap<String, String>,
    /// `deduplicate_heartbeat_logs`
    pub deduplicate_heartbeat_logs: bool,
}

/// `log.type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogType {
    /// Lines in the record format.
    Plain,
    /// One JSON object per line.
    Json,
}

/// User name and password of HTTP basic authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// `restapi`
#[derive(Clone, Debug, PartialEq)]
pub struct RestApiConfig {
    /// `listen`
    pub listen: ListenAddress,
    /// `connect_address`; default: the first listen address.
    pub connect_address: HostPort,
    /// `authentication`: asked for on unsafe calls.
    pub authentication: Option<BasicAuth>,
    /// `certfile`: turns HTTPS on.
    pub certfile: Option<PathBuf>,
    /// `keyfile`; may be inside `certfile`.
    pub keyfile: Option<PathBuf>,
    /// `keyfile_password`
    pub keyfile_password: Option<Secret>,
    /// `cafile`
    pub cafile: Option<PathBuf>,
    /// `ciphers`: OpenSSL names.
    pub ciphers: Option<String>,
    /// `verify_client`
    pub verify_client: VerifyClient,
    /// `allowlist`: addresses, networks and host names that may make unsafe calls; empty = all.
    pub allowlist: Vec<String>,
    /// `allowlist_include_members`
    pub allowlist_include_members: bool,
    /// `http_extra_headers`
    pub http_extra_headers: Vec<(String, String)>,
    /// `https_extra_headers`: only with TLS.
    pub https_extra_headers: Vec<(String, String)>,
    /// `request_queue_size`: listen backlog; default 5.
    pub request_queue_size: u32,
    /// `thread_pool_size`: at least 5.
    pub thread_pool_size: u32,
    /// `server_tokens`
    pub server_tokens: ServerTokens,
}

/// `restapi.verify_client`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyClient {
    /// No client certificate is asked for.
    None,
    /// Unsafe calls need one.
    Optional,
    /// All calls need one.
    Required,
}

/// `restapi.server_tokens`: what the `Server` header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTokens {
    /// The default header.
    Original,
    /// Name and version.
    Minimal,
    /// The name only.
    ProductOnly,
}

/// `ctl`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CtlConfig {
    /// `authentication`; falls back to `restapi.authentication`.
    pub authentication: Option<BasicAuth>,
    /// `insecure`: do not verify the server's certificate.
    pub insecure: bool,
    /// `cacert`; falls back to `restapi.cafile`.
    pub cacert: Option<PathBuf>,
    /// `certfile`: client certificate.
    pub certfile: Option<PathBuf>,
    /// `keyfile`; may be inside `certfile`.
    pub keyfile: Option<PathBuf>,
    /// `keyfile_password`
    pub keyfile_password: Option<Secret>,
}

/// `watchdog`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogConfig {
    /// `mode`; default automatic.
    pub mode: WatchdogMode,
    /// `device`; default `/dev/watchdog`.
    pub device: PathBuf,
    /// `safety_margin` in seconds, default 5; `None` (written -1) = the watchdog's timeout is half the ttl.
    pub safety_margin_seconds: Option<u32>,
    /// `driver`; default `default`; `testing` writes plain lines to the device.
    pub driver: String,
}

/// `watchdog.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogMode {
    /// Not used.
    Off,
    /// Used where there is one.
    Automatic,
    /// Without one this member may not become primary.
    Required,
}

/// `guard`: the small process that stops a primary whose lease has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// `mode`; default on.
    pub mode: GuardMode,
}

/// `guard.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// PostgreSQL runs on without its agent, as with Patroni.
    Off,
    /// A guard is the parent of every postmaster that this agent starts.
    On,
    /// As on, and without a guard this member may not be primary.
    Required,
}

/// `citus`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CitusConfig {
    /// `group`: 0 is the coordinator.
    pub group: u32,
    /// `database`
    pub database: String,
}

/// `bootstrap`: read by the node that initialises the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct BootstrapConfig {
    /// `dcs`: becomes the dynamic configuration.
    pub dcs: serde_json::Value,
    /// How the data directory is made.
    pub method: BootstrapMethod,
    /// `initdb`: command-line options in their order, as `(name, value)`: `("data-checksums", None)`.
    pub initdb: Vec<(String, Option<String>)>,
    /// `post_bootstrap` (or `post_init`): a command line.
    pub post_bootstrap: Option<String>,
    /// `pg_hba`: lines added to pg_hba.conf after initdb.
    pub pg_hba: Vec<String>,
}

/// `bootstrap.method`
#[derive(Clone, Debug, PartialEq)]
pub enum BootstrapMethod {
    /// initdb
    Initdb,
    /// A script.
    Custom {
        /// The method's name.
        name: String,
        /// `command`
        command: String,
        /// `no_params`: scope and datadir are not passed.
        no_params: bool,
        /// `keep_existing_recovery_conf`
        keep_existing_recovery_conf: bool,
        /// `recovery_conf`, in the order of the file.
        recovery_conf: Option<Vec<(String, String)>>,
        /// All other settings, passed as `--key=value` in the order of the file.
        options: Vec<(String, String)>,
    },
}

/// `postgresql`: what only the local side may say.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalPostgresql {
    /// `listen`
    pub listen: ListenAddress,
    /// `connect_address`, if written; the default is the local TCP address with the port of `listen`.
    pub connect_address: Option<HostPort>,
    /// `proxy_address`: published as `proxy_url`.
    pub proxy_address: Option<HostPort>,
    /// `data_dir`
    pub data_dir: PathBuf,
    /// `config_dir`; default: the data directory.
    pub config_dir: PathBuf,
    /// `config_base_name`; default `postgresql`.
    pub config_base_name: String,
    /// `bin_dir`; empty = search PATH.
    pub bin_dir: PathBuf,
    /// `bin_name`
    pub bin_name: BinNames,
    /// `database`; default `postgres`.
    pub database: String,
    /// `pgpass`; default `$HOME/pgpass`, which only the program can know.
    pub pgpass: Option<PathBuf>,
    /// `authentication`
    pub authentication: Authentication,
}

/// `postgresql.bin_name`: names of programs where they differ from the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinNames(pub BTreeMap<String, String>);

impl BinNames {
    /// The file name of `program` (`pg_ctl`, `postgres`, ...).
    #[must_use]
    pub fn file_name<'a>(&'a self, program: &'a str) -> &'a str {
        self.0.get(program).map_or(program, String::as_str)
    }
}

/// `postgresql.authentication`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// `superuser`
    pub superuser: Role,
    /// `replication`
    pub replication: Role,
    /// `rewind`, if written; default: the superuser.
    pub rewind: Option<Role>,
}

/// One role that the program connects as. Empty texts count as not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// `username`
    pub username: Option<String>,
    /// `password`
    pub password: Option<Secret>,
    /// `sslpassword`
    pub sslpassword: Option<Secret>,
    /// The other libpq options, by libpq's name: `sslmode sslcert sslkey sslrootcert sslcrl sslcrldir gssencmode
    /// channel_binding sslnegotiation tcp_user_timeout keepalives keepalives_idle keepalives_interval
    /// keepalives_count`.
    pub options: BTreeMap<String, String>,
}
