//! The verbs of a DCS as transactions: the one place that knows which guard stands before which write.
//!
//! `is_repeat` says that an earlier attempt of the same call went unanswered and may have been applied. A guard that
//! fails then may have failed because of this call's own earlier success.

use ha::cluster::Version;
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

pub(crate) fn acquire_leader(layout: &Layout, name: &MemberName, lease: i64) -> Txn {
    Txn {
        compare: vec![Compare::Absent(layout.leader())],
        then: vec![put_leader(layout, name, lease)],
        otherwise: vec![Op::Get(layout.leader())],
    }
}

/// The key may be ours already, from an attempt that went unanswered.
pub(crate) fn is_acquired(result: &TxnResult, name: &MemberName, lease: i64) -> bool {
    result.succeeded || found(result).is_some_and(|record| is_ours(record, name, lease))
}

pub(crate) fn rebind_leader(layout: &Layout, name: &MemberName, lease: i64) -> Txn {
    let create = Txn {
        compare: vec![Compare::Absent(layout.leader())],
        then: vec![put_leader(layout, name, lease)],
        otherwise: Vec::new(),
    };
    Txn {
        compare: vec![Compare::Value(layout.leader(), name.0.clone())],
        then: vec![put_leader(layout, name, lease)],
        otherwise: vec![Op::Txn(Box::new(create))],
    }
}

pub(crate) fn is_rebound(result: &TxnResult) -> bool {
    let inner = result.results.first();
    result.succeeded || matches!(inner, Some(OpResult::Txn(inner)) if inner.succeeded)
}

pub(crate) fn take_leader(layout: &Layout, name: &MemberName, lease: i64) -> Txn {
    Txn {
        then: vec![put_leader(layout, name, lease)],
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

fn put_leader(layout: &Layout, name: &MemberName, lease: i64) -> Op {
    Op::Put {
        key: layout.leader(),
        value: name.0.clone(),
        lease,
    }
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
