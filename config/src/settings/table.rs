//! The rows.

use super::Change::{Bootstrap, Reload, Restart};
use super::Expected::{
    Address, Anything, Bool, Int, Lines, Mapping, Named, Options, Quantity, Scalars, Secret, Section,
    Sections, Text, Texts, Word,
};
use super::{Change, Expected, Setting};

const MAX: i64 = 2_147_483_647;

const fn row(path: &'static str, expected: Expected, default: &'static str, change: Change) -> Setting {
    Setting {
        path,
        expected,
        default,
        change,
        is_own: false,
    }
}

/// A setting that Patroni lacks.
const fn own(path: &'static str, expected: Expected, default: &'static str, change: Change) -> Setting {
    Setting {
        is_own: true,
        ..row(path, expected, default, change)
    }
}

/// What the local configuration may hold. `bootstrap.dcs` has the rows of [`DYNAMIC`].
pub const LOCAL: &[Setting] = &[
    row("name", Text, "", Restart),
    row("scope", Text, "", Restart),
    row("namespace", Text, "service", Restart),
    own("local_commands_only", Bool, "off", Reload),
    row("thread_pool_size", Anything, "5", Restart),
    row("thread_stack_size", Anything, "524288", Restart),
    // log
    row("log.type", Word(&["plain", "json"]), "plain", Reload),
    row("log.level", Text, "INFO", Reload),
    row("log.traceback_level", Text, "ERROR", Reload),
    row(
        "log.format",
        Anything,
        "%(asctime)s %(levelname)s: %(message)s",
        Reload,
    ),
    row("log.dateformat", Text, "", Reload),
    row("log.static_fields", Mapping, "{}", Reload),
    row("log.max_queue_size", Int(1, MAX), "1000", Reload),
    row("log.dir", Text, "", Reload),
    row("log.mode", Int(0, 0o777), "", Reload),
    row("log.file_size", Int(0, i64::MAX), "25000000", Reload),
    row("log.file_num", Int(0, MAX), "4", Reload),
    row("log.loggers", Scalars, "{}", Reload),
    row("log.deduplicate_heartbeat_logs", Bool, "off", Reload),
    // restapi
    row("restapi.listen", Address, "", Reload),
    row("restapi.connect_address", Address, "restapi.listen", Reload),
    row("restapi.authentication.username", Text, "", Reload),
    row("restapi.authentication.password", Secret, "", Reload),
    row("restapi.certfile", Text, "", Reload),
    row("restapi.keyfile", Text, "", Reload),
    row("restapi.keyfile_password", Secret, "", Reload),
    row("restapi.cafile", Text, "", Reload),
    row("restapi.ciphers", Text, "", Reload),
    row(
        "restapi.verify_client",
        Word(&["none", "optional", "required"]),
        "none",
        Reload,
    ),
    row("restapi.allowlist", Texts, "[]", Reload),
    row("restapi.allowlist_include_members", Bool, "off", Reload),
    row("restapi.http_extra_headers", Scalars, "{}", Reload),
    row("restapi.https_extra_headers", Scalars, "{}", Reload),
    row("restapi.request_queue_size", Int(0, 4096), "5", Restart),
    row("restapi.thread_pool_size", Anything, "5", Restart),
    row(
        "restapi.server_tokens",
        Word(&["original", "minimal", "productonly"]),
        "original",
        Reload,
    ),
    // ctl
    row("ctl.authentication.username", Text, "", Reload),
    row("ctl.authentication.password", Secret, "", Reload),
    row("ctl.insecure", Bool, "off", Reload),
    row("ctl.cacert", Text, "", Reload),
    row("ctl.certfile", Text, "", Reload),
    row("ctl.keyfile", Text, "", Reload),
    row("ctl.keyfile_password", Secret, "", Reload),
    // watchdog and guard
    row("watchdog.mode", Anything, "automatic", Reload),
    row("watchdog.device", Text, "/dev/watchdog", Reload),
    row("watchdog.safety_margin", Int(-1, MAX), "5", Reload),
    row("watchdog.driver", Text, "default", Reload),
    own("guard.mode", Word(super::check::GUARD_MODES), "on", Restart),
    // tags
    row("tags.nofailover", Bool, "off", Reload),
    row("tags.failover_priority", Int(-MAX, MAX), "1", Reload),
    row("tags.clonefrom", Bool, "off", Reload),
    row("tags.noloadbalance", Bool, "off", Reload),
    row("tags.replicatefrom", Text, "", Reload),
    row("tags.nosync", Bool, "off", Reload),
    row("tags.sync_priority", Int(-MAX, MAX), "1", Reload),
    row("tags.nostream", Bool, "off", Reload),
    row("tags.*", Anything, "", Reload),
    // citus: what does not fit is dropped as a whole, so the types are not refused one by one
    row("citus.group", Anything, "", Restart),
    row("citus.database", Anything, "", Restart),
    // bootstrap
    row("bootstrap.dcs", Mapping, "{}", Bootstrap),
    row("bootstrap.method", Text, "initdb", Bootstrap),
    row("bootstrap.initdb", Options, "[]", Bootstrap),
    row("bootstrap.post_bootstrap", Text, "", Bootstrap),
    row("bootstrap.post_init", Text, "", Bootstrap),
    row("bootstrap.pg_hba", Lines, "[]", Bootstrap),
    row("bootstrap.users", Anything, "", Bootstrap),
    // DCS
    row("consul", Mapping, "", Restart),
    row("etcd", Mapping, "", Restart),
    row("etcd3.host", Text, "", Restart),
    row("etcd3.hosts", Texts, "", Restart),
    row("etcd3.port", Int(1, 65535), "2379", Restart),
    row("etcd3.url", Secret, "", Restart),
    row("etcd3.proxy", Secret, "", Restart),
    row("etcd3.use_proxies", Bool, "off", Restart),
    row("etcd3.protocol", Word(&["http", "https"]), "http", Restart),
    row("etcd3.srv", Text, "", Restart),
    row("etcd3.discovery_srv", Text, "", Restart),
    row("etcd3.srv_domain", Text, "", Restart),
    row("etcd3.srv_suffix", Text, "", Restart),
    row("etcd3.username", Text, "", Reload),
    row("etcd3.password", Secret, "", Reload),
    row("etcd3.cacert", Text, "", Restart),
    own("etcd3.insecure", Bool, "off", Restart),
    row("etcd3.cert", Text, "", Restart),
    row("etcd3.key", Text, "", Restart),
    row("exhibitor", Mapping, "", Restart),
    row("kubernetes", Mapping, "", Restart),
    row("raft", Mapping, "", Restart),
    row("zookeeper", Mapping, "", Restart),
    // postgresql, local side only
    row("postgresql.name", Text, "", Restart),
    row("postgresql.scope", Text, "", Restart),
    row("postgresql.listen", Address, "", Reload),
    row("postgresql.connect_address", Address, "", Reload),
    row("postgresql.proxy_address", Address, "", Reload),
    row("postgresql.data_dir", Text, "", Restart),
    row("postgresql.config_dir", Text, "postgresql.data_dir", Restart),
    row("postgresql.config_base_name", Text, "postgresql", Restart),
    row("postgresql.bin_dir", Text, "", Reload),
    row("postgresql.bin_name.pg_ctl", Text, "pg_ctl", Reload),
    row("postgresql.bin_name.initdb", Text, "initdb", Reload),
    row(
        "postgresql.bin_name.pg_controldata",
        Text,
        "pg_controldata",
        Reload,
    ),
    row("postgresql.bin_name.pg_basebackup", Text, "pg_basebackup", Reload),
    row("postgresql.bin_name.postgres", Text, "postgres", Reload),
    row("postgresql.bin_name.pg_isready", Text, "pg_isready", Reload),
    row("postgresql.bin_name.pg_rewind", Text, "pg_rewind", Reload),
    row("postgresql.bin_name.pg_waldump", Text, "pg_waldump", Reload),
    row("postgresql.bin_name.pg_xlogdump", Text, "pg_xlogdump", Reload),
    row("postgresql.database", Text, "postgres", Restart),
    row("postgresql.pgpass", Text, "$HOME/pgpass", Restart),
    row("postgresql.authentication.superuser", Section(ROLE), "", Reload),
    row("postgresql.authentication.replication", Section(ROLE), "", Reload),
    row("postgresql.authentication.rewind", Section(ROLE), "", Reload),
    row("postgresql.replication", Section(ROLE), "", Reload),
    row("postgresql.superuser", Section(ROLE), "", Reload),
    row("postgresql.pg_rewind", Section(ROLE), "", Reload),
    // postgresql, both sides
    row("postgresql.custom_conf", Text, "", Reload),
    row("postgresql.krbsrvname", Text, "", Reload),
    row("postgresql.use_unix_socket", Bool, "off", Reload),
    row("postgresql.use_unix_socket_repl", Bool, "off", Reload),
    row("postgresql.parameters", Scalars, "{}", Reload),
    row("postgresql.parameters_primary", Scalars, "{}", Reload),
    row("postgresql.parameters_replica", Scalars, "{}", Reload),
    row("postgresql.parameters_standby_leader", Scalars, "{}", Reload),
    row("postgresql.pg_hba", Lines, "", Reload),
    row("postgresql.pg_hba_primary", Lines, "", Reload),
    row("postgresql.pg_hba_replica", Lines, "", Reload),
    row("postgresql.pg_hba_standby_leader", Lines, "", Reload),
    row("postgresql.pg_ident", Lines, "", Reload),
    row("postgresql.pg_ident_primary", Lines, "", Reload),
    row("postgresql.pg_ident_replica", Lines, "", Reload),
    row("postgresql.pg_ident_standby_leader", Lines, "", Reload),
    row("postgresql.recovery_conf", Scalars, "{}", Reload),
    row("postgresql.callbacks.on_reload", Text, "", Reload),
    row("postgresql.callbacks.on_restart", Text, "", Reload),
    row("postgresql.callbacks.on_role_change", Text, "", Reload),
    row("postgresql.callbacks.on_start", Text, "", Reload),
    row("postgresql.callbacks.on_stop", Text, "", Reload),
    row("postgresql.create_replica_methods", Texts, "[basebackup]", Reload),
    row("postgresql.create_replica_method", Texts, "", Reload),
    row("postgresql.basebackup", Options, "[]", Reload),
    row("postgresql.rewind", Options, "[]", Reload),
    row("postgresql.use_pg_rewind", Bool, "off", Reload),
    row(
        "postgresql.remove_data_directory_on_rewind_failure",
        Bool,
        "off",
        Reload,
    ),
    row(
        "postgresql.remove_data_directory_on_diverged_timelines",
        Bool,
        "off",
        Reload,
    ),
    row("postgresql.pg_ctl_timeout", Quantity(0, MAX, "s"), "60", Reload),
    row("postgresql.pre_promote", Text, "", Reload),
    row("postgresql.before_stop", Text, "", Reload),
];

/// What the dynamic configuration (`/config`, `bootstrap.dcs`) may hold. Its `postgresql` has those rows of [`LOCAL`]
/// that are not of the local side alone.
pub const DYNAMIC: &[Setting] = &[
    row("ttl", Int(1, 86_400), "30", Reload),
    row("loop_wait", Int(1, 86_400), "10", Reload),
    row("retry_timeout", Int(1, 86_400), "10", Reload),
    row("maximum_lag_on_failover", Int(0, i64::MAX), "1048576", Reload),
    row("maximum_lag_on_syncnode", Int(-1, i64::MAX), "-1", Reload),
    row("check_timeline", Bool, "off", Reload),
    row("max_timelines_history", Int(0, MAX), "0", Reload),
    row("primary_start_timeout", Int(0, MAX), "300", Reload),
    row("master_start_timeout", Int(0, MAX), "", Reload),
    row("primary_stop_timeout", Int(0, MAX), "0", Reload),
    row("master_stop_timeout", Int(0, MAX), "", Reload),
    own("primary_probe_timeout", Int(0, MAX), "0", Reload),
    row("primary_race_backoff", Int(0, MAX), "0", Reload),
    row("synchronous_mode", Word(&["on", "off", "quorum"]), "off", Reload),
    row("synchronous_mode_strict", Bool, "off", Reload),
    row("synchronous_node_count", Int(0, MAX), "1", Reload),
    row("failsafe_mode", Bool, "off", Reload),
    row("pause", Bool, "off", Reload),
    row("member_slots_ttl", Quantity(0, MAX, "s"), "1800", Reload),
    row("slots", Named(SLOT), "{}", Reload),
    row("permanent_slots", Named(SLOT), "", Reload),
    row("permanent_replication_slots", Named(SLOT), "", Reload),
    row("ignore_slots", Sections(SLOT_MATCHER), "[]", Reload),
    row("standby_cluster.host", Texts, "", Reload),
    row("standby_cluster.port", Texts, "", Reload),
    row("standby_cluster.primary_slot_name", Text, "", Reload),
    row("standby_cluster.create_replica_methods", Texts, "", Reload),
    row("standby_cluster.restore_command", Text, "", Reload),
    row("standby_cluster.archive_cleanup_command", Text, "", Reload),
    row("standby_cluster.recovery_min_apply_delay", Text, "", Reload),
    row("postgresql.use_slots", Bool, "on", Reload),
];

/// The rows of one [`role`](crate::Role) of `postgresql.authentication`.
const ROLE: &[Setting] = &[
    row("username", Text, "", Reload),
    row("password", Secret, "", Reload),
    row("sslmode", Text, "", Reload),
    row("sslcert", Text, "", Reload),
    row("sslkey", Text, "", Reload),
    row("sslpassword", Secret, "", Reload),
    row("sslrootcert", Text, "", Reload),
    row("sslcrl", Text, "", Reload),
    row("sslcrldir", Text, "", Reload),
    row("gssencmode", Text, "", Reload),
    row("channel_binding", Text, "", Reload),
    row("sslnegotiation", Text, "", Reload),
    row("tcp_user_timeout", Text, "", Reload),
    row("keepalives", Text, "", Reload),
    row("keepalives_idle", Text, "", Reload),
    row("keepalives_interval", Text, "", Reload),
    row("keepalives_count", Text, "", Reload),
];

/// The rows of one permanent slot.
const SLOT: &[Setting] = &[
    row("type", Word(&["physical", "logical"]), "", Reload),
    row("database", Text, "", Reload),
    row("plugin", Text, "", Reload),
    row("cluster_type", Word(&["primary", "standby"]), "", Reload),
];

/// The rows of one pattern of `ignore_slots`.
const SLOT_MATCHER: &[Setting] = &[
    row("name", Text, "", Reload),
    row("type", Text, "", Reload),
    row("database", Text, "", Reload),
    row("plugin", Text, "", Reload),
];

/// The rows of a method of `create_replica_methods` or of `bootstrap.method`; all other keys are its own.
pub(super) const METHOD: &[Setting] = &[
    row("command", Text, "", Reload),
    row("no_params", Anything, "off", Reload),
    row("no_leader", Anything, "off", Reload),
    row("keep_data", Anything, "off", Reload),
    row("keep_existing_recovery_conf", Anything, "off", Reload),
    row("recovery_conf", Scalars, "", Reload),
    row("*", Anything, "", Reload),
];

/// Rows of `postgresql` that only the local side may say.
pub(super) const LOCAL_ONLY: [&str; 16] = [
    "postgresql.name",
    "postgresql.scope",
    "postgresql.listen",
    "postgresql.connect_address",
    "postgresql.proxy_address",
    "postgresql.data_dir",
    "postgresql.config_dir",
    "postgresql.config_base_name",
    "postgresql.bin_dir",
    "postgresql.bin_name",
    "postgresql.database",
    "postgresql.pgpass",
    "postgresql.authentication",
    "postgresql.replication",
    "postgresql.superuser",
    "postgresql.pg_rewind",
];
