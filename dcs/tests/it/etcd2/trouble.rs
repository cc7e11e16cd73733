//! etcd that loses answers, stops, hangs, is wiped, asks for credentials, while its version 2 is used.

use std::time::{Duration, Instant};

use config::{EtcdConfig, EtcdEndpoints, HostPort};
use ha::cluster::Cluster;
use tamada_dcs::etcd2::Etcd2;
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Renewed, Timing, WhenGone};

use super::{Etcd2Server, member};
use crate::contract::{LIMIT, TIMING, eventually, identity};
use crate::etcd::Etcd;
use crate::proxy::Proxy;
use crate::secured::Authority;
use crate::server::{Server, ask};

const LONG: Timing = Timing {
    ttl: Duration::from_secs(120),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(3),
};

const SLACK: Duration = Duration::from_secs(2);

fn layout() -> Layout {
    Layout::new("service", "batman", None)
}

fn through(etcd: &Etcd2Server, proxy: &Proxy) -> EtcdConfig {
    let endpoint = HostPort {
        host: "127.0.0.1".to_owned(),
        port: proxy.port,
    };
    EtcdConfig {
        endpoints: EtcdEndpoints::Proxy(endpoint),
        use_proxies: true,
        ..etcd.0.config()
    }
}

async fn unavailable<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Error>>) {
    let begun = Instant::now();
    let error = call.await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:#}");
    let limit = LONG.retry_timeout + SLACK;
    assert!(begun.elapsed() < limit, "{:?}: {error:#}", begun.elapsed());
}

async fn refused_load(dcs: &Etcd2) {
    let until = Instant::now() + LIMIT;
    while dcs.load().await.is_ok() {
        assert!(
            Instant::now() < until,
            "the copy is served although nobody keeps it"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn leader(cluster: &Cluster) -> Option<String> {
    cluster.leader.as_ref().map(|leader| leader.name.0.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_an_answer_is_found_out() {
    let etcd = Etcd2Server::start(1);
    let proxy = Proxy::start(etcd.0.members[0].port);
    let a = Etcd2::connect(&through(&etcd, &proxy), layout(), Some(identity("a")), LONG)
        .await
        .unwrap();
    let lose = |count| proxy.lose("PUT /v2/keys", count);
    lose(1);
    assert!(a.acquire_leader().await.unwrap(), "the key is ours");
    lose(1);
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    lose(1);
    let created = a.write(Key::Initialize, "", Expect::Absent).await;
    assert!(created.unwrap_err().is_maybe_applied());
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
    // All attempts go unanswered: what holds is unknown, and a later renewal finds the key renewed by one of them.
    lose(100);
    unavailable(a.renew_leader(WhenGone::Lost)).await;
    lose(0);
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    proxy.lose("DELETE /v2/keys", 1);
    assert!(
        a.release_leader(None)
            .await
            .is_err_and(|error| error.is_maybe_applied())
    );
    assert_eq!(etcd.value("/service/batman/leader"), None);
}

/// The index tells this agent's key from that of another agent of its name, and a late request from one that counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_renewed_and_released_by_its_index() {
    let etcd = Etcd2Server::start(1);
    let (a, clone) = (member(&etcd, "a", TIMING).await, member(&etcd, "a", TIMING).await);
    assert!(a.acquire_leader().await.unwrap());
    assert!(
        !clone.release_leader(Some(r#"{"optime":1}"#)).await.unwrap(),
        "it has not renewed it"
    );
    assert_eq!(
        etcd.value("/service/batman/status"),
        None,
        "only the leader tells its position"
    );
    // The next life of the agent takes the key up; what the life before still asks for comes too late.
    assert_eq!(clone.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    assert!(!a.release_leader(None).await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
    assert_eq!(etcd.value("/service/batman/leader").as_deref(), Some("a"));
    assert!(clone.release_leader(Some(r#"{"optime":3}"#)).await.unwrap());
    assert_eq!(
        etcd.value("/service/batman/status").as_deref(),
        Some(r#"{"optime":3}"#)
    );
}

/// The HA loop stops waiting, and the write is carried out all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_nobody_waits_for_is_found_out() {
    let etcd = Etcd2Server::start(1);
    let proxy = Proxy::start(etcd.0.members[0].port);
    let a = Etcd2::connect(&through(&etcd, &proxy), layout(), Some(identity("a")), LONG)
        .await
        .unwrap();
    assert!(a.acquire_leader().await.unwrap());
    let version = |cluster: &Cluster| cluster.leader.as_ref().map(|leader| leader.version);
    let first = eventually(&a, LIMIT, "the leader", version).await;
    proxy.lose("PUT /v2/keys", 1);
    let renewal = a.renew_leader(WhenGone::Recreate);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), renewal)
            .await
            .is_err()
    );
    let written = |cluster: &Cluster| version(cluster).filter(|version| *version > first);
    eventually(&a, LIMIT, "it was carried out", written).await;
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_restarts_or_stalls_is_an_error_until_it_answers() {
    let mut etcd = Etcd2Server::start(1);
    let a = member(&etcd, "a", LONG).await;
    let ctl = Etcd2::connect(&etcd.0.config(), layout(), None, LONG)
        .await
        .unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    etcd.0.kill(0);
    refused_load(&a).await;
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.acquire_leader()),
        unavailable(a.touch_member(r#"{"state":"x"}"#)),
        unavailable(a.write(Key::Config, "{}", Expect::Absent)),
        unavailable(a.release_leader(None)),
        unavailable(ctl.load()),
    );
    etcd.0.run(0);
    etcd.0.wait();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    eventually(&a, LIMIT, "the leader key shows again", leader).await;
    assert_eq!(a.load().await.unwrap().generation, 0, "the same store");
    etcd.0.freeze(0, true);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(a.write(Key::Config, "{}", Expect::Absent)),
        refused_load(&a),
    );
    etcd.0.freeze(0, false);
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    eventually(&a, LIMIT, "the copy is kept again", leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_etcd_may_die_one_at_a_time_and_without_a_quorum_nothing_is_served() {
    let mut etcd = Etcd2Server::start(3);
    let mut config = etcd.0.config();
    // The others are found by asking one.
    if let EtcdEndpoints::Hosts(hosts) = &mut config.endpoints {
        hosts.truncate(1);
    }
    let a = Etcd2::connect(&config, layout(), Some(identity("a")), LONG)
        .await
        .unwrap();
    assert!(a.acquire_leader().await.unwrap());
    for index in 0..3 {
        etcd.0.kill(index);
        let until = Instant::now() + LIMIT;
        loop {
            match a.renew_leader(WhenGone::Recreate).await {
                Ok(renewed) => break assert!(renewed.is_held()),
                Err(error) => assert!(Instant::now() < until, "{error:#}"),
            }
        }
        eventually(&a, LIMIT, "the leader shows with one member dead", leader).await;
        etcd.0.run(index);
        etcd.0.wait();
    }
    etcd.0.kill(0);
    etcd.0.kill(1);
    unavailable(a.renew_leader(WhenGone::Recreate)).await;
    refused_load(&a).await;
    etcd.0.run(0);
    etcd.0.run(1);
    etcd.0.wait();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_is_accepted() {
    let mut etcd = Etcd2Server::start(1);
    let (a, b) = (member(&etcd, "a", TIMING).await, member(&etcd, "b", TIMING).await);
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    for number in 0..30 {
        let value = format!(r#"{{"ttl":{number}}}"#);
        a.write(Key::Config, &value, Expect::Anything).await.unwrap();
    }
    let written = |cluster: &Cluster| cluster.config.clone().filter(|config| config.value["ttl"] == 29);
    eventually(&b, LIMIT, "a member that writes nothing has seen that", written).await;
    etcd.0.replace(None);
    for _ in 0..3 {
        let renewed = a.renew_leader(WhenGone::Recreate).await;
        assert!(matches!(renewed, Err(Error::Unavailable(_))), "{renewed:?}");
    }
    let is_new = |cluster: &Cluster| (cluster.generation == 1).then(|| cluster.clone());
    let empty = eventually(&a, LIMIT, "the new store is read", is_new).await;
    assert!(empty.leader.is_none() && empty.members.is_empty(), "{empty:?}");
    assert!(a.take_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    eventually(&b, LIMIT, "the new store is read", is_new).await;
    eventually(&b, LIMIT, "the others see the leader", leader).await;
    assert!(!b.acquire_leader().await.unwrap() && b.touch_member("{}").await.unwrap());
    assert_eq!(a.load().await.unwrap().generation, 1, "accepted once");
}

/// Patroni's leader key is its heartbeat as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_key_of_patroni_is_superseded_when_it_is_old() {
    let etcd = Etcd2Server::start(1);
    let b = member(&etcd, "b", TIMING).await;
    let renew = || {
        etcd.request(
            "PUT",
            "/v2/keys/service/batman/leader",
            &[("value", "p"), ("ttl", "30")],
        )
    };
    renew();
    let first = eventually(&b, LIMIT, "the heartbeat", crate::contract::expired).await;
    renew();
    assert!(!b.supersede_leader(first).await.unwrap(), "it has renewed since");
    let newer = |cluster: &Cluster| crate::contract::expired(cluster).filter(|seen| *seen != first);
    let second = eventually(&b, LIMIT, "the next heartbeat", newer).await;
    assert!(b.supersede_leader(second).await.unwrap());
    assert_eq!(etcd.value("/service/batman/leader").as_deref(), Some("b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_listed_and_deleted() {
    let etcd = Etcd2Server::start(1);
    let a = member(&etcd, "a", TIMING).await;
    assert!(a.acquire_leader().await.unwrap());
    etcd.put("/service/other/config", "{}");
    let scopes = Etcd2::scopes(&etcd.0.config(), "/service/", TIMING)
        .await
        .unwrap();
    assert_eq!(scopes.into_iter().collect::<Vec<_>>(), ["batman", "other"]);
    let ctl = Etcd2::connect(&etcd.0.config(), layout(), None, TIMING)
        .await
        .unwrap();
    assert!(ctl.load().await.unwrap().leader.is_some());
    ctl.delete_cluster().await.unwrap();
    assert!(ctl.load().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_authenticated() {
    let etcd = Etcd2Server::start(1);
    let port = etcd.0.members[0].port;
    let admin = "Authorization: Basic cm9vdDpyMDB0\r\n";
    for (path, body) in [
        ("users/root", r#"{"user":"root","password":"r00t"}"#),
        (
            "roles/patroni",
            r#"{"role":"patroni","permissions":{"kv":{"read":["/service/*"],"write":["/service/*"]}}}"#,
        ),
        (
            "roles/reader",
            r#"{"role":"reader","permissions":{"kv":{"read":["/service/*"],"write":[]}}}"#,
        ),
        (
            "users/patroni",
            r#"{"user":"patroni","password":"s3cret","roles":["patroni"]}"#,
        ),
        (
            "users/reader",
            r#"{"user":"reader","password":"s3cret","roles":["reader"]}"#,
        ),
        ("enable", ""),
        (
            "roles/guest",
            r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#,
        ),
    ] {
        let (status, body) = ask(port, "PUT", &format!("/v2/auth/{path}"), admin, body).unwrap();
        assert!((200..300).contains(&status), "{path}: {status} {body}");
    }
    let with = |user: &str, password: &str| EtcdConfig {
        username: Some(user.to_owned()),
        password: Some(password.into()),
        ..etcd.0.config()
    };
    let connect =
        async |config: EtcdConfig| Etcd2::connect(&config, layout(), Some(identity("a")), TIMING).await;
    let a = connect(with("patroni", "s3cret")).await.unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
    for config in [with("patroni", "wrong"), etcd.0.config()] {
        let error = connect(config).await.err().unwrap();
        assert!(matches!(error, Error::Rejected(_)), "{error:#}");
        let text = format!("{error:#}");
        assert!(!text.contains("wrong") && text.contains("401"), "{text}");
    }
    // One that may only read: refused, and the lock is not lost.
    a.reload(&with("reader", "s3cret")).await.unwrap();
    let error = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    a.reload(&with("patroni", "s3cret")).await.unwrap();
    assert!(a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_client_certificates() {
    let authority = Authority::new();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let owned = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
    let ((cert, key), (client_cert, client_key)) = (authority.issue("server"), authority.issue("client"));
    let ca = text(&authority.ca);
    let flags = [
        "--enable-v2",
        "--cert-file",
        &text(&cert),
        "--key-file",
        &text(&key),
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca,
    ];
    let ctl = [
        "--cacert",
        &ca,
        "--cert",
        &text(&client_cert),
        "--key",
        &text(&client_key),
    ];
    let etcd = Etcd::start_with("https", 1, owned(&flags), owned(&ctl));
    let mut config = etcd.config();
    config.cacert = Some(authority.ca.clone());
    config.cert = Some(client_cert);
    config.key = Some(client_key);
    let connect = async |config: &EtcdConfig| Etcd2::connect(config, layout(), None, TIMING).await;
    let ctl = connect(&config).await.unwrap();
    assert!(ctl.load().await.unwrap().is_empty());
    (config.cert, config.key) = (None, None);
    assert!(matches!(connect(&config).await, Err(Error::Unavailable(_))));
}

/// An etcd without the version 2 says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_without_version_2_is_an_error() {
    let etcd = Etcd::start(1);
    let error = Etcd2::connect(&etcd.config(), layout(), Some(identity("a")), TIMING)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    assert!(format!("{error:#}").contains("404"), "{error:#}");
}
