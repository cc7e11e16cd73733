//! How far a copy is. What the kernel has counted for the program that makes it and for its children is asked only when
//! somebody wants to know, and costs nothing else (proc(5), `/proc/<pid>/io`).

use crate::server::locked;
use crate::{Instant, Server};
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A copy that is being made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copying {
    since: Instant,
    /// The process group of the program that makes it.
    pub(crate) group: Option<u32>,
    /// How large the source's databases are.
    pub(crate) total: Option<u64>,
}

/// The copy that is being made, if one is.
pub(crate) type CopyingCell = Arc<Mutex<Option<Copying>>>;

/// So many bytes tell how fast a copy is.
const ENOUGH: u64 = 8 << 20;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloneProgress {
    /// How much has been written, WAL included.
    pub bytes: u64,
    /// How large the source's databases are, if it has said so. The copy may become a little larger.
    pub total_bytes: Option<u64>,
    /// How long it has taken until now.
    pub elapsed: Duration,
}

impl CloneProgress {
    /// How much has been written in a second, on the average.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        let millis = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX);
        self.bytes.saturating_mul(1000) / millis.max(1)
    }

    /// How much longer it will take at that rate; `None` as long as that is not known.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let total = self.total_bytes?;
        // The source makes a checkpoint first: what the rate has been until then says nothing.
        if self.bytes < total.min(ENOUGH) {
            return None;
        }
        let left = total.saturating_sub(self.bytes);
        let seconds = left.checked_div(self.bytes_per_second())?;
        Some(Duration::from_secs(seconds))
    }
}

/// Shows a copy for as long as it is made.
pub(crate) struct Shown(CopyingCell);

impl Shown {
    pub(crate) fn new(cell: &CopyingCell) -> Self {
        *locked(cell) = Some(Copying {
            since: Instant::now(),
            group: None,
            total: None,
        });
        Self(Arc::clone(cell))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        *locked(&self.0) = None;
    }
}

impl Server {
    /// How far the copy is that is being made; `None` when none is.
    #[must_use]
    pub fn clone_progress(&self) -> Option<CloneProgress> {
        let copying = (*locked(&self.shared.copying))?;
        Some(CloneProgress {
            bytes: copying.group.map_or(0, bytes_written),
            total_bytes: copying.total,
            elapsed: copying.since.elapsed(),
        })
    }

    /// Remembers something of the copy that is being made, if one is.
    pub(crate) fn note_copying(&self, note: impl FnOnce(&mut Copying)) {
        if let Some(copying) = locked(&self.shared.copying).as_mut() {
            note(copying);
        }
    }
}

/// What the processes of a group have written to files; those that have ended count with their parents.
fn bytes_written(group: u32) -> u64 {
    let of_group = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        fields
            .split_whitespace()
            .nth(2)
            .and_then(|field| field.parse().ok())
            == Some(group)
    };
    let written = |pid: u32| -> Option<u64> {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        io.lines()
            .find_map(|line| line.strip_prefix("wchar: "))?
            .trim()
            .parse()
            .ok()
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(of_group)
        .filter_map(written)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_follows_from_the_rate() {
        let progress = CloneProgress {
            bytes: 100 << 20,
            total_bytes: Some(400 << 20),
            elapsed: Duration::from_secs(10),
        };
        assert_eq!(progress.bytes_per_second(), 10 << 20);
        assert_eq!(progress.time_left(), Some(Duration::from_secs(30)));
        let unknown = CloneProgress {
            total_bytes: None,
            ..progress
        };
        assert_eq!(unknown.time_left(), None);
        // While the source makes its checkpoint a few files are all there is.
        for bytes in [0, 1, 4096, ENOUGH - 1] {
            let begun = CloneProgress { bytes, ..progress };
            assert_eq!(begun.time_left(), None, "{bytes}");
        }
        let small = CloneProgress {
            bytes: 1 << 20,
            total_bytes: Some(1 << 20),
            ..progress
        };
        assert_eq!(small.time_left(), Some(Duration::ZERO));
    }

    #[test]
    fn what_a_group_has_written_is_counted_with_its_children() {
        use std::io::{BufRead as _, BufReader};
        use std::os::unix::process::CommandExt as _;
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "head -c 100000 /dev/zero > {}/a; echo done; read x",
            dir.path().display()
        );
        let mut child = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let bytes = bytes_written(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((100_000..110_000).contains(&bytes), "{bytes}");
    }
}
