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
