//! Replication slots of the local server, and copies of logical ones from another.

mod copy;

pub use copy::{LeaderHorizons, SlotState};

use crate::connection::{Purpose, quote_literal, rows};
use crate::status::{json_lsn, json_text};
use crate::{Error, Instant, Result, Server};
use ha::pg::{Lsn, SlotName, Xid};
use serde_json::Value;

/// SQLSTATE: there is such a thing already.
const DUPLICATE_OBJECT: &str = "42710";
/// SQLSTATE: there is no such thing.
const UNDEFINED_OBJECT: &str = "42704";
/// SQLSTATE: it is in use.
const OBJECT_IN_USE: &str = "55006";

/// All columns, so that those of later versions come along where there are any.
pub(crate) const SLOT_COLUMNS: &str = "slot.*";

/// What a slot is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotType {
    /// Streaming replication.
    Physical,
    /// Logical decoding.
    Logical {
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
}

/// One row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: SlotName,
    /// What it is for.
    pub slot_type: SlotType,
    /// In use.
    pub active: bool,
    /// `restart_lsn`
    pub restart_lsn: Option<Lsn>,
    /// `confirmed_flush_lsn`, logical only.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// It holds back vacuum (`xmin` is set).
    pub has_xmin: bool,
    /// `catalog_xmin`
    pub catalog_xmin: Option<Xid>,
    /// `wal_status`, 13 and later.
    pub wal_status: Option<String>,
    /// `failover`, 17 and later.
    pub failover: bool,
    /// `synced`, 17 and later.
    pub synced: bool,
}

/// What came of dropping a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotDrop {
    /// It is gone.
    Dropped,
    /// It is in use.
    Active,
    /// There was none.
    Missing,
}

impl Slot {
    /// Reads a row of `pg_replication_slots` as JSON.
    pub(crate) fn from_json(row: &Value) -> Option<Self> {
        // A transaction id is a text in JSON.
        let xid = |key: &str| {
            json_text(row, key)
                .and_then(|text| text.parse::<u32>().ok())
                .map(Xid)
        };
        let flag = |key: &str| row.get(key).and_then(Value::as_bool).unwrap_or(false);
        let slot_type = match json_text(row, "slot_type")?.as_str() {
            "logical" => SlotType::Logical {
                database: json_text(row, "database").unwrap_or_default(),
                plugin: json_text(row, "plugin").unwrap_or_default(),
            },
            _ => SlotType::Physical,
        };
        Some(Self {
            name: SlotName(json_text(row, "slot_name")?),
            slot_type,
            active: flag("active"),
            restart_lsn: json_lsn(row, "restart_lsn"),
            confirmed_flush_lsn: json_lsn(row, "confirmed_flush_lsn"),
            has_xmin: row.get("xmin").is_some_and(|xmin| !xmin.is_null()),
            catalog_xmin: xid("catalog_xmin"),
            wal_status: json_text(row, "wal_status"),
            failover: flag("failover"),
            synced: flag("synced"),
        })
    }
}

impl Server {
    /// All slots but temporary ones.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn slots(&self, deadline: Instant) -> Result<Vec<Slot>> {
        let sql = format!(
            "SELECT row_to_json(rows) FROM (SELECT {SLOT_COLUMNS} FROM pg_replication_slots AS slot WHERE NOT temporary) AS rows"
        );
        let rows = self
            .query_kept(
                Purpose::Heartbeat,
                "reading the replication slots",
                &sql,
                deadline,
            )
            .await?;
        let slot = |text: &str| Slot::from_json(&serde_json::from_str(text).ok()?);
        Ok(rows.iter().filter_map(|row| slot(row.get(0)?)).collect())
    }

    /// Creates a physical slot that keeps WAL from now on; one that exists already is fine.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_physical_slot(&self, name: &SlotName, deadline: Instant) -> Result<()> {
        let sql = format!(
            "SELECT pg_create_physical_replication_slot({}, true)",
            quote_literal(&name.0)
        );
        accept(
            self.slot_statement("creating a replication slot", &sql, None, deadline)
                .await,
            DUPLICATE_OBJECT,
        )
        .map(drop)
    }

    /// Creates a logical slot in its database; one that exists already is fine.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_logical_slot(
        &self,
        name: &SlotName,
        database: &str,
        plugin: &str,
        deadline: Instant,
    ) -> Result<()> {
        let (name, plugin) = (quote_literal(&name.0), quote_literal(plugin));
        let sql = format!("SELECT pg_create_logical_replication_slot({name}, {plugin})");
        let created = self
            .slot_statement(
                "creating a logical replication slot",
                &sql,
                Some(database),
                deadline,
            )
            .await;
        accept(created, DUPLICATE_OBJECT).map(drop)
    }

    /// Drops a slot that is not in use.
    ///
    /// # Errors
    /// When the server cannot be asked or refuses for another reason than use.
    pub async fn drop_slot(&self, name: &SlotName, deadline: Instant) -> Result<SlotDrop> {
        let sql = format!("SELECT pg_drop_replication_slot({})", quote_literal(&name.0));
        let dropped = self
            .slot_statement("dropping a replication slot", &sql, None, deadline)
            .await;
        match dropped {
            Err(error) if error.sqlstate() == Some(OBJECT_IN_USE) => Ok(SlotDrop::Active),
            other => Ok(if accept(other, UNDEFINED_OBJECT)? {
                SlotDrop::Dropped
            } else {
                SlotDrop::Missing
            }),
        }
    }

    /// Moves a slot forward; `database` for a logical one.
    ///
    /// # Errors
    /// When the server refuses; SQLSTATE 58P01 and 55000 mean that a logical slot lacks WAL.
    pub async fn advance_slot(
        &self,
        name: &SlotName,
        to: Lsn,
        database: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        let sql = format!(
            "SELECT pg_replication_slot_advance({}, '{to}'::pg_lsn)",
            quote_literal(&name.0)
        );
        self.slot_statement("advancing a replication slot", &sql, database, deadline)
            .await
    }

    /// Over the kept connection, or over one of its own in another database, where it may take longer.
    async fn slot_statement(
        &self,
        what: &str,
        sql: &str,
        database: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        let Some(database) = database else {
            return self
                .query_kept(Purpose::Heartbeat, what, sql, deadline)
                .await
                .map(drop);
        };
        let client = self.connect(Some(database), deadline).await?;
        let work = rows(&client, what, sql);
        tokio::time::timeout_at(deadline, work)
            .await
            .map_err(|_| Error::timeout(what))?
            .map(drop)
    }
}

/// Whether it was done; false when the server says `sqlstate`.
fn accept(result: Result<()>, sqlstate: &str) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.sqlstate() == Some(sqlstate) => Ok(false),
        Err(error) => Err(error),
    }
}
