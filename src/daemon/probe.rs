//! Whether the primary still works: a new connection is answered, and what is written to its file systems reaches them.
//!
//! The sessions that the HA loop has go on when the postmaster hangs, and queries that find all they need in memory do so
//! when the disk hangs. So both are tried, by a thread of its own: a write to a disk that hangs does not return.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha::facts::{Moment, Unresponsive};
use postgres::process::{Readiness, is_lack_of_resources};
use postgres::{Instant, Server};
use tokio::runtime::Handle;

use super::clock;

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Looks at the primary as long as somebody wants it; the thread is started when that is the case for the first time.
#[derive(Default)]
pub(crate) struct Probe {
    shared: Option<Arc<Shared>>,
    /// The trouble that the loop has been woken for.
    told: Option<Moment>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is wanted, and what was found.
#[derive(Default)]
struct State {
    /// How long trouble is borne; `None`: nobody wants to know.
    timeout: Option<Duration>,
    is_over: bool,
    /// The look that has not ended: when it was begun, and what is being waited for.
    looking: Option<Unresponsive>,
    /// The last look failed, and none since then was good.
    failing: Option<Unresponsive>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Since when there is no sign of life. A look that has just begun is no trouble yet, but may turn out to be some.
    fn trouble(&self) -> Option<Unresponsive> {
        self.timeout?;
        self.failing.clone().or_else(|| self.looking.clone())
    }
}

impl Probe {
    /// Looks from now on, with trouble being borne for `timeout`, or does not.
    pub(crate) fn follow(&mut self, timeout: Option<Duration>, server: &Server) {
        if self.shared.is_none() && timeout.is_some() {
            self.shared = start(server.clone())
                .inspect_err(|error| {
                    tracing::error!("primary_probe_timeout: there can be no thread: {error}")
                })
                .ok();
        }
        let Some(shared) = &self.shared else {
            return;
        };
        let mut state = shared.state();
        if state.timeout != timeout {
            state.timeout = timeout;
            state.failing = None;
            shared.changed.notify_all();
        }
    }

    /// Since when the primary does not answer.
    pub(crate) fn trouble(&self) -> Option<Unresponsive> {
        self.shared.as_ref()?.state().trouble()
    }

    /// Waits until trouble has lasted too long and nobody has been told of it. Worth another look then: an answer may
    /// have come meanwhile.
    pub(crate) async fn may_be_overdue(&self) {
        let shared = self.shared.as_ref();
        let due = shared.and_then(|shared| {
            let state = shared.state();
            let timeout = state.timeout?;
            let since = state.trouble().map_or_else(clock::now, |trouble| trouble.since);
            (self.told != Some(since)).then(|| since.after(timeout))
        });
        match due {
            Some(due) => tokio::time::sleep(due.since(clock::now())).await,
            None => std::future::pending().await,
        }
    }

    /// Whether trouble has lasted too long; true once for each.
    pub(crate) fn is_overdue(&mut self) -> bool {
        let trouble = self.trouble();
        let timeout = self.shared.as_ref().and_then(|shared| shared.state().timeout);
        let (Some(Unresponsive { since, .. }), Some(timeout)) = (trouble, timeout) else {
            return false;
        };
        let is_news = since.after(timeout) <= clock::now() && self.told != Some(since);
        if is_news {
            self.told = Some(since);
        }
        is_news
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.state().is_over = true;
            shared.changed.notify_all();
        }
    }
}

fn start(server: Server) -> io::Result<Arc<Shared>> {
    let shared = Arc::new(Shared::default());
    let (theirs, runtime) = (Arc::clone(&shared), Handle::current());
    std::thread::Builder::new()
        .name("probe".to_owned())
        .spawn(move || watch(&server, &theirs, &runtime))?;
    Ok(shared)
}

fn watch(server: &Server, shared: &Shared, runtime: &Handle) {
    while let Some(timeout) = wait_until_wanted(shared) {
        let begun = clock::now();
        let waits_for = |why: &str| {
            let why = why.to_owned();
            shared.state().looking = Some(Unresponsive { since: begun, why });
        };
        let looked = look(server, timeout, runtime, waits_for);
        let mut state = shared.state();
        state.looking = None;
        match looked {
            Ok(()) => state.failing = None,
            Err(why) => {
                let since = state.failing.take().map_or(begun, |failing| failing.since);
                state.failing = Some(Unresponsive { since, why });
            }
        }
        let pause = (timeout / 4).min(PAUSE_MAX);
        let is_as_before = |state: &mut State| !state.is_over && state.timeout == Some(timeout);
        drop(shared.changed.wait_timeout_while(state, pause, is_as_before));
    }
}

/// How long trouble is borne; `None` when nobody will want to know any more.
fn wait_until_wanted(shared: &Shared) -> Option<Duration> {
    let idle = |state: &mut State| !state.is_over && state.timeout.is_none();
    let state = shared.changed.wait_while(shared.state(), idle);
    let state = state.unwrap_or_else(PoisonError::into_inner);
    state.timeout.filter(|_| !state.is_over)
}

/// Looks, and tells before each step what it means when that does not end.
///
/// # Errors
/// What does not work.
fn look(
    server: &Server,
    timeout: Duration,
    runtime: &Handle,
    waits_for: impl Fn(&str),
) -> Result<(), String> {
    const NOT_ANSWERED: &str = "a new connection is not answered";
    for directory in file_systems(&server.data_dir()) {
        let shown = directory.display();
        waits_for(&format!("a write to {shown} does not end"));
        write_to(&directory).map_err(|error| format!("{shown} can not be written to: {error}"))?;
    }
    waits_for(NOT_ANSWERED);
    match runtime.block_on(server.readiness(Instant::now() + timeout)) {
        Ok(Readiness::Accepting | Readiness::Rejecting) => Ok(()),
        Ok(Readiness::NoResponse) => Err(NOT_ANSWERED.to_owned()),
        // It is not the server's fault.
        Err(error) => {
            tracing::warn!("{error}");
            Ok(())
        }
    }
}

/// The data directory, and `pg_wal` when that is on another file system.
fn file_systems(data_dir: &Path) -> Vec<PathBuf> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let wal = data_dir.join("pg_wal");
    let is_other = device(&wal) != device(data_dir);
    [data_dir.to_owned()]
        .into_iter()
        .chain(is_other.then_some(wal))
        .collect()
}

/// Writes a file without a name and waits until it is on the disk. What says nothing of the disk's health is no error:
/// no room, no permission, no directory, no descriptor.
fn write_to(directory: &Path) -> io::Result<()> {
    let written = tempfile::tempfile_in(directory).and_then(|mut file: File| {
        file.write_all(&[0; 512])?;
        file.sync_data()
    });
    match written {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::StorageFull
                    | ErrorKind::QuotaExceeded
                    | ErrorKind::PermissionDenied
                    | ErrorKind::NotFound
            ) || is_lack_of_resources(&error) =>
        {
            tracing::debug!("{} could not be written to: {error}", directory.display());
            Ok(())
        }
        written => written,
    }
}
