//! Data directories and copies as people configure them: names of a directory, methods that take long or bring nothing of
//! use, WAL that waits for the archive.

use crate::harness::cluster::Cluster;
use crate::harness::member::Member;
use crate::harness::sql::REPLICATION_PASSWORD;
use crate::harness::wait::holds;
use crate::harness::{eventually, newest, seconds};
use serde_json::json;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

/// Writes an executable script into the member's folder.
pub fn script(cluster: &Cluster, member: &Member, name: &str, text: &str) -> PathBuf {
    let path = member.home().join(name);
    std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    cluster.give_away(&path);
    path
}

fn name_data_dir(member: &Member, name: &str) {
    let line = |name: &str| format!("data_dir: {}/{name}\n", member.home().display());
    member.edit_config(&line("data"), &line(name));
}

pub fn lines(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// The names of the files directly below `folder` that contain the text.
fn files_with(folder: &std::path::Path, text: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let contains = |entry: &std::fs::DirEntry| {
        std::fs::read(entry.path()).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    let found = entries.filter(contains);
    found
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// PostgreSQL's programs for the scripts.
fn bin(member: &Member) -> String {
    let config = member.config();
    let line = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("bin_dir: "));
    line.unwrap().to_owned()
}

#[test]
fn a_data_directory_has_many_names() {
    let mut cluster = Cluster::new(newest(), 2);
    let names = ["pg1", "pg2"];
    let homes: Vec<PathBuf> = names.map(|name| cluster.member(name).home()).to_vec();
    for home in &homes {
        symlink("data", home.join("link")).unwrap();
    }
    name_data_dir(cluster.member(names[0]), "data/");
    name_data_dir(cluster.member(names[1]), "link/.");
    // A cluster that could not be completed is not there when the agent comes back.
    let first = cluster.member(names[0]);
    first.edit_config("bootstrap:\n", "bootstrap:\n  post_bootstrap: /bin/false\n");
    let first = cluster.member_mut(names[0]);
    first.start();
    assert!(!first.wait_for_exit(seconds(60)).success());
    assert!(homes[0].join("data.failed/global/pg_control").exists());
    assert!(!homes[0].join("data").exists());
    first.edit_config("  post_bootstrap: /bin/false\n", "");
    cluster.start_all();
    let leader = cluster.wait_until_healthy(seconds(60));
    let replica = cluster.others(&leader).remove(0);
    for (name, home) in names.iter().zip(&homes) {
        assert!(home.join("link").is_symlink(), "{name}");
        assert!(home.join("data/global/pg_control").exists(), "{name}");
    }
    let member = cluster.member(&replica);
    let mark = member.home().join("data/base/before");
    std::fs::write(&mark, "").unwrap();
    let answer = member.ask("POST", "/reinitialize", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    member.wait_for_log("is kept as", seconds(20));
    eventually("the copy has replaced the data", seconds(30), || {
        holds(
            !mark.exists() && !member.home().join("data.former").exists(),
            || "not yet".to_owned(),
        )
    });
    cluster.wait_until_healthy(seconds(30));
    assert!(member.home().join("link").is_symlink());
}

/// A copy that takes long in an empty directory: `--force` begins it again once, and is answered.
#[test]
fn a_forced_copy_is_begun_once_more_and_no_request_is_forgotten() {
    let mut cluster = Cluster::new(newest(), 2);
    let leader = cluster.bootstrap();
    let name = cluster.others(&leader).remove(0);
    let member = cluster.member(&name);
    let starts = member.home().join("starts");
    let text = format!(
        "for arg; do case $arg in --datadir=*) dir=${{arg#*=}};; --connstring=*) conn=${{arg#*=}};; esac; done
         echo start >> {}; sleep 6
         exec {}/pg_basebackup -D \"$dir\" -d \"$conn\" -X stream -c fast --no-password --no-sync",
        starts.display(),
        bin(member)
    );
    let slow = script(&cluster, member, "slow", &text);
    member.edit_config(
        "  basebackup:\n",
        &format!(
            "  create_replica_methods: [slow]\n  slow:\n    command: {}\n  basebackup:\n",
            slow.display()
        ),
    );
    assert_eq!(member.ask("POST", "/reload", None).status, 202);
    let first = member.ask("POST", "/reinitialize", None);
    assert_eq!(first.status, 200, "{first:?}");
    eventually("the copy has begun", seconds(20), || {
        holds(lines(&starts) == 1, || format!("{} starts", lines(&starts)))
    });
    let forced = member.ask("POST", "/reinitialize", Some(&json!({ "force": true })));
    assert_eq!(
        (forced.status, forced.body.as_str()),
        (200, "reinitialize started")
    );
    cluster.wait_until_healthy(seconds(60));
    assert_eq!(lines(&starts), 2, "the first one and the forced one");

    // A server that does not start: whoever asks for a restart hears so.
    let member = cluster.member(&name);
    let base = member.data_dir().join("postgresql.base.conf");
    let good = std::fs::read_to_string(&base).unwrap();
    std::fs::write(&base, format!("{good}\nwork_mem = \n")).unwrap();
    member.kill_postmaster();
    member.wait_for_log("ended while it was starting", seconds(20));
    let restart = member.ask("POST", "/restart", None);
    assert_eq!(restart.status, 503, "{restart:?}");
    std::fs::write(&base, good).unwrap();
    cluster.wait_until_healthy(seconds(30));
}

/// The agent dies while a copy fills a WAL directory and a tablespace elsewhere. What is half done there is in nobody's way.
#[test]
fn a_copy_with_directories_elsewhere_is_cut_off_and_made_again() {
    let mut cluster = Cluster::new(newest(), 2);
    cluster.member_mut("pg1").start();
    cluster.wait_for_primary(seconds(60));
    let [from, to] = ["pg1", "pg2"].map(|name| cluster.member(name).home().join("tablespace"));
    std::fs::create_dir_all(&from).unwrap();
    cluster.give_away(&from);
    let primary = cluster.member("pg1");
    let create = format!("create tablespace elsewhere location '{}'", from.display());
    primary.query(&create).unwrap();
    let filler =
        "create table filler tablespace elsewhere as select repeat('x', 1000) from generate_series(1, 20000)";
    primary.query(filler).unwrap();
    primary.query("checkpoint").unwrap();
    let replica = cluster.member("pg2");
    let wal = replica.home().join("wal");
    let options = format!(
        "  - no-sync\n  - waldir: {}\n  - tablespace-mapping: {}={}\n",
        wal.display(),
        from.display(),
        to.display()
    );
    let slow = format!("{options}  - max-rate: 1M\n");
    replica.edit_config("  - no-sync\n", &slow);
    let replica = cluster.member_mut("pg2");
    replica.environment = vec![("TMPDIR", "/nonexistent".to_owned())];
    replica.start();
    let is_filled = |directory: &std::path::Path| {
        let has_entries = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
        holds(has_entries, || format!("{} is empty", directory.display()))
    };
    eventually("the copy has begun", seconds(30), || {
        is_filled(&wal)?;
        is_filled(&to)
    });
    let replica = cluster.member_mut("pg2");
    replica.kill_agent();
    let secret = files_with(&replica.home(), REPLICATION_PASSWORD);
    assert!(secret.iter().all(|name| name == "pgpass"), "{secret:?}");
    replica.edit_config(&slow, &options);
    replica.start();
    cluster.wait_until_healthy(seconds(60));
    let replica = cluster.member("pg2");
    assert_eq!(replica.value("select count(*) from filler"), "20000");
    assert_eq!(
        std::fs::read_link(replica.data_dir().join("pg_wal")).unwrap(),
        wal
    );
    let mut links = std::fs::read_dir(replica.data_dir().join("pg_tblspc")).unwrap();
    let link = links.next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_link(link).unwrap(), to);
    is_filled(&wal).and_then(|()| is_filled(&to)).unwrap();

    // After a crash of the host `postmaster.pid` names a process that is somebody else's now.
    let pid_file = replica.data_dir().join("postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    cluster.member_mut("pg2").kill_all();
    let (_, rest) = text.split_once('\n').unwrap();
    std::fs::write(&pid_file, format!("{}\n{rest}", std::process::id())).unwrap();
    cluster.give_away(&pid_file);
    cluster.member_mut("pg2").start();
    cluster.wait_until_healthy(seconds(60));
}

/// The backup is another cluster's. After two tries the next method makes the replica.
#[test]
fn a_backup_that_cannot_join_is_not_tried_for_ever() {
    let mut cluster = Cluster::new(newest(), 2);
    let leader = cluster.bootstrap();
    let name = cluster.others(&leader).remove(0);
    let member = cluster.member(&name);
    let text = format!(
        "for arg; do case $arg in --datadir=*) dir=${{arg#*=}};; esac; done
         exec {}/initdb --no-sync -D \"$dir\"",
        bin(member)
    );
    let foreign = script(&cluster, member, "foreign", &text);
    member.edit_config(
        "  basebackup:\n",
        &format!(
            "  create_replica_methods: [foreign, basebackup]\n  foreign:\n    command: {}\n  basebackup:\n",
            foreign.display()
        ),
    );
    assert_eq!(member.ask("POST", "/reload", None).status, 202);
    let answer = member.ask("POST", "/reinitialize", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    member.wait_for_log(
        "the copy cannot follow the cluster: its system identifier is",
        seconds(40),
    );
    let reason = eventually("list gives the reason", seconds(20), || {
        let row = cluster
            .list()
            .into_iter()
            .find(|row| row["Member"] == name.as_str());
        let reason = row.map(|row| row["Reason"].to_string()).unwrap_or_default();
        holds(reason.contains("cannot follow the cluster"), || reason.clone())?;
        Ok::<_, String>(reason)
    });
    println!("{reason}");
    member.wait_for_log("the method foreign is skipped", seconds(40));
    cluster.wait_until_healthy(seconds(60));
    let log = cluster.member(&name).log();
    assert_eq!(
        log.matches("the copy cannot follow the cluster").count(),
        2,
        "{log}"
    );
}

/// The former primary's WAL goes to the archive before a rewind, which waits as long as the archive does not take it.
#[test]
fn wal_that_waits_for_the_archive_is_not_rewound_away() {
    let mut cluster = Cluster::new(newest(), 2);
    let names = ["pg1", "pg2"];
    let archive = cluster.member(names[0]).home().parent().unwrap().join("archive");
    std::fs::create_dir_all(&archive).unwrap();
    cluster.give_away(&archive);
    // It takes nothing while `closed` is there, and never the file that `bad` names.
    let [closed, bad] = ["closed", "bad"].map(|name| archive.join(name));
    std::fs::write(&closed, "").unwrap();
    std::fs::write(&bad, "").unwrap();
    let settings = format!(
        "        wal_log_hints: on\n        archive_mode: 'ON'\n        archive_command: \
         test ! -e {} && test %f != \"$(cat {})\" && cp %p {}/%f\n",
        closed.display(),
        bad.display(),
        archive.display()
    );
    for name in names {
        cluster
            .member(name)
            .edit_config("        wal_log_hints: on\n", &settings);
    }
    let leader = cluster.bootstrap();
    let member = cluster.member(&leader);
    member.value("create table t as select 1; select pg_switch_wal()");
    member.value("create table u as select 1; select pg_switch_wal()");
    let waiting = member.data_dir().join("pg_wal/archive_status");
    let ready = move || -> Vec<String> {
        let entries = std::fs::read_dir(&waiting).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names
            .filter_map(|name| name.strip_suffix(".ready").map(str::to_owned))
            .collect()
    };
    eventually("WAL waits", seconds(10), || {
        holds(ready().len() > 1, || format!("{:?} waits", ready()))
    });
    cluster.member_mut(&leader).kill_all();
    let mut waited = ready();
    waited.sort();
    std::fs::write(&bad, &waited[0]).unwrap();
    std::fs::remove_file(&closed).unwrap();
    cluster.wait_for_other_primary(&leader, seconds(30));
    cluster.member_mut(&leader).start();
    cluster
        .member(&leader)
        .wait_for_log("WAL waits for the archive", seconds(60));
    for file in &waited {
        assert!(
            cluster
                .member(&leader)
                .data_dir()
                .join("pg_wal")
                .join(file)
                .exists(),
            "{file}"
        );
    }
    assert!(!archive.join(&waited[0]).exists());
    for file in &waited[1..] {
        assert!(
            archive.join(file).exists(),
            "{file} was held up by the one that fails"
        );
    }
    // Whoever looks is told what to do.
    eventually("list gives the reason", seconds(20), || {
        let row = cluster
            .list()
            .into_iter()
            .find(|row| row["Member"] == leader.as_str());
        let reason = row.map(|row| row["Reason"].to_string()).unwrap_or_default();
        let is_told = reason.contains(&waited[0]) && reason.contains("tamada ctl reinit");
        holds(is_told, || reason)
    });
    let why = cluster.ctl(&["why"]).stdout;
    assert!(why.contains("WAL waits for the archive"), "{why}");
    std::fs::write(&bad, "").unwrap();
    cluster.wait_until_healthy(seconds(60));
    for file in &waited {
        assert!(archive.join(file).exists(), "{file}");
    }
}
