//! `--dcs-url`: where the DCS is, in one word: `[scheme://]host[:port][/namespace]`.

use config::Map;

/// The kinds of DCS that an address can name, with their usual ports.
const SCHEMES: [(&str, u16); 5] = [
    ("zookeeper", 2181),
    ("exhibitor", 8181),
    ("consul", 8500),
    ("etcd", 2379),
    ("etcd3", 2379),
];

/// Replaces the DCS of `tree`, and its namespace if the address has one.
///
/// # Errors
/// The address cannot be read.
pub(crate) fn apply(tree: &mut Map, url: &str) -> Result<(), String> {
    let (scheme, rest) = match url.split_once("//") {
        Some((scheme, rest)) => (scheme.trim_end_matches(':').to_lowercase(), rest),
        None => (String::new(), url),
    };
    let (authority, namespace) = rest.find('/').map_or((rest, ""), |index| rest.split_at(index));
    let (host, port) = split(authority)?;
    let (scheme, default_port) = if scheme.is_empty() {
        let by_port = SCHEMES.into_iter().find(|(_, default)| Some(*default) == port);
        by_port.unwrap_or(("etcd", 2379))
    } else {
        let known = SCHEMES.into_iter().find(|(name, _)| *name == scheme);
        known.ok_or_else(|| format!("Unknown dcs scheme: {scheme}"))?
    };
    for (name, _) in SCHEMES {
        tree.remove(name);
    }
    let host = if host.is_empty() { "localhost" } else { host };
    let port = port.unwrap_or(default_port);
    let section: Map = match scheme {
        "zookeeper" => [(
            "hosts",
            config::Value::from(vec![format!("{host}:{port}").into()]),
        )]
        .into_iter()
        .collect(),
        "exhibitor" => {
            let hosts = config::Value::from(vec![host.into()]);
            [("hosts", hosts), ("port", i64::from(port).into())]
                .into_iter()
                .collect()
        }
        _ => [("host", format!("{host}:{port}"))].into_iter().collect(),
    };
    tree.insert(scheme, section);
    if !matches!(namespace.trim(), "" | "/") {
        tree.insert("namespace", namespace.trim());
    }
    Ok(())
}

/// Host and port; an IPv6 address keeps its brackets.
fn split(authority: &str) -> Result<(&str, Option<u16>), String> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            if port.is_empty() {
                return Ok((host, None));
            }
            let number = port
                .parse()
                .map_err(|_| format!("{port:?} in the DCS address is no port"))?;
            Ok((host, Some(number)))
        }
        _ => Ok((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_replaces_the_dcs() {
        for (url, expected) in [
            ("", r#"{"etcd":{"host":"localhost:2379"}}"#),
            ("etcd://:2399", r#"{"etcd":{"host":"localhost:2399"}}"#),
            ("etcd://test", r#"{"etcd":{"host":"test:2379"}}"#),
            (
                "etcd3://example.com:2399/",
                r#"{"etcd3":{"host":"example.com:2399"}}"#,
            ),
            (
                "etcd3://h/my/space",
                r#"{"etcd3":{"host":"h:2379"},"namespace":"/my/space"}"#,
            ),
            ("h:2181", r#"{"zookeeper":{"hosts":["h:2181"]}}"#),
            ("exhibitor://h", r#"{"exhibitor":{"hosts":["h"],"port":8181}}"#),
            ("h:8500", r#"{"consul":{"host":"h:8500"}}"#),
            ("[::1]:1", r#"{"etcd":{"host":"[::1]:1"}}"#),
        ] {
            let mut tree = Map::new();
            tree.insert("consul", "before");
            apply(&mut tree, url).unwrap();
            assert_eq!(serde_json::Value::from(&tree).to_string(), expected, "{url}");
        }
        assert_eq!(
            apply(&mut Map::new(), "foo://x"),
            Err("Unknown dcs scheme: foo".to_owned())
        );
        assert!(apply(&mut Map::new(), "etcd3://h:x").is_err());
    }
}
