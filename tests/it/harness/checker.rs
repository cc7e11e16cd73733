//! Witnesses of two primaries: each asks one server, directly and all the time, whether it takes writes.

use super::cluster::Cluster;
use super::sql;
use super::wait::SECOND;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(50);

/// One thread for each member that was there when it was made.
pub struct Witnesses {
    has_ended: Arc<AtomicBool>,
    reports: Vec<Report>,
}

struct Report {
    name: String,
    spans: Arc<Mutex<Vec<Span>>>,
    thread: Option<JoinHandle<()>>,
}

/// From the first to the last answer of one connection in which the server took writes all the time.
#[derive(Clone, Copy, Debug)]
struct Span {
    begin: Instant,
    end: Instant,
}

impl Witnesses {
    pub fn start(cluster: &Cluster) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let watch = |(name, conninfo): (String, String)| {
            let spans = Arc::new(Mutex::new(Vec::new()));
            let thread = std::thread::spawn({
                let (has_ended, spans) = (Arc::clone(&has_ended), Arc::clone(&spans));
                move || sql::block_on(witness(&has_ended, &spans, &conninfo))
            });
            Report {
                name,
                spans,
                thread: Some(thread),
            }
        };
        let members = cluster
            .members
            .iter()
            .map(|member| (member.name.clone(), member.conninfo()));
        let reports = members.map(watch).collect();
        Self { has_ended, reports }
    }

    /// Fails if two servers took writes at once.
    #[track_caller]
    pub fn assert_never_two_primaries(&self) {
        let overlap = self.longest_overlap();
        assert!(overlap.is_zero(), "two servers took writes for {overlap:?}");
    }

    /// The longest time in which two servers took writes; says which.
    #[track_caller]
    pub fn longest_overlap(&self) -> Duration {
        let all: Vec<(&str, Span)> = self
            .reports
            .iter()
            .flat_map(|report| {
                let spans = report.spans.lock().unwrap().clone();
                spans.into_iter().map(|span| (report.name.as_str(), span))
            })
            .collect();
        assert!(!all.is_empty(), "no witness has seen a primary");
        let mut longest = Duration::ZERO;
        for (i, (name, span)) in all.iter().enumerate() {
            for (other, another) in all.iter().skip(i + 1).filter(|(other, _)| other != name) {
                let begin = span.begin.max(another.begin);
                let both = span.end.min(another.end).saturating_duration_since(begin);
                if !both.is_zero() {
                    println!("{name} and {other} both took writes for {both:?}");
                }
                longest = longest.max(both);
            }
        }
        longest
    }
}

impl Drop for Witnesses {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::SeqCst);
        for report in &mut self.reports {
            if let Some(thread) = report.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

async fn witness(has_ended: &AtomicBool, spans: &Mutex<Vec<Span>>, conninfo: &str) {
    while !has_ended.load(Ordering::SeqCst) {
        let Ok(client) = sql::connect(conninfo).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut is_writable = false;
        while !has_ended.load(Ordering::SeqCst) {
            let asked = Instant::now();
            let Ok(answer) = sql::rows(&client, "select not pg_is_in_recovery()", SECOND).await else {
                break;
            };
            let was_writable = std::mem::replace(&mut is_writable, answer == [[Some("t".to_owned())]]);
            if is_writable {
                let mut spans = spans.lock().unwrap();
                match spans.last_mut().filter(|_| was_writable) {
                    // Of the time between question and answer we know nothing.
                    Some(span) => span.end = asked,
                    None => spans.push(Span {
                        begin: Instant::now(),
                        end: Instant::now(),
                    }),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
