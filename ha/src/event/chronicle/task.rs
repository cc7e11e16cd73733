//! What jobs tell: that they began and ended, and how far a stop was.

use super::{Chronicle, Look, deed};
use crate::cycle::Facts;
use crate::event::What;
use crate::facts::{Answer, DataDirectory, Progress, TaskStatus};
use crate::pg::{DatabaseState, Lsn};
use crate::step::{Action, Step, StopMode, Task, TaskOutcome};

impl Chronicle {
    pub(super) fn task_ended(&mut self, look: &mut Look<'_>) {
        let at = look.facts.given.now;
        match &look.facts.given.task {
            TaskStatus::Done { task, outcome } => {
                let since = self.task_since.take().filter(|(begun, _)| begun == task);
                let was_told = std::mem::take(&mut self.has_shut_down);
                if let Some(checkpoint) = shutdown_checkpoint(look.facts, task, outcome)
                    && !was_told
                {
                    look.tell(at, What::ShutdownCheckpoint { checkpoint });
                }
                look.tell(
                    at,
                    What::TaskEnded {
                        task: task.clone(),
                        outcome: outcome.clone(),
                        took: since.map(|(_, since)| at.since(since)),
                    },
                );
            }
            TaskStatus::Running {
                progress: Progress::ShutDown { checkpoint },
                ..
            } if !self.has_shut_down => {
                self.has_shut_down = true;
                let checkpoint = *checkpoint;
                look.tell(at, What::ShutdownCheckpoint { checkpoint });
            }
            TaskStatus::Running { .. } | TaskStatus::Idle => {}
        }
    }

    pub(super) fn actions(&mut self, look: &mut Look<'_>) {
        for entry in &look.facts.journal {
            let Step::Act(action) = &entry.step else { continue };
            if let (Action::Begin(task), Answer::Done(Ok(()))) = (action, &entry.answer) {
                self.task_since = Some((task.clone(), entry.at));
                if let Task::Stop { purpose, .. } = task
                    && purpose.demotion().is_some()
                {
                    let (purpose, because) = (*purpose, look.outcome.reason.to_string());
                    look.tell(entry.at, What::Demotion { purpose, because });
                }
                look.tell(entry.at, What::TaskBegun { task: task.clone() });
            } else if let Some(what) = deed(action, entry) {
                look.tell(entry.at, what);
            }
        }
    }
}

/// Where the server that has just been stopped has written its shutdown checkpoint. A stop may end before any cycle has
/// seen how far it is; what it has left is looked at in the cycle that sees its end.
fn shutdown_checkpoint(facts: &Facts, task: &Task, outcome: &TaskOutcome) -> Option<Lsn> {
    let Task::Stop {
        mode: StopMode::Fast, ..
    } = task
    else {
        return None;
    };
    if *outcome != TaskOutcome::Success {
        return None;
    }
    facts.journal.iter().find_map(|entry| match &entry.answer {
        Answer::DataDirectory(DataDirectory::Present {
            control: Ok(control), ..
        }) => {
            let is_shut_down = matches!(
                control.state,
                DatabaseState::ShutDown | DatabaseState::ShutDownInRecovery
            );
            is_shut_down.then_some(control.checkpoint)
        }
        _ => None,
    })
}
