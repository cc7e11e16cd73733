//! Modules: their names, and files that no `mod` line names, which the compiler silently leaves out.

use std::collections::BTreeMap;

use super::Finding;
use super::source::Source;

/// Names that say nothing about what is inside and so attract everything.
const EMPTY_NAMES: [&str; 9] = [
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "util",
    "utilities",
    "utils",
];

pub(super) fn check(sources: &[Source], findings: &mut Vec<Finding>) {
    let by_path: BTreeMap<&str, &Source> = sources
        .iter()
        .map(|source| (source.path.as_str(), source))
        .collect();
    for source in sources {
        for (index, name) in declared(source).filter(|(_, name)| EMPTY_NAMES.contains(name)) {
            let message = format!("a module named {name} says nothing; name it for what it decides or does");
            findings.push(Finding::error(source.place(index), message));
        }
        let Some((name, parents)) = module(&source.path) else {
            continue;
        };
        let is_declared = parents
            .iter()
            .filter_map(|parent| by_path.get(parent.as_str()))
            .any(|parent| declared(parent).any(|(_, declared)| declared == name));
        if !is_declared && !is_named_by_path(&source.path, sources) {
            findings.push(Finding::error(
                &source.path,
                format!("no `mod {name};` names this file: it is not compiled"),
            ));
        }
    }
}

/// Whether a file beside it has the line `#[path = "FILE"]`.
fn is_named_by_path(path: &str, sources: &[Source]) -> bool {
    let Some((folder, file)) = path.rsplit_once('/') else {
        return false;
    };
    let is_beside = |other: &&Source| other.path.rsplit_once('/').is_some_and(|(it, _)| it == folder);
    sources
        .iter()
        .filter(is_beside)
        .flat_map(|other| &other.lines)
        .any(|line| line.code.trim() == "#[path = \"\"]" && line.strings.iter().any(|named| named == file))
}

/// The modules a file declares, with the index of the line.
fn declared(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.lines.iter().enumerate().filter_map(|(index, line)| {
        let mut words = line
            .code
            .split(|character: char| !character.is_alphanumeric() && character != '_');
        let name = words.find(|word| *word == "mod").and_then(|_| words.next())?;
        (!name.is_empty()).then_some((index, name))
    })
}

/// The name of the module in a file and the files that may declare it; none for the root of a crate.
fn module(path: &str) -> Option<(&str, Vec<String>)> {
    let (folder, file) = path.rsplit_once('/')?;
    let stem = file.strip_suffix(".rs")?;
    let (above, folder_name) = folder.rsplit_once('/').unwrap_or(("", folder));
    // A package's files directly in tests, benches, examples and src/bin are crates of their own.
    let is_crate = matches!(stem, "main" | "lib" | "build")
        || matches!(folder_name, "tests" | "benches" | "examples" | "bin");
    if is_crate {
        return None;
    }
    let (name, folder) = if stem == "mod" {
        (folder_name, above)
    } else {
        (stem, folder)
    };
    let parents = ["mod", "lib", "main"]
        .iter()
        .map(|parent| format!("{folder}/{parent}.rs"));
    Some((name, parents.chain([format!("{folder}.rs")]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::parse(path, text))
            .collect();
        let mut findings = Vec::new();
        check(&sources, &mut findings);
        findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.place, finding.message))
            .collect()
    }

    #[test]
    fn declared_files_are_fine() {
        let files = [
            ("a/src/lib.rs", "mod one;\npub mod two;\n#[cfg(test)] mod tests;"),
            ("a/src/one.rs", "pub(crate) mod three;"),
            ("a/src/one/three.rs", ""),
            ("a/src/two/mod.rs", "mod four;"),
            ("a/src/two/four.rs", ""),
            ("a/src/tests.rs", ""),
            ("a/tests/it/main.rs", "mod five;"),
            ("a/tests/it/five.rs", ""),
            ("src/main.rs", "mod daemon;"),
            ("src/daemon/mod.rs", ""),
            ("src/bin/other.rs", ""),
        ];
        assert_eq!(messages(&files), [""; 0]);
    }

    #[test]
    fn files_that_are_named_by_their_path_are_fine() {
        let parent = "#[path = \"fake_http.rs\"]\nmod http;\n";
        let files = [
            ("a/tests/it/main.rs", "mod fake;"),
            ("a/tests/it/fake.rs", parent),
            ("a/tests/it/fake_http.rs", ""),
        ];
        assert!(messages(&files).is_empty());
    }

    #[test]
    fn forgotten_files_are_found() {
        let found = messages(&[
            ("a/tests/it/main.rs", "// mod lost;\nmod lost_and_found;"),
            ("a/tests/it/lost.rs", ""),
        ]);
        assert_eq!(
            found,
            ["a/tests/it/lost.rs: no `mod lost;` names this file: it is not compiled"]
        );
    }

    #[test]
    fn empty_names_are_found() {
        let found = messages(&[
            ("a/src/lib.rs", "\nmod utils;\nmod process_manager;"),
            ("a/src/utils.rs", ""),
        ]);
        assert_eq!(
            found,
            ["a/src/lib.rs:2: a module named utils says nothing; name it for what it decides or does"]
        );
    }
}
