//! With real PostgreSQL, every version that is there.

use crate::scene::*;
use rustix::process::{Signal, geteuid};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tamada_guard::{Client, Event, Exit, ServerCommand, Stage};

fn bin_dirs() -> Vec<PathBuf> {
    let dirs: Vec<PathBuf> = match std::env::var_os("TAMADA_TEST_PG_BIN") {
        Some(dirs) => std::env::split_paths(&dirs).collect(),
        None => {
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
            let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pg18/bin");
            versions
                .flatten()
                .map(|version| version.path().join("bin"))
                .chain([own])
                .filter(|dir| dir.join("postgres").exists())
                .collect()
        }
    };
    assert!(!dirs.is_empty(), "no PostgreSQL; set TAMADA_TEST_PG_BIN");
    dirs
}

/// PostgreSQL does not run as root: started as root, runs the same test once more as the user postgres. Whether the
/// test has been run by that.
fn ran_as_postgres(test: &str) -> bool {
    if !geteuid().is_root() {
        return false;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<_> = passwd
        .lines()
        .find_map(|line| line.strip_prefix("postgres:"))
        .expect("there is no user postgres")
        .split(':')
        .collect();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("real_server::{test}"), "--nocapture"])
        .uid(fields[1].parse().unwrap())
        .gid(fields[2].parse().unwrap())
        .current_dir("/")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{test} as postgres: {status}");
    true
}

struct Database {
    scene: Scene,
    bin: PathBuf,
}

impl Database {
    fn new(bin: &Path) -> Self {
        let scene = Scene::new();
        fs::remove_dir(&scene.data_dir).unwrap();
        let initdb = Command::new(bin.join("initdb"))
            .args(["-A", "trust", "-N", "-U", "postgres", "-D"])
            .arg(&scene.data_dir)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(initdb.success());
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nshared_buffers = 16MB\n",
            scene.dir.path().display()
        );
        let file = scene.data_dir.join("postgresql.conf");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(file, before + &settings).unwrap();
        Self {
            scene,
            bin: bin.to_owned(),
        }
    }

    fn command(&self) -> ServerCommand {
        ServerCommand {
            program: self.bin.join("postgres"),
            args: vec!["-D".into(), self.scene.data_dir.clone().into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            current_dir: None,
        }
    }

    fn psql(&self, sql: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-c", sql, "-h"])
            .arg(self.scene.dir.path())
            .stderr(Stdio::null())
            .stdin(Stdio::null());
        psql
    }

    fn query(&self, sql: &str) -> Option<String> {
        let output = self.psql(sql).output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn start(&mut self, agent: &mut Client) -> i32 {
        let pid = agent.start(&self.command(), None).unwrap().pid;
        self.scene.pids.push(pid);
        self.wait_until_up();
        pid
    }

    fn wait_until_up(&self) {
        wait_until("connections", || self.query("SELECT 1").is_some());
    }

    /// Clients that keep backends busy, one of them without ever looking for its postmaster.
    fn busy_clients(&self) -> Vec<Child> {
        let loops = "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$";
        let clients: Vec<Child> = [loops, "SELECT pg_sleep(1000)", loops]
            .map(|sql| self.psql(sql).spawn().unwrap())
            .into();
        let count =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()";
        wait_until("busy backends", || self.query(count).as_deref() == Some("3"));
        clients
    }

    /// The processes of this server, whoever their parent is.
    fn processes(&self) -> Vec<i32> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.scene.data_dir)
                    && is_alive(*pid)
            })
            .collect()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        for pid in self.processes() {
            signal(pid, Signal::KILL);
        }
    }
}

fn end(clients: Vec<Child>) {
    for mut client in clients {
        let _ = client.kill();
        client.wait().unwrap();
    }
}

#[test]
fn fencing_leaves_nothing_and_loses_nothing() {
    if ran_as_postgres("fencing_leaves_nothing_and_loses_nothing") {
        return;
    }
    for bin in bin_dirs() {
        let mut database = Database::new(&bin);
        let mut agent = database.scene.agent();
        let far = lease(600_000, 600_000, 600_000);
        agent.lease(&far).unwrap();
        database.start(&mut agent);
        database.query("CREATE TABLE t AS SELECT 1 AS a").unwrap();

        // In time: a fast shutdown ends well.
        let clients = database.busy_clients();
        agent.lease(&lease(0, 600_000, 600_000)).unwrap();
        assert_eq!(
            events_until_exit(&mut agent),
            (vec![Stage::FastStop], Exit::Code(0))
        );
        assert_eq!(database.processes(), []);
        end(clients);
        let control = Command::new(bin.join("pg_controldata"))
            .arg(&database.scene.data_dir)
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&control.stdout).contains("shut down\n"));

        // At the last moment: nothing is left when the event comes.
        agent.lease(&far).unwrap();
        database.start(&mut agent);
        database.query("INSERT INTO t VALUES (2)").unwrap();
        let clients = database.busy_clients();
        assert!(database.processes().len() > 8);
        agent.lease(&lease(0, 0, 0)).unwrap();
        assert_eq!(
            events_until_exit(&mut agent),
            (vec![Stage::Killing], Exit::Signal(9))
        );
        assert_eq!(database.processes(), []);
        end(clients);

        // And it starts again at once, with everything that was acknowledged.
        agent.disarm().unwrap();
        database.start(&mut agent);
        assert_eq!(
            database
                .query("SELECT string_agg(a::text, ',' ORDER BY a) FROM t")
                .as_deref(),
            Some("1,2")
        );
    }
}

#[test]
fn it_does_not_outlive_its_guard() {
    if ran_as_postgres("it_does_not_outlive_its_guard") {
        return;
    }
    for bin in bin_dirs() {
        let mut database = Database::new(&bin);
        let mut agent = database.scene.agent();
        database.start(&mut agent);
        let clients = database.busy_clients();
        signal(agent.status().unwrap().guard_pid, Signal::KILL);
        wait_until("the server's end", || database.processes().is_empty());
        end(clients);
        let mut agent = database.scene.agent();
        database.start(&mut agent);
    }
}

#[test]
fn a_killed_postmaster_restarts_at_once() {
    if ran_as_postgres("a_killed_postmaster_restarts_at_once") {
        return;
    }
    for bin in bin_dirs() {
        let mut database = Database::new(&bin);
        let mut agent = database.scene.agent();
        let server = database.start(&mut agent);
        let clients = database.busy_clients();
        signal(server, Signal::KILL);
        let exited = Event::Exited {
            pid: server,
            exit: Exit::Signal(9),
        };
        assert_eq!(next_event(&mut agent), exited);
        assert_eq!(database.processes(), []);
        // No "pre-existing shared memory block is still in use".
        database.start(&mut agent);
        end(clients);
    }
}

#[test]
fn one_that_pg_ctl_has_started_is_adopted() {
    if ran_as_postgres("one_that_pg_ctl_has_started_is_adopted") {
        return;
    }
    for bin in bin_dirs() {
        let mut database = Database::new(&bin);
        let start = || {
            let log = database.scene.dir.path().join("server.log");
            let started = Command::new(bin.join("pg_ctl"))
                .args(["start", "-w", "-s", "-D"])
                .arg(&database.scene.data_dir)
                .arg("-l")
                .arg(log)
                .status()
                .unwrap();
            assert!(started.success());
            let file = fs::read_to_string(database.scene.data_dir.join("postmaster.pid")).unwrap();
            file.lines().next().unwrap().parse::<i32>().unwrap()
        };
        // The postmaster is killed: its backends go too, though they are nobody's children.
        let server = start();
        let mut agent = Client::connect_or_spawn(&database.scene.options()).unwrap();
        let guard = agent.status().unwrap().guard_pid;
        assert!(!agent.adopt(server).unwrap().is_child);
        let clients = database.busy_clients();
        signal(server, Signal::KILL);
        let exited = |pid| Event::Exited {
            pid,
            exit: Exit::Unknown,
        };
        assert_eq!(next_event(&mut agent), exited(server));
        assert_eq!(database.processes(), []);
        end(clients);
        // A zombie that init has not reaped yet still counts for PostgreSQL.
        wait_until("the pid to be free", || {
            !Path::new(&format!("/proc/{server}")).exists()
        });
        // The deadline.
        let server = start();
        agent.adopt(server).unwrap();
        let clients = database.busy_clients();
        agent.lease(&lease(0, 0, 0)).unwrap();
        let killing = Event::Fencing(Stage::Killing);
        assert_eq!(next_event(&mut agent), killing);
        // It is killed again, and told so, as long as a process is left.
        let mut event = next_event(&mut agent);
        while event == killing {
            event = next_event(&mut agent);
        }
        assert_eq!(event, exited(server));
        assert_eq!(database.processes(), []);
        end(clients);
        database.scene.pids.push(guard);
    }
}

#[test]
fn its_usual_place_is_found_again() {
    if ran_as_postgres("its_usual_place_is_found_again") {
        return;
    }
    let mut scene = Scene::new();
    let mut options = scene.options();
    options.runtime_dir = None;
    let mut agent = Client::connect_or_spawn(&options).unwrap();
    let guard = agent.status().unwrap().guard_pid;
    scene.pids.push(guard);
    drop(agent);
    let socket = tamada_guard::client::likely_socket(&scene.data_dir).unwrap();
    assert!(socket.exists());
    let mut again = Client::connect(&options).unwrap().unwrap();
    assert_eq!(again.status().unwrap().guard_pid, guard);
    again.quit().unwrap();
    wait_until("the guard's end", || !is_alive(guard));
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
}
