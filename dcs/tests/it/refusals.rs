//! A store that refuses writes: an etcd that is full, or whose role may no longer write. The lease is the lock then.

use std::time::Duration;

use config::EtcdConfig;
use ha::cluster::{Cluster, Expired};
use tamada_dcs::etcd3::Etcd3;
use tamada_dcs::memory::{Refused, SharedStore};
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Renewed, WhenGone};

use crate::contract::{Scene, TIMING, eventually, identity};
use crate::etcd::Etcd;

/// Makes the store refuse writes, or no longer.
type Refuse<'a> = &'a dyn Fn(bool);

async fn play(a: &dyn Dcs, b: &dyn Dcs, refuse: Refuse<'_>, why: &str) {
    let expired = |cluster: &Cluster| cluster.heartbeat.as_ref()?.expired(cluster.leader.as_ref()?);
    let latest = async |than: Option<Expired>| {
        let seen = |cluster: &Cluster| expired(cluster).filter(|seen| Some(*seen) != than);
        eventually(
            b,
            Duration::from_secs(5),
            "a heartbeat that permits a takeover",
            seen,
        )
        .await
    };
    assert!(a.touch_member("{}").await.unwrap() && a.acquire_leader().await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    let before = latest(None).await;

    refuse(true);
    for _ in 0..2 {
        match a.renew_leader(WhenGone::Recreate).await.unwrap() {
            Renewed::ByLeaseAlone(told) => assert!(told.contains(why), "{told}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        a.touch_member("{}").await.unwrap(),
        "an unchanged key needs no write"
    );
    assert!(matches!(
        b.supersede_leader(before).await,
        Err(Error::Rejected(_))
    ));
    assert!(!b.acquire_leader().await.is_ok_and(|is_held| is_held));
    assert!(matches!(
        a.write(Key::Config, "{}", Expect::Anything).await,
        Err(Error::Rejected(_))
    ));

    // Writes are accepted again before the leader comes to write a heartbeat: its lock is still good.
    refuse(false);
    assert!(!b.supersede_leader(before).await.unwrap(), "two leaders");
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    let after = latest(Some(before)).await;
    assert!(b.supersede_leader(after).await.unwrap(), "as before");
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
    // A leader that was superseded learns it from a store that refuses writes, too.
    refuse(true);
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
    assert!(b.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    refuse(false);
}

#[tokio::test]
async fn a_store_in_memory_refuses_writes() {
    for (refused, why) in [
        (Refused::Full, "space exceeded"),
        (Refused::ReadOnly, "permission denied"),
    ] {
        let store = SharedStore::new();
        let scene = Scene {
            server: &store,
            layout: Layout::new("/service/", "a", None),
        };
        let (a, b) = (scene.member("a").await, scene.member("b").await);
        let refuse = |is_refusing: bool| store.with(|store| store.refuse(is_refusing.then_some(refused)));
        play(&*a, &*b, &refuse, why).await;
    }
}

async fn member(config: &EtcdConfig, name: &str) -> Etcd3 {
    let layout = Layout::new("/service/", "a", None);
    Etcd3::connect(config, layout, Some(identity(name)), TIMING)
        .await
        .unwrap()
}

/// Writes until the quota is used up, or makes room again.
fn fill(etcd: &Etcd, is_full: bool) {
    if is_full {
        let value = "x".repeat(60_000);
        for number in 0..1000 {
            if etcd.ctl(&["put", &format!("filler/{number}"), &value]).is_err() {
                return;
            }
        }
        panic!("the quota is not used up");
    }
    let deleted = etcd.ctl(&["del", "--prefix", "filler/"]);
    deleted.unwrap();
    let status = etcd.ctl(&["endpoint", "status", "-w", "json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    for args in [
        &["compact", revision.as_str()][..],
        &["defrag"],
        &["alarm", "disarm"],
    ] {
        etcd.ctl(args).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_takes_no_leader_away() {
    let quota = ["--quota-backend-bytes", "400000"].map(str::to_owned).to_vec();
    let etcd = Etcd::start_with("http", 1, quota, Vec::new());
    let config = etcd.config();
    let (a, b) = (member(&config, "a").await, member(&config, "b").await);
    play(&a, &b, &|is_full| fill(&etcd, is_full), "space exceeded").await;
    // An agent that comes back while the store is full takes its lease up again.
    assert!(b.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    fill(&etcd, true);
    let mut identity = identity("b");
    identity.lease = b.lease();
    drop(b);
    let layout = Layout::new("/service/", "a", None);
    let back = Etcd3::connect(&config, layout, Some(identity), TIMING)
        .await
        .unwrap();
    let renewed = back.renew_leader(WhenGone::Lost).await.unwrap();
    assert!(matches!(renewed, Renewed::ByLeaseAlone(_)), "{renewed:?}");
    assert!(
        back.release_leader(Some(r#"{"optime":1}"#)).await.unwrap(),
        "a deletion needs no room"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_no_longer_write_takes_no_leader_away() {
    let mut etcd = Etcd::start(1);
    for args in [
        &["user", "add", "root:r00t"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "patroni:s3cret"],
        &["role", "add", "patroni"],
        &["user", "grant-role", "patroni", "patroni"],
        &[
            "role",
            "grant-permission",
            "patroni",
            "--prefix=true",
            "readwrite",
            "/service/",
        ],
        &["auth", "enable"],
    ] {
        etcd.ctl(args).unwrap();
    }
    etcd.ctl_args = vec!["--user".to_owned(), "root:r00t".to_owned()];
    let mut config = etcd.config();
    config.username = Some("patroni".to_owned());
    config.password = Some("s3cret".into());
    let (a, b) = (member(&config, "a").await, member(&config, "b").await);
    let refuse = |is_refusing: bool| {
        let kind = if is_refusing { "read" } else { "readwrite" };
        etcd.ctl(&[
            "role",
            "grant-permission",
            "patroni",
            "--prefix=true",
            kind,
            "/service/",
        ])
        .unwrap();
    };
    play(&a, &b, &refuse, "permission denied").await;
}
