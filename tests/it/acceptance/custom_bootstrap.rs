//! Clusters that are made by scripts of the user's, recovered to a point in time, or not made because a script fails.

use crate::harness::cluster::Timers;
use crate::harness::process::{command, run};
use crate::harness::sql::{self, REPLICATION_PASSWORD};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, seconds};
use std::path::{Path, PathBuf};

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

/// Finds `--datadir` among its arguments, and keeps these.
const ARGUMENTS: &str = r#"#!/bin/bash
echo "$*" >"$0.args"
for word; do case $word in --datadir=*) datadir=${word#*=} ;; esac; done
"#;

/// Makes the member one of a cluster of its own that is bootstrapped by a script.
fn has_method(cluster: &Cluster, name: &str, script: &str, settings: &str) -> PathBuf {
    let script = cluster.script(&format!("method-{name}"), &format!("{ARGUMENTS}{script}"));
    let member = cluster.member(name);
    member.edit_config("scope: demo\n", &format!("scope: {name}\n"));
    member.edit_config(
        "  initdb:\n",
        &format!(
            "  method: mine\n  mine:\n    command: {}\n{settings}  initdb:\n",
            script.display()
        ),
    );
    script
}

fn wait_until_leads(member: &Member, limit: std::time::Duration) {
    eventually(&format!("{} leads its cluster", member.name), limit, || {
        let code = member.status_code("/primary");
        holds(code == 200, || code.to_string())
    });
}

fn tables(member: &Member) -> String {
    member.value("select string_agg(relname, ' ' order by relname) from pg_stat_user_tables")
}

fn arguments(script: &Path) -> String {
    let mut file = script.as_os_str().to_owned();
    file.push(".args");
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

#[test]
fn clusters_are_made_by_scripts_and_recovered_to_a_point_in_time() {
    let mut cluster = Cluster::with(newest(), 4, 1, TIMERS);
    let archive = cluster.share_archive();
    cluster.member_mut("pg1").start();
    wait_until_leads(cluster.member("pg1"), seconds(30));
    cluster.member("pg1").query("create table first ()").unwrap();

    a_script_that_fails_leaves_nothing_behind(&mut cluster);
    a_copy_becomes_a_cluster_of_its_own(&mut cluster);

    let backup = back_up(&cluster);
    let pg1 = cluster.member("pg1");
    pg1.query("create table second ()").unwrap();
    pg1.query("select pg_create_restore_point('here')").unwrap();
    pg1.query("create table third ()").unwrap();
    let segment = pg1.value("select pg_walfile_name(pg_switch_wal())");
    eventually("the restore point is in the archive", seconds(10), || {
        holds(archive.join(&segment).exists(), || segment.clone())
    });
    recovered_by_settings(&mut cluster, &backup, &archive);
    recovered_by_what_the_script_wrote(&mut cluster, &backup, &archive);
}

fn a_script_that_fails_leaves_nothing_behind(cluster: &mut Cluster) {
    let script = has_method(
        cluster,
        "pg2",
        "mkdir -p $datadir; touch $datadir/half; exit 3\n",
        "",
    );
    let pg2 = cluster.member_mut("pg2");
    pg2.start();
    let status = pg2.wait_for_exit(seconds(20));
    assert_eq!(status.code(), Some(1), "{}", pg2.log());
    let log = pg2.log();
    for text in [
        "exit code 3",
        "removing initialize key after failed attempt to bootstrap the cluster",
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
    assert!(!pg2.data_dir().exists());
    assert!(pg2.home().join("data.failed/half").exists());
    let key = ["get", "--prefix", "/service/pg2/initialize"];
    assert_eq!(cluster.etcd.etcdctl(&cluster.directory, &key).stdout.trim(), "");
    assert_eq!(
        arguments(&script),
        format!(
            "--scope=pg2 --datadir={}",
            cluster.member("pg2").data_dir().display()
        )
    );
}

/// The script copies a running cluster; no recovery settings: it recovers from the copy alone. Users get the passwords
/// of the new configuration.
fn a_copy_becomes_a_cluster_of_its_own(cluster: &mut Cluster) {
    let (bin, port) = (
        cluster.postgresql.bin.clone(),
        cluster.member("pg1").postgresql_port,
    );
    let go = cluster.member("pg2").home().join("go");
    let text = format!(
        "{ARGUMENTS}for i in $(seq 200); do [ -e {go} ] && break; sleep 0.05; done
PGPASSWORD={REPLICATION_PASSWORD} {bin}/pg_basebackup -c fast -h 127.0.0.1 -p {port} -U replicator -D $datadir\n",
        go = go.display(),
        bin = bin.display()
    );
    cluster.script("method-pg2", &text);
    let pg2 = cluster.member_mut("pg2");
    pg2.edit_config("password: zalando super\n", "password: another one\n");
    pg2.edit_config("password: rep-pass\n", "password: another rep\n");
    pg2.edit_config("max_connections: 60\n", "max_connections: 101\n");
    // It stays on the timeline of the other cluster.
    pg2.edit_config("archive_mode: on\n", "archive_mode: off\n");
    pg2.start();
    eventually("the script is seen to run", seconds(10), || {
        let state = pg2.status()?["state"].clone();
        holds(state == "running custom bootstrap script", || state.to_string())
    });
    std::fs::write(go, "").unwrap();
    wait_until_leads(pg2, seconds(10));
    let rows = |user: &str, password: &str, query: &str| {
        let port = pg2.postgresql_port;
        sql::query(
            &format!("host=127.0.0.1 port={port} user={user} password='{password}' dbname=postgres"),
            query,
        )
    };
    rows("postgres", "another one", "select from first").unwrap();
    rows("replicator", "another rep", "select").unwrap();
    rows("postgres", "zalando super", "select").unwrap_err();
    rows("postgres", "wrong", "select").unwrap_err();
    let set = rows("postgres", "another one", "show max_connections").unwrap();
    assert_eq!(set, [[Some("101".to_owned())]]);
    let hba = std::fs::read_to_string(pg2.data_dir().join("pg_hba.conf")).unwrap();
    assert!(!hba.contains("trust"), "{hba}");
    pg2.stop();
}

/// A copy of pg1 as it is now.
fn back_up(cluster: &Cluster) -> PathBuf {
    let backup = cluster.directory.path().join("backup");
    let mut basebackup = command(&cluster.directory, cluster.postgresql.bin.join("pg_basebackup"));
    basebackup
        .env("PGPASSWORD", REPLICATION_PASSWORD)
        .args(["-c", "fast", "-h", "127.0.0.1", "-U", "replicator", "-p"])
        .arg(cluster.member("pg1").postgresql_port.to_string())
        .arg("-D")
        .arg(&backup);
    let output = run(basebackup);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    backup
}

/// `recovery_conf` says where to stop, and the method has a setting of its own.
fn recovered_by_settings(cluster: &mut Cluster, backup: &Path, archive: &Path) {
    let settings = format!(
        "    test-argument: some value
    recovery_conf:
      recovery_target_name: here
      recovery_target_action: promote
      recovery_target_timeline: latest
      restore_command: cp {}/%f %p
",
        archive.display()
    );
    let copy = format!("cp -r {} $datadir\n", backup.display());
    let script = has_method(cluster, "pg3", &copy, &settings);
    let pg3 = cluster.member_mut("pg3");
    // Less than the primary had: a standby would not start with it.
    pg3.edit_config("max_connections: 60\n", "max_connections: 30\n");
    pg3.start();
    wait_until_leads(pg3, seconds(30));
    assert_eq!(tables(pg3), "first second");
    assert_eq!(pg3.value("show max_connections"), "30");
    assert_eq!(pg3.status().unwrap()["timeline"], 2);
    assert!(!pg3.data_dir().join("recovery.signal").exists());
    assert!(arguments(&script).ends_with(" --test-argument=some value"));
    pg3.stop();
}

/// The script gets no arguments and writes the recovery settings itself; users and more come from `post_bootstrap`.
fn recovered_by_what_the_script_wrote(cluster: &mut Cluster, backup: &Path, archive: &Path) {
    let text = format!(
        "cp -r {} {data}; cd {data}; touch recovery.signal
cat >> postgresql.auto.conf <<END
restore_command = 'cp {}/%f %p'
recovery_target_name = 'here'
recovery_target_action = 'promote'
END
",
        backup.display(),
        archive.display(),
        data = cluster.member("pg4").data_dir().display()
    );
    let settings = "    no_params: true\n    keep_existing_recovery_conf: true\n";
    let script = has_method(cluster, "pg4", &text, settings);
    let psql = cluster.postgresql.bin.join("psql");
    let post = format!(
        "#!/bin/sh\nexec {} -X -d \"$1\" -c 'create table zz_made_by_script ()'\n",
        psql.display()
    );
    let post = cluster.script("post-bootstrap", &post);
    let pg4 = cluster.member_mut("pg4");
    pg4.edit_config(
        "  method: mine\n",
        &format!("  post_bootstrap: {}\n  method: mine\n", post.display()),
    );
    pg4.start();
    wait_until_leads(pg4, seconds(30));
    assert_eq!(tables(pg4), "first second zz_made_by_script");
    assert_eq!(arguments(&script), "");
    for line in ["running post_bootstrap", "initialized a new cluster"] {
        assert!(pg4.log().contains(line), "{line}");
    }
    // What served the recovery does not serve a later one.
    let left = "select count(*) from pg_settings where name = 'recovery_target_name' and setting <> ''";
    pg4.stop();
    pg4.start();
    wait_until_leads(pg4, seconds(20));
    assert_eq!(pg4.value(left), "0");
}
