//! Jobs that bring a data directory back onto the leader's timeline.

use ha::facts::Source;
use ha::step::TaskOutcome;
use postgres::rewind::Rewound;

use super::{Context, Result, failed, lifecycle, no_deadline};
use crate::daemon::questions::source_of;

/// Lets a server that crashed recover in single-user mode.
pub(super) async fn recover(context: &Context) -> Result<TaskOutcome> {
    context
        .server
        .single_user_recovery(no_deadline())
        .await
        .map_err(failed)?;
    Ok(TaskOutcome::Success)
}

/// Runs pg_rewind against `source`, once its control file names its timeline.
pub(super) async fn rewind(context: &Context, source: &Source) -> Result<TaskOutcome> {
    lifecycle::end(context, postgres::StopMode::Fast, false).await?;
    let leader = source_of(source)?;
    match context.server.checkpoint_on(&leader, no_deadline()).await {
        Ok(true) => {}
        Ok(false) => return Ok(TaskOutcome::SourceNotReady(None)),
        Err(error) if context.server.is_refused_by(&leader).await => return Err(failed(error)),
        Err(error) => return Ok(TaskOutcome::SourceNotReady(Some(failed(error)))),
    }
    match context
        .server
        .rewind(&leader, no_deadline())
        .await
        .map_err(failed)?
    {
        Rewound::Done => Ok(TaskOutcome::Success),
        Rewound::WalWaits(output) | Rewound::SourceLost(output) => {
            Ok(TaskOutcome::SourceNotReady(Some(output)))
        }
        Rewound::Failed(output) => Err(format!("pg_rewind failed: {output}")),
    }
}
