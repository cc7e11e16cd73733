//! What is stored where, and how much of it.

use std::time::Duration;

use ha::cluster::Cluster;
use tamada_dcs::zookeeper::Zookeeper;
use tamada_dcs::{Dcs, Error, Expect, Identity, Key, Layout};

use super::hand::{Found, Hand};
use super::server::Ensemble;
use crate::contract::{LIMIT, TIMING, eventually, identity};
use crate::server::Server;

async fn member(ensemble: &Ensemble, layout: Layout, name: &str) -> Zookeeper {
    Zookeeper::connect(&ensemble.config(), layout, Some(identity(name)), TIMING)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_layout_is_patronis_byte_for_byte() {
    let ensemble = Ensemble::start(1);
    let a = member(&ensemble, Layout::new("/service/", "batman", None), "a").await;
    let member = r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","state":"running"}"#;
    assert!(a.touch_member(member).await.unwrap() && a.acquire_leader().await.unwrap());
    let keys = [
        (Key::Initialize, "7277694203142172922"),
        (Key::Config, r#"{"ttl":30}"#),
        (Key::Failover, "{}"),
        (Key::Sync, r#"{"leader":"a","quorum":0,"sync_standby":null}"#),
        (Key::History, "[]"),
        (Key::Status, r#"{"optime":67108968}"#),
        (Key::Failsafe, r#"{"a":"http://127.0.0.1:8008/patroni"}"#),
    ];
    for (key, value) in keys {
        assert!(a.write(key, value, Expect::Anything).await.unwrap().is_some());
    }
    let mut hand = Hand::new(ensemble.members[0].port);
    let mut names = hand.children("/service/batman");
    names.sort();
    let expected = [
        "config",
        "failover",
        "failsafe",
        "heartbeat",
        "history",
        "initialize",
        "leader",
        "members",
        "status",
        "sync",
    ];
    assert_eq!(names, expected);
    let owner: i64 = ensemble.session(&a.lease().unwrap()).parse().unwrap();
    let found = |data: &str, version, owner| {
        Some(Found {
            data: data.to_owned(),
            version,
            owner,
        })
    };
    assert_eq!(
        hand.get("/service/batman/leader"),
        found("a", 1, owner),
        "version 1 tells it from Patroni's"
    );
    assert_eq!(hand.get("/service/batman/members/a"), found(member, 0, owner));
    for (key, value) in keys {
        assert_eq!(
            hand.get(&format!("/service/batman/{}", key.as_str())),
            found(value, 0, 0)
        );
    }
    let heartbeat = hand.get("/service/batman/heartbeat").unwrap();
    assert_eq!(heartbeat.owner, 0, "it outlives the leader");
    assert!(
        heartbeat
            .data
            .starts_with(r#"{"leader":"a","ttl_ms":30000,"sent":{"agent":"#),
        "{heartbeat:?}"
    );
    // Patroni's members do not delete this key either.
    assert!(a.delete(Key::Sync, Expect::Anything).await.unwrap());
    assert_eq!(hand.get("/service/batman/sync"), found("{}", 1, 0));
    assert!(
        !a.delete(Key::Sync, Expect::Version(ha::cluster::Version(1)))
            .await
            .unwrap()
    );
    let again = a
        .write(Key::Sync, r#"{"leader":"a"}"#, Expect::Absent)
        .await
        .unwrap();
    assert!(again.is_some(), "what was deleted is absent");
}

#[tokio::test]
async fn a_reader_sees_what_is_confirmed_and_holds_nothing() {
    let ensemble = Ensemble::start(3);
    let layout = Layout::new("service", "batman", None);
    let a = member(&ensemble, layout.clone(), "a").await;
    let ctl = Zookeeper::connect(&ensemble.config(), layout, None, TIMING)
        .await
        .unwrap();
    assert!(ctl.load().await.unwrap().is_empty());
    for round in 0..20 {
        let value = format!(r#"{{"ttl":{round}}}"#);
        let version = a.write(Key::Config, &value, Expect::Anything).await.unwrap();
        let config = ctl.load().await.unwrap().config.unwrap();
        assert_eq!(
            (config.value["ttl"].as_u64(), Some(config.version)),
            (Some(round), version)
        );
    }
    let error = ctl.acquire_leader().await.unwrap_err();
    assert!(matches!(error, Error::Fatal(_)), "{error:#}");
    assert_eq!(ctl.lease(), None);
    let scopes = Zookeeper::scopes(&ensemble.config(), "/service/", TIMING)
        .await
        .unwrap();
    assert_eq!(scopes.into_iter().collect::<Vec<_>>(), ["batman"]);
    // Keys that nobody reads, and a member's that are in the way.
    let mut hand = Hand::new(ensemble.members[0].port);
    hand.put("/service/batman/members/x/deep/er", "1");
    hand.put("/service/batman/foreign/thing", "1");
    ctl.delete_cluster().await.unwrap();
    ctl.delete_cluster().await.unwrap();
    assert!(ctl.load().await.unwrap().is_empty());
    assert_eq!(Hand::new(ensemble.members[1].port).get("/service/batman"), None);
    assert!(
        Zookeeper::scopes(&ensemble.config(), "service", TIMING)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_coordinator_sees_all_groups() {
    let ensemble = Ensemble::start(1);
    let coordinator = member(&ensemble, Layout::new("service", "c", Some(0)), "a").await;
    let worker = member(&ensemble, Layout::new("service", "c", Some(12)), "w").await;
    assert!(coordinator.acquire_leader().await.unwrap());
    let mut changes = coordinator.changes();
    let before = changes.borrow_and_update().workers;
    assert!(worker.acquire_leader().await.unwrap() && worker.touch_member("{}").await.unwrap());
    let told = changes.wait_for(|changes| changes.workers > before);
    tokio::time::timeout(LIMIT, told).await.unwrap().unwrap();
    let led = |cluster: &Cluster| {
        let group = cluster.workers.get(&12)?;
        let is_led = group.leader.as_ref().is_some_and(|leader| leader.name.0 == "w");
        (is_led && group.members.len() == 1 && cluster.leader.is_some()).then_some(())
    };
    eventually(&coordinator, LIMIT, "the worker's keys", led).await;
    assert!(worker.load().await.unwrap().workers.is_empty());
    // Read anew, it is the same.
    let reader = Zookeeper::connect(
        &ensemble.config(),
        Layout::new("service", "c", Some(0)),
        None,
        TIMING,
    )
    .await
    .unwrap();
    let cluster = reader.load().await.unwrap();
    assert!(led(&cluster).is_some(), "{cluster:?}");
}

#[tokio::test]
async fn large_values_are_written_up_to_the_servers_limit() {
    let ensemble = Ensemble::start(1);
    let a = member(&ensemble, Layout::new("service", "batman", None), "a").await;
    let value = |length: usize| format!("[\"{}\"]", "x".repeat(length));
    assert!(
        a.write(Key::History, &value(1_000_000), Expect::Anything)
            .await
            .unwrap()
            .is_some()
    );
    let seen = |cluster: &Cluster| cluster.history.clone();
    eventually(&a, LIMIT, "it is read", seen).await;
    let error = a
        .write(Key::History, &value(1_100_000), Expect::Anything)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    assert!(format!("{error:#}").contains("jute.maxbuffer"), "{error:#}");
    assert!(a.acquire_leader().await.unwrap(), "the connection is good");
}

/// The agent before us was killed, and its session lives: the keys are ours at once. The machine's own clock says what was before.
#[tokio::test]
async fn a_session_survives_the_agent() {
    let ensemble = Ensemble::start(3);
    let layout = Layout::new("service", "batman", None);
    let a = member(&ensemble, layout.clone(), "a").await;
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    let lease = a.lease();
    // It still runs, as a process that is being replaced does.
    let identity = Identity {
        name: "a".into(),
        lease: lease.clone(),
    };
    let next = Zookeeper::connect(&ensemble.config(), layout, Some(identity), TIMING)
        .await
        .unwrap();
    assert!(next.touch_member("{}").await.unwrap());
    assert!(
        next.renew_leader(tamada_dcs::WhenGone::Lost)
            .await
            .unwrap()
            .is_held()
    );
    assert_eq!(next.lease(), lease);
    drop(a);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        next.renew_leader(tamada_dcs::WhenGone::Lost)
            .await
            .unwrap()
            .is_held()
    );
}
