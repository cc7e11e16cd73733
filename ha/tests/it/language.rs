//! The language of the scenarios: one member, a few cycles of facts, and the steps that its decision takes.
//!
//! ```text
//! me b                                   who decides; tags may follow: `me b nofailover`
//! node no-rewind                         what its file says: no-rewind, remove-diverged, remove-failed, no-bootstrap, custom-bootstrap
//! config ttl=30 loop_wait=10 pause       the dynamic configuration
//! remember primary crashed lock=30       role, state, lock until (s); also rewind=check, demoted, cut-off
//! cycle the key is gone                  a cycle begins; it keeps all facts of the one before
//! at 12                                  the boot-time clock, in seconds
//! cluster leader=a optime=100 timeline=1 failover=a>b initialize=none; or: cluster unreachable
//! cluster leader=a heartbeat=a:7         the leader's last renewal, by its revision; its ttl is 30 s
//! member a primary 100                   a member key: role, position; tags: nofailover priority=2 checkpoint=pending starting
//! cluster failover=a>b asked=2            the revision of the request, 1 if it is the first one
//! cluster leader=a sync=a,b,c quorum=1   the key sync: its leader, then its voters
//! cluster leader=b unbound heartbeat=a:1  a key that no session keeps, as a hand writes it
//! cluster leader=a origins=2:7,3:8        the key origin: timelines with their nonces, each begun at 100 * (timeline - 1)
//! server replica 100 tl=2 origin=7       our timeline's; also of a member, a peer, and of `parted`; there also before=2:6@90
//! server replica 100 tl=1 streaming      or: server gone | server starting | server unknown; also: restoring replay-paused slots=a,c
//! server primary 100 names=ANY_1_(b,c)   synchronous_standby_names, _ for a blank; busy: the checkpointer is
//! slot feed logical=app/pgoutput 90      a slot of the server: position (restart_lsn, or confirmed_flush); catalog=7 xmin active lost
//!                                        unreserved lacks-wal failover synced; or: slot feed gone
//! published feed=90 a=80                 positions of slots in the key status; `retained a,b`: its retain_slots
//! horizons a physical=7 feed=6           what the leader a last said of catalog_xmin
//! data shut-down checkpoint=100          or: data empty | data inaccessible | data production; also: backup_label signal half-rewound
//! histories 2                            the newest timeline whose history file is in pg_wal
//! replay 512                             a crash has left so many MiB of WAL, from position 0 on; or: replay unknown
//! peer a down                            or: peer c replica 90 tl=1 nofailover priority=2 stands-back
//! parted 1:100 from 2:90@1               local timeline:lsn, remote timeline:switch LSN of local timeline; or: parted unknown
//! drift reload                           what following needs: none, reload, restart
//! worker 1 w1 w2                         a Citus coordinator: a worker's group, its leader, its replicas; `node citus=0`
//! sender b 100 sync                      a standby that streams from here: position, sync_state; or: sender b gone
//! sender b 100 sync stranger             the same under b's name, without b's slot; or: sender b gone stranger
//! answer acquire lost                    acquire, renew: held, late (by 20 s), lost, unknown; renew: refused;
//!                                        begin, arm: fails; write: conflict, unknown; touch: taken
//! cluster generation=1                   another store than before answers
//! meanwhile server lost                  the observation takes its time, and the lease is prolonged meanwhile: held, lost, unknown
//! resumed                                the store says so, and this member does not know yet
//! stands-still ask 20                    the host stands still for 20 s while a step that begins so is waited for
//! task done promote                      the long job: idle, `running stop shut-down=100`, `done start failed`
//! request restart                        also: `request reinitialize force`
//! accepts b 100                          what members answer to a leader without the DCS; also: refuses b
//! ping a until=40                        such a leader has been accepted
//! hangs since=5                          the primary gives no sign of life since then; or: hangs no-more
//! stopping                               the agent was told to end
//! next                                   from here on, when the next cycle is wanted before loop_wait is over is told too
//! ===                                    and then what it does
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tamada_ha::citus::Group;
use tamada_ha::cluster::{
    Cluster, ConfigKey, Failover, Heartbeat, History, Leader, Member, MemberData, Origin, Origins, Promotion,
    ScheduledRestart, Status, SyncState, Tags, Takeover, Version,
};
use tamada_ha::event::{Chronicle, Event, Record};
use tamada_ha::facts::{
    Accepts, Answer, CheckpointStatus, CrashRecovery, DataDirectory, DcsFailure, Divergence, FailsafeReply,
    Given, LocalHistory, LockAnswer, LogicalSlot, Moment, Node, Peer, PeerAnswer, PeerStatus, PlannedRestart,
    Progress, RecoveryDrift, RemoteHistory, Request, RestartConditions, Retry, Running, Server, Slot,
    SlotHorizons, Source, SqlFacts, TaskStatus, Unresponsive, WalSender,
};
use tamada_ha::failsafe::{Accepted, Ping};
use tamada_ha::memory::{Bootstrap, Lock, Memory, RewindState};
use tamada_ha::pg::{
    ControlData, DatabaseState, HistoryEntry, Lsn, MemberName, ReplicationState, Role, ServerState, SlotName,
    Timeline, Xid,
};
use tamada_ha::step::{
    Action, Callback, CloneSource, Outcome, Question, RequestId, SlotWork, StartAs, StartReason, Step,
    StopMode, StopPurpose, Task, TaskOutcome, WhenGone,
};
use tamada_ha::{Facts, decide, renewal_meanwhile};

const IDENTIFIER: &str = "7000000000000000001";

/// The facts of a scenario at one cycle.
struct World {
    node: Node,
    settings: serde_json::Map<String, serde_json::Value>,
    now: Moment,
    cluster: Result<Cluster, DcsFailure>,
    server: Server,
    senders: Vec<WalSender>,
    slots: Vec<Slot>,
    horizons: Option<SlotHorizons>,
    data: DataDirectory,
    recovery: Result<CrashRecovery, String>,
    peers: BTreeMap<MemberName, Result<PeerStatus, String>>,
    divergence: Divergence,
    drift: RecoveryDrift,
    tells_next: bool,
    answers: BTreeMap<String, String>,
    /// What comes of a renewal that is sent while the step with this text is waited for.
    meanwhile: BTreeMap<String, String>,
    /// The host stands still while a step whose text begins like this is waited for.
    stands_still: Option<(String, Duration)>,
    is_resumed: bool,
    task: TaskStatus,
    requests: Vec<Request>,
    /// What members answer to a leader that does not reach the DCS.
    accepts: BTreeMap<MemberName, Result<Option<Lsn>, String>>,
    failsafe: Option<Accepted>,
    /// There are history files up to this one.
    newest_timeline: u32,
    scheduled_restart: Option<PlannedRestart>,
    is_stopping: bool,
    guard_is_missing: bool,
    watchdog_is_missing: bool,
    unresponsive: Option<Unresponsive>,
}

/// The words of a line, and its `key=value` pairs.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.value(key).map(|text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{key}={text} is no number"))
        })
    }

    /// The first bare number: a position.
    fn position(&self) -> Option<Lsn> {
        self.0.iter().find_map(|word| word.parse().ok()).map(Lsn)
    }

    fn timeline(&self) -> Timeline {
        Timeline(self.number("tl").map_or(1, |number| number.try_into().unwrap()))
    }

    fn origin(&self, timeline: Timeline) -> Option<Origin> {
        self.number("origin").map(|nonce| origin(timeline, nonce))
    }

    fn tags(&self) -> Tags {
        let mut tags = serde_json::Map::new();
        for flag in ["nofailover", "clonefrom", "nostream", "nosync"]
            .into_iter()
            .filter(|flag| self.has(flag))
        {
            tags.insert(flag.to_owned(), true.into());
        }
        if let Some(priority) = self.number("priority") {
            tags.insert("failover_priority".to_owned(), priority.into());
        }
        if let Some(priority) = self.number("sync_priority") {
            tags.insert("sync_priority".to_owned(), priority.into());
        }
        if let Some(upstream) = self.value("replicatefrom") {
            tags.insert("replicatefrom".to_owned(), upstream.into());
        }
        Tags(tags)
    }
}

impl World {
    fn new() -> Self {
        Self {
            node: Node {
                name: "me".into(),
                scope: "demo".to_owned(),
                conn_url: String::new(),
                api_url: String::new(),
                proxy_url: None,
                tags: Tags::default(),
                version: "4.1.5".to_owned(),
                may_bootstrap: true,
                has_custom_bootstrap: false,
                use_slots: true,
                has_method_without_leader: false,
                use_pg_rewind: true,
                remove_data_directory_on_rewind_failure: false,
                remove_data_directory_on_diverged_timelines: false,
                config_json: "{}".to_owned(),
                citus_group: None,
                server_version: 180_000,
            },
            settings: serde_json::Map::new(),
            now: Moment(Duration::from_secs(10)),
            cluster: Ok(Cluster::default()),
            server: Server::default(),
            senders: Vec::new(),
            slots: Vec::new(),
            horizons: None,
            data: read_data(&Words(vec!["recovery"])),
            recovery: Ok(CrashRecovery::default()),
            peers: BTreeMap::new(),
            divergence: Divergence {
                local: Err("not told".to_owned()),
                remote: Err("not told".to_owned()),
            },
            drift: RecoveryDrift::None,
            tells_next: false,
            answers: BTreeMap::new(),
            meanwhile: BTreeMap::new(),
            stands_still: None,
            is_resumed: false,
            task: TaskStatus::Idle,
            requests: Vec::new(),
            accepts: BTreeMap::new(),
            failsafe: None,
            newest_timeline: u32::MAX,
            scheduled_restart: None,
            is_stopping: false,
            guard_is_missing: false,
            watchdog_is_missing: false,
            unresponsive: None,
        }
    }

    fn facts(&self) -> Facts {
        let (config, _) = config::DynamicConfig::read(
            &serde_json::Value::Object(self.settings.clone()),
            config::Minimums::TAMADA,
        );
        Facts::new(Given {
            now: self.now,
            wall_clock: "2026-11-22T20:00:00Z".parse().unwrap(),
            node: Arc::new(self.node.clone()),
            config: Arc::new(config),
            task: self.task.clone(),
            checkpoint: CheckpointStatus::Idle,
            requests: self.requests.clone(),
            scheduled_restart: self.scheduled_restart.clone(),
            failsafe: self.failsafe.clone(),
            is_stopping: self.is_stopping,
            guard_is_missing: self.guard_is_missing,
            watchdog_is_missing: self.watchdog_is_missing,
            unresponsive: self.unresponsive.clone(),
        })
    }

    /// What is told of this cycle only.
    fn forget_events(&mut self) {
        self.task = TaskStatus::Idle;
        self.requests.clear();
        self.answers.clear();
        self.meanwhile.clear();
        self.stands_still = None;
    }

    fn read(&mut self, line: &str, memory: &mut Memory) {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = Words(words.collect());
        match keyword {
            "me" => {
                self.node.name = words.0[0].into();
                self.node.tags = words.tags();
                self.node.conn_url = conn_url(words.0[0]);
                self.node.api_url = api_url(words.0[0]);
            }
            "node" => {
                self.node.use_pg_rewind &= !words.has("no-rewind");
                self.node.may_bootstrap &= !words.has("no-bootstrap");
                self.node.has_custom_bootstrap |= words.has("custom-bootstrap");
                self.node.remove_data_directory_on_diverged_timelines |= words.has("remove-diverged");
                self.node.remove_data_directory_on_rewind_failure |= words.has("remove-failed");
                self.node.server_version = words
                    .number("version")
                    .map_or(180_000, |version| version.try_into().unwrap());
                self.node.citus_group = words.number("citus").map(|group| group.try_into().unwrap());
                self.node.has_method_without_leader |= words.has("method-without-leader");
            }
            "config" => {
                for word in &words.0 {
                    let (key, value) = word.split_once('=').unwrap_or((word, "true"));
                    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                    self.settings.insert(key.to_owned(), value);
                }
            }
            "remember" => remember(memory, &words),
            "at" => self.now = Moment(Duration::from_secs(words.0[0].parse().unwrap())),
            "cluster" => self.cluster = read_cluster(&words),
            "member" => {
                let member = read_member(&words);
                let cluster = self.cluster.as_mut().unwrap();
                cluster.members.retain(|other| other.name != member.name);
                cluster.members.push(member);
            }
            "worker" => {
                let (group, worker) = read_worker(&words);
                self.cluster.as_mut().unwrap().workers.insert(group, worker);
            }
            "server" => self.server = read_server(&words),
            "sender" => {
                let name = words.0[0];
                let is_stranger = words.has("stranger");
                self.senders
                    .retain(|sender| sender.application_name != name || sender.slot.is_none() != is_stranger);
                self.senders.extend(words.position().map(|position| WalSender {
                    application_name: name.to_owned(),
                    is_streaming: true,
                    is_catching_up: false,
                    slot: (!is_stranger).then(|| MemberName::from(name).slot_name()),
                    client: None,
                    sync_state: words.0.get(2).copied().unwrap_or("async").to_owned(),
                    written: Some(position),
                    flushed: Some(position),
                    replayed: Some(position),
                }));
            }
            "slot" => {
                self.slots.retain(|slot| slot.name.0 != words.0[0]);
                self.slots.extend((!words.has("gone")).then(|| read_slot(&words)));
            }
            "published" => {
                let positions = words.0.iter().filter_map(|word| word.split_once('='));
                let slots =
                    positions.map(|(name, lsn)| (SlotName(name.to_owned()), Lsn(lsn.parse().unwrap())));
                self.cluster.as_mut().unwrap().status.slots = Some(slots.collect());
            }
            "retained" => {
                let names = words.0[0].split(',').map(|name| SlotName(name.to_owned()));
                self.cluster.as_mut().unwrap().status.retain_slots = Some(names.collect());
            }
            "horizons" => {
                let ids = words.0.iter().filter_map(|word| word.split_once('='));
                let ids = ids.map(|(name, id)| (SlotName(name.to_owned()), Xid(id.parse().unwrap())));
                let mut logical: BTreeMap<SlotName, Xid> = ids.collect();
                self.horizons = Some(SlotHorizons {
                    leader: words.0[0].into(),
                    asked_at: self.now,
                    physical: logical.remove(&SlotName("physical".to_owned())),
                    logical,
                });
            }
            "data" => self.data = read_data(&words),
            "histories" => self.newest_timeline = words.0[0].parse().unwrap(),
            "replay" => {
                self.recovery = match words.0[0].parse::<u64>() {
                    Ok(mebibytes) => Ok(CrashRecovery {
                        redo: Lsn(0),
                        end: Lsn(mebibytes << 20),
                    }),
                    Err(_) => Err("not told".to_owned()),
                };
            }
            "peer" => drop(self.peers.insert(words.0[0].into(), read_peer(&words))),
            "parted" => self.divergence = read_divergence(&words),
            "next" => self.tells_next = true,
            "drift" => {
                self.drift = match words.0[0] {
                    "none" => RecoveryDrift::None,
                    "reload" => RecoveryDrift::Reload,
                    "restart" => RecoveryDrift::Restart,
                    other => panic!("drift {other}"),
                }
            }
            "answer" => drop(self.answers.insert(words.0[0].to_owned(), words.0[1].to_owned())),
            "meanwhile" => {
                let step = format!("observe {}", words.0[0]);
                self.meanwhile.insert(step, words.0[1].to_owned());
            }
            "resumed" => self.is_resumed = true,
            "stands-still" => {
                let time = Duration::from_secs(words.0[1].parse().unwrap());
                self.stands_still = Some((words.0[0].to_owned(), time));
            }
            "task" => self.task = self.read_task(&words),
            "request" => {
                let id = RequestId(1);
                self.requests.push(match words.0[0] {
                    "restart" => Request::Restart {
                        id,
                        conditions: RestartConditions {
                            only_pending: words.has("pending"),
                            role: words.value("role").and_then(Role::parse),
                            ..RestartConditions::default()
                        },
                    },
                    "reinitialize" => Request::Reinitialize {
                        id,
                        force: words.has("force"),
                        from_leader: words.has("from-leader"),
                    },
                    other => panic!("request {other}"),
                });
            }
            "scheduled-restart" => self.scheduled_restart = read_planned(&words),
            "accepts" => drop(self.accepts.insert(words.0[0].into(), Ok(words.position()))),
            "refuses" => drop(
                self.accepts
                    .insert(words.0[0].into(), Err("Running as a leader".to_owned())),
            ),
            "ping" => {
                let name = words.0[0];
                let ping = Ping {
                    name: name.into(),
                    conn_url: conn_url(name),
                    api_url: api_url(name),
                    slots: None,
                    ttl: Duration::ZERO,
                };
                let until = Moment(Duration::from_secs(words.number("until").unwrap()));
                self.failsafe = Some(Accepted { ping, until });
            }
            "stopping" => self.is_stopping = true,
            "guard-missing" => self.guard_is_missing = true,
            "hangs" => {
                self.unresponsive = words.number("since").map(|seconds| Unresponsive {
                    since: Moment(Duration::from_secs(seconds)),
                    why: "a new connection is not answered".to_owned(),
                });
            }
            "watchdog-missing" => self.watchdog_is_missing = true,
            other => panic!("no such keyword: {other}"),
        }
    }

    fn read_task(&self, words: &Words<'_>) -> TaskStatus {
        let from = words.value("from").unwrap_or("a");
        let source = || Source {
            member: Some(from.into()),
            conn_url: conn_url(from),
            slot: None,
            retry: Retry::AtOnce,
            only_streams: false,
        };
        let task = match words.0.get(1).copied().unwrap_or_default() {
            "bootstrap" => Task::Bootstrap,
            "post-bootstrap" => Task::PostBootstrap,
            "clone" => Task::Clone {
                from: CloneSource::Leader(source()),
                follow: Some(source()),
                with_basebackup: false,
            },
            "clone-remote" => Task::Clone {
                from: CloneSource::Remote(remote()),
                follow: Some(remote()),
                with_basebackup: false,
            },
            "start-following-remote" => Task::Start {
                start_as: StartAs::Standby(Some(remote())),
                timeout: None,
                why: StartReason::AfterDemotion,
            },
            "start-primary" => Task::Start {
                start_as: StartAs::Primary,
                timeout: None,
                why: StartReason::PrimaryAfterFailure,
            },
            "start" => {
                let start_as = StartAs::Standby(None);
                Task::Start {
                    start_as,
                    timeout: None,
                    why: StartReason::AfterFailure,
                }
            }
            "stop" => {
                let purpose = match words.value("for") {
                    Some("switchover") => StopPurpose::Switchover,
                    Some("failover") => StopPurpose::Failover,
                    Some("lost-lock") => StopPurpose::LostLock,
                    Some("outage") => StopPurpose::DcsOutage,
                    Some("shutdown") => StopPurpose::Shutdown,
                    Some("unresponsive") => StopPurpose::Unresponsive,
                    Some("give-up") => StopPurpose::GiveUp,
                    Some("standby-cluster") => StopPurpose::StandbyCluster,
                    other => panic!("stop for {other:?}"),
                };
                Task::Stop {
                    mode: StopMode::Fast,
                    checkpoint: true,
                    purpose,
                }
            }
            "restart" => Task::Restart {
                start_as: StartAs::Primary,
                timeout: None,
                is_requested: true,
            },
            "copy-slots" => Task::CopyLogicalSlots {
                leader: source(),
                slots: vec![SlotName("feed".to_owned())],
                follow: Some(source()),
            },
            "promote" => Task::Promote {
                lock_valid_until: Moment(Duration::from_secs(40)),
                archive_may_have_more: true,
            },
            "crash-recovery" => Task::CrashRecovery,
            "rewind" => Task::Rewind { source: source() },
            other => panic!("task {other}"),
        };
        match words.0[0] {
            "running" => {
                let progress = match words.number("shut-down") {
                    Some(checkpoint) => Progress::ShutDown {
                        checkpoint: Lsn(checkpoint),
                    },
                    None if words.has("starting") => Progress::Starting,
                    None => Progress::Working,
                };
                TaskStatus::Running {
                    task,
                    since: words
                        .number("since")
                        .map_or(self.now, |seconds| Moment(Duration::from_secs(seconds))),
                    progress,
                }
            }
            "done" => {
                let outcome = match words.0.iter().skip(2).find(|word| !word.contains('=')).copied() {
                    None => TaskOutcome::Success,
                    Some("failed") => TaskOutcome::Failed("the reason".to_owned()),
                    Some("cancelled") => TaskOutcome::Cancelled,
                    Some("unready") => TaskOutcome::SourceNotReady(None),
                    Some("source-lost") => TaskOutcome::SourceNotReady(Some("no answer".to_owned())),
                    Some("refused") => TaskOutcome::PrePromoteFailed,
                    Some("timed-out") => TaskOutcome::TimedOut,
                    Some("former-settings") => TaskOutcome::FormerSettings("the reason".to_owned()),
                    Some("settings-refused") => TaskOutcome::SettingsRefused("the reason".to_owned()),
                    Some(other) => panic!("outcome {other}"),
                };
                TaskStatus::Done { task, outcome }
            }
            other => panic!("task {other}"),
        }
    }

    fn answer(&self, step: &Step) -> Answer {
        match step {
            Step::Observe(question) => self.answer_question(question),
            Step::Act(action) => self.answer_action(action),
            Step::Finish(_) => unreachable!("a finished cycle has no answer"),
        }
    }

    fn answer_question(&self, question: &Question) -> Answer {
        match question {
            Question::Cluster => Answer::Cluster(self.read_by_the_member().map(Arc::new)),
            Question::Server => {
                let mut server = self.server.clone();
                if let Some(sql) = &mut server.sql {
                    sql.wal_senders.clone_from(&self.senders);
                    sql.slots.extend(self.slots.iter().cloned());
                    sql.slot_horizons.clone_from(&self.horizons);
                }
                Answer::Server(server)
            }
            Question::DataDirectory => Answer::DataDirectory(self.data.clone()),
            Question::CrashRecovery => Answer::CrashRecovery(self.recovery.clone()),
            Question::Peers(peers) => {
                let status = |name: &MemberName| {
                    self.peers
                        .get(name)
                        .cloned()
                        .unwrap_or_else(|| Err("no answer".to_owned()))
                };
                let answers = peers.iter().map(|peer| (peer.name.clone(), status(&peer.name)));
                Answer::Peers(
                    answers
                        .map(|(name, status)| PeerAnswer { name, status })
                        .collect(),
                )
            }
            Question::Failsafe { members, .. } => {
                let silent = || Err("no answer".to_owned());
                let reply = |peer: &Peer| FailsafeReply {
                    name: peer.name.clone(),
                    accepts: self.accepts.get(&peer.name).cloned().unwrap_or_else(silent),
                };
                Answer::Failsafe {
                    sent_at: self.now,
                    replies: members.iter().map(reply).collect(),
                }
            }
            Question::Divergence(_) => Answer::Divergence(self.divergence.clone()),
            Question::HistoryFile(timeline) if timeline.0 > self.newest_timeline => Answer::HistoryFile(None),
            Question::HistoryFile(timeline) => {
                let entry = |number| HistoryEntry {
                    timeline: Timeline(number),
                    switch_lsn: Lsn(u64::from(number) * 100),
                    reason: "no recovery target specified".to_owned(),
                };
                Answer::HistoryFile(Some((1..timeline.0).map(entry).collect()))
            }
            Question::RecoveryDrift(_) => Answer::RecoveryDrift(self.drift),
        }
    }

    /// The dynamic configuration in force is that of the store, unless it says that the pause is over (`resumed`).
    fn read_by_the_member(&self) -> Result<Cluster, DcsFailure> {
        let mut cluster = self.cluster.clone()?;
        if let Some(config) = &mut cluster.config {
            config.value.clone_from(&self.settings);
            if self.is_resumed {
                config.value.remove("pause");
            }
        }
        Ok(cluster)
    }

    fn lock_answer(&self, told: &str) -> LockAnswer {
        match told {
            "held" => LockAnswer::Held { sent_at: self.now },
            "late" => {
                let sent_at = Moment(self.now.0.saturating_sub(Duration::from_secs(20)));
                LockAnswer::Held { sent_at }
            }
            "refused" => LockAnswer::HeldByLeaseAlone {
                sent_at: self.now,
                why: DcsFailure("no space".to_owned()),
            },
            "lost" => LockAnswer::NotHeld,
            "unknown" => LockAnswer::Unknown(DcsFailure("no answer".to_owned())),
            other => panic!("no such answer about the lock: {other}"),
        }
    }

    fn answer_action(&self, action: &Action) -> Answer {
        let told = |key: &str| self.answers.get(key).map(String::as_str);
        let lock = |key: &str| self.lock_answer(told(key).unwrap_or("held"));
        match action {
            Action::AcquireLeader | Action::SupersedeLeader { .. } => Answer::Lock(lock("acquire")),
            Action::RenewLeader { .. } => Answer::Lock(lock("renew")),
            Action::TakeLeader => Answer::Lock(lock("take")),
            Action::ReleaseLeader { .. } => Answer::Lock(LockAnswer::NotHeld),
            Action::ExtendLock { sent_at } => Answer::Lock(LockAnswer::Held { sent_at: *sent_at }),
            Action::Write { .. } | Action::Delete { .. } => Answer::Written(match told("write") {
                Some("conflict") => Ok(None),
                Some("unknown") => Err(DcsFailure("no answer".to_owned())),
                _ => Ok(Some(Version(99))),
            }),
            Action::SetSynchronousStandbyNames(_) if told("arm") == Some("fails") => {
                Answer::Done(Err("the disk is full".to_owned()))
            }
            Action::Begin(_) if told("begin") == Some("fails") => Answer::Done(Err("it is busy".to_owned())),
            Action::TouchMember(_) if told("touch") == Some("taken") => Answer::NameTaken,
            Action::TouchMember(_)
            | Action::Begin(_)
            | Action::CancelTask
            | Action::RunCallbacks(_)
            | Action::BeginCheckpoint
            | Action::Follow(_)
            | Action::ResumeReplay
            | Action::SetSynchronousStandbyNames(_)
            | Action::KeepCitus(_)
            | Action::BeginSlotWork(_)
            | Action::ChangeSlots(_) => Answer::Done(Ok(())),
        }
    }
}

fn remote() -> Source {
    Source {
        member: None,
        conn_url: "host='10.0.0.9' port='5432'".to_owned(),
        slot: None,
        retry: Retry::AtOnce,
        only_streams: false,
    }
}

/// What begins that timeline, as the histories of the scenarios have it.
fn origin(timeline: Timeline, nonce: u64) -> Origin {
    Origin {
        timeline,
        switch_lsn: Lsn(u64::from(timeline.0 - 1) * 100),
        nonce: nonce.try_into().unwrap(),
    }
}

/// `2:7,3:8`, or with a switch point `2:7@90`.
fn read_origins(text: &str) -> Origins {
    let promotion = |pair: &str| {
        let (timeline, rest) = pair.split_once(':').unwrap();
        let (nonce, switch_lsn) = rest
            .split_once('@')
            .map_or((rest, None), |(nonce, lsn)| (nonce, Some(lsn)));
        let mut origin = origin(Timeline(timeline.parse().unwrap()), nonce.parse().unwrap());
        if let Some(lsn) = switch_lsn {
            origin.switch_lsn = Lsn(lsn.parse().unwrap());
        }
        Promotion {
            origin,
            promoter: Some("a".into()),
        }
    };
    Origins(text.split(',').map(promotion).collect())
}

fn conn_url(name: &str) -> String {
    format!("postgres://{name}:5432/postgres")
}

fn api_url(name: &str) -> String {
    format!("http://{name}:8008/patroni")
}

fn remember(memory: &mut Memory, words: &Words<'_>) {
    for word in &words.0 {
        if let Some(role) = Role::parse(word) {
            memory.role = role;
        } else if let Some(state) = ServerState::parse(&word.replace('-', " ")) {
            memory.state = state;
        }
    }
    if let Some(seconds) = words.number("lock") {
        memory.lock = Some(Lock {
            valid_until: Moment(Duration::from_secs(seconds)),
        });
    }
    if let Some(seconds) = words.number("demoted") {
        memory.demoted_at = Some(Moment(Duration::from_secs(seconds)));
    }
    if words.has("rewind=check") {
        memory.rewind = RewindState::Check;
    }
    if words.has("populated") {
        memory.bootstrap = Bootstrap::Populated;
    }
    memory.creation_was_cut_off = words.has("cut-off");
    if words.has("known") {
        memory.system_identifier = Some(IDENTIFIER.parse().unwrap());
        memory.start_was_announced = true;
    }
}

fn read_cluster(words: &Words<'_>) -> Result<Cluster, DcsFailure> {
    if words.has("unreachable") {
        return Err(DcsFailure("no endpoint answers".to_owned()));
    }
    let version = Version(1);
    let initialize = match words.value("initialize") {
        None => Some(IDENTIFIER.to_owned()),
        Some("none") => None,
        Some("locked") => Some(String::new()),
        Some(other) => Some(other.to_owned()),
    };
    let lines = words.number("timeline").map(|timeline| {
        let line = |number: u64| {
            format!(
                r#"[{number},{},"no recovery target specified","then","a"]"#,
                number * 100
            )
        };
        (1..timeline).map(line).collect::<Vec<_>>().join(",")
    });
    let quorum = words
        .number("quorum")
        .map_or(0, |number| number.try_into().unwrap());
    Ok(Cluster {
        generation: words
            .value("generation")
            .map_or(0, |number| number.parse().unwrap()),
        initialize,
        config: (!words.has("no-config")).then(|| ConfigKey {
            version,
            value: serde_json::Map::new(),
        }),
        leader: words.value("leader").map(|name| Leader {
            version,
            name: name.into(),
            session: if words.has("unbound") { "0" } else { "1" }.to_owned(),
        }),
        status: Status {
            optime: words.number("optime").map(Lsn),
            is_final: words.has("final"),
            ..Status::default()
        },
        failover: words.value("failover").and_then(|request| {
            let (leader, candidate) = request.split_once('>').unwrap();
            Failover::parse(
                words
                    .number("asked")
                    .map_or(version, |number| Version(number.try_into().unwrap())),
                &Failover::to_json(Some(leader), Some(candidate), words.value("scheduled")),
            )
        }),
        heartbeat: words.value("heartbeat").map(|text| {
            let (leader, number) = text.split_once(':').unwrap();
            let version = Version(number.parse().unwrap());
            Heartbeat {
                version,
                leader: leader.into(),
                ttl: Duration::from_secs(30),
                takeover: Takeover::Always,
                sent: None,
            }
        }),
        sync: words.value("sync").map_or_else(SyncState::default, |members| {
            let mut names = members.split(',').map(MemberName::from);
            let leader = names.next().unwrap();
            SyncState::parse(
                version,
                &SyncState::to_json(&leader, quorum, &names.collect::<Vec<_>>()),
            )
        }),
        failsafe: words.value("failsafe").map(|names| {
            names
                .split(',')
                .map(|name| (name.into(), api_url(name)))
                .collect()
        }),
        history: lines.map(|lines| History::parse(&format!("[{lines}]"))),
        origins: words.value("origins").map(read_origins).unwrap_or_default(),
        ..Cluster::default()
    })
}

/// `worker 1 w1 w2`: a group, its leader, its replicas.
fn read_worker(words: &Words<'_>) -> (u32, Cluster) {
    let members = words.0[1..].iter().enumerate().map(|(number, name)| {
        let role = if number == 0 { "primary" } else { "replica" };
        read_member(&Words(vec![name, role, "100"]))
    });
    let cluster = Cluster {
        leader: Some(Leader {
            version: Version(1),
            name: words.0[1].into(),
            session: "1".to_owned(),
        }),
        members: members.collect(),
        ..Cluster::default()
    };
    (words.0[0].parse().unwrap(), cluster)
}

fn read_member(words: &Words<'_>) -> Member {
    let name = words.0[0];
    let data = MemberData {
        conn_url: Some(conn_url(name)),
        api_url: Some(api_url(name)),
        state: Some(match words.has("starting") {
            true => ServerState::Starting,
            false => ServerState::Running,
        }),
        role: Role::parse(words.0[1]),
        xlog_location: words.position(),
        timeline: Some(words.timeline()),
        origin: words.origin(words.timeline()),
        tags: words.tags(),
        checkpoint_after_promote: words.has("checkpoint=pending").then_some(false),
        ..MemberData::default()
    };
    Member {
        version: Version(1),
        name: name.into(),
        session: "1".to_owned(),
        data,
    }
}

fn read_server(words: &Words<'_>) -> Server {
    let running = Server {
        running: Running::Yes,
        postmaster_started: Some(
            words
                .number("started")
                .map_or(1, |number| number.try_into().unwrap()),
        ),
        accepts: Accepts::Yes,
        sql: Some(SqlFacts::default()),
    };
    match words.0[0] {
        "gone" => Server::default(),
        "unknown" => Server {
            running: Running::Unknown("Too many open files".to_owned()),
            ..Server::default()
        },
        "starting" => Server {
            accepts: Accepts::Rejecting,
            sql: None,
            ..running
        },
        "silent" => Server {
            accepts: Accepts::Yes,
            sql: None,
            ..running
        },
        role => {
            let in_recovery = role != "primary";
            let position = words.position();
            let slot = |name: &str| Slot {
                is_active: words.has(&format!("active={name}")),
                restart_lsn: position,
                ..read_slot(&Words(vec![name]))
            };
            let slots = words
                .value("slots")
                .map(|names| names.split(',').map(slot).collect());
            let sql = SqlFacts {
                in_recovery,
                timeline: Some(words.timeline()),
                origin: words.origin(words.timeline()),
                flushed: position.filter(|_| !in_recovery),
                received: position.filter(|_| in_recovery),
                replayed: position.filter(|_| in_recovery),
                replay_paused: words.has("replay-paused"),
                replication_state: match words.has("restoring") {
                    true => Some(ReplicationState::InArchiveRecovery),
                    false => words.has("streaming").then_some(ReplicationState::Streaming),
                },
                slots: slots.unwrap_or_default(),
                synchronous_standby_names: words.value("names").unwrap_or_default().replace('_', " "),
                checkpointer_is_current: !words.has("busy"),
                ..SqlFacts::default()
            };
            Server {
                sql: Some(sql),
                ..running
            }
        }
    }
}

fn read_slot(words: &Words<'_>) -> Slot {
    let logical = words.value("logical").map(|text| {
        let (database, plugin) = text.split_once('/').unwrap();
        LogicalSlot {
            database: database.to_owned(),
            plugin: plugin.to_owned(),
        }
    });
    let position = words.position();
    Slot {
        name: SlotName(words.0[0].to_owned()),
        is_active: words.has("active"),
        restart_lsn: position.filter(|_| !words.has("unreserved")),
        confirmed_flush: position.filter(|_| logical.is_some()),
        has_xmin: words.has("xmin"),
        catalog_xmin: words.number("catalog").map(|id| Xid(id.try_into().unwrap())),
        is_lost: words.has("lost"),
        lacks_wal: words.has("lacks-wal"),
        has_failover: words.has("failover"),
        is_synced: words.has("synced"),
        logical,
    }
}

fn read_data(words: &Words<'_>) -> DataDirectory {
    let state = match words.0[0] {
        "empty" => return DataDirectory::Empty,
        "inaccessible" => return DataDirectory::Inaccessible("permission denied".to_owned()),
        "shut-down" => DatabaseState::ShutDown,
        "shut-down-standby" => DatabaseState::ShutDownInRecovery,
        "production" => DatabaseState::InProduction,
        "recovery" => DatabaseState::InArchiveRecovery,
        "unreadable" => {
            return DataDirectory::Present {
                control: Err("wrong checksum".to_owned()),
                has_recovery_signal: false,
                has_backup_label: false,
                is_half_rewound: false,
            };
        }
        other => panic!("data {other}"),
    };
    let control = ControlData {
        system_identifier: words.value("identifier").unwrap_or(IDENTIFIER).parse().ok(),
        state,
        checkpoint: words.number("checkpoint").map(Lsn).unwrap_or_default(),
        redo: Lsn(0),
        timeline: words.timeline(),
        minimum_recovery: Lsn(0),
        minimum_recovery_timeline: None,
        can_be_rewound: !words.has("no-checksums"),
    };
    DataDirectory::Present {
        control: Ok(control),
        has_recovery_signal: words.has("signal"),
        has_backup_label: words.has("backup_label"),
        is_half_rewound: words.has("half-rewound"),
    }
}

fn read_peer(words: &Words<'_>) -> Result<PeerStatus, String> {
    match words.0[1] {
        "down" => Err("connection refused".to_owned()),
        role => Ok(PeerStatus {
            in_recovery: role != "primary",
            position: words
                .position()
                .or(words.number("mib").map(|mebibytes| Lsn(mebibytes << 20))),
            replayed: words.number("replayed-mib").map(|mebibytes| Lsn(mebibytes << 20)),
            timeline: Some(words.timeline()),
            origin: words.origin(words.timeline()),
            stands_back: words.has("stands-back"),
            tags: words.tags(),
            watchdog_failed: false,
        }),
    }
}

/// `1:100 from 2:90@1`: local timeline 1 at 100 (`primary` for a former one), the remote is on 2 and left 1 at 90.
fn read_divergence(words: &Words<'_>) -> Divergence {
    if words.has("unknown") {
        return Divergence {
            local: Err("not told".to_owned()),
            remote: Err("not told".to_owned()),
        };
    }
    let pair = |text: &str| {
        let (timeline, lsn) = text.split_once(':').unwrap();
        (Timeline(timeline.parse().unwrap()), Lsn(lsn.parse().unwrap()))
    };
    let (timeline, lsn) = pair(words.0[0]);
    let (remote_timeline, switch_lsn) = pair(words.0[2]);
    let was_standby = !words.has("primary");
    let before = words.value("before").map(read_origins).unwrap_or_default();
    let before = before.0.into_iter().map(|promotion| promotion.origin);
    let history = (1..remote_timeline.0)
        .map(|number| HistoryEntry {
            timeline: Timeline(number),
            switch_lsn,
            reason: String::new(),
        })
        .collect();
    Divergence {
        local: Ok(LocalHistory {
            timeline,
            lsn,
            was_standby,
            origins: words.origin(timeline).into_iter().chain(before).collect(),
            checkpoint_end: words.number("ends").map(Lsn),
        }),
        remote: Ok(RemoteHistory {
            in_recovery: words.has("in-recovery"),
            timeline: remote_timeline,
            history,
        }),
    }
}

/// Runs a scenario and returns it with the steps that were taken in place of those that it holds.
pub(crate) fn run(text: &str) -> String {
    tell(text).0
}

/// The steps that the one cycle of a scenario takes.
pub(crate) fn steps(text: &str) -> Vec<Step> {
    let mut world = World::new();
    let mut memory = Memory::new(Role::Replica, ServerState::Running);
    text.lines().for_each(|line| world.read(line, &mut memory));
    let mut facts = world.facts();
    let mut taken = Vec::new();
    loop {
        let step = decide(&facts, &mut memory);
        taken.push(step.clone());
        if matches!(step, Step::Finish(_)) {
            return taken;
        }
        let answer = world.answer(&step);
        facts.learn(step, answer, world.now);
    }
}

/// A cycle: its steps, and how long after the newest renewal the next one begins.
pub(crate) struct Cycle {
    pub(crate) steps: Vec<Step>,
    pub(crate) until_next: Duration,
}

/// Runs cycles of the same facts one after the other. Each step takes `latency`.
pub(crate) fn cycles(text: &str, count: usize, latency: Duration) -> Vec<Cycle> {
    let mut world = World::new();
    let mut memory = Memory::new(Role::Replica, ServerState::Running);
    text.lines()
        .filter(|line| !line.is_empty())
        .for_each(|line| world.read(line, &mut memory));
    let mut cycles = Vec::new();
    while cycles.len() < count {
        let mut facts = world.facts();
        let due = world.now.after(facts.given.config.loop_wait);
        let mut renewed_at = world.now;
        let mut steps = Vec::new();
        let outcome = loop {
            let step = decide(&facts, &mut memory);
            if let Step::Finish(outcome) = step {
                break outcome;
            }
            let answer = world.answer(&step);
            if let Answer::Lock(LockAnswer::Held { sent_at }) = &answer {
                renewed_at = *sent_at;
            }
            world.now = world.now.after(latency);
            steps.push(step.clone());
            facts.learn(step, answer, world.now);
        };
        let next = outcome
            .again_at
            .map_or(due, |again| again.min(due))
            .max(world.now);
        world.now = next;
        cycles.push(Cycle {
            steps,
            until_next: next.since(renewed_at),
        });
    }
    cycles
}

/// Runs a scenario; also returns the events of its cycles.
pub(crate) fn tell(text: &str) -> (String, Vec<Event>) {
    let mut chronicle = Chronicle::default();
    let mut events = Vec::new();
    let mut world = World::new();
    let mut memory = Memory::new(Role::Replica, ServerState::Running);
    let mut written = String::new();
    let mut in_steps = false;
    for line in text.lines() {
        if in_steps && !line.starts_with("cycle") {
            continue;
        }
        if in_steps {
            written.push('\n');
        }
        in_steps = false;
        writeln!(written, "{line}").unwrap();
        let line = line.split('#').next().unwrap_or_default().trim();
        if line == "===" {
            in_steps = true;
            let before = memory.clone();
            let (steps, facts, outcome) = one_cycle(&world, &mut memory);
            written.push_str(&steps);
            events.extend(chronicle.tell(&facts, &before, &memory, &outcome));
            let kept = serde_json::to_string(&Record::new(facts, before, outcome.clone())).unwrap();
            let kept: Record = serde_json::from_str(&kept).unwrap();
            assert_eq!(
                kept.replay(),
                Some(outcome),
                "a cycle that was kept can be decided once more"
            );
            world.forget_events();
        } else if !line.is_empty() && !line.starts_with("cycle") {
            world.read(line, &mut memory);
        }
    }
    (written, events)
}

/// `none`, or when and under which conditions.
fn read_planned(words: &Words<'_>) -> Option<PlannedRestart> {
    let at = words.value("at")?;
    let shown = serde_json::json!({ "schedule": at }).as_object().unwrap().clone();
    Some(PlannedRestart {
        id: RequestId(7),
        at: at.parse().unwrap(),
        conditions: RestartConditions {
            only_pending: words.has("pending"),
            role: words.value("role").and_then(Role::parse),
            ..RestartConditions::default()
        },
        shown: ScheduledRestart(shown),
    })
}

fn one_cycle(world: &World, memory: &mut Memory) -> (String, Facts, Outcome) {
    let mut written = String::new();
    let mut facts = world.facts();
    let mut now = world.now;
    loop {
        let before = memory.clone();
        let step = decide(&facts, memory);
        if let Step::Finish(outcome) = &step {
            for note in outcome
                .notes
                .iter()
                .filter(|note| !note.text.starts_with("Lock owner"))
            {
                writeln!(written, "  note {:?}: {}", note.level, note.text).unwrap();
            }
            for (callback, role) in &outcome.callbacks {
                writeln!(written, "  callback {} {role}", callback.as_str()).unwrap();
            }
            for reply in &outcome.replies {
                let verdict = if reply.is_success { "yes" } else { "no" };
                writeln!(written, "  reply {verdict}: {}", reply.text).unwrap();
            }
            if outcome.unscheduled.is_some() {
                writeln!(written, "  restart unscheduled").unwrap();
            }
            if let Some(exit) = outcome.exit {
                writeln!(written, "  exit {exit:?}").unwrap();
            }
            if let Some(next) = outcome.again_at.filter(|_| world.tells_next) {
                writeln!(written, "  next in {} ms", next.since(world.now).as_millis()).unwrap();
            }
            writeln!(written, "finish {}", outcome.reason).unwrap();
            let outcome = (**outcome).clone();
            return (written, facts, outcome);
        }
        assert_eq!(before, *memory, "memory changes only when a cycle ends");
        let shown = show(&step);
        writeln!(written, "{shown}").unwrap();
        if let Some(told) = world.meanwhile.get(&shown) {
            let renewal = renewal_meanwhile(&facts, memory).expect("a renewal is permitted");
            writeln!(
                written,
                "  meanwhile {}: {told}",
                show(&Step::Act(renewal.action.clone()))
            )
            .unwrap();
            facts.learn_meanwhile(renewal.action, world.lock_answer(told), world.now);
        }
        if let Some((begin, time)) = &world.stands_still
            && shown.starts_with(begin)
        {
            now = now.after(*time);
        }
        let answer = world.answer(&step);
        facts.learn(step, answer, now);
    }
}

fn show(step: &Step) -> String {
    match step {
        Step::Observe(Question::Peers(peers)) => {
            let name = |peer: &Peer| match peer.patience.as_millis() {
                2000 => peer.name.to_string(),
                less => format!("{} ({less} ms)", peer.name),
            };
            format!("ask {}", peers.iter().map(name).collect::<Vec<_>>().join(" "))
        }
        Step::Observe(Question::Failsafe { members, .. }) => {
            let name = |peer: &Peer| format!("{} ({} ms)", peer.name, peer.patience.as_millis());
            let names: Vec<_> = members.iter().map(name).collect();
            format!("ask whether to go on {}", names.join(" "))
        }
        Step::Act(Action::ExtendLock { sent_at }) => {
            format!("extend the lock from {} s", sent_at.0.as_secs())
        }
        Step::Observe(Question::Divergence(source)) => {
            format!("observe divergence from {}", name(Some(source)))
        }
        Step::Observe(Question::RecoveryDrift(source)) => {
            format!("observe drift from {}", name(source.as_ref()))
        }
        Step::Observe(Question::HistoryFile(timeline)) => format!("observe history file {timeline}"),
        Step::Observe(question) => format!("observe {question:?}")
            .to_lowercase()
            .replace("datadir", "data dir")
            .replace("crashrec", "crash rec"),
        Step::Act(Action::Begin(task)) => format!("begin {}", show_task(task)),
        Step::Act(Action::TouchMember(data)) => {
            let planned = data.scheduled_restart.as_ref().map(|_| "a restart is scheduled");
            let words = [
                data.role.map(Role::as_str),
                data.state.map(ServerState::as_str),
                planned,
            ];
            format!(
                "publish {}",
                words.into_iter().flatten().collect::<Vec<_>>().join(", ")
            )
        }
        Step::Act(Action::ReleaseLeader { status }) => match status.as_ref().and_then(|status| status.optime)
        {
            Some(optime) => format!("release leader key at {}", optime.0),
            None => "release leader key".to_owned(),
        },
        Step::Act(Action::Write { key, value, expect }) => {
            format!("write {} {value} if {expect:?}", key.as_str()).replace("if Anything", "in any case")
        }
        Step::Act(Action::Delete { key, .. }) => format!("delete {}", key.as_str()),
        Step::Act(Action::Follow(source)) => {
            let pace = source.as_ref().and_then(|source| source.retry.interval());
            let pace = pace.map_or(String::new(), |pace| format!(" every {} s", pace.as_secs()));
            let restores = source.as_ref().is_none_or(|source| !source.only_streams);
            let archive = if restores { "" } else { " without an archive" };
            format!("follow {}{pace}{archive}", name(source.as_ref()))
        }
        Step::Act(Action::RunCallbacks(callbacks)) => {
            let shown = |(callback, role): &(Callback, Role)| format!(" {} {role}", callback.as_str());
            let shown: String = callbacks.iter().map(shown).collect();
            format!("run{shown}")
        }
        Step::Act(Action::RenewLeader { when_gone, .. }) => match when_gone {
            WhenGone::Recreate => "renew leader key".to_owned(),
            WhenGone::Lost => "renew leader key, unless it is gone".to_owned(),
        },
        Step::Act(Action::SupersedeLeader { .. }) => "supersede leader".to_owned(),
        Step::Act(Action::SetSynchronousStandbyNames(names)) => match names {
            Some(names) => format!("arm '{names}'"),
            None => "arm what the user wants".to_owned(),
        },
        Step::Act(Action::KeepCitus(groups)) => {
            let group = |group: &Group| {
                let hosts = std::iter::once(&group.primary).chain(&group.secondaries);
                let hosts: Vec<&str> = hosts.map(|address| address.host.as_str()).collect();
                format!(" {}: {}", group.id, hosts.join(" "))
            };
            format!(
                "keep pg_dist_node:{}",
                groups.iter().map(group).collect::<Vec<_>>().join(";")
            )
        }
        Step::Act(Action::AcquireLeader) => "acquire leader key".to_owned(),
        Step::Act(Action::BeginSlotWork(work)) => {
            let shown = work.iter().map(|work| match work {
                SlotWork::Create { name, logical } => {
                    format!("create {name} in {} with {}", logical.database, logical.plugin)
                }
                SlotWork::Advance { name, database, to } => format!("move {name} in {database} to {}", to.0),
                SlotWork::AskLeader {
                    source,
                    physical,
                    logical,
                } => {
                    let logical: Vec<&str> = logical.iter().map(|slot| slot.0.as_str()).collect();
                    format!(
                        "ask {} for {physical} and {}",
                        name(Some(source)),
                        logical.join(",")
                    )
                }
            });
            format!("slot work: {}", shown.collect::<Vec<_>>().join("; "))
        }
        Step::Act(action) => format!("act {action:?}"),
        Step::Finish(_) => unreachable!("shown by itself"),
    }
}

fn name(source: Option<&Source>) -> String {
    match source {
        None => "nobody".to_owned(),
        Some(Source {
            member: Some(member), ..
        }) => member.to_string(),
        Some(remote) => {
            let slot = remote.slot.as_ref().map(|slot| format!(" slot {slot}"));
            let at = Some(remote.conn_url.as_str()).filter(|url| !url.is_empty());
            format!("remote {}{}", at.unwrap_or("archive"), slot.unwrap_or_default())
        }
    }
}

fn show_task(task: &Task) -> String {
    let start = |start_as: &StartAs| match start_as {
        StartAs::Primary => "as primary".to_owned(),
        StartAs::Standby(source) => format!("as standby of {}", name(source.as_ref())),
    };
    match task {
        Task::Clone {
            from,
            follow,
            with_basebackup,
        } => {
            let how = if *with_basebackup {
                " with pg_basebackup"
            } else {
                ""
            };
            match from {
                CloneSource::Remote(remote) => {
                    let follow = name(follow.as_ref());
                    format!("clone from {}, then follow {follow}", name(Some(remote)))
                }
                CloneSource::Leader(_) | CloneSource::Replica(_) | CloneSource::Nobody => {
                    format!("clone from {}{how}", name(from.source()))
                }
            }
        }
        Task::Start { start_as, .. } => format!("start {}", start(start_as)),
        Task::Stop {
            mode,
            checkpoint,
            purpose,
        } => {
            let first = if *checkpoint { " after a checkpoint" } else { "" };
            format!("stop {mode:?} for {purpose:?}{first}")
        }
        Task::Restart { start_as, .. } => format!("restart {}", start(start_as)),
        Task::Promote {
            lock_valid_until,
            archive_may_have_more,
        } => {
            let restores = if *archive_may_have_more {
                ""
            } else {
                " without the archive"
            };
            format!("promote before {} s{restores}", lock_valid_until.0.as_secs())
        }
        Task::Rewind { source } => format!("rewind from {}", name(Some(source))),
        Task::CopyLogicalSlots {
            leader,
            slots,
            follow,
        } => {
            let slots: Vec<&str> = slots.iter().map(|slot| slot.0.as_str()).collect();
            let (leader, follow) = (name(Some(leader)), name(follow.as_ref()));
            format!(
                "copy slots {} from {leader}, then follow {follow}",
                slots.join(",")
            )
        }
        Task::Bootstrap => "bootstrap".to_owned(),
        Task::PostBootstrap => "post-bootstrap".to_owned(),
        Task::CrashRecovery => "crash recovery".to_owned(),
    }
}
