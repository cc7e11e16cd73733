//! Every endpoint in every state is answered as Patroni answers it: status, headers of meaning, and JSON field by field.

use serde_json::{Value, json};

use super::difference::Reason;
use super::pair::Pair;
use super::request::{Request, all_reads, nonsense, reads};
use crate::harness::process::{command, run};
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, seconds};

/// What differs on purpose; `docs/compatibility.md` tells the same to users.
const REASONS: &[Reason] = &[
    Reason {
        fits: |it| {
            it.request.ends_with(" /metrics")
                && (it.what.starts_with("metric tamada_")
                    || it.what.contains("patroni_failsafe_mode_enabled")
                    || it.what.contains("patroni_failsafe_member")
                    || it.what.contains("patroni_failover_priority")
                    || it.what == "order" && without_new_metrics(&it.ours) == it.theirs)
        },
        why: "metrics that Patroni has had since after 4.1.5",
    },
    Reason {
        fits: |it| {
            it.what.starts_with("field .tamada_origin") && it.theirs == "absent"
                || it.what == "order" && without_origin(&it.ours) == it.theirs
        },
        why: "which promotion a timeline comes from, of which Patroni knows nothing",
    },
    Reason {
        fits: |it| it.request.contains("replication_state=") && it.ours == "503",
        why: "the parameter replication_state, which Patroni has had since after 4.1.5",
    },
    Reason {
        fits: |it| it.request.contains(r#""postgres_version": 10"#) && it.member_says_nothing(),
        why: "Patroni closes the connection without an answer where a text is expected and a number comes",
    },
    Reason {
        fits: |it| {
            it.state == "starting"
                && it.request.starts_with("POST /restart")
                && (it.ours == "503" || it.ours.ends_with(" already in progress"))
        },
        why: "while a job runs a restart is refused by its name; Patroni fails as PostgreSQL does not tell its version",
    },
    Reason {
        fits: |it| it.request.starts_with("POST /mpp") && it.state.starts_with("with "),
        why: "POST /mpp changes something and is protected as POST /citus is; Patroni lets everybody",
    },
    Reason {
        fits: |it| {
            let passes =
                it.what.starts_with("field .replication[1]") || it.what == "field .logger_queue_size";
            it.state == "no DCS"
                && (passes && it.ours == "absent"
                    || it.what == "order" && lasting(&it.theirs) == without_origin(&it.ours))
        },
        why: "Patroni's own connection to its server, and its lines that wait to be logged, come and go",
    },
    Reason {
        fits: |it| {
            it.request.starts_with("POST /failsafe") && it.ours.contains("403")
                || it.ours.contains("known by")
        },
        why: "a leader without the DCS is listened to under its known addresses only; Patroni listens to everybody",
    },
    Reason {
        fits: |it| it.request.contains(r#""scheduled_at": "12""#),
        why: "a bare number is no time; Patroni takes it for a day of this month",
    },
];

fn without_new_metrics(order: &str) -> String {
    let is_known = |name: &&str| {
        ![
            "patroni_failsafe_mode_enabled",
            "patroni_failsafe_member",
            "patroni_failover_priority",
        ]
        .contains(name)
    };
    order.split(' ').filter(is_known).collect::<Vec<_>>().join(" ")
}

fn without_origin(order: &str) -> String {
    let is_known = |name: &&str| !name.starts_with(".tamada_origin");
    order.split(' ').filter(is_known).collect::<Vec<_>>().join(" ")
}

/// The fields without those that come and go.
fn lasting(order: &str) -> String {
    let stays = |name: &&str| !name.starts_with(".replication[1]") && *name != ".logger_queue_size";
    order.split(' ').filter(stays).collect::<Vec<_>>().join(" ")
}

const TAGS: &[&str] = &[
    "text: one",
    "flag: true",
    "off: false",
    "number: 1.4",
    "spaced: a b",
    "nofailover: false",
    "clonefrom: true",
];

fn patch(pair: &mut Pair, member: &str, patch: &Value) {
    let request = Request::with("PATCH", "/config", &patch.to_string());
    pair.compare_once("changing", member, &request);
}

fn wait_for(pair: &mut Pair, member: &str, what: &str, check: impl Fn(&Value) -> bool) {
    pair.both(|cluster| {
        let whose = cluster
            .member(member)
            .program
            .path
            .file_name()
            .unwrap()
            .display()
            .to_string();
        eventually(&format!("{member} of {whose} shows {what}"), seconds(40), || {
            let status = cluster.member(member).status()?;
            holds(check(&status), || status.to_string())
        });
    });
}

fn wait_until_healthy(pair: &mut Pair) {
    pair.both(|cluster| drop(cluster.wait_until_healthy(seconds(60))));
}

fn start_both_members(pair: &mut Pair) {
    pair.both(|cluster| {
        cluster.member("pg2").set_tags(TAGS);
        cluster.members[1].start();
    });
    wait_until_healthy(pair);
}

fn start(pair: &mut Pair) {
    pair.both(|cluster| cluster.members[0].start());
    pair.both(|cluster| drop(cluster.wait_for_primary(seconds(60))));
}

#[test]
fn the_rest_api_answers_as_patroni_does() {
    let mut pair = Pair::new(REASONS);
    start(&mut pair);
    pair.compare("primary alone", "pg1", &all_reads());
    pair.compare("primary alone", "pg1", &nonsense());
    let switchover = Request::with("POST", "/switchover", r#"{"leader": "pg1"}"#);
    pair.compare("primary alone", "pg1", &[switchover]);
    start_both_members(&mut pair);
    pair.compare("two members", "pg1", &all_reads());
    pair.compare("two members", "pg2", &all_reads());
    pair.compare("two members", "pg2", &nonsense());
    access(&mut pair);
    pair.assert_explained();
}

/// User and password, and who may come from where.
fn access(pair: &mut Pair) {
    let protected = || {
        [
            ("POST", "/reload"),
            ("POST", "/sigterm"),
            ("DELETE", "/restart"),
            ("DELETE", "/switchover"),
            ("PATCH", "/config"),
            ("PUT", "/config"),
            ("POST", "/switchover"),
            ("POST", "/failover"),
            ("POST", "/failsafe"),
            ("POST", "/citus"),
            ("POST", "/mpp"),
        ]
        .map(|(method, path)| Request::new(method, path))
    };
    let reload = |pair: &mut Pair, from: &str, to: &str| {
        pair.both(|cluster| {
            let member = cluster.member("pg2");
            member.edit_config(from, to);
            cluster
                .members
                .iter_mut()
                .find(|it| it.name == "pg2")
                .unwrap()
                .agent()
                .signal(rustix::process::Signal::HUP);
        });
    };
    let authentication = "restapi:\n  authentication: {username: admin, password: secret}\n";
    reload(pair, "restapi:\n", authentication);
    for authorization in [
        "Basic YWRtaW46c2VjcmV0",
        "Basic eDp5",
        "Bearer YWRtaW46c2VjcmV0",
        "nonsense",
        "basic YWRtaW46c2VjcmV0",
    ] {
        pair.compare(
            "with a password",
            "pg2",
            &protected().map(|request| request.authorized(authorization)),
        );
    }
    pair.compare("with a password", "pg2", &protected());
    pair.compare("with a password", "pg2", &reads());
    reload(pair, authentication, "restapi:\n  allowlist: [10.0.0.0/8]\n");
    pair.compare("with an allowlist", "pg2", &protected());
    reload(pair, "allowlist: [10.0.0.0/8]", "allowlist_include_members: true");
    pair.compare("with the members allowed", "pg2", &protected());
    reload(pair, "allowlist_include_members: true", "allowlist: [127.0.0.1]");
    pair.compare("with an allowlist of this host", "pg2", &protected());
    reload(pair, "  allowlist: [127.0.0.1]\n", "");
}

fn both_started() -> Pair {
    let mut pair = Pair::new(REASONS);
    start(&mut pair);
    start_both_members(&mut pair);
    pair
}

#[test]
#[ignore = "long: make test-all"]
fn synchronous_modes_restarts_and_schedules_are_answered_as_patroni_does() {
    let mut pair = both_started();
    synchronous(&mut pair);
    restarts(&mut pair);
    schedules(&mut pair);
    tags(&mut pair);
    switchover(&mut pair);
    pair.assert_explained();
}

#[test]
#[ignore = "long: make test-all"]
fn pause_and_servers_that_do_not_run_are_answered_as_patroni_does() {
    let mut pair = both_started();
    starting(&mut pair);
    paused(&mut pair);
    pair.assert_explained();
}

#[test]
#[ignore = "long: make test-all"]
fn standby_clusters_and_an_absent_dcs_are_answered_as_patroni_does() {
    let mut pair = both_started();
    failsafe(&mut pair);
    standby_cluster(&mut pair);
    without_dcs(&mut pair);
    pair.assert_explained();
}

fn compare_both(pair: &mut Pair, state: &str) {
    pair.compare(state, "pg1", &reads());
    pair.compare(state, "pg2", &reads());
}

fn synchronous(pair: &mut Pair) {
    for (mode, flag) in [(json!(true), "sync_standby"), (json!("quorum"), "quorum_standby")] {
        patch(pair, "pg2", &json!({ "synchronous_mode": mode }));
        wait_for(pair, "pg2", flag, |status| status[flag] == true);
        compare_both(pair, flag);
        pair.compare(flag, "pg1", &nonsense());
        // From one mode to the other Patroni leaves a single standby's name as it is, and here it becomes ANY 1.
        patch(pair, "pg1", &json!({"synchronous_mode": null}));
        wait_for(pair, "pg2", "no flag", |status| status[flag].is_null());
        wait_for(pair, "pg1", "nobody to wait for", |status| {
            status["replication"][0]["sync_state"] == "async"
        });
    }
}

fn restarts(pair: &mut Pair) {
    let parameters = json!({"postgresql": {"parameters": {"max_connections": 70}}});
    patch(pair, "pg1", &parameters);
    for member in ["pg1", "pg2"] {
        wait_for(pair, member, "pending_restart", |status| {
            status["pending_restart"] == true
        });
    }
    compare_both(pair, "pending restart");
    let once = |pair: &mut Pair, member: &str, body: &str| {
        pair.compare_once("restart", member, &Request::with("POST", "/restart", body));
    };
    once(pair, "pg2", r#"{"role": "primary"}"#);
    // A parameter that grows may not be larger on the primary.
    once(pair, "pg2", r#"{"restart_pending": false}"#);
    once(
        pair,
        "pg1",
        r#"{"role": "primary", "restart_pending": true, "timeout": "30s"}"#,
    );
    wait_until_healthy(pair);
    once(pair, "pg2", r#"{"restart_pending": true}"#);
    pair.compare_once("restart", "pg2", &Request::new("POST", "/restart"));
    wait_until_healthy(pair);
    compare_both(pair, "restarted");
    pair.compare_once("reinitialize", "pg1", &Request::new("POST", "/reinitialize"));
    pair.compare_once(
        "reinitialize",
        "pg2",
        &Request::with("POST", "/reinitialize", r#"{"force": false}"#),
    );
    wait_for(pair, "pg2", "a new copy", |status| status["state"] == "running");
    wait_until_healthy(pair);
}

fn schedules(pair: &mut Pair) {
    let state = "scheduled";
    let restart = r#"{"schedule": "2099-01-01T00:00+02:00", "role": "replica", "timeout": 12, "restart_pending": true}"#;
    for request in [
        Request::with("POST", "/restart", restart),
        Request::with("POST", "/restart", restart),
    ] {
        pair.compare_once(state, "pg2", &request);
    }
    let switchover = r#"{"leader": "pg1", "candidate": "pg2", "scheduled_at": "2099-01-01 00:00:00 UTC"}"#;
    pair.compare_once(state, "pg2", &Request::with("POST", "/switchover", switchover));
    pair.both(|cluster| cluster.wait_for_member_key("pg2", "state", &json!("running"), seconds(10)));
    compare_both(pair, state);
    for path in ["/switchover", "/switchover", "/restart", "/restart"] {
        pair.compare_once(state, "pg2", &Request::new("DELETE", path));
    }
    for at in [
        "2099-01-01T00:00Z",
        "2099-01-01 00:00 +0530",
        "2099-01-01T00:00:00.123456+02",
        "20990101T000000Z",
        "Jan 1 2099 00:00 UTC",
    ] {
        let body = json!({"leader": "pg1", "scheduled_at": at}).to_string();
        pair.compare_once(at, "pg1", &Request::with("POST", "/switchover", &body));
        pair.compare_once(at, "pg1", &Request::new("GET", "/cluster"));
        pair.compare_once(at, "pg1", &Request::new("DELETE", "/switchover"));
    }
}

fn tags(pair: &mut Pair) {
    pair.both(|cluster| {
        cluster.member("pg2").reload_tags(&[
            "noloadbalance: true",
            "nofailover: true",
            "nosync: true",
            "text: one",
        ]);
    });
    wait_for(pair, "pg2", "noloadbalance", |status| {
        status["tags"]["noloadbalance"] == true
    });
    pair.both(|cluster| {
        eventually("the tags are published", seconds(10), || {
            let key = cluster.document("members/pg2");
            holds(key["tags"]["nofailover"] == true, || key.to_string())
        });
    });
    compare_both(pair, "noloadbalance");
    for (path, body) in [
        ("/switchover", r#"{"leader": "pg1"}"#),
        ("/switchover", r#"{"leader": "pg1", "candidate": "pg2"}"#),
        ("/failover", r#"{"candidate": "pg2"}"#),
    ] {
        pair.compare_once("nofailover", "pg1", &Request::with("POST", path, body));
    }
    pair.both(|cluster| cluster.member("pg2").reload_tags(TAGS));
    wait_for(pair, "pg2", "no noloadbalance", |status| {
        status["tags"]["noloadbalance"].is_null()
    });
    pair.both(|cluster| {
        eventually("the tags are published", seconds(10), || {
            let key = cluster.document("members/pg2");
            holds(key["tags"]["nofailover"].is_null(), || key.to_string())
        });
    });
}

fn failsafe(pair: &mut Pair) {
    patch(pair, "pg1", &json!({"failsafe_mode": true}));
    pair.both(|cluster| {
        eventually("the key failsafe has both", seconds(20), || {
            let key = cluster.document("failsafe");
            holds(key["pg2"].is_string(), || key.to_string())
        });
    });
    for member in ["pg1", "pg2"] {
        pair.compare("failsafe_mode", member, &reads());
    }
    let body = r#"{"name": "pg1", "conn_url": "postgres://127.0.0.1:1/postgres", "api_url": "http://127.0.0.1:1/patroni"}"#;
    let posts: Vec<Request> = [
        None,
        Some(""),
        Some("{}"),
        Some("[]"),
        Some("nonsense"),
        Some(body),
    ]
    .map(|body| Request {
        body: body.map(str::to_owned),
        ..Request::new("POST", "/failsafe")
    })
    .to_vec();
    for request in &posts {
        pair.compare_once("failsafe_mode", "pg1", request);
        pair.compare_once("failsafe_mode", "pg2", request);
    }
    patch(pair, "pg1", &json!({"failsafe_mode": null}));
    wait_for(pair, "pg2", "no failsafe", |status| {
        status["failsafe_mode_is_active"].is_null()
    });
}

fn pg_ctl(cluster: &Cluster, member: &str, arguments: &[&str]) {
    let mut pg_ctl = command(&cluster.directory, cluster.postgresql.bin.join("pg_ctl"));
    pg_ctl
        .arg("-D")
        .arg(cluster.member(member).data_dir())
        .args(arguments);
    let output = run(pg_ctl);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
}

fn paused(pair: &mut Pair) {
    patch(pair, "pg1", &json!({"pause": true}));
    for member in ["pg1", "pg2"] {
        wait_for(pair, member, "pause", |status| status["pause"] == true);
    }
    compare_both(pair, "paused");
    pair.compare("paused", "pg1", &nonsense());
    let schedule = Request::with("POST", "/restart", r#"{"schedule": "2099-01-01T00:00Z"}"#);
    pair.compare(
        "paused",
        "pg2",
        &[
            schedule,
            Request::with("POST", "/switchover", r#"{"leader": "pg1"}"#),
        ],
    );
    pair.both(|cluster| pg_ctl(cluster, "pg2", &["stop", "-m", "fast"]));
    wait_for(pair, "pg2", "stopped", |status| status["state"] == "stopped");
    pair.both(|cluster| cluster.wait_for_member_key("pg2", "state", &json!("stopped"), seconds(10)));
    compare_both(pair, "stopped in pause");
    pair.compare("stopped in pause", "pg2", &nonsense());
    pair.compare_once("stopped in pause", "pg2", &Request::new("POST", "/restart"));
    wait_for(pair, "pg2", "running", |status| status["state"] == "running");
    pair.both(|cluster| cluster.etcd.kill());
    for member in ["pg1", "pg2"] {
        wait_for(pair, member, "no DCS", |status| {
            status["cluster_unlocked"] == true
        });
    }
    pair.compare("paused, no DCS", "pg1", &without_dcs_reads());
    pair.compare("paused, no DCS", "pg2", &without_dcs_reads());
    pair.both(|cluster| cluster.etcd.start(&cluster.directory.clone()));
    for member in ["pg1", "pg2"] {
        wait_for(pair, member, "the DCS", |status| {
            status["cluster_unlocked"].is_null()
        });
    }
    patch(pair, "pg1", &json!({"pause": null}));
    wait_until_healthy(pair);
}

/// What needs a fresh reading of the DCS would be waited for on each side for its own time.
fn without_dcs_reads() -> Vec<Request> {
    let mut requests = reads();
    requests
        .retain(|request| !["/cluster", "/history", "/config", "/config/x"].contains(&request.path.as_str()));
    requests
}

/// A server that waits for the archive before it is consistent.
fn starting(pair: &mut Pair) {
    pair.both(|cluster| {
        let gate = cluster.directory.write("gate", "");
        let member = cluster.member("pg2");
        let shell = format!("while [ -e {} ]; do sleep 0.1; done; false", gate.display());
        member.edit_config(
            "postgresql:\n  listen",
            &format!("postgresql:\n  recovery_conf: {{restore_command: '{shell}'}}\n  listen"),
        );
        cluster.member_mut("pg2").stop();
        cluster.member_mut("pg2").start();
    });
    wait_for(pair, "pg2", "starting", |status| status["state"] == "starting");
    pair.both(|cluster| cluster.wait_for_member_key("pg2", "state", &json!("starting"), seconds(10)));
    compare_both(pair, "starting");
    pair.compare("starting", "pg2", &nonsense());
    pair.both(|cluster| std::fs::remove_file(cluster.directory.path().join("gate")).unwrap());
    wait_until_healthy(pair);
}

fn switchover(pair: &mut Pair) {
    let body = r#"{"leader": "pg1", "candidate": "pg2"}"#;
    pair.compare_once("switchover", "pg1", &Request::with("POST", "/switchover", body));
    wait_until_healthy(pair);
    compare_both(pair, "switched over");
    pair.compare_once(
        "switchover",
        "pg1",
        &Request::with("POST", "/failover", r#"{"candidate": "pg1"}"#),
    );
    wait_until_healthy(pair);
}

fn standby_cluster(pair: &mut Pair) {
    let remote = json!({"standby_cluster": {"host": "127.0.0.1", "port": 1}});
    patch(pair, "pg1", &remote);
    // Patroni may give the key to the other member meanwhile; here the primary keeps it.
    pair.both(|cluster| {
        let limit = seconds(40);
        let leader = eventually("there is a standby leader", limit, || {
            let leads = |name: &&str| cluster.member(name).status_code("/standby-leader") == 200;
            ["pg1", "pg2"].into_iter().find(leads).ok_or("nobody yet")
        });
        if leader == "pg2" {
            // Patroni refuses as long as it has not seen the other member stream.
            let body = json!({"leader": "pg2", "candidate": "pg1"});
            eventually("a switchover back", limit, || {
                let answer = cluster.member("pg2").ask("POST", "/switchover", Some(&body));
                holds(answer.status == 200, || {
                    format!("{}: {}", answer.status, answer.body)
                })
            });
        }
    });
    wait_for(
        pair,
        "pg1",
        "a standby leader that streams to the other",
        |status| status["role"] == "standby_leader" && status["replication"][0]["state"] == "streaming",
    );
    wait_for(pair, "pg2", "a replica", |status| {
        status["role"] == "replica" && status["state"] == "running"
    });
    compare_both(pair, "standby cluster");
    pair.compare("standby cluster", "pg1", &nonsense());
    patch(pair, "pg1", &json!({"standby_cluster": null}));
    wait_until_healthy(pair);
}

fn without_dcs(pair: &mut Pair) {
    pair.both(|cluster| cluster.etcd.kill());
    wait_for(pair, "pg1", "a demoted primary", |status| {
        status["role"] == "replica" && status["state"] == "running"
    });
    for member in ["pg1", "pg2"] {
        wait_for(pair, member, "no DCS", |status| {
            status["cluster_unlocked"] == true
        });
        pair.compare("no DCS", member, &without_dcs_reads());
    }
}
