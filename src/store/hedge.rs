//! When a slow GET deserves a second one.

use std::time::Duration;

use parking_lot::Mutex;

/// Samples kept per class of lengths.
const KEPT: usize = 32;
/// Samples needed before anything counts as slow.
const NEEDED: usize = 16;
/// How many times the typical latency is slow.
const SLOW: u32 = 3;
/// Nothing faster than this is worth a second request.
const LEAST: Duration = Duration::from_millis(10);
/// Hedges per request in the long run, and at most in a row.
const SHARE: f32 = 0.05;
const BURST: f32 = 8.0;

/// Recent latencies by length, and the budget for second requests.
pub(super) struct Hedging {
    state: Mutex<State>,
}

struct State {
    classes: [Recent; 3],
    budget: f32,
}

#[derive(Default)]
struct Recent {
    micros: Vec<u32>,
    next: usize,
}

impl Default for Hedging {
    fn default() -> Self {
        Self { state: Mutex::new(State { classes: Default::default(), budget: BURST }) }
    }
}

fn class(len: u64) -> usize {
    match len {
        0..0x1_0000 => 0,
        0x1_0000..0x10_0000 => 1,
        _ => 2,
    }
}

impl Hedging {
    /// A GET of `len` bytes begins: after how long is it slow? `None` while nothing is known.
    pub(super) fn delay(&self, len: u64) -> Option<Duration> {
        let mut state = self.state.lock();
        state.budget = (state.budget + SHARE).min(BURST);
        let recent = &state.classes[class(len)].micros;
        if recent.len() < NEEDED {
            return None;
        }
        let mut sorted = [0; KEPT];
        let sorted = &mut sorted[..recent.len()];
        sorted.copy_from_slice(recent);
        let (_, median, _) = sorted.select_nth_unstable(recent.len() / 2);
        Some((SLOW * Duration::from_micros(u64::from(*median))).max(LEAST))
    }

    /// Takes a second request out of the budget.
    pub(super) fn take(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.budget >= 1.0;
        if may {
            state.budget -= 1.0;
        }
        may
    }

    /// A GET of `len` bytes took `took`.
    pub(super) fn record(&self, len: u64, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let recent = &mut self.state.lock().classes[class(len)];
        if recent.micros.len() < KEPT {
            recent.micros.push(micros);
        } else {
            recent.micros[recent.next] = micros;
        }
        recent.next = (recent.next + 1) % KEPT;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slow_is_a_multiple_of_the_median() {
        let hedging = Hedging::default();
        for n in 0..16 {
            assert_eq!(hedging.delay(4096), None);
            let took = if n % 4 == 0 { 500 } else { 20 };
            hedging.record(4096, Duration::from_millis(took));
        }
        assert_eq!(hedging.delay(4096), Some(Duration::from_millis(60)));
        assert_eq!(hedging.delay(8 << 20), None, "lengths are judged among their like");
        for _ in 0..32 {
            hedging.record(4096, Duration::from_micros(100));
        }
        assert_eq!(hedging.delay(4096), Some(LEAST));
    }

    #[test]
    fn second_requests_are_a_bounded_share() {
        let hedging = Hedging::default();
        let mut taken = 0;
        for _ in 0..1000 {
            assert_eq!(hedging.delay(1), None);
            taken += u32::from(hedging.take());
        }
        assert!((50..=60).contains(&taken), "{taken}");
    }
}
