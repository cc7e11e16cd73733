//! Pure: a member's configuration from a template, and what the template's values follow from.

/// What stands between two @ signs in a template, and what it becomes.
pub(super) type Values<'a> = [(&'a str, &'a str)];

/// Our own template, for when `/etc/patroni/config.yml.in` is not there.
pub(super) const BUILT_IN: &str = include_str!("../../packaging/debian/config.yml.in");

/// The port of the first cluster on a host.
const FIRST_PORT: u16 = 5432;

/// How much the REST API's port is above PostgreSQL's: 8008 beside 5432.
const API_PORT_DISTANCE: u16 = 2576;

/// Where clusters' data lies unless postgresql-common is told otherwise.
const DATA_BASE: &str = "/var/lib/postgresql";

/// A line of `pg_lsclusters -h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) version: String,
    pub(super) cluster: String,
    pub(super) port: u16,
}

/// What `pg_lsclusters -h` printed.
pub(super) fn known_clusters(text: &str) -> Vec<Known> {
    let known = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Known {
            version: words.next()?.to_owned(),
            cluster: words.next()?.to_owned(),
            port: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(known).collect()
}

/// The port that the cluster has, or one above all others; `Err` when another cluster has the wanted one.
pub(super) fn port(known: &[Known], version: &str, cluster: &str, wanted: Option<u16>) -> Result<u16, u16> {
    let is_this = |known: &&Known| known.version == version && known.cluster == cluster;
    let existing = known.iter().find(is_this).map(|known| known.port);
    match (wanted, existing) {
        (None, Some(port)) => Ok(port),
        (Some(wanted), Some(port)) if wanted == port => Ok(port),
        (Some(wanted), _) if known.iter().any(|known| known.port == wanted) => Err(wanted),
        (Some(wanted), _) => Ok(wanted),
        (None, None) => {
            let highest = known.iter().map(|known| known.port).max();
            Ok(highest.map_or(FIRST_PORT, |port| port.saturating_add(1)))
        }
    }
}

/// Where the REST API of the member with this PostgreSQL port listens.
pub(super) fn api_port(port: u16) -> u16 {
    port.saturating_add(API_PORT_DISTANCE)
}

/// Whether this is a version as Debian's folders are called: `18`, `9.6`.
pub(super) fn is_version(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((major, minor)) => is_number(major) && is_number(minor),
        None => text.len() > 1 && is_number(text),
    }
}

/// What stands before the first placeholder of `data_directory` in postgresql-common's `createcluster.conf`.
pub(super) fn data_base(createcluster_conf: &str) -> String {
    let mut lines = createcluster_conf.lines();
    let configured = lines.find_map(|line| {
        let value = line.strip_prefix("data_directory")?;
        let begin = value.find('/')?;
        let path = value[begin..].split(['%', '\'', '#']).next()?;
        Some(path.trim_end().trim_end_matches('/').to_owned())
    });
    configured
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| DATA_BASE.to_owned())
}

/// The lines of `dcs.yml` that are neither empty nor comments; `None` when there are none.
pub(super) fn dcs_lines(dcs_yml: &str) -> Option<String> {
    let is_active = |line: &&str| {
        let text = line.trim();
        !text.is_empty() && !text.starts_with('#')
    };
    let lines: Vec<&str> = dcs_yml.lines().filter(is_active).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Which store `dcs_lines` name, as vip-manager wants to know it: `etcd3`, `consul`.
pub(super) fn dcs_type(dcs_lines: &str) -> Option<&str> {
    let names = ["etcd", "consul", "zookeeper"];
    let mut keys = dcs_lines.lines().filter_map(|line| line.split_once(':'));
    keys.find(|(key, _)| !key.contains(" -") && names.iter().any(|name| key.contains(name)))
        .map(|(key, _)| key.trim())
}

/// The IPv4 addresses in `dcs_lines` as URLs, joined by commas; `None` when there are none.
pub(super) fn dcs_endpoints(dcs_lines: &str) -> Option<String> {
    let separates = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '"' | '\'');
    let is_address = |word: &&str| {
        let host = word.rsplit_once("//").map_or(*word, |(_, host)| host);
        let host = host.split(':').next().unwrap_or_default();
        host.parse::<std::net::Ipv4Addr>().is_ok()
    };
    let endpoints: Vec<String> = dcs_lines
        .split(separates)
        .filter(is_address)
        .map(|word| match word.contains("://") {
            true => word.to_owned(),
            false => format!("http://{word}"),
        })
        .collect();
    (!endpoints.is_empty()).then(|| endpoints.join(","))
}

/// The template with all values in their places.
pub(super) fn fill(template: &str, values: &Values<'_>) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{data_base, dcs_endpoints, dcs_lines, dcs_type, fill, is_version, known_clusters, port};

    const CLUSTERS: &str = "\
15  main 5432 online postgres /var/lib/postgresql/15/main /var/log/postgresql/postgresql-15-main.log
18  demo 5434 down   <unknown> /srv/18/demo /var/log/postgresql/postgresql-18-demo.log
";

    #[test]
    fn a_cluster_keeps_its_port_and_a_new_one_gets_the_next() {
        let known = known_clusters(CLUSTERS);
        assert_eq!(port(&known, "18", "demo", None), Ok(5434));
        assert_eq!(port(&known, "18", "other", None), Ok(5435));
        assert_eq!(port(&[], "18", "demo", None), Ok(5432));
        assert_eq!(port(&known, "18", "demo", Some(5434)), Ok(5434));
        assert_eq!(port(&known, "18", "demo", Some(5432)), Err(5432));
        // Part of another port's number is another number.
        assert_eq!(port(&known, "18", "demo", Some(543)), Ok(543));
    }

    #[test]
    fn versions_are_those_of_folders() {
        for version in ["18", "9.6", "10"] {
            assert!(is_version(version), "{version}");
        }
        for text in ["", "8", "18.", ".6", "18-demo", "eighteen", "1 8"] {
            assert!(!is_version(text), "{text}");
        }
    }

    #[test]
    fn the_data_lies_where_postgresql_common_puts_it() {
        assert_eq!(data_base(""), "/var/lib/postgresql");
        assert_eq!(data_base("#data_directory = '/srv/%v/%c'"), "/var/lib/postgresql");
        assert_eq!(data_base("data_directory = '/srv/pg/%v/%c'"), "/srv/pg");
        assert_eq!(data_base("a = b\ndata_directory '/srv/pg' # all"), "/srv/pg");
        assert_eq!(data_base("data_directory = '/%v'"), "/var/lib/postgresql");
    }

    #[test]
    fn comments_configure_nothing() {
        assert_eq!(dcs_lines("# etcd3:\n\n  # host: a\n"), None);
        let lines = dcs_lines("#etcd:\n\netcd3:\n  host: 127.0.0.1:2379\n").unwrap();
        assert_eq!(lines, "etcd3:\n  host: 127.0.0.1:2379");
    }

    #[test]
    fn vip_manager_is_told_what_dcs_yml_says() {
        let one = "etcd3:\n  host: 127.0.0.1:2379";
        assert_eq!(dcs_type(one), Some("etcd3"));
        assert_eq!(dcs_endpoints(one).as_deref(), Some("http://127.0.0.1:2379"));
        let several = "etcd:\n  hosts:\n  - 10.0.0.1:2379\n  - https://10.0.0.2:2379";
        assert_eq!(dcs_type(several), Some("etcd"));
        let endpoints = dcs_endpoints(several).unwrap();
        assert_eq!(endpoints, "http://10.0.0.1:2379,https://10.0.0.2:2379");
        assert_eq!(dcs_endpoints("consul:\n  host: consul.internal:8500"), None);
    }

    #[test]
    fn placeholders_are_filled_and_other_text_stays() {
        let filled = fill("@A@-@B@: user@host @C@", &[("A", "1"), ("B", "$x\\1")]);
        assert_eq!(filled, "1-$x\\1: user@host @C@");
    }
}
