//! The list of all keys as data: `list.txt`, which explains itself.

use std::iter::once;
use tamada_config::{Map, Value, yaml};

/// One key and what is claimed of it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) side: Side,
    pub(super) claim: Claim,
    /// Dotted path, or the name of a variable.
    pub(super) path: String,
    /// What is written there, and as it stands in the list.
    pub(super) value: Value,
    pub(super) text: String,
    /// What else is written.
    pub(super) beside: Map,
    /// Variables that say the same: names and texts.
    pub(super) variables: Vec<(String, String)>,
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Local,
    Dynamic,
    Both,
    Variable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    Read,
    Own,
    Unused,
    Idle,
    Told,
    Silent,
    Program,
}

impl Key {
    pub(super) fn segments(&self) -> Vec<&str> {
        self.path.split('.').collect()
    }

    /// `map` with what else is written, and then with the key too.
    pub(super) fn written_to(&self, map: &Map) -> (Map, Map) {
        let mut without = map.clone();
        without.patch(&self.beside);
        let mut with = without.clone();
        set(&mut with, &self.segments(), &self.value);
        (without, with)
    }
}

/// Writes `value` at the path; a number in it is a place in a list of one.
pub(crate) fn set(map: &mut Map, path: &[&str], value: &Value) {
    match path {
        [] => {}
        [last] => {
            map.insert(*last, value.clone());
        }
        [key, first, rest @ ..] if first.parse::<usize>().is_ok() => {
            let mut item = Map::new();
            set(&mut item, rest, value);
            map.insert(*key, Value::from(vec![Value::from(item)]));
        }
        [key, rest @ ..] => {
            let mut inner = map.get(key).and_then(Value::as_map).cloned().unwrap_or_default();
            set(&mut inner, rest, value);
            map.insert(*key, inner);
        }
    }
}

/// The list.
pub(super) fn keys() -> Vec<Key> {
    let lines = include_str!("list.txt").lines();
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .flat_map(line)
        .collect()
}

fn line(line: &str) -> Vec<Key> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let cell = |n: usize| cells.get(n).copied().unwrap_or_default();
    let (side, claim) = cell(0).split_once(' ').unwrap();
    let claim = claim_of(claim);
    assert!(
        cells.len() <= 5 && (claim == Claim::Read || !cell(4).is_empty()),
        "a reason is needed: {line}"
    );
    let (text, beside) = cell(2).split_once(" & ").unwrap_or((cell(2), "{}"));
    let parsed = |text: &str| yaml::parse("list.txt", text).unwrap_or_else(|why| panic!("{line}: {why}"));
    let paths = alternatives(cell(1));
    let variables = variables(cell(3), text, paths.len());
    let key = |(path, variables): (String, Vec<(String, String)>)| Key {
        side: side_of(side),
        claim,
        path,
        value: parsed(text),
        text: text.to_owned(),
        beside: parsed(beside).as_map().unwrap().clone(),
        variables,
        reason: cell(4).to_owned(),
    };
    paths.into_iter().zip(variables).map(key).collect()
}

fn side_of(word: &str) -> Side {
    match word {
        "local" => Side::Local,
        "dynamic" => Side::Dynamic,
        "both" => Side::Both,
        "variable" => Side::Variable,
        _ => panic!("no side: {word}"),
    }
}

fn claim_of(word: &str) -> Claim {
    match word {
        "read" => Claim::Read,
        "own" => Claim::Own,
        "unused" => Claim::Unused,
        "idle" => Claim::Idle,
        "told" => Claim::Told,
        "silent" => Claim::Silent,
        "program" => Claim::Program,
        _ => panic!("no claim: {word}"),
    }
}

/// The variables for each of `count` keys.
fn variables(cell: &str, text: &str, count: usize) -> Vec<Vec<(String, String)>> {
    let mut each = vec![Vec::new(); count];
    for variable in cell.split(" & ").filter(|variable| !variable.is_empty()) {
        let (names, text) = variable.split_once('=').unwrap_or((variable, text));
        let names = alternatives(names);
        assert!(names.len() == 1 || names.len() == count, "{cell}");
        for (n, variables) in each.iter_mut().enumerate() {
            let name = names.get(n).unwrap_or(&names[0]);
            variables.push((name.clone(), text.to_owned()));
        }
    }
    each
}

/// `a{b,c}d` stands for `abd` and `acd`.
fn alternatives(text: &str) -> Vec<String> {
    let Some((head, rest)) = text.split_once('{') else {
        return once(text.to_owned()).collect();
    };
    let (inner, tail) = rest.split_once('}').unwrap();
    inner
        .split(',')
        .map(|word| format!("{head}{word}{tail}"))
        .collect()
}
