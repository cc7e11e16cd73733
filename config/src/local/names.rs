//! Names that are parts of keys, slots, labels and connections: those that cannot work are refused, and a warning tells those that
//! something changes on the way.

use crate::local_dcs::consul_service_name;
use crate::problem::Problem;
use crate::value::{Map, Value};

/// What PostgreSQL keeps of `application_name`, of `cluster_name` and of a slot's name, in bytes. A label of Kubernetes has as many
/// characters at most.
const NAME_BYTES_MAX: usize = 63;

/// Kubernetes documentation, "Object Names and IDs": the longest DNS subdomain name. Names of objects end in up to 12 more characters.
const OBJECT_NAME_BYTES_MAX: usize = 253;

/// What is wrong with `name`, `scope` and `namespace`, for PostgreSQL and for the store that is configured.
pub(super) fn check(tree: &Map) -> Vec<Problem> {
    let mut problems = Vec::new();
    for key in ["name", "scope", "namespace"] {
        let Some(value) = tree.get(key) else { continue };
        let Some(text) = value.as_str() else { continue };
        let findings = Findings {
            key,
            value,
            problems: Vec::new(),
        };
        problems.extend(findings.of(text, tree));
    }
    if let Some(kubernetes) = tree.get("kubernetes").and_then(Value::as_map) {
        check_labels(kubernetes, &mut problems);
    }
    problems
}

struct Findings<'a> {
    key: &'static str,
    value: &'a Value,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    fn refuse(&mut self, message: &str) {
        self.problems
            .push(Problem::error(self.key, self.value.position.as_ref(), message));
    }

    fn warn(&mut self, message: &str) {
        self.problems
            .push(Problem::warning(self.key, self.value.position.as_ref(), message));
    }

    fn of(mut self, text: &str, tree: &Map) -> Vec<Problem> {
        let uses = |store: &str| tree.get(store).is_some_and(Value::is_truthy);
        self.for_keys(text, uses("zookeeper") || uses("exhibitor"));
        if self.key != "namespace" {
            if uses("kubernetes") {
                self.for_kubernetes(text);
            }
            if self.problems.is_empty() {
                self.for_postgresql(text);
            }
        }
        let registers = tree
            .get("consul")
            .and_then(|consul| consul.get("register_service"));
        let service = consul_service_name(text);
        if self.key == "scope" && registers.is_some_and(Value::is_truthy) && service != text {
            self.warn(&format!("the service in Consul has the name {service}"));
        }
        self.problems
    }

    /// The paths of keys in the DCS.
    fn for_keys(&mut self, text: &str, uses_zookeeper: bool) {
        if text.chars().any(char::is_control) {
            self.refuse("it has a control character, such as a line feed: keys in the DCS are made of it");
        } else if text.split('/').any(|part| matches!(part, "." | "..")) {
            self.refuse("'.' and '..' are not possible: stores read them as folders in the paths of keys");
        } else if uses_zookeeper && text.chars().any(is_refused_by_zookeeper) {
            self.refuse("it has a character that ZooKeeper refuses in the paths of znodes");
        } else if self.key == "name" && text.contains('/') {
            self.refuse("it has a '/': the member's key in the DCS would be that of another one");
        } else if self.key == "scope" && text.contains('/') {
            self.warn("it has a '/': lists of clusters do not show this one");
        }
    }

    /// `application_name`, slots, `cluster_name`, and the key `sync`.
    fn for_postgresql(&mut self, text: &str) {
        let shown = if self.key == "name" {
            "application_name and the slot's name"
        } else {
            "cluster_name"
        };
        if !text.is_ascii() {
            self.warn(&format!(
                "it is not ASCII: PostgreSQL changes such characters in {shown}"
            ));
        }
        if text.len() > NAME_BYTES_MAX {
            self.warn(&format!(
                "it is longer than {NAME_BYTES_MAX} bytes: PostgreSQL cuts {shown}"
            ));
        }
        if self.key == "name" && text.contains(',') {
            self.warn("it has a ',': the key sync separates names by commas, so this member is never a synchronous standby");
        }
        if text.contains(char::is_whitespace) {
            self.warn("it has a blank: put it in quotes wherever you write it");
        }
    }

    fn for_kubernetes(&mut self, text: &str) {
        if !is_name_of_object(text) {
            let what = if self.key == "name" {
                "it is the pod's name in Kubernetes"
            } else {
                "it begins the names of objects in Kubernetes"
            };
            self.refuse(&format!(
                "{what}, which has only lower-case letters, digits, '-' and '.', between letters or digits"
            ));
        } else if self.key == "scope" && text.len() > NAME_BYTES_MAX {
            self.refuse(&format!(
                "it is the value of a label in Kubernetes, of at most {NAME_BYTES_MAX} characters"
            ));
        }
    }
}

/// `PathUtils.validatePath` of ZooKeeper: private characters, those of no plane but the first, and the last ones of that.
fn is_refused_by_zookeeper(character: char) -> bool {
    matches!(character, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// Kubernetes documentation, "Object Names and IDs": DNS subdomain names.
fn is_name_of_object(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let is_part = |part: &str| {
        part.starts_with(is_letter)
            && part.ends_with(is_letter)
            && part.chars().all(|letter| is_letter(letter) || letter == '-')
    };
    text.len() <= OBJECT_NAME_BYTES_MAX && text.split('.').all(is_part)
}

/// Names and values of labels, which the API server refuses when the first object is written.
fn check_labels(kubernetes: &Map, problems: &mut Vec<Problem>) {
    const NAMES: [&str; 3] = ["scope_label", "role_label", "tmp_role_label"];
    const VALUES: [&str; 3] = [
        "leader_label_value",
        "follower_label_value",
        "standby_leader_label_value",
    ];
    let mut refuse = |path: String, value: &Value, message: &str| {
        problems.push(Problem::error(
            &format!("kubernetes.{path}"),
            value.position.as_ref(),
            message,
        ));
    };
    let value_message = "a label's value in Kubernetes has at most 63 letters, digits, '-', '_' and '.', between letters or digits";
    let name_message = "a label's name in Kubernetes has at most 63 letters, digits, '-', '_' and '.', between letters or \
                        digits, and may have a domain and a '/' before it";
    for key in NAMES {
        if let Some(value) = kubernetes.get(key)
            && value
                .as_str()
                .is_some_and(|text| !text.is_empty() && !is_label_name(text))
        {
            refuse(key.to_owned(), value, name_message);
        }
    }
    for key in VALUES {
        if let Some(value) = kubernetes.get(key)
            && value.as_str().is_some_and(|text| !is_label_value(text))
        {
            refuse(key.to_owned(), value, value_message);
        }
    }
    for key in ["labels", "bootstrap_labels"] {
        let labels = kubernetes.get(key).and_then(Value::as_map);
        for (name, value) in labels.into_iter().flat_map(Map::iter) {
            if !is_label_name(name) {
                refuse(format!("{key}.{name}"), value, name_message);
            } else if value.as_str().is_some_and(|text| !is_label_value(text)) {
                refuse(format!("{key}.{name}"), value, value_message);
            }
        }
    }
}

/// Kubernetes documentation, "Labels and Selectors".
fn is_label_value(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric();
    text.is_empty()
        || (text.len() <= NAME_BYTES_MAX
            && text.starts_with(is_letter)
            && text.ends_with(is_letter)
            && text
                .chars()
                .all(|letter| is_letter(letter) || matches!(letter, '-' | '_' | '.')))
}

fn is_label_name(text: &str) -> bool {
    let (domain, name) = text
        .split_once('/')
        .map_or((None, text), |(domain, name)| (Some(domain), name));
    !name.is_empty() && is_label_value(name) && domain.is_none_or(is_name_of_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Severity::{self, Error, Warning};

    fn found(key: &str, text: &str, store: &str) -> Vec<Problem> {
        let section: Map = [("register_service", true)].into_iter().collect();
        let mut tree = Map::new();
        tree.insert(key, text);
        tree.insert(store, section);
        check(&tree)
    }

    #[test]
    fn names_that_cannot_work_are_refused_and_those_that_are_changed_are_told() {
        let long = "x".repeat(64);
        let longest = "x".repeat(63);
        let table: &[(&str, &str, &str, Option<Severity>)] = &[
            ("name", "pg-1.example_a", "etcd3", None),
            ("name", "Pg 1", "etcd3", Some(Warning)),
            ("name", " a", "etcd3", Some(Warning)),
            ("name", "\u{a0}", "etcd3", Some(Warning)),
            ("name", "a,b", "etcd3", Some(Warning)),
            ("name", "ä", "etcd3", Some(Warning)),
            ("name", &longest, "etcd3", None),
            ("name", &long, "etcd3", Some(Warning)),
            ("name", "a/b", "etcd3", Some(Error)),
            ("name", "/", "etcd3", Some(Error)),
            ("name", "a\nb", "etcd3", Some(Error)),
            ("name", "a\0", "etcd3", Some(Error)),
            ("name", "\u{85}", "etcd3", Some(Error)),
            ("name", ".", "etcd3", Some(Error)),
            ("name", "..", "consul", Some(Error)),
            ("name", "...", "etcd3", None),
            ("name", "😀", "etcd3", Some(Warning)),
            ("name", "😀", "zookeeper", Some(Error)),
            ("name", "\u{e000}", "exhibitor", Some(Error)),
            ("name", "ä", "zookeeper", Some(Warning)),
            ("name", "pg-0", "kubernetes", None),
            ("name", "Pg-0", "kubernetes", Some(Error)),
            ("name", "pg_0", "kubernetes", Some(Error)),
            ("scope", "a/b", "etcd3", Some(Warning)),
            ("scope", "a/../b", "etcd3", Some(Error)),
            ("scope", "a\u{1b}[2Jb", "etcd3", Some(Error)),
            ("scope", "ä", "etcd3", Some(Warning)),
            ("scope", &long, "etcd3", Some(Warning)),
            ("scope", "a,b", "etcd3", None),
            ("scope", "Demo_1", "etcd3", None),
            ("scope", "demo-1", "consul", None),
            ("scope", "Demo_1", "consul", Some(Warning)),
            ("scope", "Demo_1", "kubernetes", Some(Error)),
            ("scope", "demo-1.a", "kubernetes", None),
            ("scope", "demo..a", "kubernetes", Some(Error)),
            ("scope", "demo.-a", "kubernetes", Some(Error)),
            ("scope", "-demo", "kubernetes", Some(Error)),
            ("scope", &longest, "kubernetes", None),
            ("scope", &long, "kubernetes", Some(Error)),
            ("namespace", "/service/", "etcd3", None),
            ("namespace", "a b", "etcd3", None),
            ("namespace", "a/./b", "etcd3", Some(Error)),
            ("namespace", "a\tb", "etcd3", Some(Error)),
        ];
        for (key, text, store, expected) in table {
            let found = found(key, text, store);
            let worst = found.iter().map(|problem| problem.severity).max();
            assert_eq!(worst, *expected, "{key} {text:?} {store}: {found:?}");
        }
    }

    #[test]
    fn the_name_in_consul_is_told() {
        let found = found("scope", "Demo_1", "consul");
        assert_eq!(
            found[0].to_string(),
            "scope: the service in Consul has the name demo-1"
        );
    }

    #[test]
    fn labels_are_those_of_kubernetes() {
        let refused = |text: &str| {
            let tree = crate::yaml::parse("f.yml", text).unwrap();
            let problems = check(tree.as_map().unwrap());
            problems
                .into_iter()
                .map(|problem| problem.path)
                .collect::<Vec<_>>()
        };
        let none: [String; 0] = [];
        let good = "kubernetes: {labels: {app: patroni, example.com/a_b: '', n: 1}, role_label: a/role, leader_label_value: Primary}";
        assert_eq!(refused(good), none);
        let bad = "kubernetes: {labels: {a b: x, c: 'x y', /d: x, e: -x}, role_label: 'r:', scope_label: '', \
                   follower_label_value: ä, bootstrap_labels: {f: x/y}}";
        assert_eq!(
            refused(bad),
            [
                "kubernetes.role_label",
                "kubernetes.follower_label_value",
                "kubernetes.labels.a b",
                "kubernetes.labels.c",
                "kubernetes.labels./d",
                "kubernetes.labels.e",
                "kubernetes.bootstrap_labels.f"
            ]
        );
    }
}
