//! The primary's server died: it goes on in place, or a replica that is faster takes over at once.
//!
//! PostgreSQL replays the WAL from the last checkpoint on before it lets clients in, be it for minutes. How long that
//! will take is estimated by how much there is and how fast the last recovery of this server was. A failover costs more
//! than its time: connections move, the member that comes back may need pg_rewind. So it must be clearly faster, and it may
//! not lose what was committed, unless the recovery would outlast `primary_start_timeout`, after which the operator
//! wants a failover anyway.

use std::time::Duration;

use config::SynchronousMode;

use super::{peers, release};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::{CrashRecovery, PeerStatus};
use crate::memory::RewindState;
use crate::pg::{ControlData, DatabaseState, MemberName, Role};
use crate::reason::{Reason, notes};
use crate::step::Action;

/// How much WAL is taken to be replayed in a second as long as that has not been measured: a cautious guess, as disks
/// that have to be read from while replaying bear it. Too low a guess costs a failover, but no data.
const REPLAY_BYTES_PER_SECOND: u64 = 64 << 20;

/// A shorter recovery says nothing of the rate: starting a server takes its time too.
const MEASURED_BYTES_MIN: u64 = 64 << 20;

/// How long the key is under way, a replica is promoted, and clients find it.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// By how much a failover has to be faster.
const WORTH_A_FAILOVER: Duration = Duration::from_secs(2);

/// Whether another member shall take over rather than this one recover. If not, the recovery is about to begin.
pub(super) fn somebody_is_faster(c: &mut Cycle<'_>, cluster: &Cluster, control: &ControlData) -> Flow<bool> {
    c.memory.replaying = None;
    if control.state == DatabaseState::ShutDown {
        return Ok(false);
    }
    let Some(recovery) = c.crash_recovery()? else {
        return Ok(false);
    };
    let bytes = recovery.bytes();
    let in_place = replay_time(c, bytes);
    if in_place > TAKE_OVER + WORTH_A_FAILOVER {
        c.note(notes::recovery_would_take(bytes, in_place));
        // A rate that nobody has measured is no reason to lose anything.
        let is_hopeless =
            c.memory.replay_bytes_per_second.is_some() && in_place > c.config().primary_start_timeout;
        for (name, peer) in peers::candidates(c, cluster, None)? {
            if !peers::has_what_is_needed(c, cluster, &peer, None) {
                c.note(notes::candidate_lags(&name));
            } else if is_hopeless
                || (lacks_nothing(c, cluster, control, recovery, &name, &peer)
                    && is_faster(c, &peer, in_place))
            {
                return Ok(true);
            }
        }
    }
    let now = c.now();
    c.memory.replaying = Some((bytes, now));
    Ok(false)
}

/// A recovery in single-user mode has taken as long as a start may, and there is a member to take over. The key is given
/// up as soon as the recovery is told to end: it lets no client in.
pub(super) fn give_up_recovery(c: &mut Cycle<'_>) -> Flow<Reason> {
    c.note(notes::recovery_takes_too_long());
    drop(c.perform(Action::CancelTask)?);
    yield_to_another(c)?;
    Ok(Reason::TerminatedCrashRecovery)
}

/// Another member is to lead, and no server runs here.
pub(super) fn yield_to_another(c: &mut Cycle<'_>) -> Flow<()> {
    c.memory.role = Role::Demoted;
    let now = c.now();
    c.memory.demoted_at = Some(now);
    c.memory.rewind = RewindState::Check;
    release(c, None)
}

/// It has all of our WAL, or all that was acknowledged: with synchronous replication to certain members nothing is
/// acknowledged that they do not have. On another timeline it has other WAL, however far it goes.
fn lacks_nothing(
    c: &Cycle<'_>,
    cluster: &Cluster,
    control: &ControlData,
    recovery: CrashRecovery,
    name: &MemberName,
    peer: &PeerStatus,
) -> bool {
    let is_synchronous = c.config().synchronous_mode() == SynchronousMode::On
        && cluster.sync.quorum == 0
        && cluster.sync.lists(name, false);
    let is_ours = peer.timeline.is_none_or(|timeline| timeline == control.timeline);
    peer.in_recovery && (is_synchronous || (is_ours && peer.position >= Some(recovery.end)))
}

/// It has to replay what it has received, too.
fn is_faster(c: &Cycle<'_>, peer: &PeerStatus, in_place: Duration) -> bool {
    let position = peer.position.unwrap_or_default();
    let unreplayed = peer.replayed.map_or(0, |replayed| replayed.behind(position));
    let there = replay_time(c, unreplayed).saturating_add(TAKE_OVER);
    there.saturating_add(WORTH_A_FAILOVER) < in_place
}

fn replay_time(c: &Cycle<'_>, bytes: u64) -> Duration {
    let rate = c
        .memory
        .replay_bytes_per_second
        .unwrap_or(REPLAY_BYTES_PER_SECOND);
    Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1))
}

/// A start has ended: the rate of a recovery that came to its end is remembered.
pub(super) fn has_replayed(c: &mut Cycle<'_>, is_recovered: bool) {
    let Some((bytes, since)) = c.memory.replaying.take().filter(|_| is_recovered) else {
        return;
    };
    let taken_ms = u64::try_from(c.now().since(since).as_millis()).unwrap_or(u64::MAX);
    if bytes >= MEASURED_BYTES_MIN {
        c.memory.replay_bytes_per_second = Some((bytes.saturating_mul(1000) / taken_ms.max(1)).max(1));
    }
}
