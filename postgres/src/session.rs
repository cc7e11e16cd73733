//! A connection to any server, made with libpq's words and defaults (PostgreSQL manual, "Parameter Key Words",
//! "Environment Variables", "The Password File").

use crate::connection::{default_user, open, sql_error, ssl_mode};
use crate::tls::Tls;
use crate::{Conninfo, Instant, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

/// The variables that stand in for keywords which are not given.
const VARIABLES: [(&str, &str); 11] = [
    ("host", "PGHOST"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
];

/// Where Debian's libpq looks for the socket.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// One connection.
pub struct Session {
    client: Client,
}

/// What a statement gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The names of the columns; `None` when the statement returns no rows at all.
    pub columns: Option<Vec<Column>>,
    /// The rows as texts; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// A column of an [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its texts are, where that was asked for; otherwise text.
    pub kind: Kind,
}

/// What a column's texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Number,
    /// `t` or `f`.
    Bool,
    /// Anything else.
    Text,
}

impl Kind {
    fn of(kind: &Type) -> Self {
        match *kind {
            Type::INT2 | Type::INT4 | Type::INT8 | Type::OID | Type::FLOAT4 | Type::FLOAT8 => Self::Number,
            Type::BOOL => Self::Bool,
            _ => Self::Text,
        }
    }
}

impl Session {
    /// Connects. What `conninfo` does not say comes from libpq's variables, its password file and its defaults.
    ///
    /// # Errors
    /// The server could not be reached, or lets nobody in.
    pub async fn open(conninfo: &Conninfo, deadline: Instant) -> Result<Self> {
        let conninfo = with_defaults(conninfo.clone(), |name| std::env::var(name).ok());
        let options: BTreeMap<String, String> = conninfo
            .iter()
            .map(|(keyword, value)| (keyword.to_owned(), value.to_owned()))
            .collect();
        let tls = Tls::new(&options)?;
        let hosts = conninfo.hosts();
        let mut last = None;
        for (host, port) in &hosts {
            let config = config(&conninfo, host, port);
            match open(&config, tls.clone(), &format!("{host}:{port}"), deadline).await {
                Ok(client) => return Ok(Self { client }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(crate::Error::NotRunning))
    }

    /// Runs a statement, or several; the answer is that of the first one. `what` is for errors.
    ///
    /// # Errors
    /// The server refused it, or the connection broke.
    pub async fn query(&self, what: &str, sql: &str) -> Result<Answer> {
        let messages = self
            .client
            .simple_query(sql)
            .await
            .map_err(|error| sql_error(what, &error))?;
        let mut answer = Answer::default();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    let column = |name: &str| Column {
                        name: name.to_owned(),
                        kind: Kind::Text,
                    };
                    answer.columns = Some(columns.iter().map(|found| column(found.name())).collect());
                }
                SimpleQueryMessage::Row(row) => {
                    let cell = |n| row.get(n).map(str::to_owned);
                    answer.rows.push((0..row.len()).map(cell).collect());
                }
                SimpleQueryMessage::CommandComplete(_) => break,
                _ => {}
            }
        }
        Ok(answer)
    }

    /// The same, with the kinds of the columns if `sql` is a single statement.
    ///
    /// # Errors
    /// Those of [`Session::query`].
    pub async fn query_with_types(&self, what: &str, sql: &str) -> Result<Answer> {
        let kinds: Vec<Kind> = match self.client.prepare(sql).await {
            Ok(statement) => statement
                .columns()
                .iter()
                .map(|column| Kind::of(column.type_()))
                .collect(),
            // Several statements, or a wrong one: running it tells.
            Err(_) => Vec::new(),
        };
        let mut answer = self.query(what, sql).await?;
        for (column, kind) in answer.columns.iter_mut().flatten().zip(kinds) {
            column.kind = kind;
        }
        Ok(answer)
    }
}

fn with_defaults(mut conninfo: Conninfo, variable: impl Fn(&str) -> Option<String>) -> Conninfo {
    for (keyword, name) in VARIABLES {
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            conninfo.set_default(keyword, value);
        }
    }
    conninfo.set_default("host", SOCKET_DIRECTORY);
    conninfo.set_default("port", "5432");
    conninfo.set_default("user", default_user());
    let user = conninfo.get("user").unwrap_or_default().to_owned();
    conninfo.set_default("dbname", user);
    conninfo
}

fn config(conninfo: &Conninfo, host: &str, port: &str) -> Config {
    let get = |keyword| conninfo.get(keyword).filter(|value| !value.is_empty());
    let mut config = Config::new();
    let port = port.parse().unwrap_or(5432);
    config.port(port);
    if host.starts_with('/') {
        config.host_path(host).ssl_mode(ssl_mode(Some("disable")));
    } else {
        config.host(host).ssl_mode(ssl_mode(get("sslmode")));
    }
    let user = get("user").unwrap_or_default();
    let database = get("dbname").unwrap_or_default();
    config.user(user).dbname(database);
    if let Some(options) = get("options") {
        config.options(options);
    }
    if let Some(name) = get("application_name").or(get("fallback_application_name")) {
        config.application_name(name);
    }
    let remembered = || {
        let path = get("passfile").map(PathBuf::from);
        let path = path.or_else(|| std::env::home_dir().map(|home| home.join(".pgpass")))?;
        let text = net::file::read_text(path).ok()?;
        let host = if host.starts_with('/') { "localhost" } else { host };
        password(&text, [host, &port.to_string(), database, user])
    };
    if let Some(password) = get("password").map(str::to_owned).or_else(remembered) {
        config.password(password);
    }
    config
}

/// The password of the first line that fits host, port, database and user.
fn password(passfile: &str, wanted: [&str; 4]) -> Option<String> {
    passfile
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(fields)
        .find(|fields| {
            let fits = |(field, wanted): (&String, &&str)| field == "*" || field == wanted;
            fields.len() >= 5 && fields.iter().zip(&wanted).all(fits)
        })
        .and_then(|mut fields| (!fields[4].is_empty()).then(|| fields.swap_remove(4)))
}

/// Fields between colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' if fields.len() < 5 => fields.push(String::new()),
            _ => {
                let c = if c == '\\' { chars.next().unwrap_or(c) } else { c };
                fields.last_mut().into_iter().for_each(|field| field.push(c));
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_comes_from_variables_and_defaults() {
        let given = Conninfo::parse("host=db1 user=anna").unwrap();
        let variable = |name: &str| match name {
            "PGHOST" => Some("db2".to_owned()),
            "PGPORT" => Some("5433".to_owned()),
            "PGDATABASE" => Some(String::new()),
            _ => None,
        };
        let conninfo = with_defaults(given, variable);
        let found = ["host", "port", "user", "dbname"].map(|keyword| conninfo.get(keyword));
        assert_eq!(found, ["db1", "5433", "anna", "anna"].map(Some));
        let empty = with_defaults(Conninfo::new(), |_| None);
        assert_eq!(empty.get("host"), Some(SOCKET_DIRECTORY));
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = "# hosts\ndb1:5432:*:bob:no\n*:5432:app:anna:with\\:colon\\\\\n*:*:*:*:any:more\n";
        let find = |wanted| password(file, wanted);
        assert_eq!(
            find(["db1", "5432", "app", "anna"]).as_deref(),
            Some("with:colon\\")
        );
        assert_eq!(find(["db1", "5432", "x", "bob"]).as_deref(), Some("no"));
        assert_eq!(find(["db9", "1", "x", "y"]).as_deref(), Some("any:more"));
        assert_eq!(password("a:b:c", ["a", "b", "c", "d"]), None);
    }
}
