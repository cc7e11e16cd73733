//! Whatever fails, no two members count on the lock at a time.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ha::cluster::Version;
use tamada_dcs::zookeeper::Zookeeper;
use tamada_dcs::{Dcs, Layout, Timing, WhenGone};

use super::hand::Hand;
use super::proxy::Proxy;
use super::server::{Ensemble, config_for};
use crate::contract::{expired, identity};

const TIMING: Timing = Timing {
    ttl: Duration::from_secs(2),
    loop_wait: Duration::from_millis(300),
    retry_timeout: Duration::from_secs(1),
};
const LENGTH: Duration = Duration::from_secs(25);

/// Until when each member counts on the lock.
#[derive(Default)]
struct Ledger {
    held: Mutex<BTreeMap<&'static str, Instant>>,
    history: Mutex<Vec<(&'static str, String)>>,
    counts: Mutex<BTreeMap<String, usize>>,
}

impl Ledger {
    fn hold(&self, name: &'static str, sent: Instant, how: &str) {
        let now = Instant::now();
        let mut held = self.held.lock().unwrap();
        for (other, until) in held.iter().filter(|(other, _)| **other != name) {
            assert!(
                *until <= now,
                "{name} holds the lock ({how}), and {other} counts on it for another {:?}",
                *until - now
            );
        }
        held.insert(name, sent + TIMING.ttl);
        let mut history = self.history.lock().unwrap();
        if history.last().is_none_or(|(last, _)| *last != name) {
            history.push((name, how.to_owned()));
        }
        self.count(how);
    }

    fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    fn forget(&self, name: &str) {
        self.held.lock().unwrap().remove(name);
    }

    fn counts(&self, name: &str) -> bool {
        let held = self.held.lock().unwrap();
        held.get(name).is_some_and(|until| *until > Instant::now())
    }
}

/// What the HA loop does with the lock, in short.
async fn lead_or_follow(name: &'static str, dcs: &Zookeeper, ledger: &Ledger, end: Instant) {
    let mut known: Option<(Version, Instant)> = None;
    while Instant::now() < end {
        let sent = Instant::now();
        let (how, answer) = if ledger.counts(name) {
            if fastrand::u8(..) < 12 {
                ledger.forget(name);
                let _ = dcs.release_leader(None).await;
                continue;
            }
            let renewed = dcs.renew_leader(WhenGone::Recreate).await;
            ("renewed", renewed.map(|renewed| renewed.is_held()))
        } else {
            let Ok(cluster) = dcs.load().await else {
                ledger.count("no view");
                continue;
            };
            let seen = cluster.heartbeat.as_ref().map(|heartbeat| heartbeat.version);
            known = seen.map(|version| match known {
                Some((before, since)) if before == version => (version, since),
                _ => (version, Instant::now()),
            });
            let is_old = known.is_some_and(|(_, since)| since.elapsed() >= TIMING.ttl + TIMING.ttl / 50);
            let sent = Instant::now();
            let answer = match &cluster.leader {
                None => ("acquired", dcs.acquire_leader().await),
                Some(leader) if leader.name.0 == name => {
                    let renewed = dcs.renew_leader(WhenGone::Lost).await;
                    ("found again", renewed.map(|renewed| renewed.is_held()))
                }
                Some(_) => match expired(&cluster).filter(|_| is_old) {
                    Some(expired) => ("superseded", dcs.supersede_leader(expired).await),
                    None => ("", Ok(false)),
                },
            };
            if let (how, Ok(true)) = answer {
                ledger.hold(name, sent, how);
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(20..120))).await;
            continue;
        };
        match answer {
            Ok(true) => ledger.hold(name, sent, how),
            Ok(false) => {
                ledger.count("lost");
                ledger.forget(name);
            }
            Err(error) => ledger.count(&format!("{error:#}").replace(char::is_numeric, "")),
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..400))).await;
    }
}

/// One thing after the other goes wrong.
async fn trouble(
    ensemble: &Ensemble,
    proxies: &[Proxy],
    members: &[(&'static str, &Zookeeper)],
    ledger: &Ledger,
    end: Instant,
) {
    while Instant::now() < end {
        let proxy = &proxies[fastrand::usize(..proxies.len())];
        let moment = Duration::from_millis(fastrand::u64(100..1500));
        match fastrand::u8(..6) {
            0 => proxy.cut(),
            1 => proxy.lose_answers(1),
            2 => {
                proxy.swallow_answers(true);
                tokio::time::sleep(moment).await;
                proxy.swallow_answers(false);
            }
            3 => {
                let index = fastrand::usize(..3);
                ensemble.freeze(index, true);
                tokio::time::sleep(moment).await;
                ensemble.freeze(index, false);
            }
            // All ways of the leader, if there is one.
            4 => {
                let leader = members.iter().position(|(name, _)| ledger.counts(name));
                let member = leader.unwrap_or_default() * 2;
                proxies[member..member + 2]
                    .iter()
                    .for_each(|proxy| proxy.shut(true));
                tokio::time::sleep(moment * 2).await;
                proxies[member..member + 2]
                    .iter()
                    .for_each(|proxy| proxy.shut(false));
            }
            // Its keys go, although it may count on the lock.
            _ => {
                let (_, member) = members[fastrand::usize(..3)];
                if let Some(lease) = member.lease() {
                    let port = ensemble.members[0].port;
                    let closed = tokio::task::spawn_blocking(move || Hand::end_session(port, &lease));
                    closed.await.unwrap();
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..300))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_members_count_on_the_lock() {
    let seed = fastrand::u64(..);
    let _ = writeln!(std::io::stderr(), "seed {seed}");
    fastrand::seed(seed);
    let ensemble = Ensemble::start(3);
    let proxies: Vec<Proxy> = (0..6)
        .map(|index| Proxy::start(ensemble.members[(index / 2 + index % 2) % 3].port))
        .collect();
    let open = async |name: &str, index: usize| {
        let config = config_for(proxies[index * 2..index * 2 + 2].iter().map(|proxy| proxy.port));
        let layout = Layout::new("service", "batman", None);
        Zookeeper::connect(&config, layout, Some(identity(name)), TIMING)
            .await
            .unwrap()
    };
    let (a, b, c) = (open("a", 0).await, open("b", 1).await, open("c", 2).await);
    let (ledger, end) = (Ledger::default(), Instant::now() + LENGTH);
    let members = [("a", &a), ("b", &b), ("c", &c)];
    tokio::join!(
        lead_or_follow("a", &a, &ledger, end),
        lead_or_follow("b", &b, &ledger, end),
        lead_or_follow("c", &c, &ledger, end),
        trouble(&ensemble, &proxies, &members, &ledger, end),
        trouble(&ensemble, &proxies, &members, &ledger, end),
    );
    let history = ledger.history.lock().unwrap();
    let _ = writeln!(
        std::io::stderr(),
        "{history:?} {:#?}",
        ledger.counts.lock().unwrap()
    );
    assert!(history.len() >= 2, "another member takes over");
}
