//! The objects that the cluster's state lies in: their names, and what of them is read.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::Layout;
use config::KubernetesConfig;

/// The label of a Citus group.
pub(super) const GROUP_LABEL: &str = "citus-group";

/// The two collections that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Pods,
    /// ConfigMaps or Endpoints.
    Objects,
}

impl Which {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Pods => Self::Objects,
            Self::Objects => Self::Pods,
        }
    }
}

/// A `resourceVersion`. The API calls it opaque; every server counts, and Patroni relies on that as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision {
    pub(super) text: String,
    /// The number; of what is no number, a hash, which is never compared by order.
    pub(super) number: i64,
    is_number: bool,
}

impl Revision {
    pub(super) fn new(text: &str) -> Self {
        let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
        let hash = || {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            i64::try_from(hasher.finish() >> 1).unwrap_or(i64::MAX)
        };
        Self {
            text: text.to_owned(),
            number: number.unwrap_or_else(hash),
            is_number: number.is_some(),
        }
    }

    /// Whether it comes after `other`, as far as can be told.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        if self.is_number && other.is_number {
            self.number > other.number
        } else {
            self.text != other.text
        }
    }

    /// Whether it certainly comes before `other`.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        self.is_number && other.is_number && self.number < other.number
    }
}

/// A ConfigMap, an Endpoints object or a pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) revision: Revision,
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Of an Endpoints object.
    pub(super) subsets: Vec<Value>,
    /// Of a pod: `status.podIP`.
    pub(super) pod_ip: Option<String>,
    /// Of a pod.
    pub(super) hostname: Option<String>,
    /// Of a pod.
    pub(super) node_name: Option<String>,
}

impl Object {
    /// `None` where it has no name or version.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let metadata = value.get("metadata")?;
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            name: metadata.get("name")?.as_str()?.to_owned(),
            revision: Revision::new(metadata.get("resourceVersion")?.as_str()?),
            uid: text("/metadata/uid").unwrap_or_default(),
            labels: texts(metadata.get("labels")),
            annotations: texts(metadata.get("annotations")),
            subsets: value
                .get("subsets")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            pod_ip: text("/status/podIP"),
            hostname: text("/spec/hostname"),
            node_name: text("/spec/nodeName"),
        })
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }
}

fn texts(map: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The names of one cluster's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) leader: String,
    pub(super) config: String,
    pub(super) failover: String,
    pub(super) sync: String,
}

impl Names {
    pub(super) fn new(scope: &str, group: Option<u32>, use_endpoints: bool) -> Self {
        let parts: Vec<&str> = scope.split('/').filter(|part| !part.is_empty()).collect();
        let mut base = parts.join("-");
        if let Some(group) = group {
            base = format!("{base}-{group}");
        }
        let leader = if use_endpoints {
            base.clone()
        } else {
            format!("{base}-leader")
        };
        Self {
            leader,
            config: format!("{base}-config"),
            failover: format!("{base}-failover"),
            sync: format!("{base}-sync"),
        }
    }
}

/// Where the cluster's objects are and what they are called.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) use_endpoints: bool,
    pub(super) layout: Layout,
    pub(super) names: Names,
    /// What every object is created with.
    pub(super) labels: BTreeMap<String, String>,
    /// What all objects of all groups have.
    selector: String,
    group_selector: String,
}

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

impl Place {
    pub(super) fn new(config: &KubernetesConfig, layout: Layout) -> Self {
        let mut labels = config.labels.clone();
        labels.insert(config.scope_label.clone(), layout.scope().to_owned());
        let select = |labels: &BTreeMap<String, String>| {
            let pairs: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            encode(&pairs.join(","))
        };
        let selector = select(&labels);
        if let Some(group) = layout.citus_group() {
            labels.insert(GROUP_LABEL.to_owned(), group.to_string());
        }
        Self {
            namespace: encode(&config.namespace),
            use_endpoints: config.use_endpoints,
            names: Names::new(layout.scope(), layout.citus_group(), config.use_endpoints),
            group_selector: select(&labels),
            labels,
            selector,
            layout,
        }
    }

    /// The names of another Citus group's objects.
    pub(super) fn names_of(&self, group: u32) -> Names {
        Names::new(self.layout.scope(), Some(group), self.use_endpoints)
    }

    fn kind(&self, which: Which) -> &'static str {
        match (which, self.use_endpoints) {
            (Which::Pods, _) => "pods",
            (Which::Objects, false) => "configmaps",
            (Which::Objects, true) => "endpoints",
        }
    }

    pub(super) fn collection(&self, which: Which) -> String {
        format!("{}/{}", self.namespace, self.kind(which))
    }

    pub(super) fn object(&self, which: Which, name: &str) -> String {
        format!("{}/{}", self.collection(which), encode(name))
    }

    /// All objects that are read, of all groups.
    pub(super) fn list(&self, which: Which) -> String {
        format!("{}?labelSelector={}", self.collection(which), self.selector)
    }

    /// The objects of this group.
    pub(super) fn own(&self, which: Which) -> String {
        format!("{}?labelSelector={}", self.collection(which), self.group_selector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_called_as_patroni_calls_them() {
        let names = |scope, group, use_endpoints| {
            let names = Names::new(scope, group, use_endpoints);
            [names.leader, names.config, names.failover, names.sync]
        };
        assert_eq!(
            names("demo", None, false),
            ["demo-leader", "demo-config", "demo-failover", "demo-sync"]
        );
        assert_eq!(
            names("demo", None, true),
            ["demo", "demo-config", "demo-failover", "demo-sync"]
        );
        assert_eq!(names("demo", Some(0), true)[..2], ["demo-0", "demo-0-config"]);
        assert_eq!(names("/a//b", Some(1), false)[0], "a-b-1-leader");
    }

    #[test]
    fn versions_that_are_no_numbers_have_no_order() {
        let (nine, ten, odd) = (Revision::new("9"), Revision::new("10"), Revision::new("x9"));
        assert!(ten.is_after(&nine) && !nine.is_after(&ten) && nine.is_before(&ten));
        assert!(odd.is_after(&ten) && ten.is_after(&odd) && !odd.is_before(&ten) && !ten.is_before(&odd));
        assert!(odd.number > 0 && odd == Revision::new("x9"));
    }
}
