//! Facts for the question whether this server's WAL has diverged from the leader's, and pg_rewind. Nothing is decided
//! here.

use crate::{Instant, Result, Server, Source};
use ha::pg::{HistoryEntry, Lsn, SystemIdentifier, Timeline};

/// Whether pg_rewind can be used at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewindAbility {
    /// It can.
    Possible,
    /// It cannot, and why.
    Impossible(String),
}

/// How far the local WAL reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPosition {
    /// Timeline of the last record.
    pub timeline: Timeline,
    /// Position of the last record; of a stopped former primary that of its shutdown checkpoint.
    pub lsn: Lsn,
    /// It is, or was when it stopped, a standby.
    pub in_recovery: bool,
}

/// What the leader says about timelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderFacts {
    /// It is itself in recovery: nothing can be rewound to it.
    pub in_recovery: bool,
    /// Its system identifier.
    pub system_identifier: Option<SystemIdentifier>,
    /// Its timeline.
    pub timeline: Timeline,
    /// Its flushed position.
    pub lsn: Lsn,
    /// The history of its timeline; empty on timeline 1.
    pub history: Vec<HistoryEntry>,
}

/// Both sides' facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// This server's.
    pub local: LocalPosition,
    /// The leader's.
    pub leader: LeaderFacts,
    /// Former primary: where its shutdown checkpoint record ends, if the leader left that timeline later.
    pub shutdown_checkpoint_end: Option<Lsn>,
}

/// What pg_rewind came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewound {
    /// The data directory follows the source's timeline now.
    Done,
    /// It failed; the last lines of its output.
    Failed(String),
}

impl Server {
    /// Whether pg_rewind can be used: the setting, the program, and what the control file says.
    ///
    /// # Errors
    /// When the control file cannot be read.
    pub async fn rewind_ability(&self, deadline: Instant) -> Result<RewindAbility> {
        todo!()
    }

    /// How far the local WAL reaches, running or stopped.
    ///
    /// # Errors
    /// When neither the server nor the control file can tell.
    pub async fn local_position(&self, deadline: Instant) -> Result<LocalPosition> {
        todo!()
    }

    /// What `leader` says about its timelines.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn leader_facts(&self, leader: &Source, deadline: Instant) -> Result<LeaderFacts> {
        todo!()
    }

    /// The facts of both sides.
    ///
    /// # Errors
    /// When either side cannot tell.
    pub async fn divergence(&self, leader: &Source, deadline: Instant) -> Result<Divergence> {
        todo!()
    }

    /// Executes CHECKPOINT on the leader, so that its control file names its timeline. With a `rewind` role that may
    /// not do so, only looks whether it has happened. Returns whether it has.
    ///
    /// # Errors
    /// When the leader cannot be reached.
    pub async fn checkpoint_on(&self, leader: &Source, deadline: Instant) -> Result<bool> {
        todo!()
    }

    /// Runs pg_rewind against `leader`; the server must be stopped.
    ///
    /// # Errors
    /// When it cannot be run or does not finish in time; a failure of its own is [`Rewound::Failed`].
    pub async fn rewind(&self, leader: &Source, deadline: Instant) -> Result<Rewound> {
        todo!()
    }
}
