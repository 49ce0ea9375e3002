//! The one trait every front end of esker speaks: a volume as a block device.
//!
//! NBD, ublk and the file daemon know [`BlockDevice`] and nothing behind it; the engine implements it. Offsets and
//! lengths are in bytes, of any alignment: the device does the read-modify-write of edge blocks itself, atomically.
//!
//! Ordering and durability (docs/semantics.md): an operation that completed before another began comes before it.
//! A completed [`BlockDevice::flush`], or a completed operation with `fua`, means that every write completed before it
//! began is durable.

mod error;
mod types;

pub use error::{BlockError, BlockResult};
pub use types::{BatchOp, DeviceInfo, Extent, MAX_OP_BYTES};

use std::io;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;

/// A volume as a block device.
///
/// Each data call comes in two forms. `try_*` completes at once, on the calling thread, without blocking, or answers
/// `None` and has done nothing. The other form yields a future. A queue thread calls `try_*` first.
///
/// A future that is dropped before it completes may or may not have taken effect, as a whole.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size, block sizes and abilities. Constant for the life of the attachment.
    fn info(&self) -> &DeviceInfo;

    /// Reads `buf.len()` bytes at `offset` if everything needed is in memory.
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<BlockResult<()>>;

    /// Reads `len` bytes at `offset` and appends them to `buf`, which is given back.
    ///
    /// Pieces are fetched in parallel. Trimmed and never-written blocks read as zeroes.
    fn read(&self, offset: u64, len: usize, buf: BytesMut) -> BoxFuture<'_, BlockResult<BytesMut>>;

    /// Writes `data` at `offset` if there is room in the write buffer and no block needs to be fetched first.
    /// Answers `None` always where the write asks for `fua`: that waits for the store.
    fn try_write(&self, offset: u64, data: &[u8]) -> Option<BlockResult<()>>;

    /// The same for `len` bytes that are still elsewhere: `fill` puts them where they belong, which saves a copy. It may be
    /// called in vain, where the answer is `None`. If it fails, nothing is written and the answer is
    /// [`BlockError::Source`].
    fn try_write_with(
        &self,
        offset: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Option<BlockResult<()>> {
        try_write_gathered(self, offset, len, fill)
    }

    /// Writes `data` at `offset`. Not torn by a crash up to [`MAX_OP_BYTES`]; longer writes are a sequence of such.
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, BlockResult<()>>;

    /// Completes when every write that completed before this call is durable. Nothing new to cover costs nothing.
    fn flush(&self) -> BoxFuture<'_, BlockResult<()>>;

    /// Gives the range back; it reads as zeroes afterwards. A cheap map operation at any size; partial edge blocks
    /// are left as they are.
    fn discard(&self, offset: u64, len: u64, fua: bool) -> BoxFuture<'_, BlockResult<()>>;

    /// Makes the range read as zeroes, every byte of it. A cheap map operation at any size.
    /// `may_unmap` false asks that the space stay reserved, which a log-structured volume cannot promise more of
    /// than it does for any write: the flag changes nothing here.
    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> BoxFuture<'_, BlockResult<()>>;

    /// What is allocated in the range, in order, covering a prefix of it that is at least one block long;
    /// at most `max` extents.
    fn block_status(&self, offset: u64, len: u64, max: usize) -> BoxFuture<'_, BlockResult<Vec<Extent>>>;

    /// Brings the range into the cache. Advice: errors in fetching are not reported.
    fn prefetch(&self, offset: u64, len: u64) -> BoxFuture<'_, BlockResult<()>>;

    /// Applies all of `ops` or, after a crash, none of them. At most [`MAX_OP_BYTES`] of data in all; offsets and
    /// lengths are multiples of 4 KiB. Where operations overlap, the later one in the list wins.
    fn batch(&self, ops: Vec<BatchOp>, fua: bool) -> BoxFuture<'_, BlockResult<()>>;
}

/// [`BlockDevice::try_write_with`] through a buffer: for devices, or requests, that have no place to fill in directly.
pub fn try_write_gathered<D: BlockDevice + ?Sized>(
    device: &D,
    offset: u64,
    len: usize,
    fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
) -> Option<BlockResult<()>> {
    let mut data = vec![0; len];
    match fill(&mut data) {
        Ok(()) => device.try_write(offset, &data),
        Err(e) => Some(Err(BlockError::Source(e.to_string()))),
    }
}
