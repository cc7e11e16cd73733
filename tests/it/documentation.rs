//! What the pages in `docs/` and the files in `packaging/monitoring/` say is so: links lead somewhere, log lines and
//! metrics are the program's, and Prometheus understands the rules.

use config::settings::{Change, DYNAMIC, Expected, LOCAL, Setting};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files_below(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, extension, found);
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
}

/// The targets of links in a page that are files of this project.
fn links(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    files_below(&root().join("docs"), "md", &mut pages);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let target = page.parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link} is not there", page.display());
        }
        // Pages are also named without a link.
        for named in text
            .split('`')
            .filter(|word| word.starts_with("docs/") && word.ends_with(".md"))
        {
            assert!(
                root().join(named).exists(),
                "{}: {named} is not there",
                page.display()
            );
        }
    }
}

/// The program's sources in one text, string literals over several lines put together.
fn sources() -> String {
    let mut files = Vec::new();
    for package in [
        "src",
        "ha/src",
        "postgres/src",
        "dcs/src",
        "guard/src",
        "config/src",
    ] {
        files_below(&root().join(package), "rs", &mut files);
    }
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let mut lines = text.lines();
    let mut joined = String::with_capacity(text.len());
    while let Some(line) = lines.next() {
        let mut line = line.to_owned();
        while line.ends_with('\\')
            && let Some(next) = lines.next()
        {
            line.pop();
            line += next.trim_start();
        }
        joined += &line;
        joined.push('\n');
    }
    joined
}

/// A line of the log without what differs: words in capitals stand for it.
fn constant_parts(line: &str) -> Vec<String> {
    let is_placeholder = |word: &str| {
        let letters = word.trim_matches(|c: char| !c.is_alphanumeric());
        letters.len() > 1
            && letters.chars().all(|c| c.is_ascii_uppercase())
            && letters != "DCS"
            && letters != "ID"
            || word == "ID"
    };
    let mut parts = vec![String::new()];
    for word in line.split(' ') {
        if is_placeholder(word) {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(word);
            part.push(' ');
        }
    }
    let parts = parts.iter().map(|part| part.trim().to_owned());
    parts.filter(|part| part.len() > 6).collect()
}

#[test]
fn log_lines_to_look_up_are_those_of_the_program() {
    let sources = sources();
    let page = read("docs/troubleshooting.md");
    let lines: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(line, _)| line)
        .collect();
    assert!(lines.len() > 30, "{}", lines.len());
    for line in lines {
        for part in constant_parts(line) {
            let escaped = part.replace('"', "\\\"");
            assert!(sources.contains(&escaped), "the program does not say {part:?}");
        }
    }
}

/// A type, as the page says it.
fn type_name(expected: Expected) -> String {
    let range = |from: i64, to: i64| match (from, to) {
        (from, to) if to >= i64::from(i32::MAX) => format!("from {from}"),
        (from, to) => format!("{from} to {to}"),
    };
    match expected {
        Expected::Bool => "on, off".to_owned(),
        Expected::Int(from, _) if from <= -i64::from(i32::MAX) => "whole number".to_owned(),
        Expected::Int(from, to) => format!("whole number, {}", range(from, to)),
        Expected::Quantity(from, to, unit) => format!("{unit}, {}", range(from, to)),
        Expected::Text => "text".to_owned(),
        Expected::Secret => "secret".to_owned(),
        Expected::Word(words) => words.join(", "),
        Expected::Address => "host:port".to_owned(),
        Expected::Texts => "list".to_owned(),
        Expected::Lines => "lines".to_owned(),
        Expected::Options => "options".to_owned(),
        Expected::Scalars => "mapping".to_owned(),
        Expected::Mapping => "section".to_owned(),
        Expected::Section(_) => "section: user and connection".to_owned(),
        Expected::Named(_) => "section by name".to_owned(),
        Expected::Sections(_) => "list of sections".to_owned(),
        Expected::Anything => "any".to_owned(),
    }
}

fn rows(settings: &[Setting], page: &str) -> String {
    let mut text = String::new();
    for setting in settings {
        let begin = format!("| `{}` |", setting.path);
        let row = page
            .lines()
            .find(|line| line.starts_with(&begin))
            .unwrap_or_default();
        let effect = row
            .rsplit(" | ")
            .next()
            .unwrap_or_default()
            .trim_end_matches('|')
            .trim();
        let change = match setting.change {
            Change::Reload => "reload",
            Change::Restart => "restart",
            Change::Bootstrap => "bootstrap",
        };
        let default = match setting.default {
            "" => String::new(),
            default => format!(" `{default}`"),
        };
        let expected = type_name(setting.expected);
        text += &format!("{begin} {expected} |{default} | {change} | {effect} |\n");
    }
    text
}

/// `UPDATE_EXPECT=1` brings types and defaults up to date, and adds a row for a new setting; its effect is to be written.
#[test]
fn every_setting_is_explained() {
    let page = read("docs/settings.md");
    let begin = "| --- | --- | --- | --- | --- |\n";
    let parts: Vec<&str> = page.split(begin).collect();
    let [head, local, dynamic] = parts[..] else {
        panic!("docs/settings.md has two tables");
    };
    let between = local.split_once("\n\n").map(|(_, between)| between).unwrap();
    let expected = format!(
        "{head}{begin}{}\n{between}{begin}{}",
        rows(LOCAL, local),
        rows(DYNAMIC, dynamic)
    );
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(root().join("docs/settings.md"), &expected).unwrap();
    }
    for line in expected.lines().filter(|line| line.starts_with("| `")) {
        assert!(
            !line.ends_with("|  |"),
            "docs/settings.md: what is its effect? {line}"
        );
        let is_there = page.lines().any(|it| it == line);
        assert!(
            is_there,
            "docs/settings.md is not up to date: UPDATE_EXPECT=1 writes {line}"
        );
    }
    assert_eq!(
        page.lines().count(),
        expected.lines().count(),
        "a row of docs/settings.md is no setting any more"
    );
    for variable in LOCAL.iter().filter_map(Setting::own_variable) {
        assert!(
            page.contains(&format!("variable `{variable}` |")),
            "docs/settings.md does not name {variable}"
        );
    }
}

/// All words that begin as Patroni's metrics do.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("patroni_"))
        .collect()
}

#[test]
fn metrics_that_are_watched_are_there() {
    let source = read("src/daemon/api/metrics.rs");
    for file in ["alerts.yml", "grafana-dashboard.json"] {
        let text = read(Path::new("packaging/monitoring").join(file));
        let watched = metrics(&text);
        assert!(watched.len() > 6, "{watched:?}");
        for metric in watched {
            let name = metric.strip_prefix("patroni_").unwrap();
            assert!(
                source.contains(&format!("\"{name}\"")),
                "{file}: there is no {metric}"
            );
        }
    }
    let alerts = read("packaging/monitoring/alerts.yml");
    let page = read("docs/monitoring.md");
    for alert in alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            page.contains(&format!("| `{alert}` |")),
            "docs/monitoring.md: {alert}"
        );
    }
}

#[track_caller]
fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool").args(arguments).arg(file).output();
    let output =
        output.expect("promtool, of Debian's package prometheus: scripts/install-deps.sh installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", file.display());
}

#[test]
fn prometheus_understands_rules_and_dashboard() {
    let folder = root().join("packaging/monitoring");
    promtool(&["check", "rules"], &folder.join("alerts.yml"));
    promtool(&["test", "rules"], &folder.join("alerts.test.yml"));
    // What the dashboard asks, as rules.
    let dashboard: serde_json::Value =
        serde_json::from_str(&read(folder.join("grafana-dashboard.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, target) in targets.enumerate() {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "1m").replace("$scope", "demo");
        let query = serde_json::to_string(&query).unwrap();
        rules += &format!("  - {{record: 'q{number}', expr: {query}}}\n");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules"], file.path());
}
