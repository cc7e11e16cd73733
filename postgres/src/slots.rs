//! Replication slots of the local server.

use crate::{Instant, Result, Server};
use ha::pg::{Lsn, SlotName};

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
    pub catalog_xmin: Option<u64>,
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

impl Server {
    /// All slots but temporary ones.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn slots(&self, deadline: Instant) -> Result<Vec<Slot>> {
        todo!()
    }

    /// Creates a physical slot that keeps WAL from now on; one that exists already is fine.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_physical_slot(&self, name: &SlotName, deadline: Instant) -> Result<()> {
        todo!()
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
        todo!()
    }

    /// Drops a slot that is not in use.
    ///
    /// # Errors
    /// When the server cannot be asked or refuses for another reason than use.
    pub async fn drop_slot(&self, name: &SlotName, deadline: Instant) -> Result<SlotDrop> {
        todo!()
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
        todo!()
    }
}
