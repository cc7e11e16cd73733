//! `list` and `topology`: the members of clusters.

use std::time::Duration;

use clap::Args;

use super::console::{clear, print, print_line, timestamp};
use super::error::Error;
use super::member_table;
use super::session::Session;
use super::table::Format;

/// What `-W` means.
const WATCH: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Clusters to show; default: the scope of the configuration
    #[arg(value_name = "CLUSTER_NAMES")]
    cluster_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Show some extra information
    #[arg(short, long)]
    extended: bool,
    /// Print timestamp
    #[arg(short, long)]
    timestamp: bool,
    /// Output format: pretty, tsv, json, yaml or yml
    #[arg(short, long, value_parser = Format::parse, default_value = "pretty")]
    format: Format,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Debug, Args)]
pub(crate) struct Topology {
    /// Clusters to show; default: the scope of the configuration
    #[arg(value_name = "CLUSTER_NAMES")]
    cluster_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    #[command(flatten)]
    watch: Watch,
}

/// How often a command repeats itself.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Auto update the screen every 2 seconds
    #[arg(short = 'W')]
    every_two_seconds: bool,
    /// Auto update the screen every X seconds
    #[arg(short = 'w', long = "watch", value_name = "X", value_parser = seconds)]
    every: Option<Duration>,
}

impl Watch {
    /// The time from one repetition to the next; `None` to do it once.
    pub(crate) fn period(&self) -> Option<Duration> {
        let two_seconds = self.every_two_seconds.then_some(WATCH);
        self.every.filter(|every| !every.is_zero()).or(two_seconds)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .map_err(|_| format!("'{text}' is not a valid float."))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl List {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let format = self.format;
        show(
            session,
            &self.cluster_names,
            self.group,
            self.watch.period(),
            |out| {
                (out.format, out.extended, out.timestamp) = (format, self.extended, self.timestamp);
            },
        )
        .await
    }
}

impl Topology {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        show(
            session,
            &self.cluster_names,
            self.group,
            self.watch.period(),
            |_| {},
        )
        .await
    }
}

/// What is shown of each cluster.
struct Output {
    format: Format,
    extended: bool,
    timestamp: bool,
}

async fn show(
    session: &Session,
    cluster_names: &[String],
    group: Option<u32>,
    period: Option<Duration>,
    configure: impl FnOnce(&mut Output),
) -> Result<(), Error> {
    let mut output = Output {
        format: Format::Topology,
        extended: false,
        timestamp: false,
    };
    configure(&mut output);
    let scope = session.settings().scope.iter().cloned().collect::<Vec<_>>();
    let names = if cluster_names.is_empty() {
        &scope
    } else {
        cluster_names
    };
    if names.is_empty() {
        tracing::warn!("Listing members: No cluster names were provided");
        return Ok(());
    }
    let mut stores = Vec::new();
    for name in names {
        stores.push((name, session.store(name, group).await?));
    }
    let mut ticks = period.map(tokio::time::interval);
    loop {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
            clear()?;
        }
        if output.timestamp {
            print_line(&timestamp(0))?;
        }
        for (name, store) in &stores {
            let view = store.view().await?;
            print(&member_table::render(&view, name, output.format, output.extended))?;
        }
        if ticks.is_none() {
            return Ok(());
        }
    }
}
