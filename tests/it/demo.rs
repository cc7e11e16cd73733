//! `make demo`: what it promises to show, and that it leaves nothing behind.

use crate::harness::directory::{Directory, processes_below};
use crate::harness::process::Process;
use crate::harness::wait::holds;
use crate::harness::{eventually, seconds};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;

fn demo(arguments: &[&str]) -> Command {
    let mut demo = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo.sh"));
    demo.args(arguments)
        .env("TAMADA_DEMO_PROGRAM", env!("CARGO_BIN_EXE_tamada"));
    demo
}

fn log(directory: &Directory) -> String {
    std::fs::read_to_string(directory.log_file("demo")).unwrap()
}

/// The folder that the demo works in, once it has printed it.
fn folder(text: &str) -> Option<PathBuf> {
    let begin = text.find("/tmp/tamada-demo.")?;
    let path: String = text[begin..]
        .chars()
        .take("/tmp/tamada-demo.".len() + 6)
        .collect();
    Some(PathBuf::from(path))
}

#[track_caller]
fn nothing_is_left(folder: &Path) {
    assert!(!folder.exists(), "{} is still there", folder.display());
    // A guard sees that its agent and its server have ended, and ends too.
    eventually("nothing runs any more", seconds(10), || {
        let left = processes_below(folder);
        holds(left.is_empty(), || format!("{left:?}"))
    });
}

/// One after the other: they would race for the demo's ports.
#[test]
fn it_keeps_its_promises() {
    interrupting_it_removes_everything();
    a_failover_is_shown();
}

fn a_failover_is_shown() {
    let directory = Directory::new();
    let mut check = Process::spawn(&directory, "demo", demo(&["--check"]));
    let status = check.wait(seconds(200));
    let text = log(&directory);
    assert!(status.success(), "{status}");
    for expected in [
        "takes writes, ",
        "Connect      ",
        "/psql\n",
        "/ctl why\n",
        "failover: pg",
        "     kill -9 ",
        "the primary was ",
        ": no writes for ",
        " has come back as a replica: yes",
        "| Leader ",
        "| streaming ",
    ] {
        assert!(text.contains(expected), "{expected:?} was not shown");
    }
    nothing_is_left(&folder(&text).unwrap());
}

fn interrupting_it_removes_everything() {
    let directory = Directory::new();
    let mut demo = Process::spawn(&directory, "demo", demo(&[]));
    eventually("the client writes", seconds(90), || {
        let text = log(&directory);
        holds(
            text.contains("takes writes, ") && text.contains("| Leader "),
            || text,
        )
    });
    demo.signal(Signal::INT);
    assert!(demo.wait(seconds(60)).success());
    let text = log(&directory);
    nothing_is_left(&folder(&text).unwrap());
}
