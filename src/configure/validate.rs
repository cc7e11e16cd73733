//! `--validate-config`: what the texts say, and whether this host agrees with them.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use config::{HostPort, ListenAddress, LocalConfig, Map, Problem, Problems, Value};

use super::{complain, major_version, program};
use crate::daemon::ConfigurationSource;

/// How long a port may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The programs of PostgreSQL that a member needs.
const PROGRAMS: [&str; 4] = ["postgres", "initdb", "pg_controldata", "pg_basebackup"];

/// Files that have to be there if they are named.
const FILES: [&str; 6] = [
    "restapi.certfile",
    "restapi.keyfile",
    "restapi.cafile",
    "ctl.certfile",
    "ctl.keyfile",
    "ctl.cacert",
];

/// Prints all that is wrong; with `print`, the configuration when nothing is.
///
/// # Errors
/// There is no configuration, it cannot be read, or an error was found: then the text has one line for each.
pub(super) fn run(path: Option<&Path>, ignore_listen_port: bool, print: bool) -> anyhow::Result<()> {
    let source = ConfigurationSource::new(path.map(Path::to_path_buf))?;
    let (tree, mut problems) = source.tree()?;
    problems.0.extend(config::validate_strictly(&tree).0);
    if let Ok((mut local, _)) = LocalConfig::read(tree.clone()) {
        local.resolve_paths(&std::env::current_dir()?);
        let mut host = Host {
            tree: &tree,
            problems: Problems::default(),
        };
        host.ports(&local, ignore_listen_port);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        host.placeholders();
        host.store(&local, &runtime);
        host.programs(&local);
        for (path, message) in runtime.block_on(super::parameters::problems(&tree, &local)) {
            host.error(&path, message);
        }
        host.data_directory(&local);
        host.files();
        problems.0.extend(host.problems.0);
    }
    let problems = problems.sorted();
    let lines = problems.lines();
    anyhow::ensure!(!problems.has_errors(), "{}", lines.join("\n"));
    lines.iter().for_each(|line| complain(line));
    if print {
        super::put(None, &config::yaml::dump(&Value::from(sorted(tree))))?;
    }
    Ok(())
}

struct Host<'a> {
    tree: &'a Map,
    problems: Problems,
}

impl Host<'_> {
    fn value(&self, path: &str) -> Option<&Value> {
        let mut keys = path.split('.');
        let first = self.tree.get(keys.next()?)?;
        keys.try_fold(first, |value, key| value.get(key))
    }

    fn error(&mut self, path: &str, message: impl Into<String>) {
        let position = self.value(path).and_then(|value| value.position.clone());
        self.problems
            .push(Problem::error(path, position.as_ref(), message));
    }

    fn ports(&mut self, local: &LocalConfig, ignore_listen_port: bool) {
        if ignore_listen_port {
            return;
        }
        for (path, listen) in [
            ("restapi.listen", &local.restapi.listen),
            ("postgresql.listen", &local.postgresql.listen),
        ] {
            if is_taken(listen) {
                let port = listen.port;
                self.error(
                    path,
                    format!(
                        "port {port} is already in use (a member that runs? then add --ignore-listen-port)"
                    ),
                );
            }
        }
    }

    /// What `--generate-sample-config` leaves to the operator.
    fn placeholders(&mut self) {
        let mut found = Vec::new();
        find_placeholders(self.tree, "", &mut found);
        for path in found {
            self.error(&path, format!("is still {}: fill it in", super::sample::UNKNOWN));
        }
    }

    fn store(&mut self, local: &LocalConfig, runtime: &tokio::runtime::Runtime) {
        let kind = local.dcs.kind().name();
        let path = ["proxy", "url", "hosts", "host"]
            .map(|key| format!("{kind}.{key}"))
            .into_iter()
            .find(|path| self.value(path).is_some())
            .unwrap_or_else(|| kind.to_owned());
        let servers = local.dcs.servers();
        let family = local.dcs.kind().family();
        if servers.is_empty()
            && let Err(why) = runtime.block_on(speaks(local))
        {
            self.error(&path, format!("{family} is not reachable: {why}"));
        }
        for server in servers
            .iter()
            .filter(|server| server.host != super::sample::UNKNOWN)
        {
            if let Err(why) = reach(server) {
                self.error(&path, format!("{server} is not reachable: {why}"));
                continue;
            }
            let mut alone = local.clone();
            alone.dcs = local.dcs.with_server(server);
            if let Err(why) = runtime.block_on(speaks(&alone)) {
                self.error(
                    &path,
                    format!("{server} answers, but cannot be used as {family}: {why}"),
                );
            }
        }
    }

    fn programs(&mut self, local: &LocalConfig) {
        let postgresql = &local.postgresql;
        if !postgresql.bin_dir.as_os_str().is_empty() && !postgresql.bin_dir.is_dir() {
            let message = format!("there is no folder {}", postgresql.bin_dir.display());
            return self.error("postgresql.bin_dir", message);
        }
        let missing: Vec<&str> = PROGRAMS
            .into_iter()
            .map(|name| postgresql.bin_name.file_name(name))
            .filter(|name| program(&postgresql.bin_dir, name).is_none())
            .collect();
        if !missing.is_empty() {
            let place = match postgresql.bin_dir.as_os_str().is_empty() {
                true => "the folders of PATH".to_owned(),
                false => postgresql.bin_dir.display().to_string(),
            };
            let message = format!(
                "expected the folder of PostgreSQL's programs: {} not found in {place}",
                missing.join(", ")
            );
            self.error("postgresql.bin_dir", message);
        }
    }

    /// A data directory that is there must be one, and of the version of the programs.
    fn data_directory(&mut self, local: &LocalConfig) {
        const PATH: &str = "postgresql.data_dir";
        let postgresql = &local.postgresql;
        let data_dir = &postgresql.data_dir;
        let shown = data_dir.display();
        match fs::read_dir(data_dir) {
            Ok(mut entries) => {
                if entries.next().is_none() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.error(PATH, format!("could not look into {shown}: {error}")),
        }
        let Ok(of_data) = net::file::read_text(data_dir.join("PG_VERSION")) else {
            return self.error(
                PATH,
                format!(
                    "{shown} is not empty, and has no file PG_VERSION: it is no data directory of PostgreSQL"
                ),
            );
        };
        if !["pg_wal", "pg_xlog"]
            .iter()
            .any(|wal| data_dir.join(wal).is_dir())
        {
            return self.error(PATH, format!("{shown} has no folder pg_wal"));
        }
        let Some(postgres) = program(&postgresql.bin_dir, postgresql.bin_name.file_name("postgres")) else {
            return;
        };
        match major_version(&postgres) {
            Ok(version)
                if postgres::ServerVersion::parse(&of_data)
                    .is_some_and(|data| data.major() == version.major()) => {}
            Ok(version) => {
                let message = format!(
                    "{shown} is of PostgreSQL {}, {} of {version}: expected the same major version",
                    of_data.trim(),
                    postgres.display()
                );
                self.error(PATH, message);
            }
            Err(error) => self.error("postgresql.bin_dir", format!("{error:#}")),
        }
    }

    fn files(&mut self) {
        let stores = ["consul", "etcd", "etcd3", "exhibitor", "kubernetes", "zookeeper"];
        let of_stores = stores
            .into_iter()
            .flat_map(|store| ["cacert", "cert", "key"].map(|key| format!("{store}.{key}")));
        for path in FILES.map(str::to_owned).into_iter().chain(of_stores) {
            let Some(file) = self
                .value(&path)
                .and_then(Value::as_str)
                .filter(|file| !file.is_empty())
            else {
                continue;
            };
            if let Err(error) = net::file::open(Path::new(file)) {
                let message = format!("could not open {file}: {error}");
                self.error(&path, message);
            }
        }
    }
}

/// Whether something answers where we are to listen.
fn is_taken(listen: &ListenAddress) -> bool {
    let host = |host: &String| match host.as_str() {
        "" | "*" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        host => host.to_owned(),
    };
    listen.hosts.iter().map(host).any(|host| {
        let address = HostPort {
            host,
            port: listen.port,
        };
        reach(&address).is_ok()
    })
}

/// Whether the store answers as such, and takes the credentials.
async fn speaks(local: &LocalConfig) -> Result<(), String> {
    let timing = dcs::Timing {
        ttl: CONNECT_TIMEOUT * 4,
        loop_wait: CONNECT_TIMEOUT,
        retry_timeout: CONNECT_TIMEOUT,
    };
    let connected = crate::daemon::store::connect(local, None, timing);
    match tokio::time::timeout(CONNECT_TIMEOUT * 3, connected).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("it does not answer in time".to_owned()),
    }
}

fn find_placeholders(map: &Map, above: &str, found: &mut Vec<String>) {
    for (key, value) in map.iter() {
        let path = format!("{above}{key}");
        if value.as_str() == Some(super::sample::UNKNOWN) {
            found.push(path);
        } else if let Some(inner) = value.as_map() {
            find_placeholders(inner, &format!("{path}."), found);
        }
    }
}

/// A connection, or why there was none.
fn reach(address: &HostPort) -> std::io::Result<()> {
    let addresses = (address.host.as_str(), address.port).to_socket_addrs()?;
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// With the keys in the order of the alphabet, as Patroni prints it.
fn sorted(map: Map) -> Map {
    let mut entries = map.entries().to_vec();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let mut sorted_map = Map::new();
    for mut entry in entries {
        if let Some(inner) = entry.value.as_map() {
            entry.value = Value::from(sorted(inner.clone()));
        }
        sorted_map.insert_entry(entry);
    }
    sorted_map
}
