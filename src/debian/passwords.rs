//! The passwords of a new cluster: made up for its first host, taken from that host's file for the others. A template's text
//! is changed so that each role has one, and that nobody comes in by less than SCRAM.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Letters and digits need no quoting anywhere. So many of them are more than anybody can try.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LENGTH: usize = 28;

/// One for each role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passwords {
    superuser: String,
    replication: String,
    rewind: String,
}

impl Passwords {
    /// New ones.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub(super) fn invent() -> io::Result<Self> {
        let mut random = File::open("/dev/urandom")?;
        Ok(Self {
            superuser: word(&mut random)?,
            replication: word(&mut random)?,
            rewind: word(&mut random)?,
        })
    }

    /// Those of another host's configuration.
    ///
    /// # Errors
    /// It cannot be read, or lacks one; what, and never a password.
    pub(super) fn of_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = net::file::read_text(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        Self::of_text(&text).map_err(|why| format!("{shown}: {why}"))
    }

    fn of_text(text: &str) -> Result<Self, String> {
        let not_yaml = |_| "it is no YAML".to_owned();
        let tree = config::yaml::parse("", text).map_err(not_yaml)?;
        let section = |value: Option<&config::Value>, key: &str| value?.as_map()?.get(key).cloned();
        let postgresql = section(Some(&tree), "postgresql");
        let authentication = section(postgresql.as_ref(), "authentication");
        let password = |role: &str| {
            let role_section = section(authentication.as_ref(), role);
            let password = section(role_section.as_ref(), "password");
            let password = password
                .as_ref()
                .and_then(config::Value::as_str)
                .map(str::to_owned);
            password.ok_or_else(|| format!("there is no postgresql.authentication.{role}.password in it"))
        };
        Ok(Self {
            superuser: password("superuser")?,
            replication: password("replication")?,
            rewind: password("rewind")?,
        })
    }

    /// The configuration with these passwords, a role for pg_rewind, clients of the network, and SCRAM; and what of that the
    /// text, made from a template of the administrator's own, has no place for.
    pub(super) fn put_into(&self, text: &str) -> (String, Vec<&'static str>) {
        let mut text = text.to_owned();
        let mut missing = Vec::new();
        // A text in JSON is one in YAML, whatever is in it.
        let quoted = |password: &str| serde_json::Value::from(password).to_string();
        let (superuser, replication, rewind) = (
            quoted(&self.superuser),
            quoted(&self.replication),
            quoted(&self.rewind),
        );
        let changes: [(&'static str, &str, String); 4] = [
            (
                "a password for replication",
                "      password: \"rep-pass\"\n",
                format!("      password: {}\n", replication),
            ),
            (
                "a password for the superuser",
                "      username: \"postgres\"\n#      password: \"change-me\"\n",
                format!("      username: \"postgres\"\n      password: {}\n", superuser),
            ),
            (
                "a role for pg_rewind",
                "#    rewind:\n#      username: \"rewind\"\n#      password: \"change-me\"\n",
                format!(
                    "    rewind:\n      username: \"rewind\"\n      password: {}\n",
                    rewind
                ),
            ),
            (
                "a pg_hba line for clients of the network",
                "#      - host    all             all ",
                "      - host    all             all ".to_owned(),
            ),
        ];
        for (what, from, to) in changes {
            if text.contains(from) {
                text = text.replacen(from, &to, 1);
            } else {
                missing.push(what);
            }
        }
        let lines = text.lines().map(|line| {
            let is_rule = line.trim_start().starts_with("- host ");
            match line.trim_end().strip_suffix(" md5").filter(|_| is_rule) {
                Some(rule) => format!("{rule} scram-sha-256\n"),
                None => format!("{line}\n"),
            }
        });
        (lines.collect(), missing)
    }
}

fn word(random: &mut impl Read) -> io::Result<String> {
    let mut text = String::new();
    while text.len() < LENGTH {
        let mut byte = [0];
        random.read_exact(&mut byte)?;
        // What is beyond a multiple of the alphabet would make some letters more likely than others.
        if usize::from(byte[0]) < 4 * ALPHABET.len() {
            text.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::template;
    use super::*;

    #[test]
    fn a_new_cluster_has_passwords_of_its_own() {
        let passwords = Passwords::invent().unwrap();
        assert_ne!(passwords, Passwords::invent().unwrap());
        let words = [&passwords.superuser, &passwords.replication, &passwords.rewind];
        for word in words {
            assert_eq!(word.len(), LENGTH);
            assert!(word.bytes().all(|byte| ALPHABET.contains(&byte)));
        }
        let mut values = vec![
            ("HOSTNAME", "node1"),
            ("NETWORK", "10.0.0.0/24"),
            ("DCS_CONFIG", "etcd3: {host: h}"),
        ];
        let others = [
            "VERSION",
            "CLUSTER",
            "HOSTIP",
            "LISTEN_VIP",
            "DATADIR_BASE",
            "API_PORT",
            "PORT",
            "SCRIPTS",
        ];
        values.extend(others.map(|name| (name, "1")));
        let filled = template::fill(template::BUILT_IN, &values);
        let (text, missing) = passwords.put_into(&filled);
        assert_eq!(missing, Vec::<&str>::new());
        for gone in ["rep-pass", "\"change-me\"", " md5"] {
            let active = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            assert!(!active.clone().any(|line| line.contains(gone)), "{gone}: {text}");
        }
        let rule = text
            .lines()
            .find(|line| line.contains("all             all             10.0.0.0/24"))
            .unwrap();
        assert!(
            rule.starts_with("      - host") && rule.ends_with(" scram-sha-256"),
            "{rule}"
        );
        // The other hosts have the same.
        assert_eq!(Passwords::of_text(&text).as_ref(), Ok(&passwords));
    }

    #[test]
    fn a_template_of_ones_own_is_left_as_it_is_and_what_it_lacks_is_said() {
        let passwords = Passwords::invent().unwrap();
        let own = "postgresql:\n  authentication:\n    replication: {username: r, password: mine}\n";
        let (text, missing) = passwords.put_into(own);
        assert_eq!(text, own);
        assert_eq!(missing.len(), 4);
    }

    #[test]
    fn an_error_names_no_password() {
        let why = Passwords::of_text("postgresql: {authentication: {superuser: {password: topsecret}}}")
            .unwrap_err();
        assert_eq!(
            why,
            "there is no postgresql.authentication.replication.password in it"
        );
        for text in ["", "a: [", "postgresql: 5", "password: topsecret"] {
            assert!(
                !Passwords::of_text(text).unwrap_err().contains("topsecret"),
                "{text}"
            );
        }
    }
}
