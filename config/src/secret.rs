//! A text that must never reach a log, an error or a process list, and parameters that may hold one.

/// A password, token or key passphrase. `Debug` hides it and there is no `Display`: whoever needs the text asks for it
/// by [`Secret::reveal`], which is easy to find in a review.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that has to send it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Stands for a value that is not shown.
pub const HIDDEN: &str = "***";

/// Parts of names of PostgreSQL's parameters whose texts may hold a password or token: commands, connection strings,
/// addresses, keys. Those of extensions are called alike (`citus.node_conninfo`, `pgsodium.getkey_script`).
const SECRET_NAMES: [&str; 12] = [
    "auth",
    "command",
    "conninfo",
    "credential",
    "dsn",
    "key",
    "pass",
    "proxy",
    "secret",
    "token",
    "uri",
    "url",
];

/// A value of one of PostgreSQL's parameters as a message may show it: [`HIDDEN`] where the text may hold a secret, which
/// numbers, switches and words of a list do not.
#[must_use]
pub fn shown_parameter<'a>(name: &str, value: &'a str) -> &'a str {
    let name = name.to_ascii_lowercase();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    let is_number = value.parse::<f64>().is_ok() || crate::number::parse_bool(value).is_some();
    let is_quantity =
        value.starts_with(|c: char| c.is_ascii_digit()) && value.len() <= 12 && value.chars().all(is_plain);
    let is_harmless = is_number || is_quantity;
    let is_login =
        (value.contains("://") && value.contains('@')) || value.to_ascii_lowercase().contains("passw");
    let is_named_so = SECRET_NAMES.iter().any(|part| name.contains(part)) && name != "password_encryption";
    let is_secret = (is_named_so && !is_harmless) || is_login;
    if is_secret { HIDDEN } else { value }
}

#[cfg(test)]
mod tests {
    use super::{Secret, shown_parameter};

    #[test]
    fn a_text_that_may_be_a_secret_is_not_shown() {
        for (name, value) in [
            ("archive_command", "aws --token s3cret s3 cp %p s3://x"),
            ("ssl_passphrase_command", "echo s3cret"),
            ("primary_conninfo", "host=a password=s3cret"),
            ("citus.node_conninfo", "sslmode=require sslkey=/x"),
            ("pg_tde.token", "s3cret"),
            ("any.thing", "postgres://u:s3cret@h/d"),
            ("any.thing", "host=a PASSWORD=s3cret"),
            ("Restore_Command", "s3cret"),
        ] {
            assert_eq!(shown_parameter(name, value), "***", "{name}");
        }
        for (name, value) in [
            ("authentication_timeout", "60s"),
            ("authentication_timeout", "1 min"),
            ("row_security", "off"),
            ("password_encryption", "scram-sha-256"),
            ("shared_preload_libraries", "pg_cronn"),
            ("max_connections", "100"),
            ("track_commit_timestamp", "on"),
            ("search_path", "\"$user\", public"),
        ] {
            assert_eq!(shown_parameter(name, value), value, "{name}");
        }
    }

    #[test]
    fn debug_hides_the_text() {
        assert_eq!(format!("{:?}", Some(Secret::from("s3cret"))), "Some(Secret(***))");
    }
}
