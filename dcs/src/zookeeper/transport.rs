//! A TCP connection to one server, with TLS where that is configured.

use std::sync::Arc;

use config::{HostPort, ZookeeperConfig};
use net::tls::{ClientOptions, Verify};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::fault::Fault;

/// Either kind of connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a server, `host:port`. Each address of its name is tried; the caller limits the time.
pub(super) async fn connect(config: &ZookeeperConfig, server: &str) -> Result<Box<dyn Stream>, Fault> {
    let not_sent = |error: std::io::Error| Fault::NotSent(error.to_string());
    let host = HostPort::parse(server, None).map_err(|error| Fault::NotSent(error.to_string()))?;
    let tls = tls(config).map_err(|error| Fault::NotSent(chain(&error)))?;
    let mut last = Fault::NotSent(format!("{} has no address", host.host));
    for address in lookup_host((host.host.as_str(), host.port))
        .await
        .map_err(not_sent)?
    {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                last = not_sent(error);
                continue;
            }
        };
        stream.set_nodelay(true).map_err(not_sent)?;
        let Some(tls) = tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(host.host.clone());
        let name = name.map_err(|error| Fault::NotSent(error.to_string()))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
        return stream
            .map(|stream| Box::new(stream) as Box<dyn Stream>)
            .map_err(|error| Fault::NotSent(format!("TLS: {error}")));
    }
    Err(last)
}

/// What TLS needs, read from its files, so that certificates that were replaced count for the next connection. `None`: it is off.
pub(super) fn tls(config: &ZookeeperConfig) -> Result<Option<ClientConfig>, net::tls::Error> {
    if !config.use_ssl {
        return Ok(None);
    }
    let has_certificate = config.cert.is_some() && config.key.is_some();
    let options = ClientOptions {
        ca: config.cacert.clone(),
        cert: config.cert.clone().filter(|_| has_certificate),
        key: config.key.clone().filter(|_| has_certificate),
        key_password: config.key_password.clone(),
        verify: if config.verify {
            Verify::Chain
        } else {
            Verify::None
        },
    };
    let mut client = options.client_config()?;
    if config.verify && config.cacert.is_some() {
        let by_the_system = ClientOptions {
            ca: None,
            ..options.clone()
        };
        client
            .dangerous()
            .set_certificate_verifier(Arc::new(Either(options.verifier()?, by_the_system.verifier()?)));
    }
    Ok(Some(client))
}

/// The CAs of the configuration, and those of the system beside them.
#[derive(Debug)]
struct Either(Arc<dyn ServerCertVerifier>, Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for Either {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let check = |verifier: &Arc<dyn ServerCertVerifier>| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        check(&self.0).or_else(|refusal| check(&self.1).map_err(|_| refusal))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
