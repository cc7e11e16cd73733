//! `failover`: to a named member, whatever the leader's state.

use clap::Args;
use ha::cluster::FailoverKind;

use super::error::Error;
use super::session::Session;
use super::switchover::{Request, Task};

#[derive(Debug, Args)]
pub(crate) struct Failover {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// The name of the candidate
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

impl Failover {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let task = Task::begin(session, self.cluster_name, self.group, self.force).await?;
        let candidate = task.candidate(self.candidate, FailoverKind::Failover).await?;
        if let Some(name) = candidate.as_deref().filter(|name| task.is_asynchronous(name)) {
            task.confirm(
                &format!("failover to the asynchronous node {name}"),
                "Aborting failover",
            )
            .await?;
        }
        let leader = task.leader_name();
        let demotion = leader
            .map(|name| format!(", demoting current leader {name}"))
            .unwrap_or_default();
        let what = format!("failover cluster {}{demotion}", task.cluster_name());
        task.confirm(&what, "Aborting failover").await?;
        let request = Request {
            kind: FailoverKind::Failover,
            leader: None,
            candidate,
            scheduled_at: None,
        };
        task.carry_out(&request).await
    }
}
