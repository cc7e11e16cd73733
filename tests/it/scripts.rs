//! `patroni_barman`, `patroni_wale_restore` and `patroni_aws`: what they ask of Barman, of WAL-E and of AWS, and how they
//! end. Those services are not to be had here: a server that knows their answers stands in for them, and Patroni's own
//! program is asked the same where it can run.

mod service;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::directory::Directory;
use crate::harness::process::{Output, command, run};
use crate::harness::sql::SUPERUSER_PASSWORD;
use crate::harness::{Cluster, newest, ports, versions};
use service::{Request, Service};

/// Runs the program by the name of one of Patroni's.
fn ours(directory: &Directory, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let link = directory.path().join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tamada"), &link).unwrap();
    }
    let mut program = command(directory, link);
    program.args(arguments).envs(variables.iter().copied());
    run(program)
}

/// Barman's answers, from the state that the URL's server name stands for.
fn barman(request: &Request) -> (u16, String) {
    let path = request.path.as_str();
    let operation = |name: &str| path == format!("/servers/{name}/operations");
    let status = |name: &str| path == format!("/servers/{name}/operations/7");
    let text = match request.method.as_str() {
        "GET" if path == "/status" => "\"OK\"",
        "POST" if operation("good") || operation("bad") || operation("slow") => r#"{"operation_id": "7"}"#,
        "GET" if status("good") => r#"{"status": "DONE"}"#,
        "GET" if status("bad") => r#"{"status": "FAILED"}"#,
        "GET" if status("slow") && request.times < 2 => r#"{"status": "IN_PROGRESS"}"#,
        "GET" if status("slow") => r#"{"status": "DONE"}"#,
        _ => return (404, r#"{"error": "404 Not Found: unknown server"}"#.to_owned()),
    };
    (200, text.to_owned())
}

#[test]
fn barman_is_asked_as_by_patronis_program() {
    let directory = Directory::new();
    let theirs = versions::patroni().join("patroni_barman");
    let recover = |server| {
        let words = "recover --ssh-command=ssh_postgres@here --loop-wait=0 --datadir=/data --scope=demo --role=replica \
                     --connstring= --barman-server";
        let words = words.split(' ').chain([server]);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let switch = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let cases = [
        (recover("good"), 0),
        (recover("slow"), 0),
        (recover("bad"), 1),
        (recover("unknown"), 2),
        (
            switch(
                "config-switch --barman-server good --barman-model m --switch-when promoted on_role_change primary demo",
            ),
            0,
        ),
        (
            switch(
                "config-switch --barman-server good --reset --switch-when always on_role_change standby_leader demo",
            ),
            0,
        ),
        (
            switch(
                "config-switch --barman-server good --reset --switch-when promoted on_role_change replica demo",
            ),
            1,
        ),
        (
            switch(
                "config-switch --barman-server good --reset --switch-when demoted on_role_change primary demo",
            ),
            1,
        ),
        (
            switch(
                "config-switch --barman-server bad --reset --switch-when demoted on_role_change demoted demo",
            ),
            2,
        ),
        (
            switch(
                "config-switch --barman-server unknown --reset --switch-when always on_role_change replica demo",
            ),
            3,
        ),
        (
            switch("config-switch --barman-server good --switch-when always on_role_change replica demo"),
            2,
        ),
        (switch("recover --barman-server good"), 2),
        (vec![], 255),
    ];
    for (arguments, code) in cases {
        let service = Service::start(barman);
        let url = format!("http://127.0.0.1:{}", service.port);
        let mut all = vec!["--api-url", &url, "--retry-wait", "0", "--max-retries", "2"];
        all.extend(arguments.iter().map(String::as_str));
        let mut program = command(&directory, &theirs);
        program.args(&all);
        let theirs = run(program);
        let asked_by_theirs = service.seen();
        let ours = ours(&directory, "patroni_barman", &all, &[]);
        let context = format!("{arguments:?}: {}\n{}", ours.stderr, theirs.stderr);
        assert_eq!((ours.code, theirs.code), (Some(code), Some(code)), "{context}");
        let asked_by_ours = service.seen();
        // Who will not switch asks nothing; theirs asks first whether all is well.
        if code != 255 && !(code == 1 && arguments[0] == "config-switch") {
            assert_eq!(bare(&asked_by_ours), bare(&asked_by_theirs), "{context}");
        }
    }
    let nobody = format!("http://127.0.0.1:{}", ports::free());
    let log = directory.path().join("barman.log");
    let arguments = [
        "--api-url",
        &nobody,
        "--retry-wait=0",
        "--log-file",
        log.to_str().unwrap(),
    ];
    let arguments = [
        &arguments[..],
        &["recover", "--barman-server=a", "--ssh-command=b", "--datadir=/c"],
    ]
    .concat();
    let silent = ours(&directory, "patroni_barman", &arguments, &[]);
    assert_eq!((silent.code, silent.stderr.as_str()), (Some(254), ""));
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(
        told.contains("ERROR: pg-backup-api is not working: GET http://127.0.0.1:"),
        "{told}"
    );
    assert_eq!(told.matches("WARNING: attempt ").count(), 4, "{told}");
}

/// What counts of requests.
fn bare(requests: &[Request]) -> Vec<(String, String, serde_json::Value)> {
    let body = |request: &Request| serde_json::from_str(&request.body).unwrap_or_default();
    let bare = |request: &Request| (request.method.clone(), request.path.clone(), body(request));
    requests.iter().map(bare).collect()
}

/// Stands in for envdir(8), and for the archiver that it runs.
const ENVDIR: &str = r#"#!/bin/bash
folder=$1
shift
echo "$*" >>"$folder/calls"
case "$*" in
*backup-list*) cat "$folder/list" || exit 7 ;;
*backup-fetch*)
    [ ! -e "$folder/fails" ] || exit "$(cat "$folder/fails")"
    to=${@: -2:1}
    mkdir -p "$to" && ln -s /nowhere/wal "$to/pg_wal"
    ;;
esac
"#;

#[test]
fn a_replica_comes_from_wal_e_or_wal_g_when_that_is_less_work() {
    let mut cluster = Cluster::new(newest(), 1);
    cluster.bootstrap();
    let directory = &cluster.directory;
    directory.make("bin");
    let envdir = directory.write("bin/envdir", ENVDIR);
    std::fs::set_permissions(&envdir, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", envdir.parent().unwrap().display());
    let folder = directory.make("env");
    let to = directory.path().join("restored");
    let server = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres",
        cluster.members[0].postgresql_port
    );
    let list = |text: &str| directory.write("env/list", text);
    let calls = || {
        let file = folder.join("calls");
        let calls = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        calls.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let restore = |connstring: &str, more: &[&str]| {
        let _ = std::fs::remove_dir_all(&to);
        let (to, folder) = (to.display().to_string(), folder.display().to_string());
        let known = [
            "--scope=demo",
            "--role=replica",
            "--datadir",
            &to,
            "--connstring",
            connstring,
        ];
        let arguments = [&known[..], &["--envdir", &folder], more].concat();
        let variables = [("PATH", path.as_str()), ("PGPASSWORD", SUPERUSER_PASSWORD)];
        ours(directory, "patroni_wale_restore", &arguments, &variables)
    };
    let wal_e = |size: u64| {
        list(&format!(
            "name\texpanded_size_bytes\twal_segment_backup_start\twal_segment_offset_backup_start\n\
             base\t{size}\t000000010000000000000001\t00000040\n"
        ))
    };

    // Near enough: it is fetched, and a link to WAL that is nowhere becomes a folder.
    wal_e(1 << 40);
    let restored = restore(&server, &["--use_iam=1"]);
    assert_eq!(restored.code, Some(0), "{}", restored.stderr);
    assert!(to.join("pg_wal").is_dir() && !to.join("pg_wal").is_symlink());
    let data = to.display();
    assert_eq!(
        calls(),
        [
            "wal-e --aws-instance-profile backup-list --detail LATEST".to_owned(),
            format!("wal-e --aws-instance-profile backup-fetch {data} LATEST"),
        ]
    );
    // Too far away, by size and by share of the backup.
    for more in [
        ["--threshold_megabytes=0"],
        ["--threshold_backup_size_percentage=0"],
    ] {
        let refused = restore(&server, &more);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains("is too old"), "{}", refused.stderr);
        assert_eq!(calls().len(), 1);
    }
    // Nobody to compare with.
    let nobody = format!("postgres://postgres:hidden@127.0.0.1:{}/postgres", ports::free());
    let refused = restore(&nobody, &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(!refused.stderr.contains("hidden"), "{}", refused.stderr);
    assert_eq!(restore(&nobody, &["--no_leader=1"]).code, Some(0));
    assert_eq!(restore("", &[]).code, Some(0));
    calls();
    // The archiver fails: tried again, with its own code in the end.
    directory.write("env/fails", "1");
    assert_eq!(restore("", &["--retries=2"]).code, Some(1));
    assert_eq!(calls().len(), 6);
    directory.write("env/fails", "9");
    assert_eq!(restore("", &["--retries=2"]).code, Some(9));
    assert_eq!(calls().len(), 2);
    std::fs::remove_file(folder.join("fails")).unwrap();
    // What is no list, and no backup in it.
    list("name\n");
    assert_eq!(restore(&server, &[]).code, Some(2));
    list("name\nbase\n");
    assert_eq!(restore(&server, &["--retries=0"]).code, Some(1));
    // WAL-G.
    list(r#"[{"backup_name": "base", "start_lsn": 16777256, "uncompressed_size": 1099511627776}]"#);
    calls();
    let restored = restore(&server, &["--archiver=wal-g"]);
    assert_eq!(restored.code, Some(0), "{}", restored.stderr);
    assert_eq!(calls()[0], "wal-g backup-list --detail --json");
    let missing = restore(&server, &["--envdir", "/nowhere"]);
    assert_eq!(missing.code, Some(2));
}

/// Meta-data of an instance, and EC2. The first tag is refused once.
fn aws(request: &Request) -> (u16, String) {
    let is = |action: &str| request.body.starts_with(&format!("Action={action}&"));
    let text = match (request.method.as_str(), request.path.as_str()) {
        ("PUT", "/latest/api/token") => "a-token",
        ("GET", "/latest/dynamic/instance-identity/document")
            if request.header("x-aws-ec2-metadata-token") == "a-token" =>
        {
            r#"{"instanceId": "i-0123", "region": "eu-central-1", "accountId": "1"}"#
        }
        ("POST", "/")
            if is("CreateTags") && request.times == 0 && request.body.contains("ResourceId.1=i%2D") =>
        {
            let text =
                "<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>";
            return (503, text.to_owned());
        }
        ("POST", "/") if is("CreateTags") => "<CreateTagsResponse><return>true</return></CreateTagsResponse>",
        ("POST", "/") if is("DescribeVolumes") => {
            if request.body.contains("NextToken=") {
                "<DescribeVolumesResponse><volumeSet><item><volumeId>vol-2</volumeId></item></volumeSet>\
                 </DescribeVolumesResponse>"
            } else {
                "<DescribeVolumesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>1</requestId>\
                 <volumeSet><item><volumeId>vol-1</volumeId><size>8</size></item></volumeSet>\
                 <nextToken>more/</nextToken></DescribeVolumesResponse>"
            }
        }
        _ => return (404, String::new()),
    };
    (200, text.to_owned())
}

#[test]
fn an_instance_and_its_volumes_are_tagged() {
    let directory = Directory::new();
    let service = Service::start(aws);
    let url = format!("http://127.0.0.1:{}", service.port);
    let variables = [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str()),
        ("AWS_ENDPOINT_URL_EC2", url.as_str()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "secret-of-the-test"),
    ];
    let tagged = ours(
        &directory,
        "patroni_aws",
        &["on_role_change", "primary", "demo"],
        &variables,
    );
    assert_eq!(tagged.code, Some(0), "{}", tagged.stderr);
    assert!(!tagged.stderr.contains("secret"), "{}", tagged.stderr);
    let seen = service.seen();
    let bodies: Vec<&str> = seen.iter().skip(2).map(|request| request.body.as_str()).collect();
    let role =
        "Action=CreateTags&Version=2016-11-15&ResourceId.1=i%2D0123&Tag.1.Key=Role&Tag.1.Value=primary";
    let volumes = "Action=DescribeVolumes&Version=2016-11-15&Filter.1.Name=attachment%2Einstance%2Did&\
                   Filter.1.Value.1=i%2D0123";
    assert_eq!(
        bodies,
        [
            role,
            role,
            volumes,
            &format!("{volumes}&NextToken=more%2F"),
            "Action=CreateTags&Version=2016-11-15&ResourceId.1=vol%2D1&ResourceId.2=vol%2D2&Tag.1.Key=Name&\
             Tag.1.Value=spilo%5Fdemo&Tag.2.Key=Role&Tag.2.Value=primary&Tag.3.Key=Instance&Tag.3.Value=i%2D0123",
        ]
    );
    let signature = seen[2].header("authorization");
    assert!(
        signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
            && signature.contains("/eu-central-1/ec2/aws4_request"),
        "{signature}"
    );

    let refused = ours(
        &directory,
        "patroni_aws",
        &["on_something", "primary", "demo"],
        &variables,
    );
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("usage: patroni_aws"),
        "{}",
        refused.stderr
    );
    let elsewhere = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")];
    let nowhere = ours(
        &directory,
        "patroni_aws",
        &["on_start", "primary", "demo"],
        &elsewhere,
    );
    assert_eq!(nowhere.code, Some(1));
    assert!(
        nowhere.stderr.contains("cannot query AWS meta-data"),
        "{}",
        nowhere.stderr
    );
}

/// By a link, and as a command of the program.
#[test]
fn they_are_commands_of_the_program_too() {
    let directory = Directory::new();
    for (words, expected) in [
        (["barman", "--help"], "patroni_barman"),
        (["wale-restore", "--help"], "patroni_wale_restore"),
        (["aws", "--help"], "patroni_aws"),
    ] {
        let mut program = command(&directory, PathBuf::from(env!("CARGO_BIN_EXE_tamada")));
        program.args(words);
        let help = run(program);
        assert_eq!(help.code, Some(0));
        assert!(
            help.stdout.contains(&format!("Usage: {expected} ")),
            "{}",
            help.stdout
        );
    }
}
