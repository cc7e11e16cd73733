//! `tamada ctl` on clusters whose keys stand in a real etcd and whose members are canned answers.
//!
//! The transcripts in `ctl/*.txt` hold what Patroni's own patronictl 4.1.5 prints for the same keys, answers and
//! input; the few lines in which this program says more, or less, than a Python traceback are its own.

mod stage;

use expect_test::expect_file;

use self::stage::Stage;

#[test]
fn what_is_shown_of_a_cluster() {
    let stage = Stage::new();
    expect_file!["./ctl/list.txt"].assert_eq(&stage.replay(include_str!("ctl/list.txt")));
}

#[test]
fn the_dynamic_configuration_is_shown_and_changed() {
    let stage = Stage::new();
    expect_file!["./ctl/config.txt"].assert_eq(&stage.replay(include_str!("ctl/config.txt")));
}

#[test]
fn switchover_and_failover() {
    let stage = Stage::new();
    expect_file!["./ctl/switchover.txt"].assert_eq(&stage.replay(include_str!("ctl/switchover.txt")));
}

#[test]
fn what_is_asked_of_members() {
    let stage = Stage::new();
    expect_file!["./ctl/members.txt"].assert_eq(&stage.replay(include_str!("ctl/members.txt")));
}

#[test]
fn what_has_happened() {
    let stage = Stage::new();
    expect_file!["./ctl/explain.txt"].assert_eq(&stage.replay(include_str!("ctl/explain.txt")));
}

#[test]
fn an_editor_changes_the_configuration() {
    let stage = Stage::new();
    let editor = stage.script("editor", "sed -i 's/ttl: 30/ttl: 40/; s/^slots:.*//' \"$1\"");
    let output = stage.run(
        &["edit-config", "batman"],
        "y\n",
        &[("EDITOR", editor.to_str().unwrap())],
    );
    assert!(output.stdout.contains("\n-slots: {}\n-ttl: 30\n"), "{output:?}");
    assert!(
        output
            .stdout
            .ends_with("Apply these changes? [y/N]: Configuration changed\n"),
        "{output:?}"
    );
    let config: serde_json::Value = serde_json::from_str(&stage.key("batman/config")).unwrap();
    assert_eq!((&config["ttl"], config.get("slots")), (&40.into(), None));

    for (script, expected) in [
        ("exit 3", "Error: Editor exited with return code 3\n"),
        (
            "echo '- 1' >\"$1\"",
            "the configuration must be a mapping, found a list\n",
        ),
        ("echo 'a: [' >\"$1\"", ".yaml:"),
    ] {
        let editor = stage.script("editor", script);
        let output = stage.run(
            &["edit-config", "batman"],
            "y\n",
            &[("EDITOR", editor.to_str().unwrap())],
        );
        assert!(
            output.code == Some(1) && output.stderr.contains(expected),
            "{output:?}"
        );
    }
    assert!(stage.key("batman/config").contains("40"));
}

#[test]
fn a_concurrent_change_is_not_overwritten() {
    let stage = Stage::new();
    let put = stage.etcdctl_line(&["put", "/service/batman/config", "{\"ttl\":50}"]);
    let editor = stage.script("editor", &format!("echo ttl: 40 >\"$1\"; {put}"));
    let output = stage.run(
        &["edit-config", "batman"],
        "y\n",
        &[("EDITOR", editor.to_str().unwrap())],
    );
    assert_eq!(
        output.stderr,
        "Error: Config modification aborted due to concurrent changes\n"
    );
    assert_eq!(
        (output.code, stage.key("batman/config").as_str()),
        (Some(1), "{\"ttl\":50}")
    );
}

#[test]
fn the_cluster_is_found_by_file_option_and_environment() {
    let stage = Stage::new();
    let etcd = stage.etcd_endpoint();
    let file = stage.file(
        "patroni.yml",
        &format!("scope: lonely\nname: n\netcd3:\n  host: {etcd}\n"),
    );
    let file = file.to_str().unwrap();
    let nowhere = [("PATRONI_ETCD3_HOST", "")];
    let with_file = stage.run(&["-c", file, "dsn"], "", &nowhere);
    assert_eq!(with_file.stdout, "host=l0 port=5432\n", "{with_file:?}");
    let with_variable = stage.run(
        &["dsn"],
        "",
        &[("PATRONI_ETCD3_HOST", ""), ("PATRONICTL_CONFIG_FILE", file)],
    );
    assert_eq!(with_variable.stdout, "host=l0 port=5432\n", "{with_variable:?}");
    let with_url = stage.run(
        &["-d", &format!("etcd3://{etcd}/service"), "dsn", "batman"],
        "",
        &nowhere,
    );
    assert_eq!(with_url.stdout, "host=10.0.0.1 port=5432\n", "{with_url:?}");

    for (arguments, expected) in [
        (
            ["-c", "/nonexistent", "list"],
            "Error: Provided config file /nonexistent not existing or no read rights. Check the -c/--config-file \
             parameter\n",
        ),
        (["-d", "foo://x", "list"], "Error: Unknown dcs scheme: foo\n"),
    ] {
        let output = stage.run(&arguments, "", &nowhere);
        assert_eq!((output.code, output.stderr.as_str()), (Some(1), expected));
    }
    let output = stage.run(&["list", "batman"], "", &nowhere);
    assert!(
        output.code == Some(1) && output.stderr.contains("Can not find suitable configuration"),
        "{output:?}"
    );
}

#[test]
fn a_citus_cluster_is_shown_by_group() {
    let stage = Stage::new();
    let citus = [("PATRONI_CITUS_GROUP", "0"), ("PATRONI_CITUS_DATABASE", "citus")];
    let output = stage.run(&["list", "citus", "--group", "1"], "", &citus);
    assert!(
        output
            .stdout
            .starts_with("+ Citus cluster: citus (group: 1, 7000000000000000005) "),
        "{output:?}"
    );
    assert!(
        output.stdout.contains("| w0     | 10.0.1.1 | Leader | running |"),
        "{output:?}"
    );
    let output = stage.run(&["show-config", "citus"], "", &citus);
    assert_eq!(output.stdout, "ttl: 25\n\n");
    let output = stage.run(&["list", "citus"], "", &citus);
    assert!(
        output.stdout.starts_with("+ Citus cluster: citus -") && output.stdout.contains("|     1 | w0 "),
        "{output:?}"
    );
}

#[test]
fn wrong_usage_ends_with_two() {
    let stage = Stage::new();
    for (arguments, expected) in [
        (
            &["list", "-f", "xml"] as &[&str],
            "'xml' is not one of 'pretty', 'tsv', 'json', 'yaml', 'yml'.",
        ),
        (
            &["reload", "batman", "-r", "foo"],
            "'foo' is not one of 'leader', 'primary', 'standby-leader', 'replica'",
        ),
        (
            &["flush", "batman", "p1", "foo"],
            "'foo' is not one of 'restart', 'switchover'.",
        ),
        (&["switchover", "--bogus"], "--bogus"),
        (&["restart"], "Usage: patronictl restart"),
        (&["bogus"], "bogus"),
        (&[], "Usage: patronictl"),
    ] {
        let output = stage.run(arguments, "", &[]);
        assert!(
            output.code == Some(2) && output.stderr.contains(expected),
            "{arguments:?}: {output:?}"
        );
    }
    let output = stage.run(&["list"], "", &[]);
    let warning = "WARNING - Listing members: No cluster names were provided\n";
    assert!(
        output.code == Some(0) && output.stderr.ends_with(warning),
        "{output:?}"
    );
    let output = stage.run(&["show-config"], "", &[]);
    assert!(
        output.code == Some(1) && output.stderr.starts_with("Error: no cluster name"),
        "{output:?}"
    );
}

#[test]
fn a_shell_completes_clusters_and_members() {
    let stage = Stage::new();
    let url = format!("etcd3://{}/service", stage.etcd_endpoint());
    let completed = |line: &[&str]| {
        let words = [&["--", "patronictl", "-d", &url], line].concat();
        let index = (words.len() - 2).to_string();
        let shell = [
            ("COMPLETE", "bash"),
            ("_CLAP_COMPLETE_INDEX", &*index),
            ("_CLAP_IFS", "\n"),
        ];
        let output = stage.run(&words, "", &shell);
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
        output.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed(&["switchov"]), ["switchover"]);
    assert_eq!(completed(&["list", "bat"]), ["batman"]);
    assert_eq!(completed(&["list", "lone"]), ["lonely"]);
    assert_eq!(completed(&["restart", "lonely", "l"]), ["l0"]);
    assert_eq!(completed(&["switchover", "lonely", "--candidate", ""]), ["l0"]);
    // Without a store there is nothing to offer, and no error in the middle of a line.
    let nowhere = stage.run(
        &["--", "patronictl", "-d", "etcd3://127.0.0.1:1", "list", "bat"],
        "",
        &[
            ("COMPLETE", "bash"),
            ("_CLAP_COMPLETE_INDEX", "4"),
            ("_CLAP_IFS", "\n"),
        ],
    );
    assert_eq!((&*nowhere.stdout, &*nowhere.stderr), ("", ""), "{nowhere:?}");
    // What the shell reads at its start.
    let script = stage.run(&[], "", &[("COMPLETE", "bash")]);
    assert!(
        script.stdout.contains("complete ") && script.stdout.contains(" patronictl"),
        "{script:?}"
    );
}
