//! Tables as people and scripts read them: an ASCII grid whose top rule carries the title, tab-separated values, JSON
//! and YAML, to the letter as patronictl prints them.

use std::borrow::Cow;

use config::escape;
use serde::Serialize;
use serde_json::{Map, Value, ser::Formatter};
use unicode_width::UnicodeWidthStr;

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// An ASCII grid.
    Pretty,
    /// An ASCII grid with members as a tree.
    Topology,
    /// A header and rows, separated by tabs.
    Tsv,
    /// One line with an array of objects.
    Json,
    /// A list of mappings in block style.
    Yaml,
}

impl Format {
    /// Reads the value of `--format`.
    pub(crate) fn parse(word: &str) -> Result<Self, String> {
        match word {
            "pretty" => Ok(Self::Pretty),
            "tsv" => Ok(Self::Tsv),
            "json" => Ok(Self::Json),
            "yaml" | "yml" => Ok(Self::Yaml),
            other => Err(format!(
                "'{other}' is not one of 'pretty', 'tsv', 'json', 'yaml', 'yml'."
            )),
        }
    }

    /// Whether it is a grid for people.
    pub(crate) fn is_grid(self) -> bool {
        matches!(self, Self::Pretty | Self::Topology)
    }
}

/// On which side of its column a cell stands; in grids only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// One column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) title: Cow<'static, str>,
    pub(crate) align: Align,
}

impl Column {
    /// A column whose title is known only when the program runs.
    pub(crate) fn named(title: String) -> Self {
        Self {
            title: Cow::Owned(title),
            align: Align::Left,
        }
    }

    pub(crate) fn left(title: &'static str) -> Self {
        Self {
            title: Cow::Borrowed(title),
            align: Align::Left,
        }
    }

    pub(crate) fn right(title: &'static str) -> Self {
        Self {
            title: Cow::Borrowed(title),
            align: Align::Right,
        }
    }
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    /// A text in one line, whatever stands in it, for who reads it as text. It may be empty.
    Text(String),
    /// A text of several lines.
    Lines(String),
    /// A whole number.
    Number(u64),
    /// A mapping: nested in JSON and YAML, in one line of YAML in tab-separated values and the topology, in lines of
    /// YAML in the grid.
    Mapping(Map<String, Value>),
    /// Any other value: itself in JSON and YAML, and what Python calls it elsewhere.
    Json(Value),
}

impl Cell {
    pub(crate) fn empty() -> Self {
        Self::Text(String::new())
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) | Self::Lines(text) if text.is_empty())
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) | Self::Lines(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::Mapping(map) => Value::Object(map.clone()),
            Self::Json(value) => value.clone(),
        }
    }

    /// The cell in one line.
    pub(crate) fn to_plain_text(&self) -> String {
        self.to_text(Format::Tsv)
    }

    fn to_text(&self, format: Format) -> String {
        match self {
            Self::Text(text) => escape::line(text).into_owned(),
            Self::Lines(text) => escape::lines(text).into_owned(),
            Self::Number(number) => number.to_string(),
            Self::Mapping(map) => {
                let value = config::Value::from(&Value::Object(map.clone()));
                let yaml = if format == Format::Pretty {
                    config::yaml::dump(&value)
                } else {
                    config::yaml::dump_flow(&value)
                };
                yaml.trim().to_owned()
            }
            Self::Json(Value::Null) => "None".to_owned(),
            Self::Json(Value::Bool(true)) => "True".to_owned(),
            Self::Json(Value::Bool(false)) => "False".to_owned(),
            Self::Json(value) => value.to_string(),
        }
    }
}

/// A table, to be printed in one of the formats.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// What stands in the top rule of a grid.
    pub(crate) title: Option<String>,
    pub(crate) columns: Vec<Column>,
    /// Every row has as many cells as there are columns.
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Whether JSON and YAML leave out empty cells.
    pub(crate) omits_empty_cells: bool,
    /// Whether a grid shows the beginning of long cells only: anybody who writes to the DCS can make them long.
    pub(crate) cuts_long_cells: bool,
}

/// What a grid shows of a cell.
const LINES_MAX: usize = 50;
const LINE_CHARS_MAX: usize = 200;

/// The first lines of a text, and the beginning of each.
fn beginning(text: &str) -> String {
    let is_short = text.len() <= LINE_CHARS_MAX;
    if is_short && text.lines().count() <= LINES_MAX {
        return text.to_owned();
    }
    let cut = |line: &str| match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = text.lines().take(LINES_MAX).map(cut).collect();
    let rest = text.lines().skip(LINES_MAX).count();
    if rest > 0 {
        lines.push(format!("… ({rest} lines more)"));
    }
    lines.join("\n")
}

impl Table {
    /// The table as a text that ends with a line end.
    pub(crate) fn render(&self, format: Format) -> String {
        match format {
            Format::Pretty | Format::Topology => self.grid(format),
            Format::Tsv => {
                let titles = self.columns.iter().map(|column| column.title.to_string());
                separated(&titles.collect::<Vec<_>>(), &self.texts(format), "\t")
            }
            Format::Json => python_json(&self.objects()) + "\n",
            // The empty line at the end is patronictl's.
            Format::Yaml => config::yaml::dump(&config::Value::from(&self.objects())) + "\n",
        }
    }

    fn texts(&self, format: Format) -> Vec<Vec<String>> {
        self.rows
            .iter()
            .map(|row| row.iter().map(|cell| cell.to_text(format)).collect())
            .collect()
    }

    fn objects(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            self.columns
                .iter()
                .zip(row)
                .filter(|(_, cell)| !(self.omits_empty_cells && cell.is_empty()))
                .map(|(column, cell)| (column.title.to_string(), cell.to_json()))
                .collect()
        };
        Value::Array(self.rows.iter().map(object).map(Value::Object).collect())
    }

    fn grid(&self, format: Format) -> String {
        let mut rows = self.texts(format);
        if self.cuts_long_cells {
            rows.iter_mut().flatten().for_each(|cell| *cell = beginning(cell));
        }
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let cells = rows.iter().filter_map(|row| row.get(index));
                let lines = cells.flat_map(|cell| cell.lines()).map(UnicodeWidthStr::width);
                lines.chain([column.title.width()]).max().unwrap_or(0)
            })
            .collect();
        let rule: String = widths
            .iter()
            .map(|width| format!("+{}", "-".repeat(width + 2)))
            .chain(["+".to_owned()])
            .collect();
        let titles: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.title.to_string())
            .collect();
        let has_line_breaks = rows.iter().flatten().any(|cell| cell.contains('\n'));
        let mut grid = titled(&rule, self.title.as_deref().unwrap_or_default());
        self.push_row(&mut grid, &titles, &widths);
        push_line(&mut grid, &rule);
        for (index, row) in rows.iter().enumerate() {
            if has_line_breaks && index > 0 {
                push_line(&mut grid, &rule);
            }
            self.push_row(&mut grid, row, &widths);
        }
        push_line(&mut grid, &rule);
        grid
    }

    fn push_row(&self, grid: &mut String, row: &[String], widths: &[usize]) {
        let cells: Vec<Vec<&str>> = row.iter().map(|cell| cell.split('\n').collect()).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        for line in 0..height {
            for ((cell, column), width) in cells.iter().zip(&self.columns).zip(widths) {
                let text = cell.get(line).copied().unwrap_or_default();
                let space = " ".repeat(width.saturating_sub(text.width()));
                match column.align {
                    Align::Left => grid.push_str(&format!("| {text}{space} ")),
                    Align::Right => grid.push_str(&format!("| {space}{text} ")),
                }
            }
            grid.push_str("|\n");
        }
    }
}

/// The header, unless it is empty, and the rows, with `delimiter` between the cells.
pub(crate) fn separated(header: &[String], rows: &[Vec<String>], delimiter: &str) -> String {
    let mut text = String::new();
    if !header.is_empty() {
        push_line(&mut text, &header.join(delimiter));
    }
    for row in rows {
        push_line(&mut text, &row.join(delimiter));
    }
    text
}

/// The rule with the title in place of its beginning after the first `+`; the title is cut so that the last `+` stays.
fn titled(rule: &str, title: &str) -> String {
    let title: String = escape::line(title)
        .chars()
        .take(rule.len().saturating_sub(2))
        .collect();
    let rest: String = rule.chars().skip(1 + title.chars().count()).collect();
    format!("+{title}{rest}\n")
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// A value as Python's `json.dumps` writes it: blanks after colons and commas, ASCII only.
pub(crate) fn python_json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter);
    // Writing a JSON tree into memory cannot fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8_lossy(&bytes).into_owned()
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        let mut units = [0; 2];
        for c in fragment.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                write!(writer, "{c}")?;
                continue;
            }
            for unit in c.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn long_cells_show_their_beginning() {
        assert_eq!(beginning("a\nb"), "a\nb");
        assert_eq!(beginning(&"ä".repeat(300)), format!("{}…", "ä".repeat(200)));
        let many = "a: b\n".repeat(120_000);
        let shown = beginning(&many);
        assert_eq!(shown.lines().count(), 51);
        assert!(shown.ends_with("… (119950 lines more)"), "{shown}");
    }

    fn check(format: Format, rows: &[[&str; 2]], expected: &Expect) {
        let table = Table {
            title: Some(" Title ".to_owned()),
            columns: vec![Column::left("Name"), Column::right("N")],
            rows: rows
                .iter()
                .map(|[name, number]| {
                    let number = number.parse().map_or(Cell::empty(), Cell::Number);
                    vec![Cell::Lines((*name).to_owned()), number]
                })
                .collect(),
            omits_empty_cells: true,
            cuts_long_cells: false,
        };
        expected.assert_eq(&table.render(format));
    }

    #[test]
    fn the_title_replaces_the_beginning_of_the_top_rule() {
        check(
            Format::Pretty,
            &[["a", "1"], ["größe", "10"]],
            &expect![[r#"
            + Title +----+
            | Name  |  N |
            +-------+----+
            | a     |  1 |
            | größe | 10 |
            +-------+----+
        "#]],
        );
    }

    #[test]
    fn a_long_title_is_cut() {
        check(
            Format::Pretty,
            &[],
            &expect![[r#"
            + Title ---+
            | Name | N |
            +------+---+
            +------+---+
        "#]],
        );
    }

    #[test]
    fn a_line_break_separates_all_rows_by_rules() {
        check(
            Format::Pretty,
            &[["a\nb", "1"], ["c", "2"]],
            &expect![[r#"
            + Title ---+
            | Name | N |
            +------+---+
            | a    | 1 |
            | b    |   |
            +------+---+
            | c    | 2 |
            +------+---+
        "#]],
        );
    }

    #[test]
    fn machines_get_plain_values() {
        let rows = [["a", "1"], ["é\n\"𝄞", ""]];
        check(
            Format::Tsv,
            &rows,
            &expect![[r#"
            Name	N
            a	1
            é
            "𝄞	
        "#]],
        );
        check(
            Format::Json,
            &rows,
            &expect![[r#"
            [{"Name": "a", "N": 1}, {"Name": "\u00e9\n\"\ud834\udd1e"}]
        "#]],
        );
        check(
            Format::Yaml,
            &rows,
            &expect![[r#"
            - N: 1
              Name: a
            - Name: 'é

                "𝄞'

        "#]],
        );
    }
}
