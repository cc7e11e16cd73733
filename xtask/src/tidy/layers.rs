//! Which package may depend on which, and that the pure ones stay pure.

use super::Finding;
use super::dependencies::Workspace;

/// (package, our packages that it may depend on; tests are bound too)
const LAYERS: [(&str, &[&str]); 10] = [
    ("tamada-config", &[]),
    ("tamada-ha", &["tamada-config"]),
    ("tamada-net", &["tamada-config"]),
    ("tamada-guard", &[]),
    ("tamada-dcs", &["tamada-config", "tamada-ha", "tamada-net"]),
    ("tamada-postgres", &["tamada-config", "tamada-ha", "tamada-net"]),
    ("tamada-sim", &["tamada-config", "tamada-ha", "tamada-dcs"]),
    (
        "tamada",
        &[
            "tamada-config",
            "tamada-ha",
            "tamada-net",
            "tamada-guard",
            "tamada-dcs",
            "tamada-postgres",
            "tamada-sim",
        ],
    ),
    ("tamada-fuzz", &["tamada-config", "tamada-dcs", "tamada"]),
    ("xtask", &[]),
];

/// Packages that decide: no network, no files, no clock, no randomness, no log.
const PURE: [&str; 2] = ["tamada-config", "tamada-ha"];

/// Crates through which I/O would come in, directly or by way of others.
const IMPURE: [&str; 20] = [
    "async-io",
    "async-std",
    "axum",
    "etcd-client",
    "fastrand",
    "getrandom",
    "hyper",
    "mio",
    "nix",
    "rand",
    "reqwest",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-postgres",
    "tonic",
    "tracing",
];

pub(super) fn check(workspace: &Workspace, findings: &mut Vec<Finding>) {
    for (name, member) in &workspace.members {
        let Some((_, allowed)) = LAYERS.iter().find(|(package, _)| package == name) else {
            findings.push(Finding::error(
                name,
                "has no place among the layers: add it to xtask/src/tidy/layers.rs",
            ));
            continue;
        };
        let ours = member
            .dependencies
            .iter()
            .filter(|dependency| workspace.members.contains_key(*dependency));
        for dependency in ours.filter(|dependency| !allowed.contains(&dependency.as_str())) {
            findings.push(Finding::error(name, format!("must not depend on {dependency}")));
        }
    }
    for name in PURE {
        for (linked, path) in workspace.linked_into(name) {
            if IMPURE.contains(&linked) {
                findings.push(Finding::error(
                    name,
                    format!("decides and does no I/O, but links {linked}: {path}"),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dependencies::workspace;
    use super::*;

    fn messages(lines: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        check(&workspace(lines), &mut findings);
        findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.place, finding.message))
            .collect()
    }

    #[test]
    fn edges_point_downwards() {
        let fine = [
            "tamada-config: serde_json",
            "tamada-ha: tamada-config",
            "tamada: tamada-ha, tokio",
        ];
        assert_eq!(messages(&fine), [""; 0]);
        assert_eq!(
            messages(&["tamada-config: (dev) tamada-ha", "tamada-ha: "]),
            ["tamada-config: must not depend on tamada-ha"]
        );
        assert_eq!(
            messages(&[
                "tamada-sim: tamada-postgres, tamada",
                "tamada-postgres: ",
                "tamada: "
            ]),
            [
                "tamada-sim: must not depend on tamada",
                "tamada-sim: must not depend on tamada-postgres"
            ]
        );
    }

    #[test]
    fn a_new_package_needs_a_place() {
        assert_eq!(messages(&["tamada-raft: "]).len(), 1);
    }

    #[test]
    fn pure_packages_link_no_io() {
        assert_eq!(
            messages(&[
                "tamada-config: ",
                "tamada-ha: tamada-config, jiff, (dev) tempfile",
                "xtask: tokio"
            ]),
            [""; 0]
        );
        assert_eq!(
            messages(&["tamada-config: tokio", "tamada-ha: tamada-config"]),
            [
                "tamada-config: decides and does no I/O, but links tokio: tamada-config > tokio",
                "tamada-ha: decides and does no I/O, but links tokio: tamada-ha > tamada-config > tokio",
            ]
        );
    }
}
