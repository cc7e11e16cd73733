//! The single next step: look at something, do something, or end the cycle.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::citus::Group;
use crate::cluster::{Expired, FailoverKind, Leader, MemberData, Status, Version};
use crate::facts::{LogicalSlot, Moment, Peer, Progress, Source};
use crate::failsafe::Ping;
use crate::pg::{Lsn, Role, ServerState, SlotName, Timeline};
use crate::reason::{Note, Reason};

/// What the cycle wants next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Find something out.
    Observe(Question),
    /// Do something.
    Act(Action),
    /// The cycle is over.
    Finish(Box<Outcome>),
}

/// Something to find out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// What the DCS holds. Answered by [`crate::facts::Answer::Cluster`].
    Cluster,
    /// How the local server is: its process, and one SQL query when it lets us in.
    Server,
    /// What is in the data directory.
    DataDirectory,
    /// What the crashed server would have to replay.
    CrashRecovery,
    /// How these members are, asked all at once through their REST API.
    Peers(Vec<Peer>),
    /// Whether these members accept that we go on leading without the DCS, asked all at once through their REST API.
    Failsafe {
        /// Whom to ask.
        members: Vec<Peer>,
        /// What to tell them.
        ping: Ping,
    },
    /// Where our WAL and that of this server part.
    Divergence(Source),
    /// What the history file of this timeline in `pg_wal` says.
    HistoryFile(Timeline),
    /// Whether the running server has the recovery settings to follow this source (or none).
    RecoveryDrift(Option<Source>),
}

/// Keys of the DCS that are written as a whole. The leader key and member keys have verbs of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// `initialize`.
    Initialize,
    /// `config`.
    Config,
    /// `failover`.
    Failover,
    /// `sync`.
    Sync,
    /// `history`.
    History,
    /// `origin`.
    Origin,
    /// `status`.
    Status,
    /// `failsafe`.
    Failsafe,
}

impl Key {
    /// The key's name below the cluster's path.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Config => "config",
            Self::Failover => "failover",
            Self::Sync => "sync",
            Self::History => "history",
            Self::Origin => "origin",
            Self::Status => "status",
            Self::Failsafe => "failsafe",
        }
    }
}

/// What a renewal does when nobody holds the leader key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenGone {
    /// Create it again, if no other member has led since: our lock has not expired.
    Recreate,
    /// The lock is lost: another member may have led since it expired. The race decides.
    Lost,
}

/// What must be true of a key for a write to it to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// It is not there.
    Absent,
    /// It was last written in this revision.
    Version(Version),
}

/// Something to do. Short, but for [`Action::Begin`], which only starts a long job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Create the leader key, bound to our lease, if nobody holds it. Answered by a lock answer.
    AcquireLeader,
    /// Take the leader key from a holder whose lock is over although the store still keeps the key, if nothing has
    /// changed. Answered by a lock answer.
    SupersedeLeader {
        /// What must still be so.
        expired: Expired,
    },
    /// Renew our lease and make sure that the leader key is ours and bound to it. Answered by a lock answer.
    RenewLeader {
        /// The key as last read.
        seen: Leader,
        /// What to do when the key is gone.
        when_gone: WhenGone,
    },
    /// Write the leader key whoever holds it: after a bootstrap. Answered by a lock answer.
    TakeLeader,
    /// Write the status, if given, then delete the leader key if it is ours. Answered by a lock answer: `NotHeld`
    /// when the key is gone or was not ours.
    ReleaseLeader {
        /// Our last position, for the others to compare with.
        status: Option<Status>,
    },
    /// All members have accepted that we go on leading: the lock is prolonged without the DCS. Answered by a lock answer
    /// with this moment.
    ExtendLock {
        /// A moment before they were asked.
        sent_at: Moment,
    },
    /// Write a key.
    Write {
        /// Which.
        key: Key,
        /// Its value.
        value: String,
        /// Under which condition.
        expect: Expect,
    },
    /// Delete a key.
    Delete {
        /// Which.
        key: Key,
        /// Under which condition.
        expect: Expect,
    },
    /// Publish our member key.
    TouchMember(Box<MemberData>),
    /// Start the one long job.
    Begin(Task),
    /// End the running long job and whatever it started; it will report that it was cancelled.
    CancelTask,
    /// Start the operator's scripts, in this order, before the next step is taken. Those of a leader that steps down come
    /// before the key is released: a script that takes an address away must not be later than the next leader's that puts
    /// it up. All others are for the end of the cycle, see [`Outcome::callbacks`].
    RunCallbacks(Vec<(Callback, Role)>),
    /// Make a checkpoint in the background, as after a promotion.
    BeginCheckpoint,
    /// Write the recovery settings to follow this source, and reload.
    Follow(Option<Source>),
    /// Resume a paused WAL replay.
    ResumeReplay,
    /// Bring the replication slots in order.
    ChangeSlots(Vec<SlotChange>),
    /// A Citus coordinator's primary: bring `pg_dist_node` in order, beside the loop.
    KeepCitus(Vec<Group>),
    /// Begin work on logical slots, which may take long: in the background, beside everything else. What is still going on
    /// is not begun once more.
    BeginSlotWork(Vec<SlotWork>),
    /// Write `synchronous_standby_names` (`None`: the user's own value), reload, and wait until it is read.
    SetSynchronousStandbyNames(Option<String>),
}

/// One change to a replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotChange {
    /// Create a physical slot that reserves WAL at once.
    CreatePhysical(SlotName),
    /// Drop a slot.
    Drop(SlotName),
    /// Move a physical slot that nobody uses forward, so that it does not keep WAL for ever.
    Advance(SlotName, Lsn),
}

/// Work on logical slots that no cycle waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotWork {
    /// Create a logical slot: that waits for transactions which are open.
    Create {
        /// Which.
        name: SlotName,
        /// What for.
        logical: LogicalSlot,
    },
    /// Move a logical slot of a standby forward: that decodes WAL.
    Advance {
        /// Which.
        name: SlotName,
        /// In which database.
        database: String,
        /// To where.
        to: Lsn,
    },
    /// Ask the leader for its [`crate::facts::SlotHorizons`].
    AskLeader {
        /// The leader.
        source: Source,
        /// The physical slot there.
        physical: SlotName,
        /// Logical slots there.
        logical: Vec<SlotName>,
    },
}

/// How PostgreSQL is stopped (PostgreSQL manual, section "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// Sessions are ended, the data is checkpointed, WAL senders send all.
    Fast,
    /// Everything ends at once; the next start recovers.
    Immediate,
}

/// Why a server is being stopped: it decides what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopPurpose {
    /// The primary becomes a replica, as somebody asked: the key is given up once a replica has everything.
    Switchover,
    /// The same by a failover that somebody asked for.
    Failover,
    /// The primary may not go on: its lock is lost.
    LostLock,
    /// The primary may not go on: the DCS does not answer, so the lock cannot be prolonged.
    DcsOutage,
    /// The primary gives its place away at once and releases the key.
    GiveUp,
    /// The primary runs and does not work (`primary_probe_timeout`): its lease is left to run out meanwhile.
    Unresponsive,
    /// The cluster has become a standby cluster: the primary becomes its standby leader, and keeps the key.
    StandbyCluster,
    /// The agent ends and takes the server along.
    Shutdown,
    /// The server has nothing to run on.
    NoData,
}

impl StopPurpose {
    /// Patroni's name for the kind of demotion in `Demoting self (…)`; `None` when it is no demotion.
    #[must_use]
    pub fn demotion(self) -> Option<&'static str> {
        match self {
            Self::Switchover | Self::Failover => Some("graceful"),
            Self::LostLock => Some("immediate-nolock"),
            Self::DcsOutage => Some("offline"),
            Self::GiveUp | Self::Unresponsive => Some("immediate"),
            Self::StandbyCluster => Some("demote-cluster"),
            Self::Shutdown | Self::NoData => None,
        }
    }

    /// After the stop the lock does not count any more, though its lease may not have expired: whoever asks is told that this is no
    /// primary, and may take the key of a store that was replaced.
    #[must_use]
    pub fn forgets_lock(self) -> bool {
        matches!(self, Self::DcsOutage | Self::Unresponsive)
    }

    /// Somebody asked for another primary: nothing hurries, and the key is given up once a replica has everything.
    #[must_use]
    pub fn is_handover(self) -> bool {
        matches!(self, Self::Switchover | Self::Failover)
    }

    /// The purpose of a demotion for what was asked for.
    #[must_use]
    pub fn of_handover(kind: FailoverKind) -> Self {
        match kind {
            FailoverKind::Switchover => Self::Switchover,
            FailoverKind::Failover => Self::Failover,
        }
    }
}

/// As what a server is started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StartAs {
    /// As the primary it was, on its timeline: without a recovery signal.
    Primary,
    /// In recovery, following this source, or none (read-only).
    Standby(Option<Source>),
}

/// From where a copy is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum CloneSource {
    /// From the leader.
    Leader(Source),
    /// From a replica that offers itself (`clonefrom`).
    Replica(Source),
    /// From the remote side of a standby cluster, with the methods that are configured for that.
    Remote(Source),
    /// By a method that needs no running member.
    Nobody,
}

impl CloneSource {
    /// The server, if there is one.
    #[must_use]
    pub fn source(&self) -> Option<&Source> {
        match self {
            Self::Leader(source) | Self::Replica(source) => Some(source),
            Self::Remote(source) => Some(source).filter(|source| source.can_be_connected_to()),
            Self::Nobody => None,
        }
    }
}

/// A long job. One at a time; it reports its end to the next cycle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// `initdb` or the custom method, then a first start.
    Bootstrap,
    /// Users, passwords and the operator's script in a cluster just made.
    PostBootstrap,
    /// Remove what is in the data directory, copy it from elsewhere, and start it as a standby.
    Clone {
        /// From where.
        from: CloneSource,
        /// Whom to follow then.
        follow: Option<Source>,
        /// With `pg_basebackup`, whatever other methods are configured.
        with_basebackup: bool,
    },
    /// Start the server.
    Start {
        /// As what.
        start_as: StartAs,
        /// How long it may take to accept connections; as long as it needs otherwise.
        timeout: Option<Duration>,
        /// Why, as it stands in status lines.
        why: StartReason,
    },
    /// Stop the server.
    Stop {
        /// How.
        mode: StopMode,
        /// Make a checkpoint first, so that the stop itself is short.
        checkpoint: bool,
        /// What for.
        purpose: StopPurpose,
    },
    /// Stop and start the server in the role it has.
    Restart {
        /// As what to start it again.
        start_as: StartAs,
        /// How long the start may take.
        timeout: Option<Duration>,
        /// Somebody asked for it; otherwise new recovery settings need it.
        is_requested: bool,
    },
    /// Copy logical slots from the leader: what they are is read there, and written here while the server is stopped.
    CopyLogicalSlots {
        /// The leader.
        leader: Source,
        /// Which.
        slots: Vec<SlotName>,
        /// Whom to follow then.
        follow: Option<Source>,
    },
    /// Leave recovery and take writes.
    Promote {
        /// Our lock is good until then: not a moment later may the promotion be started.
        lock_valid_until: Moment,
        /// The archive may have WAL that this member lacks. It has none when the former leader was stopped in an
        /// orderly way and this member has its shutdown checkpoint.
        #[serde(default)]
        archive_may_have_more: bool,
    },
    /// Let a server that crashed recover in single-user mode, so that pg_rewind can work on it.
    CrashRecovery,
    /// Bring the data directory back to where it parted from this source, with pg_rewind.
    Rewind {
        /// From whom.
        source: Source,
    },
}

/// Why a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartReason {
    /// A primary died and goes on where it was.
    PrimaryAfterFailure,
    /// A server is down that should run.
    AfterFailure,
    /// A primary was demoted and comes back as a standby.
    AfterDemotion,
    /// A primary was stopped for a switchover, and no member has all of its WAL.
    AfterFailedSwitchover,
}

impl Task {
    /// The server's state that is shown while the job runs; `None` if the job does not tell more than the server does.
    /// `is_custom`: a cluster is made by the operator's own script.
    #[must_use]
    pub fn server_state(&self, progress: Option<Progress>, is_custom: bool) -> Option<ServerState> {
        Some(match (self, progress) {
            (Self::Bootstrap, Some(Progress::Starting)) if is_custom => {
                ServerState::StartingAfterCustomBootstrap
            }
            (Self::Bootstrap | Self::Clone { .. }, Some(Progress::Starting)) => ServerState::Starting,
            (Self::Bootstrap, _) if is_custom => ServerState::CustomBootstrap,
            (Self::Bootstrap, _) => ServerState::Initializing,
            (Self::Clone { .. }, _) => ServerState::CreatingReplica,
            (Self::Start { .. }, _) => ServerState::Starting,
            (Self::Stop { .. }, _) => ServerState::Stopping,
            (Self::Restart { .. }, _) => ServerState::Restarting,
            (Self::PostBootstrap | Self::Promote { .. }, _) => ServerState::Running,
            (Self::CopyLogicalSlots { .. } | Self::CrashRecovery | Self::Rewind { .. }, _) => return None,
        })
    }

    /// Patroni's name of the job, as it stands in status lines and REST answers.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Bootstrap => "bootstrap".to_owned(),
            Self::PostBootstrap => "post_bootstrap".to_owned(),
            Self::Clone {
                from: CloneSource::Leader(source),
                ..
            } => {
                format!("bootstrap from leader '{}'", source.name())
            }
            Self::Clone {
                from: CloneSource::Replica(source),
                ..
            } => {
                format!("bootstrap from replica '{}'", source.name())
            }
            Self::Clone {
                from: CloneSource::Remote(_),
                ..
            } => "bootstrap_standby_leader".to_owned(),
            Self::Clone {
                from: CloneSource::Nobody,
                ..
            } => "bootstrap (without leader)".to_owned(),
            Self::Start {
                why: StartReason::PrimaryAfterFailure,
                ..
            } => "starting primary after failure".to_owned(),
            Self::Start {
                why: StartReason::AfterFailure,
                ..
            } => "restarting after failure".to_owned(),
            Self::Start {
                why: StartReason::AfterDemotion,
                ..
            } => "starting after demotion".to_owned(),
            Self::Start {
                why: StartReason::AfterFailedSwitchover,
                ..
            } => "starting primary after a failed switchover".to_owned(),
            Self::Stop {
                purpose: StopPurpose::Switchover,
                ..
            } => "switchover: demote".to_owned(),
            Self::Stop {
                purpose: StopPurpose::Failover,
                ..
            } => "manual failover: demote".to_owned(),
            Self::Stop {
                purpose: StopPurpose::StandbyCluster,
                ..
            } => "demoting to a standby cluster".to_owned(),
            Self::Stop { .. } => "stop".to_owned(),
            Self::Restart {
                is_requested: true, ..
            } => "restart".to_owned(),
            Self::Restart {
                is_requested: false, ..
            } => "changing primary_conninfo and restarting".to_owned(),
            Self::CopyLogicalSlots { .. } => "copy_logical_slots".to_owned(),
            Self::Promote { .. } => "promote".to_owned(),
            Self::CrashRecovery => "doing crash recovery in a single user mode".to_owned(),
            Self::Rewind { source } => format!("running pg_rewind from {}", source.name()),
        }
    }
}

/// How a long job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskOutcome {
    /// As wanted.
    Success,
    /// Not; why. Nothing secret stands in it.
    Failed(String),
    /// It was ended from here.
    Cancelled,
    /// A rewind: the source is not ready for it, for it has not made its checkpoint (`None`) or does not answer, and why.
    /// What has been done of it is seen in the data directory.
    SourceNotReady(Option<String>),
    /// A promotion: the operator's `pre_promote` script refused.
    PrePromoteFailed,
    /// A start: the server is still starting when its time was up.
    TimedOut,
    /// A restart: the server would not start with the settings in force, and so it was not stopped; why.
    SettingsRefused(String),
    /// A start: the server did not start with the settings in force, and runs with those that it had before; why.
    FormerSettings(String),
}

/// Tells requests of the REST API apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// The answer to a request of the REST API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// To which.
    pub id: RequestId,
    /// It was done, or is being done.
    pub is_success: bool,
    /// What to tell.
    pub text: String,
}

/// The operator's script to call (Patroni documentation, `postgresql.callbacks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Callback {
    /// The server was started.
    OnStart,
    /// The server was stopped.
    OnStop,
    /// The server was restarted.
    OnRestart,
    /// The configuration was reloaded.
    OnReload,
    /// The server has another role now.
    OnRoleChange,
}

impl Callback {
    /// The setting's name, which is also the script's first argument.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnStart => "on_start",
            Self::OnStop => "on_stop",
            Self::OnRestart => "on_restart",
            Self::OnReload => "on_reload",
            Self::OnRoleChange => "on_role_change",
        }
    }
}

/// How the agent itself shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// As asked.
    Graceful,
    /// Because going on would be wrong; PostgreSQL is left as it is.
    Failure,
    /// The cluster could not be created: what there is of it is set aside as `<data_dir>.failed`.
    FailedBootstrap,
}

/// How a cycle ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// In one line, what was decided.
    pub reason: Reason,
    /// What else to log, in order, before that line.
    pub notes: Vec<Note>,
    /// Scripts to call, in order.
    pub callbacks: Vec<(Callback, Role)>,
    /// Answers to requests.
    pub replies: Vec<Reply>,
    /// The scheduled restart that was begun, or will not be done any more.
    pub unscheduled: Option<RequestId>,
    /// Run the next cycle then at the latest, if that is before `loop_wait` is over.
    pub again_at: Option<Moment>,
    /// The agent shall end.
    pub exit: Option<Exit>,
}
