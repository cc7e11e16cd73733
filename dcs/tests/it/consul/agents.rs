//! Sessions that end while their holder lives, holders that leave no heartbeat, and the service in Consul's catalog.

use std::time::{Duration, Instant};

use ha::cluster::Cluster;
use serde_json::{Value, json};
use tamada_dcs::consul::Consul as Store;
use tamada_dcs::{Dcs, Expect, Key, Layout, Renewed, Timing, WhenGone};

use super::{Consul, SCOPE, config_of, connect, member};
use crate::contract::{LIMIT, TIMING, eventually, expired, identity};
use crate::server::Server;

const SHORT: Timing = Timing {
    ttl: Duration::from_secs(6),
    ..TIMING
};

const DATA: &str = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"primary"}"#;

fn session_of_leader(cluster: &Cluster) -> Option<(String, String)> {
    let leader = cluster.leader.as_ref()?;
    Some((leader.name.0.clone(), leader.session.clone()))
}

/// The agent of a living primary's host is restarted: its session, the leader key and the member key go, and nobody else leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_key_is_not_the_end_of_the_lock() {
    let mut consul = Consul::start(1);
    let agent = consul.add(false);
    consul.run(agent);
    consul.wait();
    let beside_a = config_of(vec![consul.nodes[agent].port]);
    let a = connect(&beside_a, "a", TIMING).await.unwrap();
    let b = member(&consul, "b", TIMING).await;
    assert!(a.touch_member(DATA).await.unwrap());
    assert!(a.acquire_leader().await.unwrap());
    let first = a.lease();
    let led = |cluster: &Cluster| (session_of_leader(cluster)?.1 != "0").then_some(());
    eventually(&b, LIMIT, "the leader shows", led).await;

    // An agent that leaves answers for a while, but creates no session: the lock is renewed all the same.
    consul.request("PUT", &format!("/v1/session/destroy/{}", a.lease().unwrap()), "");
    consul.request(
        "PUT",
        "/v1/catalog/deregister",
        &format!(r#"{{"Node":"n{agent}"}}"#),
    );
    let _ = a.touch_member(&DATA.replace("running", "stopping")).await;
    for _ in 0..3 {
        let renewed = a.renew_leader(WhenGone::Recreate).await.unwrap();
        assert_eq!(renewed, Renewed::Yes);
        assert!(!b.acquire_leader().await.unwrap());
    }

    consul.terminate(agent);
    let gone = |cluster: &Cluster| session_of_leader(cluster).filter(|(_, session)| session == "0");
    let (name, _) = eventually(&b, LIMIT, "the key is gone", gone).await;
    assert_eq!(consul.get("/service/batman/leader"), None);
    let cluster = b.load().await.unwrap();
    assert_eq!(name, "a", "it leads as long as its lock may be valid");
    let member = cluster.member(&"a".into()).unwrap();
    assert_eq!(
        member.data.conn_url.as_deref(),
        Some("postgres://10.0.0.1:5432/postgres")
    );
    assert!(!b.acquire_leader().await.unwrap());

    consul.run(agent);
    consul.wait();
    let until = Instant::now() + LIMIT;
    while !matches!(a.renew_leader(WhenGone::Recreate).await, Ok(Renewed::Yes)) {
        assert!(Instant::now() < until, "the leader renews its lock");
        assert!(!b.acquire_leader().await.unwrap(), "never two leaders");
    }
    assert!(a.touch_member(DATA).await.unwrap());
    assert_ne!(a.lease(), first);
    eventually(&b, LIMIT, "the leader's key shows again", led).await;
    assert_eq!(
        session_of_leader(&b.load().await.unwrap()).map(|(_, id)| id),
        a.lease()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_it_is_held_is_replaced() {
    let consul = Consul::start(1);
    let (a, b) = (
        member(&consul, "a", SHORT).await,
        member(&consul, "b", SHORT).await,
    );
    assert!(a.touch_member("{}").await.unwrap() && a.acquire_leader().await.unwrap());
    let layout = Layout::new("service", SCOPE, None);
    consul.expire(&layout, "a", a.lease());
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::No);
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    let bound =
        |cluster: &Cluster| session_of_leader(cluster).filter(|(_, id)| Some(id) == a.lease().as_ref());
    eventually(&b, LIMIT, "the key is locked by the new session", bound).await;

    // Its holder is silent from now on. Nobody leads before its lock has expired, and then somebody does.
    let renewed = Instant::now();
    consul.expire(&layout, "a", a.lease());
    let mut refusals = 0;
    while !b.acquire_leader().await.unwrap() {
        refusals += 1;
        assert!(renewed.elapsed() < SHORT.ttl + LIMIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        refusals > 0 && renewed.elapsed() >= SHORT.ttl - Duration::from_secs(1),
        "{:?}",
        renewed.elapsed()
    );
    assert_eq!(
        a.renew_leader(WhenGone::Recreate).await.unwrap(),
        Renewed::No,
        "another leads"
    );
}

/// A leader that stops gives its lock up, also where its key is gone already; no other agent of its name can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_is_withdrawn_by_the_agent_that_wrote_it() {
    let consul = Consul::start(1);
    let (a, b) = (
        member(&consul, "a", TIMING).await,
        member(&consul, "b", TIMING).await,
    );
    let clone = member(&consul, "a", TIMING).await;
    assert!(a.acquire_leader().await.unwrap());
    let layout = Layout::new("service", SCOPE, None);
    consul.expire(&layout, "a", a.lease());
    let gone = |cluster: &Cluster| session_of_leader(cluster).filter(|(_, session)| session == "0");
    eventually(&b, LIMIT, "the key is gone", gone).await;
    eventually(&clone, LIMIT, "the key is gone", gone).await;
    assert!(
        !clone.release_leader(None).await.unwrap(),
        "it has written no heartbeat"
    );
    assert!(!clone.acquire_leader().await.unwrap() && !b.acquire_leader().await.unwrap());
    assert!(a.release_leader(Some(r#"{"optime":7}"#)).await.unwrap());
    assert!(b.acquire_leader().await.unwrap(), "there is nothing to wait for");
    let cluster = b.load().await.unwrap();
    assert_eq!(cluster.status.optime.map(|optime| optime.0), Some(7));
}

/// Patroni writes no heartbeat: where its key is gone, Patroni's rule counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_without_a_heartbeat_leaves_nothing_to_wait_for() {
    let consul = Consul::start(1);
    let b = member(&consul, "b", TIMING).await;
    let session = consul.request(
        "PUT",
        "/v1/session/create",
        r#"{"TTL":"10s","LockDelay":"1ms","Behavior":"delete"}"#,
    );
    let session: Value = serde_json::from_str(&session).unwrap();
    let session = session["ID"].as_str().unwrap().to_owned();
    consul.request(
        "PUT",
        &format!("/v1/kv/service/batman/leader?acquire={session}"),
        "p",
    );
    let led = |cluster: &Cluster| session_of_leader(cluster).filter(|(name, _)| name == "p");
    assert_eq!(eventually(&b, LIMIT, "Patroni leads", led).await.1, session);
    assert!(!b.acquire_leader().await.unwrap());
    let layout = Layout::new("service", SCOPE, None);
    consul.expire(&layout, "p", Some(session));
    let free = |cluster: &Cluster| cluster.leader.is_none().then_some(());
    eventually(&b, LIMIT, "nobody leads", free).await;
    assert!(b.acquire_leader().await.unwrap());
}

/// A release, and a key that somebody has deleted, show at once through the blocking query.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_seen_at_once() {
    let consul = Consul::start(1);
    let (a, b) = (
        member(&consul, "a", TIMING).await,
        member(&consul, "b", TIMING).await,
    );
    let free = |cluster: &Cluster| cluster.leader.is_none().then_some(());
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        assert!(a.acquire_leader().await.unwrap());
        eventually(&b, LIMIT, "the leader shows", session_of_leader).await;
        assert!(a.release_leader(None).await.unwrap());
        let begun = Instant::now();
        eventually(&b, LIMIT, "nobody leads", free).await;
        assert!(b.acquire_leader().await.unwrap());
        quickest = quickest.min(begun.elapsed());
        assert!(b.release_leader(None).await.unwrap());
    }
    assert!(quickest < Duration::from_millis(150), "{quickest:?}");
    assert!(a.acquire_leader().await.unwrap());
    let bound = |cluster: &Cluster| session_of_leader(cluster).filter(|(_, session)| session != "0");
    eventually(&a, LIMIT, "the leader shows", bound).await;
    let mut changes = a.changes();
    changes.mark_unchanged();
    consul.wipe("/service/batman/leader");
    tokio::time::timeout(LIMIT, changes.changed())
        .await
        .unwrap()
        .unwrap();
    let (name, session) = session_of_leader(&a.load().await.unwrap()).unwrap();
    assert_eq!((name.as_str(), session.as_str()), ("a", "0"), "its lock is valid");
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
}

/// A silent holder is superseded before Consul ends its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_superseded_by_its_heartbeat() {
    let consul = Consul::start(1);
    let (a, b) = (
        member(&consul, "a", TIMING).await,
        member(&consul, "b", TIMING).await,
    );
    assert!(a.acquire_leader().await.unwrap());
    let old = eventually(&b, LIMIT, "the heartbeat", expired).await;
    assert!(b.supersede_leader(old).await.unwrap());
    assert_eq!(
        session_of_leader(&b.load().await.unwrap()).map(|(_, id)| id),
        b.lease()
    );
    assert!(!a.supersede_leader(old).await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
}

/// A plain write to a locked key leaves it locked, and is another holder all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_written_over_the_lock_is_another_holder() {
    let consul = Consul::start(1);
    let a = member(&consul, "a", TIMING).await;
    assert!(a.acquire_leader().await.unwrap());
    consul.request("PUT", "/v1/kv/service/batman/leader", "stranger");
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_listed_and_deleted() {
    let consul = Consul::start(1);
    let a = member(&consul, "a", TIMING).await;
    consul.put("/service/other/config", "{}");
    consul.put("/elsewhere/x/config", "{}");
    assert!(a.acquire_leader().await.unwrap());
    let scopes = Store::scopes(&consul.config(), "/service/", TIMING)
        .await
        .unwrap();
    assert_eq!(scopes.into_iter().collect::<Vec<_>>(), [SCOPE, "other"]);
    let layout = Layout::new("service", SCOPE, None);
    let ctl = Store::connect(&consul.config(), layout, None, TIMING)
        .await
        .unwrap();
    assert_eq!(
        session_of_leader(&ctl.load().await.unwrap()).map(|(_, id)| id),
        a.lease()
    );
    ctl.delete_cluster().await.unwrap();
    assert!(ctl.load().await.unwrap().is_empty());
    assert!(
        ctl.write(Key::Config, "{}", Expect::Absent)
            .await
            .unwrap()
            .is_some()
    );
}

fn services(consul: &Consul) -> Value {
    serde_json::from_str(&consul.request("GET", "/v1/agent/services", "")).unwrap()
}

/// A registration that a busy machine has made too slow is tried again in every cycle.
async fn followed(a: &Store, data: &str, what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + LIMIT;
    assert!(a.touch_member(data).await.unwrap());
    while !is_so() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(a.touch_member(data).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_follows_the_member_key() {
    let consul = Consul::start(1);
    let mut config = consul.config();
    config.register_service = true;
    config.service_tags = vec!["blue".to_owned()];
    let layout = Layout::new("service", "Bat_man", None);
    let a = Store::connect(&config, layout, Some(identity("a")), TIMING)
        .await
        .unwrap();
    let tags = || services(&consul)["Bat_man/a"]["Tags"].clone();
    let replica = DATA.replace("primary", "replica");
    followed(&a, DATA, "it is registered", || {
        tags() == json!(["blue", "primary", "master"])
    })
    .await;
    let service = services(&consul)["Bat_man/a"].clone();
    assert_eq!(
        (&service["Service"], &service["Address"], &service["Port"]),
        (&json!("bat-man"), &json!("10.0.0.1"), &json!(5432))
    );
    assert_eq!(service["EnableTagOverride"], true);
    followed(&a, &replica, "its role has changed", || {
        tags() == json!(["blue", "replica"])
    })
    .await;
    // The tags are the configuration's, and the option can be switched off.
    config.service_tags = Vec::new();
    a.reload(&config).unwrap();
    followed(&a, &replica, "its tags have changed", || {
        tags() == json!(["replica"])
    })
    .await;
    config.register_service = false;
    a.reload(&config).unwrap();
    let is_gone = || services(&consul).as_object().unwrap().is_empty();
    followed(&a, DATA, "it is gone", is_gone).await;
    config.register_service = true;
    a.reload(&config).unwrap();
    followed(&a, DATA, "it is there again", || {
        tags() == json!(["primary", "master"])
    })
    .await;
    assert!(a.touch_member(&DATA.replace("running", "stopped")).await.unwrap());
    assert!(services(&consul).as_object().unwrap().is_empty(), "at once");
}
