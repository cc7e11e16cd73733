//! What the workspace depends on, as Cargo resolved it; floors of versions and crates that stay out.
//!
//! Floors stand here because a list of known vulnerabilities has to be fetched, and the tests must pass offline once
//! the crates are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::Finding;

/// (crate, lowest version that may be used, why)
const FLOORS: [(&str, [u64; 3], &str); 4] = [
    ("rustls", [0, 23, 45], "RUSTSEC-2026-0285"),
    (
        "rustls-webpki",
        [0, 103, 13],
        "RUSTSEC-2026-0098 and RUSTSEC-2026-0104",
    ),
    (
        "tokio-postgres",
        [0, 7, 18],
        "security fixes in the handling of server messages",
    ),
    (
        "postgres-protocol",
        [0, 6, 12],
        "security fixes in the handling of server messages",
    ),
];

/// (crate, why it stays out)
const BANNED: [(&str, &str); 5] = [
    (
        "openssl-sys",
        "TLS is rustls with ring: one stack, no system library",
    ),
    (
        "native-tls",
        "TLS is rustls with ring: one stack, no system library",
    ),
    (
        "aws-lc-sys",
        "the provider is ring; a second one costs a minute of build time",
    ),
    (
        "rustls-pemfile",
        "unmaintained (RUSTSEC-2025-0134); rustls-pki-types reads PEM",
    ),
    (
        "serde_yaml",
        "unmaintained, and reads YAML 1.2 where Patroni reads 1.1",
    ),
];

/// The packages of the workspace and all they need.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// Members by name.
    pub(super) members: BTreeMap<String, Member>,
    /// All resolved packages by identifier.
    packages: BTreeMap<String, Package>,
}

/// A package of the workspace.
#[derive(Debug, Default)]
pub(super) struct Member {
    id: String,
    folder: PathBuf,
    /// Names of all declared dependencies: normal, build and dev.
    pub(super) dependencies: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Package {
    name: String,
    version: String,
    /// Identifiers of resolved dependencies, those for tests and build scripts left out.
    normal: Vec<String>,
}

impl Workspace {
    /// Asks Cargo. The lock file must be up to date.
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        // Without the filter, Cargo downloads the crates of other systems too.
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "metadata",
                "--locked",
                "--format-version=1",
                "--filter-platform",
                &platform,
            ])
            .current_dir(root)
            .output()
            .context("cannot start cargo metadata")?;
        ensure!(
            output.status.success(),
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata wrote no JSON")?;
        Self::from_metadata(&metadata)
    }

    fn from_metadata(metadata: &Value) -> anyhow::Result<Self> {
        let mut workspace = Self::default();
        let member_ids: BTreeSet<&str> = array(metadata, "workspace_members")?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        for package in array(metadata, "packages")? {
            let (id, name) = (text(package, "id")?, text(package, "name")?);
            if member_ids.contains(id) {
                let dependencies = array(package, "dependencies")?
                    .iter()
                    .map(|one| Ok(text(one, "name")?.to_owned()));
                let manifest = Path::new(text(package, "manifest_path")?);
                let member = Member {
                    id: id.to_owned(),
                    folder: manifest.parent().unwrap_or(manifest).to_owned(),
                    dependencies: dependencies.collect::<anyhow::Result<_>>()?,
                };
                workspace.members.insert(name.to_owned(), member);
            }
            let version = text(package, "version")?.to_owned();
            let resolved = Package {
                name: name.to_owned(),
                version,
                normal: Vec::new(),
            };
            workspace.packages.insert(id.to_owned(), resolved);
        }
        let resolve = metadata.get("resolve").context("cargo metadata lacks resolve")?;
        for node in array(resolve, "nodes")? {
            let Some(package) = workspace.packages.get_mut(text(node, "id")?) else {
                bail!("cargo metadata resolves a package that it does not list");
            };
            for dependency in array(node, "deps")? {
                // The kind is null for a normal dependency.
                if array(dependency, "dep_kinds")?
                    .iter()
                    .any(|kind| kind.get("kind").is_some_and(Value::is_null))
                {
                    package.normal.push(text(dependency, "pkg")?.to_owned());
                }
            }
        }
        Ok(workspace)
    }

    /// The folders of the members.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.members.values().map(|member| member.folder.as_path())
    }

    /// Everything that is linked into a member, with a path that shows why it is there: `a > b > c`.
    pub(super) fn linked_into(&self, member: &str) -> BTreeMap<&str, String> {
        let mut found = BTreeMap::new();
        let mut open: Vec<(&str, String)> = Vec::new();
        open.extend(
            self.members
                .get(member)
                .map(|start| (start.id.as_str(), String::new())),
        );
        while let Some((id, path)) = open.pop() {
            let Some(package) = self.packages.get(id) else {
                continue;
            };
            if found.contains_key(package.name.as_str()) {
                continue;
            }
            let path = if path.is_empty() {
                package.name.clone()
            } else {
                format!("{path} > {}", package.name)
            };
            open.extend(package.normal.iter().map(|next| (next.as_str(), path.clone())));
            found.insert(package.name.as_str(), path);
        }
        found.remove(member);
        found
    }
}

pub(super) fn check(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for package in workspace.packages.values() {
        let place = format!("Cargo.lock: {} {}", package.name, package.version);
        for (_, floor, reason) in FLOORS.iter().filter(|(name, ..)| *name == package.name) {
            if numbers(&package.version) < *floor {
                let [major, minor, patch] = floor;
                findings.push(Finding::error(
                    &place,
                    format!("needs {major}.{minor}.{patch} or newer: {reason}"),
                ));
            }
        }
        for (_, reason) in BANNED.iter().filter(|(name, _)| *name == package.name) {
            findings.push(Finding::error(&place, format!("stays out: {reason}")));
        }
    }
}

/// The three numbers of a version; what follows (`-rc.1`, `+build`) is left out.
fn numbers(version: &str) -> [u64; 3] {
    let mut parts = version
        .split(['.', '-', '+'])
        .map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

fn array<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a Vec<Value>> {
    value
        .get(key)
        .and_then(Value::as_array)
        .with_context(|| format!("cargo metadata lacks the list {key}"))
}

fn text<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    value
        .get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("cargo metadata lacks the text {key}"))
}

/// A workspace from `name: dependency, (dev) dependency` lines, for the tests of checks. Names without a line of their
/// own are crates from outside, `name@version` gives a version.
#[cfg(test)]
pub(super) fn workspace(lines: &[&str]) -> Workspace {
    let mut workspace = Workspace::default();
    for line in lines {
        let (name, dependencies) = line.split_once(':').unwrap();
        let mut member = Member {
            id: name.to_owned(),
            ..Member::default()
        };
        let mut package = Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            normal: Vec::new(),
        };
        for dependency in dependencies
            .split(',')
            .map(str::trim)
            .filter(|dependency| !dependency.is_empty())
        {
            let (is_dev, dependency) = dependency
                .strip_prefix("(dev) ")
                .map_or((false, dependency), |rest| (true, rest));
            let (name, version) = dependency.split_once('@').unwrap_or((dependency, "1.0.0"));
            member.dependencies.insert(name.to_owned());
            if !is_dev {
                package.normal.push(name.to_owned());
            }
            let outside = Package {
                name: name.to_owned(),
                version: version.to_owned(),
                normal: Vec::new(),
            };
            workspace.packages.entry(name.to_owned()).or_insert(outside);
        }
        workspace.members.insert(name.to_owned(), member);
        workspace.packages.insert(name.to_owned(), package);
    }
    workspace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(lines: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        check(&workspace(lines), &mut findings);
        findings
            .into_iter()
            .map(|finding| format!("{} {}", finding.place, finding.message))
            .collect()
    }

    #[test]
    fn floors_hold() {
        assert_eq!(messages(&["a: rustls@0.23.45, rustls-webpki@0.104.0"]), [""; 0]);
        assert_eq!(
            messages(&["a: rustls@0.23.9"]),
            ["Cargo.lock: rustls 0.23.9 needs 0.23.45 or newer: RUSTSEC-2026-0285"]
        );
        assert_eq!(
            messages(&["a: tokio-postgres@0.7.17, (dev) postgres-protocol@0.5.20"]).len(),
            2
        );
    }

    #[test]
    fn banned_crates_stay_out() {
        let found = messages(&["a: b, (dev) openssl-sys", "b: serde_yaml@0.9.34"]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("0.23.9") < numbers("0.23.45"));
        assert!(numbers("1.0.0-rc.1+build") == [1, 0, 0]);
    }

    #[test]
    fn what_is_linked_is_followed_without_tests() {
        let workspace = workspace(&["a: b, (dev) e", "b: c", "e: d"]);
        let linked = workspace.linked_into("a");
        assert_eq!(linked.keys().copied().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(linked["c"], "a > b > c");
    }

    #[test]
    fn metadata_is_read() {
        let metadata = serde_json::json!({
            "workspace_members": ["path+file:///w/a#0.1.0"],
            "packages": [
                { "id": "path+file:///w/a#0.1.0", "name": "a", "version": "0.1.0", "manifest_path": "/w/a/Cargo.toml",
                  "dependencies": [{ "name": "b" }, { "name": "c" }] },
                { "id": "registry#b@1.2.3", "name": "b", "version": "1.2.3", "manifest_path": "/r/b/Cargo.toml",
                  "dependencies": [] },
                { "id": "registry#c@1.0.0", "name": "c", "version": "1.0.0", "manifest_path": "/r/c/Cargo.toml",
                  "dependencies": [] },
            ],
            "resolve": { "nodes": [
                { "id": "path+file:///w/a#0.1.0", "deps": [
                    { "pkg": "registry#b@1.2.3", "dep_kinds": [{ "kind": null }, { "kind": "dev" }] },
                    { "pkg": "registry#c@1.0.0", "dep_kinds": [{ "kind": "dev" }] },
                ] },
                { "id": "registry#b@1.2.3", "deps": [] },
                { "id": "registry#c@1.0.0", "deps": [] },
            ] },
        });
        let workspace = Workspace::from_metadata(&metadata).unwrap();
        assert_eq!(workspace.folders().collect::<Vec<_>>(), [Path::new("/w/a")]);
        assert_eq!(
            workspace.members["a"].dependencies.iter().collect::<Vec<_>>(),
            ["b", "c"]
        );
        assert_eq!(workspace.linked_into("a").into_keys().collect::<Vec<_>>(), ["b"]);
    }
}
