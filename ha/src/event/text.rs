//! What each event says, in one line.

use std::fmt;
use std::time::Duration;

use super::{Gain, Loss, Origin, Race, Rival, Verdict, What};
use crate::pg::{Lsn, MemberName};
use crate::reason::notes;
use crate::step::{Exit, StopMode, TaskOutcome};

/// One line, whatever stands in names and errors of others.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = Told(self).to_string();
        f.write_str(&config::escape::line(&told))
    }
}

struct Told<'a>(&'a What);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tell(f)
    }
}

impl What {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentStarted {
                version,
                role,
                state,
                after,
            } => {
                write!(
                    f,
                    "the agent ({version}) was started and found the server {state} ({role})"
                )?;
                after
                    .as_ref()
                    .map_or(Ok(()), |after| write!(f, "; the agent before it {after}"))
            }
            Self::AgentEnded { exit } => f.write_str(match exit {
                Exit::Graceful => "the agent ends, as it was told",
                Exit::Failure => "the agent ends, because going on would be wrong",
                Exit::FailedBootstrap => "the agent ends, because the cluster could not be created",
            }),
            Self::Status { status, .. } => f.write_str(status),
            Self::Server {
                from_role,
                from_state,
                role,
                state,
            } => match (from_role == role, from_state == state) {
                (true, _) => write!(f, "the server ({role}) was {from_state} and is {state}"),
                (false, true) => write!(f, "the server was {from_role} and is {role}, {state}"),
                (false, false) => {
                    write!(
                        f,
                        "the server was {from_role}, {from_state}, and is {role}, {state}"
                    )
                }
            },
            Self::Leader {
                from,
                to,
                is_expired,
                silent_for,
            } => {
                leader(f, from.as_ref(), to.as_ref(), *is_expired)?;
                silent_for.map_or(Ok(()), |silent_for| {
                    write!(f, "; its last renewal was seen {} before", seconds(silent_for))
                })
            }
            Self::LockGained { how, valid_for, .. } => {
                let how = match how {
                    Gain::Acquired => "took the leader key, which nobody held",
                    Gain::Superseded => "took the leader key from a leader whose lease is over",
                    Gain::Taken => "took the leader key of the new cluster",
                    Gain::Found => "holds the leader key",
                };
                write!(f, "{how}; the lease lasts {}", seconds(*valid_for))
            }
            Self::LockLost { why, .. } => match why {
                Loss::Released => f.write_str("gave the leader key up"),
                Loss::NotHeld => f.write_str("lost the leader key: the DCS refused to prolong the lease"),
                Loss::Taken(name) => write!(f, "lost the leader key to {name}"),
                Loss::Gone => f.write_str("lost the leader key: it is gone"),
                Loss::Stopped => {
                    f.write_str("does not count on the leader key any more: PostgreSQL is stopped")
                }
            },
            Self::Race(race) => write!(f, "{race}"),
            Self::Demotion { purpose, because } => match purpose.demotion() {
                Some(kind) => write!(f, "{}: {because}", notes::demoting(kind).text),
                None => f.write_str(because),
            },
            Self::TaskBegun { task } => write!(f, "{} began", task.label()),
            Self::StopSignalled { mode } => {
                let mode = match mode {
                    StopMode::Fast => "fast",
                    StopMode::Immediate => "immediate",
                };
                write!(f, "PostgreSQL was told to stop ({mode}): its sessions end")
            }
            Self::ShutdownCheckpoint { checkpoint } => {
                write!(
                    f,
                    "PostgreSQL has written its shutdown checkpoint at {checkpoint}"
                )
            }
            Self::TaskEnded { task, outcome, took } => task_ended(f, &task.label(), outcome, *took),
            Self::Done { what, failure } => match failure {
                Some(why) => write!(f, "{what}: failed: {why}"),
                None => f.write_str(what),
            },
            Self::DcsLost { error } => write!(f, "the DCS does not answer: {error}"),
            Self::DcsBack { after } => write!(f, "the DCS answers again, after {}", seconds(*after)),
            Self::Asked {
                operation,
                leader,
                candidate,
                scheduled_at,
            } => {
                write!(f, "somebody asked for a {}", operation.as_str())?;
                if let Some(leader) = leader {
                    write!(f, " from {leader}")?;
                }
                if let Some(candidate) = candidate {
                    write!(f, " to {candidate}")?;
                }
                scheduled_at.map_or(Ok(()), |at| write!(f, " at {at}"))
            }
            Self::AskedNoMore { operation } => {
                write!(f, "the {} is not asked for any more", operation.as_str())
            }
            Self::Synchronous { sync } if sync.leader.is_none() || sync.voters.is_empty() => {
                f.write_str("there are no synchronous standbys")
            }
            Self::Synchronous { sync } => {
                write!(f, "synchronous standbys: {}", list(&sync.voters))?;
                if sync.quorum > 0 {
                    write!(
                        f,
                        "; {} of them have everything",
                        sync.voters.len() - sync.quorum.min(sync.voters.len()) + 1
                    )?;
                }
                Ok(())
            }
            Self::Configuration { origin, changed } => {
                f.write_str(match origin {
                    Origin::Cluster => "the cluster's configuration has changed",
                    Origin::Member => "the member's configuration was read again",
                })?;
                if changed.is_empty() {
                    return Ok(());
                }
                write!(f, ": {}", changed.join(", "))
            }
            Self::Fencing { stage } => {
                write!(
                    f,
                    "the lease was not renewed in time: the guard stops PostgreSQL ({stage})"
                )
            }
            Self::Fenced { pid, stage, exit } => write!(
                f,
                "the guard had stopped PostgreSQL (process {pid}, {stage}) when no agent renewed the lease: {exit}"
            ),
            Self::Guard {
                is_missing: true,
                why,
            } => write!(f, "PostgreSQL is without a guard: {why}"),
            Self::Guard {
                is_missing: false, ..
            } => f.write_str("PostgreSQL has its guard again"),
            Self::Stranger { name, is_gone: false } => write!(
                f,
                "a connection that is not {name}'s own streams WAL under its name: commits do not wait for {name}"
            ),
            Self::Stranger { name, is_gone: true } => {
                write!(
                    f,
                    "no foreign connection streams WAL under the name of {name} any more"
                )
            }
            Self::Other { text, .. } => f.write_str(text),
        }
    }
}

fn leader(
    f: &mut fmt::Formatter<'_>,
    from: Option<&MemberName>,
    to: Option<&MemberName>,
    is_expired: bool,
) -> fmt::Result {
    match (from, to) {
        (Some(from), Some(to)) => write!(f, "saw that {to} leads, and {from} does not any more"),
        (Some(from), None) if is_expired => {
            write!(
                f,
                "saw that {from} has not renewed its lease for all of its time: nobody leads"
            )
        }
        (Some(from), None) => write!(f, "saw that the leader key of {from} is gone: nobody leads"),
        (None, Some(to)) => write!(f, "saw that {to} leads"),
        (None, None) => f.write_str("saw that nobody leads"),
    }
}

fn task_ended(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    outcome: &TaskOutcome,
    took: Option<Duration>,
) -> fmt::Result {
    match outcome {
        TaskOutcome::Success => write!(f, "{label} is done")?,
        TaskOutcome::Failed(why) => write!(f, "{label} failed: {why}")?,
        TaskOutcome::Cancelled => write!(f, "{label} was cancelled")?,
        TaskOutcome::SourceNotReady(None) => {
            write!(f, "{label} waits for the checkpoint after the promotion")?
        }
        TaskOutcome::SourceNotReady(Some(why)) => write!(f, "{label} was put off: {why}")?,
        TaskOutcome::PrePromoteFailed => write!(f, "{label}: the pre_promote script refused")?,
        TaskOutcome::TimedOut => write!(f, "{label} is not done in its time")?,
        TaskOutcome::SettingsRefused(why) => write!(f, "{label} was refused for its settings: {why}")?,
        TaskOutcome::FormerSettings(why) => {
            write!(
                f,
                "{label} is done with the former settings, not with the new ones: {why}"
            )?;
        }
    }
    took.map_or(Ok(()), |took| write!(f, ", after {}", seconds(took)))
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            Verdict::Won => "won the race",
            Verdict::Late => "ran for the leader key, and somebody else was faster",
            Verdict::Waived => "does not take the leader key",
        })?;
        write!(
            f,
            ": I am {}",
            place(self.position, self.timeline.map(|timeline| timeline.0))
        )?;
        for rival in &self.rivals {
            write!(f, "; {rival}")?;
        }
        for why in &self.why {
            write!(f, "; {why}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failure.is_some() {
            return write!(f, "{} did not answer", self.name);
        }
        let place = place(self.position, self.timeline.map(|timeline| timeline.0));
        write!(f, "{} is {place}", self.name)?;
        self.not_running_because
            .as_ref()
            .map_or(Ok(()), |why| write!(f, " and does not run ({why})"))
    }
}

fn place(position: Option<Lsn>, timeline: Option<u32>) -> String {
    let position = position.map_or("at an unknown position".to_owned(), |lsn| format!("at {lsn}"));
    timeline.map_or(position.clone(), |timeline| {
        format!("{position} on timeline {timeline}")
    })
}

fn list(names: &[MemberName]) -> String {
    let names: Vec<&str> = names.iter().map(MemberName::as_str).collect();
    names.join(", ")
}

/// A time in seconds, to the millisecond.
fn seconds(duration: Duration) -> String {
    let text = format!("{:.3}", duration.as_secs_f64());
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} s")
}
