//! Where the cluster is and how its members are spoken to: the configuration file, the environment, the options.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{BasicAuth, ClientConfig, DcsConfig, Map, Problem, layers};
use dcs::{Dcs, Layout, Timing};
use net::tls::{ClientOptions, Verify};

use super::dcs_url;
use super::error::Error;
use super::local_agent;

/// What the commands work with.
pub(crate) struct Settings {
    /// The configuration's own cluster.
    pub(crate) scope: Option<String>,
    pub(crate) namespace: String,
    /// The configuration's own Citus group.
    pub(crate) citus_group: Option<u32>,
    pub(crate) dcs: DcsConfig,
    pub(crate) rest_auth: Option<BasicAuth>,
    pub(crate) rest_tls: ClientOptions,
    /// The REST API of the configuration's own member.
    pub(crate) local_agent: Option<String>,
}

impl Settings {
    /// Reads the file that was named, else the usual one if it is there, and the environment over it.
    ///
    /// # Errors
    /// The named file cannot be read, or the configuration cannot be used.
    pub(crate) fn load(
        file: Option<PathBuf>,
        dcs_url: Option<String>,
        insecure: bool,
    ) -> Result<Self, Error> {
        let file = file.or_else(|| variable("PATRONICTL_CONFIG_FILE").map(PathBuf::from));
        let files = match file {
            Some(path) => read(&path).map_err(|_| {
                let path = path.display();
                Error::new(format!(
                    "Provided config file {path} not existing or no read rights. Check the -c/--config-file parameter"
                ))
            })?,
            None => default_file().and_then(|path| read(&path).ok()).unwrap_or_default(),
        };
        let has_variables =
            std::env::vars_os().any(|(name, _)| name.as_encoded_bytes().starts_with(b"PATRONI_"));
        let has_url = dcs_url.is_some() || variable("DCS_URL").is_some();
        let mut looked_for = None;
        let files = if files.is_empty() && !has_variables && !has_url {
            match agents_file(&AGENTS_PLACES.map(Path::new)) {
                Ok(path) => read(&path).map_err(|error| {
                    Error::new(format!(
                        "cannot read {}: {error}; run this as the user of the agent, or name another file with -c",
                        path.display()
                    ))
                })?,
                Err(why) => {
                    looked_for = Some(why);
                    files
                }
            }
        } else {
            files
        };
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mut tree = if files.is_empty() && !config::env::is_configuration(&variables) {
            Map::new()
        } else {
            let (tree, problems) = layers::local(&files, &variables).map_err(refused)?;
            problems.warnings().for_each(warn);
            tree
        };
        if let Some(url) = dcs_url.or_else(|| variable("DCS_URL")) {
            dcs_url::apply(&mut tree, &url).map_err(Error::new)?;
        }
        Self::new(&tree, insecure, looked_for.as_deref())
    }

    /// Reads one file, or the files of a folder, and nothing else.
    ///
    /// # Errors
    /// The file cannot be read, or the configuration cannot be used.
    pub(crate) fn of_file(path: &Path) -> Result<Self, Error> {
        let files =
            read(path).map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))?;
        let (tree, problems) = layers::local(&files, &BTreeMap::new()).map_err(refused)?;
        problems.warnings().for_each(warn);
        Self::new(
            &tree,
            false,
            Some(&format!("{} has no section of one", path.display())),
        )
    }

    /// Connects to the DCS to read and write below `layout`, without a lease or a watch.
    ///
    /// # Errors
    /// The DCS does not answer or its settings cannot be used.
    pub(crate) async fn connect(&self, layout: Layout) -> Result<Arc<dyn Dcs>, Error> {
        Ok(dcs::open(&self.dcs, layout, None, Timing::default()).await?.dcs)
    }

    fn new(tree: &Map, insecure: bool, looked_for: Option<&str>) -> Result<Self, Error> {
        let (client, problems) = ClientConfig::read(tree).map_err(refused)?;
        problems.warnings().for_each(warn);
        let dcs = client.dcs.ok_or_else(|| {
            Error::new(
                match looked_for {
                    Some(why) => format!(
                        "Can not find suitable configuration of distributed configuration store: {why}; name the \
                         configuration file with -c FILE, or give --dcs-url etcd3://host:port"
                    ),
                    None => "Can not find suitable configuration of distributed configuration store: write its section \
                             into the configuration file, name another file with -c FILE, or give --dcs-url \
                             etcd3://host:port"
                        .to_owned(),
                },
            )
        })?;
        let ctl = client.ctl;
        let verify = match (ctl.insecure || insecure, ctl.certfile.is_some()) {
            (false, _) => Verify::ChainAndHostName,
            (true, true) => Verify::Chain,
            (true, false) => Verify::None,
        };
        Ok(Self {
            local_agent: local_agent::address(tree),
            scope: client.scope,
            namespace: client.namespace,
            citus_group: client.citus.map(|citus| citus.group),
            dcs,
            rest_auth: ctl.authentication,
            rest_tls: ClientOptions {
                ca: ctl.cacert,
                cert: ctl.certfile,
                key: ctl.keyfile,
                key_password: ctl.keyfile_password,
                verify,
            },
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `patronictl.yaml` in the user's folder for configuration.
fn default_file() -> Option<PathBuf> {
    let folder = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(folder.join("patroni/patronictl.yaml"))
}

/// Where agents have their configurations: files, and folders with one file for each member.
const AGENTS_PLACES: [&str; 4] = [
    "/etc/tamada.yml",
    "/etc/tamada",
    "/etc/patroni.yml",
    "/etc/patroni",
];

/// On Debian, what all members' configurations are made from; no configuration itself.
const FRAGMENT: &str = "dcs.yml";

/// The configuration of the one agent of this host.
///
/// # Errors
/// There is none, or there are several: which.
fn agents_file(places: &[&Path]) -> Result<PathBuf, String> {
    let mut found = Vec::new();
    for place in places {
        if place.is_file() {
            found.push(place.to_path_buf());
        }
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries
            .filter(|entry| {
                let name = entry.file_name();
                name.to_str()
                    .is_some_and(|name| layers::is_configuration_file(name) && name != FRAGMENT)
            })
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        found.extend(files);
    }
    let names = |paths: &mut dyn Iterator<Item = String>| paths.collect::<Vec<_>>().join(", ");
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(format!(
            "there is no configuration in {}",
            names(&mut places.iter().map(|place| place.display().to_string()))
        )),
        several => Err(format!(
            "there is more than one configuration ({})",
            names(&mut several.iter().map(|path| path.display().to_string()))
        )),
    }
}

/// The file, or the files of the folder in the order of their names.
fn read(path: &Path) -> std::io::Result<Vec<(String, String)>> {
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        paths = entries
            .into_iter()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .is_some_and(layers::is_configuration_file)
            })
            .map(|entry| entry.path())
            .collect();
        paths.sort();
    }
    let mut files = Vec::new();
    let mut bytes = 0;
    for path in paths {
        let text = net::file::read_text(&path)?;
        bytes += text.len();
        // The rest of a folder could be of any size.
        config::bounds::check_text(bytes).map_err(std::io::Error::other)?;
        files.push((path.display().to_string(), text));
    }
    Ok(files)
}

fn refused(problems: config::Problems) -> Error {
    let errors: Vec<_> = problems.errors().map(Problem::to_string).collect();
    Error::new(errors.join("\n"))
}

fn warn(problem: &Problem) {
    tracing::warn!("{problem}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_configuration_of_the_host_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let places = || {
            [
                path("tamada.yml"),
                path("tamada"),
                path("patroni.yml"),
                path("patroni"),
            ]
        };
        let find = || {
            let places = places();
            agents_file(&places.each_ref().map(PathBuf::as_path))
        };
        assert!(find().is_err_and(|why| why.starts_with("there is no configuration in ")));
        std::fs::create_dir(path("patroni")).unwrap();
        for name in ["dcs.yml", "config.yml.in", "README"] {
            std::fs::write(path("patroni").join(name), "").unwrap();
        }
        assert!(find().is_err_and(|why| why.starts_with("there is no configuration in ")));
        let only = path("patroni").join("18-demo.yml");
        std::fs::write(&only, "").unwrap();
        assert_eq!(find(), Ok(only.clone()));
        std::fs::write(path("tamada.yml"), "").unwrap();
        let why = find().unwrap_err();
        assert!(
            why.contains("tamada.yml") && why.contains(&only.display().to_string()),
            "{why}"
        );
        std::fs::remove_file(&only).unwrap();
        assert_eq!(find(), Ok(path("tamada.yml")));
    }
}
