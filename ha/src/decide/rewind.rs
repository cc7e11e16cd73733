//! Whether our WAL parted from the leader's, and what is done about it (PostgreSQL manual, "pg_rewind").

use super::{bootstrap, follow, observe, origin, recover, standby_cluster};
use crate::cluster::{Cluster, Origin};
use crate::cycle::{Cycle, Flow};
use crate::facts::{DataDirectory, Divergence, LocalHistory, RemoteHistory, Source};
use crate::memory::RewindState;
use crate::pg::{DatabaseState, HistoryEntry, Timeline};
use crate::reason::{Note, Reason, notes};
use crate::step::{CloneSource, Task};

/// Looks when a look is due, and acts when our WAL parted. `None`: nothing stands in the way of following.
pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Cluster, target: Option<&Source>) -> Flow<Option<Reason>> {
    let Some(source) = compared_with(c, cluster) else {
        return Ok(None);
    };
    if c.memory.rewind == RewindState::Done
        && c.memory.rewound_to.as_ref().map(|from| &from.member) != Some(&source.member)
    {
        // Somebody else leads now.
        c.memory.rewind = RewindState::Check;
    }
    look_when_due(c, cluster, &source)?;
    match c.memory.rewind {
        RewindState::Unneeded | RewindState::Check | RewindState::Done => Ok(None),
        RewindState::Needed => act(c, cluster, source, target),
        RewindState::OtherOrigin => keep_apart(c, cluster, &source, target).map(Some),
        RewindState::Failed => copy_anew(c, cluster, target),
    }
}

/// Whose WAL ours is compared with: the leader's. A standby leader is in recovery and cannot be asked, so that in a
/// standby cluster it is the remote primary's.
fn compared_with(c: &Cycle<'_>, cluster: &Cluster) -> Option<Source> {
    if standby_cluster::is_one(c) {
        return standby_cluster::remote(c).filter(Source::can_be_connected_to);
    }
    let leader = cluster.leader_member().filter(|leader| &leader.name != c.me())?;
    follow::source(c, leader)
}

/// Something could be done if the WAL parted; without that there is no use in looking.
fn is_allowed(c: &Cycle<'_>) -> bool {
    c.node().use_pg_rewind || c.node().remove_data_directory_on_diverged_timelines
}

fn look_when_due(c: &mut Cycle<'_>, cluster: &Cluster, source: &Source) -> Flow<()> {
    let is_due = match c.memory.rewind {
        RewindState::Check => is_allowed(c) || origin::is_told(c, cluster),
        // A leader that does not tell for a moment is no reason to follow it. A remote primary never tells.
        RewindState::OtherOrigin => origin::is_told(c, cluster) || standby_cluster::is_one(c),
        RewindState::Unneeded | RewindState::Needed | RewindState::Done | RewindState::Failed => false,
    };
    if !is_due {
        return Ok(());
    }
    if !follow::streams_from_leader(c, cluster)? {
        return look(c, cluster, source);
    }
    let timeline = observe::server(c)?.sql.and_then(|sql| sql.timeline);
    let own = timeline.and_then(|timeline| c.memory.origin_of(timeline));
    if origin::is_another(c, cluster, own.as_ref()) {
        set_apart(c);
    } else {
        c.memory.rewind = RewindState::Unneeded;
    }
    Ok(())
}

fn look(c: &mut Cycle<'_>, cluster: &Cluster, source: &Source) -> Flow<()> {
    let Divergence { local, remote } = c.divergence(source.clone())?;
    if let Ok(local) = &local {
        let known = c.memory.origin_of(local.timeline);
        let ours: Vec<&Origin> = local.origins.iter().chain(&known).collect();
        let is_another = ours.iter().any(|own| origin::is_another(c, cluster, Some(own)));
        let looks_alike = ours.iter().any(|own| origin::looks_alike(c, cluster, own));
        if looks_alike || (is_another && !is_allowed(c)) {
            set_apart(c);
            return Ok(());
        }
        if !is_allowed(c) {
            c.memory.rewind = RewindState::Check;
        }
    }
    if !is_allowed(c) {
        return Ok(());
    }
    let (local, remote) = match (local, remote) {
        (Ok(local), Ok(remote)) => (local, remote),
        (Err(why), _) | (_, Err(why)) => {
            c.note(notes::divergence_unknown(&why));
            return Ok(());
        }
    };
    c.note(notes::local_position(local.timeline, local.lsn));
    if remote.in_recovery {
        c.note(notes::leader_is_in_recovery());
        if source.is_remote() {
            return Ok(());
        }
        let soon = c.now().after(std::time::Duration::from_millis(500));
        c.again_at(soon);
        return Ok(());
    }
    c.note(notes::remote_timeline(remote.timeline));
    c.memory.rewind = if has_parted(&local, &remote) {
        RewindState::Needed
    } else if !is_another_of_that_number(c, &local, &remote)? {
        RewindState::Unneeded
    } else if local.timeline == remote.timeline {
        // pg_rewind goes by the numbers too and would find nothing to do.
        set_apart(c);
        return Ok(());
    } else {
        c.note(notes::timelines_of_one_number());
        RewindState::Needed
    };
    Ok(())
}

/// Two members that were promoted without knowing of each other gave their timelines the same number: our history and
/// the other's then tell of different switch points.
fn is_another_of_that_number(c: &mut Cycle<'_>, local: &LocalHistory, remote: &RemoteHistory) -> Flow<bool> {
    if local.timeline == Timeline(1) || remote.history.is_empty() {
        return Ok(false);
    }
    let Some(ours) = c.history_file(local.timeline)? else {
        return Ok(false);
    };
    let theirs = remote
        .history
        .iter()
        .take_while(|entry| entry.timeline != local.timeline);
    let switches = |entry: &HistoryEntry| (entry.timeline, entry.switch_lsn);
    Ok(!ours.iter().map(switches).eq(theirs.map(switches)))
}

/// Whether the local WAL holds anything that the other's history does not.
pub(crate) fn has_parted(local: &LocalHistory, remote: &RemoteHistory) -> bool {
    if local.timeline >= remote.timeline {
        return local.timeline > remote.timeline;
    }
    let Some(left) = remote
        .history
        .iter()
        .find(|entry| entry.timeline == local.timeline)
    else {
        return true;
    };
    if local.was_standby {
        return local.lsn > left.switch_lsn;
    }
    // A former primary: its shutdown checkpoint must be the last thing before the new timeline began.
    local.lsn >= left.switch_lsn || local.checkpoint_end != Some(left.switch_lsn)
}

fn act(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    source: Source,
    target: Option<&Source>,
) -> Flow<Option<Reason>> {
    let name = source.name().to_owned();
    let server = observe::server(c)?;
    let data = c.data_directory()?;
    let DataDirectory::Present {
        control: Ok(control),
        has_backup_label,
        is_half_rewound,
        ..
    } = data
    else {
        c.note(Note::warning("can not rewind: pg_controldata can not be read"));
        return Ok(None);
    };
    if c.node().use_pg_rewind && control.can_be_rewound {
        let stopped_uncleanly = server.is_stopped() && control.state == DatabaseState::InArchiveRecovery;
        let is_copy = is_half_rewound || recover::is_fresh_copy(c, has_backup_label);
        if stopped_uncleanly && !is_copy && !c.memory.crash_recovery_tried {
            c.begin(Task::CrashRecovery)?;
            return Ok(Some(Reason::CrashRecovery));
        }
        if cluster
            .leader_member()
            .is_some_and(|leader| leader.data.checkpoint_after_promote == Some(false))
        {
            c.note(notes::waiting_for_checkpoint(&name));
            let soon = c
                .now()
                .after(std::time::Duration::from_secs(1).min(c.config().loop_wait));
            c.again_at(soon);
            return Ok(Some(Reason::NoAction(c.me().clone())));
        }
        c.begin(Task::Rewind { source })?;
        return Ok(Some(Reason::Rewinding(name)));
    }
    if c.node().remove_data_directory_on_diverged_timelines && !source.is_remote() {
        return reclone(c, source, target).map(Some);
    }
    c.note(Note::error(format!(
        "the local WAL parted from that of {name} and pg_rewind can not be used: set wal_log_hints or data checksums \
         and use_pg_rewind, or reinitialize this member"
    )));
    c.memory.rewind = RewindState::Failed;
    Ok(None)
}

fn set_apart(c: &mut Cycle<'_>) {
    if c.memory.rewind != RewindState::OtherOrigin {
        c.note(notes::timelines_of_one_number());
    }
    c.memory.rewind = RewindState::OtherOrigin;
}

/// Neither started nor streaming: what comes from the leader does not fit to what is here.
fn keep_apart(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    source: &Source,
    target: Option<&Source>,
) -> Flow<Reason> {
    if let Some(reason) = copy_anew(c, cluster, target)? {
        return Ok(reason);
    }
    if observe::server(c)?.is_running() {
        follow::change_source(c, cluster, None)?;
    }
    Ok(Reason::OtherOrigin(source.name().to_owned()))
}

/// Where the operator allows it.
fn copy_anew(c: &mut Cycle<'_>, cluster: &Cluster, target: Option<&Source>) -> Flow<Option<Reason>> {
    let leader = cluster.leader_member().filter(|leader| &leader.name != c.me());
    let Some(source) = leader.and_then(|leader| follow::source(c, leader)) else {
        return Ok(None);
    };
    let node = c.node();
    if node.remove_data_directory_on_rewind_failure || node.remove_data_directory_on_diverged_timelines {
        return reclone(c, source, target).map(Some);
    }
    Ok(None)
}

fn reclone(c: &mut Cycle<'_>, source: Source, target: Option<&Source>) -> Flow<Reason> {
    bootstrap::forget_data(c);
    c.begin(Task::Clone {
        from: CloneSource::Leader(source),
        follow: target.cloned(),
        with_basebackup: false,
    })?;
    Ok(Reason::ReinitializingDiverged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;

    #[test]
    fn wal_has_parted_when_it_holds_what_the_leaders_history_does_not() {
        let remote = |timeline, left: Option<u64>| RemoteHistory {
            in_recovery: false,
            timeline: Timeline(timeline),
            history: left
                .map(|lsn| HistoryEntry {
                    timeline: Timeline(1),
                    switch_lsn: Lsn(lsn),
                    reason: String::new(),
                })
                .into_iter()
                .collect(),
        };
        let local = |timeline, lsn, was_standby, end: Option<u64>| LocalHistory {
            timeline: Timeline(timeline),
            lsn: Lsn(lsn),
            was_standby,
            origins: Vec::new(),
            checkpoint_end: end.map(Lsn),
        };
        for (what, local, remote, parted) in [
            (
                "a newer timeline of our own",
                local(3, 10, true, None),
                remote(2, Some(100)),
                true,
            ),
            (
                "the same timeline",
                local(2, 999, false, None),
                remote(2, Some(100)),
                false,
            ),
            (
                "a standby behind the switch",
                local(1, 100, true, None),
                remote(2, Some(100)),
                false,
            ),
            (
                "a standby past the switch",
                local(1, 101, true, None),
                remote(2, Some(100)),
                true,
            ),
            (
                "a primary stopped right at the switch",
                local(1, 60, false, Some(100)),
                remote(2, Some(100)),
                false,
            ),
            (
                "a primary that wrote past the switch",
                local(1, 60, false, Some(140)),
                remote(2, Some(100)),
                true,
            ),
            (
                "a primary whose checkpoint lies past it",
                local(1, 120, false, None),
                remote(2, Some(100)),
                true,
            ),
            (
                "a primary of which nothing more is known",
                local(1, 60, false, None),
                remote(2, Some(100)),
                true,
            ),
            (
                "a timeline that the leader never had",
                local(1, 60, true, None),
                remote(3, None),
                true,
            ),
        ] {
            assert_eq!(has_parted(&local, &remote), parted, "{what}");
        }
    }
}
