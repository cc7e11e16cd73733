//! A client that writes numbered rows to whichever member takes writes, and remembers which were acknowledged.

use super::cluster::Cluster;
use super::sql;
use super::wait::{SECOND, eventually};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const PAUSE_BETWEEN_ROWS: Duration = Duration::from_millis(10);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);
/// After this a statement counts as failed: its outcome is unknown.
const STATEMENT_LIMIT: Duration = Duration::from_secs(3);

/// Writes 60 to 90 rows a second from a thread of its own.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    conninfo: String,
}

#[derive(Default)]
struct Shared {
    acknowledged: Mutex<Vec<(Instant, i64)>>,
    errors: Mutex<Vec<String>>,
    is_paused: AtomicBool,
    is_idle: AtomicBool,
    has_ended: AtomicBool,
}

impl Writer {
    /// Creates the table and begins.
    #[track_caller]
    pub fn start(cluster: &Cluster) -> Self {
        Self::start_at(cluster.conninfo())
    }

    /// As [`Writer::start`], with a connection string that reaches whichever member takes writes.
    #[track_caller]
    pub fn start_at(conninfo: String) -> Self {
        sql::query(&conninfo, "create table acknowledged (id bigint primary key)").unwrap();
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let (shared, conninfo) = (Arc::clone(&shared), conninfo.clone());
            move || sql::block_on(write_until_ended(&shared, &conninfo))
        });
        let writer = Self {
            shared,
            thread: Some(thread),
            conninfo,
        };
        writer.wait_for_write("the first row", 10 * SECOND);
        writer
    }

    /// Waits until a row is acknowledged that was not yet sent when this was called.
    #[track_caller]
    pub fn wait_for_write(&self, what: &str, limit: Duration) {
        let before = self.shared.acknowledged.lock().unwrap().len();
        eventually(&format!("{what}: written"), limit, || {
            // One may have been under way.
            let now = self.shared.acknowledged.lock().unwrap().len();
            if now > before + 1 {
                Ok(())
            } else {
                Err(self.last_error())
            }
        });
    }

    fn last_error(&self) -> String {
        let errors = self.shared.errors.lock().unwrap();
        errors.last().map_or_else(
            || "no error".to_owned(),
            |error| format!("the client's last error: {error}"),
        )
    }

    /// Ends writing until [`Writer::resume`]; no statement is under way after this.
    #[track_caller]
    pub fn pause(&self) {
        self.shared.is_paused.store(true, Ordering::SeqCst);
        eventually("the writer pauses", 10 * SECOND, || {
            if self.shared.is_idle.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("it still writes")
            }
        });
    }

    pub fn resume(&self) {
        self.shared.is_paused.store(false, Ordering::SeqCst);
    }

    /// The longest time without an acknowledged row that ended after `begin`.
    pub fn longest_silence(&self, begin: Instant) -> Duration {
        let acknowledged = self.shared.acknowledged.lock().unwrap();
        let pairs = acknowledged.iter().zip(acknowledged.iter().skip(1));
        let ended_after = pairs.filter(|((_, _), (end, _))| *end > begin);
        ended_after
            .map(|((start, _), (end, _))| *end - *start)
            .max()
            .unwrap_or_default()
    }

    /// Fails if a row that was acknowledged is not there.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        let lost = self.lost();
        assert!(
            lost.is_empty(),
            "{} acknowledged rows are lost: {:?}",
            lost.len(),
            lost
        );
    }

    /// As [`Writer::assert_nothing_lost`], but what was acknowledged within a second before a crash may be missing:
    /// replication is asynchronous here. What is missing is not asked for again.
    #[track_caller]
    pub fn assert_lost_at_most_a_second_before(&self, crash: Instant) {
        let lost = self.lost();
        let mut acknowledged = self.shared.acknowledged.lock().unwrap();
        let too_old: Vec<_> = acknowledged
            .iter()
            .filter(|(time, id)| lost.contains(id) && *time + SECOND < crash)
            .map(|(_, id)| id)
            .collect();
        assert!(
            too_old.is_empty(),
            "rows acknowledged more than a second before the crash are lost: {too_old:?}"
        );
        println!(
            "{} rows were acknowledged just before the crash and lost",
            lost.len()
        );
        acknowledged.retain(|(_, id)| !lost.contains(id));
    }

    #[track_caller]
    fn lost(&self) -> BTreeSet<i64> {
        let acknowledged: BTreeSet<i64> = self
            .shared
            .acknowledged
            .lock()
            .unwrap()
            .iter()
            .map(|(_, id)| *id)
            .collect();
        let rows = eventually("the rows are read", 10 * SECOND, || {
            sql::query(&self.conninfo, "select id from acknowledged")
        });
        let stored: BTreeSet<i64> = rows
            .into_iter()
            .flatten()
            .flatten()
            .map(|id| id.parse().unwrap())
            .collect();
        println!(
            "{} rows acknowledged, {} stored",
            acknowledged.len(),
            stored.len()
        );
        acknowledged.difference(&stored).copied().collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn write_until_ended(shared: &Shared, conninfo: &str) {
    let mut client: Option<Client> = None;
    let mut id = 0;
    while !shared.has_ended.load(Ordering::SeqCst) {
        shared
            .is_idle
            .store(shared.is_paused.load(Ordering::SeqCst), Ordering::SeqCst);
        if shared.is_idle.load(Ordering::SeqCst) {
            tokio::time::sleep(PAUSE_BETWEEN_ROWS).await;
            continue;
        }
        id += 1;
        match write(&mut client, conninfo, id).await {
            Ok(()) => {
                shared.acknowledged.lock().unwrap().push((Instant::now(), id));
                tokio::time::sleep(PAUSE_BETWEEN_ROWS).await;
            }
            Err(error) => {
                client = None;
                shared.errors.lock().unwrap().push(error);
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn write(client: &mut Option<Client>, conninfo: &str, id: i64) -> Result<(), String> {
    let connected = match client.take() {
        Some(connected) => connected,
        None => sql::connect(conninfo).await?,
    };
    sql::rows(
        &connected,
        &format!("insert into acknowledged values ({id})"),
        STATEMENT_LIMIT,
    )
    .await?;
    *client = Some(connected);
    Ok(())
}
