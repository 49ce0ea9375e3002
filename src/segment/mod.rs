//! Segments and records: names and formats (docs/format.md has every byte).
//!
//! [`SegmentBuilder`] makes the bytes of a segment, [`read_index`] finds what is in one, [`open_extent`] and
//! [`open_node`] open a single record. [`Opening`] and [`Seal`] are the two other things that a log holds. All of it is
//! pure: bytes in, bytes out; fetching and storing is the caller's.

mod builder;
mod codec;
mod error;
mod fields;
mod id;
mod index;
mod kind;
mod opening;
mod reader;
mod record;
mod seal;
#[cfg(test)]
mod tests;

pub use builder::{BuiltSegment, SegmentBuilder, SegmentTail};
pub use codec::Codec;
pub use error::{Part, SegmentError};
pub use id::{BLOCK, EXTENT, EXTENT_BLOCKS, RecordRef, SegmentId, SegmentKind, log_prefix};
pub use index::{
    CheckpointRef, DataEntry, Introduced, NodeEntry, OpRange, Relocation, RootRef, SegmentIndex, TrimEntry,
};
pub use kind::{LogObject, has_trailer, is_cut, log_object_kind};
pub use opening::{Domain, Opening, Predecessor, ReplayRange};
pub use reader::{IndexRead, read_index, tail_range};
pub use record::{open_extent, open_node};
pub use seal::Seal;

pub use crate::pool::{Compression, UnknownCompression};

/// The version of the segment format that this code writes, and the newest it reads. Version 1 had neither accounts in
/// checkpoints nor introduced segments.
pub const FORMAT: u16 = 2;
/// No segment is longer than this (bytes).
pub const MAX_SEGMENT: u64 = 64 << 20;
/// No index's payload is longer than this (bytes).
pub const MAX_INDEX: usize = 16 << 20;
/// No segment holds more records than this.
pub const MAX_RECORDS: usize = 1 << 16;
/// No map node's plaintext is longer than this (bytes).
pub const MAX_NODE: usize = 1 << 20;
/// Extents are numbered below this: 2^64 bytes of address.
pub const MAX_EXTENT: u64 = 1 << 49;
/// The highest sequence number in a log.
pub const MAX_SEQ: u64 = (1 << 62) - 1;
/// The highest operation number.
pub const MAX_OP: u64 = (1 << 62) - 1;
/// 4 KiB blocks are numbered below this.
pub const MAX_LBA: u64 = MAX_EXTENT * EXTENT_BLOCKS;
