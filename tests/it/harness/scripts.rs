//! Scripts that a member is configured with: callbacks that leave a trace, an archive that members share.

use super::cluster::Cluster;
use super::member::Member;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Appends its last three arguments as one line to the file that is its first one.
const CALLBACK: &str = r#"#!/bin/bash
log=$1
shift $(($# - 3))
echo "$*" >>"$log"
"#;

/// `archive FROM TO`: nothing that is there is overwritten, and nobody sees half a segment.
const ARCHIVE: &str = r#"#!/bin/bash
[ ! -e "$2" ] || cmp -s "$1" "$2" || exit 1
cp "$1" "$2.part.$$" && mv "$2.part.$$" "$2"
"#;

impl Cluster {
    /// An executable file below the cluster's directory; its path.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.write(name, text);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        path
    }

    /// Has every member note the callbacks that are called: [`Member::callbacks`]. Before its agent is started.
    pub fn note_callbacks(&self) {
        let script = self.script("callback", CALLBACK);
        for member in &self.members {
            let log = member.callback_log();
            let line = |action: &str| format!("    {action}: {} {}\n", script.display(), log.display());
            let actions = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];
            let lines: String = actions.into_iter().map(line).collect();
            member.edit_config(
                "\n  basebackup:\n",
                &format!("\n  callbacks:\n{lines}  basebackup:\n"),
            );
        }
    }

    /// Has every member archive to one folder and restore from there; gives the folder. Before the cluster is made.
    pub fn share_archive(&self) -> PathBuf {
        let script = self.script("archive", ARCHIVE);
        let folder = self.directory.make("archived");
        let (script, place) = (script.display(), folder.display());
        for member in &self.members {
            member.edit_config(
                "\n        wal_log_hints: on\n",
                &format!(
                    "\n        wal_log_hints: on\n        archive_mode: on\n        \
                     archive_command: {script} %p {place}/%f\n        \
                     restore_command: cp {place}/%f %p\n"
                ),
            );
        }
        folder
    }
}

impl Member {
    fn callback_log(&self) -> PathBuf {
        self.home().join("callbacks.log")
    }

    /// The callbacks that were called: `<action> <role> <scope>` each.
    pub fn callbacks(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.callback_log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
