//! Records of the ring: what goes in, what comes out, and their 64-byte headers.

use std::sync::atomic::Ordering;

use esker_block::MAX_OP_BYTES;

use super::error::Refused;
use super::layout::{load, store, valid_word};
use super::memory::Memory;
use crate::segment::BLOCK;

/// Bytes of a record's header, and the alignment of records.
pub const HEADER: u64 = 64;
/// The most parts of one batch.
pub const MAX_PARTS: usize = 4096;
/// The most data in one write, in blocks: 1 MiB that begins inside a block touches one more.
pub const MAX_BLOCKS: u64 = (MAX_OP_BYTES / BLOCK) as u64 + 1;
/// Bytes of one entry of a batch's table.
const PART: u64 = 24;
/// Blocks in 2^64 bytes.
const ADDRESS_BLOCKS: u64 = 1 << 52;

const AT_VALID: usize = 48;
const AT_STATE: usize = 56;

/// A part of an operation, without its data. Addresses and lengths in blocks of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartHeader {
    /// Data for `blocks` blocks at `lba`.
    Write {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
    },
    /// `blocks` blocks at `lba` read as zeroes afterwards.
    Trim {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u64,
    },
}

impl PartHeader {
    fn fields(self) -> (Kind, u64, u64) {
        match self {
            Self::Write { lba, blocks } => (Kind::Write, lba, u64::from(blocks)),
            Self::Trim { lba, blocks } => (Kind::Trim, lba, blocks),
        }
    }

    /// Bytes of data, after a check of the addresses.
    fn data_bytes(self) -> Result<u64, &'static str> {
        let (kind, lba, blocks) = self.fields();
        if blocks == 0 {
            return Err("no blocks");
        }
        if lba.checked_add(blocks).is_none_or(|end| end > ADDRESS_BLOCKS) {
            return Err("beyond the address space");
        }
        match kind {
            Kind::Write if blocks > MAX_BLOCKS => Err("more than 1 MiB of data"),
            Kind::Write => Ok(blocks * BLOCK as u64),
            _ => Ok(0),
        }
    }
}

/// An operation to put in the ring, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpHeader<'a> {
    /// One write or trim.
    One(PartHeader),
    /// Parts that are applied together or not at all; a later one wins over an earlier one. The data of its writes
    /// lies back to back in the body.
    Batch(&'a [PartHeader]),
}

impl OpHeader<'_> {
    /// A write of `blocks` blocks at `lba`.
    pub fn write(lba: u64, blocks: u32) -> Self {
        Self::One(PartHeader::Write { lba, blocks })
    }

    /// A trim of `blocks` blocks at `lba`.
    pub fn trim(lba: u64, blocks: u64) -> Self {
        Self::One(PartHeader::Trim { lba, blocks })
    }

    /// The header this operation gets, its number and position still zero, and the bytes of its table.
    pub(super) fn prepare(&self) -> Result<(Header, u64), Refused> {
        match self {
            Self::One(part) => {
                let (kind, lba, blocks) = part.fields();
                let body = part.data_bytes().map_err(Refused::Invalid)?;
                Ok((Header { op: 0, position: 0, lba, blocks, body: body as u32, parts: 0, kind }, 0))
            }
            Self::Batch(parts) => {
                let table = table_bytes(parts.len()).map_err(Refused::Invalid)?;
                let mut data = 0;
                for part in *parts {
                    data += part.data_bytes().map_err(Refused::Invalid)?;
                    if data > MAX_OP_BYTES as u64 {
                        return Err(Refused::Invalid("more than 1 MiB of data"));
                    }
                }
                let body = (table + data) as u32;
                let parts = parts.len() as u16;
                Ok((Header { op: 0, position: 0, lba: 0, blocks: 0, body, parts, kind: Kind::Batch }, table))
            }
        }
    }
}

fn table_bytes(parts: usize) -> Result<u64, &'static str> {
    match parts {
        0 => Err("a batch without parts"),
        1..=MAX_PARTS => Ok((parts as u64 * PART).next_multiple_of(HEADER)),
        _ => Err("too many parts in a batch"),
    }
}

/// Where the data of a complete write lies: 16 bytes, meaningful to the ring that gave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Body {
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) ring: u32,
}

impl Body {
    /// The position for [`super::Ring::read_at`].
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes; never so for what the ring gives out.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A part of a batch that came out of the ring, or a whole operation of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Data at `lba`.
    Write {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
        /// Where its data lies.
        body: Body,
    },
    /// Blocks that read as zeroes afterwards.
    Trim {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u64,
    },
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKind {
    /// Data at `lba`.
    Write {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
        /// Where its data lies.
        body: Body,
    },
    /// Blocks that read as zeroes afterwards.
    Trim {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u64,
    },
    /// Parts to apply together, in order.
    Batch(Vec<Part>),
    /// An operation that never happened: its slot was dropped, or the process died while it was filled.
    Void,
}

/// A record that came out of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Operation number.
    pub op: u64,
    /// What it says.
    pub kind: RecordKind,
    /// Bytes it takes in the ring, header included.
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Write = 1,
    Trim = 2,
    Batch = 3,
    Pad = 4,
}

impl Kind {
    fn from(v: u8) -> Option<Self> {
        [Self::Write, Self::Trim, Self::Batch, Self::Pad].into_iter().find(|k| *k as u8 == v)
    }
}

/// A record's state. Words that no single damaged byte turns into one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum State {
    Incomplete = u64::from_le_bytes(*b"unfinish"),
    Complete = u64::from_le_bytes(*b"COMPLETE"),
    Void = u64::from_le_bytes(*b"--void--"),
}

/// A record's header, without its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub op: u64,
    pub position: u64,
    pub lba: u64,
    pub blocks: u64,
    /// Bytes after the header, table included.
    pub body: u32,
    pub parts: u16,
    pub kind: Kind,
}

impl Header {
    /// Bytes in the ring.
    pub fn size(&self) -> u64 {
        (HEADER + u64::from(self.body)).next_multiple_of(HEADER)
    }

    /// The position after it.
    pub fn end(&self) -> u64 {
        self.position.wrapping_add(self.size())
    }

    fn words(&self) -> [u64; 6] {
        let shape = u64::from(self.body) | u64::from(self.parts) << 32 | (self.kind as u64) << 48;
        [self.op, self.position, self.lba, self.blocks, shape, 0]
    }

    /// Writes it at `place`, as incomplete. The place's valid word is zero; it is written last, so that a crash leaves
    /// either no record or a whole header.
    pub fn write(&self, mem: &Memory, place: usize, ring: &[u8; 16]) {
        let words = self.words();
        for (i, w) in words.into_iter().enumerate() {
            store(mem, place + 8 * i, w, Ordering::Relaxed);
        }
        set_state(mem, place, State::Incomplete);
        store(mem, place + AT_VALID, valid_word(ring, &words), Ordering::Release);
    }

    /// Reads a header that this process has written or verified.
    pub fn read_own(mem: &Memory, place: usize) -> Self {
        Self::parse(mem, place).expect("a record between tail and head was verified when it was written or opened").0
    }

    /// Reads a header that may be anything. `Ok(None)`: no record is there.
    pub fn read(mem: &Memory, place: usize, ring: &[u8; 16]) -> Result<Option<Self>, &'static str> {
        let valid = load(mem, place + AT_VALID);
        if valid == 0 {
            return Ok(None);
        }
        let (header, words) = Self::parse(mem, place).ok_or("a record of an unknown kind")?;
        if valid != valid_word(ring, &words) {
            return Err("the checksum of a record's header is wrong");
        }
        if words != header.words() {
            return Err("a record's header has spare bits set");
        }
        Ok(Some(header))
    }

    fn parse(mem: &Memory, place: usize) -> Option<(Self, [u64; 6])> {
        let words: [u64; 6] = std::array::from_fn(|i| load(mem, place + 8 * i));
        let [op, position, lba, blocks, shape, _] = words;
        let kind = Kind::from((shape >> 48) as u8)?;
        Some((Self { op, position, lba, blocks, body: shape as u32, parts: (shape >> 32) as u16, kind }, words))
    }

    /// Checks that kind, addresses and lengths agree, without looking at the body.
    pub fn check(&self) -> Result<(), &'static str> {
        let body = u64::from(self.body);
        let plain = |part: PartHeader| if self.parts == 0 { part.data_bytes() } else { Err("parts outside a batch") };
        let fits = match self.kind {
            Kind::Write => {
                let blocks = u32::try_from(self.blocks).map_err(|_| "more than 1 MiB of data")?;
                plain(PartHeader::Write { lba: self.lba, blocks })? == body
            }
            Kind::Trim => plain(PartHeader::Trim { lba: self.lba, blocks: self.blocks })? == body,
            Kind::Batch => {
                let table = table_bytes(self.parts.into())?;
                (table..=table + MAX_OP_BYTES as u64).contains(&body) && self.lba == 0 && self.blocks == 0
            }
            Kind::Pad => self.lba == 0 && self.blocks == 0 && self.parts == 0,
        };
        if fits { Ok(()) } else { Err("a record's lengths disagree") }
    }

    /// What the record at `place` says; it is complete. `ring` is the tag of this ring in memory.
    pub fn kind(&self, mem: &Memory, place: usize, ring: u32) -> Result<RecordKind, &'static str> {
        let at = self.position + HEADER;
        Ok(match self.kind {
            Kind::Write => {
                let body = Body { at, len: self.body, ring };
                RecordKind::Write { lba: self.lba, blocks: self.blocks as u32, body }
            }
            Kind::Trim => RecordKind::Trim { lba: self.lba, blocks: self.blocks },
            Kind::Batch => RecordKind::Batch(self.read_table(mem, place, ring)?),
            Kind::Pad => RecordKind::Void,
        })
    }

    fn read_table(&self, mem: &Memory, place: usize, ring: u32) -> Result<Vec<Part>, &'static str> {
        let mut parts = Vec::with_capacity(self.parts.into());
        let table = table_bytes(self.parts.into())?;
        let mut used = table;
        for i in 0..usize::from(self.parts) {
            let entry = place + HEADER as usize + i * PART as usize;
            let (kind, lba, blocks) = (load(mem, entry), load(mem, entry + 8), load(mem, entry + 16));
            if kind == Kind::Trim as u64 {
                PartHeader::Trim { lba, blocks }.data_bytes()?;
                parts.push(Part::Trim { lba, blocks });
            } else if kind == Kind::Write as u64 {
                let blocks = u32::try_from(blocks).map_err(|_| "more than 1 MiB of data")?;
                let len = PartHeader::Write { lba, blocks }.data_bytes()?;
                let body = Body { at: self.position + HEADER + used, len: len as u32, ring };
                used += len;
                parts.push(Part::Write { lba, blocks, body });
            } else {
                return Err("a part of an unknown kind");
            }
        }
        if used == u64::from(self.body) { Ok(parts) } else { Err("the parts of a batch disagree with its length") }
    }
}

/// Writes a batch's table behind the header at `place`.
pub(super) fn write_table(mem: &Memory, place: usize, parts: &[PartHeader]) {
    for (i, part) in parts.iter().enumerate() {
        let entry = place + HEADER as usize + i * PART as usize;
        let (kind, lba, blocks) = part.fields();
        for (j, w) in [kind as u64, lba, blocks].into_iter().enumerate() {
            store(mem, entry + 8 * j, w, Ordering::Relaxed);
        }
    }
}

/// Says that no record is at `place` (yet): whatever an earlier lap left there.
pub(super) fn clear(mem: &Memory, place: usize) {
    store(mem, place + AT_VALID, 0, Ordering::Release);
}

/// Sets a record's state; what was written before it is visible to whoever reads the state.
pub(super) fn set_state(mem: &Memory, place: usize, state: State) {
    crate::sync::step();
    store(mem, place + AT_STATE, state as u64, Ordering::Release);
}

/// A record's state; `None` if it is none.
pub(super) fn state(mem: &Memory, place: usize) -> Option<State> {
    crate::sync::step();
    let v = u64::from_le(mem.word(place + AT_STATE).load(Ordering::Acquire));
    [State::Incomplete, State::Complete, State::Void].into_iter().find(|s| *s as u64 == v)
}
