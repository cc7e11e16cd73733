//! What can go wrong with a DCS, made for the choices of the caller.

use std::fmt;

/// What was asked of which endpoint, and why it failed.
#[derive(Debug)]
pub struct Failure {
    /// What was to be done, as a verb with its object: `renew the leader key`.
    pub operation: &'static str,
    /// The endpoint, or the endpoints, that were asked.
    pub endpoint: String,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A DCS operation failed. A precondition that did not hold is not an error: the verbs say `false` or `None` for it.
///
/// `{}` names the operation and the endpoint; `{:#}` adds the chain of causes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint answered in time. A write may have been applied all the same: the state is unknown.
    #[error(fmt = unavailable)]
    Unavailable(#[source] Failure),
    /// The store answered and refused: permissions, a full disk, a malformed request. Trying again at once does not
    /// help; nothing was written.
    #[error(fmt = rejected)]
    Rejected(#[source] Failure),
    /// This member's key belongs to another agent of its name.
    #[error(fmt = name_taken)]
    NameTaken(#[source] Failure),
    /// The configuration cannot work: wrong credentials at the start, an unreadable certificate, a malformed address.
    #[error(fmt = fatal)]
    Fatal(#[source] Failure),
}

impl Error {
    /// Whether a write may have been applied although it failed.
    #[must_use]
    pub fn is_maybe_applied(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// What was asked, and of whom.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        match self {
            Self::Unavailable(failure)
            | Self::Rejected(failure)
            | Self::NameTaken(failure)
            | Self::Fatal(failure) => failure,
        }
    }
}

// The enum's own text already says everything that this link of the chain knows, so this says only the cause.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

fn unavailable(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Failure {
        operation, endpoint, ..
    } = failure;
    write!(f, "could not {operation}: no answer from the DCS at {endpoint}")?;
    chain(failure, f)
}

fn rejected(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Failure {
        operation, endpoint, ..
    } = failure;
    write!(f, "could not {operation}: refused by the DCS at {endpoint}")?;
    chain(failure, f)
}

fn name_taken(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Failure {
        operation, endpoint, ..
    } = failure;
    write!(f, "cannot {operation} in the DCS at {endpoint}")?;
    chain(failure, f)
}

fn fatal(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Failure {
        operation, endpoint, ..
    } = failure;
    write!(
        f,
        "could not {operation}: the configuration of the DCS at {endpoint} cannot work"
    )?;
    chain(failure, f)
}

fn chain(failure: &Failure, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !f.alternate() {
        return Ok(());
    }
    let mut cause: Option<&dyn std::error::Error> = Some(failure);
    while let Some(error) = cause {
        write!(f, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alternate_form_shows_the_chain() {
        let source = Box::new(std::io::Error::other("connection refused"));
        let endpoint = "http://10.0.0.1:2379".to_owned();
        let error = Error::Unavailable(Failure {
            operation: "read the cluster",
            endpoint,
            source,
        });
        let short = "could not read the cluster: no answer from the DCS at http://10.0.0.1:2379";
        assert_eq!(error.to_string(), short);
        assert_eq!(format!("{error:#}"), format!("{short}: connection refused"));
        assert!(error.is_maybe_applied());
    }
}
