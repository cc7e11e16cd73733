//! Divergence and pg_rewind.

use crate::harness::{Installation, Node, script, soon, tests, until};
use ha::pg::Timeline;
use std::fs;
use tamada_postgres::rewind::{RewindAbility, Rewound};
use tamada_postgres::{Recovery, StartOptions, StopMode, StopOptions};

tests![
    a_former_primary_that_wrote_on_is_rewound,
    a_clean_switchover_needs_no_rewind,
    facts_of_running_servers,
    wal_that_only_the_archive_has_is_fetched,
    what_a_rewind_has_left_half_done_is_not_started,
];

async fn a_former_primary_that_wrote_on_is_rewound(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    b.server.promote(|| Ok(()), true, soon()).await.unwrap();
    a.sql("CREATE TABLE lost AS SELECT 1 AS a");
    b.sql("CREATE TABLE kept AS SELECT 2 AS a");
    let options = StopOptions {
        mode: StopMode::Immediate,
        checkpoint_first: false,
        escalate_at: None,
    };
    a.server.stop(options, None, soon()).await.unwrap();
    assert_eq!(
        a.server.rewind_ability(soon()).await.unwrap(),
        RewindAbility::Possible
    );
    a.server.single_user_recovery(soon()).await.unwrap();

    let facts = a.server.divergence(&b.source(), soon()).await.unwrap();
    assert!(!facts.local.in_recovery && !facts.leader.in_recovery);
    assert_eq!(
        (facts.local.timeline, facts.leader.timeline),
        (Timeline(1), Timeline(2))
    );
    assert_eq!(facts.leader.history[0].timeline, Timeline(1));
    assert!(facts.local.lsn > facts.leader.history[0].switch_lsn, "{facts:?}");
    let identity = a.server.control_data(soon()).await.unwrap().system_identifier;
    assert_eq!(facts.leader.system_identifier, identity);

    // Without rights to CHECKPOINT the rewind role sees whether one has been made.
    b.server.checkpoint(soon()).await.unwrap();
    assert!(a.server.checkpoint_on(&b.source(), soon()).await.unwrap());
    assert_eq!(a.server.rewind(&b.source(), soon()).await.unwrap(), Rewound::Done);
    b.server
        .create_physical_slot(&a.server.name().slot_name(), soon())
        .await
        .unwrap();
    a.start(Recovery::Follow(b.follow(&a))).await;
    a.until_streaming().await;
    a.until_caught_up_with(&b).await;
    assert_eq!(a.sql("SELECT a FROM kept"), "2");
    assert_eq!(a.sql("SELECT count(*) FROM pg_class WHERE relname = 'lost'"), "0");
    assert_eq!(a.status().await.timeline, Some(Timeline(2)));
}

async fn a_clean_switchover_needs_no_rewind(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    a.sql("CREATE TABLE t AS SELECT 1 AS a");
    a.stop().await;
    b.server.promote(|| Ok(()), true, soon()).await.unwrap();
    let facts = a.server.divergence(&b.source(), soon()).await.unwrap();
    let switch = facts.leader.history[0].switch_lsn;
    assert!(facts.local.lsn < switch, "{facts:?}");
    assert_eq!(
        facts.shutdown_checkpoint_end,
        Some(switch),
        "the new timeline begins where the old one was shut down"
    );
    let last = a.server.last_record_before_shutdown(soon()).await.unwrap();
    assert!(last < facts.local.lsn, "{last}");
    b.server
        .create_physical_slot(&a.server.name().slot_name(), soon())
        .await
        .unwrap();
    a.start(Recovery::Follow(b.follow(&a))).await;
    a.until_streaming().await;
}

async fn facts_of_running_servers(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    let local = b.server.local_position(soon()).await.unwrap();
    assert!(local.in_recovery && local.timeline == Timeline(1) && local.lsn.0 > 0);
    let leader = b.server.leader_facts(&a.source(), soon()).await.unwrap();
    assert!(!leader.in_recovery && leader.history.is_empty());
    let of_standby = a.server.leader_facts(&b.source(), soon()).await.unwrap();
    assert!(of_standby.in_recovery);
    b.stop().await;
    let stopped = b.server.local_position(soon()).await.unwrap();
    assert!(stopped.in_recovery && stopped.lsn >= local.lsn, "{stopped:?}");
    a.stop().await;
    let error = b
        .server
        .leader_facts(&a.source(), soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("psql") && !error.contains("rewind-pass"),
        "{error}"
    );
}

/// `a` has written on after `b` was promoted, crashed and has recovered.
async fn parted(a: &Node, b: &Node) {
    b.server.promote(|| Ok(()), true, soon()).await.unwrap();
    b.server.checkpoint(soon()).await.unwrap();
    a.sql("CREATE TABLE lost AS SELECT 1 AS a");
    let options = StopOptions {
        mode: StopMode::Immediate,
        checkpoint_first: false,
        escalate_at: None,
    };
    a.server.stop(options, None, soon()).await.unwrap();
    a.server.single_user_recovery(soon()).await.unwrap();
}

/// The segments of the WAL in `pg_wal`, oldest first.
fn segments(node: &Node) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(node.data_dir().join("pg_wal"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.len() == 24)
        .collect();
    names.sort();
    names
}

/// By pg_rewind itself, and for a command that it cannot use, by us.
async fn wal_that_only_the_archive_has_is_fetched(installation: Installation) {
    for placeholder in ["", " # %r"] {
        let archive = tempfile::tempdir_in("/tmp").unwrap();
        let path = archive.path().display();
        let more = format!(
            "postgresql:
  parameters: {{archive_mode: 'on', archive_command: 'cp %p {path}/%f'}}
  recovery_conf: {{restore_command: 'cp {path}/%f %p{placeholder}'}}"
        );
        let a = Node::with(&installation, "a", &more);
        a.bootstrap().await;
        let b = a.replica("b").await;
        a.sql("CHECKPOINT");
        let checkpoint = segments(&a);
        for _ in 0..3 {
            a.sql("CREATE TABLE t (a int); DROP TABLE t");
            a.sql("SELECT pg_switch_wal()");
        }
        b.until_caught_up_with(&a).await;
        let needed = a.sql("SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()");
        assert!(checkpoint.contains(&needed), "{needed}");
        until("it is archived", async || archive.path().join(&needed).exists()).await;
        parted(&a, &b).await;
        let lacking: Vec<String> = segments(&a)
            .into_iter()
            .filter(|name| *name >= needed && archive.path().join(name).exists())
            .collect();
        assert!(lacking.len() >= 3, "{lacking:?}");
        for segment in &lacking {
            fs::remove_file(a.data_dir().join("pg_wal").join(segment)).unwrap();
        }
        let rewound = a.server.rewind(&b.source(), soon()).await.unwrap();
        assert_eq!(rewound, Rewound::Done, "{placeholder}");
        assert!(!a.server.is_half_rewound());
    }
}

async fn what_a_rewind_has_left_half_done_is_not_started(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    parted(&a, &b).await;
    let pretend = |text: &str| {
        let path = script(a.dir.path(), "pg_rewind", text);
        a.configure(&format!("postgresql: {{bin_name: {{pg_rewind: '{path}'}}}}"));
    };
    let mark = a.data_dir().join("tamada.rewinding");

    pretend("echo 'could not find previous WAL record' >&2; exit 1");
    let rewound = a.server.rewind(&b.source(), soon()).await.unwrap();
    assert!(matches!(rewound, Rewound::Failed(why) if why.contains("previous WAL record")));
    assert!(!a.server.is_half_rewound(), "it had not begun to write");

    // What the source does not have is removed, the mark too; it comes back.
    pretend(&format!(
        "echo 'pg_rewind: need to copy 1 MB' >&2; rm {mark}; while [ ! -e {mark} ]; do sleep 0.05; done; exit 1",
        mark = mark.display()
    ));
    let rewound = a.server.rewind(&b.source(), soon()).await.unwrap();
    assert!(matches!(rewound, Rewound::Failed(_)));
    assert!(a.server.is_half_rewound());
    let options = StartOptions {
        recovery: Recovery::Follow(b.follow(&a)),
        without_hot_standby: false,
    };
    let refused = a.server.start(&options, soon()).await.unwrap_err().to_string();
    assert!(refused.contains("in the middle of a rewind"), "{refused}");
    assert!(a.server.single_user_recovery(soon()).await.is_err());

    // One that fails before it writes does not make up for it, and neither does one that has nothing to do.
    pretend("echo 'pg_rewind: no rewind required'");
    let rewound = a.server.rewind(&b.source(), soon()).await.unwrap();
    assert!(matches!(rewound, Rewound::Failed(_)));
    assert!(a.server.is_half_rewound());

    a.configure("");
    b.stop().await;
    let rewound = a.server.rewind(&b.source(), soon()).await.unwrap();
    assert!(matches!(rewound, Rewound::SourceLost(_)), "{rewound:?}");
    assert!(a.server.is_half_rewound());
    b.start(Recovery::Primary).await;
    assert_eq!(a.server.rewind(&b.source(), soon()).await.unwrap(), Rewound::Done);
    assert!(!a.server.is_half_rewound());
    b.server
        .create_physical_slot(&a.server.name().slot_name(), soon())
        .await
        .unwrap();
    a.start(Recovery::Follow(b.follow(&a))).await;
    a.until_streaming().await;
}
