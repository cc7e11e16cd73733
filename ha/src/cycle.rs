//! A cycle in progress: what was given, what was asked and answered so far, and what is remembered.
//!
//! The decision is an ordinary function that reads from top to bottom. Where it needs to know or to do something it
//! uses `?`: an answer that is in the journal is returned, and the first one that is not ends the call with the step
//! to take. The shell takes it, appends the answer, and calls again. As the decision is deterministic, it comes to the
//! same place, and goes on. Memory is changed for good only when the cycle ends.

mod cluster;

use serde::{Deserialize, Serialize};

use crate::cluster::{Expired, MemberData};
use crate::facts::{
    Answer, CrashRecovery, DataDirectory, DcsFailure, Divergence, FailsafeReply, Given, LockAnswer, Moment,
    Node, Peer, PeerAnswer, PlannedRestart, RecoveryDrift, Server, Source,
};
use crate::failsafe::Ping;
use crate::lease;
use crate::memory::{Lock, Memory};
use crate::pg::{MemberName, Role};
use crate::reason::{Note, Reason, notes};
use crate::step::{Action, Callback, Exit, Expect, Key, Outcome, Question, Reply, RequestId, Step, Task};

/// One step that was taken, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What was asked or done.
    pub step: Step,
    /// What came of it.
    pub answer: Answer,
    /// When the answer was there.
    pub at: Moment,
    /// Nobody asked for it: the lease was prolonged while the step of the next entry took its time.
    pub is_meanwhile: bool,
}

/// Why something was not done.
const LEFT_TO_THE_NEXT_CYCLE: &str = "left to the next cycle: the lease comes first";

/// How many steps a cycle may take: more is a defect.
pub const STEPS_MAX: usize = 64;

/// What a cycle knows: what was given, and the steps taken so far with their answers.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Given at the start.
    pub given: Given,
    /// The steps so far.
    pub journal: Vec<Entry>,
}

impl Facts {
    /// The facts at the start of a cycle.
    #[must_use]
    pub fn new(given: Given) -> Self {
        Self {
            given,
            journal: Vec::new(),
        }
    }

    /// Remembers what came of a step.
    pub fn learn(&mut self, step: Step, answer: Answer, at: Moment) {
        self.journal.push(Entry {
            step,
            answer,
            at,
            is_meanwhile: false,
        });
    }

    /// Remembers what came of a renewal that [`crate::renewal_meanwhile`] permitted, before the answer to the step that
    /// is waited for.
    pub fn learn_meanwhile(&mut self, action: Action, answer: LockAnswer, at: Moment) {
        self.journal.push(Entry {
            step: Step::Act(action),
            answer: Answer::Lock(answer),
            at,
            is_meanwhile: true,
        });
    }
}

/// Ends the decision for now: the step to take.
pub(crate) type Flow<T> = Result<T, Box<Step>>;

/// The decision's view of a cycle.
pub(crate) struct Cycle<'a> {
    given: &'a Given,
    journal: &'a [Entry],
    next: usize,
    /// What is remembered; becomes the node's memory when the cycle ends.
    pub(crate) memory: Memory,
    server: Option<Server>,
    data: Option<DataDirectory>,
    notes: Vec<Note>,
    callbacks: Vec<(Callback, Role)>,
    replies: Vec<Reply>,
    unscheduled: Option<RequestId>,
    again_at: Option<Moment>,
    exit: Option<Exit>,
    expired: Option<Expired>,
    pub(crate) lock_answer: Option<LockAnswer>,
    /// The leader key was found to be another's while a step took its time.
    is_lost: bool,
    /// Something was left to the next cycle, because the lease comes first.
    is_put_off: bool,
    pub(crate) began_task: bool,
    /// The long job that this cycle has begun.
    pub(crate) begun: Option<Task>,
}

impl<'a> Cycle<'a> {
    pub(crate) fn new(facts: &'a Facts, memory: Memory) -> Self {
        Self {
            given: &facts.given,
            journal: &facts.journal,
            next: 0,
            memory,
            server: None,
            data: None,
            notes: Vec::new(),
            callbacks: Vec::new(),
            replies: Vec::new(),
            unscheduled: None,
            again_at: None,
            exit: None,
            expired: None,
            lock_answer: None,
            is_lost: false,
            is_put_off: false,
            began_task: false,
            begun: None,
        }
    }

    pub(crate) fn given(&self) -> &'a Given {
        self.given
    }

    pub(crate) fn node(&self) -> &'a Node {
        &self.given.node
    }

    pub(crate) fn me(&self) -> &'a MemberName {
        &self.given.node.name
    }

    pub(crate) fn config(&self) -> &'a config::DynamicConfig {
        &self.given.config
    }

    /// Now: when the newest answer was there.
    pub(crate) fn now(&self) -> Moment {
        self.next
            .checked_sub(1)
            .and_then(|last| self.journal.get(last))
            .map_or(self.given.now, |entry| entry.at)
    }

    fn take(&mut self, step: Step) -> Flow<&'a Answer> {
        while let Some(entry) = self.journal.get(self.next).filter(|entry| entry.is_meanwhile) {
            self.next += 1;
            self.was_renewed_meanwhile(&entry.answer);
        }
        let Some(entry) = self.journal.get(self.next) else {
            let steps = self.journal.iter().filter(|entry| !entry.is_meanwhile);
            if steps.count() >= STEPS_MAX {
                return Err(self.defect("a cycle took too many steps"));
            }
            return Err(Box::new(step));
        };
        if entry.step != step {
            return Err(self.defect("a cycle was not repeatable"));
        }
        self.next += 1;
        Ok(&entry.answer)
    }

    fn was_renewed_meanwhile(&mut self, answer: &Answer) {
        match answer {
            Answer::Lock(LockAnswer::Held { sent_at } | LockAnswer::HeldByLeaseAlone { sent_at, .. }) => {
                let valid_until = sent_at.after(self.config().ttl);
                self.memory.lock = Some(Lock { valid_until });
            }
            Answer::Lock(LockAnswer::NotHeld) => {
                self.memory.lock = None;
                self.is_lost = true;
                // What follows from it is the next cycle's business: this one has read another state of the cluster.
                let now = self.now();
                self.again_at(now);
            }
            _ => {}
        }
    }

    fn defect(&self, what: &str) -> Box<Step> {
        debug_assert!(false, "{what}: {:?}", self.journal);
        Box::new(Step::Finish(Box::new(Outcome {
            reason: Reason::Defect,
            notes: vec![notes::defect(what)],
            callbacks: Vec::new(),
            replies: Vec::new(),
            unscheduled: None,
            again_at: None,
            exit: None,
        })))
    }

    fn ask(&mut self, question: Question) -> Flow<&'a Answer> {
        self.take(Step::Observe(question))
    }

    fn act(&mut self, action: Action) -> Flow<&'a Answer> {
        self.take(Step::Act(action))
    }

    /// Whether our lease, if we have one, leaves time for a request beside it. Right after a renewal it does, whatever the
    /// timers are; once a request has taken all of its time ([`lease::time_beside`]) the rest belongs to the next renewal, and
    /// what is not about the lease waits for the next cycle, which is asked for.
    pub(crate) fn has_time(&mut self) -> bool {
        if self.is_lost {
            return false;
        }
        let Some(Lock { valid_until }) = self.memory.lock else {
            return true;
        };
        let has_time = lease::time_beside(self.config(), valid_until, self.now()) >= lease::PATIENCE_MIN;
        self.is_put_off |= !has_time;
        has_time
    }

    /// The DCS does not answer. Whether our lease, if we have one, leaves time to ask it again before the server is stopped.
    pub(crate) fn may_look_again(&self) -> bool {
        !self.is_lost
            && self
                .memory
                .lock
                .is_none_or(|lock| lease::may_look_again(self.config(), lock.valid_until, self.now()))
    }

    /// A leader's next cycle begins in time for the renewal, and soon when something was put off.
    fn come_back_in_time(&mut self) {
        let now = self.now();
        let Some(Lock { valid_until }) = self.memory.lock.filter(|lock| now < lock.valid_until) else {
            return;
        };
        let config = self.config();
        if self.is_put_off {
            self.again_at(now.after(lease::soon(config)));
        }
        let by = lease::next_renewal_by(config, valid_until);
        if now < by && by < self.given.now.after(config.loop_wait) {
            self.again_at(by);
        }
    }

    /// The leader key was found to be another's after this cycle had prolonged it.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub(crate) fn failsafe(&mut self, members: Vec<Peer>, ping: Ping) -> Flow<(Moment, Vec<FailsafeReply>)> {
        if members.is_empty() {
            return Ok((self.now(), Vec::new()));
        }
        match self.ask(Question::Failsafe { members, ping })? {
            Answer::Failsafe { sent_at, replies } => Ok((*sent_at, replies.clone())),
            _ => Err(self.defect("wrong answer about failsafe")),
        }
    }

    /// The local server, asked once a cycle.
    pub(crate) fn server(&mut self) -> Flow<Server> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        match self.ask(Question::Server)? {
            Answer::Server(server) => {
                self.server = Some(server.clone());
                Ok(server.clone())
            }
            _ => Err(self.defect("wrong answer about the server")),
        }
    }

    /// The data directory, looked at once a cycle.
    pub(crate) fn data_directory(&mut self) -> Flow<DataDirectory> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        match self.ask(Question::DataDirectory)? {
            Answer::DataDirectory(data) => {
                self.data = Some(data.clone());
                Ok(data.clone())
            }
            _ => Err(self.defect("wrong answer about the data directory")),
        }
    }

    /// What the crashed server would have to replay; `None` when that cannot be told.
    pub(crate) fn crash_recovery(&mut self) -> Flow<Option<CrashRecovery>> {
        match self.ask(Question::CrashRecovery)? {
            Answer::CrashRecovery(recovery) => Ok(recovery.as_ref().ok().copied()),
            _ => Err(self.defect("wrong answer about crash recovery")),
        }
    }

    pub(crate) fn peers(&mut self, peers: Vec<Peer>) -> Flow<Vec<PeerAnswer>> {
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        if !self.has_time() {
            let answer = |peer: Peer| PeerAnswer {
                name: peer.name,
                status: Err(LEFT_TO_THE_NEXT_CYCLE.to_owned()),
            };
            return Ok(peers.into_iter().map(answer).collect());
        }
        match self.ask(Question::Peers(peers))? {
            Answer::Peers(answers) => Ok(answers.clone()),
            _ => Err(self.defect("wrong answer about the members")),
        }
    }

    pub(crate) fn divergence(&mut self, source: Source) -> Flow<Divergence> {
        match self.ask(Question::Divergence(source))? {
            Answer::Divergence(divergence) => Ok(divergence.clone()),
            _ => Err(self.defect("wrong answer about divergence")),
        }
    }

    pub(crate) fn history_file(
        &mut self,
        timeline: crate::pg::Timeline,
    ) -> Flow<Option<Vec<crate::pg::HistoryEntry>>> {
        match self.ask(Question::HistoryFile(timeline))? {
            Answer::HistoryFile(entries) => Ok(entries.clone()),
            _ => Err(self.defect("wrong answer about a history file")),
        }
    }

    pub(crate) fn recovery_drift(&mut self, source: Option<Source>) -> Flow<RecoveryDrift> {
        match self.ask(Question::RecoveryDrift(source))? {
            Answer::RecoveryDrift(drift) => Ok(*drift),
            _ => Err(self.defect("wrong answer about recovery settings")),
        }
    }

    /// Takes, keeps or gives up the leader key; remembers until when it is ours.
    pub(crate) fn lock(&mut self, action: Action) -> Flow<LockAnswer> {
        let ttl = self.config().ttl;
        match self.act(action)? {
            Answer::Lock(answer) => {
                self.note_refusal(answer);
                match answer {
                    LockAnswer::Held { sent_at } | LockAnswer::HeldByLeaseAlone { sent_at, .. } => {
                        self.memory.failsafe.until = None;
                        self.memory.lock = Some(Lock {
                            valid_until: sent_at.after(ttl),
                        });
                    }
                    LockAnswer::NotHeld => self.memory.lock = None,
                    // The lease that we had runs on: it may still be ours until it ends.
                    LockAnswer::Unknown(_) => {}
                }
                self.lock_answer = Some(answer.clone());
                Ok(answer.clone())
            }
            _ => Err(self.defect("wrong answer about the leader key")),
        }
    }

    /// Whether the DCS writes is seen by what came of the last renewal.
    fn note_refusal(&mut self, answer: &LockAnswer) {
        let refused = match answer {
            LockAnswer::Held { .. } | LockAnswer::NotHeld => None,
            LockAnswer::HeldByLeaseAlone { why, .. } => Some(why.0.clone()),
            LockAnswer::Unknown(_) => return,
        };
        if refused == self.memory.writes_refused {
            return;
        }
        let is_ours = answer.held_since().is_some();
        match &refused {
            Some(why) => self.note(notes::dcs_refuses_writes(why)),
            None if is_ours => self.note(notes::dcs_writes_again()),
            None => {}
        }
        self.memory.writes_refused = refused;
    }

    pub(crate) fn write(
        &mut self,
        key: Key,
        value: String,
        expect: Expect,
    ) -> Flow<Result<Option<crate::cluster::Version>, DcsFailure>> {
        if !self.has_time() {
            return Ok(Err(DcsFailure(LEFT_TO_THE_NEXT_CYCLE.to_owned())));
        }
        match self.act(Action::Write { key, value, expect })? {
            Answer::Written(written) => Ok(written.clone()),
            _ => Err(self.defect("wrong answer about a key")),
        }
    }

    pub(crate) fn delete(&mut self, key: Key, expect: Expect) -> Flow<bool> {
        if !self.has_time() {
            return Ok(false);
        }
        match self.act(Action::Delete { key, expect })? {
            Answer::Written(written) => Ok(matches!(written, Ok(Some(_)))),
            _ => Err(self.defect("wrong answer about a key")),
        }
    }

    pub(crate) fn touch_member(&mut self, data: MemberData) -> Flow<()> {
        if !self.has_time() {
            return Ok(());
        }
        match self.act(Action::TouchMember(Box::new(data)))? {
            Answer::NameTaken => {
                if self.exit.is_none() {
                    self.note(notes::name_is_taken(self.me()));
                }
                // A member that has had the name goes on: the other one may have come while this one was cut off.
                if !self.memory.was_published {
                    self.exit(Exit::Failure);
                }
            }
            Answer::Done(Ok(())) => self.memory.was_published = true,
            _ => {}
        }
        Ok(())
    }

    /// Starts the long job. Its end wakes the next cycle.
    pub(crate) fn begin(&mut self, task: Task) -> Flow<()> {
        self.try_begin(task).map(drop)
    }

    /// The same for somebody who waits for it: why it could not be started.
    pub(crate) fn try_begin(&mut self, task: Task) -> Flow<Result<(), String>> {
        let label = task.label();
        self.began_task = true;
        let begun = self.perform(Action::Begin(task.clone()))?;
        match &begun {
            Ok(()) => self.begun = Some(task),
            Err(why) => self.note(notes::task_failed(&label, why)),
        }
        Ok(begun)
    }

    pub(crate) fn perform(&mut self, action: Action) -> Flow<Result<(), String>> {
        match self.act(action)? {
            Answer::Done(result) => Ok(result.clone()),
            _ => Err(self.defect("wrong answer to an action")),
        }
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    pub(crate) fn callback(&mut self, callback: Callback, role: Role) {
        self.memory.told_as_leader = match callback {
            Callback::OnStop => false,
            Callback::OnReload => self.memory.told_as_leader,
            Callback::OnStart | Callback::OnRestart | Callback::OnRoleChange => {
                matches!(role, Role::Primary | Role::StandbyLeader)
            }
        };
        self.callbacks.push((callback, role));
    }

    /// Starts the scripts now that would otherwise be started when the cycle ends.
    pub(crate) fn run_callbacks(&mut self) -> Flow<()> {
        let callbacks = std::mem::take(&mut self.callbacks);
        if callbacks.is_empty() {
            return Ok(());
        }
        self.act(Action::RunCallbacks(callbacks)).map(drop)
    }

    pub(crate) fn reply(&mut self, reply: Reply) {
        self.replies.push(reply);
    }

    /// Whether this cycle has answered a request.
    pub(crate) fn has_answered(&self, id: RequestId) -> bool {
        self.replies.iter().any(|reply| reply.id == id)
    }

    /// The scheduled restart is done with.
    pub(crate) fn unschedule(&mut self, id: RequestId) {
        self.unscheduled = Some(id);
    }

    /// The restart that is still scheduled.
    pub(crate) fn scheduled_restart(&self) -> Option<&'a PlannedRestart> {
        let planned = self.given.scheduled_restart.as_ref();
        planned.filter(|planned| self.unscheduled != Some(planned.id))
    }

    /// Asks for the next cycle to begin at `moment` at the latest.
    pub(crate) fn again_at(&mut self, moment: Moment) {
        self.again_at = Some(self.again_at.map_or(moment, |earlier| earlier.min(moment)));
    }

    pub(crate) fn has_to_exit(&self) -> bool {
        self.exit.is_some()
    }

    pub(crate) fn exit(&mut self, exit: Exit) {
        self.exit = Some(exit);
    }

    pub(crate) fn finish(mut self, reason: Reason) -> (Memory, Outcome) {
        self.come_back_in_time();
        let outcome = Outcome {
            reason,
            notes: self.notes,
            callbacks: self.callbacks,
            replies: self.replies,
            unscheduled: self.unscheduled,
            again_at: self.again_at,
            exit: self.exit,
        };
        (self.memory, outcome)
    }
}
