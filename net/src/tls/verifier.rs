//! Checks of certificates: rustls' own, and what OpenSSL accepts beyond it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};

use super::{Verify, pem};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// The CAs that are trusted.
pub(super) struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Trusted {
    pub(super) fn read(path: &Path) -> Result<Self, super::Error> {
        Ok(Self::from(pem::certificates(path)?))
    }

    /// What the system trusts; what cannot be read is left out, as everywhere.
    pub(super) fn of_the_system() -> Self {
        Self::from(rustls_native_certs::load_native_certs().certs)
    }

    /// Whether a certificate is itself one of the trusted ones and in its time.
    fn holds(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<bool, Error> {
        if !self
            .certificates
            .iter()
            .any(|trusted| trusted.as_ref() == certificate.as_ref())
        {
            return Ok(false);
        }
        let parsed = parse(certificate)?;
        let validity = parsed.tbs_certificate.validity;
        let now = now.as_secs();
        if now < validity.not_before.to_unix_duration().as_secs() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.to_unix_duration().as_secs() {
            return Err(CertificateError::Expired.into());
        }
        Ok(true)
    }
}

impl From<Vec<CertificateDer<'static>>> for Trusted {
    fn from(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        let roots = Arc::new(roots);
        Self { certificates, roots }
    }
}

/// Checks a server's certificate.
#[derive(Debug)]
pub(super) struct Server {
    webpki: Arc<WebPkiServerVerifier>,
    trusted: Trusted,
    verify: Verify,
}

impl Server {
    pub(super) fn new(
        trusted: Trusted,
        verify: Verify,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let roots = Arc::clone(&trusted.roots);
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider);
        let webpki = webpki.build().map_err(|error| error.to_string())?;
        Ok(Self {
            webpki,
            trusted,
            verify,
        })
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked =
            self.webpki
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let refusal = match checked {
            Ok(verified) => return Ok(verified),
            Err(refusal) => refusal,
        };
        // webpki looks at the name last: the chain is good when the name is all it complains of.
        let is_chain_good = is_name_mismatch(&refusal) || self.trusted.holds(end_entity, now)?;
        if !is_chain_good {
            return Err(refusal);
        }
        if self.verify == Verify::ChainAndHostName {
            verify_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks a server's certificate by what the system trusts. That is many certificates, and most clusters need none of
/// them: they are read when the first certificate has to be checked.
#[derive(Debug)]
pub(super) struct OfTheSystem {
    server: OnceLock<Result<Server, String>>,
    verify: Verify,
    provider: Arc<CryptoProvider>,
}

impl OfTheSystem {
    pub(super) fn new(verify: Verify, provider: Arc<CryptoProvider>) -> Self {
        Self {
            server: OnceLock::new(),
            verify,
            provider,
        }
    }

    fn server(&self) -> Result<&Server, Error> {
        let make = || Server::new(Trusted::of_the_system(), self.verify, Arc::clone(&self.provider));
        self.server.get_or_init(make).as_ref().map_err(|reason| {
            Error::General(format!(
                "the certificates that this system trusts cannot be used, name a CA file instead: {reason}"
            ))
        })
    }
}

impl ServerCertVerifier for OfTheSystem {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.server()?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Takes any certificate; the server still has to hold its key.
#[derive(Debug)]
pub(super) struct Anything(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks a client's certificate.
#[derive(Debug)]
pub(super) struct Client {
    webpki: Arc<dyn ClientCertVerifier>,
    trusted: Trusted,
}

impl Client {
    pub(super) fn new(
        trusted: Trusted,
        is_required: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let roots = Arc::clone(&trusted.roots);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let builder = if is_required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        let webpki = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { webpki, trusted })
    }
}

impl ClientCertVerifier for Client {
    fn offer_client_auth(&self) -> bool {
        self.webpki.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.webpki.verify_client_cert(end_entity, intermediates, now) {
            Err(refusal) if !self.trusted.holds(end_entity, now)? => Err(refusal),
            Ok(_) | Err(_) => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

impl std::fmt::Debug for Trusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} CA certificates", self.certificates.len())
    }
}

fn is_name_mismatch(error: &Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(
        error,
        Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })
    )
}

/// The alternative names decide; only a certificate without any is judged by its common name, as OpenSSL does.
fn verify_name(certificate: &CertificateDer<'_>, server_name: &ServerName<'_>) -> Result<(), Error> {
    let refusal =
        match rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
    let parsed = parse(certificate)?;
    let extensions = parsed.tbs_certificate.extensions.unwrap_or_default();
    let has_alternatives = extensions
        .iter()
        .any(|extension| extension.extn_id == SUBJECT_ALT_NAME);
    let mut attributes = parsed
        .tbs_certificate
        .subject
        .0
        .iter()
        .flat_map(|part| part.0.iter());
    let is_common_name = attributes.any(|attribute| {
        let value = match attribute.value.tag() {
            Tag::PrintableString => attribute
                .value
                .decode_as::<PrintableStringRef<'_>>()
                .map(|text| text.as_str().to_owned()),
            _ => attribute
                .value
                .decode_as::<Utf8StringRef<'_>>()
                .map(|text| text.as_str().to_owned()),
        };
        let name = server_name.to_str();
        attribute.oid == COMMON_NAME && value.is_ok_and(|value| value.eq_ignore_ascii_case(&name))
    });
    if is_common_name && !has_alternatives {
        Ok(())
    } else {
        Err(refusal)
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<x509_cert::Certificate, Error> {
    x509_cert::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}
