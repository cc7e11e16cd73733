//! A Citus cluster: a coordinator and a worker, two members each. The extension here is a stand-in with the tables and
//! functions of Citus that the agents use; a client does what Citus does for a statement: it looks in `pg_dist_node` who
//! the worker's primary is, keeps that from being changed, and writes there.

use crate::harness::cluster::Cluster;
use crate::harness::wait::holds;
use crate::harness::{eventually, newest, seconds, sql};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const COORDINATOR: [&str; 2] = ["pg1", "pg2"];
const WORKER: [&str; 2] = ["pg3", "pg4"];

const CONTROL: &str =
    "comment = 'stand-in'\ndefault_version = '1.0'\nrelocatable = false\nschema = pg_catalog\n";

const SCRIPT: &str = "
create schema citus;
create table citus.pg_dist_authinfo (nodeid int, rolename name, authinfo text);
create sequence citus.pg_dist_node_nodeid_seq;
create table citus.pg_dist_node (
    nodeid int primary key default nextval('citus.pg_dist_node_nodeid_seq'), groupid int not null,
    nodename text not null, nodeport int not null, noderole text not null, unique (nodename, nodeport));
alter table citus.pg_dist_authinfo set schema pg_catalog;
alter table citus.pg_dist_node set schema pg_catalog;
create function citus_add_node(nodename text, nodeport int, groupid int, noderole text, nodecluster name)
returns int language sql begin atomic
    insert into pg_dist_node (groupid, nodename, nodeport, noderole) values ($3, $1, $2, $4) returning nodeid; end;
create function citus_update_node(node_id int, new_name text, new_port int, force bool, lock_cooldown int)
returns void language sql begin atomic
    update pg_dist_node set nodename = $2, nodeport = $3 where nodeid = $1; end;
create function citus_remove_node(name text, port int) returns void language sql begin atomic
    delete from pg_dist_node where nodename = $1 and nodeport = $2; end;
create function citus_set_coordinator_host(host text, port int, role text, cluster name)
returns void language sql begin atomic
    insert into pg_dist_node (groupid, nodename, nodeport, noderole) values (0, $1, $2, $3); end;
";

#[test]
#[ignore = "long: make test-all"]
fn writes_wait_while_a_worker_changes() {
    let mut cluster = Cluster::new(newest(), 4);
    install(&cluster);
    for member in &cluster.members {
        let group = u32::from(WORKER.contains(&&*member.name));
        let config = member.config();
        let folder = cluster.directory.path().join("citus");
        let config = config.replace(
            "  parameters:\n    unix_socket_directories",
            &format!(
                "  parameters:\n    dynamic_library_path: '{0}:$libdir'\n    extension_control_path: '{0}:$system'\n    \
                 unix_socket_directories",
                folder.display()
            ),
        );
        member.write_config(&format!(
            "{config}\ncitus:\n  group: {group}\n  database: citus\n"
        ));
    }
    cluster.start_all();
    let worker = leader(&cluster, WORKER);
    wait_for_nodes(&cluster, &worker);
    let row = primary_row(&cluster);
    run(
        &cluster,
        &worker,
        "create table written (at timestamptz default now(), id int)",
    );

    let client = Client::start(&cluster);
    for _ in 0..2 {
        let from = leader(&cluster, WORKER);
        switch_over(&cluster, &from);
        let to = leader(&cluster, WORKER);
        assert_ne!(from, to);
        wait_for_nodes(&cluster, &to);
        assert_eq!(primary_row(&cluster), row, "the group keeps its primary's row");
    }
    let worker = leader(&cluster, WORKER);
    let restarted = cluster.ctl(&["restart", "demo", &worker, "--group", "1", "--force"]);
    assert!(
        restarted.stdout.contains("Success: restart on member"),
        "{}{}",
        restarted.stdout,
        restarted.stderr
    );
    wait_for_nodes(&cluster, &worker);
    let written = client.stop();
    let rows = run(&cluster, &worker, "select count(*) from written");
    assert_eq!(
        rows,
        written.to_string(),
        "every write that was acknowledged is there, once"
    );

    abandon(&cluster, &worker);
    let listed = cluster.ctl(&["list", "demo"]).stdout;
    assert!(listed.starts_with("+ Citus cluster: demo -"), "{listed}");
    for name in COORDINATOR.iter().chain(&WORKER) {
        assert!(listed.contains(&format!(" {name} ")), "{listed}");
    }

    cluster.member_mut(&worker).kill_all();
    let other = WORKER.into_iter().find(|name| *name != worker).unwrap();
    eventually("the worker fails over", seconds(30), || {
        holds(
            nodes(&cluster)?.contains(&row_of(&cluster, 1, other, "primary")),
            || format!("{:?}", nodes(&cluster)),
        )
    });
    cluster.member_mut(&worker).start();
    wait_for_nodes(&cluster, other);

    let from = leader(&cluster, COORDINATOR);
    switch_over(&cluster, &from);
    assert_ne!(leader(&cluster, COORDINATOR), from);
    wait_for_nodes(&cluster, other);
}

/// Under synchronous replication the replica has to be listed first.
#[track_caller]
fn switch_over(cluster: &Cluster, from: &str) {
    eventually("the switchover is done", seconds(30), || {
        let response = cluster
            .member(from)
            .ask("POST", "/switchover", Some(&json!({ "leader": from })));
        holds(response.status == 200, || response.body)
    });
}

/// A worker that tells it is about to stop and is never heard of again: writes go on when its time is over.
fn abandon(cluster: &Cluster, worker: &str) {
    let coordinator = leader(cluster, COORDINATOR);
    let notice =
        json!({"type": "before_demote", "group": 1, "leader": worker, "timeout": 2, "cooldown": 1000});
    let begin = Instant::now();
    let response = cluster.member(&coordinator).ask("POST", "/citus", Some(&notice));
    assert_eq!((response.status, response.body.as_str()), (200, "OK"));
    let locked = "select nodename from pg_dist_node where groupid = 1 and noderole = 'primary' for share";
    assert_eq!(run(cluster, &coordinator, locked), "127.0.0.1");
    let waited = begin.elapsed();
    assert!(waited > seconds(1) && waited < seconds(6), "{waited:?}");
    for (body, of) in [
        (
            json!({"type": "before_demote", "group": 7, "leader": "x", "timeout": 2, "cooldown": 1}),
            &coordinator,
        ),
        (json!({"nonsense": 1}), &coordinator),
        (notice, &worker.to_owned()),
    ] {
        assert_eq!(cluster.member(of).ask("POST", "/citus", Some(&body)).status, 200);
    }
    wait_for_nodes(cluster, worker);
}

/// A library that PostgreSQL can load by Citus's name, and the extension.
fn install(cluster: &Cluster) {
    let folder = cluster.directory.make("citus");
    let library = std::process::Command::new(cluster.postgresql.bin.join("pg_config"))
        .arg("--pkglibdir")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let near = cluster
        .postgresql
        .bin
        .parent()
        .unwrap()
        .join("lib/auto_explain.so");
    let of_config = library
        .map(|folder| Path::new(&folder).join("auto_explain.so"))
        .ok();
    let source = of_config.filter(|path| path.exists()).unwrap_or(near);
    std::fs::copy(&source, folder.join("citus.so"))
        .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let extension = cluster.directory.make("citus/extension");
    std::fs::write(extension.join("citus.control"), CONTROL).unwrap();
    std::fs::write(extension.join("citus--1.0.sql"), SCRIPT).unwrap();
    for path in [&folder, &extension] {
        cluster.give_away(path);
    }
}

fn conninfo(cluster: &Cluster, member: &str) -> String {
    cluster
        .member(member)
        .conninfo()
        .replace("dbname=postgres", "dbname=citus")
}

fn run(cluster: &Cluster, member: &str, statement: &str) -> String {
    let rows = sql::query(&conninfo(cluster, member), statement).unwrap();
    rows.first().and_then(|row| row[0].clone()).unwrap_or_default()
}

#[track_caller]
fn leader(cluster: &Cluster, group: [&str; 2]) -> String {
    eventually("the group has a primary", seconds(60), || {
        let is_one = |name: &&str| cluster.member(name).status_code("/primary") == 200;
        let found: Vec<&str> = group.into_iter().filter(is_one).collect();
        match found.as_slice() {
            [one] => Ok((*one).to_owned()),
            other => Err(format!("{other:?}")),
        }
    })
}

type Row = (String, String, String);

fn row_of(cluster: &Cluster, group: u32, member: &str, role: &str) -> Row {
    let port = cluster.member(member).postgresql_port;
    (group.to_string(), format!("127.0.0.1:{port}"), role.to_owned())
}

fn nodes(cluster: &Cluster) -> Result<Vec<Row>, String> {
    let coordinator = leader(cluster, COORDINATOR);
    let sql =
        "select groupid, nodename || ':' || nodeport, noderole from pg_dist_node order by groupid, noderole";
    let rows = sql::query(&conninfo(cluster, &coordinator), sql)?;
    let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| (text(&row[0]), text(&row[1]), text(&row[2])))
        .collect())
}

fn primary_row(cluster: &Cluster) -> String {
    let sql = "select nodeid from pg_dist_node where groupid = 1 and noderole = 'primary'";
    run(cluster, &leader(cluster, COORDINATOR), sql)
}

/// Waits until `pg_dist_node` holds all four members, with this one as the worker's primary.
#[track_caller]
fn wait_for_nodes(cluster: &Cluster, worker: &str) {
    eventually("pg_dist_node is as it should be", seconds(30), || {
        let coordinator = leader(cluster, COORDINATOR);
        let mut expected = Vec::new();
        for (group, members, primary) in [(0, COORDINATOR, &*coordinator), (1, WORKER, worker)] {
            let other = members.into_iter().find(|name| *name != primary).unwrap();
            expected.push(row_of(cluster, group, primary, "primary"));
            expected.push(row_of(cluster, group, other, "secondary"));
        }
        let found = nodes(cluster)?;
        holds(found == expected, || format!("{found:?}, not {expected:?}"))
    });
}

async fn write(is_stopped: &AtomicBool, coordinator: &str, worker: impl Fn(&str) -> String) -> u64 {
    let coordinator = sql::connect(coordinator).await.expect("the coordinator is there");
    let looked_up =
        "begin; select nodeport from pg_dist_node where groupid = 1 and noderole = 'primary' for share";
    let mut written = 0;
    while !is_stopped.load(Ordering::SeqCst) {
        let rows = sql::rows(&coordinator, looked_up, seconds(20))
            .await
            .expect("the coordinator answers");
        let port = rows[0][0].clone().unwrap();
        let writer = sql::connect(&worker(&port))
            .await
            .expect("the worker lets clients in");
        let written_row = sql::rows(&writer, "insert into written (id) values (1)", seconds(10)).await;
        written_row.expect("the worker takes writes");
        sql::rows(&coordinator, "commit", seconds(10)).await.unwrap();
        written += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

/// Writes to the worker as a statement through the coordinator would.
struct Client {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Client {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let coordinator = conninfo(cluster, &leader(cluster, COORDINATOR));
        let worker = conninfo(cluster, WORKER[0]);
        let known_port = cluster.member(WORKER[0]).postgresql_port.to_string();
        let thread = std::thread::spawn(move || {
            sql::block_on(write(&is_stopped, &coordinator, |port: &str| {
                worker.replace(&known_port, port)
            }))
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("no write has failed")
    }
}
