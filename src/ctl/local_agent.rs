//! What the agent beside the configuration file says of its own server, for when the DCS does not answer.

use std::time::Duration;

use config::Map;
use ha::cluster::{Member, MemberData, Version};
use net::http::Method;
use serde_json::Value;

use super::session::Session;
use super::table::{Cell, Column, Format, Table};

/// How long the agent may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// The address of the REST API of the configuration's own member, as its agent listens to it.
pub(crate) fn address(tree: &Map) -> Option<String> {
    let restapi = tree.get("restapi")?.as_map()?;
    let text = |key: &str| restapi.get(key).and_then(config::Value::as_str);
    let scheme = if restapi.contains_key("certfile") {
        "https"
    } else {
        "http"
    };
    let address = text("connect_address").or_else(|| text("listen"))?;
    let address = address.split(',').next()?.trim();
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.is_empty() => (host, port),
        _ => return None,
    };
    let host = match host {
        "*" | "0.0.0.0" => "127.0.0.1",
        "[::]" | "::" => "[::1]",
        host => host,
    };
    Some(format!("{scheme}://{host}:{port}/patroni"))
}

/// Asks the agent for its status document; `None` if there is none that answers.
pub(crate) async fn ask(session: &Session) -> Option<Value> {
    let agent = Member {
        version: Version(0),
        name: "local".into(),
        session: String::new(),
        data: MemberData {
            api_url: Some(session.settings().local_agent.clone()?),
            ..MemberData::default()
        },
    };
    let asked = session.request(&agent, (Method::GET, "patroni"), None, LIMIT);
    let document = asked.await.ok()?.json()?;
    document.pointer("/patroni/name").is_some().then_some(document)
}

/// The one member as a table.
pub(crate) fn table(document: &Value, format: Format) -> String {
    let text = |pointer: &str| {
        document
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let number = |pointer: &str| {
        let number = document.pointer(pointer).and_then(Value::as_u64);
        number.map_or_else(Cell::empty, Cell::Number)
    };
    let lsn = |pointer: &str| {
        let number = document.pointer(pointer).and_then(Value::as_u64);
        Cell::text(number.map_or_else(String::new, |number| ha::pg::Lsn(number).to_string()))
    };
    let is_primary = document.pointer("/xlog/location").is_some();
    let state = match text("/replication_state") {
        state if state.is_empty() || is_primary => text("/state"),
        state => state,
    };
    let mut columns = vec![
        Column::left("Member"),
        Column::left("Role"),
        Column::left("State"),
        Column::right("TL"),
    ];
    let mut row = vec![
        Cell::text(text("/patroni/name")),
        Cell::text(text("/role")),
        Cell::text(state),
        number("/timeline"),
    ];
    if is_primary {
        columns.push(Column::right("LSN"));
        row.push(lsn("/xlog/location"));
    } else {
        columns.extend([Column::right("Receive LSN"), Column::right("Replay LSN")]);
        row.extend([lsn("/xlog/received_location"), lsn("/xlog/replayed_location")]);
    }
    let table = Table {
        title: Some(format!(
            " Cluster: {} (local member only) ",
            text("/patroni/scope")
        )),
        columns,
        rows: vec![row],
        omits_empty_cells: true,
        cuts_long_cells: true,
    };
    table.render(format)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(text: &str) -> Map {
        let value = config::yaml::parse("test", text).unwrap();
        value.as_map().unwrap().clone()
    }

    #[test]
    fn the_agents_address_stands_in_its_configuration() {
        for (restapi, expected) in [
            ("listen: 0.0.0.0:8008", Some("http://127.0.0.1:8008/patroni")),
            ("listen: '*:8008'", Some("http://127.0.0.1:8008/patroni")),
            ("listen: '[::]:8008'", Some("http://[::1]:8008/patroni")),
            ("listen: 127.0.0.1:8008", Some("http://127.0.0.1:8008/patroni")),
            (
                "{listen: '0.0.0.0:8008', connect_address: 'h1:8009', certfile: /c.pem}",
                Some("https://h1:8009/patroni"),
            ),
            ("listen: nonsense", None),
            ("{}", None),
        ] {
            let restapi = restapi
                .strip_prefix('{')
                .map_or_else(|| format!("{{{restapi}}}"), |rest| format!("{{{rest}"));
            let found = address(&tree(&format!("restapi: {restapi}\n")));
            assert_eq!(found.as_deref(), expected, "{restapi}");
        }
        assert_eq!(address(&tree("scope: a\n")), None);
    }

    #[test]
    fn the_local_member_is_a_table() {
        let primary = json!({"state": "running", "role": "primary", "timeline": 2, "xlog": {"location": 0x3000_0100},
            "patroni": {"name": "pg1", "scope": "demo"}});
        let text = table(&primary, Format::Tsv);
        assert_eq!(
            text.trim_end(),
            "Member\tRole\tState\tTL\tLSN\npg1\tprimary\trunning\t2\t0/30000100"
        );
        let replica = json!({"state": "running", "role": "replica", "replication_state": "streaming",
            "xlog": {"received_location": 256, "replayed_location": 16}, "patroni": {"name": "pg2", "scope": "demo"}});
        assert_eq!(
            table(&replica, Format::Tsv).trim_end(),
            "Member\tRole\tState\tTL\tReceive LSN\tReplay LSN\npg2\treplica\tstreaming\t\t0/100\t0/10"
        );
        let stopped =
            json!({"state": "stopped", "role": "demoted", "patroni": {"name": "pg1", "scope": "demo"}});
        assert!(table(&stopped, Format::Pretty).contains("| pg1    | demoted | stopped |"));
    }
}
