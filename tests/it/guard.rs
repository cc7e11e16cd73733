//! An agent that dies or freezes: the guard keeps its promise in its place. A client writes all the time; witnesses look
//! out for two primaries.

use crate::harness::cluster::Timers;
use crate::harness::directory::processes_below;
use crate::harness::{Cluster, Witnesses, Writer, newest, seconds};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

/// As short as every agent of this program permits.
const SHORTEST: Timers = Timers {
    ttl: 5,
    loop_wait: 1,
    retry_timeout: 1,
};

/// Longer than the lease and the race for it take.
const LEASE_RUNS_OUT: Duration = seconds(20);

/// What a client may notice of a restart beside a guard that does not answer, on a busy machine.
const FROZEN_GUARD: Duration = seconds(6);

/// What a client may notice of an agent that comes back at once, on a busy machine.
const UNNOTICED: Duration = seconds(2);

#[test]
fn an_agent_that_dies_or_freezes_leaves_no_second_primary() {
    let mut cluster = Cluster::with(newest(), 3, 1, SHORTEST);
    cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    agent_is_killed_and_comes_back_at_once(&mut cluster, &writer);
    agent_is_killed_and_nobody_starts_it(&mut cluster, &writer);
    agent_freezes(&mut cluster, &writer);
    guard_is_killed(&mut cluster, &writer);
    guard_freezes_before_a_restart(&mut cluster, &writer);

    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

fn agent_is_killed_and_comes_back_at_once(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(seconds(30));
    let postmaster = cluster.member(&leader).postmaster();
    let begin = Instant::now();
    kill_agent(cluster, &leader);
    cluster.member_mut(&leader).start();
    // By then the lease of the one that died would be over.
    std::thread::sleep(seconds(SHORTEST.ttl + 1));
    let silence = writer.longest_silence(begin);
    println!("agent back at once: no writes for {silence:?}");
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    assert_eq!(cluster.member(&leader).postmaster(), postmaster);
    assert!(
        silence < crate::harness::patience(UNNOTICED),
        "no writes for {silence:?}"
    );
}

fn agent_is_killed_and_nobody_starts_it(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(seconds(30));
    let begin = Instant::now();
    kill_agent(cluster, &leader);
    cluster.wait_for_other_primary(&leader, LEASE_RUNS_OUT);
    assert_eq!(
        cluster.member(&leader).postmaster(),
        None,
        "the guard has stopped it"
    );
    writer.wait_for_write("after SIGKILL of the agent", seconds(5));
    println!("agent killed: no writes for {:?}", writer.longest_silence(begin));
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(seconds(60));
    writer.assert_nothing_lost();
}

fn agent_freezes(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(seconds(30));
    let begin = Instant::now();
    cluster.member_mut(&leader).agent().signal(Signal::STOP);
    cluster.wait_for_other_primary(&leader, LEASE_RUNS_OUT);
    assert_eq!(
        cluster.member(&leader).postmaster(),
        None,
        "the guard has stopped it"
    );
    writer.wait_for_write("after SIGSTOP of the agent", seconds(5));
    println!("agent frozen: no writes for {:?}", writer.longest_silence(begin));
    cluster.member_mut(&leader).agent().signal(Signal::CONT);
    cluster.wait_until_healthy(seconds(60));
    writer.assert_nothing_lost();
}

fn guard_is_killed(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(seconds(30));
    let member = cluster.member(&leader);
    let (guard, postmaster) = (guard_of(cluster, &leader), member.postmaster());
    let begin = Instant::now();
    kill_process(guard, Signal::KILL).unwrap();
    writer.wait_for_write("after SIGKILL of the guard", LEASE_RUNS_OUT);
    println!("guard killed: no writes for {:?}", writer.longest_silence(begin));
    cluster.wait_until_healthy(seconds(60));
    let member = cluster.member(&leader);
    assert_ne!(member.postmaster(), postmaster, "PostgreSQL died with its guard");
    assert_ne!(guard_of(cluster, &leader), guard);
    writer.assert_nothing_lost();
}

/// It does not answer, and as no server runs at that moment another one takes its place.
fn guard_freezes_before_a_restart(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(seconds(30));
    let guards: Vec<Pid> = cluster
        .members
        .iter()
        .map(|member| guard_of(cluster, &member.name))
        .collect();
    for guard in &guards {
        kill_process(*guard, Signal::STOP).unwrap();
    }
    let begin = Instant::now();
    let output = cluster.ctl(&["restart", "demo", "--force"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    writer.wait_for_write("after a restart beside frozen guards", seconds(10));
    let silence = writer.longest_silence(begin);
    println!("guards frozen, all restarted: no writes for {silence:?}");
    assert!(silence < FROZEN_GUARD, "no writes for {silence:?}");
    assert_eq!(cluster.wait_until_healthy(seconds(60)), leader);
    for (member, frozen) in cluster.members.iter().zip(guards) {
        assert_ne!(
            guard_of(cluster, &member.name),
            frozen,
            "{} has a new one",
            member.name
        );
    }
    writer.assert_nothing_lost();
}

fn kill_agent(cluster: &mut Cluster, name: &str) {
    let member = cluster.member_mut(name);
    member.agent().signal(Signal::KILL);
    member.wait_for_exit(seconds(5));
}

fn guard_of(cluster: &Cluster, name: &str) -> Pid {
    let processes = processes_below(&cluster.member(name).home());
    let guard = processes.iter().find(|(_, line)| line.contains(" guard serve "));
    guard.unwrap_or_else(|| panic!("no guard among {processes:?}")).0
}
