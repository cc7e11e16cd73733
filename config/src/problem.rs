//! What is wrong with a configuration: where, under which path, and what to do.

use crate::value::Position;

/// Whether a [`Problem`] keeps the configuration from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is used; the person who wrote it should know.
    Warning,
    /// The configuration is refused.
    Error,
}

/// One finding. It prints as `FILE:LINE:COLUMN: PATH: MESSAGE`, without the parts that are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Warning or error.
    pub severity: Severity,
    /// Where in which source, if the value came from a text.
    pub position: Option<Position>,
    /// The dotted path of the setting; empty when the finding is about no single one.
    pub path: String,
    /// What is wrong, and what can be done; never with a secret value.
    pub message: String,
}

impl Problem {
    /// An error about the setting at `path`.
    #[must_use]
    pub fn error(path: &str, position: Option<&Position>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            position: position.cloned(),
            path: path.to_owned(),
            message: message.into(),
        }
    }

    /// A warning about the setting at `path`.
    #[must_use]
    pub fn warning(path: &str, position: Option<&Position>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(path, position, message)
        }
    }

    /// A warning with a fixed text, about no single setting. It prints as exactly that text.
    #[must_use]
    pub fn notice(message: impl Into<String>) -> Self {
        Self::warning("", None, message)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(position) = &self.position {
            write!(f, "{position}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Every finding about one configuration at once. As an error it prints one line per finding.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Whether one of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|p| p.severity == Severity::Error)
    }

    /// The errors only.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|p| p.severity == Severity::Error)
    }

    /// The warnings only.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|p| p.severity == Severity::Warning)
    }

    /// The findings in the order of the text; those without a position come last.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.0
            .sort_by(|a, b| (a.position.is_none(), &a.position).cmp(&(b.position.is_none(), &b.position)));
        self
    }

    /// Adds a finding.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}
