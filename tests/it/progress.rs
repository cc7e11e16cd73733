//! The line that tells on a terminal what `ctl` waits for, and that nothing of it is anywhere else.

use crate::harness::process::command;
use crate::harness::terminal::{Seen, Terminal};
use crate::harness::{Cluster, newest, seconds};
use rustix::process::{Signal, kill_process};
use std::process::Command;

/// Seconds for a copy: long enough to be seen.
const SLOW: &str = "basebackup:\n  - max-rate: 12M\n";

#[test]
fn a_terminal_shows_what_is_awaited() {
    let mut cluster = Cluster::new(newest(), 2);
    for member in &cluster.members {
        member.edit_config("basebackup:\n", SLOW);
    }
    let leader = cluster.bootstrap();
    let replica = cluster.others(&leader).remove(0);
    // A copy has WAL from the begin on, which does not count among the databases.
    let filler = "create table filler as select repeat('x', 1000) as filling from generate_series(1, 30000)";
    cluster.member(&leader).query(filler).unwrap();
    restart(&cluster, &replica);
    switchover(&cluster, &leader, &replica);
    cluster.wait_until_healthy(seconds(30));
    interrupted_switchover(&cluster, &replica, &leader);
    switchover(&cluster, &leader, &replica);
    cluster.wait_until_healthy(seconds(30));
    reinit(&cluster, &leader);
}

fn restart(cluster: &Cluster, replica: &str) {
    let line = format!("restart {replica}: ");
    let success = format!("Success: restart on member {replica}");
    let arguments = ["restart", "demo", replica, "--force"];
    // A server that does not stop at once.
    let postmaster = cluster.member(replica).postmaster().unwrap();
    kill_process(postmaster, Signal::STOP).unwrap();
    let terminal = on_terminal(cluster, "xterm", &arguments);
    let state = format!("\r{line}restarting (");
    terminal.wait_for("the server's state", |written| written.contains(&state));
    kill_process(postmaster, Signal::CONT).unwrap();
    let seen = terminal.end();
    assert!(
        seen.written
            .contains(&format!("\r{line}waiting for the answer (0 s)\x1b[K")),
        "{}",
        seen.written
    );
    assert_eq!(last_lines(&seen), [&success, ""]);
    assert!(!stands(&seen, &line), "{:?}", seen.screen);

    let piped = cluster.ctl(&arguments);
    assert_eq!((piped.code, &*piped.stderr), (Some(0), ""));
    assert!(
        piped.stdout.ends_with(&format!("-+\n{success}\n")),
        "{}",
        piped.stdout
    );
    assert!(!piped.stdout.contains(&line), "{}", piped.stdout);

    let dumb = on_terminal(cluster, "dumb", &arguments).end();
    let plain = dumb.written.replace("\r\n", "\n");
    assert!(plain.ends_with(&format!("-+\n{success}\n")), "{plain}");
    assert!(
        !plain.contains(&line) && !plain.contains(['\r', '\x1b']),
        "{plain:?}"
    );

    // Somebody keeps the messages: nothing but messages belongs there.
    let messages = cluster.directory.make("messages").join("text");
    let mut shell = command(&cluster.directory, "sh");
    shell.args(["-c", "exec \"$@\" 2>\"$0\""]).arg(&messages);
    shell
        .arg(&cluster.tamada)
        .args(with_config(cluster, &arguments))
        .env("TERM", "xterm");
    let seen = Terminal::start(shell).end();
    assert_eq!(std::fs::read_to_string(messages).unwrap(), "");
    assert_eq!(seen.written.matches("restart").count(), 1, "{}", seen.written);
}

fn switchover(cluster: &Cluster, leader: &str, candidate: &str) {
    let seen = on_terminal(
        cluster,
        "xterm",
        &["switchover", "demo", "--candidate", candidate, "--force"],
    )
    .end();
    let line = format!("\rswitchover: waiting for {leader} to stop and hand over (0 s)\x1b[K");
    assert!(seen.written.contains(&line), "{}", seen.written);
    assert!(!stands(&seen, "switchover: "), "{:?}", seen.screen);
    let answer = format!(" Successfully switched over to \"{candidate}\"");
    assert!(
        seen.screen.iter().any(|line| line.ends_with(&answer)),
        "{:?}",
        seen.screen
    );
}

/// Ctrl-C ends the command, not what it has asked for, and it says so.
fn interrupted_switchover(cluster: &Cluster, leader: &str, candidate: &str) {
    let postmaster = cluster.member(leader).postmaster().unwrap();
    kill_process(postmaster, Signal::STOP).unwrap();
    let mut terminal = on_terminal(
        cluster,
        "xterm",
        &["switchover", "demo", "--candidate", candidate, "--force"],
    );
    terminal.wait_for("the leader stops", |written| {
        written.contains(&format!("switchover: waiting for {leader} to stop (")) || written.contains("(2 s)")
    });
    terminal.type_in("\x03");
    let seen = terminal.end();
    assert_eq!(seen.code, Some(1));
    let aborted =
        "Aborted! The switchover goes on: \"list demo\" shows how far it is, \"why demo\" what came of it";
    assert_eq!(last_lines(&seen), [aborted, ""]);
    kill_process(postmaster, Signal::CONT).unwrap();
    assert_eq!(cluster.wait_for_other_primary(leader, seconds(30)), candidate);
    cluster.wait_until_healthy(seconds(30));
}

fn reinit(cluster: &Cluster, replica: &str) {
    let line = format!("reinit {replica}: ");
    let arguments = ["reinit", "demo", replica, "--force", "--wait"];
    let begins = format!("Success: reinitialize for member {replica}");
    let waits = format!("Waiting for reinitialize to complete on: {replica}");
    let ends = format!("Reinitialize is completed on: {replica}");

    let terminal = on_terminal(cluster, "xterm", &arguments);
    // For example `copying 8 MB of 22 MB (36 %), 7 MB/s, 2 s left (1 s)`.
    let figures = format!("\r{line}copying ");
    terminal.wait_for("the copy's figures", |written| {
        written.split(&figures).skip(1).any(|rest| {
            let shown = rest.split('\x1b').next().unwrap_or_default();
            shown.contains(" MB of ")
                && shown.contains(" %), ")
                && shown.contains("/s, ")
                && shown.contains(" s left (")
        })
    });
    let seen = terminal.end();
    assert_eq!(last_lines(&seen), [&begins, &waits, &ends, ""]);
    assert!(!stands(&seen, &line), "{:?}", seen.screen);
    cluster.wait_until_healthy(seconds(20));

    let piped = cluster.ctl(&arguments);
    assert_eq!((piped.code, &*piped.stderr), (Some(0), ""));
    let expected = format!("-+\n{begins}\n{waits}\n{ends}\n");
    assert!(piped.stdout.ends_with(&expected), "{}", piped.stdout);
    cluster.wait_until_healthy(seconds(20));

    let mut terminal = on_terminal(cluster, "xterm", &arguments);
    terminal.wait_for("the line", |written| written.contains(&figures));
    terminal.type_in("\x03");
    let seen = terminal.end();
    assert_eq!(seen.code, Some(1));
    let aborted =
        format!("Aborted! The reinitialization of {replica} goes on: \"list demo\" shows how far it is");
    assert_eq!(last_lines(&seen), [&begins, &waits, &aborted, ""]);
    assert!(!stands(&seen, &line), "{:?}", seen.screen);
}

fn with_config(cluster: &Cluster, arguments: &[&str]) -> Vec<String> {
    let file = cluster.members[0].config_file.display().to_string();
    let before = ["ctl", "-c", &file];
    before
        .iter()
        .chain(arguments)
        .map(|it| (*it).to_owned())
        .collect()
}

/// The command on a terminal of that type, which is its own, so that Ctrl-C reaches it.
fn on_terminal(cluster: &Cluster, kind: &str, arguments: &[&str]) -> Terminal {
    let mut ctl: Command = command(&cluster.directory, "setsid");
    ctl.arg("--ctty")
        .arg(&cluster.tamada)
        .args(with_config(cluster, arguments));
    ctl.env("TERM", kind);
    Terminal::start(ctl)
}

/// The lines below the table.
fn last_lines(seen: &Seen) -> Vec<&str> {
    let is_rule = |line: &String| line.starts_with('+');
    let table_end = seen.screen.iter().rposition(is_rule).map_or(0, |rule| rule + 1);
    seen.screen[table_end..].iter().map(String::as_str).collect()
}

/// Whether a line has been left on the screen.
fn stands(seen: &Seen, line: &str) -> bool {
    seen.screen.iter().any(|shown| shown.contains(line))
}
