//! SQL of a Citus cluster (Citus documentation, "Metadata Tables" and "Utility Functions"): the extension in a new
//! database, and `pg_dist_node` of the coordinator.

use std::fmt::Write as _;
use std::time::Duration;

use ha::citus::{Address, Change, Row};
use tokio_postgres::Client;

use crate::connection::{quote_ident, quote_literal, rows, sql_error};
use crate::{Error, Instant, Result, Server};

/// Changes of `pg_dist_node` wait for statements that use it, and a transaction stays open while a worker changes.
const OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 -c search_path=pg_catalog \
     -c idle_in_transaction_session_timeout=0";

/// The connection over which `pg_dist_node` is read and changed.
pub struct CitusSession {
    client: Client,
}

impl Server {
    /// Connects to the database that Citus distributes.
    ///
    /// # Errors
    /// The server does not let us in in time.
    pub async fn citus_session(&self, database: &str, deadline: Instant) -> Result<CitusSession> {
        let client = self
            .connect_as("Patroni citus", database, OPTIONS, deadline)
            .await?;
        Ok(CitusSession { client })
    }

    /// Makes database and extension in a cluster just made, and tells the coordinator where it is.
    ///
    /// # Errors
    /// A statement fails, as when Citus is not installed.
    pub async fn create_citus(
        &self,
        database: &str,
        coordinator: Option<&Address>,
        deadline: Instant,
    ) -> Result<()> {
        let work = async {
            let client = self.connect(None, deadline).await?;
            let known = format!(
                "SELECT 1 FROM pg_database WHERE datname = {}",
                quote_literal(database)
            );
            if rows(&client, "looking for the Citus database", &known)
                .await?
                .is_empty()
            {
                let create = format!("CREATE DATABASE {}", quote_ident(database));
                rows(&client, "creating the Citus database", &create).await?;
            }
            drop(client);
            let client = self.connect(Some(database), deadline).await?;
            rows(
                &client,
                "creating the extension citus",
                "CREATE EXTENSION IF NOT EXISTS citus",
            )
            .await?;
            if let Some(login) = self.citus_login() {
                // Its text has the password: it must not get into the server's log.
                let quiet = "SET log_statement = 'none'; SET log_min_duration_statement = -1; \
                             SET log_min_error_statement = 'panic'";
                rows(&client, "preparing to store the login of Citus", quiet).await?;
                rows(&client, "storing the login of Citus", &login).await?;
            }
            if let Some(address) = coordinator {
                let set = format!(
                    "SELECT pg_catalog.citus_set_coordinator_host({}, {}, 'primary', 'default')",
                    quote_literal(&address.host),
                    address.port
                );
                rows(&client, "telling Citus where the coordinator is", &set).await?;
            }
            Ok(())
        };
        tokio::time::timeout_at(deadline, work)
            .await
            .map_err(|_| Error::timeout("preparing Citus"))?
    }

    /// With what nodes log in at each other: `pg_dist_authinfo`.
    fn citus_login(&self) -> Option<String> {
        let superuser = self.settings().local.authentication.superuser.clone();
        let user = superuser.username?;
        let mut login = String::new();
        let mut add = |key: &str, value: &str| {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            // Writing into a text cannot fail.
            let _ = write!(
                login,
                "{}{key}='{value}'",
                if login.is_empty() { "" } else { " " }
            );
        };
        if let Some(password) = &superuser.password {
            add("password", password.reveal());
        }
        for key in ["sslcert", "sslkey"] {
            if let Some(value) = superuser.options.get(key) {
                add(key, value);
            }
        }
        (!login.is_empty()).then(|| {
            format!(
                "INSERT INTO pg_catalog.pg_dist_authinfo VALUES (0, {}, {})",
                quote_literal(&user),
                quote_literal(&login)
            )
        })
    }
}

impl CitusSession {
    /// The connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// All rows of `pg_dist_node`.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn nodes(&self, deadline: Instant) -> Result<Vec<Row>> {
        let sql = "SELECT nodeid, groupid, nodename, nodeport, noderole = 'primary' FROM pg_catalog.pg_dist_node \
                   ORDER BY nodeid";
        let read = self.run("reading pg_dist_node", sql, deadline).await?;
        let row = |row: &tokio_postgres::SimpleQueryRow| {
            Some(Row {
                id: row.get(0)?.parse().ok()?,
                group: row.get(1)?.parse().ok()?,
                address: Address {
                    host: row.get(2)?.to_owned(),
                    port: row.get(3)?.parse().ok()?,
                },
                is_primary: row.get(4)? == "t",
            })
        };
        Ok(read.iter().filter_map(row).collect())
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The server does not answer in time.
    pub async fn begin(&self, deadline: Instant) -> Result<()> {
        self.run("beginning a change of pg_dist_node", "BEGIN", deadline)
            .await
            .map(drop)
    }

    /// Ends the transaction; its changes count.
    ///
    /// # Errors
    /// The server refuses, or does not answer in time.
    pub async fn commit(&self, deadline: Instant) -> Result<()> {
        self.run("committing a change of pg_dist_node", "COMMIT", deadline)
            .await
            .map(drop)
    }

    /// Makes one change. `cooldown`: how long statements may go on that hold locks which are in the way.
    ///
    /// # Errors
    /// Citus refuses, or it takes too long.
    pub async fn change(&self, change: &Change, cooldown: Duration, deadline: Instant) -> Result<()> {
        let place = |address: &Address| format!("{}, {}", quote_literal(&address.host), address.port);
        let sql = match change {
            Change::Update { id, address } => format!(
                "SELECT pg_catalog.citus_update_node({id}, {}, true, {})",
                place(address),
                cooldown.as_millis()
            ),
            Change::Add {
                group,
                address,
                is_primary,
            } => format!(
                "SELECT pg_catalog.citus_add_node({}, {group}, '{}', 'default')",
                place(address),
                if *is_primary { "primary" } else { "secondary" }
            ),
            Change::Remove(address) => format!("SELECT pg_catalog.citus_remove_node({})", place(address)),
        };
        tracing::info!("pg_dist_node: {sql}");
        self.run("changing pg_dist_node", &sql, deadline).await.map(drop)
    }

    async fn run(
        &self,
        what: &str,
        sql: &str,
        deadline: Instant,
    ) -> Result<Vec<tokio_postgres::SimpleQueryRow>> {
        tokio::time::timeout_at(deadline, rows(&self.client, what, sql))
            .await
            .map_err(|_| Error::timeout(what))?
    }

    /// Takes the transaction back.
    ///
    /// # Errors
    /// The server does not answer in time: the connection is not to be used any more.
    pub async fn rollback(&self, deadline: Instant) -> Result<()> {
        let what = "taking a change of pg_dist_node back";
        tokio::time::timeout_at(deadline, self.client.batch_execute("ROLLBACK"))
            .await
            .map_err(|_| Error::timeout(what))?
            .map_err(|error| sql_error(what, &error))
    }
}
