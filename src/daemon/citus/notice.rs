//! The workers' side: their leader tells the coordinator's what it is about to do.

use std::time::Duration;

use config::{DynamicConfig, LocalConfig};
use ha::citus::{COORDINATOR, Moment, Notice};
use ha::pg::MemberName;
use net::http::{Client, Method};

use crate::daemon::store;

/// How long the coordinator may take where nothing waits for what it does.
const SHORT: Duration = Duration::from_secs(2);

/// Whether this member is of a worker's group.
pub(crate) fn is_worker(local: &LocalConfig) -> bool {
    local
        .citus
        .as_ref()
        .is_some_and(|citus| citus.group != COORDINATOR)
}

/// Tells the coordinator, if this is a worker. Before a demotion it waits until writes wait; nothing keeps a worker from
/// going on when the coordinator cannot be told.
pub(crate) async fn tell(local: &LocalConfig, config: &DynamicConfig, http: &Client, moment: Moment) {
    let Some(citus) = local.citus.as_ref().filter(|_| is_worker(local)) else {
        return;
    };
    let patience = match moment {
        Moment::BeforeDemote => config.ttl,
        Moment::BeforePromote | Moment::AfterPromote => SHORT,
    };
    let notice = Notice {
        moment,
        group: citus.group,
        leader: MemberName(local.name.clone()),
        timeout: config.ttl.as_secs_f64(),
        cooldown: config.retry_timeout.as_secs_f64() * 1000.0,
    };
    let told = tokio::time::timeout(patience, send(local, config, http, &notice, patience)).await;
    let why = match told {
        Ok(Ok(())) => return,
        Ok(Err(why)) => why,
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!("could not tell the Citus coordinator {moment:?}: {why}");
}

async fn send(
    local: &LocalConfig,
    config: &DynamicConfig,
    http: &Client,
    notice: &Notice,
    patience: Duration,
) -> Result<(), String> {
    let store = store::connect_to(local, Some(COORDINATOR), None, store::timing(config)).await;
    let dcs = store.map_err(|error| format!("{error:#}"))?.dcs;
    let cluster = dcs.load().await.map_err(|error| error.to_string())?;
    let leader = cluster.leader_member().ok_or("it has no leader")?;
    let url = leader
        .data
        .api_url
        .as_deref()
        .and_then(|url| url.rsplit_once('/'));
    let (base, _) = url.ok_or("its leader has no REST address")?;
    let body = serde_json::to_string(notice).map_err(|error| error.to_string())?;
    let answer = http
        .request(Method::POST, &format!("{base}/citus"), Some(&body), patience)
        .await
        .map_err(|error| error.to_string())?;
    if answer.status.is_success() {
        Ok(())
    } else {
        Err(format!("HTTP {}: {}", answer.status.as_u16(), answer.body))
    }
}
