//! The lock: which transaction each of its verbs is, and what the keys say about who holds it.
//!
//! A renewal is a transaction that checks that the leader key is locked by our session and writes the heartbeat: a quorum has taken
//! it, so it is the proof. The heartbeat names the session that wrote it, so that another agent of the same name, or an
//! earlier life of this one, is not taken for us.

use std::sync::atomic::Ordering;

use ha::cluster::{Expired, Heartbeat};
use serde_json::{Value, json};

use super::api::{Op, Read};
use super::copy;
use super::session::number;
use super::store::Written;
use super::{Consul, Holder};
use crate::http::Budget;
use crate::{Error, Key, Record, Renewed, WhenGone};

const RENEW: &str = "renew the leader key";
const RELEASE: &str = "release the leader key";

/// How often a decision is made again on what a refused transaction found.
const ROUNDS: usize = 4;

/// What is found instead of a key that our session has locked.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Ours,
    /// The key, last written at this index, is ours and locked by no session, or by a former one of ours.
    Unbound(i64),
    /// Nobody holds the key, and the heartbeat of this index is ours, or (0) there is none.
    Gone(i64),
    Lost,
}

impl Consul {
    fn leader_key(&self) -> String {
        self.store.layout.leader()
    }

    fn heartbeat_key(&self) -> String {
        self.store.layout.heartbeat()
    }

    fn heartbeat_value(&self, holder: &Holder, session: &str, is_withdrawn: bool) -> String {
        let ttl = if is_withdrawn {
            std::time::Duration::ZERO
        } else {
            self.store.api.timing().ttl
        };
        let text = Heartbeat::without_lease(&holder.name, ttl, Some(holder.clock.now()));
        let mut value: Value = serde_json::from_str(&text).unwrap_or_default();
        value["session"] = json!(session);
        // Consul takes a value that is written again as it is for no write.
        value["renewal"] = json!(holder.renewals.fetch_add(1, Ordering::Relaxed));
        value.to_string()
    }

    /// The session, renewed.
    async fn session(&self, holder: &Holder, budget: Budget) -> Result<String, Error> {
        let confirm = self.store.confirm(budget);
        holder.session.keep(&self.store.api, budget, confirm).await
    }

    /// Takes the lock by a transaction that begins with `checks`. Locks the key by the session, which is renewed first.
    async fn hold(
        &self,
        operation: &'static str,
        budget: Budget,
        checks: impl Fn() -> Vec<Op>,
    ) -> Result<bool, Error> {
        let holder = self.holder(operation)?;
        loop {
            let session = self.session(holder, budget).await?;
            let heartbeat = self.heartbeat_value(holder, &session, false);
            let mut ops = checks();
            // A key that another session has locked cannot be locked, but deleted.
            ops.push(Op::Delete(self.leader_key()));
            ops.push(Op::Lock(
                self.leader_key(),
                holder.name.0.clone(),
                session.clone(),
            ));
            ops.push(Op::Set(self.heartbeat_key(), heartbeat.clone()));
            match self.store.run(operation, budget, &ops).await? {
                Written::Done(index, _) => {
                    self.tell_leader(holder, &session, index);
                    self.tell_heartbeat(heartbeat, index);
                    return Ok(true);
                }
                Written::Refused { .. } => {
                    self.store.refresh(budget, Read::Confirmed).await?;
                    // It may be ours from an attempt that went unanswered.
                    return Ok(self.look(holder, &session) == Found::Ours
                        && self.prove(holder, budget, &session).await?.is_none());
                }
                Written::NoSession => holder.session.forget(&session).await,
            }
            if budget.left().is_zero() {
                let why = "the session was ended again and again";
                return Err(self.store.api.http.unavailable(operation, why));
            }
        }
    }

    fn tell_leader(&self, holder: &Holder, session: &str, index: i64) {
        let record = Record {
            value: holder.name.0.clone(),
            mod_revision: index,
            lease: number(session),
        };
        self.store.copy.tell(&self.leader_key(), index, Some(record));
    }

    fn tell_heartbeat(&self, value: String, index: i64) {
        let record = Record {
            value,
            mod_revision: index,
            lease: 0,
        };
        self.store.copy.tell(&self.heartbeat_key(), index, Some(record));
    }

    /// What the keys say that were just read.
    fn look(&self, holder: &Holder, session: &str) -> Found {
        let leader = self.store.copy.record(&self.leader_key());
        let heartbeat = self.store.copy.record(&self.heartbeat_key());
        let name = &holder.name;
        let is_own = |record: &Record| copy::is_own(record, name, &holder.session);
        match (leader, heartbeat) {
            (Some(leader), _) if leader.value != name.0 => Found::Lost,
            (Some(leader), _) if leader.lease == number(session) => Found::Ours,
            // What no session has locked was written by hand.
            (Some(leader), last) if leader.lease == 0 && last.as_ref().is_none_or(is_own) => {
                Found::Unbound(leader.mod_revision)
            }
            (Some(leader), _) if holder.session.knows_number(leader.lease) => {
                Found::Unbound(leader.mod_revision)
            }
            (Some(_), _) => Found::Lost,
            (None, None) => Found::Gone(0),
            (None, Some(record)) if is_own(&record) => Found::Gone(record.mod_revision),
            (None, Some(_)) => Found::Lost,
        }
    }

    pub(super) async fn acquire(&self) -> Result<bool, Error> {
        const OPERATION: &str = "acquire the leader key";
        let holder = self.holder(OPERATION)?;
        let budget = self.store.api.http.persistent();
        let mut is_fresh = false;
        for _ in 0..ROUNDS {
            let leader = self.store.copy.record(&self.leader_key());
            let heartbeat = self.store.copy.record(&self.heartbeat_key());
            let is_free = self
                .store
                .copy
                .is_free(heartbeat.as_ref(), &holder.name, &holder.session);
            if leader.is_some() || !is_free {
                if is_fresh {
                    // As with every verb of the lock, the session is there afterwards.
                    let confirm = self.store.confirm(budget);
                    holder
                        .session
                        .keep_if_due(&self.store.api, budget, confirm)
                        .await?;
                    let is_ours = |leader: &Record| {
                        let session = holder.session.id();
                        leader.value == holder.name.0 && session.is_some_and(|id| number(&id) == leader.lease)
                    };
                    return Ok(leader.is_some_and(|leader| is_ours(&leader))
                        && self.renew(WhenGone::Lost).await?.is_held());
                }
                // The copy may be behind.
                self.store.refresh(budget, Read::Confirmed).await?;
                is_fresh = true;
                continue;
            }
            let index = heartbeat.map_or(0, |record| record.mod_revision);
            let checks = || {
                vec![
                    Op::CheckAbsent(self.leader_key()),
                    Op::check(self.heartbeat_key(), index),
                ]
            };
            if self.hold(OPERATION, budget, checks).await? {
                return Ok(true);
            }
            // Refused, and what there is instead was read.
            is_fresh = true;
        }
        Ok(false)
    }

    pub(super) async fn supersede(&self, expired: Expired) -> Result<bool, Error> {
        let budget = self.store.api.http.persistent();
        let checks = || {
            vec![
                Op::check(self.leader_key(), expired.leader.0),
                Op::check(self.heartbeat_key(), expired.heartbeat.0),
            ]
        };
        self.hold("supersede the leader", budget, checks).await
    }

    pub(super) async fn take(&self) -> Result<bool, Error> {
        let budget = self.store.api.http.persistent();
        self.hold("take the leader key", budget, Vec::new).await
    }

    pub(super) async fn renew(&self, when_gone: WhenGone) -> Result<Renewed, Error> {
        let holder = self.holder(RENEW)?;
        let budget = self.store.api.http.persistent();
        for _ in 0..ROUNDS {
            let session = match self.session(holder, budget).await {
                Ok(session) => session,
                Err(Error::Rejected(refused)) if when_gone == WhenGone::Recreate => {
                    return if self.prove_without_key(holder, budget).await? {
                        Ok(Renewed::Yes)
                    } else {
                        Err(Error::Rejected(refused))
                    };
                }
                Err(error) => return Err(error),
            };
            let Some(found) = self.prove(holder, budget, &session).await? else {
                return Ok(Renewed::Yes);
            };
            let checks = match found {
                // It was written between the proof and the read.
                Found::Ours => continue,
                Found::Lost => return Ok(Renewed::No),
                Found::Gone(_) if when_gone == WhenGone::Lost => return Ok(Renewed::No),
                Found::Gone(heartbeat) => vec![
                    Op::CheckAbsent(self.leader_key()),
                    Op::check(self.heartbeat_key(), heartbeat),
                ],
                Found::Unbound(index) => {
                    tracing::warn!("Recreating the leader key due to session mismatch");
                    vec![Op::CheckIndex(self.leader_key(), index)]
                }
            };
            if self.hold(RENEW, budget, || checks.clone()).await? {
                return Ok(Renewed::Yes);
            }
        }
        Err(self
            .store
            .api
            .http
            .unavailable(RENEW, "the leader key changed again and again"))
    }

    /// Has a quorum write the heartbeat where the key is locked by our session. `None`: it has; otherwise what there is instead.
    async fn prove(&self, holder: &Holder, budget: Budget, session: &str) -> Result<Option<Found>, Error> {
        let heartbeat = self.heartbeat_value(holder, session, false);
        let ops = [
            Op::CheckSession(self.leader_key(), session.to_owned()),
            Op::Get(self.leader_key()),
            Op::Set(self.heartbeat_key(), heartbeat.clone()),
        ];
        if let Written::Done(index, entries) = self.store.run(RENEW, budget, &ops).await? {
            // A plain write to a locked key leaves it locked.
            let leader = self.leader_key();
            let is_other = |entry: &&super::api::Entry| {
                entry.key == leader.trim_start_matches('/')
                    && !entry.value.is_empty()
                    && entry.value != holder.name.0
            };
            if entries.iter().any(|entry| is_other(&entry)) {
                self.store.refresh(budget, Read::Confirmed).await?;
                return Ok(Some(Found::Lost));
            }
            self.tell_heartbeat(heartbeat, index);
            return Ok(None);
        }
        self.store.refresh(budget, Read::Confirmed).await?;
        Ok(Some(self.look(holder, session)))
    }

    /// As [`Consul::prove`], while no session can be had to lock the key with, as on an agent that is leaving: where the key is gone and
    /// the heartbeat is ours, a newer heartbeat keeps everybody else from taking it.
    async fn prove_without_key(&self, holder: &Holder, budget: Budget) -> Result<bool, Error> {
        self.store.refresh(budget, Read::Confirmed).await?;
        let session = holder.session.latest().unwrap_or_default();
        let Found::Gone(index @ 1..) = self.look(holder, &session) else {
            return Ok(false);
        };
        let heartbeat = self.heartbeat_value(holder, &session, false);
        let ops = [
            Op::CheckAbsent(self.leader_key()),
            Op::CheckIndex(self.heartbeat_key(), index),
            Op::Set(self.heartbeat_key(), heartbeat.clone()),
        ];
        let Written::Done(index, _) = self.store.run(RENEW, budget, &ops).await? else {
            return Ok(false);
        };
        self.tell_heartbeat(heartbeat, index);
        Ok(true)
    }

    /// Deletes the key and withdraws the heartbeat, so that nobody waits for the lock to expire. The guard is the index of both:
    /// a request that arrives late finds another one. A heartbeat of ours is withdrawn as well where the key is gone already.
    pub(super) async fn release(&self, status: Option<&str>) -> Result<bool, Error> {
        let holder = self.holder(RELEASE)?;
        let budget = self.store.api.http.brief();
        let mut is_fresh = false;
        let mut is_repeat = false;
        for _ in 0..ROUNDS {
            let leader = self.store.copy.record(&self.leader_key());
            let heartbeat = self.store.copy.record(&self.heartbeat_key());
            let is_ours = |record: &Record| {
                let is_known = record.lease == 0 || holder.session.knows_number(record.lease);
                record.value == holder.name.0 && is_known
            };
            let counts = |record: &Record| {
                let is_withdrawn = copy::heartbeat(record).is_none_or(|heartbeat| heartbeat.ttl.is_zero());
                !is_withdrawn && copy::is_own(record, &holder.name, &holder.session)
            };
            let is_held = match &leader {
                Some(leader) => is_ours(leader),
                None => heartbeat.as_ref().is_some_and(counts),
            };
            if is_held {
                let index = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.mod_revision);
                let checks = [
                    Op::check(self.leader_key(), index(&leader)),
                    Op::check(self.heartbeat_key(), index(&heartbeat)),
                ];
                match self.withdraw(holder, budget, checks, status).await? {
                    Written::Done(..) => return Ok(true),
                    Written::Refused { is_repeat: repeat } => is_repeat |= repeat,
                    Written::NoSession => {}
                }
            } else if is_fresh {
                return Ok(is_repeat && leader.is_none());
            }
            self.store.refresh(budget, Read::Confirmed).await?;
            is_fresh = true;
        }
        Ok(false)
    }

    async fn withdraw(
        &self,
        holder: &Holder,
        budget: Budget,
        checks: [Op; 2],
        status: Option<&str>,
    ) -> Result<Written, Error> {
        let path = self.store.layout.key(Key::Status);
        let session = holder.session.latest().unwrap_or_default();
        let heartbeat = self.heartbeat_value(holder, &session, true);
        let mut ops = checks.to_vec();
        // First the position: who finds the key gone finds it, too.
        ops.extend(status.map(|value| Op::Set(path.clone(), value.to_owned())));
        ops.push(Op::Set(self.heartbeat_key(), heartbeat.clone()));
        ops.push(Op::Delete(self.leader_key()));
        let written = self.store.run(RELEASE, budget, &ops).await?;
        if let Written::Done(index, entries) = &written {
            if let Some(value) = status {
                let written = entries
                    .iter()
                    .find(|entry| entry.key == path.trim_start_matches('/'));
                let mod_revision = written.map_or(*index, |entry| entry.modify_index);
                let record = Record {
                    value: value.to_owned(),
                    mod_revision,
                    lease: 0,
                };
                self.store.copy.tell(&path, mod_revision, Some(record));
            }
            self.tell_heartbeat(heartbeat, *index);
            self.store.copy.tell(&self.leader_key(), *index, None);
        }
        Ok(written)
    }
}
