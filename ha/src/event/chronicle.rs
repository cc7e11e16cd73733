//! Which events a cycle is: only what changes something, so that a cluster in which all is well writes none.

mod task;

use std::sync::Arc;
use std::time::Duration;

use config::DynamicConfig;
use jiff::Timestamp;

use super::{Event, Gain, Loss, Origin, Race, Rival, Verdict, What};
use crate::cluster::{Cluster, Failover, SyncState};
use crate::cycle::{Entry, Facts};
use crate::facts::{Answer, LockAnswer, Moment, PeerAnswer, SqlFacts, TaskStatus};
use crate::memory::Memory;
use crate::pg::MemberName;
use crate::reason::{Level, Reason};
use crate::step::{Action, Key, Outcome, Question, SlotChange, Step, Task};

/// What was said before, for what need not be said again.
#[derive(Debug, Clone, Default)]
pub struct Chronicle {
    status: Option<Reason>,
    is_paused: bool,
    race: Option<RaceEssence>,
    /// What the DCS was last seen to hold.
    seen: Option<Seen>,
    outage_since: Option<Moment>,
    task_since: Option<(Task, Moment)>,
    has_shut_down: bool,
    config: Option<Arc<DynamicConfig>>,
}

/// What makes a race another one than before; positions move all the time.
#[derive(Debug, Clone, PartialEq)]
struct RaceEssence {
    verdict: Verdict,
    why: Vec<String>,
    /// Who has answered, and who has not.
    answered: Vec<(MemberName, bool)>,
}

#[derive(Debug, Clone)]
struct Seen {
    leader: Option<MemberName>,
    failover: Option<Failover>,
    sync: SyncState,
}

/// One cycle, looked at for events.
struct Look<'a> {
    facts: &'a Facts,
    before: &'a Memory,
    after: &'a Memory,
    outcome: &'a Outcome,
    ended_at: Moment,
    events: Vec<(Moment, What)>,
}

impl Chronicle {
    /// The events of the cycle that has just ended with `outcome`, in the order in which they have happened.
    pub fn tell(&mut self, facts: &Facts, before: &Memory, after: &Memory, outcome: &Outcome) -> Vec<Event> {
        let ended_at = facts.journal.last().map_or(facts.given.now, |entry| entry.at);
        let mut look = Look {
            facts,
            before,
            after,
            outcome,
            ended_at,
            events: Vec::new(),
        };
        self.configuration(&mut look);
        self.task_ended(&mut look);
        self.cluster(&mut look);
        self.outage(&mut look);
        self.race(&mut look);
        lock(&mut look);
        self.actions(&mut look);
        server(&mut look);
        strangers(&mut look);
        self.status(&mut look);
        look.events.sort_by_key(|(moment, _)| *moment);
        let given = &facts.given;
        look.events
            .into_iter()
            .map(|(moment, what)| Event {
                id: 0,
                at: wall_clock(given.wall_clock, given.now, moment),
                moment,
                member: given.node.name.clone(),
                what,
            })
            .collect()
    }

    fn configuration(&mut self, look: &mut Look<'_>) {
        let now = &look.facts.given.config;
        let before = self.config.replace(Arc::clone(now));
        let Some(before) = before.filter(|before| !Arc::ptr_eq(before, now)) else {
            return;
        };
        let changed = changed_keys(&before.document, &now.document);
        if !changed.is_empty() {
            let origin = Origin::Cluster;
            look.tell(look.facts.given.now, What::Configuration { origin, changed });
        }
    }

    /// What others have done, as far as the DCS tells.
    fn cluster(&mut self, look: &mut Look<'_>) {
        let Some((cluster, read_at)) = &look.after.cluster else {
            return;
        };
        let me = &look.facts.given.node.name;
        let now = Seen {
            leader: cluster.leader_name().cloned(),
            failover: cluster.failover.clone(),
            sync: cluster.sync.clone(),
        };
        let is_expired = now.leader.is_none() && raw_leader(look.facts).is_some();
        let before = self.seen.replace(now.clone());
        let from = before.as_ref().and_then(|seen| seen.leader.clone());
        // What this member has done itself is told as its own deed.
        if from != now.leader && now.leader.as_ref() != Some(me) {
            let renewed = look
                .before
                .heartbeat
                .map(|known| read_at.since(known.sent_before));
            let what = What::Leader {
                silent_for: renewed.filter(|_| now.leader.is_none() && from.is_some()),
                from,
                to: now.leader,
                is_expired,
            };
            look.tell(*read_at, what);
        }
        let asked = before.as_ref().and_then(|seen| seen.failover.clone());
        match (&asked, &now.failover) {
            (before, Some(failover)) if !is_same_wish(before.as_ref(), failover) => look.tell(
                *read_at,
                What::Asked {
                    operation: failover.kind(),
                    leader: failover.leader.clone(),
                    candidate: failover.candidate.clone(),
                    scheduled_at: failover.scheduled_at,
                },
            ),
            (Some(before), None) => {
                let operation = before.kind();
                look.tell(*read_at, What::AskedNoMore { operation });
            }
            (_, _) => {}
        }
        let is_other = |before: &SyncState| {
            (&before.leader, &before.voters, before.quorum)
                != (&now.sync.leader, &now.sync.voters, now.sync.quorum)
        };
        let was_none = before.is_none() && now.sync.leader.is_none();
        if !was_none && before.is_none_or(|before| is_other(&before.sync)) {
            look.tell(*read_at, What::Synchronous { sync: now.sync });
        }
    }

    fn outage(&mut self, look: &mut Look<'_>) {
        let mut failure = None;
        let mut answered_at = None;
        for entry in look.facts.journal.iter().filter(|entry| !entry.is_meanwhile) {
            match &entry.answer {
                Answer::Cluster(Err(why)) | Answer::Lock(LockAnswer::Unknown(why)) => {
                    failure.get_or_insert((entry.at, why.0.clone()));
                }
                Answer::Cluster(Ok(_)) => answered_at = answered_at.or(Some(entry.at)),
                _ => {}
            }
        }
        match (failure, self.outage_since, answered_at) {
            (Some((at, error)), None, _) => {
                self.outage_since = Some(at);
                look.tell(at, What::DcsLost { error });
            }
            (None, Some(since), Some(at)) => {
                self.outage_since = None;
                let after = at.since(since);
                look.tell(at, What::DcsBack { after });
            }
            (_, _, _) => {}
        }
    }

    fn race(&mut self, look: &mut Look<'_>) {
        let Some(race) = race(look) else {
            if !matches!(
                look.outcome.reason,
                Reason::RaceBackoff { .. } | Reason::DcsNotAccessible
            ) {
                self.race = None;
            }
            return;
        };
        let answered = race
            .rivals
            .iter()
            .map(|rival| (rival.name.clone(), rival.failure.is_none()));
        let essence = RaceEssence {
            verdict: race.verdict,
            why: race.why.clone(),
            answered: answered.collect(),
        };
        if self.race.as_ref() != Some(&essence) {
            self.race = Some(essence);
            let at = compared_at(look.facts).unwrap_or(look.ended_at);
            look.tell(at, What::Race(Box::new(race)));
        }
    }

    fn status(&mut self, look: &mut Look<'_>) {
        let is_paused = look.facts.given.config.pause;
        let reason = &look.outcome.reason;
        let is_same = self.is_paused == is_paused
            && self
                .status
                .as_ref()
                .is_some_and(|before| is_alike(before, reason));
        self.is_paused = is_paused;
        self.status = Some(reason.clone());
        if is_same {
            return;
        }
        let notes = look.outcome.notes.iter().filter(|note| note.level >= Level::Info);
        let notes = notes
            .map(|note| note.text.clone())
            .filter(|text| !text.starts_with(LOCK_OWNER));
        let what = What::Status {
            status: reason.status_line(is_paused),
            reason: reason.clone(),
            notes: notes.collect(),
        };
        look.tell(look.ended_at, what);
    }
}

/// How the note begins that stands in every cycle.
const LOCK_OWNER: &str = "Lock owner: ";

impl Look<'_> {
    fn tell(&mut self, at: Moment, what: What) {
        self.events.push((at, what));
    }

    fn sql(&self) -> Option<&SqlFacts> {
        self.facts
            .journal
            .iter()
            .rev()
            .find_map(|entry| match &entry.answer {
                Answer::Server(server) => server.sql.as_ref(),
                _ => None,
            })
    }
}

fn wall_clock(at_start: Timestamp, start: Moment, moment: Moment) -> Timestamp {
    let later = |duration: Duration| at_start.checked_add(duration).ok();
    let earlier = |duration: Duration| at_start.checked_sub(duration).ok();
    let moved = if moment >= start {
        later(moment.since(start))
    } else {
        earlier(start.since(moment))
    };
    moved.unwrap_or(at_start)
}

/// The same but for a number that counts.
fn is_alike(before: &Reason, now: &Reason) -> bool {
    match (before, now) {
        (Reason::StillStarting(_), Reason::StillStarting(_))
        | (Reason::RaceBackoff { .. }, Reason::RaceBackoff { .. }) => true,
        (before, now) => before == now,
    }
}

fn is_same_wish(before: Option<&Failover>, now: &Failover) -> bool {
    before.is_some_and(|before| {
        (&before.leader, &before.candidate, before.scheduled_at)
            == (&now.leader, &now.candidate, now.scheduled_at)
    })
}

/// Who stands in the leader key, whatever his lease is worth.
fn raw_leader(facts: &Facts) -> Option<&MemberName> {
    facts.journal.iter().rev().find_map(|entry| match &entry.answer {
        Answer::Cluster(Ok(cluster)) => cluster.leader_name(),
        _ => None,
    })
}

fn changed_keys(before: &serde_json::Value, now: &serde_json::Value) -> Vec<String> {
    let (Some(before), Some(now)) = (before.as_object(), now.as_object()) else {
        return Vec::new();
    };
    let mut changed: Vec<String> = now
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value))
        .map(|(key, _)| key.clone())
        .collect();
    changed.extend(before.keys().filter(|key| !now.contains_key(*key)).cloned());
    changed.sort();
    changed
}

fn lock(look: &mut Look<'_>) {
    let last = |wanted: fn(&LockAnswer) -> bool| {
        let mut entries = look.facts.journal.iter().rev();
        entries.find(|entry| matches!(&entry.answer, Answer::Lock(answer) if wanted(answer)))
    };
    match (look.before.lock, look.after.lock) {
        (None, Some(lock)) => {
            let entry = last(|answer| answer.held_since().is_some());
            let how = match entry.map(|entry| &entry.step) {
                Some(Step::Act(Action::AcquireLeader)) => Gain::Acquired,
                Some(Step::Act(Action::SupersedeLeader { .. })) => Gain::Superseded,
                Some(Step::Act(Action::TakeLeader)) => Gain::Taken,
                _ => Gain::Found,
            };
            let at = entry.map_or(look.ended_at, |entry| entry.at);
            let (valid_until, valid_for) = (lock.valid_until, lock.valid_until.since(at));
            look.tell(
                at,
                What::LockGained {
                    how,
                    valid_until,
                    valid_for,
                },
            );
        }
        (Some(lock), None) => {
            let entry = last(|answer| *answer == LockAnswer::NotHeld);
            let why = match entry.map(|entry| &entry.step) {
                Some(Step::Act(Action::ReleaseLeader { .. })) => Loss::Released,
                Some(_) => Loss::NotHeld,
                None => loss(look),
            };
            let at = entry.map_or(look.ended_at, |entry| entry.at);
            let valid_until = lock.valid_until;
            look.tell(at, What::LockLost { why, valid_until });
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
}

fn loss(look: &Look<'_>) -> Loss {
    let released = |entry: &Entry| matches!(entry.step, Step::Act(Action::ReleaseLeader { .. }));
    if look.facts.journal.iter().any(released) {
        return Loss::Released;
    }
    let has_stopped = |task: &Task| matches!(task, Task::Stop { purpose, .. } if purpose.forgets_lock());
    if matches!(&look.facts.given.task, TaskStatus::Done { task, .. } if has_stopped(task)) {
        return Loss::Stopped;
    }
    let read = look.after.cluster.as_ref().map(|(cluster, _)| cluster);
    match read.and_then(|cluster| cluster.leader_name()) {
        Some(name) if *name != look.facts.given.node.name => Loss::Taken(name.clone()),
        Some(_) => Loss::NotHeld,
        None => Loss::Gone,
    }
}

fn server(look: &mut Look<'_>) {
    let (from_role, from_state) = (look.before.role, look.before.state);
    let (role, state) = (look.after.role, look.after.state);
    if (from_role, from_state) != (role, state) {
        look.tell(
            look.ended_at,
            What::Server {
                from_role,
                from_state,
                role,
                state,
            },
        );
    }
}

fn strangers(look: &mut Look<'_>) {
    let (before, after) = (&look.before.synchronous, &look.after.synchronous);
    let come = after.strangers_told.difference(&before.strangers_told);
    let gone = before.strangers_told.difference(&after.strangers_told);
    let told = come
        .map(|name| (name.clone(), false))
        .chain(gone.map(|name| (name.clone(), true)));
    let told: Vec<(MemberName, bool)> = told.collect();
    for (name, is_gone) in told {
        look.tell(look.ended_at, What::Stranger { name, is_gone });
    }
}

/// What was done, if it is worth telling: heartbeats and positions are not.
fn deed(action: &Action, entry: &Entry) -> Option<What> {
    let what = match action {
        Action::Begin(task) => format!("{} was to begin", task.label()),
        Action::CancelTask => "cancelled the running job".to_owned(),
        Action::BeginCheckpoint => "began a checkpoint".to_owned(),
        Action::Follow(Some(source)) => match &source.member {
            Some(member) => format!("follows {member} from now on"),
            None => "follows a server outside the cluster from now on".to_owned(),
        },
        Action::Follow(None) => "follows nobody from now on".to_owned(),
        Action::ResumeReplay => "resumed the WAL replay".to_owned(),
        Action::ChangeSlots(changes) => return slots(changes, entry),
        Action::BeginSlotWork(_) => return None,
        Action::SetSynchronousStandbyNames(names) => match names {
            Some(names) => format!("set synchronous_standby_names to {names:?}"),
            None => "reset synchronous_standby_names".to_owned(),
        },
        Action::Write { key: Key::Status, .. } => return None,
        Action::Write { key, value, .. } if *key == Key::Failover || *key == Key::Sync => {
            format!("wrote {value} into the key {}", key.as_str())
        }
        Action::Write { key, .. } => format!("wrote the key {}", key.as_str()),
        Action::Delete { key, .. } => format!("deleted the key {}", key.as_str()),
        Action::AcquireLeader
        | Action::SupersedeLeader { .. }
        | Action::RenewLeader { .. }
        | Action::TakeLeader
        | Action::ReleaseLeader { .. }
        | Action::ExtendLock { .. }
        | Action::RunCallbacks(_)
        | Action::TouchMember(_)
        | Action::KeepCitus(_) => return None,
    };
    let failure = failure_of(entry);
    Some(What::Done { what, failure })
}

fn failure_of(entry: &Entry) -> Option<String> {
    match &entry.answer {
        Answer::Done(Err(why)) => Some(why.clone()),
        Answer::Written(Err(why)) => Some(why.0.clone()),
        Answer::Written(Ok(None)) => Some("somebody else was faster".to_owned()),
        _ => None,
    }
}

fn slots(changes: &[SlotChange], entry: &Entry) -> Option<What> {
    let told: Vec<String> = changes
        .iter()
        .filter_map(|change| match change {
            SlotChange::CreatePhysical(name) => Some(format!("created the slot {name}")),
            SlotChange::Drop(name) => Some(format!("dropped the slot {name}")),
            SlotChange::Advance(..) => None,
        })
        .collect();
    let failure = failure_of(entry);
    (!told.is_empty()).then(|| What::Done {
        what: told.join(", "),
        failure,
    })
}

/// How this cycle has run for the leader key, or why not; `None` when it was about something else.
fn race(look: &Look<'_>) -> Option<Race> {
    let mut wanted = None;
    for entry in &look.facts.journal {
        if let (Step::Act(Action::AcquireLeader | Action::SupersedeLeader { .. }), Answer::Lock(answer)) =
            (&entry.step, &entry.answer)
        {
            wanted = Some(answer);
        }
    }
    let verdict = match (wanted, &look.outcome.reason) {
        (Some(LockAnswer::Held { .. } | LockAnswer::HeldByLeaseAlone { .. }), _) => Verdict::Won,
        (Some(LockAnswer::NotHeld), _) => Verdict::Late,
        (Some(LockAnswer::Unknown(_)), _) => return None,
        (
            None,
            Reason::NotHealthiest
            | Reason::DemotingNotHealthiest
            | Reason::NotAllowedToPromote
            | Reason::DemotingNotAllowed,
        ) => Verdict::Waived,
        (None, _) => return None,
    };
    let cluster = first_cluster(look.facts);
    let led = look.before.led_cluster.as_ref();
    let sql = look.sql();
    Some(Race {
        position: sql.and_then(SqlFacts::position),
        timeline: sql.and_then(|sql| sql.timeline),
        published: cluster.and_then(|cluster| cluster.status.optime),
        former_leader: led.and_then(|led| led.leader_name()).cloned(),
        rivals: rivals(look.facts),
        verdict,
        why: why(look, verdict),
    })
}

fn first_cluster(facts: &Facts) -> Option<&Cluster> {
    facts.journal.iter().find_map(|entry| match &entry.answer {
        Answer::Cluster(Ok(cluster)) => Some(&**cluster),
        _ => None,
    })
}

/// What the log says of the comparison, without what stands in the members' answers.
fn why(look: &Look<'_>, verdict: Verdict) -> Vec<String> {
    let mut why: Vec<String> = look
        .outcome
        .notes
        .iter()
        .filter(|note| note.level >= Level::Info)
        .map(|note| note.text.clone())
        .filter(|text| {
            let answers = [LOCK_OWNER, "Got response from ", "Request failed to "];
            !answers.iter().any(|known| text.starts_with(known))
        })
        .collect();
    if verdict == Verdict::Waived && look.facts.given.node.tags.nofailover() {
        why.push("the tag nofailover is set".to_owned());
    }
    if verdict == Verdict::Waived && why.is_empty() {
        why.push(waived_silently(look).to_owned());
    }
    why
}

/// The decision says nothing where it is plain to whoever knows the configuration.
fn waived_silently(look: &Look<'_>) -> &'static str {
    if look.facts.given.config.pause {
        "the cluster is paused"
    } else if look.sql().is_none() {
        "the server could not be asked"
    } else {
        "it is not among those that have everything that was acknowledged (key sync)"
    }
}

fn compared_at(facts: &Facts) -> Option<Moment> {
    let mut entries = facts.journal.iter().rev();
    let asked = entries.find(|entry| matches!(entry.answer, Answer::Peers(_)));
    asked.map(|entry| entry.at)
}

fn rivals(facts: &Facts) -> Vec<Rival> {
    let mut rivals: Vec<Rival> = Vec::new();
    for entry in &facts.journal {
        let (Step::Observe(Question::Peers(_)), Answer::Peers(answers)) = (&entry.step, &entry.answer) else {
            continue;
        };
        for answer in answers {
            rivals.retain(|known| known.name != answer.name);
            rivals.push(rival(answer));
        }
    }
    rivals
}

fn rival(answer: &PeerAnswer) -> Rival {
    let name = answer.name.clone();
    match &answer.status {
        Ok(peer) => Rival {
            name,
            position: peer.position,
            timeline: peer.timeline,
            not_running_because: if !peer.in_recovery {
                Some("it is a primary".to_owned())
            } else if peer.tags.nofailover() {
                Some("the tag nofailover is set".to_owned())
            } else {
                peer.watchdog_failed
                    .then(|| "its watchdog or guard is not usable".to_owned())
            },
            failure: None,
        },
        Err(why) => Rival {
            name,
            position: None,
            timeline: None,
            not_running_because: None,
            failure: Some(why.clone()),
        },
    }
}
