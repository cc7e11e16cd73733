//! TLS to the local server as libpq's `sslmode` asks for it (PostgreSQL manual, "SSL Support" of libpq). Revocation
//! lists (`sslcrl`) count where libpq itself connects, not here: the peer is our own server.

use crate::{Error, Result};
use config::{Role, Secret};
use net::tls::{ClientOptions, Verify};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// TLS for `tokio_postgres`.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// For a role of the configuration.
    pub(crate) fn of(role: &Role) -> Result<Self> {
        let mut options = role.options.clone();
        if let Some(passphrase) = &role.sslpassword {
            options.insert("sslpassword".to_owned(), passphrase.reveal().to_owned());
        }
        Self::new(&options)
    }

    /// From libpq's options `sslmode sslrootcert sslcert sslkey sslpassword` and its default files in `~/.postgresql`.
    pub(crate) fn new(options: &BTreeMap<String, String>) -> Result<Self> {
        let file = |option: &str, default: &str| -> Option<PathBuf> {
            match options.get(option) {
                Some(path) if !path.is_empty() => Some(path.into()),
                _ => std::env::home_dir()
                    .map(|home| home.join(".postgresql").join(default))
                    .filter(|path| path.is_file()),
            }
        };
        let mode = options.get("sslmode").map_or("prefer", String::as_str);
        let ca = file("sslrootcert", "root.crt").filter(|path| path.as_os_str() != "system");
        let verify = match mode {
            "verify-full" => Verify::ChainAndHostName,
            "verify-ca" => Verify::Chain,
            // As in libpq, for compatibility with its old versions.
            "require" if ca.is_some() => Verify::Chain,
            _ => Verify::None,
        };
        let (cert, key) = match (
            file("sslcert", "postgresql.crt"),
            file("sslkey", "postgresql.key"),
        ) {
            (Some(cert), Some(key)) => (Some(cert), Some(key)),
            _ => (None, None),
        };
        let config = ClientOptions {
            ca,
            cert,
            key,
            key_password: options
                .get("sslpassword")
                .map(|passphrase| Secret::new(passphrase.clone())),
            verify,
        }
        .client_config()
        .map_err(|error| {
            Error::Setting(format!(
                "TLS for connections to PostgreSQL (postgresql.authentication): {error}"
            ))
        })?;
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = TlsTo;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> std::result::Result<TlsTo, Self::Error> {
        // A socket has no name, and no TLS.
        let name = ServerName::try_from(if domain.is_empty() { "localhost" } else { domain })?.to_owned();
        Ok(TlsTo {
            connector: TlsConnector::from(Arc::clone(&self.config)),
            name,
        })
    }
}

pub(crate) struct TlsTo {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for TlsTo {
    type Stream = Stream<S>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Stream) })
    }
}

/// A TLS connection.
pub(crate) struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_clients_key_may_have_a_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-passout", "pass:secret", "-subj", "/CN=postgres"])
            .args(["-keyout", &file("key"), "-out", &file("crt")])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let role = |sslpassword: Option<&str>| Role {
            sslpassword: sslpassword.map(Secret::from),
            options: BTreeMap::from([
                ("sslcert".to_owned(), file("crt")),
                ("sslkey".to_owned(), file("key")),
            ]),
            ..Role::default()
        };
        Tls::of(&role(Some("secret"))).unwrap();
        let message = |role: &Role| Tls::of(role).err().unwrap().to_string();
        assert!(message(&role(None)).contains("for PostgreSQL sslpassword"));
        assert!(message(&role(Some("other"))).contains("the passphrase is not the one"));
    }
}
