//! Names that are parts of keys, slots and connections: those that cannot work are refused, those that are changed on the way are told.

use crate::problem::Problem;
use crate::value::{Map, Value};

/// What PostgreSQL keeps of an `application_name` and of a slot's name, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// What is wrong with `name` and `scope`.
pub(super) fn check(tree: &Map) -> Vec<Problem> {
    let mut problems = Vec::new();
    for key in ["name", "scope"] {
        let Some(value) = tree.get(key) else { continue };
        let Some(text) = value.as_str() else { continue };
        problems.extend(judge(key, text, value));
    }
    let is_on_kubernetes = tree.get("kubernetes").is_some_and(Value::is_truthy);
    if let Some(value) = tree.get("scope").filter(|_| is_on_kubernetes)
        && let Some(scope) = value.as_str()
        && !is_name_of_object(scope)
    {
        let message = "Kubernetes takes lower-case letters, digits, '-' and '.' only in the names of objects that are made of it";
        problems.push(Problem::error("scope", value.position.as_ref(), message));
    }
    problems
}

fn judge(key: &str, text: &str, value: &Value) -> Option<Problem> {
    let position = value.position.as_ref();
    let refused = |message: &str| Some(Problem::error(key, position, message));
    let warned = |message: &str| Some(Problem::warning(key, position, message));
    let is_member = key == "name";
    if text.chars().any(char::is_control) {
        return refused(
            "it has a control character, such as a line feed: the keys in the DCS are made of it",
        );
    }
    if is_member && text.contains('/') {
        return refused("it has a '/': the member's key in the DCS would be that of another one");
    }
    if text.contains('/') {
        return warned("it has a '/': lists of clusters do not show this one");
    }
    if is_member && !text.is_ascii() {
        return warned(
            "it is not ASCII: PostgreSQL shows other characters in application_name, and the slot is called otherwise",
        );
    }
    if is_member && text.len() > NAME_BYTES_MAX {
        return warned("it is longer than 63 bytes: PostgreSQL cuts application_name and the slot's name");
    }
    if text.contains(char::is_whitespace) {
        return warned("it has a blank: put it in quotes wherever you write it");
    }
    None
}

/// Kubernetes documentation, "Object Names and IDs": DNS subdomain names.
fn is_name_of_object(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.starts_with(is_letter)
        && text.ends_with(is_letter)
        && text
            .chars()
            .all(|letter| is_letter(letter) || matches!(letter, '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Severity;

    #[test]
    fn names_that_cannot_work_are_refused() {
        for (key, text, store, expected) in [
            ("name", "pg-1.example_a", "etcd3", None),
            ("name", "a/b", "etcd3", Some(Severity::Error)),
            ("name", "a\nb", "etcd3", Some(Severity::Error)),
            ("name", " a", "etcd3", Some(Severity::Warning)),
            ("name", "a b", "etcd3", Some(Severity::Warning)),
            ("name", "ä", "etcd3", Some(Severity::Warning)),
            ("name", &"x".repeat(64), "etcd3", Some(Severity::Warning)),
            ("name", &"x".repeat(63), "etcd3", None),
            ("scope", "a/b", "etcd3", Some(Severity::Warning)),
            ("scope", "a\u{1b}[2Jb", "etcd3", Some(Severity::Error)),
            ("scope", "Demo_1", "etcd3", None),
            ("scope", "Demo_1", "kubernetes", Some(Severity::Error)),
            ("scope", "demo-1.a", "kubernetes", None),
        ] {
            let mut tree = Map::new();
            tree.insert(key, text);
            tree.insert(store, "x");
            let found = check(&tree);
            assert_eq!(
                found.first().map(|problem| problem.severity),
                expected,
                "{key} {text:?}: {found:?}"
            );
        }
    }
}
