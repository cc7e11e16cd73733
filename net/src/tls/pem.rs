//! PEM files: certificates, keys, and clear words about what is wrong with them.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode;

use super::Error;

pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let content = |reason: String| Error::Content {
        what: "certificate",
        path: path.to_owned(),
        reason,
    };
    let text = read("the certificate", path)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| content(error.to_string()))?;
    if certificates.is_empty() {
        return Err(content("it has no line -----BEGIN CERTIFICATE-----".to_owned()));
    }
    Ok(certificates)
}

pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read("the private key", path)?;
    let is_encrypted = |line: &str| {
        line.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY") || line.starts_with("Proc-Type: 4,ENCRYPTED")
    };
    if String::from_utf8_lossy(&text).lines().any(is_encrypted) {
        return Err(Error::EncryptedKey {
            path: path.to_owned(),
        });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        // The library's own word for "nothing found" names no remedy.
        let reason = match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "it has no line -----BEGIN PRIVATE KEY-----".to_owned()
            }
            other => other.to_string(),
        };
        Error::Content {
            what: "private key",
            path: path.to_owned(),
            reason,
        }
    })
}

pub(super) fn serial_number(path: &Path) -> Result<String, Error> {
    let certificates = certificates(path)?;
    let content = |reason: String| Error::Content {
        what: "certificate",
        path: path.to_owned(),
        reason,
    };
    let first = certificates
        .first()
        .ok_or_else(|| content("it is empty".to_owned()))?;
    let parsed = x509_cert::Certificate::from_der(first).map_err(|error| content(error.to_string()))?;
    let serial = parsed.tbs_certificate.serial_number;
    Ok(serial
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect())
}
