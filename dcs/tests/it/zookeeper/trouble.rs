//! ZooKeeper that stops, stalls, restarts, loses members, loses answers, or is wiped while it is used.

use std::time::{Duration, Instant};

use ha::cluster::Cluster;
use tamada_dcs::zookeeper::Zookeeper;
use tamada_dcs::{Dcs, Error, Expect, Identity, Key, Layout, Renewed, Timing, WhenGone};

use super::hand::Hand;
use super::proxy::Proxy;
use super::server::{Ensemble, config_for};
use crate::contract::{LIMIT, TIMING, eventually, expired, identity};
use crate::server::Server;

const LONG: Timing = Timing {
    // No session runs out while a busy machine starts servers again.
    ttl: Duration::from_secs(60),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(4),
};

/// How much later a busy machine may notice that a time is over; far less than another `retry_timeout`.
const SLACK: Duration = Duration::from_secs(2);

fn layout() -> Layout {
    Layout::new("service", "batman", None)
}

async fn member_at(ports: &[u16], identity: Identity, timing: Timing) -> Zookeeper {
    let config = config_for(ports.iter().copied());
    Zookeeper::connect(&config, layout(), Some(identity), timing)
        .await
        .unwrap()
}

async fn member(ensemble: &Ensemble, name: &str) -> Zookeeper {
    Zookeeper::connect(&ensemble.config(), layout(), Some(identity(name)), LONG)
        .await
        .unwrap()
}

/// The call fails as it should, neither early nor late.
async fn unavailable<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Error>>) {
    let begun = Instant::now();
    let error = call.await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:#}");
    let limit = LONG.retry_timeout + SLACK;
    assert!(begun.elapsed() < limit, "{:?}: {error:#}", begun.elapsed());
}

/// The copy is not served for long when nobody keeps it.
async fn refused_load(dcs: &dyn Dcs) {
    let until = Instant::now() + LIMIT;
    while dcs.load().await.is_ok() {
        assert!(
            Instant::now() < until,
            "the copy is served although nobody keeps it"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn held(dcs: &dyn Dcs) -> bool {
    dcs.renew_leader(WhenGone::Recreate).await.unwrap().is_held()
}

#[tokio::test]
async fn a_zookeeper_that_is_gone_is_an_error_and_comes_back() {
    let mut ensemble = Ensemble::start(1);
    let a = member(&ensemble, "a").await;
    let ctl = Zookeeper::connect(&ensemble.config(), layout(), None, LONG)
        .await
        .unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    let (leader, lease) = (a.load().await.unwrap().leader, a.lease());
    ensemble.kill(0);
    refused_load(&a).await;
    let verbs = tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.acquire_leader()),
        unavailable(a.touch_member("{}")),
        unavailable(a.write(Key::Config, "{}", Expect::Absent)),
        unavailable(a.release_leader(None)),
        unavailable(a.load()),
        unavailable(ctl.load()),
    );
    let _: ((), (), (), (), (), (), ()) = verbs;
    let text = format!("{:#}", a.renew_leader(WhenGone::Recreate).await.unwrap_err());
    let port = ensemble.members[0].port;
    let begin = format!("could not renew the leader key: no answer from the DCS at 127.0.0.1:{port}: ");
    assert!(text.starts_with(&begin) && text.contains("refused"), "{text}");
    // It restarts: the session lives on in it, and the watch is taken up again.
    ensemble.run_all();
    assert!(held(&a).await);
    assert_eq!(a.lease(), lease, "the same session");
    let seen = |cluster: &Cluster| (cluster.leader == leader).then_some(());
    eventually(&a, LIMIT, "the leader key shows again", seen).await;
    let mut changes = a.changes();
    changes.mark_unchanged();
    ensemble.put("/service/batman/config", r#"{"ttl":1}"#);
    tokio::time::timeout(LIMIT, changes.changed())
        .await
        .unwrap()
        .unwrap();
    assert!(ctl.load().await.unwrap().config.is_some());
}

#[tokio::test]
async fn a_zookeeper_that_stalls_is_an_error_until_it_goes_on() {
    let ensemble = Ensemble::start(1);
    let a = member(&ensemble, "a").await;
    assert!(a.acquire_leader().await.unwrap());
    ensemble.freeze(0, true);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.write(Key::Config, "{}", Expect::Absent))
    );
    refused_load(&a).await;
    ensemble.freeze(0, false);
    assert!(held(&a).await);
    let seen = |cluster: &Cluster| cluster.leader.clone();
    eventually(&a, LIMIT, "the copy is kept again", seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_may_die_or_stall_one_at_a_time() {
    let mut ensemble = Ensemble::start(3);
    let (a, b) = (member(&ensemble, "a").await, member(&ensemble, "b").await);
    assert!(a.acquire_leader().await.unwrap());
    let lease = a.lease();
    for index in 0..3 {
        ensemble.kill(index);
        assert!(held(&a).await, "with one server dead");
        b.touch_member(&format!(r#"{{"timeline":{}}}"#, index + 1))
            .await
            .unwrap();
        let shows = |cluster: &Cluster| {
            let timeline = cluster.members.first()?.data.timeline?;
            (usize::try_from(timeline.0) == Ok(index + 1) && cluster.leader.is_some()).then_some(())
        };
        eventually(&a, LIMIT, "a change shows with one server dead", shows).await;
        ensemble.run(index);
        ensemble.wait();
    }
    for index in 0..3 {
        ensemble.freeze(index, true);
        let begun = Instant::now();
        // Where it led the others, they elect another one first.
        while !a
            .renew_leader(WhenGone::Recreate)
            .await
            .is_ok_and(|renewed| renewed.is_held())
        {
            assert!(begun.elapsed() < LIMIT, "another server answers");
        }
        let config = b.write(Key::Config, r#"{"ttl":1}"#, Expect::Anything);
        let version = config.await.unwrap().unwrap();
        let shows = |cluster: &Cluster| {
            let config = cluster.config.as_ref()?;
            (config.version == version).then_some(())
        };
        eventually(&a, LIMIT, "a change shows with one server frozen", shows).await;
        ensemble.freeze(index, false);
        ensemble.wait();
    }
    assert_eq!(a.lease(), lease, "the session outlives the servers");
}

#[tokio::test]
async fn without_a_quorum_nothing_is_served() {
    let mut ensemble = Ensemble::start(3);
    let a = member(&ensemble, "a").await;
    assert!(a.acquire_leader().await.unwrap());
    let leader = ensemble.leader();
    let others: Vec<_> = (0..3).filter(|index| *index != leader).collect();
    ensemble.kill(others[0]);
    ensemble.kill(others[1]);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.acquire_leader())
    );
    refused_load(&a).await;
    ensemble.run(others[0]);
    ensemble.run(others[1]);
    ensemble.wait();
    assert!(held(&a).await);
}

#[tokio::test]
async fn nobody_listens() {
    let ensemble = Ensemble::prepare(1, &[], &[]);
    let open = async |identity| {
        Zookeeper::connect(&ensemble.config(), layout(), identity, LONG)
            .await
            .map(|_| ())
    };
    tokio::join!(unavailable(open(Some(identity("a")))), unavailable(open(None)));
}

/// The request was carried out and its answer is lost: what is told is true.
#[tokio::test]
async fn an_answer_that_is_lost_leaves_no_doubt_where_there_need_be_none() {
    let ensemble = Ensemble::start(1);
    let proxy = Proxy::start(ensemble.members[0].port);
    let a = member_at(&[proxy.port], identity("a"), LONG).await;
    let b = member(&ensemble, "b").await;
    // The parents are made first.
    a.touch_member("{}").await.unwrap();
    let lose = || {
        assert_eq!(proxy.lost_answers_left(), 0, "the answer was lost");
        proxy.lose_answers(1);
    };
    lose();
    assert!(a.acquire_leader().await.unwrap());
    lose();
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    assert!(!b.acquire_leader().await.unwrap());
    lose();
    assert!(a.touch_member(r#"{"state":"running"}"#).await.unwrap());
    lose();
    let error = a.write(Key::Initialize, "", Expect::Absent).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable(_)),
        "who has created it matters: {error:#}"
    );
    lose();
    let first = a
        .write(Key::Config, r#"{"ttl":1}"#, Expect::Anything)
        .await
        .unwrap();
    lose();
    let version = Expect::Version(first.unwrap());
    let second = a.write(Key::Config, r#"{"ttl":2}"#, version).await.unwrap();
    assert!(second > first);
    lose();
    assert!(
        a.delete(Key::Config, Expect::Version(second.unwrap()))
            .await
            .unwrap()
    );
    lose();
    assert!(a.release_leader(Some(r#"{"optime":5}"#)).await.unwrap());
    assert!(b.acquire_leader().await.unwrap());
    assert!(held(&b).await);
    let expired = eventually(&a, LIMIT, "the leader's heartbeat", expired).await;
    lose();
    assert!(a.supersede_leader(expired).await.unwrap());
    lose();
    assert!(a.take_leader().await.unwrap());
    assert_eq!(proxy.lost_answers_left(), 0);
    assert!(held(&a).await);
    assert_eq!(b.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
}

#[tokio::test]
async fn a_slow_network_is_borne() {
    let ensemble = Ensemble::start(1);
    let proxy = Proxy::start(ensemble.members[0].port);
    let timing = Timing {
        retry_timeout: Duration::from_secs(10),
        ..LONG
    };
    let a = member_at(&[proxy.port], identity("a"), timing).await;
    proxy.delay(Duration::from_millis(100));
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert!(held(&a).await);
    assert!(a.load().await.unwrap().leader.is_some());
    proxy.cut();
    assert!(held(&a).await, "a new connection");
    let seen = |cluster: &Cluster| cluster.leader.clone();
    eventually(&a, LIMIT, "the copy is kept again", seen).await;
}

/// Requests are carried out and nobody hears of it, until the server at the other end is left.
#[tokio::test]
async fn a_connection_that_is_half_open_is_left() {
    let ensemble = Ensemble::start(1);
    let port = ensemble.members[0].port;
    let proxy = Proxy::start(port);
    let alone = member_at(&[proxy.port], identity("a"), LONG).await;
    let two = member_at(&[proxy.port, port], identity("b"), LONG).await;
    assert!(alone.acquire_leader().await.unwrap() && two.touch_member("{}").await.unwrap());
    proxy.swallow_answers(true);
    unavailable(alone.renew_leader(WhenGone::Recreate)).await;
    assert!(!two.acquire_leader().await.unwrap(), "another server answers");
    assert!(two.touch_member(r#"{"state":"running"}"#).await.unwrap());
    refused_load(&alone).await;
    assert!(two.load().await.is_ok());
    proxy.swallow_answers(false);
    assert!(held(&alone).await);
}

/// Its keys go, and come back with another session.
#[tokio::test]
async fn a_session_that_has_ended_is_replaced() {
    let ensemble = Ensemble::start(1);
    let (a, b) = (member(&ensemble, "a").await, member(&ensemble, "b").await);
    assert!(a.touch_member("{}").await.unwrap() && a.acquire_leader().await.unwrap());
    let lease = a.lease();
    ensemble.expire(&layout(), "a", lease.clone());
    let gone = |cluster: &Cluster| cluster.members.is_empty().then(|| cluster.leader.clone());
    let shown = eventually(&b, LIMIT, "the keys go", gone).await.unwrap();
    assert_eq!(
        (shown.name.as_str(), shown.session.as_str()),
        ("a", "0"),
        "its lock may be in use"
    );
    assert!(!b.acquire_leader().await.unwrap());
    assert!(a.touch_member("{}").await.unwrap() && held(&a).await);
    assert_ne!(a.lease(), lease);
    let back = |cluster: &Cluster| cluster.leader.clone().filter(|leader| leader.session != "0");
    assert_eq!(eventually(&b, LIMIT, "they are back", back).await.name.0, "a");
}

/// A lock that its holder has given back may be taken at once; one that it may count on, when the heartbeat is old.
#[tokio::test]
async fn a_key_that_is_gone_may_be_taken_when_the_heartbeat_is_old() {
    let ensemble = Ensemble::start_with(1, &["maxSessionTimeout=1000"], &[]);
    let short = Timing {
        ttl: Duration::from_secs(4),
        ..LONG
    };
    let ports = [ensemble.members[0].port];
    let a = member_at(&ports, identity("a"), short).await;
    let b = member_at(&ports, identity("b"), short).await;
    assert!(a.acquire_leader().await.unwrap());
    assert!(a.release_leader(None).await.unwrap());
    assert!(b.acquire_leader().await.unwrap() && b.release_leader(None).await.unwrap());
    let begun = Instant::now();
    assert!(a.acquire_leader().await.unwrap());
    // The servers let no session live for ttl.
    let gone = |cluster: &Cluster| cluster.leader.clone().filter(|leader| leader.session == "0");
    eventually(&b, LIMIT, "the key is gone", gone).await;
    while !b.acquire_leader().await.unwrap() {
        assert!(begun.elapsed() < LIMIT, "the heartbeat is old");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= short.ttl, "{:?}", begun.elapsed());
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::No);
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

async fn new_store(dcs: &dyn Dcs) -> Cluster {
    let is_new = |cluster: &Cluster| (cluster.generation == 1).then(|| cluster.clone());
    eventually(dcs, LIMIT, "the new store is read", is_new).await
}

async fn wiped(count: usize) {
    let mut ensemble = Ensemble::start(count);
    let (a, b) = (member(&ensemble, "a").await, member(&ensemble, "b").await);
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    for number in 0..60 {
        let value = format!(r#"{{"ttl":{number}}}"#);
        a.write(Key::Config, &value, Expect::Anything).await.unwrap();
    }
    let written = |cluster: &Cluster| cluster.config.clone().filter(|config| config.value["ttl"] == 59);
    eventually(
        &b,
        LIMIT,
        "a member that writes nothing has seen all that",
        written,
    )
    .await;
    if count > 1 {
        // Another election, as happens now and then: the new store begins with the first.
        let leader = ensemble.leader();
        ensemble.kill(leader);
        ensemble.run(leader);
        ensemble.wait();
        assert!(held(&a).await);
        let version = a
            .write(Key::Config, "{}", Expect::Anything)
            .await
            .unwrap()
            .unwrap();
        let written =
            |cluster: &Cluster| (cluster.config.is_none() && cluster.leader.is_some()).then_some(version);
        eventually(&b, LIMIT, "that, too", written).await;
    }
    ensemble.wipe_all();
    nothing_is_done_before_it_was_read(&a).await;
    let empty = new_store(&a).await;
    assert!(empty.leader.is_none() && empty.members.is_empty(), "{empty:?}");
    assert!(a.take_leader().await.unwrap() && a.touch_member("{}").await.unwrap() && held(&a).await);
    new_store(&b).await;
    let led = |cluster: &Cluster| cluster.leader.clone().filter(|leader| leader.name.0 == "a");
    eventually(&b, LIMIT, "the others see it", led).await;
    assert!(!b.acquire_leader().await.unwrap() && b.touch_member("{}").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_zookeeper_is_accepted() {
    wiped(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_ensemble_is_accepted() {
    wiped(3).await;
}

/// It has come as far since it was wiped as it had been before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_zookeeper_that_is_ahead_is_noticed() {
    let mut ensemble = Ensemble::start(1);
    let (a, b) = (member(&ensemble, "a").await, member(&ensemble, "b").await);
    assert!(a.acquire_leader().await.unwrap() && b.touch_member("{}").await.unwrap());
    let written = a
        .write(Key::Config, r#"{"ttl":1}"#, Expect::Anything)
        .await
        .unwrap();
    let seen = |cluster: &Cluster| {
        cluster
            .config
            .clone()
            .filter(|config| Some(config.version) == written)
    };
    eventually(&a, LIMIT, "the configuration", seen).await;
    let before = ensemble.members[0].port;
    ensemble.kill(0);
    let mut other = Ensemble::prepare(1, &[], &[]);
    other.members[0].port = before;
    other.run_all();
    let mut hand = Hand::new(before);
    hand.put("/service/batman/config", r#"{"ttl":7}"#);
    hand.put("/service/batman/leader", "b");
    for number in 0..200 {
        hand.put("/other", &number.to_string());
    }
    nothing_is_done_before_it_was_read(&a).await;
    let found = new_store(&a).await;
    assert_eq!(found.leader.unwrap().name.0, "b");
}

/// Its own name, and a member key that nobody wrote: written by hand below it.
#[tokio::test]
async fn watches_of_single_keys_do_where_the_tree_cannot_be_watched() {
    let ensemble = Ensemble::start(1);
    let proxy = Proxy::start(ensemble.members[0].port);
    proxy.be_old();
    let a = member_at(&[proxy.port], identity("a"), TIMING).await;
    let b = member_at(&[proxy.port], identity("b"), TIMING).await;
    a.load().await.unwrap();
    let mut changes = a.changes();
    let mut before = *changes.borrow_and_update();
    assert!(b.acquire_leader().await.unwrap() && b.touch_member("{}").await.unwrap());
    let led = |cluster: &Cluster| (cluster.leader.is_some() && cluster.members.len() == 1).then_some(());
    eventually(&a, LIMIT, "the first keys", led).await;
    for round in 0..3 {
        changes.borrow_and_update();
        let value = format!(r#"{{"ttl":{round}}}"#);
        b.write(Key::Config, &value, Expect::Anything).await.unwrap();
        let told = changes.wait_for(|changes| changes.config > before.config);
        before = *tokio::time::timeout(LIMIT, told).await.unwrap().unwrap();
        let shown = a.load().await.unwrap().config.unwrap();
        assert_eq!(shown.value["ttl"], round);
    }
    assert!(b.release_leader(None).await.unwrap());
    let free = |cluster: &Cluster| cluster.leader.is_none().then_some(());
    eventually(&a, LIMIT, "the key goes", free).await;
}
