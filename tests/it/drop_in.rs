//! The program under Patroni's names, with all that Patroni's users give it: a folder of files, and variables.

use crate::harness::cluster::Program;
use crate::harness::process::{command, run};
use crate::harness::{Cluster, newest, seconds};
use std::path::PathBuf;

fn named(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.directory.path().join(name);
    std::os::unix::fs::symlink(&cluster.tamada, &path).unwrap();
    path
}

#[test]
fn as_patroni_with_a_folder_and_variables() {
    let mut cluster = Cluster::new(newest(), 1);
    let patroni = named(&cluster, "patroni");
    let directory = std::rc::Rc::clone(&cluster.directory);
    let member = &mut cluster.members[0];
    member.program = Program {
        path: patroni,
        arguments: Vec::new(),
    };
    let base = member
        .config()
        .replace("name: pg1", "name: somebody")
        .replace("password: zalando super", "password: wrong");
    let folder = directory.make("pg1.d");
    directory.write("pg1.d/10-base.yml", &base);
    directory.write(
        "pg1.d/20-more.yaml",
        "tags: {color: blue}\npostgresql: {parameters: {work_mem: 9MB, log_checkpoints: null}}\n",
    );
    directory.write("pg1.d/30-notes.txt", "neither: [ read nor\n");
    member.config_file = folder;
    member.environment = vec![
        ("PATRONI_NAME", "pg1".to_owned()),
        ("PATRONI_SUPERUSER_PASSWORD", "zalando super".to_owned()),
    ];
    cluster.bootstrap();

    let member = &cluster.members[0];
    let status = member.status().unwrap();
    assert_eq!(status["patroni"]["name"], "pg1", "{status}");
    assert_eq!(status["tags"]["color"], "blue", "{status}");
    assert_eq!(member.value("show work_mem"), "9MB");
    assert_eq!(cluster.key("leader").as_deref(), Some("pg1"));
    let postmaster = member.postmaster().unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", postmaster.as_raw_nonzero())).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(
        !environment.contains("PATRONI"),
        "PostgreSQL got variables that are not its own"
    );

    let mut patronictl = command(&directory, named(&cluster, "patronictl"));
    patronictl.env("PATRONI_ETCD3_HOST", &cluster.etcd.endpoints()[0]);
    let output = run({
        patronictl.args(["list", "demo", "-f", "tsv"]);
        patronictl
    });
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let row: Vec<&str> = output.stdout.lines().nth(1).unwrap().split('\t').collect();
    let address = format!("127.0.0.1:{}", member.postgresql_port);
    assert_eq!(
        row.get(..5).unwrap(),
        ["demo", "pg1", &address, "Leader", "running"]
    );

    cluster.members[0].agent().signal(rustix::process::Signal::TERM);
    assert!(cluster.members[0].wait_for_exit(seconds(20)).success());
}
