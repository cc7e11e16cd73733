//! URLs of stores' servers. No message shows the text, since it may hold a password.

use super::KeyError;
use crate::endpoint::HostPort;
use crate::secret::Secret;

/// What `http[s]://[user[:password]@]host[:port]` says.
pub(super) struct Url {
    pub(super) https: bool,
    pub(super) endpoint: HostPort,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

pub(super) fn parse(key: &'static str, text: &str, default_port: u16) -> Result<Url, KeyError> {
    let wrong = |what: &str| {
        (
            key,
            format!("expected http[s]://[user:password@]host[:port], {what}"),
        )
    };
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| wrong("but there is no scheme"))?;
    let https = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("but the scheme is neither http nor https")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (login, host) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(login, host)| (Some(login), host));
    let endpoint = HostPort::parse(host, Some(default_port)).map_err(|why| wrong(&format!("but {why}")))?;
    let (username, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((username, password)) => (decoded(username), decoded(password)),
        None => (None, None),
    };
    Ok(Url {
        https,
        endpoint,
        username,
        password: password.map(Secret::new),
    })
}

/// Percent-decodes; the empty text counts as not written.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}
