//! TLS for clients and servers: rustls with ring, certificates from PEM files.
//!
//! What OpenSSL accepts and clusters run with is accepted here too: one self-signed certificate with CA:TRUE as CA,
//! server and client certificate at once, and a host name that stands in the subject's common name alone.

mod ciphers;
mod pem;
mod verifier;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use config::Secret;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ServerConfig};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("could not read {what} {}", path.display())]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no certificate or key in PEM form, or a malformed one.
    #[error("no usable {what} in {}: {reason}", path.display())]
    Content {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is protected by a passphrase, and none is configured.
    #[error(
        "the private key in {} is encrypted and there is no passphrase for it (keyfile_password, for PostgreSQL \
         sslpassword); configure it, or write the key without one, readable by its owner alone: \
         openssl pkey -in {} -out NEW_FILE", path.display(), path.display()
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// A key was given without its certificate, or client certificates are to be checked without a CA.
    #[error("{0}")]
    Incomplete(&'static str),
    /// rustls refuses certificate, key or CA.
    #[error("cannot use {what} {}", path.display())]
    Unusable {
        /// What is refused.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// How far a server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Not at all, as with libpq's `sslmode=require`.
    None,
    /// Its chain up to the CA, as with `sslmode=verify-ca`.
    Chain,
    /// Its chain and that it is for the host that is spoken to, as with `sslmode=verify-full`.
    #[default]
    ChainAndHostName,
}

/// A certificate and its key in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate and the intermediates behind it.
    pub certificate_pem: Vec<u8>,
    /// The private key.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(***)")
    }
}

/// TLS as a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientOptions {
    /// The certificates of the CAs to trust; without it those of the system.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key; `None` when it stands in the same file.
    pub key: Option<PathBuf>,
    /// The key's passphrase; a key without one needs none.
    pub key_password: Option<Secret>,
    /// How far the server's certificate is checked.
    pub verify: Verify,
}

impl ClientOptions {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn client_config(&self) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(provider());
        // Both versions that rustls knows are in the provider.
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|source| self.unusable(source))?;
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(self.verifier()?);
        let Some(cert) = &self.cert else {
            return match &self.key {
                Some(_) => Err(Error::Incomplete(
                    "a client's key was given without its certificate",
                )),
                None => Ok(builder.with_no_client_auth()),
            };
        };
        let certificates = pem::certificates(cert)?;
        let key = pem::key(self.key.as_ref().unwrap_or(cert), self.key_password.as_ref())?;
        builder
            .with_client_auth_cert(certificates, key)
            .map_err(|source| Error::Unusable {
                what: "the client certificate",
                path: cert.clone(),
                source,
            })
    }

    /// The check of the server's certificate alone, for libraries that set the rest up themselves.
    ///
    /// # Errors
    /// The CA file cannot be read or used.
    pub fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, Error> {
        if self.verify == Verify::None {
            return Ok(Arc::new(verifier::Anything(provider())));
        }
        let Some(ca) = &self.ca else {
            return Ok(Arc::new(verifier::OfTheSystem::new(self.verify, provider())));
        };
        verifier::Server::new(verifier::Trusted::read(ca)?, self.verify, provider())
            .map(|verifier| Arc::new(verifier) as _)
            .map_err(|reason| Error::Content {
                what: "CA certificate",
                path: ca.clone(),
                reason,
            })
    }

    /// The client's certificate and key, for libraries that set the rest up themselves.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn identity(&self) -> Result<Option<Identity>, Error> {
        let Some(cert) = &self.cert else { return Ok(None) };
        let (key, password) = (self.key.as_ref().unwrap_or(cert), self.key_password.as_ref());
        // Parsed once for its clear errors.
        pem::certificates(cert)?;
        pem::key(key, password)?;
        Ok(Some(Identity {
            certificate_pem: pem::read("the certificate", cert)?,
            key_pem: pem::key_text(key, password)?,
        }))
    }

    fn unusable(&self, source: rustls::Error) -> Error {
        Error::Unusable {
            what: "TLS with the CA",
            path: self.ca.clone().unwrap_or_default(),
            source,
        }
    }
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerifyClient {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for and checked if shown.
    Optional,
    /// No connection without a valid one.
    Required,
}

/// TLS as a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// The server's certificate.
    pub cert: PathBuf,
    /// Its key; `None` when it stands in the same file.
    pub key: Option<PathBuf>,
    /// The key's passphrase; a key without one needs none.
    pub key_password: Option<Secret>,
    /// The CAs of the clients' certificates.
    pub ca: Option<PathBuf>,
    /// Whether clients have to show a certificate.
    pub verify_client: VerifyClient,
    /// OpenSSL's cipher list: which suites of TLS 1.2 are offered.
    pub ciphers: Option<String>,
}

impl ServerOptions {
    /// Whether the cipher list leaves a suite of TLS 1.2. All are offered if not: what is there is safe, and a server that
    /// cannot be spoken to helps nobody.
    #[must_use]
    pub fn ciphers_are_known(&self) -> bool {
        let is_known = |list: &String| ciphers::select(list, &provider().cipher_suites).is_some();
        self.ciphers.as_ref().is_none_or(is_known)
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        let all = provider();
        let chosen = self.ciphers.as_ref();
        match chosen.and_then(|list| ciphers::select(list, &all.cipher_suites)) {
            Some(cipher_suites) => Arc::new(CryptoProvider {
                cipher_suites,
                ..CryptoProvider::clone(&all)
            }),
            None => all,
        }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read or used, or client certificates are asked for without a CA.
    pub fn server_config(&self) -> Result<ServerConfig, Error> {
        let unusable = |source| Error::Unusable {
            what: "the server certificate",
            path: self.cert.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(self.provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
        let builder = match (self.verify_client, &self.ca) {
            (VerifyClient::None, _) => builder.with_no_client_auth(),
            (VerifyClient::Optional | VerifyClient::Required, None) => {
                return Err(Error::Incomplete(
                    "clients are to show certificates but no CA is configured to check them with",
                ));
            }
            (VerifyClient::Optional | VerifyClient::Required, Some(ca)) => {
                let is_required = self.verify_client == VerifyClient::Required;
                let trusted = verifier::Trusted::read(ca)?;
                let verifier = verifier::Client::new(trusted, is_required, provider()).map_err(|reason| {
                    Error::Content {
                        what: "CA certificate",
                        path: ca.clone(),
                        reason,
                    }
                })?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let certificates = pem::certificates(&self.cert)?;
        let key = pem::key(
            self.key.as_ref().unwrap_or(&self.cert),
            self.key_password.as_ref(),
        )?;
        builder.with_single_cert(certificates, key).map_err(unusable)
    }
}

/// A server's TLS that can be read again while it serves. Each new connection takes [`Server::config`].
#[derive(Debug)]
pub struct Server {
    current: RwLock<Arc<ServerConfig>>,
}

impl Server {
    /// Reads the files.
    ///
    /// # Errors
    /// As [`ServerOptions::server_config`].
    pub fn new(options: &ServerOptions) -> Result<Self, Error> {
        Ok(Self {
            current: RwLock::new(Arc::new(options.server_config()?)),
        })
    }

    /// What a new connection is to use.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the files again, possibly others; after an error the former certificates stay in use.
    ///
    /// # Errors
    /// As [`ServerOptions::server_config`].
    pub fn reload(&self, options: &ServerOptions) -> Result<(), Error> {
        let new = Arc::new(options.server_config()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

/// The serial number of the first certificate in a file, in upper-case hexadecimal: it tells whether a certificate
/// was replaced.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub fn serial_number(path: &Path) -> Result<String, Error> {
    pem::serial_number(path)
}

/// The cryptography of all TLS in this program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
