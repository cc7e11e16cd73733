//! What this host says about itself, through the same programs and files that Debian's own scripts ask.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::template::{self, Known};

/// The file by which postgresql-common is told where clusters' data lies.
const CREATECLUSTER_CONF: &str = "/etc/postgresql-common/createcluster.conf";

/// An address somewhere else, to find out by which way this host gets there. Nothing is sent.
const ELSEWHERE: &str = "8.8.8.8";

/// How the host reaches others.
pub(super) struct Route {
    /// The name of the interface.
    pub(super) interface: String,
    /// The host's own address there.
    pub(super) address: String,
}

/// Whether there is a server of this version.
pub(super) fn has_server(version: &str) -> bool {
    Path::new(&format!("/usr/lib/postgresql/{version}/bin/initdb")).is_file()
}

/// The clusters that postgresql-common knows; none where it is not installed.
pub(super) fn clusters() -> Vec<Known> {
    let text = output(Command::new("pg_lsclusters").arg("-h"));
    template::known_clusters(&text.unwrap_or_default())
}

/// The folder below which clusters have their data.
pub(super) fn data_base() -> String {
    template::data_base(&net::file::read_text(CREATECLUSTER_CONF).unwrap_or_default())
}

/// The host's name, as `hostname` prints it.
pub(super) fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Whether routes and addresses can be asked for.
pub(super) fn has_iproute() -> bool {
    ["/bin/ip", "/usr/bin/ip", "/sbin/ip", "/usr/sbin/ip"]
        .iter()
        .any(|path| Path::new(path).is_file())
}

/// The way to other networks; `None` when there is none.
pub(super) fn route() -> Option<Route> {
    let text = output(Command::new("ip").args(["-4", "route", "get", ELSEWHERE]))?;
    let after = |word: &str| {
        let mut words = text.split_whitespace();
        words.find(|found| *found == word)?;
        words.next().map(str::to_owned)
    };
    Some(Route {
        interface: after("dev")?,
        address: after("src")?,
    })
}

/// The length of the prefix of the route's address, as a number of bits.
pub(super) fn prefix(route: &Route) -> Option<String> {
    let text = output(Command::new("ip").args(["-o", "-4", "address", "show", "dev", &route.interface]))?;
    let begin = format!("{}/", route.address);
    let mut words = text.split_whitespace();
    words
        .find_map(|word| word.strip_prefix(&begin))
        .map(str::to_owned)
}

/// What the command printed; `None` when it failed.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}
