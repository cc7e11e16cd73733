//! `patroni.dynamic.json` in the data directory: the dynamic configuration as it was last in force, for a start while
//! the DCS has none.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// The file's name, which scripts know.
pub(crate) const FILE_NAME: &str = "patroni.dynamic.json";

/// Reads the cache; `None` when there is none.
///
/// # Errors
/// It cannot be read, or is no JSON object.
pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Option<serde_json::Value>> {
    let path = data_dir.join(FILE_NAME);
    let text = match net::file::read_text(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("could not read {}", path.display()));
        }
    };
    let document: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    anyhow::ensure!(
        document.is_object(),
        "{} does not contain a JSON object",
        path.display()
    );
    Ok(Some(document))
}

/// Writes the cache so that either the old or the new document is there. Nothing is written into a directory that
/// holds no cluster: `initdb` and `pg_basebackup` want it empty. Whether it was written.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(data_dir: &Path, document: &serde_json::Value) -> anyhow::Result<bool> {
    if !data_dir.join("PG_VERSION").exists() {
        return Ok(false);
    }
    let path = data_dir.join(FILE_NAME);
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(FILE_NAME)
            .permissions(std::fs::Permissions::from_mode(0o600))
            .tempfile_in(data_dir)?;
        file.write_all(document.to_string().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| format!("could not write {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_directory_with_a_cluster_keeps_the_document() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let document = json!({"ttl": 30, "postgresql": {"use_pg_rewind": true}});
        assert!(!write(dir.path(), &document).expect("no error"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
        std::fs::write(dir.path().join("PG_VERSION"), "15").expect("writable");
        assert!(write(dir.path(), &document).expect("no error"));
        assert_eq!(read(dir.path()).expect("readable"), Some(document));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 2);
    }

    #[test]
    fn a_broken_cache_is_told_by_its_path() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(read(dir.path()).expect("no error"), None);
        for text in ["{", "[1]"] {
            std::fs::write(dir.path().join(FILE_NAME), text).expect("writable");
            let error = read(dir.path()).expect_err("is refused").to_string();
            assert!(error.contains(FILE_NAME), "{error}");
        }
    }
}
