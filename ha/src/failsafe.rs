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

    /// Whether a leader may ask this of the member `me`, whose configuration says `ttl`. `listed` is the key failsafe and
    /// `cluster` the last reading of the DCS, however old. Where neither is known nothing can be held against it.
    ///
    /// Anybody may send a ping. One that is accepted keeps this member from the leader key, and tells it whom to follow: so
    /// only a member that is known may send one, with the addresses that it is known by.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        me: &MemberName,
        ttl: Duration,
        listed: Option<&BTreeMap<MemberName, String>>,
        cluster: Option<&Cluster>,
    ) -> Result<(), Refusal> {
        if self.name == *me {
            return Err(Refusal::Own);
        }
        if self.is_too_long(ttl) {
            return Err(Refusal::TooLong(self.ttl, ttl));
        }
        let member = cluster.and_then(|cluster| cluster.member(&self.name));
        let published = member.and_then(|member| member.data.api_url.as_deref());
        let listed_url = listed
            .and_then(|listed| listed.get(&self.name))
            .map(String::as_str);
        let is_known = [published, listed_url].contains(&Some(self.api_url.as_str()));
        if !is_known && (published.is_some() || listed_url.is_some()) {
            return Err(Refusal::Address("api_url"));
        }
        if !is_known && (listed.is_some() || cluster.is_some()) {
            return Err(Refusal::Stranger);
        }
        let has_known_server = match member.and_then(|member| member.data.conn_url.as_deref()) {
            Some(known) => known == self.conn_url,
            None => host_of(&self.conn_url).is_some() && host_of(&self.conn_url) == host_of(&self.api_url),
        };
        if has_known_server {
            Ok(())
        } else {
            Err(Refusal::Address("conn_url"))
        }
    }

    /// A promise for less time than the leader counts on would not be safe, and one for any time that is asked for could
    /// keep this member from the leader key for ever. A change of `ttl` that only one side has read is allowed for.
    fn is_too_long(&self, ttl: Duration) -> bool {
        self.ttl > ttl.saturating_mul(2)
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

/// Why a ping is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It bears this member's own name.
    #[error("this member is asked in its own name")]
    Own,
    /// Its `ttl`, and this member's.
    #[error("ttl_ms is {} and at most twice the {} ms of this member are accepted", .0.as_millis(), .1.as_millis())]
    TooLong(Duration, Duration),
    /// No such member is known.
    #[error("no member of that name is known")]
    Stranger,
    /// The member is known by another address.
    #[error("{0} is not the one that this member is known by")]
    Address(&'static str),
}

/// The host of an address like `postgres://10.0.0.1:5432/postgres`.
fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
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
    /// A leader asks, and [`Ping::check`] has nothing against it. Whether it is accepted; else this member is one itself,
    /// or about to be.
    pub fn accept(&mut self, ping: Ping, now: Moment, ttl: Duration) -> bool {
        if self.leads || self.is_racing || ping.is_too_long(ttl) {
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

    fn cluster(conn_url: &str) -> Cluster {
        let json = format!(r#"{{"conn_url":"{conn_url}","api_url":"http://a/patroni"}}"#);
        let member = |name: &str| Member {
            version: Version(1),
            name: name.into(),
            session: String::new(),
            data: MemberData::parse(&json),
        };
        Cluster {
            members: vec![member("a"), member("b")],
            ..Cluster::default()
        }
    }

    #[test]
    fn only_known_members_are_listened_to_with_their_known_addresses() {
        let known = cluster("postgres://a/");
        let listed = BTreeMap::from([("a".into(), "http://a/patroni".to_owned())]);
        let (empty, nobody) = (BTreeMap::new(), Cluster::default());
        let check = |ping: &Ping, listed, cluster| ping.check(&"b".into(), TTL, listed, cluster);
        let changed = |change: fn(&mut Ping)| {
            let mut ping = ping();
            change(&mut ping);
            ping
        };
        assert_eq!(check(&ping(), Some(&listed), Some(&known)), Ok(()));
        assert_eq!(check(&ping(), None, Some(&known)), Ok(()));
        assert_eq!(check(&ping(), Some(&listed), Some(&nobody)), Ok(()));
        assert_eq!(check(&ping(), None, None), Ok(()), "nothing is known");
        assert_eq!(
            check(&ping(), Some(&empty), Some(&nobody)),
            Err(Refusal::Stranger)
        );
        assert_eq!(
            ping().check(&"a".into(), TTL, Some(&listed), Some(&known)),
            Err(Refusal::Own)
        );
        let stranger = changed(|ping| ping.name = "x".into());
        assert_eq!(
            check(&stranger, Some(&listed), Some(&known)),
            Err(Refusal::Stranger)
        );
        let elsewhere = changed(|ping| ping.api_url = "http://evil/patroni".to_owned());
        assert_eq!(
            check(&elsewhere, Some(&listed), Some(&known)),
            Err(Refusal::Address("api_url"))
        );
        assert_eq!(
            check(&elsewhere, Some(&listed), None),
            Err(Refusal::Address("api_url"))
        );
        let redirected = changed(|ping| ping.conn_url = "postgres://evil/".to_owned());
        for cluster in [Some(&known), Some(&nobody), None] {
            assert_eq!(
                check(&redirected, Some(&listed), cluster),
                Err(Refusal::Address("conn_url"))
            );
        }
        let no_host = changed(|ping| {
            ping.conn_url = String::new();
            ping.api_url = String::new();
        });
        assert!(check(&no_host, None, None).is_err());
    }

    #[test]
    fn no_promise_is_longer_than_twice_the_own_ttl() {
        for (ttl_ms, is_accepted) in [
            (0, true),
            (30_000, true),
            (60_000, true),
            (60_001, false),
            (u64::MAX, false),
        ] {
            let ping = Ping {
                ttl: Duration::from_millis(ttl_ms),
                ..ping()
            };
            let known = cluster("postgres://a/");
            assert_eq!(
                ping.check(&"b".into(), TTL, None, Some(&known)).is_ok(),
                is_accepted,
                "{ttl_ms}"
            );
            let mut promise = Promise::default();
            assert_eq!(promise.accept(ping, at(100), TTL), is_accepted, "{ttl_ms}");
            assert!(promise.begin_race(at(100 + 60 + 2)), "{ttl_ms}");
        }
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
        assert!(promise.accept(ping(), at(100), Duration::from_secs(20)));
        assert!(!promise.begin_race(at(121)));
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
