//! How many files and connections this process may have open. Most systems give a process 1,024 and permit it to ask for more.

use rustix::process::{Resource, getrlimit, setrlimit};

/// More than this program ever needs; a higher limit would only slow programs down that close all there could be.
const WANTED: u64 = 65_536;

/// What is assumed where nothing limits them.
const UNLIMITED: u64 = WANTED;

/// Raises the limit as far as that is permitted, up to [`WANTED`].
pub(crate) fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    let permitted = limit.maximum.unwrap_or(WANTED).min(WANTED);
    if limit.current.is_some_and(|current| current < permitted) {
        limit.current = Some(permitted);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!("cannot raise the limit of open files to {permitted}: {error}");
        }
    }
}

/// The limit in force.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)
}
