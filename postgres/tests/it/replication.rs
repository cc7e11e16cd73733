//! Copies, following, slots, promotion.

use crate::harness::{Installation, Node, soon, tests, until};
use ha::pg::{Lsn, SlotName, Timeline};
use std::fs;
use tamada_postgres::{CloneMethods, CloneSource, DataDirectory, Drift, Recovery, Source, slots::SlotDrop};

tests![
    a_copy_follows_and_is_promoted,
    the_source_is_changed_without_a_restart,
    slots_are_made_moved_and_dropped,
    a_wrong_password_leaves_nothing_behind,
    a_standby_takes_the_primarys_larger_values,
];

async fn a_copy_follows_and_is_promoted(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b-1").await;
    a.sql("CREATE TABLE t AS SELECT 7 AS a");
    b.until_caught_up_with(&a).await;
    assert_eq!(b.sql("SELECT a FROM t"), "7");
    let status = b.status().await;
    assert!(status.in_recovery && status.received.is_some());
    assert_eq!(status.timeline, Some(Timeline(1)));
    let receiver = status.wal_receiver.unwrap();
    assert_eq!(receiver.slot_name, Some(SlotName("b_1".to_owned())));
    let sender = a.status().await.wal_senders.pop().unwrap();
    assert_eq!(
        (sender.application_name.as_str(), sender.state.as_str()),
        ("b-1", "streaming")
    );
    assert_eq!(sender.usename.as_deref(), Some("replicator"));
    let rest = b.server.rest_status(soon()).await.unwrap();
    assert!(rest.replayed_timestamp.is_some() && rest.location.is_none());
    // Votes in a race are counted by it.
    assert_eq!(rest.timeline, Some(Timeline(1)));
    let conf = fs::read_to_string(b.data_dir().join("postgresql.conf")).unwrap();
    assert!(
        conf.contains("passfile=") && !conf.contains("rep:pass"),
        "the password stays in its file"
    );
    assert_eq!(b.server.local_timeline(soon()).await.unwrap(), Timeline(1));

    let refused = b
        .server
        .promote(|| Err("the lease has run out".to_owned()), true, soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("the lease has run out") && b.status().await.in_recovery,
        "{refused}"
    );
    b.server.promote(|| Ok(()), true, soon()).await.unwrap();
    b.sql("INSERT INTO t VALUES (8)");
    assert_eq!(b.status().await.timeline, Some(Timeline(2)));
    assert_eq!(b.server.recovery_signal(), tamada_postgres::RecoverySignal::None);
    let (history, _) = b.server.history_file(Timeline(2)).unwrap().unwrap();
    assert_eq!(history[0].timeline, Timeline(1));
    assert!(b.server.history_file(Timeline(9)).unwrap().is_none());
    let again = b
        .server
        .promote(|| Ok(()), true, soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(again.contains("not a standby"), "{again}");
    b.server.checkpoint(soon()).await.unwrap();
    assert_eq!(b.status().await.control_timeline, Timeline(2));
}

async fn the_source_is_changed_without_a_restart(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    let c = a.replica("c").await;
    let started = c.server.postmaster().unwrap().unwrap().pid();
    assert_eq!(c.server.drift(&a.follow(&c), soon()).await.unwrap(), Drift::Same);
    b.server
        .create_physical_slot(&SlotName("c".to_owned()), soon())
        .await
        .unwrap();
    let to_b = b.follow(&c);
    let drift = c.server.drift(&to_b, soon()).await.unwrap();
    assert!(
        matches!(&drift, Drift::Reload(names) if names.contains(&"primary_conninfo".to_owned())),
        "{drift:?}"
    );
    c.server.follow(&to_b, soon()).await.unwrap();
    assert_eq!(c.server.drift(&to_b, soon()).await.unwrap(), Drift::Same);
    until("b sends to c", async || {
        b.status()
            .await
            .wal_senders
            .iter()
            .any(|sender| sender.application_name == "c")
    })
    .await;
    assert_eq!(c.server.postmaster().unwrap().unwrap().pid(), started);
    c.configure("postgresql: {parameters: {work_mem: 9MB}}");
    c.server.apply(false, soon()).await.unwrap();
    assert_eq!(
        c.server.drift(&to_b, soon()).await.unwrap(),
        Drift::Same,
        "a reload keeps the source"
    );
    fs::remove_file(c.data_dir().join("standby.signal")).unwrap();
    assert!(matches!(
        c.server.drift(&to_b, soon()).await.unwrap(),
        Drift::Restart(_)
    ));
    c.sql("SELECT pg_wal_replay_pause()");
    until("replay is paused", async || c.status().await.replay_paused).await;
    c.server.resume_replay(soon()).await.unwrap();
    assert!(!c.status().await.replay_paused);
}

async fn slots_are_made_moved_and_dropped(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    let slot = SlotName("s1".to_owned());
    for _ in 0..2 {
        node.server.create_physical_slot(&slot, soon()).await.unwrap();
    }
    let found = node.server.slots(soon()).await.unwrap();
    assert_eq!(found, node.status().await.slots);
    let before = found[0].restart_lsn.expect("it reserves WAL at once");
    node.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let lsn = node.status().await.lsn;
    node.server.advance_slot(&slot, lsn, None, soon()).await.unwrap();
    let after = node.server.slots(soon()).await.unwrap()[0].restart_lsn.unwrap();
    assert!(after > before && after <= lsn, "{before} {after} {lsn}");
    let error = node
        .server
        .advance_slot(&slot, Lsn(1), None, soon())
        .await
        .unwrap_err();
    assert!(error.sqlstate().is_some(), "{error}");
    assert_eq!(
        node.server.drop_slot(&slot, soon()).await.unwrap(),
        SlotDrop::Dropped
    );
    assert_eq!(
        node.server.drop_slot(&slot, soon()).await.unwrap(),
        SlotDrop::Missing
    );
    let replica = node.replica("b").await;
    let used = replica.server.name().slot_name();
    assert_eq!(
        node.server.drop_slot(&used, soon()).await.unwrap(),
        SlotDrop::Active
    );
}

async fn a_wrong_password_leaves_nothing_behind(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = Node::with(
        &installation,
        "b",
        "postgresql: {authentication: {replication: {username: replicator, password: topsecret}}}",
    );
    let from = CloneSource {
        name: Some("a".to_owned()),
        source: Some(a.source()),
    };
    // Too short for a second attempt.
    let deadline = tamada_postgres::Instant::now() + std::time::Duration::from_millis(4500);
    let error = b
        .server
        .create_replica(&from, &CloneMethods::BasebackupOnly, deadline)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("password authentication failed") && error.contains("replicator"),
        "{error}"
    );
    assert!(!error.contains("topsecret"), "{error}");
    assert_eq!(b.server.data_directory(), DataDirectory::Empty);
    let nobody = Source {
        port: b.port.to_string(),
        ..a.source()
    };
    let from = CloneSource {
        name: None,
        source: Some(nobody),
    };
    let error = b
        .server
        .create_replica(&from, &CloneMethods::Configured, deadline)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("pg_basebackup") && error.to_lowercase().contains("connection"),
        "{error}"
    );
    let from = CloneSource {
        name: None,
        source: None,
    };
    let error = b
        .server
        .create_replica(&from, &CloneMethods::Configured, deadline)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("without a running source"), "{error}");
}

async fn a_standby_takes_the_primarys_larger_values(installation: Installation) {
    let a = Node::with(
        &installation,
        "a",
        "dynamic: {postgresql: {parameters: {max_connections: 120}}}",
    );
    a.bootstrap().await;
    let b = a.replica("b").await;
    assert_eq!(b.sql("SHOW max_connections"), "120", "100 is configured here");
    let waiting = b.server.pending_restart(soon()).await.unwrap();
    let reason = &waiting["max_connections"];
    assert_eq!(
        (reason.old_value.as_str(), reason.new_value.as_str()),
        ("120", "100")
    );
    b.stop().await;
    b.start(Recovery::Primary).await;
    assert_eq!(b.sql("SHOW max_connections"), "100");
}
