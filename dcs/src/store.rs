//! The trait that every store of the cluster's state implements, and the types of its verbs.

use std::time::Duration;

use async_trait::async_trait;
use ha::cluster::{Cluster, Expired, Version};
use ha::pg::MemberName;
pub use ha::step::{Expect, Key, WhenGone};
use tokio::sync::watch;

use crate::Error;

/// The durations that the verbs work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long leader and member keys live without renewal. Stores that count in seconds round it up.
    pub ttl: Duration,
    /// The length of a cycle: how often at least the lease is refreshed.
    pub loop_wait: Duration,
    /// How long one verb may take, all retries included.
    pub retry_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
        }
    }
}

/// Who writes leader and member keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The member's name.
    pub name: MemberName,
    /// The lease of an earlier life, as [`Dcs::lease`] gave it: it is taken up again if it still lives.
    pub lease: Option<String>,
}

/// Counters that go up when something changes in the store, one for each kind of key. A change that this very member
/// has made may count too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// The leader key appeared, went away, or has another holder.
    pub leader: u64,
    /// A member key appeared, went away, or has another value.
    pub members: u64,
    /// `config`.
    pub config: u64,
    /// `failover`.
    pub failover: u64,
    /// `sync`.
    pub sync: u64,
    /// `status`.
    pub status: u64,
    /// `initialize`.
    pub initialize: u64,
    /// `history`.
    pub history: u64,
    /// `failsafe`.
    pub failsafe: u64,
    /// `heartbeat`: the leader has renewed its lock.
    pub heartbeat: u64,
    /// A Citus coordinator: another group's leader or member keys.
    pub workers: u64,
}

/// What came of a renewal of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    /// The key is ours.
    Yes,
    /// The key is ours and its lease is kept alive, but the store refuses to write, for this reason: nobody can supersede
    /// this leader, and nobody can take a key that is free.
    ByLeaseAlone(String),
    /// The key is certainly not ours.
    No,
}

impl Renewed {
    /// Whether the key is ours.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self {
            Self::Yes | Self::ByLeaseAlone(_) => true,
            Self::No => false,
        }
    }
}

/// A store of the cluster's state.
///
/// Every verb takes at most `retry_timeout`. A verb that returns success has had a request succeed that was sent
/// after the call began: a lease is good for `ttl` from the moment before the call.
#[async_trait]
pub trait Dcs: Send + Sync {
    /// All of the cluster's keys at one moment. Served from the watched copy while that is healthy.
    ///
    /// # Errors
    /// The store cannot be read within `retry_timeout`.
    async fn load(&self) -> Result<Cluster, Error>;

    /// Writes this member's key, bound to its lease, and keeps the lease alive. An unchanged key that is bound to the
    /// lease already is not written again. `false`: the lease was lost meanwhile, the next call will succeed.
    ///
    /// # Errors
    /// The store did not answer or refused. [`Error::NameTaken`]: the key is bound to a lease that is not ours, so that
    /// another agent of this name lives or has lived until a moment ago.
    async fn touch_member(&self, data: &str) -> Result<bool, Error>;

    /// Creates the leader key, bound to a fresh lease. `false`: somebody holds it.
    ///
    /// # Errors
    /// The store did not answer or refused: whether the key is ours is unknown.
    async fn acquire_leader(&self) -> Result<bool, Error>;

    /// Takes the leader key from a holder whose lock is over, bound to a fresh lease, if leader key and heartbeat are
    /// still as they were. `false`: they are not.
    ///
    /// # Errors
    /// The store did not answer or refused: whether the key is ours is unknown.
    async fn supersede_leader(&self, expired: Expired) -> Result<bool, Error>;

    /// Renews the hold on the leader key, and binds the key to the present lease if it is bound to another one of this
    /// agent's. A key that is gone is created again only if `when_gone` permits it and no other member has led since.
    ///
    /// # Errors
    /// The store did not answer or refused: whether the key is still ours is unknown.
    async fn renew_leader(&self, when_gone: WhenGone) -> Result<Renewed, Error>;

    /// Makes this member the leader whatever the key says, as after a bootstrap.
    ///
    /// # Errors
    /// The store did not answer or refused.
    async fn take_leader(&self) -> Result<bool, Error>;

    /// Writes `status` if given, then deletes the leader key, both only if this very agent holds the key. `false`: it does
    /// not, but another member, another agent of this name, or a later life of this agent. A request that arrives late has
    /// no effect once the key was acquired or renewed again.
    ///
    /// # Errors
    /// The store did not answer or refused: the key may be gone.
    async fn release_leader(&self, status: Option<&str>) -> Result<bool, Error>;

    /// Writes a key. The new version; `None` if what was expected does not hold.
    ///
    /// # Errors
    /// The store did not answer (the write may have been applied) or refused.
    async fn write(&self, key: Key, value: &str, expect: Expect) -> Result<Option<Version>, Error>;

    /// Deletes a key. `false` if what was expected does not hold.
    ///
    /// # Errors
    /// The store did not answer (the key may be gone) or refused.
    async fn delete(&self, key: Key, expect: Expect) -> Result<bool, Error>;

    /// Deletes everything the store knows about the cluster.
    ///
    /// # Errors
    /// The store did not answer or refused.
    async fn delete_cluster(&self) -> Result<(), Error>;

    /// Tells of changes. A reader without a watch never hears of any.
    fn changes(&self) -> watch::Receiver<Changes>;

    /// Applies new durations at once. Another `ttl` means another lease, to which the keys move with the next
    /// [`Dcs::touch_member`] and [`Dcs::renew_leader`].
    fn set_timing(&self, timing: Timing);

    /// A lease that keys of this name are bound to belongs to a process of ours that has ended, as is proved: it is taken
    /// up again, and the keys are ours.
    fn adopt_lease(&self, lease: &str);

    /// The present lease in the store's own form, to be kept for [`Identity::lease`].
    fn lease(&self) -> Option<String>;
}
