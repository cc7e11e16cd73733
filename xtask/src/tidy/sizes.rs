//! Files and functions that want splitting. Tests do not count: a table of cases may be long.

use super::Finding;
use super::source::{Source, end_of_item};

/// Lines of a file, tests left out.
const FILE_WARNING: usize = 600;
const FILE_ERROR: usize = 800;
/// Lines with code in a function.
const FUNCTION_WARNING: usize = 60;

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.lines.iter().filter(|line| !line.is_test).count();
    let message = format!("{lines} lines without tests; split it by what it decides or does");
    if lines > FILE_ERROR {
        findings.push(Finding::error(
            &source.path,
            format!("{message} (limit {FILE_ERROR})"),
        ));
    } else if lines > FILE_WARNING {
        findings.push(Finding::warning(&source.path, message));
    }

    for (index, line) in source.lines.iter().enumerate().filter(|(_, line)| !line.is_test) {
        let Some((column, name)) = function(&line.code) else {
            continue;
        };
        let Some(end) = end_of_item(&source.lines, index, column) else {
            continue;
        };
        let length = source
            .lines
            .iter()
            .take(end + 1)
            .skip(index)
            .filter(|line| !line.code.trim().is_empty())
            .count();
        if length > FUNCTION_WARNING {
            let message = format!(
                "function {name} has {length} lines of code; over {FUNCTION_WARNING} wants splitting"
            );
            findings.push(Finding::warning(source.place(index), message));
        }
    }
}

/// The position of `fn` and the name of the function that begins on this line.
fn function(code: &str) -> Option<(usize, &str)> {
    let column = if code.trim_start().starts_with("fn ") {
        code.find("fn ")
    } else {
        code.find(" fn ").map(|at| at + 1)
    };
    let column = column?;
    let rest = code.get(column + 3..)?;
    let length = rest
        .find(|character: char| !character.is_alphanumeric() && character != '_')
        .unwrap_or(rest.len());
    // `fn(` is a type.
    rest.get(..length)
        .filter(|name| !name.is_empty())
        .map(|name| (column, name))
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn findings(text: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        check(&Source::parse("a/src/lib.rs", text), &mut findings);
        findings
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(findings(&"use a;\n".repeat(600)), []);
        assert_eq!(
            findings(&"use a;\n".repeat(601))
                .first()
                .map(|finding| finding.severity),
            Some(Severity::Warning)
        );
        assert_eq!(
            findings(&"use a;\n".repeat(801))
                .first()
                .map(|finding| finding.severity),
            Some(Severity::Error)
        );
    }

    #[test]
    fn tests_do_not_count() {
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\nfn a() {{\n{}}}\n}}\n",
            "b();\n".repeat(900)
        );
        assert_eq!(findings(&tests), []);
    }

    #[test]
    fn long_functions_are_found() {
        let function = |lines: usize| {
            format!(
                "pub(crate) async fn run() {{\n{}}}\n",
                "// why\n\n    b();\n".repeat(lines)
            )
        };
        assert_eq!(findings(&function(58)), []);
        let found = findings(&function(59));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "a/src/lib.rs:1");
        assert!(
            found[0].message.starts_with("function run has 61 lines"),
            "{}",
            found[0].message
        );
    }
}
