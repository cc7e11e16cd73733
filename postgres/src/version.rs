//! PostgreSQL's version numbers.

use std::fmt;

/// A version as `server_version_num` has it: `16.4` is 160004, `9.6.3` is 90603.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The first release of a major version.
    #[must_use]
    pub const fn major_release(major: u32) -> Self {
        Self(major * 10_000)
    }

    /// The major version; 9 for all 9.x.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Whether it is of this major version or a later one.
    #[must_use]
    pub const fn is_at_least(self, major: u32) -> bool {
        self.major() >= major
    }

    /// Reads what `postgres --version` and PG_VERSION say: `postgres (PostgreSQL) 16.4 (Debian 16.4-1)`, `18beta1`, `15`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let word = text
            .split_once("(PostgreSQL)")
            .map_or(text, |(_, rest)| rest)
            .split_whitespace()
            .next()?;
        let end = word
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(word.len());
        let mut parts = word[..end].split('.').map(|part| part.parse::<u32>().ok());
        let first = parts.next()??;
        let second = parts.next().flatten().unwrap_or(0);
        if first >= 10 {
            return Some(Self(first * 10_000 + second));
        }
        Some(Self(
            first * 10_000 + second * 100 + parts.next().flatten().unwrap_or(0),
        ))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.major() >= 10 {
            write!(f, "{}.{}", self.major(), self.0 % 10_000)
        } else {
            write!(f, "{}.{}.{}", self.major(), self.0 / 100 % 100, self.0 % 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_programs_and_files() {
        for (text, number) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", 150_018),
            ("postgres (PostgreSQL) 18beta1", 180_000),
            ("postgres (PostgreSQL) 17devel", 170_000),
            ("15\n", 150_000),
            ("9.6\n", 90_600),
            ("postgres (PostgreSQL) 9.6.24", 90_624),
        ] {
            assert_eq!(ServerVersion::parse(text), Some(ServerVersion(number)), "{text}");
        }
        assert_eq!(ServerVersion::parse("nonsense"), None);
        assert_eq!(ServerVersion(160_004).to_string(), "16.4");
    }
}
