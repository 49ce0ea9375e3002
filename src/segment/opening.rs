//! The opening of an epoch: the object `log/<v>/<~k>/0` whose creation is the acquisition of the volume.

use bytes::Bytes;

use super::error::{Part, SegmentError};
use super::fields::{get_bool, get_checkpoint, get_count, get_op, get_seq, get_u32, put_checkpoint};
use super::id::SegmentId;
use super::index::CheckpointRef;
use crate::pool::keys::PoolKeys;
use crate::pool::sealed::{ObjectKind, open_versioned, seal_object};
use crate::wire::{Malformed, Put, Reader};

/// Longest host name kept (bytes); it is for people only.
const MAX_HOSTNAME: usize = 255;

/// Where a completed flush is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Domain {
    /// In the bucket.
    Object = 0,
    /// In the writer's local spool, the bucket following.
    Journal = 1,
}

/// The end of the epoch before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    /// Its number.
    pub epoch: u32,
    /// The sequence number of the seal that this opening relies on.
    pub end_seq: u64,
    /// The salt of the last log segment before that seal; its opening's `writer` if there is none.
    pub salt: [u8; 16],
    /// The writer that the seal names: together with `end_seq` it says which seal counts.
    pub seal_writer: [u8; 16],
}

/// Log segments to apply after the starting checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayRange {
    /// The epoch they are of.
    pub epoch: u32,
    /// The first.
    pub first_seq: u64,
    /// One past the last.
    pub end_seq: u64,
}

/// What a writer states as it takes a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The volume.
    pub volume: u32,
    /// The epoch that this opens.
    pub epoch: u32,
    /// Random per attach.
    pub writer: [u8; 16],
    /// The host's id.
    pub host: [u8; 16],
    /// The host's boot id.
    pub boot: [u8; 16],
    /// The host's name, for people; cut at 255 bytes.
    pub hostname: String,
    /// The id of the journal ring that belongs to this epoch.
    pub ring: [u8; 16],
    /// What its flushes promise.
    pub domain: Domain,
    /// The volume's size in bytes.
    pub size: u64,
    /// The epoch before; `None` for the first.
    pub predecessor: Option<Predecessor>,
    /// The map that this epoch starts from.
    pub start: CheckpointRef,
    /// What to apply to it, in order.
    pub replay: Vec<ReplayRange>,
    /// The last operation number that start and replay contain.
    pub last_op: u64,
    /// Milliseconds since 1970, for people.
    pub wall_ms: u64,
    /// The volume is deleted by this.
    pub tombstone: bool,
}

impl Opening {
    /// The object's bytes. `salt` is random and never used twice.
    pub fn seal(&self, keys: &PoolKeys, salt: [u8; 16]) -> Bytes {
        debug_assert!(self.replay.iter().all(|r| r.first_seq <= r.end_seq), "{:?}", self.replay);
        seal_object(keys, ObjectKind::Opening, &opening_key(self.volume, self.epoch), salt, &self.encode())
    }

    /// Opens the bytes found under the opening's key of this volume and epoch.
    pub fn open(keys: &PoolKeys, volume: u32, epoch: u32, bytes: &[u8]) -> Result<Self, SegmentError> {
        let key = opening_key(volume, epoch);
        let (version, payload) = open_versioned(keys, ObjectKind::Opening, &key, bytes)?;
        let opening =
            Self::decode(&payload, version).map_err(|what| SegmentError::malformed(&key, Part::Payload, what))?;
        if (opening.volume, opening.epoch) != (volume, epoch) {
            return Err(SegmentError::malformed(&key, Part::Payload, Malformed("of another epoch")));
        }
        Ok(opening)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.put_varint(u64::from(self.volume));
        out.put_varint(u64::from(self.epoch));
        for id in [&self.writer, &self.host, &self.boot, &self.ring] {
            out.extend_from_slice(id);
        }
        out.put_bytes(&self.hostname.as_bytes()[..self.hostname.floor_char_boundary(MAX_HOSTNAME)]);
        out.put_u8(self.domain as u8);
        out.put_u8(u8::from(self.tombstone));
        out.put_varint(self.size);
        out.put_u8(u8::from(self.predecessor.is_some()));
        if let Some(p) = &self.predecessor {
            out.put_varint(u64::from(p.epoch));
            out.put_varint(p.end_seq);
            out.extend_from_slice(&p.salt);
            out.extend_from_slice(&p.seal_writer);
        }
        put_checkpoint(&mut out, &self.start);
        out.put_varint(self.replay.len() as u64);
        for r in &self.replay {
            out.put_varint(u64::from(r.epoch));
            out.put_varint(r.first_seq);
            out.put_varint(r.end_seq);
        }
        out.put_varint(self.last_op);
        out.put_varint(self.wall_ms);
        out
    }

    pub(super) fn decode(bytes: &[u8], version: u16) -> Result<Self, Malformed> {
        let r = &mut Reader::new(bytes);
        let (volume, epoch) = (get_u32(r)?, get_u32(r)?);
        let (writer, host, boot, ring) = (r.array()?, r.array()?, r.array()?, r.array()?);
        let hostname = r.string(MAX_HOSTNAME)?.to_owned();
        let domain = match r.u8()? {
            0 => Domain::Object,
            1 => Domain::Journal,
            _ => return Err(Malformed("of an unknown durability domain")),
        };
        let tombstone = get_bool(r)?;
        let size = r.varint()?;
        let predecessor = match get_bool(r)? {
            true => Some(get_predecessor(r)?),
            false => None,
        };
        let start = get_checkpoint(r, version)?;
        let count = get_count(r, 3)?;
        let replay = (0..count).map(|_| get_replay(r)).collect::<Result<_, _>>()?;
        let (last_op, wall_ms) = (get_op(r)?, r.varint()?);
        r.end()?;
        Ok(Self {
            volume,
            epoch,
            writer,
            host,
            boot,
            hostname,
            ring,
            domain,
            size,
            predecessor,
            start,
            replay,
            last_op,
            wall_ms,
            tombstone,
        })
    }
}

fn opening_key(volume: u32, epoch: u32) -> String {
    SegmentId::log(volume, epoch, 0).key()
}

fn get_predecessor(r: &mut Reader<'_>) -> Result<Predecessor, Malformed> {
    Ok(Predecessor { epoch: get_u32(r)?, end_seq: get_seq(r)?, salt: r.array()?, seal_writer: r.array()? })
}

fn get_replay(r: &mut Reader<'_>) -> Result<ReplayRange, Malformed> {
    let range = ReplayRange { epoch: get_u32(r)?, first_seq: get_seq(r)?, end_seq: get_seq(r)? };
    match range.first_seq {
        0 => Err(Malformed("range that begins with the opening")),
        first if range.end_seq < first => Err(Malformed("range that ends before it starts")),
        _ => Ok(range),
    }
}
