//! Who we are: credentials that are sent after every connect, and SASL with DIGEST-MD5 (RFC 2831) as kazoo has it.

use md5::{Digest, Md5};

use super::connection::Connection;
use super::fault::Fault;
use super::wire::{Reader, Writer, code, op};

/// The service and the host that ZooKeeper's servers have in their own answers.
const URI: &str = "zookeeper/zk-sasl-md5";

/// Sends all credentials of the configuration.
pub(super) async fn authenticate(
    connection: &Connection,
    data: &[(String, config::Secret)],
) -> Result<(), Fault> {
    for (scheme, credential) in data {
        if scheme == "sasl" {
            sasl(connection, credential.reveal()).await?;
        } else {
            let body = Writer::default()
                .int(0)
                .string(scheme)
                .string(credential.reveal());
            let reply = connection.authenticate(op::AUTH, body).await?;
            if reply.error != code::OK {
                return Err(Fault::Fatal(format!(
                    "authentication with the scheme {scheme} failed"
                )));
            }
        }
    }
    Ok(())
}

async fn sasl(connection: &Connection, credential: &str) -> Result<(), Fault> {
    let Some((user, password)) = credential.split_once(':') else {
        return Err(Fault::Fatal(
            "auth_data.sasl is not of the form user:password".to_owned(),
        ));
    };
    let challenge = step(connection, b"").await?;
    let nonce = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let answer = answer(&challenge, user, password, &nonce)?;
    let last = step(connection, answer.as_bytes()).await?;
    if last.contains("rspauth=") {
        Ok(())
    } else {
        Err(refused())
    }
}

fn refused() -> Fault {
    Fault::Fatal("SASL authentication failed: is the password in auth_data.sasl right?".to_owned())
}

/// A wrong password is answered by an error.
async fn step(connection: &Connection, token: &[u8]) -> Result<String, Fault> {
    let reply = connection
        .request(op::SASL, Writer::default().buffer(token))
        .await?;
    if reply.error != code::OK {
        return Err(refused());
    }
    Ok(Reader(&reply.body).string()?)
}

/// The answer to the server's challenge.
fn answer(challenge: &str, user: &str, password: &str, own_nonce: &str) -> Result<String, Fault> {
    let nonce = directive(challenge, "nonce").ok_or_else(refused)?;
    let realm = directive(challenge, "realm").unwrap_or_default();
    let secret = Md5::digest(format!("{user}:{realm}:{password}"));
    let mut begin = secret.to_vec();
    begin.extend(format!(":{nonce}:{own_nonce}").as_bytes());
    let (begin, uri) = (hex(&begin), hex(format!("AUTHENTICATE:{URI}").as_bytes()));
    let response = hex(format!("{begin}:{nonce}:00000001:{own_nonce}:auth:{uri}").as_bytes());
    let (user, realm) = (quoted(user), quoted(&realm));
    Ok(format!(
        "charset=utf-8,username={user},realm={realm},nonce={},cnonce={},nc=00000001,qop=auth,digest-uri={},response={response}",
        quoted(&nonce),
        quoted(own_nonce),
        quoted(URI)
    ))
}

/// The MD5 digest in hexadecimal.
fn hex(data: &[u8]) -> String {
    Md5::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The value of a directive, without its quotes.
fn directive(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    loop {
        let (found, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(inside) => quoted_value(inside)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        if found.trim_matches([',', ' ']) == name {
            return Some(value);
        }
        rest = next;
    }
}

fn quoted_value(inside: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut is_escaped = false;
    for (at, letter) in inside.char_indices() {
        match letter {
            '"' if !is_escaped => return Some((value, &inside[at + 1..])),
            '\\' if !is_escaped => is_escaped = true,
            other => {
                value.push(other);
                is_escaped = false;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_found() {
        let challenge = r#"realm="zk,=md5",nonce="a\"b",charset=utf-8,qop="auth""#;
        assert_eq!(directive(challenge, "realm").as_deref(), Some("zk,=md5"));
        assert_eq!(directive(challenge, "nonce").as_deref(), Some("a\"b"));
        assert_eq!(directive(challenge, "charset").as_deref(), Some("utf-8"));
        assert_eq!(directive(challenge, "qop").as_deref(), Some("auth"));
        assert_eq!(directive(challenge, "none"), None);
        assert_eq!(directive("nonce=\"open", "nonce"), None);
    }

    /// The example of RFC 2831, section 4, has another digest-uri; the digest of a known text is enough.
    #[test]
    fn md5_is_md5() {
        assert_eq!(hex(b"abc"), "900150983cd24fb0d6963f7d28e17f72");
    }
}
