//! `PATRONI_*` variables; `patroni_environment.json` holds what Patroni 4.1.5 makes of them.

use crate::{json, variables};
use expect_test::expect;
use std::collections::BTreeMap;
use tamada_config::env;

#[test]
fn variables_make_the_tree_that_patroni_makes() {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("patroni_environment.json")).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let variables: BTreeMap<String, String> = serde_json::from_value(case["variables"].clone()).unwrap();
        assert_eq!(json(&env::read(&variables).0), case["tree"], "{variables:?}");
    }
}

/// Where Patroni does other than its documentation says.
#[test]
fn variables_mean_what_they_say() {
    let read = |pairs: &[(&str, &str)]| json(&env::read(&variables(pairs)).0);
    assert_eq!(
        read(&[("PATRONI_ZOOKEEPER_USE_SSL", "false")]),
        serde_json::json!({"zookeeper": {"use_ssl": false}})
    );
    assert_eq!(
        read(&[("PATRONI_RETRIABLE_HTTP_CODES", "403, 429")]),
        serde_json::json!({}),
        "it makes no section of a store"
    );
    assert_eq!(
        read(&[
            ("PATRONI_RETRIABLE_HTTP_CODES", "403, 429"),
            ("PATRONI_KUBERNETES_NAMESPACE", "n")
        ]),
        serde_json::json!({"kubernetes": {"namespace": "n", "retriable_http_codes": [403, 429]}})
    );
}

#[test]
fn a_value_that_does_not_fit_is_left_out_and_named() {
    let (tree, problems) = env::read(&variables(&[
        ("PATRONI_ETCD3_HOSTS", "[a"),
        ("PATRONI_ETCD3_USE_PROXIES", "maybe"),
        ("PATRONI_ETCD3_PASSWORD", "alone"),
        ("PATRONI_LOG_FILE_NUM", "many"),
        ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "[x]"),
        ("PATRONI_RESTAPI_LISTENS", "x"),
        ("PATRONI_SERVICE_HOST", "10.0.0.1"),
        ("PATRONI_NAME", ""),
    ]));
    assert!(tree.is_empty());
    expect![[r#"
        PATRONI_LOG_FILE_NUM: log.file_num: expected a whole number: the variable is ignored
        PATRONI_RESTAPI_HTTP_EXTRA_HEADERS: restapi.http_extra_headers: expected a mapping: name: value, name: value: the variable is ignored
        PATRONI_ETCD3_HOSTS: etcd3.hosts: expected a list: a, b, c: the variable is ignored
        PATRONI_ETCD3_USE_PROXIES: etcd3.use_proxies: expected on or off: the variable is ignored
        PATRONI_RESTAPI_LISTENS: this variable has no effect: set it in the file"#]].assert_eq(&problems.to_string());
}

#[test]
fn settings_that_patroni_lacks_have_variables_too() {
    let read = |name: &str, text: &str| {
        let mut file = crate::tree(crate::FILE);
        file.patch(&crate::tree("guard: {mode: required}"));
        let files = [("patroni.yml".to_owned(), tamada_config::yaml::dump(&file.into()))];
        tamada_config::LocalConfig::load(&files, &variables(&[(name, text)]))
    };
    let mode = |text: &str| read("TAMADA_GUARD_MODE", text).map(|(config, _)| config.guard.mode);
    assert_eq!(mode("off"), Ok(tamada_config::GuardMode::Off));
    assert_eq!(mode("On"), Ok(tamada_config::GuardMode::On));
    assert_eq!(mode(""), Ok(tamada_config::GuardMode::Required));
    expect!["TAMADA_GUARD_MODE: guard.mode: expected one of on, off, required, found the text \"of\""]
        .assert_eq(&mode("of").unwrap_err().to_string());
    for (name, remedy) in [
        ("TAMADA_GUARD_MODES", "set it in the file"),
        ("TAMADA_RESTAPI_LISTEN", "set PATRONI_RESTAPI_LISTEN"),
        ("TAMADA_TAGS_NOFAILOVER", "set it in the file"),
    ] {
        assert!(env::is_ours(name));
        let (_, problems) = read(name, "on").unwrap();
        assert_eq!(
            problems.to_string(),
            format!("{name}: this variable has no effect: {remedy}")
        );
    }
    for name in [
        "TAMADA_TEST_PG_BIN",
        "TAMADA_SUPERVISOR",
        "TAMADA_AGENT_BEFORE",
        "TAMADA_MEMBER",
    ] {
        assert!(!env::is_ours(name));
        assert_eq!(read(name, "on").unwrap().1.to_string(), "", "{name}");
    }
    assert!(!env::is_configuration(&variables(&[(
        "TAMADA_GUARD_MODE",
        "off"
    )])));
}
