//! What changed in one leaf: per extent the pieces written and the blocks zeroed. Blocks that it does not decide are
//! those of the layer below.

use std::ops::Range;

use super::geometry::FANOUT;
use super::moves::{DeltaMove, LeafMoves};
use crate::probe::{Mutant, planted};

/// Where a piece is, its segment by number in the overlay's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaPlace {
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
    pub number: u32,
}

/// One piece of one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaPiece {
    pub place: DeltaPlace,
    pub extent: u16,
    pub visible: u8,
    pub original: u8,
}

/// The changes of one leaf.
#[derive(Debug, Clone, Default)]
pub struct LeafDelta {
    /// Ascending by extent; visible masks of one extent are disjoint and not 0.
    pieces: Vec<DeltaPiece>,
    /// Per extent the blocks that read as zeroes whatever lies below; disjoint from the pieces.
    zero: Option<Box<[u8; FANOUT]>>,
    /// What moves among the blocks that it does not decide; not empty.
    moves: Option<Box<LeafMoves>>,
}

impl LeafDelta {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.zero.is_none() && self.moves.is_none()
    }

    pub fn pieces(&self) -> &[DeltaPiece] {
        &self.pieces
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let moves = self.moves.as_ref().map_or(0, |m| size_of::<LeafMoves>() + m.heap_bytes());
        self.pieces.capacity() * size_of::<DeltaPiece>() + if self.zero.is_some() { FANOUT } else { 0 } + moves
    }

    fn range(&self, extent: u16) -> Range<usize> {
        // Sequential writes come in order: look at the end first.
        let start = match self.pieces.last() {
            Some(last) if last.extent < extent => self.pieces.len(),
            _ => self.pieces.partition_point(|p| p.extent < extent),
        };
        let more = self.pieces[start..].iter().take_while(|p| p.extent == extent).count();
        start..start + more
    }

    /// The pieces of an extent.
    pub fn at(&self, extent: u16) -> &[DeltaPiece] {
        &self.pieces[self.range(extent)]
    }

    /// The blocks of an extent that it makes zero.
    pub fn zero_at(&self, extent: u16) -> u8 {
        self.zero.as_ref().map_or(0, |z| z[usize::from(extent)])
    }

    /// The moves among the blocks of an extent that it does not decide.
    pub fn moves_at(&self, extent: u16) -> &[DeltaMove] {
        self.moves.as_ref().map_or(&[], |m| m.at(extent))
    }

    /// All moves.
    pub fn moves(&self) -> &[DeltaMove] {
        self.moves.as_ref().map_or(&[], |m| m.all())
    }

    fn change_moves(&mut self, f: impl FnOnce(&mut LeafMoves)) {
        if let Some(moves) = &mut self.moves {
            f(moves);
            if moves.is_empty() {
                self.moves = None;
            }
        }
    }

    /// A write: newest wins.
    pub fn write(&mut self, extent: u16, mask: u8, place: DeltaPlace) {
        self.change_moves(|moves| moves.take_out(extent, mask));
        if let Some(zero) = &mut self.zero {
            zero[usize::from(extent)] &= !mask;
        }
        let new = DeltaPiece { place, extent, visible: mask, original: mask };
        let range = self.range(extent);
        let end = range.end;
        let mut free = None;
        let mut dead = 0;
        for (i, p) in self.pieces[range.clone()].iter_mut().enumerate() {
            p.visible &= !mask;
            if p.visible == 0 {
                dead += 1;
                free = free.or(Some(range.start + i));
            }
        }
        match free {
            None => self.pieces.insert(end, new),
            Some(at) => self.pieces[at] = new,
        }
        if dead > 1 {
            self.pieces.retain(|p| p.visible != 0);
        }
    }

    /// Blocks that resolve to `moved.from` move. Those that the leaf decides move now or never; for the others the move
    /// is remembered where something may be `underneath`.
    pub fn relocate(&mut self, moved: DeltaMove, underneath: bool) {
        let DeltaMove { extent, mask, from, to, original } = moved;
        let mut decided = self.zero_at(extent);
        let mut found = 0;
        let range = self.range(extent);
        for p in &mut self.pieces[range.clone()] {
            decided |= p.visible;
            if p.place == from || planted(Mutant::RelocationUnconditional) {
                found |= p.visible & mask;
                p.visible &= !mask;
            }
        }
        if planted(Mutant::RelocationIgnoresTrims)
            && let Some(zero) = &mut self.zero
        {
            found |= zero[usize::from(extent)] & mask;
            zero[usize::from(extent)] &= !mask;
        }
        if found != 0 {
            self.pieces.insert(range.end, DeltaPiece { place: to, extent, visible: found, original });
            self.tidy(range.start..range.end + 1);
        }
        let open = mask & !decided;
        if underneath && open != 0 {
            self.moves.get_or_insert_default().add(DeltaMove { mask: open, ..moved });
            self.change_moves(|_| {});
        }
    }

    /// Among some pieces, all of their extents: drops hidden ones, and joins those of one extent that are in one record.
    fn tidy(&mut self, range: Range<usize>) {
        let mut kept = range.start;
        for i in range.clone() {
            let p = self.pieces[i];
            let mut before = self.pieces[range.start..kept].iter_mut().rev().take_while(|k| k.extent == p.extent);
            match before.find(|k| (k.place, k.original) == (p.place, p.original)) {
                Some(same) => same.visible |= p.visible,
                None if p.visible != 0 => {
                    self.pieces[kept] = p;
                    kept += 1;
                }
                None => {}
            }
        }
        self.pieces.drain(kept..range.end);
    }

    /// Zeroes a range of the leaf's blocks. Zeroes are remembered only where something may be `underneath`. Answers
    /// whether the leaf now decides all of its blocks.
    pub fn erase(&mut self, blocks: Range<u32>, underneath: bool) -> bool {
        self.pieces.retain_mut(|p| {
            p.visible &= !mask_in(p.extent, &blocks);
            p.visible != 0
        });
        self.change_moves(|moves| moves.take_out_range(&blocks));
        if !underneath || blocks.is_empty() {
            return false;
        }
        let zero = self.zero.get_or_insert_with(|| Box::new([0; FANOUT]));
        for extent in blocks.start / 8..blocks.end.div_ceil(8) {
            zero[extent as usize] |= mask_in(extent as u16, &blocks);
        }
        self.decides_all()
    }

    /// Whether no block is left to the layer below.
    pub fn decides_all(&self) -> bool {
        if self.zero.is_none() && self.pieces.len() < FANOUT {
            return false;
        }
        self.decided().iter().all(|&d| d == 0xff)
    }

    /// Per extent the blocks decided here.
    pub fn decided(&self) -> [u8; FANOUT] {
        let mut decided = self.zero.as_deref().copied().unwrap_or([0; FANOUT]);
        for p in &self.pieces {
            decided[usize::from(p.extent)] |= p.visible;
        }
        decided
    }

    /// Forgets the zeroes: a cut above the layer below says the same.
    pub fn forget_zeroes(&mut self) {
        self.zero = None;
    }

    /// Puts these changes on top of older ones of the same leaf, whose places `translate` maps to this table.
    pub fn merge_over(&mut self, older: &LeafDelta, mut translate: impl FnMut(DeltaPlace) -> DeltaPlace) {
        let decided = self.decided();
        let mut added = false;
        for p in &older.pieces {
            let mut visible = p.visible & !decided[usize::from(p.extent)];
            if visible == 0 {
                continue;
            }
            added = true;
            let place = translate(p.place);
            let moves = self.moves.as_ref().map_or(&[][..], |m| m.at(p.extent));
            for m in moves.iter().filter(|m| m.from == place && m.mask & visible != 0) {
                let (visible, original) = (m.mask & visible, m.original);
                self.pieces.push(DeltaPiece { place: m.to, extent: p.extent, visible, original });
            }
            visible &= !moves.iter().filter(|m| m.from == place).fold(0, |all, m| all | m.mask);
            self.pieces.push(DeltaPiece { place, visible, ..*p });
        }
        if added {
            self.pieces.sort_by_key(|p| p.extent);
            self.tidy(0..self.pieces.len());
        }
        if self.moves.is_some() || older.moves.is_some() {
            let mut below = LeafMoves::default();
            for m in older.moves() {
                let mask = m.mask & !decided[usize::from(m.extent)];
                if mask != 0 {
                    below.push(DeltaMove { from: translate(m.from), to: translate(m.to), mask, ..*m });
                }
            }
            let decided_below = older.decided();
            self.moves.get_or_insert_default().put_over(&below, |extent| decided_below[usize::from(extent)]);
            self.change_moves(|_| {});
        }
        if let Some(older) = &older.zero {
            let zero = self.zero.get_or_insert_with(|| Box::new([0; FANOUT]));
            for ((z, o), d) in zero.iter_mut().zip(older.iter()).zip(decided) {
                *z |= o & !d;
            }
        }
    }
}

/// The blocks of an extent that lie in a range of its leaf's blocks.
pub fn mask_in(extent: u16, blocks: &Range<u32>) -> u8 {
    let first = u32::from(extent) * 8;
    let from = blocks.start.clamp(first, first + 8) - first;
    let to = blocks.end.clamp(first, first + 8) - first;
    if from >= to { 0 } else { ((0xffu16 << from) & (0xff >> (8 - to))) as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u32) -> DeltaPlace {
        DeltaPlace { segment: 0, offset: n * 100, len: 100, number: n }
    }

    #[test]
    fn masks_of_ranges() {
        assert_eq!(mask_in(0, &(0..8)), 0xff);
        assert_eq!(mask_in(1, &(0..8)), 0);
        assert_eq!(mask_in(1, &(9..11)), 0b110);
        assert_eq!(mask_in(1, &(0..9)), 1);
        assert_eq!(mask_in(2, &(20..4096)), 0xf0);
        assert_eq!(mask_in(2, &(0..0)), 0);
    }

    #[test]
    fn a_write_hides_older_pieces_and_removes_dead_ones() {
        let mut leaf = LeafDelta::default();
        for i in 0..8 {
            leaf.write(5, 1 << i, place(i));
        }
        leaf.write(4, 0x0f, place(8));
        leaf.write(6, 0xf0, place(9));
        assert_eq!(leaf.at(5).len(), 8);
        leaf.write(5, 0x7e, place(10));
        let mut seen: Vec<_> = leaf.at(5).iter().map(|p| (p.visible, p.place.number)).collect();
        seen.sort_unstable();
        assert_eq!(seen, [(1, 0), (0x7e, 10), (0x80, 7)]);
        assert_eq!(leaf.at(4).len() + leaf.at(6).len(), 2);
    }

    #[test]
    fn a_wholly_erased_leaf_says_so() {
        let mut leaf = LeafDelta::default();
        assert!(!leaf.erase(0..4000, true));
        leaf.write(511, 0xff, place(1));
        assert!(leaf.erase(4000..4090, true), "the rest is written");
        assert_eq!(leaf.at(511)[0].visible, 0xfc);
        assert_eq!(leaf.zero_at(511), 0x03);
    }
}
