//! `switchover`: from a healthy leader to another member, at once or later.

use clap::Args;
use config::SynchronousMode;
use ha::cluster::{Cluster, Failover, FailoverKind, Member};
use jiff::{ToSpan, Zoned};
use net::http::{Method, Response};
use serde_json::{Map, Value, json};

use super::awaited::Handover;
use super::console::{print, print_line, timestamp};
use super::error::Error;
use super::member_table;
use super::progress::Progress;
use super::prompt;
use super::rest::{NoAnswer, SWITCHOVER};
use super::schedule;
use super::session::{Session, Store};
use super::table::Format;
use super::view::{View, dynamic_config};

#[derive(Debug, Args)]
pub(crate) struct Switchover {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// The name of the current leader
    #[arg(long, visible_alias = "primary", value_name = "NAME")]
    leader: Option<String>,
    /// The name of the candidate
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    /// Timestamp of a scheduled switchover in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TIMESTAMP")]
    scheduled: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

impl Switchover {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let mut task = Task::begin(session, self.cluster_name, self.group, self.force).await?;
        let leader = task.confirmed_leader(self.leader).await?;
        let candidate = task.candidate(self.candidate, FailoverKind::Switchover).await?;
        let scheduled_at = task.time(self.scheduled).await?;
        task.confirm_switchover(&leader, scheduled_at.as_deref()).await?;
        let request = Request {
            kind: FailoverKind::Switchover,
            leader: Some(leader),
            candidate,
            scheduled_at,
        };
        task.carry_out(&request).await
    }
}

/// A switchover or failover on its way from the command line to the cluster.
pub(super) struct Task<'a> {
    session: &'a Session,
    store: Store,
    view: View,
    cluster: Cluster,
    cluster_name: String,
    /// As the user gave it: what is shown in the end is shown so.
    group: Option<u32>,
    force: bool,
}

/// What the cluster is asked to do.
pub(super) struct Request {
    pub(super) kind: FailoverKind,
    /// From whom; in a switchover only.
    pub(super) leader: Option<String>,
    /// To whom; empty when the user left the answer empty.
    pub(super) candidate: Option<String>,
    /// In ISO 8601.
    pub(super) scheduled_at: Option<String>,
}

fn verb(kind: FailoverKind) -> &'static str {
    match kind {
        FailoverKind::Switchover => "switchover",
        FailoverKind::Failover => "failover",
    }
}

impl<'a> Task<'a> {
    /// Shows the cluster, and asks for the group in a Citus cluster.
    pub(super) async fn begin(
        session: &'a Session,
        cluster_name: Option<String>,
        group: Option<u32>,
        force: bool,
    ) -> Result<Self, Error> {
        let (cluster_name, mut store) = session.store_or_scope(cluster_name, group).await?;
        let mut view = store.view().await?;
        print_line("Current cluster topology")?;
        print(&member_table::render(&view, &cluster_name, Format::Pretty, false))?;
        if view.is_citus && group.is_none() {
            if force {
                return Err(Error::new("For Citus clusters the --group must me specified"));
            }
            let group = prompt::number("Citus group").await?;
            store = session.store(&cluster_name, Some(group)).await?;
            view = store.view().await?;
        }
        let cluster = view.cluster().cloned().unwrap_or_default();
        Ok(Self {
            session,
            store,
            view,
            cluster,
            cluster_name,
            group,
            force,
        })
    }

    pub(super) fn leader_name(&self) -> Option<&str> {
        self.cluster.leader_name().map(ha::pg::MemberName::as_str)
    }

    async fn confirmed_leader(&mut self, given: Option<String>) -> Result<String, Error> {
        let leader = self
            .leader_name()
            .ok_or_else(|| Error::new("This cluster has no leader"))?;
        let named = match given {
            Some(name) => name,
            None if self.force => leader.to_owned(),
            None => {
                let is_standby_cluster = dynamic_config(Some(&self.cluster)).standby_cluster.is_some();
                prompt::text(
                    if is_standby_cluster {
                        "Standby Leader"
                    } else {
                        "Primary"
                    },
                    leader,
                )
                .await?
            }
        };
        if named != leader {
            let message = format!(
                "Member {named} is not the leader of cluster {}",
                self.cluster_name
            );
            return Err(Error::new(message));
        }
        Ok(named)
    }

    /// Who shall be the new leader; the answer may be empty in a switchover.
    pub(super) async fn candidate(
        &self,
        given: Option<String>,
        kind: FailoverKind,
    ) -> Result<Option<String>, Error> {
        let names = candidates(&self.cluster);
        if names.is_empty() {
            return Err(Error::new(format!("No candidates found to {} to", verb(kind))));
        }
        let candidate = match given {
            None if !self.force => {
                let list = names
                    .iter()
                    .map(|name| format!("'{name}'"))
                    .collect::<Vec<_>>()
                    .join(", ");
                Some(prompt::text(&format!("Candidate [{list}]"), "").await?)
            }
            given => given,
        };
        let Some(name) = candidate.as_deref().filter(|name| !name.is_empty()) else {
            return match kind {
                FailoverKind::Switchover => Ok(candidate),
                FailoverKind::Failover => Err(Error::new(
                    "Failover could be performed only to a specific candidate",
                )),
            };
        };
        let cluster_name = &self.cluster_name;
        if self.leader_name() == Some(name) {
            return Err(Error::new(format!(
                "Member {name} is already the leader of cluster {cluster_name}"
            )));
        }
        if !names.contains(&name) {
            let message =
                format!("Member {name} does not exist in cluster {cluster_name} or is tagged as nofailover");
            return Err(Error::new(message));
        }
        Ok(candidate)
    }

    /// Whether failing over to that member may lose what was acknowledged under synchronous replication.
    pub(super) fn is_asynchronous(&self, candidate: &str) -> bool {
        dynamic_config(Some(&self.cluster)).synchronous_mode() != SynchronousMode::Off
            && !self.cluster.sync.is_empty()
            && !self.cluster.sync.lists(&candidate.into(), true)
    }

    async fn time(&self, given: Option<String>) -> Result<Option<String>, Error> {
        let now = Zoned::now();
        let text = match given {
            Some(text) => text,
            None if self.force => return Ok(None),
            None => {
                let next_hour = now
                    .saturating_add(1.hour())
                    .strftime("%Y-%m-%dT%H:%M")
                    .to_string();
                let question = format!("When should the switchover take place (e.g. {next_hour} ) ");
                prompt::text(&question, "now").await?
            }
        };
        let time = schedule::parse(&text, &now).map_err(Error::new)?;
        if time.is_some() && dynamic_config(Some(&self.cluster)).pause {
            return Err(Error::new("Can't schedule switchover in the paused state"));
        }
        Ok(time.map(|time| schedule::iso_format(&time)))
    }

    async fn confirm_switchover(&self, leader: &str, scheduled_at: Option<&str>) -> Result<(), Error> {
        let name = &self.cluster_name;
        match scheduled_at {
            Some(at) => {
                let what = format!(
                    "schedule switchover of cluster {name} at {at}, demoting current leader {leader}"
                );
                self.confirm(&what, "Aborting scheduled switchover").await
            }
            None => {
                let what = format!("switchover cluster {name}, demoting current leader {leader}");
                self.confirm(&what, "Aborting switchover").await
            }
        }
    }

    /// Asks whether the user wants that, unless `--force` says so already.
    pub(super) async fn confirm(&self, what: &str, refusal: &str) -> Result<(), Error> {
        if self.force || prompt::confirm(&format!("Are you sure you want to {what}?")).await? {
            return Ok(());
        }
        Err(Error::new(refusal))
    }

    pub(super) fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    /// Asks the leader, or the candidate when there is no leader; without an answer the request goes into the DCS.
    pub(super) async fn carry_out(self, request: &Request) -> Result<(), Error> {
        let verb = verb(request.kind);
        match self.ask_and_tell(request).await {
            Ok(response) if matches!(response.status.as_u16(), 200 | 202) => {
                let view = self.shown_view().await?;
                // Five digits of the second's fraction are what is printed here since ever.
                print_line(&format!("{} {}", timestamp(5), response.body))?;
                self.show(&view)
            }
            Ok(response) => {
                let title = if request.kind == FailoverKind::Switchover {
                    "Switchover"
                } else {
                    "Failover"
                };
                let verdict = if response.body.contains("status unknown") {
                    "result unknown"
                } else {
                    "failed"
                };
                let status = response.status.as_u16();
                print_line(&format!(
                    "{title} {verdict}, details: {status}, {}",
                    response.body
                ))
            }
            Err(error) => {
                tracing::error!("{error}");
                tracing::warn!("Failing over to DCS");
                print_line(&format!(
                    "{} Could not {verb} using Patroni api, falling back to DCS",
                    timestamp(5)
                ))?;
                let value = Failover::to_json(
                    request.leader.as_deref(),
                    request.candidate.as_deref(),
                    request.scheduled_at.as_deref(),
                );
                self.store
                    .dcs()
                    .write(dcs::Key::Failover, &value, dcs::Expect::Anything)
                    .await?;
                self.show(&self.view)
            }
        }
    }

    /// Asks, and tells meanwhile how far it is.
    async fn ask_and_tell(&self, request: &Request) -> Result<Response, NoAnswer> {
        if request.scheduled_at.is_some() {
            // It is only taken note of.
            return self.ask(request).await;
        }
        let handover = Handover {
            verb: verb(request.kind),
            from: self.leader_name(),
            to: request.candidate.as_deref().filter(|name| !name.is_empty()),
        };
        let look = async || {
            let view = self.store.view().await.ok()?;
            Some(handover.awaited(view.cluster()?))
        };
        let (verb, cluster_name) = (verb(request.kind), &self.cluster_name);
        let goes_on = format!(
            "The {verb} goes on: \"list {cluster_name}\" shows how far it is, \"why {cluster_name}\" what came of it"
        );
        let progress = Progress::begin(handover.awaited(&self.cluster));
        let work = progress.during(look, self.ask(request));
        self.session.while_it_goes_on(goes_on, work).await
    }

    async fn ask(&self, request: &Request) -> Result<Response, NoAnswer> {
        let member = self.addressee(request)?;
        let body = body(request);
        let endpoint = verb(request.kind);
        let post = |endpoint| {
            self.session
                .request(member, (Method::POST, endpoint), Some(&body), SWITCHOVER)
        };
        let response = post(endpoint).await?;
        // Agents before 1.6 know only failovers.
        if response.status.as_u16() == 501
            && request.kind == FailoverKind::Switchover
            && response.body.contains("Server does not support this operation")
        {
            return post("failover").await;
        }
        Ok(response)
    }

    fn addressee(&self, request: &Request) -> Result<&Member, NoAnswer> {
        let name = self
            .leader_name()
            .or(request.candidate.as_deref())
            .unwrap_or_default();
        self.cluster
            .member(&name.into())
            .ok_or_else(|| NoAnswer::NoAddress(name.to_owned()))
    }

    /// The cluster as the user asked to see it.
    async fn shown_view(&self) -> Result<View, Error> {
        if self.view.group == self.group {
            return self.store.view().await;
        }
        self.session
            .store(&self.cluster_name, self.group)
            .await?
            .view()
            .await
    }

    fn show(&self, view: &View) -> Result<(), Error> {
        print(&member_table::render(
            view,
            &self.cluster_name,
            Format::Pretty,
            false,
        ))
    }
}

/// Everybody but the leader and those that are never to be promoted, sorted.
fn candidates(cluster: &Cluster) -> Vec<&str> {
    let mut names: Vec<_> = cluster
        .members
        .iter()
        .filter(|member| !cluster.is_leader(&member.name) && !member.data.tags.nofailover())
        .map(|member| member.name.as_str())
        .collect();
    names.sort_unstable();
    names
}

fn body(request: &Request) -> Value {
    let mut body = Map::new();
    body.insert("candidate".to_owned(), json!(request.candidate));
    if let Some(leader) = &request.leader {
        body.insert("leader".to_owned(), json!(leader));
    }
    if let Some(at) = &request.scheduled_at {
        body.insert("scheduled_at".to_owned(), json!(at));
    }
    Value::Object(body)
}
