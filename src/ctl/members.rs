//! Which members a command is about: by name, by role, by asking; and whether the user means it.

use ha::cluster::Member;
use jiff::Zoned;

use super::console::print;
use super::error::Error;
use super::member_table;
use super::prompt;
use super::schedule::spaced_format;
use super::table::Format;
use super::view::{RoleFilter, View};

/// What is to be done with the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Reload,
    Restart,
    Reinitialize,
    Flush,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Reinitialize => "reinitialize",
            Self::Flush => "flush",
        }
    }
}

/// The members that the user means, in the order of their names. Shows the table of members first.
///
/// # Errors
/// There is no such member, or the input ends.
pub(crate) async fn select<'a>(
    view: &'a View,
    cluster_name: &str,
    names: &[String],
    role: RoleFilter,
    action: Action,
    force: bool,
) -> Result<Vec<&'a Member>, Error> {
    let candidates = view.members(role);
    if names.is_empty() && candidates.is_empty() {
        return Err(Error::new(format!(
            "{cluster_name} cluster doesn't have any members"
        )));
    }
    print(&member_table::render(view, cluster_name, Format::Pretty, false))?;
    if !names.is_empty() {
        let chosen = named(&candidates, names);
        if chosen.is_empty() {
            let role = if action == Action::Reinitialize {
                "replica".to_owned()
            } else {
                format!("'{}'", role.as_str())
            };
            return Err(Error::new(format!("No {role} among provided members")));
        }
        return Ok(chosen);
    }
    if action != Action::Reinitialize {
        return Ok(candidates);
    }
    if force {
        return Ok(Vec::new());
    }
    let list = candidates
        .iter()
        .map(|member| member.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let question = format!("Which member do you want to {} [{list}]?", action.as_str());
    let name = prompt::text(&question, "").await?;
    let chosen = named(&candidates, std::slice::from_ref(&name));
    if chosen.is_empty() {
        return Err(Error::new(format!("{name} is not a member of cluster")));
    }
    Ok(chosen)
}

fn named<'a>(candidates: &[&'a Member], names: &[String]) -> Vec<&'a Member> {
    candidates
        .iter()
        .copied()
        .filter(|member| names.contains(&member.name.0))
        .collect()
}

/// Asks whether `action` shall be taken.
///
/// # Errors
/// The user does not want it, or the input ends.
pub(crate) async fn confirm(members: &[&Member], action: Action) -> Result<(), Error> {
    let action = action.as_str();
    let question = format!("Are you sure you want to {action} members {}?", names(members));
    if prompt::confirm(&question).await? {
        return Ok(());
    }
    Err(Error::new(format!("Aborted {action}")))
}

/// Asks whether `action` shall be taken at a later time, of those that need it then if `is_pending`.
///
/// # Errors
/// The user does not want it, or the input ends.
pub(crate) async fn confirm_scheduled(
    members: &[&Member],
    action: Action,
    at: &Zoned,
    is_pending: bool,
) -> Result<(), Error> {
    let action = action.as_str();
    let question = if is_pending {
        "The nodes needing a restart will be identified at the scheduled time, and might be different from the ones \
         showing pending restart right now. Is this fine?"
            .to_owned()
    } else {
        let at = spaced_format(at);
        format!(
            "Are you sure you want to schedule {action} of members {} at {at}?",
            names(members)
        )
    };
    if prompt::confirm(&question).await? {
        return Ok(());
    }
    Err(Error::new(format!("Aborted scheduled {action}")))
}

fn names(members: &[&Member]) -> String {
    members
        .iter()
        .map(|member| member.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}
