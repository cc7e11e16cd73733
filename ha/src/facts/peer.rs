//! Other members, as they answer when they are asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::{Origin, Tags};
use crate::pg::{Lsn, MemberName, Role, Timeline};

/// A member to ask for its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: MemberName,
    /// Its REST address.
    pub api_url: String,
    /// How long its answer is waited for.
    pub patience: Duration,
}

/// What a member answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerAnswer {
    /// Its name.
    pub name: MemberName,
    /// Its state, or why there is none.
    pub status: Result<PeerStatus, String>,
}

/// What a member's `GET /patroni` says that matters in a race.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// A standby: its answer has no primary's position and its role is not primary.
    pub in_recovery: bool,
    /// Primary: its position; standby: the larger of received and replayed; `None` when not told.
    pub position: Option<Lsn>,
    /// Standby: how far it has replayed what it has.
    pub replayed: Option<Lsn>,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// Which promotion that comes from; Patroni does not tell.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// The cluster did not go on with that, so it does not run.
    #[serde(default)]
    pub stands_back: bool,
    /// Its tags.
    pub tags: Tags,
    /// It needs a watchdog or a guard and has none.
    pub watchdog_failed: bool,
}

impl PeerStatus {
    /// Where a member tells of its timeline's origin in the answer to `GET /patroni`.
    pub const ORIGIN: &str = "tamada_origin";
    /// And there, that it does not run because of that.
    const STANDS_BACK: &str = "/tamada_origin/stands_back";

    /// Reads the body of `GET /patroni`. `None` without a position, as for a member whose server is down.
    #[must_use]
    pub fn from_json(body: &serde_json::Value) -> Option<Self> {
        let wal = body.get("xlog").or_else(|| body.get("wal"))?;
        let lsn = |key: &str| wal.get(key).and_then(serde_json::Value::as_u64).map(Lsn);
        let location = lsn("location");
        let role = body
            .get("role")
            .and_then(serde_json::Value::as_str)
            .and_then(Role::parse);
        let in_recovery = location.is_none() && role != Some(Role::Primary);
        let timeline = body.get("timeline").and_then(serde_json::Value::as_u64);
        Some(Self {
            in_recovery,
            position: location.or_else(|| lsn("received_location").max(lsn("replayed_location"))),
            replayed: lsn("replayed_location"),
            timeline: timeline.and_then(|number| number.try_into().ok()).map(Timeline),
            origin: body.get(Self::ORIGIN).and_then(Origin::from_json),
            stands_back: body.pointer(Self::STANDS_BACK) == Some(&true.into()),
            tags: Tags(
                body.get("tags")
                    .and_then(serde_json::Value::as_object)
                    .cloned()
                    .unwrap_or_default(),
            ),
            watchdog_failed: body
                .get("watchdog_failed")
                .and_then(serde_json::Value::as_bool)
                .unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_answer_is_read_as_patroni_writes_it() {
        let body = serde_json::json!({"state": "running", "role": "replica", "timeline": 2,
            "xlog": {"received_location": 7, "replayed_location": 9}, "tags": {"nofailover": true}});
        let peer = PeerStatus::from_json(&body).expect("has a position");
        assert!(peer.in_recovery && peer.tags.nofailover());
        assert_eq!((peer.position, peer.timeline), (Some(Lsn(9)), Some(Timeline(2))));
        let primary = PeerStatus::from_json(&serde_json::json!({"role": "master", "xlog": {"location": 5}}));
        assert_eq!(
            primary.map(|peer| (peer.in_recovery, peer.position)),
            Some((false, Some(Lsn(5))))
        );
        assert_eq!(
            PeerStatus::from_json(&serde_json::json!({"state": "stopped", "role": "replica"})),
            None
        );
    }

    #[test]
    fn a_peer_tells_where_its_timeline_comes_from() {
        let body = |origin: serde_json::Value| {
            let body = serde_json::json!({"role": "replica", "timeline": 2, "xlog": {"received_location": 7},
                "tamada_origin": origin});
            PeerStatus::from_json(&body).expect("has a position")
        };
        let told = body(serde_json::json!({"timeline": 2, "switch_lsn": 100, "nonce": "0000002a"}));
        let origin = Origin {
            timeline: Timeline(2),
            switch_lsn: Lsn(100),
            nonce: 42,
        };
        assert_eq!((told.origin, told.stands_back), (Some(origin), false));
        let mut object = origin.to_json();
        object["stands_back"] = true.into();
        assert!(body(object).stands_back);
        assert_eq!(body("nonsense".into()).origin, None);
    }
}
