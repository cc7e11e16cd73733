//! The verbs of a DCS as transactions: the one place that knows which guard stands before which write.
//!
//! `is_repeat` says that an earlier attempt of the same call went unanswered and may have been applied. A guard that
//! fails then may have failed because of this call's own earlier success.

use std::time::Duration;

use ha::cluster::{Expired, Heartbeat, Sent, Version};
use ha::pg::MemberName;

use crate::{Compare, Expect, Key, Layout, Op, OpResult, Record, Txn, TxnResult};

/// What came of a guarded write or deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guarded<T> {
    /// It is done.
    Done(T),
    /// The guard did not hold.
    Refused,
    /// The guard did not hold, but an attempt that went unanswered may be the reason.
    Unknown,
}

/// Who wants to hold the leader key, and on what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) name: &'a MemberName,
    pub(crate) lease: i64,
    pub(crate) ttl: Duration,
    /// The lease without which this leader cannot be superseded.
    pub(crate) takeover: Option<i64>,
    /// When the claim was made, at the latest.
    pub(crate) sent: Option<Sent>,
}

impl Claim<'_> {
    /// The key bound to the lease, and with it the heartbeat.
    fn put(self) -> Vec<Op> {
        self.put_while(0)
    }

    /// As [`Claim::put`]; fails where `lease` does not exist.
    fn put_while(self, lease: i64) -> Vec<Op> {
        let leader = Op::Put {
            key: self.layout.leader(),
            value: self.name.0.clone(),
            lease: self.lease,
        };
        vec![leader, self.heartbeat(lease)]
    }

    fn heartbeat(self, lease: i64) -> Op {
        Op::Put {
            key: self.layout.heartbeat(),
            value: Heartbeat::to_json(self.name, self.ttl, self.takeover, self.sent),
            lease,
        }
    }
}

pub(crate) fn acquire_leader(claim: Claim<'_>) -> Txn {
    Txn {
        compare: vec![Compare::Absent(claim.layout.leader())],
        then: claim.put(),
        otherwise: vec![Op::Get(claim.layout.leader())],
    }
}

/// As [`acquire_leader`], from a holder that has not renewed its lock since. The new heartbeat is bound to the lease that
/// the holder revokes before it counts on the lease of the leader key alone: then the store refuses the transaction.
pub(crate) fn supersede_leader(claim: Claim<'_>, expired: Expired) -> Txn {
    Txn {
        compare: vec![
            Compare::ModRevision(claim.layout.leader(), expired.leader.0),
            Compare::ModRevision(claim.layout.heartbeat(), expired.heartbeat.0),
        ],
        then: claim.put_while(expired.takeover.unwrap_or_default()),
        otherwise: vec![Op::Get(claim.layout.leader())],
    }
}

/// Proves that the key is ours by writing the heartbeat where it is; tells what there is otherwise.
pub(crate) fn renew_leader(claim: Claim<'_>) -> Txn {
    let leader = claim.layout.leader();
    Txn {
        compare: vec![
            Compare::Value(leader.clone(), claim.name.0.clone()),
            Compare::Lease(leader, claim.lease),
        ],
        then: vec![claim.heartbeat(0)],
        otherwise: lock_keys(claim.layout),
    }
}

fn lock_keys(layout: &Layout) -> Vec<Op> {
    vec![Op::Get(layout.leader()), Op::Get(layout.heartbeat())]
}

/// Reads leader key and heartbeat without writing anything: a store that refuses writes carries it out.
pub(crate) fn look_at_lock(layout: &Layout) -> Txn {
    Txn {
        then: lock_keys(layout),
        ..Txn::default()
    }
}

/// What [`renew_leader`] found instead of the key as it should be, or [`look_at_lock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lock {
    /// The key is this member's and bound to this lease.
    Ours,
    /// The key, written at this revision, is this member's and bound to another lease that is known to be its own.
    Unbound(i64),
    /// Nobody holds the key. No other member has led since this one did: the heartbeat, written at this revision, is its own,
    /// or (0) there is none, as in a store that was wiped.
    Gone(i64),
    /// Somebody else holds the key, or nobody does and somebody else may have led meanwhile.
    Lost,
}

/// Judges what leader key and heartbeat say. `knows`: whether a lease is one of this very agent's. A key that is bound to no
/// lease (0) was written by hand: it is this member's where no other one has renewed its lock last.
pub(crate) fn lock(result: &TxnResult, name: &MemberName, lease: i64, knows: impl Fn(i64) -> bool) -> Lock {
    let heartbeat = heartbeat(result);
    let is_last = heartbeat.is_none_or(|record| {
        Heartbeat::parse(Version(record.mod_revision), &record.value)
            .is_some_and(|heartbeat| &heartbeat.leader == name)
    });
    match found(result) {
        Some(leader) if is_ours(leader, name, lease) => Lock::Ours,
        Some(leader) if leader.value == name.0 && (leader.lease == 0 && is_last || knows(leader.lease)) => {
            Lock::Unbound(leader.mod_revision)
        }
        None if is_last => Lock::Gone(heartbeat.map_or(0, |record| record.mod_revision)),
        Some(_) | None => Lock::Lost,
    }
}

/// The heartbeat that [`lock_keys`] read.
pub(crate) fn heartbeat(result: &TxnResult) -> Option<&Record> {
    match result.results.get(1) {
        Some(OpResult::Get(record)) => record.as_ref(),
        _ => None,
    }
}

/// The key may be ours already, from an attempt that went unanswered.
pub(crate) fn is_acquired(result: &TxnResult, name: &MemberName, lease: i64) -> bool {
    result.succeeded || found(result).is_some_and(|record| is_ours(record, name, lease))
}

/// Binds the key, which was found to be ours, to the present lease.
pub(crate) fn rebind_leader(claim: Claim<'_>, revision: i64) -> Txn {
    Txn {
        compare: vec![Compare::ModRevision(claim.layout.leader(), revision)],
        then: claim.put(),
        otherwise: vec![Op::Get(claim.layout.leader())],
    }
}

/// Creates the key again; `heartbeat` is the revision of our own heartbeat, or 0 where there is none.
pub(crate) fn recreate_leader(claim: Claim<'_>, heartbeat: i64) -> Txn {
    Txn {
        compare: vec![
            Compare::Absent(claim.layout.leader()),
            Compare::ModRevision(claim.layout.heartbeat(), heartbeat),
        ],
        then: claim.put(),
        otherwise: vec![Op::Get(claim.layout.leader())],
    }
}

/// Deletes a heartbeat by which its leader, which is `name`, could be superseded.
pub(crate) fn delete_heartbeat(layout: &Layout, name: &MemberName) -> Txn {
    Txn {
        compare: vec![Compare::Value(layout.leader(), name.0.clone())],
        then: vec![Op::Delete(layout.heartbeat())],
        otherwise: Vec::new(),
    }
}

/// Writes the member key, unless it was written since `seen`, its revision (0: it was not there).
pub(crate) fn touch_member(key: &str, data: &str, lease: i64, seen: i64) -> Txn {
    Txn {
        compare: vec![Compare::ModRevision(key.to_owned(), seen)],
        then: vec![Op::Put {
            key: key.to_owned(),
            value: data.to_owned(),
            lease,
        }],
        otherwise: vec![Op::Get(key.to_owned())],
    }
}

pub(crate) fn take_leader(claim: Claim<'_>) -> Txn {
    Txn {
        then: claim.put(),
        ..Txn::default()
    }
}

/// The revisions at which the leader key and the heartbeat were written, as a release expects to find them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    leader: i64,
    heartbeat: i64,
}

impl Held {
    /// What a member has that does not hold the key as far as it knows: the guard never holds.
    pub(crate) const NOTHING: Self = Self {
        leader: -1,
        heartbeat: -1,
    };

    /// The key of this very agent, or one that is bound to no lease and carries its name. `knows` as for [`lock`].
    pub(crate) fn new(
        leader: Option<&Record>,
        heartbeat: Option<&Record>,
        name: &MemberName,
        knows: impl Fn(i64) -> bool,
    ) -> Option<Self> {
        let leader = leader.filter(|it| it.value == name.0 && (it.lease == 0 || knows(it.lease)))?;
        Some(Self {
            leader: leader.mod_revision,
            heartbeat: heartbeat.map_or(0, |record| record.mod_revision),
        })
    }

    /// The same, from what a refused release found.
    pub(crate) fn found(result: &TxnResult, name: &MemberName, knows: impl Fn(i64) -> bool) -> Option<Self> {
        Self::new(found(result), heartbeat(result), name, knows)
    }
}

/// Status and deletion in one transaction: whoever sees the key gone finds the last position.
///
/// The guard is the revision of the key and of the heartbeat, not the name: a request that the network delivers late, or
/// that a killed agent had sent, must not delete a key that was acquired or renewed since.
pub(crate) fn release_leader(layout: &Layout, held: Held, status: Option<&str>) -> Txn {
    let status = status.map(|value| Op::Put {
        key: layout.key(Key::Status),
        value: value.to_owned(),
        lease: 0,
    });
    Txn {
        compare: vec![
            Compare::ModRevision(layout.leader(), held.leader),
            Compare::ModRevision(layout.heartbeat(), held.heartbeat),
        ],
        then: status.into_iter().chain([Op::Delete(layout.leader())]).collect(),
        otherwise: lock_keys(layout),
    }
}

pub(crate) fn is_released(result: &TxnResult, is_repeat: bool) -> bool {
    result.succeeded || (is_repeat && found(result).is_none())
}

pub(crate) fn is_ours(record: &Record, name: &MemberName, lease: i64) -> bool {
    record.value == name.0 && record.lease == lease
}

pub(crate) fn write(layout: &Layout, key: Key, value: &str, expect: Expect) -> Txn {
    let key = layout.key(key);
    Txn {
        compare: compare(&key, expect),
        then: vec![Op::Put {
            key: key.clone(),
            value: value.to_owned(),
            lease: 0,
        }],
        otherwise: vec![Op::Get(key)],
    }
}

pub(crate) fn written(result: &TxnResult, value: &str, expect: Expect, is_repeat: bool) -> Guarded<Version> {
    if result.succeeded {
        return Guarded::Done(Version(result.revision));
    }
    match (expect, found(result)) {
        // Nobody else's write of the very same value after the version we saw can be told from ours, nor need it be.
        (Expect::Version(seen), Some(record))
            if is_repeat && record.value == value && record.mod_revision > seen.0 =>
        {
            Guarded::Done(Version(record.mod_revision))
        }
        // Who has created a key is what matters: two members may both have written `""` to `initialize`.
        (Expect::Absent, Some(record)) if is_repeat && record.value == value => Guarded::Unknown,
        (Expect::Anything | Expect::Absent | Expect::Version(_), _) => Guarded::Refused,
    }
}

pub(crate) fn delete(layout: &Layout, key: Key, expect: Expect) -> Txn {
    let key = layout.key(key);
    Txn {
        compare: compare(&key, expect),
        then: vec![Op::Delete(key.clone())],
        otherwise: vec![Op::Get(key)],
    }
}

pub(crate) fn is_deleted(result: &TxnResult, is_repeat: bool) -> bool {
    result.succeeded || (is_repeat && found(result).is_none())
}

fn compare(key: &str, expect: Expect) -> Vec<Compare> {
    match expect {
        Expect::Anything => Vec::new(),
        Expect::Absent => vec![Compare::Absent(key.to_owned())],
        Expect::Version(version) => vec![Compare::ModRevision(key.to_owned(), version.0)],
    }
}

pub(crate) fn found(result: &TxnResult) -> Option<&Record> {
    match result.results.first() {
        Some(OpResult::Get(record)) => record.as_ref(),
        _ => None,
    }
}
