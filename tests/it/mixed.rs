//! Clusters of which one part is Patroni for a while, with synchronous replication and a permanent logical slot: each side
//! hands over to the other, takes over from the other, and pauses. Nothing is lost, and nobody is confused.

use crate::harness::cluster::{Program, Timers};
use crate::harness::process::{command, run};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, seconds, versions};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Patroni sleeps in steps of seconds, and a lease is 20 s.
const LIMIT: std::time::Duration = seconds(60);

#[test]
#[ignore = "long: make test-all"]
fn one_of_three_is_patroni() {
    mixed(&["pg1", "pg2"], &["patroni1"]);
}

#[test]
#[ignore = "long: make test-all"]
fn two_of_three_are_patroni() {
    mixed(&["pg1"], &["patroni1", "patroni2"]);
}

struct Mixed {
    cluster: Cluster,
    writer: Writer,
    /// The number of the last row that was written for the slot.
    marker: u32,
}

fn mixed(ours: &[&str], theirs: &[&str]) {
    let mut cluster = Cluster::with(newest(), ours.len(), 1, Timers::PATRONI);
    for name in theirs {
        let program = Program {
            path: versions::patroni().join("patroni"),
            arguments: Vec::new(),
        };
        cluster.add_member(name, program);
    }
    for member in &cluster.members {
        member.edit_config("wal_level: replica", "wal_level: logical");
    }
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    for name in ours[1..].iter().chain(theirs) {
        cluster.member_mut(name).start();
    }
    cluster.wait_until_healthy(LIMIT);
    let feed = json!({"type": "logical", "database": "postgres", "plugin": "test_decoding"});
    cluster.patch(&json!({"slots": {"feed": feed}}));
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    let mut mixed = Mixed {
        cluster,
        writer,
        marker: 0,
    };
    mixed.primary().query("create table feed (id int)").unwrap();
    for mode in ["quorum", "on"] {
        println!("---- synchronous_mode: {mode}");
        mixed.cluster.patch(&json!({"synchronous_mode": mode}));
        let voters = if mode == "quorum" { 2 } else { 1 };
        mixed.settle(voters);
        for (from, to) in [(ours, theirs), (theirs, ours)] {
            mixed.bring_to(from, voters);
            mixed.switchover(to, voters);
            mixed.bring_to(from, voters);
            mixed.failover(voters);
        }
        mixed.pause_and_resume(voters);
    }
    drop(mixed.writer);
    witnesses.assert_never_two_primaries();
}

impl Mixed {
    fn primary(&self) -> &crate::harness::Member {
        self.cluster.primary().unwrap()
    }

    /// Waits until all stream, as many are waited for as there should be, everybody says the same, and the slot is where it
    /// may be needed.
    fn settle(&self, voters: usize) {
        let leader = self.cluster.wait_until_healthy(LIMIT);
        let others = self.cluster.others(&leader);
        eventually("the standbys are waited for", LIMIT, || {
            let key: Value =
                serde_json::from_str(&self.cluster.key("sync").unwrap_or_default()).unwrap_or_default();
            let listed = key["sync_standby"]
                .as_str()
                .map_or(0, |names| names.split(',').count());
            holds(key["leader"] == leader && listed == voters, || key.to_string())
        });
        eventually("all see the same", LIMIT, || {
            let views: BTreeSet<String> = self
                .cluster
                .members
                .iter()
                .map(|member| roles(&member.get("/cluster")?.json()))
                .collect::<Result<_, _>>()?;
            holds(views.len() == 1, || format!("{views:?}"))
        });
        let theirs = self.patronictl(&["list", "-f", "json"]);
        let ours = self.cluster.ctl(&["list", "-f", "json"]).stdout;
        let names_and_roles = |text: &str| -> Vec<(Value, Value)> {
            let rows: Vec<Value> = serde_json::from_str(text).unwrap();
            rows.into_iter()
                .map(|row| (row["Member"].clone(), row["Role"].clone()))
                .collect()
        };
        assert_eq!(names_and_roles(&ours), names_and_roles(&theirs));
        eventually("the slot is on all members and near the primary's", LIMIT, || {
            let position = |name: &str| {
                self.cluster.member(name).query("select confirmed_flush_lsn from pg_replication_slots where slot_name = 'feed' and catalog_xmin is not null")
            };
            let here = position(&leader)?;
            for other in &others {
                let there = position(other)?;
                holds(there == here && !here.is_empty(), || {
                    format!("{leader}: {here:?}, {other}: {there:?}")
                })?;
            }
            Ok::<_, String>(())
        });
    }

    /// Makes one of `names` the primary, if none is.
    fn bring_to(&mut self, names: &[&str], voters: usize) {
        if !names.contains(&self.primary().name.as_str()) {
            self.switchover(names, voters);
        }
    }

    /// A row for the slot, and a moment later another primary: the row comes out of the slot there.
    fn mark(&mut self) {
        self.marker += 1;
        self.primary()
            .query(&format!("insert into feed values ({})", self.marker))
            .unwrap();
    }

    fn check(&mut self, voters: usize) {
        self.writer.wait_for_write("after the change", seconds(20));
        self.writer.assert_nothing_lost();
        self.settle(voters);
        let changes = "select data from pg_logical_slot_get_changes('feed', null, null) where data like 'table public.feed:%'";
        let rows = self.primary().query(changes).unwrap();
        let wanted = format!("[integer]:{}", self.marker);
        assert!(
            rows.iter().flatten().flatten().any(|row| row.ends_with(&wanted)),
            "{wanted} is not in {rows:?}"
        );
        self.settle(voters);
    }

    /// To one of `names` that may take over.
    fn switchover(&mut self, names: &[&str], voters: usize) {
        let from = self.primary().name.clone();
        let key = self.cluster.key("sync").unwrap();
        let to = names.iter().find(|name| key.contains(**name) && **name != from);
        // In synchronous_mode on only the one that is waited for may; a request moves it there first.
        let Some(to) = to else {
            self.move_standby(names, voters);
            return self.switchover(names, voters);
        };
        println!("---- switchover from {from} to {to}");
        self.mark();
        let body = json!({"leader": from, "candidate": to});
        let response = self.cluster.member(&from).ask("POST", "/switchover", Some(&body));
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(self.cluster.wait_for_other_primary(&from, LIMIT), *to);
        self.check(voters);
    }

    /// Makes one of `names` the synchronous standby: the other one does not want to be for a moment.
    fn move_standby(&mut self, names: &[&str], voters: usize) {
        let leader = self.primary().name.clone();
        let rival = self
            .cluster
            .others(&leader)
            .into_iter()
            .find(|name| !names.contains(&name.as_str()))
            .unwrap();
        println!("---- {rival} is not to be waited for");
        self.cluster.member(&rival).reload_tags(&["nosync: true"]);
        eventually("another one is waited for", LIMIT, || {
            let key = self.cluster.key("sync").unwrap_or_default();
            holds(
                names.iter().any(|name| {
                    key.contains(&format!("\"sync_standby\":\"{name}\""))
                        || key.contains(&format!("\"sync_standby\": \"{name}\""))
                }),
                || key.clone(),
            )
        });
        self.cluster.member(&rival).reload_tags(&["nosync: false"]);
        self.settle(voters);
    }

    /// The primary dies with its agent; whoever takes over has all.
    fn failover(&mut self, voters: usize) {
        let from = self.primary().name.clone();
        println!("---- {from} dies");
        self.mark();
        self.cluster.member_mut(&from).kill_all();
        self.cluster.wait_for_other_primary(&from, LIMIT);
        self.writer
            .wait_for_write("with the former primary dead", seconds(20));
        self.writer.assert_nothing_lost();
        self.cluster.member_mut(&from).start();
        self.check(voters);
    }

    /// In pause nothing happens by itself, and afterwards all is as before.
    fn pause_and_resume(&mut self, voters: usize) {
        println!("---- pause");
        let leader = self.primary().name.clone();
        assert!(
            self.cluster
                .ctl(&["pause", "--wait"])
                .stdout
                .contains("Success: cluster management is paused")
        );
        let replica = self.cluster.others(&leader).remove(0);
        self.cluster.pg_ctl(&replica, &["stop", "-m", "fast"]);
        self.cluster
            .wait_for_member_key(&replica, "state", &"stopped".into(), LIMIT);
        self.mark();
        assert!(
            self.cluster
                .ctl(&["resume", "--wait"])
                .stdout
                .contains("Success: cluster management is resumed")
        );
        self.check(voters);
        assert_eq!(self.primary().name, leader);
    }

    #[track_caller]
    fn patronictl(&self, arguments: &[&str]) -> String {
        let mut patronictl = command(&self.cluster.directory, versions::patroni().join("patronictl"));
        patronictl
            .arg("-c")
            .arg(&self.cluster.members[0].config_file)
            .args(arguments);
        let output = run(patronictl);
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
        output.stdout
    }
}

/// Who is what, as `/cluster` says it.
fn roles(document: &Value) -> Result<String, String> {
    let members = document["members"]
        .as_array()
        .ok_or_else(|| document.to_string())?;
    let role = |member: &Value| format!("{}={}/{}", member["name"], member["role"], member["state"]);
    Ok(members.iter().map(role).collect::<Vec<_>>().join(" "))
}
