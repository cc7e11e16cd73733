//! `list` and `topology`: the members of clusters.

use std::time::Duration;

use clap::Args;
use ha::pg::ServerState;
use net::http::Method;

use super::console::{print, repaint, timestamp};
use super::copy::CopyProgress;
use super::error::Error;
use super::member_table;
use super::session::Session;
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

/// How long a member that is being copied may take to say how far that is.
const PROGRESS_LIMIT: Duration = Duration::from_secs(1);

/// Members that are being copied show how far that is, as if by a tag. Whoever does not say shows nothing.
async fn show_copies(session: &Session, view: &mut View) {
    for cluster in view.groups.values_mut() {
        let copied = cluster
            .members
            .iter_mut()
            .filter(|member| member.data.state == Some(ServerState::CreatingReplica));
        for member in copied {
            let asked = session.request(member, (Method::GET, "patroni"), None, PROGRESS_LIMIT);
            let Ok(answer) = asked.await else { continue };
            let progress = answer.json().and_then(|document| copy_progress(&document));
            if let Some(text) = progress {
                member.data.tags.0.insert("clone".to_owned(), text.into());
            }
        }
    }
}

/// How far a copy is, from a member's status document.
fn copy_progress(document: &serde_json::Value) -> Option<String> {
    let progress = CopyProgress::read(document)?;
    let mebibytes = |bytes: u64| bytes >> 20;
    let mut text = format!("{} MB", mebibytes(progress.bytes));
    if let Some(total) = progress.total_bytes {
        text.push_str(&format!(" of {} MB", mebibytes(total)));
    }
    if let Some(rate) = progress.bytes_per_second {
        text.push_str(&format!(", {} MB/s", mebibytes(rate)));
    }
    if let Some(left) = progress.seconds_left {
        text.push_str(&format!(", {left} s left"));
    }
    Some(text)
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
        for (name, store) in &stores {
            let mut view = store.view().await?;
            show_copies(session, &mut view).await;
            text.push_str(&member_table::render(&view, name, output.format, output.extended));
        }
        if ticks.is_none() {
            return print(&text);
        }
        repaint(&text, is_first)?;
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::copy_progress;
    use serde_json::json;

    #[test]
    fn how_far_a_copy_is_is_said_as_far_as_it_is_known() {
        let all = json!({"tamada_clone": {"bytes": 300 << 20, "total_bytes": 1_u64 << 30, "bytes_per_second": 50 << 20,
            "seconds": 6, "seconds_left": 14}});
        assert_eq!(
            copy_progress(&all).as_deref(),
            Some("300 MB of 1024 MB, 50 MB/s, 14 s left")
        );
        let some = json!({"tamada_clone": {"bytes": 1 << 20, "total_bytes": null, "bytes_per_second": 0}});
        assert_eq!(copy_progress(&some).as_deref(), Some("1 MB, 0 MB/s"));
        assert_eq!(copy_progress(&json!({"state": "running"})), None);
    }
}
