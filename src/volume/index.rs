//! The in-memory index of what the journal holds: block to place in the ring, or "reads as zeroes".
//!
//! A higher operation number always wins. Readers look at trims first and slots second; the publisher drops slots
//! first and trims second: so a reader never finds an old slot whose trim is already gone. In between, a trim can
//! outlive a slot that was newer: so a trim that the map shows already ([`WriteIndex::published`]) decides nothing by
//! itself any more, the map does.
//!
//! A reader copies out of the ring while it holds the shard's lock, and entries are dropped under that lock before
//! the ring's space is freed: no reader is left in space that is reused.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::ranges::OpRanges;
use crate::probe::{Mutant, planted};
use crate::segment::EXTENT_BLOCKS;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const SHARDS: usize = 64;

/// One block's newest write: its operation number (0: none) and the ring position of its 4 KiB.
#[derive(Clone, Copy, Default)]
struct Slot {
    op: u64,
    at: u64,
}

type Slots = [Slot; EXTENT_BLOCKS as usize];
type Shard = HashMap<u64, Slots, FxBuildHasher>;

/// What the index knows of some blocks of one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Known {
    /// Blocks whose newest content is in the ring (and was handed to the visitor).
    pub data: u8,
    /// Blocks that read as zeroes because of a trim newer than anything else.
    pub zero: u8,
}

/// See the module.
pub(super) struct WriteIndex {
    shards: Vec<RwLock<Shard>>,
    trims: RwLock<OpRanges>,
    trim_count: AtomicUsize,
    published: AtomicU64,
}

impl WriteIndex {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            trims: RwLock::default(),
            trim_count: AtomicUsize::new(0),
            published: AtomicU64::new(0),
        }
    }

    fn shard(&self, extent: u64) -> &RwLock<Shard> {
        // Neighbouring extents in different shards: a large request spreads over the locks.
        &self.shards[(extent as usize) % SHARDS]
    }

    /// Enters a write of `blocks` blocks at `lba`, whose data lies at `at` in the ring.
    pub(super) fn insert_write(&self, op: u64, lba: u64, blocks: u64, at: u64) {
        for_extents(lba, blocks, |extent, _, mask| {
            let mut shard = self.shard(extent).write();
            let slots = shard.entry(extent).or_default();
            for i in bits(mask) {
                let slot = &mut slots[i as usize];
                let newer = if planted(Mutant::LowerNumberWins) { slot.op == 0 || op < slot.op } else { op > slot.op };
                if newer {
                    let block = extent * EXTENT_BLOCKS + u64::from(i);
                    *slot = Slot { op, at: at + (block - lba) * crate::segment::BLOCK as u64 };
                }
            }
        });
    }

    /// Enters a trim.
    pub(super) fn insert_trim(&self, op: u64, lba: u64, blocks: u64) {
        let mut trims = self.trims.write();
        trims.insert(lba, lba.saturating_add(blocks), op);
        self.trim_count.store(trims.len(), Ordering::Release);
    }

    /// Looks up the blocks `want` of `extent`; `visit(i, position)` is called for each block found in the ring, while
    /// its space cannot be reused.
    pub(super) fn lookup(&self, extent: u64, want: u8, mut visit: impl FnMut(u8, u64)) -> Known {
        let trim_ops = self.trims_over(extent);
        let mut known = Known::default();
        let shard = self.shard(extent).read();
        // Slots are dropped under this lock after the number is stored: who misses one sees it.
        let published = self.published.load(Ordering::Acquire);
        let slots = shard.get(&extent);
        if slots.is_none() && trim_ops.is_none() {
            return known;
        }
        for i in bits(want) {
            let slot = slots.map_or(Slot::default(), |s| s[i as usize]);
            let trim = trim_ops.map_or(0, |t| t[i as usize]);
            // Of one batch both may be known: what its later trim covers was never entered as a write.
            if slot.op > 0 && slot.op >= trim {
                known.data |= 1 << i;
                visit(i, slot.at);
            } else if trim > published {
                known.zero |= 1 << i;
            }
        }
        known
    }

    /// For each block of the extent, the operation number of the trim that covers it (0: none).
    fn trims_over(&self, extent: u64) -> Option<[u64; EXTENT_BLOCKS as usize]> {
        if self.trim_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let first = extent * EXTENT_BLOCKS;
        let mut ops = [0; EXTENT_BLOCKS as usize];
        let mut any = false;
        for (start, end, op) in self.trims.read().overlapping(first, first + EXTENT_BLOCKS) {
            any = true;
            for block in start.max(first)..end.min(first + EXTENT_BLOCKS) {
                ops[(block - first) as usize] = op;
            }
        }
        any.then_some(ops)
    }

    /// The map shows every operation up to `through`. Called before any of them is dropped here.
    pub(super) fn published(&self, through: u64) {
        self.published.store(through, Ordering::Release);
    }

    /// Forgets what operations up to `through` left in this range of blocks: the map has it now.
    pub(super) fn drop_writes(&self, lba: u64, blocks: u64, through: u64) {
        for_extents(lba, blocks, |extent, _, mask| {
            let mut shard = self.shard(extent).write();
            let Some(slots) = shard.get_mut(&extent) else { return };
            for i in bits(mask) {
                if slots[i as usize].op <= through {
                    slots[i as usize] = Slot::default();
                }
            }
            if slots.iter().all(|s| s.op == 0) {
                shard.remove(&extent);
            }
        });
    }

    /// Forgets all trims up to `through`. Called after [`Self::drop_writes`] for the same operations.
    pub(super) fn drop_trims(&self, through: u64) {
        if self.trim_count.load(Ordering::Acquire) > 0 {
            let mut trims = self.trims.write();
            trims.drop_through(through);
            self.trim_count.store(trims.len(), Ordering::Release);
        }
    }

    /// Whether nothing at all is in the index.
    pub(super) fn is_empty(&self) -> bool {
        self.trim_count.load(Ordering::Acquire) == 0 && self.shards.iter().all(|s| s.read().is_empty())
    }

    /// Extents with at least one entry, for status.
    pub(super) fn extents(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }
}

/// The indexes of the bits set in `mask`.
pub(super) fn bits(mask: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |i| mask >> i & 1 == 1)
}

/// Calls `visit(extent, first block in it, mask)` for each extent that `blocks` blocks from `lba` touch.
pub(super) fn for_extents(lba: u64, blocks: u64, mut visit: impl FnMut(u64, u8, u8)) {
    let end = lba + blocks;
    let mut at = lba;
    while at < end {
        let extent = at / EXTENT_BLOCKS;
        let first = (at % EXTENT_BLOCKS) as u8;
        let n = (EXTENT_BLOCKS - u64::from(first)).min(end - at) as u8;
        visit(extent, first, mask_of(first, n));
        at += u64::from(n);
    }
}

/// The mask of `n` blocks from block `first` of an extent.
pub(super) fn mask_of(first: u8, n: u8) -> u8 {
    ((((1u16 << n) - 1) << first) & 0xff) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(index: &WriteIndex, extent: u64) -> (Vec<(u8, u64)>, Known) {
        let mut v = Vec::new();
        let known = index.lookup(extent, 0xff, |i, at| v.push((i, at)));
        (v, known)
    }

    #[test]
    fn the_higher_operation_wins_in_any_order() {
        let x = WriteIndex::new();
        x.insert_write(5, 2, 2, 1 << 20);
        x.insert_write(4, 3, 2, 2 << 20);
        assert_eq!(seen(&x, 0).0, vec![(2, 1 << 20), (3, (1 << 20) + 4096), (4, (2 << 20) + 4096)]);
        x.insert_trim(3, 0, 100);
        assert_eq!(seen(&x, 0).1, Known { data: 0b11100, zero: !0b11100 });
        x.insert_trim(6, 3, 1);
        assert_eq!(seen(&x, 0).1.zero & 0b1000, 0b1000);
    }

    #[test]
    fn a_write_after_a_trim_is_never_hidden_by_it_while_both_are_dropped() {
        let x = WriteIndex::new();
        x.insert_write(4, 0, 2, 0);
        x.insert_trim(5, 0, 8);
        x.insert_write(6, 0, 1, 65536);
        assert_eq!(seen(&x, 0), (vec![(0, 65536)], Known { data: 1, zero: 0xfe }));
        x.published(6);
        assert_eq!(seen(&x, 0), (vec![(0, 65536)], Known { data: 1, zero: 0 }), "the map decides what was trimmed");
        x.drop_writes(0, 2, 6);
        assert_eq!(seen(&x, 0).1, Known::default(), "the map has the write; its trim must not hide it");
        x.insert_trim(7, 0, 1);
        assert_eq!(seen(&x, 0).1, Known { data: 0, zero: 1 });
        x.drop_trims(6);
        assert_eq!(seen(&x, 0).1, Known { data: 0, zero: 1 });
    }

    #[test]
    fn dropping_leaves_what_is_newer() {
        let x = WriteIndex::new();
        x.insert_write(1, 6, 4, 0);
        x.insert_write(2, 7, 1, 65536);
        x.drop_writes(6, 4, 1);
        assert_eq!(seen(&x, 0).0, vec![(7, 65536)]);
        assert_eq!(seen(&x, 1).1, Known::default());
        x.insert_trim(3, 0, 1 << 40);
        x.drop_trims(2);
        assert_eq!(seen(&x, 9).1.zero, 0xff);
        x.drop_trims(3);
        assert_eq!(seen(&x, 9).1, Known::default());
    }
}
