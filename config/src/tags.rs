//! A member's tags: the built-in ones with their meaning, and any others. Patroni documentation: dynamic and local
//! configuration, "Tags".

use crate::value::Map;

/// The tags of one member, in the order and with the YAML types in which they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tags(pub(crate) Map);
