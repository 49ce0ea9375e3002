//! What can go wrong with a node that was read.

use thiserror::Error;

use crate::segment::SegmentId;
use crate::wire::Malformed;

/// A map node cannot be used. The node's bytes were authentic; they are not what this version writes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MapError {
    /// The node's bytes cannot be decoded.
    #[error("map node {index:#x} of level {level} is {source}")]
    Node {
        /// Levels above the leaves; 0 is a leaf.
        level: u8,
        /// Its index among the nodes of its level.
        index: u64,
        /// What is wrong.
        source: Malformed,
    },
    /// A root of a depth that no volume has.
    #[error("a map root with {0} levels: 1 to 5 are possible")]
    Levels(u8),
    /// A record outside the bounds of a segment; it cannot be written to a node.
    #[error("map node {index:#x} of level {level} holds a record with number {number}: at most 65535 is possible")]
    Number {
        /// Levels above the leaves; 0 is a leaf.
        level: u8,
        /// Its index among the nodes of its level.
        index: u64,
        /// The number.
        number: u32,
    },
    /// A leaf was to be merged without the base that it asked for.
    #[error("map leaf {index:#x} was to be written without the node it is merged with")]
    NoBase {
        /// The leaf's index.
        index: u64,
    },
    /// A change does not fit a segment's account: the accounts are wrong.
    #[error("the account of {} is {what}", segment.key())]
    Account {
        /// The segment.
        segment: SegmentId,
        /// What is wrong.
        what: &'static str,
    },
    /// A node was walked that is not on the free list: the accounts are wrong.
    #[error("map node {index:#x} of level {level} is not on the free list")]
    FreeList {
        /// Levels above the leaves; 0 is a leaf.
        level: u8,
        /// Its index among the nodes of its level.
        index: u64,
    },
    /// More pages of accounts than a directory can name.
    #[error("{0} pages of accounts: at most 4000 are possible")]
    UsagePages(usize),
}
