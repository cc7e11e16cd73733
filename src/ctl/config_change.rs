//! Changes to the dynamic configuration as `edit-config` takes them, and how they are shown.

use config::yaml;
use config::{Kind, Map, Value};
use similar::TextDiff;

/// Sets `KEY=VALUE`. The key is a dotted path; below `postgresql.parameters` the rest of the path is one parameter's
/// name. The value is read as YAML; `null` removes the key, and with it the mappings above it that it leaves empty.
///
/// # Errors
/// There is no key or no `=`, or the value is no YAML.
pub(crate) fn set(config: &mut Map, assignment: &str) -> Result<(), String> {
    let (key, value) = assignment
        .split_once('=')
        .filter(|(key, _)| !key.trim().is_empty())
        .ok_or_else(|| format!("Invalid parameter setting {assignment}"))?;
    let value = yaml::parse(key.trim(), value)
        .map_err(|problem| format!("Invalid parameter setting {assignment}: {problem}"))?;
    let key = key.trim();
    match key.strip_prefix("postgresql.parameters.") {
        Some(parameter) => set_path(config, &["postgresql", "parameters", parameter], value),
        None => set_path(config, &key.split('.').collect::<Vec<_>>(), value),
    }
    Ok(())
}

fn set_path(config: &mut Map, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] if value.is_null() => {
            config.remove(key);
        }
        [key] => {
            config.insert(*key, value);
        }
        [key, rest @ ..] => {
            let mut inner = config
                .get(key)
                .and_then(Value::as_map)
                .cloned()
                .unwrap_or_default();
            set_path(&mut inner, rest, value);
            if inner.is_empty() {
                config.remove(key);
            } else {
                config.insert(*key, inner);
            }
        }
    }
}

/// Reads a whole configuration, or a patch, from YAML.
///
/// # Errors
/// It is no YAML, or no mapping.
pub(crate) fn read(source: &str, text: &str) -> Result<Map, String> {
    let value = yaml::parse(source, text).map_err(|problem| problem.to_string())?;
    let found = value.describe();
    match value.kind {
        Kind::Map(map) => Ok(map),
        Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::String(_) | Kind::List(_) => Err(
            format!("{source}: the configuration must be a mapping, found {found}"),
        ),
    }
}

/// The configuration as people read and edit it.
pub(crate) fn to_yaml(config: &Map) -> String {
    yaml::dump(&Value::from(config.clone()))
}

/// The configuration as it stands in the DCS.
pub(crate) fn to_json(config: &Map) -> String {
    serde_json::Value::from(config).to_string()
}

/// What changes from `before` to `after`, as a unified diff.
pub(crate) fn diff(before: &str, after: &str) -> String {
    let (before, after) = (one_line_end(before), one_line_end(after));
    TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(3)
        .header("", "")
        .to_string()
}

fn one_line_end(text: &str) -> String {
    format!("{}\n", text.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const CONFIG: &str =
        "{ttl: 30, slots: {}, postgresql: {parameters: {work_mem: 4MB, a.b: 1}, use_slots: true}}";

    fn check(assignments: &[&str], expected: &Expect) {
        let mut config = read("test", CONFIG).unwrap();
        let before = to_yaml(&config);
        for assignment in assignments {
            set(&mut config, assignment).unwrap();
        }
        expected.assert_eq(&diff(&before, &to_yaml(&config)));
    }

    #[test]
    fn a_value_is_yaml() {
        check(
            &["ttl=20"],
            &expect![[r#"
            --- 
            +++ 
            @@ -4,4 +4,4 @@
                 work_mem: 4MB
               use_slots: true
             slots: {}
            -ttl: 30
            +ttl: 20
        "#]],
        );
        check(
            &["a.b.c = {x: [1, off]}"],
            &expect![[r#"
            --- 
            +++ 
            @@ -1,3 +1,9 @@
            +a:
            +  b:
            +    c:
            +      x:
            +      - 1
            +      - false
             postgresql:
               parameters:
                 a.b: 1
        "#]],
        );
    }

    #[test]
    fn null_removes_and_empty_parents_go_with_it() {
        check(
            &["ttl=null"],
            &expect![[r#"
            --- 
            +++ 
            @@ -4,4 +4,3 @@
                 work_mem: 4MB
               use_slots: true
             slots: {}
            -ttl: 30
        "#]],
        );
        check(
            &[
                "postgresql.parameters.work_mem=null",
                "postgresql.parameters.a.b=",
            ],
            &expect![[r#"
                --- 
                +++ 
                @@ -1,7 +1,4 @@
                 postgresql:
                -  parameters:
                -    a.b: 1
                -    work_mem: 4MB
                   use_slots: true
                 slots: {}
                 ttl: 30
            "#]],
        );
        check(&["nothing.here=null"], &expect![[""]]);
    }

    #[test]
    fn a_parameter_may_have_dots() {
        check(
            &["postgresql.parameters.pg_stat_statements.track=all"],
            &expect![[r#"
                --- 
                +++ 
                @@ -1,6 +1,7 @@
                 postgresql:
                   parameters:
                     a.b: 1
                +    pg_stat_statements.track: all
                     work_mem: 4MB
                   use_slots: true
                 slots: {}
            "#]],
        );
    }

    #[test]
    fn a_scalar_in_the_way_is_replaced() {
        check(
            &["ttl.x=1"],
            &expect![[r#"
            --- 
            +++ 
            @@ -4,4 +4,5 @@
                 work_mem: 4MB
               use_slots: true
             slots: {}
            -ttl: 30
            +ttl:
            +  x: 1
        "#]],
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let mut config = Map::new();
        assert_eq!(
            set(&mut config, "ttl"),
            Err("Invalid parameter setting ttl".to_owned())
        );
        assert!(
            set(&mut config, "ttl=[")
                .is_err_and(|text| text.starts_with("Invalid parameter setting ttl=[: "))
        );
        assert!(
            read("f.yml", "- 1")
                .is_err_and(|text| text == "f.yml: the configuration must be a mapping, found a list")
        );
        assert!(config.is_empty());
    }
}
