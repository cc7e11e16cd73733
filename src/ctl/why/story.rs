//! The story of the last change of the leader, told from the events of all members. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use ha::event::{Event, Gain, Race, Rival, Verdict, What};
use ha::reason::Reason;
use ha::step::{Task, TaskOutcome};
use jiff::Timestamp;

use crate::ctl::events::local;

/// Events further apart than this, or than two leases, do not belong together.
const APART: Duration = Duration::from_secs(60);

/// So much earlier than its new holder others may see the leader key change hands.
const SEEN_EARLIER: jiff::SignedDuration = jiff::SignedDuration::from_secs(3);

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

/// The newest story, or the one that is nearest to `at`; `None` when nothing of the kind has happened.
pub(crate) fn tell(events: &[Event], at: Option<Timestamp>) -> Option<Story<'_>> {
    let turns = || events.iter().enumerate().filter(|(_, event)| is_turn(event));
    let distance = |event: &Event| at.map(|at| event.at.duration_since(at).abs());
    let (turn, event) = match at {
        None => turns().next_back()?,
        Some(_) => turns().min_by_key(|(_, event)| distance(event))?,
    };
    let span = span(events, turn);
    let steps: Vec<&Event> = span.iter().filter(|event| is_told(event)).collect();
    Some(match &event.what {
        What::LockGained { .. } => takeover(event, steps),
        _ => demotion(event, steps),
    })
}

/// The leader has changed, or was stopped.
fn is_turn(event: &Event) -> bool {
    match &event.what {
        What::LockGained { how, .. } => matches!(how, Gain::Acquired | Gain::Superseded),
        What::Demotion { .. } => true,
        _ => false,
    }
}

/// All that is near to the event in question, and no further than the next change.
fn span(events: &[Event], turn: usize) -> &[Event] {
    let apart = match &events[turn].what {
        What::LockGained { valid_for, .. } => APART.max(*valid_for * 2),
        _ => APART,
    };
    let is_near = |one: &Event, other: &Event| {
        other.at.duration_since(one.at)
            <= jiff::SignedDuration::try_from(apart).unwrap_or(jiff::SignedDuration::MAX)
    };
    let is_takeover = |event: &Event| is_turn(event) && matches!(event.what, What::LockGained { .. });
    let mut first = turn;
    let mut last_told = turn;
    for at in (0..turn).rev() {
        if had_leader(&events[at], &events[turn]) || !is_near(&events[at], &events[last_told]) {
            break;
        }
        if is_told(&events[at]) {
            (first, last_told) = (at, at);
        }
    }
    let mut end = turn;
    let mut last_told = turn;
    for at in turn + 1..events.len() {
        if is_takeover(&events[at]) && is_takeover(&events[turn]) || !is_near(&events[last_told], &events[at])
        {
            break;
        }
        if is_told(&events[at]) {
            (end, last_told) = (at, at);
        }
    }
    &events[first..=end]
}

/// Somebody led before the change: what came before that is another story. Others may see the new leader before it
/// knows itself.
fn had_leader(event: &Event, turn: &Event) -> bool {
    match &event.what {
        What::LockGained { .. } => true,
        What::Leader { to: Some(to), .. } => {
            *to != turn.member || turn.at.duration_since(event.at) > SEEN_EARLIER
        }
        _ => false,
    }
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
fn is_told(event: &Event) -> bool {
    match &event.what {
        What::AgentStarted { .. }
        | What::AgentEnded { .. }
        | What::Leader { .. }
        | What::LockGained { .. }
        | What::LockLost { .. }
        | What::Race(_)
        | What::Demotion { .. }
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
        | What::Other { .. } => false,
    }
}

/// A status that says what no other event does.
fn matters(reason: &Reason) -> bool {
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

fn takeover<'a>(turn: &'a Event, steps: Vec<&'a Event>) -> Story<'a> {
    let winner = turn.member.as_str();
    let before = &steps[..steps
        .iter()
        .position(|step| std::ptr::eq(*step, turn))
        .unwrap_or(0)];
    let race = before.iter().rev().find_map(|step| match &step.what {
        What::Race(race) if step.member == turn.member && race.verdict == Verdict::Won => Some(&**race),
        _ => None,
    });
    let former = former_leader(before, race);
    let asked = before.iter().find_map(|step| match &step.what {
        What::Asked { operation, .. } => Some(operation.as_str()),
        _ => None,
    });
    let kind = match (asked, former.as_deref() == Some(winner)) {
        (Some(asked), _) => asked,
        (None, true) => "return",
        (None, false) => "failover",
    };
    let from = match &former {
        Some(former) if former == winner => " back".to_owned(),
        Some(former) => format!(" from {former}"),
        None => String::new(),
    };
    let headline = format!("{kind}: {winner} took the leader key{from} at {}", local(turn.at));
    let mut conclusions = Vec::new();
    conclusions.extend(former.as_deref().map(|former| how_it_ended(former, before)));
    conclusions.extend(race.map(|race| why_it_won(winner, race)));
    conclusions.extend(losers(turn, &steps));
    conclusions.push(times(turn, before, &steps));
    Story {
        headline,
        steps,
        conclusions,
    }
}

fn demotion<'a>(turn: &'a Event, steps: Vec<&'a Event>) -> Story<'a> {
    let name = turn.member.as_str();
    let mut conclusions = vec![format!("{name} was stopped: {}", turn.what)];
    let back = steps.iter().find(|step| {
        step.at >= turn.at && step.member == turn.member && matches!(step.what, What::LockGained { .. })
    });
    conclusions.push(match back {
        Some(back) => format!("{name} leads again since {}", local(back.at)),
        None => "nobody is known to have taken the leader key since then".to_owned(),
    });
    conclusions.extend(losers(turn, &steps));
    Story {
        headline: format!("demotion of {name} at {}", local(turn.at)),
        steps,
        conclusions,
    }
}

fn former_leader(before: &[&Event], race: Option<&Race>) -> Option<String> {
    let raced = race.and_then(|race| race.former_leader.as_ref().map(ToString::to_string));
    raced.or_else(|| {
        before.iter().rev().find_map(|step| match &step.what {
            What::Leader { from: Some(from), .. } => Some(from.to_string()),
            What::LockLost { .. } | What::Demotion { .. } => Some(step.member.to_string()),
            _ => None,
        })
    })
}

fn how_it_ended(former: &str, before: &[&Event]) -> String {
    let own = before.iter().find(|step| {
        step.member.as_str() == former
            && matches!(
                step.what,
                What::Demotion { .. }
                    | What::LockLost { .. }
                    | What::Server { .. }
                    | What::DcsLost { .. }
                    | What::AgentEnded { .. }
            )
    });
    if let Some(step) = own {
        return format!("{former} led until {}: {}", local(step.at), step.what);
    }
    let noticed = before
        .iter()
        .find(|step| matches!(&step.what, What::Leader { from: Some(from), .. } if from.as_str() == former));
    let Some(noticed) = noticed else {
        return format!("{former} led before; it has told nothing of its end");
    };
    let renewed = match &noticed.what {
        What::Leader {
            silent_for: Some(silent_for),
            ..
        } => noticed.at.checked_sub(*silent_for).ok(),
        _ => None,
    };
    let renewed = renewed.map_or(String::new(), |renewed| {
        format!(" its last renewal was of {},", local(renewed))
    });
    format!(
        "{former} has told nothing of its end, as when its agent or its machine is gone:{renewed} and {} noticed \
         at {} that it was over",
        noticed.member,
        local(noticed.at)
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
fn losers(turn: &Event, steps: &[&Event]) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for step in steps.iter().rev() {
        let name = step.member.as_str();
        if let What::Race(race) = &step.what
            && race.verdict != Verdict::Won
            && step.member != turn.member
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

fn times(turn: &Event, before: &[&Event], steps: &[&Event]) -> String {
    let between = |from: &Event, to: &Event| {
        let seconds = to.at.duration_since(from.at).as_secs_f64().max(0.0);
        format!("{seconds:.3} s")
    };
    let mut parts = Vec::new();
    if let Some(What::Leader {
        silent_for: Some(silent_for),
        ..
    }) = before.first().map(|step| &step.what)
    {
        parts.push(format!("{:.3} s without a renewal", silent_for.as_secs_f64()));
    }
    if let Some(first) = before.first() {
        parts.push(format!(
            "{} from the first sign to the leader key",
            between(first, turn)
        ));
    }
    let promotion = steps.iter().find(|step| {
        step.at >= turn.at
            && step.member == turn.member
            && matches!(
                &step.what,
                What::TaskEnded {
                    task: Task::Promote { .. },
                    outcome: TaskOutcome::Success,
                    ..
                }
            )
    });
    if let Some(promotion) = promotion {
        parts.push(format!("{} more until it was primary", between(turn, promotion)));
        if let Some(first) = before.first() {
            parts.push(format!("{} in all", between(first, promotion)));
        }
    }
    if parts.is_empty() {
        "nothing is known of what came before".to_owned()
    } else {
        parts.join(", ")
    }
}
