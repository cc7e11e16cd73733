//! `query`: SQL on a member that is chosen by role or name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use postgres::session::{Answer, Kind};
use postgres::{Conninfo, Instant};

use super::console::{print, timestamp};
use super::error::Error;
use super::list::Watch;
use super::session::Session;
use super::table::{Cell, Column, Format, Table, separated};
use super::view::{RoleFilter, View};
use super::{dsn, prompt};

/// How long a connection may take, as with patronictl. A statement may take as long as it needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct Query {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Output format: pretty, tsv, json, yaml, yml
    #[arg(long = "format", default_value = "tsv", hide_default_value = true, value_parser = Format::parse)]
    format: Format,
    /// Execute the SQL commands from this file, - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Force password prompt
    #[arg(long)]
    password: bool,
    /// Database user name
    #[arg(short = 'U', long, value_name = "USER")]
    username: Option<String>,
    #[command(flatten)]
    watch: Watch,
    /// Give a dsn of any member with this role
    #[arg(short, long, value_parser = RoleFilter::parse)]
    role: Option<RoleFilter>,
    /// Query a specific member
    #[arg(short, long)]
    member: Option<String>,
    /// The column delimiter
    #[arg(long, default_value = "\t", hide_default_value = true)]
    delimiter: String,
    /// The SQL commands to execute
    #[arg(short, long, value_name = "SQL")]
    command: Option<String>,
    /// Database name to connect to
    #[arg(short, long, value_name = "NAME")]
    dbname: Option<String>,
}

impl Query {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let sql = match (&self.command, &self.file) {
            (Some(_), Some(_)) => {
                return Err(Error::new("--file and --command are mutually exclusive options"));
            }
            (None, None) => return Err(Error::new("You need to specify either --command or --file")),
            (Some(sql), None) => sql.clone(),
            (None, Some(path)) => read(path)?,
        };
        let mut conninfo = Conninfo::new();
        conninfo.set("user", self.username.clone());
        conninfo.set("dbname", self.dbname.clone());
        if self.password {
            conninfo.set("password", Some(prompt::hidden("Password: ").await?));
        }
        conninfo.set("fallback_application_name", Some("Patroni ctl"));
        let (_, store) = session
            .store_or_scope(self.cluster_name.clone(), self.group)
            .await?;
        let view = store.view().await?;
        let mut ticks = self.watch.period().map(tokio::time::interval);
        loop {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            print(&self.render(self.ask(&view, &conninfo, &sql).await?))?;
            if ticks.is_none() {
                return Ok(());
            }
        }
    }

    /// The answer; what went wrong is one too, as a row without columns.
    async fn ask(&self, view: &View, conninfo: &Conninfo, sql: &str) -> Result<Answer, Error> {
        let nobody = match (&self.member, self.role) {
            (Some(member), _) => format!("No connection to member {member} is available"),
            (None, Some(role)) => format!("No connection to role '{}' is available", role.as_str()),
            (None, None) => "No connection is available".to_owned(),
        };
        let Some((host, port)) = dsn::address(view, self.role, self.member.as_deref())? else {
            return Ok(complaint(nobody));
        };
        let conninfo = conninfo.clone().with("host", host).with("port", port.to_string());
        let connected = postgres::Session::open(&conninfo, Instant::now() + CONNECT_TIMEOUT).await;
        let server = match connected {
            Ok(server) => server,
            Err(error) => return Ok(complaint(format!("ERROR, SQLSTATE: {error}"))),
        };
        if let Some(wanted) = wanted_recovery(self.role) {
            let found = server
                .query("the role", "SELECT pg_catalog.pg_is_in_recovery()")
                .await;
            let is_so = found.is_ok_and(|answer| answer.rows == [[Some(wanted.to_owned())]]);
            if !is_so {
                return Ok(complaint(nobody));
            }
        }
        let answer = server.query_with_types("the statement", sql).await;
        Ok(answer.unwrap_or_else(|error| {
            let reason = error.sqlstate().map_or_else(|| error.to_string(), str::to_owned);
            tracing::debug!("{error}");
            complaint(format!("ERROR, SQLSTATE: {reason}"))
        }))
    }

    fn render(&self, answer: Answer) -> String {
        let columns = answer.columns.unwrap_or_default();
        let kind = |n: usize| columns.get(n).map_or(Kind::Text, |column| column.kind);
        let cells: Vec<Vec<Cell>> = answer
            .rows
            .into_iter()
            .map(|row| {
                row.into_iter()
                    .enumerate()
                    .map(|(n, text)| cell(text, kind(n)))
                    .collect()
            })
            .collect();
        let titles: Vec<String> = columns.into_iter().map(|column| column.name).collect();
        if self.format == Format::Tsv {
            let texts: Vec<Vec<String>> = cells
                .iter()
                .map(|row| row.iter().map(Cell::to_plain_text).collect())
                .collect();
            return separated(&titles, &texts, &self.delimiter);
        }
        let width = cells.first().map_or(titles.len(), Vec::len);
        let mut columns: Vec<Column> = titles.into_iter().map(Column::named).collect();
        // Without names a grid has numbers, and objects have nothing.
        if columns.is_empty() && self.format.is_grid() {
            columns = (1..=width).map(|n| Column::named(format!("Field {n}"))).collect();
        }
        let table = Table {
            title: None,
            columns,
            rows: cells,
            omits_empty_cells: false,
            cuts_long_cells: false,
        };
        table.render(self.format)
    }
}

/// What `pg_is_in_recovery` has to say on a member with this role; for a leader the DCS is believed.
fn wanted_recovery(role: Option<RoleFilter>) -> Option<&'static str> {
    match role? {
        RoleFilter::Primary => Some("f"),
        RoleFilter::Replica | RoleFilter::Standby | RoleFilter::StandbyLeader => Some("t"),
        RoleFilter::Leader | RoleFilter::Any => None,
    }
}

fn complaint(text: String) -> Answer {
    Answer {
        columns: None,
        rows: vec![vec![Some(timestamp(0)), Some(text)]],
    }
}

/// Numbers and truth values are such in JSON and YAML.
fn cell(text: Option<String>, kind: Kind) -> Cell {
    let Some(text) = text else {
        return Cell::Json(serde_json::Value::Null);
    };
    let number = || match kind {
        Kind::Number => serde_json::from_str::<serde_json::Number>(&text)
            .ok()
            .map(Into::into),
        Kind::Bool => Some(serde_json::Value::Bool(text == "t")),
        Kind::Text => None,
    };
    match number() {
        Some(value) => Cell::Json(value),
        None => Cell::Lines(text),
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::new(format!("could not read {}: {error}", path.display()));
    if path == Path::new("-") {
        return net::file::read_text_from(std::io::stdin().lock()).map_err(failed);
    }
    net::file::read_text(path).map_err(failed)
}
