//! The coordinator of a Citus cluster knows every group's members (Patroni documentation, "Citus support").

use crate::citus::{COORDINATOR, Group};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::step::Action;

/// The primary of the coordinator's group hands on what `pg_dist_node` should hold. Whether anything is to be changed is
/// seen where the table is read.
pub(super) fn keep(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    if c.node().citus_group != Some(COORDINATOR) {
        return Ok(());
    }
    let groups = Group::all(cluster);
    if !groups.is_empty() {
        drop(c.perform(Action::KeepCitus(groups))?);
    }
    Ok(())
}
