//! Logical slots of the leader, copied. PostgreSQL before version 17 makes none on a standby: what a slot is stands in one
//! file, `pg_replslot/NAME/state`, which says the same on every server with the same WAL.

use crate::connection::quote_literal;
use crate::files::{sync_directory, write_if_changed};
use crate::{Error, Instant, Result, Server, Source};
use ha::pg::{SlotName, Xid};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// A logical slot of another server: its name, and the content of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub name: SlotName,
    /// The content of `state`.
    pub state: Vec<u8>,
}

/// Where the slot's name stands in the file, in PostgreSQL up to 18: behind magic number, checksum, version and length
/// (`ReplicationSlotOnDisk` in `src/backend/replication/slot.c`).
const NAME_AT: usize = 16;
/// PostgreSQL's `NAMEDATALEN`.
const NAME_BYTES: usize = 64;
/// The file is far smaller.
const STATE_BYTES_MAX: usize = 64 * 1024;

impl SlotState {
    /// What comes from another server becomes a path here, and PostgreSQL takes the name in the file for one as well.
    fn check(&self) -> Result<()> {
        let name = self.name.0.as_bytes();
        // PostgreSQL manual, "Replication Slots": lower-case letters, numbers, and the underscore character.
        let is_letter = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if name.is_empty() || name.len() >= NAME_BYTES || !name.iter().all(is_letter) {
            let text = format!("{:?} is not the name of a replication slot", self.name.0);
            return Err(Error::Unsuitable(text));
        }
        let written = self.state.get(NAME_AT..NAME_AT + NAME_BYTES).unwrap_or_default();
        let written = written.split(|byte| *byte == 0).next().unwrap_or_default();
        if written != name || self.state.len() > STATE_BYTES_MAX {
            let text = format!(
                "the leader's state of slot {:?} is not that of a slot of this name",
                self.name.0
            );
            return Err(Error::Unsuitable(text));
        }
        Ok(())
    }
}

/// `catalog_xmin` of slots on the leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderHorizons {
    /// Of the physical slot.
    pub physical: Option<Xid>,
    /// Of the logical ones.
    pub logical: BTreeMap<SlotName, Xid>,
}

fn list(names: &[SlotName]) -> String {
    let names: Vec<String> = names.iter().map(|name| quote_literal(&name.0)).collect();
    names.join(", ")
}

impl Server {
    /// Reads what these logical slots of `leader` are, as the role for rewinding (which needs `EXECUTE` on
    /// `pg_read_binary_file(text)`) or the superuser. Those that are not there are left out.
    ///
    /// # Errors
    /// When the leader cannot be reached, or does not let us.
    pub async fn slot_states_of(
        &self,
        leader: &Source,
        names: &[SlotName],
        deadline: Instant,
    ) -> Result<Vec<SlotState>> {
        let role = self.rewind_role();
        let sql = format!(
            "SELECT slot_name, pg_catalog.encode(pg_catalog.pg_read_binary_file('pg_replslot/' || slot_name || '/state'), 'hex') \
             FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical' AND NOT temporary \
             AND confirmed_flush_lsn IS NOT NULL AND slot_name IN ({})",
            list(names)
        );
        let answer = self
            .psql(self.conninfo_to(leader, &role), &role, &sql, deadline)
            .await?;
        answer
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                let state = read_state(line)
                    .ok_or_else(|| Error::parse("a slot of the leader", "its state is not in hex"))?;
                if names.contains(&state.name) {
                    Ok(state)
                } else {
                    Err(Error::parse("a slot of the leader", "it was not asked for"))
                }
            })
            .collect()
    }

    /// Writes a logical slot of another server into the data directory of this one, which must not run.
    ///
    /// # Errors
    /// It runs, its name or content is none of a slot, or a file could not be written.
    pub fn write_slot_state(&self, slot: &SlotState) -> Result<()> {
        if let Some(postmaster) = self.postmaster()? {
            return Err(Error::Unsuitable(format!(
                "no slot can be written while PostgreSQL runs (process {})",
                postmaster.pid()
            )));
        }
        slot.check()?;
        let slots = self.data_dir().join("pg_replslot");
        let directory = slots.join(&slot.name.0);
        make_directory(&directory).map_err(Error::file("make the directory", &directory))?;
        let file = directory.join("state");
        write_if_changed(&file, &slot.state, 0o600)?;
        sync_directory(&slots).map_err(Error::file("write", slots))
    }

    /// Up to which transaction `leader` keeps catalog rows for its slot `physical` and for these logical ones.
    ///
    /// # Errors
    /// When the leader cannot be reached.
    pub async fn slot_horizons_of(
        &self,
        leader: &Source,
        physical: &SlotName,
        logical: &[SlotName],
        deadline: Instant,
    ) -> Result<LeaderHorizons> {
        let role = self.rewind_role();
        let names: Vec<SlotName> = logical.iter().chain([physical]).cloned().collect();
        let sql = format!(
            "SELECT slot_type, slot_name, catalog_xmin FROM pg_catalog.pg_replication_slots \
             WHERE NOT temporary AND catalog_xmin IS NOT NULL AND slot_name IN ({})",
            list(&names)
        );
        let answer = self
            .psql(self.conninfo_to(leader, &role), &role, &sql, deadline)
            .await?;
        Ok(read_horizons(&answer, physical))
    }
}

/// A directory of PostgreSQL's, as it makes them itself.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let parent = path.parent().map(fs::metadata).transpose()?;
    if let Some(parent) = parent {
        fs::set_permissions(path, Permissions::from_mode(parent.permissions().mode() & 0o777))?;
    }
    Ok(())
}

/// `name|hex`
fn read_state(line: &str) -> Option<SlotState> {
    let (name, hex) = line.trim().split_once('|')?;
    if hex.len() % 2 != 0 {
        return None;
    }
    let digits = hex.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    Some(SlotState {
        name: SlotName(name.to_owned()),
        state: bytes
            .collect::<Option<Vec<u8>>>()
            .filter(|state| !state.is_empty())?,
    })
}

/// `physical|name|xid` in each line.
fn read_horizons(answer: &str, physical: &SlotName) -> LeaderHorizons {
    let mut horizons = LeaderHorizons::default();
    for line in answer.lines() {
        let mut fields = line.trim().split('|');
        let (Some(kind), Some(name), Some(id)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Ok(id) = id.parse().map(Xid) else { continue };
        if kind == "logical" {
            horizons.logical.insert(SlotName(name.to_owned()), id);
        } else if name == physical.0 {
            horizons.physical = Some(id);
        }
    }
    horizons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_leader_are_read() {
        let state = read_state("feed|a1ca0501\n").unwrap();
        assert_eq!(
            (state.name.0.as_str(), state.state),
            ("feed", vec![0xA1, 0xCA, 5, 1])
        );
        for bad in ["feed|", "feed|a", "feed|zz", "feed"] {
            assert_eq!(read_state(bad), None, "{bad}");
        }
        let horizons = read_horizons("physical|b|740\nlogical|feed|741\n", &SlotName("b".to_owned()));
        assert_eq!(horizons.physical, Some(Xid(740)));
        assert_eq!(horizons.logical[&SlotName("feed".to_owned())], Xid(741));
    }

    #[test]
    fn the_name_of_a_slot_is_never_a_path() {
        let state = |name: &str, written: &str| {
            let mut state = vec![0; 200];
            state[NAME_AT..NAME_AT + written.len()].copy_from_slice(written.as_bytes());
            SlotState {
                name: SlotName(name.to_owned()),
                state,
            }
        };
        assert!(state("feed_1", "feed_1").check().is_ok());
        let long = "x".repeat(64);
        for name in [
            "",
            ".",
            "..",
            "../../../home",
            "/tmp/x",
            "a/b",
            "a b",
            "Feed",
            "größe",
            "a\0b",
            "a\nb",
            &long,
        ] {
            assert!(state(name, "").check().is_err(), "{name:?}");
            assert!(
                state("feed", name.get(..30).unwrap_or(name)).check().is_err(),
                "{name:?} in the file"
            );
        }
        let short = SlotState {
            name: SlotName("feed".to_owned()),
            state: vec![1; 20],
        };
        assert!(short.check().is_err());
    }
}
