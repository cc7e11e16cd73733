//! Before anything is touched: are PostgreSQL's programs there, what does the store say, and is our name free.

mod name;

use std::time::Duration;

use config::layers::check_document;
use config::{DynamicConfig, LocalConfig, Minimums};
use dcs::Identity;
use ha::cluster::Cluster;
use ha::pg::MemberName;

use crate::daemon::cache;
use crate::daemon::settings;
use crate::daemon::store::{self, Store};

use name::Name;

/// How long to wait before the store is tried again at the start.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What the store says at the start.
pub(super) struct Agreed {
    pub(super) store: Store,
    pub(super) cluster: Cluster,
    /// The `/config` key, or what stands in for it.
    pub(super) document: serde_json::Value,
    pub(super) minimums: Minimums,
    pub(super) config: DynamicConfig,
}

/// Waits for the store, and reads what the cluster has agreed on. `lease`: that of an agent before us.
///
/// # Errors
/// The configuration of the store cannot work, or a live member has our name.
pub(super) async fn agree(
    local: &LocalConfig,
    http: &net::http::Client,
    lease: Option<String>,
) -> anyhow::Result<Agreed> {
    let remembered = remembered_config(local);
    // What is wrong with it is told when it counts.
    let (provisional, _) = DynamicConfig::read(&remembered, Minimums::TAMADA);
    let store = connect(local, &provisional, lease.clone()).await?;
    let name = Name::new(local, lease, http);
    let cluster = name.claim(&store, provisional.ttl).await?;
    let document = match &cluster.config {
        Some(key) => usable(serde_json::Value::Object(key.value.clone()), remembered),
        None => remembered,
    };
    let minimums = settings::minimums(&cluster);
    let config = settings::read_dynamic(&document, minimums);
    store.dcs.set_timing(store::timing(&config));
    Ok(Agreed {
        store,
        cluster,
        document,
        minimums,
        config,
    })
}

/// Without these nothing can be done at all.
pub(super) fn check_programs(local: &LocalConfig) -> anyhow::Result<()> {
    let needed = ["postgres", "pg_controldata"];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|program| !settings::has_program(local, program))
        .map(|program| local.postgresql.bin_name.file_name(program))
        .collect();
    let place = if local.postgresql.bin_dir.as_os_str().is_empty() {
        "the folders of PATH".to_owned()
    } else {
        local.postgresql.bin_dir.display().to_string()
    };
    anyhow::ensure!(
        missing.is_empty(),
        "there is no {} in {place}: set postgresql.bin_dir to the folder with PostgreSQL's programs",
        missing.join(" and no ")
    );
    Ok(())
}

/// What is in force while the DCS has no configuration: what was last, else what the cluster is to be created with.
fn remembered_config(local: &LocalConfig) -> serde_json::Value {
    let cached = cache::read(&local.postgresql.data_dir).unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        None
    });
    cached.unwrap_or_else(|| local.bootstrap.dcs.clone())
}

/// The cluster's document, or what was in force before it if that is none.
fn usable(document: serde_json::Value, remembered: serde_json::Value) -> serde_json::Value {
    let Err(problem) = check_document(&document) else {
        return document;
    };
    if check_document(&remembered).is_ok() {
        tracing::error!("the key config in the DCS is not used, the former configuration is: {problem}");
        return remembered;
    }
    tracing::error!("the key config in the DCS is used as far as it can be: {problem}");
    document
}

async fn connect(
    local: &LocalConfig,
    config: &DynamicConfig,
    lease: Option<String>,
) -> anyhow::Result<Store> {
    loop {
        let identity = Identity {
            name: MemberName(local.name.clone()),
            lease: lease.clone(),
        };
        match store::connect(local, Some(identity), store::timing(config)).await {
            Ok(store) => return Ok(store),
            Err(error) if is_worth_a_retry(&error) => {
                tracing::error!("{error:#}");
                tracing::info!("waiting on {}", local.dcs.kind().family());
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_worth_a_retry(error: &dcs::Error) -> bool {
    matches!(error, dcs::Error::Unavailable(_) | dcs::Error::Rejected(_))
}

async fn first_reading(store: &Store) -> Cluster {
    loop {
        match store.dcs.load().await {
            Ok(cluster) => return cluster,
            Err(error) => {
                tracing::warn!("Can not get cluster from dcs: {error:#}");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}
