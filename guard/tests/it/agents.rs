//! Agents that come and go, freeze and are killed; guards that die.

use crate::scene::*;
use rustix::process::Signal;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tamada_guard::{Client, Error, Exit, Options, Stage};

const AGENT_OF: &str = "TAMADA_TEST_AGENT_OF";

/// Not a test: an agent in a process of its own, that renews until it is stopped.
#[test]
#[ignore = "run by the tests as a process of its own"]
fn renewing_agent() {
    let Some(dir) = std::env::var_os(AGENT_OF).map(PathBuf::from) else {
        return;
    };
    let options = Options {
        runtime_dir: Some(dir.clone()),
        timeout: LIMIT,
        ..Options::new(dir.join("data"))
    };
    let mut client = Client::connect(&options).unwrap().unwrap();
    client.remember("lease", b"\x01\x02 3\n").unwrap();
    loop {
        client.lease(&lease(1_000, 1_100, 1_200)).unwrap();
        std::fs::write(dir.join("renewed"), "").unwrap();
        assert_eq!(client.wait_event(millis(20)).unwrap(), None);
    }
}

/// Starts one and waits until it has renewed.
fn start_agent(scene: &mut Scene) -> Child {
    let mark = scene.dir.path().join("renewed");
    let _ = std::fs::remove_file(&mark);
    let agent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "agents::renewing_agent"])
        .env(AGENT_OF, scene.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    scene.pids.push(pid_of(&agent));
    wait_until("a renewal", || mark.exists());
    agent
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

#[test]
fn an_agent_that_was_killed_comes_back_in_time() {
    let mut scene = Scene::new();
    let mut first = scene.agent();
    assert!(first.was_launched());
    let server = scene.start(&mut first, "polite");
    let guard = first.status().unwrap().guard_pid;
    drop(first);

    let mut agent = start_agent(&mut scene);
    agent.kill().unwrap();
    agent.wait().unwrap();

    let mut back = scene.agent();
    assert!(!back.was_launched());
    back.lease(&lease(60_000, 60_000, 60_000)).unwrap();
    let status = back.status().unwrap();
    assert_eq!(status.guard_pid, guard);
    assert_eq!(status.server.map(|server| server.pid), Some(server));
    assert!(status.server.unwrap().is_child);
    assert!(status.lease.unwrap().fence);
    assert_eq!(
        back.recall("lease").unwrap().as_deref(),
        Some(&b"\x01\x02 3\n"[..])
    );
    assert_eq!(back.wait_event(millis(1_300)).unwrap(), None);
    scene.assert_all_live(server);
}

#[test]
fn an_agent_that_was_killed_and_stays_away_is_fenced() {
    let mut scene = Scene::new();
    let mut first = scene.agent();
    let server = scene.start(&mut first, "stubborn");
    drop(first);
    let mut agent = start_agent(&mut scene);
    agent.kill().unwrap();
    agent.wait().unwrap();
    scene.assert_all_live(server);
    wait_until("the server's end", || !is_alive(server));
    wait_until("the guard's last word", || {
        scene.guard_log().contains("has ended: signal 9")
    });
    scene.assert_nothing_lives(server);
    let last = scene.agent().status().unwrap().last_server.unwrap();
    assert_eq!(
        (last.pid, last.exit, last.stage),
        (server, Exit::Signal(9), Stage::Killing)
    );
}

#[test]
fn a_frozen_agent_is_fenced_and_cannot_renew_after_a_new_one() {
    let mut scene = Scene::new();
    let mut first = scene.agent();
    let server = scene.start(&mut first, "polite");
    drop(first);
    let mut agent = start_agent(&mut scene);
    signal(pid_of(&agent), Signal::STOP);
    wait_until("the server's end", || !is_alive(server));
    scene.assert_nothing_lives(server);
    assert_eq!(scene.log(), ["ready", "INT"]);

    let mut successor = scene.agent();
    let lease = lease(60_000, 60_000, 60_000);
    successor.lease(&lease).unwrap();
    signal(pid_of(&agent), Signal::CONT);
    // It loses its connection, and ends by that.
    assert!(!agent.wait().unwrap().success());
    assert_eq!(successor.status().unwrap().lease, Some(lease));
}

#[test]
fn the_newest_agent_wins() {
    let mut scene = Scene::new();
    let mut first = scene.agent();
    let server = scene.start(&mut first, "polite");
    let mut observer = Client::observe(&scene.options()).unwrap().unwrap();
    first.disarm().unwrap();
    assert_eq!(refusal(observer.disarm()), "not-agent");
    assert_eq!(observer.status().unwrap().server.unwrap().pid, server);

    let mut second = scene.agent();
    assert!(matches!(first.lease(&lease(0, 0, 0)), Err(Error::Gone(_))));
    assert!(matches!(first.events(), Err(Error::Gone(_))));
    second.disarm().unwrap();
    // Many that only look do not push the agent out.
    for _ in 0..10 {
        Client::observe(&scene.options()).unwrap().unwrap();
    }
    let _many: Vec<_> = (0..10)
        .map(|_| Client::observe(&scene.options()).unwrap().unwrap())
        .collect();
    second.disarm().unwrap();
    scene.assert_all_live(server);
}

#[test]
fn the_server_dies_with_its_guard() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    let guard = agent.status().unwrap().guard_pid;
    signal(guard, Signal::KILL);
    wait_until("the server's end", || !is_alive(server));
    assert_eq!(scene.log(), ["ready", "QUIT"]);
    scene.assert_nothing_lives(server);
    wait_until("the news", || matches!(agent.events(), Err(Error::Gone(_))));

    // The socket that it left does not hinder the next one.
    assert!(socket_of(&scene).exists());
    let mut next = scene.agent();
    let status = next.status().unwrap();
    assert_ne!(status.guard_pid, guard);
    assert_eq!(
        (status.server, status.last_server, status.lease),
        (None, None, None)
    );
}

#[test]
fn a_second_guard_is_refused() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    let guard = agent.status().unwrap().guard_pid;
    let (mut said, pipe) = std::io::pipe().unwrap();
    let second = Command::new(scene.options().program)
        .args(["guard", "serve"])
        .arg(&scene.data_dir)
        .arg(socket_of(&scene))
        .arg("1000")
        .stdin(pipe)
        .status()
        .unwrap();
    assert_eq!(second.code(), Some(1));
    let said = std::io::read_to_string(&mut said).unwrap();
    assert!(
        said.contains(&format!("another guard (process {guard}) holds")),
        "{said}"
    );
    agent.disarm().unwrap();
    scene.assert_all_live(server);
}

#[test]
fn a_guard_elsewhere_does_not_take_the_same_data_directory() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut options = scene.options();
    options.runtime_dir = Some(elsewhere.path().into());
    let mut other = Client::connect_or_spawn(&options).unwrap();
    assert!(other.was_launched());
    scene.pids.push(other.status().unwrap().guard_pid);
    assert_eq!(refusal(other.adopt(server)), "locked");
    assert_eq!(refusal(other.start(&scene.server("polite"), None)), "locked");
    other.quit().unwrap();
}

#[test]
fn a_guard_that_nobody_needs_ends() {
    let mut scene = Scene::new();
    let mut options = scene.options();
    options.idle = millis(200);
    let mut agent = Client::connect_or_spawn(&options).unwrap();
    let guard = agent.status().unwrap().guard_pid;
    scene.pids.push(guard);
    // While an agent is there it stays, and so it does for a server.
    assert_eq!(agent.wait_event(millis(400)).unwrap(), None);
    let server = scene.start(&mut agent, "polite");
    assert_eq!(refusal(agent.quit()), "running");
    let mut agent = Client::connect(&options).unwrap().unwrap();
    assert_eq!(agent.wait_event(millis(400)).unwrap(), None);
    drop(agent);
    signal(server, Signal::INT);
    wait_until("the guard's end", || !is_alive(guard));
    assert!(!socket_of(&scene).exists());
    assert!(Client::connect(&options).unwrap().is_none());

    let mut agent = Client::connect_or_spawn(&options).unwrap();
    let guard = agent.status().unwrap().guard_pid;
    agent.quit().unwrap();
    wait_until("the guard's end", || !is_alive(guard));
}
