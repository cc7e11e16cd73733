//! libpq's connection strings (PostgreSQL manual, "Connection Strings"): both forms, read and written.

use crate::{Error, Result};
use std::collections::BTreeMap;

/// The keywords, in the order in which they are written; others follow by name.
const ORDER: [&str; 20] = [
    "dbname",
    "user",
    "passfile",
    "password",
    "host",
    "port",
    "sslmode",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "application_name",
    "krbsrvname",
    "gssencmode",
    "channel_binding",
    "target_session_attrs",
    "sslnegotiation",
];

/// A connection string as its keywords and values. `Debug` and `Display` leave passwords out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo(BTreeMap<String, String>);

const SECRET: [&str; 2] = ["password", "sslpassword"];

impl std::fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conninfo({self})")
    }
}

impl std::fmt::Display for Conninfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut public = self.clone();
        public.0.retain(|keyword, _| !SECRET.contains(&keyword.as_str()));
        f.write_str(&public.to_text())
    }
}

impl Conninfo {
    /// Without any keyword.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads either form.
    ///
    /// # Errors
    /// When it is malformed; the message does not quote it, for it may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => parse_url(rest),
            _ => parse_pairs(text),
        };
        parsed
            .map(Self)
            .map_err(|reason| Error::parse("the connection string", reason))
    }

    /// The value of a keyword; an empty one counts as absent, as in libpq.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0
            .get(keyword)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Sets a keyword; `None` removes it.
    pub fn set(&mut self, keyword: &str, value: Option<impl Into<String>>) {
        match value {
            Some(value) => self.0.insert(keyword.to_owned(), value.into()),
            None => self.0.remove(keyword),
        };
    }

    /// Sets a keyword, for chaining.
    #[must_use]
    pub fn with(mut self, keyword: &str, value: impl Into<String>) -> Self {
        self.0.insert(keyword.to_owned(), value.into());
        self
    }

    /// Sets a keyword that has no value yet.
    pub fn set_default(&mut self, keyword: &str, value: impl Into<String>) {
        if self.get(keyword).is_none() {
            self.0.insert(keyword.to_owned(), value.into());
        }
    }

    /// All keywords that have values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(keyword, value)| (keyword.as_str(), value.as_str()))
    }

    /// Hosts with their ports: as many as there are hosts, a single port counting for all.
    #[must_use]
    pub fn hosts(&self) -> Vec<(String, String)> {
        let hosts: Vec<&str> = self
            .get("host")
            .or_else(|| self.get("hostaddr"))
            .unwrap_or_default()
            .split(',')
            .collect();
        let ports: Vec<&str> = self.get("port").unwrap_or("5432").split(',').collect();
        let port = |index: usize| match ports.as_slice() {
            [only] => *only,
            several => several
                .get(index)
                .copied()
                .filter(|port| !port.is_empty())
                .unwrap_or("5432"),
        };
        hosts
            .iter()
            .enumerate()
            .map(|(index, host)| ((*host).to_owned(), port(index).to_owned()))
            .collect()
    }

    /// The keyword form, passwords included: `keyword=value` in Patroni's order, with quote, backslash and blank
    /// escaped.
    #[must_use]
    pub fn to_text(&self) -> String {
        let rank = |keyword: &str| {
            ORDER
                .iter()
                .position(|known| *known == keyword)
                .unwrap_or(ORDER.len())
        };
        let mut pairs: Vec<(&str, &str)> = self.iter().collect();
        pairs.sort_by_key(|(keyword, _)| rank(keyword));
        let written: Vec<String> = pairs
            .iter()
            .map(|(keyword, value)| format!("{keyword}={}", escape(value)))
            .collect();
        written.join(" ")
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Conninfo {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self(
            iter.into_iter()
                .map(|(keyword, value)| (keyword.into(), value.into()))
                .collect(),
        )
    }
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if c == '\'' || c == '\\' || c.is_ascii_whitespace() {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

type Pairs = std::result::Result<BTreeMap<String, String>, String>;

fn parse_pairs(text: &str) -> Pairs {
    let mut pairs = BTreeMap::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_ascii_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.next() != Some('=') {
            return Err("a keyword is not followed by =".to_owned());
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        let mut value = String::new();
        if chars.next_if_eq(&'\'').is_some() {
            loop {
                match chars.next() {
                    None => return Err(format!("the quote of {keyword} is not closed")),
                    Some('\'') => break,
                    Some('\\') => value.extend(chars.next()),
                    Some(c) => value.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !c.is_ascii_whitespace()) {
                if c == '\\' {
                    value.extend(chars.next())
                } else {
                    value.push(c)
                }
            }
        }
        pairs.insert(keyword, value);
    }
}

fn parse_url(rest: &str) -> Pairs {
    let mut pairs = BTreeMap::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    for (keyword, value) in [("user", user), ("password", password), ("dbname", dbname)] {
        if !value.is_empty() {
            pairs.insert(keyword.to_owned(), decode(value)?);
        }
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(bracketed) => {
                let (name, port) = bracketed.split_once(']').ok_or("a [ is not closed")?;
                (name, port.strip_prefix(':').unwrap_or(port))
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("a port is not a number".to_owned());
        }
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    if names.iter().any(|name| !name.is_empty()) {
        pairs.insert("host".to_owned(), names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.insert("port".to_owned(), ports.join(","));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair.split_once('=').ok_or("a URL parameter has no =")?;
        let (keyword, value) = (decode(keyword)?, decode(value)?);
        match (keyword.as_str(), value.as_str()) {
            ("ssl", "true") => pairs.insert("sslmode".to_owned(), "require".to_owned()),
            _ => pairs.insert(keyword, value),
        };
    }
    Ok(pairs)
}

fn decode(text: &str) -> std::result::Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.extend(u8::try_from(high * 16 + low).ok()),
            _ => return Err("a % is not followed by two hexadecimal digits".to_owned()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read() {
        for (text, written) in [
            (
                "postgres://u%20s:p%40ss@10.0.0.1:5433/db?sslmode=require",
                "dbname=db user=u\\ s password=p@ss host=10.0.0.1 port=5433 sslmode=require",
            ),
            (
                "postgresql://[::1]:5432,h2/postgres",
                "dbname=postgres host=::1,h2 port=5432,",
            ),
            (
                "postgresql://%2Frun%2Fpostgresql/x",
                "dbname=x host=/run/postgresql",
            ),
            ("postgres://", ""),
            (
                " host = 'a b'  user=it\\'s password='p\\'w\\\\' ",
                "user=it\\'s password=p\\'w\\\\ host=a\\ b",
            ),
            ("host=h options='-c a=b'", "host=h options=-c\\ a=b"),
        ] {
            assert_eq!(Conninfo::parse(text).unwrap().to_text(), written, "{text}");
        }
    }

    #[test]
    fn malformed_ones_are_refused_without_quoting_them() {
        for bad in [
            "host",
            "password='secret",
            "postgres://h:secret/",
            "postgres://[::1/",
            "postgres://h?secret",
            "host=%zz foo secret",
        ] {
            let error = Conninfo::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(Conninfo::parse("postgres://%zz/").is_err());
    }

    #[test]
    fn passwords_are_not_displayed() {
        let conninfo = Conninfo::parse("host=h password=secret sslpassword=secret").unwrap();
        assert_eq!(format!("{conninfo} {conninfo:?}"), "host=h Conninfo(host=h)");
    }

    #[test]
    fn hosts_get_their_ports() {
        let hosts = |text: &str| Conninfo::parse(text).unwrap().hosts();
        let pair = |host: &str, port: &str| (host.to_owned(), port.to_owned());
        assert_eq!(hosts("host=a,b port=1,2"), [pair("a", "1"), pair("b", "2")]);
        assert_eq!(hosts("host=a,b port=1"), [pair("a", "1"), pair("b", "1")]);
        assert_eq!(hosts("postgres://a,b:7/x"), [pair("a", "5432"), pair("b", "7")]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(values in proptest::collection::btree_map("[a-z_]{1,12}", "\\PC{1,20}", 0..6)) {
            let conninfo: Conninfo = values.into_iter().collect();
            prop_assert_eq!(Conninfo::parse(&conninfo.to_text()).unwrap(), conninfo);
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,60}") {
            let _ = Conninfo::parse(&text);
            let _ = Conninfo::parse(&format!("postgres://{text}"));
        }
    }
}
