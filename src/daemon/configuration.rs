//! Where the node's own configuration comes from: a file or a folder, with the environment over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::{LocalConfig, Map, Problems};
use postgres::files::resolve::canonical;

/// Where to read, and read again.
pub(crate) struct ConfigurationSource {
    path: Option<PathBuf>,
    /// It came through a pipe, as in `tamada run <(command)`.
    is_read_once: bool,
    /// The variables of the configuration as they were at the start.
    variables: BTreeMap<String, String>,
}

impl ConfigurationSource {
    /// The given file or folder, and this process's environment. A path that does not exist counts as none when the
    /// environment has a configuration (Patroni documentation, "Environment Configuration Settings").
    ///
    /// # Errors
    /// There is neither.
    pub(crate) fn new(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| config::env::is_ours(name))
            .collect();
        let missing = path.as_ref().filter(|path| !path.exists());
        match missing {
            Some(path) if !config::env::is_configuration(&variables) => {
                anyhow::bail!("there is no configuration file or folder {}", path.display())
            }
            Some(path) => {
                let path = path.display();
                tracing::warn!(
                    "there is no configuration file or folder {path}: using the environment alone"
                );
            }
            None => anyhow::ensure!(
                path.is_some() || config::env::is_configuration(&variables),
                "no configuration: name a YAML file or folder, or set PATRONI_CONFIGURATION"
            ),
        }
        let path = path.filter(|path| path.exists());
        Ok(Self {
            is_read_once: path.as_deref().is_some_and(net::file::is_read_once),
            path,
            variables,
        })
    }

    /// Whether there are files that may have changed. A pipe gives nothing a second time, and its reader may wait for ever.
    pub(crate) fn has_files(&self) -> bool {
        self.path.is_some() && !self.is_read_once
    }

    /// The tree as it is written, with the environment over it, not compared with what settings there are.
    ///
    /// # Errors
    /// A file cannot be read, or is not YAML.
    pub(crate) fn tree(&self) -> anyhow::Result<(Map, Problems)> {
        Ok(config::layers::local(&self.files()?, &self.variables)?)
    }

    fn files(&self) -> anyhow::Result<Vec<(String, String)>> {
        self.path.as_deref().map_or_else(|| Ok(Vec::new()), read_files)
    }

    /// Reads the configuration, with the warnings about it.
    ///
    /// # Errors
    /// A file cannot be read, or the configuration cannot be used: everything that is wrong, one per line.
    pub(crate) fn read(&self) -> anyhow::Result<(LocalConfig, Problems)> {
        let (mut local, problems) = LocalConfig::load(&self.files()?, &self.variables)?;
        let here = std::env::current_dir().context("could not find out the working directory")?;
        local.resolve_paths(&here);
        resolve_data_dir(&mut local);
        Ok((local, problems))
    }
}

/// One name for the data directory, and for the configuration's when that is in it, however they are written.
fn resolve_data_dir(local: &mut LocalConfig) {
    let postgresql = &mut local.postgresql;
    postgresql.data_dir = canonical(&postgresql.data_dir);
    let config_dir = canonical(&postgresql.config_dir);
    if config_dir.starts_with(&postgresql.data_dir) {
        postgresql.config_dir = config_dir;
    }
}

/// The texts by their names: of the file, or of the folder's YAML files in the order of their names.
fn read_files(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let read = |path: &Path| -> anyhow::Result<(String, String)> {
        let text =
            net::file::read_text(path).with_context(|| format!("could not read {}", path.display()))?;
        Ok((path.display().to_string(), text))
    };
    if !path.is_dir() {
        return Ok(vec![read(path)?]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("could not list {}", path.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("could not list {}", path.display()))?
            .path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if !config::layers::is_configuration_file(&name) {
            continue;
        }
        if path.is_file() {
            paths.push(path);
        } else {
            tracing::warn!("{} is not a file, or a link to none: ignored", path.display());
        }
    }
    paths.sort();
    let mut files = Vec::new();
    let mut bytes = 0;
    for path in &paths {
        files.push(read(path)?);
        bytes += files.last().map_or(0, |(_, text)| text.len());
        // The rest of the folder could be of any size.
        config::bounds::check_text(bytes)
            .map_err(|why| anyhow::anyhow!("the files up to {}: {why}", path.display()))?;
    }
    anyhow::ensure!(
        !files.is_empty(),
        "the configuration folder {} has no file that ends in .yml or .yaml",
        path.display()
    );
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["20-b.yaml", "10-a.yml", "ignored.txt"] {
            std::fs::write(dir.path().join(name), name).expect("writable");
        }
        let texts: Vec<_> = read_files(dir.path())
            .expect("readable")
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(texts, ["10-a.yml", "20-b.yaml"]);
        let empty = tempfile::tempdir().expect("temporary directory");
        assert!(read_files(empty.path()).is_err());
    }

    #[test]
    fn what_is_no_file_in_a_folder_is_ignored() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("a.yml"), "a: 1").expect("writable");
        std::fs::create_dir(dir.path().join("b.yml")).expect("writable");
        std::os::unix::fs::symlink("nowhere", dir.path().join("c.yml")).expect("writable");
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("d.yml")).expect("writable");
        let made = std::process::Command::new("mkfifo")
            .arg(dir.path().join("e.yml"))
            .status();
        assert!(made.is_ok_and(|status| status.success()));
        assert_eq!(read_files(dir.path()).expect("readable").len(), 1);
    }

    /// Each of them may have four.
    #[test]
    fn a_folder_has_a_mebibyte_at_most() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for n in 0..3 {
            std::fs::write(dir.path().join(format!("{n}.yml")), " ".repeat(600_000)).expect("writable");
        }
        let why = read_files(dir.path()).expect_err("too large").to_string();
        assert!(
            why.ends_with("1.yml: 1200000 bytes of text; at most 1048576 are allowed"),
            "{why}"
        );
    }

    #[test]
    fn a_pipe_is_not_read_again() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        std::io::Write::write_all(&mut writer, b"name: a\n").expect("writable");
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let source = ConfigurationSource::new(Some(path.into())).expect("is there");
        drop(writer);
        assert_eq!(source.files().expect("readable")[0].1, "name: a\n");
        assert!(!source.has_files());
    }
}
