//! etcd that stops, stalls, restarts, or loses members while it is used.

use std::time::{Duration, Instant};

use tamada_dcs::etcd3::Etcd3;
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Timing, WhenGone};

use crate::contract::{LIMIT, TIMING, eventually, identity};
use crate::etcd::Etcd;

const LONG: Timing = Timing {
    // No lease runs out while a busy machine starts members of etcd again.
    ttl: Duration::from_secs(120),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(4),
};

/// How much later a busy machine may notice that a time is over; far less than another `retry_timeout`.
const SLACK: Duration = Duration::from_secs(2);

async fn member(etcd: &Etcd, name: &str) -> Etcd3 {
    let layout = Layout::new("service", "batman", None);
    Etcd3::connect(&etcd.config(), layout, Some(identity(name)), LONG)
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
async fn refused_load(dcs: &Etcd3) {
    let until = Instant::now() + LIMIT;
    while dcs.load().await.is_ok() {
        assert!(
            Instant::now() < until,
            "the copy is served although nobody keeps it"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_etcd_that_is_gone_is_an_error_and_comes_back() {
    let mut etcd = Etcd::start(1);
    let a = member(&etcd, "a").await;
    let layout = Layout::new("service", "batman", None);
    let ctl = Etcd3::connect(&etcd.config(), layout, None, LONG).await.unwrap();
    assert!(a.acquire_leader().await.unwrap());
    let leader = a.load().await.unwrap().leader;
    etcd.kill(0);
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
    let port = etcd.members[0].port;
    let begin = format!("could not prolong the lease: no answer from the DCS at http://127.0.0.1:{port}: ");
    assert!(text.starts_with(&begin) && text.contains("refused"), "{text}");
    // It restarts: the lease lives on in it, and the watch is taken up again.
    etcd.run(0);
    etcd.wait();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    let seen = |cluster: &ha::cluster::Cluster| (cluster.leader == leader).then_some(());
    eventually(&a, LIMIT, "the leader key shows again", seen).await;
    let mut changes = a.changes();
    changes.mark_unchanged();
    etcd.ctl(&["put", "/service/batman/config", r#"{"ttl":1}"#])
        .unwrap();
    tokio::time::timeout(LIMIT, changes.changed())
        .await
        .unwrap()
        .unwrap();
    assert!(ctl.load().await.unwrap().config.is_some());
}

#[tokio::test]
async fn an_etcd_that_stalls_is_an_error_until_it_goes_on() {
    let etcd = Etcd::start(1);
    let a = member(&etcd, "a").await;
    assert!(a.acquire_leader().await.unwrap());
    etcd.freeze(0, true);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.write(Key::Config, "{}", Expect::Absent))
    );
    // A copy that nobody keeps is not served.
    let until = Instant::now() + LIMIT;
    while a.load().await.is_ok() {
        assert!(
            Instant::now() < until,
            "the copy is served although etcd is silent"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    etcd.freeze(0, false);
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    let seen = |cluster: &ha::cluster::Cluster| cluster.leader.clone();
    eventually(&a, LIMIT, "the copy is kept again", seen).await;
}

#[tokio::test]
async fn members_of_etcd_may_die_or_stall_one_at_a_time() {
    let mut etcd = Etcd::start(3);
    let (a, b) = (member(&etcd, "a").await, member(&etcd, "b").await);
    assert!(a.acquire_leader().await.unwrap());
    for index in 0..3 {
        etcd.kill(index);
        assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
        assert!(
            b.touch_member(&format!(r#"{{"timeline":{}}}"#, index + 1))
                .await
                .unwrap()
        );
        let shows = |cluster: &ha::cluster::Cluster| {
            let timeline = cluster.members.first()?.data.timeline?;
            (usize::try_from(timeline.0) == Ok(index + 1) && cluster.leader.is_some()).then_some(())
        };
        eventually(&a, LIMIT, "a change shows with one member dead", shows).await;
        etcd.run(index);
        etcd.wait();
    }
    for index in 0..3 {
        etcd.freeze(index, true);
        let begun = Instant::now();
        assert!(
            a.renew_leader(WhenGone::Recreate).await.unwrap().is_held(),
            "another member answers in time"
        );
        assert!(
            begun.elapsed() < LONG.retry_timeout + SLACK,
            "{:?}",
            begun.elapsed()
        );
        let version = b
            .write(Key::Config, r#"{"ttl":1}"#, Expect::Anything)
            .await
            .unwrap()
            .unwrap();
        let shows = |cluster: &ha::cluster::Cluster| {
            cluster
                .config
                .as_ref()
                .filter(|config| config.version == version)
                .map(|_| ())
        };
        eventually(&a, LIMIT, "a change shows with one member frozen", shows).await;
        etcd.freeze(index, false);
        etcd.wait();
    }
}

#[tokio::test]
async fn without_a_quorum_nothing_is_served() {
    let mut etcd = Etcd::start(3);
    let a = member(&etcd, "a").await;
    assert!(a.acquire_leader().await.unwrap());
    // The one that is left was the leader, and prolongs leases until it notices that it is no more.
    let leader = etcd.leader();
    let others: Vec<_> = (0..3).filter(|index| *index != leader).collect();
    etcd.kill(others[0]);
    etcd.kill(others[1]);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.acquire_leader())
    );
    let until = Instant::now() + LIMIT;
    while a.load().await.is_ok() {
        assert!(
            Instant::now() < until,
            "the copy is served although there is no quorum"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    etcd.run(others[0]);
    etcd.run(others[1]);
    etcd.wait();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
}

#[tokio::test]
async fn the_other_members_are_found_by_asking_one() {
    let mut etcd = Etcd::start(3);
    let mut config = etcd.config();
    if let config::EtcdEndpoints::Hosts(hosts) = &mut config.endpoints {
        hosts.truncate(1);
    }
    let layout = Layout::new("service", "batman", None);
    let found = Etcd3::connect(&config, layout.clone(), Some(identity("a")), TIMING)
        .await
        .unwrap();
    config.use_proxies = true;
    let kept = Etcd3::connect(&config, layout, Some(identity("b")), TIMING)
        .await
        .unwrap();
    etcd.kill(0);
    assert!(found.acquire_leader().await.unwrap());
    assert!(
        kept.touch_member("{}").await.is_err(),
        "use_proxies keeps to the configured endpoints"
    );
}

#[tokio::test]
async fn nobody_listens() {
    let mut etcd = Etcd::start(1);
    etcd.kill(0);
    let layout = Layout::new("service", "batman", None);
    unavailable(async {
        Etcd3::connect(&etcd.config(), layout, Some(identity("a")), LONG)
            .await
            .map(|_| ())
    })
    .await;
}
