//! ZooKeeper with access control lists, SASL, TLS, and a chroot.

use std::path::{Path, PathBuf};
use std::process::Command;

use config::{Secret, ZookeeperAcl, ZookeeperConfig};
use ha::cluster::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tamada_dcs::zookeeper::Zookeeper;
use tamada_dcs::{Dcs, Error, Expect, Key, Layout, Timing, WhenGone};

use super::hand::Hand;
use super::server::{Ensemble, config_for};
use crate::contract::{LIMIT, TIMING, eventually, identity};

async fn connect_as(config: &ZookeeperConfig, name: &str) -> Result<Zookeeper, Error> {
    let layout = Layout::new("service", "batman", None);
    Zookeeper::connect(config, layout, Some(identity(name)), TIMING).await
}

async fn connect(config: &ZookeeperConfig) -> Result<Zookeeper, Error> {
    connect_as(config, "a").await
}

fn with_auth(mut config: ZookeeperConfig, scheme: &str, credential: &str) -> ZookeeperConfig {
    config.auth_data = vec![(scheme.to_owned(), Secret::new(credential.to_owned()))];
    config
}

/// `digest:user:` and the hash of `user:password`, as `set_acls` has it.
fn digest_acl(id: &str, rights: i32) -> ZookeeperAcl {
    ZookeeperAcl {
        scheme: "digest".to_owned(),
        id: id.to_owned(),
        rights,
    }
}

/// SHA-1 of `patroni:s3cret`, in base64.
const DIGEST: &str = "patroni:PH8NgocaaSkFmVrGdr+xaJLpWwQ=";

#[tokio::test]
async fn acls_keep_others_out() {
    let ensemble = Ensemble::start(1);
    let open = config_for([ensemble.members[0].port]);
    let mut config = with_auth(open.clone(), "digest", "patroni:s3cret");
    config.set_acls = vec![digest_acl(DIGEST, 31)];
    let a = connect(&config).await.unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert!(
        a.write(Key::Config, "{}", Expect::Absent)
            .await
            .unwrap()
            .is_some()
    );
    let mut hand = Hand::new(ensemble.members[0].port);
    for path in [
        "/service",
        "/service/batman",
        "/service/batman/leader",
        "/service/batman/members/a",
    ] {
        assert_eq!(hand.get(path), None, "{path} is ours alone");
        assert_ne!(hand.set(path, "x"), 0, "{path}");
    }
    let stranger = connect_as(&open, "b").await;
    let error = match stranger {
        Ok(stranger) => stranger.touch_member("{}").await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    let text = format!("{error:#}");
    assert!(
        text.contains("permission denied") && text.contains("auth_data"),
        "{text}"
    );
    let wrong = with_auth(config, "digest", "patroni:wrong");
    let error = connect_as(&wrong, "b")
        .await
        .unwrap()
        .acquire_leader()
        .await
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        matches!(error, Error::Rejected(_)) && !text.contains("wrong"),
        "{text}"
    );
}

/// Somebody has changed the ACLs while the agents run: an answer that says no is no loss of the lock.
#[tokio::test]
async fn a_store_that_may_only_be_read_refuses() {
    let ensemble = Ensemble::start(1);
    let a = connect(&config_for([ensemble.members[0].port])).await.unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    let written = a
        .write(Key::Config, r#"{"ttl":1}"#, Expect::Anything)
        .await
        .unwrap();
    assert!(written.is_some());
    let paths = ["", "/heartbeat", "/leader", "/config", "/members", "/members/a"];
    let paths = paths.map(|path| format!("/service/batman{path}"));
    let mut hand = Hand::new(ensemble.members[0].port);
    const READ: i32 = 1;
    const ADMIN: i32 = 16;
    for path in &paths {
        hand.set_acl(path, (READ | ADMIN, "world", "anyone"));
    }
    let refused = |error: Error| assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    refused(a.renew_leader(WhenGone::Recreate).await.unwrap_err());
    refused(a.write(Key::Config, "{}", Expect::Anything).await.unwrap_err());
    refused(a.write(Key::History, "[]", Expect::Absent).await.unwrap_err());
    refused(a.release_leader(None).await.unwrap_err());
    refused(a.touch_member(r#"{"state":"running"}"#).await.unwrap_err());
    assert!(
        a.touch_member("{}").await.unwrap(),
        "an unchanged key needs no write"
    );
    assert!(a.load().await.unwrap().leader.is_some());
    for path in &paths {
        hand.set_acl(path, (31, "world", "anyone"));
    }
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
}

#[tokio::test]
async fn sasl_with_digest_md5() {
    let dir = tempfile::tempdir().unwrap();
    let jaas = dir.path().join("jaas.conf");
    let text = "Server {\n  org.apache.zookeeper.server.auth.DigestLoginModule required\n  \
                user_patroni=\"s3\\\"cret\";\n};\n";
    std::fs::write(&jaas, text).unwrap();
    let options = [
        format!("-Djava.security.auth.login.config={}", jaas.display()),
        "-Dzookeeper.authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider".to_owned(),
        "-Dzookeeper.sessionRequireClientSASLAuth=true".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let ensemble = Ensemble::start_with(1, &[], &options);
    let open = config_for([ensemble.members[0].port]);
    let mut config = with_auth(open.clone(), "sasl", "patroni:s3\"cret");
    config.set_acls = vec![ZookeeperAcl {
        scheme: "sasl".to_owned(),
        id: "patroni".to_owned(),
        rights: 31,
    }];
    let a = connect(&config).await.unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert!(a.load().await.unwrap().leader.is_some());

    let wrong = with_auth(open.clone(), "sasl", "patroni:wrong");
    let error = connect_as(&wrong, "b").await.err().unwrap();
    assert!(matches!(error, Error::Fatal(_)), "{error:#}");
    let text = format!("{error:#}");
    assert!(
        text.contains("auth_data.sasl") && !text.contains("wrong"),
        "{text}"
    );
    let malformed = with_auth(open.clone(), "sasl", "patroni");
    let error = connect_as(&malformed, "b").await.err().unwrap();
    assert!(format!("{error:#}").contains("user:password"), "{error:#}");
    let error = connect_as(&open, "b").await.err().unwrap();
    assert!(format!("{error:#}").contains("SASL"), "{error:#}");
}

#[tokio::test]
async fn a_chroot_is_created_and_all_lies_below_it() {
    let ensemble = Ensemble::start(1);
    let mut config = config_for([ensemble.members[0].port]);
    config.chroot = Some("/dbs/two".to_owned());
    let (a, b) = (
        connect(&config).await.unwrap(),
        connect_as(&config, "b").await.unwrap(),
    );
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    let led = |cluster: &Cluster| cluster.leader.clone();
    eventually(&b, LIMIT, "changes below the chroot are told", led).await;
    let mut hand = Hand::new(ensemble.members[0].port);
    assert_eq!(hand.get("/dbs/two/service/batman/leader").unwrap().data, "a");
    assert_eq!(hand.get("/service"), None);
    let scopes = Zookeeper::scopes(&config, "service", TIMING).await.unwrap();
    assert_eq!(scopes.into_iter().collect::<Vec<_>>(), ["batman"]);
    a.delete_cluster().await.unwrap();
    assert_eq!(hand.get("/dbs/two/service/batman"), None);

    let other = ZookeeperConfig {
        chroot: None,
        ..config
    };
    let error = a.reload(&other).unwrap_err();
    assert!(matches!(error, Error::Fatal(_)), "{error:#}");
}

/// Credentials that change in both places while the agent runs.
#[tokio::test]
async fn a_reload_takes_other_credentials_and_keeps_the_session() {
    let ensemble = Ensemble::start(1);
    let open = config_for([ensemble.members[0].port]);
    let a = connect(&open).await.unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    let lease = a.lease();
    let mut hand = Hand::new(ensemble.members[0].port);
    for path in ["/service/batman/heartbeat", "/service/batman/leader"] {
        hand.set_acl(path, (31, "digest", DIGEST));
    }
    let error = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    a.reload(&with_auth(open, "digest", "patroni:s3cret")).unwrap();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    assert_eq!(a.lease(), lease);
    let led = |cluster: &Cluster| cluster.leader.clone();
    eventually(&a, LIMIT, "the copy is kept with the new credentials", led).await;
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let ca = write(dir.path(), "ca.pem", &issuer.pem());
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        // Host names are never checked, as in Patroni.
        let params = CertificateParams::new(vec!["elsewhere".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        let key = key.serialize_pem();
        write(
            dir.path(),
            &format!("{name}.both.pem"),
            &format!("{key}{}", cert.pem()),
        );
        (
            write(dir.path(), &format!("{name}.crt"), &cert.pem()),
            write(dir.path(), &format!("{name}.key"), &key),
        )
    };
    let _ = issue("server");
    let settings = [
        "secureClientPort=PORT".to_owned(),
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
        format!(
            "ssl.keyStore.location={}",
            dir.path().join("server.both.pem").display()
        ),
        "ssl.keyStore.type=PEM".to_owned(),
        format!("ssl.trustStore.location={}", ca.display()),
        "ssl.trustStore.type=PEM".to_owned(),
        "ssl.clientAuth=need".to_owned(),
        "ssl.hostnameVerification=false".to_owned(),
        "ssl.clientHostnameVerification=false".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let ensemble = Ensemble::start_with(1, &settings, &[]);
    let (cert, key) = issue("client");
    let mut config = config_for([ensemble.members[0].port]);
    config.use_ssl = true;
    config.cacert = Some(ca);
    config.cert = Some(cert);
    config.key = Some(key.clone());
    let a = connect(&config).await.unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    assert!(a.load().await.unwrap().leader.is_some());

    // The key has a passphrase.
    let encrypted = dir.path().join("encrypted.key");
    let converted = Command::new("openssl")
        .args([
            "pkcs8",
            "-topk8",
            "-v2",
            "aes256",
            "-passout",
            "pass:s3cret",
            "-in",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&encrypted)
        .status();
    assert!(converted.unwrap().success());
    let with_passphrase = ZookeeperConfig {
        key: Some(encrypted),
        key_password: Some(Secret::new("s3cret".to_owned())),
        ..config.clone()
    };
    assert!(
        connect_as(&with_passphrase, "b")
            .await
            .unwrap()
            .load()
            .await
            .is_ok()
    );

    // Without cacert the system's CAs count, which did not sign this one.
    let by_the_system = ZookeeperConfig {
        cacert: None,
        ..config.clone()
    };
    let error = connect_as(&by_the_system, "b").await.err().unwrap();
    assert!(format!("{error:#}").contains("certificate"), "{error:#}");
    let unchecked = ZookeeperConfig {
        verify: false,
        ..by_the_system
    };
    assert!(connect_as(&unchecked, "b").await.unwrap().load().await.is_ok());
    // Without a certificate the client is refused; one without its key counts as none.
    let brief = Timing {
        retry_timeout: std::time::Duration::from_secs(2),
        ..TIMING
    };
    let anonymous = ZookeeperConfig {
        key: None,
        ..config.clone()
    };
    let layout = Layout::new("service", "batman", None);
    let refused = Zookeeper::connect(&anonymous, layout, Some(identity("b")), brief).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))));
    let broken = write(dir.path(), "broken.pem", "x");
    let error = connect(&ZookeeperConfig {
        cacert: Some(broken),
        ..config
    })
    .await
    .err()
    .unwrap();
    assert!(matches!(error, Error::Fatal(_)), "{error:#}");
}
