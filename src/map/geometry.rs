//! How addresses become nodes: a leaf covers 512 extents, an inner node 512 nodes of the level below.

use std::ops::Range;

use crate::segment::EXTENT;

/// Bits of address that one level resolves.
pub const FAN_BITS: u32 = 9;
/// Children of an inner node, and extents of a leaf.
pub const FANOUT: usize = 1 << FAN_BITS;
/// Blocks of a leaf.
pub const LEAF_BLOCKS: u64 = 4096;
/// Levels of inner nodes that 2^64 bytes need: the most a map has.
pub const MAX_LEVELS: u8 = 5;

/// Levels of inner nodes above the leaves for a volume of `size` bytes: at least 1.
pub fn levels_for(size: u64) -> u8 {
    let leaves = size.div_ceil(EXTENT as u64).div_ceil(FANOUT as u64);
    (1..MAX_LEVELS).find(|&level| leaves <= span(level)).unwrap_or(MAX_LEVELS)
}

/// Leaves below one node of `level` (0 is a leaf).
pub fn span(level: u8) -> u64 {
    1 << (FAN_BITS * u32::from(level))
}

/// The leaves below node `index` of `level`.
pub fn leaves_of(level: u8, index: u64) -> Range<u64> {
    let first = index << (FAN_BITS * u32::from(level));
    first..first + span(level)
}

/// The index of the node `up` levels above node `index`.
pub fn ancestor(index: u64, up: u8) -> u64 {
    index >> (FAN_BITS * u32::from(up))
}

/// The place of a node among its siblings, or of an extent in its leaf.
pub fn slot(index: u64) -> u16 {
    (index & (FANOUT as u64 - 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_with_the_size() {
        assert_eq!(levels_for(0), 1);
        assert_eq!(levels_for(4096), 1);
        assert_eq!(levels_for(8 << 30), 1);
        assert_eq!(levels_for((8 << 30) + 4096), 2);
        assert_eq!(levels_for(4 << 40), 2);
        assert_eq!(levels_for(1 << 43), 3);
        assert_eq!(levels_for(1 << 63), 5);
        assert_eq!(levels_for(u64::MAX), 5);
    }

    #[test]
    fn a_node_covers_its_leaves() {
        assert_eq!(leaves_of(0, 7), 7..8);
        assert_eq!(leaves_of(2, 3), 3 << 18..4 << 18);
        assert_eq!(ancestor(0x40301, 1), 0x201);
        assert_eq!(slot(0x40301), 0x101);
    }
}
