//! What a fetched log object is.

use crate::pool::sealed::{ObjectKind, object_kind};

use super::builder::{HEADER_MAGIC, TRAILER, TRAILER_MAGIC};

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
