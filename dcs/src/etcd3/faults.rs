//! What an error of the etcd client means for the call that met it.

use std::error::Error as _;

use tonic::Code;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The connection is of no use: take another endpoint. The request may have been carried out.
    NextEndpoint,
    /// There was no connection: take another endpoint. The request was not sent.
    NotSent,
    /// The endpoint cannot serve just now, as without a leader: take another one, or the same again later. The
    /// request may have been carried out.
    Later,
    /// The token is missing, has run out, or knows an older state of the rights: authenticate and ask again.
    Authenticate,
    /// User or password is wrong.
    BadCredentials,
    /// Asking again does not help.
    Refused,
}

/// What etcd says when the token is at fault; also when a right was given only after the token was.
const AUTHENTICATE: [&str; 4] = [
    "etcdserver: user name is empty",
    "etcdserver: permission denied",
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
];

/// Judges an error.
pub(super) fn judge(error: &etcd_client::Error) -> Verdict {
    use etcd_client::Error as E;
    match error {
        E::GRpcStatus(status) => judge_status(status),
        E::TransportError(_) => Verdict::NotSent,
        E::IoError(_) | E::WatchError(_) | E::LeaseKeepAliveError(_) | E::ElectError(_) | E::Internal(_) => {
            Verdict::NextEndpoint
        }
        E::InvalidArgs(_)
        | E::InvalidUri(_)
        | E::Utf8Error(_)
        | E::InvalidMetadataValue(_)
        | E::EndpointError(_)
        | E::EndpointsNotManaged => Verdict::Refused,
    }
}

/// The lease of a request is gone.
pub(super) fn is_lease_gone(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.message() == "etcdserver: requested lease not found",
        // The client's own word for an answer without a remaining time.
        etcd_client::Error::LeaseKeepAliveError(text) => text == "lease not found",
        _ => false,
    }
}

/// The server knows no users, so no token is needed.
pub(super) fn is_authentication_off(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message() == "etcdserver: authentication is not enabled")
}

/// The error in few words: what the server said, or the innermost cause.
pub(super) fn words(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return error.to_string();
    };
    let mut words = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // The transport's own words repeat their cause or say nothing.
        if !words.contains(&text) && text != "transport error" {
            words = if words.is_empty() {
                text
            } else {
                format!("{words}: {text}")
            };
        }
        cause = error.source();
    }
    if words.is_empty() {
        status.code().to_string()
    } else {
        words
    }
}

fn judge_status(status: &tonic::Status) -> Verdict {
    let text = status.message();
    if AUTHENTICATE.contains(&text) {
        return Verdict::Authenticate;
    }
    if text == "etcdserver: authentication failed, invalid user ID or password" {
        return Verdict::BadCredentials;
    }
    if text == "etcdserver: mvcc: database space exceeded" {
        return Verdict::Refused;
    }
    if was_not_connected(status) {
        return Verdict::NotSent;
    }
    let is_from_server = text.starts_with("etcdserver: ") || text.starts_with("lease: ");
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::OutOfRange
        | Code::Unimplemented => Verdict::Refused,
        // A code that says nothing, or says that it may pass: `no leader`, `not a primary lessor`, `request timed
        // out`, `too many requests`.
        Code::Ok
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Cancelled => {
            if is_from_server {
                Verdict::Later
            } else {
                Verdict::NextEndpoint
            }
        }
    }
}

fn was_not_connected(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn statuses_are_told_apart() {
        let table = [
            (Status::unavailable("etcdserver: no leader"), Verdict::Later),
            (Status::unknown("lease: not a primary lessor"), Verdict::Later),
            (
                Status::unavailable("etcdserver: request timed out"),
                Verdict::Later,
            ),
            (
                Status::resource_exhausted("etcdserver: too many requests"),
                Verdict::Later,
            ),
            (Status::unavailable("transport is closing"), Verdict::NextEndpoint),
            (
                Status::unauthenticated("etcdserver: invalid auth token"),
                Verdict::Authenticate,
            ),
            (
                Status::permission_denied("etcdserver: permission denied"),
                Verdict::Authenticate,
            ),
            (
                Status::invalid_argument("etcdserver: user name is empty"),
                Verdict::Authenticate,
            ),
            (
                Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password"),
                Verdict::BadCredentials,
            ),
            (
                Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
                Verdict::Refused,
            ),
            (
                Status::invalid_argument("etcdserver: key is not provided"),
                Verdict::Refused,
            ),
        ];
        for (status, verdict) in table {
            let text = status.message().to_owned();
            assert_eq!(judge(&etcd_client::Error::GRpcStatus(status)), verdict, "{text}");
        }
        let gone = Status::not_found("etcdserver: requested lease not found");
        assert!(is_lease_gone(&etcd_client::Error::GRpcStatus(gone)));
    }
}
