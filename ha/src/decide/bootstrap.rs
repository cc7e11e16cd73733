//! An empty data directory: create the cluster, or copy it (Patroni documentation, "Bootstrap").

use std::time::Duration;

use super::{follow, observe, standby_cluster, synchronous};
use crate::cluster::{Cluster, Member};
use crate::cycle::{Cycle, Flow};
use crate::facts::{DataDirectory, LockAnswer};
use crate::memory::{Bootstrap, RewindState};
use crate::pg::{Role, ServerState};
use crate::reason::{Note, Reason, notes};
use crate::step::{Action, Callback, CloneSource, Exit, Expect, Key, Task};

pub(super) fn begin(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Reason> {
    if !cluster.is_unlocked() {
        let Some(from) = clone_source(c, cluster) else {
            return Ok(waiting(c));
        };
        return clone(c, cluster, from);
    }
    let is_initialized = !free_initialize_key(c, cluster)?;
    let node = c.node();
    // A store that lost its keys is no cluster that was never made.
    let may_bootstrap = node.may_bootstrap && c.memory.replaced_store.is_none();
    if !is_initialized && may_bootstrap && !node.tags.nofailover() {
        let won = c.write(Key::Initialize, String::new(), Expect::Absent)?;
        if !matches!(won, Ok(Some(_))) {
            return Ok(Reason::LostInitializeRace);
        }
        if let Some(remote) = standby_cluster::remote(c) {
            clone(c, cluster, CloneSource::Remote(remote))?;
            return Ok(Reason::BootstrappingStandbyLeader);
        }
        forget_data(c);
        c.memory.state = if node.has_custom_bootstrap {
            ServerState::CustomBootstrap
        } else {
            ServerState::Initializing
        };
        c.begin(Task::Bootstrap)?;
        return Ok(Reason::Bootstrapping);
    }
    if node.has_method_without_leader && cluster.initialize.as_deref() != Some("") {
        return clone(c, cluster, CloneSource::Nobody);
    }
    Ok(waiting(c))
}

/// Whether nobody has created the cluster or is about to. An empty key that our own creation has left behind, when it was
/// cut off, is removed: otherwise all members would wait for ever.
fn free_initialize_key(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<bool> {
    if cluster.initialize.as_deref() != Some("") || !c.memory.creation_was_cut_off {
        c.memory.creation_was_cut_off = false;
        return Ok(cluster.initialize.is_none());
    }
    let creates = |member: &Member| {
        &member.name != c.me()
            && matches!(
                member.data.state,
                Some(
                    ServerState::Initializing
                        | ServerState::CustomBootstrap
                        | ServerState::StartingAfterCustomBootstrap
                        | ServerState::Starting
                        | ServerState::Running
                )
            )
    };
    if cluster.members.iter().any(creates) {
        c.memory.creation_was_cut_off = false;
        return Ok(false);
    }
    c.note(Note::warning(
        "removing the empty key initialize: the creation of the cluster by this member was cut off",
    ));
    let is_free = c.delete(Key::Initialize, Expect::Anything)?;
    c.memory.creation_was_cut_off = !is_free;
    Ok(is_free)
}

fn waiting(c: &Cycle<'_>) -> Reason {
    if standby_cluster::is_one(c) {
        Reason::WaitingForStandbyLeaderToBootstrap
    } else {
        Reason::WaitingForLeaderToBootstrap
    }
}

fn clone(c: &mut Cycle<'_>, cluster: &Cluster, from: CloneSource) -> Flow<Reason> {
    forget_data(c);
    c.memory.state = ServerState::CreatingReplica;
    let task = Task::Clone {
        from,
        follow: follow::target(c, cluster),
        with_basebackup: false,
    };
    let reason = Reason::TryingTo(task.label());
    c.begin(task)?;
    Ok(reason)
}

/// A replica that offers itself, else the leader. Of several replicas, different members take different ones.
pub(super) fn clone_source(c: &Cycle<'_>, cluster: &Cluster) -> Option<CloneSource> {
    let offers: Vec<&Member> = cluster
        .members
        .iter()
        .filter(|member| {
            member.data.tags.clonefrom()
                && member.data.state == Some(ServerState::Running)
                && member.data.conn_url.is_some()
                && &member.name != c.me()
                && !cluster.is_leader(&member.name)
        })
        .collect();
    let spread: usize = c.me().as_str().bytes().map(usize::from).sum();
    if let Some(member) = offers.get(spread.checked_rem(offers.len()).unwrap_or(0)) {
        return follow::source(c, member).map(CloneSource::Replica);
    }
    let leader = cluster.leader_member().filter(|leader| &leader.name != c.me())?;
    follow::source(c, leader).map(CloneSource::Leader)
}

/// What was known of the data directory does not hold any more.
pub(super) fn forget_data(c: &mut Cycle<'_>) {
    c.memory.system_identifier = None;
    c.memory.rewind = RewindState::Unneeded;
    c.memory.crash_recovery_tried = false;
    c.memory.demoted_at = None;
    c.memory.start_was_announced = false;
}

/// The cluster was made here: finish it, and only then let others see it.
pub(super) fn hand_over(c: &mut Cycle<'_>) -> Flow<Reason> {
    if let Bootstrap::Failed(why) = c.memory.bootstrap.clone() {
        return fail(c, &why);
    }
    let server = observe::server(c)?;
    if server.is_stopped() {
        return fail(c, "the server that was just made does not run");
    }
    let is_standby_cluster = standby_cluster::is_one(c);
    let is_not_ready = server
        .sql
        .as_ref()
        .is_none_or(|sql| sql.in_recovery && !is_standby_cluster);
    if observe::is_starting(c, &server) || is_not_ready {
        let soon = c.now().after(Duration::from_secs(1));
        c.again_at(soon);
        return Ok(Reason::WaitingForEndOfRecovery);
    }
    c.memory.role = if is_standby_cluster {
        Role::StandbyLeader
    } else {
        Role::Primary
    };
    if c.memory.bootstrap == Bootstrap::Started {
        c.begin(Task::PostBootstrap)?;
        return Ok(Reason::RunningPostBootstrap);
    }
    let control = match c.data_directory()? {
        DataDirectory::Present {
            control: Ok(control), ..
        } => control,
        DataDirectory::Empty => return fail(c, "the data directory that was just made is empty"),
        // It is there, as the server runs on it.
        DataDirectory::Present {
            control: Err(why), ..
        }
        | DataDirectory::Inaccessible(why) => {
            c.note(notes::new_data_not_readable(&why));
            let soon = c.now().after(Duration::from_secs(1));
            c.again_at(soon);
            return Ok(Reason::WaitingForEndOfRecovery);
        }
    };
    let Some(identifier) = control.system_identifier else {
        return fail(c, "the server that was just made has no valid system identifier");
    };
    synchronous::arm_new_cluster(c)?;
    drop(c.write(Key::Initialize, identifier.to_string(), Expect::Anything)?);
    let config = c.node().config_json.clone();
    drop(c.write(Key::Config, config, Expect::Anything)?);
    match c.lock(Action::TakeLeader)? {
        LockAnswer::Held { .. } | LockAnswer::HeldByLeaseAlone { .. } => {}
        // The cluster is made, only the key is not ours yet: tried again.
        LockAnswer::NotHeld | LockAnswer::Unknown(_) => return Ok(Reason::DcsNotAccessible),
    }
    c.memory.system_identifier = Some(identifier);
    c.memory.bootstrap = Bootstrap::No;
    c.memory.state = ServerState::Running;
    c.memory.start_was_announced = true;
    let role = c.memory.role;
    c.callback(Callback::OnStart, role);
    let now = c.now();
    c.again_at(now);
    Ok(Reason::Initialized)
}

fn fail(c: &mut Cycle<'_>, why: &str) -> Flow<Reason> {
    c.note(Note::critical(format!("Failed to bootstrap cluster: {why}")));
    c.delete(Key::Initialize, Expect::Anything)?;
    c.exit(Exit::FailedBootstrap);
    Ok(Reason::BootstrapFailed)
}
