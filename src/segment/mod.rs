//! Segments and records: names, formats.

mod id;

pub use id::{BLOCK, EXTENT, EXTENT_BLOCKS, RecordRef, RootRef, SegmentId, SegmentKind, log_prefix};
