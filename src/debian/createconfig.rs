//! `pg_createconfig_patroni`: makes a member's configuration from the template, the host and `dcs.yml`. Nothing is
//! written before all is known, and what is written is there as a whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::arguments::Arguments;
use super::machine::{self, Route};
use super::passwords::Passwords;
use super::{say, template};

/// Where Debian has Patroni's configurations, their template, and `dcs.yml`.
pub(super) const PATRONI: &str = "/etc/patroni";

/// Who owns a configuration, and so may read the passwords in it.
const OWNER: &str = "postgres:postgres";

/// What is asked for; what is not given follows from the host.
#[derive(Default)]
pub(super) struct Request<'a> {
    pub(super) version: &'a str,
    pub(super) cluster: &'a str,
    /// This host's address, for the others.
    pub(super) hostip: Option<&'a str>,
    /// The network from which members connect, `10.0.0.0/24`.
    pub(super) network: Option<&'a str>,
    /// PostgreSQL's port.
    pub(super) port: Option<&'a str>,
    /// A virtual address, for vip-manager.
    pub(super) vip: Option<&'a str>,
    /// How vip-manager reaches the store, URLs.
    pub(super) endpoint: Option<&'a str>,
    /// Passwords in the place of the template's; `None` keeps these.
    pub(super) passwords: Option<&'a Passwords>,
    /// Whether a configuration that is there is replaced.
    pub(super) force: bool,
}

/// From where to where.
pub(super) struct Place<'a> {
    /// The lines that configure the store.
    pub(super) dcs: &'a str,
    /// The folder of the new file.
    pub(super) folder: &'a str,
    /// What stands before `pg_createcluster_patroni` in a command line.
    pub(super) scripts: &'a str,
}

/// What was made.
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) hostip: String,
    pub(super) port: u16,
    /// What the administrator's own template has no place for.
    pub(super) missing: Vec<&'static str>,
}

/// Why nothing was made, in the words of Debian's script where it has some.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("Error: invalid version {0}")]
    Version(String),
    #[error("Error: invalid cluster name {0}")]
    Cluster(String),
    #[error("Error: no initdb program for version {0} found")]
    NoServer(String),
    #[error("Error: invalid port {0}")]
    Port(String),
    #[error("Port {0} already in use")]
    PortInUse(u16),
    #[error("DCS not configured yet, edit /etc/patroni/dcs.yml")]
    NoDcs,
    #[error("Patroni configuration file already exists")]
    Exists,
    #[error("VIP configuration file already exists")]
    VipExists,
    #[error("VIP template /etc/patroni/vip.in does not exist, cannot write VIP file")]
    NoVipTemplate,
    #[error("Network interface could not be determined, cannot write VIP file")]
    NoInterface,
    #[error("Netmask could not be determined, cannot write VIP file")]
    NoNetmask,
    #[error("DCS type could not be determined from /etc/patroni/dcs.yml, cannot write VIP file")]
    NoDcsType,
    #[error(
        "DCS endpoint URL could not be determined from /etc/patroni/dcs.yml and --endpoint not provided, cannot \
         write VIP file"
    )]
    NoEndpoint,
    #[error("iproute2 package missing, cannot determine host ip address and --hostip is not set")]
    NoIprouteForAddress,
    #[error("iproute2 package missing, cannot determine network and --network is not set")]
    NoIprouteForNetwork,
    #[error(
        "Error: this host has no route to others, by which its address is found: give --hostip and --network"
    )]
    NoRoute,
    #[error("Error: cannot write {path}: {source}", path = .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("Error: cannot give {path} to {OWNER}: {reason}", path = .path.display())]
    Owner { path: PathBuf, reason: String },
}

/// `pg_createconfig_patroni [options] VERSION CLUSTER`.
pub(super) fn main(arguments: &[String]) -> ExitCode {
    let arguments = Arguments::parse(arguments);
    let [version, cluster, ..] = arguments.words[..] else {
        say(
            "Usage: pg_createconfig_patroni [--hostip=IP] [--network=CIDR] [--port=N] [--vip=IP] [--endpoint=URL[,URL]] \
             [--force] <version> <cluster name>",
        );
        return ExitCode::FAILURE;
    };
    let request = Request {
        version,
        cluster,
        hostip: arguments.value("hostip"),
        network: arguments.value("network"),
        port: arguments.value("port"),
        vip: arguments.value("vip"),
        endpoint: arguments.value("endpoint"),
        passwords: None,
        force: arguments.has("force"),
    };
    let dcs_yml = net::file::read_text(Path::new(PATRONI).join("dcs.yml")).unwrap_or_default();
    let dcs = template::dcs_lines(&dcs_yml).unwrap_or_default();
    let place = Place {
        dcs: &dcs,
        folder: PATRONI,
        scripts: "/usr/share/patroni/",
    };
    match create(&request, &place) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Makes the configuration, and vip-manager's beside it if a virtual address is asked for.
///
/// # Errors
/// Something that is needed is not there, or cannot be found out; the file is there already.
pub(super) fn create(request: &Request<'_>, place: &Place<'_>) -> Result<Made, Error> {
    let (version, cluster) = (request.version, request.cluster);
    if !template::is_version(version) {
        return Err(Error::Version(version.to_owned()));
    }
    if cluster.is_empty() || cluster.contains(['/', ' ', '@']) {
        return Err(Error::Cluster(cluster.to_owned()));
    }
    if !machine::has_server(version) {
        return Err(Error::NoServer(version.to_owned()));
    }
    let wanted = request.port.map(|port| {
        let invalid = |_| Error::Port(port.to_owned());
        port.parse().map_err(invalid)
    });
    let known = machine::clusters();
    let port = template::port(&known, version, cluster, wanted.transpose()?).map_err(Error::PortInUse)?;
    if place.dcs.is_empty() {
        return Err(Error::NoDcs);
    }
    let name = machine::name();
    let vip = request.vip.map(|vip| vip_config(request, place, vip, &name));
    let vip = vip.transpose()?;
    let path = Path::new(place.folder).join(format!("{version}-{cluster}.yml"));
    if path.exists() && !request.force {
        return Err(Error::Exists);
    }
    let (hostip, network) = addresses(request)?;
    let listen_vip = request.vip.map(|vip| format!(",{vip}")).unwrap_or_default();
    let text = template::fill(
        &config_template(),
        &[
            ("VERSION", version),
            ("CLUSTER", cluster),
            ("HOSTNAME", &name),
            ("HOSTIP", &hostip),
            ("LISTEN_VIP", &listen_vip),
            ("DATADIR_BASE", &machine::data_base()),
            ("NETWORK", &network),
            ("API_PORT", &template::api_port(port).to_string()),
            ("PORT", &port.to_string()),
            ("SCRIPTS", place.scripts),
            ("DCS_CONFIG", place.dcs),
        ],
    );
    let (text, missing) = match request.passwords {
        Some(passwords) => passwords.put_into(&text),
        None => (text, Vec::new()),
    };
    if let Some((path, text)) = vip {
        write(&path, &text, false)?;
    }
    write(&path, &text, true)?;
    Ok(Made {
        path,
        name,
        hostip,
        port,
        missing,
    })
}

fn config_template() -> String {
    net::file::read_text(Path::new(PATRONI).join("config.yml.in"))
        .unwrap_or_else(|_| template::BUILT_IN.to_owned())
}

/// The host's address, and the network of the members.
fn addresses(request: &Request<'_>) -> Result<(String, String), Error> {
    if let (Some(hostip), Some(network)) = (request.hostip, request.network) {
        return Ok((hostip.to_owned(), network.to_owned()));
    }
    if !machine::has_iproute() {
        return Err(match request.hostip {
            None => Error::NoIprouteForAddress,
            Some(_) => Error::NoIprouteForNetwork,
        });
    }
    let route = machine::route().ok_or(Error::NoRoute)?;
    let network = match request.network {
        Some(network) => network.to_owned(),
        None => {
            let prefix = machine::prefix(&route).ok_or(Error::NoRoute)?;
            format!("{}/{prefix}", route.address)
        }
    };
    let hostip = request.hostip.map_or(route.address, str::to_owned);
    Ok((hostip, network))
}

/// vip-manager's configuration: where it goes, and what stands there.
fn vip_config(
    request: &Request<'_>,
    place: &Place<'_>,
    vip: &str,
    name: &str,
) -> Result<(PathBuf, String), Error> {
    let scope = format!("{}-{}", request.version, request.cluster);
    let path = Path::new(PATRONI).join(format!("{scope}.vip"));
    if path.exists() && !request.force {
        return Err(Error::VipExists);
    }
    let vip_template =
        net::file::read_text(Path::new(PATRONI).join("vip.in")).map_err(|_| Error::NoVipTemplate)?;
    let route: Route = machine::route().ok_or(Error::NoInterface)?;
    let mask = machine::prefix(&route).ok_or(Error::NoNetmask)?;
    let dcs_type = template::dcs_type(place.dcs).ok_or(Error::NoDcsType)?;
    let endpoint = request.endpoint.map(str::to_owned);
    let endpoint = endpoint
        .or_else(|| template::dcs_endpoints(place.dcs))
        .ok_or(Error::NoEndpoint)?;
    let text = template::fill(
        &vip_template,
        &[
            ("VIP_IP", vip),
            ("VIP_MASK", &mask),
            ("VIP_IFACE", &route.interface),
            ("VIP_KEY", &format!("/postgresql-common/{scope}/leader")),
            ("VIP_HOST", name),
            ("VIP_TYPE", dcs_type),
            ("VIP_ENDPOINT", &endpoint),
        ],
    );
    Ok((path, text))
}

/// Writes the file in one step. One with passwords is for its owner and root only, at every moment.
fn write(path: &Path, text: &str, is_secret: bool) -> Result<(), Error> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let most = if is_secret { 0o660 } else { 0o644 };
    // Who has narrowed the mode of a file meant that.
    let mode = fs::metadata(path).map_or(most, |present| present.permissions().mode() & most | 0o600);
    if is_secret {
        give_to_owner(file.path(), path)?;
    }
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// `chown` knows users that stand in no file.
fn give_to_owner(file: &Path, path: &Path) -> Result<(), Error> {
    let owner = |reason: String| Error::Owner {
        path: path.to_owned(),
        reason,
    };
    let chown = Command::new("chown").arg(OWNER).arg("--").arg(file).output();
    let output = chown.map_err(|error| owner(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(owner(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
