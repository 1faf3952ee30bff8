//! Taking the time of contenders, interleaved.

use std::time::Duration;

use super::Result;
use super::contender::Contender;

/// The times that one contender took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// In microseconds.
    pub(crate) fn median(&self) -> f64 {
        self.at(self.0.len() / 2)
    }

    /// In microseconds.
    pub(crate) fn min(&self) -> f64 {
        self.at(0)
    }

    fn at(&self, rank: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// Runs every contender once in each round, and adds the times to what is there.
pub(crate) fn interleave(contenders: &[&Contender], rounds: usize, samples: &mut [Samples]) -> Result {
    in_turns(contenders.len(), rounds, |index| {
        if let (Some(contender), Some(samples)) = (contenders.get(index), samples.get_mut(index)) {
            contender.prepare()?;
            samples.push(contender.timed()?);
        }
        Ok(())
    })
}

/// Calls `run` with each number below `count` once in each round.
///
/// Interleaved, noise hits all alike; and in an order that changes from round to round, nobody always pays for what
/// the same contender before it has left to the kernel to clean up.
pub(crate) fn in_turns(count: usize, rounds: usize, mut run: impl FnMut(usize) -> Result) -> Result {
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = Random::default();
    for _ in 0..rounds {
        random.shuffle(&mut order);
        order.iter().try_for_each(|index| run(*index))?;
    }
    Ok(())
}

/// A generator that gives the same numbers in each run: Marsaglia's xorshift.
struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            order.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}
