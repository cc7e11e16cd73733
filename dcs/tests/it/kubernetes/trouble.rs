//! What an API server does besides answering: conflicts, silence, refusals, lost watches, another store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ha::cluster::{Cluster, Expired};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tamada_dcs::kubernetes::{Environment, Kubernetes};
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Renewed, Timing, WhenGone};

use super::fake::{Fake, Fault};
use super::{Stage, config, labels};
use crate::contract::{LIMIT, TIMING, eventually, expired, identity};

const QUICK: Timing = Timing {
    ttl: Duration::from_secs(4),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(2),
};

async fn member(stage: &Stage, scope: &str, name: &str, timing: Timing) -> Kubernetes {
    stage.member(scope, identity(name), timing).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_an_answer_is_found_out() {
    let stage = Stage::start(false);
    let a = member(&stage, "s", "a", TIMING).await;
    stage.server.plan("POST", "configmaps", 1, Fault::DoneThenSilence);
    assert!(a.acquire_leader().await.unwrap(), "the record is ours");
    for fault in [
        Fault::DoneThenSilence,
        Fault::DoneThenStatus(504),
        Fault::DoneThenStatus(500),
        Fault::Silence,
    ] {
        stage.server.plan("PATCH", "s-leader", 1, fault);
        assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    }
    stage.server.plan("POST", "configmaps", 1, Fault::DoneThenSilence);
    let created = a.write(Key::Initialize, "", Expect::Absent).await;
    assert!(
        created.unwrap_err().is_maybe_applied(),
        "who has created it is not known"
    );
    let version = a
        .write(Key::Config, r#"{"ttl":30}"#, Expect::Absent)
        .await
        .unwrap()
        .unwrap();
    stage.server.plan("PATCH", "s-config", 1, Fault::DoneThenSilence);
    let written = a
        .write(Key::Config, r#"{"ttl":31}"#, Expect::Version(version))
        .await
        .unwrap();
    assert_eq!(
        written,
        a.load().await.unwrap().config.map(|config| config.version)
    );
    stage.server.plan("PATCH", "s-leader", 1, Fault::DoneThenSilence);
    let release = a.release_leader(Some(r#"{"optime":5}"#)).await;
    assert!(
        release.is_err_and(|error| error.is_maybe_applied()),
        "tried once: a stop does not wait"
    );
    assert_eq!(
        stage.server.annotation("s", "configmaps", "s-leader", "leader"),
        None
    );
}

/// The record as it stands in the server.
fn newest(stage: &Stage, cluster: &Cluster) -> Option<Expired> {
    let object = stage.server.get("s", "configmaps", "s-leader")?;
    let version = object
        .pointer("/metadata/resourceVersion")?
        .as_str()?
        .parse()
        .ok();
    expired(cluster).filter(|expired| Some(expired.heartbeat.0) == version)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_decided_again_on_what_there_is() {
    let stage = Stage::start(false);
    let (a, b) = (
        member(&stage, "s", "a", TIMING).await,
        member(&stage, "s", "b", TIMING).await,
    );
    assert!(a.acquire_leader().await.unwrap());
    stage
        .server
        .plan("PATCH", "s-leader", 1, Fault::Rival("optime", "9"));
    assert_eq!(
        a.renew_leader(WhenGone::Lost).await.unwrap(),
        Renewed::Yes,
        "the record is as it was"
    );
    let seen = eventually(&b, LIMIT, "the record", |cluster| newest(&stage, cluster)).await;
    stage
        .server
        .plan("PATCH", "s-leader", 1, Fault::Rival("renewTime", "later"));
    assert!(
        !b.supersede_leader(seen).await.unwrap(),
        "it was renewed in that moment"
    );
    let seen = eventually(&b, LIMIT, "the later renewal", |cluster| newest(&stage, cluster)).await;
    stage
        .server
        .plan("PATCH", "s-leader", 1, Fault::Rival("optime", "10"));
    assert!(b.supersede_leader(seen).await.unwrap(), "the record is as it was");
    assert!(
        !a.supersede_leader(seen).await.unwrap(),
        "that was decided on an older record"
    );
    stage
        .server
        .plan("PATCH", "s-leader", 1, Fault::Rival("leader", "c"));
    assert_eq!(b.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::No);
    let version = b
        .write(Key::Config, "{\"ttl\":1}", Expect::Anything)
        .await
        .unwrap()
        .unwrap();
    stage
        .server
        .plan("PATCH", "s-config", 1, Fault::Rival("history", "[]"));
    let written = b
        .write(Key::Config, "{\"ttl\":2}", Expect::Version(version))
        .await
        .unwrap();
    assert!(written.is_some(), "another key of the same object has changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_asked_again_and_a_refusal_is_told() {
    let stage = Stage::start(false);
    let mut configured = config("s", false);
    configured.retriable_http_codes = vec![418];
    stage.server.pod("s", "a", "10.0.0.1", &labels("s"));
    let layout = Layout::new("service", "s", None);
    let a = Kubernetes::connect_in(
        stage.environment("s"),
        &configured,
        layout,
        Some(identity("a")),
        TIMING,
    )
    .await
    .unwrap();
    assert!(a.acquire_leader().await.unwrap());
    let begun = Instant::now();
    stage
        .server
        .plan("PATCH", "s-leader", 1, Fault::Status(429, Some(1)));
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "it has asked for a second"
    );
    for code in [500, 503, 504, 418, 403, 401] {
        stage
            .server
            .plan("PATCH", "s-leader", 2, Fault::Status(code, None));
        assert_eq!(
            a.renew_leader(WhenGone::Lost).await.unwrap(),
            Renewed::Yes,
            "{code}"
        );
    }
    stage.server.forbid("patch", "configmaps");
    let error = a
        .write(Key::Status, r#"{"optime":5}"#, Expect::Anything)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Rejected(_)) && format!("{error:#}").contains("cannot patch"),
        "{error:#}"
    );
    a.set_timing(QUICK);
    let error = a.renew_leader(WhenGone::Lost).await.unwrap_err();
    assert!(
        matches!(&error, Error::Rejected(_)),
        "a refusal is no loss: {error:#}"
    );
    stage.server.permit_all();
    // A server that conflicts without end.
    stage
        .server
        .plan("PATCH", "s-leader", usize::MAX, Fault::Status(409, None));
    let error = a.renew_leader(WhenGone::Lost).await.unwrap_err();
    assert!(error.is_maybe_applied(), "a conflict is no loss: {error:#}");
    stage.server.no_faults();
    stage.server.set_up(false);
    let error = a.renew_leader(WhenGone::Lost).await.unwrap_err();
    assert!(error.is_maybe_applied() && a.load().await.is_err(), "{error:#}");
    stage.server.set_up(true);
    let back = |cluster: &Cluster| cluster.leader.is_some().then_some(());
    eventually(&a, LIMIT, "the copy is kept again", back).await;
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    stage.server.warn("v1 Endpoints is deprecated in v1.33+");
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_watch_goes_on() {
    let stage = Stage::start(true);
    let (a, b) = (
        member(&stage, "s", "a", TIMING).await,
        member(&stage, "s", "b", TIMING).await,
    );
    for round in 0..4 {
        let lists = stage.server.count("list /api/v1/namespaces/s/endpoints");
        match round {
            0 => {}
            1 => stage.server.cut(),
            2 => stage.server.compact(),
            _ => stage.server.plan("GET", "endpoints", 2, Fault::Status(500, None)),
        }
        let value = format!(r#"{{"ttl":{}}}"#, 30 + round);
        assert!(
            a.write(Key::Config, &value, Expect::Anything)
                .await
                .unwrap()
                .is_some()
        );
        let told = |cluster: &Cluster| {
            cluster
                .config
                .clone()
                .filter(|config| config.value["ttl"] == 30 + round)
        };
        eventually(&b, LIMIT, "the change shows", told).await;
        if round == 2 {
            assert!(
                stage.server.count("list /api/v1/namespaces/s/endpoints") > lists,
                "listed again"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_is_another_one() {
    let stage = Stage::start(false);
    let a = member(&stage, "s", "a", TIMING).await;
    assert!(a.touch_member("{}").await.unwrap() && a.acquire_leader().await.unwrap());
    let backup = stage.server.backup();
    assert!(
        a.write(Key::Config, r#"{"ttl":31}"#, Expect::Anything)
            .await
            .unwrap()
            .is_some()
    );
    assert!(a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
    stage.server.restore(backup);
    let other = |cluster: &Cluster| (cluster.generation == 1).then(|| cluster.clone());
    let cluster = eventually(&a, LIMIT, "another store", other).await;
    assert!(
        cluster.config.is_none() && cluster.leader.is_some(),
        "as it was then"
    );
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_and_labels_move_with_the_lock() {
    let stage = Stage::start(true);
    stage.server.pod("s", "b", "10.0.0.2", &labels("s"));
    let (a, b) = (
        member(&stage, "s", "a", TIMING).await,
        member(&stage, "s", "b", TIMING).await,
    );
    // The address comes from the pod: it has to be known.
    assert!(a.load().await.is_ok() && b.load().await.is_ok());
    let ip = || {
        Some(
            stage
                .server
                .get("s", "endpoints", "s")?
                .pointer("/subsets/0/addresses/0/ip")?
                .as_str()?
                .to_owned(),
        )
    };
    let (primary, replica) = (
        r#"{"state":"running","role":"primary"}"#,
        r#"{"state":"running","role":"replica"}"#,
    );
    assert!(a.acquire_leader().await.unwrap());
    assert!(a.touch_member(primary).await.unwrap() && b.touch_member(replica).await.unwrap());
    let role = |pod| stage.server.label("s", pod, "role").unwrap_or_default();
    assert_eq!(
        (ip().as_deref(), role("a"), role("b")),
        (Some("10.0.0.1"), "primary".into(), "replica".into())
    );
    assert_eq!(
        stage.server.get("s", "services", "s-config").unwrap()["spec"]["clusterIP"],
        "None"
    );
    let writes = stage.server.count("patch /api/v1/namespaces/s/pods");
    assert!(a.touch_member(primary).await.unwrap() && b.touch_member(replica).await.unwrap());
    assert_eq!(
        stage.server.count("patch /api/v1/namespaces/s/pods"),
        writes,
        "nothing has changed"
    );
    assert!(a.release_leader(Some(r#"{"optime":5}"#)).await.unwrap());
    assert_eq!(ip(), None, "traffic stops in the same write");
    let gone = |cluster: &Cluster| cluster.leader.is_none().then_some(());
    eventually(&b, LIMIT, "the key is free", gone).await;
    assert!(b.acquire_leader().await.unwrap() && b.touch_member(primary).await.unwrap());
    assert!(a.touch_member(replica).await.unwrap());
    assert_eq!(
        (ip().as_deref(), role("a"), role("b")),
        (Some("10.0.0.2"), "replica".into(), "primary".into())
    );
    let transitions = stage.server.annotation("s", "endpoints", "s", "transitions");
    assert_eq!(transitions.as_deref(), Some("1"));
    stage.server.delete("s", "pods", "a");
    let error = a.touch_member(primary).await.unwrap_err();
    assert!(
        matches!(error, Error::Rejected(_)) && format!("{error:#}").contains("no pod \"a\""),
        "{error:#}"
    );
    let left = |cluster: &Cluster| cluster.member(&"a".into()).is_none().then_some(());
    eventually(&b, LIMIT, "a member goes with its pod", left).await;
    a.delete_cluster().await.unwrap();
    super::packaging::assert_permitted(&stage.server.used());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_an_earlier_life_is_taken_when_its_time_is_over() {
    let stage = Stage::start(false);
    let former = member(&stage, "s", "a", QUICK).await;
    assert!(former.touch_member("{}").await.unwrap() && former.acquire_leader().await.unwrap());
    drop(former);
    let begun = Instant::now();
    let a = member(&stage, "s", "a", QUICK).await;
    assert!(!a.acquire_leader().await.unwrap());
    let over = |cluster: &Cluster| cluster.leader.is_none().then_some(());
    eventually(&a, LIMIT, "its time is over", over).await;
    assert!(begun.elapsed() >= QUICK.ttl);
    let is_free = |cluster: &Cluster| {
        cluster
            .members
            .first()
            .filter(|member| member.session == "0")
            .cloned()
    };
    eventually(&a, LIMIT, "the name is free", is_free).await;
    assert!(a.touch_member("{}").await.unwrap());
    assert!(a.acquire_leader().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_replaced_is_read_again() {
    let stage = Stage::start_as(false, "tokenFile: token");
    std::fs::write(stage.file("token"), "one").unwrap();
    stage.server.require_token("one");
    let a = member(&stage, "s", "a", TIMING).await;
    assert!(a.acquire_leader().await.unwrap());
    std::fs::write(stage.file("token"), "two").unwrap();
    stage.server.require_token("two");
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
}

/// What `tamada ctl` is, and a Citus coordinator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_groups_see_what_is_theirs() {
    let stage = Stage::start(false);
    let open = |group, name: Option<&str>| {
        let layout = Layout::new("service", "s", group);
        let identity = name.map(identity);
        let (environment, config) = (stage.environment("s"), config("s", false));
        async move {
            Kubernetes::connect_in(environment, &config, layout, identity, TIMING)
                .await
                .unwrap()
        }
    };
    for (pod, group) in [("a", "0"), ("w", "1")] {
        let mut labels = labels("s");
        labels["citus-group"] = json!(group);
        stage.server.pod("s", pod, "10.0.0.1", &labels);
    }
    let (coordinator, worker) = (open(Some(0), Some("a")).await, open(Some(1), Some("w")).await);
    for dcs in [&coordinator, &worker] {
        assert!(dcs.touch_member("{}").await.unwrap() && dcs.acquire_leader().await.unwrap());
    }
    let reader = open(Some(0), None).await;
    let cluster = reader.load().await.unwrap();
    assert_eq!(cluster.leader_name().map(|name| name.as_str()), Some("a"));
    assert_eq!(cluster.members.len(), 1);
    assert_eq!(
        cluster.workers[&1].leader_name().map(|name| name.as_str()),
        Some("w")
    );
    assert!(open(Some(1), None).await.load().await.unwrap().workers.is_empty());
    let version = coordinator
        .write(Key::Config, "{\"ttl\":1}", Expect::Absent)
        .await
        .unwrap();
    let seen = reader.load().await.unwrap().config.unwrap();
    assert_eq!(Some(seen.version), version);
    assert!(
        coordinator
            .write(Key::Config, "{\"ttl\":2}", Expect::Version(seen.version))
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(
        reader
            .write(Key::Config, "{}", Expect::Version(seen.version))
            .await
            .unwrap(),
        None
    );
    worker.delete_cluster().await.unwrap();
    assert!(stage.server.get("s", "configmaps", "s-1-leader").is_none());
    assert!(stage.server.get("s", "configmaps", "s-0-leader").is_some());
    assert!(reader.acquire_leader().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_pod_the_service_or_the_servers_themselves_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    // For the name of the service: an address is none of its names.
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    for (name, text) in [
        ("ca.crt", certificate.pem()),
        ("key.pem", key.serialize_pem()),
        ("token", "s3cret".to_owned()),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let options = net::tls::ServerOptions {
        cert: dir.path().join("ca.crt"),
        key: Some(dir.path().join("key.pem")),
        key_password: None,
        ca: None,
        verify_client: net::tls::VerifyClient::None,
        ciphers: None,
    };
    let fake = Fake::start_with(Some(Arc::new(options.server_config().unwrap())));
    fake.require_token("s3cret");
    fake.pod("default", "a", "10.0.0.1", &labels("s"));
    let subsets = json!([{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "https", "port": fake.port, "protocol": "TCP"}]}]);
    // Nowhere but here do the servers have an address of the loopback interface.
    fake.put_unchecked("default", "endpoints", "kubernetes", json!({"subsets": subsets}));
    let environment = Environment {
        service_host: Some("localhost".into()),
        service_port: Some(fake.port.to_string()),
        service_account: dir.path().to_owned(),
        kubeconfig: None,
    };
    for (bypass, is_forbidden) in [(false, false), (true, false), (true, true)] {
        let mut config = config("default", false);
        config.bypass_api_service = bypass;
        if is_forbidden {
            fake.forbid("get", "endpoints");
        }
        let layout = Layout::new("service", "s", None);
        let a = Kubernetes::connect_in(environment.clone(), &config, layout, Some(identity("a")), TIMING)
            .await
            .unwrap();
        assert!(a.take_leader().await.unwrap(), "{bypass} {is_forbidden}");
        assert!(a.load().await.unwrap().leader.is_some());
        a.write(Key::Config, "{}", Expect::Anything).await.unwrap();
        fake.plan("PATCH", "s-config", 1, Fault::Status(422, None));
        let refused = a.write(Key::History, "[]", Expect::Anything).await.unwrap_err();
        let asked = if bypass && !is_forbidden {
            "https://127.0.0.1:"
        } else {
            "https://localhost:"
        };
        assert!(refused.failure().endpoint.starts_with(asked), "{refused:#}");
    }
}
