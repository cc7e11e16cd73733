//! Which parameters a server program takes: it is asked itself, by letting it read a configuration file and exit
//! (`postgres -C`). It knows its own names, ranges, units and words, those of no sample file included.

use crate::command::Invocation;
use crate::files::memory_file::MemoryFile;
use crate::files::postgresql_conf::line;
use crate::{Instant, Result};
use config::{HIDDEN, shown_parameter};
use std::collections::BTreeMap;
use std::path::Path;

/// What is wrong with one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// The server does not know it, or cannot take it from a file.
    Unknown(String),
    /// Its value is none.
    Invalid(String),
    /// Its value is out of range; the nearest one that is not.
    OutOfRange(String, String),
}

/// All that a server program finds wrong with parameters.
///
/// # Errors
/// It cannot be run.
pub async fn parameter_complaints(
    program: &Path,
    parameters: &BTreeMap<String, String>,
    deadline: Instant,
) -> Result<Vec<Complaint>> {
    let mut found = Vec::new();
    judge(program, parameters, deadline, |complaint, _| {
        found.push(complaint.clone())
    })
    .await?;
    Ok(found)
}

/// The names of the parameters that a server program knows, without those of extensions and developers.
///
/// # Errors
/// It cannot be run.
pub async fn parameter_names(program: &Path, deadline: Instant) -> Result<Vec<String>> {
    let output = Invocation::new(program, ["--describe-config"])
        .run(deadline)
        .await?;
    let text = output.into_success()?;
    let names = text.lines().filter_map(|line| line.split('\t').next());
    Ok(names.map(str::to_owned).collect())
}

/// The parameters that the program accepts, with numbers out of range moved to their bounds. What was changed is logged.
pub(crate) async fn accepted(
    program: &Path,
    parameters: &BTreeMap<String, String>,
    deadline: Instant,
) -> Result<BTreeMap<String, String>> {
    judge(program, parameters, deadline, log).await
}

/// The parameters that the program accepts. `tell` gets each complaint with the value that it is about.
async fn judge(
    program: &Path,
    parameters: &BTreeMap<String, String>,
    deadline: Instant,
    mut tell: impl FnMut(&Complaint, &str),
) -> Result<BTreeMap<String, String>> {
    // Where that is not possible the start tells what is wrong with them.
    let mut file = match MemoryFile::new("the file with the parameters to check", "") {
        Ok(file) => file,
        Err(error) => {
            tracing::warn!("the parameters are not checked: {error}");
            return Ok(parameters.clone());
        }
    };
    let mut accepted = parameters.clone();
    // Each round mends at least one parameter, and none twice.
    for _ in 0..=parameters.len() * 2 {
        // Messages are wanted in English whatever is configured.
        let text: String = accepted
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "lc_messages" | "config_file" | "data_directory"))
            .map(|(name, value)| line(name, value))
            .collect();
        if let Err(error) = file.replace(&text) {
            tracing::warn!("the parameters are not checked: {error}");
            return Ok(accepted);
        }
        // Nothing is read from the data directory: one without a file of ALTER SYSTEM does.
        let output = Invocation::new(program, ["-C", "max_connections", "-D", "/"])
            .arg(format!("--config-file={}", file.path().display()))
            .env("LC_ALL", "C")
            .run(deadline)
            .await?;
        if output.status.success() {
            return Ok(accepted);
        }
        let complaints = complaints(&output.stderr, (&file.path(), &text), &accepted);
        if complaints.is_empty() {
            // It is something else than the parameters (say, it runs as root): the start will tell.
            tracing::debug!("the parameters could not be checked: {}", output.failure());
            return Ok(accepted);
        }
        for complaint in complaints {
            mend(&mut accepted, &complaint, &mut tell);
        }
    }
    Ok(accepted)
}

fn mend(
    parameters: &mut BTreeMap<String, String>,
    complaint: &Complaint,
    tell: &mut impl FnMut(&Complaint, &str),
) {
    let before = match complaint {
        Complaint::Unknown(name) | Complaint::Invalid(name) => parameters.remove(name),
        Complaint::OutOfRange(name, bound) if parameters.get(name) == Some(bound) => {
            parameters.remove(name);
            None
        }
        Complaint::OutOfRange(name, bound) => parameters.insert(name.clone(), bound.clone()),
    };
    if let Some(value) = before {
        tell(complaint, &value);
    }
}

fn log(complaint: &Complaint, value: &str) {
    match complaint {
        // What it is a misspelling of may be a command or a connection string.
        Complaint::Unknown(name) => {
            tracing::warn!("Removing unexpected parameter={name} value={HIDDEN} from the config");
        }
        Complaint::Invalid(name) => {
            let shown = shown_parameter(name, value);
            tracing::warn!(
                "parameter {name} is left out: PostgreSQL does not take the value {shown:?} for it"
            );
        }
        Complaint::OutOfRange(name, bound) => {
            let shown = shown_parameter(name, value);
            tracing::warn!("parameter {name}={shown} is out of range, {bound} is used instead");
        }
    }
}

/// `file`: what was tried, its path and its text.
fn complaints(
    stderr: &str,
    (file, text): (&Path, &str),
    parameters: &BTreeMap<String, String>,
) -> Vec<Complaint> {
    let in_file = format!("syntax error in file \"{}\" line ", file.display());
    let mut found = Vec::new();
    for message in stderr.lines() {
        if let Some(name) = message
            .split_once("parameter \"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(name, _)| name.to_ascii_lowercase())
            .filter(|name| parameters.contains_key(name))
        {
            let unknown =
                message.contains("unrecognized configuration parameter") || message.contains("cannot be");
            found.push(match nearest_bound(message) {
                Some(bound) => Complaint::OutOfRange(name, bound),
                None if unknown => Complaint::Unknown(name),
                None => Complaint::Invalid(name),
            });
        } else if let Some((_, rest)) = message
            .split_once(&in_file)
            .filter(|_| !message.contains("token \"\""))
        {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
            let number = digits.and_then(|digits| digits.parse::<usize>().ok());
            let name = number.and_then(|number| text.lines().nth(number.checked_sub(1)?)?.split(' ').next());
            found.extend(name.map(|name| Complaint::Invalid(name.to_owned())));
        }
    }
    found
}

/// Of `V [unit] is outside the valid range for parameter "x" (MIN [unit] .. MAX [unit])` the bound next to V, as a
/// plain number, which counts in the parameter's own unit.
fn nearest_bound(message: &str) -> Option<String> {
    let (before, after) = message.split_once(" is outside the valid range for parameter ")?;
    let value: f64 = before
        .rsplit(": ")
        .next()?
        .trim()
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    let (low, high) = after
        .rsplit_once('(')?
        .1
        .trim_end()
        .trim_end_matches(')')
        .split_once(" .. ")?;
    let plain = |bound: &str| bound.trim().split(' ').next().map(str::to_owned);
    let low = plain(low)?;
    if value < low.parse::<f64>().ok()? {
        Some(low)
    } else {
        plain(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_complaints_are_understood() {
        let parameters: BTreeMap<String, String> = ["a", "b", "c", "d", "e"]
            .map(|n| (n.to_owned(), String::new()))
            .into();
        let stderr = "\
2026-11-22 20:42:36.326 GMT [31380] LOG:  unrecognized configuration parameter \"a\" in file \"/x.conf\" line 3
2026-11-22 20:42:36.385 GMT [31396] LOG:  invalid value for parameter \"b\": \"foo\"
2026-11-22 20:42:36.385 GMT [31396] HINT:  Available values: minimal, replica, logical.
2026-11-22 20:42:36.432 GMT [31417] LOG:  0 8kB is outside the valid range for parameter \"c\" (16 8kB .. 1073741823 8kB)
2026-11-22 20:42:36.385 GMT [31396] LOG:  999 is outside the valid range for parameter \"d\" (1 .. 262)
2026-11-22 20:42:36.385 GMT [31396] LOG:  parameter \"e\" requires a Boolean value
2026-11-22 20:42:36.385 GMT [31396] FATAL:  configuration file \"/x.conf\" contains errors
";
        let name = str::to_owned;
        assert_eq!(
            complaints(stderr, (Path::new("/x.conf"), ""), &parameters),
            [
                Complaint::Unknown(name("a")),
                Complaint::Invalid(name("b")),
                Complaint::OutOfRange(name("c"), name("16")),
                Complaint::OutOfRange(name("d"), name("262")),
                Complaint::Invalid(name("e")),
            ]
        );
        let elsewhere = "LOG:  syntax error in file \"/etc/passwd\" line 2, near token \":\"";
        let file = (Path::new("/x.conf"), "a = '1'\nb = '2'\n");
        assert_eq!(complaints(elsewhere, file, &parameters), []);
        let syntax = "LOG:  syntax error in file \"/x.conf\" line 2, near token \"?\"";
        assert_eq!(
            complaints(syntax, (Path::new("/x.conf"), "a = '1'\nb = x?\n"), &parameters),
            [Complaint::Invalid(name("b"))]
        );
    }
}
