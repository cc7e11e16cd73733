//! The order in which `synchronous_standby_names` and the key `sync` change, so that whoever may take over has every
//! commit that was acknowledged.
//!
//! **The claim.** The key `sync` of a leader with voters `V` and quorum `q` claims: *every acknowledged commit is lacked
//! by at most `q` members of `V`.* As WAL is sequential, a member that is not behind `q` others of `V` and itself has
//! everything then: of `q + 1` members at least one has the commit, and it is not ahead. This is what a race asks for.
//!
//! **What makes it true.** A commit under `synchronous_standby_names = k of S` is lacked by at most `|S| - k` members
//! of `S`, and perhaps by all others. So a setting is brought into force only while the claim that is published holds
//! for it, and a claim is published only when it holds for the setting in force and for all that was acknowledged
//! before: because the claim before it says so, or because members were seen to have everything up to a position that
//! the primary had when the setting was in force already (*reached*).
//!
//! With `q = 0` and all of `S` to be waited for this is `synchronous_mode: on`: whoever is listed has everything. The
//! same rules move between both modes, and in and out of them.

use std::collections::BTreeSet;

use crate::pg::MemberName;
use crate::standby_names::{Method, StandbyNames};

/// What the key `sync` claims of its voters: that at most `quorum` of them lack an acknowledged commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Claim {
    /// The members that may take over, without the leader.
    pub voters: BTreeSet<MemberName>,
    /// How many of them may lack something.
    pub quorum: usize,
}

impl Claim {
    /// Whether the claim holds for what is acknowledged under this setting.
    #[must_use]
    pub fn holds_under(&self, names: &StandbyNames) -> bool {
        names.may_lack(&self.voters) <= self.quorum
    }

    /// How many of `members` may be away, and the others still find somebody to take over.
    fn spares(&self, members: &BTreeSet<MemberName>) -> isize {
        let there = self.voters.intersection(members).count();
        there.cast_signed() - self.quorum.cast_signed()
    }
}

/// Where the primary stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Situation {
    /// What is published.
    pub claim: Claim,
    /// `synchronous_standby_names` in force.
    pub names: StandbyNames,
    /// Standbys that have everything that was acknowledged before `names` were in force.
    pub reached: BTreeSet<MemberName>,
}

/// Where it shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `synchronous_standby_names`.
    pub names: StandbyNames,
    /// The voters once all have reached what they must.
    pub voters: BTreeSet<MemberName>,
    /// Members that stream.
    pub live: BTreeSet<MemberName>,
    /// Members count votes in a race (`synchronous_mode: quorum`). Otherwise whoever is a voter may take over without
    /// asking, and only a quorum of 0 may be published.
    pub counts_votes: bool,
}

impl Target {
    /// The claim to arrive at.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim {
            quorum: self.names.may_lack(&self.voters),
            voters: self.voters.clone(),
        }
    }
}

/// One change; each is safe by itself, whatever happens between two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write the key `sync`.
    Publish(Claim),
    /// Bring another setting into force.
    Arm(StandbyNames),
}

impl Situation {
    /// How many of `members` may lack something that was acknowledged so far.
    fn may_lack(&self, members: &BTreeSet<MemberName>) -> usize {
        let lagging: BTreeSet<&MemberName> = members.difference(&self.reached).collect();
        let claimed = lagging
            .iter()
            .filter(|name| self.claim.voters.contains(**name))
            .count();
        lagging.len() - claimed + claimed.min(self.claim.quorum)
    }

    /// The next change on the way to `target`; `None` when it is reached, or standbys have to catch up first.
    #[must_use]
    pub fn next(&self, target: &Target) -> Option<Change> {
        if self.names == target.names {
            let best = self.best_claim(target, &[&self.names]);
            return (best != self.claim).then_some(Change::Publish(best));
        }
        let between = self.between(&target.names);
        let settings: Vec<&StandbyNames> = [&self.names, &target.names].into_iter().chain(&between).collect();
        let holds = settings.iter().all(|names| self.claim.holds_under(names));
        if holds && self.is_acceptable(&self.claim, target) {
            return Some(Change::Arm(target.names.clone()));
        }
        let best = self.best_claim(target, &settings);
        (best != self.claim).then_some(Change::Publish(best))
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn has_arrived(&self, target: &Target) -> bool {
        self.names == target.names && self.claim == target.claim()
    }

    /// The setting that is in force for a moment while the server's processes read a new one. By priority a standby
    /// releases commits only when it is itself among those that are waited for, so that the two do not mix.
    fn between(&self, next: &StandbyNames) -> Option<StandbyNames> {
        let by_priority = self.names.method == Method::First && next.method == Method::First;
        let is_off = self.names.is_off() || next.is_off();
        (!by_priority && !is_off).then(|| next.mixed_with(&self.names))
    }

    fn is_acceptable(&self, claim: &Claim, target: &Target) -> bool {
        target.counts_votes || claim.quorum == 0
    }

    /// Of the claims that hold now and will under all of `settings`, the one with which the most members may be away.
    fn best_claim(&self, target: &Target, settings: &[&StandbyNames]) -> Claim {
        let known = |voters: BTreeSet<MemberName>| {
            let later = settings.iter().map(|names| names.may_lack(&voters)).max();
            Claim {
                quorum: self.may_lack(&voters).max(later.unwrap_or(0)),
                voters,
            }
        };
        let (now, then) = (&self.claim.voters, &target.voters);
        let reached: BTreeSet<MemberName> = self.reached.union(now).cloned().collect();
        let common: BTreeSet<MemberName> = settings.iter().fold(reached.clone(), |all, names| {
            all.intersection(&names.names).cloned().collect()
        });
        let ideal = known(then.clone());
        if ideal == target.claim() && self.is_acceptable(&ideal, target) && settings.len() == 1 {
            return ideal;
        }
        let options = [
            now.clone(),
            then.clone(),
            now.union(then).cloned().collect(),
            now.intersection(then).cloned().collect(),
            reached.intersection(then).cloned().collect(),
            common.intersection(then).cloned().collect(),
            common,
            BTreeSet::new(),
        ];
        let value = |claim: &Claim| {
            let is_current = *claim == self.claim;
            (
                claim.spares(&target.live),
                is_current,
                usize::MAX - claim.voters.len(),
            )
        };
        options
            .into_iter()
            .map(known)
            .filter(|claim| self.is_acceptable(claim, target))
            .max_by_key(value)
            .unwrap_or_default()
    }
}
