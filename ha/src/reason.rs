//! Every outcome of a cycle and everything else that people read about a decision, in Patroni's wording.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::FailoverKind;
use crate::facts::{Moment, Source};
use crate::pg::{Lsn, MemberName, SlotName, SystemIdentifier, Timeline};

pub(crate) mod notes;

/// Names of slots, as Python prints a list.
fn slot_list(slots: &[SlotName]) -> String {
    let names: Vec<String> = slots.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", names.join(", "))
}

/// How loud a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// For developers.
    Debug,
    /// For the record.
    Info,
    /// Somebody should know.
    Warning,
    /// Something failed.
    Error,
    /// The agent ends.
    Critical,
}

/// One line for the log, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How loud.
    pub level: Level,
    /// What it says.
    pub text: String,
}

impl Note {
    /// A note at `INFO`.
    #[must_use]
    pub fn info(text: impl Into<String>) -> Self {
        Self {
            level: Level::Info,
            text: text.into(),
        }
    }

    /// A note at `WARNING`.
    #[must_use]
    pub fn warning(text: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            text: text.into(),
        }
    }

    /// A note at `ERROR`.
    #[must_use]
    pub fn error(text: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            text: text.into(),
        }
    }

    /// A note at `CRITICAL`.
    #[must_use]
    pub fn critical(text: impl Into<String>) -> Self {
        Self {
            level: Level::Critical,
            text: text.into(),
        }
    }
}

/// How a cycle ended; each prints as Patroni's status line for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The leader, all is well.
    Leader(MemberName),
    /// A replica that follows the leader, all is well.
    Following {
        /// This member.
        me: MemberName,
        /// The leader.
        leader: MemberName,
    },
    /// The standby leader, all is well.
    StandbyLeader(MemberName),
    /// A replica of a standby cluster that follows the standby leader, all is well.
    FollowingStandbyLeader {
        /// This member.
        me: MemberName,
        /// The standby leader.
        leader: MemberName,
    },
    /// A replica of a standby cluster, and neither a standby leader nor a remote host to follow is known.
    FollowingOldStandbyLeader,
    /// Nothing to do and nobody to follow.
    NoAction(MemberName),
    /// The lock was acquired by a running primary.
    AcquiredLockAsLeader,
    /// The lock was acquired and promotion began.
    PromotedByAcquiringLock,
    /// The lock was ours and promotion began.
    PromotedHavingLock,
    /// The lock of a standby cluster was acquired.
    StandbyLeaderByAcquiringLock,
    /// The lock of a standby cluster was ours, and this member was not the standby leader yet.
    StandbyLeaderHavingLock,
    /// A primary that holds the lock of what has become a standby cluster is stopped.
    DemotingForStandbyCluster,
    /// A primary without the lock in a standby cluster is stopped.
    DemotingInStandbyCluster,
    /// In pause: the lock waits for this member to become primary by a promotion that somebody asked for.
    WaitingToBecomePrimary,
    /// Somebody else was faster.
    LostRace,
    /// A primary that lost the race is stopped.
    DemotedAfterLostRace,
    /// The former leader's WAL still comes: it is given time to return.
    RaceBackoff {
        /// This member.
        me: MemberName,
        /// When the race begins at the latest.
        seconds: u64,
    },
    /// A better candidate is there.
    NotHealthiest,
    /// A primary that is not the best candidate is stopped.
    DemotingNotHealthiest,
    /// This member may not be promoted.
    NotAllowedToPromote,
    /// A primary that may not be one is stopped.
    DemotingNotAllowed,
    /// `pre_promote` refused.
    PromotionCancelledByScript,
    /// The key `sync` could not be made this member's before its promotion.
    PromotionPostponed,
    /// `synchronous_standby_names` could not be set before the promotion.
    PromotionPostponedUnarmed,
    /// The agent is ending: the leader is asked not to wait for this standby any more.
    LeavingSynchronous,
    /// A lock that is not ours any more, and we are no primary.
    NotPromotingLockLost,
    /// A primary without its lock is stopped.
    DemotedLockLost,
    /// A guard is required and there is none.
    DemotedWithoutGuard,
    /// A guard is required and there is none.
    NotPromotingWithoutGuard,
    /// A watchdog device is required and could not be activated.
    DemotedWithoutWatchdog,
    /// A watchdog device is required and could not be activated.
    NotPromotingWithoutWatchdog,
    /// A primary whose lock somebody else has is stopped.
    DemotingWithoutLock,
    /// The primary runs and does not work.
    DemotingUnresponsive,
    /// The DCS does not answer and we were a leader.
    DemotedDcsOutage,
    /// The DCS does not answer.
    DcsNotAccessible,
    /// The DCS does not answer, and all members agree that we go on.
    FailsafeLeader,
    /// The lock was lost while a job ran.
    LostLockDuring(String),
    /// The lock was lost before the promotion began.
    LostLockBeforePromote,
    /// The lock was kept while a job ran.
    KeptLockDuring(String),
    /// A job runs.
    InProgress(String),
    /// The primary is being stopped, as somebody asked.
    Demoting(FailoverKind),
    /// The primary is stopped, and no member that may take over is known to have all of its WAL yet.
    AwaitingSuccessor,
    /// No member that may take over has all WAL of the stopped primary: the primary is started again.
    StartingPrimaryAfterFailedSwitchover,
    /// The agent ends with the leader key: no member that may take over has all WAL of the stopped primary.
    ShutDownWithKey,
    /// The key was given up: the server runs, but is no primary.
    ReleasedNotPrimary,
    /// The key was given up: the server does not run.
    ReleasedNotRunning,
    /// The key was given up: the server could not be started.
    ReleasedStartFailed,
    /// The key was given up: the data directory cannot be used; `empty` or `not accessible`.
    ReleasedNoData(String),
    /// The key was given up in pause: another cluster's data.
    ReleasedForeignSystemIdentifier,
    /// The start failed.
    StartFailed,
    /// A crashed primary is started where it was.
    StartingPrimaryAfterFailure,
    /// A server is started as a standby.
    StartingAsSecondary,
    /// A server is started read-only because the lock is ours; promotion follows.
    StartingReadOnlyWithLock,
    /// A server is started as the standby leader because the lock is ours.
    StartingStandbyLeader,
    /// A standby cluster without leader: a server is started that follows the remote cluster.
    StartingFollowingRemote,
    /// Waiting for a start, with seconds left.
    StillStarting(u64),
    /// The time to start is over, and nobody else could take over.
    StartTimedOutNoFailover,
    /// The time to start is over; somebody else takes over.
    StoppedAfterStartTimeout,
    /// The primary died and `primary_start_timeout` is 0.
    StoppedToFailOver,
    /// The lock was lost while starting.
    StoppedWhileStarting,
    /// A recovery in single-user mode has taken too long, and another member may take over.
    TerminatedCrashRecovery,
    /// Single-user recovery runs.
    CrashRecovery,
    /// pg_rewind runs.
    Rewinding(String),
    /// Logical slots are copied from the leader, and the server is restarted for it.
    CopyingLogicalSlots(Vec<SlotName>),
    /// Our timeline is another one of that number than this leader's, and nothing may be done about it.
    OtherOrigin(String),
    /// A new copy is made because the WAL parted.
    ReinitializingDiverged,
    /// The data directory has no readable identity.
    InvalidSystemIdentifier,
    /// The data directory cannot be used.
    DataNotAccessible(String),
    /// It could not be found out whether the server runs.
    ServerUnknown(String),
    /// The data directory is empty, and the server that runs is stopped.
    StoppingNoData,
    /// In pause with nothing in the data directory.
    EmptyInPause,
    /// This member creates the cluster.
    Bootstrapping,
    /// This member creates a standby cluster from the remote one.
    BootstrappingStandbyLeader,
    /// Another one does.
    LostInitializeRace,
    /// This member copies the leader or a replica; as the job's name says.
    TryingTo(String),
    /// Nobody to copy from.
    WaitingForLeaderToBootstrap,
    /// Nobody to copy from in a standby cluster.
    WaitingForStandbyLeaderToBootstrap,
    /// A cluster just made is still in recovery.
    WaitingForEndOfRecovery,
    /// Users and scripts in a cluster just made.
    RunningPostBootstrap,
    /// The cluster is made.
    Initialized,
    /// The cluster could not be made.
    BootstrapFailed,
    /// In pause, a primary without the lock goes on.
    PauseContinueWithoutLock,
    /// In pause, a primary that could not keep the lock goes on.
    PauseContinueUpdateFailed,
    /// The server does not run, and nothing shall be done about it.
    NotRunning,
    /// The server must not be started: pg_rewind has left its data half done.
    HalfRewound,
    /// A requested restart began.
    RestartInitiated,
    /// A requested new copy is being made.
    ReinitializeStarted,
    /// The local server could not be asked.
    PostgresqlTrouble,
    /// Another agent of this member's name runs.
    NameTaken,
    /// The cluster here is another one than that in the DCS.
    ForeignSystemIdentifier,
    /// A running replica, and nobody has ever led the cluster in the DCS.
    ReplicaOfUninitializedCluster,
    /// The agent is ending: the server is being stopped.
    ShuttingDown,
    /// The agent is ending: the server has been stopped.
    ShutDown,
    /// In pause the agent ends and leaves the server running.
    LeavingPaused,
    /// A job failed a moment ago; it is not tried again before some time has passed.
    HoldingOff,
    /// A decision asked for more than it may: a defect of this program.
    Defect,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Leader(me) => {
                return write!(f, "no action. I am ({me}), the leader with the lock");
            }
            Self::Following { me, leader } => {
                return write!(
                    f,
                    "no action. I am ({me}), a secondary, and following a leader ({leader})"
                );
            }
            Self::StandbyLeader(me) => {
                return write!(f, "no action. I am ({me}), the standby leader with the lock");
            }
            Self::FollowingStandbyLeader { me, leader } => {
                return write!(
                    f,
                    "no action. I am ({me}), a secondary, and following a standby leader ({leader})"
                );
            }
            Self::RaceBackoff { me, seconds } => {
                return write!(
                    f,
                    "My ({me}) wal position moved since last heart beat loop, {seconds} seconds until leader race"
                );
            }
            Self::NoAction(me) => return write!(f, "no action. I am ({me})"),
            Self::LostLockDuring(job) => return write!(f, "lost leader lock during {job}"),
            Self::KeptLockDuring(job) => return write!(f, "updated leader lock during {job}"),
            Self::InProgress(job) => return write!(f, "{job} in progress"),
            Self::CopyingLogicalSlots(slots) => {
                return write!(f, "Copying logical slots {} from the primary", slot_list(slots));
            }
            Self::Demoting(kind) => return write!(f, "{}: demoting myself", kind.as_str()),
            Self::ReleasedNoData(what) => {
                return write!(
                    f,
                    "released leader key voluntarily as data dir {what} and currently leader"
                );
            }
            Self::StillStarting(seconds) => {
                return write!(
                    f,
                    "PostgreSQL is still starting up, {seconds} seconds until timeout"
                );
            }
            Self::Rewinding(from) => return write!(f, "running pg_rewind from {from}"),
            Self::OtherOrigin(leader) => {
                return write!(
                    f,
                    "not following {leader}: a timeline here is another one of that number; reinitialize this member"
                );
            }
            Self::TryingTo(job) => return write!(f, "trying to {job}"),
            Self::DataNotAccessible(why) => {
                return write!(f, "data directory is not accessible: {why}");
            }
            Self::ServerUnknown(why) => {
                return write!(f, "no action, cannot find out whether PostgreSQL runs: {why}");
            }
            Self::StoppingNoData => "stopping PostgreSQL because its data directory is gone",
            Self::AcquiredLockAsLeader => "acquired session lock as a leader",
            Self::PromotedByAcquiringLock => "promoted self to leader by acquiring session lock",
            Self::PromotedHavingLock => "promoted self to leader because I had the session lock",
            Self::StandbyLeaderByAcquiringLock => {
                "promoted self to a standby leader by acquiring session lock"
            }
            Self::StandbyLeaderHavingLock => {
                "promoted self to a standby leader because i had the session lock"
            }
            Self::FollowingOldStandbyLeader => "continue following the old known standby leader",
            Self::DemotingForStandbyCluster => "cannot be a real primary in standby cluster",
            Self::DemotingInStandbyCluster => "cannot be a real primary in a standby cluster",
            Self::WaitingToBecomePrimary => "waiting to become primary after promote...",
            Self::LostRace => "following new leader after trying and failing to obtain lock",
            Self::DemotedAfterLostRace => "demoted self after trying and failing to obtain lock",
            Self::NotHealthiest => "following a different leader because i am not the healthiest node",
            Self::DemotingNotHealthiest => "demoting self because i am not the healthiest node",
            Self::NotAllowedToPromote => "following a different leader because I am not allowed to promote",
            Self::DemotingNotAllowed => "demoting self because I am not allowed to become primary",
            Self::PromotionCancelledByScript => "Promotion cancelled because the pre-promote script failed",
            Self::PromotionPostponed => {
                "Postponing promotion because synchronous replication state was updated by somebody else"
            }
            Self::PromotionPostponedUnarmed => {
                "Postponing promotion because synchronous_standby_names could not be set"
            }
            Self::LeavingSynchronous => "Waiting for primary to release us from synchronous standby",
            Self::NotPromotingLockLost => "not promoting because failed to update leader lock in DCS",
            Self::DemotedLockLost => "demoted self because failed to update leader lock in DCS",
            Self::DemotedWithoutGuard => "Demoting self because the guard could not be started",
            Self::NotPromotingWithoutGuard => "Not promoting self because the guard could not be started",
            Self::DemotedWithoutWatchdog => "Demoting self because watchdog could not be activated",
            Self::NotPromotingWithoutWatchdog => "Not promoting self because watchdog could not be activated",
            Self::DemotingWithoutLock => "demoting self because I do not have the lock and I was a leader",
            Self::DemotingUnresponsive => "demoting self because PostgreSQL gives no sign of life",
            Self::DemotedDcsOutage => "demoted self because DCS is not accessible and I was a leader",
            Self::DcsNotAccessible => "DCS is not accessible",
            Self::FailsafeLeader => {
                "continue to run as a leader because failsafe mode is enabled and all members are accessible"
            }
            Self::LostLockBeforePromote => "lost leader before promote",
            Self::ReleasedNotPrimary => "removed leader lock because postgres is not running as primary",
            Self::ReleasedNotRunning => "removed leader lock because postgres is not running",
            Self::ReleasedStartFailed => "removed leader key after trying and failing to start postgres",
            Self::ReleasedForeignSystemIdentifier => {
                "released leader key voluntarily due to the system ID mismatch"
            }
            Self::StartFailed => "failed to start postgres",
            Self::StartingPrimaryAfterFailure => "starting primary after failure",
            Self::AwaitingSuccessor => {
                "PostgreSQL is stopped, waiting for a member that has the shutdown checkpoint"
            }
            Self::StartingPrimaryAfterFailedSwitchover => {
                "starting primary again because the switchover failed"
            }
            Self::ShutDownWithKey => "PostgreSQL is stopped; the agent ends and the leader key runs out",
            Self::StartingAsSecondary => "starting as a secondary",
            Self::StartingReadOnlyWithLock => "starting as readonly because i had the session lock",
            Self::StartingStandbyLeader => "starting as a standby leader because i had the session lock",
            Self::StartingFollowingRemote => {
                "trying to follow a remote member because standby cluster is unhealthy"
            }
            Self::StartTimedOutNoFailover => {
                "primary start has timed out, but continuing to wait because failover is not possible"
            }
            Self::StoppedAfterStartTimeout => "stopped PostgreSQL because of startup timeout",
            Self::StoppedToFailOver => "stopped PostgreSQL to fail over after a crash",
            Self::StoppedWhileStarting => "stopped PostgreSQL while starting up because leader key was lost",
            Self::TerminatedCrashRecovery => "terminated crash recovery because of startup timeout",
            Self::CrashRecovery => "doing crash recovery in a single user mode",
            Self::ReinitializingDiverged => "reinitializing due to diverged timelines",
            Self::InvalidSystemIdentifier => {
                "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize"
            }
            Self::EmptyInPause => "running with empty data directory",
            Self::Bootstrapping => "trying to bootstrap a new cluster",
            Self::BootstrappingStandbyLeader => "trying to bootstrap a new standby leader",
            Self::LostInitializeRace => "failed to acquire initialize lock",
            Self::WaitingForLeaderToBootstrap => "waiting for leader to bootstrap",
            Self::WaitingForStandbyLeaderToBootstrap => "waiting for standby_leader to bootstrap",
            Self::WaitingForEndOfRecovery => "waiting for end of recovery after bootstrap",
            Self::RunningPostBootstrap => "running post_bootstrap",
            Self::Initialized => "initialized a new cluster",
            Self::BootstrapFailed => "removing initialize key after failed attempt to bootstrap the cluster",
            Self::PauseContinueWithoutLock => "continue to run as primary without lock",
            Self::PauseContinueUpdateFailed => {
                "continue to run as primary after failing to update leader lock in DCS"
            }
            Self::HoldingOff => "waiting a moment before trying again what failed",
            Self::NotRunning => "postgres is not running",
            Self::HalfRewound => {
                "postgres is not running: a rewind did not come to its end, and the data is of no use until another one \
                 has, or it is reinitialized"
            }
            Self::RestartInitiated => "restart initiated",
            Self::ReinitializeStarted => "reinitialize started",
            Self::PostgresqlTrouble => "Error communicating with PostgreSQL. Will try again later",
            Self::NameTaken => "there is already a node with this name running",
            Self::ForeignSystemIdentifier => "system ID mismatch",
            Self::ReplicaOfUninitializedCluster => {
                "No initialize key in DCS and PostgreSQL is running as replica, aborting start"
            }
            Self::ShuttingDown => "stopping PostgreSQL because the agent was told to end",
            Self::ShutDown => "PostgreSQL is stopped; the agent ends",
            Self::Defect => "Unexpected exception raised, please report it as a BUG",
            Self::LeavingPaused => "Leader key is not deleted and Postgresql is not stopped due paused state",
        };
        f.write_str(text)
    }
}

impl Reason {
    /// The status line of a cycle, as `GET /patroni` users and log readers know it.
    #[must_use]
    pub fn status_line(&self, is_paused: bool) -> String {
        if is_paused {
            format!("PAUSE: {self}")
        } else {
            self.to_string()
        }
    }

    /// Nothing had to be done: the line may be left out of a log that leaves out repeats.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        matches!(
            self,
            Self::Leader(_)
                | Self::Following { .. }
                | Self::StandbyLeader(_)
                | Self::FollowingStandbyLeader { .. }
                | Self::NoAction(_)
        )
    }
}
