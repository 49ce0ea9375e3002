//! Finding what is in a segment from its last bytes.

use std::ops::Range;

use super::builder::{HEADER, HEADER_MAGIC, TRAILER, TRAILER_MAGIC, index_aad};
use super::error::{Part, SegmentError};
use super::id::SegmentId;
use super::index::{About, SegmentIndex};
use super::{FORMAT, MAX_INDEX, MAX_SEGMENT};
use crate::pool::aead::TAG;
use crate::pool::keys::{PoolKeys, Purpose};
use crate::wire::{Malformed, Reader};

/// Bytes of a segment's end that hold the whole index of nearly every segment.
const TAIL: u64 = 64 << 10;

/// What [`read_index`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub enum IndexRead {
    /// The index.
    Index(SegmentIndex),
    /// The index is longer than the bytes given: this many bytes of the object's end are needed.
    NeedTail(u64),
}

/// The byte range to fetch first of a segment of `size` bytes.
pub fn tail_range(size: u64) -> Range<u64> {
    size.saturating_sub(TAIL)..size
}

/// Reads the index of segment `id`, an object of `size` bytes whose last ones are `tail`.
pub fn read_index(keys: &PoolKeys, id: SegmentId, size: u64, tail: &[u8]) -> Result<IndexRead, SegmentError> {
    let key = id.key();
    let wrong = |what| SegmentError::malformed(&key, Part::Trailer, Malformed(what));
    let least = (HEADER + TAG + TRAILER) as u64;
    if !(least..=MAX_SEGMENT).contains(&size) || tail.len() as u64 > size {
        return Err(wrong("of an object whose length no segment has"));
    }
    let Some((rest, trailer)) = tail.split_last_chunk::<TRAILER>() else {
        return Ok(IndexRead::NeedTail(size.min(TAIL)));
    };
    let Frame { version, salt, sealed, stated } = frame(keys, &key, Part::Trailer, TRAILER_MAGIC, trailer)?;
    if stated != size
        || !(TAG as u64..=(MAX_INDEX + TAG) as u64).contains(&sealed)
        || sealed > size - least + TAG as u64
    {
        return Err(wrong("at odds with the object's length"));
    }
    let Some(at) = rest.len().checked_sub(sealed as usize) else {
        return Ok(IndexRead::NeedTail(sealed + TRAILER as u64));
    };
    if tail.len() as u64 == size && frame(keys, &key, Part::Header, HEADER_MAGIC, tail)?.salt != salt {
        return Err(SegmentError::malformed(&key, Part::Header, Malformed("at odds with the trailer")));
    }
    let payload = keys
        .body(Purpose::Index, &salt)
        .open_copy(0, &index_aad(keys, trailer, &key), &rest[at..])
        .map_err(|_| SegmentError::auth(&key, Part::Index))?;
    let end = (size - TRAILER as u64 - sealed) as u32;
    let about = About { id, version, bytes: size as u32, salt, first: HEADER as u32, end };
    SegmentIndex::decode(&payload, &about)
        .map(IndexRead::Index)
        .map_err(|what| SegmentError::malformed(&key, Part::Index, what))
}

/// What header and trailer say.
struct Frame {
    version: u16,
    salt: [u8; 16],
    /// Only a trailer has these two: of a header they are what follows it.
    sealed: u64,
    stated: u64,
}

/// Checks magic, version and generation.
fn frame(keys: &PoolKeys, key: &str, part: Part, magic: &[u8; 8], bytes: &[u8]) -> Result<Frame, SegmentError> {
    let wrong = |what| SegmentError::malformed(key, part, what);
    let mut r = Reader::new(bytes);
    if &r.array::<8>().map_err(wrong)? != magic {
        return Err(wrong(Malformed("not that of a segment")));
    }
    let version = r.u16().map_err(wrong)?;
    if version > FORMAT {
        return Err(SegmentError::Version { key: key.to_owned(), found: version });
    }
    if version == 0 || r.u16().map_err(wrong)? != 0 {
        return Err(wrong(Malformed("not of a format that exists")));
    }
    let (found, ours) = (r.u32().map_err(wrong)?, keys.generation());
    if found != ours {
        return Err(SegmentError::Generation { key: key.to_owned(), found, ours });
    }
    let salt = r.array().map_err(wrong)?;
    let (sealed, stated) = (u64::from(r.u32().map_err(wrong)?), u64::from(r.u32().map_err(wrong)?));
    Ok(Frame { version, salt, sealed, stated })
}
