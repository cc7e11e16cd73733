//! The contract on the real kube-apiserver, and what it does besides answering.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ha::cluster::Cluster;
use serde_json::{Value, json};
use tamada_dcs::kubernetes::{Environment, Kubernetes};
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Renewed, Timing, WhenGone};

use super::apiserver::{ApiServer, Settings};
use super::gateway::Gateway;
use super::{Hand, Stage, config, labels};
use crate::contract::{LIMIT, TIMING, eventually, expired, identity, play};
use crate::proxy::Proxy;

/// No lock expires while a busy machine starts servers again.
const LONG: Timing = Timing {
    ttl: Duration::from_secs(120),
    loop_wait: Duration::from_secs(1),
    retry_timeout: Duration::from_secs(3),
};

/// How much later a busy machine may notice that a time is over.
const SLACK: Duration = Duration::from_secs(2);

impl Hand for ApiServer {
    fn apply(&self, namespace: &str, kind: &str, name: &str, patch: &Value) {
        Self::apply(self, namespace, kind, name, patch);
    }

    fn pod(&self, namespace: &str, name: &str, ip: &str, labels: &Value) {
        self.namespace(namespace);
        Self::pod(self, namespace, name, ip, labels);
    }

    fn get(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        Self::get(self, namespace, kind, name)
    }

    fn delete_all(&self, namespace: &str, kind: &str) {
        Self::delete_all(self, namespace, kind);
    }

    fn kubeconfig(&self, namespace: &str) -> String {
        self.kubeconfig_at(&self.address(), &format!("token: {}", self.token(namespace)))
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn stage(use_endpoints: bool, settings: Settings) -> Stage<ApiServer> {
    Stage::on(ApiServer::start_with(&root(), settings), use_endpoints)
}

async fn member(stage: &Stage<ApiServer>, name: &str, timing: Timing) -> Kubernetes {
    stage.member("s", identity(name), timing).await
}

/// As [`member`], with all requests through a proxy.
async fn member_behind(stage: &Stage<ApiServer>, port: u16, name: &str, timing: Timing) -> Kubernetes {
    stage.server.namespace("s");
    stage.server.pod("s", name, "10.0.0.1", &labels("s"));
    let file = stage.file(&format!("proxied-{name}"));
    let user = format!("token: {}", stage.server.token("s"));
    let address = format!("http://127.0.0.1:{port}");
    std::fs::write(&file, stage.server.kubeconfig_at(&address, &user)).unwrap();
    let environment = Environment {
        kubeconfig: Some(file),
        ..Environment::default()
    };
    let (layout, config) = (Layout::new("service", "s", None), config("s", false));
    let opened = Kubernetes::connect_in(environment, &config, layout, Some(identity(name)), timing);
    opened.await.unwrap()
}

async fn unavailable<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Error>>) {
    let begun = Instant::now();
    let error = call.await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:#}");
    let limit = LONG.retry_timeout + SLACK;
    assert!(begun.elapsed() < limit, "{:?}: {error:#}", begun.elapsed());
}

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

async fn renewed_at_last(dcs: &dyn Dcs) {
    let until = Instant::now() + LIMIT;
    loop {
        match dcs.renew_leader(WhenGone::Lost).await {
            Ok(renewed) => return assert_eq!(renewed, Renewed::Yes),
            Err(error) => assert!(Instant::now() < until, "{error:#}"),
        }
    }
}

fn leader(cluster: &Cluster) -> Option<String> {
    cluster.leader.as_ref().map(|leader| leader.name.0.clone())
}

async fn play_on(use_endpoints: bool) {
    let stage = stage(use_endpoints, Settings::default());
    // The foreign hand blocks all scenarios while it works: what takes it long is done before.
    for number in 1..=15 {
        for name in ["a", "b"] {
            let scope = format!("s{number}");
            Hand::pod(&stage.server, &scope, name, "10.0.0.1", &labels(&scope));
        }
        stage.environment(&format!("s{number}"));
    }
    play(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn configmaps_of_the_real_server_keep_the_contract() {
    play_on(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn endpoints_of_the_real_server_keep_the_contract() {
    play_on(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn answers_of_the_real_server_are_lost_late_or_never_come() {
    let stage = stage(false, Settings::default());
    let gateway = Gateway::to(&stage.server);
    let proxy = Proxy::start(gateway.port);
    let a = member_behind(&stage, proxy.port, "a", LONG).await;
    let lose = |count| proxy.lose("Content-Type".to_lowercase().as_str(), count);
    lose(1);
    assert!(a.acquire_leader().await.unwrap(), "the record is ours");
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
    assert!(written.is_some_and(|written| written > version));
    let known = a.load().await.unwrap().config.map(|config| config.version);
    assert_eq!(written, known);
    lose(100);
    unavailable(a.renew_leader(WhenGone::Lost)).await;
    lose(0);
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);

    proxy.delay(Duration::from_millis(100));
    assert!(a.touch_member("{}").await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    proxy.delay(Duration::ZERO);
    proxy.silence(true);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Lost)),
        unavailable(a.acquire_leader()),
        unavailable(a.write(Key::Config, "{}", Expect::Anything)),
    );
    proxy.silence(false);
    renewed_at_last(&a).await;
    proxy.close(true);
    tokio::join!(unavailable(a.renew_leader(WhenGone::Lost)), refused_load(&a));
    proxy.close(false);
    renewed_at_last(&a).await;
    eventually(&a, LIMIT, "the copy is kept again", leader).await;
    lose(1);
    let released = a.release_leader(Some(r#"{"optime":5}"#)).await;
    assert!(
        released.is_err_and(|error| error.is_maybe_applied()),
        "tried once: a stop does not wait"
    );
    let object = stage.server.get("s", "configmaps", "s-leader").unwrap();
    let annotations = &object["metadata"]["annotations"];
    assert_eq!(
        (&annotations["leader"], &annotations["optime"]),
        (&Value::Null, &json!("5"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn the_real_server_restarts_stalls_and_loses_its_data() {
    let mut stage = stage(false, Settings::default());
    let (a, b) = (member(&stage, "a", LONG).await, member(&stage, "b", LONG).await);
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    stage.server.stop();
    refused_load(&a).await;
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(b.acquire_leader()),
        unavailable(a.touch_member(r#"{"state":"x"}"#)),
        unavailable(a.write(Key::Config, "{}", Expect::Absent)),
        unavailable(a.release_leader(None)),
        unavailable(a.load()),
    );
    stage.server.run();
    renewed_at_last(&a).await;
    eventually(&a, LIMIT, "the leader shows again", leader).await;
    assert_eq!(a.load().await.unwrap().generation, 0, "the same store");

    // The API server answers, and nothing of what it needs etcd for.
    stage.server.suspend_etcd(true);
    tokio::join!(
        unavailable(a.renew_leader(WhenGone::Recreate)),
        unavailable(b.acquire_leader()),
        unavailable(a.write(Key::Config, "{}", Expect::Absent)),
    );
    stage.server.suspend_etcd(false);
    renewed_at_last(&a).await;
    for number in 0..30 {
        let value = format!(r#"{{"ttl":{number}}}"#);
        a.write(Key::Config, &value, Expect::Anything).await.unwrap();
    }
    let written = |cluster: &Cluster| cluster.config.clone().filter(|config| config.value["ttl"] == 29);
    eventually(&b, LIMIT, "a member that writes nothing has seen that", written).await;

    stage.server.wipe_etcd();
    // Namespace and pods are the administrator's to create again, and the service account is another one.
    let refused = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
    assert!(
        matches!(refused, Error::Unavailable(_) | Error::Rejected(_)),
        "{refused:#}"
    );
    for name in ["a", "b"] {
        Hand::pod(&stage.server, "s", name, "10.0.0.1", &labels("s"));
    }
    let file = stage.environment("s").kubeconfig.unwrap();
    std::fs::write(file, stage.server.kubeconfig("s")).unwrap();
    for dcs in [&a, &b] {
        dcs.reload(&config("s", false)).unwrap();
    }
    let is_new = |cluster: &Cluster| (cluster.generation == 1).then(|| cluster.clone());
    let empty = eventually(&a, LIMIT, "the new store is read", is_new).await;
    assert!(empty.leader.is_none() && empty.config.is_none(), "{empty:?}");
    assert!(a.take_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Recreate).await.unwrap(), Renewed::Yes);
    eventually(&b, LIMIT, "the new store is read", is_new).await;
    let led = |cluster: &Cluster| leader(cluster).filter(|name| name == "a");
    eventually(&b, LIMIT, "the leader shows", led).await;
    assert!(!b.acquire_leader().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn one_of_many_gets_the_lock_of_the_real_server() {
    let stage = stage(true, Settings::default());
    let mut members = Vec::new();
    for name in ["a", "b", "c", "d"] {
        members.push(member(&stage, name, TIMING).await);
    }
    let [a, b, c, d] = &members[..] else {
        unreachable!()
    };
    let winners = |held: &[Result<bool, Error>]| {
        // What is not known is no loss, and no lock.
        let held = held.iter().filter(|held| matches!(held, Ok(true)));
        held.count()
    };
    let held: [_; 4] = tokio::join!(
        a.acquire_leader(),
        b.acquire_leader(),
        c.acquire_leader(),
        d.acquire_leader()
    )
    .into();
    assert_eq!(winners(&held), 1, "{held:?}");
    let of = |name: &str| {
        members
            .iter()
            .zip(["a", "b", "c", "d"])
            .find(|(_, known)| *known == name)
            .unwrap()
            .0
    };
    let mut seen = Vec::new();
    for dcs in &members {
        seen.push(eventually(dcs, LIMIT, "the record", expired).await);
    }
    let first = leader(&a.load().await.unwrap()).unwrap();
    let superseded = tokio::join!(
        a.supersede_leader(seen[0]),
        b.supersede_leader(seen[1]),
        c.supersede_leader(seen[2]),
        d.supersede_leader(seen[3])
    );
    let held: [_; 4] = superseded.into();
    assert_eq!(winners(&held), 1, "{held:?}");
    let place = held.iter().position(|held| matches!(held, Ok(true))).unwrap();
    let holder = &members[place];
    if holder.lease() != of(&first).lease() {
        assert_eq!(
            of(&first).renew_leader(WhenGone::Recreate).await.unwrap(),
            Renewed::No
        );
    }
    // Another annotation of the same object changes again and again: each conflict is decided anew.
    let writes = async {
        for number in 0..40 {
            let status = format!(r#"{{"optime":{number}}}"#);
            a.write(Key::Status, &status, Expect::Anything).await.unwrap();
        }
    };
    let renewals = async {
        for _ in 0..20 {
            assert_eq!(holder.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
        }
    };
    tokio::join!(writes, renewals);
    assert!(holder.release_leader(Some(r#"{"optime":77}"#)).await.unwrap());
    let object = stage.server.get("s", "endpoints", "s").unwrap();
    assert_eq!(object["subsets"], Value::Null, "traffic stops in the same write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn a_watch_whose_beginning_the_real_server_has_forgotten_goes_on() {
    // Without its own memory it asks etcd, which forgets by compaction.
    let settings = Settings {
        server: vec!["--watch-cache=false".to_owned()],
        ..Settings::default()
    };
    let stage = stage(false, settings);
    let gateway = Gateway::to(&stage.server);
    let proxy = Proxy::start(gateway.port);
    let a = member(&stage, "a", LONG).await;
    let b = member_behind(&stage, proxy.port, "b", LONG).await;
    assert!(a.acquire_leader().await.unwrap());
    eventually(&b, LIMIT, "the leader shows", leader).await;
    let lists = || {
        gateway.count("configmaps?labelSelector")
            - gateway.count("configmaps?labelSelector=application%3Dpatroni%2Ccluster-name%3Ds&watch")
    };
    let before = lists();
    // While nobody listens, others write and etcd is compacted.
    proxy.close(true);
    for number in 0..10 {
        stage.server.apply(
            "default",
            "configmaps",
            "other",
            &json!({"data": {"x": number.to_string()}}),
        );
    }
    a.write(Key::Config, r#"{"ttl":31}"#, Expect::Anything)
        .await
        .unwrap();
    stage.server.compact();
    proxy.close(false);
    let told = |cluster: &Cluster| cluster.config.clone().filter(|config| config.value["ttl"] == 31);
    eventually(&b, LIMIT, "the change shows", told).await;
    assert!(lists() > before, "listed again");
    a.write(Key::Config, r#"{"ttl":32}"#, Expect::Anything)
        .await
        .unwrap();
    let told = |cluster: &Cluster| cluster.config.clone().filter(|config| config.value["ttl"] == 32);
    eventually(&b, LIMIT, "the next one, too", told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn a_real_server_that_refuses_writes_takes_no_leader_away() {
    let quota = ["--quota-backend-bytes", "4000000"].map(str::to_owned).to_vec();
    let settings = Settings {
        etcd: quota,
        ..Settings::default()
    };
    let stage = stage(false, settings);
    let (a, b) = (member(&stage, "a", LONG).await, member(&stage, "b", LONG).await);
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    eventually(&b, LIMIT, "the leader shows", leader).await;
    let role = |rules: &Value| {
        let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/s/roles/demo";
        stage.server.ask("PATCH", path, Some(&json!({"rules": rules})))
    };
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/s/roles/demo";
    let rules = stage.server.ask("GET", path, None)["rules"].clone();
    role(
        &json!([{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["get", "list", "watch"]}]),
    );
    // The server learns of its new rules by a watch of its own.
    let until = Instant::now() + LIMIT;
    let refused = loop {
        match a.write(Key::History, "[]", Expect::Anything).await {
            Ok(_) => assert!(Instant::now() < until, "it is still permitted"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refused, Error::Rejected(_)) && format!("{refused:#}").contains("configmaps is forbidden"),
        "{refused:#}"
    );
    let renewed = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
    assert!(
        matches!(renewed, Error::Rejected(_)),
        "a refusal is no loss: {renewed:#}"
    );
    let taken = b.acquire_leader().await;
    assert!(!taken.is_ok_and(|is_held| is_held));
    role(&rules);
    renewed_at_last(&a).await;

    let mut is_full = false;
    let filler = "x".repeat(500_000);
    for number in 0..40 {
        let body = json!({"metadata": {"name": format!("filler-{number}")}, "data": {"x": filler}});
        let answer = stage.server.request(
            "POST",
            "/api/v1/namespaces/default/configmaps",
            "Bearer admin-token",
            Some(("application/json", &body)),
        );
        is_full = answer.is_ok_and(|(status, text)| status >= 500 && text.contains("space exceeded"));
        if is_full {
            break;
        }
    }
    assert!(is_full, "the quota is not used up");
    let renewed = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
    assert!(!matches!(renewed, Error::Fatal(_)), "{renewed:#}");
    assert!(format!("{renewed:#}").contains("space exceeded"), "{renewed:#}");
    assert!(!b.acquire_leader().await.is_ok_and(|is_held| is_held));
    for number in 0..40 {
        let _ = stage
            .server
            .etcdctl(&["del", &format!("/registry/configmaps/default/filler-{number}")]);
    }
    stage.server.compact();
    stage.server.etcdctl(&["defrag"]).unwrap();
    stage.server.etcdctl(&["alarm", "disarm"]).unwrap();
    renewed_at_last(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn the_real_server_accepts_what_is_shipped_and_a_pods_credentials() {
    let server = ApiServer::start(&root());
    server.namespace("s");
    let folder = root().join("packaging/kubernetes");
    for name in [
        "services-configmaps.yaml",
        "statefulset.yaml",
        "services-endpoints.yaml",
    ] {
        server.ship("s", &std::fs::read_to_string(folder.join(name)).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(server.ca(), dir.path().join("ca.crt")).unwrap();
    std::fs::write(dir.path().join("token"), server.token("s")).unwrap();
    let environment = Environment {
        service_host: Some("localhost".into()),
        service_port: Some(server.port.to_string()),
        service_account: dir.path().to_owned(),
        kubeconfig: None,
    };
    for (name, use_endpoints) in [("a", false), ("b", true)] {
        server.pod("s", name, "10.0.0.1", &labels("s"));
        let mut config = config("s", use_endpoints);
        // There are no addresses of servers here: the Service's stays in use.
        config.bypass_api_service = true;
        let layout = Layout::new("service", "s", None);
        let a = Kubernetes::connect_in(environment.clone(), &config, layout, Some(identity(name)), TIMING)
            .await
            .unwrap();
        assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
        assert_eq!(leader(&a.load().await.unwrap()).as_deref(), Some(name));
        a.delete_cluster().await.unwrap();
    }
    let service = server.get("s", "services", "s-config").unwrap();
    assert_eq!(service["spec"]["clusterIP"], "None");
    // A token that the server does not know.
    std::fs::write(dir.path().join("token"), "wrong").unwrap();
    let layout = Layout::new("service", "s", None);
    let refused = Kubernetes::connect_in(environment, &config("s", false), layout, None, LONG).await;
    let text = format!("{:#}", refused.err().unwrap());
    assert!(text.contains("Unauthorized"), "{text}");
}
