//! Jobs that fill the data directory: a new cluster, or a copy of another member.

use config::BootstrapMethod;
use ha::citus::{Address, COORDINATOR};
use ha::facts::{Progress, Source};
use ha::step::{CloneSource, TaskOutcome};
use postgres::{CloneMethods, Recovery, StartOptions, Started};

use super::{Context, Result, failed, lifecycle, no_deadline};
use crate::daemon::questions::{follow_of, source_of};
use crate::daemon::settings;

/// For how many times `retry_timeout` the recovery of a copy may stand still.
const STANDSTILL_RETRIES: u32 = 3;

/// Makes a new cluster and starts it.
pub(super) async fn create(context: &Context) -> Result<TaskOutcome> {
    let bootstrap = &context.local.bootstrap;
    let options = match &bootstrap.method {
        BootstrapMethod::Initdb => {
            let made = context
                .server
                .initdb(&bootstrap.initdb, &bootstrap.pg_hba, no_deadline());
            made.await.map_err(failed)?;
            StartOptions {
                recovery: Recovery::Primary,
                without_hot_standby: false,
            }
        }
        method @ BootstrapMethod::Custom { .. } => context
            .server
            .custom_bootstrap(method, no_deadline())
            .await
            .map_err(failed)?,
    };
    context.report(Progress::Starting);
    start(context, &options).await
}

/// Makes the users, and runs the operator's script, in a cluster just made.
pub(super) async fn populate(context: &Context) -> Result<TaskOutcome> {
    let bootstrap = &context.local.bootstrap;
    let populated = context.server.post_bootstrap(
        &bootstrap.method,
        bootstrap.post_bootstrap.as_deref(),
        no_deadline(),
    );
    let needs_restart = populated.await.map_err(failed)?;
    if let (Some(citus), BootstrapMethod::Initdb) = (&context.local.citus, &bootstrap.method) {
        let address = settings::connect_address(&context.local);
        let address = Address {
            host: address.host,
            port: address.port,
        };
        let coordinator = (citus.group == COORDINATOR).then_some(&address);
        let created = context
            .server
            .create_citus(&citus.database, coordinator, no_deadline());
        created.await.map_err(failed)?;
    }
    let outcome = if needs_restart {
        lifecycle::restart(context, &ha::step::StartAs::Primary, None).await?
    } else {
        TaskOutcome::Success
    };
    if outcome == TaskOutcome::Success {
        context.server.finish_new_cluster().map_err(failed)?;
    }
    Ok(outcome)
}

/// Replaces the data directory by a copy and starts it as a standby.
pub(super) async fn clone(
    context: &Context,
    from: &CloneSource,
    follow: Option<&Source>,
    with_basebackup: bool,
) -> Result<TaskOutcome> {
    lifecycle::end(context, postgres::StopMode::Immediate, false).await?;
    // A damaged directory has to be replaced even where its WAL cannot be saved.
    if let Err(error) = context.server.save_waiting_wal(no_deadline()).await {
        tracing::error!("WAL that waits for the archive is lost by the new copy: {error}");
    }
    let source = from.source();
    let source = postgres::CloneSource {
        name: source.map(|source| source.name().to_owned()),
        source: source.map(source_of).transpose()?,
    };
    let methods = if with_basebackup {
        CloneMethods::BasebackupOnly
    } else {
        methods(context, from)
    };
    let copied = context.server.create_replica(&source, &methods, no_deadline());
    let method = copied.await.map_err(failed)?;
    context.report(Progress::Starting);
    match join(context, &method, follow).await? {
        Joined::Yes(outcome) => {
            context.server.accept_copy();
            Ok(outcome)
        }
        Joined::Never(why) => {
            lifecycle::end(context, postgres::StopMode::Immediate, false).await?;
            context.server.reject_copy(&method).await.map_err(failed)?;
            Err(why)
        }
    }
}

/// What became of a copy.
enum Joined {
    Yes(TaskOutcome),
    /// It is of no use, and why.
    Never(String),
}

/// Starts a copy. One that was made from a backup may not be able to follow the cluster.
async fn join(context: &Context, method: &str, follow: Option<&Source>) -> Result<Joined> {
    let options = StartOptions {
        recovery: Recovery::Follow(follow_of(&context.local, &context.config, follow)?),
        without_hot_standby: false,
    };
    let Some(source) = follow.filter(|_| method != "basebackup") else {
        return start(context, &options).await.map(Joined::Yes);
    };
    let server = &context.server;
    match server.check_copy(&source_of(source)?, no_deadline()).await {
        Ok(()) => {}
        Err(error @ postgres::Error::Unsuitable(_)) => return Ok(Joined::Never(failed(error))),
        Err(error) => return Err(failed(error)),
    }
    let patience = context.config.retry_timeout * STANDSTILL_RETRIES;
    tokio::select! {
        started = server.start(&options, no_deadline()) => match started {
            Ok(started) => Ok(Joined::Yes(outcome_of(context, &started))),
            Err(error) if error.is_of_a_useless_copy() => Ok(Joined::Never(failed(error))),
            Err(error) => Err(failed(error)),
        },
        () = server.recovery_stands_still(patience) => Ok(Joined::Never(format!(
            "the copy that the method {method} has made does not get the WAL that it needs: its recovery has not moved \
             for {} s",
            patience.as_secs()
        ))),
    }
}

/// The remote side of a standby cluster has methods of its own.
fn methods(context: &Context, from: &CloneSource) -> CloneMethods {
    let standby_cluster = context.config.standby_cluster.as_ref();
    let own = standby_cluster.and_then(|cluster| cluster.create_replica_methods.clone());
    match (from, own) {
        (CloneSource::Remote(_), Some(names)) => CloneMethods::Named(names),
        _ => CloneMethods::Configured,
    }
}

async fn start(context: &Context, options: &StartOptions) -> Result<TaskOutcome> {
    let started = context
        .server
        .start(options, no_deadline())
        .await
        .map_err(failed)?;
    Ok(outcome_of(context, &started))
}

fn outcome_of(context: &Context, started: &Started) -> TaskOutcome {
    match started {
        Started::Accepting(_) => {
            context.server.remove_former();
            TaskOutcome::Success
        }
        Started::Starting(_) => TaskOutcome::TimedOut,
    }
}
