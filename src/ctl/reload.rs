//! `reload`: the members read their configuration again.

use clap::Args;
use net::http::{Method, StatusCode};

use super::console::print_line;
use super::error::Error;
use super::members::{Action, confirm, select};
use super::rest::{SHORT, failure};
use super::session::Session;
use super::view::RoleFilter;

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Cluster
    cluster_name: String,
    /// Members; default: all of the role
    member_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Reload only members with this role
    #[arg(short, long, value_parser = RoleFilter::parse, default_value = "any")]
    role: RoleFilter,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

impl Reload {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let view = session
            .store(&self.cluster_name, self.group)
            .await?
            .view()
            .await?;
        let members = select(
            &view,
            &self.cluster_name,
            &self.member_names,
            self.role,
            Action::Reload,
            self.force,
        )
        .await?;
        if !self.force {
            confirm(&members, Action::Reload).await?;
        }
        let loop_wait_seconds = view.dynamic_config().loop_wait.as_secs();
        let mut unreached = Vec::new();
        for member in members {
            let asked = session.request(member, (Method::POST, "reload"), None, SHORT);
            let response = match asked.await {
                Ok(response) => response,
                Err(error) => {
                    print_line(&format!("Failed: reload for member {}, ({error})", member.name))?;
                    unreached.push(member.name.as_str());
                    continue;
                }
            };
            print_line(&match response.status {
                StatusCode::OK => format!("No changes to apply on member {}", member.name),
                StatusCode::ACCEPTED => format!(
                    "Reload request received for member {} and will be processed within {loop_wait_seconds} seconds",
                    member.name
                ),
                _ => failure(&response, member, "reload"),
            })?;
        }
        if unreached.is_empty() {
            return Ok(());
        }
        Err(Error::new(format!(
            "these members were not reached, and read their configuration when they are started: {}",
            unreached.join(", ")
        )))
    }
}
