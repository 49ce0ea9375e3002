//! Names of segments and places of records.

use std::fmt;

/// Bytes of a logical block (LBA): 4 KiB.
pub const BLOCK: usize = 4096;
/// Blocks of an extent.
pub const EXTENT_BLOCKS: u64 = 8;
/// Bytes of an extent: 32 KiB.
pub const EXTENT: usize = BLOCK * EXTENT_BLOCKS as usize;

/// Whether a segment carries writes in order, or what checkpoints and compaction write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SegmentKind {
    /// `log/<v>/<~k>/<seq>`
    Log,
    /// `data/<v>/<k>/<n>`
    Data,
}

/// The name of one segment: volume, epoch, kind, number. 16 bytes, ordered by volume, epoch, number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    volume: u32,
    epoch: u32,
    tagged: u64,
}

impl SegmentId {
    /// The log object `seq` of epoch `epoch` of volume `volume` (0 is the opening).
    pub fn log(volume: u32, epoch: u32, seq: u64) -> Self {
        Self { volume, epoch, tagged: seq << 1 }
    }

    /// The data segment `n` written in epoch `epoch` of volume `volume`.
    pub fn data(volume: u32, epoch: u32, n: u64) -> Self {
        Self { volume, epoch, tagged: n << 1 | 1 }
    }

    /// The segment, opening or seal whose key this is; `None` for any other key.
    pub fn from_key(key: &str) -> Option<Self> {
        let mut parts = key.splitn(4, '/');
        let kind = parts.next()?;
        let volume = u32::from_str_radix(parts.next()?, 16).ok()?;
        let epoch = u64::from_str_radix(parts.next()?, 16).ok()?;
        let number = u64::from_str_radix(parts.next()?, 16).ok().filter(|n| *n < 1 << 63)?;
        let id = match kind {
            "log" => Self::log(volume, u32::try_from(!epoch).ok()?, number),
            "data" => Self::data(volume, u32::try_from(epoch).ok()?, number),
            _ => return None,
        };
        // Digits may be written in many ways, a key in one.
        (id.key() == key).then_some(id)
    }

    /// The volume's number.
    pub fn volume(self) -> u32 {
        self.volume
    }

    /// The epoch.
    pub fn epoch(self) -> u32 {
        self.epoch
    }

    /// The sequence number of a log object, or the number of a data segment.
    pub fn number(self) -> u64 {
        self.tagged >> 1
    }

    /// Log or data.
    pub fn kind(self) -> SegmentKind {
        if self.tagged & 1 == 0 { SegmentKind::Log } else { SegmentKind::Data }
    }

    /// The object's key below the pool's prefix. Numbers are 16 hex digits (volumes 8); a log's epoch is inverted so
    /// that one LIST shows the newest first.
    pub fn key(self) -> String {
        match self.kind() {
            SegmentKind::Log => format!("{}{:016x}", log_prefix(self.volume, self.epoch), self.number()),
            SegmentKind::Data => format!("data/{:08x}/{:016x}/{:016x}", self.volume, self.epoch, self.number()),
        }
    }
}

/// The prefix of all log objects of one epoch, with its closing slash.
pub fn log_prefix(volume: u32, epoch: u32) -> String {
    format!("log/{volume:08x}/{:016x}/", !u64::from(epoch))
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

/// Where one record is: one ranged GET of it opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordRef {
    /// The segment it lies in.
    pub segment: SegmentId,
    /// Byte offset of the record in the object.
    pub offset: u32,
    /// Stored length in bytes, header and tag included.
    pub len: u32,
    /// The record's number in its segment, from 0; with the salt it makes the nonce.
    pub number: u32,
}
