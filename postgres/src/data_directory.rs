//! The data directory as a whole: what is in it, removing it, setting it aside.

use crate::{Result, Server};
use ha::pg::{HistoryEntry, Role, Timeline};

/// What the data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// It is missing, or holds nothing but dot files and `lost+found`.
    Empty,
    /// It holds a cluster's files.
    Filled,
    /// It cannot be read, and why.
    Inaccessible(String),
}

/// Which signal file there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverySignal {
    /// None: it starts as a primary.
    None,
    /// standby.signal
    Standby,
    /// recovery.signal
    Recovery,
}

impl Server {
    /// What the data directory holds.
    #[must_use]
    pub fn data_directory(&self) -> DataDirectory {
        todo!()
    }

    /// Which signal file there is.
    #[must_use]
    pub fn recovery_signal(&self) -> RecoverySignal {
        todo!()
    }

    /// `backup_label` lies there: the directory is a copy that has not been recovered yet.
    #[must_use]
    pub fn has_backup_label(&self) -> bool {
        todo!()
    }

    /// The role that the data directory speaks of: uninitialized, replica or primary.
    #[must_use]
    pub fn role_of_data_directory(&self) -> Role {
        todo!()
    }

    /// The history file of a timeline, with its time of change; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn history_file(
        &self,
        timeline: Timeline,
    ) -> Result<Option<(Vec<HistoryEntry>, std::time::SystemTime)>> {
        todo!()
    }

    /// Removes what a copy that was broken off has left behind: only a directory that we began to fill ourselves.
    /// Returns whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove_unfinished_copy(&self) -> Result<bool> {
        todo!()
    }

    /// Empties the data directory, with tablespaces and a WAL directory elsewhere. Refused while a postmaster runs in
    /// it. What cannot be removed is renamed to `.failed`.
    ///
    /// # Errors
    /// When a postmaster runs in it, or neither works.
    pub async fn remove_data_directory(&self) -> Result<()> {
        todo!()
    }

    /// Renames data directory, WAL directory and tablespaces to `.failed`, for a look at what went wrong.
    ///
    /// # Errors
    /// When a postmaster runs in it, or renaming fails.
    pub async fn set_data_directory_aside(&self) -> Result<()> {
        todo!()
    }
}
