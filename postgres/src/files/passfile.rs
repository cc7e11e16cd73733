//! libpq's password file (PostgreSQL manual, "The Password File"), and credentials for programs that are run once.

use super::memory_file::MemoryFile;
use super::write_if_changed;
use crate::conninfo::Conninfo;
use crate::{Error, Result};
use config::Role;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// The lines for a connection: one for each host, and `localhost` beside a directory of sockets.
#[must_use]
pub fn lines(conninfo: &Conninfo, password: &str) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let or_any = |text: &str| {
        if text.is_empty() {
            "*".to_owned()
        } else {
            escape(text)
        }
    };
    let user = or_any(conninfo.get("user").unwrap_or_default());
    let mut text = String::new();
    for (host, port) in conninfo.hosts() {
        let mut line = |host: &str| {
            text.push_str(&format!(
                "{}:{}:*:{user}:{}\n",
                or_any(host),
                or_any(&port),
                escape(password)
            ));
        };
        line(&host);
        if host.starts_with('/') {
            line("localhost");
        }
    }
    text
}

/// Writes a password file with mode 0600; returns whether it changed.
///
/// # Errors
/// When the path is something else than a file, or cannot be written.
pub fn write(path: &Path, lines: &str) -> Result<bool> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(Error::Setting(format!(
            "postgresql.pgpass {} exists and is not a file",
            path.display()
        )));
    }
    if let Some(directory) = path.parent() {
        super::ensure_directory(directory).map_err(|error| {
            Error::Unsuitable(format!(
                "{error}; postgresql.pgpass, which is in HOME by default, has to name a file that can be written"
            ))
        })?;
    }
    write_if_changed(path, lines, 0o600)
}

/// A connection string for the command line of a program, with its secrets in files in memory, which go when this is
/// dropped.
pub(crate) struct Credentials {
    _files: Vec<MemoryFile>,
    /// Without any secret.
    pub(crate) conninfo: Conninfo,
    /// Tells libpq where the secrets are.
    pub(crate) env: BTreeMap<OsString, OsString>,
}

impl Credentials {
    /// For `conninfo` with the password and passphrase of `role`.
    pub(crate) fn new(mut conninfo: Conninfo, role: &Role) -> Result<Self> {
        let mut env = BTreeMap::new();
        let password = role.password.as_ref().map(|secret| secret.reveal().to_owned());
        let text = password
            .map(|password| lines(&conninfo, &password))
            .unwrap_or_default();
        let passfile = MemoryFile::new("the password file", &text)?;
        env.insert("PGPASSFILE".into(), passfile.path().into_os_string());
        let mut files = vec![passfile];
        if let Some(passphrase) = &role.sslpassword {
            let text = format!("[server]\nsslpassword={}\n", passphrase.reveal());
            let services = MemoryFile::new("the service file", &text)?;
            env.insert("PGSERVICEFILE".into(), services.path().into_os_string());
            files.push(services);
            conninfo = conninfo.with("service", "server");
        }
        conninfo.set("password", None::<String>);
        conninfo.set("sslpassword", None::<String>);
        Ok(Self {
            _files: files,
            conninfo,
            env,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Secret;

    #[test]
    fn every_host_gets_a_line_and_colons_are_escaped() {
        let conninfo = Conninfo::parse("host=a,::1 port=1,2 user=u:x").unwrap();
        assert_eq!(
            lines(&conninfo, "p:\\w"),
            "a:1:*:u\\:x:p\\:\\\\w\n\\:\\:1:2:*:u\\:x:p\\:\\\\w\n"
        );
        let socket = Conninfo::parse("host=/run/pg").unwrap();
        assert_eq!(lines(&socket, "x"), "/run/pg:5432:*:*:x\nlocalhost:5432:*:*:x\n");
    }

    #[test]
    fn something_that_is_no_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            write(dir.path(), "")
                .unwrap_err()
                .to_string()
                .contains("not a file")
        );
    }

    #[test]
    fn secrets_stay_out_of_the_command_line() {
        let role = Role {
            password: Some(Secret::new("secret1")),
            sslpassword: Some(Secret::new("secret2")),
            ..Role::default()
        };
        let credentials = Credentials::new(Conninfo::new().with("host", "h"), &role).unwrap();
        assert_eq!(credentials.conninfo.to_text(), "host=h service=server");
        let read = |name: &str| fs::read_to_string(&credentials.env[&OsString::from(name)]).unwrap();
        assert!(read("PGPASSFILE").contains("secret1") && read("PGSERVICEFILE").contains("secret2"));
    }
}
