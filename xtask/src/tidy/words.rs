//! Words that do not belong into code or comments, and the sentence each file begins with.

use super::Finding;
use super::source::Source;

/// Notes for later: a known gap is an issue, not a comment.
const UNFINISHED_COMMENTS: [&str; 3] = ["TODO", "FIXME", "XXX"];
const UNFINISHED_CODE: [&str; 2] = ["todo!(", "unimplemented!("];

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let begins = source
        .lines
        .iter()
        .find(|line| !line.code.trim().is_empty() || !line.comment.trim().is_empty());
    if begins.is_some_and(|line| !line.comment.starts_with("//!")) {
        findings.push(Finding::error(
            source.place(0),
            "a file begins with `//!`: what it decides or does",
        ));
    }

    for (index, line) in source.lines.iter().enumerate() {
        for word in UNFINISHED_CODE.iter().filter(|word| line.code.contains(**word)) {
            findings.push(Finding::error(
                source.place(index),
                format!("`{word})` is unfinished code"),
            ));
        }
        let comment = without_quotations(&line.comment);
        for word in UNFINISHED_COMMENTS
            .iter()
            .filter(|word| words(&comment).any(|found| found == **word))
        {
            findings.push(Finding::error(
                source.place(index),
                format!("{word}: finish it, or file an issue"),
            ));
        }
        if words(&line.code).chain(words(&comment)).any(says_old_word) {
            let message =
                "say `primary`; Patroni's old word may stand in string literals and between backticks only";
            findings.push(Finding::error(source.place(index), message));
        }
    }
}

/// Identifiers and words.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '_')
        .filter(|word| !word.is_empty())
}

/// Whether a part of the identifier is "master": `is_master`, `MasterStart`, but not `postmaster`.
fn says_old_word(identifier: &str) -> bool {
    let mut part = String::new();
    let mut before_is_lower = false;
    for character in identifier.chars().chain(['_']) {
        if character == '_' || (character.is_uppercase() && before_is_lower) {
            if matches!(part.as_str(), "master" | "masters") {
                return true;
            }
            part.clear();
        }
        before_is_lower = character.is_lowercase();
        part.extend(character.to_lowercase().filter(|character| *character != '_'));
    }
    false
}

/// The comment without what stands between backticks or quotation marks.
fn without_quotations(comment: &str) -> String {
    let mut kept = comment.to_owned();
    for quote in ['`', '"'] {
        let parts: Vec<&str> = kept.split(quote).collect();
        // An opening mark that is never closed quotes nothing.
        let closed = parts.len() - usize::from(parts.len().is_multiple_of(2));
        kept = parts
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 2 == 0 || *i >= closed)
            .map(|(_, part)| *part)
            .collect();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(
            &Source::parse("a/src/lib.rs", &format!("//! What it does.\n{text}")),
            &mut findings,
        );
        findings
            .into_iter()
            .map(|finding| format!("{} {}", finding.place, finding.message))
            .collect()
    }

    #[test]
    fn a_file_begins_with_its_sentence() {
        let mut findings = Vec::new();
        check(
            &Source::parse("a/src/lib.rs", "use a;\n//! Late.\n"),
            &mut findings,
        );
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "a/src/lib.rs:1");
        assert_eq!(messages(""), [""; 0]);
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(messages("// TODO: later\n").len(), 1);
        assert_eq!(messages("fn a() { todo!() }\n").len(), 1);
        assert_eq!(messages("const A: &str = \"TODO todo!()\";\n"), [""; 0]);
    }

    #[test]
    fn primary_is_the_word() {
        for text in [
            "fn is_master() {}",
            "struct MasterKey;",
            "// the master is gone",
            "/// Masters.",
            "const MASTER: u8 = 1;",
        ] {
            assert_eq!(messages(text).len(), 1, "{text}");
        }
        for text in [
            "fn postmaster() {}",
            "let a = \"master\";",
            "// Patroni's `/master` and \"master\"",
            "PostmasterPid;",
        ] {
            assert_eq!(messages(text), [""; 0], "{text}");
        }
    }
}
