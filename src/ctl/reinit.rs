//! `reinit`: replicas are made anew from a copy.

use std::time::Duration;

use clap::Args;
use ha::cluster::Member;
use ha::pg::ServerState;
use net::http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::awaited;
use super::console::print_line;
use super::error::Error;
use super::members::{Action, confirm, select};
use super::progress::Progress;
use super::prompt;
use super::rest::{SHORT, is_refused, print_verdict};
use super::session::Session;
use super::view::RoleFilter;

/// How often the members are asked while `--wait` waits.
const POLL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct Reinit {
    /// Cluster
    cluster_name: String,
    /// Members
    member_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Get basebackup from leader
    #[arg(long)]
    from_leader: bool,
    /// Wait until reinitialization completes
    #[arg(long)]
    wait: bool,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

impl Reinit {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let view = session
            .store(&self.cluster_name, self.group)
            .await?
            .view()
            .await?;
        let (names, action) = (&self.member_names, Action::Reinitialize);
        let members = select(
            &view,
            &self.cluster_name,
            names,
            RoleFilter::Replica,
            action,
            self.force,
        )
        .await?;
        if !self.force {
            confirm(&members, action).await?;
        }
        let mut started = Vec::new();
        let mut unreached = Vec::new();
        for member in members {
            match self.reinitialize(session, member).await? {
                Some(true) => started.push(member),
                Some(false) => {}
                None => unreached.push(member.name.as_str()),
            }
        }
        if self.wait {
            let goes_on = format!(
                "The reinitialization of {} goes on: \"list {}\" shows how far it is",
                joined(&started),
                self.cluster_name
            );
            session.while_it_goes_on(goes_on, wait(session, started)).await?;
        }
        if unreached.is_empty() {
            return Ok(());
        }
        Err(Error::new(format!(
            "these members were not reached, and are as they were: {}",
            unreached.join(", ")
        )))
    }

    /// Asks one member; whether it has begun, `None` if it could not be asked.
    async fn reinitialize(&self, session: &Session, member: &Member) -> Result<Option<bool>, Error> {
        let mut force = self.force;
        loop {
            let body = json!({"force": force, "from_leader": self.from_leader});
            let asked = session.request(member, (Method::POST, "reinitialize"), Some(&body), SHORT);
            let progress = Progress::begin(awaited::answer("reinit", member.name.as_str()));
            let response = match progress.during(async || None, asked).await {
                Ok(response) => response,
                Err(error) => {
                    let name = &member.name;
                    print_line(&format!("Failed: reinitialize for member {name}, ({error})"))?;
                    return Ok(None);
                }
            };
            print_verdict(&response, member, "reinitialize")?;
            if !is_refused(&response) {
                return Ok(Some(true));
            }
            let is_busy = response.body.ends_with(" already in progress");
            let question = "Do you want to cancel it and reinitialize anyway?";
            if force || !is_busy || !prompt::confirm(question).await? {
                return Ok(Some(false));
            }
            force = true;
        }
    }
}

async fn wait(session: &Session, mut members: Vec<&Member>) -> Result<(), Error> {
    let mut shown = String::new();
    let progress = Progress::begin(awaited::answer("reinit", &joined(&members)));
    while !members.is_empty() {
        let names = joined(&members);
        if names != shown {
            print_line(&format!("Waiting for reinitialize to complete on: {names}"))?;
            shown = names;
        }
        let look = async || Some(look(session, &members).await);
        progress.during(look, sleep(POLL)).await;
        let mut waiting = Vec::new();
        for member in members {
            let asked = session.request(member, (Method::GET, "patroni"), None, SHORT);
            let response = progress.during(async || None, asked).await?;
            let state = response.json().unwrap_or_default();
            let state = state
                .get("state")
                .and_then(Value::as_str)
                .and_then(ServerState::parse);
            if state == Some(ServerState::CreatingReplica) {
                waiting.push(member);
            } else {
                print_line(&format!("Reinitialize is completed on: {}", member.name))?;
            }
        }
        members = waiting;
    }
    Ok(())
}

fn joined(members: &[&Member]) -> String {
    let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
    names.join(", ")
}

/// What becomes of the members, in words.
async fn look(session: &Session, members: &[&Member]) -> String {
    let mut documents = Vec::new();
    for member in members {
        documents.push((member.name.as_str(), session.status(member).await));
    }
    awaited::reinit(&documents)
}
