//! Everything that is wrong with a local configuration, at once.

use crate::local::LocalConfig;
use crate::problem::Problems;
use crate::value::Map;

/// All errors and warnings about the tree of a local configuration, in the order of the text.
#[must_use]
pub fn validate(tree: &Map) -> Problems {
    match LocalConfig::read(tree.clone()) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    }
}
