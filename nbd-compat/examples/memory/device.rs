//! A block device in memory, for measuring the server and for its tests.

use bytes::{Bytes, BytesMut};
use esker_block::{BatchOp, BlockDevice, BlockError, BlockResult, DeviceInfo, Extent};
use futures::future::{BoxFuture, FutureExt, ready};
use parking_lot::RwLock;

/// What one lock covers, and what is allocated at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// Memory in chunks, each with its lock; a chunk that was never written is not there.
pub struct Memory {
    info: DeviceInfo,
    chunks: Vec<RwLock<Option<Box<[u8]>>>>,
}

impl Memory {
    /// An empty device of `size` bytes.
    pub fn new(name: &str, size: u64, read_only: bool) -> Self {
        let info = DeviceInfo {
            name: name.to_owned(),
            size,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 32 << 10,
            read_only,
        };
        let chunks = (0..size.div_ceil(CHUNK as u64)).map(|_| RwLock::new(None)).collect();
        Self { info, chunks }
    }

    fn check(&self, offset: u64, len: u64) -> BlockResult<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.info.size => Ok(()),
            _ => Err(BlockError::OutOfRange { offset, len, size: self.info.size }),
        }
    }

    fn get(&self, offset: u64, buf: &mut [u8]) -> BlockResult<()> {
        self.check(offset, buf.len() as u64)?;
        for (chunk, start, from, len) in pieces(offset, buf.len() as u64) {
            let to = &mut buf[from..from + len];
            match self.chunks[chunk].read().as_ref() {
                Some(data) => to.copy_from_slice(&data[start..start + len]),
                None => to.fill(0),
            }
        }
        Ok(())
    }

    fn put(&self, offset: u64, data: &[u8]) -> BlockResult<()> {
        self.check(offset, data.len() as u64)?;
        if self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        for (chunk, start, from, len) in pieces(offset, data.len() as u64) {
            let mut chunk = self.chunks[chunk].write();
            let chunk = chunk.get_or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
            chunk[start..start + len].copy_from_slice(&data[from..from + len]);
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> BlockResult<()> {
        self.check(offset, len)?;
        if self.info.read_only {
            return Err(BlockError::ReadOnly);
        }
        for (chunk, start, _, len) in pieces(offset, len) {
            let mut chunk = self.chunks[chunk].write();
            if len == CHUNK {
                *chunk = None;
            } else if let Some(data) = chunk.as_mut() {
                data[start..start + len].fill(0);
            }
        }
        Ok(())
    }
}

/// (chunk, offset in it, offset in the request, length) for each chunk of a range.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let at = offset + done;
            let start = (at % CHUNK as u64) as usize;
            let take = (len - done).min((CHUNK - start) as u64);
            let from = done as usize;
            done += take;
            ((at / CHUNK as u64) as usize, start, from, take as usize)
        })
    })
}

impl BlockDevice for Memory {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<BlockResult<()>> {
        Some(self.get(offset, buf))
    }

    fn read(&self, offset: u64, len: usize, mut buf: BytesMut) -> BoxFuture<'_, BlockResult<BytesMut>> {
        let start = buf.len();
        buf.resize(start + len, 0);
        let done = self.get(offset, &mut buf[start..]).map(|()| buf);
        ready(done).boxed()
    }

    fn try_write(&self, offset: u64, data: &[u8]) -> Option<BlockResult<()>> {
        Some(self.put(offset, data))
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        ready(self.put(offset, &data)).boxed()
    }

    fn flush(&self) -> BoxFuture<'_, BlockResult<()>> {
        ready(Ok(())).boxed()
    }

    fn discard(&self, offset: u64, len: u64, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        ready(self.zero(offset, len)).boxed()
    }

    fn write_zeroes(&self, offset: u64, len: u64, _may_unmap: bool, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        ready(self.zero(offset, len)).boxed()
    }

    fn block_status(&self, offset: u64, len: u64, max: usize) -> BoxFuture<'_, BlockResult<Vec<Extent>>> {
        let extents = self.check(offset, len).map(|()| {
            let one = |(chunk, _, _, len): (usize, usize, usize, usize)| Extent {
                len: len as u64,
                hole: self.chunks[chunk].read().is_none(),
            };
            pieces(offset, len).map(one).take(max).collect()
        });
        ready(extents).boxed()
    }

    fn prefetch(&self, offset: u64, len: u64) -> BoxFuture<'_, BlockResult<()>> {
        ready(self.check(offset, len)).boxed()
    }

    fn batch(&self, ops: Vec<BatchOp>, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        let all = ops.into_iter().try_for_each(|op| match op {
            BatchOp::Write { offset, data } => self.put(offset, &data),
            BatchOp::Zero { offset, len } => self.zero(offset, len),
        });
        ready(all).boxed()
    }
}
