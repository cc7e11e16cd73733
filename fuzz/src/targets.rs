//! What reads, and what it usually reads.

use std::collections::BTreeMap;

use config::{DynamicConfig, LocalConfig, Minimums};
use dcs::{Layout, Record, Snapshot};

/// One reader.
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Good inputs, to begin with.
    pub seeds: &'static [&'static str],
    /// Words that are worth putting in.
    pub words: &'static [&'static str],
    /// Reads one input.
    pub read: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 3] = [
    Target {
        name: "yaml",
        seeds: &[
            include_str!("../../packaging/debian/config.yml.in"),
            include_str!("../../packaging/debian/dcs.yml"),
            "a: &x {b: [1, 2.5, yes, ~]}\nc: *x\nd: !!str 1\ne: |\n  text\n  more\nf: >-\n  folded\n\"g\": 'h'\n? i\n: j\n",
            "restapi:\n  listen: '[::1],10.0.0.1:8008'\n  allowlist: [10.0.0.0/8, ::1]\ntags: {nofailover: on, failover_priority: 3}\n",
            "bootstrap:\n  dcs:\n    ttl: 30\n    synchronous_mode: quorum\n    slots: {a: {type: logical, database: x, plugin: y}}\n    ignore_slots: [{name: b}]\n",
        ],
        words: &[
            ": ",
            "- ",
            "\n",
            "  ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a",
            "!!int ",
            "!!binary ",
            "<<: ",
            "|\n",
            "'",
            "\"",
            "\\x",
            "%YAML",
            "---",
            "...",
            "0x1f",
            "1e999",
            ".inf",
            "\u{feff}",
            "\t",
            "#",
        ],
        read: yaml,
    },
    Target {
        name: "rest",
        seeds: &[
            "POST /switchover?x=1\n{\"leader\": \"a\", \"candidate\": \"b\", \"scheduled_at\": \"2030-01-01T12:00:00+02:00\"}",
            "POST /restart\n{\"schedule\": \"2030-01-01 12:00:00 UTC\", \"role\": \"primary\", \"postgres_version\": \"16.2\", \"timeout\": \"1min\", \"restart_pending\": true}",
            "PATCH /config\n{\"ttl\": 20, \"postgresql\": {\"parameters\": {\"max_connections\": null}}, \"slots\": {\"x\": {\"type\": \"physical\"}}}",
            "POST /reinitialize\n{\"force\": true, \"from-leader\": \"yes\"}",
            "POST /failsafe\n{\"name\": \"a\", \"conn_url\": \"postgres://h:1/db\", \"api_url\": \"http://h:2/patroni\", \"slots\": {\"a\": 12345}}",
            "POST /citus\n{\"type\": \"before_demote\", \"group\": 1, \"leader\": \"a\", \"timeout\": 30, \"cooldown\": 10}",
            "GET /replica?lag=16MB&replication_state=streaming&tag_x=%20y&tag_y=true\n",
            "GET /events?since=-1h&limit=10\n",
        ],
        words: &[
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "null",
            "true",
            "-1",
            "1e400",
            "99999999999999999999",
            "\\u0000",
            "\\ud800",
            "%",
            "&",
            "=",
            "?",
            "/",
            "MB",
            "TB",
            "T",
            "Z",
            "+25:99",
            "now",
        ],
        read: rest,
    },
    Target {
        name: "dcs",
        seeds: &[
            "leader a\ninitialize 7000000000000000001\nconfig {\"ttl\":30,\"synchronous_mode\":\"quorum\"}\nmembers/a {\"conn_url\":\"postgres://h:5432/postgres\",\"api_url\":\"http://h:8008/patroni\",\"state\":\"running\",\"role\":\"primary\",\"version\":\"4.1.5\",\"xlog_location\":123,\"timeline\":2,\"tags\":{\"nofailover\":true}}",
            "status {\"optime\":83886528,\"slots\":{\"p1\":83886528},\"retain_slots\":[\"p1\"]}\nsync {\"leader\":\"a\",\"sync_standby\":\"b,c\",\"quorum\":1}\nfailover {\"leader\":\"a\",\"member\":\"b\",\"scheduled_at\":\"2030-01-01T00:00:00+00:00\"}\nfailsafe {\"a\":\"http://h:8008/patroni\"}",
            "history [[1,83886528,\"no recovery target specified\",\"2030-01-01T00:00:00.000000+00:00\",\"a\"],[2,83886600,\"x\"]]\nheartbeat {\"leader\":\"a\",\"ttl\":30}\noptime/leader 83886528\norigin [{\"timeline\":2,\"switch_lsn\":83886528,\"nonce\":\"0a1b2c3d\",\"promoter\":\"a\"}]\nmembers/a {\"timeline\":2,\"origin\":{\"timeline\":2,\"switch_lsn\":83886528,\"nonce\":\"0a1b2c3d\"}}",
            "members/b postgres://u:p@h:5432/postgres?application_name=http://h:8008/patroni\n0/leader a\n1/members/c {}\n",
        ],
        words: &[
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "null",
            "true",
            "-1",
            "1e400",
            "18446744073709551616",
            "\n",
            "members/",
            "leader ",
            "sync ",
            "postgres://",
            "http://",
            "\\u0000",
            "T00:00",
            "+00:00",
        ],
        read: dcs,
    },
];

fn yaml(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let files = [("input.yml".to_owned(), text)];
    let Ok((tree, _)) = config::layers::local(&files, &BTreeMap::new()) else {
        return;
    };
    let _ = config::validate_strictly(&tree);
    let written = config::yaml::dump(&config::Value::from(tree.clone()));
    assert!(
        config::yaml::parse("again", &written).is_ok(),
        "what was written cannot be read:\n{written}"
    );
    if let Ok((local, _)) = LocalConfig::read(tree) {
        let _ = DynamicConfig::read(&local.bootstrap.dcs, Minimums::PATRONI);
    }
}

fn rest(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
    let (method, target) = head.split_once(' ').unwrap_or(("GET", head));
    tamada::daemon::api::read_request(method, target, body.as_bytes());
}

fn dcs(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for group in [None, Some(0)] {
        let layout = Layout::new("/service/", "demo", group);
        let mut snapshot = Snapshot {
            revision: 7,
            generation: 0,
            records: BTreeMap::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            let record = Record {
                value: value.to_owned(),
                mod_revision: i64::try_from(number).unwrap_or(0),
                lease: 5,
            };
            snapshot
                .records
                .insert(format!("{}{key}", layout.read_prefix()), record);
        }
        let cluster = snapshot.cluster(&layout);
        let document = cluster
            .config
            .map_or(serde_json::Value::Null, |config| config.value.into());
        let _ = DynamicConfig::read(&document, Minimums::TAMADA);
    }
}
