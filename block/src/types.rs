//! What a device says of itself, and the shapes of its answers.

use bytes::Bytes;

/// The longest write, in bytes, that a crash never tears, and the most data in one atomic batch: 1 MiB.
pub const MAX_OP_BYTES: usize = 1 << 20;

/// What a device is: constant while it is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name people gave the volume; what an NBD client asks for.
    pub name: String,
    /// Size in bytes, a multiple of `logical_block`.
    pub size: u64,
    /// The block size the device shows, in bytes: 512 or 4096.
    pub logical_block: u32,
    /// What the device works in without read-modify-write, in bytes: 4096.
    pub physical_block: u32,
    /// Preferred request size in bytes: an extent, 32 KiB.
    pub optimal_io: u32,
    /// Writes, trims and zeroes are refused.
    pub read_only: bool,
}

/// A run of bytes of one kind, as NBD's `base:allocation` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len: u64,
    /// Nothing is stored there; it reads as zeroes.
    pub hole: bool,
}

/// One part of an atomic batch.
#[derive(Debug, Clone)]
pub enum BatchOp {
    /// Write `data` at `offset`.
    Write {
        /// Byte offset, a multiple of 4096.
        offset: u64,
        /// Data, a multiple of 4096 bytes long.
        data: Bytes,
    },
    /// Make `len` bytes at `offset` read as zeroes.
    Zero {
        /// Byte offset, a multiple of 4096.
        offset: u64,
        /// Length in bytes, a multiple of 4096.
        len: u64,
    },
}
