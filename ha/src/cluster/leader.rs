//! The key `leader`: a plain member name, bound to a lease.

use serde::{Deserialize, Serialize};

use super::Version;
use crate::pg::MemberName;

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
