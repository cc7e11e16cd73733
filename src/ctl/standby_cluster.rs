//! `demote-cluster` and `promote-cluster`: the whole cluster begins or ceases to replicate from another one.

use std::time::Duration;

use clap::Args;
use ha::cluster::Cluster;
use ha::pg::{MemberName, Role, ServerState};
use net::http::Method;
use serde_json::{Map, Value, json};

use super::console::{print, print_line, timestamp};
use super::error::Error;
use super::member_table;
use super::prompt;
use super::rest::SHORT;
use super::session::{Session, Store};
use super::table::Format;
use super::view::View;

/// How often the progress is looked at and shown.
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct DemoteCluster {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
    /// Address of the remote node
    #[arg(long)]
    host: Option<String>,
    /// Port of the remote node
    #[arg(long)]
    port: Option<u16>,
    /// Command to restore WAL records from the remote primary
    #[arg(long, value_name = "COMMAND")]
    restore_command: Option<String>,
    /// Name of the slot on the remote node to use for replication
    #[arg(long, value_name = "NAME")]
    primary_slot_name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteCluster {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

impl DemoteCluster {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Value::from);
        let (host, port) = (
            some(self.host),
            self.port.filter(|port| *port > 0).map(Value::from),
        );
        let restore_command = some(self.restore_command);
        if host.is_none() && port.is_none() && restore_command.is_none() {
            let message = "At least --host, --port or --restore-command should be specified";
            return Err(Error::new(message));
        }
        let settings = [
            ("host", host),
            ("port", port),
            ("primary_slot_name", some(self.primary_slot_name)),
            ("restore_command", restore_command),
        ];
        let settings: Map<String, Value> = settings
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect();
        let (name, store) = session.store_or_scope(self.cluster_name, None).await?;
        let change = Change {
            session,
            store,
            name,
            force: self.force,
            verb: "demote",
            target: Role::StandbyLeader,
        };
        change.carry_out(Value::Object(settings)).await
    }
}

impl PromoteCluster {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let (name, store) = session.store_or_scope(self.cluster_name, None).await?;
        let change = Change {
            session,
            store,
            name,
            force: self.force,
            verb: "promote",
            target: Role::Primary,
        };
        change.carry_out(Value::Null).await
    }
}

struct Change<'a> {
    session: &'a Session,
    store: Store,
    name: String,
    force: bool,
    verb: &'static str,
    /// What the leader's role is to be in the end.
    target: Role,
}

impl Change<'_> {
    async fn carry_out(self, standby_cluster: Value) -> Result<(), Error> {
        let (verb, name) = (self.verb, &self.name);
        // demote, demotion; promote, promotion
        let noun = format!("{}ion", verb.trim_end_matches('e'));
        let view = self.store.view().await?;
        let cluster = view.cluster().cloned().unwrap_or_default();
        let Some(leader_name) = cluster.leader_name() else {
            return Err(Error::new(format!(
                "Cluster has no leader, {noun} is not possible"
            )));
        };
        if cluster.leader_member().and_then(|leader| leader.data.role) == Some(self.target) {
            return Err(Error::new("Cluster is already in the required state"));
        }
        print_line("Current cluster topology")?;
        self.show(&view)?;
        if !self.force
            && !prompt::confirm(&format!("Are you sure you want to {verb} {name} cluster?")).await?
        {
            return Err(Error::new(format!("Aborted cluster {noun}")));
        }
        self.ask(&cluster, &standby_cluster)
            .await
            .map_err(|error| Error::new(format!("Failed to {verb} {name} cluster: {error}")))?;
        let goes_on = format!("The {noun} goes on: \"list {name}\" shows how far it is");
        self.session
            .while_it_goes_on(goes_on, self.follow(leader_name))
            .await
    }

    async fn ask(&self, cluster: &Cluster, standby_cluster: &Value) -> Result<(), String> {
        let leader = cluster.leader_member().ok_or("the leader has no member key")?;
        let body = json!({ "standby_cluster": standby_cluster });
        let response = self
            .session
            .request(leader, (Method::PATCH, "config"), Some(&body), SHORT)
            .await;
        let response = response.map_err(|error| error.to_string())?;
        match response.status.as_u16() {
            200 => Ok(()),
            status => Err(format!("/config PATCH status code={status}, ({})", response.body)),
        }
    }

    /// Shows the progress until the leader has its new role; there is no limit, as the servers may have much to do.
    async fn follow(&self, former_leader: &MemberName) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(POLL);
        loop {
            ticks.tick().await;
            let view = self.store.view().await?;
            let cluster = view.cluster().cloned().unwrap_or_default();
            let former = cluster.member(former_leader).and_then(|member| member.data.state);
            if self.is_done(&cluster, former) {
                print_line(&format!(
                    "{} cluster is successfully {}d",
                    timestamp(0),
                    self.verb
                ))?;
                return self.show(&view);
            }
            print_line(&format!(
                "{} {}",
                timestamp(0),
                self.progress(&cluster, former_leader, former)
            ))?;
        }
    }

    fn is_done(&self, cluster: &Cluster, former: Option<ServerState>) -> bool {
        let leader = cluster.leader_member().map(|leader| &leader.data);
        leader.is_some_and(|data| data.role == Some(self.target) && data.state == Some(ServerState::Running))
            && (self.target == Role::Primary || former == Some(ServerState::Running))
    }

    fn progress(&self, cluster: &Cluster, former_leader: &MemberName, former: Option<ServerState>) -> String {
        let leader = cluster.leader_member().map(|leader| &leader.data);
        let role = leader.and_then(|data| data.role).map_or("None", Role::as_str);
        let state = leader
            .and_then(|data| data.state)
            .map_or("None", ServerState::as_str);
        let is_unlocked = if cluster.is_unlocked() { "True" } else { "False" };
        let mut text =
            format!("cluster is unlocked: {is_unlocked}, leader role: {role}, leader state: {state}");
        let has_another_leader = cluster.leader_name().is_some_and(|name| name != former_leader);
        if let Some(former) = former.filter(|_| self.target != Role::Primary && has_another_leader) {
            text.push_str(&format!(", previous leader state: '{former}'"));
        }
        text
    }

    fn show(&self, view: &View) -> Result<(), Error> {
        print(&member_table::render(view, &self.name, Format::Pretty, false))
    }
}
