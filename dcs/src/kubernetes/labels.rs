//! The labels by which Services and people find a pod by its role.

use serde_json::Value;

use config::KubernetesConfig;

/// States in which a pod has `bootstrap_labels`.
const BOOTSTRAP: [&str; 4] = [
    "initializing new cluster",
    "running custom bootstrap script",
    "starting after custom bootstrap",
    "creating replica",
];

/// The labels of a pod whose agent publishes `data`; `None` removes one. The leader's follows from the lock, not from what PostgreSQL is
/// doing, so that a Service never selects two.
pub(super) fn labels(
    config: &KubernetesConfig,
    holds_lock: bool,
    data: &Value,
) -> Vec<(String, Option<String>)> {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    let (state, role) = (text("state"), text("role"));
    let (label, plain) = if holds_lock {
        let label = match role {
            "standby_leader" => &config.standby_leader_label_value,
            _ => &config.leader_label_value,
        };
        (Some(label.as_str()), Some("primary"))
    } else if state == "running" && !matches!(role, "primary" | "") {
        let label = if role == "replica" {
            &config.follower_label_value
        } else {
            role
        };
        (Some(label), Some(role))
    } else {
        (None, None)
    };
    let mut labels = vec![(config.role_label.clone(), label.map(str::to_owned))];
    if let Some(name) = &config.tmp_role_label {
        labels.push((name.clone(), plain.map(str::to_owned)));
    }
    let is_bootstrap = BOOTSTRAP.contains(&state);
    for (name, value) in &config.bootstrap_labels {
        labels.push((name.clone(), is_bootstrap.then(|| value.clone())));
    }
    labels
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_follow_lock_role_and_state() {
        let mut config = super::super::tests::config();
        config.tmp_role_label = Some("tmp".into());
        config.leader_label_value = "master".into();
        config.standby_leader_label_value = "standby".into();
        config.follower_label_value = "slave".into();
        config.bootstrap_labels.insert("boot".into(), "yes".into());
        let shown = |holds_lock, state: &str, role: &str| {
            let labels = labels(&config, holds_lock, &json!({"state": state, "role": role}));
            labels
                .into_iter()
                .map(|(_, value)| value.unwrap_or_else(|| "-".into()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(shown(true, "running", "primary"), "master primary -");
        assert_eq!(shown(true, "starting", "replica"), "master primary -");
        assert_eq!(shown(true, "running", "standby_leader"), "standby primary -");
        assert_eq!(shown(false, "running", "replica"), "slave replica -");
        assert_eq!(
            shown(false, "running", "primary"),
            "- - -",
            "it has lost the lock"
        );
        assert_eq!(shown(false, "running", "demoted"), "demoted demoted -");
        assert_eq!(shown(false, "stopped", "replica"), "- - -");
        assert_eq!(shown(false, "creating replica", "uninitialized"), "- - yes");
    }
}
