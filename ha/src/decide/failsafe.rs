//! `failsafe_mode`: leading without the DCS while all members agree (Patroni documentation, "DCS Failsafe Mode";
//! `docs/failsafe.md` for why that is safe).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{observe, peers, slots};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::{FailsafeReply, Peer};
use crate::failsafe::Ping;
use crate::lease;
use crate::pg::MemberName;
use crate::reason::notes;
use crate::step::{Action, Expect, Key};

/// The least time that a member's answer is waited for.
const PATIENCE_MIN: Duration = Duration::from_millis(250);

/// As the leader, its lease just prolonged: writes who must agree before anybody leads without the DCS.
pub(super) fn publish(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    if !c.config().failsafe_mode {
        return Ok(());
    }
    let mut members: BTreeMap<MemberName, String> = cluster
        .members
        .iter()
        .filter_map(|member| Some((member.name.clone(), member.data.api_url.clone()?)))
        .collect();
    members.insert(c.me().clone(), c.node().api_url.clone());
    if cluster.failsafe.as_ref() == Some(&members) {
        return Ok(());
    }
    // Until it is certain that it was written, both those of before and those of now may take the key.
    let mut either = c.memory.failsafe.members.clone().unwrap_or_default();
    either.extend(members.clone());
    c.memory.failsafe.members = Some(either);
    c.memory.failsafe.written = Some(members.clone());
    let json = serde_json::json!(members).to_string();
    if c.write(Key::Failsafe, json, Expect::Anything)?.is_ok() {
        c.memory.failsafe.members = Some(members);
    }
    Ok(())
}

/// The DCS does not answer and this is the primary: asks all members whether it may go on, and if so prolongs the lock.
pub(super) fn keep_leading(c: &mut Cycle<'_>) -> Flow<bool> {
    let now = c.now();
    let Some(lock) = c.memory.lock.filter(|lock| now < lock.valid_until) else {
        return Ok(false);
    };
    let me = c.me().clone();
    let members = c.memory.failsafe.members.clone();
    let Some(members) = members.filter(|members| c.config().failsafe_mode && members.contains_key(&me))
    else {
        return Ok(false);
    };
    let ttl = c.config().ttl;
    // What is left of the lease, but for the stop; it all goes by `ttl`.
    let left = lock.valid_until.since(now.after(lease::time_to_stop(c.config())));
    let patience = left.min(c.config().retry_timeout).max(PATIENCE_MIN);
    let others = members.into_iter().filter(|(name, _)| *name != me);
    let others: Vec<Peer> = others
        .map(|(name, api_url)| Peer {
            name,
            api_url,
            patience,
        })
        .collect();
    let ping = ping(c)?;
    let (sent_at, replies) = c.failsafe(others, ping)?;
    let mut all_accept = true;
    for reply in &replies {
        match &reply.accepts {
            Ok(_) => c.note(notes::peer_answered(&reply.name)),
            Err(why) => {
                all_accept = false;
                c.note(notes::failsafe_refused(&reply.name, why));
            }
        }
    }
    // Somebody may have taken a lock that has run out meanwhile, and not be primary yet.
    if !all_accept || !c.memory.holds_lock(c.now()) {
        let now = c.now();
        c.memory.failsafe.refused_since.get_or_insert(now);
        return Ok(false);
    }
    c.lock(Action::ExtendLock { sent_at })?;
    c.lock_answer = None;
    c.memory.failsafe.until = Some(sent_at.after(ttl));
    c.memory.failsafe.refused_since = None;
    keep_leaders_slots(c, &replies)?;
    Ok(true)
}

/// Not all members have agreed for a moment. Whether it is too early to give up: one of them may just be started anew.
pub(super) fn may_ask_again(c: &Cycle<'_>) -> bool {
    let since = c.memory.failsafe.refused_since;
    since.is_none_or(|since| c.now() < since.after(c.config().retry_timeout))
}

fn ping(c: &mut Cycle<'_>) -> Flow<Ping> {
    let sql = observe::server(c)?.sql;
    let led = c.memory.led_cluster.clone();
    let slots = match (sql, led) {
        (Some(sql), Some(led)) => slots::to_publish(c, &led, &sql).0,
        _ => None,
    };
    let node = c.node();
    Ok(Ping {
        name: node.name.clone(),
        conn_url: node.conn_url.clone(),
        api_url: node.api_url.clone(),
        slots,
        ttl: c.config().ttl,
    })
}

/// Slots of members that stream from others are moved on by what those have told.
fn keep_leaders_slots(c: &mut Cycle<'_>, replies: &[FailsafeReply]) -> Flow<()> {
    let led = c.memory.led_cluster.clone();
    let Some(led) = led.filter(|led| led.is_leader(c.me()) && !c.began_task) else {
        return Ok(());
    };
    let mut cluster = Cluster::clone(&led);
    for member in &mut cluster.members {
        let reply = replies.iter().find(|reply| reply.name == member.name);
        if let Some(FailsafeReply {
            accepts: Ok(Some(lsn)),
            ..
        }) = reply
        {
            member.data.xlog_location = Some(*lsn);
        }
    }
    slots::keep(c, &cluster)
}

/// A replica moves its copies of the leader's slots on by what the leader has told.
pub(super) fn keep_slots(c: &mut Cycle<'_>) -> Flow<()> {
    let accepted = c
        .given()
        .failsafe
        .as_ref()
        .filter(|accepted| c.now() < accepted.until);
    match (accepted, c.memory.led_cluster.clone()) {
        (Some(accepted), Some(led)) if c.config().failsafe_mode => {
            let cluster: Arc<Cluster> = accepted.leads(&led);
            slots::keep(c, &cluster)
        }
        _ => Ok(()),
    }
}

/// The other members that the key `failsafe` lists, to be asked in a race.
pub(super) fn members(c: &Cycle<'_>, cluster: &Cluster) -> Vec<(MemberName, Peer)> {
    let listed = cluster
        .failsafe
        .iter()
        .filter(|_| c.config().failsafe_mode)
        .flatten();
    let others = listed.filter(|(name, _)| *name != c.me());
    others
        .map(|(name, api_url)| (name.clone(), peers::as_silent_address(c, name, api_url)))
        .collect()
}

/// Whether the key `failsafe` lists others and not that member: a leader may go on without asking it, so it may not take the
/// leader key.
pub(super) fn leaves_out(c: &Cycle<'_>, cluster: &Cluster, name: &MemberName) -> bool {
    let members = cluster.failsafe.as_ref().filter(|_| c.config().failsafe_mode);
    members.is_some_and(|members| !members.is_empty() && !members.contains_key(name))
}

/// Whether that member may count on what an earlier life of this agent has promised: that is over after `ttl`.
pub(super) fn may_count_on_us(c: &Cycle<'_>, cluster: &Cluster, name: &MemberName) -> bool {
    let members = cluster.failsafe.as_ref().filter(|_| c.config().failsafe_mode);
    let is_listed = members.is_some_and(|members| members.contains_key(name));
    let ttl = c.config().ttl;
    let until = c
        .memory
        .failsafe
        .known_since
        .map(|since| since.after(ttl).after(ttl / 50));
    is_listed && until.is_some_and(|until| c.now() < until)
}
