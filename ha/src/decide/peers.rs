//! Who else could take over.

use crate::cluster::{Cluster, Failover, FailoverKind, Member};
use crate::cycle::{Cycle, Flow};
use crate::facts::{Peer, PeerStatus};
use crate::pg::Lsn;
use crate::reason::notes;

pub(super) fn as_peer(member: &Member) -> Option<Peer> {
    Some(Peer {
        name: member.name.clone(),
        api_url: member.data.api_url.clone()?,
    })
}

/// Why a member may not be promoted; `None` when it may.
fn unfitness(status: &Result<PeerStatus, String>) -> Option<&'static str> {
    match status {
        Err(_) => Some("not reachable"),
        Ok(peer) if peer.tags.nofailover() => Some("not allowed to promote"),
        Ok(peer) if peer.watchdog_failed => Some("not watchdog capable"),
        Ok(_) => None,
    }
}

/// Whether at least one other member could become primary: reachable, allowed, and with everything that is needed: past
/// the shutdown checkpoint when there is one, else within `maximum_lag_on_failover` of what was last published.
pub(super) fn can_take_over(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    failover: Option<&Failover>,
    shutdown_checkpoint: Option<Lsn>,
) -> Flow<bool> {
    let kind = failover.map_or(FailoverKind::Failover, Failover::kind);
    let candidate = failover.and_then(|failover| failover.candidate.as_ref());
    let by_hand = failover.is_some_and(|failover| failover.kind() == FailoverKind::Failover);
    let synchronous =
        c.config().synchronous_mode() != config::SynchronousMode::Off && !cluster.sync.is_empty();
    let asked: Vec<Peer> = cluster
        .members
        .iter()
        .filter(|member| &member.name != c.me() && !member.data.tags.nofailover())
        .filter(|member| candidate.is_none_or(|candidate| candidate == &member.name))
        .filter(|member| !synchronous || by_hand || cluster.sync.lists(&member.name, true))
        .filter_map(as_peer)
        .collect();
    if asked.is_empty() {
        c.note(notes::no_candidates(kind));
        return Ok(false);
    }
    let mut fit = 0;
    for answer in c.peers(asked)? {
        if let Some(why) = unfitness(&answer.status) {
            c.note(notes::candidate_unfit(kind, &answer.name, why));
            continue;
        }
        let Ok(peer) = answer.status else { continue };
        if has_what_is_needed(c, cluster, &peer, shutdown_checkpoint) {
            fit += 1;
        } else {
            c.note(notes::candidate_lags(&answer.name));
        }
    }
    Ok(fit > 0)
}

fn has_what_is_needed(c: &Cycle<'_>, cluster: &Cluster, peer: &PeerStatus, shutdown: Option<Lsn>) -> bool {
    let position = peer.position.unwrap_or_default();
    if let Some(checkpoint) = shutdown {
        // The record begins there, so whoever has it is past it.
        return position > checkpoint;
    }
    let published = cluster.status.optime.unwrap_or_default();
    let lags = position.behind(published) > c.config().maximum_lag_on_failover_bytes;
    let behind = c.config().check_timeline && peer.timeline < cluster.timeline();
    !lags && !behind
}
