//! What a fetched log object is.

use crate::pool::sealed::{ObjectKind, object_kind};

use super::builder::HEADER_MAGIC;

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

/// Tells from the first 12 bytes (at least) what a log object claims to be. Nothing is authenticated by this.
pub fn log_object_kind(bytes: &[u8]) -> LogObject {
    if bytes.starts_with(HEADER_MAGIC) {
        return LogObject::Segment;
    }
    match object_kind(bytes) {
        Some(k) if k == ObjectKind::Opening as u16 => LogObject::Opening,
        Some(k) if k == ObjectKind::Seal as u16 => LogObject::Seal,
        _ => LogObject::Unknown,
    }
}
