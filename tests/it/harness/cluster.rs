//! A cluster: etcd and some members with the configuration of a small production cluster, timers shortened.

use super::directory::{Directory, give_away};
use super::etcd::Etcd;
use super::member::Member;
use super::process::{Output, command, place_program, run};
use super::sql::{REPLICATION_PASSWORD, REWIND_PASSWORD, SUPERUSER_PASSWORD};
use super::store::Store;
use super::versions::Postgresql;
use super::wait::{eventually, holds, seconds};
use serde_json::Value;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// What runs as an agent.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

/// `ttl`, `loop_wait` and `retry_timeout`.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    pub ttl: u64,
    pub loop_wait: u64,
    pub retry_timeout: u64,
}

impl Timers {
    /// As short as a busy machine with two cores bears.
    pub const SHORT: Self = Self {
        ttl: 8,
        loop_wait: 2,
        retry_timeout: 2,
    };
    /// With the shortest lease that Patroni accepts.
    pub const PATRONI: Self = Self {
        ttl: 20,
        loop_wait: 2,
        retry_timeout: 3,
    };
}

pub struct Cluster {
    pub members: Vec<Member>,
    /// The DCS, unless there is another one in `store`.
    pub etcd: Etcd,
    pub store: Option<Box<dyn Store>>,
    pub timers: Timers,
    pub postgresql: Postgresql,
    pub tamada: PathBuf,
    pub directory: Rc<Directory>,
}

impl Cluster {
    /// Members named pg1, pg2, …; etcd runs, no agent does yet.
    pub fn new(postgresql: Postgresql, members: usize) -> Self {
        Self::with(postgresql, members, 1, Timers::SHORT)
    }

    pub fn with(postgresql: Postgresql, members: usize, etcd_members: usize, timers: Timers) -> Self {
        let mut cluster = Self::without_etcd(postgresql, members, etcd_members, timers);
        cluster.etcd.start(&cluster.directory);
        cluster
    }

    /// On any DCS, which runs then.
    pub fn on(
        mut store: impl Store + 'static,
        postgresql: Postgresql,
        members: usize,
        timers: Timers,
    ) -> Self {
        let directory = Rc::new(Directory::new());
        store.start(&directory);
        Self::in_directory(
            directory,
            Some(Box::new(store)),
            Etcd::new(0),
            postgresql,
            members,
            timers,
        )
    }

    pub fn without_etcd(postgresql: Postgresql, members: usize, etcd_members: usize, timers: Timers) -> Self {
        let (directory, etcd) = (Rc::new(Directory::new()), Etcd::new(etcd_members));
        Self::in_directory(directory, None, etcd, postgresql, members, timers)
    }

    fn in_directory(
        directory: Rc<Directory>,
        store: Option<Box<dyn Store>>,
        etcd: Etcd,
        postgresql: Postgresql,
        members: usize,
        timers: Timers,
    ) -> Self {
        let tamada = place_program(&directory, env!("CARGO_BIN_EXE_tamada").as_ref());
        let program = Program {
            path: tamada.clone(),
            arguments: vec!["run".to_owned()],
        };
        let mut cluster = Self {
            members: Vec::new(),
            etcd,
            store,
            timers,
            postgresql,
            tamada,
            directory,
        };
        for i in 1..=members {
            cluster.add_member(&format!("pg{i}"), program.clone());
        }
        cluster
    }

    /// One more member, not started yet.
    pub fn add_member(&mut self, name: &str, program: Program) -> &mut Member {
        let member = Member::new(&self.directory, name, program);
        member.write_config(&self.configuration(&member));
        if let Some(store) = &self.store {
            store.prepare_member(name);
        }
        self.members.push(member);
        self.members.last_mut().unwrap()
    }

    pub fn tamada_program(&self) -> Program {
        Program {
            path: self.tamada.clone(),
            arguments: vec!["run".to_owned()],
        }
    }

    fn configuration(&self, member: &Member) -> String {
        let Timers {
            ttl,
            loop_wait,
            retry_timeout,
        } = self.timers;
        let home = member.home();
        let home = home.display();
        let rest = member.rest_port;
        let port = member.postgresql_port;
        let name = &member.name;
        let bin = self.postgresql.bin.display();
        let etcd = || self.etcd.section_named("etcd3");
        let store = self.store.as_ref().map_or_else(etcd, |store| store.section());
        format!(
            "\
scope: demo
name: {name}

restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}

{store}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
      use_slots: yes
      parameters:
        wal_level: replica
        hot_standby: on
        max_wal_senders: 10
        max_replication_slots: 10
        max_connections: 60
        wal_log_hints: on
  initdb:
  - encoding: UTF8
  - data-checksums
  - no-sync

postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {home}/data
  bin_dir: {bin}
  pgpass: {home}/pgpass
  use_unix_socket: true
  pg_hba:
  - local all all scram-sha-256
  - host all all 127.0.0.1/32 scram-sha-256
  - host replication replicator 127.0.0.1/32 scram-sha-256
  authentication:
    superuser:
      username: postgres
      password: {SUPERUSER_PASSWORD}
    replication:
      username: replicator
      password: {REPLICATION_PASSWORD}
    rewind:
      username: rewind_user
      password: {REWIND_PASSWORD}
  basebackup:
  - checkpoint: fast
  - no-sync
  parameters:
    unix_socket_directories: {home}
    shared_buffers: 16MB
    fsync: off
    log_checkpoints: off

tags:
  nofailover: false
  clonefrom: false
"
        )
    }

    #[track_caller]
    pub fn member(&self, name: &str) -> &Member {
        self.members
            .iter()
            .find(|member| member.name == name)
            .unwrap_or_else(|| panic!("no member {name}"))
    }

    #[track_caller]
    pub fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members
            .iter_mut()
            .find(|member| member.name == name)
            .unwrap_or_else(|| panic!("no member {name}"))
    }

    /// Every name but this.
    pub fn others(&self, name: &str) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.name.clone())
            .filter(|other| other != name)
            .collect()
    }

    /// Starts the members that do not run.
    pub fn start_all(&mut self) {
        self.members
            .iter_mut()
            .filter(|member| !member.is_started())
            .for_each(Member::start);
    }

    /// Starts all members and waits until one leads and the others stream.
    #[track_caller]
    pub fn bootstrap(&mut self) -> String {
        self.start_all();
        self.wait_until_healthy(seconds(60))
    }

    /// The one member that says of itself that it is the primary.
    pub fn primary(&self) -> Result<&Member, String> {
        let answers = self
            .members
            .iter()
            .filter(|member| member.status_code("/primary") == 200)
            .collect::<Vec<_>>();
        match answers.as_slice() {
            [one] => Ok(one),
            [] => Err("no member is the primary".to_owned()),
            several => Err(format!("{} members are the primary", several.len())),
        }
    }

    /// Waits for the primary's name.
    #[track_caller]
    pub fn wait_for_primary(&self, limit: Duration) -> String {
        eventually("there is a primary", limit, || {
            self.primary().map(|member| member.name.clone())
        })
    }

    /// Waits until another member than this is the primary.
    #[track_caller]
    pub fn wait_for_other_primary(&self, than: &str, limit: Duration) -> String {
        eventually(&format!("another primary than {than}"), limit, || {
            let name = self.primary()?.name.clone();
            holds(name != than, || format!("still {name}"))?;
            Ok::<_, String>(name)
        })
    }

    /// Waits until `/cluster` shows one running leader and all other members stream from it on its timeline, and that
    /// is what they say themselves; gives the leader's name.
    #[track_caller]
    pub fn wait_until_healthy(&self, limit: Duration) -> String {
        eventually("the cluster is healthy", limit, || self.health())
    }

    fn health(&self) -> Result<String, String> {
        let primary = self.primary()?;
        let document = primary.get("/cluster")?.body;
        let cluster: Value = serde_json::from_str(&document).map_err(|error| error.to_string())?;
        let members = cluster["members"].as_array().ok_or("no members")?;
        holds(members.len() == self.members.len(), || document.clone())?;
        let timeline = members
            .iter()
            .find(|member| member["name"] == primary.name.as_str())
            .map(|m| &m["timeline"]);
        for member in members {
            let (role, state) = if member["name"] == primary.name.as_str() {
                ("leader", "running")
            } else {
                ("replica", "streaming")
            };
            let is_synchronous =
                role == "replica" && (member["role"] == "sync_standby" || member["role"] == "quorum_standby");
            let is_fine = (member["role"] == role || is_synchronous)
                && member["state"] == state
                && Some(&member["timeline"]) == timeline;
            holds(is_fine, || document.clone())?;
        }
        for replica in self.members.iter().filter(|member| member.name != primary.name) {
            let status = replica.status()?;
            let streams = status["role"] == "replica" && status["replication_state"] == "streaming";
            holds(streams, || format!("{}: {status}", replica.name))?;
        }
        let streams = "select count(*) from pg_stat_replication where state = 'streaming' and application_name <> 'pg_basebackup'";
        let count = primary.query(streams)?.concat().concat_text();
        holds(count == (self.members.len() - 1).to_string(), || {
            format!("{count} replicas stream from the primary")
        })?;
        Ok(primary.name.clone())
    }

    /// One connection string for all members, for the primary.
    pub fn conninfo(&self) -> String {
        let hosts: Vec<&str> = self.members.iter().map(|_| "127.0.0.1").collect();
        let ports: Vec<String> = self
            .members
            .iter()
            .map(|member| member.postgresql_port.to_string())
            .collect();
        format!(
            "host={} port={} user=postgres password='{SUPERUSER_PASSWORD}' dbname=postgres \
             target_session_attrs=read-write connect_timeout=2 load_balance_hosts=random",
            hosts.join(","),
            ports.join(",")
        )
    }

    /// Runs `tamada ctl` with the first member's configuration file.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        run(self.ctl_command(arguments))
    }

    /// The same, with what a person types.
    pub fn ctl_with(&self, typed: &str, arguments: &[&str]) -> Output {
        let typed = self.directory.write("typed", typed);
        let mut ctl = self.ctl_command(arguments);
        ctl.stdin(std::fs::File::open(typed).unwrap());
        run(ctl)
    }

    fn ctl_command(&self, arguments: &[&str]) -> std::process::Command {
        let mut ctl = command(&self.directory, &self.tamada);
        ctl.args(["ctl", "-c"])
            .arg(&self.members.first().unwrap().config_file)
            .args(arguments);
        ctl
    }

    /// As an operator does it: with `pg_ctl`, and without asking the agent.
    #[track_caller]
    pub fn pg_ctl(&self, member: &str, arguments: &[&str]) {
        let mut pg_ctl = command(&self.directory, self.postgresql.bin.join("pg_ctl"));
        pg_ctl.arg("-D").arg(self.member(member).data_dir());
        pg_ctl.args(["-w", "-t", "30", "-o", ""]).args(arguments);
        let output = run(pg_ctl);
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    }

    /// `list -f json`, as rows.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let output = self.ctl(&["list", "-f", "json"]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        let rows: Value = serde_json::from_str(&output.stdout).expect(&output.stdout);
        rows.as_array().expect("a list").clone()
    }

    /// Changes the dynamic configuration through the first member that runs.
    #[track_caller]
    pub fn patch(&self, patch: &Value) {
        let first = self.members.iter().find(|member| member.is_started()).unwrap();
        // Somebody else may have changed it in the same moment.
        let mut answer = first.ask("PATCH", "/config", Some(patch));
        if answer.status == 409 {
            answer = first.ask("PATCH", "/config", Some(patch));
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    /// The document in a key of the DCS; null when there is none.
    pub fn document(&self, key: &str) -> Value {
        let text = self.key(key).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until the member's own key says so.
    #[track_caller]
    pub fn wait_for_member_key(&self, member: &str, field: &str, value: &Value, limit: Duration) {
        let what = format!("the key of {member} has {field} {value}");
        eventually(&what, limit, || {
            let key = self.document(&format!("members/{member}"));
            holds(key[field] == *value, || key.to_string())
        });
    }

    /// Waits until a row that is written on one member is seen on another.
    #[track_caller]
    pub fn wait_until_replicated(&self, from: &str, to: &str, limit: Duration) {
        let table = format!(
            "t{}",
            self.member(from).value("select pg_current_wal_lsn() - '0/0'")
        );
        self.member(from).value(&format!("create table {table} ()"));
        eventually(&format!("{table} comes from {from} to {to}"), limit, || {
            self.member(to).query(&format!("select * from {table}")).map(drop)
        });
    }

    /// Waits until every replica has replayed what the primary has written so far.
    #[track_caller]
    pub fn wait_until_replayed(&self, primary: &str) {
        let lsn = self.member(primary).value("select pg_current_wal_lsn()");
        for name in self.others(primary) {
            let replayed = format!("select pg_last_wal_replay_lsn() >= '{lsn}'");
            eventually(&format!("{name} has replayed {lsn}"), seconds(10), || {
                holds(
                    self.member(&name).query(&replayed)?.concat().concat_text() == "t",
                    || "not yet".to_owned(),
                )
            });
        }
    }

    /// The DCS that [`Cluster::on`] was given.
    pub fn store(&mut self) -> &mut dyn Store {
        self.store.as_mut().unwrap().as_mut()
    }

    /// The text of a key in etcd.
    pub fn key(&self, key: &str) -> Option<String> {
        self.etcd.value(&self.directory, key)
    }

    /// Makes the file belong to the user that PostgreSQL runs as.
    pub fn give_away(&self, path: &std::path::Path) {
        give_away(path);
    }
}

trait ConcatText {
    fn concat_text(&self) -> String;
}

impl ConcatText for Vec<Option<String>> {
    fn concat_text(&self) -> String {
        self.iter().flatten().map(String::as_str).collect()
    }
}
