//! `history`: the ends of timelines, by failover, switchover or recovery.

use clap::Args;
use ha::cluster::History as Timelines;

use super::console::print;
use super::error::Error;
use super::session::Session;
use super::table::{Cell, Column, Format, Table};

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Output format: pretty, tsv, json, yaml or yml
    #[arg(short, long, value_parser = Format::parse, default_value = "pretty")]
    format: Format,
}

impl History {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let store = session
            .store_or_scope(self.cluster_name, session.group_or_own(self.group))
            .await?
            .1;
        let view = store.view().await?;
        let history = view
            .cluster()
            .and_then(|cluster| cluster.history.clone())
            .unwrap_or_default();
        print(&table(&history).render(self.format))
    }
}

fn table(history: &Timelines) -> Table {
    let text = |text: &Option<String>| text.clone().map_or(Cell::empty(), Cell::Text);
    Table {
        title: None,
        columns: vec![
            Column::right("TL"),
            Column::right("LSN"),
            Column::left("Reason"),
            Column::left("Timestamp"),
            Column::left("New Leader"),
        ],
        rows: history
            .lines
            .iter()
            .map(|line| {
                vec![
                    Cell::Number(line.timeline.0.into()),
                    Cell::Number(line.switch_lsn.0),
                    Cell::text(&line.reason),
                    text(&line.timestamp),
                    text(&line.new_leader),
                ]
            })
            .collect(),
        omits_empty_cells: false,
        cuts_long_cells: true,
    }
}
