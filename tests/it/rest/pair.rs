//! A cluster of ours and one of Patroni's, brought into the same state.

use std::time::{Duration, Instant};

use super::difference::{Difference, Reason, compare, parts};
use super::request::Request;
use crate::harness::cluster::{Program, Timers};
use crate::harness::{Cluster, newest, versions};

/// How long one may be behind the other: a few cycles.
const PATIENCE: Duration = Duration::from_secs(12);

pub struct Pair {
    pub ours: Cluster,
    pub theirs: Cluster,
    reasons: &'static [Reason],
    unexplained: Vec<Difference>,
    explained: Vec<(Difference, usize)>,
    asked: usize,
}

impl Pair {
    /// Two members each, pg1 and pg2; nobody is started.
    pub fn new(reasons: &'static [Reason]) -> Self {
        let timers = Timers {
            loop_wait: 1,
            ..Timers::PATRONI
        };
        let ours = Cluster::with(newest(), 2, 1, timers);
        let mut theirs = Cluster::with(newest(), 0, 1, timers);
        for name in ["pg1", "pg2"] {
            theirs.add_member(
                name,
                Program {
                    path: versions::patroni().join("patroni"),
                    arguments: Vec::new(),
                },
            );
        }
        let pair = Self {
            ours,
            theirs,
            reasons,
            unexplained: Vec::new(),
            explained: Vec::new(),
            asked: 0,
        };
        for cluster in [&pair.ours, &pair.theirs] {
            for member in &cluster.members {
                let restapi = "restapi:\n  http_extra_headers:\n    X-Extra: some\n";
                member.edit_config("restapi:\n", restapi);
            }
        }
        pair
    }

    /// The same for both.
    pub fn both(&mut self, mut action: impl FnMut(&mut Cluster)) {
        action(&mut self.ours);
        action(&mut self.theirs);
    }

    /// Asks both what changes nothing, and again for a while when they do not agree.
    pub fn compare(&mut self, state: &str, member: &str, requests: &[Request]) {
        println!("{state}: {} requests to {member}", requests.len());
        let until = Instant::now() + PATIENCE;
        let mut left: Vec<&Request> = requests.iter().collect();
        self.asked += left.len();
        loop {
            let mut found = Vec::new();
            left.retain(|request| {
                let mut differences = self.differences(state, member, request);
                differences.retain(|difference| self.reason(difference).is_none());
                let differs = !differences.is_empty();
                found.extend(differences);
                differs
            });
            if left.is_empty() || Instant::now() > until {
                self.unexplained.extend(found);
                break;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        for request in requests {
            for difference in self.differences_of_last(state, member, request) {
                self.explain(difference);
            }
        }
    }

    /// Asks both what may change something, once.
    pub fn compare_once(&mut self, state: &str, member: &str, request: &Request) {
        self.asked += 1;
        for difference in self.differences(state, member, request) {
            if self.reason(&difference).is_some() {
                self.explain(difference);
            } else {
                self.unexplained.push(difference);
            }
        }
    }

    fn differences_of_last(&self, state: &str, member: &str, request: &Request) -> Vec<Difference> {
        let mut differences = self.differences(state, member, request);
        differences.retain(|difference| self.reason(difference).is_some());
        differences
    }

    fn explain(&mut self, difference: Difference) {
        let Some(reason) = self.reason(&difference) else {
            return;
        };
        if !self.explained.iter().any(|(_, known)| *known == reason) {
            self.explained.push((difference, reason));
        }
    }

    fn reason(&self, difference: &Difference) -> Option<usize> {
        self.reasons.iter().position(|reason| (reason.fits)(difference))
    }

    fn differences(&self, state: &str, member: &str, request: &Request) -> Vec<Difference> {
        // Side by side, so that a request that takes long does so for both at once.
        let ports = [&self.ours, &self.theirs].map(|cluster| cluster.member(member).rest_port);
        let [ours, theirs] = std::thread::scope(|scope| {
            let sent = ports.map(|port| scope.spawn(move || request.send(port)));
            sent.map(|answer| answer.join().unwrap())
        });
        let (ours, theirs) = (parts(&ours), parts(&theirs));
        compare(&ours, &theirs)
            .into_iter()
            .map(|(what, ours, theirs)| Difference {
                state: state.to_owned(),
                member: member.to_owned(),
                request: request.to_string(),
                what,
                ours,
                theirs,
            })
            .collect()
    }

    /// For a test that ends in the middle.
    fn show(&self) {
        self.unexplained
            .iter()
            .for_each(|difference| println!("without a reason: {difference}"));
    }

    /// Fails with all differences that have no reason.
    #[track_caller]
    pub fn assert_explained(&self) {
        println!("{} requests to each", self.asked);
        for (difference, reason) in &self.explained {
            let why = self.reasons.get(*reason).map_or("", |reason| reason.why);
            println!("meant: {why}\n    for example {difference}");
        }
        assert!(
            self.unexplained.is_empty(),
            "{} differences without a reason",
            self.unexplained.len()
        );
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
            // Both clusters' logs go to the same place, and the last ones stay.
            let kept = versions::target().join("tmp/logs/ours");
            let _ = std::fs::remove_dir_all(&kept);
            std::fs::create_dir_all(&kept).unwrap();
            for member in &self.ours.members {
                std::fs::write(kept.join(&member.name), member.log()).unwrap();
            }
        }
    }
}
