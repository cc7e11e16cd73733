//! How each question of the decision is answered. Flat, and blind to the cluster's state: what to ask is decided
//! elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::{DynamicConfig, LocalConfig};
use futures_util::future::join_all;
use ha::cluster::Origin;
use ha::facts::{
    Accepts, Answer, DataDirectory, DcsFailure, Divergence, FailsafeReply, LocalHistory, LogicalSlot, Peer,
    PeerAnswer, PeerStatus, RecoveryDrift, RemoteHistory, Running, Slot, Source, SqlFacts, WaitsFor,
    WalSender,
};
use ha::failsafe::Ping;
use ha::pg::{Lsn, ReplicationState, Timeline};
use ha::step::Question;
use net::http::{Method, Reason, StatusCode};
use postgres::process::{Readiness, WalSenders};
use postgres::{Drift, Instant, SlotType, SqlStatus, StatusWants};

use super::clock;
use super::world::World;

impl World {
    /// Finds out what the decision asks. Bounded in time by [`World::patience`].
    pub(crate) async fn ask(&mut self, question: &Question) -> Answer {
        match question {
            Question::Cluster => Answer::Cluster(self.load_cluster().await),
            Question::Server => Answer::Server(self.look_at_server().await),
            Question::DataDirectory => Answer::DataDirectory(self.look_at_data_directory().await),
            Question::CrashRecovery => Answer::CrashRecovery(
                self.server
                    .crash_recovery(self.deadline())
                    .await
                    .map_err(|error| {
                        tracing::warn!("could not tell how much WAL is to be replayed: {error}");
                        error.to_string()
                    }),
            ),
            Question::Peers(peers) => Answer::Peers(self.ask_peers(peers).await),
            Question::Failsafe { members, ping } => self.ask_to_go_on(members, ping).await,
            Question::Divergence(source) => Answer::Divergence(self.compare_with(source).await),
            Question::HistoryFile(timeline) => {
                let read = self.server.history_file(*timeline).unwrap_or_else(|error| {
                    tracing::warn!("could not read the history of timeline {timeline}: {error}");
                    None
                });
                Answer::HistoryFile(read.map(|(entries, _written_at)| entries))
            }
            Question::RecoveryDrift(source) => {
                Answer::RecoveryDrift(self.recovery_drift(source.as_ref()).await)
            }
        }
    }

    async fn load_cluster(&mut self) -> Result<Arc<ha::cluster::Cluster>, DcsFailure> {
        let cluster = self.in_time(self.dcs.load()).await?;
        self.seen.dcs_last_seen = clock::epoch_seconds();
        Ok(Arc::new(cluster))
    }

    async fn look_at_server(&mut self) -> ha::facts::Server {
        let postmaster = match self.server.postmaster() {
            Ok(postmaster) => postmaster,
            Err(error) => {
                // The one that was seen last is waited for as before.
                let server = ha::facts::Server {
                    running: Running::Unknown(error.to_string()),
                    ..ha::facts::Server::default()
                };
                self.seen.runs_as = super::guard::runs_as(&server);
                self.seen.server = Some(server.clone());
                return server;
            }
        };
        let mut server = ha::facts::Server {
            running: match postmaster {
                Some(_) => Running::Yes,
                None => Running::No,
            },
            postmaster_started: postmaster
                .as_ref()
                .map(|postmaster| postmaster.start_time_seconds()),
            ..ha::facts::Server::default()
        };
        self.seen.latest_end_lsn = None;
        if server.is_running() {
            let wants = StatusWants {
                slots: true,
                wal_senders: true,
            };
            match self.server.status(wants, self.sql_deadline()).await {
                Ok(status) => {
                    server.accepts = Accepts::Yes;
                    self.seen.server_version = Some(status.server_version.0);
                    self.seen.latest_end_lsn = status
                        .wal_receiver
                        .as_ref()
                        .and_then(|receiver| receiver.latest_end_lsn);
                    self.refresh_pending_restart(server.postmaster_started).await;
                    self.watch_senders(&status);
                    server.sql = Some(self.sql_facts(status, server.postmaster_started));
                }
                Err(error) => {
                    server.accepts = match self.server.readiness(self.sql_deadline()).await {
                        Ok(Readiness::Accepting) => Accepts::Yes,
                        Ok(Readiness::Rejecting) => Accepts::Rejecting,
                        Ok(Readiness::NoResponse) => Accepts::NoResponse,
                        Err(error) => {
                            server.running = Running::Unknown(error.to_string());
                            Accepts::NoResponse
                        }
                    };
                    if server.accepts == Accepts::Yes {
                        tracing::warn!("could not ask the local server for its state: {error}");
                    }
                }
            }
        }
        self.seen.postmaster = postmaster;
        self.seen.runs_as = super::guard::runs_as(&server);
        self.seen.server = Some(server.clone());
        server
    }

    /// When a standby goes that commits wait for, the next cycle must not wait for its time.
    fn watch_senders(&mut self, status: &SqlStatus) {
        let is_waited_for = |sender: &&postgres::WalSender| {
            let state = sender.sync_state.as_deref();
            matches!(state, Some("sync" | "quorum"))
        };
        let pids: Vec<i32> = status
            .wal_senders
            .iter()
            .filter(is_waited_for)
            .map(|sender| sender.pid)
            .collect();
        self.seen.synchronous_senders = WalSenders::watch(pids);
    }

    /// The settings that wait for a restart are read once for each postmaster, and again after each reload.
    async fn refresh_pending_restart(&mut self, postmaster_started: Option<i64>) {
        if self.seen.pending_restart_of == postmaster_started {
            return;
        }
        match self.server.pending_restart(self.sql_deadline()).await {
            Ok(pending) => {
                self.seen.pending_restart = pending;
                self.seen.pending_restart_of = postmaster_started;
            }
            Err(error) => tracing::warn!("could not ask which settings wait for a restart: {error}"),
        }
    }

    fn sql_facts(&mut self, status: SqlStatus, postmaster_started: Option<i64>) -> SqlFacts {
        let streams = status
            .wal_receiver
            .as_ref()
            .is_some_and(|receiver| receiver.status == "streaming");
        let replication_state = if !status.in_recovery {
            None
        } else if streams {
            Some(ReplicationState::Streaming)
        } else {
            status
                .has_restore_command
                .then_some(ReplicationState::InArchiveRecovery)
        };
        let origin = status
            .timeline
            .and_then(|timeline| self.origin(timeline, postmaster_started));
        SqlFacts {
            in_recovery: status.in_recovery,
            timeline: status.timeline,
            origin,
            flushed: (!status.in_recovery).then_some(status.lsn),
            received: status.received,
            replayed: status.replayed,
            replay_paused: status.replay_paused,
            replication_state,
            pending_restart: self.seen.pending_restart.clone(),
            slots: self.slot_facts(status.slots),
            slot_horizons: self.slot_work.horizons(),
            wal_senders: status.wal_senders.into_iter().map(wal_sender).collect(),
            waits_for: match status.synchronous_commit.as_str() {
                "remote_write" => WaitsFor::Write,
                "remote_apply" => WaitsFor::Replay,
                _ => WaitsFor::Flush,
            },
            synchronous_standby_names: status.synchronous_standby_names,
            checkpointer_is_current: status.checkpointer_is_current,
        }
    }

    /// Read once for each postmaster. A file that cannot be read, or is gone the moment it is looked for, tells nothing.
    fn origin(&mut self, timeline: Timeline, postmaster_started: Option<i64>) -> Option<Origin> {
        if let Some((found_in, origin)) = self.seen.origin
            && found_in == postmaster_started
            && origin.timeline == timeline
        {
            return Some(origin);
        }
        let origin = self.server.origin(timeline).unwrap_or_else(|error| {
            tracing::debug!("could not tell where timeline {timeline} comes from: {error}");
            None
        });
        self.seen.origin = origin.map(|origin| (postmaster_started, origin));
        origin
    }

    fn origins(&self, timeline: Timeline) -> Vec<Origin> {
        self.server.origins(timeline).unwrap_or_else(|error| {
            tracing::debug!("could not tell where the timelines before {timeline} come from: {error}");
            Vec::new()
        })
    }

    fn slot_facts(&self, slots: Vec<postgres::Slot>) -> Vec<Slot> {
        let lacks_wal = |found: &postgres::Slot| self.slot_work.lacks_wal(&found.name);
        slots
            .into_iter()
            .map(|found| {
                let lacks_wal = lacks_wal(&found);
                slot(found, lacks_wal)
            })
            .collect()
    }

    async fn look_at_data_directory(&self) -> DataDirectory {
        match self.server.data_directory() {
            // What a copy that was cut off has left is replaced or taken up by the next one.
            postgres::DataDirectory::Empty | postgres::DataDirectory::Unfinished => DataDirectory::Empty,
            postgres::DataDirectory::Inaccessible(why) => DataDirectory::Inaccessible(why),
            postgres::DataDirectory::Incomplete(why) => DataDirectory::Present {
                control: Err(why),
                has_recovery_signal: false,
                has_backup_label: false,
                is_half_rewound: false,
            },
            postgres::DataDirectory::Filled => match self.server.marks() {
                Err(error) => DataDirectory::Inaccessible(error.to_string()),
                Ok(marks) => DataDirectory::Present {
                    control: self
                        .server
                        .control_data(self.deadline())
                        .await
                        .map_err(|error| error.to_string()),
                    has_recovery_signal: marks.has_recovery_signal,
                    has_backup_label: marks.has_backup_label,
                    is_half_rewound: marks.is_half_rewound,
                },
            },
        }
    }

    async fn ask_peers(&self, peers: &[Peer]) -> Vec<PeerAnswer> {
        let patience = self.patience;
        join_all(peers.iter().map(|peer| async move {
            let status = match self.http.get(&peer.api_url, peer.patience.min(patience)).await {
                Ok(response) => response
                    .json()
                    .and_then(|body| PeerStatus::from_json(&body))
                    .ok_or_else(|| format!("{} has no position to tell ({})", peer.api_url, response.status)),
                Err(error) => Err(error.to_string()),
            };
            PeerAnswer {
                name: peer.name.clone(),
                status,
            }
        }))
        .await
    }

    /// Whether all members accept that this one leads without the DCS.
    async fn ask_to_go_on(&self, members: &[Peer], ping: &Ping) -> Answer {
        let body = ping.to_json();
        let sent_at = clock::now();
        let replies = join_all(members.iter().map(|peer| async {
            FailsafeReply {
                name: peer.name.clone(),
                accepts: self.is_accepted_by(peer, &body).await,
            }
        }));
        Answer::Failsafe {
            sent_at,
            replies: replies.await,
        }
    }

    async fn is_accepted_by(&self, peer: &Peer, body: &str) -> Result<Option<Lsn>, String> {
        let url = failsafe_url(&peer.api_url);
        let deadline = Instant::now() + peer.patience;
        let mut answer = self
            .http
            .request(Method::POST, &url, Some(body), peer.patience)
            .await;
        if let Err(error) = &answer
            && error.reason == Reason::Broken
        {
            // A connection that was kept may have been closed by the other side meanwhile.
            let left = deadline.saturating_duration_since(Instant::now());
            answer = self.http.request(Method::POST, &url, Some(body), left).await;
        }
        let response = answer.map_err(|error| error.to_string())?;
        if response.status != StatusCode::OK || response.body != "Accepted" {
            return Err(format!("HTTP {}: {}", response.status.as_u16(), response.body));
        }
        let lsn = response
            .headers
            .get("lsn")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(lsn.map(Lsn))
    }

    async fn compare_with(&self, source: &Source) -> Divergence {
        let leader = match source_of(source) {
            Ok(leader) => leader,
            Err(why) => {
                return Divergence {
                    local: Err(why.clone()),
                    remote: Err(why),
                };
            }
        };
        let deadline = self.deadline();
        if let Ok(both) = self.server.divergence(&leader, deadline).await {
            return Divergence {
                local: Ok(self.local_history(&both.local, both.shutdown_checkpoint_end)),
                remote: Ok(remote_history(both.leader)),
            };
        }
        // One side failed: say which.
        let (local, remote) = futures_util::future::join(
            self.server.local_position(deadline),
            self.server.leader_facts(&leader, deadline),
        )
        .await;
        Divergence {
            local: local
                .map(|local| self.local_history(&local, None))
                .map_err(|error| error.to_string()),
            remote: remote.map(remote_history).map_err(|error| error.to_string()),
        }
    }

    fn local_history(&self, local: &postgres::LocalPosition, checkpoint_end: Option<Lsn>) -> LocalHistory {
        LocalHistory {
            timeline: local.timeline,
            lsn: local.lsn,
            was_standby: local.in_recovery,
            origins: self.origins(local.timeline),
            checkpoint_end,
        }
    }

    async fn recovery_drift(&self, source: Option<&Source>) -> RecoveryDrift {
        let drift = match follow_of(&self.settings.local, &self.settings.config, source) {
            Ok(follow) => self
                .server
                .drift(&follow, self.sql_deadline())
                .await
                .map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match drift {
            Ok(Drift::Same) => RecoveryDrift::None,
            Ok(Drift::Reload(names)) => {
                tracing::debug!("recovery settings differ, a reload is needed: {names:?}");
                RecoveryDrift::Reload
            }
            Ok(Drift::Restart(names)) => {
                tracing::debug!("recovery settings differ, a restart is needed: {names:?}");
                RecoveryDrift::Restart
            }
            Err(why) => {
                tracing::warn!("could not compare the recovery settings: {why}");
                RecoveryDrift::None
            }
        }
    }
}

/// Where a member takes pings: beside the address that it publishes.
fn failsafe_url(api_url: &str) -> String {
    let host_ends = api_url.find("://").map_or(0, |scheme| scheme + 3);
    let path = api_url[host_ends..]
        .find('/')
        .map_or(api_url.len(), |path| host_ends + path);
    format!("{}/failsafe", &api_url[..path])
}

pub(crate) fn dcs_failure(error: &dcs::Error) -> DcsFailure {
    DcsFailure(format!("{error:#}"))
}

/// A source in the form that the local server takes.
pub(crate) fn source_of(source: &Source) -> Result<postgres::Source, String> {
    let named = postgres::Source::from_conn_url(&source.conn_url, source.slot.clone());
    let mut named = named.map_err(|error| error.to_string())?;
    named.remote = source.is_remote();
    Ok(named)
}

/// What a standby of this source does. In a standby cluster all members restore from the remote cluster's archive, and
/// the one that follows the remote cluster may do so with a delay.
pub(crate) fn follow_of(
    local: &LocalConfig,
    config: &DynamicConfig,
    source: Option<&Source>,
) -> Result<postgres::Follow, String> {
    let connectable = source.filter(|source| source.can_be_connected_to());
    let mut overrides = BTreeMap::new();
    if let Some(standby_cluster) = &config.standby_cluster {
        let is_remote = source.is_some_and(Source::is_remote);
        let delay = standby_cluster.recovery_min_apply_delay.as_ref();
        let [restore, cleanup] = [
            standby_cluster.restore_command.as_ref(),
            standby_cluster.archive_cleanup_command.as_ref(),
        ]
        .map(|command| command.filter(|_| !local.local_commands_only));
        let settings = [
            ("restore_command", restore),
            ("archive_cleanup_command", cleanup),
            ("recovery_min_apply_delay", delay.filter(|_| is_remote)),
        ];
        let given = settings
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.clone())));
        overrides.extend(given);
    }
    Ok(postgres::Follow {
        source: connectable.map(source_of).transpose()?,
        overrides,
        retry: source.and_then(|source| source.retry.interval()),
        only_streams: source.is_some_and(|source| source.only_streams),
    })
}

fn slot(slot: postgres::Slot, lacks_wal: bool) -> Slot {
    let logical = match slot.slot_type {
        SlotType::Physical => None,
        SlotType::Logical { database, plugin } => Some(LogicalSlot { database, plugin }),
    };
    Slot {
        name: slot.name,
        logical,
        is_active: slot.active,
        restart_lsn: slot.restart_lsn,
        confirmed_flush: slot.confirmed_flush_lsn,
        has_xmin: slot.has_xmin,
        catalog_xmin: slot.catalog_xmin,
        is_lost: slot.wal_status.as_deref() == Some("lost"),
        lacks_wal,
        has_failover: slot.failover,
        is_synced: slot.synced,
    }
}

fn wal_sender(sender: postgres::WalSender) -> WalSender {
    WalSender {
        application_name: sender.application_name,
        is_streaming: sender.state == "streaming",
        is_catching_up: sender.state == "catchup",
        slot: sender.slot_name,
        client: sender.client_addr,
        sync_state: sender.sync_state.unwrap_or_default(),
        written: sender.write,
        flushed: sender.flush,
        replayed: sender.replay,
    }
}

fn remote_history(leader: postgres::LeaderFacts) -> RemoteHistory {
    RemoteHistory {
        in_recovery: leader.in_recovery,
        timeline: leader.timeline,
        history: leader.history,
    }
}
