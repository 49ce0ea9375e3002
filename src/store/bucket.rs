//! Tokens that come in at a steady rate.

use std::time::Duration;

/// How much of a second's tokens a bucket holds: what may go at once after a rest.
const HOLDS: f64 = 0.25;

/// A token bucket. It may go below zero: what is larger than the bucket is let through when it is full, and paid off after.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    /// Per second.
    rate: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    /// A full one. A rate below one in four seconds would take turns with eternity: one is the least.
    pub(super) fn new(rate: f64, now: Duration) -> Bucket {
        let rate = rate.max(1.0);
        Bucket { rate, tokens: (rate * HOLDS).max(1.0), at: now }
    }

    fn most(&self) -> f64 {
        (self.rate * HOLDS).max(1.0)
    }

    fn level(&self, now: Duration) -> f64 {
        (self.tokens + now.saturating_sub(self.at).as_secs_f64() * self.rate).min(self.most())
    }

    /// How long until `need` tokens may be taken.
    pub(super) fn wait(&self, need: f64, now: Duration) -> Duration {
        let missing = need.min(self.most()) - self.level(now);
        // Less than a millionth is the rounding of floating point.
        if missing <= 1e-6 * need.max(1.0) || need == 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(missing / self.rate)
    }

    /// Takes tokens, or gives them back.
    pub(super) fn take(&mut self, amount: f64, now: Duration) {
        self.tokens = (self.level(now) - amount).min(self.most());
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_up_and_no_further() {
        let mut b = Bucket::new(100.0, Duration::ZERO);
        assert_eq!(b.wait(25.0, Duration::ZERO), Duration::ZERO);
        b.take(25.0, Duration::ZERO);
        assert_eq!(b.wait(1.0, Duration::ZERO), Duration::from_millis(10));
        assert_eq!(b.wait(0.0, Duration::ZERO), Duration::ZERO);
        let later = Duration::from_secs(100);
        assert_eq!(b.level(later), 25.0);
        b.take(-50.0, later);
        assert_eq!(b.level(later), 25.0);
    }

    #[test]
    fn what_is_larger_is_let_through_and_paid_off() {
        let mut b = Bucket::new(100.0, Duration::ZERO);
        assert_eq!(b.wait(1000.0, Duration::ZERO), Duration::ZERO);
        b.take(1000.0, Duration::ZERO);
        assert_eq!(b.wait(1.0, Duration::ZERO), Duration::from_millis(9760));
    }
}
