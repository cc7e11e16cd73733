//! SQL on the local server: which address, which role, and connections that are kept open.

use crate::process::readiness::{self, Address};
use crate::process::{PidFile, Readiness};
use crate::tls::Tls;
use crate::{Error, Instant, Result, Server};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, SimpleQueryMessage, SimpleQueryRow};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Settings of the connections that are kept open: a statement that takes longer than 2 s is given up by the server
/// itself, and nothing that a role has in its `search_path` is taken for a function of PostgreSQL's.
const KEPT_OPTIONS: &str = "-c statement_timeout=2000 -c pg_stat_statements.track=none -c search_path=pg_catalog -c lock_timeout=2000";

/// For statements that may take as long as they need, up to the caller's deadline.
const UNLIMITED_OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c search_path=pg_catalog \
     -c synchronous_commit=local -c idle_in_transaction_session_timeout=0";

/// The connections that are kept.
#[derive(Default)]
pub(crate) struct Connections {
    heartbeat: Mutex<Option<Kept>>,
    rest: Mutex<Option<Kept>>,
}

struct Kept {
    client: Client,
    postmaster: Option<i32>,
}

/// Which kept connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Heartbeat,
    Rest,
}

impl Purpose {
    fn application_name(self) -> &'static str {
        match self {
            Self::Heartbeat => "Patroni heartbeat",
            Self::Rest => "Patroni restapi",
        }
    }
}

pub(crate) fn sql_error(what: &str, error: &tokio_postgres::Error) -> Error {
    let (message, sqlstate) = match error.as_db_error() {
        Some(db) => (db.message().to_owned(), Some(db.code().code().to_owned())),
        None => (chain(error), None),
    };
    Error::Sql {
        what: what.to_owned(),
        message,
        sqlstate,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

/// The rows of the last statement of a simple query.
pub(crate) async fn rows(client: &Client, what: &str, sql: &str) -> Result<Vec<SimpleQueryRow>> {
    let messages = client
        .simple_query(sql)
        .await
        .map_err(|error| sql_error(what, &error))?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// A connection, with a task that serves it. `address` is for errors.
pub(crate) async fn open(config: &Config, tls: Tls, address: &str, deadline: Instant) -> Result<Client> {
    let failed = |reason: String| Error::Connect {
        address: address.to_owned(),
        reason,
    };
    let attempt = config.connect(tls.clone());
    let mut outcome = tokio::time::timeout_at(deadline, attempt).await;
    // sslmode prefer: a server that turns encrypted connections down gets a plain one.
    let refused =
        matches!(&outcome, Ok(Err(error)) if error.code().is_some_and(|code| code.code() == "28000"));
    if refused && config.get_ssl_mode() == SslMode::Prefer {
        let mut plain = config.clone();
        plain.ssl_mode(SslMode::Disable);
        outcome = tokio::time::timeout_at(deadline, plain.connect(tls)).await;
    }
    let (client, connection) = match outcome {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => {
            let text = error
                .as_db_error()
                .map_or_else(|| chain(&error), |db| db.message().to_owned());
            return Err(failed(text));
        }
        Err(_) => return Err(failed("no answer in time".to_owned())),
    };
    tokio::spawn(async move {
        // An error is seen by whoever uses the client; the task ends with the client or the server.
        let _ = connection.await;
    });
    Ok(client)
}

/// libpq's `sslmode`, as far as it says whether a connection is encrypted; what is verified is in [`Tls`].
pub(crate) fn ssl_mode(word: Option<&str>) -> SslMode {
    match word {
        Some("disable" | "allow") => SslMode::Disable,
        None | Some("prefer") => SslMode::Prefer,
        Some(_) => SslMode::Require,
    }
}

impl Server {
    /// Where the local server listens for us: the socket if `use_unix_socket` and there is a usable directory, else TCP.
    /// While a server runs, its pid file knows better than the settings which port and directory it was started with.
    pub(crate) fn local_address(&self, use_unix_socket: bool) -> Address {
        let settings = self.settings();
        let running = PidFile::read(&settings.local.data_dir).ok().flatten();
        let port = running
            .as_ref()
            .and_then(|file| file.port)
            .unwrap_or(settings.local.listen.port);
        if use_unix_socket {
            let directories = settings.parameters.get("unix_socket_directories").cloned();
            let wanted = match (running.and_then(|file| file.socket_dir), directories) {
                (Some(directory), _) => Some(directory),
                (None, Some(list)) => list
                    .split(',')
                    .map(|dir| dir.trim().trim_matches('"').to_owned())
                    .find(|dir| dir.starts_with('/')),
                (None, None) => None,
            };
            if let Some(directory) = wanted.filter(|dir| dir.starts_with('/')) {
                return Address::Unix(std::path::Path::new(&directory).join(format!(".s.PGSQL.{port}")));
            }
        }
        Address::Tcp(settings.local.listen.local_host().to_owned(), port)
    }

    fn connect_config(
        &self,
        address: &Address,
        database: &str,
        application_name: &str,
        options: &str,
    ) -> Config {
        let settings = self.settings();
        let role = &settings.local.authentication.superuser;
        let mut config = Config::new();
        config
            .dbname(database)
            .application_name(application_name)
            .options(options)
            .connect_timeout(CONNECT_TIMEOUT);
        config.user(role.username.as_deref().map_or_else(default_user, str::to_owned));
        if let Some(password) = &role.password {
            config.password(password.reveal());
        }
        match address {
            Address::Tcp(host, port) => {
                config.host(host).port(*port);
                config.ssl_mode(ssl_mode(role.options.get("sslmode").map(String::as_str)));
            }
            Address::Unix(path) => {
                let (directory, port) = path
                    .parent()
                    .zip(path.extension())
                    .unwrap_or((path, "5432".as_ref()));
                config
                    .host_path(directory)
                    .port(port.to_str().and_then(|port| port.parse().ok()).unwrap_or(5432));
                config.ssl_mode(SslMode::Disable);
            }
        }
        config
    }

    async fn connect_with(&self, config: &Config, address: &Address, deadline: Instant) -> Result<Client> {
        let tls = Tls::of(&self.settings().local.authentication.superuser)?;
        open(config, tls, &address.to_string(), deadline).await
    }

    /// A connection of its own as the superuser, for statements without a time limit but the caller's.
    pub(crate) async fn connect(&self, database: Option<&str>, deadline: Instant) -> Result<Client> {
        let settings = self.settings();
        let database = database.unwrap_or(&settings.local.database);
        self.connect_as("Patroni heartbeat", database, UNLIMITED_OPTIONS, deadline)
            .await
    }

    /// A connection of its own as the superuser, by another name and with other settings.
    pub(crate) async fn connect_as(
        &self,
        application_name: &str,
        database: &str,
        options: &str,
        deadline: Instant,
    ) -> Result<Client> {
        let address = self.local_address(self.settings().use_unix_socket);
        let config = self.connect_config(&address, database, application_name, options);
        self.connect_with(&config, &address, deadline).await
    }

    /// Runs a query over a kept connection; a connection that has broken is replaced once.
    pub(crate) async fn query_kept(
        &self,
        purpose: Purpose,
        what: &str,
        sql: &str,
        deadline: Instant,
    ) -> Result<Vec<SimpleQueryRow>> {
        let deadline = deadline.min(Instant::now() + self.retry_timeout() / 2);
        let slot = match purpose {
            Purpose::Heartbeat => &self.shared.connections.heartbeat,
            Purpose::Rest => &self.shared.connections.rest,
        };
        let work = async {
            let mut slot = slot.lock().await;
            let mut retried = false;
            loop {
                let was_open = self.ensure_open(&mut slot, purpose, deadline).await?;
                let Some(kept) = slot.as_ref() else {
                    return Err(Error::NotRunning);
                };
                match rows(&kept.client, what, sql).await {
                    Ok(rows) => return Ok(rows),
                    Err(error) if error.sqlstate().is_some_and(|code| !code.starts_with("57P")) => {
                        return Err(error);
                    }
                    Err(error) => {
                        *slot = None;
                        if retried || !was_open {
                            return Err(error);
                        }
                        retried = true;
                    }
                }
            }
        };
        match tokio::time::timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_) => {
                // The statement may still be on its way: what it answers must not be taken for another's answer.
                if let Ok(mut slot) = slot.try_lock() {
                    *slot = None;
                }
                Err(Error::timeout(what))
            }
        }
    }

    /// Opens the connection if need be; returns whether it was open already.
    async fn ensure_open(
        &self,
        slot: &mut Option<Kept>,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<bool> {
        let settings = self.settings();
        let running = PidFile::read(&settings.local.data_dir)
            .ok()
            .flatten()
            .map(|file| file.pid);
        if slot
            .as_ref()
            .is_some_and(|kept| !kept.client.is_closed() && kept.postmaster == running)
        {
            return Ok(true);
        }
        *slot = None;
        let address = self.local_address(settings.use_unix_socket);
        let config = self.connect_config(
            &address,
            &settings.local.database,
            purpose.application_name(),
            KEPT_OPTIONS,
        );
        let client = self.connect_with(&config, &address, deadline).await?;
        if purpose == Purpose::Heartbeat {
            tracing::info!("establishing a new patroni heartbeat connection to postgres");
        }
        *slot = Some(Kept {
            client,
            postmaster: running,
        });
        Ok(false)
    }

    /// Closes the kept connections, so that a stop does not have to end them. One that is in use is left to the server:
    /// a stop waits for nothing.
    pub(crate) fn close_connections(&self) {
        let connections = &self.shared.connections;
        let mut closed = false;
        for slot in [&connections.heartbeat, &connections.rest] {
            closed |= slot.try_lock().is_ok_and(|mut kept| kept.take().is_some());
        }
        if closed {
            tracing::info!("closed patroni connections to postgres");
        }
    }

    /// Whether the server lets clients in, without logging in.
    ///
    /// # Errors
    /// It could not be asked, for want of descriptors or the like.
    pub async fn readiness(&self, deadline: Instant) -> Result<Readiness> {
        let settings = self.settings();
        let user = settings
            .local
            .authentication
            .superuser
            .username
            .as_deref()
            .map_or_else(default_user, str::to_owned);
        let deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let address = self.local_address(settings.use_unix_socket);
        readiness::ask(&address, &user, &settings.local.database, deadline)
            .await
            .map_err(|error| Error::Connect {
                address: address.to_string(),
                reason: error.to_string(),
            })
    }
}

/// The name of the operating system's user, as libpq takes it.
pub(crate) fn default_user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_uid = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    of_uid
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| "postgres".to_owned())
}

/// Quotes a text as an SQL literal, whatever `standard_conforming_strings` is.
pub(crate) fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Quotes a name.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
