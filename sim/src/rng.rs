//! Random numbers from a seed: the same on every machine, one stream per purpose.

use std::ops::Range;
use std::time::Duration;

/// A stream of random numbers (splitmix64).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed` for one purpose: drawing from one stream leaves the others as they are.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut rng = Self(seed ^ 0x5851_f42d_4c95_7f2d);
        for byte in purpose.bytes() {
            rng.0 = rng.next().wrapping_add(u64::from(byte));
        }
        rng
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `range`, which is not empty.
    pub fn in_range(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "an empty range");
        range.start + self.next() % (range.end - range.start)
    }

    /// An index below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.in_range(0..n as u64) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        ((self.next() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A time between `least` and `most`, each order of magnitude as likely as another: the heavy tail of real life.
    pub fn time(&mut self, least: Duration, most: Duration) -> Duration {
        let (low, high) = (least.as_micros().max(1) as f64, most.as_micros().max(2) as f64);
        let at = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_micros((low * (high / low).powf(at)) as u64)
    }

    /// Fills `buf`.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_purpose_and_repeat_by_seed() {
        let first = |seed, purpose| Rng::new(seed, purpose).next();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_ne!(first(1, "a"), first(2, "a"));
        let mut rng = Rng::new(3, "x");
        for _ in 0..1000 {
            let t = rng.time(Duration::from_millis(1), Duration::from_secs(100));
            assert!((Duration::from_millis(1)..=Duration::from_secs(100)).contains(&t));
        }
        assert!(!rng.chance(0.0) && rng.chance(1.0));
    }
}
