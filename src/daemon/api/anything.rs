//! A request as the API reads it, without anything that would be done: for random input.

use config::{DynamicConfig, Minimums};
use jiff::Timestamp;

use super::control::{self, Action, Body};
use super::query::Query;
use super::route::{Route, Wish};
use super::{config_document, health};

/// Reads a request's method, target and body in every way in which the API may.
#[doc(hidden)]
pub fn read_request(method: &str, target: &str, body: &[u8]) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = Query::parse(query);
    let _ = (query.get("lag"), query.tags().count(), health::Check::of(path));
    let Route::Wish(wish) = Route::of(method, path) else {
        return;
    };
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return;
    };
    let now = Timestamp::UNIX_EPOCH;
    let config = DynamicConfig::read(&serde_json::Value::Null, Minimums::TAMADA).0;
    let cluster = ha::cluster::Cluster::default();
    match wish {
        Wish::Switchover => drop(control::check_switchover(
            Action::Switchover,
            &body,
            &cluster,
            &config,
            now,
        )),
        Wish::Failover => drop(control::check_switchover(
            Action::Failover,
            &body,
            &cluster,
            &config,
            now,
        )),
        Wish::Restart => drop(control::check_restart(&body, false, now)),
        Wish::Reinitialize => drop(control::read_reinitialize(&body)),
        Wish::PatchConfig | Wish::PutConfig => {
            let (document, _) = config_document::patched(&Body::new(), &body);
            let _ = config_document::is_same(&document, &body);
            let _ = DynamicConfig::read(&serde_json::Value::Object(document), Minimums::TAMADA);
        }
        Wish::Failsafe => drop(ha::failsafe::Ping::from_json(&body)),
        Wish::Citus => {}
    }
}
