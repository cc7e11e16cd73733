//! TLS to the local server as libpq's `sslmode` asks for it (PostgreSQL manual, "SSL Support" of libpq).

use crate::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// TLS for `tokio_postgres`.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// From libpq's options `sslmode sslrootcert sslcert sslkey sslcrl` and its default files in `~/.postgresql`.
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
        let root = file("sslrootcert", "root.crt");
        let check = match mode {
            "verify-full" => Check::ChainAndName,
            "verify-ca" => Check::Chain,
            "require" if root.is_some() => Check::Chain,
            _ => Check::Nothing,
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier::new(
            check,
            root.as_deref(),
            file("sslcrl", "root.crl").as_deref(),
            mode,
            &provider,
        )?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setting)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match (
            file("sslcert", "postgresql.crt"),
            file("sslkey", "postgresql.key"),
        ) {
            (Some(cert), Some(key)) => {
                let key_der = PrivateKeyDer::from_pem_file(&key).map_err(|error| {
                    Error::Setting(format!(
                        "could not read sslkey {} (it must not be encrypted): {error}",
                        key.display()
                    ))
                })?;
                builder
                    .with_client_auth_cert(certificates("sslcert", &cert)?, key_der)
                    .map_err(setting)?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn setting(error: rustls::Error) -> Error {
    Error::Setting(format!(
        "could not set up TLS for PostgreSQL connections: {error}"
    ))
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| Error::Setting(format!("could not read {option} {}: {error}", path.display())))
}

/// Checks as libpq does. A certificate that is itself among the roots is accepted as the server's, although it is
/// marked as a CA: many clusters run with one self-signed certificate for everything.
#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    root_certificates: Vec<CertificateDer<'static>>,
    has_crl: Option<Arc<rustls::client::WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(
        check: Check,
        root: Option<&Path>,
        crl: Option<&Path>,
        mode: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let mut root_certificates = Vec::new();
        let mut has_crl = None;
        if check != Check::Nothing {
            let path = root.ok_or_else(|| {
                Error::Setting(format!(
                    "sslmode {mode} needs sslrootcert (or ~/.postgresql/root.crt)"
                ))
            })?;
            root_certificates = certificates("sslrootcert", path)?;
            for certificate in &root_certificates {
                roots.add(certificate.clone()).map_err(setting)?;
            }
            if let Some(path) = crl {
                let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
                    .and_then(Iterator::collect)
                    .map_err(|error| {
                        Error::Setting(format!("could not read sslcrl {}: {error}", path.display()))
                    })?;
                let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
                    Arc::new(roots.clone()),
                    Arc::clone(provider),
                )
                .with_crls(lists)
                .allow_unknown_revocation_status()
                .build()
                .map_err(|error| {
                    Error::Setting(format!("could not use sslcrl {}: {error}", path.display()))
                })?;
                has_crl = Some(verifier);
            }
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self {
            check,
            roots,
            root_certificates,
            has_crl,
            algorithms,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let chain = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match chain {
            Err(_) if self.root_certificates.iter().any(|root| root == end_entity) => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let revoked = self.has_crl.as_ref().map(|verifier| {
                    verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                });
                if let Some(Err(error @ rustls::Error::InvalidCertificate(CertificateError::Revoked))) =
                    revoked
                {
                    return Err(error);
                }
            }
        }
        if self.check == Check::ChainAndName {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = TlsTo;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> std::result::Result<TlsTo, Self::Error> {
        let name = ServerName::try_from(domain)?.to_owned();
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
