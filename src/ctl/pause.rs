//! `pause` and `resume`: maintenance mode, in which nothing is done without being asked.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use ha::cluster::Version;
use ha::pg::MemberName;
use net::http::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::console::print_line;
use super::error::Error;
use super::rest::SHORT;
use super::session::{Session, Store};
use super::view::View;

/// How often the members are looked at while `--wait` waits.
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Wait until all nodes have recognized it
    #[arg(long)]
    wait: bool,
}

impl Pause {
    pub(crate) async fn run(self, session: &Session, pause: bool) -> Result<(), Error> {
        let group = session.group_or_own(self.group);
        let (_, store) = session.store_or_scope(self.cluster_name, group).await?;
        let view = store.view().await?;
        if view.dynamic_config().pause == pause {
            let word = if pause { "already" } else { "not" };
            return Err(Error::new(format!("Cluster is {word} paused")));
        }
        let body = json!({ "pause": pause.then_some(true) });
        for member in view.leader_first() {
            let response = match session
                .request(member, (Method::PATCH, "config"), Some(&body), SHORT)
                .await
            {
                Ok(response) => response,
                Err(error) => {
                    tracing::warn!("{error}");
                    tracing::warn!("Member {} is not accessible", member.name);
                    continue;
                }
            };
            if response.status.as_u16() != 200 {
                let (word, status) = (if pause { "pause" } else { "resume" }, response.status.as_u16());
                return print_line(&format!(
                    "Failed: {word} cluster management status code={status}, ({})",
                    response.body
                ));
            }
            let goes_on = || {
                let word = if pause { "pause" } else { "resume" };
                format!("The {word} goes on: each member recognizes it within loop_wait")
            };
            if self.wait
                && !session
                    .while_it_goes_on(goes_on(), wait(&store, &view, pause))
                    .await?
            {
                return Ok(());
            }
            let word = if pause { "paused" } else { "resumed" };
            return print_line(&format!("Success: cluster management is {word}"));
        }
        Err(Error::new("Can not find accessible cluster member"))
    }
}

/// Waits until all members that were there have seen it; `false`, after telling the user, when some have not although
/// they are alive.
async fn wait(store: &Store, before: &View, pause: bool) -> Result<bool, Error> {
    let word = if pause { "pause" } else { "resume" };
    print_line(&format!(
        "'{word}' request sent, waiting until it is recognized by all nodes"
    ))?;
    let known: BTreeMap<MemberName, Version> = before
        .leader_first()
        .iter()
        .map(|member| (member.name.clone(), member.version))
        .collect();
    let loop_wait = before.dynamic_config().loop_wait;
    let deadline = Instant::now() + loop_wait + POLL;
    loop {
        let view = store.view().await?;
        let members = view
            .cluster()
            .map(|cluster| cluster.members.as_slice())
            .unwrap_or_default();
        let late: Vec<_> = members
            .iter()
            .filter(|member| known.contains_key(&member.name) && member.data.pause != pause)
            .collect();
        if late.is_empty() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            // Whoever has not written its key since is not there to see anything.
            let alive = late
                .iter()
                .filter(|member| known.get(&member.name) != Some(&member.version));
            let names = alive
                .map(|member| member.name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            if names.is_empty() {
                return Ok(true);
            }
            let seconds = loop_wait.as_secs();
            print_line(&format!(
                "{names} members didn't recognized pause state after {seconds} seconds"
            ))?;
            return Ok(false);
        }
        sleep(POLL).await;
    }
}
