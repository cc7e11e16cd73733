//! The cycle from top to bottom.
use crate::cycle::{Cycle, Facts, Flow};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::step::Step;

/// The next single step of a cycle, given everything known so far. Changes `memory` only with [`Step::Finish`].
pub fn decide(facts: &Facts, memory: &mut Memory) -> Step {
    let mut cycle = Cycle::new(facts, memory.clone());
    match run(&mut cycle) {
        Ok(reason) => {
            let (remembered, outcome) = cycle.finish(reason);
            *memory = remembered;
            Step::Finish(Box::new(outcome))
        }
        Err(step) => *step,
    }
}

fn run(_cycle: &mut Cycle<'_>) -> Flow<Reason> {
    Ok(Reason::NotRunning)
}
