//! The catalogue: all volumes of the pool and the number of the next one. Each object holds the whole state.
//!
//! ```text
//! next volume number, 4 bytes LE
//! number of volumes, varint
//! per volume, by ascending number: number 4, uuid 16, name (varint length, bytes), size 8, block size 4,
//!   compression 1 (0 none, 1 lz4, 2 zstd), created at 8 (milliseconds since 1970)
//! ```

use super::compression::Compression;
use super::error::PoolError;
use crate::wire::{Malformed, Put, Reader};

/// Longest name of a volume in bytes.
pub const MAX_NAME: usize = 64;
/// Most volumes in a pool.
pub const MAX_VOLUMES: usize = 10_000;
/// Largest volume in bytes: offsets are signed 64-bit numbers in Linux and in NBD clients.
pub const MAX_VOLUME_BYTES: u64 = (1 << 63) - 4096;

/// What the pool knows of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    /// The number in the keys of its objects; never used again.
    pub number: u32,
    /// Random, for those who look at the device.
    pub uuid: [u8; 16],
    /// What people call it.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// The block size the device shows, in bytes: 512 or 4096.
    pub block_size: u32,
    /// How its records are compressed from now on.
    pub compression: Compression,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// All volumes of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// How many changes led here; 0 before the first.
    pub n: u64,
    /// The number of the next volume.
    pub next: u32,
    /// The volumes by ascending number.
    pub volumes: Vec<VolumeRecord>,
}

/// Whether `name` can be a volume's name.
pub fn check_name(name: &str) -> Result<(), PoolError> {
    let bytes = name.as_bytes();
    let fits = (1..=MAX_NAME).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    if fits { Ok(()) } else { Err(PoolError::Name(name.chars().take(2 * MAX_NAME).collect())) }
}

pub(super) fn check_size(size: u64) -> Result<(), PoolError> {
    let fits = size.is_multiple_of(4096) && (4096..=MAX_VOLUME_BYTES).contains(&size);
    if fits { Ok(()) } else { Err(PoolError::Size(size)) }
}

pub(super) fn check_block_size(block_size: u32) -> Result<(), PoolError> {
    if matches!(block_size, 512 | 4096) { Ok(()) } else { Err(PoolError::BlockSize(block_size)) }
}

impl Catalogue {
    /// The state before the first change.
    pub(super) fn empty() -> Self {
        Self { n: 0, next: 1, volumes: Vec::new() }
    }

    /// The volume called `name`.
    pub fn find(&self, name: &str) -> Option<&VolumeRecord> {
        self.volumes.iter().find(|v| v.name == name)
    }

    /// The payload of the sealed object.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 64 * self.volumes.len());
        out.put_u32(self.next);
        out.put_varint(self.volumes.len() as u64);
        for v in &self.volumes {
            out.put_u32(v.number);
            out.extend_from_slice(&v.uuid);
            out.put_bytes(v.name.as_bytes());
            out.put_u64(v.size);
            out.put_u32(v.block_size);
            out.put_u8(v.compression as u8);
            out.put_u64(v.created_ms);
        }
        out
    }

    /// Reads the payload of object `n`.
    pub(super) fn decode(n: u64, payload: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(payload);
        let next = r.u32()?;
        let count = r.varint_max(MAX_VOLUMES as u64, "too many volumes")?;
        let mut volumes: Vec<VolumeRecord> = Vec::new();
        for _ in 0..count {
            let v = volume(&mut r)?;
            if v.number >= next || volumes.last().is_some_and(|last| last.number >= v.number) {
                return Err(Malformed("volume numbers do not ascend"));
            }
            volumes.push(v);
        }
        r.end()?;
        let names: std::collections::HashSet<&str> = volumes.iter().map(|v| v.name.as_str()).collect();
        if names.len() != volumes.len() {
            return Err(Malformed("two volumes of one name"));
        }
        Ok(Self { n, next, volumes })
    }
}

fn volume(r: &mut Reader<'_>) -> Result<VolumeRecord, Malformed> {
    let v = VolumeRecord {
        number: r.u32()?,
        uuid: r.array()?,
        name: r.string(MAX_NAME)?.to_string(),
        size: r.u64()?,
        block_size: r.u32()?,
        compression: Compression::from_u8(r.u8()?).ok_or(Malformed("unknown compression"))?,
        created_ms: r.u64()?,
    };
    check_name(&v.name).map_err(|_| Malformed("a volume's name"))?;
    check_size(v.size).map_err(|_| Malformed("a volume's size"))?;
    check_block_size(v.block_size).map_err(|_| Malformed("a volume's block size"))?;
    Ok(v)
}
