//! `tamada config create VERSION CLUSTER`: what an operator types on each host of a new cluster, and then knows what to
//! type next. Where the DCS is comes from the command line, from `dcs.yml`, or is asked for.

use std::io::{BufRead, IsTerminal, Write};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::createconfig::{self, Made, PATRONI, Place, Request};
use super::passwords::Passwords;
use super::store_section::{Kind, Store};
use super::{complain, say, template};

/// Where `tamada@.service` finds configurations.
const TAMADA: &str = "/etc/tamada";

/// What an etcd beside each server listens on.
const LOCAL_ETCD: &str = "127.0.0.1:2379";

/// How long an etcd may take to take a connection. Only a hint depends on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Make this host's configuration for a cluster, on Debian: /etc/tamada/VERSION-CLUSTER.yml
#[derive(clap::Args)]
pub struct ConfigCreate {
    /// PostgreSQL's major version
    version: String,
    /// The cluster's name
    cluster: String,
    /// Where etcd is, HOST[:PORT] or a URL, several separated by commas; otherwise /etc/patroni/dcs.yml says it
    #[arg(long, value_name = "ENDPOINTS", conflicts_with = "store")]
    etcd: Option<String>,
    /// Another DCS, and where it is: etcd3, etcd, consul, zookeeper or exhibitor with endpoints as --etcd has them, or kubernetes
    /// with a namespace, as in zookeeper=10.0.0.1,10.0.0.2
    #[arg(long, value_name = "KIND[=ENDPOINTS]", value_parser = Store::parse)]
    store: Option<Store>,
    /// This host's address, as the others reach it
    #[arg(long, value_name = "ADDRESS")]
    hostip: Option<String>,
    /// The network from which members connect, as in 10.0.0.0/24
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// PostgreSQL's port; the REST API's is 2576 above it
    #[arg(long)]
    port: Option<String>,
    /// A virtual address, for vip-manager
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<String>,
    /// How vip-manager reaches the store, URLs separated by commas
    #[arg(long, value_name = "URLS")]
    endpoint: Option<String>,
    /// The first host's file, or a copy of it: its passwords are this host's too. Without it new ones are made up
    #[arg(long, value_name = "FILE")]
    passwords_from: Option<PathBuf>,
    /// Replace a configuration that is there
    #[arg(long)]
    force: bool,
}

impl ConfigCreate {
    /// Makes the file, and says what to do next.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let Some(dcs) = self.dcs() else {
            complain(
                "Error: it is not known where the DCS is: give --etcd HOST[,HOST…] or --store KIND=HOST[,HOST…], or edit \
                 /etc/patroni/dcs.yml",
            );
            return ExitCode::FAILURE;
        };
        let passwords = match self.passwords() {
            Ok(passwords) => passwords,
            Err(why) => {
                complain(&format!("Error: {why}"));
                return ExitCode::FAILURE;
            }
        };
        let request = Request {
            version: &self.version,
            cluster: &self.cluster,
            hostip: self.hostip.as_deref(),
            network: self.network.as_deref(),
            port: self.port.as_deref(),
            vip: self.vip.as_deref(),
            endpoint: self.endpoint.as_deref(),
            passwords: Some(&passwords),
            force: self.force,
        };
        let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/tamada".into());
        let place = Place {
            dcs: &dcs,
            folder: TAMADA,
            scripts: &format!("{} ", program.display()),
        };
        match createconfig::create(&request, &place) {
            Ok(made) => {
                self.say_what_is_next(&made, &dcs);
                ExitCode::SUCCESS
            }
            Err(createconfig::Error::Exists) => {
                let path = format!("{TAMADA}/{}-{}.yml", self.version, self.cluster);
                complain(&format!("Error: {path} is there already; --force replaces it"));
                ExitCode::FAILURE
            }
            Err(error) => {
                let text = error.to_string();
                complain(&format!(
                    "Error: {}",
                    text.strip_prefix("Error: ").unwrap_or(&text)
                ));
                ExitCode::FAILURE
            }
        }
    }

    fn passwords(&self) -> Result<Passwords, String> {
        match &self.passwords_from {
            Some(path) => Passwords::of_file(path),
            None => Passwords::invent().map_err(|error| format!("cannot make up passwords: {error}")),
        }
    }

    /// The section of the store.
    fn dcs(&self) -> Option<String> {
        if let Some(endpoints) = &self.etcd {
            return Kind::Etcd3.section(endpoints);
        }
        if let Some(store) = &self.store {
            return store.section();
        }
        let dcs_yml = net::file::read_text(Path::new(PATRONI).join("dcs.yml")).unwrap_or_default();
        template::dcs_lines(&dcs_yml).or_else(|| Kind::Etcd3.section(&ask()?))
    }

    fn say_what_is_next(&self, made: &Made, dcs: &str) {
        let path = made.path.display();
        let scope = format!("{}-{}", self.version, self.cluster);
        say(&format!(
            "Wrote {path}: member {} of cluster {scope}, PostgreSQL on {}:{}, REST API on port {}.",
            made.name,
            made.hostip,
            made.port,
            template::api_port(made.port)
        ));
        for silent in silent_endpoints(dcs) {
            say(&format!(
                "Note: the DCS at {silent} does not answer; it has to run before the member starts."
            ));
        }
        if self
            .store
            .as_ref()
            .is_some_and(|store| store.kind == Kind::Kubernetes)
        {
            say("Note: on Kubernetes the member's name must be the name of its pod.");
        }
        if !made.missing.is_empty() {
            say(&format!(
                "Note: the template /etc/patroni/config.yml.in has no place for {}; see to it yourself.",
                made.missing.join(", ")
            ));
        }
        if self.passwords_from.is_some() {
            say(&format!(
                "\nNext:\n\
                 1. systemctl enable --now tamada@{scope}\n\
                 2. See it come up: tamada ctl -c {path} list"
            ));
            return;
        }
        say(&format!(
            "\nNext:\n\
             1. Look through the file. Its passwords were made up; all hosts need the same.\n\
             2. On each of the other hosts, with a copy of it: {}\n\
             3. On each host: systemctl enable --now tamada@{scope}\n\
             4. See it come up: tamada ctl -c {path} list",
            self.command_elsewhere(),
        ));
    }

    /// What to type on the other hosts.
    fn command_elsewhere(&self) -> String {
        let mut command = format!("tamada config create {} {}", self.version, self.cluster);
        let store = self.store.as_ref().map(Store::to_string);
        let options = [
            ("etcd", &self.etcd),
            ("store", &store),
            ("network", &self.network),
            ("port", &self.port),
            ("vip", &self.vip),
            ("endpoint", &self.endpoint),
        ];
        for (name, value) in options {
            command.extend(value.iter().map(|value| format!(" --{name} {value}")));
        }
        command + " --passwords-from COPY"
    }
}

/// Asks on the terminal; `None` without one.
fn ask() -> Option<String> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    let mut output = std::io::stdout().lock();
    write!(
        output,
        "Where is etcd? HOST[:PORT], several separated by commas [{LOCAL_ETCD}]: "
    )
    .ok()?;
    output.flush().ok()?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .ok()
        .filter(|length| *length > 0)?;
    let answer = answer.trim();
    Some(if answer.is_empty() { LOCAL_ETCD } else { answer }.to_owned())
}

/// The endpoints in `dcs` that take no connection now.
fn silent_endpoints(dcs: &str) -> Vec<String> {
    let endpoints = template::dcs_endpoints(dcs).unwrap_or_default();
    let is_silent = |endpoint: &&str| {
        let address = endpoint
            .rsplit_once("//")
            .map_or(*endpoint, |(_, address)| address);
        let mut addresses = address.to_socket_addrs().into_iter().flatten();
        !addresses.any(|address| std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).is_ok())
    };
    // Exhibitor's port stands on a line of its own.
    let has_port = |endpoint: &&str| {
        endpoint
            .rsplit_once("//")
            .is_some_and(|(_, host)| host.contains(':'))
    };
    let silent = endpoints.split(',').filter(has_port).filter(is_silent);
    silent
        .map(|endpoint| endpoint.trim_start_matches("http://").to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: ConfigCreate,
    }

    #[test]
    fn the_command_for_the_other_hosts_has_what_they_share() {
        let line = "x 18 demo --etcd h1,h2 --port 5433 --network 10.0.0.0/24 --hostip 10.0.0.1 --force";
        let line = Line::parse_from(line.split(' '));
        assert_eq!(
            line.create.command_elsewhere(),
            "tamada config create 18 demo --etcd h1,h2 --network 10.0.0.0/24 --port 5433 --passwords-from COPY"
        );
        let line = Line::parse_from(["x", "18", "demo", "--store", "consul=h1"]);
        assert_eq!(
            line.create.command_elsewhere(),
            "tamada config create 18 demo --store consul=h1 --passwords-from COPY"
        );
        let line = Line::parse_from(["x", "18", "demo"]);
        assert_eq!(
            line.create.command_elsewhere(),
            "tamada config create 18 demo --passwords-from COPY"
        );
    }
}
