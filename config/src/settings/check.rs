//! Compares a tree with the table: a wrong type is an error, a key that is not in the table a warning.

use super::table::{DYNAMIC, LOCAL, LOCAL_ONLY, METHOD};
use super::{Expected, Setting};
use crate::endpoint::ListenAddress;
use crate::problem::{Problem, Problems, Severity};
use crate::read::section;
use crate::value::{Entry, Kind, Map, Value};

/// How many unknown settings are named. A document may have any number of them, and each costs a comparison with all known ones.
const UNKNOWN_NAMED: usize = 50;

/// Checks the local configuration. Everything that is wrong is reported at once.
#[must_use]
pub fn check_local(tree: &Map) -> Problems {
    let mut check = Check::new(LOCAL.iter().collect(), tree, Side::Local);
    check.map(tree, "", "");
    let mut problems = check.problems;
    if let Some(dcs) = tree
        .get("bootstrap")
        .and_then(|b| b.get("dcs"))
        .and_then(Value::as_map)
    {
        problems.0.extend(check_dynamic(dcs, "bootstrap.dcs.").0);
    }
    problems
}

/// Checks a dynamic configuration; `prefix` (`bootstrap.dcs.` or nothing) stands before the paths. All findings are
/// warnings: what makes no sense there is replaced by its default.
#[must_use]
pub fn check_dynamic(document: &Map, prefix: &str) -> Problems {
    let mut problems = findings(document, prefix);
    for problem in &mut problems.0 {
        problem.severity = Severity::Warning;
    }
    problems
}

/// Checks `bootstrap.dcs` as if it were a local setting: a wrong type is an error.
#[must_use]
pub fn check_bootstrap(tree: &Map) -> Problems {
    match section(section(tree, "bootstrap"), "dcs") {
        document if document.is_empty() => Problems::default(),
        document => findings(document, "bootstrap.dcs."),
    }
}

fn findings(document: &Map, prefix: &str) -> Problems {
    let mut check = Check::dynamic(document);
    check.map(document, "", prefix);
    check.problems
}

fn is_local_only(path: &str) -> bool {
    LOCAL_ONLY.iter().any(|local| {
        path.strip_prefix(local)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The keys of a dynamic configuration that nothing reads. Those of `postgresql` are left out: the finding about them
/// comes with the settings that it makes.
pub(crate) fn unknown_in(document: &Map) -> Problems {
    let mut check = Check::dynamic(document);
    check.map(document, "", "");
    let Check {
        unknown,
        mut problems,
        ..
    } = check;
    problems
        .0
        .retain(|problem| unknown.contains(&problem.path) && !problem.path.starts_with("postgresql."));
    problems
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Local,
    Dynamic,
}

struct Check<'a> {
    rows: Vec<&'a Setting>,
    root: &'a Map,
    side: Side,
    problems: Problems,
    /// Paths of keys that nothing reads.
    unknown: Vec<String>,
}

impl<'a> Check<'a> {
    fn new(rows: Vec<&'a Setting>, root: &'a Map, side: Side) -> Self {
        Self {
            rows,
            root,
            side,
            problems: Problems::default(),
            unknown: Vec::new(),
        }
    }

    fn dynamic(document: &'a Map) -> Self {
        let is_shared = |row: &&Setting| row.path.starts_with("postgresql.") && !is_local_only(row.path);
        let rows = DYNAMIC.iter().chain(LOCAL.iter().filter(is_shared)).collect();
        Self::new(rows, document, Side::Dynamic)
    }
}

impl Check<'_> {
    /// `table_path` ends with a dot unless empty; `shown` is what stands before it in messages.
    fn map(&mut self, map: &Map, table_path: &str, shown: &str) {
        for entry in map.entries() {
            let path = format!("{table_path}{}", entry.key);
            let wildcard = format!("{table_path}*");
            let row = self.rows.iter().find(|row| row.path == path);
            let row = row
                .or_else(|| self.rows.iter().find(|row| row.path == wildcard))
                .copied();
            let is_section = self
                .rows
                .iter()
                .any(|row| row.path.strip_prefix(&path).is_some_and(|p| p.starts_with('.')));
            if let Some(row) = row {
                self.value(&entry.value, row.expected, &format!("{shown}{path}"));
            } else if is_section {
                self.section(&entry.value, &path, shown);
            } else if !self.is_method(&path, entry) {
                self.note_unknown(entry, table_path, shown);
            }
        }
    }

    fn note_unknown(&mut self, entry: &Entry, table_path: &str, shown: &str) {
        let path = format!("{shown}{table_path}{}", entry.key);
        match self.unknown.len() {
            few if few < UNKNOWN_NAMED => {
                let problem = self.unknown(entry, table_path, shown);
                self.problems.push(problem);
            }
            UNKNOWN_NAMED => {
                let message = "unknown setting, ignored, and so are others that are not named here";
                let position = entry.key_position.as_ref();
                self.problems.push(Problem::warning(&path, position, message));
            }
            _ => {}
        }
        self.unknown.push(path);
    }

    fn section(&mut self, value: &Value, path: &str, shown: &str) {
        match &value.kind {
            Kind::Map(map) => self.map(map, &format!("{path}."), shown),
            Kind::Null => {}
            _ if path == "guard" && word(value, GUARD_MODES).is_some() => {
                self.warn(value, "is read as guard.mode: write guard: {mode: ...}", "guard");
            }
            _ if !value.is_truthy() && path != "guard" => self.unset(value, &format!("{shown}{path}")),
            _ => self.wrong(value, "a mapping", &format!("{shown}{path}")),
        }
    }

    /// Sections of methods have names of the user's choice.
    fn is_method(&mut self, path: &str, entry: &Entry) -> bool {
        let (Some((section, name)), Some(map)) = (path.split_once('.'), entry.value.as_map()) else {
            return false;
        };
        if !matches!(section, "postgresql" | "bootstrap") {
            return false;
        }
        let is_named = [
            "bootstrap.method",
            "postgresql.create_replica_methods",
            "postgresql.create_replica_method",
            "standby_cluster.create_replica_methods",
            "bootstrap.dcs.postgresql.create_replica_methods",
            "bootstrap.dcs.standby_cluster.create_replica_methods",
        ]
        .iter()
        .any(|path| names_in(self.root, path).iter().any(|named| named == name));
        if !is_named && !map.contains_key("command") {
            return false;
        }
        self.rows_of(METHOD, map, path);
        true
    }

    fn rows_of(&mut self, rows: &'static [Setting], map: &Map, path: &str) {
        let mut check = Check::new(rows.iter().collect(), map, self.side);
        check.map(map, "", &format!("{path}."));
        self.problems.0.append(&mut check.problems.0);
        self.unknown.append(&mut check.unknown);
    }

    fn unknown(&self, entry: &Entry, table_path: &str, shown: &str) -> Problem {
        let key = &entry.key;
        let path = format!("{table_path}{key}");
        let message = if self.side == Side::Local
            && table_path.is_empty()
            && DYNAMIC.iter().any(|row| first(row.path) == key)
        {
            "has no effect here: it belongs to the dynamic configuration (edit-config, or bootstrap.dcs of a new cluster)"
                .to_owned()
        } else if self.side == Side::Local && path == "postgresql.use_slots" {
            "has no effect here: it belongs to the dynamic configuration (edit-config)".to_owned()
        } else if self.side == Side::Dynamic && is_local_only(&path) {
            "has no effect here: it belongs to the file of each member".to_owned()
        } else {
            let siblings = self
                .rows
                .iter()
                .filter_map(|row| row.path.strip_prefix(table_path))
                .map(first);
            match nearest(key, siblings) {
                Some(near) => format!("unknown setting, ignored: did you mean {near}?"),
                None => "unknown setting, ignored".to_owned(),
            }
        };
        Problem::warning(&format!("{shown}{path}"), entry.key_position.as_ref(), message)
    }

    fn wrong(&mut self, value: &Value, expected: &str, path: &str) {
        let found = if self.is_near_secret(path) || value.python_text().contains('@') {
            value.describe_kind().to_owned()
        } else {
            value.describe()
        };
        let message = format!("expected {expected}, found {found}");
        self.problems
            .push(Problem::error(path, value.position.as_ref(), message));
    }

    /// A text may have got a wrong key or a wrong indentation, and be the secret of its neighbour.
    fn is_near_secret(&self, path: &str) -> bool {
        let parent = |path: &str| path.rsplit_once('.').map_or("", |(parent, _)| parent).to_owned();
        let (own, above) = (parent(path), format!("{path}."));
        let is_secret = |row: &&Setting| matches!(row.expected, Expected::Secret | Expected::Section(_));
        let secrets = || self.rows.iter().copied().chain(LOCAL).filter(is_secret);
        path.contains("authentication")
            || secrets().any(|row| {
                let is_beside =
                    matches!(row.expected, Expected::Secret) && !own.is_empty() && parent(row.path) == own;
                row.path == path || is_beside || row.path.starts_with(&above)
            })
    }

    fn warn(&mut self, value: &Value, message: impl Into<String>, path: &str) {
        self.problems
            .push(Problem::warning(path, value.position.as_ref(), message));
    }

    /// What Python takes for false where something else is expected counts as not written, as with Patroni.
    fn unset(&mut self, value: &Value, path: &str) {
        let found = match &value.kind {
            Kind::Bool(_) => "false (a text such as no or off needs quotes)",
            Kind::String(_) => "an empty text",
            Kind::List(_) => "an empty list",
            Kind::Map(_) => "an empty mapping",
            Kind::Null | Kind::Int(_) | Kind::Float(_) => "0",
        };
        self.warn(value, format!("found {found}: read as not set"), path);
    }

    /// What Patroni understands although it is of another type; it is warned about where that may be a mistake. `true`: so
    /// it is.
    fn is_understood(&mut self, value: &Value, expected: Expected, path: &str) -> bool {
        if value.is_truthy() || matches!(value.kind, Kind::Int(_) | Kind::Float(_)) {
            return self.is_read_otherwise(value, expected, path);
        }
        let is_empty_one = match expected {
            Expected::Anything
            | Expected::Int(..)
            | Expected::Quantity(..)
            | Expected::Secret
            | Expected::Bool => {
                return self.is_read_otherwise(value, expected, path);
            }
            Expected::Word(words) if words.contains(&"off") => return false,
            Expected::Word(_) => false,
            Expected::Text | Expected::Address => matches!(value.kind, Kind::String(_)),
            Expected::Texts | Expected::Lines | Expected::Sections(_) => {
                matches!(value.kind, Kind::String(_) | Kind::List(_))
            }
            Expected::Options => !matches!(value.kind, Kind::Bool(_)),
            Expected::Scalars | Expected::Mapping | Expected::Section(_) | Expected::Named(_) => {
                matches!(value.kind, Kind::Map(_))
            }
        };
        if !is_empty_one {
            self.unset(value, path);
        }
        true
    }

    fn is_read_otherwise(&mut self, value: &Value, expected: Expected, path: &str) -> bool {
        let found = value.describe_kind();
        // Those of the dynamic configuration are read with the default in their place, and say so.
        let is_dynamic =
            self.side == Side::Dynamic && (!path.contains("postgresql.") || path.ends_with("use_slots"));
        // Nobody's data is removed, and nobody trusted, for a misspelt word.
        let is_dangerous = path.contains("remove_data_directory")
            || [".insecure", ".verify", ".use_ssl"]
                .iter()
                .any(|key| path.ends_with(key));
        let is_loose = !is_dynamic && !is_dangerous;
        let message = match expected {
            Expected::Bool if value.to_bool().is_none() && is_loose => {
                let read = if value.is_truthy() { "on" } else { "off" };
                format!("expected on or off, found {found}: read as {read}, as Patroni does")
            }
            Expected::Int(..) if path.starts_with("tags.") && value.to_int(None).is_none() => {
                format!("expected a whole number, found {found}: read as not set, as Patroni does")
            }
            Expected::Int(..) if path == "log.mode" => match file_mode(value) {
                Some((mode, true)) => {
                    format!("is read as the permissions 0{mode:o}: write it with a leading 0")
                }
                _ => return false,
            },
            Expected::Texts if path.contains("create_replica_method") && value.as_map().is_some() => {
                "expected a list, found a mapping: its keys are read, as Patroni does".to_owned()
            }
            _ => return false,
        };
        self.warn(value, message, path);
        true
    }

    fn value(&mut self, value: &Value, expected: Expected, path: &str) {
        if value.is_null() || self.is_understood(value, expected, path) {
            return;
        }
        match expected {
            Expected::Anything => {}
            Expected::Bool if value.to_bool().is_some() => {}
            Expected::Bool => self.wrong(value, "on or off", path),
            Expected::Int(min, max) => self.int(value, (min, max), None, path),
            Expected::Quantity(min, max, unit) => self.int(value, (min, max), Some(unit), path),
            Expected::Text => self.text(value, path),
            Expected::Secret if is_text(value) && !value.is_respelled => {}
            Expected::Secret => {
                let message = "expected a text: put the value in quotes, as YAML reads another one than what is \
                               written (it is not shown here)";
                self.problems
                    .push(Problem::error(path, value.position.as_ref(), message));
            }
            Expected::Word(words) => {
                if word(value, words).is_none() {
                    self.wrong(value, &format!("one of {}", words.join(", ")), path);
                }
            }
            Expected::Address => match value.as_str().map(|text| ListenAddress::parse(text, Some(0))) {
                None if is_text(value) => {}
                None => self.wrong(value, "host:port", path),
                Some(Ok(_)) => {}
                Some(Err(why)) => {
                    self.problems
                        .push(Problem::error(path, value.position.as_ref(), why.to_string()))
                }
            },
            Expected::Texts | Expected::Lines => self.texts(value, matches!(expected, Expected::Texts), path),
            Expected::Options => self.options(value, path),
            Expected::Scalars => self.scalars(value, path),
            Expected::Mapping if value.as_map().is_some() => {}
            Expected::Mapping => self.wrong(value, "a mapping", path),
            Expected::Section(rows) => match value.as_map() {
                Some(map) => self.rows_of(rows, map, path),
                None => self.wrong(value, "a mapping", path),
            },
            Expected::Named(rows) => match value.as_map() {
                Some(map) => self.sections(rows, map.iter(), path),
                None => self.wrong(value, "a mapping", path),
            },
            Expected::Sections(rows) => {
                for (n, item) in value.as_list().into_iter().flatten().enumerate() {
                    self.sections(rows, [(n.to_string().as_str(), item)].into_iter(), path);
                }
            }
        }
    }

    fn scalars(&mut self, value: &Value, path: &str) {
        let Some(map) = value.as_map() else {
            return self.wrong(value, "a mapping", path);
        };
        for (name, item) in map.iter().filter(|(_, item)| item.guc_text().is_none()) {
            self.wrong(item, "a text, a number or a boolean", &format!("{path}.{name}"));
        }
    }

    fn sections<'a>(
        &mut self,
        rows: &'static [Setting],
        sections: impl Iterator<Item = (&'a str, &'a Value)>,
        path: &str,
    ) {
        for (name, section) in sections {
            if let Some(map) = section.as_map() {
                self.rows_of(rows, map, &format!("{path}.{name}"));
            }
        }
    }

    fn int(&mut self, value: &Value, (min, max): (i64, i64), unit: Option<&str>, path: &str) {
        if value.to_int(unit).is_none_or(|n| !(min..=max).contains(&n)) {
            let upper = if max >= i64::from(i32::MAX) {
                "up".to_owned()
            } else {
                format!("to {max}")
            };
            let unit = unit.map_or_else(String::new, |unit| format!(" (in {unit}, or with a unit)"));
            self.wrong(value, &format!("a whole number from {min} {upper}{unit}"), path);
        }
    }

    fn text(&mut self, value: &Value, path: &str) {
        if let Kind::Bool(_) = value.kind {
            self.wrong(
                value,
                "a text (YAML reads words like on, off, yes and no as booleans: put it in quotes)",
                path,
            );
        } else if !is_text(value) {
            self.wrong(value, "a text", path);
        } else if value.is_respelled && !self.is_near_secret(path) {
            let message = format!(
                "is read as the text {}: put it in quotes if that is not meant",
                value.python_text()
            );
            self.warn(value, message, path);
        }
    }

    fn texts(&mut self, value: &Value, one_is_enough: bool, path: &str) {
        match &value.kind {
            Kind::List(list) => {
                for (n, item) in list.iter().enumerate() {
                    if !is_text(item) && !item.is_null() {
                        self.wrong(item, "a text", &format!("{path}.{n}"));
                    }
                }
            }
            _ if one_is_enough && is_text(value) => {}
            Kind::String(text) if text.is_empty() => {}
            _ => self.wrong(value, "a list of texts", path),
        }
    }

    fn options(&mut self, value: &Value, path: &str) {
        match &value.kind {
            Kind::Map(_) => {}
            Kind::List(list) => {
                for (n, item) in list.iter().enumerate() {
                    let is_pair = item.as_map().is_some_and(|map| map.len() == 1);
                    if !is_pair && !is_text(item) {
                        let expected = "an option: `name` or one pair `name: value`";
                        self.wrong(item, expected, &format!("{path}.{n}"));
                    }
                }
            }
            Kind::String(text) if text.is_empty() => {}
            _ => self.wrong(value, "a list or mapping of options", path),
        }
    }
}

/// The permissions of a file, and whether they were written as decimal digits that mean octal ones: 644.
pub(crate) fn file_mode(value: &Value) -> Option<(u32, bool)> {
    let number = u32::try_from(value.to_int(None)?).ok()?;
    if number <= 0o777 {
        return Some((number, false));
    }
    let mode = u32::from_str_radix(&number.to_string(), 8).ok()?;
    (mode <= 0o777).then_some((mode, true))
}

/// What `guard.mode` may be.
pub(crate) const GUARD_MODES: &[&str] = &["on", "off", "required"];

/// Numbers count as their text.
fn is_text(value: &Value) -> bool {
    matches!(value.kind, Kind::String(_) | Kind::Int(_) | Kind::Float(_))
}

/// Which of `words` this is; `on` and `off` may be written as booleans too.
pub(crate) fn word(value: &Value, words: &[&'static str]) -> Option<&'static str> {
    let find = |text: &str| words.iter().copied().find(|word| word.eq_ignore_ascii_case(text));
    match &value.kind {
        Kind::String(text) => find(text).or_else(|| find(if value.to_bool()? { "on" } else { "off" })),
        Kind::Bool(_) | Kind::Int(_) => find(if value.to_bool()? { "on" } else { "off" }),
        Kind::Null | Kind::Float(_) | Kind::List(_) | Kind::Map(_) => None,
    }
}

fn names_in(root: &Map, path: &str) -> Vec<String> {
    let mut keys = path.split('.');
    let value = keys.next().and_then(|key| root.get(key));
    let value = keys.try_fold(value, |value, key| Some(value?.get(key))).flatten();
    value.map(crate::read::texts).unwrap_or_default()
}

fn first(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// The known key that differs least, if it differs little.
#[must_use]
pub fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (key.chars().count() / 3).max(1);
    let is_as_long = |known: &&str| known.chars().count().abs_diff(key.chars().count()) <= limit;
    known
        .filter(|known| *known != "*")
        .filter(is_as_long)
        .map(|known| (distance(key, known), known))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (above + 1).min(row[j] + 1).min(diagonal + usize::from(a != *b));
            diagonal = above;
        }
    }
    row[b.len()]
}
