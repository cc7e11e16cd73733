//! `cargo xtask tidy`: the rules of STYLE.md that a machine can check. Each check is a pure function from what was
//! read to findings; reading happens here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

mod dependencies;
mod layers;
mod links;
mod modules;
mod sizes;
mod source;
mod words;

use dependencies::Workspace;
use links::Page;
pub(crate) use source::Source;

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    severity: Severity,
    /// A file with its line, or a package.
    place: String,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

impl Finding {
    fn error(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.into(),
            message: message.into(),
        }
    }

    fn warning(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            place: place.into(),
            message: message.into(),
        }
    }
}

/// Runs all checks on the workspace and prints what they found.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let root = workspace_root()?;
    let workspace = Workspace::read(root)?;
    let sources = read_workspace(root, &workspace)?;

    let mut findings = Vec::new();
    layers::check(&workspace, &mut findings);
    dependencies::check(&workspace, &mut findings);
    modules::check(&sources, &mut findings);
    let pages = read_pages(root)?;
    links::check(&pages, |path| root.join(path).exists(), &mut findings);
    for source in &sources {
        sizes::check(source, &mut findings);
        words::check(source, &mut findings);
    }

    for finding in &findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        println!("{severity}: {}: {}", finding.place, finding.message);
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    let warnings = findings.len() - errors;
    println!(
        "tidy: {} files, {errors} errors, {warnings} warnings",
        sources.len()
    );
    Ok(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The folder of the workspace.
pub(crate) fn workspace_root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no parent folder")
}

/// The Markdown files that users and engineers read, in a stable order.
fn read_pages(root: &Path) -> anyhow::Result<Vec<Page>> {
    page_files(root)?
        .into_iter()
        .map(|file| {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let path = file.strip_prefix(root).unwrap_or(&file);
            let path = path.to_string_lossy().into_owned();
            Ok(Page { path, text })
        })
        .collect()
}

/// Their paths.
pub(crate) fn page_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in [root.to_owned(), root.join("docs"), root.join("packaging")] {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// All Rust files of the workspace's packages, in a stable order.
pub(crate) fn read_sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    read_workspace(root, &Workspace::read(root)?)
}

fn read_workspace(root: &Path, workspace: &Workspace) -> anyhow::Result<Vec<Source>> {
    let mut files = Vec::new();
    for folder in workspace.folders() {
        for part in ["src", "tests", "benches", "examples"] {
            find_rust_files(&folder.join(part), &mut files)?;
        }
        let build_script = folder.join("build.rs");
        if build_script.exists() {
            files.push(build_script);
        }
    }
    files.sort();
    files
        .iter()
        .map(|file| {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let path = file.strip_prefix(root).unwrap_or(file).to_string_lossy();
            Ok(Source::parse(&path, &text))
        })
        .collect()
}

fn find_rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find_rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}
