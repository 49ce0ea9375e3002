//! Nodes of the durable tree in memory: immutable, compact, segments by number in a table of the node.

use std::sync::Arc;

use super::geometry::FANOUT;
use super::piece::Piece;
use super::sparse::Sparse;
use crate::segment::{RecordRef, SegmentId};

/// Pieces of a leaf at most: every block from another record.
pub const MAX_PIECES: usize = FANOUT * 8;
/// The highest number of a record in its segment.
pub const MAX_NUMBER: u32 = 65_535;

/// Where a record is: 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub segment: u16,
    pub number: u16,
    pub offset: u32,
    pub len: u32,
}

/// One piece in a leaf: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeafPiece {
    pub extent: u16,
    pub visible: u8,
    pub original: u8,
    pub place: Place,
}

/// A record whose number no segment can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberTooHigh(pub u32);

/// The segments of a node, ascending, each once.
fn table(records: impl Iterator<Item = SegmentId>) -> Box<[SegmentId]> {
    let mut ids: Vec<SegmentId> = Vec::new();
    for id in records {
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids.into_boxed_slice()
}

fn place(segments: &[SegmentId], record: &RecordRef) -> Result<Place, NumberTooHigh> {
    let segment = segments.binary_search(&record.segment).expect("the table was made of these records");
    Ok(Place {
        segment: segment as u16,
        number: u16::try_from(record.number).map_err(|_| NumberTooHigh(record.number))?,
        offset: record.offset,
        len: record.len,
    })
}

fn record(segments: &[SegmentId], place: &Place) -> RecordRef {
    RecordRef {
        segment: segments[usize::from(place.segment)],
        offset: place.offset,
        len: place.len,
        number: place.number.into(),
    }
}

/// Joins sorted pieces of one extent that are in one record; the order stays.
fn join(pieces: &mut Vec<(u16, Piece)>) {
    let mut kept = 0;
    for i in 0..pieces.len() {
        let (extent, p) = pieces[i];
        let before = pieces[..kept].iter_mut().rev().take_while(|(e, _)| *e == extent);
        match before.map(|(_, k)| k).find(|k| (k.record, k.original) == (p.record, p.original)) {
            Some(same) => same.visible |= p.visible,
            None => {
                pieces[kept] = (extent, p);
                kept += 1;
            }
        }
    }
    pieces.truncate(kept);
}

/// The pieces of 512 extents. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Ascending, each once, all used.
    pub segments: Arc<[SegmentId]>,
    /// Ascending by extent and, in it, by lowest visible block; visible masks of an extent are disjoint.
    pub pieces: Arc<[LeafPiece]>,
}

impl Leaf {
    /// Makes a leaf of pieces by extent, in any order. Those of one extent in one record become one.
    pub fn new(mut pieces: Vec<(u16, Piece)>) -> Result<Self, NumberTooHigh> {
        pieces.sort_unstable_by_key(|(extent, p)| (*extent, p.visible.trailing_zeros()));
        join(&mut pieces);
        let segments = table(pieces.iter().map(|(_, p)| p.record.segment));
        let pieces: Result<Arc<[LeafPiece]>, _> = pieces
            .iter()
            .map(|(extent, p)| {
                let place = place(&segments, &p.record)?;
                Ok(LeafPiece { extent: *extent, visible: p.visible, original: p.original, place })
            })
            .collect();
        Ok(Self { segments: segments.into(), pieces: pieces? })
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.pieces.len() * size_of::<LeafPiece>() + self.segments.len() * size_of::<SegmentId>()
    }

    /// The pieces of one extent.
    pub fn at(&self, extent: u16) -> &[LeafPiece] {
        let start = self.pieces.partition_point(|p| p.extent < extent);
        let rest = &self.pieces[start..];
        let n = rest.iter().take_while(|p| p.extent == extent).count();
        &rest[..n]
    }

    pub fn piece(&self, p: &LeafPiece) -> Piece {
        Piece { visible: p.visible, original: p.original, record: record(&self.segments, &p.place) }
    }
}

/// The children of an inner node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Ascending, each once, all used.
    pub segments: Box<[SegmentId]>,
    pub children: Sparse<Place>,
}

impl Inner {
    /// Makes a node of children, ascending by place.
    pub fn new(children: &[(u16, RecordRef)]) -> Result<Self, NumberTooHigh> {
        let segments = table(children.iter().map(|(_, r)| r.segment));
        let mut places = Sparse::default();
        for (at, r) in children {
            let place = place(&segments, r)?;
            *places.get_or_insert(*at, || place) = place;
        }
        places.shrink();
        Ok(Self { segments, children: places })
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.children.heap_bytes() + self.segments.len() * size_of::<SegmentId>()
    }

    pub fn child(&self, at: u16) -> Option<RecordRef> {
        self.children.get(at).map(|p| record(&self.segments, p))
    }

    /// Places and records of the children, ascending.
    pub fn children(&self) -> impl Iterator<Item = (u16, RecordRef)> + '_ {
        self.children.iter().map(|(at, p)| (at, record(&self.segments, p)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_what_the_memory_budget_counts_on() {
        assert_eq!(size_of::<LeafPiece>(), 16);
        assert_eq!(size_of::<Place>(), 12);
    }
}
