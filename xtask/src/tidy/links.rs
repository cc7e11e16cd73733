//! Links between Markdown pages: each leads to a file and a heading that exist, and the book lists every page of docs/.

use std::collections::BTreeSet;

use super::Finding;

/// A Markdown file.
pub(super) struct Page {
    /// Relative to the workspace's root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

const SUMMARY: &str = "docs/SUMMARY.md";

/// `exists` answers for files and folders that are no pages.
pub(super) fn check(pages: &[Page], exists: impl Fn(&str) -> bool, findings: &mut Vec<Finding>) {
    let mut in_book = BTreeSet::new();
    for page in pages {
        for (line, target) in links(&page.text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let place = format!("{}:{line}", page.path);
            let Some(file) = resolve(&page.path, file) else {
                findings.push(Finding::error(
                    place,
                    format!("the link {target} leaves the project"),
                ));
                continue;
            };
            if page.path == SUMMARY {
                in_book.insert(file.clone());
            }
            // The packages and the book have the pages of docs/ and nothing else.
            if page.path.starts_with("docs/") && !file.starts_with("docs/") {
                let message = format!("the link {target} leaves docs/: name the file in backticks instead");
                findings.push(Finding::error(place, message));
                continue;
            }
            match pages.iter().find(|other| other.path == file) {
                Some(other) if !heading.is_empty() && !has_heading(&other.text, heading) => {
                    findings.push(Finding::error(place, format!("{file} has no heading #{heading}")));
                }
                None if !exists(&file) => {
                    findings.push(Finding::error(place, format!("there is no {file}")));
                }
                _ => {}
            }
        }
    }
    let missing = pages
        .iter()
        .filter(|page| page.path.starts_with("docs/") && page.path != SUMMARY)
        .filter(|page| !in_book.contains(&page.path));
    for page in missing {
        findings.push(Finding::error(
            &page.path,
            format!("{SUMMARY} does not list this page"),
        ));
    }
}

/// The lines of a page outside code blocks, counted from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            return None;
        }
        (!in_code).then_some((index + 1, line))
    })
}

/// Links and images that lead into the project, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let own = targets
            .map(|(target, _)| target)
            .filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
        found.extend(own.map(|target| (number, target)));
    }
    found
}

/// The path from the workspace's root that a link in `page` means; `None` if it leads above the root.
fn resolve(page: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(page.to_owned());
    }
    let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn has_heading(text: &str, wanted: &str) -> bool {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .any(|(_, line)| anchor(line.trim_start_matches('#').trim()) == wanted)
}

/// A heading's anchor, as mdBook and GitHub make it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
    let kept: String = kept.flat_map(char::to_lowercase).collect();
    kept.replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        let pages: Vec<Page> = files
            .iter()
            .map(|(path, text)| Page {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        let mut findings = Vec::new();
        check(&pages, |path| path == "docs/overview.svg", &mut findings);
        findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.place, finding.message))
            .collect()
    }

    #[test]
    fn good_links_pass() {
        let found = messages(&[
            (
                "README.md",
                "[one](docs/one.md#a-heading-x-and-y), [web](https://a.b/c#d)\n",
            ),
            ("docs/SUMMARY.md", "- [One](one.md)\n"),
            (
                "docs/one.md",
                "# One\n## A heading: `x` and y\n[here](#one) ![picture](overview.svg)\n```\n[no](link.md)\n```\n",
            ),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn broken_links_are_found() {
        let found = messages(&[
            ("docs/SUMMARY.md", "- [One](one.md)\n"),
            (
                "docs/one.md",
                "# One\n[a](two.md) [b](#three) [c](../README.md)\n",
            ),
            ("docs/lost.md", "# Lost\n"),
        ]);
        assert_eq!(
            found,
            [
                "docs/one.md:2: there is no docs/two.md",
                "docs/one.md:2: docs/one.md has no heading #three",
                "docs/one.md:2: the link ../README.md leaves docs/: name the file in backticks instead",
                "docs/lost.md: docs/SUMMARY.md does not list this page",
            ]
        );
    }
}
