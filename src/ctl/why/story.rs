//! The story of the last change of the leader, told from the events of all members. Pure.

use std::collections::BTreeSet;

use ha::cluster::FailoverKind;
use ha::event::{Event, Race, Rival, Verdict, What};
use ha::pg::{MemberName, Role, ServerState};
use ha::reason::Reason;
use ha::step::{StopPurpose, Task, TaskOutcome};
use jiff::Timestamp;

use super::transition::{self, Transition, Turn, is_orderly_stop};
use crate::ctl::event_log::NO_EVENTS;
use crate::ctl::events::local;

/// A story.
#[derive(Debug, Clone)]
pub(crate) struct Story<'a> {
    /// In one line, what came of it.
    pub(crate) headline: String,
    /// What happened, oldest first.
    pub(crate) steps: Vec<&'a Event>,
    /// What to conclude from it.
    pub(crate) conclusions: Vec<String>,
}

/// The newest story, or the one that is nearest to `at`; `None` when nothing of the kind has happened. `silent`: whose
/// events are not known, and why.
pub(crate) fn tell<'a>(
    events: &'a [Event],
    at: Option<Timestamp>,
    silent: &[(String, String)],
) -> Option<Story<'a>> {
    let transition = transition::find(events, at)?;
    let teller = Teller { transition, silent };
    let (headline, conclusions) = match (teller.transition.turn, teller.transition.turn.winner()) {
        (_, Some(winner)) => teller.takeover(winner),
        (Turn::Demoted(turn), _) => teller.demotion(turn),
        (turn, None) => teller.nobody(turn.event()),
    };
    Some(Story {
        headline,
        steps: teller.transition.steps,
        conclusions,
    })
}

/// Whom a story mentions beside those who tell it.
pub(crate) fn mentioned(story: &Story<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for step in &story.steps {
        match &step.what {
            What::Leader { from, to, .. } => names.extend(from.iter().chain(to).map(ToString::to_string)),
            What::Race(race) => {
                names.extend(race.former_leader.iter().map(ToString::to_string));
                names.extend(race.rivals.iter().map(|rival| rival.name.to_string()));
            }
            _ => {}
        }
    }
    names
}

/// What belongs into a story.
pub(super) fn is_told(event: &Event) -> bool {
    match &event.what {
        What::AgentStarted { .. }
        | What::AgentEnded { .. }
        | What::Leader { .. }
        | What::LockGained { .. }
        | What::LockLost { .. }
        | What::Race(_)
        | What::Demotion { .. }
        | What::StopSignalled { .. }
        | What::ShutdownCheckpoint { .. }
        | What::DcsLost { .. }
        | What::DcsBack { .. }
        | What::Asked { .. }
        | What::Fencing { .. }
        | What::Fenced { .. } => true,
        What::Server {
            from_state, state, ..
        } => from_state != state && *state == ha::pg::ServerState::Crashed,
        What::TaskEnded { task, .. } => {
            !matches!(task, Task::Bootstrap | Task::PostBootstrap | Task::Clone { .. })
        }
        What::Status { reason, .. } => matters(reason),
        What::Done { what, .. } => what.starts_with("follows "),
        What::TaskBegun { .. }
        | What::AskedNoMore { .. }
        | What::Synchronous { .. }
        | What::Configuration { .. }
        | What::Guard { .. }
        | What::Stranger { .. }
        | What::Other { .. } => false,
    }
}

/// A status that says what no other event does.
pub(super) fn matters(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::RaceBackoff { .. }
            | Reason::PromotionCancelledByScript
            | Reason::PromotionPostponed
            | Reason::PromotionPostponedUnarmed
            | Reason::NotPromotingWithoutGuard
            | Reason::NotPromotingWithoutWatchdog
            | Reason::NotPromotingLockLost
            | Reason::StartTimedOutNoFailover
            | Reason::StoppedAfterStartTimeout
            | Reason::TerminatedCrashRecovery
            | Reason::StoppedToFailOver
            | Reason::StartingPrimaryAfterFailure
            | Reason::ReleasedStartFailed
            | Reason::PauseContinueWithoutLock
            | Reason::HoldingOff
            | Reason::Defect
    )
}

/// What a transition comes to, in words.
struct Teller<'a, 'b> {
    transition: Transition<'a>,
    silent: &'b [(String, String)],
}

impl<'a> Teller<'a, '_> {
    fn takeover(&self, winner: &'a MemberName) -> (String, Vec<String>) {
        let Transition {
            former, turn, steps, ..
        } = &self.transition;
        let event = turn.event();
        let from = match former {
            Some(former) if *former == winner => " back".to_owned(),
            Some(former) => format!(" from {former}"),
            None => String::new(),
        };
        let kind = self.kind(winner);
        let seen = match turn {
            Turn::Seen(by, _) => format!(" at {} at the latest, as {} saw", local(by.at), by.member),
            _ => format!(" at {}", local(event.at)),
        };
        let headline = format!("{kind}: {winner} took the leader key{from}{seen}");
        let race = steps.iter().rev().find_map(|step| match &step.what {
            What::Race(race) if step.member == *winner && race.verdict == Verdict::Won => Some(&**race),
            _ => None,
        });
        let mut conclusions = Vec::new();
        conclusions.extend(former.map(|former| self.how_it_ended(former)));
        conclusions.extend(race.map(|race| why_it_won(winner.as_str(), race)));
        conclusions.extend(losers(winner, steps));
        conclusions.push(self.times(winner));
        (headline, conclusions)
    }

    /// In a word, what kind of change it was.
    fn kind(&self, winner: &MemberName) -> &'static str {
        let former = self.transition.former;
        let mut own = self
            .transition
            .all
            .iter()
            .filter(|event| Some(&event.member) == former);
        let handover = own.clone().find_map(|event| match &event.what {
            What::Demotion {
                purpose: StopPurpose::Switchover,
                ..
            } => Some(FailoverKind::Switchover),
            What::Demotion {
                purpose: StopPurpose::Failover,
                ..
            } => Some(FailoverKind::Failover),
            _ => None,
        });
        // A former leader that says nothing may have done what was asked.
        let tells = own.clone().next().is_some();
        let asked = self.transition.steps.iter().find_map(|step| match &step.what {
            What::Asked { operation, .. } => Some(*operation),
            _ => None,
        });
        let is_standby_cluster = self.transition.all.iter().any(|event| {
            event.member == *winner
                && matches!(
                    &event.what,
                    What::Status {
                        reason: Reason::StandbyLeaderByAcquiringLock | Reason::StandbyLeaderHavingLock,
                        ..
                    }
                )
        });
        match (handover, asked) {
            (Some(kind), _) => kind.as_str(),
            // A standby leader stops no server to hand over, and a failover by hand may find nobody who leads.
            (None, Some(kind)) if !tells || is_standby_cluster || kind == FailoverKind::Failover => {
                kind.as_str()
            }
            _ if former == Some(winner) => "return",
            _ if own.any(is_orderly_stop) => "planned hand-over",
            _ => "failover",
        }
    }

    fn demotion(&self, turn: &Event) -> (String, Vec<String>) {
        let name = &turn.member;
        let headline = format!("demotion of {name} at {}", local(turn.at));
        let conclusions = vec![
            format!("{name} was stopped: {}", turn.what),
            format!("{name} kept the leader key"),
        ];
        (headline, conclusions)
    }

    fn nobody(&self, turn: &Event) -> (String, Vec<String>) {
        let former = self.transition.former.map_or("the leader", MemberName::as_str);
        let mut conclusions = Vec::new();
        let headline = if let What::Demotion { .. } = turn.what {
            conclusions.push(format!("{former} was stopped: {}", turn.what));
            format!("demotion of {former} at {}", local(turn.at))
        } else {
            conclusions.extend(self.transition.former.map(|former| self.how_it_ended(former)));
            format!("{former} does not lead any more since {}", local(turn.at))
        };
        conclusions.push("nobody is known to have taken the leader key since then".to_owned());
        conclusions.extend(losers(&turn.member, &self.transition.steps));
        (headline, conclusions)
    }

    fn how_it_ended(&self, former: &MemberName) -> String {
        let own = |wanted: fn(&What) -> bool| {
            let mut steps = self.transition.all.iter();
            steps.find(|step| {
                step.member == *former && is_before(step, self.transition.turn) && wanted(&step.what)
            })
        };
        let told = own(|what| {
            matches!(
                what,
                What::Demotion { .. } | What::LockLost { .. } | What::Fencing { .. } | What::DcsLost { .. }
            ) || is_end_of_server(what)
        });
        let orderly = self.transition.all.iter();
        let orderly = orderly
            .clone()
            .find(|step| step.member == *former && is_orderly_stop(step));
        if let Some(step) = orderly.filter(|step| told.is_none_or(|told| step.at <= told.at)) {
            return format!(
                "{former} led until {}: its agent was told to stop, with PostgreSQL",
                local(step.at)
            );
        }
        if let Some(step) = told {
            return format!("{former} led until {}: {}", local(step.at), step.what);
        }
        self.how_others_saw_it(former)
    }

    fn how_others_saw_it(&self, former: &MemberName) -> String {
        let about = |step: &&&Event| {
            matches!(&step.what, What::Leader { from: Some(from), .. } if from == former)
                && step.member != *former
        };
        let mut why = match self.silent.iter().find(|(name, _)| former.as_str() == name) {
            Some((_, why)) if why == NO_EVENTS => {
                format!("{former} keeps no events, so its part is known from others only")
            }
            _ => format!("{former} has told nothing of its end, as when its agent or its machine is gone"),
        };
        let Some(noticed) = self.transition.steps.iter().find(about) else {
            return why;
        };
        if let What::Leader {
            silent_for: Some(silent_for),
            ..
        } = &noticed.what
            && let Ok(renewed) = noticed.at.checked_sub(*silent_for)
        {
            why.push_str(&format!(": its last renewal was of {}, and", local(renewed)));
        } else {
            why.push(':');
        }
        format!(
            "{why} {} noticed at {} that it was over",
            noticed.member,
            local(noticed.at)
        )
    }

    /// How long nobody could write: from the last moment in which the former leader could.
    fn times(&self, winner: &MemberName) -> String {
        let turn = self.transition.turn.event();
        let seconds = |from: Timestamp, to: Timestamp| {
            let seconds = to.duration_since(from).as_secs_f64().max(0.0);
            format!("{seconds:.3} s")
        };
        let of_winner = |event: &&Event| event.member == *winner && event.at >= turn.at;
        let is_promoted = |event: &&Event| {
            matches!(
                &event.what,
                What::TaskEnded {
                    task: Task::Promote { .. },
                    outcome: TaskOutcome::Success,
                    ..
                }
            )
        };
        let promotion = self.transition.all.iter().filter(of_winner).find(is_promoted);
        let more = promotion.map(|event| format!("{} more until it was primary", seconds(turn.at, event.at)));
        let Some(end) = self.end_of_writes() else {
            let of_end = match self.transition.former {
                Some(former) if former == winner => {
                    format!("PostgreSQL of {former} was not stopped, as far as is known")
                }
                Some(former) => format!("nothing is known of the moment when {former} took its last write"),
                None => "nothing is known of what came before".to_owned(),
            };
            return more.map_or(of_end.clone(), |more| {
                format!("{of_end}; {winner} took the leader key, {more}")
            });
        };
        let first = format!(
            "{} from {} until {winner} took the leader key",
            seconds(end.at, turn.at),
            end.what
        );
        match (promotion, more) {
            (Some(event), Some(more)) => format!(
                "no writes for {}{}: {first}, {more}",
                if end.is_exact { "" } else { "at most " },
                seconds(end.at, event.at),
            ),
            _ => first,
        }
    }

    /// The last moment in which the former leader could take writes, as far as it is known.
    fn end_of_writes(&self) -> Option<EndOfWrites> {
        let former = self.transition.former?;
        let own = |wanted: fn(&What) -> bool| {
            self.transition.all.iter().find(|step| {
                step.member == *former && is_before(step, self.transition.turn) && wanted(&step.what)
            })
        };
        let exact = |event: &Event, what: String| EndOfWrites {
            at: event.at,
            what,
            is_exact: true,
        };
        let ended = own(|what| {
            matches!(what, What::StopSignalled { .. } | What::Fencing { .. }) || is_end_of_server(what)
        });
        // Older versions do not say when the signal was sent.
        let ended = ended.or_else(|| {
            own(|what| {
                matches!(
                    what,
                    What::Demotion { .. }
                        | What::TaskBegun {
                            task: Task::Stop { .. }
                        }
                )
            })
        });
        if let Some(event) = ended {
            let what = match &event.what {
                What::Fencing { .. } => format!("the moment when the guard stopped {former}"),
                What::Server { .. } => format!("the end of PostgreSQL on {former}"),
                _ => format!("the stop of {former}"),
            };
            return Some(exact(event, what));
        }
        self.transition.steps.iter().find_map(|step| match &step.what {
            What::Leader {
                from: Some(from),
                silent_for: Some(silent_for),
                ..
            } if from == former => Some(EndOfWrites {
                at: step.at.checked_sub(*silent_for).ok()?,
                what: format!("the last renewal of {former}"),
                is_exact: false,
            }),
            _ => None,
        })
    }
}

/// The last moment in which a leader could take writes.
struct EndOfWrites {
    at: Timestamp,
    /// What it was.
    what: String,
    /// It was then, and not earlier or later.
    is_exact: bool,
}

/// What a member says about its end is of this transition if it was not long after it.
fn is_before(event: &Event, turn: Turn<'_>) -> bool {
    event.at.duration_since(turn.event().at) <= transition::SKEW
}

fn is_end_of_server(what: &What) -> bool {
    matches!(
        what,
        What::Server {
            from_role: Role::Primary,
            from_state: ServerState::Running,
            state: ServerState::Crashed | ServerState::Stopped,
            ..
        }
    )
}

fn why_it_won(winner: &str, race: &Race) -> String {
    let position = race
        .position
        .map_or("an unknown position".to_owned(), |lsn| lsn.to_string());
    let judged = |rival: &Rival| match (&rival.failure, &rival.not_running_because, rival.position) {
        (Some(_), _, _) => format!("{} did not answer", rival.name),
        (None, Some(why), _) => format!("{} does not run ({why})", rival.name),
        (None, None, Some(theirs)) if Some(theirs) == race.position => format!("{} is as far", rival.name),
        (None, None, Some(theirs)) if Some(theirs) > race.position => {
            format!("{} is at {theirs}, which does not count", rival.name)
        }
        (None, None, Some(theirs)) => format!("{} is behind, at {theirs}", rival.name),
        (None, None, None) => format!("{} tells no position", rival.name),
    };
    let rivals: Vec<String> = race.rivals.iter().map(judged).collect();
    if rivals.is_empty() {
        return format!("{winner} took over at {position}: it had nobody to compare itself with");
    }
    format!(
        "{winner} took over at {position}, because nobody who runs is further: {}",
        rivals.join(", ")
    )
}

/// Why the others did not.
fn losers(winner: &MemberName, steps: &[&Event]) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for step in steps.iter().rev() {
        let name = step.member.as_str();
        if let What::Race(race) = &step.what
            && race.verdict != Verdict::Won
            && step.member != *winner
            && !names.contains(&name)
        {
            names.push(name);
            told.push(match race.verdict {
                Verdict::Late => format!("{name} wanted the leader key, too, and was not as fast"),
                Verdict::Won | Verdict::Waived => format!("{name} did not: {}", race.why.join("; ")),
            });
        }
    }
    told.reverse();
    told
}
