//! How a command ends when it does not end well.

/// What the user reads, and with it the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// `Error: <text>` on standard error, exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The input ended at a prompt, or the user pressed Ctrl-C: `Aborted!`, exit code 1.
    #[error("Aborted!")]
    Aborted,
    /// The user pressed Ctrl-C while the members did what they were asked, and will do it to the end; exit code 1.
    #[error("Aborted! {0}")]
    Interrupted(String),
    /// Nobody reads the output any more: silence, exit code 1.
    #[error("standard output is closed")]
    OutputClosed,
}

impl Error {
    /// The failure with that text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

impl From<dcs::Error> for Error {
    fn from(error: dcs::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}
