//! Our transactions and records in the etcd client's types, and back.

use etcd_client::{
    Compare as EtcdCompare, CompareOp, GetResponse, KeyValue, PutOptions, ResponseHeader, Txn as EtcdTxn,
    TxnOp, TxnOpResponse, TxnResponse,
};

use crate::{Compare, Op, OpResult, Record, Snapshot, Txn, TxnResult};

pub(super) fn txn(txn: &Txn) -> EtcdTxn {
    EtcdTxn::new()
        .when(txn.compare.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.then.iter().map(op).collect::<Vec<_>>())
        .or_else(txn.otherwise.iter().map(op).collect::<Vec<_>>())
}

fn compare(compare: &Compare) -> EtcdCompare {
    match compare {
        Compare::Absent(key) => EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::Value(key, value) => EtcdCompare::value(key.as_str(), CompareOp::Equal, value.as_str()),
        Compare::ModRevision(key, revision) => {
            EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, *revision)
        }
        Compare::Lease(key, lease) => EtcdCompare::lease(key.as_str(), CompareOp::Equal, *lease),
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => TxnOp::put(
            key.as_str(),
            value.as_str(),
            Some(PutOptions::new().with_lease(*lease)),
        ),
        Op::Delete(key) => TxnOp::delete(key.as_str(), None),
        Op::Get(key) => TxnOp::get(key.as_str(), None),
        Op::Txn(inner) => TxnOp::txn(txn(inner)),
    }
}

pub(super) fn result(response: &TxnResponse) -> TxnResult {
    TxnResult {
        succeeded: response.succeeded(),
        revision: response.header().map_or(0, ResponseHeader::revision),
        results: response.op_responses().iter().map(op_result).collect(),
    }
}

fn op_result(response: &TxnOpResponse) -> OpResult {
    match response {
        TxnOpResponse::Put(_) => OpResult::Put,
        TxnOpResponse::Delete(delete) => OpResult::Delete(delete.deleted()),
        TxnOpResponse::Get(get) => OpResult::Get(get.kvs().first().map(record)),
        TxnOpResponse::Txn(inner) => OpResult::Txn(result(inner)),
    }
}

/// What is not UTF-8 was not written by any agent; replaced, it reads as malformed, which is tolerated.
pub(super) fn record(kv: &KeyValue) -> Record {
    Record {
        value: String::from_utf8_lossy(kv.value()).into_owned(),
        mod_revision: kv.mod_revision(),
        lease: kv.lease(),
    }
}

pub(super) fn key(kv: &KeyValue) -> String {
    String::from_utf8_lossy(kv.key()).into_owned()
}

pub(super) fn snapshot(response: &GetResponse) -> Snapshot {
    Snapshot {
        revision: response.header().map_or(0, ResponseHeader::revision),
        generation: 0,
        records: response.kvs().iter().map(|kv| (key(kv), record(kv))).collect(),
    }
}
