//! The job that makes a standby the primary.

use ha::citus::Moment;
use ha::step::TaskOutcome;

use super::{Context, Result, failed, no_deadline};
use crate::daemon::clock;

/// Runs the operator's script, then promotes, if the lock is still good in the very moment of the signal.
pub(super) async fn promote(
    context: &Context,
    lock_valid_until: ha::facts::Moment,
    archive_may_have_more: bool,
) -> Result<TaskOutcome> {
    if !context
        .server
        .run_pre_promote(no_deadline())
        .await
        .map_err(failed)?
    {
        return Ok(TaskOutcome::PrePromoteFailed);
    }
    context.tell_coordinator(Moment::BeforePromote).await;
    let is_allowed = || {
        let prolonged = *context.lock_valid_until.borrow();
        let until = prolonged.map_or(lock_valid_until, |prolonged| prolonged.max(lock_valid_until));
        let now = clock::now();
        if now < until {
            return Ok(());
        }
        let late = now.since(until).as_millis();
        Err(format!(
            "the leader key's lease ran out {late} ms before the promotion could begin"
        ))
    };
    context
        .server
        .promote(is_allowed, archive_may_have_more, no_deadline())
        .await
        .map_err(failed)?;
    context.tell_coordinator(Moment::AfterPromote).await;
    Ok(TaskOutcome::Success)
}
