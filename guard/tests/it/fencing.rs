//! The deadline.

use crate::scene::*;
use rustix::process::Signal;
use tamada_guard::{BootTime, Event, Exit, Lease, ServerSignal, Stage};

#[test]
fn a_lease_that_runs_out_stops_the_server_fast() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    agent.lease(&lease(60_000, 60_000, 60_000)).unwrap();
    let server = scene.start(&mut agent, "polite");
    let short = lease(100, 60_000, 60_000);
    agent.lease(&short).unwrap();
    assert_eq!(
        events_until_exit(&mut agent),
        (vec![Stage::FastStop], Exit::Code(0))
    );
    assert!(BootTime::now() >= short.stop_at);
    assert_eq!(scene.log(), ["ready", "INT"]);
    scene.assert_nothing_lives(server);
    let status = agent.status().unwrap();
    let last = status.last_server.unwrap();
    assert_eq!(
        (last.pid, last.exit, last.stage),
        (server, Exit::Code(0), Stage::FastStop)
    );
    assert_eq!(status.server, None);
}

#[test]
fn a_server_that_does_not_obey_is_killed_with_all_its_children() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "stubborn");
    let short = lease(100, 300, 400);
    agent.lease(&short).unwrap();
    let (stages, exit) = events_until_exit(&mut agent);
    assert_eq!(stages, [Stage::FastStop, Stage::ImmediateStop, Stage::Killing]);
    assert_eq!(exit, Exit::Signal(9));
    // At the moment of the event already.
    scene.assert_nothing_lives(server);
    assert!(BootTime::now() >= short.kill_at());
    assert_eq!(scene.log(), ["ready", "INT", "QUIT"]);
    wait_until("the guard's own words", || {
        scene.guard_log().contains("killing of PostgreSQL")
    });
}

#[test]
fn a_deadline_that_has_passed_kills_at_once() {
    // As after a suspension of the machine.
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    let past = Lease {
        deadline: BootTime::from_nanos(1),
        stop_at: BootTime::from_nanos(1),
        kill_after: None,
        fence: true,
    };
    agent.lease(&past).unwrap();
    assert_eq!(
        events_until_exit(&mut agent),
        (vec![Stage::Killing], Exit::Signal(9))
    );
    assert_eq!(scene.log(), ["ready"]);
    scene.assert_nothing_lives(server);
}

#[test]
fn a_halted_server_is_killed_too() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    signal(server, Signal::STOP);
    agent.lease(&lease(50, 100, 150)).unwrap();
    assert_eq!(events_until_exit(&mut agent).1, Exit::Signal(9));
    scene.assert_nothing_lives(server);
}

#[test]
fn renewals_keep_it_and_disarming_too() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    let end = BootTime::now() + millis(2_500);
    while BootTime::now() < end {
        assert_eq!(agent.lease(&lease(1_000, 1_500, 2_000)).unwrap(), Stage::Running);
        assert_eq!(agent.wait_event(millis(50)).unwrap(), None);
    }
    agent.disarm().unwrap();
    assert_eq!(agent.wait_event(millis(2_100)).unwrap(), None);
    assert_eq!(scene.log(), ["ready"]);
    scene.assert_all_live(server);
}

#[test]
fn a_replica_is_never_fenced() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    let replica = Lease {
        fence: false,
        ..lease(0, 0, 0)
    };
    agent.lease(&replica).unwrap();
    assert_eq!(agent.wait_event(millis(600)).unwrap(), None);
    drop(agent);
    let mut agent = scene.agent();
    assert_eq!(agent.wait_event(millis(300)).unwrap(), None);
    assert_eq!(agent.status().unwrap().lease, Some(replica));
    assert_eq!(scene.log(), ["ready"]);
    scene.assert_all_live(server);
}

#[test]
fn the_agent_signals_through_the_guard() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    assert_eq!(refusal(agent.signal(ServerSignal::Fast)), "gone");
    scene.start(&mut agent, "stubborn");
    agent.signal(ServerSignal::Reload).unwrap();
    scene.wait_for_log("HUP");
    agent.signal(ServerSignal::Fast).unwrap();
    scene.wait_for_log("INT");
    agent.signal(ServerSignal::Immediate).unwrap();
    scene.wait_for_log("QUIT");
    agent.signal(ServerSignal::Kill).unwrap();
    assert_eq!(events_until_exit(&mut agent), (vec![], Exit::Signal(9)));
    scene.assert_nothing_lives(*scene.pids.last().unwrap());
}

#[test]
fn backends_of_a_killed_postmaster_do_not_survive_it() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    signal(server, Signal::KILL);
    assert_eq!(
        next_event(&mut agent),
        Event::Exited {
            pid: server,
            exit: Exit::Signal(9)
        }
    );
    scene.assert_nothing_lives(server);
    // A lease that lasts permits the restart in place.
    agent.lease(&lease(60_000, 60_000, 60_000)).unwrap();
    std::fs::remove_file(scene.data_dir.join("children")).unwrap();
    let server = scene.start(&mut agent, "polite");
    scene.assert_all_live(server);
}
