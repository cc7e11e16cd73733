//! Divergence and pg_rewind.

use crate::harness::{Installation, Node, soon, tests};
use ha::pg::Timeline;
use tamada_postgres::rewind::{RewindAbility, Rewound};
use tamada_postgres::{Recovery, StopMode, StopOptions};

tests![
    a_former_primary_that_wrote_on_is_rewound,
    a_clean_switchover_needs_no_rewind,
    facts_of_running_servers,
];

async fn a_former_primary_that_wrote_on_is_rewound(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let b = a.replica("b").await;
    b.server.promote(|| Ok(()), soon()).await.unwrap();
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
    b.server.promote(|| Ok(()), soon()).await.unwrap();
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
