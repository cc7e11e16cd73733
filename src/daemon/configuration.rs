//! Where the node's own configuration comes from: a file or a folder, with the environment over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::{LocalConfig, Map, Problems};
use postgres::files::resolve::canonical;

/// Where to read, and read again.
pub(crate) struct ConfigurationSource {
    path: Option<PathBuf>,
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
        Ok(Self {
            path: path.filter(|path| path.exists()),
            variables,
        })
    }

    /// Whether there are files that may have changed.
    pub(crate) fn has_files(&self) -> bool {
        self.path.is_some()
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
        if config::layers::is_configuration_file(&name) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let files: Vec<_> = paths
        .iter()
        .map(|path| read(path))
        .collect::<anyhow::Result<_>>()?;
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
}
