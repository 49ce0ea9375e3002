//! How many requests of a connection wait for the device, and how many bytes they and their replies hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// The bounds of one connection.
#[derive(Debug)]
pub(crate) struct Slots {
    max_ops: usize,
    max_bytes: usize,
    held: Mutex<Held>,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    ops: usize,
    bytes: usize,
    write_ops: usize,
    write_bytes: usize,
}

/// A waiting request's share; given back when its reply is on its way, or when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    write: bool,
    bytes: usize,
}

impl Slots {
    pub(crate) fn new(max_ops: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_ops: max_ops.max(1), max_bytes, held: Mutex::default(), room: Condvar::new() })
    }

    /// Takes a share. Writes get three quarters at most, so that reads go on while writes wait for a full buffer.
    /// What waits alone is let in at any size.
    pub(crate) fn try_take(self: &Arc<Self>, write: bool, bytes: usize) -> Option<Slot> {
        self.grant(&mut self.held.lock(), write, bytes)
    }

    /// The same, waiting up to `patience` for room.
    pub(crate) fn take(self: &Arc<Self>, write: bool, bytes: usize, patience: Duration) -> Option<Slot> {
        let until = Instant::now() + patience;
        let mut held = self.held.lock();
        loop {
            if let Some(slot) = self.grant(&mut held, write, bytes) {
                return Some(slot);
            }
            if self.room.wait_until(&mut held, until).timed_out() {
                return None;
            }
        }
    }

    fn grant(self: &Arc<Self>, held: &mut Held, write: bool, bytes: usize) -> Option<Slot> {
        let fits = |ops: usize, sum: usize, max_ops: usize, max_bytes: usize| {
            ops == 0 || (ops < max_ops && sum.saturating_add(bytes) <= max_bytes)
        };
        if !fits(held.ops, held.bytes, self.max_ops, self.max_bytes) {
            return None;
        }
        if write {
            if !fits(held.write_ops, held.write_bytes, self.max_ops.div_ceil(4) * 3, self.max_bytes / 4 * 3) {
                return None;
            }
            held.write_ops += 1;
            held.write_bytes += bytes;
        }
        held.ops += 1;
        held.bytes += bytes;
        Some(Slot { slots: self.clone(), write, bytes })
    }

    /// Waits until nothing is held any more; false where that takes longer than `patience`.
    pub(crate) fn wait_idle(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut held = self.held.lock();
        while held.ops > 0 {
            if self.room.wait_until(&mut held, until).timed_out() {
                return held.ops == 0;
            }
        }
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.slots.held.lock();
        held.ops -= 1;
        held.bytes -= self.bytes;
        if self.write {
            held.write_ops -= 1;
            held.write_bytes -= self.bytes;
        }
        drop(held);
        self.slots.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_leave_room_for_reads() {
        let slots = Slots::new(8, 1 << 20);
        let writes: Vec<_> = std::iter::from_fn(|| slots.try_take(true, 16)).collect();
        assert_eq!(writes.len(), 6);
        let reads: Vec<_> = std::iter::from_fn(|| slots.try_take(false, 16)).collect();
        assert_eq!(reads.len(), 2);
        drop(writes);
        assert!(slots.try_take(true, 16).is_some());
        assert!(!slots.wait_idle(Duration::from_millis(1)));
        drop(reads);
        assert!(slots.wait_idle(Duration::ZERO));
    }

    #[test]
    fn bytes_are_bounded_but_one_request_always_goes() {
        let slots = Slots::new(100, 1000);
        let big = slots.try_take(true, 5000).expect("what waits alone is let in");
        assert!(slots.try_take(false, 1).is_none());
        drop(big);
        let _half = slots.try_take(true, 700).expect("there is room");
        assert!(slots.try_take(true, 100).is_none(), "writes have three quarters");
        assert!(slots.try_take(false, 300).is_some());
        assert!(slots.take(false, 301, Duration::from_millis(1)).is_none());
    }
}
