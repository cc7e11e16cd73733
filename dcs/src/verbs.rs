//! The verbs of a DCS as transactions: the one place that knows which guard stands before which write.
//!
//! `is_repeat` says that an earlier attempt of the same call went unanswered and may have been applied. A guard that
//! fails then may have failed because of this call's own earlier success.

use std::time::Duration;

use ha::cluster::{Expired, Heartbeat, Version};
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
}

impl Claim<'_> {
    /// The key bound to the lease, and with it the heartbeat.
    fn put(self) -> Vec<Op> {
        let leader = Op::Put {
            key: self.layout.leader(),
            value: self.name.0.clone(),
            lease: self.lease,
        };
        vec![leader, self.heartbeat()]
    }

    fn heartbeat(self) -> Op {
        Op::Put {
            key: self.layout.heartbeat(),
            value: Heartbeat::to_json(self.name, self.ttl),
            lease: 0,
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

/// As [`acquire_leader`], from a holder that has not renewed its lock since.
pub(crate) fn supersede_leader(claim: Claim<'_>, expired: Expired) -> Txn {
    Txn {
        compare: vec![
            Compare::ModRevision(claim.layout.leader(), expired.leader.0),
            Compare::ModRevision(claim.layout.heartbeat(), expired.heartbeat.0),
        ],
        then: claim.put(),
        otherwise: vec![Op::Get(claim.layout.leader())],
    }
}

/// Proves that the key is ours by writing the heartbeat where it is.
pub(crate) fn renew_leader(claim: Claim<'_>) -> Txn {
    Txn {
        compare: vec![Compare::Value(claim.layout.leader(), claim.name.0.clone())],
        then: vec![Op::Get(claim.layout.leader()), claim.heartbeat()],
        otherwise: vec![Op::Get(claim.layout.leader())],
    }
}

pub(crate) fn is_renewed(result: &TxnResult, name: &MemberName, lease: i64) -> bool {
    result.succeeded && found(result).is_some_and(|record| is_ours(record, name, lease))
}

/// The key may be ours already, from an attempt that went unanswered.
pub(crate) fn is_acquired(result: &TxnResult, name: &MemberName, lease: i64) -> bool {
    result.succeeded || found(result).is_some_and(|record| is_ours(record, name, lease))
}

pub(crate) fn rebind_leader(claim: Claim<'_>) -> Txn {
    let create = Txn {
        compare: vec![Compare::Absent(claim.layout.leader())],
        then: claim.put(),
        otherwise: Vec::new(),
    };
    Txn {
        compare: vec![Compare::Value(claim.layout.leader(), claim.name.0.clone())],
        then: claim.put(),
        otherwise: vec![Op::Txn(Box::new(create))],
    }
}

pub(crate) fn is_rebound(result: &TxnResult) -> bool {
    let inner = result.results.first();
    result.succeeded || matches!(inner, Some(OpResult::Txn(inner)) if inner.succeeded)
}

pub(crate) fn take_leader(claim: Claim<'_>) -> Txn {
    Txn {
        then: claim.put(),
        ..Txn::default()
    }
}

/// Status and deletion in one transaction: whoever sees the key gone finds the last position.
pub(crate) fn release_leader(layout: &Layout, name: &MemberName, status: Option<&str>) -> Txn {
    let status = status.map(|value| Op::Put {
        key: layout.key(Key::Status),
        value: value.to_owned(),
        lease: 0,
    });
    Txn {
        compare: vec![Compare::Value(layout.leader(), name.0.clone())],
        then: status.into_iter().chain([Op::Delete(layout.leader())]).collect(),
        otherwise: vec![Op::Get(layout.leader())],
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

fn found(result: &TxnResult) -> Option<&Record> {
    match result.results.first() {
        Some(OpResult::Get(record)) => record.as_ref(),
        _ => None,
    }
}
