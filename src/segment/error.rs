//! What can be wrong with a segment, a record, an opening or a seal.

use std::fmt;

use thiserror::Error;

use super::FORMAT;
use crate::pool::sealed::SealedError;
use crate::wire::Malformed;

/// The part of an object that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The segment's first bytes.
    Header,
    /// The segment's last bytes.
    Trailer,
    /// The sealed index.
    Index,
    /// The record of this number.
    Record(u32),
    /// The payload of an opening or a seal.
    Payload,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Trailer => f.write_str("trailer"),
            Self::Index => f.write_str("index"),
            Self::Record(n) => write!(f, "record {n}"),
            Self::Payload => f.write_str("payload"),
        }
    }
}

/// Why bytes are not what should be under their key. Always names the object's key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// Altered, swapped, or an old body under another name.
    #[error("object {key}: its {part} does not authenticate: it was altered, or it is not what was written here")]
    Auth {
        /// The object's key.
        key: String,
        /// Which part.
        part: Part,
    },
    /// Not the layout it should have: truncated, overwritten, or not an object of ours.
    #[error("object {key}: its {part} is {what}")]
    Malformed {
        /// The object's key.
        key: String,
        /// Which part.
        part: Part,
        /// What is wrong with it.
        what: Malformed,
    },
    /// Written by a newer esker.
    #[error("object {key} has format version {found}, this esker reads up to {FORMAT}: use a newer esker")]
    Version {
        /// The object's key.
        key: String,
        /// The version it states.
        found: u16,
    },
    /// Sealed under another generation of the pool's key.
    #[error("object {key} is sealed under key generation {found}, this is generation {ours}")]
    Generation {
        /// The object's key.
        key: String,
        /// The generation it states (a record states the low 16 bits only).
        found: u32,
        /// The generation of the keys at hand.
        ours: u32,
    },
    /// An opening or a seal could not be opened.
    #[error(transparent)]
    Sealed(#[from] SealedError),
}

impl SegmentError {
    pub(super) fn malformed(key: &str, part: Part, what: Malformed) -> Self {
        Self::Malformed { key: key.to_owned(), part, what }
    }

    pub(super) fn auth(key: &str, part: Part) -> Self {
        Self::Auth { key: key.to_owned(), part }
    }
}
