//! What a Consul does besides answering: it loses answers, hangs, restarts, is wiped or restored, has no leader.

use std::time::{Duration, Instant};

use config::ConsulConfig;
use ha::cluster::Cluster;
use serde_json::json;
use tamada_dcs::consul::Consul as Store;
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Renewed, Timing, WhenGone};

use super::{Consul, SCOPE, config_of, connect, member};
use crate::contract::{LIMIT, TIMING, eventually};
use crate::proxy::Proxy;

/// No session runs out while a busy machine starts servers again.
const LONG: Timing = Timing {
    ttl: Duration::from_secs(120),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(3),
};

/// How much later a busy machine may notice that a time is over; far less than another `retry_timeout`.
const SLACK: Duration = Duration::from_secs(2);

async fn unavailable<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Error>>) {
    let begun = Instant::now();
    let error = call.await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:#}");
    let limit = LONG.retry_timeout + SLACK;
    assert!(begun.elapsed() < limit, "{:?}: {error:#}", begun.elapsed());
}

async fn refused_load(dcs: &Store) {
    let until = Instant::now() + LIMIT;
    while dcs.load().await.is_ok() {
        assert!(
            Instant::now() < until,
            "the copy is served although nobody keeps it"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn through(proxy: &Proxy) -> ConsulConfig {
    config_of(vec![proxy.port])
}

fn leader(cluster: &Cluster) -> Option<String> {
    cluster.leader.as_ref().map(|leader| leader.name.0.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_an_answer_is_found_out() {
    let consul = Consul::start(1);
    let proxy = Proxy::start(consul.nodes[0].port);
    let a = connect(&through(&proxy), "a", LONG).await.unwrap();
    let lose = |count| proxy.lose("PUT /v1/txn", count);
    lose(1);
    assert!(a.acquire_leader().await.unwrap(), "the key is ours");
    lose(1);
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    lose(1);
    let created = a.write(Key::Initialize, "", Expect::Absent).await;
    assert!(
        created.unwrap_err().is_maybe_applied(),
        "who has created it is not known"
    );
    let version = a.write(Key::Config, r#"{"ttl":30}"#, Expect::Absent).await;
    let version = version.unwrap().unwrap();
    lose(1);
    let written = a
        .write(Key::Config, r#"{"ttl":31}"#, Expect::Version(version))
        .await
        .unwrap();
    assert_eq!(
        written,
        a.load().await.unwrap().config.map(|config| config.version)
    );
    // All attempts go unanswered: what holds is unknown, and a later renewal finds the key as it is.
    lose(100);
    unavailable(a.renew_leader(WhenGone::Lost)).await;
    lose(0);
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    lose(1);
    let released = a.release_leader(Some(r#"{"optime":5}"#)).await;
    assert!(
        released.is_err_and(|error| error.is_maybe_applied()),
        "tried once"
    );
    assert_eq!(consul.get("/service/batman/leader"), None);
    assert_eq!(
        consul.get("/service/batman/status").as_deref(),
        Some(r#"{"optime":5}"#)
    );
    assert!(!a.release_leader(None).await.unwrap(), "it was released");
}

/// A request that the network delivers late deletes no key that was renewed since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_arrives_late_has_no_effect() {
    let consul = Consul::start(1);
    let proxy = Proxy::start(consul.nodes[0].port);
    let late = connect(&through(&proxy), "a", LONG).await.unwrap();
    assert!(late.acquire_leader().await.unwrap());
    let mut next = crate::contract::identity("a");
    next.lease = late.lease();
    let layout = Layout::new("service", SCOPE, None);
    let next = Store::connect(&consul.config(), layout, Some(next), LONG)
        .await
        .unwrap();
    proxy.silence(true);
    let released = tokio::spawn(async move { late.release_leader(None).await });
    assert!(released.await.unwrap().is_err());
    assert_eq!(next.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    proxy.silence(false);
    // Whatever the proxy held back has arrived when a later request through it is answered.
    let later = connect(&through(&proxy), "b", LONG).await.unwrap();
    assert!(!later.acquire_leader().await.unwrap());
    assert_eq!(next.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_restarts_or_stalls_is_an_error_until_it_answers() {
    let mut consul = Consul::start(1);
    let a = member(&consul, "a", LONG).await;
    let layout = Layout::new("service", SCOPE, None);
    let ctl = Store::connect(&consul.config(), layout, None, LONG)
        .await
        .unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    consul.stop(0);
    refused_load(&a).await;
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.acquire_leader()),
        unavailable(a.touch_member(r#"{"state":"x"}"#)),
        unavailable(a.write(Key::Config, "{}", Expect::Absent)),
        unavailable(a.release_leader(None)),
        unavailable(a.load()),
        unavailable(ctl.load()),
    );
    let text = format!("{:#}", a.renew_leader(WhenGone::Recreate).await.unwrap_err());
    assert!(
        text.starts_with("could not renew the session: no answer from the DCS at http://127.0.0.1:"),
        "{text}"
    );
    consul.run(0);
    consul.wait();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    eventually(&a, LIMIT, "the leader key shows again", leader).await;
    assert_eq!(a.load().await.unwrap().generation, 0, "the same store");

    consul.suspend(0, true);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.write(Key::Config, "{}", Expect::Absent)),
        refused_load(&a),
    );
    consul.suspend(0, false);
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    eventually(&a, LIMIT, "the copy is kept again", leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_half_open_connection_is_borne_or_left() {
    let consul = Consul::start(1);
    let proxy = Proxy::start(consul.nodes[0].port);
    let mut config = through(&proxy);
    let a = connect(&config, "a", LONG).await.unwrap();
    proxy.delay(Duration::from_millis(100));
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert!(a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
    proxy.delay(Duration::ZERO);
    proxy.silence(true);
    tokio::join!(unavailable(a.renew_leader(WhenGone::Lost)), refused_load(&a));
    // Another address answers: it is asked when the first does not, and takes over.
    config.hosts.extend(consul.config().hosts);
    a.reload(&config).unwrap();
    assert!(a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
    eventually(&a, LIMIT, "the copy is kept from another address", leader).await;
    proxy.close(true);
    assert!(a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_served() {
    let mut consul = Consul::start(3);
    let a = member(&consul, "a", LONG).await;
    assert!(a.acquire_leader().await.unwrap());
    // The one that is left was the leader.
    let left = consul.leader();
    let others: Vec<_> = (0..3).filter(|index| *index != left).collect();
    others.iter().for_each(|index| consul.stop(*index));
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.acquire_leader())
    );
    refused_load(&a).await;
    others.iter().for_each(|index| consul.run(*index));
    consul.wait();
    let until = Instant::now() + LIMIT;
    loop {
        match a.renew_leader(WhenGone::Recreate).await {
            Ok(renewed) => break assert!(renewed.is_held()),
            Err(error) => assert!(Instant::now() < until, "{error:#}"),
        }
    }
    // Servers may die one at a time, also the one in use.
    for index in 0..3 {
        consul.stop(index);
        let until = Instant::now() + LIMIT;
        loop {
            match a.renew_leader(WhenGone::Recreate).await {
                Ok(renewed) => break assert!(renewed.is_held()),
                Err(error) => assert!(Instant::now() < until, "{error:#}"),
            }
        }
        eventually(&a, LIMIT, "the leader shows", leader).await;
        consul.run(index);
        consul.wait();
    }
}

/// What was decided on the store before is not done in this one, and a leader does not learn that it is none.
async fn nothing_is_done_before_it_was_read(dcs: &dyn Dcs) {
    for _ in 0..3 {
        let renewed = dcs.renew_leader(WhenGone::Recreate).await;
        assert!(matches!(renewed, Err(Error::Unavailable(_))), "{renewed:?}");
        let acquired = dcs.acquire_leader().await;
        assert!(matches!(acquired, Err(Error::Unavailable(_))), "{acquired:?}");
    }
}

async fn leads_on(a: &dyn Dcs, b: &dyn Dcs) {
    let is_new = |cluster: &Cluster| (cluster.generation == 1).then(|| cluster.clone());
    assert!(a.take_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    let led = |cluster: &Cluster| leader(cluster).filter(|name| name == "a");
    eventually(a, Duration::from_secs(5), "the leader sees its key", led).await;
    eventually(b, LIMIT, "the new store is read", is_new).await;
    eventually(b, Duration::from_secs(5), "the others see it", led).await;
    assert!(!b.acquire_leader().await.unwrap());
    assert!(b.touch_member("{}").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_consul_is_accepted() {
    let mut consul = Consul::start(1);
    let (a, b) = (
        member(&consul, "a", TIMING).await,
        member(&consul, "b", TIMING).await,
    );
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    for number in 0..30 {
        let value = format!(r#"{{"ttl":{number}}}"#);
        a.write(Key::Config, &value, Expect::Anything).await.unwrap();
    }
    let written = |cluster: &Cluster| cluster.config.clone().filter(|config| config.value["ttl"] == 29);
    eventually(&b, LIMIT, "a member that writes nothing has seen that", written).await;
    consul.wipe_all();
    nothing_is_done_before_it_was_read(&a).await;
    let is_new = |cluster: &Cluster| (cluster.generation == 1).then(|| cluster.clone());
    let empty = eventually(&a, LIMIT, "the new store is read", is_new).await;
    assert!(empty.leader.is_none() && empty.members.is_empty(), "{empty:?}");
    leads_on(&a, &b).await;
    assert_eq!(a.load().await.unwrap().generation, 1, "accepted once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_consul_is_accepted() {
    let consul = Consul::start(1);
    let (a, b) = (
        member(&consul, "a", TIMING).await,
        member(&consul, "b", TIMING).await,
    );
    assert!(b.acquire_leader().await.unwrap());
    let address = format!("http://127.0.0.1:{}", consul.nodes[0].port);
    let path = consul.dir.path().join("snapshot");
    let snapshot = |verb| {
        let done = std::process::Command::new(super::program())
            .args(["snapshot", verb, "-http-addr", &address])
            .arg(&path)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    snapshot("save");
    assert!(b.release_leader(None).await.unwrap() && a.acquire_leader().await.unwrap());
    for number in 0..5 {
        let value = format!(r#"{{"ttl":{number}}}"#);
        a.write(Key::Config, &value, Expect::Anything).await.unwrap();
    }
    let led = |cluster: &Cluster| leader(cluster).filter(|name| name == "a");
    eventually(&b, LIMIT, "the new leader shows", led).await;
    snapshot("restore");
    let is_new = |cluster: &Cluster| (cluster.generation == 1).then(|| cluster.clone());
    let old = eventually(&a, LIMIT, "the store of before is read", is_new).await;
    assert_eq!(
        leader(&old).as_deref(),
        Some("b"),
        "as at the time of the snapshot"
    );
    leads_on(&a, &b).await;
    assert_eq!(b.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
}

/// Consul's usual bound of 10 s: sessions live longer than `ttl`, and the lock does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ttl_below_consuls_bound_is_kept_by_the_heartbeat() {
    let consul = Consul::start_with(1, json!({"session_ttl_min": "10s"}));
    let timing = Timing {
        ttl: Duration::from_secs(3),
        ..TIMING
    };
    let (a, b) = (
        member(&consul, "a", timing).await,
        member(&consul, "b", timing).await,
    );
    assert!(a.touch_member("{}").await.unwrap() && a.acquire_leader().await.unwrap());
    let heartbeat = eventually(&b, LIMIT, "the heartbeat", |cluster| cluster.heartbeat.clone()).await;
    assert_eq!(heartbeat.ttl, timing.ttl);
    let session = consul.request("GET", &format!("/v1/session/info/{}", a.lease().unwrap()), "");
    assert!(session.contains(r#""TTL":"10s""#), "{session}");
    let lease = a.lease();
    assert!(a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
    assert_eq!(a.lease(), lease, "one session for all of that time");
}
