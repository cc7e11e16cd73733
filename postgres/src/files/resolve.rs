//! The one name of a directory: absolute, without symbolic links, `.`, `..`, doubled slashes or one at its end.
//!
//! A directory is renamed, and names are made from its own (`data.former`). With any other name of it a rename would fail,
//! move the link, or end up in the directory itself.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// As many symbolic links as the kernel follows.
const LINKS_MAX: u32 = 40;

/// The canonical path, also of a directory that does not exist yet, or whose symbolic link leads to one that does not. What
/// cannot be looked at stays as it is written.
#[must_use]
pub fn canonical(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut links = 0;
    follow(&absolute, &mut links).unwrap_or(absolute)
}

/// `None` with too many links.
fn follow(path: &Path, links: &mut u32) -> Option<PathBuf> {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            other => {
                resolved.push(other);
                if let Ok(target) = fs::read_link(&resolved) {
                    *links += 1;
                    if *links > LINKS_MAX {
                        return None;
                    }
                    resolved.pop();
                    resolved = follow(&resolved.join(target), links)?;
                }
            }
        }
    }
    Some(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_names_of_a_directory_are_one() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("disk/pg")).unwrap();
        fs::create_dir(root.join("x")).unwrap();
        symlink("disk", root.join("parent")).unwrap();
        symlink(root.join("disk/pg/data"), root.join("x/link")).unwrap();
        symlink("../x/link", root.join("x/link_to_link")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let data = root.join("disk/pg/data");
        let names = [
            "disk/pg/data",
            "disk/pg/data/",
            "disk/pg/data//",
            "disk/pg/data/.",
            "disk/pg/./data/./",
            "disk//pg//data",
            "disk/pg/../pg/data",
            "parent/pg/data",
            "parent/../parent/pg/data/",
            "x/link",
            "x/link/",
            "x/link/.",
            "x/link_to_link",
            "x/link_to_link//",
        ];
        let name = |name: &str| PathBuf::from(format!("{}/{name}", root.display()));
        for exists in [false, true, false] {
            if exists {
                fs::create_dir(&data).unwrap();
            } else {
                let _ = fs::remove_dir(&data);
            }
            for text in names {
                assert_eq!(canonical(&name(text)), data, "{text}, exists: {exists}");
            }
        }
        assert_eq!(canonical(&name("loop")), root.join("loop"));
        assert_eq!(canonical(&name("none/of/it/")), root.join("none/of/it"));
    }
}
