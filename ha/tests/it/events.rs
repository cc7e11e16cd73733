//! What the cycles of a scenario tell: only what changes something, with what decided it.

use expect_test::{Expect, expect};

use crate::language;

fn check(scenario: &str, expected: &Expect) {
    let (_, events) = language::tell(scenario);
    let text: String = events
        .iter()
        .map(|event| {
            format!(
                "{:>6.3} {}: {}\n",
                event.moment.0.as_secs_f64(),
                event.what.kind(),
                event.what
            )
        })
        .collect();
    expected.assert_eq(&text);
}

#[test]
fn a_failover() {
    check(
        include_str!("scenarios/race_wins.txt"),
        &expect![[r#"
        10.000 leader: saw that a leads
        10.000 done: created the slot a, created the slot c
        10.000 status: no action. I am (b), a secondary, and following a leader (a)
        10.000 leader: saw that the leader key of a is gone: nobody leads
        10.000 race: won the race: I am at 0/64 on timeline 1; c is at 0/5A on timeline 1; a did not answer
        10.000 lock_gained: took the leader key, which nobody held; the lease lasts 30 s
        10.000 task_begun: promote began
        10.000 status: promoted self to leader by acquiring session lock
        11.000 status: updated leader lock during promote
        11.000 task_ended: promote is done, after 1 s
        11.000 done: began a checkpoint
        11.000 done: wrote the key history
        11.000 done: created the slot c
        11.000 server: the server was replica and is primary, running
        11.000 status: no action. I am (b), the leader with the lock
    "#]],
    );
}

#[test]
fn a_race_that_is_not_won() {
    check(
        include_str!("scenarios/race_priority.txt"),
        &expect![[r#"
        10.000 leader: saw that d leads
        10.000 done: created the slot c, created the slot d
        10.000 status: no action. I am (b), a secondary, and following a leader (d)
        10.000 leader: saw that the leader key of d is gone: nobody leads
        10.000 race: does not take the leader key: I am at 0/64 on timeline 1; c is at 0/64 on timeline 1; d is at 0/64 on timeline 1; c has equally tolerable WAL position and priority 2, while this node has priority 1
        10.000 done: created the slot c
        10.000 status: following a different leader because i am not the healthiest node
        10.000 race: won the race: I am at 0/64 on timeline 1; c did not answer; d is at 0/64 on timeline 1; Ignoring the former leader d having a higher priority at the same WAL position
        10.000 lock_gained: took the leader key, which nobody held; the lease lasts 30 s
        10.000 task_begun: promote began
        10.000 status: promoted self to leader by acquiring session lock
    "#]],
    );
}

#[test]
fn a_lock_that_is_lost() {
    check(
        include_str!("scenarios/lock_lost.txt"),
        &expect![[r#"
        10.000 lock_lost: lost the leader key: the DCS refused to prolong the lease
        10.000 demotion: Demoting self (immediate-nolock): demoted self because failed to update leader lock in DCS
        10.000 task_begun: stop began
        10.000 server: the server was primary and is demoted, running
        10.000 status: demoted self because failed to update leader lock in DCS
        12.000 task_ended: stop is done
        12.000 leader: saw that b leads, and a does not any more
        12.000 task_begun: doing crash recovery in a single user mode began
        12.000 server: the server (demoted) was running and is stopped
        12.000 status: doing crash recovery in a single user mode
        12.000 task_ended: doing crash recovery in a single user mode is done, after 0 s
        12.000 task_begun: running pg_rewind from b began
        12.000 status: running pg_rewind from b
        12.000 task_ended: running pg_rewind from b is done
        12.000 task_begun: starting after demotion began
        12.000 status: starting as a secondary
    "#]],
    );
}

#[test]
fn a_switchover() {
    check(
        include_str!("scenarios/switchover.txt"),
        &expect![[r#"
        10.000 asked: somebody asked for a switchover from a to b
        10.000 demotion: Demoting self (graceful): switchover: demoting myself
        10.000 task_begun: switchover: demote began
        10.000 server: the server was primary and is demoted, running
        10.000 status: switchover: demoting myself
        10.000 shutdown_checkpoint: PostgreSQL has written its shutdown checkpoint at 0/6E
        10.000 status: updated leader lock during switchover: demote
        10.000 lock_lost: gave the leader key up
        11.000 task_ended: switchover: demote is done, after 1 s
        11.000 leader: saw that the leader key of a is gone: nobody leads
        11.000 server: the server (demoted) was running and is stopped
        11.000 status: postgres is not running
        11.000 leader: saw that b leads
        11.000 asked_no_more: the switchover is not asked for any more
        11.000 task_begun: starting after demotion began
        11.000 status: starting as a secondary
        11.000 task_begun: starting after demotion began
        11.000 task_ended: restarting after failure is done
        11.000 done: created the slot b
        11.000 server: the server was demoted, stopped, and is replica, running
        11.000 status: no action. I am (a), a secondary, and following a leader (b)
    "#]],
    );
}

/// The job has ended before a cycle saw that the checkpoint was written.
#[test]
fn a_switchover_with_a_short_stop() {
    check(
        "\
# The server is down before anything is told of how far it is.
me a
remember known primary running lock=30
cluster leader=a optime=100 failover=a>b timeline=1
member a primary 100
member b replica 100
server primary 100
sender b 100 async
peer b replica 100
cycle asked to hand over to b
===

cycle stopped
at 11
peer b replica 111
server gone
data shut-down checkpoint=110
task done stop for=switchover
===
",
        &expect![[r#"
            10.000 asked: somebody asked for a switchover from a to b
            10.000 demotion: Demoting self (graceful): switchover: demoting myself
            10.000 task_begun: switchover: demote began
            10.000 server: the server was primary and is demoted, running
            10.000 status: switchover: demoting myself
            11.000 shutdown_checkpoint: PostgreSQL has written its shutdown checkpoint at 0/6E
            11.000 task_ended: switchover: demote is done, after 1 s
            11.000 lock_lost: gave the leader key up
            11.000 server: the server (demoted) was running and is stopped
            11.000 status: removed leader lock because postgres is not running
        "#]],
    );
}

#[test]
fn a_dcs_that_is_away() {
    check(
        include_str!("scenarios/dcs_outage_primary.txt"),
        &expect![[r#"
             6.000 dcs_lost: the DCS does not answer: no endpoint answers
             6.000 status: DCS is not accessible
            12.000 demotion: Demoting self (offline): demoted self because DCS is not accessible and I was a leader
            12.000 task_begun: stop began
            12.000 server: the server was primary and is demoted, running
            12.000 status: demoted self because DCS is not accessible and I was a leader
            13.000 shutdown_checkpoint: PostgreSQL has written its shutdown checkpoint at 0/64
            13.000 task_ended: stop is done
            13.000 lock_lost: does not count on the leader key any more: PostgreSQL is stopped
            13.000 task_begun: starting after demotion began
            13.000 server: the server (demoted) was running and is stopped
            13.000 status: DCS is not accessible
            13.000 task_ended: restarting after failure is done
            13.000 server: the server was demoted, stopped, and is replica, running
            20.000 dcs_back: the DCS answers again, after 14 s
            20.000 lock_gained: holds the leader key; the lease lasts 30 s
            20.000 task_begun: promote began
            20.000 status: promoted self to leader because I had the session lock
        "#]],
    );
}

#[test]
fn a_connection_under_a_members_name() {
    check(
        include_str!("scenarios/sync_stranger.txt"),
        &expect![[r#"
        10.000 synchronous: synchronous standbys: b
        10.000 status: no action. I am (a), the leader with the lock
        11.000 done: wrote {"leader":"a","quorum":0,"sync_standby":null} into the key sync
        11.000 done: set synchronous_standby_names to "c"
        12.000 synchronous: there are no synchronous standbys
        12.000 stranger: a connection that is not b's own streams WAL under its name: commits do not wait for b
        13.000 configuration: the cluster's configuration has changed: synchronous_mode_strict
        13.000 synchronous: synchronous standbys: b
        13.000 done: wrote {"leader":"a","quorum":0,"sync_standby":null} into the key sync
        13.000 done: created the slot c
    "#]],
    );
}

#[test]
fn all_is_well() {
    check(
        include_str!("scenarios/steady_leader.txt"),
        &expect![[r#"
        10.000 done: created the slot c
        10.000 status: no action. I am (a), the leader with the lock
    "#]],
    );
}
