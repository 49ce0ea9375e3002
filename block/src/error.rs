//! Why an operation failed, and the errno a kernel or client is told.

use thiserror::Error;

/// The result of a block operation.
pub type BlockResult<T> = Result<T, BlockError>;

/// Why a block operation failed.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum BlockError {
    /// The range ends beyond the device, or its arithmetic overflows.
    #[error("the range {offset}+{len} is outside the device of {size} bytes")]
    OutOfRange {
        /// Byte offset asked for.
        offset: u64,
        /// Length in bytes asked for.
        len: u64,
        /// Size of the device in bytes.
        size: u64,
    },
    /// The request is not well-formed (a misaligned batch, too much data in one).
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The device is read-only.
    #[error("the volume is read-only")]
    ReadOnly,
    /// Another writer owns the volume now; nothing more will be written by this one.
    #[error("fenced: another writer owns the volume now")]
    Fenced,
    /// An object does not hold what it must: wrong data is never returned.
    #[error("object {key} is damaged or missing: {why}")]
    Corrupt {
        /// The object's key, below the pool's prefix.
        key: String,
        /// What was found.
        why: String,
    },
    /// The store could not be reached or refused, for longer than `--on-outage` allows.
    #[error("the object store failed: {0}")]
    Store(String),
    /// The data of a write could not be had from where it lies; nothing was written.
    #[error("the data of a write could not be read: {0}")]
    Source(String),
    /// The device is detaching.
    #[error("the volume is shutting down")]
    ShuttingDown,
}

impl BlockError {
    /// The errno (positive) for this error: EINVAL, EPERM, ESHUTDOWN or EIO.
    pub fn errno(&self) -> i32 {
        match self {
            Self::OutOfRange { .. } | Self::Invalid(_) => libc::EINVAL,
            Self::ReadOnly => libc::EPERM,
            Self::ShuttingDown => libc::ESHUTDOWN,
            Self::Fenced | Self::Corrupt { .. } | Self::Store(_) | Self::Source(_) => libc::EIO,
        }
    }
}
