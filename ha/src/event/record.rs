//! A cycle that did something, with all that it knew: written as JSON, it can be decided once more anywhere.

use serde::{Deserialize, Serialize};

use crate::cycle::{Entry, Facts};
use crate::facts::Given;
use crate::memory::Memory;
use crate::step::{Outcome, Step};

/// A cycle with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was given.
    pub given: Given,
    /// What was remembered before it.
    pub memory: Memory,
    /// What was asked and done, with the answers.
    pub journal: Vec<Entry>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Record {
    /// The cycle that has ended with `outcome`.
    #[must_use]
    pub fn new(facts: Facts, memory: Memory, outcome: Outcome) -> Self {
        Self {
            given: facts.given,
            memory,
            journal: facts.journal,
            outcome,
        }
    }

    /// Decides once more. `None` when the decision of today would take other steps.
    #[must_use]
    pub fn replay(&self) -> Option<Outcome> {
        let mut facts = Facts::new(self.given.clone());
        for entry in &self.journal {
            let mut memory = self.memory.clone();
            if !entry.is_meanwhile && crate::decide(&facts, &mut memory) != entry.step {
                return None;
            }
            facts.journal.push(entry.clone());
        }
        match crate::decide(&facts, &mut self.memory.clone()) {
            Step::Finish(outcome) => Some(*outcome),
            Step::Observe(_) | Step::Act(_) => None,
        }
    }
}
