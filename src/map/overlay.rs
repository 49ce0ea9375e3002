//! One layer of changes over a base: which leaves were cut whole, and on top of that what changed in which leaf.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::cuts::Cuts;
use super::delta::{DeltaPiece, DeltaPlace, LeafDelta};
use super::geometry::{FAN_BITS, FANOUT, LEAF_BLOCKS, slot};
use super::moves::{DeltaMove, Move};
use super::piece::Piece;
use super::sparse::Sparse;
use crate::segment::{RecordRef, Relocation, SegmentId};

/// What a B-tree entry, a group and its box cost beyond the leaves.
const GROUP_BYTES: usize = size_of::<Group>() + 32;
/// What one cut range costs.
const CUT_BYTES: usize = 24;
/// What one segment in the table costs, twice: by number and by name.
const SEGMENT_BYTES: usize = 48;

/// The changed leaves below one inner node of level 1.
#[derive(Debug, Clone, Default)]
struct Group {
    leaves: Sparse<LeafDelta>,
    /// Heap bytes of the leaves' deltas; the array that holds them is counted apart.
    bytes: usize,
}

impl Group {
    fn bytes(&self) -> usize {
        GROUP_BYTES + self.bytes + self.leaves.heap_bytes()
    }
}

/// Changed leaves that a cut took out. Freeing them takes a while: drop it outside of any lock.
#[derive(Debug, Default)]
pub struct Removed {
    #[allow(clippy::vec_box, reason = "moving the boxes is what keeps a cut short")]
    _groups: Vec<Box<Group>>,
    _leaves: Vec<LeafDelta>,
}

/// Segments by a small number.
#[derive(Debug, Default)]
struct Segments {
    ids: Vec<SegmentId>,
    numbers: HashMap<SegmentId, u32>,
}

impl Segments {
    fn number(&mut self, id: SegmentId) -> u32 {
        if self.ids.last() == Some(&id) {
            return self.ids.len() as u32 - 1;
        }
        *self.numbers.entry(id).or_insert_with(|| {
            self.ids.push(id);
            self.ids.len() as u32 - 1
        })
    }
}

/// A layer of changes. For each block: a record, zeroes, or "as below".
#[derive(Debug, Default)]
pub struct Overlay {
    groups: BTreeMap<u64, Box<Group>>,
    /// Leaves that hide the layers below whole; `groups` is what came after.
    cuts: Cuts,
    segments: Segments,
    group_bytes: usize,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.cuts.is_empty()
    }

    /// Bytes of memory; 0 exactly when it is empty.
    pub fn bytes(&self) -> usize {
        self.group_bytes + self.cuts.len() * CUT_BYTES + self.segments.ids.len() * SEGMENT_BYTES
    }

    /// What [`Overlay::bytes`] must say, counted anew.
    #[cfg(test)]
    pub fn counted_bytes(&self) -> usize {
        let deltas = |g: &Group| g.leaves.iter().map(|(_, d)| d.heap_bytes()).sum::<usize>();
        let groups = self.groups.values().map(|g| GROUP_BYTES + g.leaves.heap_bytes() + deltas(g)).sum::<usize>();
        assert!(self.groups.values().all(|g| !g.leaves.is_empty() && g.leaves.iter().all(|(_, d)| !d.is_empty())));
        groups + self.cuts.len() * CUT_BYTES + self.segments.ids.len() * SEGMENT_BYTES
    }

    /// Checks that nothing is kept for blocks that a layer decides.
    #[cfg(test)]
    pub fn audit_moves(&self) {
        for (_, delta) in self.groups.values().flat_map(|g| g.leaves.iter()) {
            let decided = delta.decided();
            for m in delta.moves() {
                assert!(m.mask != 0 && m.mask & decided[usize::from(m.extent)] == 0, "{m:?}");
            }
        }
    }

    pub fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    pub fn leaf(&self, leaf: u64) -> Option<&LeafDelta> {
        self.groups.get(&(leaf >> FAN_BITS))?.leaves.get(slot(leaf))
    }

    /// The first changed leaf at or after `leaf`.
    pub fn next_leaf(&self, leaf: u64) -> Option<u64> {
        let mut from = slot(leaf);
        for (&index, group) in self.groups.range(leaf >> FAN_BITS..) {
            if index != leaf >> FAN_BITS {
                from = 0;
            }
            if let Some(at) = group.leaves.next(from) {
                return Some(index << FAN_BITS | u64::from(at));
            }
        }
        None
    }

    /// Indices of the inner nodes of level 1 that hold changed leaves, ascending.
    pub fn groups(&self) -> impl Iterator<Item = u64> + '_ {
        self.groups.keys().copied()
    }

    pub fn record(&self, place: &DeltaPlace) -> RecordRef {
        RecordRef {
            segment: self.segments.ids[place.segment as usize],
            offset: place.offset,
            len: place.len,
            number: place.number,
        }
    }

    pub fn piece(&self, piece: &DeltaPiece) -> Piece {
        Piece { visible: piece.visible, original: piece.original, record: self.record(&piece.place) }
    }

    fn place(&mut self, record: &RecordRef) -> DeltaPlace {
        let segment = self.segments.number(record.segment);
        DeltaPlace { segment, offset: record.offset, len: record.len, number: record.number }
    }

    /// Changes one leaf's delta and keeps the accounts; a delta left empty is removed.
    fn change<T>(&mut self, leaf: u64, f: impl FnOnce(&mut LeafDelta) -> T) -> T {
        let key = leaf >> FAN_BITS;
        let mut made = 0;
        let group = self.groups.entry(key).or_insert_with(|| {
            made = GROUP_BYTES;
            Box::default()
        });
        let array = group.leaves.heap_bytes();
        let delta = group.leaves.get_or_insert(slot(leaf), LeafDelta::default);
        let before = delta.heap_bytes();
        let answer = f(delta);
        let after = delta.heap_bytes();
        let empty = delta.is_empty();
        group.bytes = group.bytes - before + after;
        self.group_bytes = self.group_bytes + made - before + after - array + group.leaves.heap_bytes();
        if empty {
            group.leaves.remove(slot(leaf));
            group.bytes -= after;
            self.group_bytes -= after;
            self.drop_group_if_empty(key);
        }
        answer
    }

    fn drop_group_if_empty(&mut self, key: u64) {
        if self.groups.get(&key).is_some_and(|g| g.leaves.is_empty())
            && let Some(group) = self.groups.remove(&key)
        {
            self.group_bytes -= group.bytes();
        }
        if self.is_empty() {
            self.segments = Segments::default();
        }
    }

    /// A write of some blocks of one extent of one leaf.
    pub fn write(&mut self, leaf: u64, extent: u16, mask: u8, record: &RecordRef) {
        let place = self.place(record);
        self.change(leaf, |delta| delta.write(extent, mask, place));
    }

    /// Blocks of an extent that resolve to a record move to another one.
    pub fn relocate(&mut self, relocation: &Relocation, underneath: bool) {
        let Relocation { extent, mask, from, to, original } = relocation;
        let leaf = extent >> FAN_BITS;
        let underneath = underneath && !self.cuts.holds(leaf);
        if from == to || !underneath && self.leaf(leaf).is_none() {
            return;
        }
        let (from, to) = (self.place(from), self.place(to));
        let moved = DeltaMove { from, to, extent: slot(*extent), mask: *mask, original: *original };
        self.change(leaf, |delta| delta.relocate(moved, underneath));
    }

    /// Moves of this layer, spelled out.
    pub fn spell(&self, moves: &[DeltaMove]) -> Vec<Move> {
        let spell = |m: &DeltaMove| {
            let (from, to) = (self.record(&m.from), self.record(&m.to));
            Move { mask: m.mask, original: m.original, from, to }
        };
        moves.iter().map(spell).collect()
    }

    /// Zeroes a range of blocks of one leaf.
    pub fn erase(&mut self, leaf: u64, blocks: Range<u32>, underneath: bool) -> Removed {
        if u64::from(blocks.end - blocks.start) == LEAF_BLOCKS {
            return self.cut(leaf..leaf + 1, underneath);
        }
        let underneath = underneath && !self.cuts.holds(leaf);
        if !underneath && self.leaf(leaf).is_none() {
            return Removed::default();
        }
        let decides_all = self.change(leaf, |delta| {
            let all = delta.erase(blocks, underneath);
            if all {
                delta.forget_zeroes();
            }
            all
        });
        if decides_all {
            self.cuts.insert(leaf..leaf + 1);
        }
        Removed::default()
    }

    /// Erases whole leaves: their changes are dropped, and where something may be underneath it is hidden.
    pub fn cut(&mut self, leaves: Range<u64>, underneath: bool) -> Removed {
        let mut removed = Removed::default();
        if leaves.is_empty() {
            return removed;
        }
        let (first, last) = (leaves.start >> FAN_BITS, (leaves.end - 1) >> FAN_BITS);
        let head = usize::from(slot(leaves.start));
        let tail = usize::from(slot(leaves.end - 1)) + 1;
        if first == last {
            self.cut_in_group(first, head..tail, &mut removed);
        } else {
            self.cut_in_group(first, head..FANOUT, &mut removed);
            self.cut_in_group(last, 0..tail, &mut removed);
            while let Some((&key, _)) = self.groups.range(first + 1..last).next() {
                let group = self.groups.remove(&key).expect("just seen");
                self.group_bytes -= group.bytes();
                removed._groups.push(group);
            }
        }
        if underneath {
            self.cuts.insert(leaves);
        }
        if self.is_empty() {
            self.segments = Segments::default();
        }
        removed
    }

    fn cut_in_group(&mut self, key: u64, places: Range<usize>, removed: &mut Removed) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        let gone = group.leaves.remove_range(places);
        let bytes: usize = gone.iter().map(LeafDelta::heap_bytes).sum();
        group.bytes -= bytes;
        self.group_bytes -= bytes;
        removed._leaves.extend(gone);
        self.drop_group_if_empty(key);
    }

    /// Resolves one extent: `open` holds the blocks not decided so far and loses those decided here; `found` gets the
    /// pieces, as visible through what is above. The answer is what moves among the blocks that are still open.
    pub fn resolve(&self, leaf: u64, extent: u16, open: &mut u8, mut found: impl FnMut(Piece)) -> Vec<Move> {
        let mut moves = Vec::new();
        if let Some(delta) = self.leaf(leaf) {
            let above = *open;
            *open &= !delta.zero_at(extent);
            for p in delta.at(extent) {
                let visible = p.visible & above;
                if visible != 0 {
                    found(Piece { visible, ..self.piece(p) });
                    *open &= !visible;
                }
            }
            moves = self.spell(delta.moves_at(extent));
        }
        if *open != 0 && self.cuts.holds(leaf) {
            *open = 0;
        }
        moves
    }

    /// Resolves a whole leaf by masks: what is mapped, and what is left open to the layer below.
    pub fn scan(&self, leaf: u64, mapped: &mut [u8; FANOUT], open: &mut [u8; FANOUT]) {
        if let Some(delta) = self.leaf(leaf) {
            for p in delta.pieces() {
                mapped[usize::from(p.extent)] |= p.visible & open[usize::from(p.extent)];
            }
            for (o, d) in open.iter_mut().zip(delta.decided()) {
                *o &= !d;
            }
        }
        if self.cuts.holds(leaf) {
            *open = [0; FANOUT];
        }
    }

    /// Takes over one leaf of an older layer that lies directly below this one. The answer of the two together stays
    /// the same if the older layer is not asked for this leaf's changes any more.
    pub fn adopt(&mut self, older: &Overlay, leaf: u64) {
        if self.cuts.holds(leaf) {
            return;
        }
        let Some(delta) = older.leaf(leaf) else { return };
        // The table is needed while the leaf is borrowed: take it out for the moment.
        let mut segments = std::mem::take(&mut self.segments);
        self.change(leaf, |mine| {
            mine.merge_over(delta, |p| {
                let segment = segments.number(older.segments.ids[p.segment as usize]);
                DeltaPlace { segment, ..p }
            });
        });
        if !self.is_empty() {
            self.segments = segments;
        }
    }

    /// Takes over the cuts of an older layer whose leaves were all adopted.
    pub fn adopt_cuts(&mut self, older: &Overlay) {
        for range in older.cuts.iter() {
            self.cuts.insert(range);
        }
    }
}
