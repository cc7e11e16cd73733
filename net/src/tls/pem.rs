//! PEM files: certificates, keys, and clear words about what is wrong with them.

use std::path::Path;

use config::Secret;
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, SecretDocument, pkcs5};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode;

use super::Error;

pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    crate::file::read(path).map_err(|source| Error::Read {
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

pub(super) fn key(path: &Path, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&key_text(path, password)?).map_err(|error| {
        // The library's own word for "nothing found" names no remedy.
        let reason = match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "it has no line -----BEGIN PRIVATE KEY-----".to_owned()
            }
            other => other.to_string(),
        };
        no_key(path, reason)
    })
}

/// What a key's file holds; of an encrypted key, the decrypted one. RFC 5958, section 3, and RFC 7468, section 11.
pub(super) fn key_text(path: &Path, password: Option<&Secret>) -> Result<Vec<u8>, Error> {
    const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
    const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
    let text = read("the private key", path)?;
    let shown = String::from_utf8_lossy(&text);
    let is_old_form = shown
        .lines()
        .any(|line| line.starts_with("Proc-Type: 4,ENCRYPTED"));
    let begin = shown.find(BEGIN);
    if begin.is_none() && !is_old_form {
        return Ok(text);
    }
    let Some(password) = password else {
        let path = path.to_owned();
        return Err(Error::EncryptedKey { path });
    };
    let Some(begin) = begin else {
        return Err(no_key(
            path,
            format!("it is encrypted in OpenSSL's old form; {}", rewrite(path)),
        ));
    };
    let end = shown[begin..]
        .find(END)
        .map_or(shown.len(), |end| begin + end + END.len());
    decrypted(&shown[begin..end], password).map_err(|error| {
        let reason = match error {
            pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) => {
                "the passphrase is not the one that it is encrypted with".to_owned()
            }
            other => format!("{other}; {}", rewrite(path)),
        };
        no_key(path, reason)
    })
}

fn rewrite(path: &Path) -> String {
    let path = path.display();
    format!("write it anew: openssl pkcs8 -topk8 -v2 aes256 -in {path} -out NEW_FILE")
}

fn no_key(path: &Path, reason: String) -> Error {
    Error::Content {
        what: "private key",
        path: path.to_owned(),
        reason,
    }
}

/// The key of one PEM section, in PEM.
fn decrypted(section: &str, password: &Secret) -> Result<Vec<u8>, pkcs8::Error> {
    let (_, document) = SecretDocument::from_pem(section)?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())?;
    // What comes out of a wrong passphrase has the right padding once in a while.
    let key = encrypted
        .decrypt(password.reveal())
        .map_err(|error| match error {
            pkcs8::Error::Asn1(_) => pkcs5::Error::DecryptFailed.into(),
            other => other,
        })?;
    let text = key.to_pem("PRIVATE KEY", LineEnding::LF)?;
    Ok(text.as_bytes().to_vec())
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
