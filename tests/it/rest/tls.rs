//! The REST API over TLS, with one self-signed certificate that is CA, server's and client's certificate at once.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::process::{command, run};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, seconds};

/// Makes a key, with a passphrase, and a certificate with CA:TRUE.
fn make_certificate(cluster: &Cluster, name: &str) {
    let path = cluster.directory.path();
    let mut openssl = command(&cluster.directory, "openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-passout",
            "pass:key-secret",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=demo", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:TRUE"])
        .arg("-keyout")
        .arg(path.join(format!("{name}.key")))
        .arg("-out")
        .arg(path.join(format!("{name}.crt")));
    let output = run(openssl);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

/// What a server is seen to offer: the text of s_client, and of the certificate.
fn look(directory: &Path, member: &Member, arguments: &[&str]) -> (bool, String) {
    let mut s_client = Command::new("openssl");
    s_client
        .args(["s_client", "-connect", &format!("127.0.0.1:{}", member.rest_port)])
        .arg("-CAfile")
        .arg(directory.join("ca.crt"))
        .arg("-verify_return_error")
        .args(arguments)
        .stdin(std::process::Stdio::null());
    let output = s_client.output().unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn certificate_of(text: &str) -> &str {
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----").unwrap_or_default();
    rest.split_once("-----END").unwrap_or_default().0
}

fn wait_until_listed(cluster: &Cluster, state: &[(&str, &str)]) {
    eventually("ctl lists the members", seconds(40), || {
        let listed = cluster.list();
        let is_so = state.iter().all(|(role, state)| {
            listed
                .iter()
                .any(|row| row["Role"] == *role && row["State"] == *state)
        });
        holds(is_so, || format!("{listed:?}"))
    });
}

#[test]
fn one_certificate_is_enough_and_can_be_replaced() {
    let mut cluster = Cluster::new(newest(), 2);
    let path = cluster.directory.path().to_owned();
    make_certificate(&cluster, "one");
    make_certificate(&cluster, "two");
    use_certificate(&cluster, "one");
    trust(&cluster, &["one"]);
    let files = format!(
        "  certfile: {0}/used.crt\n  keyfile: {0}/used.key\n  keyfile_password: key-secret\n  cafile: {0}/ca.crt\n",
        path.display()
    );
    let ctl = files.replace("cafile", "cacert");
    for member in &cluster.members {
        let restapi = format!(
            "ctl:\n{ctl}restapi:\n{files}  verify_client: required\n  ciphers: ECDHE+AESGCM:!AES128\n"
        );
        member.edit_config("restapi:\n", &restapi);
    }
    cluster.members[0].start();
    wait_until_listed(&cluster, &[("Leader", "running")]);
    cluster.members[1].start();
    wait_until_listed(&cluster, &[("Leader", "running"), ("Replica", "streaming")]);

    // The member that is asked asks the other one, both over TLS with the certificate.
    let output = cluster.ctl(&[
        "switchover",
        "demo",
        "--leader",
        "pg1",
        "--candidate",
        "pg2",
        "--force",
    ]);
    assert!(
        output.stdout.contains("Successfully switched over to \"pg2\""),
        "{}{}",
        output.stdout,
        output.stderr
    );
    wait_until_listed(&cluster, &[("Leader", "running"), ("Replica", "streaming")]);

    let member = cluster.member("pg1");
    let own = [path.join("one.crt"), path.join("one.key")].map(|file| file.display().to_string());
    let with_certificate = [
        "-cert",
        own[0].as_str(),
        "-key",
        own[1].as_str(),
        "-pass",
        "pass:key-secret",
    ];
    let look_with = |more: &[&str]| look(&path, member, &[&with_certificate, more].concat());
    let (_, before) = look_with(&["-tls1_2"]);
    assert!(before.contains("ECDHE-ECDSA-AES256-GCM-SHA384"), "{before}");
    assert!(
        !look_with(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]).0,
        "banned by the list"
    );
    assert!(
        !look_with(&["-tls1_1", "-cipher", "ALL@SECLEVEL=0"]).0,
        "TLS 1.1 is not spoken"
    );
    assert!(!look(&path, member, &["-tls1_2"]).0, "a certificate is required");

    // What cannot be used changes nothing; what can is taken by the next connection.
    trust(&cluster, &["one", "two"]);
    cluster.directory.write("used.key", "nonsense");
    cluster.member_mut("pg1").agent().signal(Signal::HUP);
    let kept = "the former certificates stay in use";
    cluster.member("pg1").wait_for_log(kept, seconds(10));
    let look_again = |cluster: &Cluster| {
        look(
            &path,
            cluster.member("pg1"),
            &[&with_certificate[..], &["-tls1_2"]].concat(),
        )
        .1
    };
    assert_eq!(certificate_of(&look_again(&cluster)), certificate_of(&before));
    use_certificate(&cluster, "two");
    for name in ["pg1", "pg2"] {
        cluster.member_mut(name).agent().signal(Signal::HUP);
    }
    eventually("the new certificate is shown", seconds(10), || {
        let now = look_again(&cluster);
        let is_new = !certificate_of(&now).is_empty() && certificate_of(&now) != certificate_of(&before);
        holds(is_new, || now.clone())
    });
    // The members ask each other by the new one.
    eventually("a switchover back", seconds(20), || {
        let output = cluster.ctl(&[
            "switchover",
            "demo",
            "--leader",
            "pg2",
            "--candidate",
            "pg1",
            "--force",
        ]);
        holds(
            output.stdout.contains("Successfully switched over to \"pg1\""),
            || format!("{}{}", output.stdout, output.stderr),
        )
    });
}

/// Puts a certificate and its key where the members look for theirs.
fn use_certificate(cluster: &Cluster, name: &str) {
    for kind in ["crt", "key"] {
        let made = cluster.directory.path().join(format!("{name}.{kind}"));
        let text = std::fs::read_to_string(made).unwrap();
        cluster.directory.write(&format!("used.{kind}"), &text);
    }
}

/// The certificates that the members trust.
fn trust(cluster: &Cluster, names: &[&str]) {
    let directory = &cluster.directory;
    let read = |name: &&str| std::fs::read_to_string(directory.path().join(format!("{name}.crt"))).unwrap();
    let all: String = names.iter().map(read).collect();
    directory.write("ca.crt", &all);
}
