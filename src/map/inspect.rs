//! What a node says, for those who walk a tree without a map.

use std::ops::Range;

use super::codec;
use super::error::MapError;
use super::geometry::{FAN_BITS, leaves_of};
use super::piece::{NodeLoad, Piece};
use crate::segment::RecordRef;

/// The entries of a node, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeContent {
    /// Of a leaf: extent of the volume, and one of the records that its blocks are in.
    Leaf(Vec<(u64, Piece)>),
    /// Of an inner node: its children.
    Inner(Vec<NodeLoad>),
}

/// Reads the plaintext of node `index` of `level`.
///
/// # Errors
/// [`MapError::Node`]: the bytes are not such a node.
pub fn read_node(level: u8, index: u64, plaintext: &[u8]) -> Result<NodeContent, MapError> {
    let malformed = |source| MapError::Node { level, index, source };
    let first = index << FAN_BITS;
    if level == 0 {
        let leaf = codec::decode_leaf(plaintext).map_err(malformed)?;
        let pieces = leaf.pieces.iter().map(|p| (first + u64::from(p.extent), leaf.piece(p)));
        return Ok(NodeContent::Leaf(pieces.collect()));
    }
    let inner = codec::decode_inner(level, plaintext).map_err(malformed)?;
    let child = |(at, record): (u16, RecordRef)| NodeLoad { level: level - 1, index: first + u64::from(at), record };
    Ok(NodeContent::Inner(inner.children().map(child).collect()))
}

/// The extents that node `index` of `level` covers.
pub fn node_extents(level: u8, index: u64) -> Range<u64> {
    let leaves = leaves_of(level, index);
    leaves.start << FAN_BITS..leaves.end << FAN_BITS
}

/// The leaf that an extent belongs to.
pub fn leaf_of(extent: u64) -> u64 {
    extent >> FAN_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::codec::{encode_inner, encode_leaf};
    use crate::map::node::{Inner, Leaf};
    use crate::segment::SegmentId;

    #[test]
    fn entries_are_named_as_in_the_volume() {
        let record = RecordRef { segment: SegmentId::log(1, 2, 3), offset: 32, len: 100, number: 0 };
        let piece = Piece { visible: 1, original: 3, record };
        let leaf = Leaf::new(vec![(5, piece)]).expect("the number is low");
        let read = read_node(0, 7, &encode_leaf(&leaf));
        assert_eq!(read, Ok(NodeContent::Leaf(vec![(7 * 512 + 5, piece)])));
        let inner = Inner::new(&[(9, record)]).expect("the number is low");
        let child = NodeLoad { level: 1, index: 3 * 512 + 9, record };
        assert_eq!(read_node(2, 3, &encode_inner(2, &inner)), Ok(NodeContent::Inner(vec![child])));
        assert!(read_node(1, 3, &encode_inner(2, &inner)).is_err());
        assert_eq!(node_extents(1, 1), 1 << 18..2 << 18);
        assert_eq!(leaf_of(513), 1);
    }
}
