//! Debian hosts with systemd, as `scripts/debian-hosts.sh` makes them: network namespaces, overlay roots, packages.
//!
//! The root that they share is made when it is not there, in `target/debian-forky`, or is that of
//! `TAMADA_TEST_DEBIAN_ROOT`, to which nothing is written.

use super::versions::target;
use super::wait::eventually;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/debian-hosts.sh");
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package.sh");

/// How long anything that an operator types may take, on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

pub struct Hosts {
    folder: PathBuf,
    names: Vec<String>,
    sweeper: Child,
    /// The hosts end when this is closed, which a killed test does as well.
    lifeline: Option<ChildStdin>,
}

impl Hosts {
    /// `node1` and so on, up and running. The calling thread, and those that it starts from now on, see their network.
    #[track_caller]
    pub fn start(count: usize) -> Self {
        let own = || target().join("debian-forky");
        let root = std::env::var_os("TAMADA_TEST_DEBIAN_ROOT").map_or_else(own, PathBuf::from);
        done(Command::new(SCRIPT).arg("root").arg(&root));
        let folder = tempfile::Builder::new()
            .prefix("tamada-hosts-")
            .tempdir_in("/tmp");
        let folder = folder.unwrap().keep();
        let mut sweeper = Command::new("bash")
            .args(["-c", r#"read -r _; exec "$0" down "$1""#, SCRIPT])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let lifeline = sweeper.stdin.take();
        let this = Self {
            names: (1..=count).map(|number| format!("node{number}")).collect(),
            folder,
            sweeper,
            lifeline,
        };
        let mut up = Command::new(SCRIPT);
        done(up.arg("up").arg(&this.folder).arg(root).arg(count.to_string()));
        let prefix = fs::read_to_string(this.folder.join("prefix")).unwrap();
        let network = File::open(format!("/run/netns/{}-lan", prefix.trim())).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        this
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn address(node: &str) -> String {
        format!("10.78.0.1{}", node.trim_start_matches("node"))
    }

    /// What the command printed; it must succeed.
    #[track_caller]
    pub fn run(&self, node: &str, command: &str) -> String {
        let output = self.attempt(node, command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{node}: {command}: {text}{errors}");
        text
    }

    /// The command as root in a shell of the host, for as long as [`COMMAND_LIMIT`].
    pub fn attempt(&self, node: &str, command: &str) -> Output {
        let limit = COMMAND_LIMIT.as_secs().to_string();
        let mut inside = Command::new("timeout");
        inside
            .arg(limit)
            .arg(SCRIPT)
            .arg("in")
            .arg(&self.folder)
            .arg(node);
        inside.args(["bash", "-c", command]).stdin(Stdio::null());
        inside.output().unwrap()
    }

    /// Waits until the command prints something of which this can be said.
    #[track_caller]
    pub fn wait_for(
        &self,
        node: &str,
        command: &str,
        limit: Duration,
        holds: impl Fn(&str) -> bool,
    ) -> String {
        eventually(&format!("{node}: {command}"), limit, || {
            let output = self.attempt(node, command);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            match holds(&text) {
                true => Ok(text),
                false => Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr))),
            }
        })
    }

    /// Runs the command on all hosts at once; it must succeed on each.
    #[track_caller]
    pub fn run_on_all(&self, command: &str) {
        std::thread::scope(|scope| {
            let threads = self
                .names
                .iter()
                .map(|node| scope.spawn(|| self.run(node, command)));
            for thread in threads.collect::<Vec<_>>() {
                thread.join().unwrap();
            }
        });
    }

    /// A file of this machine, on the host.
    #[track_caller]
    pub fn copy(&self, node: &str, from: &Path, to: &str) {
        let mut inside = Command::new(SCRIPT);
        inside.arg("in").arg(&self.folder).arg(node);
        inside.args(["sh", "-c", &format!("cat > {to}")]);
        done(inside.stdin(File::open(from).unwrap()));
    }

    /// The Debian packages of the program under test, in `/root` of every host.
    #[track_caller]
    pub fn bring_packages(&self) {
        let out = self.folder.join("packages");
        let mut package = Command::new(PACKAGE);
        package.args([
            "deb",
            "--fast",
            "--program",
            env!("CARGO_BIN_EXE_tamada"),
            "--out",
        ]);
        done(package.arg(&out));
        for package in fs::read_dir(out).unwrap() {
            let path = package.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let name = name.split('_').next().unwrap();
            for node in &self.names {
                self.copy(node, &path, &format!("/root/{name}.deb"));
            }
        }
    }

    /// All processes of the host end at once, without a word.
    #[track_caller]
    pub fn crash(&self, node: &str) {
        done(Command::new(SCRIPT).arg("crash").arg(&self.folder).arg(node));
    }

    #[track_caller]
    pub fn boot(&self, node: &str) {
        done(Command::new(SCRIPT).arg("boot").arg(&self.folder).arg(node));
    }

    fn show_journals(&self) {
        for node in &self.names {
            let journal =
                "journalctl --no-pager -n 120 -o short-precise; tail -n 30 /var/log/postgresql/*.log";
            let output = self.attempt(node, journal);
            println!("\n==== {node}\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_journals();
        }
        drop(self.lifeline.take());
        let _ = self.sweeper.wait();
    }
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
}
