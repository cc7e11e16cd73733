//! A server that ends without being asked.

use crate::harness::{Installation, Node, soon, tests};
use ha::pg::DatabaseState;
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tamada_postgres::{Error, Recovery};

tests![
    a_killed_postmaster_is_noticed_at_once,
    single_user_mode_recovers,
    what_a_crash_left_to_replay_is_told
];

async fn a_killed_postmaster_is_noticed_at_once(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.sql("CREATE TABLE t AS SELECT 5 AS a");
    node.status().await;
    let postmaster = node.server.postmaster().unwrap().unwrap();
    let killed = Instant::now();
    postmaster.signal(Signal::KILL).unwrap();
    postmaster.exited().await;
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "told by the kernel, not found out later: {:?}",
        killed.elapsed()
    );
    assert!(node.server.postmaster().unwrap().is_none());
    assert!(matches!(node.server.reload(), Err(Error::NotRunning)));
    // A backend notices its postmaster's end by itself, and may answer once more before it does.
    let wants = tamada_postgres::StatusWants::default();
    let answers_no_more = async { while node.server.status(wants, soon()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), answers_no_more)
        .await
        .unwrap();
    assert_eq!(
        node.server.control_data(soon()).await.unwrap().state,
        DatabaseState::InProduction
    );
    node.start(Recovery::Primary).await;
    assert_eq!(node.sql("SELECT a FROM t"), "5");
    assert_eq!(node.status().await.timeline.unwrap().0, 1, "the same timeline");
}

async fn single_user_mode_recovers(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.sql("CREATE TABLE t AS SELECT 5 AS a");
    let refused = node.server.single_user_recovery(soon()).await.unwrap_err();
    assert!(matches!(refused, Error::Unsuitable(_)));
    node.server
        .postmaster()
        .unwrap()
        .unwrap()
        .signal(Signal::KILL)
        .unwrap();
    node.server
        .stop(
            tamada_postgres::StopOptions {
                mode: tamada_postgres::StopMode::Fast,
                checkpoint_first: false,
                escalate_at: None,
            },
            None,
            soon(),
        )
        .await
        .unwrap();
    node.server.single_user_recovery(soon()).await.unwrap();
    assert_eq!(
        node.server.control_data(soon()).await.unwrap().state,
        DatabaseState::ShutDown
    );
    node.start(Recovery::Primary).await;
    assert_eq!(node.sql("SELECT a FROM t"), "5");
}

async fn what_a_crash_left_to_replay_is_told(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    let refused = node.server.crash_recovery(soon()).await.unwrap_err();
    assert!(matches!(refused, Error::Unsuitable(_)), "{refused}");
    node.sql("CREATE TABLE t (a text)");
    for round in 0..3 {
        // Of the segments that checkpoints leave to be used again, several are there by the second round.
        node.sql("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 40000)");
        node.sql("CHECKPOINT");
        let written = 8 * (round + 1);
        node.sql(&format!(
            "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, {})",
            written * 1000
        ));
        let end: ha::pg::Lsn = node.sql("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
        let postmaster = node.server.postmaster().unwrap().unwrap();
        postmaster.signal(Signal::KILL).unwrap();
        postmaster.exited().await;
        let recovery = node.server.crash_recovery(soon()).await.unwrap();
        assert_eq!(
            recovery.redo,
            node.server.control_data(soon()).await.unwrap().redo
        );
        // A process of the background may write a record or two after we have looked.
        assert!(
            recovery.end >= end && recovery.end.0 - end.0 < 8192,
            "{recovery:?}, {end}"
        );
        let megabytes = recovery.bytes() >> 20;
        assert!(
            (written..2 * written + 2).contains(&megabytes),
            "{megabytes} of {written}"
        );
        node.start(Recovery::Primary).await;
    }
}
