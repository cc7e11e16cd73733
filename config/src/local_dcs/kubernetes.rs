//! The section `kubernetes`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::KeyError;
use crate::read::{count, flag, path, section, text, texts};
use crate::value::{Map, Value};

/// The section `kubernetes`. All objects and pods of the cluster have `labels` and the scope's label.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesConfig {
    /// The Kubernetes namespace; default `default`.
    pub namespace: String,
    /// `labels` that select pods and objects, and are put on every object that is created.
    pub labels: BTreeMap<String, String>,
    /// `scope_label`, whose value is the scope; default `cluster-name`.
    pub scope_label: String,
    /// `role_label`; default `role`.
    pub role_label: String,
    /// `leader_label_value`; default `primary`.
    pub leader_label_value: String,
    /// `follower_label_value`; default `replica`.
    pub follower_label_value: String,
    /// `standby_leader_label_value`; default `primary`.
    pub standby_leader_label_value: String,
    /// `tmp_role_label`, a second label with the role.
    pub tmp_role_label: Option<String>,
    /// `bootstrap_labels` of a pod whose data directory is being created.
    pub bootstrap_labels: BTreeMap<String, String>,
    /// `use_endpoints`: Endpoints instead of ConfigMaps.
    pub use_endpoints: bool,
    /// `pod_ip`; `None`: what the pod's own status says.
    pub pod_ip: Option<String>,
    /// `ports` of the leader's endpoint.
    pub ports: Vec<KubernetesPort>,
    /// CA file; `None`: that of the service account.
    pub cacert: Option<PathBuf>,
    /// `context` of the kubeconfig, outside of a cluster; default `kind-kind`.
    pub context: String,
    /// `bypass_api_service`: the API servers' own addresses are used.
    pub bypass_api_service: bool,
    /// `retriable_http_codes` besides 500, 503 and 504.
    pub retriable_http_codes: Vec<u16>,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number; default 5432.
    pub port: u16,
    /// `TCP`, if it is written.
    pub protocol: Option<String>,
}

const POSTGRESQL: u16 = 5432;

impl KubernetesConfig {
    /// Patroni copies the `namespace` of the file itself into the section, over the section's own. Here that holds unless it is the
    /// path that other stores need, such as `/service/`.
    pub(super) fn prefer_namespace(&mut self, tree: &Map) {
        if let Some(namespace) = text(tree, "namespace").filter(|text| !text.contains('/')) {
            self.namespace = namespace;
        }
    }
}

pub(super) fn read(map: &Map) -> Result<KubernetesConfig, KeyError> {
    let text = |key: &str| text(map, key);
    let word = |key: &str, default: &str| text(key).unwrap_or_else(|| default.to_owned());
    let labels = labels(map, "labels");
    if labels.is_empty() {
        return Err((
            "",
            "labels is needed: a mapping that selects the pods of the cluster".to_owned(),
        ));
    }
    let mut retriable_http_codes = Vec::new();
    for code in map.get("retriable_http_codes").map(texts).unwrap_or_default() {
        let code = code.parse().map_err(|_| {
            (
                "retriable_http_codes",
                "expected codes of HTTP: numbers from 100 to 599".to_owned(),
            )
        })?;
        retriable_http_codes.push(code);
    }
    Ok(KubernetesConfig {
        namespace: word("namespace", "default"),
        labels,
        scope_label: word("scope_label", "cluster-name"),
        role_label: word("role_label", "role"),
        leader_label_value: word("leader_label_value", "primary"),
        follower_label_value: word("follower_label_value", "replica"),
        standby_leader_label_value: word("standby_leader_label_value", "primary"),
        tmp_role_label: text("tmp_role_label"),
        bootstrap_labels: self::labels(map, "bootstrap_labels"),
        use_endpoints: flag(map, "use_endpoints"),
        pod_ip: text("pod_ip"),
        ports: ports(map),
        cacert: path(map, "cacert"),
        context: word("context", "kind-kind"),
        bypass_api_service: flag(map, "bypass_api_service"),
        retriable_http_codes,
    })
}

fn labels(map: &Map, key: &str) -> BTreeMap<String, String> {
    let pairs = section(map, key).iter();
    pairs
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value.python_text()))
        .collect()
}

fn ports(map: &Map) -> Vec<KubernetesPort> {
    let ports = map.get("ports").and_then(Value::as_list).into_iter().flatten();
    let ports: Vec<_> = ports
        .filter_map(Value::as_map)
        .map(|port| KubernetesPort {
            name: crate::read::text(port, "name"),
            port: count(port, "port", None, POSTGRESQL),
            protocol: crate::read::text(port, "protocol"),
        })
        .collect();
    if !ports.is_empty() {
        return ports;
    }
    vec![KubernetesPort {
        name: None,
        port: POSTGRESQL,
        protocol: None,
    }]
}
