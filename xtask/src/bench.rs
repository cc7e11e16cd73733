//! `cargo xtask bench`: the same faults for this program and for Patroni, in turns, and a table of both. The work is done
//! by a laboratory script (`docs/benchmarks.md` says what is asked of it); here are its calls and what they amount to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

pub(crate) const USAGE: &str = "usage: cargo xtask bench --lab FILE --root DIR [OPTION]... [SCENARIO]... [-- ARGUMENT...]

  --lab FILE        the laboratory script
  --root DIR        the root of its hosts
  --python FILE     the Python that runs it (default: python3)
  --program FILE    this program (default: target/release/tamada)
  --work DIR        where the laboratory works; what is in it is removed (default: a new folder for temporary files)
  --rounds N        how often each scenario runs for each of the two (default: 5)
  --patroni ARGS    further arguments of the laboratory for Patroni, in one word
  --tamada ARGS     further arguments of the laboratory for this program, in one word
  --json FILE       where all single results go
  SCENARIO          default: switchover restart kill-postmaster stop-agent kill-agent freeze-agent host-crash partition
  ARGUMENT          further arguments of the laboratory for both, such as --idle 30";

const SCENARIOS: [&str; 8] = [
    "switchover",
    "restart",
    "kill-postmaster",
    "stop-agent",
    "kill-agent",
    "freeze-agent",
    "host-crash",
    "partition",
];

/// The program's place in the hosts.
const INSTALLED: &str = "/usr/bin/tamada";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Contender {
    Patroni,
    Tamada,
}

impl Contender {
    const BOTH: [Self; 2] = [Self::Patroni, Self::Tamada];

    fn name(self) -> &'static str {
        match self {
            Self::Patroni => "patroni",
            Self::Tamada => "tamada",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    lab: PathBuf,
    root: PathBuf,
    python: PathBuf,
    program: PathBuf,
    work: Option<PathBuf>,
    rounds: usize,
    patroni: Vec<String>,
    tamada: Vec<String>,
    json: Option<PathBuf>,
    scenarios: Vec<String>,
    further: Vec<String>,
}

impl Options {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        let mut scenarios = Vec::new();
        let mut arguments = arguments.iter().map(String::as_str);
        let mut further = Vec::new();
        while let Some(argument) = arguments.next() {
            match argument {
                "--" => further = arguments.by_ref().map(str::to_owned).collect(),
                "--lab" | "--root" | "--python" | "--program" | "--work" | "--rounds" | "--patroni"
                | "--tamada" | "--json" => {
                    let value = arguments
                        .next()
                        .with_context(|| format!("{argument} has no value"))?;
                    given.insert(argument, value);
                }
                option if option.starts_with('-') => bail!("unknown option {option}\n{USAGE}"),
                scenario => scenarios.push(scenario.to_owned()),
            }
        }
        let path = |option: &str| given.get(option).map(PathBuf::from);
        let words = |option: &str| -> Vec<String> {
            let text = given.get(option).copied().unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let rounds = given.get("--rounds").map_or(Ok(5), |rounds| rounds.parse());
        let rounds = rounds.context("--rounds is not a number")?;
        ensure!(rounds > 0, "--rounds is 0: nothing would run");
        if scenarios.is_empty() {
            scenarios = SCENARIOS.map(str::to_owned).into();
        }
        Ok(Self {
            lab: path("--lab").with_context(|| format!("--lab is missing\n{USAGE}"))?,
            root: path("--root").with_context(|| format!("--root is missing\n{USAGE}"))?,
            python: path("--python").unwrap_or_else(|| "python3".into()),
            program: path("--program").unwrap_or_else(|| "target/release/tamada".into()),
            work: path("--work"),
            rounds,
            patroni: words("--patroni"),
            tamada: words("--tamada"),
            json: path("--json"),
            scenarios,
            further,
        })
    }

    /// The laboratory's arguments for one round.
    fn arguments(&self, contender: Contender, work: &Path, results: &Path) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut arguments = vec![
            "--root".to_owned(),
            text(&self.root),
            "--work".to_owned(),
            text(work),
            "--json".to_owned(),
            text(results),
        ];
        let own = match contender {
            Contender::Patroni => &self.patroni,
            Contender::Tamada => {
                let installed = [
                    ("--bin", format!("{}:{INSTALLED}", text(&self.program))),
                    ("--agent", format!("{INSTALLED} run")),
                    ("--ctl", format!("{INSTALLED} ctl")),
                ];
                for (option, value) in installed {
                    arguments.extend([option.to_owned(), value]);
                }
                &self.tamada
            }
        };
        arguments.extend(self.further.iter().chain(own).cloned());
        arguments.extend(self.scenarios.iter().cloned());
        arguments
    }
}

/// Runs all rounds and prints the table.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let options = Options::read(arguments)?;
    for file in [&options.lab, &options.program] {
        ensure!(file.is_file(), "there is no file {}", file.display());
    }
    let temporary = std::env::temp_dir().join(format!("tamada-bench-{}", std::process::id()));
    let work = options.work.clone().unwrap_or_else(|| temporary.clone());
    let results = temporary.with_extension("json");
    let mut all = Results::default();
    for round in 1..=options.rounds {
        for contender in Contender::BOTH {
            println!("round {round} of {}: {}", options.rounds, contender.name());
            let arguments = options.arguments(contender, &work, &results);
            let _ = std::fs::remove_file(&results);
            let status = Command::new(&options.python)
                .arg(&options.lab)
                .args(&arguments)
                .status()
                .with_context(|| format!("cannot run {}", options.python.display()))?;
            if !status.success() {
                eprintln!("the laboratory ended with {status}; what it has measured counts");
            }
            // What there is so far is not lost by an end of the whole.
            all.add(contender, read(&results)?);
            if let Some(file) = &options.json {
                std::fs::write(file, all.to_json())
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
    }
    let _ = std::fs::remove_file(&results);
    let _ = std::fs::remove_dir_all(&temporary);
    println!("\n{}", all.table());
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text)
            .with_context(|| format!("{} is not a list of results", file.display())),
        // It ended before its first result.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// A figure of the laboratory by which the two are compared.
struct Figure {
    /// Its name in the results.
    key: &'static str,
    /// What follows the scenario's name in the table.
    title: &'static str,
    unit: &'static str,
    more_is_better: bool,
}

const FIGURES: [Figure; 7] = [
    figure("downtime_s", "", "s", false),
    figure("all_s", ", all members stream", "s", false),
    figure("pss_mib", ", memory of the agent (PSS)", "MiB", false),
    figure("cpu_pct", ", processor of the agent", "%", false),
    figure("etcd_ops_per_s", ", etcd requests a second", "", false),
    figure("rest_rps", ", health checks a second", "", true),
    figure("cli_list_s", ", `list`", "s", false),
];

const fn figure(key: &'static str, title: &'static str, unit: &'static str, more_is_better: bool) -> Figure {
    Figure {
        key,
        title,
        unit,
        more_is_better,
    }
}

/// All results, in the order in which they came.
#[derive(Debug, Default)]
struct Results(Vec<(Contender, Value)>);

/// What one of the two has reached in a scenario.
#[derive(Debug, Default)]
struct Column {
    figures: Vec<f64>,
    lost: Option<u64>,
    dual_primary_seconds: Option<f64>,
    failed: usize,
}

impl Results {
    fn add(&mut self, contender: Contender, results: Vec<Value>) {
        self.0
            .extend(results.into_iter().map(|result| (contender, result)));
    }

    fn to_json(&self) -> String {
        let results = self.0.iter().map(|(contender, result)| {
            let mut result = result.clone();
            result["of"] = contender.name().into();
            result
        });
        Value::Array(results.collect()).to_string()
    }

    /// Scenarios in the order in which they ran first.
    fn scenarios(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (_, result) in &self.0 {
            if let Some(name) = result["scenario"].as_str()
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        names
    }

    fn column(&self, contender: Contender, scenario: &str, key: &str) -> Column {
        let mut column = Column::default();
        let rounds = self
            .0
            .iter()
            .filter(|(of, result)| *of == contender && result["scenario"] == scenario);
        for (_, result) in rounds {
            if result.get("error").is_some() || result.get("healed_s").is_some_and(Value::is_null) {
                column.failed += 1;
            }
            match &result[key] {
                Value::Array(hosts) => column.figures.extend(hosts.iter().filter_map(Value::as_f64)),
                value => column.figures.extend(value.as_f64()),
            }
            column.lost = column.lost.max(result["lost"].as_u64());
            let seconds = result["dual_primary_s"].as_f64();
            column.dual_primary_seconds = match (column.dual_primary_seconds, seconds) {
                (Some(worst), Some(seconds)) => Some(worst.max(seconds)),
                (worst, seconds) => worst.or(seconds),
            };
        }
        column
    }

    fn table(&self) -> String {
        let mut table = "\
            | scenario | Patroni, median | Tamada, median | ratio | lost rows, worst (P / T) | two primaries, worst (P / T) |\n\
            | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
        let mut failures = String::new();
        for scenario in self.scenarios() {
            for figure in &FIGURES {
                let [patroni, tamada] = Contender::BOTH.map(|of| self.column(of, scenario, figure.key));
                if patroni.figures.is_empty() && tamada.figures.is_empty() {
                    continue;
                }
                // Writing to a String cannot fail.
                let _ = writeln!(table, "{}", row(scenario, figure, &patroni, &tamada));
            }
            for of in Contender::BOTH {
                let failed = self.column(of, scenario, "").failed;
                if failed > 0 {
                    let _ = writeln!(
                        failures,
                        "{scenario} of {}: {failed} failed or did not heal",
                        of.name()
                    );
                }
            }
        }
        if !failures.is_empty() {
            let _ = write!(table, "\n{failures}");
        }
        table
    }
}

fn row(scenario: &str, figure: &Figure, patroni: &Column, tamada: &Column) -> String {
    let (theirs, ours) = (median(&patroni.figures), median(&tamada.figures));
    let written = |value: Option<f64>| match value {
        Some(value) => format!("{value:.2} {}", figure.unit).trim_end().to_owned(),
        None => "–".to_owned(),
    };
    let ratio = match (theirs, ours) {
        (Some(theirs), Some(ours)) => {
            let (larger, smaller) = if figure.more_is_better {
                (ours, theirs)
            } else {
                (theirs, ours)
            };
            if smaller > 0.0 {
                format!("{:.1} ×", larger / smaller)
            } else {
                "–".to_owned()
            }
        }
        _ => "–".to_owned(),
    };
    let count = |lost: Option<u64>| lost.map_or_else(|| "–".to_owned(), |lost| lost.to_string());
    let seconds = |dual: Option<f64>| dual.map_or_else(|| "–".to_owned(), |dual| format!("{dual:.1} s"));
    let pair = |patroni: String, tamada: String| {
        if patroni == "–" && tamada == "–" {
            String::new()
        } else {
            format!("{patroni} / {tamada}")
        }
    };
    format!(
        "| {scenario}{} | {} | {} | {ratio} | {} | {} |",
        figure.title,
        written(theirs),
        written(ours),
        pair(count(patroni.lost), count(tamada.lost)),
        pair(
            seconds(patroni.dual_primary_seconds),
            seconds(tamada.dual_primary_seconds)
        ),
    )
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 0 => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(text: &str) -> anyhow::Result<Options> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Options::read(&words)
    }

    #[test]
    fn the_laboratory_is_called_for_both() {
        let mut options =
            options("--lab lab.py --root /root --rounds 2 switchover host-crash -- --idle 30").unwrap();
        options.tamada = vec!["--ttl".to_owned(), "3".to_owned()];
        assert_eq!(options.rounds, 2);
        let call = |of| {
            options
                .arguments(of, Path::new("/w"), Path::new("/r.json"))
                .join(" ")
        };
        assert_eq!(
            call(Contender::Patroni),
            "--root /root --work /w --json /r.json --idle 30 switchover host-crash"
        );
        assert_eq!(
            call(Contender::Tamada),
            "--root /root --work /w --json /r.json --bin target/release/tamada:/usr/bin/tamada --agent \
             /usr/bin/tamada run --ctl /usr/bin/tamada ctl --idle 30 --ttl 3 switchover host-crash"
        );
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (text, part) in [
            ("--root r", "--lab is missing"),
            ("--lab l", "--root is missing"),
            ("--lab l --root", "--root has no value"),
            ("--lab l --root r --rounds x", "--rounds is not a number"),
            ("--lab l --root r --rounds 0", "--rounds is 0"),
            ("--lab l --root r --quick", "unknown option --quick"),
        ] {
            let error = options(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_table_has_medians_and_the_worst() {
        let mut results = Results::default();
        for (downtime, lost, dual) in [(2.5, 0, 0.0), (9.0, 7, 1.5), (2.0, 0, 0.0)] {
            results.add(
                Contender::Patroni,
                vec![
                    json!({"scenario": "bootstrap", "leader_s": 4.0, "all_s": 20.0}),
                    json!({"scenario": "kill-agent", "downtime_s": downtime, "lost": lost, "dual_primary_s": dual,
                           "healed_s": 1.0}),
                ],
            );
        }
        results.add(
            Contender::Tamada,
            vec![
                json!({"scenario": "bootstrap", "leader_s": 1.0, "all_s": 5.0}),
                json!({"scenario": "idle", "pss_mib": [6.0, 8.0, 7.0], "cpu_pct": [0.1]}),
                json!({"scenario": "kill-agent", "downtime_s": 0.5, "lost": 0, "dual_primary_s": 0.0, "healed_s": null}),
                json!({"scenario": "kill-agent", "error": "no leader"}),
                json!({"scenario": "rest", "rest_rps": 1000.0, "p99": "1ms"}),
            ],
        );
        results.add(
            Contender::Patroni,
            vec![json!({"scenario": "rest", "rest_rps": 500.0})],
        );
        let expected = "\
| scenario | Patroni, median | Tamada, median | ratio | lost rows, worst (P / T) | two primaries, worst (P / T) |
| --- | --- | --- | --- | --- | --- |
| bootstrap, all members stream | 20.00 s | 5.00 s | 4.0 × |  |  |
| kill-agent | 2.50 s | 0.50 s | 5.0 × | 7 / 0 | 1.5 s / 0.0 s |
| idle, memory of the agent (PSS) | – | 7.00 MiB | – |  |  |
| idle, processor of the agent | – | 0.10 % | – |  |  |
| rest, health checks a second | 500.00 | 1000.00 | 2.0 × |  |  |

kill-agent of tamada: 2 failed or did not heal
";
        assert_eq!(results.table(), expected);
        assert!(results.to_json().contains(r#""of":"tamada""#));
    }
}
