//! The most that a configuration may hold: a file, the environment, the body of a request, the `/config` key. Every limit is far above
//! what a configuration needs, and keeps a broken or hostile one from filling the memory.

use crate::value::{Kind, Map, Value};

/// The most bytes of text, in one source and in all files together.
pub const TEXT_BYTES: usize = 1 << 20;

/// The most keys and list entries, at all depths.
pub const ENTRIES: usize = 10_000;

/// The most levels of mappings and lists in one another.
pub const DEPTH: usize = 64;

/// Checks the size of a text.
///
/// # Errors
/// How large the text is and may be.
pub fn check_text(bytes: usize) -> Result<(), String> {
    if bytes > TEXT_BYTES {
        return Err(format!("{bytes} bytes of text; at most {TEXT_BYTES} are allowed"));
    }
    Ok(())
}

/// Checks the entries and the depth of a mapping, without recursion.
///
/// # Errors
/// Which limit is exceeded.
pub fn check_entries(map: &Map) -> Result<(), String> {
    let mut entries = 0;
    let mut level: Vec<&Value> = map.iter().map(|(_, value)| value).collect();
    for _ in 0..DEPTH {
        entries += level.len();
        if entries > ENTRIES {
            return Err(format!("more than {ENTRIES} entries"));
        }
        level = level.into_iter().flat_map(children).collect();
    }
    if level.is_empty() {
        Ok(())
    } else {
        Err(format!("nested more than {DEPTH} levels deep"))
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match &value.kind {
        Kind::Map(map) => map.iter().map(|(_, value)| value).collect(),
        Kind::List(list) => list.iter().collect(),
        Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::String(_) => Vec::new(),
    }
}

/// What a part of a text adds to the tree. Each alias adds its anchor's part again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

impl Weight {
    pub(crate) const ENTRY: Self = Self { entries: 1, bytes: 0 };

    pub(crate) const fn of_text(text: &str) -> Self {
        Self {
            entries: 0,
            bytes: text.len(),
        }
    }

    /// What came since `before`.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            entries: self.entries - before.entries,
            bytes: self.bytes - before.bytes,
        }
    }

    /// Adds a part.
    ///
    /// # Errors
    /// Which limit the sum exceeds.
    pub(crate) fn add(&mut self, part: Self) -> Result<(), String> {
        self.entries = self.entries.saturating_add(part.entries);
        self.bytes = self.bytes.saturating_add(part.bytes);
        if self.entries > ENTRIES {
            return Err(format!("more than {ENTRIES} entries"));
        }
        if self.bytes > TEXT_BYTES {
            return Err(format!("more than {TEXT_BYTES} bytes of text"));
        }
        Ok(())
    }
}
