//! Configurations that are checked and made without running a member.

use crate::harness::cluster::Timers;
use crate::harness::process::{Output, command, run};
use crate::harness::sql::{REPLICATION_PASSWORD, SUPERUSER_PASSWORD};
use crate::harness::{Cluster, newest, oldest, seconds};
use std::fs;
use std::net::TcpListener;

fn tamada(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut tamada = command(&cluster.directory, &cluster.tamada);
    tamada.arg("run").args(arguments);
    run(tamada)
}

#[test]
fn a_configuration_is_checked() {
    let mut cluster = Cluster::with(oldest(), 1, 1, Timers::SHORT);
    let file = cluster.members[0].config_file.display().to_string();
    let member = &cluster.members[0];
    // As others would reach it; nothing listens there.
    let good = member
        .config()
        .replace("connect_address: 127.0.0.1", "connect_address: 192.0.2.1");
    let check = |config: &str, more: &[&str]| {
        member.write_config(config);
        let output = tamada(&cluster, &[&["--validate-config", &file], more].concat());
        assert!(!output.stderr.contains(SUPERUSER_PASSWORD), "{}", output.stderr);
        output
    };
    let refused = |config: &str, expected: &[&str]| {
        let output = check(config, &[]);
        assert_eq!(output.code, Some(1), "{}", output.stderr);
        for text in expected {
            assert!(
                output.stderr.contains(text),
                "{text} is missing:\n{}",
                output.stderr
            );
        }
        assert_eq!(output.stderr.lines().count(), expected.len(), "{}", output.stderr);
    };

    let right = check(&good, &[]);
    assert_eq!((right.code, &*right.stdout, &*right.stderr), (Some(0), "", ""));
    let printed = check(&good, &["--print"]);
    assert!(
        printed.stdout.starts_with("bootstrap:\n  dcs:\n    loop_wait: "),
        "{}",
        printed.stdout
    );
    assert_eq!(
        check(&printed.stdout, &[]).code,
        Some(0),
        "what is printed is right"
    );

    // All at once, each with its place.
    let wrong = good
        .replace("scope: demo", "scpe: demo")
        .replace("ttl: ", "ttl: a")
        .replace("192.0.2.1", "localhost")
        .replace("nofailover: false", "nofailover: false\n  failover_priority: 1");
    refused(
        &wrong,
        &[
            ":1:1: scpe: unknown setting, ignored: did you mean scope?",
            "scope: is not defined, but is needed",
            "bootstrap.dcs.ttl: expected a whole number",
            "restapi.connect_address: other hosts cannot reach this address",
            "postgresql.connect_address: other hosts cannot reach this address",
            "tags.nofailover: is written beside tags.failover_priority",
        ],
    );
    // The scanner panics at this; people get one line.
    refused(
        &good.replace("scope: demo", "scope: [!!str, demo]"),
        &["it holds a tag (`!...`) that a comma follows: remove the tag"],
    );
    let without_user = good.replace("      username: replicator\n", "");
    refused(
        &without_user,
        &["postgresql.authentication.replication.username: is not defined, but is needed"],
    );
    let bin = cluster.postgresql.bin.display().to_string();
    refused(
        &good.replace(&bin, "/nowhere"),
        &["postgresql.bin_dir: there is no folder /nowhere"],
    );
    refused(
        &good.replace(&bin, "/etc"),
        &["postgres, initdb, pg_controldata, pg_basebackup not found in /etc"],
    );

    // PostgreSQL's parameters, by the word of its program.
    let endpoint = cluster.etcd.endpoints()[0].clone();
    let parameters = good
        .replace("max_connections: 60", "max_conections: 60")
        .replace("max_wal_senders: 10", "max_wal_senders: 999999999")
        .replace(
            "shared_buffers: 16MB",
            "shared_buffers: 12XB\n    archive_comand: upload --token hunter2",
        );
    refused(
        &parameters,
        &[
            "bootstrap.dcs.postgresql.parameters.max_conections: PostgreSQL has no such parameter: did you mean max_connections?",
            "bootstrap.dcs.postgresql.parameters.max_wal_senders: \"999999999\" is out of PostgreSQL's range: 262143 is the most",
            "postgresql.parameters.archive_comand: PostgreSQL has no such parameter: did you mean archive_command?",
            "postgresql.parameters.shared_buffers: PostgreSQL does not take the value \"12XB\" for it",
        ],
    );
    assert!(!check(&parameters, &[]).stderr.contains("hunter2"));

    // What this host has to say.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    refused(
        &good.replace(&endpoint, &format!("127.0.0.1:{port}")),
        &[&format!(
            "etcd3.hosts: 127.0.0.1:{port} answers, but cannot be used as etcd"
        )],
    );
    drop(other);
    a_sample_that_is_filled_in_is_right(&cluster, &endpoint);
    let taken = TcpListener::bind(("127.0.0.1", member.postgresql_port)).unwrap();
    refused(
        &good,
        &[&format!(
            "postgresql.listen: port {} is already in use",
            member.postgresql_port
        )],
    );
    assert_eq!(check(&good, &["-i"]).code, Some(0));
    drop(taken);
    let data = member.data_dir();
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("letter.txt"), "dear").unwrap();
    refused(&good, &["is no data directory of PostgreSQL"]);
    fs::write(data.join("PG_VERSION"), "9.3\n").unwrap();
    fs::create_dir(data.join("pg_wal")).unwrap();
    cluster.give_away(&data);
    refused(&good, &["is of PostgreSQL 9.3, "]);
    fs::remove_dir_all(&data).unwrap();
    member.write_config(&good);
    cluster.etcd.kill();
    let silent = tamada(&cluster, &["--validate-config", &file]);
    assert!(
        silent.stderr.contains("etcd3.hosts: 127.0.0.1:"),
        "{}",
        silent.stderr
    );
    assert!(silent.stderr.contains("is not reachable"), "{}", silent.stderr);
}

fn a_sample_that_is_filled_in_is_right(cluster: &Cluster, endpoint: &str) {
    let file = cluster.directory.make("sample").join("sample.yml");
    let file = file.to_str().unwrap();
    let mut made = command(&cluster.directory, &cluster.tamada);
    made.args(["run", "--generate-sample-config", file])
        .env("PATRONI_SCOPE", "batman")
        .env("PATRONI_POSTGRESQL_BIN_DIR", &cluster.postgresql.bin)
        .env("PATRONI_ETCD3_HOSTS", endpoint)
        .env("PATRONI_POSTGRESQL_CONNECT_ADDRESS", "192.0.2.1:5432")
        .env("PATRONI_RESTAPI_CONNECT_ADDRESS", "192.0.2.1:8008");
    assert_eq!(run(made).code, Some(0));
    let check = || tamada(cluster, &["--validate-config", "-i", file]);
    let output = check();
    let todo: Vec<&str> = output.stderr.lines().collect();
    assert!(
        todo.len() == 4
            && todo
                .iter()
                .all(|line| line.ends_with("is still #FIXME: fill it in")),
        "{}",
        output.stderr
    );
    let data = cluster.directory.make("sample").join("data");
    let text = fs::read_to_string(file).unwrap();
    let text = text
        .replace("password: '#FIXME'", "password: sesame-42")
        .replace("data_dir: '#FIXME'", &format!("data_dir: {}", data.display()));
    fs::write(file, text).unwrap();
    let output = check();
    assert_eq!((output.code, &*output.stderr), (Some(0), ""), "{}", output.stderr);
}

#[test]
fn a_sample_shows_what_has_to_be_filled_in() {
    let cluster = Cluster::without_etcd(oldest(), 1, 1, Timers::SHORT);
    let folder = cluster.directory.make("new");
    let file = folder.join("deep/sample.yml");
    let file = file.to_str().unwrap();
    let mut made = command(&cluster.directory, &cluster.tamada);
    made.args(["run", "--generate-sample-config", file])
        .env("PATRONI_SCOPE", "batman")
        .env("PATRONI_POSTGRESQL_BIN_DIR", &cluster.postgresql.bin);
    let made = run(made);
    assert_eq!((made.code, &*made.stdout, &*made.stderr), (Some(0), "", ""));
    let text = fs::read_to_string(file).unwrap();
    assert!(text.starts_with("scope: batman\nname: "), "{text}");
    assert!(
        text.contains("wal_keep_size") && text.contains("scram-sha-256"),
        "{text}"
    );
    let checked = tamada(&cluster, &["--validate-config", file]);
    assert!(
        !checked.stderr.contains("unknown"),
        "all of it are settings: {}",
        checked.stderr
    );
    // To standard output, and never both modes at once.
    assert!(
        tamada(&cluster, &["--generate-sample-config"])
            .stdout
            .starts_with("scope: '#FIXME'\n")
    );
    assert_eq!(
        tamada(&cluster, &["--generate-sample-config", "--validate-config"]).code,
        Some(2)
    );
}

#[test]
fn a_configuration_is_made_for_a_server_that_runs() {
    let mut cluster = Cluster::new(newest(), 1);
    let name = cluster.bootstrap();
    let member = &cluster.members[0];
    member.query("ALTER SYSTEM SET work_mem = '7MB'").unwrap();
    member.query("SELECT pg_reload_conf()").unwrap();
    member
        .query("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .unwrap();
    let port = member.postgresql_port;
    let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let generate = |password: &str| {
        let mut generate = command(&cluster.directory, &cluster.tamada);
        generate
            .args(["run", "--generate-config", "--dsn", &dsn])
            .env("PGPASSWORD", password);
        run(generate)
    };
    let refused = generate("wrong");
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(
        refused.stderr.contains("password authentication failed"),
        "{}",
        refused.stderr
    );
    let made = generate(SUPERUSER_PASSWORD);
    assert_eq!((made.code, &*made.stderr), (Some(0), ""), "{}", made.stderr);
    for text in [
        "scope: demo\n".to_owned(),
        "        work_mem: 7MB\n".to_owned(),
        format!("  data_dir: {}\n", member.data_dir().display()),
        format!("  bin_dir: {}\n", cluster.postgresql.bin.display()),
        format!("  listen: 127.0.0.1:{port}\n"),
    ] {
        assert!(made.stdout.contains(&text), "{text} is missing:\n{}", made.stdout);
    }

    // With what only the operator knows it is the configuration of a member.
    let endpoint = &cluster.etcd.endpoints()[0];
    let own_name = made
        .stdout
        .lines()
        .find(|line| line.starts_with("name: "))
        .unwrap();
    let completed = made
        .stdout
        .replace(own_name, &format!("name: {name}"))
        .replace("hosts: '#FIXME'", &format!("hosts: {endpoint}"))
        .replace(":8008", &format!(":{}", member.rest_port))
        .replace("username: '#FIXME'", "username: replicator")
        .replace("password: '#FIXME'", &format!("password: {REPLICATION_PASSWORD}"));
    assert!(!completed.contains("FIXME"), "{completed}");
    cluster.members[0].stop();
    cluster.members[0].write_config(&completed);
    cluster.members[0].start();
    assert_eq!(cluster.wait_for_primary(seconds(30)), name);
    assert_eq!(cluster.members[0].value("SELECT count(*) FROM kept"), "1");
}

#[test]
fn the_schema_takes_what_is_right_and_refuses_what_is_not() {
    let cluster = Cluster::without_etcd(oldest(), 1, 1, Timers::SHORT);
    let schema = |side: &str| {
        let mut schema = command(&cluster.directory, &cluster.tamada);
        schema.args(["config", "schema", side]);
        let text = run(schema).stdout;
        jsonschema::validator_for(&serde_json::from_str(&text).expect(&text)).unwrap()
    };
    let (local, dynamic) = (schema("local"), schema("dynamic"));
    let tree = |text: &str| serde_json::Value::from(&config::yaml::parse("test", text).unwrap());
    let good = cluster.members[0].config();
    let sample = tamada(&cluster, &["--generate-sample-config"]).stdout;
    for text in [&good, &sample] {
        let tree = tree(text);
        let errors: Vec<String> = local
            .iter_errors(&tree)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:?}\n{text}");
        assert!(dynamic.is_valid(&tree["bootstrap"]["dcs"]), "{text}");
    }
    for (right, wrong) in [
        ("use_slots: yes", "use_slots: maybe"),
        ("ttl: ", "ttl: [1]\n    other: "),
        ("nofailover: false", "nofailover: [1]"),
        ("use_unix_socket: true", "use_unix_socket: perhaps"),
        (
            "  parameters:\n    unix",
            "  parameters: text\n  other:\n    unix",
        ),
    ] {
        assert!(good.contains(right), "{right}");
        assert!(!local.is_valid(&tree(&good.replace(right, wrong))), "{wrong}");
    }
    let quorum = tree(
        "synchronous_mode: Quorum\nfailsafe_mode: on\nmember_slots_ttl: 30min\nslots: {a: {type: physical}}",
    );
    assert_eq!(
        dynamic.validate(&quorum).map_err(|error| error.to_string()),
        Ok(())
    );
    // What is misspelt is seen, but for methods, which have names of the user's choice.
    for (right, wrong) in [
        ("restapi:\n", "restapi:\n  certfil: x\n"),
        (
            "postgresql:\n  listen",
            "postgresql:\n  use_pg_rewnd: on\n  listen",
        ),
        ("scope:", "scpe: x\nscope:"),
    ] {
        assert!(good.contains(right), "{right}");
        assert!(!local.is_valid(&tree(&good.replacen(right, wrong, 1))), "{wrong}");
    }
    let method = good.replacen(
        "postgresql:\n  listen",
        "postgresql:\n  wal_g: {command: x}\n  listen",
        1,
    );
    assert!(local.is_valid(&tree(&method)));
    assert!(!dynamic.is_valid(&tree("tll: 30")));
    assert!(!dynamic.is_valid(&tree("synchronous_mode: often")));
    assert!(!dynamic.is_valid(&tree("loop_wait: {}")));
}
