//! The same for a second with every build.

use tamada_fuzz::{Mutator, TARGETS};

#[test]
fn no_reader_panics() {
    for target in &TARGETS {
        for seed in target.seeds {
            (target.read)(seed.as_bytes());
        }
        let mut mutator = Mutator::new(target, 1);
        for _ in 0..2_000 {
            (target.read)(&mutator.next_input());
        }
    }
}
