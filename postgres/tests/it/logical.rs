//! Logical slots: made, copied to a standby, moved forward there, and used after its promotion.

use crate::harness::{Installation, Node, soon, tests, until};
use ha::pg::SlotName;
use tamada_postgres::Recovery;

tests![a_logical_slot_is_copied_and_used_after_the_promotion];

const LOGICAL: &str = "dynamic: {postgresql: {parameters: {wal_level: logical, hot_standby_feedback: 'on'}}}";

async fn a_logical_slot_is_copied_and_used_after_the_promotion(installation: Installation) {
    let a = Node::with(&installation, "a", LOGICAL);
    a.bootstrap().await;
    let b = a.replica("b").await;
    b.configure(LOGICAL);
    let feed = SlotName("feed".to_owned());
    let missing = SlotName("missing".to_owned());
    for _ in 0..2 {
        a.server
            .create_logical_slot(&feed, "postgres", "test_decoding", soon())
            .await
            .unwrap();
    }
    a.sql("CREATE TABLE t (a int)");
    a.sql("INSERT INTO t VALUES (1)");

    let (names, source) = ([feed.clone(), missing], a.source());
    let states = b.server.slot_states_of(&source, &names, soon()).await.unwrap();
    assert_eq!(states.len(), 1, "what is not there is not copied");
    let refused = b.server.write_slot_state(&states[0]).unwrap_err().to_string();
    assert!(refused.contains("while PostgreSQL runs"), "{refused}");
    b.until_caught_up_with(&a).await;
    b.stop().await;
    b.server.write_slot_state(&states[0]).unwrap();
    b.start(Recovery::Follow(a.follow(&b))).await;
    b.until_streaming().await;
    let found = b.server.slots(soon()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].name, found[0].active), (&feed, false));
    assert!(found[0].catalog_xmin.is_some());

    // The standby tells the primary what its copy needs.
    let physical = b.server.name().slot_name();
    until("the slot on the primary keeps catalog rows", async || {
        let told = b
            .server
            .slot_horizons_of(&source, &physical, &names, soon())
            .await;
        told.is_ok_and(|told| told.physical.is_some() && told.logical.contains_key(&feed))
    })
    .await;

    // It moves with its user, but not past what is replayed.
    a.sql("SELECT count(*) FROM pg_logical_slot_get_changes('feed', NULL, NULL)");
    a.sql("INSERT INTO t VALUES (2)");
    let used = a.server.slots(soon()).await.unwrap();
    let used = used.iter().find(|slot| slot.name == feed).unwrap();
    let to = used.confirmed_flush_lsn.unwrap();
    b.until_caught_up_with(&a).await;
    b.server
        .advance_slot(&feed, to, Some("postgres"), soon())
        .await
        .unwrap();
    let moved = b.server.slots(soon()).await.unwrap();
    assert_eq!(moved[0].confirmed_flush_lsn, Some(to));

    b.server.promote(|| Ok(()), true, soon()).await.unwrap();
    let rows = b.sql("SELECT string_agg(data, ';') FROM pg_logical_slot_get_changes('feed', NULL, NULL) WHERE data LIKE 'table%'");
    assert_eq!(rows, "table public.t: INSERT: a[integer]:2");
}
