//! Parameters: written, reloaded, waiting for a restart, refused.

use crate::harness::{Installation, Node, soon, tests};
use std::fs;
use tamada_postgres::Recovery;

tests![
    changes_are_applied_and_restarts_announced,
    what_the_server_does_not_take_is_left_out,
    files_that_were_there_before_are_kept,
    synchronous_standby_names_are_set_apart,
    the_configuration_may_lie_elsewhere,
];

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
