//! What a lookup answers.

use smallvec::SmallVec;

use crate::segment::RecordRef;

/// One record that some blocks of an extent resolve to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The blocks (bit i = block i of the extent) that resolve to this record; not 0, and part of `original`.
    pub visible: u8,
    /// The blocks that the record holds.
    pub original: u8,
    /// Where the record is.
    pub record: RecordRef,
}

/// Of the `len` stored bytes of a record that holds the blocks `original`, those that fall to the blocks `visible`: a record
/// that is partly overwritten is partly garbage. Rounded up: 0 only where nothing is visible.
pub fn live_bytes(len: u32, visible: u8, original: u8) -> u64 {
    (u64::from(len) * u64::from(visible.count_ones())).div_ceil(u64::from(original.count_ones().max(1)))
}

/// A node that is needed and not in memory: fetch its record, open it, hand it to [`super::Map::loaded`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeLoad {
    /// Levels above the leaves; 0 is a leaf.
    pub level: u8,
    /// Its index among the nodes of its level.
    pub index: u64,
    /// Where it is.
    pub record: RecordRef,
}

/// The answer of [`super::Map::lookup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The records that the wanted blocks resolve to, with disjoint masks; blocks in none of them are zeroes.
    Pieces(SmallVec<[Piece; 2]>),
    /// A node must be loaded first.
    Load(NodeLoad),
}

/// The answer of [`super::Map::hole_run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// The next so many extents hold nothing. More may follow.
    Hole(u64),
    /// All blocks of the next so many extents are stored. More may follow.
    Mapped(u64),
    /// Of the next extent exactly these blocks are stored: some, but not all.
    Mixed(u8),
    /// A node must be loaded first.
    Load(NodeLoad),
}
