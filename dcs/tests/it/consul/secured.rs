//! Consul with tokens, and with TLS.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tamada_dcs::consul::Consul as Store;
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Renewed, WhenGone};

use super::{Consul, SCOPE, connect};
use crate::contract::{LIMIT, TIMING, eventually, identity};
use crate::secured::Authority;

const ROOT: &str = "11111111-2222-3333-4444-555555555555";

/// A Consul that permits nothing without a token.
fn start() -> Consul {
    let acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": ROOT, "agent": ROOT}});
    let mut consul = Consul::start_with(1, json!({"acl": acl, "primary_datacenter": "dc1"}));
    consul.token = Some(ROOT.to_owned());
    consul
}

/// A token with these rules.
fn token(consul: &Consul, name: &str, rules: &str) -> String {
    let policy = json!({"Name": name, "Rules": rules}).to_string();
    let limit = Instant::now() + Duration::from_secs(20);
    let port = consul.nodes[0].port;
    loop {
        match consul.ask(port, "PUT", "/v1/acl/policy", &policy) {
            Ok((200, _)) => break,
            answer => assert!(Instant::now() < limit, "{answer:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let token = json!({"Policies": [{"Name": name}]}).to_string();
    let token: Value = serde_json::from_str(&consul.request("PUT", "/v1/acl/token", &token)).unwrap();
    token["SecretID"].as_str().unwrap().to_owned()
}

const WRITE: &str = r#"key_prefix "service/batman" { policy = "write" } session_prefix "" { policy = "write" } service_prefix "batman" { policy = "write" }"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_few_rights_is_enough() {
    let consul = start();
    let few = token(&consul, "few", WRITE);
    let read = token(
        &consul,
        "read",
        &WRITE.replace(
            r#""service/batman" { policy = "write""#,
            r#""service/batman" { policy = "read""#,
        ),
    );
    let mut config = consul.config();
    config.token = Some(few.as_str().into());
    config.register_service = true;
    let a = connect(&config, "a", TIMING).await.unwrap();
    let b = connect(&config, "b", TIMING).await.unwrap();
    let data = r#"{"conn_url":"postgres://h:1/postgres","api_url":"http://h:2/patroni","state":"running","role":"primary"}"#;
    assert!(a.touch_member(data).await.unwrap() && a.acquire_leader().await.unwrap());
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    assert!(
        a.write(Key::Config, "{}", Expect::Absent)
            .await
            .unwrap()
            .is_some()
    );
    let leader = |cluster: &ha::cluster::Cluster| cluster.leader.clone();
    eventually(&b, LIMIT, "the leader shows", leader).await;
    let limit = Instant::now() + LIMIT;
    while !consul
        .request("GET", "/v1/agent/services", "")
        .contains("batman/a")
    {
        assert!(Instant::now() < limit, "the service is registered");
    }

    // A token that may only read: refused, and the lock is not lost.
    config.token = Some(read.as_str().into());
    a.reload(&config).unwrap();
    for refused in [
        a.renew_leader(WhenGone::Recreate).await.map(|_| ()),
        a.write(Key::Config, r#"{"ttl":1}"#, Expect::Anything)
            .await
            .map(|_| ()),
        a.touch_member("{}").await.map(|_| ()),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error:#}");
        let text = format!("{error:#}");
        assert!(
            text.contains("Permission denied") && !text.contains(&read),
            "{text}"
        );
    }
    assert!(a.load().await.is_ok());
    // One that does not exist, and none.
    for wrong in [Some("99999999-2222-3333-4444-555555555555"), None] {
        config.token = wrong.map(Into::into);
        a.reload(&config).unwrap();
        let error = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    }
    config.token = Some(few.as_str().into());
    a.reload(&config).unwrap();
    assert_eq!(a.renew_leader(WhenGone::Lost).await.unwrap(), Renewed::Yes);
    let layout = Layout::new("service", "robin", None);
    let elsewhere = Store::connect(&config, layout, Some(identity("a")), TIMING).await;
    let error = match elsewhere {
        Ok(other) => other.acquire_leader().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_client_certificates() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("server");
    let plain = crate::etcd::free_ports(1)[0];
    let consul = Consul::start_with(
        1,
        json!({
            "ca_file": authority.ca, "cert_file": cert, "key_file": key, "verify_incoming_https": true,
            "ports": {"plain": plain},
        }),
    );
    let (client_cert, client_key) = authority.issue("client");
    let mut config = consul.config();
    config.https = true;
    config.cacert = Some(authority.ca.clone());
    config.cert = Some(client_cert);
    config.key = Some(client_key);
    let a = connect(&config, "a", TIMING).await.unwrap();
    assert!(a.acquire_leader().await.unwrap());
    assert!(a.renew_leader(WhenGone::Lost).await.unwrap().is_held());
    assert!(a.load().await.unwrap().leader.is_some());

    let failed = async |config: &config::ConsulConfig| {
        let layout = Layout::new("service", SCOPE, None);
        let opened = Store::connect(config, layout, None, TIMING).await;
        format!("{:#}", opened.err().unwrap())
    };
    let mut anonymous = config.clone();
    (anonymous.cert, anonymous.key) = (None, None);
    assert!(failed(&anonymous).await.contains("no answer"));
    let mut by_the_system = config.clone();
    by_the_system.cacert = None;
    let text = failed(&by_the_system).await;
    assert!(text.contains("certificate"), "{text}");
    let mut unchecked = by_the_system;
    unchecked.verify = false;
    let layout = Layout::new("service", SCOPE, None);
    let ctl = Store::connect(&unchecked, layout, None, TIMING).await.unwrap();
    assert!(ctl.load().await.unwrap().leader.is_some());
    let mut broken = config;
    broken.cacert = Some("/nonexistent".into());
    let text = failed(&broken).await;
    assert!(text.contains("cannot work"), "{text}");
}
