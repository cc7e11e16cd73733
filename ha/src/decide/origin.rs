//! The key `origin`: which promotions led to the leader's timeline, and whether ours is another one of that number.

use super::{follow, observe, standby_cluster};
use crate::cluster::{Cluster, Origin, Origins, Promotion};
use crate::cycle::{Cycle, Flow};
use crate::facts::PeerStatus;
use crate::memory::RewindState;
use crate::pg::{HistoryEntry, Timeline};
use crate::step::{Expect, Key};

/// Keeps `/origin` in line with the timeline this primary is on.
pub(super) fn keep(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    let server = observe::server(c)?;
    let Some(timeline) = server.sql.and_then(|sql| sql.timeline) else {
        return Ok(());
    };
    if c.memory.origin_of(timeline).is_none() {
        // An agent before this one has written it, and the beginning of the timeline is not in `pg_wal` any more.
        let ours = cluster
            .origins
            .0
            .last()
            .filter(|promotion| promotion.promoter.as_ref() == Some(c.me()));
        c.memory.origin = ours.map(|promotion| promotion.origin);
    }
    let Some(own) = c.memory.origin_of(timeline) else {
        return Ok(());
    };
    if cluster.origins.newest() == Some(&own) {
        return Ok(());
    }
    let Some(history) = c.history_file(own.timeline)? else {
        return Ok(());
    };
    let promotion = |origin| Promotion {
        origin,
        promoter: Some(c.me().clone()),
    };
    let mut origins = earlier(&cluster.origins, &history, c.memory.origin_before);
    origins.0.push(promotion(own));
    if let Some(limit) = super::history::limit(c) {
        origins.0.drain(..origins.0.len().saturating_sub(limit));
    }
    drop(c.write(Key::Origin, origins.to_json(), Expect::Anything)?);
    Ok(())
}

/// The promotions before the newest one that can be vouched for: those that lie on the way of our history, up to the timeline
/// that we were on `before`, if the key means the same one by that number. All that led to it led to it for everybody.
fn earlier(known: &Origins, history: &[HistoryEntry], before: Option<Origin>) -> Origins {
    let Some(before) = before else {
        return Origins::default();
    };
    let lies_on_the_way = |origin: &Origin| {
        let mut ends = history.windows(2);
        ends.any(|pair| pair[1].timeline == origin.timeline && pair[0].switch_lsn == origin.switch_lsn)
    };
    let up_to_it = known
        .0
        .iter()
        .filter(|promotion| promotion.origin.timeline <= before.timeline);
    if known.of(before.timeline) == Some(&before) {
        let kept = up_to_it.filter(|promotion| lies_on_the_way(&promotion.origin));
        return Origins(kept.cloned().collect());
    }
    let mut origins = vec![Promotion {
        origin: before,
        promoter: None,
    }];
    origins.retain(|promotion| lies_on_the_way(&promotion.origin));
    Origins(origins)
}

/// A copy does not have the beginning of its timeline, nor does a standby that is long on it: who streams from the leader is
/// on the leader's.
pub(super) fn learn(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    let told = cluster.leader_member().and_then(|leader| leader.data.origin);
    let Some(told) = told.filter(|told| is_told(c, cluster) && c.memory.last_timeline == Some(told.timeline))
    else {
        return Ok(());
    };
    let is_known = c.memory.origin_of(told.timeline).is_some();
    if !is_known && c.memory.rewind == RewindState::Unneeded && follow::streams_from_leader(c, cluster)? {
        c.memory.see_timeline(told.timeline, Some(told));
    }
    Ok(())
}

/// Somebody leads who tells which promotion its timeline comes from.
pub(super) fn is_told(c: &Cycle<'_>, cluster: &Cluster) -> bool {
    // The members of a standby cluster are on timelines of the remote one, of which the key does not tell.
    let leader = cluster.leader_member().filter(|leader| &leader.name != c.me());
    !standby_cluster::is_one(c) && leader.is_some_and(|leader| leader.data.origin.is_some())
}

/// Whether our timeline is certainly not the one of that number that led to the leader's.
pub(super) fn is_another(c: &Cycle<'_>, cluster: &Cluster, own: Option<&Origin>) -> bool {
    let told = own.and_then(|own| told(c, cluster, own.timeline));
    told.zip(own).is_some_and(|(told, own)| told.is_rival_of(own))
}

/// Whether it is another one and began at the same position, which pg_rewind takes for the same.
pub(super) fn looks_alike(c: &Cycle<'_>, cluster: &Cluster, own: &Origin) -> bool {
    let told = told(c, cluster, own.timeline);
    told.is_some_and(|told| told.is_rival_of(own) && told.switch_lsn == own.switch_lsn)
}

/// Whether a member is on another timeline of that number than the one that led to ours, as a leader or a former one.
pub(super) fn has_not_led_here(c: &Cycle<'_>, cluster: &Cluster, peer: &PeerStatus) -> bool {
    let Some(theirs) = peer
        .origin
        .filter(|origin| Some(origin.timeline) == peer.timeline)
    else {
        return false;
    };
    let Some(own) = c.memory.origin.filter(|_| !standby_cluster::is_one(c)) else {
        return false;
    };
    let is_vouched_for = cluster.origins.newest() == Some(&own);
    let earlier = cluster.origins.of(theirs.timeline).filter(|_| is_vouched_for);
    theirs.is_rival_of(&own) || earlier.is_some_and(|earlier| theirs.is_rival_of(earlier))
}

/// The timeline of that number that led to the leader's. What a leader says of its own is true at any time; the key is where
/// it agrees with that, or it is what a leader before has left.
fn told<'a>(c: &Cycle<'_>, cluster: &'a Cluster, timeline: Timeline) -> Option<&'a Origin> {
    let leader = cluster.leader_member().filter(|_| is_told(c, cluster))?;
    let newest = leader.data.origin.as_ref()?;
    if newest.timeline == timeline {
        return Some(newest);
    }
    let is_vouched_for = cluster.origins.newest() == Some(newest);
    cluster.origins.of(timeline).filter(|_| is_vouched_for)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;

    fn origin(timeline: u32, lsn: u64, nonce: u32) -> Origin {
        Origin {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(lsn),
            nonce,
        }
    }

    #[test]
    fn only_promotions_that_led_here_are_vouched_for() {
        let line = |timeline, lsn| HistoryEntry {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(lsn),
            reason: String::new(),
        };
        let history = [line(1, 100), line(2, 200), line(3, 300)];
        let promotion = |origin| Promotion {
            origin,
            promoter: None,
        };
        let origins = |list: &[Origin]| Origins(list.iter().copied().map(promotion).collect());
        let (second, third) = (origin(2, 100, 7), origin(3, 200, 8));
        let all = origins(&[second, third]);
        let vouched_for = |known: &Origins, before| earlier(known, &history, before);
        assert_eq!(vouched_for(&all, Some(third)), all);
        assert_eq!(
            vouched_for(&all, None),
            Origins::default(),
            "nothing is known of ourselves"
        );
        let other = origin(3, 200, 9);
        let replaced = vouched_for(&all, Some(other));
        assert_eq!(replaced, origins(&[other]), "we were on another third timeline");
        let elsewhere = origins(&[origin(2, 90, 7), third]);
        let kept = vouched_for(&elsewhere, Some(third));
        assert_eq!(kept, origins(&[third]), "that second one was left elsewhere");
    }
}
