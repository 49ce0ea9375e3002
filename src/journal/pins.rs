//! Short pins of readers: freed space is not reused before every reader that pinned earlier has left.
//!
//! Readers count themselves in one of two counters, that of the current phase. Whoever wants to reuse space turns the
//! phase and waits until the counter of the old one is zero; new readers count in the other and see the new tail.

use crate::sync;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Counters of readers.
#[derive(Default)]
pub(super) struct Pins {
    phase: AtomicU64,
    readers: [AtomicU64; 2],
    waiting: AtomicBool,
}

/// A reader's pin, to give back to [`Pins::leave`].
pub(super) struct Pin {
    phase: u64,
    tell: bool,
}

impl Pins {
    /// Pins. A reader that finds a tail after this call relies on it until [`Pins::leave`].
    pub fn enter(&self) -> Pin {
        let mut tell = false;
        loop {
            let phase = self.phase.load(SeqCst);
            self.readers[(phase % 2) as usize].fetch_add(1, SeqCst);
            if self.phase.load(SeqCst) == phase || sync::weak("a pin without a second look") {
                return Pin { phase, tell };
            }
            // The phase turned in between: the old counter may have been found zero already, so it does not protect.
            // Or it was found not zero because of us: then leaving it must be told.
            tell |= self.count_out(phase);
        }
    }

    /// Unpins; true if somebody waits and may go on now.
    pub fn leave(&self, pin: Pin) -> bool {
        self.count_out(pin.phase) || pin.tell
    }

    fn count_out(&self, phase: u64) -> bool {
        self.readers[(phase % 2) as usize].fetch_sub(1, SeqCst) == 1 && self.waiting.load(SeqCst)
    }

    /// Turns the phase; answers the old one. Only while no reader of the phase before that one is waited for.
    pub fn turn(&self) -> u64 {
        self.phase.fetch_add(1, SeqCst)
    }

    /// Whether no reader of `phase` is left; `phase` is not the current one.
    pub fn left(&self, phase: u64) -> bool {
        self.readers[(phase % 2) as usize].load(SeqCst) == 0
    }

    /// Says whether the last reader to leave must tell.
    pub fn set_waiting(&self, on: bool) {
        self.waiting.store(on, SeqCst);
    }
}
