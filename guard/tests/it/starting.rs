//! How a server is started.

use crate::scene::*;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tamada_guard::{Client, Exit, ServerCommand};

fn shell(script: &str) -> ServerCommand {
    ServerCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![
            ("PATH".into(), "/usr/bin:/bin".into()),
            ("PGTZ".into(), "a b\nc=d".into()),
        ],
        current_dir: Some("/usr".into()),
    }
}

fn own_nice() -> i32 {
    rustix::process::getpriority_process(None).unwrap()
}

#[test]
fn it_gets_what_it_was_given_and_nothing_else() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let (mut out, out_end) = std::io::pipe().unwrap();
    let (mut err, err_end) = std::io::pipe().unwrap();
    let script = "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= | sort; pwd; nice; echo $$ $PPID; ps -o sid= -p $$; cat; \
                  ls -l /proc/$$/fd | grep -e guard -e timerfd -e pidfd; echo complaint >&2; exit 7";
    let server = agent
        .start(&shell(script), Some([out_end.as_fd(), err_end.as_fd()]))
        .unwrap();
    drop((out_end, err_end));
    assert_eq!(events_until_exit(&mut agent), (vec![], Exit::Code(7)));
    let (mut said, mut complained) = (String::new(), String::new());
    out.read_to_string(&mut said).unwrap();
    err.read_to_string(&mut complained).unwrap();
    let guard = agent.status().unwrap().guard_pid;
    let pid = server.pid;
    let nice = own_nice();
    assert_eq!(
        said.lines().map(str::trim).collect::<Vec<_>>(),
        [
            "PATH=/usr/bin:/bin",
            "PGTZ=a b",
            "c=d",
            "/usr",
            &nice.to_string(),
            &format!("{pid} {guard}"),
            &pid.to_string(),
        ]
    );
    assert_eq!(complained, "complaint\n");
    assert!(server.is_child && server.start_ticks > 0);
}

#[test]
fn without_descriptors_it_writes_to_the_guards_log() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    agent
        .start(&shell("echo hello; echo there >&2; exit 0"), None)
        .unwrap();
    assert_eq!(events_until_exit(&mut agent), (vec![], Exit::Code(0)));
    let log = scene.guard_log();
    assert!(log.contains("hello\nthere\n"), "{log}");
}

#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let missing = ServerCommand {
        program: "/nowhere/postgres".into(),
        ..shell("")
    };
    let error = agent.start(&missing, None).unwrap_err().to_string();
    assert_eq!(
        error,
        "the guard refused: cannot execute /nowhere/postgres: No such file or directory (os error 2)"
    );
    let lost = ServerCommand {
        current_dir: Some("/nowhere".into()),
        ..shell("")
    };
    assert_eq!(refusal(agent.start(&lost, None)), "gone");
    assert_eq!(agent.status().unwrap().server, None);
    assert_eq!(agent.wait_event(millis(50)).unwrap(), None);
    scene.start(&mut agent, "polite");
}

#[test]
fn the_log_collector_of_a_start_that_failed_writes_down_why() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let log = scene.data_dir.join("log");
    let script = "setsid sh -c 'sleep 0.1; echo why >> $0' $0 & setsid sleep 1000 & echo $! > $0.pid; exit 1";
    let mut command = shell(script);
    command.args.push(log.into());
    agent.start(&command, None).unwrap();
    assert_eq!(events_until_exit(&mut agent), (vec![], Exit::Code(1)));
    // It had its time, and what took more did not.
    assert_eq!(scene.log(), ["why"]);
    let other = fs::read_to_string(scene.data_dir.join("log.pid")).unwrap();
    assert!(!is_alive(other.trim().parse().unwrap()));
}

#[test]
fn a_command_line_may_be_long() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let mut command = shell("test ${#LONG} = 100000");
    command.env.push(("LONG".into(), "é".repeat(50_000).into()));
    agent.start(&command, None).unwrap();
    assert_eq!(events_until_exit(&mut agent), (vec![], Exit::Code(0)));
}

#[test]
fn one_server_at_a_time_and_none_by_a_lease_that_has_run_out() {
    let mut scene = Scene::new();
    let mut agent = scene.agent();
    let server = scene.start(&mut agent, "polite");
    assert_eq!(refusal(agent.start(&scene.server("polite"), None)), "running");
    agent.lease(&lease(0, 60_000, 60_000)).unwrap();
    assert_eq!(events_until_exit(&mut agent).1, Exit::Code(0));
    scene.assert_nothing_lives(server);
    assert_eq!(refusal(agent.start(&scene.server("polite"), None)), "expired");
    agent.disarm().unwrap();
    scene.start(&mut agent, "polite");
}

#[test]
fn an_upgrade_of_the_program_does_not_disturb_it() {
    let mut scene = Scene::new();
    let program = scene.dir.path().join("tamada");
    fs::copy(scene.options().program, &program).unwrap();
    let mut options = scene.options();
    options.program.clone_from(&program);
    let mut agent = Client::connect_or_spawn(&options).unwrap();
    scene.pids.push(agent.status().unwrap().guard_pid);
    fs::remove_file(&program).unwrap();
    fs::write(&program, "a newer one").unwrap();
    let server = scene.start(&mut agent, "polite");
    assert!(agent.status().unwrap().server.unwrap().is_child);
    scene.assert_all_live(server);
}

/// Says of a copy of this test's process that it is one.
const IS_COPY: &str = "TAMADA_TEST_IS_COPY";

/// An agent hears of the end of its children by a signal, which interrupts whatever its thread waits for.
#[test]
fn the_end_of_other_children_does_not_disturb_it() {
    let test = "starting::the_end_of_other_children_does_not_disturb_it";
    if std::env::var_os(IS_COPY).is_none() {
        // Signals go to a process's first thread, which runs the test only where no other may.
        let copy = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--test-threads=1", "--nocapture"])
            .env(IS_COPY, "1")
            .status();
        assert!(copy.unwrap().success());
        return;
    }
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::clone(&seen)).unwrap();
    let has_ended = Arc::new(AtomicBool::new(false));
    let noise = std::thread::spawn({
        let has_ended = Arc::clone(&has_ended);
        move || {
            while !has_ended.load(Ordering::SeqCst) {
                Command::new("/bin/true").status().unwrap();
            }
        }
    });
    for _ in 0..10 {
        drop(Scene::new().agent());
    }
    has_ended.store(true, Ordering::SeqCst);
    noise.join().unwrap();
    assert!(seen.load(Ordering::SeqCst));
}
