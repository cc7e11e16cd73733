//! What must hold at every moment, as predicates that assertions, the simulator and the model checker share.

use config::DynamicConfig;

use crate::pg::{MemberName, SystemIdentifier};
use crate::step::{StartAs, Task};

/// At most one server of a cluster takes clients' writes.
#[must_use]
pub fn at_most_one_primary(servers_that_take_writes: usize) -> bool {
    servers_that_take_writes <= 1
}

/// A promotion may begin only while the leader key is the member's own, in the store itself and not merely in its view.
#[must_use]
pub fn may_promote(leader_key: Option<&MemberName>, me: &MemberName) -> bool {
    leader_key == Some(me)
}

/// In a standby cluster no server is promoted, nor started as a primary. (One that is a primary in pause may be
/// restarted as what it is.)
#[must_use]
pub fn may_begin(config: &DynamicConfig, task: &Task) -> bool {
    let makes_a_primary = matches!(
        task,
        Task::Promote { .. }
            | Task::Bootstrap
            | Task::Start {
                start_as: StartAs::Primary,
                ..
            }
    );
    config.standby_cluster.is_none() || !makes_a_primary
}

/// A member takes part only in the cluster that its data belongs to.
#[must_use]
pub fn belongs_to(initialize: Option<&SystemIdentifier>, own: &SystemIdentifier) -> bool {
    initialize.is_none_or(|cluster| cluster == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_must_be_ones_own() {
        let (me, other) = (MemberName::from("a"), MemberName::from("b"));
        assert!(may_promote(Some(&me), &me));
        assert!(!may_promote(Some(&other), &me) && !may_promote(None, &me));
        assert!(at_most_one_primary(0) && at_most_one_primary(1) && !at_most_one_primary(2));
    }

    #[test]
    fn an_uninitialised_cluster_is_anybodys() {
        let parse = |text: &str| text.parse::<SystemIdentifier>().unwrap();
        let (ours, theirs) = (parse("7000000000000000001"), parse("7000000000000000002"));
        assert!(
            belongs_to(None, &ours) && belongs_to(Some(&ours), &ours) && !belongs_to(Some(&theirs), &ours)
        );
    }
}
