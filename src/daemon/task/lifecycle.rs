//! Jobs that start and stop the server.

use std::time::Duration;

use config::SynchronousMode;
use ha::citus::Moment;
use ha::event::What;
use ha::facts::Progress;
use ha::step::{StartAs, StopMode, StopPurpose, TaskOutcome};
use postgres::{Instant, Recovery, StartOptions, Started, StopOptions, StopProgress};
use tokio::sync::watch;

use super::{Context, Result, deadline_in, failed, no_deadline};
use crate::daemon::citus::notice;
use crate::daemon::questions::follow_of;

/// How long the archiving of the last segment may take, when the cluster becomes a standby cluster.
const ARCHIVE_TIME: Duration = Duration::from_secs(300);

/// How long a server that does not work may take to end by itself.
const ABORT_TIME: Duration = Duration::from_secs(1);

/// Starts the server; it may go on starting when its time is over.
pub(super) async fn start(
    context: &Context,
    start_as: &StartAs,
    timeout: Option<Duration>,
) -> Result<TaskOutcome> {
    context.report(Progress::Starting);
    let recovery = match start_as {
        StartAs::Primary => Recovery::Primary,
        StartAs::Standby(source) => {
            Recovery::Follow(follow_of(&context.local, &context.config, source.as_ref())?)
        }
    };
    let options = StartOptions {
        recovery,
        without_hot_standby: false,
    };
    let deadline = timeout.map_or_else(no_deadline, deadline_in);
    match context.server.start(&options, deadline).await.map_err(failed)? {
        Started::Accepting(_) => {
            context.server.remove_former();
            let failed = context.server.failed_settings();
            Ok(failed.map_or(TaskOutcome::Success, TaskOutcome::FormerSettings))
        }
        Started::Starting(_) => Ok(TaskOutcome::TimedOut),
    }
}

/// Stops the server. When the cluster becomes a standby cluster, all of its WAL has to reach the archive.
pub(super) async fn stop(
    context: &Context,
    mode: StopMode,
    checkpoint: bool,
    purpose: StopPurpose,
) -> Result<TaskOutcome> {
    let mode = match mode {
        StopMode::Fast => postgres::StopMode::Fast,
        StopMode::Immediate => postgres::StopMode::Immediate,
    };
    let is_planned = purpose.is_handover();
    if is_planned && notice::is_worker(&context.local) {
        pause_writes(context).await;
        end(context, mode, false).await?;
    } else if purpose == StopPurpose::Unresponsive {
        end_for_certain(context, mode).await?;
    } else {
        end(context, mode, checkpoint).await?;
    }
    if purpose == StopPurpose::StandbyCluster {
        let deadline = Instant::now() + ARCHIVE_TIME;
        if let Err(error) = context.server.archive_shutdown_checkpoint(deadline).await {
            tracing::error!("could not archive the WAL of the shutdown checkpoint: {error}");
        }
    }
    Ok(TaskOutcome::Success)
}

/// Why a restart that was asked for would leave the server down: its settings are tried before it is stopped. A restart of
/// our own has another purpose than new settings, and goes on with the former ones when they fail.
pub(super) async fn obstacle(context: &Context, start_as: &StartAs, is_requested: bool) -> Option<String> {
    if !is_requested {
        return None;
    }
    let as_standby = matches!(start_as, StartAs::Standby(_));
    context.server.restart_obstacle(as_standby, no_deadline()).await
}

/// Starts a primary that was stopped for a switchover. A coordinator of Citus lets writes wait since then.
pub(super) async fn start_again(
    context: &Context,
    start_as: &StartAs,
    timeout: Option<Duration>,
) -> Result<TaskOutcome> {
    let started = start(context, start_as, timeout).await?;
    let is_started = matches!(started, TaskOutcome::Success | TaskOutcome::FormerSettings(_));
    if is_started && notice::is_worker(&context.local) {
        context.tell_coordinator(Moment::AfterPromote).await;
    }
    Ok(started)
}

/// Stops and starts the server.
pub(super) async fn restart(
    context: &Context,
    start_as: &StartAs,
    timeout: Option<Duration>,
) -> Result<TaskOutcome> {
    let pauses = *start_as == StartAs::Primary && notice::is_worker(&context.local);
    if pauses {
        pause_writes(context).await;
    }
    end(context, postgres::StopMode::Fast, !pauses).await?;
    context.report(Progress::Restarting);
    let started = start(context, start_as, timeout).await?;
    if pauses && matches!(started, TaskOutcome::Success | TaskOutcome::FormerSettings(_)) {
        context.tell_coordinator(Moment::AfterPromote).await;
    }
    Ok(started)
}

/// A worker of Citus is about to stop: its coordinator lets writes wait. The checkpoint comes first, as it takes longest.
async fn pause_writes(context: &Context) {
    if let Err(error) = context.server.checkpoint(no_deadline()).await {
        tracing::warn!("the checkpoint before the stop failed: {error}");
    }
    context.tell_coordinator(Moment::BeforeDemote).await;
}

/// Stops the server if it runs, and reports when its shutdown checkpoint is written.
pub(super) async fn end(context: &Context, mode: postgres::StopMode, checkpoint: bool) -> Result<()> {
    // Patroni documentation, `primary_stop_timeout`: only in synchronous mode.
    let is_synchronous = context.config.synchronous_mode() != SynchronousMode::Off;
    let escalation = context.config.primary_stop_timeout.filter(|_| is_synchronous);
    let options = StopOptions {
        mode,
        checkpoint_first: checkpoint,
        escalate_at: escalation.map(deadline_in),
    };
    end_with(context, options).await
}

/// The same of a server that may not answer to a signal.
async fn end_for_certain(context: &Context, mode: postgres::StopMode) -> Result<()> {
    let options = StopOptions {
        mode,
        checkpoint_first: false,
        escalate_at: Some(Instant::now() + ABORT_TIME),
    };
    end_with(context, options).await
}

async fn end_with(context: &Context, options: StopOptions) -> Result<()> {
    let (sender, mut receiver) = watch::channel(StopProgress::Preparing);
    let told_mode = match options.mode {
        postgres::StopMode::Immediate => StopMode::Immediate,
        postgres::StopMode::Smart | postgres::StopMode::Fast => StopMode::Fast,
    };
    let mut is_signalled = false;
    let stopped = context.server.stop(options, Some(&sender), no_deadline());
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            stopped = &mut stopped => return stopped.map(drop).map_err(failed),
            Ok(()) = receiver.changed() => {
                let reached = receiver.borrow_and_update().clone();
                // A step that is over quickly is not seen; the ones after it prove that the signal was sent.
                let was_sent = !matches!(reached, StopProgress::Preparing | StopProgress::Exited);
                if was_sent && !std::mem::replace(&mut is_signalled, true) {
                    context.tell(What::StopSignalled { mode: told_mode });
                }
                if let StopProgress::ShutDown(control) = reached {
                    context.report(Progress::ShutDown { checkpoint: control.checkpoint });
                }
            }
        }
    }
}
