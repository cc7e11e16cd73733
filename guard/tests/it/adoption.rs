//! Servers that something else has started.

use crate::scene::*;
use rustix::process::Signal;
use std::process::{Child, Command, Stdio};
use tamada_guard::{Event, Exit, Stage};

fn start_outside(scene: &mut Scene, mode: &str) -> (Child, i32) {
    let command = scene.server(mode);
    let child = Command::new("setsid")
        .arg(&command.program)
        .args(&command.args)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    scene.pids.push(pid);
    scene.wait_for_log("ready");
    (child, pid)
}

#[test]
fn an_adopted_server_is_fenced_like_any_other() {
    let mut scene = Scene::new();
    let (mut child, server) = start_outside(&mut scene, "stubborn");
    let mut agent = scene.agent();
    let adopted = agent.adopt(server).unwrap();
    assert_eq!((adopted.pid, adopted.is_child), (server, false));
    assert_eq!(agent.status().unwrap().server, Some(adopted));
    // Once more is no error.
    assert_eq!(agent.adopt(server).unwrap(), adopted);
    assert_eq!(refusal(agent.start(&scene.server("polite"), None)), "running");

    agent.lease(&lease(50, 150, 200)).unwrap();
    let (stages, exit) = events_until_exit(&mut agent);
    assert_eq!(stages, [Stage::FastStop, Stage::ImmediateStop, Stage::Killing]);
    assert_eq!(exit, Exit::Unknown);
    assert_eq!(scene.log(), ["ready", "INT", "QUIT"]);
    // Those of a process that is not ours, the guard cannot wait for.
    wait_until("the children's end", || {
        !scene.children().into_iter().any(is_alive)
    });
    child.wait().unwrap();
    scene.assert_nothing_lives(server);
}

#[test]
fn an_adopted_server_outlives_its_guard_and_is_adopted_again() {
    let mut scene = Scene::new();
    let (mut child, server) = start_outside(&mut scene, "polite");
    let mut agent = scene.agent();
    agent.adopt(server).unwrap();
    let guard = agent.status().unwrap().guard_pid;
    signal(guard, Signal::KILL);
    wait_until("the guard's end", || !is_alive(guard));
    scene.assert_all_live(server);

    let mut agent = scene.agent();
    agent.adopt(server).unwrap();
    signal(server, Signal::INT);
    assert_eq!(
        next_event(&mut agent),
        Event::Exited {
            pid: server,
            exit: Exit::Unknown
        }
    );
    child.wait().unwrap();
    assert_eq!(agent.status().unwrap().server, None);
}

#[test]
fn what_is_no_server_of_ours_is_not_adopted() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let mut ended = Command::new("true").spawn().unwrap();
    let pid = i32::try_from(ended.id()).unwrap();
    ended.wait().unwrap();
    for pid in [pid, 0, 1, -1, i32::MAX] {
        assert_eq!(refusal(agent.adopt(pid)), "gone", "{pid}");
    }
    let guard = agent.status().unwrap().guard_pid;
    assert_eq!(refusal(agent.adopt(guard)), "failed");
}

#[test]
fn with_a_lease_that_has_run_out_nothing_is_adopted() {
    let mut scene = Scene::new();
    let (_child, server) = start_outside(&mut scene, "polite");
    let mut agent = scene.agent();
    agent.lease(&lease(0, 0, 0)).unwrap();
    assert_eq!(refusal(agent.adopt(server)), "expired");
    agent.disarm().unwrap();
    agent.adopt(server).unwrap();
    scene.assert_all_live(server);
}
