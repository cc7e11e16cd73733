//! What a standby gets beyond PostgreSQL's defaults, and that all of it gives way to the user.

use crate::harness::{Installation, Node, soon, tests, until};
use std::fs;
use std::io::Write as _;
use tamada_postgres::{Drift, Follow, Recovery};

tests![
    a_standby_notices_a_dead_source_within_ttl,
    what_the_user_has_set_stays,
    an_adopted_standby_gets_the_same_without_a_restart,
    what_the_archive_has_is_restored_before_a_promotion,
];

fn show(node: &Node) -> [String; 2] {
    ["wal_receiver_timeout", "wal_retrieve_retry_interval"].map(|name| node.sql(&format!("SHOW {name}")))
}

async fn until_connected_with(node: &Node, keywords: &[&str]) {
    until(
        &format!("the WAL receiver is connected with {keywords:?}"),
        async || {
            let conninfo = node.sql("SELECT conninfo FROM pg_stat_wal_receiver WHERE status = 'streaming'");
            keywords.iter().all(|keyword| conninfo.contains(keyword))
        },
    )
    .await;
}

async fn a_standby_notices_a_dead_source_within_ttl(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    assert_eq!(show(&a), ["1min", "5s"], "a primary keeps PostgreSQL's");
    assert_eq!(show(&b), ["10s", "100ms"]);
    let of_ttl_30 = [
        "tcp_user_timeout=10000",
        "keepalives_idle=5",
        "keepalives_interval=2",
    ];
    until_connected_with(&b, &of_ttl_30).await;
    let nothing = b.server.apply(false, soon()).await.unwrap();
    assert!(nothing.changes.is_empty() && !nothing.reloaded, "{nothing:?}");

    // Another ttl.
    let postmaster = b.server.postmaster().unwrap().unwrap().pid();
    b.configure("dynamic: {ttl: 60}");
    let applied = b.server.apply(false, soon()).await.unwrap();
    assert!(applied.reloaded, "{applied:?}");
    assert!(
        applied.changes.iter().all(|change| !change.needs_restart),
        "{applied:?}"
    );
    assert_eq!(show(&b), ["20s", "100ms"]);
    until_connected_with(&b, &["tcp_user_timeout=20000", "keepalives_idle=10"]).await;
    assert_eq!(b.server.drift(&a.follow(&b), soon()).await.unwrap(), Drift::Same);
    assert!(b.server.pending_restart(soon()).await.unwrap().is_empty());
    assert_eq!(b.server.postmaster().unwrap().unwrap().pid(), postmaster);

    // A primary has nothing of it, and no restart waits.
    b.server.promote(|| Ok(()), true, soon()).await.unwrap();
    until("the promoted server has a primary's settings", async || {
        show(&b) == ["1min", "5s"]
    })
    .await;
    let nothing = b.server.apply(false, soon()).await.unwrap();
    assert!(nothing.changes.is_empty(), "{nothing:?}");
    assert!(b.server.pending_restart(soon()).await.unwrap().is_empty());
}

async fn what_the_user_has_set_stays(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    let mut base = fs::OpenOptions::new()
        .append(true)
        .open(b.data_dir().join("postgresql.base.conf"))
        .unwrap();
    writeln!(base, "wal_retrieve_retry_interval = 2s").unwrap();
    b.configure(
        "postgresql: {parameters: {wal_receiver_timeout: 45s}, \
         authentication: {replication: {tcp_user_timeout: 1234, keepalives_idle: 7}}}",
    );
    b.server.apply(true, soon()).await.unwrap();
    assert_eq!(show(&b), ["45s", "2s"]);
    until_connected_with(
        &b,
        &["tcp_user_timeout=1234", "keepalives_idle=7", "keepalives_count=2"],
    )
    .await;
    let nothing = b.server.apply(false, soon()).await.unwrap();
    assert!(nothing.changes.is_empty() && !nothing.reloaded, "{nothing:?}");
    b.sql("ALTER SYSTEM SET wal_receiver_timeout = '50s'");
    b.configure("");
    b.server.apply(true, soon()).await.unwrap();
    assert_eq!(show(&b), ["50s", "2s"]);
    let nothing = b.server.apply(false, soon()).await.unwrap();
    assert!(nothing.changes.is_empty() && !nothing.reloaded, "{nothing:?}");
}

async fn an_adopted_standby_gets_the_same_without_a_restart(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    b.stop().await;
    // As Patroni leaves it.
    let file = b.data_dir().join("postgresql.conf");
    let text: String = fs::read_to_string(&file)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("wal_re"))
        .map(|line| format!("{}\n", line.replace(" tcp_user_timeout=10000", "")))
        .collect();
    fs::write(&file, text).unwrap();
    b.start(Recovery::Keep).await;
    assert_eq!(show(&b), ["1min", "5s"]);
    let postmaster = b.server.postmaster().unwrap().unwrap().pid();
    let follow = a.follow(&b);
    assert_eq!(
        b.server.drift(&follow, soon()).await.unwrap(),
        Drift::Reload(vec!["primary_conninfo".to_owned()])
    );
    b.server.follow(&follow, soon()).await.unwrap();
    assert_eq!(b.server.drift(&follow, soon()).await.unwrap(), Drift::Same);
    assert_eq!(show(&b), ["10s", "100ms"]);
    until_connected_with(&b, &["tcp_user_timeout=10000"]).await;
    assert_eq!(b.server.postmaster().unwrap().unwrap().pid(), postmaster);
}

/// A standby that has lost its primary promotes with all WAL that was archived, although no `restore_command` is in force while it
/// streams; where the archive has nothing more it is asked once and not waited for.
async fn what_the_archive_has_is_restored_before_a_promotion(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    a.sql("CREATE TABLE t AS SELECT 1 AS n");
    let b = a.replica("b").await;
    b.until_caught_up_with(&a).await;
    b.stop().await;
    a.sql("INSERT INTO t VALUES (42); SELECT pg_switch_wal()");
    a.sql("CHECKPOINT");
    a.stop().await;
    let archive = a.data_dir().join("pg_wal").display().to_string();
    let asked = b.dir.path().join("asked");
    let command = format!("echo %f >> {}; cp {archive}/%f %p", asked.display());
    b.configure(&format!(
        "postgresql: {{recovery_conf: {{restore_command: '{command}'}}}}"
    ));
    let alone = Follow {
        only_streams: true,
        ..Follow::default()
    };
    b.start(Recovery::Follow(alone)).await;
    assert_eq!(b.sql("SHOW restore_command"), "");
    assert!(!asked.exists(), "nothing was asked of the archive");
    b.server.promote(|| Ok(()), true, soon()).await.unwrap();
    assert_eq!(b.sql("SELECT max(n) FROM t"), "42");

    // Nobody has more than b now: c asks for its segment and the next history, once each.
    let c = b.replica("c").await;
    c.configure(&format!(
        "postgresql: {{recovery_conf: {{restore_command: 'echo %f >> {}; exit 1'}}}}",
        asked.display()
    ));
    fs::remove_file(&asked).unwrap();
    b.stop().await;
    c.server.promote(|| Ok(()), true, soon()).await.unwrap();
    let mut names: Vec<String> = fs::read_to_string(&asked)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    assert!(names.contains(&"00000003.history".to_owned()), "{names:?}");
    let lines = fs::read_to_string(&asked).unwrap().lines().count();
    assert_eq!(lines, names.len(), "each file is asked for once: {names:?}");
}
