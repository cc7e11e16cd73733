//! The task that keeps the copy: reads all keys, then follows their changes on a watch of the endpoint in use. It
//! begins anew when the stream ends, falls silent, or another endpoint is taken into use.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, GetOptions, WatchOptions, WatchStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::calls::{Calls, Heard, chain};
use super::{convert, faults};
use crate::cache::Cache;
use crate::{Error, Layout};

/// Follows the keys at `layout` for ever.
pub(super) async fn keep(calls: Arc<Calls>, cache: Arc<Cache>, layout: Layout) {
    let mut pause = Duration::ZERO;
    loop {
        let (was_well, trouble) = match follow(&calls, &cache, &layout).await {
            Follow::Moved => continue,
            Follow::NotBegun(trouble) => (false, trouble),
            Follow::Ended(trouble) => (true, trouble),
        };
        // What follows a failure of a healthy watch is told once, and the copy is rebuilt at once.
        if was_well {
            tracing::info!("the watch of {} ended: {trouble}", layout.prefix());
            pause = Duration::ZERO;
        } else {
            tracing::debug!("no watch of {}: {trouble}", layout.prefix());
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
        cache.invalidate(trouble);
        sleep(pause).await;
    }
}

/// The most that one answer may hold. gRPC's own limit is 4 MiB, which other people's keys below the prefix may exceed.
pub(super) const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Reads the list of etcd's members now and then, and soon after an endpoint has failed.
pub(super) async fn refresh_members(calls: Arc<Calls>) {
    loop {
        let period = calls.timing().ttl * 10;
        let _ = timeout(period, calls.is_list_old.notified()).await;
        if let Err(error) = calls.refresh_endpoints(calls.brief()).await {
            tracing::debug!("{error:#}");
        }
        // An endpoint that fails again and again is no reason to ask all the time.
        sleep(LONGEST_PAUSE).await;
    }
}

/// All keys of the cluster as they stand.
pub(super) async fn read(
    calls: &Calls,
    layout: &Layout,
    budget: super::calls::Budget,
) -> Result<crate::Snapshot, Error> {
    let prefix = layout.read_prefix().to_owned();
    let answer = calls.run("read the cluster", budget, move |client| {
        let prefix = prefix.clone();
        Box::pin(async move {
            let options = GetOptions::new().with_prefix();
            let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
            let response = kv.get(prefix, Some(options)).await?;
            Ok(Heard::confirmed(convert::snapshot(&response), response.header()))
        })
    });
    let snapshot = answer.await?.value;
    Ok(crate::Snapshot {
        generation: calls.generation(),
        ..snapshot
    })
}

enum Follow {
    /// Another endpoint is in use.
    Moved,
    /// The copy could not be read or the watch not opened.
    NotBegun(String),
    /// The watch was kept for a while.
    Ended(String),
}

async fn follow(calls: &Calls, cache: &Cache, layout: &Layout) -> Follow {
    let mut moves = calls.moves();
    let snapshot = match read(calls, layout, calls.persistent()).await {
        Ok(snapshot) => snapshot,
        // Whoever waits for the copy names the operation and the endpoint.
        Err(error) => return Follow::NotBegun(chain(error.failure())),
    };
    // The read itself may have taken another endpoint into use: the watch goes to that one.
    moves.mark_unchanged();
    let url = calls.current();
    let stream = match open(calls, layout, snapshot.revision + 1).await {
        Ok(stream) => stream,
        Err(error) => return Follow::NotBegun(format!("{error:#}")),
    };
    let generation = snapshot.generation;
    if let Some(key) = cache.contradiction(&snapshot) {
        calls.accept_proved(generation, key);
        return Follow::Moved;
    }
    cache.replace(snapshot);
    tokio::select! {
        changed = moves.changed() => match changed {
            Ok(()) => Follow::Moved,
            Err(_) => Follow::Ended("it is being shut down".to_owned()),
        },
        trouble = listen(calls, cache, generation, stream) => {
            calls.leave(&url);
            Follow::Ended(format!("etcd at {url}: {trouble}"))
        }
    }
}

async fn open(calls: &Calls, layout: &Layout, revision: i64) -> Result<WatchStream, Error> {
    let prefix = layout.read_prefix().to_owned();
    let opened = calls.run("watch the cluster", calls.brief(), move |client| {
        let prefix = prefix.clone();
        Box::pin(async move {
            let options = WatchOptions::new().with_prefix().with_start_revision(revision);
            let mut watch = client.watch_client().max_decoding_message_size(LARGEST_ANSWER);
            let mut stream = watch.watch(prefix, Some(options)).await?;
            // The stream stands before the server has looked at the request.
            match stream.message().await? {
                Some(response) if response.created() && !response.canceled() => {
                    Ok(Heard::new(stream, response.header()))
                }
                Some(response) => {
                    let reason = response.cancel_reason().to_owned();
                    Err(etcd_client::Error::WatchError(format!("refused: {reason}")))
                }
                None => Err(etcd_client::Error::WatchError("the stream ended".to_owned())),
            }
        })
    });
    Ok(opened.await?.value)
}

/// Applies what the stream tells, until it ends; why it did.
async fn listen(calls: &Calls, cache: &Cache, generation: u64, mut stream: WatchStream) -> String {
    loop {
        // A stream on which nothing happens is asked whether it lives: a dead peer sends no reset.
        let timing = calls.timing();
        let quiet = (timing.loop_wait / 2).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let heard = match timeout(quiet, stream.message()).await {
            Ok(heard) => heard,
            Err(_) => {
                let answer_by = Instant::now() + timing.retry_timeout / 3;
                let asked = timeout_at(answer_by, stream.request_progress()).await;
                if let Ok(Err(error)) = asked {
                    return faults::words(&error);
                }
                match timeout_at(answer_by, stream.message()).await {
                    Ok(heard) => heard,
                    Err(_) => return "the watch is silent".to_owned(),
                }
            }
        };
        let response = match heard {
            Ok(Some(response)) => response,
            Ok(None) => return "the stream ended".to_owned(),
            Err(error) => return faults::words(&error),
        };
        let header = response
            .header()
            .map(|header| (header.cluster_id(), header.raft_term()));
        if let Err(stale) = calls.hear(header, None) {
            return stale;
        }
        if response.canceled() {
            return format!("the watch was cancelled: {}", response.cancel_reason());
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let record = match event.event_type() {
                EventType::Put => Some(convert::record(kv)),
                EventType::Delete => None,
            };
            calls.saw(generation, kv.mod_revision());
            cache.apply(&convert::key(kv), kv.mod_revision(), record);
        }
    }
}
