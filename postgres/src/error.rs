//! What can go wrong with the local server, sorted by what a caller can do about it.

use std::io;
use std::path::PathBuf;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an observation or an action failed. No variant ever holds a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The deadline passed. The action may go on in the server.
    #[error("{what} took longer than allowed")]
    Timeout {
        /// What was waited for.
        what: String,
    },
    /// A file or directory could not be read or written.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("could not run {program}: {source}; {}", whose.advice())]
    Spawn {
        /// The program.
        program: String,
        /// Whose it is.
        whose: Whose,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ran and reported failure.
    #[error("{program} failed ({status}){}", quoted(output))]
    Program {
        /// The program, without its arguments.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines that it printed.
        output: String,
    },
    /// The postmaster ended while it was starting.
    #[error("PostgreSQL ended while it was starting{}", quoted(log))]
    StartFailed {
        /// The last lines of the server's own log.
        log: String,
    },
    /// There is no postmaster.
    #[error("PostgreSQL is not running")]
    NotRunning,
    /// No connection to the server could be made.
    #[error("could not connect to PostgreSQL at {address}: {reason}")]
    Connect {
        /// Host and port, or the socket.
        address: String,
        /// Why it failed.
        reason: String,
    },
    /// The server refused or broke off a statement.
    #[error("{what} failed: {message}{}", sqlstate.as_deref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default())]
    Sql {
        /// What the statement was for.
        what: String,
        /// The server's words.
        message: String,
        /// The server's error code; `None` when the connection broke.
        sqlstate: Option<String>,
    },
    /// A program or a file said something that could not be understood.
    #[error("could not understand {what}: {reason}")]
    Parse {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting makes the action impossible.
    #[error("{0}")]
    Setting(String),
    /// The action needs a state that the server is not in.
    #[error("{0}")]
    Unsuitable(String),
    /// The action was cancelled.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was cancelled.
        what: String,
    },
}

impl Error {
    pub(crate) fn timeout(what: impl Into<String>) -> Self {
        Self::Timeout { what: what.into() }
    }

    pub(crate) fn parse(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Parse {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// For `map_err` on file operations.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// The statement ran into `statement_timeout` (SQLSTATE 57014): the server lives, it is only slow.
    #[must_use]
    pub fn is_statement_timeout(&self) -> bool {
        matches!(self, Self::Sql { sqlstate: Some(code), .. } if code == "57014")
    }

    /// The server ended because its data cannot be recovered or is of another history: another start would not help
    /// (PostgreSQL source, `xlogrecovery.c`).
    #[must_use]
    pub fn is_of_a_useless_copy(&self) -> bool {
        const MESSAGES: [&str; 6] = [
            "is not a child of this server's history",
            "does not contain minimum recovery point",
            "could not locate a valid checkpoint record",
            "could not locate required checkpoint record",
            "WAL ends before end of online backup",
            "WAL ends before consistent recovery point",
        ];
        matches!(self, Self::StartFailed { log } if MESSAGES.iter().any(|message| log.contains(message)))
    }

    /// The server's error code, if it was the server that refused.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Sql { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }
}

fn quoted(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(": {}", output.trim_end().replace('\n', " | "))
    }
}

/// Whose program it is that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// PostgreSQL's.
    PostgreSql,
    /// A command of the configuration.
    Configured,
}

impl Whose {
    fn advice(self) -> &'static str {
        match self {
            Self::PostgreSql => "check postgresql.bin_dir",
            Self::Configured => {
                "check that the file exists, that this user may execute it, and that the interpreter in its first line exists"
            }
        }
    }
}
