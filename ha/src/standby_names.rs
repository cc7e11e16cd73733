//! `synchronous_standby_names`: which standbys a commit waits for (PostgreSQL manual, section "Synchronous
//! Replication"). Read as PostgreSQL's own parser does, written as Patroni does.

use std::collections::BTreeSet;
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use crate::pg::MemberName;

/// Stands in the setting where strict mode has nobody to name: no member may have this name, so commits wait.
pub const NOBODY: &str = "__patroni_strict_sync_replica_placeholder__";

/// How the standbys to wait for are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub enum Method {
    /// The first ones of the list.
    #[default]
    First,
    /// Any of the list.
    Any,
}

/// A value of `synchronous_standby_names`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct StandbyNames {
    /// How they are chosen.
    pub method: Method,
    /// How many of them a commit waits for; 0 with no names.
    pub number: usize,
    /// The names. `*` means any standby at all.
    pub names: BTreeSet<MemberName>,
}

impl StandbyNames {
    /// All of `names`, by priority.
    #[must_use]
    pub fn all(names: BTreeSet<MemberName>) -> Self {
        Self {
            method: Method::First,
            number: names.len(),
            names,
        }
    }

    /// Any `number` of `names`, and not more than there are.
    #[must_use]
    pub fn any(number: usize, names: BTreeSet<MemberName>) -> Self {
        Self {
            method: Method::Any,
            number: number.min(names.len()),
            names,
        }
    }

    /// Nobody can be waited for, and every commit waits.
    #[must_use]
    pub fn nobody() -> Self {
        Self::all(BTreeSet::from([NOBODY.into()]))
    }

    /// No commit waits.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.names.is_empty()
    }

    /// How many of `members` may lack a commit that was acknowledged under this setting.
    #[must_use]
    pub fn may_lack(&self, members: &BTreeSet<MemberName>) -> usize {
        if self.names.iter().any(|name| name.0 == "*") {
            return members.len();
        }
        let named = members.intersection(&self.names).count();
        let spared = self.names.len().saturating_sub(self.number);
        members.len() - named + named.min(spared)
    }

    /// What may be in force while some processes of the server have read this setting and others still `before`. With
    /// `ANY` the one that releases a commit may take its number from the one and the standbys from both.
    #[must_use]
    pub fn mixed_with(&self, before: &Self) -> Self {
        let names: BTreeSet<MemberName> = self.names.union(&before.names).cloned().collect();
        Self::any(self.number.min(before.number), names)
    }

    /// Reads the setting's text. `None` when PostgreSQL would not take it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let tokens = tokens(text)?;
        if tokens.is_empty() {
            return Some(Self::default());
        }
        let is_word =
            |token: &Token, word: &str| matches!(token, Token::Word(text) if text.eq_ignore_ascii_case(word));
        let (method, rest) = match tokens.as_slice() {
            [word, number @ Token::Number(_), Token::Open, ..] if is_word(word, "any") => (
                Method::Any,
                &tokens[tokens.iter().position(|token| token == number)?..],
            ),
            [word, number @ Token::Number(_), Token::Open, ..] if is_word(word, "first") => (
                Method::First,
                &tokens[tokens.iter().position(|token| token == number)?..],
            ),
            _ => (Method::First, tokens.as_slice()),
        };
        let (number, list) = match rest {
            [Token::Number(number), Token::Open, list @ .., Token::Close] => (number.parse().ok()?, list),
            list => (1, list),
        };
        if number == 0 {
            return None;
        }
        Some(Self {
            method,
            number,
            names: names(list)?,
        })
    }
}

/// Names separated by commas.
fn names(tokens: &[Token]) -> Option<BTreeSet<MemberName>> {
    let mut names = BTreeSet::new();
    for (place, token) in tokens.iter().enumerate() {
        match token {
            Token::Word(name) | Token::Quoted(name) | Token::Number(name) if place % 2 == 0 => {
                names.insert(MemberName(name.clone()));
            }
            Token::Comma if place % 2 == 1 => {}
            Token::Word(_)
            | Token::Quoted(_)
            | Token::Number(_)
            | Token::Comma
            | Token::Open
            | Token::Close => return None,
        }
    }
    (tokens.len() % 2 == 1).then_some(names)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Number(String),
    Comma,
    Open,
    Close,
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.peek().copied() {
        if is_inner(letter) && !letter.is_ascii_digit() && letter != '$' {
            tokens.push(Token::Word(take_while(&mut letters, is_inner)));
            continue;
        }
        if letter.is_ascii_digit() {
            tokens.push(Token::Number(take_while(&mut letters, |letter| {
                letter.is_ascii_digit()
            })));
            continue;
        }
        letters.next();
        tokens.push(match letter {
            ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C' => continue,
            '"' => Token::Quoted(quoted(&mut letters)?),
            '*' => Token::Word("*".to_owned()),
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            _ => return None,
        });
    }
    Some(tokens)
}

fn is_inner(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$') || !letter.is_ascii()
}

fn take_while(letters: &mut Peekable<Chars<'_>>, belongs: impl Fn(char) -> bool) -> String {
    let mut taken = String::new();
    while let Some(letter) = letters.next_if(|letter| belongs(*letter)) {
        taken.push(letter);
    }
    taken
}

/// Up to the closing quote; two of them stand for one.
fn quoted(letters: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut name = String::new();
    loop {
        match letters.next()? {
            '"' if letters.next_if_eq(&'"').is_some() => name.push('"'),
            '"' => return Some(name),
            letter => name.push(letter),
        }
    }
}

/// A name as it stands in the setting: quoted unless it is a plain identifier and no keyword.
fn written(name: &str) -> String {
    let is_plain = name.bytes().enumerate().all(|(place, b)| {
        b.is_ascii_alphabetic() || b == b'_' || (place > 0 && (b.is_ascii_digit() || b == b'$'))
    });
    let is_keyword = name.eq_ignore_ascii_case("any") || name.eq_ignore_ascii_case("first");
    if name == "*" || (is_plain && !is_keyword && !name.is_empty()) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl fmt::Display for StandbyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.names.iter().map(|name| written(name.as_str())).collect();
        let list = list.join(",");
        match (self.method, self.names.len()) {
            (_, 0) => Ok(()),
            (Method::First, 1) if self.number == 1 => f.write_str(&list),
            (Method::First, _) => write!(f, "{} ({list})", self.number),
            (Method::Any, _) => write!(f, "ANY {} ({list})", self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(names: &[&str]) -> BTreeSet<MemberName> {
        names.iter().map(|name| MemberName::from(*name)).collect()
    }

    #[test]
    fn the_setting_is_written_as_patroni_writes_it() {
        for (names, text) in [
            (StandbyNames::default(), ""),
            (StandbyNames::all(set(&["postgres-1"])), "\"postgres-1\""),
            (StandbyNames::all(set(&["b", "a"])), "2 (a,b)"),
            (
                StandbyNames::any(1, set(&["postgres-2", "postgres-0"])),
                "ANY 1 (\"postgres-0\",\"postgres-2\")",
            ),
            (StandbyNames::any(1, set(&["a"])), "ANY 1 (a)"),
            (StandbyNames::all(set(&["First"])), "\"First\""),
            (StandbyNames::all(set(&["1a"])), "\"1a\""),
            (StandbyNames::all(set(&["x\"y"])), "\"x\"\"y\""),
            (StandbyNames::nobody(), NOBODY),
        ] {
            assert_eq!(names.to_string(), text);
            assert_eq!(StandbyNames::parse(text), Some(names), "{text}");
        }
    }

    #[test]
    fn what_others_wrote_is_read_as_postgresql_reads_it() {
        let first = |number, names: &[&str]| StandbyNames {
            method: Method::First,
            number,
            names: set(names),
        };
        for (text, read) in [
            ("*", Some(first(1, &["*"]))),
            (" a , \"b c\",d$1", Some(first(1, &["a", "b c", "d$1"]))),
            ("FIRST 2 (a,b,c)", Some(first(2, &["a", "b", "c"]))),
            ("first", Some(first(1, &["first"]))),
            ("any 2 (2, a)", Some(StandbyNames::any(2, set(&["2", "a"])))),
            ("a b", None),
            ("a,", None),
            ("2 (a", None),
            ("2 ()", None),
            ("0 (a)", None),
            ("\"a", None),
            ("a;b", None),
        ] {
            assert_eq!(StandbyNames::parse(text), read, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(names in prop::collection::btree_set("\\PC{1,10}", 1..4), any: bool) {
            let names = names.into_iter().filter(|name| name != "*").map(MemberName).collect::<BTreeSet<_>>();
            let written = if any { StandbyNames::any(1, names) } else { StandbyNames::all(names) };
            if !written.is_off() {
                prop_assert_eq!(StandbyNames::parse(&written.to_string()), Some(written));
            }
        }
    }
}
