//! How long an attempt may take, how long to wait before the next, when to give up.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::Inner;
use super::error::{About, Fault, StoreError};
use super::options::Patience;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Where an operator must act, asking more often than this helps nobody.
const LONGEST_PERMANENT_PAUSE: Duration = Duration::from_secs(60);
/// The rate in bytes/s at which a body must move, at the first attempt.
const SLOWEST: u64 = 512 << 10;
/// The most that time limits grow: 32 KiB/s at the slowest, times [`SLOWEST`].
const MAX_SCALE: u32 = 16;
/// Bodies that say something about the speed of the line.
const TELLING: u64 = 1 << 20;

/// Time limits of attempts. A slow line must not time out every 8 MiB body again and again, so what large bodies
/// needed lately is remembered for the next.
pub(super) struct Pace {
    base: Duration,
    scale: AtomicU32,
}

impl Pace {
    pub(super) fn new(base: Duration) -> Pace {
        Pace { base, scale: AtomicU32::new(1) }
    }

    /// The limit for a body of `len` bytes after `timeouts` attempts of the same request ran out of time.
    pub(super) fn limit(&self, len: u64, timeouts: u32) -> Duration {
        let learned = if len >= TELLING { self.scale.load(Ordering::Relaxed) } else { 1 };
        self.plain(len) * (learned << timeouts.min(4)).min(MAX_SCALE)
    }

    fn plain(&self, len: u64) -> Duration {
        self.base + Duration::from_millis(len * 1000 / SLOWEST)
    }

    /// A body of `len` bytes took `took`.
    pub(super) fn learn(&self, len: u64, took: Duration) {
        if len < TELLING {
            return;
        }
        // Twice what was needed, as a power of two.
        let needed = (2 * took.as_millis() / self.plain(len).as_millis().max(1)) as u32 + 1;
        let needed = needed.next_power_of_two().min(MAX_SCALE);
        let now = self.scale.load(Ordering::Relaxed);
        self.scale.store(needed.max(now / 2).max(1), Ordering::Relaxed);
    }
}

/// The attempts of one request.
pub(super) struct Retrying<'a> {
    store: &'a Inner,
    about: About<'a>,
    patience: Patience,
    begun: Duration,
    /// Nanoseconds that it waited for a turn.
    excused: AtomicU64,
    attempts: u32,
    /// Attempts that ran out of time.
    pub timeouts: u32,
}

impl<'a> Retrying<'a> {
    pub(super) fn new(store: &'a Inner, about: About<'a>, patience: Patience) -> Self {
        Self {
            store,
            about,
            patience,
            begun: store.env.clock.now(),
            excused: AtomicU64::new(0),
            attempts: 0,
            timeouts: 0,
        }
    }

    /// Takes time that the limits cost out of the reckoning: nothing fails because of them alone.
    pub(super) fn excuse(&self, waited: Duration) {
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.excused.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What is left of the patience.
    pub(super) fn left(&self) -> Patience {
        match self.patience {
            Patience::Forever => Patience::Forever,
            Patience::For(all) => {
                let gone = self.store.env.clock.now().saturating_sub(self.begun);
                let excused = Duration::from_nanos(self.excused.load(Ordering::Relaxed));
                Patience::For(all.saturating_sub(gone.saturating_sub(excused)))
            }
        }
    }

    /// The time limit of the next attempt for a body of `len` bytes.
    pub(super) fn limit(&self, len: u64) -> Duration {
        let limit = self.store.pace.limit(len, self.timeouts);
        match self.left() {
            Patience::Forever => limit,
            Patience::For(left) => limit.min(left),
        }
    }

    /// Waits before the next attempt, or says why there is none.
    pub(super) async fn again(&mut self, fault: Fault) -> Result<(), StoreError> {
        let (error, permanent) = match fault {
            Fault::Final(e) => return Err(e),
            Fault::Exists => (self.about.other("something is there already"), true),
            Fault::Permanent(e) => (e, true),
            Fault::Transient(e, timed_out) => {
                self.timeouts += u32::from(timed_out);
                (e, false)
            }
        };
        let mut pause = self.pause(permanent);
        self.attempts += 1;
        match (self.patience, self.left()) {
            (Patience::For(_), _) if permanent => return Err(error),
            // The time that was promised is used up: the last attempts come closer together.
            (Patience::For(_), Patience::For(left)) if left > FIRST_PAUSE => pause = pause.min(left / 2),
            (Patience::For(all), _) => {
                return Err(StoreError::Timeout {
                    op: self.about.op,
                    key: self.about.key.to_string(),
                    after: all,
                    last: error.to_string(),
                });
            }
            (Patience::Forever, _) => {}
        }
        if permanent {
            tracing::warn!(attempt = self.attempts, "{error}; trying again in {pause:?}");
        } else {
            tracing::debug!(attempt = self.attempts, "{error}; trying again in {pause:?}");
        }
        self.store.env.clock.sleep(pause).await;
        Ok(())
    }

    /// Doubles from attempt to attempt; somewhere in the upper half of that, so that clients do not march in step.
    fn pause(&self, permanent: bool) -> Duration {
        let (first, most) =
            if permanent { (LONGEST_PAUSE, LONGEST_PERMANENT_PAUSE) } else { (FIRST_PAUSE, LONGEST_PAUSE) };
        let full = first.saturating_mul(1 << self.attempts.min(10)).min(most);
        let mut random = [0; 4];
        self.store.env.entropy.fill(&mut random);
        full.mul_f64(0.5 + 0.5 * f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_grow_with_bodies_and_timeouts_and_learn_a_slow_line() {
        let pace = Pace::new(Duration::from_secs(15));
        assert_eq!(pace.limit(0, 0), Duration::from_secs(15));
        assert_eq!(pace.limit(8 << 20, 0), Duration::from_secs(31));
        assert_eq!(pace.limit(8 << 20, 1), Duration::from_secs(62));
        assert_eq!(pace.limit(8 << 20, 99), Duration::from_secs(31 * 16));
        pace.learn(8 << 20, Duration::from_secs(50));
        assert_eq!(pace.limit(8 << 20, 0), Duration::from_secs(31 * 4));
        assert_eq!(pace.limit(100, 0), Duration::from_secs(15), "small requests stay quick to give up");
        for _ in 0..5 {
            pace.learn(8 << 20, Duration::from_secs(1));
        }
        assert_eq!(pace.limit(8 << 20, 0), Duration::from_secs(31));
    }
}
