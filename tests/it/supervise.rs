//! An agent with a parent that starts it again: it dies or hangs, and clients do not notice. As process 1 of a
//! container the program is such a parent by itself. And what it tells an init system.

use crate::harness::cluster::{Program, Timers};
use crate::harness::directory::{postgres_user, wait_until_all_ended};
use crate::harness::process::{Process, command};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, Writer, eventually, newest, oldest, seconds};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a client may notice of an agent that is replaced, on a busy machine.
const UNNOTICED: Duration = seconds(2);

/// Longer than a silence that is borne, with the timers of these tests (4.5 s), and a start.
const REPLACED: Duration = seconds(12);

#[test]
fn an_agent_that_dies_or_hangs_is_replaced_and_nobody_notices() {
    let mut cluster = Cluster::new(newest(), 2);
    let supervised = Program {
        arguments: vec!["run".to_owned(), "--supervise".to_owned()],
        ..cluster.tamada_program()
    };
    for member in &mut cluster.members {
        member.program = supervised.clone();
    }
    let leader = cluster.bootstrap();
    let postmaster = cluster.member(&leader).postmaster();
    let writer = Writer::start(&cluster);
    for signal in [Signal::KILL, Signal::STOP, Signal::ABORT] {
        let begin = Instant::now();
        let supervisor = cluster.member_mut(&leader).agent().pid();
        let agent = only_child(supervisor).unwrap();
        kill_process(agent, signal).unwrap();
        let next = eventually("another agent runs", REPLACED, || {
            let child = only_child(supervisor)?;
            holds(child != agent, || "still the same one".to_owned())?;
            Ok::<_, String>(child)
        });
        eventually("it answers", seconds(5), || {
            holds(cluster.member(&leader).status_code("/primary") == 200, || {
                "not yet".to_owned()
            })
        });
        // By then the lease of the former one would be over.
        let lease_over = begin + seconds(Timers::SHORT.ttl + 1);
        std::thread::sleep(lease_over.saturating_duration_since(Instant::now()));
        let silence = writer.longest_silence(begin);
        println!("{signal:?} of the agent: no writes for {silence:?}");
        assert!(
            silence < crate::harness::patience(UNNOTICED),
            "{signal:?}: no writes for {silence:?}"
        );
        assert_eq!(cluster.wait_until_healthy(seconds(10)), leader);
        assert_eq!(cluster.member(&leader).postmaster(), postmaster);
        assert_eq!(only_child(supervisor).unwrap(), next, "it stays");
    }
    let log = cluster.member(&leader).log();
    for said in [
        "ERROR: supervisor: the agent was ended by signal 9; another one is started in 100ms",
        "has given no sign of life for",
    ] {
        assert!(log.contains(said), "{said}");
    }
    let timeline = "select timeline_id from pg_control_checkpoint()";
    assert_eq!(cluster.member(&leader).value(timeline), "1");
    writer.assert_nothing_lost();
    drop(writer);

    a_broken_configuration_is_waited_for(&mut cluster, &leader);
    the_end_is_passed_on(&mut cluster);
}

/// It could be used before: whoever has broken it will mend it.
fn a_broken_configuration_is_waited_for(cluster: &mut Cluster, leader: &str) {
    let member = cluster.member_mut(leader);
    let good = member.config();
    member.write_config(&good.replace("restapi:\n", "restapi: [\n"));
    let supervisor = member.agent().pid();
    kill_process(only_child(supervisor).unwrap(), Signal::KILL).unwrap();
    member.wait_for_log(
        "the agent has ended with exit code 1; another one is started in",
        seconds(10),
    );
    member.write_config(&good);
    cluster.wait_until_healthy(seconds(30));
}

fn the_end_is_passed_on(cluster: &mut Cluster) {
    for member in &mut cluster.members {
        member.stop();
        wait_until_all_ended(&member.home());
    }
}

#[test]
fn what_cannot_begin_ends_with_its_error() {
    let cluster = Cluster::without_etcd(oldest(), 1, 1, Timers::SHORT);
    let member = &cluster.members[0];
    member.edit_config("restapi:\n", "restapi: [\n");
    let mut supervisor = command(&cluster.directory, &cluster.tamada);
    supervisor.args(["run", "--supervise"]).arg(&member.config_file);
    let output = crate::harness::process::run(supervisor);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    let place = format!("{}:", member.config_file.display());
    assert!(output.stderr.contains(&place), "{}", output.stderr);
    assert_eq!(output.stderr.matches(&place).count(), 1, "{}", output.stderr);
}

/// It waits for etcd, and has begun nothing.
#[test]
fn one_that_waits_for_its_store_can_be_ended() {
    let mut cluster = Cluster::without_etcd(oldest(), 1, 1, Timers::SHORT);
    let program = cluster.tamada_program();
    let member = &mut cluster.members[0];
    member.program = Program {
        arguments: vec!["run".to_owned(), "--supervise".to_owned()],
        ..program
    };
    member.start();
    member.wait_for_log("waiting on etcd", seconds(20));
    member.stop();
    wait_until_all_ended(&member.config_file);
}

#[test]
fn process_1_is_a_supervisor_and_takes_in_orphans() {
    let mut cluster = Cluster::new(newest(), 1);
    let mut container = vec!["--pid", "--fork", "--kill-child", "--mount-proc"];
    match postgres_user() {
        Some(_) => container.extend(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]),
        None => container
            .splice(0..0, ["--user", "--map-current-user"])
            .for_each(drop),
    }
    let is_permitted = Command::new("unshare").args(&container).arg("true").output();
    if !is_permitted.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user may not make a process namespace here");
        return;
    }
    let script = cluster.directory.write(
        "orphan.sh",
        "#!/bin/sh\nsetsid sleep 0.3 &\necho $1 >>\"$0.log\"\n",
    );
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let member = &mut cluster.members[0];
    let callbacks = format!(
        "  use_unix_socket: true\n  callbacks: {{on_start: {}}}\n",
        script.display()
    );
    member.edit_config("  use_unix_socket: true\n", &callbacks);
    let mut unshare = Command::new("unshare");
    unshare
        .args(&container)
        .arg(&cluster.tamada)
        .arg("run")
        .arg(&member.config_file);
    unshare
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    let mut outside = Process::spawn(&cluster.directory, "pg1", unshare);
    cluster.wait_for_primary(seconds(60));
    let member = &cluster.members[0];
    let started = member.value("select pg_postmaster_start_time()");
    let first = only_child(outside.pid()).unwrap();
    let agent = eldest_child(first);
    assert_ne!(agent, None, "the agent has a parent");
    kill_process(agent.unwrap(), Signal::KILL).unwrap();
    eventually("another agent runs", REPLACED, || {
        let is_another = children(first)
            .into_iter()
            .any(|pid| Some(pid) != agent && is_agent(pid, member));
        holds(is_another, || "none".to_owned())?;
        holds(member.status_code("/primary") == 200, || {
            "it does not lead".to_owned()
        })
    });
    assert_eq!(member.value("select pg_postmaster_start_time()"), started);
    let called = fs::read_to_string(format!("{}.log", script.display())).unwrap_or_default();
    assert!(called.contains("on_start"), "{called:?}");
    eventually("every orphan that has ended is taken in", seconds(10), || {
        let left: Vec<String> = children(first).into_iter().map(state).collect();
        let dead = left
            .iter()
            .any(|state| state.contains("(sleep)") || state.contains(") Z"));
        holds(!dead, || format!("{left:?}"))
    });
    kill_process(first, Signal::TERM).unwrap();
    let status = outside.wait(seconds(30));
    assert!(status.success(), "{status}");
    let log = member.log();
    assert!(
        log.contains("database system is shut down"),
        "PostgreSQL was not stopped in order"
    );
}

#[test]
fn an_init_system_is_told_how_it_is() {
    let mut cluster = Cluster::new(newest(), 1);
    let path = cluster.directory.path().join("notify");
    let init = UnixDatagram::bind(&path).unwrap();
    cluster.give_away(&path);
    init.set_read_timeout(Some(seconds(20))).unwrap();
    let member = &mut cluster.members[0];
    member.environment = vec![
        ("NOTIFY_SOCKET", path.to_str().unwrap().to_owned()),
        ("WATCHDOG_USEC", "30000000".to_owned()),
    ];
    member.start();
    hear(&init, |text| text == "READY=1");
    hear(&init, |text| {
        text == "STATUS=primary, running: no action. I am (pg1), the leader with the lock"
    });
    let mut alive = 0;
    let begin = Instant::now();
    while begin.elapsed() < seconds(3) {
        hear(&init, |text| text == "WATCHDOG=1");
        alive += 1;
    }
    assert!((2..30).contains(&alive), "{alive} signs of life in 3 s");

    member.agent().signal(Signal::HUP);
    let reloading = hear(&init, |text| text.starts_with("RELOADING=1"));
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    hear(&init, |text| text == "READY=1");

    member.agent().signal(Signal::STOP);
    init.set_read_timeout(Some(seconds(2))).unwrap();
    let mut buffer = [0; 4096];
    let silent = (0..1000).any(|_| init.recv(&mut buffer).is_err());
    assert!(silent, "one that is frozen gives no sign of life");
    member.agent().signal(Signal::CONT);
    init.set_read_timeout(Some(seconds(20))).unwrap();
    hear(&init, |text| text == "WATCHDOG=1");

    member.agent().signal(Signal::TERM);
    hear(&init, |text| text == "STOPPING=1");
    member.wait_until_stopped();
}

/// By the timers of these tests: see `src/daemon/pulse.rs`.
#[test]
fn how_long_silence_is_borne_follows_from_the_timers() {
    let mut cluster = Cluster::new(newest(), 1);
    let path = cluster.directory.path().join("notify");
    let init = UnixDatagram::bind(&path).unwrap();
    cluster.give_away(&path);
    init.set_read_timeout(Some(seconds(20))).unwrap();
    let member = &mut cluster.members[0];
    let supervised = Program {
        arguments: vec!["run".to_owned(), "--supervise".to_owned()],
        ..member.program.clone()
    };
    let environment = vec![
        ("NOTIFY_SOCKET", path.to_str().unwrap().to_owned()),
        ("WATCHDOG_USEC", "30000000".to_owned()),
    ];
    member.environment = environment;
    member.start();
    hear(&init, |text| text == "WATCHDOG_USEC=4520000");
    let leads = |text: &str| text.starts_with("STATUS=primary, running: no action");
    hear(&init, leads);
    member.stop();

    // Of a supervisor init wants to know how it is itself; what the agent says of its state is passed on.
    member.program = supervised;
    while init.set_nonblocking(true).is_ok() && init.recv(&mut [0; 4096]).is_ok() {}
    init.set_nonblocking(false).unwrap();
    member.start();
    let mut seen = Vec::new();
    hear(&init, |text| {
        seen.push(text.to_owned());
        leads(text)
    });
    assert!(seen.iter().any(|text| text == "READY=1"), "{seen:?}");
    assert!(seen.iter().any(|text| text == "WATCHDOG=1"), "{seen:?}");
    assert!(
        !seen.iter().any(|text| text.contains("WATCHDOG_USEC")),
        "{seen:?}"
    );
    member.stop();
}

/// Waits for a message, and gives it.
#[track_caller]
fn hear(init: &UnixDatagram, mut is_wanted: impl FnMut(&str) -> bool) -> String {
    let begin = Instant::now();
    let mut heard = Vec::new();
    while begin.elapsed() < seconds(30) {
        let mut buffer = [0; 4096];
        let Ok(length) = init.recv(&mut buffer) else { break };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if is_wanted(&text) {
            return text;
        }
        heard.push(text);
    }
    panic!("did not hear it, but {heard:?}");
}

fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero();
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

fn only_child(parent: Pid) -> Result<Pid, String> {
    match children(parent).as_slice() {
        [child] => Ok(*child),
        other => Err(format!("children: {other:?}")),
    }
}

fn eldest_child(parent: Pid) -> Option<Pid> {
    children(parent).first().copied()
}

fn is_agent(pid: Pid, member: &Member) -> bool {
    let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    line.contains(member.config_file.to_str().unwrap())
}

fn state(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default()
}
