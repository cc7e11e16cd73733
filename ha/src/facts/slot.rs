//! Replication slots as they are found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::Moment;
use crate::pg::{Lsn, MemberName, SlotName, Xid};

/// A replication slot of the local server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: SlotName,
    /// What a logical slot decodes; `None` for a physical one.
    pub logical: Option<LogicalSlot>,
    /// Somebody uses it.
    pub is_active: bool,
    /// From where on WAL is kept; `None` while it keeps none.
    pub restart_lsn: Option<Lsn>,
    /// A logical slot's `confirmed_flush_lsn`.
    pub confirmed_flush: Option<Lsn>,
    /// It holds back vacuum on the primary.
    pub has_xmin: bool,
    /// The oldest transaction whose changes of the catalogs it needs.
    pub catalog_xmin: Option<Xid>,
    /// `wal_status` is `lost`.
    pub is_lost: bool,
    /// Since it was made here it could not be moved forward, because WAL is not there.
    pub lacks_wal: bool,
    /// `failover`, version 17 and newer: PostgreSQL itself brings it to the standbys.
    pub has_failover: bool,
    /// `synced`, version 17 and newer: it was brought here so.
    pub is_synced: bool,
}

/// What a logical slot decodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogicalSlot {
    /// The database.
    pub database: String,
    /// The output plugin.
    pub plugin: String,
}

/// Up to which transaction the primary keeps catalog rows for slots, as [`crate::step::SlotWork::AskLeader`] has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotHorizons {
    /// Who was asked.
    pub leader: MemberName,
    /// A moment before that.
    pub asked_at: Moment,
    /// `catalog_xmin` of the physical slot through which WAL comes here.
    pub physical: Option<Xid>,
    /// Those of logical slots.
    pub logical: BTreeMap<SlotName, Xid>,
}
