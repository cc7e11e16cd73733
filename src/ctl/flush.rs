//! `flush`: what was scheduled is forgotten.

use clap::Args;
use dcs::{Expect, Key};
use ha::cluster::Failover;
use net::http::Method;

use super::console::{print_line, timestamp};
use super::error::Error;
use super::members::{Action, confirm, select};
use super::rest::{SHORT, print_verdict};
use super::session::{Session, Store};
use super::view::RoleFilter;

#[derive(Debug, Args)]
pub(crate) struct Flush {
    /// Cluster
    cluster_name: String,
    /// Members, default: all of the role; then what to forget: restart or switchover
    #[arg(required = true, value_name = "[MEMBER_NAMES]... {restart|switchover}")]
    members_and_target: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Flush only members with this role
    #[arg(short, long, value_parser = RoleFilter::parse, default_value = "any")]
    role: RoleFilter,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

/// What is to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Restart,
    Switchover,
}

impl Flush {
    /// What clap cannot tell: that the last word is one of the two targets.
    ///
    /// # Errors
    /// The text for a usage error.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.target().map(|_| ())
    }

    fn target(&self) -> Result<(Target, &[String]), String> {
        match self.members_and_target.split_last() {
            Some((word, names)) if word == "restart" => Ok((Target::Restart, names)),
            Some((word, names)) if word == "switchover" => Ok((Target::Switchover, names)),
            Some((word, _)) => Err(format!(
                "Invalid value for '{{restart|switchover}}': '{word}' is not one of 'restart', 'switchover'."
            )),
            None => Err("Missing argument '{restart|switchover}'.".to_owned()),
        }
    }

    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let (target, names) = self.target().map_err(Error::new)?;
        let store = session.store(&self.cluster_name, self.group).await?;
        match target {
            Target::Restart => self.restart(session, &store, names).await,
            Target::Switchover => self.switchover(session, &store).await,
        }
    }

    async fn restart(&self, session: &Session, store: &Store, names: &[String]) -> Result<(), Error> {
        let view = store.view().await?;
        let members = select(
            &view,
            &self.cluster_name,
            names,
            self.role,
            Action::Flush,
            self.force,
        )
        .await?;
        if !self.force {
            confirm(&members, Action::Flush).await?;
        }
        let mut unreached = Vec::new();
        for member in members {
            if member.data.scheduled_restart.is_none() {
                print_line(&format!("No scheduled restart for member {}", member.name))?;
                continue;
            }
            let asked = session.request(member, (Method::DELETE, "restart"), None, SHORT);
            match asked.await {
                Ok(response) => drop(print_verdict(&response, member, "flush scheduled restart")?),
                Err(error) => {
                    let name = &member.name;
                    print_line(&format!(
                        "Failed: flush scheduled restart for member {name}, ({error})"
                    ))?;
                    unreached.push(name.as_str());
                }
            }
        }
        if unreached.is_empty() {
            return Ok(());
        }
        Err(Error::new(format!(
            "these members were not reached, and restart as scheduled: {}",
            unreached.join(", ")
        )))
    }

    async fn switchover(&self, session: &Session, store: &Store) -> Result<(), Error> {
        let view = store.view().await?;
        let failover = view.cluster().and_then(|cluster| cluster.failover.as_ref());
        let Some(failover) = failover.filter(|failover| failover.scheduled_at.is_some()) else {
            return print_line("No pending scheduled switchover");
        };
        for member in view.leader_first() {
            match session
                .request(member, (Method::DELETE, "switchover"), None, SHORT)
                .await
            {
                Ok(response) => match response.status.as_u16() {
                    200 => return print_line(&format!("Success: {}", response.body)),
                    404 => return print_line(&format!("Failed: {}", response.body)),
                    status => print_line(&format!(
                        "Failed: member={}, status_code={status}, ({})",
                        member.name, response.body
                    ))?,
                },
                Err(error) => {
                    tracing::warn!("{error}");
                    tracing::warn!("Member {} is not accessible", member.name);
                }
            }
        }
        tracing::warn!("Failing over to DCS");
        let name = &self.cluster_name;
        print_line(&format!(
            "{} Could not find any accessible member of cluster {name}",
            timestamp(5)
        ))?;
        let expect = Expect::Version(failover.version);
        if store
            .dcs()
            .write(Key::Failover, Failover::CLEARED, expect)
            .await?
            .is_none()
        {
            return Err(Error::new(
                "the scheduled switchover has changed meanwhile and was left alone",
            ));
        }
        Ok(())
    }
}
