//! The compression that a volume is created with; the catalogue keeps it, the segment writer follows it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What a volume asks for; each record may still be stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Compression {
    /// Nothing is compressed.
    None = 0,
    /// LZ4: fast.
    #[default]
    Lz4 = 1,
    /// Zstandard, level 1: smaller.
    Zstd = 2,
}

impl Compression {
    /// The setting of an on-disk number.
    pub fn from_u8(v: u8) -> Option<Self> {
        [Self::None, Self::Lz4, Self::Zstd].into_iter().find(|c| *c as u8 == v)
    }
}

/// A compression's name that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown compression {0:?}: one of none, lz4, zstd")]
pub struct UnknownCompression(pub String);

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(s: &str) -> Result<Self, UnknownCompression> {
        match s {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(UnknownCompression(s.to_owned())),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}
