//! What users and machines get wrong: each time a message that says what to do, no data lost, and another try where
//! that can help.

use crate::harness::directory::give_away;
use crate::harness::member::descendants;
use crate::harness::process::{Output, command, run};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, oldest, seconds};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

// ---- the configuration file

/// Runs an agent that has to end by itself, with an error.
#[track_caller]
fn refused(cluster: &Cluster, config_file: &Path) -> Output {
    let mut agent = command(&cluster.directory, &cluster.tamada);
    agent.arg("run").arg(config_file);
    let output = run(agent);
    println!("{}", output.stderr);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    output
}

#[test]
fn files_that_cannot_be_used() {
    let cluster = Cluster::without_etcd(oldest(), 1, 1, crate::harness::cluster::Timers::SHORT);
    let member = &cluster.members[0];
    let good = member.config();
    let file = &member.config_file;
    let place = |line: &str| {
        let number = member
            .config()
            .lines()
            .position(|text| text.contains(line))
            .unwrap()
            + 1;
        format!("{}:{number}:", file.display())
    };

    let missing = refused(&cluster, &cluster.directory.path().join("missing.yml"));
    assert!(missing.stderr.contains("missing.yml"), "{}", missing.stderr);

    member.write_config("");
    let empty = refused(&cluster, file);
    assert!(
        empty.stderr.contains("does not contain a dict"),
        "{}",
        empty.stderr
    );

    member.write_config("- scope\n- name\n");
    let list = refused(&cluster, file);
    assert!(list.stderr.contains(file.to_str().unwrap()), "{}", list.stderr);

    member.write_config(&good.replace("restapi:\n", "restapi: [\n"));
    let broken = refused(&cluster, file);
    assert!(
        broken.stderr.contains(&format!("{}:", file.display())),
        "{}",
        broken.stderr
    );

    member.write_config(&good.replace(
        "use_unix_socket: true",
        "remove_data_directory_on_rewind_failure: [1, 2]",
    ));
    let wrong = refused(&cluster, file);
    assert!(
        wrong
            .stderr
            .contains(&place("remove_data_directory_on_rewind_failure")),
        "{}",
        wrong.stderr
    );
    assert!(
        wrong
            .stderr
            .contains("postgresql.remove_data_directory_on_rewind_failure"),
        "{}",
        wrong.stderr
    );

    member.write_config(&good.replace("etcd3:", "etcd33:"));
    let storeless = refused(&cluster, file);
    assert!(storeless.stderr.contains("etcd33"), "{}", storeless.stderr);
    assert!(
        storeless
            .stderr
            .contains("Can not find suitable configuration of distributed configuration store"),
        "{}",
        storeless.stderr
    );

    let bin = cluster.postgresql.bin.display();
    member.write_config(&good.replace(&format!("bin_dir: {bin}\n"), "bin_dir: /usr/share\n"));
    let binless = refused(&cluster, file);
    assert!(binless.stderr.contains("/usr/share"), "{}", binless.stderr);
    assert!(binless.stderr.contains("bin_dir"), "{}", binless.stderr);
    assert!(!member.data_dir().exists());
}

#[test]
fn a_cluster_with_mistakes() {
    let mut cluster = Cluster::new(newest(), 2);
    unknown_keys_are_warned_about(&mut cluster);
    wrong_replication_password(&mut cluster);
    half_copied_data_directory(&mut cluster);
    a_configuration_in_the_dcs_that_is_none(&mut cluster);
    a_pipe_in_place_of_the_configuration(&cluster);
    name_of_a_live_member(&cluster);
}

/// As somebody writes it by hand, or Patroni's REST API takes it.
fn a_configuration_in_the_dcs_that_is_none(cluster: &mut Cluster) {
    let primary = cluster.wait_until_healthy(seconds(40));
    let before = cluster.key("config").unwrap();
    let put = |cluster: &Cluster, text: &str| {
        let words = ["put", "/service/demo/config", text];
        assert_eq!(cluster.etcd.etcdctl(&cluster.directory, &words).code, Some(0));
    };
    let begin = cluster.member("pg2").log_end();
    put(cluster, r#"{"ttl": 30, "postgresql": {"parameters": [1]}}"#);
    let why = "postgresql.parameters: expected a mapping, found a list";
    cluster.member("pg2").wait_for_log_after(begin, why, seconds(20));
    cluster.wait_until_healthy(seconds(20));
    // An agent that starts meanwhile finds nothing else.
    let member = cluster.member_mut("pg2");
    member.stop();
    let begin = member.log_end();
    member.start();
    member.wait_for_log_after(begin, why, seconds(20));
    assert_eq!(cluster.wait_until_healthy(seconds(40)), primary);
    put(cluster, &before);
    cluster.wait_until_healthy(seconds(20));
}

/// Nobody writes to it: who reads it waits for ever.
fn a_pipe_in_place_of_the_configuration(cluster: &Cluster) {
    let member = cluster.member("pg2");
    let good = member.config();
    fs::remove_file(&member.config_file).unwrap();
    let mut mkfifo = command(&cluster.directory, Path::new("/usr/bin/mkfifo"));
    mkfifo.arg(&member.config_file);
    assert_eq!(run(mkfifo).code, Some(0));
    let begin = member.log_end();
    assert_eq!(member.ask("POST", "/reload", Some(&json!({}))).status, 202);
    member.wait_for_log_after(begin, "it is a named pipe, not a file", seconds(10));
    fs::remove_file(&member.config_file).unwrap();
    member.write_config(&good);
    cluster.wait_until_healthy(seconds(20));
}

fn unknown_keys_are_warned_about(cluster: &mut Cluster) {
    let member = &mut cluster.members[0];
    member.edit_config(
        "  use_unix_socket: true\n",
        "  use_unix_socket: true\n  use_unix_soket: true\n",
    );
    member.start();
    let line = member
        .config()
        .lines()
        .position(|line| line.contains("use_unix_soket"))
        .unwrap()
        + 1;
    let place = format!("{}:{line}:", member.config_file.display());
    eventually("a warning about the unknown key", seconds(5), || {
        let log = member.log();
        let warning = log
            .lines()
            .find(|line| line.contains("postgresql.use_unix_soket"));
        holds(
            warning.is_some_and(|line| line.contains("WARNING") && line.contains(&place)),
            || format!("{warning:?}, wanted {place}"),
        )
    });
    assert_eq!(cluster.wait_for_primary(seconds(30)), "pg1");
}

fn wrong_replication_password(cluster: &mut Cluster) {
    let member = &mut cluster.members[1];
    member.edit_config("password: rep-pass", "password: wrong-one");
    member.start();
    let refusal = "password authentication failed for user \"replicator\"";
    member.wait_for_log(refusal, seconds(20));
    assert!(!member.log().contains("wrong-one"));
    let once = member.log().matches(refusal).count();
    eventually("it is tried again", seconds(20), || {
        holds(member.log().matches(refusal).count() > once, || {
            "not yet".to_owned()
        })
    });
    member.edit_config("password: wrong-one", "password: rep-pass");
    assert_eq!(member.ask("POST", "/reload", Some(&json!({}))).status, 202);
    cluster.wait_until_healthy(seconds(40));
}

/// As a copy leaves it that was interrupted: nearly everything is there, but not `pg_control`.
fn half_copied_data_directory(cluster: &mut Cluster) {
    let member = &mut cluster.members[1];
    member.stop();
    let control = member.data_dir().join("global/pg_control");
    fs::remove_file(&control).unwrap();
    member.start();
    let advice =
        "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize";
    member.wait_for_log(advice, seconds(15));
    assert!(
        member.data_dir().join("PG_VERSION").exists(),
        "nobody said that it may be removed"
    );
    assert_eq!(member.status_code("/replica"), 503);
    assert_eq!(member.status_code("/patroni"), 200);
    assert_eq!(member.ask("POST", "/reinitialize", Some(&json!({}))).status, 200);
    cluster.wait_until_healthy(seconds(30));
}

/// A member of the same name on other ports, as a cloned virtual machine is.
fn twin_of(cluster: &Cluster, index: usize) -> Member {
    let (member, twin) = (
        &cluster.members[index],
        Member::new(&cluster.directory, "other", cluster.tamada_program()),
    );
    let mut config = member.config();
    for (own, other) in [
        (
            member.home().display().to_string(),
            twin.home().display().to_string(),
        ),
        (member.rest_port.to_string(), twin.rest_port.to_string()),
        (
            member.postgresql_port.to_string(),
            twin.postgresql_port.to_string(),
        ),
    ] {
        config = config.replace(&own, &other);
    }
    twin.write_config(&config);
    twin
}

fn name_of_a_live_member(cluster: &Cluster) {
    let mut other = twin_of(cluster, 1);
    other.start();
    let status = other.wait_for_exit(seconds(20));
    assert_eq!(status.code(), Some(1), "{}", other.log());
    let complaint = "CRITICAL: Can't start; there is already a node named 'pg2' running";
    assert!(other.log().contains(complaint), "{}", other.log());
    assert!(!other.data_dir().exists());
    assert!(
        cluster
            .key("members/pg2")
            .unwrap()
            .contains(&cluster.members[1].rest_port.to_string())
    );
    cluster.wait_until_healthy(seconds(5));
}

/// One of them gets the name, leads, and goes on; the other one ends, whichever it is.
#[test]
fn two_agents_of_one_name_that_start_together() {
    let mut cluster = Cluster::new(newest(), 1);
    let mut twin = twin_of(&cluster, 0);
    let member = &mut cluster.members[0];
    member.start();
    twin.start();
    let ended = eventually("one of them ends", seconds(40), || {
        let agents = [member.agent().ended(), twin.agent().ended()];
        agents
            .iter()
            .position(Option::is_some)
            .zip(agents.iter().flatten().next().copied())
            .ok_or("both run")
    });
    assert_eq!(ended.1.code(), Some(1));
    let (first, second) = (&cluster.members[0], &twin);
    let (stays, ends) = match ended.0 {
        0 => (second, first),
        _ => (first, second),
    };
    let complaint = "CRITICAL: Can't start; there is already a node named 'pg1' running";
    assert!(ends.log().contains(complaint), "{}", ends.log());
    assert!(
        !ends.data_dir().join("PG_VERSION").exists(),
        "it has made no cluster"
    );
    eventually("the other one leads", seconds(40), || {
        let code = stays.get("/primary")?.status;
        holds(code == 200, || code.to_string())
    });
    let key = cluster.key("members/pg1").unwrap();
    assert!(key.contains(&stays.rest_port.to_string()), "{key}");
    if stays.rest_port == twin.rest_port {
        twin.stop();
    }
}

// ---- the machine

#[test]
fn a_machine_with_faults() {
    let mut cluster = Cluster::new(oldest(), 1);
    cluster.bootstrap();
    cluster.members[0].value("create table kept as select 1 as id");
    rest_port_in_use(&mut cluster);
    postgresql_port_in_use(&mut cluster);
    permissions_of_the_data_directory(&mut cluster);
    data_of_another_cluster(&mut cluster);
}

#[track_caller]
fn starts_and_has_kept_its_rows(cluster: &Cluster) {
    cluster.wait_until_healthy(seconds(30));
    assert_eq!(cluster.members[0].value("select count(*) from kept"), "1");
}

fn rest_port_in_use(cluster: &mut Cluster) {
    let member = &mut cluster.members[0];
    member.stop();
    let squatter = TcpListener::bind(("127.0.0.1", member.rest_port)).unwrap();
    member.start();
    let status = member.wait_for_exit(seconds(20));
    assert_eq!(status.code(), Some(1));
    let address = format!("127.0.0.1:{}", member.rest_port);
    let log = member.log();
    let complaint = log
        .lines()
        .any(|line| line.contains("restapi.listen") && line.contains(&address));
    assert!(complaint, "{log}");
    assert_eq!(member.postmaster(), None);
    drop(squatter);
    member.start();
    starts_and_has_kept_its_rows(cluster);
}

fn postgresql_port_in_use(cluster: &mut Cluster) {
    let member = &mut cluster.members[0];
    member.stop();
    let squatter = TcpListener::bind(("127.0.0.1", member.postgresql_port)).unwrap();
    member.start();
    member.wait_for_log("Address already in use", seconds(20));
    eventually("it does not claim to be the primary", seconds(10), || {
        let status = member.status()?;
        holds(member.status_code("/health") == 503, || status.to_string())
    });
    drop(squatter);
    starts_and_has_kept_its_rows(cluster);
}

fn permissions_of_the_data_directory(cluster: &mut Cluster) {
    let data_dir = cluster.members[0].data_dir();
    let set = |mode| fs::set_permissions(&data_dir, PermissionsExt::from_mode(mode)).unwrap();
    for (mode, complaint) in [
        (0o777, "has invalid permissions"),
        (0o000, "data directory is not accessible"),
    ] {
        cluster.members[0].stop();
        set(mode);
        let member = &mut cluster.members[0];
        member.start();
        member.wait_for_log(complaint, seconds(20));
        set(0o700);
        starts_and_has_kept_its_rows(cluster);
    }
}

fn data_of_another_cluster(cluster: &mut Cluster) {
    let member = &mut cluster.members[0];
    member.stop();
    let own = member.home().join("own");
    fs::rename(member.data_dir(), &own).unwrap();
    let mut initdb = command(&cluster.directory, cluster.postgresql.bin.join("initdb"));
    initdb
        .args(["--no-sync", "--auth=trust", "-D"])
        .arg(member.data_dir());
    assert_eq!(run(initdb).code, Some(0));
    let before = contents(&member.data_dir());
    member.start();
    let status = member.wait_for_exit(seconds(20));
    assert_eq!(status.code(), Some(1));
    let log = member.log();
    assert!(
        log.contains("CRITICAL: system ID mismatch, node pg1 belongs to a different cluster: "),
        "{log}"
    );
    let after = contents(&member.data_dir());
    let touched: Vec<_> = before.symmetric_difference(&after).collect();
    assert!(
        touched.is_empty(),
        "the data of the other cluster were touched: {touched:?}"
    );
    fs::rename(member.data_dir(), member.home().join("foreign")).unwrap();
    fs::rename(&own, member.data_dir()).unwrap();
    member.start();
    starts_and_has_kept_its_rows(cluster);
}

/// Every file with its size and time.
fn contents(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(contents(&entry.path()));
        } else {
            found.insert(format!(
                "{} {} {:?}",
                entry.path().display(),
                metadata.len(),
                metadata.modified().unwrap()
            ));
        }
    }
    found
}

#[test]
fn an_initialisation_that_fails() {
    let mut cluster = Cluster::new(oldest(), 1);
    let member = &mut cluster.members[0];
    let script = member.home().join("post_bootstrap");
    let write_script = |text: &str| {
        fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        give_away(&script);
    };
    write_script("echo 'the script has failed on purpose' >&2; exit 3");
    member.edit_config(
        "  initdb:\n",
        &format!("  post_bootstrap: {}\n  initdb:\n", script.display()),
    );
    member.start();
    let status = member.wait_for_exit(seconds(30));
    assert_eq!(status.code(), Some(1), "{}", member.log());
    assert!(
        member.log().contains("the script has failed on purpose"),
        "{}",
        member.log()
    );
    assert_eq!(member.postmaster(), None);
    let failed = member.home().join("data.failed");
    assert!(
        failed.join("PG_VERSION").exists(),
        "what there was is kept for a look at it"
    );
    assert_eq!(cluster.key("initialize"), None);

    write_script("psql -XAtc 'create table made_by_script()' \"$1\"");
    cluster.members[0].start();
    cluster.wait_until_healthy(seconds(30));
    assert_eq!(
        cluster.members[0].value("select count(*) from made_by_script"),
        "0"
    );
    assert!(!descendants(cluster.members[0].postmaster().unwrap()).is_empty());
}
