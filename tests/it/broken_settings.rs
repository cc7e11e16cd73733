//! Settings with which PostgreSQL does not start: nobody goes down for them.

use crate::harness::versions::Postgresql;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, oldest, seconds};
use rustix::process::Pid;
use serde_json::{Value, json};

#[test]
fn nobody_goes_down_for_them_on_the_oldest_postgresql() {
    nobody_goes_down_for_them(oldest());
}

#[test]
fn nobody_goes_down_for_them_on_the_newest_postgresql() {
    nobody_goes_down_for_them(newest());
}

fn libraries(cluster: &Cluster, value: &Value) {
    cluster.patch(&json!({ "postgresql": { "parameters": { "shared_preload_libraries": value } } }));
}

fn postmasters(cluster: &Cluster, names: &[String]) -> Vec<Option<Pid>> {
    names
        .iter()
        .map(|name| cluster.member(name).postmaster())
        .collect()
}

/// Every member's row says why it still waits for a restart.
fn rows_say(cluster: &Cluster, names: &[String], text: &str) {
    eventually("list says why", seconds(20), || {
        let rows = cluster.list();
        let says = |name: &String| {
            rows.iter().any(|row| {
                row["Member"] == **name
                    && row["Pending restart"] == "*"
                    && row["Pending restart reason"]
                        .as_str()
                        .is_some_and(|reason| reason.contains(text))
            })
        };
        holds(names.iter().all(says), || format!("{rows:?}"))
    });
}

fn nobody_goes_down_for_them(postgresql: Postgresql) {
    const REASON: &str = "could not access file \"pg_cronn\": No such file or directory";
    let mut cluster = Cluster::new(postgresql, 3);
    let leader = cluster.bootstrap();
    cluster.wait_until_healthy(seconds(30));
    let names = [vec![leader.clone()], cluster.others(&leader)].concat();
    let before = postmasters(&cluster, &names);

    libraries(&cluster, &json!("pg_cronn"));
    rows_say(&cluster, &names, "pg_cronn");
    let output = cluster.ctl(&["restart", "demo", "--force"]);
    assert_ne!(output.code, Some(0), "{}", output.stdout);
    let text = format!("{}{}", output.stdout, output.stderr);
    assert!(text.contains(REASON), "{text}");
    assert!(text.contains("not restarted, because the restart of"), "{text}");
    assert_eq!(text.matches("Failed: restart for member").count(), 1, "{text}");
    assert_eq!(postmasters(&cluster, &names), before);
    for name in &names {
        let output = cluster.ctl(&["restart", "demo", name, "--force"]);
        assert!(
            output.stdout.contains(REASON),
            "{}{}",
            output.stdout,
            output.stderr
        );
    }
    assert_eq!(postmasters(&cluster, &names), before);
}
