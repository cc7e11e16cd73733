//! What `packaging/kubernetes/` ships fits what the client does.

use std::collections::BTreeSet;
use std::path::PathBuf;

use config::Value;

fn documents(name: &str) -> Vec<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/kubernetes");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let parts = text.split("\n---\n");
    parts
        .map(|part| config::yaml::parse(name, part).unwrap())
        .collect()
}

fn text(value: &Value, path: &[&str]) -> String {
    let found = path.iter().try_fold(value, |value, key| value.get(key));
    found.map(Value::python_text).unwrap_or_default()
}

fn has(rule: &Value, key: &str, wanted: &str) -> bool {
    let list = rule.get(key).and_then(Value::as_list).unwrap_or_default();
    list.iter().any(|item| item.as_str() == Some(wanted))
}

/// Each of these requests is in the Role, for both kinds of objects.
pub(crate) fn assert_permitted(used: &BTreeSet<(String, String)>) {
    let all = documents("rbac.yaml");
    let role = all
        .iter()
        .find(|document| text(document, &["kind"]) == "Role")
        .unwrap();
    let rules = role.get("rules").and_then(Value::as_list).unwrap();
    for (verb, resource) in used {
        let resources = match resource.as_str() {
            "endpoints" | "configmaps" => vec!["endpoints", "configmaps"],
            other => vec![other],
        };
        for resource in resources {
            let is_permitted = rules
                .iter()
                .any(|rule| has(rule, "resources", resource) && has(rule, "verbs", verb));
            assert!(is_permitted, "{verb} {resource}");
        }
    }
}

#[test]
fn the_files_are_for_one_cluster_in_either_mode() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/kubernetes");
    let set = std::fs::read_to_string(folder.join("statefulset.yaml")).unwrap();
    let (_, rest) = set.split_once("  tamada.yml: |\n").unwrap();
    let (settings, set) = rest.split_once("---\n").unwrap();
    let settings: Vec<&str> = settings
        .lines()
        .map(|line| line.get(4..).unwrap_or_default())
        .collect();
    let file = config::yaml::parse("tamada.yml", &settings.join("\n")).unwrap();
    let scope = text(&file, &["scope"]);
    let application = text(&file, &["kubernetes", "labels", "application"]);
    let labels = format!("labels: {{application: {application}, cluster-name: {scope}}}");
    assert!(set.contains(&labels), "{labels}");
    for (name, has_selector) in [
        ("services-configmaps.yaml", true),
        ("services-endpoints.yaml", false),
    ] {
        let services = documents(name);
        let service = |wanted: &str| {
            services
                .iter()
                .find(|service| text(service, &["metadata", "name"]) == wanted)
        };
        let leader = service(&scope).unwrap();
        assert_eq!(
            leader.get("spec").unwrap().get("selector").is_some(),
            has_selector,
            "{name}"
        );
        assert_eq!(
            service(&format!("{scope}-config")).is_some(),
            !has_selector,
            "{name}"
        );
        assert!(service(&format!("{scope}-pods")).is_some(), "{name}");
    }
}
