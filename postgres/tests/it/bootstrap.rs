//! initdb's finer points, custom methods, copies that are broken off.

use crate::harness::{Installation, Node, is_alive, map, script, soon, tests, until};
use config::BootstrapMethod;
use std::fs;
use tamada_postgres::{CloneMethods, CloneSource, DataDirectory, Error, Instant, Recovery, StartOptions};

tests![
    passwords_do_not_reach_the_log,
    a_custom_method_makes_a_cluster,
    a_post_bootstrap_script_gets_a_connection_string,
    a_custom_method_makes_a_replica,
    a_method_keeps_the_data_and_needs_no_leader,
    a_copy_that_is_broken_off_is_recognised,
    a_copy_is_marked_from_its_first_file_on,
];

async fn passwords_do_not_reach_the_log(installation: Installation) {
    let node = Node::with(
        &installation,
        "a",
        "postgresql: {parameters: {log_statement: all, log_min_duration_statement: 0, logging_collector: true, \
         log_directory: log, log_filename: server.log}}",
    );
    node.bootstrap().await;
    node.sql("SELECT 'marker'");
    let log = node.data_dir().join("log/server.log");
    until("the log is written", async || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("marker"))
    })
    .await;
    let text = fs::read_to_string(&log).unwrap();
    for secret in ["secret", "rep:pass", "rewind-pass"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

fn custom(command: String, recovery_conf: Option<Vec<(String, String)>>) -> BootstrapMethod {
    BootstrapMethod::Custom {
        name: "mine".to_owned(),
        command,
        no_params: false,
        keep_existing_recovery_conf: false,
        recovery_conf,
        options: vec![("level".to_owned(), "a b".to_owned())],
    }
}

async fn a_custom_method_makes_a_cluster(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    a.sql("CREATE TABLE t AS SELECT 3 AS a");
    a.stop().await;
    let b = Node::with(
        &installation,
        "b",
        "postgresql: {authentication: {superuser: {username: postgres, password: another}}}",
    );
    let copy = format!(
        "echo \"$@\" > {0}/args; cp -r {1} {0}/data",
        b.dir.path().display(),
        a.data_dir().display()
    );
    let method = custom(script(b.dir.path(), "copy", &copy), None);
    let options = b.server.custom_bootstrap(&method, soon()).await.unwrap();
    assert_eq!(
        options,
        StartOptions {
            recovery: Recovery::Primary,
            without_hot_standby: false
        }
    );
    let args = fs::read_to_string(b.dir.path().join("args")).unwrap();
    assert_eq!(
        args.trim(),
        format!("--scope=demo --datadir={} --level=a b", b.data_dir().display())
    );
    b.server.start(&options, soon()).await.unwrap();
    let restart = b.server.post_bootstrap(&method, None, soon()).await.unwrap();
    assert!(!restart);
    let hba = fs::read_to_string(b.data_dir().join("pg_hba.conf")).unwrap();
    assert!(!hba.contains("trust"), "{hba}");
    let output = b
        .psql()
        .env("PGPASSWORD", "another")
        .args(["-c", "SELECT a FROM t"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3", "{output:?}");
    assert!(!b.data_dir().join("tamada.unfinished").exists());

    let c = Node::new(&installation, "c");
    let failing = custom(script(c.dir.path(), "fail", "echo no disk >&2; exit 3"), None);
    let error = c
        .server
        .custom_bootstrap(&failing, soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("exit code 3"), "{error}");
    let idle = custom("true".to_owned(), None);
    let error = c
        .server
        .custom_bootstrap(&idle, soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("left no cluster"), "{error}");
    let recovery = custom(
        script(
            c.dir.path(),
            "copy",
            &format!("cp -r {} {}", a.data_dir().display(), c.data_dir().display()),
        ),
        Some(vec![
            ("recovery_target_action".to_owned(), "promote".to_owned()),
            ("recovery_target_timeline".to_owned(), "latest".to_owned()),
            ("restore_command".to_owned(), "false".to_owned()),
        ]),
    );
    let options = c.server.custom_bootstrap(&recovery, soon()).await.unwrap();
    assert!(options.without_hot_standby);
    let wanted = map(&[
        ("recovery_target_action", "promote"),
        ("recovery_target_timeline", "latest"),
        ("restore_command", "false"),
    ]);
    assert_eq!(options.recovery, Recovery::Custom(wanted));
    c.server.start(&options, soon()).await.unwrap();
    c.server.post_bootstrap(&recovery, None, soon()).await.unwrap();
    assert_eq!(
        c.status().await.timeline.unwrap().0,
        2,
        "recovered on a new timeline"
    );
}

async fn a_post_bootstrap_script_gets_a_connection_string(installation: Installation) {
    let node = Node::new(&installation, "a");
    node.server
        .initdb(&[("no-sync".to_owned(), None)], &[], soon())
        .await
        .unwrap();
    node.start(Recovery::Primary).await;
    let psql = installation.bin_dir.join("psql");
    let text = format!(
        "echo \"$1\" > {}/args; exec {} -X -c 'CREATE TABLE made()' \"$1\"",
        node.dir.path().display(),
        psql.display()
    );
    let command = script(node.dir.path(), "post", &text);
    node.server
        .post_bootstrap(&BootstrapMethod::Initdb, Some(&command), soon())
        .await
        .unwrap();
    assert_eq!(
        node.sql("SELECT count(*) FROM pg_class WHERE relname = 'made'"),
        "1"
    );
    let args = fs::read_to_string(node.dir.path().join("args")).unwrap();
    assert!(
        args.contains("dbname=postgres") && !args.contains("secret"),
        "{args}"
    );
    let error = node
        .server
        .post_bootstrap(&BootstrapMethod::Initdb, Some("false"), soon())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Program { .. }));
}

/// As Debian's `pg_clonecluster_patroni` does: a cluster is made and its directory removed before the copy. What marks it as
/// unfinished does not come back into the directory meanwhile.
const REMOVE_A_NEW_CLUSTER: &str = "mkdir -p $d/base $d/global; touch $d/PG_VERSION
mark=$d/tamada.unfinished
until [ -e $mark ]; do sleep 0.05; done
rm -r $mark $d/global
for i in 1 2 3 4 5 6; do [ ! -e $mark ] || exit 9; sleep 0.05; done
rm -r $d/base $d/PG_VERSION; rmdir $d || exit 8";

async fn a_custom_method_makes_a_replica(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    let dir = tempfile::tempdir().unwrap();
    let basebackup = installation.bin_dir.join("pg_basebackup");
    let text = format!(
        "echo \"$@\" > {0}/args\nfor arg; do case $arg in --datadir=*) d=${{arg#*=}};; --connstring=*) c=${{arg#*=}};; esac; done\n\
         {REMOVE_A_NEW_CLUSTER}\n\
         exec {1} -D \"$d\" -X stream -c fast -d \"$c\"",
        dir.path().display(),
        basebackup.display()
    );
    let command = script(dir.path(), "clone", &text);
    let b = Node::with(
        &installation,
        "b",
        &format!(
            "postgresql: {{create_replica_methods: [wrong, mine], mine: {{command: '{command}', speed: fast}}, wrong: {{command: 'false'}}}}"
        ),
    );
    let from = CloneSource {
        name: Some("a".to_owned()),
        source: Some(a.source()),
    };
    assert_eq!(
        b.server
            .create_replica(&from, &CloneMethods::Configured, soon())
            .await
            .unwrap(),
        "mine"
    );
    let args = fs::read_to_string(dir.path().join("args")).unwrap();
    assert!(
        args.contains("--speed=fast --scope=demo --role=replica") && !args.contains("rep:pass"),
        "{args}"
    );
    assert!(!b.data_dir().join("tamada.unfinished").exists());
    a.server
        .create_physical_slot(&b.server.name().slot_name(), soon())
        .await
        .unwrap();
    b.start(Recovery::Follow(a.follow(&b))).await;
    b.until_streaming().await;
}

/// Methods are tried in their order: one that needs a source is left out when there is none; the data that
/// `keep_data` asks for survives its success and its failure; `no_params` gives the method its own settings alone.
async fn a_method_keeps_the_data_and_needs_no_leader(installation: Installation) {
    let a = Node::primary(&installation, "a").await;
    a.stop().await;
    let b = Node::new(&installation, "b");
    let dir = b.dir.path();
    let seen = |name: &str| fs::read_to_string(dir.join(format!("{name}.args"))).unwrap_or_default();
    let method = |name: &str, then: &str| {
        let note = format!("echo \"$*\" > {}/{name}.args", dir.display());
        script(dir, name, &format!("{note}\n{then}"))
    };
    let data = b.data_dir();
    let fail = method("fail", "exit 4");
    let leader = method("leader", "exit 5");
    let copy = format!("cp -r {}/. {}", a.data_dir().display(), data.display());
    let copy = method("copy", &copy);
    b.configure(&format!(
        "postgresql:
  create_replica_methods: [basebackup, leader, fail, copy]
  leader: {{command: '{leader}'}}
  fail: {{command: '{fail}', keep_data: true, no_leader: true, threshold: 7}}
  copy: {{command: '{copy}', keep_data: yes, no_leader: 1, no_params: true, level: 5}}
"
    ));
    let mine = data.join("mine");
    let begin_anew = || {
        fs::create_dir_all(&data).unwrap();
        fs::write(&mine, "kept").unwrap();
    };
    begin_anew();
    let nobody = CloneSource {
        name: None,
        source: None,
    };
    let clone = async |methods: CloneMethods| b.server.create_replica(&nobody, &methods, soon()).await;
    assert_eq!(clone(CloneMethods::Configured).await.unwrap(), "copy");
    assert!(mine.exists() && data.join("PG_VERSION").exists());
    assert_eq!(seen("leader"), "", "it needs a source");
    assert_eq!(
        seen("fail").trim(),
        format!(
            "--keep_data=True --no_leader=True --threshold=7 --scope=demo --role=replica --datadir={} --connstring=",
            data.display()
        )
    );
    assert_eq!(seen("copy").trim(), "--level=5");
    assert_eq!(b.server.methods_without_leader().len(), 2);

    // Of those that standby_cluster names none works: the data is kept for the next try, and nothing is started on it.
    let named = CloneMethods::Named(vec!["fail".to_owned()]);
    let error = clone(named).await.unwrap_err().to_string();
    assert!(error.contains("exit code 4"), "{error}");
    assert!(mine.exists());
    assert_eq!(b.server.data_directory(), DataDirectory::Unfinished);
}

async fn a_copy_is_marked_from_its_first_file_on(installation: Installation) {
    let a = Node::new(&installation, "a");
    let dir = tempfile::tempdir().unwrap();
    // The order is that of the source's file system: `PG_VERSION` may come last.
    let text = format!(
        "mkdir -p {0}/pg_wal; touch {0}/backup_label; sleep 300",
        a.data_dir().display()
    );
    let command = script(dir.path(), "slow", &text);
    a.configure(&format!(
        "postgresql: {{create_replica_methods: [slow], slow: {{command: '{command}', no_leader: true}}}}"
    ));
    // As soon as there is something in it, or when it is marked.
    for begun in ["pg_wal", "tamada.unfinished"] {
        let begun = a.data_dir().join(begun);
        let server = a.server.clone();
        let copying = tokio::spawn(async move {
            let from = CloneSource {
                name: None,
                source: None,
            };
            server
                .create_replica(&from, &CloneMethods::Configured, soon())
                .await
        });
        until("the copy has begun", async || begun.exists()).await;
        copying.abort();
        assert!(copying.await.unwrap_err().is_cancelled());
        assert!(a.server.remove_unfinished_copy().await.unwrap());
        assert_eq!(a.server.data_directory(), DataDirectory::Empty);
    }
}

async fn a_copy_that_is_broken_off_is_recognised(installation: Installation) {
    let a = Node::new(&installation, "a");
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "echo $$ > {1}/pid; mkdir -p {0}/global; touch {0}/global/pg_control; echo {2} > {0}/PG_VERSION; sleep 300",
        a.data_dir().display(),
        dir.path().display(),
        installation.major
    );
    let command = script(dir.path(), "slow", &text);
    a.configure(&format!(
        "postgresql: {{create_replica_methods: [slow], slow: {{command: '{command}', no_leader: true}}}}"
    ));
    assert_eq!(a.server.methods_without_leader().len(), 1);
    let mark = a.data_dir().join("tamada.unfinished");
    let server = a.server.clone();
    let from = CloneSource {
        name: None,
        source: None,
    };
    let copying = tokio::spawn(async move {
        server
            .create_replica(&from, &CloneMethods::Configured, soon())
            .await
    });
    until("the copy is marked", async || mark.exists()).await;
    assert_eq!(
        a.server.data_directory(),
        DataDirectory::Unfinished,
        "it looks finished but for the mark"
    );
    let pid: i32 = fs::read_to_string(dir.path().join("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    copying.abort();
    assert!(copying.await.unwrap_err().is_cancelled());
    until("the script is gone", async || !is_alive(pid)).await;
    assert!(a.server.remove_unfinished_copy().await.unwrap());
    assert_eq!(a.server.data_directory(), DataDirectory::Empty);
    assert!(!a.server.remove_unfinished_copy().await.unwrap());

    let from = CloneSource {
        name: None,
        source: None,
    };
    let deadline = Instant::now() + std::time::Duration::from_millis(500);
    let error = a
        .server
        .create_replica(&from, &CloneMethods::Configured, deadline)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(a.server.data_directory(), DataDirectory::Empty);
}
