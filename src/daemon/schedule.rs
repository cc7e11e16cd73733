//! When the next cycle is due, and which changes in the DCS are worth one at once.

use std::collections::BTreeMap;
use std::time::Duration;

use ha::cluster::{Cluster, ConfigKey, Failover, MemberData, SyncState, Tags, Version};
use ha::facts::Moment;
use ha::pg::{MemberName, ReplicationState, Role, ServerState, Timeline};

/// The rhythm of the cycles: one every `loop_wait`, counted from when the last one was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    next_run: Moment,
}

impl Schedule {
    /// The first cycle is due now.
    pub(crate) fn new(now: Moment) -> Self {
        Self { next_run: now }
    }

    /// When the next cycle is due.
    pub(crate) fn next_run(&self) -> Moment {
        self.next_run
    }

    /// A cycle has ended. Whether it took so long that the next one is overdue.
    pub(crate) fn advance(&mut self, now: Moment, loop_wait: Duration) -> bool {
        self.next_run = self.next_run.after(loop_wait);
        let is_late = self.next_run <= now;
        if is_late {
            self.next_run = now;
        }
        is_late
    }

    /// Something woke the loop before its time.
    pub(crate) fn woken(&mut self, now: Moment) {
        self.next_run = self.next_run.min(now);
    }
}

/// What of the cluster's state another member's cycle acts upon. Positions are left out: they move all the time, and
/// members that woke each other by publishing them would never sleep.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Essence {
    leader: Option<MemberName>,
    /// Of another leader: known the earlier, the earlier it is known to be over.
    heartbeat: Option<Version>,
    initialize: Option<String>,
    config: Option<ConfigKey>,
    failover: Option<Failover>,
    sync: SyncState,
    members: BTreeMap<MemberName, MemberEssence>,
    /// A Citus coordinator: the other groups.
    workers: BTreeMap<u32, Self>,
}

#[derive(Debug, Clone, PartialEq)]
struct MemberEssence {
    conn_url: Option<String>,
    api_url: Option<String>,
    state: Option<ServerState>,
    role: Option<Role>,
    replication_state: Option<ReplicationState>,
    timeline: Option<Timeline>,
    tags: Tags,
    checkpoint_after_promote: Option<bool>,
}

impl From<&MemberData> for MemberEssence {
    fn from(data: &MemberData) -> Self {
        Self {
            conn_url: data.conn_url.clone(),
            api_url: data.api_url.clone(),
            state: data.state,
            role: data.role,
            replication_state: data.replication_state,
            timeline: data.timeline,
            tags: data.tags.clone(),
            checkpoint_after_promote: data.checkpoint_after_promote,
        }
    }
}

impl Essence {
    /// Of another group only who its members are.
    fn of_worker(worker: &Cluster) -> Self {
        let members = Cluster {
            leader: worker.leader.clone(),
            members: worker.members.clone(),
            ..Cluster::default()
        };
        Self::of(&members, &MemberName(String::new()))
    }

    /// The part of `cluster` that matters to `me`, whose own member key does not.
    pub(crate) fn of(cluster: &Cluster, me: &MemberName) -> Self {
        let others = cluster.members.iter().filter(|member| &member.name != me);
        let heartbeat = cluster
            .heartbeat
            .as_ref()
            .filter(|heartbeat| &heartbeat.leader != me);
        Self {
            leader: cluster.leader_name().cloned(),
            heartbeat: heartbeat.map(|heartbeat| heartbeat.version),
            initialize: cluster.initialize.clone(),
            config: cluster.config.clone(),
            failover: cluster.failover.clone(),
            sync: cluster.sync.clone(),
            members: others
                .map(|member| (member.name.clone(), MemberEssence::from(&member.data)))
                .collect(),
            workers: cluster
                .workers
                .iter()
                .map(|(group, worker)| (*group, Self::of_worker(worker)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha::cluster::{Leader, Member, Status};
    use ha::pg::Lsn;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn cycles_keep_their_rhythm_and_catch_up_when_late() {
        let wait = Duration::from_secs(10);
        let mut schedule = Schedule::new(at(100));
        assert!(!schedule.advance(at(102), wait));
        assert_eq!(schedule.next_run(), at(110));
        schedule.woken(at(105));
        assert!(!schedule.advance(at(106), wait));
        assert_eq!(schedule.next_run(), at(115));
        schedule.woken(at(115));
        assert!(schedule.advance(at(140), wait));
        assert_eq!(schedule.next_run(), at(140));
    }

    fn member(name: &str, state: ServerState, lsn: u64) -> Member {
        Member {
            version: Version(1),
            name: name.into(),
            session: String::new(),
            data: MemberData {
                state: Some(state),
                xlog_location: Some(Lsn(lsn)),
                ..MemberData::default()
            },
        }
    }

    fn cluster() -> Cluster {
        Cluster {
            leader: Some(Leader {
                version: Version(1),
                name: "a".into(),
                session: "1".into(),
            }),
            members: vec![
                member("a", ServerState::Running, 1),
                member("b", ServerState::Running, 1),
            ],
            ..Cluster::default()
        }
    }

    #[test]
    fn positions_and_renewals_wake_nobody() {
        let before = Essence::of(&cluster(), &"b".into());
        let mut renewed = cluster();
        renewed.members[0] = member("a", ServerState::Running, 2);
        renewed.status = Status {
            optime: Some(Lsn(2)),
            ..Status::default()
        };
        renewed.leader = renewed.leader.map(|leader| Leader {
            session: "2".into(),
            version: Version(9),
            ..leader
        });
        assert_eq!(Essence::of(&renewed, &"b".into()), before);
    }

    #[test]
    fn what_others_do_wakes_and_what_i_did_does_not() {
        let mut changed = cluster();
        changed.members[1] = member("b", ServerState::Starting, 1);
        assert_ne!(
            Essence::of(&changed, &"a".into()),
            Essence::of(&cluster(), &"a".into())
        );
        assert_eq!(
            Essence::of(&changed, &"b".into()),
            Essence::of(&cluster(), &"b".into())
        );
        let mut unlocked = cluster();
        unlocked.leader = None;
        assert_ne!(
            Essence::of(&unlocked, &"b".into()),
            Essence::of(&cluster(), &"b".into())
        );
    }
}
