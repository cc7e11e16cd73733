//! Inputs that are nearly right: they get further than noise does.

use fastrand::Rng;

use crate::Target;

/// An input does not grow beyond this, in bytes: what is wrong shows in short ones, and these are quick.
const LONGEST: usize = 4096;

/// Makes inputs for one target, the same for the same seed.
pub struct Mutator {
    random: Rng,
    /// What to begin with.
    corpus: Vec<Vec<u8>>,
    words: &'static [&'static str],
}

impl Mutator {
    /// For `target`; `seed` says which inputs.
    #[must_use]
    pub fn new(target: &Target, seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            corpus: target.seeds.iter().map(|text| text.as_bytes().to_vec()).collect(),
            words: target.words,
        }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.any();
        for _ in 0..=self.random.usize(..6) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        // Now and then one that was made is the begin of others.
        if self.random.u16(..) == 0 {
            let place = self.random.usize(..self.corpus.len().max(64));
            match self.corpus.get_mut(place) {
                Some(old) if place >= 16 => old.clone_from(&input),
                Some(_) => {}
                None => self.corpus.push(input.clone()),
            }
        }
        input
    }

    fn any(&mut self) -> Vec<u8> {
        match self.corpus.len() {
            0 => Vec::new(),
            length => self.corpus[self.random.usize(..length)].clone(),
        }
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.usize(..=input.len());
        let to = (at + self.random.usize(..=32)).min(input.len());
        match self.random.u8(..7) {
            0 => input.insert(at, self.random.u8(..)),
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.random.u8(..8);
                }
            }
            2 => drop(input.drain(at..to)),
            3 => {
                let copy = input[at..to].to_vec();
                let place = self.random.usize(..=input.len());
                input.splice(place..place, copy);
            }
            4 => {
                let other = self.any();
                let from = self.random.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                if let Some(word) = self.random.choice(self.words) {
                    input.splice(at..at, word.bytes());
                }
            }
        }
    }
}
