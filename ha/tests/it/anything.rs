//! The decision under facts that nobody would think of: every answer is drawn at random.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tamada_ha::cluster::{
    Cluster, ConfigKey, Failover, Heartbeat, History, Leader, Member, MemberData, Origin, Origins, Promotion,
    Sent, Status, SyncState, Tags, Takeover, Version,
};
use tamada_ha::facts::{
    Accepts, Answer, CheckpointStatus, CrashRecovery, DataDirectory, DcsFailure, Divergence, FailsafeReply,
    Given, LocalHistory, LockAnswer, LogicalSlot, Moment, Node, Peer, PeerAnswer, PeerStatus, Progress,
    RecoveryDrift, RemoteHistory, Request, RestartConditions, Running, Server, Slot, SlotHorizons, SqlFacts,
    TaskStatus, Unresponsive, WalSender,
};
use tamada_ha::failsafe::{Accepted, Ping};
use tamada_ha::invariants::may_begin;
use tamada_ha::memory::Memory;
use tamada_ha::pg::{
    ControlData, DatabaseState, HistoryEntry, Lsn, MemberName, ReplicationState, Role, ServerState, SlotName,
    Timeline, Xid,
};
use tamada_ha::quorum::Claim;
use tamada_ha::reason::Reason;
use tamada_ha::standby_names::StandbyNames;
use tamada_ha::step::{
    Action, Callback, Key, Outcome, Question, RequestId, SlotWork, Step, Task, TaskOutcome,
};
use tamada_ha::{Facts, STEPS_MAX, decide, renewal_meanwhile};

fn logical_slot() -> LogicalSlot {
    LogicalSlot {
        database: "app".to_owned(),
        plugin: "pgoutput".to_owned(),
    }
}

/// A stream of choices from a seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn name(&mut self) -> &'static str {
        ["a", "b", "c"][self.below(3) as usize]
    }

    fn lsn(&mut self) -> Lsn {
        Lsn(self.below(4) * 100)
    }

    fn timeline(&mut self) -> Timeline {
        Timeline(1 + self.below(3) as u32)
    }

    fn role(&mut self) -> Role {
        [
            Role::Primary,
            Role::Replica,
            Role::Demoted,
            Role::Uninitialized,
            Role::StandbyLeader,
        ][self.below(5) as usize]
    }

    fn tags(&mut self) -> Tags {
        let mut tags = serde_json::Map::new();
        if self.one_in(8) {
            tags.insert("nofailover".to_owned(), true.into());
        }
        if self.one_in(8) {
            tags.insert("failover_priority".to_owned(), self.below(3).into());
        }
        if self.one_in(8) {
            tags.insert("nosync".to_owned(), true.into());
        }
        Tags(tags)
    }

    fn cluster(&mut self) -> Result<Arc<Cluster>, DcsFailure> {
        if self.one_in(10) {
            return Err(DcsFailure("no answer".to_owned()));
        }
        let version = Version(1);
        let members = ["a", "b", "c"]
            .into_iter()
            .filter(|_| !self.one_in(4))
            .collect::<Vec<_>>();
        let members = members
            .into_iter()
            .map(|name| Member {
                version,
                name: name.into(),
                session: "1".to_owned(),
                data: MemberData {
                    conn_url: Some(format!("postgres://{name}/postgres")),
                    api_url: Some(format!("http://{name}")),
                    role: Some(self.role()),
                    state: Some(ServerState::ALL[self.below(15) as usize]),
                    origin: self.origin(),
                    timeline: Some(self.timeline()),
                    tags: self.tags(),
                    ..MemberData::default()
                },
            })
            .collect();
        let initialize = match self.below(8) {
            0 => None,
            1 => Some(String::new()),
            2 => Some("7999999999999999999".to_owned()),
            _ => Some("7000000000000000001".to_owned()),
        };
        let failover = self.one_in(4).then(|| {
            let leader = self.one_in(2).then(|| self.name());
            let candidate = self.one_in(2).then(|| self.name());
            Failover::parse(version, &Failover::to_json(leader, candidate, None))
        });
        let leader = (!self.one_in(3)).then(|| Leader {
            version,
            name: self.name().into(),
            session: "1".to_owned(),
        });
        let sync = [
            "{}",
            r#"{"leader":"a","sync_standby":"b"}"#,
            r#"{"leader":"a","sync_standby":"b,c","quorum":1}"#,
            r#"{"leader":"b","sync_standby":"a,c","quorum":1}"#,
            r#"{"leader":"b","sync_standby":"a"}"#,
        ][self.below(5) as usize];
        let feed = SlotName("feed".to_owned());
        let status = Status {
            optime: Some(self.lsn()),
            slots: self.one_in(2).then(|| [(feed, self.lsn())].into()),
            retain_slots: self.one_in(2).then(|| vec![SlotName(self.name().to_owned())]),
            is_final: self.one_in(2),
        };
        Ok(Arc::new(Cluster {
            initialize,
            config: (!self.one_in(6)).then(|| ConfigKey {
                version,
                value: serde_json::Map::new(),
            }),
            leader,
            heartbeat: self.one_in(2).then(|| Heartbeat {
                version: Version(1),
                leader: self.name().into(),
                ttl: Duration::from_secs(15),
                takeover: match self.below(3) {
                    0 => Takeover::Always,
                    1 => Takeover::WhileLease(5),
                    _ => Takeover::Never,
                },
                sent: self
                    .one_in(2)
                    .then(|| Sent::new(1, Duration::from_secs(self.below(40)))),
            }),
            status,
            members,
            failover: failover.flatten(),
            sync: SyncState::parse(version, sync),
            origins: self.origins(),
            history: self.one_in(2).then(|| History::parse(r#"[[1,100,"x"]]"#)),
            generation: self.below(2),
            workers: BTreeMap::new(),
            failsafe: self.one_in(3).then(|| self.failsafe_members()),
        }))
    }

    fn failsafe_members(&mut self) -> BTreeMap<MemberName, String> {
        let names = ["a", "b", "c"];
        let listed = names.into_iter().filter(|_| !self.one_in(3));
        listed
            .map(|name| (name.into(), format!("http://{name}/patroni")))
            .collect()
    }

    fn server(&mut self) -> Server {
        if self.one_in(4) {
            return Server::default();
        }
        let in_recovery = self.one_in(2);
        let position = self.lsn();
        let sql = (!self.one_in(5)).then(|| SqlFacts {
            in_recovery,
            timeline: Some(self.timeline()),
            origin: self.origin(),
            flushed: (!in_recovery).then_some(position),
            received: in_recovery.then_some(position),
            replayed: in_recovery.then_some(position),
            replay_paused: self.one_in(8),
            replication_state: self.one_in(2).then_some(ReplicationState::Streaming),
            slots: vec![
                Slot {
                    name: SlotName(self.name().to_owned()),
                    logical: self.one_in(4).then(logical_slot),
                    is_active: self.one_in(2),
                    restart_lsn: Some(self.lsn()),
                    confirmed_flush: None,
                    has_xmin: self.one_in(3),
                    catalog_xmin: None,
                    is_lost: self.one_in(6),
                    lacks_wal: self.one_in(6),
                    has_failover: self.one_in(6),
                    is_synced: self.one_in(3),
                },
                self.feed(),
            ],
            slot_horizons: self.one_in(2).then(|| SlotHorizons {
                leader: self.name().into(),
                asked_at: Moment(Duration::from_secs(self.below(100))),
                physical: Some(Xid(self.below(5) as u32)),
                logical: [(SlotName("feed".to_owned()), Xid(self.below(5) as u32))].into(),
            }),
            wal_senders: (0..self.below(3)).map(|_| self.sender()).collect(),
            synchronous_standby_names: ["", "b", "2 (b,c)", "ANY 1 (b,c)", "ANY 2 (B,c)", "*", "?"]
                [self.below(7) as usize]
                .to_owned(),
            checkpointer_is_current: !self.one_in(4),
            ..SqlFacts::default()
        });
        if self.one_in(8) {
            return Server {
                running: Running::Unknown("Too many open files".to_owned()),
                ..Server::default()
            };
        }
        let accepts = [Accepts::Yes, Accepts::Rejecting, Accepts::NoResponse][self.below(3) as usize];
        Server {
            running: Running::Yes,
            postmaster_started: Some(self.below(2) as i64),
            accepts,
            sql,
        }
    }

    /// The permanent logical slot, or one in its place.
    fn feed(&mut self) -> Slot {
        Slot {
            name: SlotName(if self.one_in(3) { "other" } else { "feed" }.to_owned()),
            logical: (!self.one_in(6)).then(logical_slot),
            is_active: self.one_in(4),
            restart_lsn: Some(self.lsn()),
            confirmed_flush: Some(self.lsn()),
            has_xmin: false,
            catalog_xmin: Some(Xid(self.below(5) as u32)),
            is_lost: self.one_in(6),
            lacks_wal: self.one_in(6),
            has_failover: self.one_in(6),
            is_synced: self.one_in(3),
        }
    }

    fn sender(&mut self) -> WalSender {
        let position = Some(self.lsn());
        WalSender {
            application_name: self.name().to_owned(),
            is_streaming: !self.one_in(6),
            is_catching_up: self.one_in(6),
            slot: (!self.one_in(4)).then(|| MemberName::from(self.name()).slot_name()),
            client: self.one_in(3).then(|| "10.0.0.1".to_owned()),
            sync_state: ["sync", "async", "quorum", "potential"][self.below(4) as usize].to_owned(),
            written: position,
            flushed: position,
            replayed: position,
        }
    }

    fn control(&mut self) -> ControlData {
        let state = [
            DatabaseState::ShutDown,
            DatabaseState::ShutDownInRecovery,
            DatabaseState::InProduction,
            DatabaseState::InArchiveRecovery,
        ][self.below(4) as usize];
        let identifier = if self.one_in(10) {
            "7999999999999999999"
        } else {
            "7000000000000000001"
        };
        ControlData {
            system_identifier: identifier.parse().ok(),
            state,
            checkpoint: self.lsn(),
            redo: self.lsn(),
            timeline: self.timeline(),
            minimum_recovery: self.lsn(),
            minimum_recovery_timeline: None,
            can_be_rewound: !self.one_in(4),
        }
    }

    fn data(&mut self) -> DataDirectory {
        match self.below(8) {
            0 => DataDirectory::Empty,
            1 => DataDirectory::Inaccessible("permission denied".to_owned()),
            2 => DataDirectory::Present {
                control: Err("no such program".to_owned()),
                has_recovery_signal: false,
                has_backup_label: false,
                is_half_rewound: false,
            },
            _ => DataDirectory::Present {
                control: Ok(self.control()),
                has_recovery_signal: self.one_in(2),
                has_backup_label: self.one_in(4),
                is_half_rewound: self.one_in(8),
            },
        }
    }

    fn lock(&mut self, now: Moment) -> LockAnswer {
        match self.below(4) {
            0 => LockAnswer::NotHeld,
            1 => LockAnswer::Unknown(DcsFailure("no answer".to_owned())),
            2 => LockAnswer::HeldByLeaseAlone {
                sent_at: now,
                why: DcsFailure("no space".to_owned()),
            },
            _ => LockAnswer::Held { sent_at: now },
        }
    }

    fn origin(&mut self) -> Option<Origin> {
        self.one_in(2).then(|| Origin {
            timeline: self.timeline(),
            switch_lsn: Lsn(100),
            nonce: self.below(2) as u32,
        })
    }

    fn origins(&mut self) -> Origins {
        let promotion = |origin| Promotion {
            origin,
            promoter: None,
        };
        let origins = [self.origin(), self.origin()];
        Origins(origins.into_iter().flatten().map(promotion).collect())
    }

    fn divergence(&mut self) -> Divergence {
        let local = LocalHistory {
            timeline: self.timeline(),
            lsn: self.lsn(),
            was_standby: self.one_in(2),
            origins: self.origin().into_iter().collect(),
            checkpoint_end: self.one_in(2).then(|| self.lsn()),
        };
        let history = vec![HistoryEntry {
            timeline: Timeline(1),
            switch_lsn: self.lsn(),
            reason: String::new(),
        }];
        let remote = RemoteHistory {
            in_recovery: self.one_in(3),
            timeline: self.timeline(),
            history,
        };
        Divergence {
            local: if self.one_in(5) {
                Err("why".to_owned())
            } else {
                Ok(local)
            },
            remote: if self.one_in(5) {
                Err("why".to_owned())
            } else {
                Ok(remote)
            },
        }
    }

    fn answer(&mut self, step: &Step, now: Moment) -> Answer {
        match step {
            Step::Observe(Question::Cluster) => Answer::Cluster(self.cluster()),
            Step::Observe(Question::Server) => Answer::Server(self.server()),
            Step::Observe(Question::DataDirectory) => Answer::DataDirectory(self.data()),
            Step::Observe(Question::CrashRecovery) => Answer::CrashRecovery(if self.one_in(4) {
                Err("not told".to_owned())
            } else {
                let end = Lsn(self.lsn().0 << 20);
                Ok(CrashRecovery { redo: Lsn(0), end })
            }),
            Step::Observe(Question::Peers(peers)) => Answer::Peers(
                peers
                    .iter()
                    .map(|peer| PeerAnswer {
                        name: peer.name.clone(),
                        status: if self.one_in(3) {
                            Err("no answer".to_owned())
                        } else {
                            Ok(PeerStatus {
                                in_recovery: !self.one_in(4),
                                position: Some(self.lsn()),
                                replayed: Some(self.lsn()),
                                stands_back: self.one_in(4),
                                origin: self.origin(),
                                timeline: Some(self.timeline()),
                                tags: self.tags(),
                                watchdog_failed: self.one_in(8),
                            })
                        },
                    })
                    .collect(),
            ),
            Step::Observe(Question::Failsafe { members, .. }) => {
                let reply = |peer: &Peer| FailsafeReply {
                    name: peer.name.clone(),
                    accepts: if self.one_in(3) {
                        Err("no answer".to_owned())
                    } else {
                        Ok(self.one_in(2).then(|| self.lsn()))
                    },
                };
                Answer::Failsafe {
                    sent_at: now,
                    replies: members.iter().map(reply).collect(),
                }
            }
            Step::Act(Action::ExtendLock { sent_at }) => Answer::Lock(LockAnswer::Held { sent_at: *sent_at }),
            Step::Observe(Question::Divergence(_)) => Answer::Divergence(self.divergence()),
            Step::Observe(Question::HistoryFile(_)) => Answer::HistoryFile(self.one_in(4).then(Vec::new)),
            Step::Observe(Question::RecoveryDrift(_)) => Answer::RecoveryDrift(
                [RecoveryDrift::None, RecoveryDrift::Reload, RecoveryDrift::Restart][self.below(3) as usize],
            ),
            Step::Act(
                Action::AcquireLeader
                | Action::SupersedeLeader { .. }
                | Action::RenewLeader { .. }
                | Action::TakeLeader
                | Action::ReleaseLeader { .. },
            ) => Answer::Lock(self.lock(now)),
            Step::Act(Action::Write { .. } | Action::Delete { .. }) => Answer::Written(if self.one_in(4) {
                Ok(None)
            } else {
                Ok(Some(Version(2)))
            }),
            Step::Act(_) => Answer::Done(if self.one_in(8) {
                Err("why".to_owned())
            } else {
                Ok(())
            }),
            Step::Finish(_) => unreachable!("a finished cycle has no answer"),
        }
    }

    fn given(&mut self, now: Moment, begun: Option<Task>) -> Given {
        let synchronous_mode = ["off", "off", "on", "quorum"][self.below(4) as usize];
        let standby_cluster = match self.below(8) {
            0 => serde_json::json!({"host": "x,y", "primary_slot_name": "a"}),
            1 => serde_json::json!({"restore_command": "cp"}),
            _ => serde_json::Value::Null,
        };
        let feed = serde_json::json!({"database": "app", "plugin": "pgoutput"});
        let permanent = match self.below(2) {
            0 => serde_json::json!({"feed": feed, "b": {"type": "physical"}}),
            _ => serde_json::Value::Null,
        };
        let document = serde_json::json!({
            "standby_cluster": standby_cluster,
            "pause": self.one_in(8),
            "failsafe_mode": self.one_in(2),
            "slots": permanent,
            "check_timeline": self.one_in(3),
            "synchronous_mode": synchronous_mode,
            "synchronous_mode_strict": self.one_in(3),
            "synchronous_node_count": self.below(3),
            "primary_start_timeout": self.below(2) * 300,
            "primary_probe_timeout": self.below(2) * 5,
            "primary_race_backoff": self.below(2) * 20,
        });
        let (config, _) = config::DynamicConfig::read(&document, config::Minimums::TAMADA);
        let task = match begun {
            None => TaskStatus::Idle,
            Some(task) if self.one_in(2) => {
                let progress = if self.one_in(3) {
                    Progress::ShutDown {
                        checkpoint: self.lsn(),
                    }
                } else {
                    Progress::Working
                };
                TaskStatus::Running {
                    task,
                    since: now,
                    progress,
                }
            }
            Some(task) => {
                let outcome = match self.below(6) {
                    0 => TaskOutcome::Failed("why".to_owned()),
                    1 => TaskOutcome::Cancelled,
                    2 => TaskOutcome::TimedOut,
                    3 => TaskOutcome::SourceNotReady(None),
                    _ => TaskOutcome::Success,
                };
                TaskStatus::Done { task, outcome }
            }
        };
        let failsafe = self.one_in(4).then(|| Accepted {
            ping: Ping {
                name: self.name().into(),
                conn_url: "postgres://x/postgres".to_owned(),
                api_url: "http://x".to_owned(),
                slots: None,
                ttl: Duration::ZERO,
            },
            until: now.after(Duration::from_secs(self.below(30))),
        });
        let id = RequestId(self.below(u64::MAX));
        let requests = match self.below(12) {
            0 => vec![Request::Restart {
                id,
                conditions: RestartConditions::default(),
            }],
            1 => vec![Request::Reinitialize {
                id,
                force: self.one_in(2),
                from_leader: self.one_in(2),
            }],
            _ => Vec::new(),
        };
        Given {
            now,
            wall_clock: "2026-11-22T20:00:00Z".parse().unwrap(),
            node: Arc::new(Node {
                name: "a".into(),
                scope: "demo".to_owned(),
                conn_url: "postgres://a/postgres".to_owned(),
                api_url: "http://a".to_owned(),
                proxy_url: None,
                tags: self.tags(),
                version: "4.1.5".to_owned(),
                may_bootstrap: self.one_in(2),
                has_custom_bootstrap: self.one_in(2),
                citus_group: self.one_in(8).then_some(0),
                use_slots: !self.one_in(4),
                has_method_without_leader: self.one_in(4),
                use_pg_rewind: !self.one_in(3),
                remove_data_directory_on_rewind_failure: self.one_in(2),
                remove_data_directory_on_diverged_timelines: self.one_in(2),
                config_json: "{}".to_owned(),
                server_version: 180_000,
            }),
            config: Arc::new(config),
            task,
            checkpoint: CheckpointStatus::Idle,
            requests,
            scheduled_restart: None,
            failsafe,
            is_stopping: self.one_in(12),
            guard_is_missing: self.one_in(8),
            watchdog_is_missing: self.one_in(8),
            unresponsive: self.one_in(8).then(|| Unresponsive {
                since: Moment::default(),
                why: "it hangs".to_owned(),
            }),
        }
    }
}

/// What one cycle did.
struct Seen {
    facts: Facts,
    outcome: Outcome,
}

fn one_cycle(choices: &mut Choices, memory: &mut Memory, now: Moment, begun: Option<Task>) -> Seen {
    let given = choices.given(now, begun);
    cycle_of(choices, memory, given)
}

fn cycle_of(choices: &mut Choices, memory: &mut Memory, given: Given) -> Seen {
    let now = given.now;
    let mut facts = Facts::new(given);
    loop {
        let mut again = memory.clone();
        let step = decide(&facts, memory);
        if let Step::Finish(outcome) = step {
            return Seen {
                facts,
                outcome: *outcome,
            };
        }
        assert_eq!(
            decide(&facts, &mut again),
            step,
            "the same facts yield the same step"
        );
        let steps = facts.journal.iter().filter(|entry| !entry.is_meanwhile);
        assert!(steps.count() < STEPS_MAX, "a cycle ends");
        if let Some(renewal) = renewal_meanwhile(&facts, memory).filter(|_| choices.one_in(3)) {
            let answer = match choices.below(3) {
                0 => LockAnswer::Held { sent_at: now },
                1 => LockAnswer::NotHeld,
                _ => LockAnswer::Unknown(DcsFailure("no answer".to_owned())),
            };
            facts.learn_meanwhile(renewal.action, answer, now);
            assert_eq!(
                decide(&facts, &mut again),
                step,
                "a renewal meanwhile changes no step"
            );
        }
        let answer = choices.answer(&step, now);
        facts.learn(step, answer, now);
    }
}

fn begun(seen: &Seen) -> Vec<&Task> {
    let tasks = seen.facts.journal.iter().filter_map(|entry| match &entry.step {
        Step::Act(Action::Begin(task)) => Some(task),
        _ => None,
    });
    tasks.collect()
}

/// Rules that hold whatever happens.
fn check(seen: &Seen) {
    let given = &seen.facts.given;
    assert!(
        !matches!(seen.outcome.reason, Reason::Defect),
        "{:?}",
        seen.facts.journal
    );
    let tasks = begun(seen);
    assert!(tasks.len() <= 1, "one long job at a time: {tasks:?}");
    let running = matches!(given.task, TaskStatus::Running { .. });
    assert!(
        !running || tasks.is_empty(),
        "nothing is begun while a job runs: {tasks:?}"
    );
    for task in tasks {
        assert!(may_begin(&given.config, task), "{task:?} in a standby cluster");
        match task {
            Task::Promote { lock_valid_until, .. } => {
                let locks: Vec<_> = seen
                    .facts
                    .journal
                    .iter()
                    .filter_map(|entry| match &entry.answer {
                        // A renewal without an answer leaves the lease that there is.
                        Answer::Lock(LockAnswer::Unknown(_)) if entry.is_meanwhile => None,
                        Answer::Lock(answer) => Some(answer),
                        _ => None,
                    })
                    .collect();
                assert!(
                    locks.last().is_some_and(|lock| lock.held_since().is_some()),
                    "no promotion without the lock"
                );
                assert!(*lock_valid_until > given.now, "nor on one that is over");
                let is_asked = seen.facts.journal.iter().any(|entry| {
                    matches!(&entry.answer, Answer::Cluster(Ok(cluster)) if cluster.failover.as_ref()
                        .is_some_and(|it| it.candidate.as_ref() == Some(&given.node.name)))
                });
                assert!(
                    !given.config.pause || is_asked,
                    "nor in pause, unless it was asked for by name"
                );
                assert!(!given.is_stopping, "nor when the agent is told to end");
            }
            Task::Bootstrap => {
                let won = seen.facts.journal.iter().any(|entry| {
                    matches!(&entry.step, Step::Act(Action::Write { .. }))
                        && matches!(&entry.answer, Answer::Written(Ok(Some(_))))
                });
                assert!(won, "a cluster is made only by who holds the initialize key");
            }
            Task::Clone { from, .. } => {
                let from_self =
                    from.source().and_then(|source| source.member.as_ref()) == Some(&given.node.name);
                assert!(!from_self, "nobody copies itself");
            }
            Task::Stop { .. } => assert!(
                !given.config.pause
                    || seen.facts.journal.iter().any(|entry| {
                        matches!(&entry.answer, Answer::DataDirectory(DataDirectory::Empty))
                    })
                    || matches!(
                        given.task,
                        TaskStatus::Done {
                            outcome: TaskOutcome::Cancelled,
                            ..
                        }
                    )
                    || seen.outcome.reason.to_string().contains("demoting myself"),
                "nothing is stopped in pause but what somebody asked for, or was cut off half way: {}",
                seen.outcome.reason
            ),
            Task::Start { .. } | Task::Restart { .. } | Task::CrashRecovery => assert!(
                !is_half_rewound(seen),
                "no server is started on what a rewind has left half done"
            ),
            Task::PostBootstrap | Task::Rewind { .. } => {}
            Task::CopyLogicalSlots { leader, .. } => {
                let is_own = leader.member.as_ref() == Some(&given.node.name);
                assert!(!is_own, "nobody copies its own slots");
                assert!(is_a_standby(seen), "slots are copied to a standby");
                assert!(!given.node.tags.nofailover(), "who never leads needs none");
            }
        }
    }
    check_callbacks(seen);
    check_unknown_server(seen);
    check_synchronous(seen);
    check_slots(seen);
    let mut answered: BTreeMap<RequestId, usize> = BTreeMap::new();
    for reply in &seen.outcome.replies {
        *answered.entry(reply.id).or_default() += 1;
    }
    assert!(
        answered.values().all(|times| *times == 1),
        "a request is answered once"
    );
}

/// The scripts of a leader that steps down are started before the key is released, and what follows in that cycle tells of
/// no end any more.
fn check_callbacks(seen: &Seen) {
    let is_end = |(callback, role): &(Callback, Role)| {
        *callback == Callback::OnStop
            || (*callback == Callback::OnRoleChange && matches!(role, Role::Demoted | Role::Replica))
    };
    let mut is_released = false;
    for entry in &seen.facts.journal {
        match &entry.step {
            Step::Act(Action::ReleaseLeader { .. }) => is_released = true,
            Step::Act(Action::RunCallbacks(callbacks)) => {
                assert!(!is_released, "{callbacks:?} come after the release");
            }
            _ => {}
        }
    }
    let late: Vec<_> = seen.outcome.callbacks.iter().filter(|it| is_end(it)).collect();
    assert!(!is_released || late.is_empty(), "{late:?} come after the release");
}

/// Who could not look whether the server runs does nothing to it, and keeps the key, unless that is lost or the agent is
/// told to end.
fn check_unknown_server(seen: &Seen) {
    let journal = &seen.facts.journal;
    let is_unknown = |answer: &Answer| matches!(answer, Answer::Server(server) if matches!(server.running, Running::Unknown(_)));
    let Some(looked) = journal.iter().position(|entry| is_unknown(&entry.answer)) else {
        return;
    };
    let me = &seen.facts.given.node.name;
    let mut is_held = false;
    for entry in journal {
        is_held = match (&entry.step, &entry.answer) {
            // A key that was given back is not held, whatever the answer.
            (Step::Act(Action::ReleaseLeader { .. }), _) => false,
            (_, Answer::Lock(answer)) => answer.held_since().is_some(),
            // A read is never older than the own renewal before it: another member has led since.
            (_, Answer::Cluster(Ok(cluster))) => {
                is_held && cluster.leader_name().is_none_or(|leader| leader == me)
            }
            _ => is_held,
        };
    }
    let is_stopping = seen.facts.given.is_stopping;
    // A key that a replaced store gives to a member which did not lead is given back.
    let was_renewed = journal.iter().any(|entry| {
        matches!(entry.step, Step::Act(Action::RenewLeader { .. }))
            && matches!(entry.answer, Answer::Lock(LockAnswer::Held { .. }))
    });
    for entry in &journal[looked..] {
        match &entry.step {
            Step::Act(Action::ReleaseLeader { .. }) => assert!(!was_renewed, "the key is kept"),
            Step::Act(Action::Delete {
                key: Key::Initialize, ..
            }) => panic!("the cluster is not given up"),
            Step::Act(Action::Begin(Task::Stop { .. })) => {
                assert!(
                    !is_held || is_stopping,
                    "a leader's server is left alone: {:#?}",
                    journal
                        .iter()
                        .map(|it| format!("{:?} -> {:.200}", it.step, format!("{:?}", it.answer)))
                        .collect::<Vec<_>>()
                );
            }
            Step::Act(Action::Begin(task)) => panic!("{task:?} is begun"),
            _ => {}
        }
    }
}

/// No server runs, and a rewind has left the data directory half done.
fn is_half_rewound(seen: &Seen) -> bool {
    let journal = &seen.facts.journal;
    let runs = |answer: &Answer| matches!(answer, Answer::Server(server) if !server.is_stopped());
    let is_half = |answer: &Answer| {
        matches!(
            answer,
            Answer::DataDirectory(DataDirectory::Present {
                is_half_rewound: true,
                ..
            })
        )
    };
    !journal.iter().any(|entry| runs(&entry.answer)) && journal.iter().any(|entry| is_half(&entry.answer))
}

fn is_a_standby(seen: &Seen) -> bool {
    seen.facts.journal.iter().any(
        |entry| matches!(&entry.answer, Answer::Server(Server { sql: Some(sql), .. }) if sql.in_recovery),
    )
}

/// A logical slot is made on the primary and moved on a standby, never past what is replayed there.
fn check_slots(seen: &Seen) {
    let journal = &seen.facts.journal;
    let sql = journal.iter().find_map(|entry| match &entry.answer {
        Answer::Server(server) => server.sql.as_ref(),
        _ => None,
    });
    for entry in journal {
        let Step::Act(Action::BeginSlotWork(work)) = &entry.step else {
            continue;
        };
        let sql = sql.expect("the server was looked at");
        for work in work {
            match work {
                SlotWork::Create { .. } => assert!(!sql.in_recovery),
                SlotWork::Advance { to, .. } => assert!(sql.in_recovery && Some(*to) <= sql.replayed),
                SlotWork::AskLeader { source, .. } => assert!(source.member != Some("a".into())),
            }
        }
    }
}

/// While this member is a primary, what the key `sync` says of its standbys is true of the setting in force.
fn check_synchronous(seen: &Seen) {
    let mut in_force: Option<StandbyNames> = None;
    let mut claim: Option<Claim> = None;
    let as_claim = |sync: &SyncState| Claim {
        voters: sync.voters.iter().cloned().collect(),
        quorum: sync.quorum,
    };
    for entry in &seen.facts.journal {
        match (&entry.step, &entry.answer) {
            (_, Answer::Cluster(Ok(cluster))) => {
                let is_ours = cluster.sync.leader.as_ref().is_some_and(|leader| leader.0 == "a");
                claim = is_ours.then(|| as_claim(&cluster.sync));
            }
            (_, Answer::Server(server)) => {
                let sql = server.sql.as_ref().filter(|sql| !sql.in_recovery);
                in_force =
                    sql.and_then(|sql| StandbyNames::parse(&sql.synchronous_standby_names.replace('B', "b")));
            }
            (
                Step::Act(Action::Write {
                    key: Key::Sync,
                    value,
                    ..
                }),
                Answer::Written(Ok(Some(version))),
            ) => {
                let written = as_claim(&SyncState::parse(*version, value));
                if let Some(in_force) = &in_force {
                    assert!(written.holds_under(in_force), "{value} under {in_force}");
                }
                claim = Some(written);
            }
            (Step::Act(Action::SetSynchronousStandbyNames(Some(text))), _) => {
                let names = StandbyNames::parse(text).expect("PostgreSQL takes it");
                if let Some(claim) = &claim {
                    assert!(claim.holds_under(&names), "{claim:?} under {text}");
                }
            }
            _ => {}
        }
    }
}

/// So many cases, or as many as `PROPTEST_CASES` says.
fn cases(cases: u32) -> ProptestConfig {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return ProptestConfig::default();
    }
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(1200))]

    #[test]
    fn whatever_happens_the_rules_hold(seed: u64) {
        let mut choices = Choices(seed);
        let mut memory = Memory::new(choices.role(), ServerState::ALL[choices.below(15) as usize]);
        let mut now = Moment(Duration::from_secs(100));
        let mut job: Option<Task> = None;
        for _ in 0..6 {
            let seen = one_cycle(&mut choices, &mut memory, now, job.take());
            check(&seen);
            job = match (&seen.facts.given.task, begun(&seen).first()) {
                (TaskStatus::Running { task, .. }, _) => Some(task.clone()),
                (_, Some(task)) => Some((*task).clone()),
                _ => None,
            };
            now = now.after(Duration::from_secs(choices.below(20)));
        }
    }
}

proptest! {
    // One case goes through hundreds of cycles.
    #![proptest_config(cases(200))]

    /// Whatever is found, and whatever fails, whoever asked for something is answered, once, before long.
    #[test]
    fn a_request_is_answered_once(seed: u64) {
        let mut choices = Choices(seed);
        let mut memory = Memory::new(choices.role(), ServerState::ALL[choices.below(15) as usize]);
        let begin = Moment(Duration::from_secs(100));
        let mut now = begin;
        let id = RequestId(7);
        let request = if choices.one_in(2) {
            Request::Restart { id, conditions: RestartConditions::default() }
        } else {
            Request::Reinitialize { id, force: choices.one_in(2), from_leader: choices.one_in(2) }
        };
        let mut job: Option<Task> = None;
        let mut answers = 0;
        let mut forced_ends = 0;
        let mut waits_until = begin.after(Duration::from_secs(3600));
        for _ in 0..2000 {
            let mut given = choices.given(now, job.take());
            // The requests of `given` are dropped in favour of this one.
            let is_begun = memory.restart_request == Some(id);
            given.requests = if answers > 0 || is_begun { Vec::new() } else { vec![request.clone()] };
            given.is_stopping = false;
            let patience = given.config.loop_wait * 2 + given.config.retry_timeout;
            waits_until = waits_until.min(begin.after(patience * 2 + Duration::from_secs(40)));
            let seen = cycle_of(&mut choices, &mut memory, given);
            answers += seen.outcome.replies.iter().filter(|reply| reply.id == id).count();
            forced_ends += usize::from(seen.facts.journal.iter().any(|entry| {
                matches!(entry.step, Step::Act(Action::CancelTask)) && answers == 0
            }));
            if seen.outcome.exit.is_some() {
                // What waits is told that the agent ends.
                return Ok(());
            }
            job = match (&seen.facts.given.task, begun(&seen).first()) {
                (TaskStatus::Running { task, .. }, _) => Some(task.clone()),
                (_, Some(task)) => Some((*task).clone()),
                _ => None,
            };
            let is_begun = memory.restart_request == Some(id);
            if answers > 0 && now > begin.after(Duration::from_secs(300)) {
                break;
            }
            prop_assert!(answers > 0 || is_begun || now < waits_until, "not answered: {}", seen.outcome.reason);
            now = now.after(Duration::from_secs(choices.below(20)));
        }
        prop_assert_eq!(answers, 1);
        prop_assert!(forced_ends < 40);
    }
}
