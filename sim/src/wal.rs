//! What the write-ahead logs of all servers hold, and which of them agree.
//!
//! A timeline's *number* can be given twice: by two members that were promoted without knowing of each other. What was
//! written is told apart by its [`Branch`], which every promotion makes anew; the number is only what PostgreSQL shows.

use std::collections::BTreeMap;

use ha::cluster::Origin;
use ha::pg::{HistoryEntry, Lsn, Timeline};

/// The WAL that one server wrote between its promotion and its end as a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Branch(usize);

/// A place in the WAL: everything on the branch up to there, and what the branch grew from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// On which branch.
    pub(crate) branch: Branch,
    /// Up to where.
    pub(crate) lsn: Lsn,
}

#[derive(Debug)]
struct Begin {
    timeline: Timeline,
    parent: Option<Position>,
}

/// All branches that were ever written.
#[derive(Debug, Default)]
pub(crate) struct Wal {
    branches: Vec<Begin>,
}

impl Wal {
    /// Where the WAL of a cluster that was just created ends.
    pub(crate) fn create(&mut self) -> Position {
        self.branches.push(Begin {
            timeline: Timeline(1),
            parent: None,
        });
        Position {
            branch: Branch(self.branches.len() - 1),
            lsn: Lsn(0x4000_0000),
        }
    }

    /// A new branch from `parent` on.
    pub(crate) fn fork(&mut self, parent: Position, timeline: Timeline) -> Branch {
        self.branches.push(Begin {
            timeline,
            parent: Some(parent),
        });
        Branch(self.branches.len() - 1)
    }

    /// The number of the branch's timeline.
    #[must_use]
    pub(crate) fn timeline(&self, branch: Branch) -> Timeline {
        self.branches[branch.0].timeline
    }

    /// Which promotion the branch comes from; `None` of the first one.
    #[must_use]
    pub(crate) fn origin(&self, branch: Branch) -> Option<Origin> {
        let parent = self.branches[branch.0].parent?;
        Some(Origin {
            timeline: self.timeline(branch),
            switch_lsn: parent.lsn,
            nonce: branch.0 as u32,
        })
    }

    /// Where the branch begins.
    #[must_use]
    pub(crate) fn begin(&self, branch: Branch) -> Lsn {
        let parent = self.branches[branch.0].parent;
        parent.map_or(Lsn::ZERO, |parent| parent.lsn)
    }

    /// The branch's history file, oldest line first.
    #[must_use]
    pub(crate) fn history(&self, branch: Branch) -> Vec<HistoryEntry> {
        let mut entries = Vec::new();
        let mut at = branch;
        while let Some(parent) = self.branches[at.0].parent {
            entries.push(HistoryEntry {
                timeline: self.timeline(parent.branch),
                switch_lsn: parent.lsn,
                reason: "no recovery target specified".to_owned(),
            });
            at = parent.branch;
        }
        entries.reverse();
        entries
    }

    /// The branch and all that it grew from.
    #[must_use]
    pub(crate) fn lineage(&self, branch: Branch) -> Vec<Branch> {
        let mut lineage = vec![branch];
        let mut at = branch;
        while let Some(parent) = self.branches[at.0].parent {
            lineage.push(parent.branch);
            at = parent.branch;
        }
        lineage
    }

    /// Whether `part` lies on the way to `whole`.
    #[must_use]
    pub(crate) fn includes(&self, whole: Position, part: Position) -> bool {
        self.reach(whole)
            .get(&part.branch)
            .is_some_and(|end| part.lsn <= *end)
    }

    /// How much of each branch lies on the way to `whole`.
    #[must_use]
    pub(crate) fn reach(&self, whole: Position) -> BTreeMap<Branch, Lsn> {
        let mut reach = BTreeMap::from([(whole.branch, whole.lsn)]);
        let mut at = whole.branch;
        while let Some(parent) = self.branches[at.0].parent {
            reach.insert(parent.branch, parent.lsn);
            at = parent.branch;
        }
        reach
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_timelines_of_one_number_are_told_apart() {
        let mut wal = Wal::default();
        let root = wal.create();
        let later = Position {
            lsn: Lsn(root.lsn.0 + 100),
            ..root
        };
        let first = Position {
            branch: wal.fork(root, Timeline(2)),
            lsn: Lsn(root.lsn.0 + 50),
        };
        let second = Position {
            branch: wal.fork(later, Timeline(2)),
            lsn: Lsn(root.lsn.0 + 200),
        };
        assert!(wal.includes(first, root) && wal.includes(second, later));
        assert!(!wal.includes(first, later) && !wal.includes(second, first));
        assert_eq!(wal.history(second.branch)[0].switch_lsn, later.lsn);
    }
}
