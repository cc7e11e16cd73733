//! Parameters: written, reloaded, waiting for a restart, refused.

use crate::harness::{Installation, Node, soon, tests};
use std::fs;
use std::net::TcpListener;
use tamada_postgres::Recovery;

tests![
    changes_are_applied_and_restarts_announced,
    what_the_server_does_not_take_is_left_out,
    files_that_were_there_before_are_kept,
    synchronous_standby_names_are_set_apart,
    the_configuration_may_lie_elsewhere,
    settings_that_would_stop_the_server_are_found_before,
    a_server_starts_with_the_settings_that_worked,
    a_primary_does_not_wait_for_its_own_slot,
];

/// Settings with which PostgreSQL does not start, and a part of its reason.
const DEADLY: [(&str, &str); 10] = [
    (
        "postgresql: {parameters: {shared_preload_libraries: pg_cronn}}",
        "could not access file \"pg_cronn\"",
    ),
    (
        "postgresql: {parameters: {shared_preload_libraries: 'auto_explain,/no/such'}}",
        "could not access file",
    ),
    ("postgresql: {parameters: {min_wal_size: 2MB}}", "min_wal_size"),
    (
        "postgresql: {parameters: {superuser_reserved_connections: 500}}",
        "superuser_reserved_connections",
    ),
    (
        "postgresql: {parameters: {ssl: on, ssl_cert_file: no.crt}}",
        "no.crt",
    ),
    ("postgresql: {parameters: {shared_buffers: 2TB}}", "shared memory"),
    (
        "postgresql: {parameters: {huge_pages: on, shared_buffers: 64GB}}",
        "huge pages",
    ),
    (
        "postgresql: {parameters: {unix_socket_directories: /proc/nothing}}",
        "/proc/nothing",
    ),
    (
        "postgresql: {pg_hba: [local all all trust, host all all nonsense]}",
        "pg_hba.conf line",
    ),
    (
        "postgresql: {listen: '198.51.100.1,198.51.100.2:5439'}",
        "cannot listen on port 5439 of 198.51.100.1",
    ),
];

async fn settings_that_would_stop_the_server_are_found_before(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.server.pending_restart(soon()).await.unwrap();
    for (more, reason) in DEADLY {
        // Before version 15 the program computes less of what it needs.
        let is_computed = !["could not access", "pg_hba", "/proc/nothing", "cannot listen"]
            .iter()
            .any(|word| reason.contains(word));
        if is_computed && node.server.version(soon()).await.unwrap().major() < 15 {
            continue;
        }
        node.configure(more);
        for as_standby in [false, true] {
            let found = node.server.restart_obstacle(as_standby, soon()).await;
            let found = found.unwrap_or_else(|| panic!("nothing speaks against {more}"));
            assert!(found.contains(reason), "{more}: {found}");
        }
        assert_eq!(node.sql("SELECT 1"), "1");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    node.configure(&format!("postgresql: {{listen: '127.0.0.1:{port}'}}"));
    let found = node.server.restart_obstacle(false, soon()).await.unwrap();
    assert!(
        found.contains(&format!("cannot listen on port {port}")),
        "{found}"
    );
    for harmless in [
        "",
        "postgresql: {listen: '198.51.100.1,127.0.0.1:5439'}",
        "postgresql: {parameters: {shared_buffers: 12XB, wal_compression: perhaps, pg_stat_statements.max: 5}}",
        "postgresql: {parameters: {min_wal_size: 2GB, max_wal_size: 1GB}}",
        "postgresql: {parameters: {shared_preload_libraries: auto_explain, shared_buffers: 32MB}}",
        "postgresql: {parameters: {max_connections: 150, no_such_parameter: 1, work_mem: much}}",
    ] {
        node.configure(harmless);
        assert_eq!(
            node.server.restart_obstacle(false, soon()).await,
            None,
            "{harmless}"
        );
    }
    let temporary = node.data_dir().join("base/pgsql_tmp");
    let left: Vec<_> = fs::read_dir(temporary).unwrap().collect();
    assert!(left.is_empty(), "trials leave nothing behind: {left:?}");
}

async fn a_server_starts_with_the_settings_that_worked(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.configure("postgresql: {parameters: {shared_preload_libraries: auto_explain, work_mem: 5MB}}");
    node.server.pending_restart(soon()).await.unwrap();
    node.stop().await;
    node.start(Recovery::Primary).await;
    node.server.pending_restart(soon()).await.unwrap();
    for (more, parameter) in [
        (
            "postgresql: {parameters: {shared_preload_libraries: pg_cronn, work_mem: 6MB}}",
            "shared_preload_libraries",
        ),
        (
            "postgresql: {parameters: {min_wal_size: 2MB, shared_preload_libraries: '', work_mem: 6MB}}",
            "shared_preload_libraries",
        ),
        (
            "postgresql: {pg_hba: [host all all nonsense], parameters: {shared_preload_libraries: '', work_mem: 6MB}}",
            "shared_preload_libraries",
        ),
        (
            "{postgresql: {parameters: {shared_preload_libraries: pg_cronn, work_mem: 6MB}}, dynamic: {postgresql: {parameters: {max_connections: 33}}}}",
            "max_connections",
        ),
    ] {
        node.configure(more);
        node.stop().await;
        node.start(Recovery::Primary).await;
        let why = node
            .server
            .failed_settings()
            .unwrap_or_else(|| panic!("{more} works"));
        assert!(!why.is_empty(), "{more}");
        assert_eq!(
            node.sql("SHOW shared_preload_libraries"),
            "auto_explain",
            "{more}"
        );
        assert_eq!(node.sql("SHOW max_connections"), "100", "{more}");
        // What can be had without a restart is in force again soon, and the rest waits, with the reason.
        node.server.apply(true, soon()).await.unwrap();
        assert_eq!(node.sql("SHOW work_mem"), "6MB", "{more}");
        let waiting = node.server.pending_restart(soon()).await.unwrap();
        let reason = waiting
            .get(parameter)
            .unwrap_or_else(|| panic!("{more}: {waiting:?}"));
        assert_eq!(reason.error.as_deref(), Some(why.as_str()), "{more}");
    }
    // Who mends it gets it.
    node.configure("postgresql: {parameters: {shared_preload_libraries: '', work_mem: 7MB}}");
    node.server.apply(true, soon()).await.unwrap();
    let waiting = node.server.pending_restart(soon()).await.unwrap();
    assert!(
        waiting.values().all(|reason| reason.error.is_none()),
        "{waiting:?}"
    );
    node.stop().await;
    node.start(Recovery::Primary).await;
    assert_eq!(node.server.failed_settings(), None);
    assert_eq!(node.sql("SHOW shared_preload_libraries"), "");
    // What the configuration does not hold is put back, too.
    node.server.pending_restart(soon()).await.unwrap();
    node.sql("ALTER SYSTEM SET shared_preload_libraries = 'pg_cronn'");
    node.configure("");
    node.stop().await;
    node.start(Recovery::Primary).await;
    assert!(node.server.failed_settings().is_some());
}

async fn changes_are_applied_and_restarts_announced(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    let nothing = node.server.apply(false, soon()).await.unwrap();
    assert!(nothing.changes.is_empty() && !nothing.reloaded, "{nothing:?}");
    node.configure(
        "postgresql: {parameters: {work_mem: 8MB, shared_buffers: 32MB, my.own: '1', log_min_duration_statement: 2s}}\n\
         dynamic: {postgresql: {parameters: {max_connections: 77}}}",
    );
    let applied = node.server.apply(false, soon()).await.unwrap();
    let names: Vec<_> = applied
        .changes
        .iter()
        .map(|change| (change.name.as_str(), change.needs_restart))
        .collect();
    for expected in [
        ("work_mem", false),
        ("shared_buffers", true),
        ("max_connections", true),
    ] {
        assert!(names.contains(&expected), "{names:?}");
    }
    assert!(applied.reloaded);
    assert_eq!(node.sql("SHOW work_mem"), "8MB");
    assert_eq!(node.sql("SHOW my.own"), "1");
    let waiting = node.server.pending_restart(soon()).await.unwrap();
    let shown: Vec<_> = waiting
        .iter()
        .map(|(name, reason)| format!("{name} {} {}", reason.old_value, reason.new_value))
        .collect();
    assert_eq!(shown, ["max_connections 100 77", "shared_buffers 16MB 32MB"]);
    node.stop().await;
    node.start(Recovery::Primary).await;
    assert_eq!(node.sql("SHOW max_connections"), "77");
    assert!(node.server.pending_restart(soon()).await.unwrap().is_empty());
    node.sql("ALTER SYSTEM SET max_connections = 300");
    node.sql("SELECT pg_reload_conf()");
    node.configure("");
    let applied = node.server.apply(false, soon()).await.unwrap();
    let names: Vec<_> = applied
        .changes
        .iter()
        .map(|change| change.name.as_str())
        .collect();
    assert!(
        names.contains(&"work_mem") && names.contains(&"shared_buffers"),
        "{names:?}"
    );
    assert_eq!(node.sql("SHOW work_mem"), "4MB");
}

async fn what_the_server_does_not_take_is_left_out(installation: Installation) {
    let node = Node::with(
        &installation,
        "a",
        "postgresql: {parameters: {nonsense: 1, work_mem: 32kB, random_page_cost: -3, fsync: maybe, \
         default_statistics_target: '50000', log_min_messages: loud, primary_conninfo: 'host=x', ext.anything: 'it''s \\n'}}",
    );
    node.bootstrap().await;
    assert_eq!(node.sql("SHOW random_page_cost"), "0");
    assert_eq!(node.sql("SHOW work_mem"), "64kB");
    assert_eq!(node.sql("SHOW default_statistics_target"), "10000");
    assert_eq!(node.sql("SHOW ext.anything"), "it's \\n");
    assert_eq!(node.sql("SHOW log_min_messages"), "warning");
    let text = fs::read_to_string(node.data_dir().join("postgresql.conf")).unwrap();
    assert!(
        !text.contains("nonsense") && !text.contains("primary_conninfo"),
        "{text}"
    );
}

async fn files_that_were_there_before_are_kept(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    let base = fs::read_to_string(node.data_dir().join("postgresql.base.conf")).unwrap();
    assert!(base.contains("# PostgreSQL configuration file"), "initdb's own");
    let hba = fs::read_to_string(node.data_dir().join("pg_hba.conf")).unwrap();
    assert!(
        hba.contains("host replication replicator") && hba.starts_with("# Do not edit"),
        "{hba}"
    );
    node.stop().await;
    fs::write(node.dir.path().join("mine.conf"), "work_mem = '5MB'\n").unwrap();
    node.configure(&format!(
        "postgresql: {{custom_conf: '{}/mine.conf'}}",
        node.dir.path().display()
    ));
    node.start(Recovery::Primary).await;
    assert_eq!(node.sql("SHOW work_mem"), "5MB");
}

async fn synchronous_standby_names_are_set_apart(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    let in_force = async || node.status().await.synchronous_standby_names;
    let set = async |names: Option<&str>| {
        let names = names.map(str::to_owned);
        let set = node.server.set_synchronous_standby_names(names, soon());
        set.await.unwrap();
    };
    let names = "ANY 1 (\"b\",\"c\")";
    set(Some(names)).await;
    assert_eq!(in_force().await, names);
    node.server.apply(false, soon()).await.unwrap();
    assert_eq!(in_force().await, names, "settings that change leave it alone");
    set(None).await;
    assert_eq!(in_force().await, "");

    // Synchronous mode: what is in the file stays until it is set, even for an agent that did not write it.
    fs::write(
        node.dir.path().join("data/postgresql.conf"),
        "synchronous_standby_names = 'b'\n",
    )
    .unwrap();
    node.configure("dynamic: {synchronous_mode: true}");
    node.server.apply(true, soon()).await.unwrap();
    assert_eq!(in_force().await, "b");
    set(Some("")).await;
    assert_eq!(in_force().await, "");
}

async fn the_configuration_may_lie_elsewhere(installation: Installation) {
    let node = Node::new(&installation, "a");
    let etc = node.dir.path().join("etc");
    node.configure(&format!(
        "postgresql: {{config_dir: {}, pg_hba: null}}",
        etc.display()
    ));
    let rules = ["host all all 127.0.0.1/32 scram-sha-256".to_owned()];
    node.server
        .initdb(&[("no-sync".to_owned(), None)], &rules, soon())
        .await
        .unwrap();
    node.start(Recovery::Primary).await;
    assert_eq!(
        node.sql("SHOW config_file"),
        etc.join("postgresql.conf").display().to_string()
    );
    assert_eq!(
        node.sql("SHOW hba_file"),
        etc.join("pg_hba.conf").display().to_string()
    );
    let base = fs::read_to_string(etc.join("postgresql.base.conf")).unwrap();
    assert!(base.contains("# PostgreSQL configuration file"), "initdb's own");
    let hba = fs::read_to_string(etc.join("pg_hba.conf")).unwrap();
    assert!(
        hba.trim_end().ends_with(&rules[0]) && hba.contains("local "),
        "{hba}"
    );
    assert!(node.data_dir().join("pg_hba.conf.backup").exists());
}

/// One list for the whole cluster holds up no logical replication, whoever leads.
async fn a_primary_does_not_wait_for_its_own_slot(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    if !node.server.version(soon()).await.unwrap().is_at_least(17) {
        return;
    }
    node.configure("postgresql: {parameters: {synchronized_standby_slots: 'a'}}");
    node.server.apply(true, soon()).await.unwrap();
    assert_eq!(node.sql("SHOW synchronized_standby_slots"), "");
    node.sql("CREATE TABLE told (n int)");
    if node.sql("SHOW wal_level") == "logical" {
        node.sql("SELECT pg_create_logical_replication_slot('l', 'test_decoding', false, false, true)");
        node.sql("INSERT INTO told VALUES (1)");
        let changes = node.sql("SELECT count(*) FROM pg_logical_slot_get_changes('l', NULL, NULL)");
        assert_ne!(changes, "0");
    }
    node.sql("SELECT pg_create_physical_replication_slot('b')");
    node.configure("postgresql: {parameters: {synchronized_standby_slots: 'a, b'}}");
    node.server.apply(true, soon()).await.unwrap();
    assert_eq!(node.sql("SHOW synchronized_standby_slots"), "b");
}
