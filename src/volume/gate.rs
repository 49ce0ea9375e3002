//! Gates that order whole-block writes against read-modify-writes of the same blocks.
//!
//! Whatever changes blocks holds the gates of its range shared from before it takes its operation number until the
//! index shows it. A read-modify-write holds the gates of its edge blocks exclusively from reading the block (in
//! memory, at once) until the index shows the merged one. So no update between the two is lost. Nothing ever waits
//! for the store, or for ring space, with a gate held.

use smallvec::SmallVec;

use crate::sync::{self, RwLock, RwLockReadGuard, RwLockWriteGuard};

const GATES: usize = 64;
/// Blocks that share a gate: 1 MiB.
const STRIPE: u64 = 256;

/// See the module.
pub(super) struct Gates {
    gates: Vec<RwLock<()>>,
}

/// Gates held shared.
pub(super) struct Shared<'a> {
    _held: SmallVec<[RwLockReadGuard<'a, ()>; 2]>,
}

/// Gates held exclusively.
pub(super) struct Exclusive<'a> {
    _held: SmallVec<[RwLockWriteGuard<'a, ()>; 2]>,
}

impl Gates {
    pub(super) fn new() -> Self {
        Self { gates: (0..GATES).map(|_| RwLock::new(())).collect() }
    }

    /// Shared hold of the gates of a range of blocks.
    pub(super) fn shared(&self, lba: u64, blocks: u64) -> Shared<'_> {
        Shared { _held: stripes(lba, blocks).iter().map(|g| self.gates[*g].read()).collect() }
    }

    /// Exclusive hold of the gates of a range of blocks.
    pub(super) fn exclusive(&self, lba: u64, blocks: u64) -> Exclusive<'_> {
        Exclusive { _held: stripes(lba, blocks).iter().map(|g| self.gates[*g].write()).collect() }
    }
}

/// The gates of a range, ascending and each once: the order in which everybody takes them.
fn stripes(lba: u64, blocks: u64) -> SmallVec<[usize; 2]> {
    let first = lba / STRIPE;
    let last = lba.saturating_add(blocks.max(1) - 1) / STRIPE;
    if last - first + 1 >= GATES as u64 {
        return (0..GATES).collect();
    }
    let mut v: SmallVec<[usize; 2]> = (first..=last).map(|s| (s % GATES as u64) as usize).collect();
    if !sync::weak("gates in any order") {
        v.sort_unstable();
    }
    v.dedup();
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_come_in_order_and_once() {
        assert_eq!(stripes(0, 256).as_slice(), [0]);
        assert_eq!(stripes(255, 2).as_slice(), [0, 1]);
        assert_eq!(stripes(63 * 256, 512).as_slice(), [0, 63]);
        assert_eq!(stripes(5, 1 << 40).len(), GATES);
    }
}
