//! YAML against what PyYAML 6 reads and writes (`pyyaml.json` holds its answers), and the errors of broken files.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::Value as Json;
use tamada_config::yaml::{dump, dump_flow, parse};
use tamada_config::{Kind, Map, Value};

/// Numbers by value, since JSON has no difference between 1.0 and 1 that would matter here.
fn corpus() -> Vec<Json> {
    serde_json::from_str(include_str!("pyyaml.json")).unwrap()
}

#[test]
fn documents_are_read_as_pyyaml_reads_them() {
    for case in corpus() {
        let value = parse("file.yml", case["yaml"].as_str().unwrap()).unwrap();
        assert_eq!(Json::from(&value), case["json"], "{}", case["name"]);
    }
}

#[test]
fn documents_are_written_as_pyyaml_writes_them() {
    for case in corpus() {
        let value = Value::from(&case["json"]);
        // PyYAML writes a separator of lines as it is.
        let visible = |text: &Json| {
            let text = text.as_str().unwrap().replace("'\u{2028}  x'", "\"\\Lx\"");
            text.replace("'\u{2028}    x'", "\"\\Lx\"")
        };
        assert_eq!(dump(&value), visible(&case["dump"]), "{}", case["name"]);
        // What is longer or shorter by that breaks its lines elsewhere.
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (flow, expected) = (dump_flow(&value), visible(&case["flow"]));
        if expected.contains("\\Lx") {
            assert_eq!(words(&flow), words(&expected), "{}", case["name"]);
        } else {
            assert_eq!(flow, expected, "{}", case["name"]);
        }
    }
}

/// As PyYAML 6 reads them.
#[test]
fn a_text_of_several_lines_may_end_with_the_file() {
    for (text, expected) in [
        ("a: |\n  x", "x"),
        ("a: |\n  x\n  y, z", "x\ny, z"),
        ("a: |+\n  x", "x"),
        ("a: |-\n  x", "x"),
        ("a: >\n  x\n  y", "x y"),
        ("a: |\n  x\n  ", "x\n"),
        ("a: |+\n  x\n  ", "x\n"),
        ("a: |\n  x\n#c", "x\n"),
        ("a: |\n  x # c", "x # c"),
        ("a: |", ""),
    ] {
        let value = parse("file.yml", text).unwrap();
        assert_eq!(value.get("a").and_then(Value::as_str), Some(expected), "{text:?}");
    }
}

fn error(text: &str, expected: Expect) {
    expected.assert_eq(&parse("patroni.yml", text).unwrap_err().to_string());
}

#[test]
fn a_broken_file_is_named_with_line_and_column_and_what_was_expected() {
    error(
        "scope: a\nname b\nrestapi: c\n",
        expect![
            "patroni.yml:3:1: while scanning a simple key that begins in line 2: could not find expected ':': expected `key: value` in the same column as the keys before it"
        ],
    );
    error(
        "scope: a\n  name: b\n",
        expect![
            "patroni.yml:2:7: mapping values are not allowed in this context: expected one `key: value` per line; a text that contains `: ` needs quotes, and keys of one mapping start in the same column"
        ],
    );
    error(
        "a:\n\tb: 1\n",
        expect![
            "patroni.yml:2:1: while scanning for the next token that begins in line 2: found character that cannot start any token: expected a value; a text that begins with a tab, `@`, `` ` `` or `%` needs quotes"
        ],
    );
    error(
        "a: [1, 2\nb: 3\n",
        expect![
            "patroni.yml:2:2: while parsing a flow sequence that begins in line 1: did not find expected ',' or ']': expected `,` or the `]` that closes the list"
        ],
    );
    error(
        "a: {x: 1\nb: 3\n",
        expect![
            "patroni.yml:2:2: while parsing a flow mapping that begins in line 1: did not find expected ',' or '}': expected `,` or the `}` that closes the mapping"
        ],
    );
    error(
        "a: 'x\nb: 3\n",
        expect![
            "patroni.yml:3:1: while scanning a quoted scalar that begins in line 1: found unexpected end of stream: expected the quote that closes the text"
        ],
    );
    error(
        "a:\n- b\nc\n",
        expect![
            "patroni.yml:4:1: while scanning a simple key that begins in line 3: could not find expected ':': expected `key: value` in the same column as the keys before it"
        ],
    );
    error(
        "a: @x\n",
        expect![
            "patroni.yml:1:4: while scanning for the next token that begins in line 1: found character that cannot start any token: expected a value; a text that begins with a tab, `@`, `` ` `` or `%` needs quotes"
        ],
    );
    error(
        "a: b: c\n",
        expect![
            "patroni.yml:1:5: mapping values are not allowed in this context: expected one `key: value` per line; a text that contains `: ` needs quotes, and keys of one mapping start in the same column"
        ],
    );
    error(
        "a: *nowhere\n",
        expect!["patroni.yml:1:4: found an undefined alias: a text that begins with * needs quotes"],
    );
    error(
        "a: &x [*x]\n",
        expect!["patroni.yml:1:8: the alias contains itself"],
    );
    error(
        "a: !ruby/object {}\n",
        expect![
            "patroni.yml:1:4: could not determine a constructor for a tag: remove it; a text that begins with ! needs quotes"
        ],
    );
    error(
        "a: !!int x\n",
        expect!["patroni.yml:1:4: expected a whole number after the tag, found another text"],
    );
    error(
        "[a, b]: c\n",
        expect!["patroni.yml:1:1: expected a text as key, found a list"],
    );
    error(
        "<<: 5\n",
        expect!["patroni.yml:1:5: expected a mapping or list of mappings for merging, found a number"],
    );
    error(
        "a: 1\n---\nb: 2\n",
        expect!["patroni.yml:2:1: expected a single document, but found another one"],
    );
    error(
        "ok: 1\nbad: \u{1}\n",
        expect!["patroni.yml:2:6: control characters are not allowed"],
    );
    error(
        &"[".repeat(200),
        expect!["patroni.yml:1:66: nested more than 64 levels deep"],
    );
}

/// Aliases of aliases, of a long text, and anchors in one another: each makes much of little.
#[test]
fn a_small_file_cannot_fill_the_memory() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..10 {
        let aliases = vec![format!("*a{}", n - 1); 9].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    error(&text, expect!["patroni.yml:5:10: more than 10000 entries"]);
    let long = "x".repeat(500_000);
    let aliases = "*a, ".repeat(9_000);
    error(
        &format!("a: &a {long}\nb: [{aliases}]\n"),
        expect!["patroni.yml:2:9: more than 1048576 bytes of text"],
    );
    error(
        &format!("a: &a {{k: {long}}}\nb: [{{<<: *a}}, {{<<: *a}}, {{<<: *a}}]\n"),
        expect!["patroni.yml:2:20: more than 1048576 bytes of text"],
    );
    let anchors: String = (0..50).map(|n| format!("&a{n} [")).collect();
    error(
        &format!("a: {anchors}{}{}\n", "x, ".repeat(9_000), "]".repeat(50)),
        expect!["patroni.yml:1:282: more than 10000 entries under anchors"],
    );
    // Those of a person are far from it.
    let value = parse("f.yml", "a: &a {b: [1, 2]}\nc: &c [*a, *a]\nd: *c\n").unwrap();
    assert_eq!(value.get("c"), value.get("d"));
}

#[test]
fn a_file_has_its_limits() {
    for (text, message) in [
        (
            "x".repeat((1 << 20) + 1),
            "f.yml:1:1: 1048577 bytes of text; at most 1048576 are allowed",
        ),
        ("- \n".repeat(10_001), "f.yml:10001:2: more than 10000 entries"),
        (
            (0..10_001).map(|n| format!("{n}:\n")).collect(),
            "f.yml:10001:7: more than 10000 entries",
        ),
        (
            "- ".repeat(10_000),
            "f.yml:1:131: nested more than 64 levels deep",
        ),
        (
            "{a: ".repeat(10_000),
            "f.yml:1:258: nested more than 64 levels deep",
        ),
        ("[".repeat(1 << 20), "f.yml:1:66: nested more than 64 levels deep"),
        (
            "? ".repeat(1 << 19),
            "f.yml:1:131: nested more than 64 levels deep",
        ),
    ] {
        let begin: String = text.chars().take(20).collect();
        assert_eq!(parse("f.yml", &text).unwrap_err().to_string(), message, "{begin}");
    }
    // Ten thousand keys of one mapping, all of them twice, are no work worth mentioning.
    let text: String = (0..10_000).map(|n| format!("k{}:\n", n % 5_000)).collect();
    let (value, warnings) = tamada_config::yaml::parse_with_warnings("f.yml", &text).unwrap();
    assert_eq!((value.as_map().unwrap().len(), warnings.0.len()), (5_000, 5_000));
}

#[test]
fn every_node_knows_where_it_was_written() {
    let value = parse("f.yml", "a:\n  b: x\n  c:\n    - 1\n    - {d: 2}\n").unwrap();
    let position = |v: &Value| v.position.as_ref().unwrap().to_string();
    assert_eq!(position(value.at("a.b").unwrap()), "f.yml:2:6");
    let list = value.at("a.c").unwrap().as_list().unwrap();
    assert_eq!(position(&list[1]), "f.yml:5:7");
    assert_eq!(position(list[1].get("d").unwrap()), "f.yml:5:11");
    let entry = value.get("a").unwrap().as_map().unwrap().entry("c").unwrap();
    assert_eq!(entry.key_position.as_ref().unwrap().to_string(), "f.yml:3:3");
    assert_eq!(value, parse("g.yml", "{a: {c: [1, {d: 2}], b: x}}").unwrap());
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::default()),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("equal to itself", |x| x.is_finite())
            .prop_map(|x| Kind::Float(x).into()),
        any::<String>().prop_map(Value::from),
        "[-+0-9a-fxo_:. eE<=~#'\"\\[\\]{},&*!|>%@`?\n\t]{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "on",
            "No",
            "null",
            "1:30",
            "0644",
            "2001-12-14",
            "1.5e+3",
            ".inf"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-z<= :#\n-]{0,6}", inner), 0..5)
                .prop_map(|entries| Value::from(entries.into_iter().collect::<Map>())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in any_value()) {
        prop_assert_eq!(parse("x", &dump(&value)).map_err(|e| e.to_string()), Ok(value.clone()));
        prop_assert_eq!(parse("x", &dump_flow(&value)).map_err(|e| e.to_string()), Ok(value));
    }

    #[test]
    fn no_text_makes_the_parser_fail_otherwise_than_with_an_error(text in "[-a-c:{}\\[\\]&*!|>'\"%@#,?\n\t ]{0,60}") {
        let _ = parse("x", &text);
    }
}

#[test]
fn a_tag_before_a_comma_is_an_error_and_no_panic() {
    let problem = parse("x", "{a[!,").unwrap_err();
    assert!(problem.to_string().contains("remove the tag"), "{problem}");
}

#[test]
fn the_first_character_may_be_any() {
    for (text, wanted) in [("\u{fffc}", "\u{fffc}"), ("\u{feff}abc", "abc")] {
        assert_eq!(parse("x", text).unwrap(), Value::from(wanted));
    }
}
