//! A Rust file, taken apart far enough for the checks: code without the contents of literals, comments, and which lines
//! are tests. No full parser: it knows literals, comments and brackets.

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the workspace's root, with `/`.
    pub(crate) path: String,
    pub(crate) lines: Vec<Line>,
}

/// One line of a file.
#[derive(Debug, Default, Clone)]
pub(crate) struct Line {
    /// What the compiler sees, with strings and characters emptied (`""`, `''`).
    pub(crate) code: String,
    /// The text of comments, documentation included, with its slashes.
    pub(crate) comment: String,
    /// The strings that begin on this line, without quotes, as the source writes them.
    pub(crate) strings: Vec<String>,
    /// Part of an item under `#[cfg(test)]`, or of a file of tests.
    pub(crate) is_test: bool,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut lines = Lexer::new(text).lines();
        let whole_file = is_test_file(path) || lines.iter().any(|line| line.code.contains("#![cfg(test)]"));
        if whole_file {
            lines.iter_mut().for_each(|line| line.is_test = true);
        } else {
            mark_test_items(&mut lines);
        }
        Self {
            path: path.to_owned(),
            lines,
        }
    }

    /// `path:line`, with the line counted from zero as in `lines`.
    pub(crate) fn place(&self, index: usize) -> String {
        format!("{}:{}", self.path, index + 1)
    }
}

/// The index of the line on which the block or the declaration ends that begins on line `start` at byte `column`:
/// the matching `}`, or a `;` before any `{`.
pub(super) fn end_of_item(lines: &[Line], start: usize, column: usize) -> Option<usize> {
    let mut braces = 0_usize;
    let mut others = 0_usize;
    for (index, line) in lines.iter().enumerate().skip(start) {
        let code = if index == start {
            line.code.get(column..)?
        } else {
            &line.code
        };
        for character in code.chars() {
            match character {
                '(' | '[' => others += 1,
                ')' | ']' => others = others.saturating_sub(1),
                '{' => braces += 1,
                '}' => {
                    braces = braces.saturating_sub(1);
                    if braces == 0 {
                        return Some(index);
                    }
                }
                // The `;` of `[u8; 4]` stands between brackets and ends nothing.
                ';' if braces == 0 && others == 0 => return Some(index),
                _ => {}
            }
        }
    }
    None
}

fn is_test_file(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    let stem = parts
        .pop()
        .and_then(|name| name.strip_suffix(".rs"))
        .unwrap_or_default();
    stem == "tests" || stem.ends_with("_tests") || parts.contains(&"tests")
}

fn mark_test_items(lines: &mut [Line]) {
    let mut index = 0;
    while let Some(line) = lines.get(index) {
        let code = line.code.trim_start();
        let attribute = ["#[cfg(test)]", "#[cfg(all(test"]
            .iter()
            .find(|attribute| code.starts_with(**attribute));
        let mut next = index + 1;
        if attribute.is_some() {
            // Brackets balance within the attribute, so that counting may begin at its start.
            if let Some(end) = end_of_item(lines, index, 0) {
                for line in lines.iter_mut().take(end + 1).skip(index) {
                    line.is_test = true;
                }
                next = end + 1;
            }
        }
        index = next;
    }
}

/// Splits text into code and comments.
struct Lexer<'a> {
    rest: &'a str,
    /// The character before `rest`, to tell `r"` from the end of an identifier.
    before: Option<char>,
    lines: Vec<Line>,
    current: Line,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            before: None,
            lines: Vec::new(),
            current: Line::default(),
        }
    }

    fn lines(mut self) -> Vec<Line> {
        while !self.rest.is_empty() {
            if self.rest.starts_with("//") {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.comment(end);
            } else if self.rest.starts_with("/*") {
                let end = block_comment_length(self.rest);
                self.comment(end);
            } else if let Some((opening, length)) = literal(self.rest, self.before) {
                self.literal(opening, length);
            } else {
                self.code();
            }
        }
        self.lines.push(std::mem::take(&mut self.current));
        if self
            .lines
            .last()
            .is_some_and(|line| line.code.is_empty() && line.comment.is_empty())
        {
            self.lines.pop();
        }
        self.lines
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.before = taken.chars().next_back().or(self.before);
        taken
    }

    fn new_line(&mut self) {
        self.lines.push(std::mem::take(&mut self.current));
    }

    fn code(&mut self) {
        let length = self.rest.chars().next().map_or(0, char::len_utf8);
        match self.take(length) {
            "\n" => self.new_line(),
            character => self.current.code.push_str(character),
        }
    }

    fn comment(&mut self, length: usize) {
        for (index, part) in self.take(length).split('\n').enumerate() {
            if index > 0 {
                self.new_line();
            }
            self.current.comment.push_str(part);
        }
    }

    fn literal(&mut self, quote: char, length: usize) {
        let literal = self.take(length);
        let line_breaks = literal.matches('\n').count();
        self.current.code.push(quote);
        if quote == '"' {
            let inside = literal.split_once('"').map_or("", |(_, rest)| rest);
            let inside = inside.trim_end_matches('#').trim_end_matches('"');
            self.current.strings.push(inside.to_owned());
        }
        for _ in 0..line_breaks {
            self.new_line();
        }
        self.current.code.push(quote);
    }
}

/// The length of the comment at the start of `text`; block comments nest.
fn block_comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut position = 0;
    while let Some(rest) = text.get(position..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            position += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return position;
            }
        } else {
            position += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The quote and the length of the string or character at the start of `text`, if there is one.
fn literal(text: &str, before: Option<char>) -> Option<(char, usize)> {
    let inside_identifier = before.is_some_and(|character| character.is_alphanumeric() || character == '_');
    let prefix = text
        .find(|character: char| !matches!(character, 'b' | 'c' | 'r'))
        .unwrap_or(text.len());
    let prefix = if inside_identifier { 0 } else { prefix.min(2) };
    let (letters, rest) = text.split_at(prefix);
    if letters.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let body = rest.get(hashes..)?.strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = body
            .find(&end)
            .map_or(body.len(), |position| position + end.len());
        return Some(('"', prefix + hashes + 1 + length));
    }
    if let Some(body) = rest.strip_prefix('"') {
        return Some(('"', prefix + 1 + closing(body, '"')));
    }
    let body = rest.strip_prefix('\'')?;
    // A lifetime has no closing quote after its first character.
    let mut characters = body.chars();
    let first = characters.next()?;
    (first == '\\' || characters.next() == Some('\'')).then(|| ('\'', prefix + 1 + closing(body, '\'')))
}

/// The length of `body` up to and with the closing quote.
fn closing(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (position, character) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return position + 1;
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        Source::parse("a/src/lib.rs", text)
            .lines
            .into_iter()
            .map(|line| line.code)
            .collect()
    }

    #[test]
    fn literals_are_emptied() {
        assert_eq!(code(r#"let a = "x // {";"#), [r#"let a = "";"#]);
        assert_eq!(
            code(r##"let a = r#"x " { "# + b"\"}" + c"}";"##),
            [r#"let a = "" + "" + "";"#]
        );
        assert_eq!(
            code("let a = ['{', '\\'', b'}', '\\u{7b}'];"),
            ["let a = ['', '', '', ''];"]
        );
        assert_eq!(
            code("let a = \"one\n{ two\";\nlet b;"),
            ["let a = \"", "\";", "let b;"]
        );
    }

    #[test]
    fn lifetimes_and_identifiers_are_code() {
        assert_eq!(
            code("fn f<'a>(bar: &'a str) -> &'a str { bar }"),
            ["fn f<'a>(bar: &'a str) -> &'a str { bar }"]
        );
        assert_eq!(
            code("for r in var { r#type(\"\") }"),
            ["for r in var { r#type(\"\") }"]
        );
    }

    #[test]
    fn comments_are_apart() {
        let source = Source::parse("a/src/lib.rs", "a(); // one\n/* two /* three */\nfour */ b();\n");
        let comments: Vec<&str> = source.lines.iter().map(|line| line.comment.as_str()).collect();
        let code: Vec<&str> = source.lines.iter().map(|line| line.code.trim()).collect();
        assert_eq!(comments, ["// one", "/* two /* three */", "four */"]);
        assert_eq!(code, ["a();", "", "b();"]);
    }

    #[test]
    fn test_items_are_marked() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}\n";
        let marked = |path: &str| -> Vec<bool> {
            Source::parse(path, text)
                .lines
                .iter()
                .map(|line| line.is_test)
                .collect()
        };
        assert_eq!(
            marked("a/src/lib.rs"),
            [false, true, true, true, true, false, true, true, false]
        );
        assert_eq!(marked("a/tests/it/main.rs"), [true; 9]);
        assert_eq!(marked("a/src/yaml/tests.rs"), [true; 9]);
    }

    #[test]
    fn the_end_of_an_item_is_its_brace_or_semicolon() {
        let lines = Source::parse(
            "a/src/lib.rs",
            "fn a(b: [u8; 4])\n{\n    if c { d(); }\n}\nfn e();\n",
        )
        .lines;
        assert_eq!(end_of_item(&lines, 0, 0), Some(3));
        assert_eq!(end_of_item(&lines, 4, 0), Some(4));
    }
}
