//! The index of a segment: what is in it, and its bytes.

use std::collections::HashMap;

use super::fields::{
    get_bool, get_checkpoint, get_count, get_op, get_place, get_segment, put_checkpoint, put_place, put_segment,
};
use super::record::OVERHEAD;
use super::{MAX_EXTENT, MAX_LBA, MAX_RECORDS, MAX_SEGMENT, RecordRef, SegmentId, SegmentKind};
use crate::wire::{Malformed, Put, Reader};

/// Operation numbers, both ends included; `last < first`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl OpRange {
    /// No operation.
    pub const NONE: Self = Self { first: 1, last: 0 };

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.last < self.first
    }
}

/// A map's root and how many levels of inner nodes lie above its leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootRef {
    /// The root node's record.
    pub record: RecordRef,
    /// Levels of inner nodes above the leaves.
    pub levels: u8,
}

/// A durable map and which log it contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckpointRef {
    /// The map; `None`: empty.
    pub root: Option<RootRef>,
    /// The epoch of the last log segment that the map contains.
    pub covers_epoch: u32,
    /// The sequence number of that segment (0: none of that epoch's).
    pub covers_seq: u64,
    /// The last operation number that the map contains.
    pub last_op: u64,
    /// The accounts of all segments as of this map; `None`: written by an esker that kept none.
    pub usage: Option<RecordRef>,
}

/// One data record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataEntry {
    /// The extent.
    pub extent: u64,
    /// The blocks it holds: bit i is block i of the extent.
    pub mask: u8,
    /// Where it is.
    pub record: RecordRef,
}

/// One map node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeEntry {
    /// Level, 0 for leaves.
    pub level: u8,
    /// Index within the level, below 2^56.
    pub index: u64,
    /// Where it is.
    pub record: RecordRef,
}

/// Blocks that read as zeroes from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TrimEntry {
    /// The first 4 KiB block.
    pub first_lba: u64,
    /// How many.
    pub blocks: u64,
}

/// Blocks of an extent that moved: those that still resolve to `from` resolve to `to` from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relocation {
    /// The extent.
    pub extent: u64,
    /// The blocks that move.
    pub mask: u8,
    /// The record they were in.
    pub from: RecordRef,
    /// The record they are in now.
    pub to: RecordRef,
    /// The mask that `to` was written with.
    pub original: u8,
}

/// A data segment that relocations of this log segment are the first to refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Introduced {
    /// Its name.
    pub segment: SegmentId,
    /// The object's length in bytes.
    pub bytes: u32,
    /// The operation number that tells the age of what is in it.
    pub born: u64,
}

/// What is in a segment. Order of application: relocations, trims, records by number (a later one wins).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The object's length in bytes. Not in the payload: the trailer has it.
    pub bytes: u32,
    /// The segment's salt; its successor in the log names it.
    pub salt: [u8; 16],
    /// The operations completed by this segment.
    pub ops: OpRange,
    /// The salt of the log segment before this one; the opening's `writer` for the first; zeroes for data segments.
    pub predecessor_salt: [u8; 16],
    /// A checkpoint that is durable.
    pub checkpoint: Option<CheckpointRef>,
    /// Segments that nothing refers to any more once this segment is durable.
    pub deletable: Vec<SegmentId>,
    /// Data segments that come into use with the relocations.
    pub introduced: Vec<Introduced>,
    /// Relocations.
    pub relocations: Vec<Relocation>,
    /// Trims and zeroes.
    pub trims: Vec<TrimEntry>,
    /// Data records by number.
    pub records: Vec<DataEntry>,
    /// Map nodes by number.
    pub nodes: Vec<NodeEntry>,
}

/// At most this much is reserved ahead of decoding: counts are cheap to claim.
const RESERVE: usize = 1 << 12;

/// What is known of a segment besides its payload.
pub(super) struct About {
    pub id: SegmentId,
    pub version: u16,
    /// The object's length.
    pub bytes: u32,
    pub salt: [u8; 16],
    /// Its records fill the bytes from here...
    pub first: u32,
    /// ...to here.
    pub end: u32,
}

impl SegmentIndex {
    /// The payload that is sealed. The salt is not in it: header and trailer carry it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 8 * (self.records.len() + self.nodes.len()) + 8 * self.deletable.len());
        out.put_varint(self.ops.first);
        out.put_varint(self.ops.last);
        out.extend_from_slice(&self.predecessor_salt);
        out.put_u8(u8::from(self.checkpoint.is_some()));
        if let Some(c) = &self.checkpoint {
            put_checkpoint(&mut out, c);
        }
        out.put_varint(self.deletable.len() as u64);
        for id in &self.deletable {
            put_segment(&mut out, *id);
        }
        out.put_varint(self.introduced.len() as u64);
        for i in &self.introduced {
            put_segment(&mut out, i.segment);
            out.put_varint(u64::from(i.bytes));
            out.put_varint(i.born);
        }
        put_relocations(&mut out, &self.relocations);
        out.put_varint(self.trims.len() as u64);
        for t in &self.trims {
            out.put_varint(t.first_lba);
            out.put_varint(t.blocks);
        }
        put_records(&mut out, &self.records, &self.nodes);
        out
    }

    /// Decodes the payload of a segment.
    pub(super) fn decode(payload: &[u8], about: &About) -> Result<Self, Malformed> {
        let About { version, bytes, salt, .. } = *about;
        let r = &mut Reader::new(payload);
        let ops = OpRange { first: get_op(r)?, last: get_op(r)? };
        let predecessor_salt = r.array()?;
        let checkpoint = if get_bool(r)? { Some(get_checkpoint(r, version)?) } else { None };
        let deletable = get_many(r, 3, get_segment)?;
        let introduced = if version > 1 { get_many(r, 5, get_introduced)? } else { Vec::new() };
        let relocations = get_relocations(r)?;
        let trims = get_many(r, 2, get_trim)?;
        let (records, nodes) = get_records(r, about.id, about.first, about.end)?;
        r.end()?;
        Ok(Self {
            bytes,
            salt,
            ops,
            predecessor_salt,
            checkpoint,
            deletable,
            introduced,
            relocations,
            trims,
            records,
            nodes,
        })
    }
}

fn get_many<'a, T>(
    r: &mut Reader<'a>,
    least: usize,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let n = get_count(r, least)?;
    let mut out = Vec::with_capacity(n.min(RESERVE));
    for _ in 0..n {
        out.push(one(r)?);
    }
    Ok(out)
}

fn get_introduced(r: &mut Reader<'_>) -> Result<Introduced, Malformed> {
    let segment = get_segment(r)?;
    if segment.kind() != SegmentKind::Data {
        return Err(Malformed("a log segment that comes into use with relocations"));
    }
    let bytes = r.varint_max(MAX_SEGMENT, "object longer than a segment can be")? as u32;
    Ok(Introduced { segment, bytes, born: get_op(r)? })
}

fn get_trim(r: &mut Reader<'_>) -> Result<TrimEntry, Malformed> {
    let (first_lba, blocks) = (r.varint()?, r.varint()?);
    match first_lba.checked_add(blocks) {
        Some(end) if end <= MAX_LBA => Ok(TrimEntry { first_lba, blocks }),
        _ => Err(Malformed("trim beyond the last block")),
    }
}

/// Extents mostly follow each other: the difference to the one expected next, zigzag.
fn put_extent(out: &mut Vec<u8>, expected: &mut u64, extent: u64) {
    let d = extent.wrapping_sub(*expected) as i64;
    out.put_varint((d << 1 ^ d >> 63) as u64);
    *expected = extent + 1;
}

fn get_extent(r: &mut Reader<'_>, expected: &mut u64) -> Result<u64, Malformed> {
    let z = r.varint()?;
    let d = (z >> 1) as i64 ^ -((z & 1) as i64);
    let extent = expected.wrapping_add(d as u64);
    if extent >= MAX_EXTENT {
        return Err(Malformed("extent beyond the last one"));
    }
    *expected = extent + 1;
    Ok(extent)
}

fn get_mask(r: &mut Reader<'_>) -> Result<u8, Malformed> {
    match r.u8()? {
        0 => Err(Malformed("mask of no blocks")),
        m => Ok(m),
    }
}

/// A table of the segments that occur, then the relocations with places in it.
fn put_relocations(out: &mut Vec<u8>, relocations: &[Relocation]) {
    let mut table = Vec::new();
    let mut places = HashMap::new();
    for r in relocations.iter().flat_map(|r| [r.from.segment, r.to.segment]) {
        places.entry(r).or_insert_with(|| {
            table.push(r);
            table.len() as u64 - 1
        });
    }
    out.put_varint(table.len() as u64);
    for id in table {
        put_segment(out, id);
    }
    out.put_varint(relocations.len() as u64);
    let mut expected = 0;
    for r in relocations {
        put_extent(out, &mut expected, r.extent);
        out.put_u8(r.mask);
        out.put_u8(r.original);
        for record in [&r.from, &r.to] {
            out.put_varint(places[&record.segment]);
            put_place(out, record);
        }
    }
}

fn get_relocations(r: &mut Reader<'_>) -> Result<Vec<Relocation>, Malformed> {
    let table = get_many(r, 3, get_segment)?;
    let mut expected = 0;
    get_many(r, 11, |r| {
        let extent = get_extent(r, &mut expected)?;
        let mask = get_mask(r)?;
        let original = get_mask(r)?;
        if mask & !original != 0 {
            return Err(Malformed("relocation of blocks that its target does not hold"));
        }
        let mut record = || {
            let at = r.varint_max(table.len() as u64, "no such segment in the table")? as usize;
            let id = table.get(at).ok_or(Malformed("no such segment in the table"))?;
            get_place(r, *id)
        };
        Ok(Relocation { extent, mask, from: record()?, to: record()?, original })
    })
}

/// All records by number: mask (0: node), extent or level and index, stored length. Offsets follow from the lengths.
fn put_records(out: &mut Vec<u8>, records: &[DataEntry], nodes: &[NodeEntry]) {
    let count = records.len() + nodes.len();
    out.put_varint(count as u64);
    let (mut records, mut nodes) = (records.iter().peekable(), nodes.iter().peekable());
    let mut expected = 0;
    for number in 0..count as u32 {
        if let Some(d) = records.next_if(|d| d.record.number == number) {
            out.put_u8(d.mask);
            put_extent(out, &mut expected, d.extent);
            out.put_varint(u64::from(d.record.len));
        } else {
            let n = nodes.next().expect("a builder numbers its records 0, 1, 2...");
            out.put_u8(0);
            out.put_u8(n.level);
            out.put_varint(n.index);
            out.put_varint(u64::from(n.record.len));
        }
    }
}

fn get_records(
    r: &mut Reader<'_>,
    segment: SegmentId,
    first: u32,
    end: u32,
) -> Result<(Vec<DataEntry>, Vec<NodeEntry>), Malformed> {
    let count = get_count(r, 3)?;
    if count > MAX_RECORDS {
        return Err(Malformed("more records than a segment holds"));
    }
    let (mut records, mut nodes) = (Vec::with_capacity(count.min(RESERVE)), Vec::new());
    let (mut offset, mut expected) = (first, 0);
    for number in 0..count as u32 {
        let mask = r.u8()?;
        let (level, place) = match mask {
            0 => (r.u8()?, r.varint_max((1 << 56) - 1, "node index too high")?),
            _ => (0, get_extent(r, &mut expected)?),
        };
        let len = r.varint_max(u64::from(end - offset), "record that lies outside its segment")? as u32;
        if (len as usize) < OVERHEAD {
            return Err(Malformed("record that is too short"));
        }
        let record = RecordRef { segment, offset, len, number };
        match mask {
            0 => nodes.push(NodeEntry { level, index: place, record }),
            _ => records.push(DataEntry { extent: place, mask, record }),
        }
        offset += len;
    }
    if offset != end {
        return Err(Malformed("records that do not fill their segment"));
    }
    Ok((records, nodes))
}
