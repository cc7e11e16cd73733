//! The settings of the running server.

use crate::read;
use expect_test::expect;
use serde_json::json;
use std::time::Duration;
use tamada_config::{DynamicConfig, Minimums, ParameterRole, PostgresqlSettings, Problems, ReplicaMethod};

fn settings_of(
    more: &str,
    dynamic: serde_json::Value,
    major_version: u32,
    role: Option<ParameterRole>,
) -> (PostgresqlSettings, Problems) {
    let (local, _) = read(more).unwrap();
    let (dynamic, _) = DynamicConfig::read(&dynamic, Minimums::TAMADA);
    PostgresqlSettings::new(&local, &dynamic, Some(major_version), role).unwrap()
}

fn settings(more: &str, dynamic: serde_json::Value, major_version: u32) -> PostgresqlSettings {
    settings_of(more, dynamic, major_version, None).0
}

#[test]
fn the_defaults_on_the_command_line() {
    let settings = settings("", json!({}), 150_000);
    let line: Vec<_> = settings
        .controlled
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect();
    expect![[r#"
        --listen_addresses=10.0.0.1,127.0.0.1
        --port=5433
        --cluster_name=batman
        --wal_level=replica
        --hot_standby=on
        --max_connections=100
        --max_wal_senders=10
        --max_prepared_transactions=0
        --max_locks_per_transaction=64
        --track_commit_timestamp=off
        --max_replication_slots=10
        --max_worker_processes=8
        --wal_log_hints=on"#]]
    .assert_eq(&line.join("\n"));
    assert_eq!(settings.parameters["wal_keep_size"], "128MB");
    assert_eq!(settings.parameters["max_connections"], "100");
    assert!(settings.use_slots && !settings.use_pg_rewind && settings.pg_hba.is_none());
    assert_eq!(settings.pg_ctl_timeout, Duration::from_secs(60));
    assert_eq!(
        settings.create_replica_methods,
        [ReplicaMethod::Basebackup { options: vec![] }]
    );
}

#[test]
fn parameters_fit_the_version_of_the_server() {
    let with = |parameters: serde_json::Value, version| {
        settings("", json!({"postgresql": {"parameters": parameters}}), version).parameters
    };
    assert_eq!(
        with(json!({"wal_keep_segments": 100}), 130_000)["wal_keep_size"],
        "1600MB"
    );
    assert_eq!(
        with(json!({"wal_keep_segments": 100, "wal_keep_size": "1GB"}), 130_000)["wal_keep_size"],
        "1GB"
    );
    assert!(!with(json!({"wal_keep_segments": 100}), 130_000).contains_key("wal_keep_segments"));
    assert_eq!(
        with(json!({"wal_keep_size": "1GB"}), 120_000)["wal_keep_segments"],
        "64"
    );
    assert_eq!(with(json!({}), 120_000)["wal_keep_segments"], "8");
    assert!(!with(json!({"wal_keep_size": "1GB"}), 120_000).contains_key("wal_keep_size"));
    assert_eq!(
        with(json!({"wal_level": "replica"}), 90500)["wal_level"],
        "hot_standby"
    );
    assert_eq!(
        with(json!({"wal_level": "logical"}), 150_000)["wal_level"],
        "logical"
    );
    assert_eq!(
        with(
            json!({"hot_standby": true, "wal_log_hints": "OFF", "fsync": false}),
            150_000
        )["fsync"],
        "off"
    );
    assert_eq!(
        with(json!({"wal_log_hints": "OFF"}), 150_000)["wal_log_hints"],
        "off"
    );
    assert!(!with(json!({}), 90300).contains_key("wal_log_hints"));
}

#[test]
fn recovery_parameters_have_their_own_place() {
    let settings = settings(
        "postgresql: {parameters: {Restore_Command: a, recovery_end_command: e}, recovery_conf: {restore_command: b, trigger_file: t}}",
        json!({}),
        150_000,
    );
    assert!(!settings.parameters.contains_key("restore_command"));
    assert_eq!(settings.recovery_conf["restore_command"], "b");
    assert_eq!(settings.recovery_conf["recovery_end_command"], "e");
    assert_eq!(settings.recovery_conf["promote_trigger_file"], "t");
}

#[test]
fn the_role_lays_its_own_settings_over_the_common_ones() {
    let file = "
postgresql:
  parameters: {work_mem: 4MB}
  parameters_replica: {work_mem: 8MB, max_connections: 7}
  pg_hba: [common]
  pg_hba_standby_leader: [standby]
";
    let of = |role| settings_of(file, json!({}), 150_000, role);
    assert_eq!(of(None).0.parameters["work_mem"], "4MB");
    assert_eq!(of(Some(ParameterRole::Primary)).0.parameters["work_mem"], "4MB");
    let (replica, warnings) = of(Some(ParameterRole::Replica));
    assert_eq!(replica.parameters["work_mem"], "8MB");
    assert_eq!(replica.parameters["max_connections"], "100");
    assert_eq!(replica.pg_hba.unwrap(), ["common"]);
    assert_eq!(
        of(Some(ParameterRole::StandbyLeader)).0.pg_hba.unwrap(),
        ["standby"]
    );
    expect!["postgresql.parameters_replica.max_connections: ignored: it must be the same on all members and belongs to postgresql.parameters"].assert_eq(&warnings.to_string());
}

#[test]
fn in_synchronous_mode_the_names_are_not_the_users() {
    let file = "postgresql: {parameters: {synchronous_standby_names: '*'}}";
    assert!(
        settings(file, json!({}), 150_000)
            .parameters
            .contains_key("synchronous_standby_names")
    );
    assert!(
        !settings(file, json!({"synchronous_mode": true}), 150_000)
            .parameters
            .contains_key("synchronous_standby_names")
    );
}

#[test]
fn own_hba_files_are_relative_to_the_configuration() {
    let settings = settings(
        "postgresql: {config_dir: /etc/pg, parameters: {hba_file: my_hba, ident_file: /abs}}",
        json!({}),
        150_000,
    );
    assert_eq!(settings.parameters["hba_file"], "/etc/pg/my_hba");
    assert_eq!(settings.parameters["ident_file"], "/abs");
}

#[test]
fn citus_brings_its_parameters() {
    let settings = settings(
        "citus: {group: 1, database: d}\npostgresql: {parameters: {shared_preload_libraries: 'a, citus,b'}}",
        json!({"postgresql": {"parameters": {"max_connections": 50}}}),
        150_000,
    );
    assert_eq!(settings.parameters["shared_preload_libraries"], "citus,a,b");
    assert_eq!(settings.parameters["citus.local_hostname"], "127.0.0.1");
    assert_eq!(settings.parameters["max_prepared_transactions"], "100");
    assert_eq!(settings.parameters["wal_level"], "logical");
}

#[test]
fn both_sides_may_set_the_rest_and_the_local_one_wins() {
    let (settings, problems) = settings_of(
        "
postgresql:
  use_unix_socket: on
  callbacks: {on_start: /cb --x}
  create_replica_methods: [wal_g, basebackup]
  wal_g: {command: /wal_g, keep_data: true, threshold: 30, scope: x}
  bare: {no_params: yes, no_leader: 1, a: b}
  basebackup: [checkpoint: fast, verbose, pgdata: /x, compress: server-zstd]
  pg_ctl_timeout: 2min
",
        json!({"postgresql": {
            "use_unix_socket": false, "use_pg_rewind": true, "pre_promote": "/p", "use_slots": false,
            "rewind": ["debug", {"source-pgdata": "/x"}], "data_dir": "/other", "before_stop": ["x"], "remove_data_directory_on_rewind_failure": "maybe",
        }}),
        150_000,
        None,
    );
    assert!(settings.use_unix_socket && settings.use_pg_rewind && !settings.use_slots);
    assert!(
        !settings.remove_data_directory_on_rewind_failure,
        "nothing is removed for a misspelt word"
    );
    assert_eq!(settings.pg_ctl_timeout, Duration::from_secs(120));
    assert_eq!(settings.callbacks.on_start.as_deref(), Some("/cb --x"));
    assert_eq!(settings.pre_promote.as_deref(), Some("/p"));
    assert_eq!(settings.rewind, [("debug".to_owned(), None)]);
    expect![[r#"
        [
            Custom {
                name: "wal_g",
                command: "/wal_g",
                no_params: false,
                no_leader: false,
                keep_data: true,
                options: [
                    (
                        "keep_data",
                        "True",
                    ),
                    (
                        "threshold",
                        "30",
                    ),
                ],
            },
            Basebackup {
                options: [
                    (
                        "checkpoint",
                        Some(
                            "fast",
                        ),
                    ),
                    (
                        "verbose",
                        None,
                    ),
                    (
                        "compress",
                        Some(
                            "server-zstd",
                        ),
                    ),
                ],
            },
        ]
        postgresql.data_dir: has no effect here: it belongs to the file of each member
        postgresql.before_stop: expected a text, found a list
        postgresql.remove_data_directory_on_rewind_failure: expected on or off, found the text "maybe"
        postgresql.rewind: the option source-pgdata cannot be set here and is ignored
        patroni.yml:8:3: postgresql.basebackup: the option pgdata cannot be set here and is ignored"#]]
    .assert_eq(&format!("{:#?}\n{problems}", settings.create_replica_methods));
    expect![[r#"[Custom { name: "bare", command: "bare", no_params: true, no_leader: true, keep_data: false, options: [("a", "b")] }, Custom { name: "/script", command: "/script", no_params: false, no_leader: false, keep_data: false, options: [] }]"#]].assert_eq(&format!(
        "{:?}",
        settings.methods(&["bare".to_owned(), "/script".to_owned()])
    ));
}

/// All that runs a command, loads code, or names a file; `X` marks what must not be seen any more.
fn commands() -> serde_json::Value {
    let parameters = json!({
        "archive_command": "X", "Restore_Command": "X", "archive_cleanup_command": "X", "recovery_end_command": "X",
        "ssl_passphrase_command": "X", "shared_preload_libraries": "X", "session_preload_libraries": "X",
        "local_preload_libraries": "X", "archive_library": "X", "dynamic_library_path": "X", "extension_control_path": "X",
        "jit_provider": "X", "oauth_validator_libraries": "X", "log_directory": "X", "log_filename": "X",
        "external_pid_file": "X", "hba_file": "X", "ident_file": "X", "data_directory": "X", "config_file": "X",
        "plperl.on_init": "X", "plperlu.x": "X", "pltcl.start_proc": "X", "primary_conninfo": "X",
        "work_mem = 1\narchive_command": "X", "work_mem": "7MB", "archive_mode": "on", "pg_stat_statements.max": "100",
    });
    json!({
        "standby_cluster": {"host": "h", "restore_command": "X", "archive_cleanup_command": "X"},
        "postgresql": {
            "parameters": parameters, "parameters_primary": parameters, "parameters_replica": parameters,
            "parameters_standby_leader": parameters,
            "recovery_conf": {"restore_command": "X", "archive_cleanup_command": "X", "recovery_end_command": "X", "recovery_target_timeline": "latest"},
            "callbacks": {"on_start": "X", "on_stop": "X", "on_role_change": "X"},
            "pre_promote": "X", "before_stop": "X", "bin_dir": "X", "bin_name": {"postgres": "X"}, "custom_conf": "X",
            "pg_hba": ["X"], "pg_hba_primary": ["X"], "pg_ident": ["X"], "pg_ident_replica": ["X"],
            "create_replica_methods": ["mine", "basebackup"], "mine": {"command": "X"}, "other": {"no_params": true},
            "use_pg_rewind": true,
        },
    })
}

#[test]
fn commands_come_from_local_files_only_where_that_is_asked_for() {
    let local = "local_commands_only: on";
    for role in [
        None,
        Some(ParameterRole::Primary),
        Some(ParameterRole::Replica),
        Some(ParameterRole::StandbyLeader),
    ] {
        let (open, _) = settings_of("", commands(), 180_000, role);
        assert!(
            format!("{open:?}").contains("\"X\""),
            "the document is as it should be"
        );
        let (closed, problems) = settings_of(local, commands(), 180_000, role);
        let text = format!("{closed:?}");
        assert!(!text.contains("\"X") && !text.contains("/X"), "{role:?}: {text}");
        assert_eq!(closed.parameters["work_mem"], "7MB");
        assert_eq!(closed.parameters["pg_stat_statements.max"], "100");
        assert!(closed.use_pg_rewind && closed.pg_hba.is_none());
        for path in [
            "postgresql.parameters.archive_command",
            "postgresql.parameters.Restore_Command",
            "postgresql.recovery_conf.restore_command",
            "postgresql.callbacks",
            "postgresql.pg_hba_primary",
            "postgresql.mine",
            "standby_cluster.restore_command",
        ] {
            assert!(
                problems.0.iter().any(
                    |problem| problem.path == path && problem.to_string().contains("local_commands_only")
                ),
                "{path}"
            );
        }
    }
}

#[test]
fn what_local_files_say_counts_with_local_commands_only() {
    let local = "local_commands_only: true\npostgresql:\n  parameters: {archive_command: mine}\n  pg_hba: [local all all peer]\n  pre_promote: mine";
    let (local, _) = read(local).unwrap();
    let (dynamic, _) = DynamicConfig::read(&commands(), Minimums::TAMADA);
    let (settings, _) = PostgresqlSettings::new(&local, &dynamic, Some(180_000), None).unwrap();
    assert_eq!(settings.parameters["archive_command"], "mine");
    assert_eq!(settings.pg_hba.unwrap(), ["local all all peer"]);
}
