//! `standby.signal` and `recovery.signal`: what a server does when it starts.

use super::{mode_for, remove, write_if_changed};
use crate::{RecoverySignal, Result};
use std::path::Path;

/// Makes a standby of a server.
pub const STANDBY: &str = "standby.signal";
/// Begins a targeted recovery.
pub const RECOVERY: &str = "recovery.signal";
/// Asks a standby to promote.
pub const PROMOTE: &str = "promote";

/// Which signal file there is; a standby's counts before the other, as in the server.
#[must_use]
pub fn read(data_dir: &Path) -> RecoverySignal {
    if data_dir.join(STANDBY).exists() {
        RecoverySignal::Standby
    } else if data_dir.join(RECOVERY).exists() {
        RecoverySignal::Recovery
    } else {
        RecoverySignal::None
    }
}

/// Leaves exactly this signal file.
///
/// # Errors
/// When a file cannot be written or removed.
pub fn write(data_dir: &Path, wanted: RecoverySignal) -> Result<()> {
    for (name, is_wanted) in [
        (STANDBY, wanted == RecoverySignal::Standby),
        (RECOVERY, wanted == RecoverySignal::Recovery),
    ] {
        let path = data_dir.join(name);
        if !is_wanted {
            remove(&path)?;
        } else if !path.exists() {
            write_if_changed(&path, "", mode_for(&path, data_dir))?;
        }
    }
    Ok(())
}
