//! `failsafe_mode`: what members promise a leader that does not reach the DCS (Patroni documentation, "DCS Failsafe Mode").
//!
//! A member that accepts a leader's ping promises not to take the leader key for `ttl`. The promise and the attempt to
//! take the key exclude each other: whoever asks for the key at this moment accepts nothing, and whoever has accepted
//! asks for nothing. `docs/failsafe.md` has the argument in full.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Leader, Member, MemberData, Version};
use crate::facts::Moment;
use crate::pg::{Lsn, MemberName, Role, SlotName};

/// What a leader that does not reach the DCS tells all others: the body of `POST /failsafe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Its name.
    pub name: MemberName,
    /// Where its PostgreSQL takes connections.
    pub conn_url: String,
    /// Its REST address.
    pub api_url: String,
    /// Positions of its replication slots, as in the key `status`.
    pub slots: Option<BTreeMap<SlotName, Lsn>>,
    /// For how long it counts on an answer; zero when it does not say, as Patroni does not.
    pub ttl: Duration,
}

impl Ping {
    /// Reads the body of a request. `None` without name or addresses.
    #[must_use]
    pub fn from_json(body: &serde_json::Map<String, Value>) -> Option<Self> {
        let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
        let slots = body.get("slots").and_then(Value::as_object).map(|slots| {
            let position =
                |(name, lsn): (&String, &Value)| Some((SlotName(name.clone()), Lsn(lsn.as_u64()?)));
            slots.iter().filter_map(position).collect()
        });
        Some(Self {
            name: MemberName(text("name")?),
            conn_url: text("conn_url")?,
            api_url: text("api_url")?,
            slots,
            ttl: Duration::from_millis(body.get("ttl_ms").and_then(Value::as_u64).unwrap_or(0)),
        })
    }

    /// The body of the request.
    #[must_use]
    pub fn to_json(&self) -> String {
        let slots = self.slots.as_ref().map(|slots| {
            let slots = slots.iter().map(|(name, lsn)| (name.0.clone(), json!(lsn)));
            Value::Object(slots.collect())
        });
        let ttl_ms = u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX);
        let body = json!({"name": self.name, "conn_url": self.conn_url, "api_url": self.api_url, "slots": slots, "ttl_ms": ttl_ms});
        body.to_string()
    }
}

/// A ping that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// What the leader told.
    pub ping: Ping,
    /// Until when the leader may count on it.
    pub until: Moment,
}

impl Accepted {
    /// The cluster as it is with that leader, although the DCS shows none.
    pub(crate) fn leads(&self, cluster: &Cluster) -> Arc<Cluster> {
        let mut led = cluster.clone();
        let ping = &self.ping;
        let known = led.members.iter().position(|member| member.name == ping.name);
        let data = known.map(|at| led.members.remove(at).data);
        led.members.push(Member {
            version: Version(0),
            name: ping.name.clone(),
            session: String::new(),
            data: MemberData {
                conn_url: Some(ping.conn_url.clone()),
                api_url: Some(ping.api_url.clone()),
                role: Some(Role::Primary),
                ..data.unwrap_or_default()
            },
        });
        led.members.sort_by(|one, other| one.name.cmp(&other.name));
        led.leader = Some(Leader {
            version: Version(0),
            name: ping.name.clone(),
            session: String::new(),
        });
        led.status.slots.clone_from(&ping.slots);
        Arc::new(led)
    }
}

/// What this member has promised, and whether it may promise anything: shared by the REST API and the HA loop.
#[derive(Debug, Clone, Default)]
pub struct Promise {
    accepted: Option<Accepted>,
    /// Not before then the DCS is asked for the leader key.
    may_race_from: Moment,
    /// The DCS was asked for the leader key, and whether it was given to us is not known yet.
    is_racing: bool,
    /// The leader key is ours, or the server takes writes.
    leads: bool,
}

impl Promise {
    /// A leader asks. Whether it is accepted; else this member is one itself, or about to be.
    pub fn accept(&mut self, ping: Ping, now: Moment, ttl: Duration) -> bool {
        if self.leads || self.is_racing {
            return false;
        }
        let held = ttl.max(ping.ttl);
        // A fiftieth more, for clocks that do not run quite alike.
        self.may_race_from = now.after(held).after(held / 50);
        self.accepted = Some(Accepted {
            ping,
            until: now.after(held),
        });
        true
    }

    /// The DCS is about to be asked for the leader key. Whether it may be: not before the promise has run out.
    pub fn begin_race(&mut self, now: Moment) -> bool {
        let may_race = now >= self.may_race_from;
        self.is_racing |= may_race;
        may_race
    }

    /// The DCS has told whether the leader key is ours.
    pub fn settle(&mut self, leads: bool) {
        self.is_racing = false;
        self.leads = leads;
    }

    /// A cycle is over. An attempt without an answer may still come true, unless another member was seen to lead.
    pub fn end_cycle(&mut self, leads: bool, another_leads: bool) {
        self.is_racing &= !another_leads;
        self.leads = leads;
    }

    /// What was accepted last and still counts.
    #[must_use]
    pub fn accepted(&self, now: Moment) -> Option<&Accepted> {
        self.accepted.as_ref().filter(|accepted| now < accepted.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn ping() -> Ping {
        let body = r#"{"name":"a","conn_url":"postgres://a/","api_url":"http://a/patroni","slots":{"b":7},"ttl_ms":30000}"#;
        let body: Value = serde_json::from_str(body).expect("JSON");
        body.as_object().and_then(Ping::from_json).expect("a ping")
    }

    #[test]
    fn a_ping_reads_what_it_prints() {
        let read: Value = serde_json::from_str(&ping().to_json()).unwrap_or_default();
        let read = read.as_object().and_then(Ping::from_json);
        assert_eq!(read, Some(ping()));
        assert_eq!(ping().name.as_str(), "a");
        assert_eq!(Ping::from_json(&serde_json::Map::new()), None);
    }

    #[test]
    fn who_has_accepted_takes_no_key() {
        let mut promise = Promise::default();
        assert!(promise.accept(ping(), at(100), TTL));
        assert!(promise.accepted(at(129)).is_some());
        assert!(promise.accepted(at(130)).is_none());
        assert!(!promise.begin_race(at(130)));
        assert!(promise.begin_race(at(131)));
    }

    #[test]
    fn the_leaders_own_ttl_counts_when_it_is_longer() {
        let mut promise = Promise::default();
        assert!(promise.accept(ping(), at(100), Duration::from_secs(10)));
        assert!(!promise.begin_race(at(111)));
    }

    #[test]
    fn who_asks_for_the_key_or_has_it_accepts_nothing() {
        let mut promise = Promise::default();
        assert!(promise.begin_race(at(100)));
        assert!(!promise.accept(ping(), at(100), TTL));
        promise.settle(true);
        assert!(!promise.accept(ping(), at(101), TTL));
        promise.settle(false);
        assert!(promise.accept(ping(), at(102), TTL));
    }
}
