//! Conditional moves: what a relocation means for blocks that a layer leaves to the layers below. Where such a block
//! resolves to the source, it resolves to the target; what it resolves to need not be known yet.

use std::ops::Range;

use smallvec::SmallVec;

use super::delta::{DeltaPlace, mask_in};
use super::piece::Piece;
use crate::segment::RecordRef;

/// A move with its records spelled out.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    pub mask: u8,
    /// The blocks that the target holds.
    pub original: u8,
    pub from: RecordRef,
    pub to: RecordRef,
}

/// Shows a piece as it looks through the moves above it: at once, not one after the other.
pub fn through(moves: &[Move], piece: Piece, mut show: impl FnMut(Piece)) {
    let mut rest = piece.visible;
    for m in moves.iter().filter(|m| m.from == piece.record) {
        let moved = rest & m.mask;
        rest &= !moved;
        if moved != 0 {
            show(Piece { visible: moved, original: m.original, record: m.to });
        }
    }
    if rest != 0 {
        show(Piece { visible: rest, ..piece });
    }
}

/// A move in a leaf's delta, records by place in the overlay's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaMove {
    pub from: DeltaPlace,
    pub to: DeltaPlace,
    pub extent: u16,
    pub mask: u8,
    pub original: u8,
}

/// The moves of one leaf, ascending by extent. A block has at most one for each source, none from a record to itself,
/// and none where the layer decides it.
#[derive(Debug, Clone, Default)]
pub struct LeafMoves {
    list: Vec<DeltaMove>,
}

impl LeafMoves {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn heap_bytes(&self) -> usize {
        self.list.capacity() * size_of::<DeltaMove>()
    }

    pub fn all(&self) -> &[DeltaMove] {
        &self.list
    }

    fn range(&self, extent: u16) -> Range<usize> {
        let start = self.list.partition_point(|m| m.extent < extent);
        start..start + self.list[start..].partition_point(|m| m.extent == extent)
    }

    /// The moves of an extent.
    pub fn at(&self, extent: u16) -> &[DeltaMove] {
        &self.list[self.range(extent)]
    }

    /// Adds a move on top of those that are there.
    pub fn add(&mut self, new: DeltaMove) {
        let range = self.range(new.extent);
        let composed = compose(&self.list[range.clone()], &[new], 0);
        self.list.splice(range, composed);
    }

    /// Some blocks of an extent are decided now.
    pub fn take_out(&mut self, extent: u16, mask: u8) {
        let range = self.range(extent);
        if !range.is_empty() {
            self.list[range].iter_mut().for_each(|m| m.mask &= !mask);
            self.list.retain(|m| m.mask != 0);
        }
    }

    /// A range of the leaf's blocks is decided now.
    pub fn take_out_range(&mut self, blocks: &Range<u32>) {
        self.list.retain_mut(|m| {
            m.mask &= !mask_in(m.extent, blocks);
            m.mask != 0
        });
    }

    /// Puts these moves on top of an older layer's: `older` are its moves, `decided` what it decides.
    pub fn put_over(&mut self, older: &LeafMoves, decided: impl Fn(u16) -> u8) {
        let newer = std::mem::take(&mut self.list);
        let mut extents: Vec<u16> = newer.iter().chain(&older.list).map(|m| m.extent).collect();
        extents.sort_unstable();
        extents.dedup();
        let newer = LeafMoves { list: newer };
        for extent in extents {
            self.list.extend(compose(older.at(extent), newer.at(extent), decided(extent)));
        }
    }

    pub fn push(&mut self, m: DeltaMove) {
        self.list.push(m);
    }
}

/// The moves of one extent in one layer that do what `older` and then `newer` do. The older layer decides the blocks
/// `decided`: newer moves have been applied to those.
fn compose(older: &[DeltaMove], newer: &[DeltaMove], decided: u8) -> SmallVec<[DeltaMove; 4]> {
    let mut out: SmallVec<[DeltaMove; 4]> = SmallVec::new();
    let mut push = |m: DeltaMove| {
        if m.mask == 0 || m.from == m.to {
            return;
        }
        match out.iter_mut().find(|o| (o.from, o.to, o.original) == (m.from, m.to, m.original)) {
            Some(same) => same.mask |= m.mask,
            None => out.push(m),
        }
    };
    for o in older {
        let mut rest = o.mask;
        for n in newer.iter().filter(|n| n.from == o.to) {
            push(DeltaMove { mask: rest & n.mask, to: n.to, original: n.original, ..*o });
            rest &= !n.mask;
        }
        push(DeltaMove { mask: rest, ..*o });
    }
    for n in newer {
        // Nothing resolves to this source any more where an older move took it away.
        let gone = older.iter().filter(|o| o.from == n.from).fold(decided, |gone, o| gone | o.mask);
        push(DeltaMove { mask: n.mask & !gone, ..*n });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u32) -> DeltaPlace {
        DeltaPlace { segment: 0, offset: n * 100, len: 100, number: n }
    }

    fn add(moves: &mut LeafMoves, mask: u8, from: u32, to: u32) {
        moves.add(DeltaMove { from: place(from), to: place(to), extent: 5, mask, original: 0xff });
    }

    fn seen(moves: &LeafMoves) -> Vec<(u8, u32, u32)> {
        let mut all: Vec<_> = moves.at(5).iter().map(|m| (m.mask, m.from.number, m.to.number)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn moves_are_chained() {
        let mut moves = LeafMoves::default();
        add(&mut moves, 0x0f, 1, 2);
        add(&mut moves, 0x3c, 2, 3);
        assert_eq!(seen(&moves), [(0x03, 1, 2), (0x0c, 1, 3), (0x3c, 2, 3)]);
        add(&mut moves, 0xff, 1, 4);
        assert_eq!(seen(&moves), [(0x03, 1, 2), (0x0c, 1, 3), (0x3c, 2, 3), (0xf0, 1, 4)], "1 went elsewhere before");
        moves.take_out(5, 0xf3);
        assert_eq!(seen(&moves), [(0x0c, 1, 3), (0x0c, 2, 3)]);
        moves.take_out_range(&(40..48));
        assert!(moves.is_empty());
    }

    #[test]
    fn a_move_there_and_back_is_none() {
        let mut moves = LeafMoves::default();
        add(&mut moves, 1, 1, 2);
        add(&mut moves, 1, 2, 1);
        assert_eq!(seen(&moves), [(1, 2, 1)]);
        add(&mut moves, 1, 1, 3);
        assert_eq!(seen(&moves), [(1, 1, 3), (1, 2, 3)]);
    }
}
