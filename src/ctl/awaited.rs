//! What a command waits for, in words, from what the members publish: their keys in the DCS, and the status documents
//! of their REST API.

use ha::cluster::Cluster;
use ha::pg::{Role, ServerState};
use serde_json::Value;

use super::copy::CopyProgress;
use super::progress::duration;
use super::view::dynamic_config;

/// A leader that hands over to another member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handover<'a> {
    /// What was asked for: `switchover` or `failover`.
    pub(crate) verb: &'a str,
    /// Who led when it was asked for.
    pub(crate) from: Option<&'a str>,
    /// Who shall lead; `None` when that is not said.
    pub(crate) to: Option<&'a str>,
}

impl Handover<'_> {
    /// What it waits for while the cluster is as that.
    pub(crate) fn awaited(&self, now: &Cluster) -> String {
        let verb = self.verb;
        let Some(leader) = now.leader_name() else {
            let successor = self.to.unwrap_or("another member");
            return format!("{verb}: waiting for {successor} to take the leader key");
        };
        let is_standby_cluster = dynamic_config(Some(now)).standby_cluster.is_some();
        let data = now.leader_member().map(|member| &member.data);
        if self.from == Some(leader.as_str()) {
            return match data.and_then(|data| data.state) {
                Some(ServerState::Stopping) => format!("{verb}: waiting for {leader} to stop"),
                Some(ServerState::Stopped) => format!("{verb}: waiting for {leader} to hand over"),
                _ if is_standby_cluster => format!("{verb}: waiting for {leader} to hand over"),
                _ => format!("{verb}: waiting for {leader} to stop and hand over"),
            };
        }
        match data.and_then(|data| data.role) {
            Some(Role::Primary | Role::StandbyLeader) => {
                format!("{verb}: {leader} leads, waiting for the answer")
            }
            _ if is_standby_cluster => format!("{verb}: waiting for {leader} to become the standby leader"),
            _ => format!("{verb}: waiting for {leader} to be promoted"),
        }
    }
}

/// The text while members have been asked to do that, and have not answered yet.
pub(crate) fn answer(verb: &str, names: &str) -> String {
    format!("{verb} {names}: waiting for the answer")
}

/// What a restart waits for, by the member's status document; `None` if that does not say.
pub(crate) fn restart(name: &str, document: &Value) -> Option<String> {
    Some(match state(document)? {
        // It may not have begun, and it may have just ended.
        ServerState::Running => answer("restart", name),
        state => format!("restart {name}: {}", state.as_str()),
    })
}

/// What a new copy of members waits for, by their status documents; one that has none is not known to do anything.
pub(crate) fn reinit(members: &[(&str, Option<Value>)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, document)| {
            let is_made = document.as_ref().map(making);
            format!("{name}: {}", is_made.as_deref().unwrap_or("no answer"))
        })
        .collect();
    format!("reinit {}", members.join("; "))
}

fn state(document: &Value) -> Option<ServerState> {
    ServerState::parse(document.get("state")?.as_str()?)
}

/// What becomes of a member.
fn making(document: &Value) -> String {
    if let Some(progress) = CopyProgress::read(document) {
        return copying(progress);
    }
    match state(document) {
        Some(state) => state.as_str().to_owned(),
        None => "state unknown".to_owned(),
    }
}

fn copying(progress: CopyProgress) -> String {
    let bytes = progress.bytes;
    let mut text = format!("copying {}", size(bytes));
    // The total is what the source's databases were when the copy began: beyond it, with WAL, nobody knows the end.
    let total = progress.total_bytes.filter(|total| bytes <= *total && *total > 0);
    if let Some(total) = total {
        let percent = u128::from(bytes) * 100 / u128::from(total);
        text.push_str(&format!(" of {} ({percent} %)", size(total)));
    }
    if let Some(rate) = progress.bytes_per_second.filter(|rate| *rate > 0) {
        text.push_str(&format!(", {}/s", size(rate)));
    }
    if let Some(left) = progress.seconds_left.filter(|_| total.is_some()) {
        text.push_str(&format!(", {} left", duration(left)));
    }
    text
}

/// A size in PostgreSQL's units, which are multiples of 1024.
fn size(bytes: u64) -> String {
    let in_tenths = |shift: u32, unit: &str| {
        let tenths = (u128::from(bytes) * 10) >> shift;
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    };
    match bytes {
        0..0x10_0000 => format!("{} kB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MB", bytes >> 20),
        0x4000_0000..0x100_0000_0000 => in_tenths(30, "GB"),
        _ => in_tenths(40, "TB"),
    }
}

#[cfg(test)]
mod tests {
    use ha::cluster::{Leader, Member, MemberData, Version};
    use serde_json::json;

    use super::*;

    /// `name role state` for each member.
    fn cluster(leader: Option<&str>, config: Value, members: &[&str]) -> Cluster {
        let member = |line: &&str| {
            let mut words = line.splitn(3, ' ');
            let mut next = || words.next().unwrap_or_default();
            Member {
                version: Version(1),
                name: next().into(),
                session: String::new(),
                data: MemberData {
                    role: Role::parse(next()),
                    state: ServerState::parse(next()),
                    ..MemberData::default()
                },
            }
        };
        let config = json!({"version": Version(1), "value": config});
        Cluster {
            leader: leader.map(|name| Leader {
                version: Version(1),
                name: name.into(),
                session: String::new(),
            }),
            members: members.iter().map(member).collect(),
            config: serde_json::from_value(config).unwrap(),
            ..Cluster::default()
        }
    }

    #[test]
    fn a_handover_goes_on_step_by_step() {
        let to_pg2 = Handover {
            verb: "switchover",
            from: Some("pg1"),
            to: Some("pg2"),
        };
        let anywhere = Handover { to: None, ..to_pg2 };
        let leaderless = Handover {
            verb: "failover",
            from: None,
            ..to_pg2
        };
        let (pg1, pg2) = ("pg1 primary running", "pg2 replica running");
        for (asked, leader, members, expected) in [
            (
                to_pg2,
                Some("pg1"),
                [pg1, pg2],
                "switchover: waiting for pg1 to stop and hand over",
            ),
            (
                to_pg2,
                Some("pg1"),
                ["pg1 primary stopping", pg2],
                "switchover: waiting for pg1 to stop",
            ),
            (
                to_pg2,
                Some("pg1"),
                ["pg1 replica stopped", pg2],
                "switchover: waiting for pg1 to hand over",
            ),
            (
                to_pg2,
                Some("pg1"),
                ["", pg2],
                "switchover: waiting for pg1 to stop and hand over",
            ),
            (
                to_pg2,
                None,
                [pg1, pg2],
                "switchover: waiting for pg2 to take the leader key",
            ),
            (
                anywhere,
                None,
                [pg1, pg2],
                "switchover: waiting for another member to take the leader key",
            ),
            (
                to_pg2,
                Some("pg2"),
                [pg1, pg2],
                "switchover: waiting for pg2 to be promoted",
            ),
            // Somebody else was faster.
            (
                to_pg2,
                Some("pg3"),
                [pg1, pg2],
                "switchover: waiting for pg3 to be promoted",
            ),
            (
                to_pg2,
                Some("pg2"),
                [pg1, "pg2 primary running"],
                "switchover: pg2 leads, waiting for the answer",
            ),
            (
                leaderless,
                None,
                ["", pg2],
                "failover: waiting for pg2 to take the leader key",
            ),
            (
                leaderless,
                Some("pg2"),
                ["", pg2],
                "failover: waiting for pg2 to be promoted",
            ),
        ] {
            let now = cluster(leader, json!({}), &members);
            assert_eq!(asked.awaited(&now), expected, "{members:?}");
        }
    }

    #[test]
    fn a_standby_cluster_stops_and_promotes_nobody() {
        let asked = Handover {
            verb: "switchover",
            from: Some("pg1"),
            to: None,
        };
        let members = ["pg1 standby_leader running", "pg2 replica running"];
        for (leader, expected) in [
            ("pg1", "switchover: waiting for pg1 to hand over"),
            ("pg2", "switchover: waiting for pg2 to become the standby leader"),
        ] {
            let now = cluster(Some(leader), json!({"standby_cluster": {"host": "h"}}), &members);
            assert_eq!(asked.awaited(&now), expected);
        }
    }

    #[test]
    fn a_restart_shows_the_servers_state() {
        for (document, expected) in [
            (
                json!({"state": "running"}),
                Some("restart pg2: waiting for the answer"),
            ),
            (json!({"state": "restarting"}), Some("restart pg2: restarting")),
            (json!({"state": "starting"}), Some("restart pg2: starting")),
            (json!({"state": "unknown"}), None),
            (json!("busy"), None),
        ] {
            assert_eq!(restart("pg2", &document).as_deref(), expected);
        }
    }

    #[test]
    fn a_copy_shows_what_is_known_of_it() {
        let gigabytes = |tenths: u64| (tenths << 30) / 10;
        let copy = |clone: Value| json!({"state": "creating replica", "tamada_clone": clone});
        let all = copy(
            json!({"bytes": gigabytes(12) + 1, "total_bytes": gigabytes(34) + 1,
            "bytes_per_second": 84 << 20, "seconds": 14, "seconds_left": 26}),
        );
        let long = copy(
            json!({"bytes": 1_u64 << 40, "total_bytes": 3_u64 << 40, "bytes_per_second": 900 << 10,
            "seconds_left": 4000}),
        );
        let beyond = copy(
            json!({"bytes": 22 << 20, "total_bytes": 21 << 20, "bytes_per_second": 1 << 20,
            "seconds_left": 0}),
        );
        let begun =
            copy(json!({"bytes": 0, "total_bytes": null, "bytes_per_second": 0, "seconds_left": null}));
        let of_nothing = copy(json!({"bytes": 2 << 20, "total_bytes": 0}));
        let patroni = json!({"state": "creating replica"});
        for (members, expected) in [
            (
                vec![("pg3", Some(all))],
                "reinit pg3: copying 1.2 GB of 3.4 GB (35 %), 84 MB/s, 26 s left",
            ),
            (
                vec![("pg3", Some(long))],
                "reinit pg3: copying 1.0 TB of 3.0 TB (33 %), 900 kB/s, 1 h 6 min left",
            ),
            (
                vec![("pg2", Some(begun)), ("pg3", Some(patroni))],
                "reinit pg2: copying 0 kB; pg3: creating replica",
            ),
            (vec![("pg3", Some(beyond))], "reinit pg3: copying 22 MB, 1 MB/s"),
            (vec![("pg3", Some(of_nothing))], "reinit pg3: copying 2 MB"),
            (
                vec![("pg3", Some(json!({"state": "starting"})))],
                "reinit pg3: starting",
            ),
            (
                vec![("pg2", Some(json!({"state": "unknown"}))), ("pg3", None)],
                "reinit pg2: state unknown; pg3: no answer",
            ),
        ] {
            assert_eq!(reinit(&members), expected);
        }
    }
}
