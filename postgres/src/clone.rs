//! Making a replica: pg_basebackup or a script.

use crate::{Instant, Result, Server, Source};
use config::ReplicaMethod;

/// What a replica is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSource {
    /// The member's name, for messages; `None` without a source.
    pub name: Option<String>,
    /// Where it is; `None`: only methods that work without a leader.
    pub source: Option<Source>,
}

/// Which methods are tried, in their order.
#[derive(Debug, Clone, PartialEq)]
pub enum CloneMethods {
    /// `create_replica_methods`.
    Configured,
    /// `standby_cluster.create_replica_methods`, looked up in the settings' sections.
    Named(Vec<String>),
    /// pg_basebackup alone, as `reinit --from-leader` asks for.
    BasebackupOnly,
}

impl Server {
    /// Makes the data directory a copy of `from`. Returns the name of the method that worked. Dropping the call kills
    /// the running method; the directory is then recognised as unfinished.
    ///
    /// # Errors
    /// When no method worked; the data directory is empty then.
    pub async fn create_replica(
        &self,
        from: &CloneSource,
        methods: &CloneMethods,
        deadline: Instant,
    ) -> Result<String> {
        todo!()
    }

    /// The configured methods that work without a running source.
    #[must_use]
    pub fn methods_without_leader(&self) -> Vec<ReplicaMethod> {
        todo!()
    }
}
