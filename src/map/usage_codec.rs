//! The bytes of the accounts: pages of accounts and of the free list, and the directory that names the pages.
//! docs/format.md, "Accounts", is the specification.

use std::collections::HashSet;

use super::codec::{put_segment_row, read_segment_row};
use super::error::MapError;
use super::geometry::{FAN_BITS, MAX_LEVELS};
use super::node::MAX_NUMBER;
use super::piece::NodeLoad;
use super::usage::{SegmentUsage, Usage};
use crate::segment::{RecordRef, SegmentId};
use crate::wire::{Malformed, Put, Reader};

/// The level under which pages of accounts are stored as node records, by number from 0. No node of a tree has it.
pub const USAGE_PAGE_LEVEL: u8 = 0xf0;
/// The level under which the directory of the pages is stored, with index 0.
pub const USAGE_DIRECTORY_LEVEL: u8 = 0xf1;
/// The most pages: some 80 million segments.
pub const MAX_USAGE_PAGES: usize = 4000;
/// The most plaintext of a page.
pub const MAX_USAGE_PAGE: usize = 256 << 10;

const VERSION: u8 = 1;
/// Head of a page, at most: version, level, two counts.
const HEAD: usize = 2 + 2 * 4;
/// No entry is longer: a name (21), then at most five varints of a u32 or one of 64 bits.
const ENTRY: usize = 64;

/// The accounts in pages of at most 256 KiB, to be stored as nodes of [`USAGE_PAGE_LEVEL`] with indices from 0 on; none
/// if there is nothing to say.
pub fn encode_usage_pages(usage: &Usage) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    let mut page = Page::default();
    for (id, account) in &usage.segments {
        page.make_room(&mut pages);
        page.account(*id, account);
    }
    for load in &usage.dropped {
        page.make_room(&mut pages);
        page.dropped(load);
    }
    page.finish(&mut pages);
    pages
}

#[derive(Default)]
struct Page {
    accounts: u64,
    dropped: u64,
    before: Option<SegmentId>,
    body: Vec<u8>,
}

impl Page {
    fn make_room(&mut self, pages: &mut Vec<Vec<u8>>) {
        if self.body.len() + HEAD + ENTRY > MAX_USAGE_PAGE {
            std::mem::take(self).finish(pages);
        }
    }

    fn account(&mut self, id: SegmentId, account: &SegmentUsage) {
        put_segment_row(&mut self.body, self.before, id);
        for v in [account.bytes, account.live, account.blocks, account.nodes] {
            self.body.put_varint(v.into());
        }
        self.body.put_varint(account.born);
        self.before = Some(id);
        self.accounts += 1;
    }

    fn dropped(&mut self, load: &NodeLoad) {
        self.body.put_u8(load.level);
        self.body.put_varint(load.index);
        put_record(&mut self.body, &load.record);
        self.dropped += 1;
    }

    fn finish(self, pages: &mut Vec<Vec<u8>>) {
        if self.accounts + self.dropped == 0 {
            return;
        }
        let mut out = Vec::with_capacity(HEAD + self.body.len());
        out.put_u8(VERSION);
        out.put_u8(USAGE_PAGE_LEVEL);
        out.put_varint(self.accounts);
        out.put_varint(self.dropped);
        out.extend_from_slice(&self.body);
        pages.push(out);
    }
}

/// Reads all pages, in order.
///
/// # Errors
/// [`MapError::Node`] with the number of the page that is not one, or does not follow the one before.
pub fn decode_usage_pages(pages: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Usage, MapError> {
    let mut usage = Usage::default();
    for (index, page) in (0..).zip(pages) {
        read_page(&mut usage, page.as_ref()).map_err(|source| node(USAGE_PAGE_LEVEL, index, source))?;
    }
    let distinct: HashSet<&NodeLoad> = usage.dropped.iter().collect();
    if distinct.len() != usage.dropped.len() {
        return Err(node(USAGE_PAGE_LEVEL, 0, Malformed("a node is on the free list twice")));
    }
    Ok(usage)
}

fn node(level: u8, index: u64, source: Malformed) -> MapError {
    MapError::Node { level, index, source }
}

fn read_page(usage: &mut Usage, bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.len() > MAX_USAGE_PAGE {
        return Err(Malformed("longer than a page"));
    }
    let mut r = Reader::new(bytes);
    read_kind(&mut r, USAGE_PAGE_LEVEL)?;
    let most = bytes.len() as u64;
    let accounts = r.varint_max(most, "more accounts than bytes")?;
    let dropped = r.varint_max(most, "more nodes than bytes")?;
    if accounts + dropped == 0 {
        return Err(Malformed("a page of nothing"));
    }
    let mut before = None;
    for _ in 0..accounts {
        let id = read_segment_row(&mut r, before)?;
        if !usage.dropped.is_empty() || usage.segments.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return Err(Malformed("accounts out of order"));
        }
        usage.segments.insert(id, read_account(&mut r)?);
        before = Some(id);
    }
    for _ in 0..dropped {
        usage.dropped.push(read_dropped(&mut r)?);
    }
    r.end()
}

fn read_account(r: &mut Reader<'_>) -> Result<SegmentUsage, Malformed> {
    let (bytes, live, blocks, nodes) = (read_u32(r)?, read_u32(r)?, read_u32(r)?, read_u32(r)?);
    let account = SegmentUsage { bytes, live, blocks, nodes, born: r.varint()? };
    if account.is_dead() != (live == 0) {
        return Err(Malformed("an account that contradicts itself"));
    }
    Ok(account)
}

fn read_dropped(r: &mut Reader<'_>) -> Result<NodeLoad, Malformed> {
    let level = r.u8()?;
    if level > MAX_LEVELS {
        return Err(Malformed("a dropped node of a level that no tree has"));
    }
    let index = r.varint()?;
    if index >> (FAN_BITS * u32::from(MAX_LEVELS - level)) != 0 {
        return Err(Malformed("a dropped node where no tree has one"));
    }
    Ok(NodeLoad { level, index, record: read_record(r)? })
}

/// The directory of the pages' records, in order.
///
/// # Errors
/// [`MapError::UsagePages`]: more than 4,000. No directory names more; accounts of so many segments cannot be stored.
pub fn encode_usage_directory(pages: &[RecordRef]) -> Result<Vec<u8>, MapError> {
    if pages.len() > MAX_USAGE_PAGES {
        return Err(MapError::UsagePages(pages.len()));
    }
    let mut out = Vec::with_capacity(4 + pages.len() * 16);
    out.put_u8(VERSION);
    out.put_u8(USAGE_DIRECTORY_LEVEL);
    out.put_varint(pages.len() as u64);
    pages.iter().for_each(|record| put_record(&mut out, record));
    Ok(out)
}

/// Reads the directory: where the pages are, in order.
///
/// # Errors
/// [`MapError::Node`]: it is none.
pub fn decode_usage_directory(bytes: &[u8]) -> Result<Vec<RecordRef>, MapError> {
    read_directory(bytes).map_err(|source| node(USAGE_DIRECTORY_LEVEL, 0, source))
}

fn read_directory(bytes: &[u8]) -> Result<Vec<RecordRef>, Malformed> {
    let mut r = Reader::new(bytes);
    read_kind(&mut r, USAGE_DIRECTORY_LEVEL)?;
    let count = r.varint_max(MAX_USAGE_PAGES as u64, "too many pages")?;
    let pages = (0..count).map(|_| read_record(&mut r)).collect::<Result<_, _>>()?;
    r.end()?;
    Ok(pages)
}

fn read_kind(r: &mut Reader<'_>, level: u8) -> Result<(), Malformed> {
    if r.u8()? != VERSION {
        return Err(Malformed("of a version that this esker does not know"));
    }
    if r.u8()? != level {
        return Err(Malformed("of another level"));
    }
    Ok(())
}

fn put_record(out: &mut Vec<u8>, record: &RecordRef) {
    put_segment_row(out, None, record.segment);
    out.put_varint(record.offset.into());
    out.put_varint(record.len.into());
    out.put_varint(record.number.into());
}

fn read_record(r: &mut Reader<'_>) -> Result<RecordRef, Malformed> {
    let segment = read_segment_row(r, None)?;
    let (offset, len) = (read_u32(r)?, read_u32(r)?);
    let number = r.varint_max(MAX_NUMBER.into(), "record number over 16 bits")? as u32;
    if len == 0 || offset.checked_add(len).is_none() {
        return Err(Malformed("a record without bytes or beyond 4 GiB"));
    }
    Ok(RecordRef { segment, offset, len, number })
}

fn read_u32(r: &mut Reader<'_>) -> Result<u32, Malformed> {
    r.varint_max(u32::MAX.into(), "number over 32 bits").map(|v| v as u32)
}

#[cfg(test)]
#[path = "usage_codec_tests.rs"]
mod tests;
