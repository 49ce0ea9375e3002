//! One record: sealing it, opening it.
//!
//! ```text
//! 0   salt of the segment, 16
//! 16  number in the segment, 2 LE
//! 18  key generation, low 16 bits, 2
//! 20  block mask of the extent (0: a map node), 1
//! 21  codec, 1
//! 22  ciphertext, then the tag (16)
//! ```

use bytes::Bytes;

use super::codec::{Codec, decode, encode, zstd_length};
use super::error::{Part, SegmentError};
use super::id::{BLOCK, RecordRef};
use super::{MAX_NODE, MAX_SEGMENT};
use crate::pool::Compression;
use crate::pool::aead::{BodyKey, TAG};
use crate::pool::keys::{PoolKeys, Purpose};
use crate::wire::{Malformed, Put, Reader};

/// Bytes before the ciphertext.
const HEADER: usize = 22;
/// Bytes that a record adds to what it holds.
pub(super) const OVERHEAD: usize = HEADER + TAG;

/// What a record is, besides its bytes: all of it is authenticated.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    place: u64,
    mask: u8,
}

impl Subject {
    pub(super) fn extent(extent: u64, mask: u8) -> Self {
        Self { place: extent, mask }
    }

    pub(super) fn node(level: u8, index: u64) -> Self {
        Self { place: u64::from(level) << 56 | index, mask: 0 }
    }
}

/// Seals the records of one segment.
pub(super) struct Sealer {
    body: BodyKey,
    salt: [u8; 16],
    generation: u16,
    aad: Vec<u8>,
}

impl Sealer {
    pub(super) fn new(keys: &PoolKeys, key: &str, salt: [u8; 16]) -> Self {
        Self {
            body: keys.body(Purpose::Record, &salt),
            salt,
            generation: keys.generation() as u16,
            aad: aad(keys, key, 0, Subject::extent(0, 0), Codec::Stored),
        }
    }

    /// Appends the record to `out`; answers its length.
    pub(super) fn add(
        &mut self,
        how: Compression,
        number: u16,
        of: Subject,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> u32 {
        let start = out.len();
        encode(how, plaintext, |codec, coded| {
            out.reserve(coded.len() + OVERHEAD);
            out.extend_from_slice(&self.salt);
            out.put_u16(number);
            out.put_u16(self.generation);
            out.put_u8(of.mask);
            out.put_u8(codec as u8);
            set_subject(&mut self.aad, u32::from(number), of, codec);
            self.body.seal_into(u64::from(number), &self.aad, coded, out);
        });
        (out.len() - start) as u32
    }
}

/// `pool id (16) || number (4) || place (8) || mask (1) || codec (1) || object key`
fn aad(keys: &PoolKeys, key: &str, number: u32, of: Subject, codec: Codec) -> Vec<u8> {
    let mut aad = Vec::with_capacity(30 + key.len());
    aad.extend_from_slice(keys.pool_id());
    aad.resize(30, 0);
    aad.extend_from_slice(key.as_bytes());
    set_subject(&mut aad, number, of, codec);
    aad
}

fn set_subject(aad: &mut [u8], number: u32, of: Subject, codec: Codec) {
    aad[16..20].copy_from_slice(&number.to_le_bytes());
    aad[20..28].copy_from_slice(&of.place.to_le_bytes());
    aad[28] = of.mask;
    aad[29] = codec as u8;
}

/// Opens a data record: the blocks of `mask` back to back. `mask` is the mask it was written with.
pub fn open_extent(
    keys: &PoolKeys,
    record: &RecordRef,
    extent: u64,
    mask: u8,
    bytes: &[u8],
) -> Result<Bytes, SegmentError> {
    let key = record.segment.key();
    let want = mask.count_ones() as usize * BLOCK;
    let wrong = |what| SegmentError::malformed(&key, Part::Record(record.number), what);
    let (codec, coded) = open(keys, record, &key, Subject::extent(extent, mask), bytes)?;
    decode(codec, coded, want).map(Bytes::from).map_err(wrong)
}

/// Opens the record of a map node.
pub fn open_node(
    keys: &PoolKeys,
    record: &RecordRef,
    level: u8,
    index: u64,
    bytes: &[u8],
) -> Result<Vec<u8>, SegmentError> {
    let key = record.segment.key();
    let wrong = |what| SegmentError::malformed(&key, Part::Record(record.number), what);
    let (codec, coded) = open(keys, record, &key, Subject::node(level, index), bytes)?;
    let len = match codec {
        Codec::Stored => Some(coded.len()).filter(|n| *n <= MAX_NODE),
        Codec::Zstd => zstd_length(&coded, MAX_NODE),
        Codec::Lz4 => None,
    };
    decode(codec, coded, len.ok_or_else(|| wrong(Malformed("not a map node's length or codec")))?).map_err(wrong)
}

fn open(
    keys: &PoolKeys,
    record: &RecordRef,
    key: &str,
    of: Subject,
    bytes: &[u8],
) -> Result<(Codec, Vec<u8>), SegmentError> {
    let wrong = |what| SegmentError::malformed(key, Part::Record(record.number), what);
    if bytes.len() != record.len as usize || bytes.len() as u64 > MAX_SEGMENT {
        return Err(wrong(Malformed("not of the length it should have")));
    }
    let mut r = Reader::new(bytes);
    let salt = r.array().map_err(wrong)?;
    let number = r.u16().map_err(wrong)?;
    let generation = r.u16().map_err(wrong)?;
    let mask = r.u8().map_err(wrong)?;
    let codec = r.u8().map_err(wrong)?;
    if u32::from(number) != record.number || mask != of.mask {
        return Err(wrong(Malformed("another record")));
    }
    if generation != keys.generation() as u16 {
        let (found, ours) = (u32::from(generation), keys.generation());
        return Err(SegmentError::Generation { key: key.to_owned(), found, ours });
    }
    let codec = Codec::from_u8(codec).ok_or_else(|| wrong(Malformed("of an unknown codec")))?;
    let sealed = r.take(r.remaining()).map_err(wrong)?;
    keys.body(Purpose::Record, &salt)
        .open_copy(u64::from(number), &aad(keys, key, record.number, of, codec), sealed)
        .map(|coded| (codec, coded))
        .map_err(|_| SegmentError::auth(key, Part::Record(record.number)))
}
