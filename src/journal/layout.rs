//! The first page of a ring file: who it belongs to, and where replay starts. docs/format.md is the byte-level page.

use std::sync::atomic::{Ordering, fence};

use super::memory::Memory;
use crate::wire::{Malformed, Put, Reader};

/// The newest format version, and the one written.
pub const VERSION: u16 = 1;
/// The least bytes of records: any record fits an empty ring wherever its head stands.
pub const MIN_BYTES: u64 = 4 << 20;
/// The most bytes of records.
pub const MAX_BYTES: u64 = 1 << 40;

/// Where records start in the file; the page before it is the header.
pub(super) const DATA_AT: u64 = 4096;
const MAGIC: &[u8; 8] = b"ESKERRNG";
const FIXED_BYTES: usize = 72;
const TAIL_AT: [usize; 2] = [1024, 2048];
const HEAD_AT: usize = 3072;
/// Low half of a word that says "the words before me are whole"; the high half is their CRC-32C. Zero says they are not.
const VALID: u32 = 0x6b6f_4b45;

/// CRC-32C of the ring's id and some words: a header copied from another ring does not pass.
pub(super) fn valid_word<const N: usize>(ring: &[u8; 16], words: &[u64; N]) -> u64 {
    let mut bytes = [0u8; 64];
    bytes[..16].copy_from_slice(ring);
    for (at, word) in bytes[16..].chunks_exact_mut(8).zip(words) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    u64::from(crc_fast::crc32_iscsi(&bytes[..16 + 8 * N])) << 32 | u64::from(VALID)
}

/// Loads a little-endian word.
pub(super) fn load(mem: &Memory, at: usize) -> u64 {
    u64::from_le(mem.word(at).load(Ordering::Relaxed))
}

/// Stores a little-endian word.
pub(super) fn store(mem: &Memory, at: usize, word: u64, order: Ordering) {
    #[cfg(test)]
    if super::tests::stores::is_dead() {
        return;
    }
    mem.word(at).store(word.to_le(), order);
}

/// The part of the first page that never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fixed {
    pub pool: [u8; 16],
    pub volume: u32,
    pub ring: [u8; 16],
    pub bytes: u64,
    pub first_op: u64,
}

/// What the first page was found to be.
pub(super) enum FixedRead {
    Ok(Fixed),
    Newer(u16),
    Bad(&'static str),
}

impl Fixed {
    /// The whole first page of a new, empty ring.
    pub fn page(&self) -> Vec<u8> {
        let mut p = Vec::with_capacity(DATA_AT as usize);
        p.extend_from_slice(MAGIC);
        p.put_u16(VERSION);
        p.put_u16(0);
        p.put_u32(self.volume);
        p.extend_from_slice(&self.pool);
        p.extend_from_slice(&self.ring);
        p.put_u64(self.bytes);
        p.put_u64(DATA_AT);
        p.put_u64(self.first_op);
        let crc = crc_fast::crc32_iscsi(&p);
        p.put_u32(crc);
        p.resize(DATA_AT as usize, 0);
        let tail = Tail { sequence: 1, position: 0, op: self.first_op };
        let words = tail.words();
        for (i, w) in words.iter().chain([&valid_word(&self.ring, &words)]).enumerate() {
            p[TAIL_AT[0] + 8 * i..][..8].copy_from_slice(&w.to_le_bytes());
        }
        p[HEAD_AT..][..8].copy_from_slice(&self.first_op.to_le_bytes());
        p
    }

    /// Reads the unchanging part of a first page; `file_len` is the size of the whole file.
    pub fn parse(page: &[u8], file_len: u64) -> FixedRead {
        match Self::fields(page, file_len) {
            Ok(read) => read,
            Err(Malformed(why)) => FixedRead::Bad(why),
        }
    }

    fn fields(page: &[u8], file_len: u64) -> Result<FixedRead, Malformed> {
        let mut r = Reader::new(page);
        if r.array::<8>()? != *MAGIC {
            return Ok(FixedRead::Bad("its first bytes are not a journal's"));
        }
        let version = r.u16()?;
        if version > VERSION {
            return Ok(FixedRead::Newer(version));
        }
        let crc = page.get(..FIXED_BYTES).map(crc_fast::crc32_iscsi);
        let spare = r.u16()?;
        let volume = r.u32()?;
        let (pool, ring) = (r.array()?, r.array()?);
        let (bytes, data_at, first_op) = (r.u64()?, r.u64()?, r.u64()?);
        if crc != Some(r.u32()?) {
            return Ok(FixedRead::Bad("the checksum of its first page is wrong"));
        }
        if version != VERSION || spare != 0 || data_at != DATA_AT {
            return Ok(FixedRead::Bad("its first page is inconsistent"));
        }
        if !(MIN_BYTES..=MAX_BYTES).contains(&bytes) || !bytes.is_multiple_of(DATA_AT) {
            return Ok(FixedRead::Bad("its size field is out of range"));
        }
        if file_len != DATA_AT + bytes {
            return Ok(FixedRead::Bad("it was cut off or extended"));
        }
        Ok(FixedRead::Ok(Self { pool, volume, ring, bytes, first_op }))
    }
}

/// Where replay starts. Kept twice; the valid one with the higher sequence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    pub sequence: u64,
    pub position: u64,
    pub op: u64,
}

impl Tail {
    fn words(&self) -> [u64; 3] {
        [self.sequence, self.position, self.op]
    }

    /// Overwrites the older of the two slots. A crash at any instruction leaves the other one valid, and this one
    /// either whole or marked invalid.
    pub fn write(&self, mem: &Memory, ring: &[u8; 16]) {
        let at = TAIL_AT[(self.sequence as usize + 1) % 2];
        let words = self.words();
        store(mem, at + 24, 0, Ordering::Relaxed);
        // The old mark is gone before the first new word is there.
        fence(Ordering::Release);
        for (i, w) in words.into_iter().enumerate() {
            store(mem, at + 8 * i, w, Ordering::Relaxed);
        }
        store(mem, at + 24, valid_word(ring, &words), Ordering::Release);
    }

    /// The tail that counts. A crash leaves at most one copy that is marked as meaning nothing; anything else is damage.
    pub fn read(mem: &Memory, ring: &[u8; 16]) -> Result<Self, &'static str> {
        let mut newest: Option<Self> = None;
        for (i, at) in TAIL_AT.into_iter().enumerate() {
            let mark = load(mem, at + 24);
            let words = [load(mem, at), load(mem, at + 8), load(mem, at + 16)];
            let [sequence, position, op] = words;
            if mark == 0 {
                continue;
            }
            if mark != valid_word(ring, &words) || sequence % 2 == i as u64 % 2 {
                return Err("a copy of the replay position has a wrong checksum");
            }
            if newest.is_none_or(|n| n.sequence < sequence) {
                newest = Some(Self { sequence, position, op });
            }
        }
        newest.ok_or("neither copy of the replay position is valid")
    }
}

/// The number of the next operation, as last noted: exact, or one behind the records after a crash. It shows when
/// records at the end are missing.
pub(super) fn note_next_op(mem: &Memory, op: u64) {
    store(mem, HEAD_AT, op, Ordering::Release);
}

/// What [`note_next_op`] noted.
pub(super) fn noted_next_op(mem: &Memory) -> u64 {
    load(mem, HEAD_AT)
}

/// The place in the file of a virtual position.
pub(super) fn place(position: u64, bytes: u64) -> usize {
    (DATA_AT + position % bytes) as usize
}
