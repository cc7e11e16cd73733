//! Which events make one change of the leader: from the first sign that the former leader's time ends until all members
//! have joined the new leader. Pure.
//!
//! Events of several transitions may be mixed: while one member is still being rewound after a failover, somebody asks for a
//! switchover. So events are not cut by time. A transition begins with a sign about *its* former leader that nothing has
//! settled since, and an event belongs to it if it is about its former leader or its new leader.

use std::collections::BTreeSet;
use std::time::Duration;

use ha::event::{Event, Gain, What};
use ha::pg::{MemberName, Role, ServerState};
use ha::reason::Reason;
use ha::step::{Exit, StopPurpose, Task, TaskOutcome};
use jiff::{SignedDuration, Timestamp};

use super::story::is_told;

/// After the change, events further apart than this, or than two leases, do not belong together.
const APART: Duration = Duration::from_secs(60);

/// Clocks of two machines differ by so much at most, as far as the order of their events is concerned.
pub(super) const SKEW: SignedDuration = SignedDuration::from_secs(3);

/// A job of this transition may have begun so much before its first sign is seen.
const SLACK: SignedDuration = SignedDuration::from_secs(-1);

/// One change of the leader.
#[derive(Debug, Clone)]
pub(super) struct Transition<'a> {
    /// The member that led before, if it is known.
    pub(super) former: Option<&'a MemberName>,
    /// What came of it.
    pub(super) turn: Turn<'a>,
    /// Its own events that are told, oldest first.
    pub(super) steps: Vec<&'a Event>,
    /// All events of its time, also of others.
    pub(super) all: &'a [Event],
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Turn<'a> {
    /// A member took the leader key, and reports it itself.
    Gained(&'a Event),
    /// Other members saw that this member leads, which reports nothing itself: Patroni, or a member that is unreachable.
    Seen(&'a Event, &'a MemberName),
    /// A primary was stopped that keeps the leader key: the cluster has become a standby cluster.
    Demoted(&'a Event),
    /// The leader key was lost, and nobody is known to have taken it since.
    Open(&'a Event),
}

impl<'a> Turn<'a> {
    pub(super) fn event(self) -> &'a Event {
        match self {
            Self::Gained(event) | Self::Seen(event, _) | Self::Demoted(event) | Self::Open(event) => event,
        }
    }

    /// The new leader.
    pub(super) fn winner(self) -> Option<&'a MemberName> {
        match self {
            Self::Gained(event) => Some(&event.member),
            Self::Seen(_, leader) => Some(leader),
            Self::Demoted(_) | Self::Open(_) => None,
        }
    }
}

/// The newest transition, or the one nearest to `at`.
pub(super) fn find(events: &[Event], at: Option<Timestamp>) -> Option<Transition<'_>> {
    let turns = turns(events);
    let distance = |found: &Found<'_>| at.map(|at| events[found.index].at.duration_since(at).abs());
    let nearest = match at {
        None => turns.len().checked_sub(1)?,
        Some(_) => (0..turns.len()).min_by_key(|index| distance(&turns[*index]))?,
    };
    let limit = turns.get(nearest + 1).map_or(events.len(), |next| next.begin);
    Some(transition(events, &turns[nearest], limit))
}

/// A member leads from here on.
struct Reign<'a> {
    leader: &'a MemberName,
    from: usize,
    /// `None`: it was already so when it was first seen, or the cluster was created; that is no change.
    turn: Option<Turn<'a>>,
}

/// A change that was found.
struct Found<'a> {
    former: Option<&'a MemberName>,
    turn: Turn<'a>,
    begin: usize,
    index: usize,
}

fn turns(events: &[Event]) -> Vec<Found<'_>> {
    let reigns = reigns(events);
    let mut found: Vec<Found<'_>> = Vec::new();
    let mut since = 0;
    let mut leader = None;
    for reign in &reigns {
        if let Some(turn) = reign.turn {
            let former = raced_with(events, since, reign).or(leader);
            let former = former.or_else(|| last_gone(&events[since..reign.from]));
            let begin = begin(events, since..reign.from, former, turn);
            let (begin, index) = (begin.unwrap_or(reign.from), reign.from);
            found.push(Found {
                former,
                turn,
                begin,
                index,
            });
        }
        (since, leader) = (reign.from + 1, Some(reign.leader));
    }
    found.extend(open(events, since, leader));
    for (index, event) in events.iter().enumerate() {
        if let What::Demotion { purpose, .. } = &event.what
            && *purpose == StopPurpose::StandbyCluster
        {
            found.push(Found {
                former: Some(&event.member),
                turn: Turn::Demoted(event),
                begin: index,
                index,
            });
        }
    }
    found.sort_by_key(|found| found.index);
    found
}

/// The leader's time is over, and nobody is known to lead since then.
fn open<'a>(events: &'a [Event], since: usize, leader: Option<&'a MemberName>) -> Option<Found<'a>> {
    let rest = since..events.len();
    let former = leader.or_else(|| last_gone(&events[rest.clone()]))?;
    let signs = signs(events, rest, former);
    let over = signs
        .iter()
        .find(|sign| matches!(sign.kind, Kind::Over | Kind::Noticed))?;
    let demotion = events[over.index..]
        .iter()
        .find(|event| event.member == *former && matches!(event.what, What::Demotion { .. }));
    Some(Found {
        former: Some(former),
        turn: Turn::Open(demotion.unwrap_or(&events[over.index])),
        begin: signs.first().map_or(over.index, |sign| sign.index),
        index: over.index,
    })
}

/// Who led when, as the members tell it of themselves, and of those that tell nothing.
fn reigns(events: &[Event]) -> Vec<Reign<'_>> {
    let mut reigns: Vec<Reign<'_>> = Vec::new();
    for (from, event) in events.iter().enumerate() {
        let current = reigns.last();
        let leads = |name: &MemberName| current.is_some_and(|reign| reign.leader == name);
        match &event.what {
            What::LockGained { how, .. } => {
                let turn = match how {
                    Gain::Acquired | Gain::Superseded => Some(Turn::Gained(event)),
                    Gain::Found if !leads(&event.member) && current.is_some() => Some(Turn::Gained(event)),
                    Gain::Found | Gain::Taken => None,
                };
                if turn.is_some() || !leads(&event.member) {
                    reigns.push(Reign {
                        leader: &event.member,
                        from,
                        turn,
                    });
                }
            }
            What::Leader { to: Some(leader), .. } if !leads(leader) => {
                if !is_hearsay(events, from, leader, &reigns) {
                    continue;
                }
                let turn = current.map(|_| Turn::Seen(event, leader));
                reigns.push(Reign { leader, from, turn });
            }
            _ => {}
        }
    }
    reigns
}

/// What another member has seen is all there is to know: the leader itself does not report it a moment later, and it is
/// not what was so a moment before.
fn is_hearsay(events: &[Event], from: usize, leader: &MemberName, reigns: &[Reign<'_>]) -> bool {
    let at = events[from].at;
    let is_soon = |event: &&Event| event.at.duration_since(at) <= SKEW;
    let reports = |event: &Event| event.member == *leader && matches!(event.what, What::LockGained { .. });
    if events[from..].iter().take_while(is_soon).any(reports) {
        return false;
    }
    let [.., before, current] = reigns else {
        return true;
    };
    let has_just_begun = at.duration_since(events[current.from].at) <= SKEW;
    !(has_just_begun && before.leader == leader)
}

/// Whom the new leader has followed, by its own word.
fn raced_with<'a>(events: &'a [Event], since: usize, reign: &Reign<'_>) -> Option<&'a MemberName> {
    let own = events[since..reign.from].iter().rev();
    own.filter(|event| event.member == *reign.leader)
        .find_map(|event| match &event.what {
            What::Race(race) => Some(race.former_leader.as_ref()),
            _ => None,
        })?
}

fn last_gone(events: &[Event]) -> Option<&MemberName> {
    events.iter().rev().find_map(|event| match &event.what {
        What::Leader { from: Some(from), .. } => Some(from),
        What::LockLost { .. } => Some(&event.member),
        What::Demotion { .. } => Some(&event.member),
        _ => None,
    })
}

/// Something that may be the beginning of the end of the leader's time.
struct Sign<'a> {
    index: usize,
    of: &'a MemberName,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The leader itself: it does not lead any more.
    Over,
    /// Another member: nobody leads.
    Noticed,
    /// The leader itself: its server or its agent is in trouble. It may recover.
    Trouble,
    /// The leader itself: the DCS does not answer. It may come back.
    Outage,
    /// Somebody wants another leader.
    Wish,
}

/// The index of the first sign that nothing has settled, or at least of what led the new leader to run for the key.
fn begin(
    events: &[Event],
    within: std::ops::Range<usize>,
    former: Option<&MemberName>,
    turn: Turn<'_>,
) -> Option<usize> {
    let signs = former.map(|former| signs(events, within.clone(), former));
    if let Some(first) = signs.as_ref().and_then(|signs| signs.first()) {
        return Some(first.index);
    }
    let own = |wanted: fn(&What) -> bool| {
        let mut backwards = within.clone().rev();
        backwards.find(|index| Some(&events[*index].member) == turn.winner() && wanted(&events[*index].what))
    };
    own(|what| matches!(what, What::AgentStarted { .. }))
        .or_else(|| own(|what| matches!(what, What::Race(_))))
}

/// What is a sign, and has not been settled.
fn signs<'a>(events: &'a [Event], within: std::ops::Range<usize>, leader: &MemberName) -> Vec<Sign<'a>> {
    let mut signs: Vec<Sign<'a>> = Vec::new();
    for index in within {
        let event = &events[index];
        let is_over = signs.iter().any(|sign| sign.kind == Kind::Over);
        let is_leader = event.member == *leader;
        match &event.what {
            What::LockGained { .. } if is_leader => signs.clear(),
            What::Status { reason, .. } if is_leader && !is_over && is_well(reason) => {
                signs.retain(|sign| !matches!(sign.kind, Kind::Trouble | Kind::Outage));
            }
            What::DcsBack { .. } if is_leader && !is_over => signs.retain(|sign| sign.kind != Kind::Outage),
            What::AskedNoMore { .. } if !is_over => signs.retain(|sign| sign.kind != Kind::Wish),
            What::Leader { to: Some(to), .. } if to == leader => {
                signs.retain(|sign| sign.of != &event.member || sign.kind != Kind::Noticed);
            }
            _ => {}
        }
        if let Some(kind) = sign(event, leader) {
            let of = &event.member;
            signs.push(Sign { index, of, kind });
        }
    }
    signs
}

fn sign(event: &Event, leader: &MemberName) -> Option<Kind> {
    if event.member != *leader {
        return match &event.what {
            What::Leader { from: Some(from), .. } if from == leader => Some(Kind::Noticed),
            What::Asked {
                leader: of,
                scheduled_at: None,
                ..
            } => of.as_ref().is_none_or(|of| of == leader).then_some(Kind::Wish),
            _ => None,
        };
    }
    match &event.what {
        What::Demotion { purpose, .. } if *purpose != StopPurpose::StandbyCluster => Some(Kind::Over),
        What::LockLost { .. } | What::Fencing { .. } => Some(Kind::Over),
        What::TaskBegun {
            task:
                Task::Stop {
                    purpose: StopPurpose::Shutdown,
                    ..
                },
        } => Some(Kind::Over),
        What::AgentStarted { .. } | What::AgentEnded { .. } => Some(Kind::Trouble),
        What::Server {
            from_role: Role::Primary,
            from_state: ServerState::Running,
            state,
            ..
        } => (*state != ServerState::Running).then_some(Kind::Trouble),
        What::Status { reason, .. } if super::story::matters(reason) => Some(Kind::Trouble),
        What::DcsLost { .. } => Some(Kind::Outage),
        What::Asked {
            scheduled_at: None, ..
        } => Some(Kind::Wish),
        _ => None,
    }
}

/// The leader leads, and its server runs.
fn is_well(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Leader(_) | Reason::StandbyLeader(_) | Reason::FailsafeLeader
    )
}

/// The transition with its own events; none from `limit` on.
fn transition<'a>(events: &'a [Event], found: &Found<'a>, limit: usize) -> Transition<'a> {
    let whose = Whose {
        former: found.former,
        winner: found.turn.winner(),
        turn: found.turn.event(),
        begins: events[found.begin].at,
    };
    let mut steps: Vec<&Event> = Vec::new();
    let mut end = found.index + 1;
    for event in &events[found.begin..found.index] {
        if whose.is_own(event, false) {
            steps.push(event);
        }
    }
    if is_told(&events[found.index]) {
        steps.push(&events[found.index]);
    }
    let mut joined: BTreeSet<&MemberName> = BTreeSet::new();
    let mut last = &events[found.index];
    for (index, event) in events.iter().enumerate().take(limit).skip(found.index + 1) {
        let is_winner = Some(&event.member) == whose.winner;
        if joined.contains(&event.member) || (!is_winner && !whose.is_near(last, event)) {
            continue;
        }
        if whose.is_own(event, true) {
            steps.push(event);
            last = event;
            end = index + 1;
        }
        if whose.has_joined(event) {
            joined.insert(&event.member);
        }
    }
    Transition {
        former: found.former,
        turn: found.turn,
        steps,
        all: &events[found.begin..end],
    }
}

/// What makes an event one of this transition.
struct Whose<'a> {
    former: Option<&'a MemberName>,
    winner: Option<&'a MemberName>,
    turn: &'a Event,
    begins: Timestamp,
}

impl Whose<'_> {
    fn is_near(&self, one: &Event, other: &Event) -> bool {
        let apart = match &self.turn.what {
            What::LockGained { valid_for, .. } => APART.max(*valid_for * 2),
            _ => APART,
        };
        other.at.duration_since(one.at) <= SignedDuration::try_from(apart).unwrap_or(SignedDuration::MAX)
    }

    fn is_own(&self, event: &Event, is_after: bool) -> bool {
        let is_former = self.former.is_none_or(|former| event.member == *former);
        let is_party = is_former || Some(&event.member) == self.winner;
        is_told(event)
            && match &event.what {
                What::Leader { from, to, .. } => {
                    let is_about_former = self.former.is_none() || from.as_ref() == self.former;
                    is_about_former || (to.is_some() && to.as_ref() == self.winner)
                }
                What::Race(race) => {
                    self.former.is_none()
                        || race.former_leader.is_none()
                        || race.former_leader.as_ref() == self.former
                }
                What::LockLost { .. }
                | What::Demotion { .. }
                | What::Fencing { .. }
                | What::StopSignalled { .. }
                | What::ShutdownCheckpoint { .. } => is_former,
                What::AgentStarted { .. } => is_party || !is_after,
                What::Fenced { .. } | What::AgentEnded { .. } | What::Server { .. } => is_party,
                What::Asked { .. } => !is_after,
                What::LockGained { .. } => false,
                What::TaskEnded { task, took, .. } => self.is_own_job(event, task, *took, is_former),
                What::Done { what, .. } => self.follows_winner(what),
                _ => true,
            }
    }

    /// A job that began before is one of the transition before.
    fn is_own_job(&self, event: &Event, task: &Task, took: Option<Duration>, is_former: bool) -> bool {
        let began = took.and_then(|took| event.at.checked_sub(took).ok());
        let began_here = began.is_some_and(|began| began.duration_since(self.begins) >= SLACK);
        match task {
            Task::Stop { .. } => is_former && (took.is_none() || began_here),
            Task::Promote { .. } => Some(&event.member) == self.winner && (took.is_none() || began_here),
            _ => began_here,
        }
    }

    fn follows_winner(&self, what: &str) -> bool {
        let followed = what
            .strip_prefix("follows ")
            .and_then(|rest| rest.split(' ').next());
        followed.is_some() && (self.winner.is_none() || followed == self.winner.map(MemberName::as_str))
    }

    /// The member has its place in the new order of things: what it does later is another story.
    fn has_joined(&self, event: &Event) -> bool {
        let is_winner = Some(&event.member) == self.winner;
        match &event.what {
            What::Done { what, failure: None } => !is_winner && self.follows_winner(what),
            What::TaskEnded {
                task: Task::Promote { .. },
                outcome: TaskOutcome::Success,
                ..
            } => is_winner,
            What::TaskEnded {
                task: Task::Start { .. },
                outcome: TaskOutcome::Success,
                ..
            } => !is_winner,
            What::Status { reason, .. } => match reason {
                Reason::Leader(_) | Reason::StandbyLeader(_) => is_winner,
                Reason::Following { leader, .. } | Reason::FollowingStandbyLeader { leader, .. } => {
                    Some(leader) == self.winner
                }
                _ => false,
            },
            _ => false,
        }
    }
}

/// The former leader was stopped in an orderly way, by the word of whoever stopped its agent or its machine.
pub(super) fn is_orderly_stop(event: &Event) -> bool {
    match &event.what {
        What::AgentEnded { exit } => *exit == Exit::Graceful,
        What::TaskBegun { task } => matches!(
            task,
            Task::Stop {
                purpose: StopPurpose::Shutdown,
                ..
            }
        ),
        What::Status { reason, .. } => matches!(reason, Reason::ShuttingDown | Reason::ShutDown),
        _ => false,
    }
}
