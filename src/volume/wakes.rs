//! When a write wakes the cutter: the first one after idleness, and the one that fills a segment. No others.

use tokio::sync::Notify;

use super::engine::Engine;
use crate::sync;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// See the module.
#[derive(Default)]
pub(super) struct Wakes {
    appended: AtomicU64,
    cut: AtomicU64,
    idle_armed: AtomicBool,
    full_armed: AtomicBool,
}

impl Wakes {
    /// A write of `bytes` is about to be marked complete.
    pub(super) fn appending(&self, bytes: u64) {
        self.appended.fetch_add(bytes, Ordering::SeqCst);
    }

    /// The write is complete: wakes the cutter if it wants to know.
    pub(super) fn appended(&self, segment_bytes: u64, cutter: &Notify) {
        let idle = self.idle_armed.load(Ordering::SeqCst) && self.idle_armed.swap(false, Ordering::SeqCst);
        let full = self.uncut() >= segment_bytes
            && self.full_armed.load(Ordering::SeqCst)
            && self.full_armed.swap(false, Ordering::SeqCst);
        if idle || full {
            cutter.notify_one();
        }
    }

    /// Bytes of writes that no segment carries.
    pub(super) fn uncut(&self) -> u64 {
        self.appended.load(Ordering::SeqCst).saturating_sub(self.cut.load(Ordering::SeqCst))
    }

    /// The cutter put `bytes` into a segment.
    pub(super) fn cut(&self, bytes: u64) {
        self.cut.fetch_add(bytes, Ordering::SeqCst);
    }

    /// The cutter looks: the last operation number given, and the bytes not cut. Flags are armed before the look, so a
    /// write that it does not see wakes it.
    pub(super) fn look(&self, engine: &Engine) -> (u64, u64) {
        self.full_armed.store(true, Ordering::SeqCst);
        let mut last_op = engine.ring.next_op() - 1;
        let idle = last_op == engine.log.lock().cut_op;
        sync::step();
        self.idle_armed.store(idle, Ordering::SeqCst);
        if idle && !sync::weak("no look after arming") {
            last_op = engine.ring.next_op() - 1;
        }
        let uncut = self.uncut();
        if uncut >= engine.tuning.segment_bytes as u64 {
            self.full_armed.store(false, Ordering::SeqCst);
        }
        (last_op, uncut)
    }
}
