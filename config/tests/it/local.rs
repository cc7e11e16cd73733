//! The node's own configuration: what is read, and what is said when it is wrong.

use crate::{FILE, read, tree, variables};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use tamada_config::{
    BootstrapMethod, ClientConfig, DcsConfig, DcsKind, DynamicConfig, EtcdEndpoints, GuardMode, Kind,
    LocalConfig, Map, Minimums, ParameterRole, PostgresqlSettings, Secret, ServerTokens, Value, VerifyClient,
    WatchdogMode, validate,
};

fn problems(more: &str, expected: Expect) {
    let text = match read(more) {
        Ok((_, warnings)) => warnings.to_string(),
        Err(errors) => errors.to_string(),
    };
    expected.assert_eq(&text);
}

#[test]
fn a_small_file_is_enough() {
    let (config, warnings) = read("").unwrap();
    assert_eq!(warnings.to_string(), "");
    assert_eq!((config.name.as_str(), config.scope.as_str()), ("p0", "batman"));
    assert_eq!(config.dcs_path(), "/service/batman");
    assert_eq!(config.restapi.connect_address.to_string(), "10.0.0.1:8008");
    assert_eq!(config.postgresql.listen.listen_addresses(), "10.0.0.1,127.0.0.1");
    assert_eq!(config.postgresql.config_dir, PathBuf::from("/data"));
    assert_eq!(config.postgresql.database, "postgres");
    assert_eq!(config.postgresql.bin_name.file_name("pg_ctl"), "pg_ctl");
    let replication = &config.postgresql.authentication.replication;
    assert_eq!(replication.password, Some(Secret::from("rep-secret")));
    assert_eq!(replication.options["sslmode"], "verify-ca");
    assert_eq!(config.guard.mode, GuardMode::On);
    assert_eq!(config.watchdog.mode, WatchdogMode::Automatic);
    assert_eq!(config.watchdog.safety_margin_seconds, Some(5));
    assert_eq!(config.bootstrap.method, BootstrapMethod::Initdb);
    let DcsConfig::Etcd3(etcd) = &config.dcs else {
        panic!("{:?}", config.dcs)
    };
    let EtcdEndpoints::Hosts(hosts) = &etcd.endpoints else {
        panic!("{etcd:?}")
    };
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["10.0.0.11:2379", "10.0.0.12:2379"]);
    assert!(!etcd.https && !etcd.use_proxies);
}

#[test]
fn no_secret_shows_when_a_configuration_is_printed() {
    let (config, _) =
        read("etcd3: {password: etcd-secret, username: u, url: 'http://a:url-secret@h'}").unwrap();
    let text = format!("{config:?}");
    assert!(text.contains("batman") && !text.contains("-secret"), "{text}");
}

#[test]
fn all_sections() {
    let (config, warnings) = read(
        "
namespace: //postgresql-common/
log: {type: JSON, level: debug, dir: /log, mode: 0640, loggers: {a.b: warning}, format: [message, {levelname: level}]}
restapi:
  authentication: {username: u, password: 123}
  verify_client: Required
  allowlist: 10.0.0.0/8, host
  server_tokens: minimal
  http_extra_headers: {X-A: b}
ctl: {insecure: on, cacert: /ca}
watchdog: {mode: off, safety_margin: -1}
guard: {mode: required}
tags: {nofailover: true, failover_priority: 1, zone: b}
citus: {group: 0, database: d}
bootstrap:
  dcs: {ttl: 20, slots: {a: {type: physical}}}
  initdb: [data-checksums, encoding: UTF8, {locale: \"'C.UTF-8'\"}, pgdata: /x]
  pg_hba: [local all all trust]
  post_init: /init.sh --fast
  method: wal_g
  wal_g: {command: /wal_g, no_params: true, recovery_conf: {recovery_target_timeline: latest, standby_mode: off}, x: 1}
postgresql:
  bin_dir: /bin
  bin_name: {postgres: my-postgres}
  pgpass: pass
  config_dir: conf
",
    )
    .unwrap();
    expect![[r#"
        patroni.yml:17:3: bootstrap.initdb: the option pgdata cannot be set here and is ignored
        Conflicting configuration between nofailover: True and failover_priority: 1. Defaulting to nofailover: True"#]].assert_eq(&warnings.to_string());
    assert_eq!(config.dcs_path(), "/postgresql-common/batman");
    assert_eq!(
        (config.log.level.as_str(), config.log.mode),
        ("DEBUG", Some(0o640))
    );
    assert_eq!(config.log.loggers["a.b"], "warning");
    assert_eq!(config.restapi.verify_client, VerifyClient::Required);
    assert_eq!(config.restapi.server_tokens, ServerTokens::Minimal);
    assert_eq!(config.restapi.allowlist, ["10.0.0.0/8", "host"]);
    assert_eq!(
        config.restapi.authentication.as_ref().unwrap().password,
        Secret::from("123")
    );
    // The client side takes what it lacks from the REST API's section.
    assert_eq!(config.ctl.authentication, config.restapi.authentication);
    assert_eq!(
        (config.ctl.insecure, config.ctl.cacert.as_deref()),
        (true, Some(Path::new("/ca")))
    );
    assert_eq!(
        (config.watchdog.mode, config.watchdog.safety_margin_seconds),
        (WatchdogMode::Off, None)
    );
    assert_eq!(config.guard.mode, GuardMode::Required);
    assert!(config.tags.nofailover());
    assert_eq!(
        config.bootstrap.dcs.to_string(),
        r#"{"ttl":20,"slots":{"a":{"type":"physical"}},"synchronous_mode":"quorum"}"#
    );
    let option = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    assert_eq!(
        config.bootstrap.initdb,
        [
            option("data-checksums", None),
            option("encoding", Some("UTF8")),
            option("locale", Some("C.UTF-8"))
        ]
    );
    assert_eq!(
        config.bootstrap.post_bootstrap.as_deref(),
        Some("/init.sh --fast")
    );
    let BootstrapMethod::Custom {
        command,
        no_params,
        recovery_conf,
        options,
        ..
    } = &config.bootstrap.method
    else {
        panic!("{:?}", config.bootstrap.method)
    };
    assert_eq!((command.as_str(), *no_params), ("/wal_g", true));
    assert_eq!(
        recovery_conf.as_ref().unwrap()[1],
        ("standby_mode".to_owned(), "off".to_owned())
    );
    assert_eq!(*options, [("x".to_owned(), "1".to_owned())]);
    assert_eq!(config.postgresql.bin_name.file_name("postgres"), "my-postgres");
    let mut config = config;
    config.resolve_paths(Path::new("/work"));
    assert_eq!(config.postgresql.config_dir, PathBuf::from("/work/conf"));
    assert_eq!(config.postgresql.data_dir, PathBuf::from("/data"));
    assert_eq!(config.postgresql.pgpass, Some(PathBuf::from("/work/pass")));
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_known_one() {
    problems(
        "restapi:\n  certfil: x\npostgresql:\n  use_pg_rewnd: true\n  quite_other: 1\n  callback: {on_start: x}\nwatchdogs: {}\nttl: 30\n",
        expect![[r#"
            patroni.yml:2:3: restapi.certfil: unknown setting, ignored: did you mean certfile?
            patroni.yml:4:3: postgresql.use_pg_rewnd: unknown setting, ignored: did you mean use_pg_rewind?
            patroni.yml:5:3: postgresql.quite_other: unknown setting, ignored
            patroni.yml:6:3: postgresql.callback: unknown setting, ignored: did you mean callbacks?
            patroni.yml:7:1: watchdogs: unknown setting, ignored: did you mean watchdog?
            patroni.yml:8:1: ttl: has no effect here: it belongs to the dynamic configuration (edit-config, or bootstrap.dcs of a new cluster)"#]],
    );
}

#[test]
fn free_sections_hold_what_they_like() {
    problems(
        "
tags: {anything: [1, 2]}
kubernetes: {labels: {application: patroni}}
log: {static_fields: {app: [x]}, loggers: {patroni.postmaster: WARNING}}
bootstrap:
  dcs:
    postgresql:
      create_replica_methods: [mine]
      parameters: {archive_command: x, custom.setting: 1}
  method: script
  script: {command: x, other: {y: z}}
postgresql:
  create_replica_methods: wal_g, basebackup
  wal_g: {command: x, no_leader: 1, threshold: 30}
  mine: {keep_data: true}
  unlisted: {command: x}
  basebackup: [{max-rate: 100M}, verbose]
  parameters: {work_mem: 4MB, any.thing: on}
",
        expect![
            "patroni.yml:3:1: kubernetes: ignored: there is a section etcd3 too, and only one can be used"
        ],
    );
}

#[test]
fn all_wrong_types_are_refused_at_once_with_line_column_and_path() {
    problems(
        "
name: true
log: {mode: 999, level: {a: b}}
restapi: {allowlist_include_members: perhaps, verify_client: sometimes, listen: 8008, authentication: {username: u}}
ctl: yes
tags: {nofailover: [], failover_priority: high}
guard: {mode: maybe}
bootstrap:
  initdb: {x: 1}
  pg_hba: a line
  dcs: {ttl: x, tll: 3, postgresql: {listen: x, use_pg_rewind: maybe}}
postgresql:
  listen: 127.0.0.1:54x
  use_pg_rewind: perhaps
  pg_ctl_timeout: 10 parsecs
  parameters: {shared_preload_libraries: [a, b], max_connections: 10}
  pg_hba: {a: b}
  basebackup: [[1]]
  callbacks: /script
  authentication: {superuser: {password: [s3cret]}, replication: x}
",
        expect![[r#"
            patroni.yml:2:7: name: expected a text (YAML reads words like on, off, yes and no as booleans: put it in quotes), found the boolean true
            patroni.yml:3:13: log.mode: expected a whole number from 0 to 511, found the number 999
            patroni.yml:3:25: log.level: expected a text, found a mapping
            patroni.yml:4:38: restapi.allowlist_include_members: expected on or off, found a text: read as on, as Patroni does
            patroni.yml:4:62: restapi.verify_client: expected one of none, optional, required, found a text
            patroni.yml:4:81: restapi.listen: expected host:port, found "8008" without a port
            patroni.yml:4:104: restapi.authentication: password is not defined: username and password are needed together
            patroni.yml:5:6: ctl: expected a mapping, found a boolean
            patroni.yml:6:20: tags.nofailover: expected on or off, found a list: read as off, as Patroni does
            patroni.yml:6:43: tags.failover_priority: expected a whole number, found a text: read as not set, as Patroni does
            patroni.yml:7:15: guard.mode: expected one of on, off, required, found the text "maybe"
            patroni.yml:10:11: bootstrap.pg_hba: expected a list of texts, found the text "a line"
            patroni.yml:11:14: bootstrap.dcs.ttl: expected a whole number from 1 to 86400, found the text "x"
            patroni.yml:11:17: bootstrap.dcs.tll: unknown setting, ignored: did you mean ttl?
            patroni.yml:11:38: bootstrap.dcs.postgresql.listen: has no effect here: it belongs to the file of each member
            patroni.yml:11:64: bootstrap.dcs.postgresql.use_pg_rewind: expected on or off, found a text: read as on, as Patroni does
            patroni.yml:13:11: postgresql.listen: expected a port from 0 to 65535, found "54x"
            patroni.yml:14:18: postgresql.use_pg_rewind: expected on or off, found a text: read as on, as Patroni does
            patroni.yml:15:19: postgresql.pg_ctl_timeout: expected a whole number from 0 up (in s, or with a unit), found the text "10 parsecs"
            patroni.yml:16:42: postgresql.parameters.shared_preload_libraries: expected a text, a number or a boolean, found a list
            patroni.yml:17:11: postgresql.pg_hba: expected a list of texts, found a mapping
            patroni.yml:18:16: postgresql.basebackup.0: expected an option: `name` or one pair `name: value`, found a list
            patroni.yml:19:14: postgresql.callbacks: expected a mapping, found the text "/script"
            patroni.yml:20:42: postgresql.authentication.superuser.password: expected a text: put the value in quotes, as YAML reads another one than what is written (it is not shown here)
            patroni.yml:20:66: postgresql.authentication.replication: expected a mapping, found a text"#]],
    );
}

#[test]
fn everything_that_is_missing_is_reported_at_once() {
    let errors = LocalConfig::read(tree("log: {}\nname:\npostgresql: {listen: ''}\n")).unwrap_err();
    expect![[r#"
        patroni.yml:2:1: name: is not defined, but is needed
        patroni.yml:3:14: postgresql.listen: is not defined, but is needed
        scope: is not defined, but is needed
        postgresql.data_dir: is not defined, but is needed
        restapi.listen: is not defined, but is needed
        Can not find suitable configuration of distributed configuration store. Available implementations: consul, etcd, etcd3, exhibitor, kubernetes, raft, zookeeper"#]].assert_eq(&errors.to_string());
}

#[test]
fn the_placeholder_is_no_name() {
    problems(
        "name: __patroni_strict_sync_replica_placeholder__",
        expect!["patroni.yml:1:7: Node 'name' can't be set to '__patroni_strict_sync_replica_placeholder__'"],
    );
}

#[test]
fn which_dcs_counts() {
    let (config, warnings) = read("zookeeper: {hosts: [a]}\nconsul: {host: x}\n").unwrap();
    assert_eq!(config.dcs.kind(), DcsKind::Consul);
    expect![[r#"
        patroni.yml:1:1: zookeeper: ignored: there is a section consul too, and only one can be used
        patroni.yml:7:1: etcd3: ignored: there is a section consul too, and only one can be used"#]]
    .assert_eq(&warnings.to_string());
    let (config, _) = read("etcd3: null\nzookeeper: {exhibitor: {hosts: [a], port: 8181}}").unwrap();
    assert_eq!(config.dcs.kind(), DcsKind::Exhibitor);
    problems(
        "etcd3: {hosts: null}",
        expect!["patroni.yml:8:3: etcd3: one of hosts, host, url, srv and proxy is needed"],
    );
    problems(
        "etcd3: {hosts: null, url: 'ftp://u:s3cret@h'}",
        expect![
            "patroni.yml:1:27: etcd3.url: expected http[s]://[user:password@]host[:port], but the scheme is neither http nor https"
        ],
    );
}

#[test]
fn a_section_that_cannot_be_used_says_why() {
    for (section, expected) in [
        (
            "raft: {self_addr: 'a:1'}",
            "raft: Patroni's own store is not supported: ",
        ),
        ("zookeeper: {use_ssl: on}", "zookeeper: hosts is needed"),
        (
            "zookeeper: {hosts: a, set_acls: {x: [RAED]}}",
            "zookeeper.set_acls: a right is one of READ, ",
        ),
        ("exhibitor: {port: 1}", "exhibitor: hosts is needed"),
        ("exhibitor: {hosts: [a]}", "exhibitor.port: "),
        (
            "exhibitor: {port: 1, hosts: [a], auth_data: 's3cret'}",
            "exhibitor.auth_data: expected a mapping, found",
        ),
        ("consul: {host: 'a:x'}", "consul.host: "),
        (
            "consul: {consistency: eventual}",
            "consul.consistency: expected one of default, consistent, stale",
        ),
        ("kubernetes: {}", "kubernetes: labels is needed"),
        (
            "kubernetes: {labels: {a: b}, retriable_http_codes: x}",
            "kubernetes.retriable_http_codes: ",
        ),
        (
            "etcd: {use_proxies: on}",
            "etcd: one of hosts, host, url, srv and proxy is needed",
        ),
    ] {
        let mut file = tree(FILE);
        file.remove("etcd3");
        file.patch(&tree(section));
        let text = LocalConfig::read(file).unwrap_err().to_string();
        assert!(text.contains(expected), "{section}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[test]
fn the_namespace_of_kubernetes_is_that_of_the_file() {
    for (first, section, expected) in [
        ("", "", "default"),
        ("", "namespace: own, ", "own"),
        ("namespace: shared", "namespace: own, ", "shared"),
        ("namespace: /service/", "namespace: own, ", "own"),
    ] {
        let mut file = tree(FILE);
        for key in ["etcd3", "namespace"] {
            file.remove(key);
        }
        let text = format!("{first}\nkubernetes: {{{section}labels: {{a: b}}}}\n");
        file.patch(&tree(&text));
        let DcsConfig::Kubernetes(kubernetes) = LocalConfig::read(file).unwrap().0.dcs else {
            panic!("another store");
        };
        assert_eq!(kubernetes.namespace, expected, "{text}");
    }
}

#[test]
fn addresses_of_consul_and_zookeeper() {
    let dcs = |section: &str| {
        let mut file = tree(FILE);
        file.remove("etcd3");
        file.patch(&tree(section));
        LocalConfig::read(file).unwrap().0.dcs
    };
    let servers = |section: &str| {
        let servers: Vec<_> = dcs(section).servers().iter().map(ToString::to_string).collect();
        servers.join(" ")
    };
    for (section, expected) in [
        ("consul: {}", "127.0.0.1:8500"),
        ("consul: {host: a}", "a:8500"),
        ("consul: {host: 'a:1'}", "a:1"),
        ("consul: {host: 'a:1', port: 5}", "a:5"),
        ("consul: {url: 'https://a', host: b}", "a:8500"),
        ("consul: {hosts: [a, 'b:1'], port: 5}", "a:5 b:1"),
        ("zookeeper: {hosts: 'a, b:1'}", "a:2181 b:1"),
        ("zookeeper: {hosts: ['a', '[::1]:1']}", "a:2181 [::1]:1"),
        ("zookeeper: {hosts: 'a:1,b:1/dbs/x'}", "a:1 b:1"),
        ("exhibitor: {hosts: [a], port: 8181}", "a:8181"),
    ] {
        assert_eq!(servers(section), expected, "{section}");
    }
    let DcsConfig::Zookeeper(zookeeper) =
        dcs("zookeeper: {hosts: 'a:1,b:1/dbs/x', set_acls: {'CN=a': [READ, write], 'digest:u:h': ALL}}")
    else {
        panic!()
    };
    assert_eq!(zookeeper.chroot.as_deref(), Some("/dbs/x"));
    let acls: Vec<_> = zookeeper
        .set_acls
        .iter()
        .map(|acl| (acl.scheme.as_str(), acl.id.as_str(), acl.rights))
        .collect();
    assert_eq!(acls, [("x509", "CN=a", 3), ("digest", "u:h", 31)]);
    let DcsConfig::Consul(consul) = dcs("consul: {url: 'https://a', verify: off, service_tags: [b, a]}")
    else {
        panic!()
    };
    assert!(consul.https && !consul.verify && consul.service_tags == ["a", "b"]);
    let DcsConfig::Consul(consul) = dcs("consul: {verify: off, cacert: c}") else {
        panic!()
    };
    assert!(consul.verify, "a CA alone turns the check on");
}

#[test]
fn the_forms_of_etcd_endpoints() {
    let endpoints = |section: &str| {
        let (config, _) = read(&format!("etcd3: {{hosts: null, {section}}}")).unwrap();
        let DcsConfig::Etcd3(etcd) = config.dcs else {
            panic!()
        };
        let text = match &etcd.endpoints {
            EtcdEndpoints::Hosts(hosts) => hosts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            EtcdEndpoints::Proxy(proxy) => format!("proxy {proxy}"),
            EtcdEndpoints::Srv { domain, suffix } => format!("srv {domain} {suffix:?}"),
        };
        let password = etcd.password.as_ref().map(Secret::reveal);
        format!(
            "{text} https={} proxies={} {:?} {password:?}",
            etcd.https, etcd.use_proxies, etcd.username
        )
    };
    expect![[r#"
        host: a -> a:2379 https=false proxies=false None None
        host: 'a:1', port: 5 -> a:1 https=false proxies=false None None
        hosts: [a, 'b:1', '[::1]:3'], port: 5, protocol: https -> a:5 b:1 [::1]:3 https=true proxies=false None None
        url: 'https://u:p%40s@h:1/x' -> h:1 https=true proxies=false Some("u") Some("p@s")
        url: 'http://h', username: u, password: p -> h:2379 https=false proxies=false Some("u") Some("p")
        proxy: 'http://h:8', hosts: a -> proxy h:8 https=false proxies=true None None
        srv: example.org, srv_suffix: s, host: a -> srv example.org Some("s") https=false proxies=false None None
        discovery_srv: example.org -> srv example.org None https=false proxies=false None None
        hosts: 'https://a:1,https://b:2' -> a:1 b:2 https=true proxies=false None None
    "#]].assert_eq(
        &[
            "host: a",
            "host: 'a:1', port: 5",
            "hosts: [a, 'b:1', '[::1]:3'], port: 5, protocol: https",
            "url: 'https://u:p%40s@h:1/x'",
            "url: 'http://h', username: u, password: p",
            "proxy: 'http://h:8', hosts: a",
            "srv: example.org, srv_suffix: s, host: a",
            "discovery_srv: example.org",
            "hosts: 'https://a:1,https://b:2'",
        ]
        .map(|section| format!("{section} -> {}\n", endpoints(section)))
        .concat(),
    );
}

#[test]
fn old_forms_are_understood() {
    let text = FILE
        .replace("  authentication:\n    superuser:", "  superuser:")
        .replace("    replication:", "  replication:");
    assert!(!text.contains("authentication"));
    let mut map = tree(&text);
    map.patch(&tree(
        "name: null\npostgresql: {name: old, pg_rewind: {username: w}}",
    ));
    let (config, _) = LocalConfig::read(map).unwrap();
    assert_eq!(config.name, "old");
    assert_eq!(
        config.postgresql.authentication.superuser.username.as_deref(),
        Some("postgres")
    );
    assert_eq!(
        config.postgresql.authentication.replication.username.as_deref(),
        Some("replicator")
    );
}

#[test]
fn files_and_environment_together() {
    let files = [("patroni.yml".to_owned(), FILE.to_owned())];
    let environment = variables(&[("PATRONI_NAME", "p1"), ("PATRONI_POSTGRESQL_LISTEN", "x:y")]);
    let errors = LocalConfig::load(&files, &environment).unwrap_err();
    expect![[r#"PATRONI_POSTGRESQL_LISTEN: postgresql.listen: expected a port from 0 to 65535, found "y""#]]
        .assert_eq(&errors.to_string());
    let (config, _) = LocalConfig::load(&files, &variables(&[("PATRONI_NAME", "p1")])).unwrap();
    assert_eq!(config.name, "p1");
}

#[test]
fn the_client_needs_next_to_nothing() {
    let (environment, _) = tamada_config::env::read(&variables(&[
        ("PATRONI_ETCD3_HOST", "h"),
        ("PATRONI_RESTAPI_USERNAME", "u"),
        ("PATRONI_RESTAPI_PASSWORD", "p"),
        ("PATRONI_CTL_INSECURE", "on"),
    ]));
    let (client, _) = ClientConfig::read(&environment).unwrap();
    assert_eq!(client.dcs.as_ref().unwrap().kind(), DcsKind::Etcd3);
    assert!(client.scope.is_none() && client.ctl.insecure);
    assert_eq!(client.ctl.authentication.as_ref().unwrap().username, "u");
    assert_eq!(client.dcs_path("x"), "/service/x");
    let (client, _) = ClientConfig::read(&tamada_config::Map::new()).unwrap();
    assert_eq!(client.dcs, None);
}

/// Trees of known and unknown keys with values that mostly do not fit.
fn any_tree() -> impl Strategy<Value = Map> {
    let keys = vec![
        "name",
        "scope",
        "log",
        "restapi",
        "postgresql",
        "bootstrap",
        "dcs",
        "etcd3",
        "tags",
        "listen",
        "hosts",
        "url",
        "parameters",
        "authentication",
        "superuser",
        "password",
        "initdb",
        "method",
        "pg_hba",
        "ttl",
        "slots",
        "mode",
        "watchdog",
        "citus",
        "group",
        "standby_cluster",
        "zookeeper",
        "exhibitor",
        "pg_rewind",
        "data_dir",
        "x",
    ];
    let leaf = prop_oneof![
        Just(Value::default()),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|x| Kind::Float(x).into()),
        "[a-z0-9:,/@%\\[\\]é]{0,12}".prop_map(Value::from),
    ];
    let keys = prop::sample::select(keys);
    let node = leaf.prop_recursive(4, 60, 6, {
        let keys = keys.clone();
        move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys.clone(), inner), 0..8)
                    .prop_map(|entries| Value::from(entries.into_iter().collect::<Map>())),
            ]
        }
    });
    prop::collection::vec((keys, node), 0..10).prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #[test]
    fn no_tree_is_answered_otherwise_than_with_problems(tree in any_tree(), document in any_tree()) {
        let mut complete = crate::tree(FILE);
        complete.patch(&tree);
        let _ = validate(&tree);
        let _ = ClientConfig::read(&tree);
        let (dynamic, _) = DynamicConfig::read(&(&document).into(), Minimums::TAMADA);
        prop_assert!(dynamic.loop_wait + 2 * dynamic.retry_timeout <= dynamic.ttl);
        if let Ok((local, problems)) = LocalConfig::read(complete) {
            prop_assert!(!problems.has_errors());
            let _ = PostgresqlSettings::new(&local, &dynamic, Some(150_000), Some(ParameterRole::Primary));
        }
    }
}
