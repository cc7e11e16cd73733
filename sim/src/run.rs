//! One run: a seed in, a verdict out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ::dcs::memory::{Refused, Store};
use ha::step::Key;

use crate::check::Violation;
use crate::journal::Journal;
use crate::marks::Marks;
use crate::plan::{Fault, Plan};
use crate::random::Random;
use crate::server::Condition;
use crate::world::World;

/// What a run is made from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Setup {
    /// Everything follows from it.
    pub seed: u64,
    /// Agents are killed although no guard is there: two primaries are then to be expected for a while.
    pub agent_dies: bool,
    /// Commits wait for standbys, in one of the modes.
    pub is_synchronous: bool,
    /// How many of the last lines of the journal to keep.
    pub journal_lines: usize,
}

/// How a run went.
#[derive(Debug)]
pub struct Verdict {
    /// The rule that was broken, if any.
    pub violation: Option<Violation>,
    /// Which paths were taken.
    pub marks: Marks,
    /// What happened, as far as it was kept.
    pub journal: Vec<String>,
    /// The choices of the seed.
    pub plan: Plan,
}

/// Runs one seed.
#[must_use]
pub fn run(setup: Setup) -> Verdict {
    let mut random = Random::new(setup.seed);
    let plan = Plan::choose(&mut random, setup.agent_dies, setup.is_synchronous);
    let mut world = World::new(plan.clone(), random, Journal::new(setup.journal_lines));
    // A panic is a broken rule as well: the journal up to it is worth more than its message alone.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| live(&mut world))) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic");
        let end = text
            .char_indices()
            .nth(300)
            .map_or(text.len(), |(index, _)| index);
        world.break_rule_text(format!("panic: {}", &text[..end]));
    }
    let World {
        violation,
        marks,
        journal,
        ..
    } = world;
    Verdict {
        violation,
        marks,
        journal: journal.into_lines(),
        plan,
    }
}

fn live(world: &mut World) {
    if !form(world) {
        return;
    }
    let backup = world.dcs.store.clone();
    let end = world.now + world.plan.chaos;
    world.begin_faults(end);
    world.run_until(end);
    heal(world);
    hand_over(world);
    fill_the_dcs(world);
    replace_the_dcs(world, &backup);
    lose_the_dcs(world);
}

/// From nothing to a cluster in which all stream.
fn form(world: &mut World) -> bool {
    let bound = world.now + bound(world) + Duration::from_secs(60);
    let formed = world.run_until_true(bound, |world| world.trouble().is_none());
    if !formed && world.violation.is_none() {
        let trouble = world.trouble().unwrap_or_default();
        world.break_rule_text(format!("no cluster came into being: {trouble}"));
    }
    formed
}

fn bound(world: &World) -> Duration {
    world.plan.ttl() * 6 + world.plan.loop_wait() * 6 + Duration::from_secs(30)
}

/// After everything is well again, so is the cluster, within a bound.
fn heal(world: &mut World) {
    if world.violation.is_some() {
        return;
    }
    world.heal();
    // An init system's patience with agents that were being stopped, and a disk that is slow to be recovered.
    let grace = world.plan.ttl() * 4 + Duration::from_secs(100);
    let end = world.now + grace;
    world.run_until(end);
    world.heal();
    for _ in 0..4 {
        let end = world.now + bound(world);
        if world.run_until_true(end, |world| world.trouble().is_none()) || world.violation.is_some() {
            world.forget_lost_writes();
            return;
        }
        if !help(world) {
            break;
        }
    }
    let trouble = world.trouble().unwrap_or_default();
    world.break_rule_text(format!("the cluster does not heal: {trouble}"));
}

/// An operator looks at members that do not follow, and has those copied anew that cannot be mended in another way.
fn help(world: &mut World) -> bool {
    if world.begin_anew() {
        return true;
    }
    let leader = world.ids().find(|id| world.takes_writes(*id));
    let Some(primary) = leader.or(world.standby_leader()) else {
        return allow_failover(world);
    };
    let mut has_helped = false;
    for id in world.ids().filter(|id| *id != primary) {
        if world.members[id].is_foreign || world.streams_from(id, primary) {
            continue;
        }
        let data = world.members[id].server.data.as_ref();
        let is_broken = data.is_some_and(|data| data.condition != Condition::Good);
        let is_diverged = match (world.position(id), world.position(primary)) {
            (Some(mine), Some(theirs)) => !world.wal.includes(theirs, mine),
            _ => false,
        };
        let is_collision = is_diverged && world.timelines_collide(id, primary);
        let may_repair = world.plan.may_remove_data || world.plan.use_pg_rewind;
        if is_broken || is_collision || (is_diverged && !may_repair) {
            world.marks.hit(if is_broken {
                "operator: broken data"
            } else if is_collision {
                "operator: two timelines of one number"
            } else {
                "operator: diverged"
            });
            world.note(id, || "an operator asks for a new copy".to_owned());
            world.ask_reinitialize(id, true);
            has_helped = true;
        }
    }
    has_helped
}

/// Nobody may take over by the rules that hold: the only data left is that of a member with `nofailover`, or lags too
/// far behind what was published. Somebody has to say that it shall, all the same.
fn allow_failover(world: &mut World) -> bool {
    let good = |id: &usize| world.members[*id].server.is_good() && !world.members[*id].is_foreign;
    let with_data: Vec<usize> = world.ids().filter(good).collect();
    let may_run = with_data
        .iter()
        .copied()
        .filter(|id| !world.members[*id].node.tags.nofailover());
    let cluster = world.dcs.newest();
    let is_behind = |id: &usize| {
        let optime = cluster.status.optime.unwrap_or_default();
        let Some(position) = world.position(*id) else {
            return true;
        };
        let timeline = world.wal.timeline(position.branch);
        position.lsn.behind(optime) > world.plan.maximum_lag_bytes
            || (world.plan.check_timeline && cluster.timeline().is_some_and(|known| timeline < known))
    };
    // Or it knows that the cluster did not go on with its timeline.
    let stands_back = |id: &usize| world.members[*id].agent.memory().stands_back;
    // The key failsafe lists only members whose data is gone.
    let is_left_out = |id: &usize| {
        let listed = cluster.failsafe.as_ref();
        listed.is_some_and(|listed| !listed.is_empty() && !listed.contains_key(world.members[*id].name()))
    };
    let may_lead = may_run.clone().filter(|id| !is_left_out(id)).count() > 0;
    if world.plan.is_failsafe && !may_lead && with_data.iter().any(is_left_out) {
        world.marks.hit("operator: removes the key failsafe");
        world.accepts_loss = true;
        world.write_by_hand(Key::Failsafe, "{}");
        return true;
    }
    match may_run.max_by_key(|id| world.position(*id).map(|position| position.lsn)) {
        // With synchronous replication those that may lack nothing may all have lost their data.
        Some(best) if is_behind(&best) || stands_back(&best) || world.plan.is_synchronous() => {
            world.marks.hit("operator: fails over");
            world.accepts_loss = true;
            world.ask_failover(best);
            true
        }
        Some(_) => false,
        None => {
            world.marks.hit("operator: removes nofailover");
            for member in &mut world.members {
                let mut node = (*member.node).clone();
                node.tags = ha::cluster::Tags::default();
                member.node = std::sync::Arc::new(node);
            }
            true
        }
    }
}

/// In a healthy cluster people switch over, and stop the primary's agent: nothing may get lost, nobody may have to wait.
fn hand_over(world: &mut World) {
    if world.violation.is_some() || world.members.iter().any(|member| member.is_foreign) {
        return;
    }
    let calm = world.plan.ttl() * 2 + Duration::from_secs(11);
    let end = world.now + calm;
    world.run_until(end);
    if world.violation.is_some() || !settle(world, "before a switchover") {
        return;
    }
    if world.plan.is_standby_cluster {
        hand_over_standby_cluster(world, calm);
        return;
    }
    let timeline = timeline(world);
    let (before, beginnings) = (world.last_primary, world.consumer.beginnings);
    world.inject(Fault::Switchover, 0);
    let end = world.now + world.plan.ttl() + Duration::from_secs(20);
    world.run_until_true(end, |world| world.last_primary != before);
    if !settle(world, "after a switchover") {
        return;
    }
    if world.last_primary != before {
        world.marks.hit("switchover in quiet");
    }
    let end = world.now + calm;
    world.run_until(end);
    let Some(primary) = (0..world.members.len()).find(|id| world.takes_writes(*id)) else {
        return;
    };
    world.stop_agent(primary, Some(Duration::ZERO));
    let end = world.now + Duration::from_secs(95);
    world.run_until_true(end, |world| world.last_primary != Some(primary));
    if world.last_primary != Some(primary) {
        world.marks.hit("graceful stop in quiet");
    }
    let end = world.now + Duration::from_secs(95);
    world.run_until(end);
    let is_settled = settle(world, "after a graceful stop");
    // A server that still hung may have brought one more failover than there were handovers.
    let is_quiet = self::timeline(world) <= timeline + 2;
    if is_settled && is_quiet && world.consumer.beginnings != beginnings {
        world.break_rule_text("the consumer of a logical slot had to begin anew in quiet".to_owned());
    }
}

/// The number of the primary's timeline.
fn timeline(world: &World) -> u32 {
    let primary = world.ids().find(|id| world.takes_writes(*id));
    let position = primary.and_then(|id| world.position(id));
    position.map_or(0, |position| world.wal.timeline(position.branch).0)
}

/// A healthy standby cluster gets another leader, changes places with the remote cluster, and back.
fn hand_over_standby_cluster(world: &mut World, calm: Duration) {
    let patience = world.plan.ttl() + Duration::from_secs(95);
    for fault in [Fault::Switchover, Fault::StopAgent] {
        let before = world.standby_leader();
        if fault == Fault::Switchover {
            world.ask_switchover();
        } else if let Some(leader) = before {
            world.stop_agent(leader, Some(Duration::ZERO));
        }
        let end = world.now + patience;
        world.run_until_true(end, |world| {
            world
                .standby_leader()
                .is_some_and(|leader| Some(leader) != before)
        });
        if world.standby_leader() != before {
            world.marks.hit("standby cluster: handed over in quiet");
        }
        let end = world.now + patience;
        world.run_until(end);
        if !settle(world, "after another standby leader was asked for") {
            return;
        }
    }
    for when in ["after the promotion of the cluster", "after its demotion"] {
        world.disturb();
        world.change_places();
        // A checkpoint after the remote promotion is waited for.
        let end = world.now + Duration::from_secs(10);
        world.run_until(end);
        if !settle(world, when) {
            return;
        }
        let end = world.now + calm;
        world.run_until(end);
    }
    world.marks.hit("standby cluster: there and back in quiet");
}

/// A store that refuses writes takes no primary away: the lease alone is the lock then.
fn fill_the_dcs(world: &mut World) {
    let why = [
        (Fault::FullStore, Refused::Full),
        (Fault::ReadOnlyStore, Refused::ReadOnly),
    ];
    for (fault, why) in why {
        let Some(primary) = calm_primary(world, fault, "before the store is full") else {
            continue;
        };
        let patience = world.plan.ttl() * 4;
        world.refuse_writes(why, patience * 2);
        let end = world.now + patience;
        if world.run_until_true(end, |world| !world.takes_writes(primary)) && world.violation.is_none() {
            world.break_rule(
                primary,
                &format!("stopped because the store refuses writes: {why}"),
            );
        }
        world.accept_writes();
        if settle(world, "after the store was full") && !world.takes_writes(primary) {
            world.break_rule(primary, "has lost its place because the store refused writes");
        }
        world.marks.hit("store: the primary stayed while it was full");
    }
}

/// A store that was wiped, or restored from a backup, takes no primary away, and nobody's data is touched.
fn replace_the_dcs(world: &mut World, backup: &Store) {
    for (fault, store) in [
        (Fault::WipeStore, Store::new()),
        (Fault::RestoreStore, backup.clone()),
    ] {
        let Some(primary) = calm_primary(world, fault, "before the store is replaced") else {
            continue;
        };
        let config = world
            .dcs
            .newest()
            .config
            .as_ref()
            .map(|config| config.value.clone());
        world.keeps_data = true;
        world.replace_store(&store);
        let end = world.now + world.plan.ttl() * 3;
        if world.run_until_true(end, |world| !world.takes_writes(primary)) && world.violation.is_none() {
            world.break_rule(primary, "stopped because the store was replaced");
        }
        if settle(world, "after the store was replaced") {
            let now = world
                .dcs
                .newest()
                .config
                .as_ref()
                .map(|config| config.value.clone());
            if !world.takes_writes(primary) {
                world.break_rule(primary, "has lost its place because the store was replaced");
            } else if now != config {
                world.break_rule_text(format!("the replaced store says {now:?}, not {config:?}"));
            }
        }
        world.keeps_data = false;
        world.marks.hit(match fault {
            Fault::WipeStore => "store: the primary stayed when it was wiped",
            _ => "store: the primary stayed when it was restored",
        });
    }
}

/// The primary of a cluster in which nothing is wrong, where `fault` is in play.
fn calm_primary(world: &mut World, fault: Fault, when: &str) -> Option<usize> {
    let is_whole = !world.members.iter().any(|member| member.is_foreign);
    let is_in_play = world.plan.faults.contains(&fault);
    if world.violation.is_some() || !is_in_play || !is_whole || !settle(world, when) {
        return None;
    }
    let end = world.now + world.plan.loop_wait() * 3 + Duration::from_secs(2);
    world.run_until(end);
    settle(world, when).then(|| world.ids().find(|id| world.takes_writes(*id)))?
}

/// With `failsafe_mode` a cluster in which nothing else is wrong keeps its primary however long the DCS is away.
fn lose_the_dcs(world: &mut World) {
    let is_whole = !world.members.iter().any(|member| member.is_foreign);
    if world.violation.is_some() || !world.plan.is_failsafe || !is_whole {
        return;
    }
    if !settle(world, "before the DCS goes") {
        return;
    }
    // The leader lists all members once it has seen them.
    let end = world.now + world.plan.loop_wait() * 3 + Duration::from_secs(2);
    world.run_until(end);
    let Some(primary) = (0..world.members.len()).find(|id| world.takes_writes(*id)) else {
        return;
    };
    world.dcs_outage(world.plan.ttl() * 4);
    let end = world.now + world.plan.ttl() * 4 + bound(world);
    let stopped = world.run_until_true(end, |world| !world.takes_writes(primary));
    if stopped && world.violation.is_none() {
        world.break_rule(primary, "stopped although all members answer");
    }
    if settle(world, "after the DCS was away") && !world.takes_writes(primary) {
        world.break_rule(primary, "has lost its place although all members answered");
    }
    world.marks.hit("failsafe: the primary stayed");
}

fn settle(world: &mut World, when: &str) -> bool {
    let end = world.now + bound(world);
    let settled = world.run_until_true(end, |world| world.trouble().is_none());
    if !settled && world.violation.is_none() {
        let trouble = world.trouble().unwrap_or_default();
        world.break_rule_text(format!("{when}: {trouble}"));
    }
    if settled && let Some(primary) = (0..world.members.len()).find(|id| world.takes_writes(*id)) {
        let position = world.position(primary);
        let lost = position.map_or(0, |position| world.ledger.lost(&world.wal, position));
        if lost > 0 {
            world.break_rule_text(format!("{when}: {lost} acknowledged writes are gone"));
            return false;
        }
    }
    settled
}
