//! The only source of chance: a small generator (SplitMix64), so that a seed replays a run for ever.

use std::time::Duration;

/// A stream of numbers that follows from its seed alone.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of `seed`.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// An index into something of this length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration from `low` to `high`, both in milliseconds, with microseconds between.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        let span = high.saturating_sub(low).saturating_mul(1000);
        Duration::from_micros(low * 1000 + self.below(span + 1))
    }

    /// Mostly from `low` to `high` milliseconds; in so many of a hundred cases up to `worst`.
    pub(crate) fn mostly(&mut self, low: u64, high: u64, percent: u64, worst: u64) -> Duration {
        if self.percent(percent) {
            self.millis(high, worst)
        } else {
            self.millis(low, high)
        }
    }

    /// One of these; `None` of none.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.index(of.len());
        of.get(index)
    }
}
