//! The member as a service in Consul's catalog (`register_service`): registered with the local agent when the member's key is
//! written, in a task beside, so that a failure stops nothing.

use std::sync::Arc;

use config::{ConsulConfig, consul_service_name};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::api::{Api, part};

/// The member's key as it was last written.
#[derive(Debug, Clone, Default)]
pub(super) struct Published {
    pub(super) data: String,
    /// Counts the writes.
    pub(super) number: u64,
}

/// What is asked for of Consul's agent.
#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Registered(Value),
    Absent,
}

/// Registers this member by what it publishes, for ever.
pub(super) async fn keep(
    api: Arc<Api>,
    scope: String,
    member: String,
    mut published: watch::Receiver<Published>,
    done: watch::Sender<u64>,
) {
    let mut service = Service {
        id: format!("{scope}/{member}"),
        name: consul_service_name(&scope),
        present: None,
        has_failed: false,
        unknown: None,
    };
    if service.name != scope && api.config().register_service {
        tracing::warn!(
            "Using {} as consul service name instead of scope name {scope}",
            service.name
        );
    }
    while published.changed().await.is_ok() {
        let Published { data, number } = published.borrow_and_update().clone();
        let data: Value = serde_json::from_str(&data).unwrap_or_default();
        service.update(&api, &data).await;
        done.send_replace(number);
    }
}

struct Service {
    id: String,
    name: String,
    /// What Consul's agent was told, with the token it was told by.
    present: Option<(Wanted, Option<String>)>,
    has_failed: bool,
    /// A role without a service that was warned of.
    unknown: Option<String>,
}

impl Service {
    async fn update(&mut self, api: &Api, published: &Value) {
        let config = api.config();
        let was_registered = self.present.is_some();
        let Some(wanted) = self.wanted(&config, published, was_registered, api.timing().ttl) else {
            return;
        };
        let token = config.token.as_ref().map(|token| token.reveal().to_owned());
        if !self.has_failed && self.present.as_ref() == Some(&(wanted.clone(), token.clone())) {
            return;
        }
        let told = match &wanted {
            Wanted::Registered(body) => api.local("/v1/agent/service/register", Some(body.clone())).await,
            Wanted::Absent if !was_registered => Ok(()),
            Wanted::Absent => {
                let path = format!("/v1/agent/service/deregister/{}", part(&self.id));
                api.local(&path, None).await
            }
        };
        match told {
            Ok(()) => {
                self.present = match wanted {
                    Wanted::Registered(_) => Some((wanted, token)),
                    Wanted::Absent => None,
                };
                self.has_failed = false;
            }
            Err(why) => {
                let text = format!(
                    "cannot register the service {} with Consul's agent: {why}",
                    self.id
                );
                if self.has_failed {
                    tracing::debug!("{text}");
                } else {
                    tracing::warn!("{text}; it is tried again in every cycle");
                }
                self.has_failed = true;
            }
        }
    }

    /// `None`: it stays as it is, as while the server starts.
    fn wanted(
        &mut self,
        config: &ConsulConfig,
        published: &Value,
        was_registered: bool,
        ttl: std::time::Duration,
    ) -> Option<Wanted> {
        let text = |key: &str| published.get(key).and_then(Value::as_str).unwrap_or_default();
        if !config.register_service || text("state") == "stopped" {
            return was_registered.then_some(Wanted::Absent);
        }
        if text("state") != "running" {
            return None;
        }
        let role = match text("role") {
            "master" => "primary",
            role @ ("primary" | "replica" | "standby_leader") => role,
            role => {
                if self.unknown.as_deref() != Some(role) {
                    tracing::warn!(
                        "Could not register service: unknown role type {}",
                        role.escape_debug()
                    );
                    self.unknown = Some(role.to_owned());
                }
                return None;
            }
        };
        let (address, port) = host_and_port(text("conn_url"))?;
        Some(Wanted::Registered(self.body(
            config,
            role,
            &address,
            port,
            text("api_url"),
            ttl,
        )))
    }

    fn body(
        &self,
        config: &ConsulConfig,
        role: &str,
        address: &str,
        port: u16,
        api_url: &str,
        ttl: std::time::Duration,
    ) -> Value {
        let role = role.replace('_', "-");
        let mut tags = config.service_tags.clone();
        tags.push(role.clone());
        if role == "primary" {
            tags.push("master".to_owned());
        }
        // The session lives for half of ttl by its own word.
        let patience = format!("{}s", (ttl * 5).as_secs_f64());
        let mut body = json!({
            "ID": self.id, "Name": self.name, "Address": address, "Port": port, "Tags": tags, "EnableTagOverride": true,
            "Check": {
                "HTTP": check_url(api_url, &role), "Interval": config.service_check_interval,
                "DeregisterCriticalServiceAfter": patience,
            },
        });
        if let Some(name) = &config.service_check_tls_server_name {
            body["Check"]["TLSServerName"] = json!(name);
        }
        body
    }
}

/// `api_url` with the role as its path.
fn check_url(api_url: &str, role: &str) -> String {
    let (scheme, rest) = api_url.split_once("://").unwrap_or(("http", api_url));
    let host = rest.split('/').next().unwrap_or(rest);
    format!("{scheme}://{host}/{role}")
}

/// Host and port of `postgres://host:port/database`.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let address = authority
        .rsplit_once('@')
        .map_or(authority, |(_, address)| address);
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_member() {
        assert_eq!(
            host_and_port("postgres://10.0.0.1:5432/postgres"),
            Some(("10.0.0.1".to_owned(), 5432))
        );
        assert_eq!(
            host_and_port("postgres://[fd00::1]:5433/x"),
            Some(("fd00::1".to_owned(), 5433))
        );
        assert_eq!(host_and_port("nonsense"), None);
        assert_eq!(
            check_url("https://h:8008/patroni", "standby-leader"),
            "https://h:8008/standby-leader"
        );
    }
}
