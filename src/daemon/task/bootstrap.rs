//! Jobs that fill the data directory: a new cluster, or a copy of another member.

use config::BootstrapMethod;
use ha::citus::{Address, COORDINATOR};
use ha::facts::{Progress, Source};
use ha::step::{CloneSource, TaskOutcome};
use postgres::{CloneMethods, Recovery, StartOptions, Started};

use super::{Context, Result, failed, lifecycle, no_deadline};
use crate::daemon::questions::{follow_of, source_of};
use crate::daemon::settings;

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
    if needs_restart {
        return lifecycle::restart(context, &ha::step::StartAs::Primary, None).await;
    }
    Ok(TaskOutcome::Success)
}

/// Replaces the data directory by a copy and starts it as a standby.
pub(super) async fn clone(
    context: &Context,
    from: &CloneSource,
    follow: Option<&Source>,
    with_basebackup: bool,
) -> Result<TaskOutcome> {
    lifecycle::end(context, postgres::StopMode::Immediate, false).await?;
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
    copied.await.map_err(failed)?;
    context.report(Progress::Starting);
    let options = StartOptions {
        recovery: Recovery::Follow(follow_of(&context.local, &context.config, follow)?),
        without_hot_standby: false,
    };
    start(context, &options).await
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
    match context
        .server
        .start(options, no_deadline())
        .await
        .map_err(failed)?
    {
        Started::Accepting(_) => {
            context.server.remove_former();
            Ok(TaskOutcome::Success)
        }
        Started::Starting(_) => Ok(TaskOutcome::TimedOut),
    }
}
