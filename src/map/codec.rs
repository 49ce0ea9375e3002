//! The bytes of nodes: columns of small numbers. docs/format.md, "Map nodes", is the specification.

use super::geometry::FANOUT;
use super::node::{Inner, Leaf, LeafPiece, MAX_PIECES, Place};
use super::sparse::Sparse;
use crate::segment::{SegmentId, SegmentKind};
use crate::wire::{Malformed, Put, Reader};

/// The version of both node formats.
const VERSION: u8 = 1;

/// The bytes of a leaf.
pub fn encode_leaf(leaf: &Leaf) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + leaf.segments.len() * 3 + leaf.pieces.len() * 10);
    header(&mut out, 0, &leaf.segments, leaf.pieces.len());
    let mut before = 0;
    for p in leaf.pieces.iter() {
        let partial = p.original != p.visible;
        out.put_varint(u64::from(p.extent - before) << 1 | u64::from(partial));
        before = p.extent;
    }
    for p in leaf.pieces.iter() {
        out.put_u8(p.visible);
    }
    for p in leaf.pieces.iter().filter(|p| p.original != p.visible) {
        out.put_u8(p.original);
    }
    put_places(&mut out, leaf.segments.len(), leaf.pieces.iter().map(|p| p.place));
    out
}

/// Reads a leaf. Everything that a lookup relies on is checked.
pub fn decode_leaf(bytes: &[u8]) -> Result<Leaf, Malformed> {
    let mut r = Reader::new(bytes);
    let (segments, count) = read_header(&mut r, 0, MAX_PIECES)?;
    let mut pieces = vec![LeafPiece::default(); count];
    let mut extent = 0u64;
    for p in &mut pieces {
        let v = r.varint_max(FANOUT as u64 * 2, "extent beyond the leaf")?;
        extent += v >> 1;
        if extent >= FANOUT as u64 {
            return Err(Malformed("extent beyond the leaf"));
        }
        p.extent = extent as u16;
        p.original = (v & 1) as u8;
    }
    let mut seen = (u16::MAX, 0u8, 0u32);
    for p in &mut pieces {
        p.visible = r.u8()?;
        if seen.0 != p.extent {
            seen = (p.extent, 0, 0);
        }
        let lowest = p.visible.trailing_zeros();
        if p.visible == 0 || p.visible & seen.1 != 0 || (seen.1 != 0 && lowest < seen.2) {
            return Err(Malformed("pieces of an extent overlap or are out of order"));
        }
        seen = (p.extent, seen.1 | p.visible, lowest);
    }
    for p in &mut pieces {
        let partial = p.original != 0;
        p.original = if partial { r.u8()? } else { p.visible };
        if p.visible & !p.original != 0 || partial == (p.original == p.visible) {
            return Err(Malformed("a piece shows blocks that its record does not hold"));
        }
    }
    read_places(&mut r, segments.len(), pieces.iter_mut().map(|p| &mut p.place))?;
    r.end()?;
    Ok(Leaf { segments: segments.into(), pieces: pieces.into() })
}

/// The bytes of an inner node of a level.
pub fn encode_inner(level: u8, inner: &Inner) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + inner.segments.len() * 3 + inner.children.len() * 8);
    header(&mut out, level, &inner.segments, inner.children.len());
    let mut next = 0;
    for (at, _) in inner.children.iter() {
        out.put_varint(u64::from(at - next));
        next = at + 1;
    }
    put_places(&mut out, inner.segments.len(), inner.children.iter().map(|(_, p)| *p));
    out
}

/// Reads an inner node of a level.
pub fn decode_inner(level: u8, bytes: &[u8]) -> Result<Inner, Malformed> {
    let mut r = Reader::new(bytes);
    let (segments, count) = read_header(&mut r, level, FANOUT)?;
    let mut at = Vec::with_capacity(count);
    let mut next = 0;
    for _ in 0..count {
        let child = next + r.varint_max(FANOUT as u64, "child beyond the node")?;
        if child >= FANOUT as u64 {
            return Err(Malformed("child beyond the node"));
        }
        at.push(child as u16);
        next = child + 1;
    }
    let mut places = vec![Place::default(); count];
    read_places(&mut r, segments.len(), places.iter_mut())?;
    r.end()?;
    let mut children = Sparse::default();
    for (at, place) in at.into_iter().zip(places) {
        children.get_or_insert(at, || place);
    }
    children.shrink();
    Ok(Inner { segments, children })
}

/// Version, level, the segment table, the number of entries.
fn header(out: &mut Vec<u8>, level: u8, segments: &[SegmentId], entries: usize) {
    out.put_u8(VERSION);
    out.put_u8(level);
    out.put_varint(segments.len() as u64);
    out.put_varint(entries as u64);
    let mut before: Option<SegmentId> = None;
    for &id in segments {
        put_segment_row(out, before, id);
        before = Some(id);
    }
}

/// A segment's name, relative to the one before it in a table.
pub fn put_segment_row(out: &mut Vec<u8>, before: Option<SegmentId>, id: SegmentId) {
    match before {
        Some(b) if b.volume() == id.volume() && b.epoch() == id.epoch() => {
            out.put_varint(tagged(id) - tagged(b));
        }
        _ => {
            out.put_varint(0);
            out.put_varint(u64::from(id.volume() - before.map_or(0, SegmentId::volume)));
            out.put_varint(id.epoch().into());
            out.put_varint(tagged(id));
        }
    }
}

/// Reads such a name; it may still be out of order.
pub fn read_segment_row(r: &mut Reader<'_>, before: Option<SegmentId>) -> Result<SegmentId, Malformed> {
    Ok(match (before, r.varint()?) {
        (Some(b), step @ 1..) => {
            let v = tagged(b).checked_add(step).ok_or(Malformed("segment number over 64 bits"))?;
            untagged(b.volume(), b.epoch(), v)
        }
        (None, 1..) => return Err(Malformed("the first segment is relative")),
        (b, 0) => {
            let volume = r.varint_max(u32::MAX.into(), "volume over 32 bits")? as u32;
            let volume = volume.checked_add(b.map_or(0, |b| b.volume())).ok_or(Malformed("volume over 32 bits"))?;
            let epoch = r.varint_max(u32::MAX.into(), "epoch over 32 bits")? as u32;
            untagged(volume, epoch, r.varint()?)
        }
    })
}

fn read_header(r: &mut Reader<'_>, level: u8, max: usize) -> Result<(Box<[SegmentId]>, usize), Malformed> {
    if r.u8()? != VERSION {
        return Err(Malformed("of a version that this esker does not know"));
    }
    if r.u8()? != level {
        return Err(Malformed("of another level"));
    }
    let segments = r.varint_max(max as u64, "too many segments")? as usize;
    let count = r.varint_max(max as u64, "too many entries")? as usize;
    // An entry takes five bytes at least, a segment one.
    if count == 0 || segments > count || r.remaining() < count * 5 + segments {
        return Err(Malformed("counts do not fit the length"));
    }
    let mut table: Vec<SegmentId> = Vec::with_capacity(segments);
    for _ in 0..segments {
        let id = read_segment_row(r, table.last().copied())?;
        if table.last().is_some_and(|b| *b >= id) {
            return Err(Malformed("segments out of order"));
        }
        table.push(id);
    }
    Ok((table.into_boxed_slice(), count))
}

fn tagged(id: SegmentId) -> u64 {
    id.number() << 1 | u64::from(id.kind() == SegmentKind::Data)
}

fn untagged(volume: u32, epoch: u32, tagged: u64) -> SegmentId {
    match tagged & 1 {
        0 => SegmentId::log(volume, epoch, tagged >> 1),
        _ => SegmentId::data(volume, epoch, tagged >> 1),
    }
}

/// What is known of a segment while places go by, to guess the next.
#[derive(Clone, Copy, Default)]
struct Guess {
    seen: bool,
    number: u16,
    end: u32,
}

/// Guesses numbers and offsets, so that what is written is mostly zero.
struct Guesses {
    of: Vec<Guess>,
    /// Where record 0 of the last segment would have been, had all its records the same length.
    origin: u32,
}

impl Guesses {
    fn new(segments: usize) -> Self {
        Self { of: vec![Guess::default(); segments], origin: 0 }
    }

    fn number(&mut self, segment: u16) -> u16 {
        let g = &self.of[usize::from(segment)];
        if g.seen { g.number.wrapping_add(1) } else { 0 }
    }

    fn saw_number(&mut self, p: &Place) {
        let g = &mut self.of[usize::from(p.segment)];
        (g.seen, g.number) = (true, p.number);
    }

    /// Records of one segment: as many of this length lie in between as numbers are skipped.
    fn offset(&self, p: &Place) -> u32 {
        let g = &self.of[usize::from(p.segment)];
        if g.seen {
            let skipped = u32::from(p.number).wrapping_sub(u32::from(g.number)).wrapping_sub(1);
            g.end.wrapping_add(skipped.wrapping_mul(p.len))
        } else {
            self.origin.wrapping_add(u32::from(p.number).wrapping_mul(p.len))
        }
    }

    fn saw_offset(&mut self, p: &Place) {
        let g = &mut self.of[usize::from(p.segment)];
        if !g.seen {
            self.origin = p.offset.wrapping_sub(u32::from(p.number).wrapping_mul(p.len));
        }
        *g = Guess { seen: true, number: p.number, end: p.offset.wrapping_add(p.len) };
    }
}

/// Four columns: segment, number, length, offset.
fn put_places(out: &mut Vec<u8>, segments: usize, places: impl Iterator<Item = Place> + Clone) {
    let mut before = 0;
    for p in places.clone() {
        put_signed(out, i32::from(p.segment) - before);
        before = p.segment.into();
    }
    let mut guesses = Guesses::new(segments);
    for p in places.clone() {
        put_signed(out, i32::from(p.number) - i32::from(guesses.number(p.segment)));
        guesses.saw_number(&p);
    }
    let mut before = 0u32;
    for p in places.clone() {
        put_signed(out, p.len.wrapping_sub(before) as i32);
        before = p.len;
    }
    let mut guesses = Guesses::new(segments);
    for p in places {
        put_signed(out, p.offset.wrapping_sub(guesses.offset(&p)) as i32);
        guesses.saw_offset(&p);
    }
}

fn read_places<'a>(
    r: &mut Reader<'_>,
    segments: usize,
    places: impl Iterator<Item = &'a mut Place>,
) -> Result<(), Malformed> {
    let mut places: Vec<&mut Place> = places.collect();
    let mut used = vec![false; segments];
    let mut before = 0i32;
    for p in &mut places {
        before = before.wrapping_add(read_signed(r)?);
        p.segment = u16::try_from(before).map_err(|_| Malformed("no such segment in the table"))?;
        *used.get_mut(usize::from(p.segment)).ok_or(Malformed("no such segment in the table"))? = true;
    }
    if used.contains(&false) {
        return Err(Malformed("a segment in the table is not used"));
    }
    let mut guesses = Guesses::new(segments);
    for p in &mut places {
        let number = i32::from(guesses.number(p.segment)).wrapping_add(read_signed(r)?);
        p.number = u16::try_from(number).map_err(|_| Malformed("record number over 16 bits"))?;
        guesses.saw_number(p);
    }
    let mut before = 0u32;
    for p in &mut places {
        before = before.wrapping_add(read_signed(r)? as u32);
        p.len = before;
    }
    let mut guesses = Guesses::new(segments);
    for p in &mut places {
        p.offset = guesses.offset(p).wrapping_add(read_signed(r)? as u32);
        if p.len == 0 || p.offset.checked_add(p.len).is_none() {
            return Err(Malformed("a record without bytes or beyond 4 GiB"));
        }
        guesses.saw_offset(p);
    }
    Ok(())
}

/// Zigzag: small numbers of either sign are short.
fn put_signed(out: &mut Vec<u8>, v: i32) {
    out.put_varint(((v << 1) ^ (v >> 31)) as u32 as u64);
}

fn read_signed(r: &mut Reader<'_>) -> Result<i32, Malformed> {
    let v = r.varint_max(u32::MAX.into(), "number over 32 bits")? as u32;
    Ok((v >> 1) as i32 ^ -((v & 1) as i32))
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
