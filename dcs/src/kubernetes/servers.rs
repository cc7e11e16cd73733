//! The addresses of the API server: the Service's, or with `bypass_api_service` those of the servers themselves.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::api::{Api, Attempt, LONGEST_PAUSE, Outcome, Request};
use super::lock;

/// The addresses of the API server, the one in use first.
#[derive(Debug)]
pub(super) struct Servers {
    /// `bypass_api_service`: the servers' own addresses are used.
    pub(super) bypasses: bool,
    pub(super) order: Vec<String>,
}

impl Api {
    pub(super) fn select(&self, server: &str, why: Option<&str>) {
        let mut servers = lock(&self.servers);
        if servers.order.first().is_some_and(|first| first != server) {
            tracing::info!(
                "Selected new K8s API server endpoint {server}: {}",
                why.unwrap_or_default()
            );
            servers.order.retain(|other| other != server);
            servers.order.insert(0, server.to_owned());
        }
    }

    /// The watch has found the server in use dead: the next one takes over.
    pub(super) fn leave_current(&self) {
        lock(&self.servers).order.rotate_left(1);
    }

    /// With `bypass_api_service`, keeps the list of the API servers' own addresses, for ever.
    pub(super) async fn keep_servers(self: Arc<Self>) {
        loop {
            if lock(&self.servers).bypasses {
                self.refresh_servers().await;
            }
            let period = self
                .timing()
                .loop_wait
                .saturating_sub(Duration::from_millis(500))
                .max(LONGEST_PAUSE);
            let _ = tokio::time::timeout(period, self.is_list_old.notified()).await;
            sleep(LONGEST_PAUSE / 2).await;
        }
    }

    pub(super) async fn refresh_servers(&self) {
        let request = Request {
            operation: "list the API servers",
            method: Method::GET,
            path: "default/endpoints/kubernetes".to_owned(),
            body: None,
            tries_again_when_forbidden: false,
        };
        let credentials = lock(&self.credentials).clone();
        let mut order = lock(&self.servers).order.clone();
        if !order.contains(&credentials.server) {
            order.push(credentials.server.clone());
        }
        let until = Instant::now() + self.timing().retry_timeout;
        for server in order {
            let slice = Instant::now() + self.timing().retry_timeout / 3;
            match self.attempt(&server, &request, slice.min(until)).await {
                Attempt::Answered(Outcome::Done(endpoints)) => {
                    return self.use_servers(addresses(&endpoints));
                }
                Attempt::Refused(why) => {
                    tracing::warn!(
                        "Kubernetes RBAC doesn't allow GET access to the 'kubernetes' endpoint in the 'default' namespace. \
                         Disabling 'bypass_api_service'. ({why})"
                    );
                    let mut servers = lock(&self.servers);
                    servers.bypasses = false;
                    servers.order = vec![credentials.server.clone()];
                    return;
                }
                Attempt::Answered(Outcome::NotFound | Outcome::Conflict) | Attempt::Failed { .. } => {}
            }
        }
    }

    fn use_servers(&self, mut found: Vec<String>) {
        if found.is_empty() {
            return;
        }
        let mut servers = lock(&self.servers);
        let current = servers.order.first().cloned().unwrap_or_default();
        // A fleet of agents does not ask the same server first.
        let offset = fastrand::usize(..found.len());
        found.rotate_left(offset);
        if let Some(position) = found.iter().position(|server| *server == current) {
            let current = found.remove(position);
            found.insert(0, current);
        }
        servers.order = found;
    }
}

/// The addresses in the object `kubernetes` of the kind Endpoints.
fn addresses(endpoints: &Value) -> Vec<String> {
    let list = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut found = Vec::new();
    for subset in list(endpoints, "subsets") {
        let https = |port: &Value| port.get("name").and_then(Value::as_str) == Some("https");
        let ports = list(&subset, "ports").into_iter().filter(https);
        for port in ports.filter_map(|port| port.get("port")?.as_u64()) {
            for address in list(&subset, "addresses") {
                if let Some(ip) = address.get("ip").and_then(Value::as_str) {
                    let ip = if ip.contains(':') {
                        format!("[{ip}]")
                    } else {
                        ip.to_owned()
                    };
                    found.push(format!("https://{ip}:{port}"));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_addresses_are_those_of_the_port_https() {
        let endpoints = serde_json::json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"name": "https", "port": 6443}, {"name": "x", "port": 1}]},
            {"notReadyAddresses": [{"ip": "10.0.0.9"}], "ports": [{"name": "https", "port": 6443}]},
        ]});
        assert_eq!(
            addresses(&endpoints),
            ["https://10.0.0.1:6443", "https://[fd00::1]:6443"]
        );
        assert!(addresses(&Value::Null).is_empty());
    }
}
