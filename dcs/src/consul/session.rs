//! The session that locks the leader key and the member key.
//!
//! Consul ends a session when twice its TTL has passed, so it is created for half of `ttl`. Where Consul's lower bound is
//! higher (`session_ttl_min`, 10 s), the session lives longer than `ttl`. The lock does not: it lives by the heartbeat.

use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::api::{Api, BOUND, part};
use crate::Error;
use crate::http::{Budget, lock};

const CREATE: &str = "create the session";

/// Consul's lower bound for a session's TTL where nobody has changed it, in seconds.
const USUAL_BOUND: f64 = 10.0;

/// How many former sessions are known.
const FORMER_SESSIONS: usize = 16;

#[derive(Debug, Clone)]
struct Held {
    id: String,
    /// The `ttl` and the checks that it was created for; `None` for a session of an earlier life.
    made_for: Option<(Duration, Vec<String>)>,
    refreshed: Option<Instant>,
}

#[derive(Debug, Default)]
struct Known {
    id: Option<String>,
    /// Sessions that this agent had before: keys may still be locked by the last ones.
    former: Vec<String>,
}

/// This member's session.
pub(super) struct Session {
    /// `<scope>-<name>`.
    name: String,
    /// Locked while Consul is asked, so that there is only one.
    held: Mutex<Option<Held>>,
    /// A copy for those who do not wait.
    known: Plain<Known>,
    has_told_of_bound: AtomicBool,
}

impl Session {
    pub(super) fn new(name: String, known: Option<&str>) -> Self {
        let known = known.filter(|id| is_id(id)).map(str::to_owned);
        let held = known.clone().map(|id| Held {
            id,
            made_for: None,
            refreshed: None,
        });
        Self {
            name,
            held: Mutex::new(held),
            known: Plain::new(Known {
                id: known,
                former: Vec::new(),
            }),
            has_told_of_bound: AtomicBool::new(false),
        }
    }

    pub(super) fn id(&self) -> Option<String> {
        lock(&self.known).id.clone()
    }

    /// The present session, or the last one that was: it tells this agent from others also after its end.
    pub(super) fn latest(&self) -> Option<String> {
        let known = lock(&self.known);
        known.id.clone().or_else(|| known.former.last().cloned())
    }

    /// Whether a session is, or was, this agent's.
    pub(super) fn knows(&self, id: &str) -> bool {
        let known = lock(&self.known);
        known.id.as_deref() == Some(id) || known.former.iter().any(|former| former == id)
    }

    /// As [`Session::knows`], by its number.
    pub(super) fn knows_number(&self, wanted: i64) -> bool {
        let known = lock(&self.known);
        let mut ids = known.id.iter().chain(&known.former);
        ids.any(|id| number(id) == wanted)
    }

    /// A session of a process of ours that has ended.
    pub(super) fn adopt(&self, id: &str) {
        if is_id(id) {
            lock(&self.known).add(id.to_owned());
        }
    }

    /// Renews the session now, or creates one if it is gone or `ttl` or the checks have changed. `confirm_store` is asked
    /// before a session is created in the place of one that is gone.
    pub(super) async fn keep(
        &self,
        api: &Api,
        budget: Budget,
        confirm_store: impl Future<Output = Result<(), Error>> + Send,
    ) -> Result<String, Error> {
        let mut held = self.held.lock().await;
        let wanted = (api.timing().ttl, api.config().checks.clone());
        if let Some(known) = held
            .clone()
            .filter(|held| held.made_for.as_ref().is_none_or(|made_for| *made_for == wanted))
        {
            match renew(api, budget, &known.id).await? {
                Some(lives_for) => {
                    // Of a session of an earlier life only its TTL is known.
                    let fits = known.made_for.is_some()
                        || lives_for.is_some_and(|lives_for| is_fit(&lives_for, wanted.0));
                    if fits {
                        *held = Some(Held {
                            made_for: Some(wanted),
                            refreshed: Some(Instant::now()),
                            ..known.clone()
                        });
                        return Ok(known.id);
                    }
                }
                None => {
                    tracing::info!("session {} is gone", known.id);
                    // A store that was wiped knows none of the sessions: nothing is locked there before the keys were read.
                    confirm_store.await?;
                }
            }
        }
        let id = self.create(api, budget, &wanted).await?;
        *held = Some(Held {
            id: id.clone(),
            made_for: Some(wanted),
            refreshed: Some(Instant::now()),
        });
        lock(&self.known).change(Some(id.clone()));
        Ok(id)
    }

    /// As [`Session::keep`], unless that was done less than half a cycle ago.
    pub(super) async fn keep_if_due(
        &self,
        api: &Api,
        budget: Budget,
        confirm_store: impl Future<Output = Result<(), Error>> + Send,
    ) -> Result<String, Error> {
        let timing = api.timing();
        let wanted = (timing.ttl, api.config().checks.clone());
        let held = self.held.lock().await.clone();
        let fresh = held.filter(|held| {
            let is_recent = held
                .refreshed
                .is_some_and(|at| at.elapsed() < timing.loop_wait / 2);
            is_recent && held.made_for.as_ref() == Some(&wanted)
        });
        match fresh {
            Some(held) => Ok(held.id),
            None => self.keep(api, budget, confirm_store).await,
        }
    }

    /// The session was found to be gone.
    pub(super) async fn forget(&self, id: &str) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| held.id == id) {
            *held = None;
            lock(&self.known).change(None);
        }
    }

    async fn create(
        &self,
        api: &Api,
        budget: Budget,
        wanted: &(Duration, Vec<String>),
    ) -> Result<String, Error> {
        let mut length = ttl(wanted.0);
        for _ in 0..2 {
            // Without `Checks` Consul would bind the session to the health of the agent's node. Its name is `NodeChecks` since 1.7.
            let body = json!({
                "Name": self.name, "TTL": length, "LockDelay": "1ms", "Behavior": "delete",
                "Checks": wanted.1, "NodeChecks": wanted.1,
            });
            let answer = api
                .change(CREATE, budget, "/v1/session/create", Some(body))
                .await?;
            if let Some(bound) = bound(&String::from_utf8_lossy(&answer.body)) {
                if !self.has_told_of_bound.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "Consul refuses a session TTL of {length} (half of ttl, as Consul waits for twice as long) and takes {bound} \
                         at least (session_ttl_min of its servers): member keys live longer than ttl; the leader's lock \
                         does not, among members that run Tamada"
                    );
                }
                length = bound;
                continue;
            }
            let value = answer.json().map_err(|why| api.http.unavailable(CREATE, why))?;
            return match value.get("ID").and_then(Value::as_str) {
                Some(id) => Ok(id.to_owned()),
                None => Err(api.http.unavailable(CREATE, answer.words())),
            };
        }
        Err(Error::Rejected(api.http.failure(CREATE, "no TTL is accepted")))
    }
}

impl Known {
    fn change(&mut self, id: Option<String>) {
        if self.id != id
            && let Some(former) = std::mem::replace(&mut self.id, id)
        {
            self.add(former);
        }
    }

    fn add(&mut self, former: String) {
        self.former.push(former);
        let surplus = self.former.len().saturating_sub(FORMER_SESSIONS);
        self.former.drain(..surplus);
    }
}

/// `None`: it is gone. Otherwise its TTL as Consul has it.
async fn renew(api: &Api, budget: Budget, id: &str) -> Result<Option<Option<String>>, Error> {
    const OPERATION: &str = "renew the session";
    let path = format!("/v1/session/renew/{}", part(id));
    let answer = api.change(OPERATION, budget, &path, None).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let value = answer
        .json()
        .map_err(|why| api.http.unavailable(OPERATION, why))?;
    let session = value.as_array().and_then(|sessions| sessions.first());
    let lives_for = session
        .and_then(|session| session.get("TTL")?.as_str())
        .map(str::to_owned);
    Ok(Some(lives_for))
}

/// The session's TTL: half of `ttl`, as Go writes a duration.
fn ttl(ttl: Duration) -> String {
    format!("{}s", (ttl / 2).as_secs_f64())
}

/// Whether a session with this TTL is what a new one would be: as long, or longer where Consul permits none that is shorter.
fn is_fit(lives_for: &str, wanted: Duration) -> bool {
    let seconds = lives_for
        .strip_suffix('s')
        .and_then(|text| text.parse::<f64>().ok());
    let shortest = (wanted / 2).as_secs_f64();
    lives_for == ttl(wanted) || seconds.is_some_and(|seconds| shortest < seconds && seconds <= USUAL_BOUND)
}

/// The lowest TTL that Consul's refusal names.
fn bound(answer: &str) -> Option<String> {
    let (_, rest) = answer.split_once(BOUND)?;
    let (bound, _) = rest.split_once("between [")?.1.split_once('=')?;
    Some(bound.to_owned())
}

fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// A session as the number that records have for leases; never 0, which means none. Session ids are random.
pub(super) fn number(id: &str) -> i64 {
    let digits = id.bytes().filter(u8::is_ascii_hexdigit).take(15);
    let digits: String = digits.map(char::from).collect();
    i64::from_str_radix(&digits, 16).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consuls_bound_is_found_in_its_refusal() {
        let refusal = "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]";
        assert_eq!(bound(refusal).as_deref(), Some("10s"));
        let by_an_agent = format!("rpc error making call: {refusal}");
        assert_eq!(bound(&by_an_agent).as_deref(), Some("10s"));
        assert_eq!(bound("Invalid Session TTL"), None);
        assert_eq!(bound(r#"{"ID":"x"}"#), None);
    }

    #[test]
    fn a_session_lives_for_half_of_ttl() {
        assert_eq!(ttl(Duration::from_secs(30)), "15s");
        assert_eq!(ttl(Duration::from_secs(5)), "2.5s");
        for (lives_for, wanted, fits) in [
            ("15s", 30, true),
            ("15s", 40, false),
            ("10s", 5, true),
            ("20s", 30, false),
        ] {
            assert_eq!(
                is_fit(lives_for, Duration::from_secs(wanted)),
                fits,
                "{lives_for} {wanted}"
            );
        }
    }

    #[test]
    fn only_an_id_of_consul_is_taken_for_a_session() {
        let id = "63a670f2-4196-5bce-e84f-e50efbd33891";
        let session = Session::new("a".to_owned(), Some("4711"));
        assert_eq!(session.id(), None);
        session.adopt("4711");
        session.adopt(id);
        assert!(session.knows(id) && !session.knows("4711"));
        assert!(session.knows_number(number(id)));
        assert_eq!(number(id), 0x63a_670f_2419_65bc);
    }
}
