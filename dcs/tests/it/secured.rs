//! etcd with users, and etcd with TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{EtcdConfig, EtcdEndpoints};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tamada_dcs::etcd3::Etcd3;
use tamada_dcs::{Dcs, Error, Layout, WhenGone};

use crate::contract::{LIMIT, TIMING, eventually, identity};
use crate::etcd::Etcd;

async fn connect(config: &EtcdConfig) -> Result<Etcd3, Error> {
    Etcd3::connect(
        config,
        Layout::new("service", "batman", None),
        Some(identity("a")),
        TIMING,
    )
    .await
}

#[tokio::test]
async fn users_are_authenticated_and_tokens_renewed() {
    let extra = vec!["--auth-token-ttl".to_owned(), "1".to_owned()];
    let mut etcd = Etcd::start_with("http", 1, extra, Vec::new());
    let mut config = etcd.config();
    config.username = Some("patroni".to_owned());
    config.password = Some("s3cret".into());
    // Credentials do no harm where nobody asks for them.
    assert!(connect(&config).await.unwrap().load().await.is_ok());

    for args in [
        &["user", "add", "root:r00t"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "patroni:s3cret"],
        &["role", "add", "patroni"],
        &[
            "role",
            "grant-permission",
            "patroni",
            "--prefix=true",
            "readwrite",
            "/service/",
        ],
        &["user", "grant-role", "patroni", "patroni"],
        &["auth", "enable"],
    ] {
        etcd.ctl(args).unwrap();
    }
    etcd.ctl_args = vec!["--user".to_owned(), "root:r00t".to_owned()];
    let a = connect(&config).await.unwrap();
    assert!(a.acquire_leader().await.unwrap() && a.touch_member("{}").await.unwrap());
    // A token runs out when it is not used.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    // Tokens live in the server's memory: a restart makes them invalid.
    etcd.kill(0);
    etcd.run(0);
    etcd.wait();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    let seen = |cluster: &ha::cluster::Cluster| cluster.leader.clone();
    eventually(&a, LIMIT, "the copy is kept again", seen).await;
    // So do new rights: the old token knows an older state of them.
    etcd.ctl(&["role", "add", "other"]).unwrap();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    etcd.ctl(&["put", "/service/batman/config", r#"{"ttl":1}"#])
        .unwrap();
    let seen = |cluster: &ha::cluster::Cluster| cluster.config.clone();
    eventually(&a, LIMIT, "a change shows", seen).await;

    config.password = Some("wrong".into());
    let error = connect(&config).await.err().unwrap();
    assert!(matches!(error, Error::Fatal(_)), "{error:#}");
    let text = format!("{error:#}");
    assert!(
        text.contains("invalid user ID or password") && !text.contains("wrong"),
        "{text}"
    );

    config.password = None;
    let anonymous = connect(&config).await;
    let error = match anonymous {
        Ok(dcs) => dcs.acquire_leader().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    assert!(format!("{error:#}").contains("etcd3.username"), "{error:#}");

    // A right that is missing stays missing.
    let mut elsewhere = etcd.config();
    elsewhere.username = Some("patroni".to_owned());
    elsewhere.password = Some("s3cret".into());
    let layout = Layout::new("other", "batman", None);
    let other = Etcd3::connect(&elsewhere, layout, Some(identity("a")), TIMING)
        .await
        .unwrap();
    let error = other.acquire_leader().await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:#}");
    assert!(format!("{error:#}").contains("permission denied"), "{error:#}");
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A CA of our own, and certificates for this machine.
pub(crate) struct Authority {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca = write(dir.path(), "ca.pem", &issuer.pem());
        Self { dir, ca, issuer }
    }

    /// Certificate and key.
    pub(crate) fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let dir = self.dir.path();
        let key = write(dir, &format!("{name}.key"), &key.serialize_pem());
        (write(dir, &format!("{name}.crt"), &cert.pem()), key)
    }
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let authority = Authority::new();
    let (dir, ca) = (&authority.dir, authority.ca.clone());
    let issue = |name: &str| authority.issue(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let owned = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
    let (cert, key) = issue("server");
    let (cert, key, trusted) = (text(&cert), text(&key), text(&ca));
    let extra = [
        "--cert-file",
        &cert,
        "--key-file",
        &key,
        "--client-cert-auth",
        "--trusted-ca-file",
        &trusted,
    ];
    let (client_cert, client_key) = issue("client");
    let ctl = [
        "--cacert",
        &text(&ca),
        "--cert",
        &text(&client_cert),
        "--key",
        &text(&client_key),
    ];
    let etcd = Etcd::start_with("https", 1, owned(&extra), owned(&ctl));

    let mut config = etcd.config();
    config.cacert = Some(ca.clone());
    config.cert = Some(client_cert);
    config.key = Some(client_key);
    let a = connect(&config).await.unwrap();
    assert!(a.acquire_leader().await.unwrap());
    assert!(a.load().await.unwrap().leader.is_some());
    if let EtcdEndpoints::Hosts(hosts) = &mut config.endpoints {
        hosts[0].host = "localhost".to_owned();
    }
    assert!(connect(&config).await.unwrap().load().await.is_ok(), "by name");

    // Without cacert the system's CAs count, which did not sign this one.
    let by_the_system = EtcdConfig {
        cacert: None,
        ..config.clone()
    };
    let error = connect(&by_the_system).await.err().unwrap();
    assert!(format!("{error:#}").contains("certificate"), "{error:#}");
    let unchecked = EtcdConfig {
        insecure: true,
        ..by_the_system
    };
    assert!(connect(&unchecked).await.unwrap().load().await.is_ok());
    // Without a certificate the client is refused.
    let anonymous = EtcdConfig {
        cert: None,
        key: None,
        ..config.clone()
    };
    assert!(matches!(connect(&anonymous).await, Err(Error::Unavailable(_))));
    // Another CA, and a file that is none.
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let stranger = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let stranger = write(dir.path(), "stranger.pem", &stranger.pem());
    let error = connect(&EtcdConfig {
        cacert: Some(stranger),
        ..config.clone()
    })
    .await
    .err()
    .unwrap();
    assert!(
        format!("{error:#}").contains("invalid peer certificate"),
        "{error:#}"
    );
    let broken = write(dir.path(), "broken.pem", "x");
    let error = connect(&EtcdConfig {
        cacert: Some(broken),
        ..config
    })
    .await
    .err()
    .unwrap();
    assert!(matches!(error, Error::Fatal(_)), "{error:#}");
}

const AUTH: [&[&str]; 6] = [
    &["user", "add", "root:r00t"],
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
];

/// Whatever is changed in etcd's authentication while agents run, no answer says that the lock is lost, and all goes on by
/// itself once etcd and the configuration agree.
#[tokio::test]
async fn authentication_changes_while_agents_run() {
    let mut etcd = Etcd::start(1);
    AUTH.iter().for_each(|args| drop(etcd.ctl(args).unwrap()));
    let anonymous = etcd.config();
    let mut config = anonymous.clone();
    config.username = Some("patroni".to_owned());
    config.password = Some("s3cret".into());
    let a = connect(&config).await.unwrap();
    assert!(a.acquire_leader().await.unwrap());
    let leader = |cluster: &ha::cluster::Cluster| cluster.leader.clone();

    // Switched on: a connection from before has no token.
    etcd.ctl(&["auth", "enable"]).unwrap();
    etcd.ctl_args = vec!["--user".to_owned(), "root:r00t".to_owned()];
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    eventually(&a, Duration::from_secs(5), "the copy is kept", leader).await;

    // The password is another one, in etcd first and then in the configuration.
    etcd.ctl(&[
        "user",
        "passwd",
        "patroni",
        "--interactive=false",
        "--new-password",
        "n3w",
    ])
    .or_else(|_| {
        etcd.ctl(&["user", "delete", "patroni"])
            .and_then(|_| etcd.ctl(&["user", "add", "patroni:n3w"]))
    })
    .unwrap();
    let _ = etcd.ctl(&["user", "grant-role", "patroni", "patroni"]);
    let error = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
    assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
    config.password = Some("n3w".into());
    a.reload(&config).await.unwrap();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    eventually(&a, Duration::from_secs(5), "the copy is kept again", leader).await;

    // The configuration lost the user: refused, with the remedy in the message.
    a.reload(&anonymous).await.unwrap();
    let error = a.renew_leader(WhenGone::Recreate).await.unwrap_err();
    assert!(format!("{error:#}").contains("etcd3.username"), "{error:#}");

    // Switched off: neither does a user harm.
    etcd.ctl(&["auth", "disable"]).unwrap();
    etcd.ctl_args.clear();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    a.reload(&config).await.unwrap();
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    eventually(
        &a,
        Duration::from_secs(5),
        "the copy is kept without users",
        leader,
    )
    .await;
}

/// A mistake in the configuration: the agent goes on with the servers that it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_do_not_answer_are_not_taken_over() {
    let etcd = Etcd::start(1);
    let a = connect(&etcd.config()).await.unwrap();
    assert!(a.acquire_leader().await.unwrap());
    let mut wrong = etcd.config();
    if let EtcdEndpoints::Hosts(hosts) = &mut wrong.endpoints {
        hosts[0].port = 1;
    }
    let refused = a.reload(&wrong).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(a.renew_leader(WhenGone::Recreate).await.unwrap().is_held());
    assert!(a.load().await.unwrap().leader.is_some());
}
