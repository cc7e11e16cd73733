//! etcd that was wiped, or restored from a backup, at the same addresses.

use std::time::Duration;

use ha::cluster::Cluster;
use tamada_dcs::etcd3::Etcd3;
use tamada_dcs::memory::SharedStore;
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Renewed, WhenGone};

use crate::contract::{LIMIT, Scene, TIMING, eventually, identity};
use crate::etcd::Etcd;

async fn member(etcd: &Etcd, name: &str) -> Etcd3 {
    let layout = Layout::new("service", "batman", None);
    Etcd3::connect(&etcd.config(), layout, Some(identity(name)), TIMING)
        .await
        .unwrap()
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

async fn leads_on(a: &dyn Dcs, b: &dyn Dcs) {
    assert!(a.take_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    let led = |cluster: &Cluster| cluster.leader.clone().filter(|leader| leader.name.0 == "a");
    eventually(a, Duration::from_secs(5), "the leader sees its key", led).await;
    new_store(b).await;
    eventually(b, Duration::from_secs(5), "the others see it", led).await;
    assert!(!b.acquire_leader().await.unwrap());
    assert!(b.touch_member("{}").await.unwrap());
}

async fn wiped(count: usize) {
    let mut etcd = Etcd::start(count);
    let (a, b) = (member(&etcd, "a").await, member(&etcd, "b").await);
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    // More than the members will write before all of them have noticed; the raft term is the same in the new store.
    for _ in 0..20 {
        a.write(Key::Config, "{}", Expect::Anything).await.unwrap();
    }
    let status = a.write(Key::Status, r#"{"optime":1}"#, Expect::Anything);
    assert!(status.await.unwrap().is_some());
    let seen = |cluster: &Cluster| cluster.status.optime;
    eventually(&b, LIMIT, "a member that writes nothing has seen all that", seen).await;
    etcd.replace(None);
    nothing_is_done_before_it_was_read(&a).await;
    let empty = new_store(&a).await;
    assert!(empty.leader.is_none() && empty.members.is_empty(), "{empty:?}");
    leads_on(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_is_accepted() {
    wiped(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_cluster_is_accepted() {
    wiped(3).await;
}

/// A host of etcd that hangs takes no part, and what it says later, from the time before, changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_cluster_is_accepted_while_one_endpoint_hangs() {
    let mut etcd = Etcd::start(3);
    let (a, b) = (member(&etcd, "a").await, member(&etcd, "b").await);
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    for number in 0..20 {
        let value = format!(r#"{{"ttl":{number}}}"#);
        a.write(Key::Config, &value, Expect::Anything).await.unwrap();
    }
    let written = |cluster: &Cluster| cluster.config.clone().filter(|config| config.value["ttl"] == 19);
    eventually(
        &b,
        LIMIT,
        "a member that writes nothing has seen all that",
        written,
    )
    .await;
    etcd.freeze(2, true);
    etcd.replace_first(2, None);
    nothing_is_done_before_it_was_read(&a).await;
    let empty = new_store(&a).await;
    assert!(empty.leader.is_none() && empty.members.is_empty(), "{empty:?}");
    leads_on(&a, &b).await;
    // It is wiped as well, as its hosts' administrator does in the end.
    etcd.kill(2);
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    assert_eq!(a.load().await.unwrap().generation, 1);
}

/// Several calls find the other store at the same time: it is accepted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_is_one_news_for_many_calls() {
    let mut etcd = Etcd::start(3);
    let a = member(&etcd, "a").await;
    assert!(a.acquire_leader().await.unwrap());
    for _ in 0..10 {
        a.write(Key::Config, "{}", Expect::Anything).await.unwrap();
    }
    etcd.replace(None);
    let deletions = (0..8).map(|_| a.delete(Key::Failover, Expect::Anything));
    let renewals = (0..8).map(|_| a.renew_leader(WhenGone::Recreate));
    let (deletions, renewals) = tokio::join!(
        futures_util::future::join_all(deletions),
        futures_util::future::join_all(renewals)
    );
    assert!(renewals.iter().all(Result::is_err), "{renewals:?}");
    assert!(deletions.iter().all(Result::is_err), "{deletions:?}");
    new_store(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_was_restored_is_accepted() {
    let mut etcd = Etcd::start(1);
    let (a, b) = (member(&etcd, "a").await, member(&etcd, "b").await);
    assert!(b.acquire_leader().await.unwrap());
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot");
    etcd.ctl(&["snapshot", "save", snapshot.to_str().unwrap()])
        .unwrap();
    assert!(b.release_leader(None).await.unwrap());
    assert!(a.acquire_leader().await.unwrap());
    for number in 0..5 {
        let value = format!(r#"{{"ttl":{number}}}"#);
        assert!(
            a.write(Key::Config, &value, Expect::Anything)
                .await
                .unwrap()
                .is_some()
        );
    }
    etcd.replace(Some(&snapshot));
    nothing_is_done_before_it_was_read(&a).await;
    let old = new_store(&a).await;
    assert_eq!(old.leader.unwrap().name.0, "b", "as at the time of the backup");
    leads_on(&a, &b).await;
    assert_eq!(b.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
}

/// It was wiped before, and has not come as far since as the backup: its revision goes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_was_restored_at_a_higher_revision_is_accepted() {
    let mut etcd = Etcd::start(1);
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot");
    {
        let b = member(&etcd, "b").await;
        b.write(Key::Initialize, "1", Expect::Anything).await.unwrap();
        for number in 0..40 {
            let value = format!(r#"{{"ttl":{number}}}"#);
            b.write(Key::Config, &value, Expect::Anything).await.unwrap();
        }
        assert!(b.touch_member("{}").await.unwrap() && b.acquire_leader().await.unwrap());
        etcd.ctl(&["snapshot", "save", snapshot.to_str().unwrap()])
            .unwrap();
    }
    etcd.replace(None);
    let (a, c) = (member(&etcd, "a").await, member(&etcd, "c").await);
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    a.write(Key::Config, r#"{"ttl":30}"#, Expect::Anything)
        .await
        .unwrap();
    let config = |cluster: &Cluster| cluster.config.clone();
    for dcs in [&a, &c] {
        eventually(dcs, LIMIT, "the configuration is read", config).await;
    }
    etcd.replace(Some(&snapshot));
    nothing_is_done_before_it_was_read(&a).await;
    let old = new_store(&a).await;
    assert_eq!(old.leader.unwrap().name.0, "b", "as at the time of the backup");
    leads_on(&a, &c).await;
}

#[tokio::test]
async fn a_store_in_memory_is_wiped() {
    let store = SharedStore::new();
    let scene = Scene {
        server: &store,
        layout: Layout::new("service", "batman", None),
    };
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(a.acquire_leader().await.unwrap());
    store.with(|store| store.restore(&tamada_dcs::memory::Store::new()));
    nothing_is_done_before_it_was_read(&*a).await;
    assert!(new_store(&*a).await.is_empty());
    leads_on(&*a, &*b).await;
}

/// More keys than one answer of gRPC usually holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_four_megabytes_are_read() {
    let etcd = Etcd::start(1);
    let value = "x".repeat(100_000);
    let put = |number: usize| {
        etcd.ctl(&["put", &format!("/service/batman/foreign/{number}"), &value])
            .unwrap()
    };
    (0..50).for_each(|number| drop(put(number)));
    let a = member(&etcd, "a").await;
    assert!(a.acquire_leader().await.unwrap());
    assert!(a.load().await.unwrap().leader.is_some());
}
