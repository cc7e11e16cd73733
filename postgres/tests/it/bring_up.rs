//! initdb, start, status, stop.

use crate::harness::{Installation, Node, mode, soon, tests, until};
use ha::pg::{DatabaseState, Role, Timeline};
use std::fs;
use tamada_postgres::{
    DataDirectory, Error, Readiness, Recovery, StatusWants, StopMode, StopOptions, StopProgress, Stopped,
};
use tokio::sync::watch;

tests![
    a_server_is_made_started_and_stopped,
    the_rest_of_the_program_may_end_and_find_it_again,
    a_stop_that_does_not_work_is_made_harder,
    immediate_mode_leaves_recovery_to_the_next_start,
];

async fn a_server_is_made_started_and_stopped(installation: Installation) {
    let node = Node::new(&installation, "a");
    let server = &node.server;
    assert_eq!(server.data_directory(), DataDirectory::Empty);
    assert_eq!(server.role_of_data_directory(), Role::Uninitialized);
    assert_eq!(server.readiness(soon()).await.unwrap(), Readiness::NoResponse);
    node.bootstrap().await;

    assert_eq!(server.data_directory(), DataDirectory::Filled);
    assert_eq!(server.role_of_data_directory(), Role::Primary);
    assert_eq!(server.readiness(soon()).await.unwrap(), Readiness::Accepting);
    let status = node.status().await;
    assert!(!status.in_recovery && status.lsn.0 > 0);
    assert_eq!(status.timeline, Some(Timeline(1)));
    assert_eq!(status.server_version.major(), installation.major);
    assert!(
        status.postmaster_start_time.ends_with("+00:00"),
        "{}",
        status.postmaster_start_time
    );
    let rest = server.rest_status(soon()).await.unwrap();
    assert_eq!(
        (rest.timeline, rest.location.is_some()),
        (Some(Timeline(1)), true)
    );
    assert_eq!(node.sql("SELECT string_agg(application_name, ',' ORDER BY application_name) FROM pg_stat_activity WHERE application_name LIKE 'Patroni%'"), "Patroni heartbeat,Patroni restapi");
    assert_eq!(mode(&node.data_dir().join("postgresql.conf")), 0o600);
    assert_eq!(node.sql("SHOW cluster_name"), "demo");
    let roles = "SELECT string_agg(rolname || ' ' || rolsuper || ' ' || rolreplication, ',' ORDER BY rolname) \
                 FROM pg_roles WHERE rolname IN ('postgres', 'replicator', 'rewinder')";
    assert_eq!(
        node.sql(roles),
        "postgres true true,replicator false true,rewinder false false"
    );
    for backup in [
        "postgresql.conf.backup",
        "postgresql.base.conf.backup",
        "pg_hba.conf.backup",
    ] {
        assert!(node.data_dir().join(backup).exists(), "{backup}");
    }

    let refused = server.remove_data_directory().await.unwrap_err();
    assert!(matches!(refused, Error::Unsuitable(_)), "{refused}");
    let (sender, receiver) = watch::channel(StopProgress::Preparing);
    let seen = tokio::spawn(collect(receiver));
    let options = StopOptions {
        mode: StopMode::Fast,
        checkpoint_first: true,
        escalate_at: None,
    };
    assert_eq!(
        server.stop(options, Some(&sender), soon()).await.unwrap(),
        Stopped::AsAsked
    );
    drop(sender);
    let seen = seen.await.unwrap();
    assert!(
        matches!(
            seen.as_slice(),
            [.., StopProgress::ShutDown(_), StopProgress::Exited]
        ),
        "{seen:?}"
    );
    assert_eq!(
        server.control_data(soon()).await.unwrap().state,
        DatabaseState::ShutDown
    );
    assert!(server.postmaster().unwrap().is_none());
    assert!(matches!(
        server.status(StatusWants::default(), soon()).await,
        Err(Error::Connect { .. })
    ));
    assert_eq!(node.stop().await, Stopped::WasNotRunning);
    node.start(Recovery::Primary).await;
    assert_eq!(node.status().await.timeline, Some(Timeline(1)));
}

async fn collect(mut receiver: watch::Receiver<StopProgress>) -> Vec<StopProgress> {
    let mut seen = vec![receiver.borrow_and_update().clone()];
    while receiver.changed().await.is_ok() {
        seen.push(receiver.borrow_and_update().clone());
    }
    seen
}

async fn the_rest_of_the_program_may_end_and_find_it_again(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    let found = node.server.postmaster().unwrap().unwrap();
    let session = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(3)
            .unwrap()
            .parse::<i32>()
            .unwrap()
    };
    assert_ne!(
        session(found.pid()),
        session(i32::try_from(std::process::id()).unwrap()),
        "a session of its own"
    );
    node.configure("");
    let again = node.server.wait_until_accepting(&found, soon()).await.unwrap();
    assert!(
        matches!(again, tamada_postgres::Started::Accepting(postmaster) if postmaster.pid() == found.pid())
    );
    let refused = node
        .server
        .start(
            &tamada_postgres::StartOptions {
                recovery: Recovery::Primary,
                without_hot_standby: false,
            },
            soon(),
        )
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("runs already"), "{refused}");
}

async fn a_stop_that_does_not_work_is_made_harder(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    let mut session = node
        .psql()
        .args(["-c", "SELECT pg_sleep(100)"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the session is there", async || {
        node.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
    })
    .await;
    let escalate_at = Some(tamada_postgres::Instant::now() + std::time::Duration::from_millis(300));
    let options = StopOptions {
        mode: StopMode::Smart,
        checkpoint_first: false,
        escalate_at,
    };
    assert_eq!(
        node.server.stop(options, None, soon()).await.unwrap(),
        Stopped::Immediately
    );
    assert!(!session.wait().unwrap().success());
    assert_eq!(
        node.server.control_data(soon()).await.unwrap().state,
        DatabaseState::InProduction
    );
}

async fn immediate_mode_leaves_recovery_to_the_next_start(installation: Installation) {
    let node = Node::primary(&installation, "a").await;
    node.sql("CREATE TABLE t AS SELECT 1 AS a");
    let options = StopOptions {
        mode: StopMode::Immediate,
        checkpoint_first: false,
        escalate_at: None,
    };
    assert_eq!(
        node.server.stop(options, None, soon()).await.unwrap(),
        Stopped::AsAsked
    );
    node.start(Recovery::Primary).await;
    assert_eq!(node.sql("SELECT a FROM t"), "1");
}
