//! Making a segment.
//!
//! ```text
//! header   0   magic "ESKERSEG"        records, back to back        trailer  0   magic "ESKERIDX"
//!          8   format version, 2 LE    sealed index, tag (16)                8   format version, 2 LE
//!          10  zero, 2                                                       10  zero, 2
//!          12  key generation, 4                                             12  key generation, 4
//!          16  salt, 16                                                      16  salt, 16
//!                                                                            32  sealed index's length, 4
//!                                                                            36  object's length, 4
//! ```

use std::sync::Arc;

use bytes::Bytes;

use super::id::{BLOCK, RecordRef, SegmentId, SegmentKind};
use super::index::{
    About, CheckpointRef, DataEntry, Introduced, NodeEntry, OpRange, Relocation, SegmentIndex, TrimEntry,
};
use super::record::{OVERHEAD, Sealer, Subject};
use super::{FORMAT, MAX_EXTENT, MAX_INDEX, MAX_LBA, MAX_NODE, MAX_RECORDS, MAX_SEGMENT};
use crate::pool::Compression;
use crate::pool::aead::TAG;
use crate::pool::keys::{PoolKeys, Purpose};
use crate::wire::Put;

pub(super) const HEADER_MAGIC: &[u8; 8] = b"ESKERSEG";
pub(super) const TRAILER_MAGIC: &[u8; 8] = b"ESKERIDX";
/// Bytes before the first record.
pub(super) const HEADER: usize = 32;
/// Bytes after the sealed index.
pub(super) const TRAILER: usize = 40;

/// Records in a row that did not shrink, after which not every one tries any more.
const GIVE_UP: u32 = 8;
/// From then on every so many records one tries, until one shrinks.
const TRY_AGAIN: u32 = 16;

/// What [`SegmentBuilder::finish`] adds to what was collected.
#[derive(Debug, Clone)]
pub struct SegmentTail {
    /// The operations that this segment completes.
    pub ops: OpRange,
    /// The salt of the log segment before this one; the opening's `writer` for the first; zeroes for data segments.
    pub predecessor_salt: [u8; 16],
    /// A checkpoint that is durable.
    pub checkpoint: Option<CheckpointRef>,
    /// Segments that may be deleted once this one is durable.
    pub deletable: Vec<SegmentId>,
}

/// A segment, ready to be stored.
#[derive(Debug, Clone)]
pub struct BuiltSegment {
    /// Its name.
    pub id: SegmentId,
    /// Its salt.
    pub salt: [u8; 16],
    /// The whole object.
    pub bytes: Bytes,
    /// What is in it: equal to what reading the bytes would yield.
    pub index: SegmentIndex,
}

/// Collects records, seals them at once, and ends in the bytes of a segment.
pub struct SegmentBuilder {
    keys: Arc<PoolKeys>,
    id: SegmentId,
    key: String,
    compression: Compression,
    sealer: Sealer,
    out: Vec<u8>,
    index: SegmentIndex,
    /// Extents in a row that compression did not shrink.
    unshrunk: u32,
}

impl SegmentBuilder {
    /// An empty segment. `salt` is random and used for no other body: a body that is built again takes a new one.
    pub fn new(keys: Arc<PoolKeys>, id: SegmentId, salt: [u8; 16], compression: Compression) -> Self {
        let key = id.key();
        let sealer = Sealer::new(&keys, &key, salt);
        let mut out = Vec::new();
        put_frame(&mut out, HEADER_MAGIC, &keys, &salt);
        let index = SegmentIndex {
            bytes: 0,
            salt,
            ops: OpRange::NONE,
            predecessor_salt: [0; 16],
            checkpoint: None,
            deletable: Vec::new(),
            introduced: Vec::new(),
            relocations: Vec::new(),
            trims: Vec::new(),
            records: Vec::new(),
            nodes: Vec::new(),
        };
        Self { keys, id, key, compression, sealer, out, index, unshrunk: 0 }
    }

    /// Adds blocks of an extent: `plaintext` is the blocks of `mask` (bit i = block i) back to back.
    ///
    /// # Panics
    /// If the mask is empty, the length does not fit the mask, the extent is none, or there was no room.
    pub fn add_extent(&mut self, extent: u64, mask: u8, plaintext: &[u8]) -> RecordRef {
        assert!(mask != 0 && plaintext.len() == mask.count_ones() as usize * BLOCK, "the blocks of the mask");
        assert!(extent < MAX_EXTENT, "extent {extent}");
        // After a run of data that does not shrink only some records try: trying costs more than sealing.
        let give_up = self.unshrunk >= GIVE_UP && !self.unshrunk.is_multiple_of(TRY_AGAIN);
        let how = if give_up { Compression::None } else { self.compression };
        let record = self.add(how, Subject::extent(extent, mask), plaintext);
        let shrank = (record.len as usize) < plaintext.len();
        self.unshrunk = if shrank { 0 } else { self.unshrunk + 1 };
        self.index.records.push(DataEntry { extent, mask, record });
        record
    }

    /// Adds a map node of at most 1 MiB, whatever the volume's compression: with Zstandard where it helps.
    ///
    /// # Panics
    /// If the node is too long, the index is not below 2^56, or there was no room.
    pub fn add_node(&mut self, level: u8, index: u64, plaintext: &[u8]) -> RecordRef {
        assert!(plaintext.len() <= MAX_NODE && index < 1 << 56, "a map node");
        let record = self.add(Compression::Zstd, Subject::node(level, index), plaintext);
        self.index.nodes.push(NodeEntry { level, index, record });
        record
    }

    /// Adds a trim or zeroing of `blocks` 4 KiB blocks. The segment's own records come after it, whatever the order of
    /// the calls.
    ///
    /// # Panics
    /// If it ends beyond the last address.
    pub fn add_trim(&mut self, first_lba: u64, blocks: u64) {
        assert!(first_lba.checked_add(blocks).is_some_and(|end| end <= MAX_LBA), "a trim of {blocks} at {first_lba}");
        self.index.trims.push(TrimEntry { first_lba, blocks });
    }

    /// Adds a relocation. It comes before the segment's trims and records.
    ///
    /// # Panics
    /// If it moves no block, or one that its target does not hold.
    pub fn add_relocation(&mut self, relocation: Relocation) {
        assert!(relocation.mask != 0 && relocation.mask & !relocation.original == 0, "{relocation:?}");
        assert!(relocation.extent < MAX_EXTENT, "extent {}", relocation.extent);
        self.index.relocations.push(relocation);
    }

    /// States that a data segment comes into use with the relocations here.
    ///
    /// # Panics
    /// If it is a log segment.
    pub fn introduce(&mut self, introduced: Introduced) {
        assert!(introduced.segment.kind() == SegmentKind::Data, "{introduced:?}");
        self.index.introduced.push(introduced);
    }

    /// Whether one more record of this many bytes, or one more trim or relocation, is within a segment's limits.
    pub fn has_room(&self, plaintext: usize) -> bool {
        self.record_count() < MAX_RECORDS
            && self.index_size() < MAX_INDEX / 2
            && self.size() + plaintext + OVERHEAD <= MAX_SEGMENT as usize - MAX_INDEX
    }

    /// Bytes of the object if it were finished now; the index is estimated from above.
    pub fn size(&self) -> usize {
        self.out.len() + self.index_size() + TAG + TRAILER
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        let none = self.index.trims.is_empty() && self.index.relocations.is_empty() && self.index.introduced.is_empty();
        none && self.record_count() == 0
    }

    /// The segment's name.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// Seals the index and ends the segment.
    ///
    /// # Panics
    /// If what was added does not fit: more than 8 MiB of deletable names.
    pub fn finish(self, tail: SegmentTail) -> BuiltSegment {
        let Self { keys, id, key, mut out, mut index, .. } = self;
        index.ops = tail.ops;
        index.predecessor_salt = tail.predecessor_salt;
        index.checkpoint = tail.checkpoint;
        index.deletable = tail.deletable;
        let payload = index.encode();
        assert!(payload.len() <= MAX_INDEX, "an index of {} bytes", payload.len());
        let sealed = payload.len() + TAG;
        let total = out.len() + sealed + TRAILER;
        index.bytes = total as u32;
        let end = out.len() as u32;
        let about = About { id, version: FORMAT, bytes: index.bytes, salt: index.salt, first: HEADER as u32, end };
        debug_assert_eq!(SegmentIndex::decode(&payload, &about).as_ref(), Ok(&index), "what was built can be read");
        let mut trailer = Vec::with_capacity(TRAILER);
        put_frame(&mut trailer, TRAILER_MAGIC, &keys, &index.salt);
        trailer.put_u32(sealed as u32);
        trailer.put_u32(total as u32);
        out.reserve_exact(sealed + TRAILER);
        keys.body(Purpose::Index, &index.salt).seal_into(0, &index_aad(&keys, &trailer, &key), &payload, &mut out);
        out.extend_from_slice(&trailer);
        assert!(out.len() as u64 <= MAX_SEGMENT, "a segment of {} bytes", out.len());
        BuiltSegment { id, salt: index.salt, bytes: Bytes::from(out), index }
    }

    fn add(&mut self, how: Compression, of: Subject, plaintext: &[u8]) -> RecordRef {
        let number = u16::try_from(self.record_count()).expect("callers ask has_room before the record");
        let offset = self.out.len() as u32;
        let len = self.sealer.add(how, number, of, plaintext, &mut self.out);
        assert!(self.out.len() as u64 <= MAX_SEGMENT, "callers ask has_room before the record");
        RecordRef { segment: self.id, offset, len, number: u32::from(number) }
    }

    fn record_count(&self) -> usize {
        self.index.records.len() + self.index.nodes.len()
    }

    /// From above: fields of fixed size, then the most that each entry can take.
    fn index_size(&self) -> usize {
        160 + 14 * self.index.records.len()
            + 16 * self.index.nodes.len()
            + 16 * self.index.trims.len()
            + 80 * self.index.relocations.len()
            + 32 * self.index.introduced.len()
    }
}

fn put_frame(out: &mut Vec<u8>, magic: &[u8; 8], keys: &PoolKeys, salt: &[u8; 16]) {
    out.extend_from_slice(magic);
    out.put_u16(FORMAT);
    out.put_u16(0);
    out.put_u32(keys.generation());
    out.extend_from_slice(salt);
}

/// `trailer (40) || pool id (16) || object key`
pub(super) fn index_aad(keys: &PoolKeys, trailer: &[u8], key: &str) -> Vec<u8> {
    [trailer, keys.pool_id(), key.as_bytes()].concat()
}
