//! `list` and `topology`: the members of clusters.

use std::time::Duration;

use clap::Args;

use super::console::{print, repaint, timestamp};
use super::error::Error;
use super::local_agent;
use super::member_table;
use super::remarks;
use super::session::{Session, Store};
use super::table::Format;
use super::view::View;

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
    #[arg(short = 'w', long = "watch", value_name = "X", value_parser = crate::option_value::seconds)]
    every: Option<Duration>,
}

impl Watch {
    /// The time from one repetition to the next; `None` to do it once.
    pub(crate) fn period(&self) -> Option<Duration> {
        let two_seconds = self.every_two_seconds.then_some(WATCH);
        self.every.filter(|every| !every.is_zero()).or(two_seconds)
    }
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

/// How long the DCS may take to answer before the local agent is asked.
const STORE_LIMIT: Duration = Duration::from_secs(2);

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
    let mut ticks = period.map(tokio::time::interval);
    let mut is_first = true;
    loop {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let mut text = String::new();
        if output.timestamp {
            text.push_str(&timestamp(0));
            text.push('\n');
        }
        let failure = match views(session, names, group, &mut stores).await {
            Ok(views) => {
                for (name, view) in views {
                    text.push_str(&member_table::render(
                        &view,
                        &name,
                        output.format,
                        output.extended,
                    ));
                }
                None
            }
            Err(Unread { agent: None, error }) => return Err(error),
            Err(Unread {
                agent: Some(document),
                error,
            }) => {
                text.push_str(&local_agent::table(&document, output.format));
                Some(error)
            }
        };
        if ticks.is_none() {
            print(&text)?;
            return failure.map_or(Ok(()), Err);
        }
        if let Some(error) = failure {
            text.push_str(&format!(" {error}\n"));
        }
        repaint(&text, is_first)?;
        is_first = false;
    }
}

/// The DCS was not read.
struct Unread {
    /// What the local agent says instead.
    agent: Option<serde_json::Value>,
    error: Error,
}

/// All clusters as the DCS has them. When it does not answer soon, the local agent is asked instead.
async fn views(
    session: &Session,
    names: &[String],
    group: Option<u32>,
    stores: &mut Vec<Store>,
) -> Result<Vec<(String, View)>, Unread> {
    let read = async {
        // A connection that was there once is kept for the next time.
        for name in names.iter().skip(stores.len()) {
            stores.push(session.store(name, group).await?);
        }
        let mut views = Vec::new();
        for (name, store) in names.iter().zip(stores.iter()) {
            views.push((name.clone(), store.view().await?));
        }
        Ok(views)
    };
    tokio::pin!(read);
    let soon: Result<Result<_, Error>, _> = tokio::time::timeout(STORE_LIMIT, &mut read).await;
    let mut views = match soon {
        Ok(Ok(views)) => views,
        Ok(Err(error)) => return Err(instead(session, &error.to_string(), error).await),
        Err(_) => {
            let why = format!("it has not answered for {} s", STORE_LIMIT.as_secs());
            let unread = instead(session, &why, Error::Aborted).await;
            if unread.agent.is_some() {
                return Err(unread);
            }
            read.await.map_err(|error| Unread { agent: None, error })?
        }
    };
    for (_, view) in &mut views {
        remarks::add(session, view).await;
    }
    Ok(views)
}

/// What the local agent says, with an error that tells so; or `otherwise`.
async fn instead(session: &Session, why: &str, otherwise: Error) -> Unread {
    match local_agent::ask(session).await {
        Some(document) => Unread {
            agent: Some(document),
            error: Error::new(format!(
                "the DCS is unreachable ({why}): only the local member is shown, as its agent reports it; who holds the \
                 leader key is not known"
            )),
        },
        None => Unread {
            agent: None,
            error: otherwise,
        },
    }
}
