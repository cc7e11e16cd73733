//! `dsn`: where to connect to.

use clap::Args;

use super::console::print_line;
use super::error::Error;
use super::session::Session;
use super::view::{RoleFilter, View};

#[derive(Debug, Args)]
pub(crate) struct Dsn {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Give a dsn of any member with this role
    #[arg(short, long, value_parser = RoleFilter::parse)]
    role: Option<RoleFilter>,
    /// Generate a dsn for this member
    #[arg(short, long)]
    member: Option<String>,
}

impl Dsn {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let (_, store) = session.store_or_scope(self.cluster_name, self.group).await?;
        let view = store.view().await?;
        let (host, port) = address(&view, self.role, self.member.as_deref())?
            .ok_or_else(|| Error::new("Can not find a suitable member"))?;
        print_line(&format!("host={host} port={port}"))
    }
}

/// Host and port of the first member with that role, or of that member; of the leader when neither is given.
///
/// # Errors
/// Both are given.
pub(super) fn address(
    view: &View,
    role: Option<RoleFilter>,
    member: Option<&str>,
) -> Result<Option<(String, u16)>, Error> {
    let role = match (role, member) {
        (Some(_), Some(_)) => return Err(Error::new("--role and --member are mutually exclusive options")),
        (None, Some(_)) => RoleFilter::Any,
        (role, None) => role.unwrap_or(RoleFilter::Leader),
    };
    let members = view.members(role);
    let first = members
        .into_iter()
        .find(|found| member.is_none_or(|name| found.name.as_str() == name));
    Ok(first.and_then(|member| member.data.host_and_port()))
}
