//! Handshakes between our own client and server, with all sorts of certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::Secret;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use tamada_net::tls::{ClientOptions, Error, Server, ServerOptions, Verify, VerifyClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn params(common_name: &str, alternatives: &[&str]) -> CertificateParams {
    let names: Vec<String> = alternatives.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn ca_params(common_name: &str, alternatives: &[&str]) -> CertificateParams {
    let mut params = params(common_name, alternatives);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// One self-signed certificate with its key in the same file.
pub(crate) fn self_signed(dir: &Path, name: &str, params: &CertificateParams) -> PathBuf {
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    write(dir, name, &format!("{}{}", cert.pem(), key.serialize_pem()))
}

fn server(cert: &Path, ca: Option<&Path>, verify_client: VerifyClient) -> ServerOptions {
    ServerOptions {
        cert: cert.to_owned(),
        key: None,
        key_password: None,
        ca: ca.map(Path::to_owned),
        verify_client,
        ciphers: None,
    }
}

fn client(ca: &Path, cert: Option<&Path>, verify: Verify) -> ClientOptions {
    ClientOptions {
        ca: Some(ca.to_owned()),
        cert: cert.map(Path::to_owned),
        key: None,
        key_password: None,
        verify,
    }
}

/// One exchange over TLS; both sides' verdict.
async fn exchange(server: &ServerOptions, client: &ClientOptions, name: &str) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(Arc::new(
        server.server_config().map_err(|error| error.to_string())?,
    ));
    let connector = TlsConnector::from(Arc::new(
        client.client_config().map_err(|error| error.to_string())?,
    ));
    let (near, far) = tokio::io::duplex(65536);
    let serve = async {
        let mut stream = acceptor
            .accept(far)
            .await
            .map_err(|error| format!("server: {error}"))?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let ask = async {
        let mut stream = connector
            .connect(name, near)
            .await
            .map_err(|error| format!("client: {error}"))?;
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .await
            .map_err(|error| format!("client: {error}"))?;
        if text == "x" {
            Ok(())
        } else {
            Err(format!("read {text:?}"))
        }
    };
    let (served, asked) = tokio::join!(serve, ask);
    asked.and(served)
}

#[tokio::test]
async fn one_ca_certificate_may_be_ca_server_and_client_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let one = self_signed(
        dir.path(),
        "one.pem",
        &ca_params("localhost", &["localhost", "127.0.0.1"]),
    );
    let required = server(&one, Some(&one), VerifyClient::Required);
    for verify in [Verify::None, Verify::Chain, Verify::ChainAndHostName] {
        exchange(&required, &client(&one, Some(&one), verify), "localhost")
            .await
            .unwrap();
    }
    exchange(
        &required,
        &client(&one, Some(&one), Verify::ChainAndHostName),
        "127.0.0.1",
    )
    .await
    .unwrap();
    let refusal = exchange(&required, &client(&one, None, Verify::Chain), "localhost")
        .await
        .unwrap_err();
    assert!(refusal.contains("CertificateRequired"), "{refusal}");
    let optional = server(&one, Some(&one), VerifyClient::Optional);
    exchange(&optional, &client(&one, None, Verify::Chain), "localhost")
        .await
        .unwrap();

    let other = self_signed(dir.path(), "other.pem", &ca_params("localhost", &["localhost"]));
    exchange(&required, &client(&other, Some(&one), Verify::Chain), "localhost")
        .await
        .unwrap_err();
    exchange(&required, &client(&one, Some(&other), Verify::Chain), "localhost")
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_ca_certificate_as_end_entity_must_be_in_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = ca_params("localhost", &["localhost"]);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old = self_signed(dir.path(), "old.pem", &params);
    let plain = server(&old, None, VerifyClient::None);
    let refusal = exchange(&plain, &client(&old, None, Verify::Chain), "localhost")
        .await
        .unwrap_err();
    assert!(refusal.contains("xpired"), "{refusal}");
    exchange(&plain, &client(&old, None, Verify::None), "localhost")
        .await
        .unwrap();
}

#[tokio::test]
async fn the_host_name_counts_only_when_it_is_to_be_checked() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = CertifiedIssuer::self_signed(ca_params("a CA", &[]), KeyPair::generate().unwrap()).unwrap();
    let ca = write(dir.path(), "ca.pem", &issuer.pem());
    let issue = |name: &str, params: CertificateParams| {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        write(
            dir.path(),
            name,
            &format!("{}{}", key.serialize_pem(), cert.pem()),
        )
    };
    let named = server(
        &issue("a.pem", params("ignored.test", &["a.test"])),
        None,
        VerifyClient::None,
    );
    let full = client(&ca, None, Verify::ChainAndHostName);
    exchange(&named, &full, "a.test").await.unwrap();
    exchange(&named, &client(&ca, None, Verify::Chain), "b.test")
        .await
        .unwrap();
    exchange(&named, &full, "b.test").await.unwrap_err();
    exchange(&named, &full, "ignored.test").await.unwrap_err();
    // No alternative names at all: the common name counts.
    let common = server(&issue("b.pem", params("b.test", &[])), None, VerifyClient::None);
    exchange(&common, &full, "b.test").await.unwrap();
    exchange(&common, &full, "a.test").await.unwrap_err();
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let message = |options: &ServerOptions| options.server_config().unwrap_err().to_string();
    let missing = server(&dir.path().join("none.pem"), None, VerifyClient::None);
    assert!(message(&missing).starts_with("could not read the certificate /"));
    let text = write(dir.path(), "text.pem", "hello\n");
    assert!(
        message(&server(&text, None, VerifyClient::None)).contains("no line -----BEGIN CERTIFICATE-----")
    );
    let good = self_signed(dir.path(), "good.pem", &params("x", &["x"]));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = write(dir.path(), "key.pem", encrypted);
    let options = ServerOptions {
        key: Some(encrypted.clone()),
        ..server(&good, None, VerifyClient::None)
    };
    assert!(matches!(options.server_config(), Err(Error::EncryptedKey { path }) if path == encrypted));
    let no_ca = server(&good, None, VerifyClient::Required);
    assert!(message(&no_ca).contains("no CA is configured"));
    let other = self_signed(dir.path(), "other.pem", &params("y", &["y"]));
    let mixed = ServerOptions {
        key: Some(other),
        ..server(&good, None, VerifyClient::None)
    };
    assert!(message(&mixed).contains("cannot use the server certificate"));
    let keyless = ClientOptions {
        key: Some(good),
        ..ClientOptions::default()
    };
    assert!(matches!(keyless.client_config(), Err(Error::Incomplete(_))));
}

/// What openssl makes of a key, under the passphrase `secret`.
fn encrypt(key: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("openssl")
        .args(arguments)
        .args(["-passout", "pass:secret", "-in"])
        .arg(key)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_key_may_be_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let (key, params) = (
        KeyPair::generate().unwrap(),
        ca_params("localhost", &["localhost"]),
    );
    let cert = params.self_signed(&key).unwrap().pem();
    let plain = write(dir.path(), "plain.key", &key.serialize_pem());
    let ca = write(dir.path(), "ca.pem", &cert);
    let of = |file: &Path, password: Option<&str>| {
        let key_password = password.map(Secret::from);
        let server = ServerOptions {
            key_password: key_password.clone(),
            ..server(file, Some(file), VerifyClient::Required)
        };
        let client = ClientOptions {
            key_password,
            ..client(&ca, Some(file), Verify::Chain)
        };
        (server, client)
    };
    for form in [
        ["pkcs8", "-topk8", "-v2", "aes256"],
        ["pkcs8", "-topk8", "-v2", "des3"],
        ["pkcs8", "-topk8", "-scrypt", "-outform=pem"],
    ] {
        // Behind the certificate in one file, as the plain one may be.
        let file = write(
            dir.path(),
            "both.pem",
            &format!("{cert}{}", encrypt(&plain, &form)),
        );
        let (server, client) = of(&file, Some("secret"));
        exchange(&server, &client, "localhost").await.unwrap();
        let identity = client.identity().unwrap().unwrap();
        assert_eq!(
            String::from_utf8(identity.key_pem).unwrap(),
            std::fs::read_to_string(&plain).unwrap().replace("\r\n", "\n"),
            "for libraries that know no passphrase"
        );
        let message = of(&file, Some("other"))
            .0
            .server_config()
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with("the passphrase is not the one that it is encrypted with"),
            "{message}"
        );
        assert!(
            matches!(of(&file, None).1.client_config(), Err(Error::EncryptedKey { path }) if path == file)
        );
    }
    for (arguments, said) in [
        (&["ec", "-aes256"][..], "old form"),
        (&["pkcs8", "-topk8", "-v2prf", "hmacWithSHA1"], "unsupported"),
    ] {
        let file = write(dir.path(), "odd.key", &encrypt(&plain, arguments));
        let options = ClientOptions {
            key: Some(file),
            ..of(&ca, Some("secret")).1
        };
        let message = options.client_config().unwrap_err().to_string();
        assert!(message.contains(said), "{message}");
        assert!(message.contains("write it anew: openssl pkcs8"), "{message}");
    }
}

#[test]
fn a_reload_takes_new_files_and_keeps_the_old_ones_after_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = self_signed(dir.path(), "a.pem", &params("x", &["x"]));
    let options = server(&path, None, VerifyClient::None);
    let running = Server::new(&options).unwrap();
    let (first, serial) = (running.config(), tamada_net::tls::serial_number(&path).unwrap());
    write(dir.path(), "a.pem", "broken");
    running.reload(&options).unwrap_err();
    assert!(Arc::ptr_eq(&first, &running.config()));
    self_signed(dir.path(), "a.pem", &params("x", &["x"]));
    running.reload(&options).unwrap();
    assert!(!Arc::ptr_eq(&first, &running.config()));
    assert_ne!(serial, tamada_net::tls::serial_number(&path).unwrap());
}
