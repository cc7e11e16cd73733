//! From nothing to the first cycle, in the order that Patroni has: configuration, store, the guard against a second
//! member of our name, the cluster's settings, the REST API, and only then PostgreSQL.

mod contact;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use config::{DynamicConfig, LocalConfig};
use dcs::Changes;
use ha::citus::COORDINATOR;
use ha::cluster::Cluster;
use ha::event::{Chronicle, What};
use ha::memory::Memory;
use ha::pg::{MemberName, Role, ServerState};
use ha::step::Exit;
use postgres::process::{DetachedLauncher, Launcher, Readiness};
use postgres::{DataDirectory, Instant, Server, ServerOptions, StatusWants, StopMode, StopOptions};
use tokio::sync::watch;

use super::apply::Applier;
use super::citus::Keeper;
use super::configuration::ConfigurationSource;
use super::cycle::Daemon;
use super::disk::Disk;
use super::entry::{LAUNCH_SUBCOMMAND, RELAY_SUBCOMMAND};
use super::events::Events;
use super::guard::{self, Guard, GuardLauncher};
use super::inbox::Inbox;
use super::log::Log;
use super::pulse::Pulse;
use super::report::Report;
use super::requests::Requests;
use super::schedule::Schedule;
use super::settings::{self, Settings};
use super::signals::{Asked, Signals};
use super::store::{self, Store};
use super::view::{View, ViewReceiver};
use super::world::World;
use super::{api, clock, http, notify};

/// How long a server that could not be created is given to stop.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last events may take to be written.
const EVENTS_TIMEOUT: Duration = Duration::from_millis(500);

/// Starts the daemon and runs it to its end.
///
/// # Errors
/// It could not be started; what is wrong, and what can be done.
pub(crate) async fn run(path: Option<PathBuf>, log: &Log) -> anyhow::Result<Exit> {
    let configuration = ConfigurationSource::new(path)?;
    let (local, warnings) = configuration.read()?;
    log.configure(&local);
    settings::log_problems(&warnings);
    tracing::info!(
        "{}, member {} of cluster {}",
        super::version_text(),
        local.name,
        local.scope
    );
    contact::check_programs(&local)?;
    let mut signals = Signals::listen()?;
    let local = Arc::new(local);
    let starting = prepare(&local, log, configuration);
    let mut pulse = Pulse::new();
    // From here on a signal is heard; until the loop runs there is nothing to be stopped.
    let daemon = tokio::select! {
        daemon = starting => daemon?,
        () = stop_asked(&mut signals) => return Ok(Exit::Graceful),
        never = pulse.beat_until(None) => match never {},
    };
    let daemon = daemon(signals, pulse);
    let server = daemon.world.server.clone();
    let guard = daemon.world.guard.clone();
    let watchdog = daemon.world.watchdog.clone();
    let events = daemon.events.clone();
    notify::ready();
    let exit = daemon.run().await;
    events.tell(What::AgentEnded { exit });
    events.close(EVENTS_TIMEOUT).await;
    // At a graceful end it was disabled when PostgreSQL had stopped; when that could not be stopped, it goes on.
    if exit != Exit::Graceful {
        watchdog.disable();
    }
    if exit == Exit::FailedBootstrap {
        let mut pulse = Pulse::new();
        tokio::select! {
            () = set_aside(&server) => {}
            never = pulse.beat_until(None) => match never {},
        }
    }
    // A copy that the end of the agent cuts off ends before it.
    if let Err(error) = server.end_filling().await {
        tracing::error!("{error}");
    }
    server.leave_callbacks().await;
    if let Some(guard) = guard {
        guard.quit().await;
    }
    Ok(exit)
}

/// What there is of a cluster that could not be created is kept for a look at it, out of the way of another try.
async fn set_aside(server: &Server) {
    let options = StopOptions {
        mode: StopMode::Immediate,
        checkpoint_first: false,
        escalate_at: None,
    };
    let set_aside = async {
        server.stop(options, None, Instant::now() + ASIDE_TIMEOUT).await?;
        server.set_data_directory_aside().await
    };
    if let Err(error) = set_aside.await {
        tracing::error!("could not set {} aside: {error}", server.data_dir().display());
    }
}

async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

/// Everything up to the first cycle; the signals are given to the loop when it begins.
async fn prepare(
    local: &Arc<LocalConfig>,
    log: &Log,
    configuration: ConfigurationSource,
) -> anyhow::Result<impl FnOnce(Signals, Pulse) -> Daemon> {
    let http = Arc::new(net::http::Client::new(&http::options(local))?);
    let lease = guard::remembered_lease(local).await;
    let agreed = contact::agree(local, &http, lease).await?;
    let events = Events::start(local).context("could not start the thread for events")?;
    let guard = Guard::new(local, events.clone()).context("could not start the thread for the guard")?;
    let (server, settings, memory) =
        look_at_server(local, agreed.config, &agreed.cluster, guard.as_ref()).await?;
    if let Some(guard) = &guard
        && local.postgresql.data_dir.join("PG_VERSION").exists()
    {
        guard.begin().await;
    }
    let (inbox, messages) = Inbox::new();
    let coordinator = local.citus.as_ref().filter(|citus| citus.group == COORDINATOR);
    let citus = coordinator.map(|citus| Keeper::start(server.clone(), citus.database.clone()));
    let promise = inbox.promise();
    let now = clock::now();
    let first = View::first(&settings, &memory, agreed.cluster, now);
    let (view, view_receiver) = watch::channel(Arc::new(first));
    let rest = start_rest(
        local,
        &settings,
        (server.clone(), events.clone(), citus.clone()),
        view_receiver,
        inbox,
    )
    .await?;
    tell_start(&events, &memory);
    let Store { dcs, reload } = agreed.store;
    let changes = dcs.changes();
    let mut applier = Applier::default();
    // A server that is found running gets the settings of now.
    applier.request();
    let log = log.clone();
    Ok(move |signals, pulse| Daemon {
        world: World {
            events: Some(events.clone()),
            citus,
            ..World::new(dcs, server, http, settings, guard, promise)
        },
        memory,
        schedule: Schedule::new(now),
        report: Report::default(),
        events,
        chronicle: Chronicle::default(),
        requests: Requests::default(),
        applier,
        signals,
        inbox: messages,
        view,
        log,
        pulse,
        configuration,
        store: reload,
        changes,
        changes_seen: Changes::default(),
        rest: Some(rest),
        agreed: (agreed.document, agreed.minimums),
        cache_is_stale: true,
        cache_write: None,
        is_stopping: false,
    })
}

fn tell_start(events: &Events, memory: &Memory) {
    events.tell(What::AgentStarted {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: memory.role,
        state: memory.state,
        after: std::env::var(notify::BEFORE_VARIABLE).ok(),
    });
}

/// The server as it is found, the settings for it, and what there is to remember of it.
async fn look_at_server(
    local: &Arc<LocalConfig>,
    config: DynamicConfig,
    cluster: &Cluster,
    guard: Option<&Guard>,
) -> anyhow::Result<(Server, Settings, Memory)> {
    let launcher = launcher(guard);
    let retry_timeout = config.retry_timeout;
    let config = Arc::new(config);
    // Only the server's program can tell its version, on which the server's settings depend.
    let role = Role::Uninitialized;
    let (_, postgresql) = Settings::new(Arc::clone(local), Arc::clone(&config), None, role, cluster)?;
    let server = Server::new(ServerOptions {
        scope: local.scope.clone(),
        name: MemberName(local.name.clone()),
        settings: postgresql,
        retry_timeout,
        launcher,
    });
    let version = server.version(Instant::now() + retry_timeout).await?;
    let memory = first_memory(&server, retry_timeout).await?;
    let (settings, postgresql) =
        Settings::new(Arc::clone(local), config, Some(version.0), memory.role, cluster)?;
    server.configure(postgresql, retry_timeout);
    Ok((server, settings, memory))
}

fn launcher(guard: Option<&Guard>) -> Arc<dyn Launcher> {
    let detached = DetachedLauncher::own_executable(LAUNCH_SUBCOMMAND);
    match guard {
        Some(guard) => Arc::new(GuardLauncher::new(guard.clone(), RELAY_SUBCOMMAND, detached)),
        None => Arc::new(detached),
    }
}

/// Starts the REST API, on threads of its own.
async fn start_rest(
    local: &Arc<LocalConfig>,
    settings: &Settings,
    (server, events, citus): (Server, Events, Option<Keeper>),
    view: ViewReceiver,
    inbox: Inbox,
) -> anyhow::Result<api::Handle> {
    let (local, timing) = (Arc::clone(local), store::timing(&settings.config));
    let disk =
        Disk::start(local.postgresql.data_dir.clone()).context("could not start the thread for disks")?;
    let surroundings = async move {
        anyhow::Ok(api::Surroundings {
            store: store::connect(&local, None, timing).await?,
            server: Arc::new(server),
            events,
            citus,
            disk,
            members: Arc::new(net::http::Client::new(&http::options(&local))?),
        })
    };
    let started = tokio::task::spawn_blocking(move || api::start(view, inbox, surroundings)).await;
    // The error's text has its causes already.
    started
        .context("could not start the REST API")?
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// An agent before this one was ended while it created the cluster: what there is of it lacks roles, or half its files.
async fn after_cut_off_creation(server: &Server) -> anyhow::Result<Memory> {
    tracing::warn!(
        "the creation of the cluster in {} was cut off: it is created again",
        server.data_dir().display()
    );
    if server.data_directory() == DataDirectory::Unfinished {
        server.remove_unfinished_copy().await?;
    } else {
        set_aside(server).await;
    }
    anyhow::ensure!(
        !server.is_unfinished_cluster()?,
        "{} holds a cluster that was never completed and could not be set aside; move it away and start again",
        server.data_dir().display()
    );
    let role = server.role_of_data_directory();
    let role = if role == Role::Primary {
        Role::Demoted
    } else {
        role
    };
    Ok(Memory {
        creation_was_cut_off: role == Role::Uninitialized,
        ..Memory::new(role, ServerState::Stopped)
    })
}

/// What a daemon knows of its server before the first cycle. Nothing is started before the DCS was read.
async fn first_memory(server: &Server, retry_timeout: Duration) -> anyhow::Result<Memory> {
    server.end_abandoned_rewind().await?;
    match server.is_unfinished_cluster() {
        Ok(true) => {
            server.end_filling().await?;
            return after_cut_off_creation(server).await;
        }
        Ok(false) => {
            server.remove_unfinished_copy().await?;
        }
        // A server is not started before this is known; one that runs goes on.
        Err(error) => tracing::warn!("cannot find out whether a copy was cut off: {error}"),
    }
    let role = server.role_of_data_directory();
    let postmaster = server.postmaster().map_err(|error| {
        tracing::warn!("{error}");
    });
    // Whoever cannot look takes it to run: what it is then is found out by the cycles.
    if matches!(postmaster, Ok(None)) {
        let role = if role == Role::Primary {
            Role::Demoted
        } else {
            role
        };
        return Ok(Memory::new(role, ServerState::Stopped));
    }
    let deadline = Instant::now() + retry_timeout;
    if !matches!(server.readiness(deadline).await, Ok(Readiness::Accepting)) {
        return Ok(Memory::new(role, ServerState::Starting));
    }
    let role = match server.status(StatusWants::default(), deadline).await {
        Ok(status) if status.in_recovery => Role::Replica,
        Ok(_) => Role::Primary,
        Err(error) => {
            tracing::warn!("PostgreSQL runs, but could not be asked for its role: {error}");
            role
        }
    };
    Ok(Memory::new(role, ServerState::Running))
}
