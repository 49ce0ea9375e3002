//! The seal: the object that ends an epoch's log, at the first sequence number that was free.

use bytes::Bytes;

use super::error::{Part, SegmentError};
use super::fields::{get_bool, get_seq, get_u32};
use super::id::SegmentId;
use crate::pool::keys::PoolKeys;
use crate::pool::sealed::{ObjectKind, open_object, seal_object};
use crate::wire::{Malformed, Put, Reader};

/// What a seal states. It counts only if the next epoch's opening names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The volume.
    pub volume: u32,
    /// The epoch that it ends.
    pub epoch: u32,
    /// Its own sequence number.
    pub seq: u64,
    /// Who wrote it: the attach that takes over, or the epoch's own writer.
    pub writer: [u8; 16],
    /// Written by the epoch's own writer, with nothing left in its journal.
    pub clean: bool,
    /// The salt of the log segment before it; the opening's `writer` if there is none.
    pub predecessor_salt: [u8; 16],
    /// Milliseconds since 1970, for people.
    pub wall_ms: u64,
}

impl Seal {
    /// The object's bytes. `salt` is random and never used twice.
    pub fn seal(&self, keys: &PoolKeys, salt: [u8; 16]) -> Bytes {
        let key = SegmentId::log(self.volume, self.epoch, self.seq).key();
        seal_object(keys, ObjectKind::Seal, &key, salt, &self.encode())
    }

    /// Opens the bytes found under the key of this volume, epoch and sequence number.
    pub fn open(keys: &PoolKeys, volume: u32, epoch: u32, seq: u64, bytes: &[u8]) -> Result<Self, SegmentError> {
        let key = SegmentId::log(volume, epoch, seq).key();
        let payload = open_object(keys, ObjectKind::Seal, &key, bytes)?;
        let seal = Self::decode(&payload).map_err(|what| SegmentError::malformed(&key, Part::Payload, what))?;
        if (seal.volume, seal.epoch, seal.seq) != (volume, epoch, seq) {
            return Err(SegmentError::malformed(&key, Part::Payload, Malformed("of another place in the log")));
        }
        Ok(seal)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.put_varint(u64::from(self.volume));
        out.put_varint(u64::from(self.epoch));
        out.put_varint(self.seq);
        out.extend_from_slice(&self.writer);
        out.put_u8(u8::from(self.clean));
        out.extend_from_slice(&self.predecessor_salt);
        out.put_varint(self.wall_ms);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let r = &mut Reader::new(bytes);
        let seal = Self {
            volume: get_u32(r)?,
            epoch: get_u32(r)?,
            seq: get_seq(r)?,
            writer: r.array()?,
            clean: get_bool(r)?,
            predecessor_salt: r.array()?,
            wall_ms: r.varint()?,
        };
        r.end()?;
        Ok(seal)
    }
}
