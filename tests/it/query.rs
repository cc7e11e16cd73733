//! `ctl query` beside Patroni's patronictl: SQL on a member that is chosen by role or name.

use crate::harness::process::{Output, command, run};
use crate::harness::sql::SUPERUSER_PASSWORD;
use crate::harness::{Cluster, oldest, versions};

#[test]
fn a_query_is_answered_as_by_patronictl() {
    let bin = versions::patroni();
    let mut cluster = Cluster::new(oldest(), 2);
    let leader = cluster.bootstrap();
    let replica = cluster.others(&leader).remove(0);
    let ask = |program: &[&str], arguments: &[&str], password: &str| -> Output {
        let mut ctl = command(&cluster.directory, program[0]);
        ctl.args(&program[1..])
            .arg("-c")
            .arg(&cluster.members[0].config_file)
            .args(["query", "-U", "postgres"])
            .args(arguments)
            .env("PGPASSWORD", password);
        run(ctl)
    };
    let tamada = cluster.tamada.display().to_string();
    let patronictl = bin.join("patronictl").display().to_string();
    let ours = |arguments: &[&str]| ask(&[&tamada, "ctl"], arguments, SUPERUSER_PASSWORD);
    let file = cluster
        .directory
        .write("query.sql", "SELECT 'from a file' AS place");
    let file = file.to_str().unwrap();
    let values = "SELECT 1 AS n, 2.5::float8 AS x, true AS yes, false AS no, NULL AS nothing, 'a b' AS text";
    let is_replica = "SELECT pg_is_in_recovery()";
    let with_database = |more: &[&'static str]| [&["-d", "postgres"], more].concat();
    for arguments in [
        with_database(&["-c", values]),
        with_database(&["-c", values, "--format", "pretty"]),
        with_database(&["-c", values, "--format", "json"]),
        with_database(&["-c", values, "--format", "yaml"]),
        with_database(&["-c", values, "--delimiter", "|"]),
        with_database(&["-c", "SELECT 1 WHERE false"]),
        with_database(&["-c", "SELECT 1 AS n WHERE false", "--format", "pretty"]),
        with_database(&["-c", "SELECT 1 AS n; SELECT 2 AS m"]),
        with_database(&["-c", is_replica, "-r", "replica"]),
        with_database(&["-c", is_replica, "-r", "primary"]),
        with_database(&["-c", is_replica, "-r", "leader"]),
        vec![
            "-c",
            "SELECT current_database(), application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        ],
        vec!["-c", "SELECT 1", "-f", file],
        vec!["-c", "SELECT 1", "-r", "replica", "-m", "x"],
        vec![],
    ] {
        let theirs = ask(&[&patronictl], &arguments, SUPERUSER_PASSWORD);
        let ours = ours(&arguments);
        assert_eq!(
            (&ours.stdout, ours.code),
            (&theirs.stdout, theirs.code),
            "{arguments:?}: {}",
            ours.stderr
        );
    }
    assert_eq!(ours(&["-f", file]).stdout, "place\nfrom a file\n");
    assert_eq!(
        ours(&["-m", &replica, "-c", is_replica]).stdout,
        "pg_is_in_recovery\nTrue\n"
    );

    // What goes wrong is a row with the time and a text, and no failure.
    let wrong: [(Vec<&str>, &str, &str); 4] = [
        (
            vec!["-c", "SELECT nothing"],
            SUPERUSER_PASSWORD,
            "\tERROR, SQLSTATE: 42703\n",
        ),
        (
            vec!["-m", "nobody", "-c", "SELECT 1"],
            SUPERUSER_PASSWORD,
            "\tNo connection to member nobody is available\n",
        ),
        (
            vec!["-r", "standby-leader", "-c", "SELECT 1"],
            SUPERUSER_PASSWORD,
            "\tNo connection to role 'standby-leader' is available\n",
        ),
        (vec!["-c", "SELECT 1"], "wrong", "password authentication failed"),
    ];
    for (arguments, password, expected) in wrong {
        let output = ask(&[&tamada, "ctl"], &arguments, password);
        assert!(
            output.stdout.contains(expected),
            "{}{}",
            output.stdout,
            output.stderr
        );
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        if password == SUPERUSER_PASSWORD {
            let theirs = ask(&[&patronictl], &arguments, password);
            let without_time = |text: &str| text.split_once('\t').map(|(_, text)| text.to_owned());
            assert_eq!(without_time(&output.stdout), without_time(&theirs.stdout));
        }
    }
}
