//! What a fetched log object is.

use crate::pool::sealed::{ObjectKind, object_kind};

use super::builder::{HEADER_MAGIC, TRAILER, TRAILER_MAGIC};

/// So many flipped bits leave a magic number recognizable.
const FEW_BITS: u32 = 8;

/// What lies under a key of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogObject {
    /// A log segment.
    Segment,
    /// The opening of an epoch.
    Opening,
    /// A seal.
    Seal,
    /// None of these.
    Unknown,
}

/// Tells what a log object claims to be. `bytes` is the whole object, or the end of it that [`super::tail_range`] names:
/// openings and seals are shorter than that, a segment shows by its trailer. Nothing is authenticated by this.
pub fn log_object_kind(bytes: &[u8]) -> LogObject {
    let trailer = bytes.last_chunk::<TRAILER>().is_some_and(|t| t.starts_with(TRAILER_MAGIC));
    match object_kind(bytes) {
        Some(k) if k == ObjectKind::Opening as u16 => LogObject::Opening,
        Some(k) if k == ObjectKind::Seal as u16 => LogObject::Seal,
        None if trailer || bytes.starts_with(HEADER_MAGIC) => LogObject::Segment,
        _ => LogObject::Unknown,
    }
}

/// Whether an object of which `head` are the first bytes and `tail` the last begins like a segment and ends without a
/// trailer. A trailer in whose magic single bits are wrong is one. Nothing is authenticated.
pub fn is_cut(head: &[u8], tail: &[u8]) -> bool {
    let magic = &head[..head.len().min(HEADER_MAGIC.len())];
    HEADER_MAGIC.starts_with(magic) && !has_trailer(tail)
}

/// Whether bytes end like a segment, give or take a few bits.
pub fn has_trailer(tail: &[u8]) -> bool {
    let Some(trailer) = tail.last_chunk::<TRAILER>() else { return false };
    let wrong: u32 = trailer.iter().zip(TRAILER_MAGIC).map(|(a, b)| (a ^ b).count_ones()).sum();
    wrong <= FEW_BITS
}
