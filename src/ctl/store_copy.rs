//! `store copy`: what a cluster keeps in one DCS is written to another one, for a cluster that moves (docs/stores.md).

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use dcs::{Dcs, Expect, Key, Layout};
use ha::cluster::{Cluster, SyncState};

use super::console::print_line;
use super::error::Error;
use super::settings::Settings;
use super::view::dynamic_config;

#[derive(Debug, Args)]
pub(crate) struct Store {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Copy what a paused cluster keeps in its DCS to another DCS
    Copy(Copy),
}

/// The environment is not looked at: each file names its DCS completely.
#[derive(Debug, Args)]
struct Copy {
    /// Cluster; default: the scope of the configuration that is copied from
    cluster_name: Option<String>,
    /// Configuration file of a member, with the DCS that the cluster uses
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Configuration file with the DCS that the cluster moves to
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Copy although the cluster is not paused, or there are keys of it in the other DCS
    #[arg(long)]
    force: bool,
}

/// One side of the copy.
struct Side {
    dcs: Arc<dyn Dcs>,
    cluster: Cluster,
}

impl Store {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.command {
            StoreCommand::Copy(copy) => copy.run().await,
        }
    }
}

impl Copy {
    async fn run(self) -> Result<(), Error> {
        let from = Settings::of_file(&self.from)?;
        let to = Settings::of_file(&self.to)?;
        let name = self.cluster_name.or_else(|| from.scope.clone());
        let name = name.ok_or_else(|| Error::new("no cluster name: give it as an argument"))?;
        let group = self.group.or(from.citus_group);
        let source = Side::open(&from, &name, group).await?;
        let target = Side::open(&to, &name, group).await?;
        if !self.force {
            check_source(&name, &source.cluster)?;
            check_target(&name, &source.cluster, &target.cluster)?;
        }
        let mut copied = Vec::new();
        for (key, value) in keys(&source.cluster) {
            target.dcs.write(key, &value, Expect::Anything).await?;
            copied.push(key);
        }
        check_copy(&source.cluster, &target.dcs.load().await?)?;
        let names: Vec<&str> = copied.iter().map(|key| key.as_str()).collect();
        print_line(&format!(
            "Copied {} of cluster {} and read them back",
            names.join(", "),
            name
        ))?;
        print_line(&format!(
            "Now stop all agents, have them use {}, start them again, and resume (tamada ctl resume)",
            to.dcs.kind().name()
        ))
    }
}

impl Side {
    async fn open(settings: &Settings, name: &str, group: Option<u32>) -> Result<Self, Error> {
        let dcs = settings
            .connect(Layout::new(&settings.namespace, name, group))
            .await?;
        let cluster = dcs.load().await?;
        Ok(Self { dcs, cluster })
    }
}

fn check_source(name: &str, source: &Cluster) -> Result<(), Error> {
    if source.initialize.as_deref().is_none_or(str::is_empty) {
        return Err(Error::new(format!(
            "there is no cluster {name} in the DCS that is copied from: check --from and the cluster name"
        )));
    }
    if !dynamic_config(Some(source)).pause {
        return Err(Error::new(format!(
            "cluster {name} is not paused, and what is copied now may change before the agents use the other DCS: run \
             tamada ctl pause --wait first"
        )));
    }
    let is_asked_for =
        |failover: &ha::cluster::Failover| failover.candidate.is_some() || failover.leader.is_some();
    if source.failover.as_ref().is_some_and(is_asked_for) {
        return Err(Error::new(format!(
            "a switchover or failover of cluster {name} is asked for, and requests are not copied: wait for its end, or run \
             tamada ctl flush {name} switchover"
        )));
    }
    Ok(())
}

/// What was copied before may be copied again.
fn check_target(name: &str, source: &Cluster, target: &Cluster) -> Result<(), Error> {
    if let Some(leader) = target.leader_name() {
        return Err(Error::new(format!(
            "cluster {name} has a leader, {}, in the DCS that is copied to: it is used already",
            leader
        )));
    }
    if target.initialize.is_some() && target.initialize != source.initialize {
        return Err(Error::new(format!(
            "the DCS that is copied to has another cluster of the name {name}, with other data: choose another namespace, or \
             remove it (tamada ctl remove)"
        )));
    }
    Ok(())
}

/// What there is, `initialize` last: a copy that was cut off is not taken for a whole one.
fn keys(source: &Cluster) -> Vec<(Key, String)> {
    let sync = &source.sync;
    let config = source.config.as_ref().map(|config| &config.value);
    let values = [
        (
            Key::Config,
            config.map(|value| serde_json::Value::Object(value.clone()).to_string()),
        ),
        (
            Key::History,
            source.history.as_ref().map(|history| history.to_json()),
        ),
        (
            Key::Sync,
            sync.leader
                .as_ref()
                .map(|leader| SyncState::to_json(leader, sync.quorum, &sync.voters)),
        ),
        (
            Key::Failsafe,
            source
                .failsafe
                .as_ref()
                .map(|members| serde_json::json!(members).to_string()),
        ),
        (
            Key::Origin,
            (source.origins != Default::default()).then(|| source.origins.to_json()),
        ),
        (Key::Initialize, source.initialize.clone()),
    ];
    let there = |(key, value): (Key, Option<String>)| Some((key, value?));
    values.into_iter().filter_map(there).collect()
}

fn check_copy(source: &Cluster, copy: &Cluster) -> Result<(), Error> {
    let (wanted, written) = (keys(source), keys(copy));
    match wanted.iter().find(|key| !written.contains(key)) {
        None => Ok(()),
        Some((key, _)) => Err(Error::new(format!(
            "the key {} reads otherwise than it was written: somebody else writes to the DCS that is copied to",
            key.as_str()
        ))),
    }
}
