//! What an exchange with one server may come to, and what that means for the call.

use super::wire::{Malformed, code};

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// There was no connection: nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// The server closed the connection before it had said anything: it is not in touch with a quorum, or does not know what was seen
    /// elsewhere already. Nothing was sent.
    #[error(
        "the server closed the connection: it has no quorum, is behind, or has too many connections from here (maxClientCnxns)"
    )]
    TurnedAway,
    /// The session has ended. What was asked for on it was not done.
    #[error("the session has expired")]
    Expired,
    /// The session goes on at another connection. What was asked for on this one was not done.
    #[error("the session has moved to another connection")]
    Moved,
    /// The connection broke: the request may have been carried out.
    #[error("{0}")]
    Lost(String),
    /// The server cannot do it just now; it may have been done.
    #[error("{}", code::words(*.0))]
    Later(i32),
    /// The server refuses. Nothing was done.
    #[error("{0}")]
    Refused(String),
    /// An earlier attempt may have done it, and nothing tells.
    #[error("an attempt without an answer may have written it")]
    Unknown,
    /// Another store answers than before, and its keys were not read yet.
    #[error(
        "another store answers than before, and was not read yet: ZooKeeper was wiped or restored, or is another one"
    )]
    Replaced,
    /// User or password is wrong, or a file of the configuration cannot be used.
    #[error("{0}")]
    Fatal(String),
}

impl Fault {
    /// An error that the caller has no use for.
    pub(super) fn of_code(found: i32) -> Self {
        match found {
            code::SESSION_EXPIRED => Self::Expired,
            code::SESSION_MOVED => Self::Moved,
            code::CONNECTION_LOSS | code::OPERATION_TIMEOUT | code::THROTTLED => Self::Later(found),
            code::AUTH_FAILED => Self::Fatal(code::words(found)),
            code::SASL_REQUIRED => {
                Self::Refused("the servers ask for SASL: set auth_data.sasl to user:password".to_owned())
            }
            code::NO_AUTH => Self::Refused(format!(
                "{}: look at the ACLs of the znodes, and at auth_data and the client certificate",
                code::words(found)
            )),
            other => Self::Refused(code::words(other)),
        }
    }

    /// Whether the request may have been carried out.
    pub(super) fn is_maybe_applied(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Later(_) | Self::Unknown => true,
            Self::NotSent(_)
            | Self::TurnedAway
            | Self::Expired
            | Self::Moved
            | Self::Replaced
            | Self::Refused(_)
            | Self::Fatal(_) => false,
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Lost(malformed.to_string())
    }
}
