//! The leader record: who may write it when. Each verb is a decision on the record as it is known, and what it sends names the version
//! of the very object that it was decided on. An answer that is not a write is looked at again in a fresh read before it counts.

use std::time::Duration;

use ha::cluster::{Expired, Sent};
use ha::pg::MemberName;
use serde_json::{Value, json};

use super::cache::Facts;
use super::keys::{self, Annotations};
use super::objects::{Object, Place};
use crate::{Renewed, WhenGone};
use config::{KubernetesConfig, KubernetesPort};

/// What a verb does next.
#[derive(Debug)]
pub(super) enum Decision<T> {
    /// Write this.
    Send(Patch),
    /// There is nothing to write. What the copy says may be old: it counts when a fresh read says the same.
    Answer(T),
    /// As [`Decision::Answer`], whatever a fresh read would say.
    Settled(T),
}

/// A change of an object; one that does not exist is created with it.
#[derive(Debug, Default)]
pub(super) struct Patch {
    pub(super) annotations: Annotations,
    /// Of a pod. Objects have the labels of the place.
    pub(super) labels: Vec<(String, Option<String>)>,
    /// Of the leader's Endpoints object, if they are to be others.
    pub(super) subsets: Option<Value>,
    /// Only if the object is still the one that was decided on.
    pub(super) is_guarded: bool,
}

/// Who wants to hold the lock.
pub(super) struct Claim<'a> {
    pub(super) place: &'a Place,
    pub(super) config: &'a KubernetesConfig,
    pub(super) name: &'a MemberName,
    pub(super) session: i64,
    /// Sessions of this agent, the present one included.
    pub(super) sessions: &'a [i64],
    pub(super) ttl: Duration,
    /// Another one with every call: by it our write is known.
    pub(super) renew_time: String,
    /// When the call began, at the latest.
    pub(super) sent: Sent,
}

impl Claim<'_> {
    fn is_own(&self, session: i64) -> bool {
        self.sessions.contains(&session)
    }

    /// An attempt of this very call that went unanswered has written the record.
    fn is_written(&self, object: &Object) -> bool {
        object.annotation("renewTime") == Some(&self.renew_time) && self.is_own(keys::holder_session(object))
    }

    /// Makes us the holder. `acquireTime` stays where we are.
    fn write<T>(&self, facts: &Facts<'_>) -> Decision<T> {
        let object = facts.object;
        let get = |name| object.and_then(|object| object.annotation(name));
        let is_ours = get("leader") == Some(self.name.as_str());
        let known = get("transitions")
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
        let has_record = get("renewTime").is_some() || get("leader").is_some();
        let transitions = known + u64::from(has_record && !is_ours);
        let acquired = get("acquireTime").filter(|_| is_ours).unwrap_or(&self.renew_time);
        let session = keys::session_text(self.session, &self.renew_time, self.sent, self.name.as_str());
        let some = |text: &str| Some(text.to_owned());
        let annotations = vec![
            ("leader", some(self.name.as_str())),
            ("ttl", Some(seconds(self.ttl).to_string())),
            ("renewTime", some(&self.renew_time)),
            ("acquireTime", some(acquired)),
            ("transitions", Some(transitions.to_string())),
            (keys::SESSION, Some(session)),
        ];
        Decision::Send(Patch {
            annotations,
            subsets: self.subsets(facts),
            is_guarded: true,
            ..Patch::default()
        })
    }

    /// The addresses of the leader's Endpoints object, if they have to change. Patroni's rule: exactly one subset with one address.
    fn subsets(&self, facts: &Facts<'_>) -> Option<Value> {
        if !self.place.use_endpoints {
            return None;
        }
        let pod = facts.pod(self.name.as_str());
        let ip = self.config.pod_ip.clone().or_else(|| pod?.pod_ip.clone())?;
        let present = facts.object.map_or(&[][..], |object| object.subsets.as_slice());
        if is_subset_of(present, &ip, &self.config.ports) {
            return None;
        }
        let mut address = json!({"ip": ip});
        if let Some(pod) = pod {
            if let Some(hostname) = &pod.hostname {
                address["hostname"] = json!(hostname);
            }
            if let Some(node) = &pod.node_name {
                address["nodeName"] = json!(node);
            }
            address["targetRef"] = target(present, &ip, self.name.as_str()).unwrap_or_else(|| {
                json!({"kind": "Pod", "uid": pod.uid, "namespace": self.config.namespace, "name": pod.name,
                    "resourceVersion": pod.revision.text})
            });
        }
        let ports: Vec<Value> = self.config.ports.iter().map(port).collect();
        Some(json!([{"addresses": [address], "ports": ports}]))
    }
}

/// Creates the record, or fills one that nobody holds. A record of our name that an agent before us wrote counts as nobody's when it has
/// not been renewed for all of its time; everybody else's is taken by [`supersede`] alone.
pub(super) fn acquire(claim: &Claim<'_>, facts: &Facts<'_>) -> Decision<bool> {
    let Some(object) = facts.object else {
        return claim.write(facts);
    };
    if claim.is_written(object) {
        return Decision::Answer(true);
    }
    match object.annotation("leader") {
        None => claim.write(facts),
        Some(leader) if leader == claim.name.as_str() => {
            let is_free = claim.is_own(keys::holder_session(object)) || is_over(claim, facts, claim.ttl);
            if is_free {
                claim.write(facts)
            } else {
                Decision::Answer(false)
            }
        }
        Some(_) => Decision::Answer(false),
    }
}

/// Whether the record was seen unchanged for all of its time, and a fiftieth more for clocks that differ.
pub(super) fn is_over(claim: &Claim<'_>, facts: &Facts<'_>, ttl: Duration) -> bool {
    let heartbeat = facts.key(&claim.place.layout.heartbeat());
    let written = facts
        .object
        .and_then(|object| object.annotation("ttl")?.parse().ok());
    let ttl = written.map_or(ttl, Duration::from_secs).max(ttl);
    heartbeat.is_some_and(|known| known.since.elapsed() >= ttl + ttl / 50)
}

/// Takes the lock from a holder whose record is still the one that was seen to be over.
pub(super) fn supersede(claim: &Claim<'_>, facts: &Facts<'_>, expired: Expired) -> Decision<bool> {
    let Some(object) = facts.object else {
        return Decision::Answer(false);
    };
    if claim.is_written(object) {
        return Decision::Answer(true);
    }
    let layout = &claim.place.layout;
    let version = |path: &str| facts.key(path).map(|known| known.record.mod_revision);
    let is_same = version(&layout.leader()) == Some(expired.leader.0)
        && version(&layout.heartbeat()) == Some(expired.heartbeat.0);
    if is_same {
        claim.write(facts)
    } else {
        Decision::Answer(false)
    }
}

/// Whatever the record says.
pub(super) fn take(claim: &Claim<'_>, facts: &Facts<'_>) -> Decision<bool> {
    match facts.object {
        Some(object) if claim.is_written(object) => Decision::Answer(true),
        Some(_) | None => claim.write(facts),
    }
}

pub(super) fn renew(claim: &Claim<'_>, facts: &Facts<'_>, when_gone: WhenGone) -> Decision<Renewed> {
    let lost = Decision::Answer(Renewed::No);
    let Some(object) = facts.object else {
        // Deleted, as everything is where the cluster was removed.
        return if when_gone == WhenGone::Recreate {
            claim.write(facts)
        } else {
            lost
        };
    };
    if claim.is_written(object) {
        return Decision::Answer(Renewed::Yes);
    }
    match object.annotation("leader") {
        Some(leader) if leader == claim.name.as_str() => {
            let session = keys::holder_session(object);
            // Without a session it is of Patroni. Where another member has renewed last, a hand has put our name there.
            let is_anothers =
                keys::last_session(object).is_some_and(|last| last.leader != claim.name.as_str());
            let is_free = session == 0 && (!is_anothers || is_over(claim, facts, claim.ttl));
            if is_free || claim.is_own(session) {
                claim.write(facts)
            } else {
                lost
            }
        }
        Some(_) => lost,
        None => {
            // Who has led last: nobody, or the one that the session names if nobody has renewed since.
            let last = keys::last_session(object).map(|session| session.leader);
            let has_record = object.annotation("renewTime").is_some();
            let is_ours = !has_record || last == Some(claim.name.as_str());
            if is_ours && when_gone == WhenGone::Recreate {
                claim.write(facts)
            } else {
                lost
            }
        }
    }
}

/// Releases the lock and writes the last position in one write; in Endpoints mode traffic stops with it.
pub(super) fn release(
    claim: &Claim<'_>,
    facts: &Facts<'_>,
    status: &Annotations,
    is_repeat: bool,
) -> Decision<bool> {
    let Some(object) = facts.object else {
        return Decision::Answer(is_repeat);
    };
    let session = keys::holder_session(object);
    match object.annotation("leader") {
        Some(leader) if leader == claim.name.as_str() && (session == 0 || claim.is_own(session)) => {
            let mut annotations: Annotations = vec![("leader", None)];
            annotations.extend(status.iter().cloned());
            Decision::Send(Patch {
                annotations,
                subsets: (!object.subsets.is_empty()).then(|| json!([])),
                is_guarded: true,
                ..Patch::default()
            })
        }
        Some(_) => Decision::Answer(false),
        None => Decision::Answer(is_repeat),
    }
}

/// Kubernetes counts in whole seconds, as Patroni reads them.
fn seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}

fn port(port: &KubernetesPort) -> Value {
    let mut value = json!({"port": port.port});
    if let Some(name) = &port.name {
        value["name"] = json!(name);
    }
    if let Some(protocol) = &port.protocol {
        value["protocol"] = json!(protocol);
    }
    value
}

fn is_subset_of(present: &[Value], ip: &str, ports: &[KubernetesPort]) -> bool {
    let [subset] = present else { return false };
    let list = |key: &str| {
        subset
            .get(key)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    let [address] = list("addresses") else {
        return false;
    };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let same = |wanted: &KubernetesPort, found: &Value| {
        found.get("port").and_then(Value::as_u64) == Some(wanted.port.into())
            && text(found, "name") == wanted.name
            && text(found, "protocol").as_deref().unwrap_or("TCP")
                == wanted.protocol.as_deref().unwrap_or("TCP")
    };
    let found = list("ports");
    text(address, "ip").as_deref() == Some(ip)
        && found.len() == ports.len()
        && ports
            .iter()
            .all(|wanted| found.iter().any(|found| same(wanted, found)))
}

/// The reference to our own pod, if it is there already.
fn target(present: &[Value], ip: &str, name: &str) -> Option<Value> {
    let addresses = present
        .iter()
        .filter_map(|subset| subset.get("addresses")?.as_array())
        .flatten();
    let mut ours = addresses.filter(|address| address.get("ip").and_then(Value::as_str) == Some(ip));
    let target = ours.find_map(|address| address.get("targetRef"))?;
    (target.get("name").and_then(Value::as_str) == Some(name)).then(|| target.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Layout;

    fn object(value: &Value) -> Object {
        let mut value = value.clone();
        value["metadata"]["name"] = json!("demo");
        value["metadata"]["resourceVersion"] = json!("7");
        Object::parse(&value).unwrap()
    }

    fn with<T>(
        config: &KubernetesConfig,
        value: &Value,
        pods: &[Value],
        work: impl FnOnce(&Claim<'_>, &Facts<'_>) -> T,
    ) -> T {
        let place = Place::new(config, Layout::new("service", "demo", None));
        let claim = Claim {
            place: &place,
            config,
            name: &"a".into(),
            session: 5,
            sessions: &[5, 4],
            ttl: Duration::from_secs(30),
            renew_time: "t9".into(),
            sent: Sent { agent: 2, at_ms: 8 },
        };
        let pods: BTreeMap<String, Object> = pods
            .iter()
            .filter_map(Object::parse)
            .map(|pod| (pod.name.clone(), pod))
            .collect();
        work(&claim, &Facts::of(&object(value), &pods, &BTreeMap::new()))
    }

    fn record(leader: Option<&str>, session: Option<&str>) -> Value {
        let mut value = json!({"metadata": {"annotations": {"renewTime": "t1", "acquireTime": "t0", "transitions": "3"}}});
        if let Some(leader) = leader {
            value["metadata"]["annotations"]["leader"] = json!(leader);
        }
        if let Some(session) = session {
            value["metadata"]["annotations"][keys::SESSION] = json!(session);
        }
        value
    }

    fn is_sent<T>(decision: &Decision<T>) -> bool {
        matches!(decision, Decision::Send(_))
    }

    #[test]
    fn who_may_write_the_record() {
        let config = super::super::tests::config();
        // Holder, its session; acquire, renew, renew when the lock is over, release.
        let cases: &[(Option<&str>, Option<&str>, [bool; 4])] = &[
            (None, None, [true, false, false, false]),
            (None, Some("5 t1 1.1 a"), [true, true, false, false]),
            (None, Some("9 t1 1.1 a"), [true, true, false, false]),
            (None, Some("9 t1 1.1 b"), [true, false, false, false]),
            (None, Some("5 t0 1.1 a"), [true, false, false, false]),
            (Some("a"), Some("5 t1 1.1 a"), [true, true, true, true]),
            (Some("a"), Some("4 t1 1.1 a"), [true, true, true, true]),
            (Some("a"), Some("9 t1 1.1 a"), [false, false, false, false]),
            (Some("a"), None, [false, true, true, true]),
            (Some("b"), Some("9 t1 1.1 b"), [false, false, false, false]),
            (Some("b"), Some("5 t1 1.1 a"), [false, false, false, false]),
            (Some("b"), None, [false, false, false, false]),
        ];
        for (leader, session, expected) in cases {
            let found = with(&config, &record(*leader, *session), &[], |claim, facts| {
                [
                    is_sent(&acquire(claim, facts)),
                    is_sent(&renew(claim, facts, WhenGone::Recreate)),
                    is_sent(&renew(claim, facts, WhenGone::Lost)),
                    is_sent(&release(claim, facts, &Vec::new(), false)),
                ]
            });
            assert_eq!(found, *expected, "{leader:?} {session:?}");
        }
        let empty = json!({"metadata": {}});
        assert!(with(&config, &empty, &[], |claim, facts| is_sent(&renew(
            claim,
            facts,
            WhenGone::Recreate
        ))));
    }

    #[test]
    fn a_record_has_patronis_fields() {
        let config = super::super::tests::config();
        let sent = |leader: Option<&str>, session: Option<&str>| {
            with(
                &config,
                &record(leader, session),
                &[],
                |claim, facts| match take(claim, facts) {
                    Decision::Send(patch) => patch
                        .annotations
                        .into_iter()
                        .map(|(k, v)| format!("{k}={}", v.unwrap()))
                        .collect::<Vec<_>>()
                        .join(" "),
                    Decision::Answer(_) | Decision::Settled(_) => "nothing".to_owned(),
                },
            )
        };
        assert_eq!(
            sent(Some("b"), None),
            "leader=a ttl=30 renewTime=t9 acquireTime=t9 transitions=4 tamada-session=5 t9 2.8 a"
        );
        assert_eq!(
            sent(Some("a"), None),
            "leader=a ttl=30 renewTime=t9 acquireTime=t0 transitions=3 tamada-session=5 t9 2.8 a"
        );
        assert_eq!(
            sent(None, None),
            "leader=a ttl=30 renewTime=t9 acquireTime=t9 transitions=4 tamada-session=5 t9 2.8 a"
        );
    }

    #[test]
    fn the_subset_moves_with_the_lock() {
        let mut config = super::super::tests::config();
        config.use_endpoints = true;
        let pod = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "3"}, "status": {"podIP": "10.0.0.2"},
            "spec": {"nodeName": "n", "hostname": "a"}});
        let subsets = |value: &Value| {
            with(&config, value, std::slice::from_ref(&pod), |claim, facts| {
                claim.subsets(facts)
            })
        };
        let ours = json!([{"addresses": [{"ip": "10.0.0.2", "hostname": "a", "nodeName": "n", "targetRef":
            {"kind": "Pod", "uid": "u", "namespace": "default", "name": "a", "resourceVersion": "3"}}], "ports": [{"port": 5432}]}]);
        assert_eq!(subsets(&json!({"metadata": {}})), Some(ours.clone()));
        assert_eq!(subsets(&json!({"metadata": {}, "subsets": ours})), None);
        let mut others = ours.clone();
        others[0]["addresses"][0]["ip"] = json!("10.0.0.3");
        assert_eq!(
            subsets(&json!({"metadata": {}, "subsets": others})),
            Some(ours.clone())
        );
        let mut wrong = ours.clone();
        wrong[0]["ports"][0]["port"] = json!(1);
        wrong[0]["addresses"][0]["targetRef"]["resourceVersion"] = json!("1");
        let kept = subsets(&json!({"metadata": {}, "subsets": wrong})).unwrap();
        assert_eq!(
            kept[0]["addresses"][0]["targetRef"]["resourceVersion"], "1",
            "the reference is kept"
        );
        let released = with(
            &config,
            &{
                let mut v = record(Some("a"), None);
                v["subsets"] = ours;
                v
            },
            &[],
            |claim, facts| match release(claim, facts, &Vec::new(), false) {
                Decision::Send(patch) => patch.subsets,
                Decision::Answer(_) | Decision::Settled(_) => None,
            },
        );
        assert_eq!(released, Some(json!([])));
    }
}
