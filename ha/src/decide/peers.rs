//! Who else could take over.

use std::time::Duration;

use super::{failsafe, origin, standby_cluster, synchronous};
use crate::cascade::Cascade;
use crate::cluster::{Cluster, Failover, FailoverKind, Member};
use crate::cycle::{Cycle, Flow};
use crate::facts::{Peer, PeerStatus};
use crate::pg::{Lsn, MemberName};
use crate::reason::notes;

/// How long a member that may well be alive is waited for: longer than a lost packet takes to be sent again, where
/// `ttl` permits that.
const PATIENCE_MAX: Duration = Duration::from_secs(2);

/// How long a member is waited for that is most likely dead: long enough for whoever is not.
const PATIENCE_WITH_THE_DEAD: Duration = Duration::from_millis(500);

pub(super) fn as_peer(c: &Cycle<'_>, member: &Member) -> Option<Peer> {
    let patience = PATIENCE_MAX.min(c.config().ttl / 5);
    peer(member, patience)
}

/// A member whose lease has run out, or should have been prolonged long ago: if it lives it answers within moments, and
/// if it does not, nobody shall wait for it (`docs/lease.md`, "The race").
pub(super) fn as_silent_peer(c: &Cycle<'_>, member: &Member) -> Option<Peer> {
    let patience = PATIENCE_WITH_THE_DEAD.min(c.config().ttl / 20);
    peer(member, patience)
}

/// The same of a member of which no more is known than its address.
pub(super) fn as_silent_address(c: &Cycle<'_>, name: &MemberName, api_url: &str) -> Peer {
    Peer {
        name: name.clone(),
        api_url: api_url.to_owned(),
        patience: PATIENCE_WITH_THE_DEAD.min(c.config().ttl / 20),
    }
}

fn peer(member: &Member, patience: Duration) -> Option<Peer> {
    Some(Peer {
        name: member.name.clone(),
        api_url: member.data.api_url.clone()?,
        patience,
    })
}

/// Why a member does not take over that `failsafe` leaves out.
pub(super) const NOT_LISTED: &str = "not listed in the key failsafe";

/// Why a member does not take over that knows the leader's WAL to be another one.
const OTHER_ORIGIN: &str = "on a timeline that the cluster did not go on with";

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
    let mut fit: usize = 0;
    for (name, peer) in candidates(c, cluster, failover)? {
        if has_what_is_needed(c, cluster, &peer, shutdown_checkpoint) {
            fit += 1;
        } else if let Some(checkpoint) = shutdown_checkpoint {
            c.note(notes::lacks_shutdown_checkpoint(&name, peer.position, checkpoint));
        } else {
            c.note(notes::candidate_lags(&name));
        }
    }
    Ok(are_enough(c, cluster, failover, fit))
}

/// Whether that many members that are fit to take over suffice for one of them to do so.
pub(super) fn are_enough(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    failover: Option<&Failover>,
    fit: usize,
) -> bool {
    let is_open = failover.is_none_or(|failover| failover.candidate.is_none());
    let quorum = cluster.sync.quorum;
    if fit > 0 && fit <= quorum && is_open && synchronous::counts_votes(c, cluster) {
        c.note(notes::quorum_not_reached(quorum));
        return false;
    }
    fit > 0
}

/// Why a member cannot receive what the leader writes last, whatever is done: it, or a member that passes the WAL on to it,
/// restores from the archive only.
fn cannot_receive(c: &Cycle<'_>, cluster: &Cluster, member: &Member) -> Option<String> {
    let cascade = Cascade::seen_by(cluster, c.me(), &c.node().tags);
    match cascade.way_to_leader(&member.name) {
        Ok(_) => None,
        Err(end) if *end == member.name => Some("it has the tag nostream".to_owned()),
        Err(end) => Some(format!(
            "it replicates from member {end}, which has the tag nostream"
        )),
    }
}

/// The other members that are reachable and allowed to become primary.
pub(super) fn candidates(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    failover: Option<&Failover>,
) -> Flow<Vec<(MemberName, PeerStatus)>> {
    let kind = failover.map_or(FailoverKind::Failover, Failover::kind);
    let candidate = failover.and_then(|failover| failover.candidate.as_ref());
    let by_hand = failover.is_some_and(|failover| failover.kind() == FailoverKind::Failover);
    let is_synchronous = synchronous::is_active(c, cluster);
    let mut left_out = Vec::new();
    let mut without_stream = Vec::new();
    let asked: Vec<Peer> = cluster
        .members
        .iter()
        .filter(|member| &member.name != c.me() && !member.data.tags.nofailover())
        .filter(|member| candidate.is_none_or(|candidate| candidate == &member.name))
        .filter(|member| !is_synchronous || by_hand || cluster.sync.lists(&member.name, true))
        .filter(|member| {
            // It will not take the key, whoever waits for it.
            let is_left_out = failsafe::leaves_out(c, cluster, &member.name);
            if is_left_out {
                left_out.push(member.name.clone());
            }
            !is_left_out
        })
        .filter(|member| {
            let why = cannot_receive(c, cluster, member).filter(|_| kind == FailoverKind::Switchover);
            without_stream.extend(why.clone().map(|why| (member.name.clone(), why)));
            why.is_none()
        })
        .filter_map(|member| as_peer(c, member))
        .collect();
    for name in left_out {
        c.note(notes::candidate_unfit(kind, &name, NOT_LISTED));
    }
    for (name, why) in without_stream {
        c.note(notes::cannot_receive(kind, &name, &why));
    }
    if asked.is_empty() {
        c.note(notes::no_candidates(kind));
        return Ok(Vec::new());
    }
    let mut fit = Vec::new();
    for answer in c.peers(asked)? {
        let off = answer
            .status
            .as_ref()
            .is_ok_and(|peer| origin::has_not_led_here(c, cluster, peer));
        if let Some(why) = unfitness(&answer.status).or(off.then_some(OTHER_ORIGIN)) {
            c.note(notes::candidate_unfit(kind, &answer.name, why));
        } else if let Ok(peer) = answer.status {
            fit.push((answer.name, peer));
        }
    }
    Ok(fit)
}

pub(super) fn has_what_is_needed(
    c: &Cycle<'_>,
    cluster: &Cluster,
    peer: &PeerStatus,
    shutdown: Option<Lsn>,
) -> bool {
    let position = peer.position.unwrap_or_default();
    if let Some(checkpoint) = shutdown {
        // On another timeline a member has other WAL, however far that goes.
        let timelines = peer.timeline.zip(c.memory.last_timeline);
        let is_ours = standby_cluster::is_one(c) || timelines.is_none_or(|(theirs, ours)| theirs == ours);
        // The record begins there, so whoever has it is past it.
        return is_ours && position > checkpoint;
    }
    let published = cluster.status.optime.unwrap_or_default();
    let position = cluster.shared_position(peer.timeline, position);
    let lags = position.behind(published) > c.config().maximum_lag_on_failover_bytes;
    let counts = c.config().check_timeline && c.config().standby_cluster.is_none();
    let behind = counts && peer.timeline < cluster.timeline();
    !lags && !behind
}
