//! The one table of settings: what may be written where, of which type, with which default, and what a change needs.
//! Patroni documentation: YAML configuration settings, dynamic configuration settings.

mod check;
pub mod schema;
mod table;

pub use check::nearest;
pub(crate) use check::{GUARD_MODES, file_mode, unknown_in, word};
pub use check::{check_bootstrap, check_dynamic, check_local};
pub use table::{DYNAMIC, LOCAL};

/// One setting, or one family of settings (`*` in the path stands for any key).
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Dotted path.
    pub path: &'static str,
    /// What may be written.
    pub expected: Expected,
    /// The default, as it would be written; empty = none.
    pub default: &'static str,
    /// What a change of it needs.
    pub change: Change,
    /// Whether Patroni lacks it. Such a setting of the local side has a variable `TAMADA_*`.
    pub is_own: bool,
}

impl Setting {
    /// The environment variable of a setting that Patroni lacks: `TAMADA_GUARD_MODE` of `guard.mode`.
    #[must_use]
    pub fn own_variable(&self) -> Option<String> {
        self.is_own
            .then(|| format!("TAMADA_{}", self.path.replace('.', "_").to_ascii_uppercase()))
    }
}

/// What a change of a setting needs to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A reload (SIGHUP, `POST /reload`, or at once for the dynamic configuration).
    Reload,
    /// A restart of the agent.
    Restart,
    /// It is read when the cluster is initialised, and never again.
    Bootstrap,
}

/// The type of a setting. Null is allowed everywhere and means "not written".
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// `on` or `off` in PostgreSQL's forms.
    Bool,
    /// A whole number within the range (both ends included).
    Int(i64, i64),
    /// As `Int`, with a unit of time or memory; the second text is the base unit.
    Quantity(i64, i64, &'static str),
    /// A text, or a number taken as its text.
    Text,
    /// A text that no message may show.
    Secret,
    /// One of these words, in any case; the first may be `on` or `off` and then booleans fit too.
    Word(&'static [&'static str]),
    /// `host:port`.
    Address,
    /// A list of texts, or one text with commas.
    Texts,
    /// A list of lines.
    Lines,
    /// Command-line options: a list of texts and pairs, or a mapping.
    Options,
    /// A mapping of texts, numbers and booleans.
    Scalars,
    /// A mapping of anything.
    Mapping,
    /// A mapping with rows of its own.
    Section(&'static [Setting]),
    /// A mapping of names to sections that all have these rows. What is no section there is not looked into.
    Named(&'static [Setting]),
    /// A list of sections that all have these rows. What is no section there is not looked into.
    Sections(&'static [Setting]),
    /// Anything at all.
    Anything,
}
