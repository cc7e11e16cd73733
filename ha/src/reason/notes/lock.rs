//! Notes about the leader key and its lock.

use super::super::*;

pub(crate) fn lock_owner(owner: Option<&MemberName>, me: &MemberName) -> Note {
    let owner = owner.map_or("None", MemberName::as_str);
    Note::info(format!("Lock owner: {owner}; I am {me}"))
}

pub(crate) fn lock_update_failed() -> Note {
    Note::error("failed to update leader lock")
}

pub(crate) fn leader_key_released() -> Note {
    Note::info("Leader key released")
}

pub(crate) fn lock_not_taken() -> Note {
    Note::info("Could not take out TTL lock")
}

pub(crate) fn lost_lock_while_starting() -> Note {
    Note::info("Lost lock while starting up. Demoting self.")
}

pub(crate) fn lost_lock_during(job: &str) -> Note {
    Note::info(format!("Demoting primary during {job}"))
}

pub(crate) fn no_dcs_as_leader() -> Note {
    Note::info("demoting self because DCS is not accessible and I was a leader")
}

pub(crate) fn lock_of_leader_is_over(name: &MemberName, known: std::time::Duration) -> Note {
    Note::warning(format!(
        "the leader {name} has not renewed its lock for {} s: it is over, although the DCS still keeps the key",
        known.as_secs()
    ))
}

pub(crate) fn another_led_since(name: &MemberName) -> Note {
    Note::warning(format!(
        "'{name}' has led the cluster since this primary did; it does not take the leader key without comparing its WAL"
    ))
}

pub(crate) fn lock_has_run_out(until: Moment, now: Moment) -> Note {
    let late = now.since(until).as_millis();
    Note::error(format!(
        "the leader key's lease ran out {late} ms ago by this node's own clock"
    ))
}

/// `last`: whose heartbeat there is.
pub(crate) fn named_without_proof(last: Option<&MemberName>) -> Note {
    let whose = last.map_or_else(
        || "nobody has renewed a lock".to_owned(),
        |last| format!("'{last}' has renewed its lock last"),
    );
    Note::warning(format!(
        "the leader key names me, but it is bound to no session and {whose}: somebody has written the key by hand; I do not \
         lead before ttl has passed"
    ))
}

pub(crate) fn unproved_lock_is_over(name: &MemberName) -> Note {
    Note::warning(format!(
        "the leader key names '{name}', but it is bound to no session and {name} has not renewed a lock since: somebody has \
         written the key by hand, and whoever led before does not any more"
    ))
}
