//! Fields that several formats share: names of segments, places of records, checkpoints.

use super::index::{CheckpointRef, RootRef};
use super::record::OVERHEAD;
use super::{MAX_OP, MAX_RECORDS, MAX_SEGMENT, MAX_SEQ, RecordRef, SegmentId, SegmentKind};
use crate::wire::{Malformed, Put, Reader};

/// `volume || epoch || number * 2 + (1 if data)`, varints.
pub(super) fn put_segment(out: &mut Vec<u8>, id: SegmentId) {
    out.put_varint(u64::from(id.volume()));
    out.put_varint(u64::from(id.epoch()));
    out.put_varint(id.number() << 1 | u64::from(id.kind() == SegmentKind::Data));
}

pub(super) fn get_segment(r: &mut Reader<'_>) -> Result<SegmentId, Malformed> {
    let volume = get_u32(r)?;
    let epoch = get_u32(r)?;
    let tagged = r.varint()?;
    Ok(match tagged & 1 {
        0 => SegmentId::log(volume, epoch, tagged >> 1),
        _ => SegmentId::data(volume, epoch, tagged >> 1),
    })
}

pub(super) fn get_u32(r: &mut Reader<'_>) -> Result<u32, Malformed> {
    r.varint_max(u64::from(u32::MAX), "number over 32 bits").map(|v| v as u32)
}

/// A sequence number: room above it, so that whoever counts on never runs over.
pub(super) fn get_seq(r: &mut Reader<'_>) -> Result<u64, Malformed> {
    r.varint_max(MAX_SEQ, "sequence number too high")
}

/// An operation number, with room above it too.
pub(super) fn get_op(r: &mut Reader<'_>) -> Result<u64, Malformed> {
    r.varint_max(MAX_OP, "operation number too high")
}

/// A flag byte: 0 or 1.
pub(super) fn get_bool(r: &mut Reader<'_>) -> Result<bool, Malformed> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed("flag that is neither 0 nor 1")),
    }
}

/// `offset || len || number`, varints: a record's place in a segment that is known.
pub(super) fn put_place(out: &mut Vec<u8>, r: &RecordRef) {
    out.put_varint(u64::from(r.offset));
    out.put_varint(u64::from(r.len));
    out.put_varint(u64::from(r.number));
}

pub(super) fn get_place(r: &mut Reader<'_>, segment: SegmentId) -> Result<RecordRef, Malformed> {
    let offset = get_u32(r)?;
    let len = get_u32(r)?;
    let number = r.varint_max(MAX_RECORDS as u64 - 1, "record number too high")? as u32;
    if (len as usize) < OVERHEAD || u64::from(offset) + u64::from(len) > MAX_SEGMENT {
        return Err(Malformed("record that lies outside its segment"));
    }
    Ok(RecordRef { segment, offset, len, number })
}

/// A segment's name, then the place.
fn put_record(out: &mut Vec<u8>, r: &RecordRef) {
    put_segment(out, r.segment);
    put_place(out, r);
}

fn get_record(r: &mut Reader<'_>) -> Result<RecordRef, Malformed> {
    let segment = get_segment(r)?;
    get_place(r, segment)
}

/// Flag and root, then what the checkpoint covers.
pub(super) fn put_checkpoint(out: &mut Vec<u8>, c: &CheckpointRef) {
    out.put_u8(u8::from(c.root.is_some()));
    if let Some(root) = &c.root {
        put_record(out, &root.record);
        out.put_u8(root.levels);
    }
    out.put_varint(u64::from(c.covers_epoch));
    out.put_varint(c.covers_seq);
    out.put_varint(c.last_op);
    out.put_u8(u8::from(c.usage.is_some()));
    if let Some(usage) = &c.usage {
        put_record(out, usage);
    }
}

/// `version` 1 had no accounts.
pub(super) fn get_checkpoint(r: &mut Reader<'_>, version: u16) -> Result<CheckpointRef, Malformed> {
    let root = match get_bool(r)? {
        true => Some(RootRef { record: get_record(r)?, levels: r.u8()? }),
        false => None,
    };
    let (covers_epoch, covers_seq, last_op) = (get_u32(r)?, get_seq(r)?, get_op(r)?);
    let usage = if version > 1 && get_bool(r)? { Some(get_record(r)?) } else { None };
    Ok(CheckpointRef { root, covers_epoch, covers_seq, last_op, usage })
}

/// A count of things of at least `least` bytes each: more than the bytes left can hold is refused.
pub(super) fn get_count(r: &mut Reader<'_>, least: usize) -> Result<usize, Malformed> {
    let max = (r.remaining() / least) as u64;
    r.varint_max(max, "count larger than what is left").map(|n| n as usize)
}
