//! The pool record: the one object that is not encrypted, because it says how to get at the pool key.
//!
//! ```text
//! 0   magic "ESKERPOL"
//! 8   format version, 2 bytes LE (1)
//! 10  number of slots, 2 (1 to 32)
//! 12  key generation, 4
//! 16  pool id, 16
//! 32  n, the number in the object's key, 8
//! 40  made at, 8: milliseconds since 1970
//! 48  slots, 96 each: id 4, memory KiB 4, passes 4, lanes 4, Argon2 salt 16, wrap salt 16, wrapped pool key 48
//! ..  HMAC-SHA256 of all bytes before, under the `pool record` subkey, 32
//! ..  CRC-32/ISO-HDLC of all bytes before, 4
//! ```
//! The checksum tells a damaged record from a wrong password; the MAC tells that who made it had the pool key.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use super::error::PoolError;
use super::keys::{PoolKeys, Purpose};
use super::slot::{Argon2Params, Slot};
use crate::wire::{Malformed, Put, Reader};

/// The newest version of the pool record that this code reads, and the one it writes.
pub(super) const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"ESKERPOL";
/// No pool has more key slots.
const MAX_SLOTS: u16 = 32;
const MAC: usize = 32;
const CRC: usize = 4;

/// What a pool record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub n: u64,
    pub pool_id: [u8; 16],
    pub generation: u32,
    pub made_ms: u64,
    pub slots: Vec<Slot>,
}

/// A record as read, whose MAC awaits the key.
#[derive(Debug)]
pub(super) struct Unverified {
    pub record: Record,
    /// The bytes under the MAC.
    covered: Bytes,
    mac: [u8; MAC],
    key: String,
}

fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

impl Record {
    /// The record's bytes; `keys` are those of its generation.
    pub(super) fn encode(&self, keys: &PoolKeys) -> Bytes {
        assert!((1..=usize::from(MAX_SLOTS)).contains(&self.slots.len()), "a pool has 1 to {MAX_SLOTS} slots");
        let mut out = MAGIC.to_vec();
        out.put_u16(FORMAT);
        out.put_u16(self.slots.len() as u16);
        out.put_u32(self.generation);
        out.extend_from_slice(&self.pool_id);
        out.put_u64(self.n);
        out.put_u64(self.made_ms);
        for slot in &self.slots {
            slot.put_open(&mut out);
            out.extend_from_slice(&slot.wrapped);
        }
        let mac = keys.mac(Purpose::PoolRecord, &out);
        out.extend_from_slice(&mac);
        out.put_u32(crc(&out));
        out.into()
    }

    /// Reads record `n`, stored under `key`.
    pub(super) fn decode(key: &str, n: u64, bytes: &Bytes) -> Result<Unverified, PoolError> {
        let damaged = |why: &str| PoolError::Damaged { key: key.to_string(), why: why.to_string() };
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it is not a pool record"))?;
        let malformed = |e: Malformed| damaged(&e.to_string());
        // The version comes before the checksum: a newer format may keep its checksum elsewhere.
        let version = Reader::new(rest).u16().map_err(malformed)?;
        if version > FORMAT {
            return Err(PoolError::Newer { key: key.to_string(), found: version });
        }
        let at = bytes.len().checked_sub(MAC + CRC).ok_or_else(|| damaged("it ends early"))?;
        if Reader::new(&bytes[at + MAC..]).u32() != Ok(crc(&bytes[..at + MAC])) {
            return Err(damaged("its checksum does not fit"));
        }
        let mac = Reader::new(&bytes[at..]).array().map_err(malformed)?;
        let record = Self::fields(&bytes[..at]).map_err(malformed)?;
        if record.n != n {
            return Err(damaged("it was written under another key"));
        }
        Ok(Unverified { record, covered: bytes.slice(..at), mac, key: key.to_string() })
    }

    fn fields(bytes: &[u8]) -> Result<Record, Malformed> {
        let mut r = Reader::new(bytes);
        r.take(MAGIC.len())?;
        if r.u16()? != FORMAT {
            return Err(Malformed("format version"));
        }
        let count = r.u16()?;
        if !(1..=MAX_SLOTS).contains(&count) {
            return Err(Malformed("number of key slots"));
        }
        let (generation, pool_id, n, made_ms) = (r.u32()?, r.array()?, r.u64()?, r.u64()?);
        let slots = (0..count).map(|_| slot(&mut r)).collect::<Result<Vec<_>, _>>()?;
        r.end()?;
        Ok(Record { n, pool_id, generation, made_ms, slots })
    }
}

/// Whether the bytes begin like a pool record and end before its slots do. Nothing is verified.
pub(super) fn is_cut(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(head) {
        return false;
    }
    let slots = bytes.get(10..12).and_then(|b| Reader::new(b).u16().ok());
    slots.is_none_or(|n| bytes.len() < 48 + 96 * usize::from(n) + MAC + CRC)
}

fn slot(r: &mut Reader<'_>) -> Result<Slot, Malformed> {
    let id = r.u32()?;
    let params = Argon2Params { memory_kib: r.u32()?, passes: r.u32()?, lanes: r.u32()? };
    Ok(Slot { id, params, salt: r.array()?, wrap_salt: r.array()?, wrapped: r.array()? })
}

impl Unverified {
    /// The record, if whoever made it had the pool key.
    pub(super) fn verify(self, keys: &PoolKeys) -> Result<Record, PoolError> {
        let mac = keys.mac(Purpose::PoolRecord, &self.covered);
        if aws_lc_rs::constant_time::verify_slices_are_equal(&mac, &self.mac).is_err() {
            let why = "it was not made with the pool's key".to_string();
            return Err(PoolError::Damaged { key: self.key, why });
        }
        Ok(self.record)
    }
}
