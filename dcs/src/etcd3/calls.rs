//! One request and its retries: which endpoint is asked, for how long, and what an answer is worth.

mod another_store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use config::EtcdConfig;
use etcd_client::{Client, ResponseHeader};
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::faults::{self, Verdict};
use super::link::{self, LinkError};
use super::srv;
use crate::endpoints::{Endpoints, chance};
use crate::{Error, Failure, Timing};

/// The first pause before everything is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a call may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    deadline: Instant,
    /// How long one endpoint is given to answer.
    slice: Duration,
    /// Whether all endpoints are asked again and again until the deadline, or once.
    is_persistent: bool,
}

impl Budget {
    pub(super) fn is_spent(&self) -> bool {
        Instant::now() >= self.deadline
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// An answer as a call's closure reports it: the value and the header that came with it.
pub(super) struct Heard<T> {
    value: T,
    header: Option<(u64, u64)>,
    /// The store's revision, where a quorum has confirmed it.
    revision: Option<i64>,
}

impl<T> Heard<T> {
    pub(super) fn new(value: T, header: Option<&ResponseHeader>) -> Self {
        Self {
            value,
            header: header.map(|header| (header.cluster_id(), header.raft_term())),
            revision: None,
        }
    }

    /// The answer to a request that only a member in touch with a quorum answers.
    pub(super) fn confirmed(value: T, header: Option<&ResponseHeader>) -> Self {
        Self {
            revision: header.map(ResponseHeader::revision),
            ..Self::new(value, header)
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// The term in which the answering member was.
    pub(super) term: Option<u64>,
    /// An earlier attempt of the same call went unanswered and may have been carried out.
    pub(super) is_repeat: bool,
}

/// The newest state of etcd's consensus that was heard of.
#[derive(Debug, Default, Clone, Copy)]
struct Newest {
    cluster_id: u64,
    raft_term: u64,
    /// The newest revision that a quorum has confirmed.
    revision: i64,
    /// Goes up when another store is accepted.
    generation: u64,
}

impl Newest {
    /// Why an answer with this header is not believed; `None` when it is.
    fn doubts(&self, (cluster_id, raft_term): (u64, u64)) -> Option<String> {
        if self.cluster_id == 0 || (cluster_id == self.cluster_id && raft_term >= self.raft_term) {
            return None;
        }
        Some(if cluster_id == self.cluster_id {
            format!(
                "stale: it is in raft term {raft_term}, the cluster in {}",
                self.raft_term
            )
        } else {
            format!(
                "it belongs to another etcd cluster, {cluster_id:x} instead of {:x}",
                self.cluster_id
            )
        })
    }
}

/// No answer of the old store is expected any more; what was decided on it is not done in the new one.
pub(super) const REPLACED: &str =
    "another store answers than before: it was wiped or restored, or is another etcd cluster";

/// The way to etcd that all verbs and the watch share.
pub(super) struct Calls {
    config: Mutex<Arc<EtcdConfig>>,
    timing: Mutex<Timing>,
    /// A key that this agent may read.
    probe: String,
    configured: Mutex<Vec<String>>,
    endpoints: Mutex<Endpoints>,
    clients: Mutex<BTreeMap<String, Client>>,
    newest: Mutex<Newest>,
    /// Goes up when another endpoint is taken into use.
    moves: watch::Sender<u64>,
    /// The list of members ought to be read again soon.
    pub(super) is_list_old: Notify,
}

impl Calls {
    pub(super) fn new(config: &EtcdConfig, configured: Vec<String>, timing: Timing, probe: String) -> Self {
        Self {
            probe,
            config: Mutex::new(Arc::new(config.clone())),
            timing: Mutex::new(timing),
            configured: Mutex::new(configured.clone()),
            endpoints: Mutex::new(Endpoints::new(configured)),
            clients: Mutex::default(),
            newest: Mutex::default(),
            moves: watch::channel(0).0,
            is_list_old: Notify::new(),
        }
    }

    pub(super) fn timing(&self) -> Timing {
        *lock(&self.timing)
    }

    pub(super) fn set_timing(&self, timing: Timing) {
        *lock(&self.timing) = timing;
    }

    /// Another configuration: every connection is made anew.
    pub(super) fn reconfigure(&self, config: &EtcdConfig, configured: Vec<String>) {
        *lock(&self.config) = Arc::new(config.clone());
        (*lock(&self.configured)).clone_from(&configured);
        lock(&self.endpoints).replace(configured);
        lock(&self.clients).clear();
        self.moves.send_modify(|count| *count += 1);
    }

    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// The endpoint in use, for messages.
    pub(super) fn current(&self) -> String {
        lock(&self.endpoints).current().unwrap_or_default().to_owned()
    }

    /// For a verb that must come through if that is at all possible.
    pub(super) fn persistent(&self) -> Budget {
        let total = self.timing().retry_timeout;
        let count = lock(&self.endpoints).len();
        Budget {
            deadline: Instant::now() + total,
            slice: slice(total, count),
            is_persistent: true,
        }
    }

    /// For a verb that the next cycle repeats anyway: every endpoint once, and no longer than one slice.
    pub(super) fn brief(&self) -> Budget {
        let count = lock(&self.endpoints).len();
        let slice = slice(self.timing().retry_timeout, count);
        let share = if count > 1 { slice / 2 } else { slice };
        Budget {
            deadline: Instant::now() + slice,
            slice: share,
            is_persistent: false,
        }
    }

    /// Asks the endpoint in use, and others when it does not answer, until the budget is spent. `ask` may be called
    /// several times. Success means that a request sent during this call succeeded.
    pub(super) async fn run<T>(
        &self,
        operation: &'static str,
        budget: Budget,
        ask: impl Fn(Client) -> BoxFuture<'static, Result<Heard<T>, etcd_client::Error>>,
    ) -> Result<Answer<T>, Error> {
        let mut attempts = Attempts {
            operation,
            is_repeat: false,
            is_doubted: false,
            tried: Vec::new(),
            last: None,
        };
        let mut pause = FIRST_PAUSE;
        let generation = self.generation();
        loop {
            let order = lock(&self.endpoints).order();
            for url in &order {
                if budget.is_spent() {
                    return Err(attempts.give_up());
                }
                if self.generation() != generation {
                    return Err(attempts.replaced());
                }
                if let Some(answer) = self.attempt(url, budget, &ask, &mut attempts).await? {
                    self.select(url, &attempts);
                    return Ok(answer);
                }
            }
            if attempts.is_doubted && self.accepts_another_store(budget, generation).await {
                return Err(attempts.replaced());
            }
            let left = budget.deadline.saturating_duration_since(Instant::now());
            if !budget.is_persistent || left <= pause {
                return Err(attempts.give_up());
            }
            let jitter = Duration::from_millis(chance() % 100);
            tokio::time::sleep((pause + jitter).min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One endpoint's turn. `None`: take the next one.
    async fn attempt<T>(
        &self,
        url: &str,
        budget: Budget,
        ask: &impl Fn(Client) -> BoxFuture<'static, Result<Heard<T>, etcd_client::Error>>,
        attempts: &mut Attempts,
    ) -> Result<Option<Answer<T>>, Error> {
        let until = budget.deadline.min(Instant::now() + budget.slice);
        let mut has_authenticated = false;
        loop {
            let known = lock(&self.newest).revision;
            let asked = timeout_at(until, async {
                let client = self.client(url, budget.slice).await?;
                Ok::<_, LinkError>((client.clone(), ask(client).await?))
            });
            let error = match asked.await {
                Ok(Ok((_, heard))) => return Ok(self.judge_answer(url, heard, known, attempts)),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.forget(url);
                    attempts.timed_out(url, budget);
                    return Ok(None);
                }
            };
            let verdict = match &error {
                LinkError::Etcd(error) => faults::judge(error),
                // A certificate that is just being replaced, or a malformed address among the members': the start
                // has checked what is configured.
                LinkError::Tls(_) | LinkError::Transport(_) => Verdict::NotSent,
            };
            match verdict {
                Verdict::NotSent | Verdict::NextEndpoint => {
                    self.forget(url);
                    attempts.failed(url, verdict == Verdict::NextEndpoint, error.into());
                    return Ok(None);
                }
                Verdict::Later => {
                    attempts.failed(url, true, error.into());
                    return Ok(None);
                }
                Verdict::Authenticate if !has_authenticated && self.has_user() => {
                    // A new connection authenticates; the old token goes with the old one.
                    has_authenticated = true;
                    self.forget(url);
                }
                Verdict::Authenticate if !self.has_user() => {
                    let error = format!("{error}; are etcd3.username and etcd3.password missing?");
                    return Err(Error::Rejected(attempts.failure(url, error.into())));
                }
                Verdict::BadCredentials => {
                    return Err(Error::Fatal(attempts.failure(url, error.into())));
                }
                Verdict::Authenticate | Verdict::Refused => {
                    return Err(Error::Rejected(attempts.failure(url, error.into())));
                }
            }
        }
    }

    /// `known`: the newest revision when the request was sent.
    fn judge_answer<T>(
        &self,
        url: &str,
        heard: Heard<T>,
        known: i64,
        attempts: &mut Attempts,
    ) -> Option<Answer<T>> {
        let has_gone_back = heard.revision.filter(|revision| *revision < known);
        let heard_of = match has_gone_back {
            Some(revision) => Err(format!(
                "it is at revision {revision}, the cluster was at {known}"
            )),
            None => self.hear(heard.header, heard.revision),
        };
        if let Err(stale) = heard_of {
            attempts.failed(url, true, stale.into());
            attempts.is_doubted = true;
            return None;
        }
        let term = heard.header.map(|(_, term)| term);
        Some(Answer {
            value: heard.value,
            term,
            is_repeat: attempts.is_repeat,
        })
    }

    /// Why an answer with this header is not believed. What a quorum has confirmed (`revision`) is the newest state that is
    /// known. Other answers only have to fit it: a member that is cut off may be in a later raft term than its cluster.
    pub(super) fn hear(&self, header: Option<(u64, u64)>, revision: Option<i64>) -> Result<(), String> {
        let Some((cluster_id, raft_term)) = header else {
            return Ok(());
        };
        let mut newest = lock(&self.newest);
        if let Some(doubts) = newest.doubts((cluster_id, raft_term)) {
            return Err(doubts);
        }
        if let Some(revision) = revision {
            newest.cluster_id = cluster_id;
            newest.raft_term = newest.raft_term.max(raft_term);
            newest.revision = newest.revision.max(revision);
        }
        Ok(())
    }

    /// A change came on a watch of the store of `generation`: whatever a member tells, a quorum has agreed on. Who writes nothing
    /// would not notice otherwise that a store has gone back.
    pub(super) fn saw(&self, generation: u64, revision: i64) {
        let mut newest = lock(&self.newest);
        if newest.generation == generation {
            newest.revision = newest.revision.max(revision);
        }
    }

    /// Fails if another store answers than before.
    pub(super) async fn confirm_store(&self, budget: Budget) -> Result<(), Error> {
        let probe = self.probe.clone();
        let read = self.run("look whether it is the same store", budget, move |client| {
            let probe = probe.clone();
            Box::pin(async move {
                let response = client.kv_client().get(probe, None).await?;
                Ok(Heard::confirmed((), response.header()))
            })
        });
        read.await.map(|_| ())
    }

    /// A client for the endpoint, and its connection's authentication, made if there is none.
    async fn client(&self, url: &str, patience: Duration) -> Result<Client, LinkError> {
        if let Some(client) = lock(&self.clients).get(url) {
            return Ok(client.clone());
        }
        let config = lock(&self.config).clone();
        let client = link::open(&config, url, patience).await?;
        lock(&self.clients).insert(url.to_owned(), client.clone());
        Ok(client)
    }

    fn has_user(&self) -> bool {
        let config = lock(&self.config);
        config.username.is_some() && config.password.is_some()
    }

    /// Drops the connection, so that the next request makes a new one, with certificates read anew.
    fn forget(&self, url: &str) {
        lock(&self.clients).remove(url);
    }

    fn select(&self, url: &str, attempts: &Attempts) {
        if lock(&self.endpoints).select(url) {
            let reason = attempts.last.as_ref().map(|(_, reason)| chain(reason.as_ref()));
            tracing::warn!("Selected new etcd server {url}: {}", reason.unwrap_or_default());
            self.moves.send_modify(|count| *count += 1);
            self.is_list_old.notify_one();
        }
    }

    /// The watch has found the endpoint in use dead: the next one takes over.
    pub(super) fn leave(&self, url: &str) {
        self.forget(url);
        let mut endpoints = lock(&self.endpoints);
        let next = endpoints.order().get(1).cloned();
        let is_current = endpoints.current() == Some(url);
        if let Some(next) = next.filter(|_| is_current) {
            endpoints.select(&next);
            drop(endpoints);
            self.moves.send_modify(|count| *count += 1);
            self.is_list_old.notify_one();
        }
    }

    /// Reads the list of members and takes their addresses over, beside the configured ones. SRV records are looked
    /// up again.
    pub(super) async fn refresh_endpoints(&self, budget: Budget) -> Result<(), Error> {
        let config = lock(&self.config).clone();
        if config.use_proxies {
            return Ok(());
        }
        let left = budget.deadline.saturating_duration_since(Instant::now());
        if let Ok(Ok(configured)) = timeout(left, srv::configured(&config, left)).await {
            *lock(&self.configured) = configured;
        }
        let answer = self
            .run("list etcd's members", budget, |mut client| {
                Box::pin(async move {
                    let response = client.member_list().await?;
                    let members = response.members().iter();
                    let urls = members
                        .flat_map(|member| member.client_urls().to_vec())
                        .collect::<Vec<_>>();
                    Ok(Heard::new(urls, response.header()))
                })
            })
            .await?;
        let mut urls = lock(&self.configured).clone();
        urls.extend(answer.value);
        if lock(&self.endpoints).replace(urls) {
            self.moves.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}

/// What has been tried in one call.
struct Attempts {
    operation: &'static str,
    is_repeat: bool,
    /// An endpoint has answered and was not believed.
    is_doubted: bool,
    tried: Vec<String>,
    last: Option<(String, Box<dyn std::error::Error + Send + Sync>)>,
}

impl Attempts {
    /// What an attempt before has told says more than that the time was up in the middle of the next one.
    fn timed_out(&mut self, url: &str, budget: Budget) {
        let is_cut_short = budget.is_spent() && self.last.is_some();
        let told = self.last.take().filter(|_| is_cut_short);
        self.failed(url, true, "no answer in time".into());
        if told.is_some() {
            self.last = told;
        }
    }

    fn failed(
        &mut self,
        url: &str,
        is_maybe_applied: bool,
        reason: Box<dyn std::error::Error + Send + Sync>,
    ) {
        tracing::debug!(
            "etcd at {url}: could not {}: {}",
            self.operation,
            chain(reason.as_ref())
        );
        self.is_repeat |= is_maybe_applied;
        if !self.tried.iter().any(|tried| tried == url) {
            self.tried.push(url.to_owned());
        }
        self.last = Some((url.to_owned(), reason));
    }

    fn failure(&self, url: &str, source: Box<dyn std::error::Error + Send + Sync>) -> Failure {
        Failure {
            operation: self.operation,
            endpoint: url.to_owned(),
            source,
        }
    }

    fn replaced(mut self) -> Error {
        self.last = Some((String::new(), REPLACED.into()));
        self.give_up()
    }

    fn give_up(self) -> Error {
        let source = self
            .last
            .map_or_else(|| "no time left to ask".into(), |(_, reason)| reason);
        Error::Unavailable(Failure {
            operation: self.operation,
            endpoint: self.tried.join(", "),
            source,
        })
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// How long one of `count` endpoints is given: one endpoint has three tries, two have two each, more have one.
fn slice(total: Duration, count: usize) -> Duration {
    let shares = if count == 2 { 4 } else { 3 };
    (total / shares).max(Duration::from_millis(250)).min(total)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_behind_its_cluster_is_doubted_and_so_is_another_cluster() {
        let newest = Newest {
            cluster_id: 7,
            raft_term: 5,
            ..Newest::default()
        };
        assert_eq!(newest.doubts((7, 5)), None);
        assert_eq!(newest.doubts((7, 6)), None);
        assert!(newest.doubts((7, 4)).is_some_and(|text| text.contains("stale")));
        assert!(
            newest
                .doubts((8, 9))
                .is_some_and(|text| text.contains("another etcd cluster"))
        );
        assert_eq!(
            Newest::default().doubts((8, 9)),
            None,
            "the first that is heard of"
        );
    }

    #[test]
    fn a_slice_leaves_time_for_the_other_endpoints() {
        let ten = Duration::from_secs(10);
        assert_eq!(slice(ten, 1), ten / 3);
        assert_eq!(slice(ten, 2), ten / 4);
        assert_eq!(slice(ten, 7), ten / 3);
        assert_eq!(slice(Duration::from_millis(100), 1), Duration::from_millis(100));
    }
}
