//! The key `leader`: a plain member name, bound to a lease.

use serde::{Deserialize, Serialize};

use super::{Heartbeat, Version};
use crate::pg::MemberName;

/// What [`Leader::session`] is where the key is bound to none.
const NO_SESSION: &str = "0";

/// Who holds the leader key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The key's revision.
    pub version: Version,
    /// The holder.
    pub name: MemberName,
    /// The lease or session the key is bound to, in the store's own form.
    pub session: String,
}

impl Leader {
    /// Whether nothing proves a lock: no session keeps the key, and its heartbeat is not of the member that it names. A hand has
    /// written it. In stores without sessions the key is its own heartbeat.
    #[must_use]
    pub fn is_unproved(&self, heartbeat: Option<&Heartbeat>) -> bool {
        self.session == NO_SESSION && heartbeat.is_none_or(|heartbeat| !heartbeat.is_of(self))
    }
}
