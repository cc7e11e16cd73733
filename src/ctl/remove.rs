//! `remove`: everything about a cluster is deleted from the DCS.

use clap::Args;

use super::console::print;
use super::error::Error;
use super::member_table;
use super::prompt::required_text;
use super::session::Session;
use super::table::Format;

const AWARE: &str = "Yes I am aware";

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Cluster
    cluster_name: String,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Output format: pretty, tsv, json, yaml or yml
    #[arg(short, long, value_parser = Format::parse, default_value = "pretty")]
    format: Format,
}

impl Remove {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let name = &self.cluster_name;
        let store = session.store(name, self.group).await?;
        let view = store.view().await?;
        if view.is_citus && self.group.is_none() {
            return Err(Error::new("For Citus clusters the --group must me specified"));
        }
        print(&member_table::render(&view, name, self.format, false))?;
        if required_text("Please confirm the cluster name to remove").await? != *name {
            return Err(Error::new("Cluster names specified do not match"));
        }
        let question =
            format!("You are about to remove all information in DCS for {name}, please type: \"{AWARE}\"");
        if required_text(&question).await? != AWARE {
            return Err(Error::new(format!("You did not exactly type \"{AWARE}\"")));
        }
        if let Some(leader) = view.cluster().and_then(|cluster| cluster.leader_name()) {
            let question = "This cluster currently is healthy. Please specify the leader name to continue";
            if required_text(question).await? != leader.0 {
                return Err(Error::new(
                    "You did not specify the current leader of the cluster",
                ));
            }
        }
        Ok(store.dcs().delete_cluster().await?)
    }
}
