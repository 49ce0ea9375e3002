//! Devices for the NBD target: memory that answers at once, and the same that answers later.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use esker_block::{BatchOp, BlockDevice, BlockError, BlockResult, DeviceInfo, Extent};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::RwLock;

/// Bytes of a device.
pub const SIZE: usize = 1 << 20;

/// Memory. `late`: nothing is answered at once, everything after a turn of the runtime.
pub struct Disk {
    info: DeviceInfo,
    late: bool,
    bytes: RwLock<Vec<u8>>,
}

impl Disk {
    /// A device by its export's name.
    pub fn new(name: &str, late: bool, read_only: bool) -> Arc<Self> {
        let info = DeviceInfo {
            name: name.into(),
            size: SIZE as u64,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 32 << 10,
            read_only,
        };
        Arc::new(Self { info, late, bytes: RwLock::new(vec![0; SIZE]) })
    }

    fn range(&self, offset: u64, len: u64) -> BlockResult<std::ops::Range<usize>> {
        match offset.checked_add(len) {
            Some(end) if end <= SIZE as u64 => Ok(offset as usize..end as usize),
            _ => Err(BlockError::OutOfRange { offset, len, size: SIZE as u64 }),
        }
    }

    fn put(&self, offset: u64, data: &[u8]) -> BlockResult<()> {
        let range = self.range(offset, data.len() as u64)?;
        self.bytes.write()[range].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> BlockResult<()> {
        let range = self.range(offset, len)?;
        self.bytes.write()[range].fill(0);
        Ok(())
    }

    fn after_a_turn<'a, T: Send + 'a>(&'a self, answer: impl FnOnce() -> T + Send + 'a) -> BoxFuture<'a, T> {
        async move {
            if self.late {
                tokio::task::yield_now().await;
            }
            answer()
        }
        .boxed()
    }
}

impl BlockDevice for Disk {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<BlockResult<()>> {
        (!self.late).then(|| {
            let range = self.range(offset, buf.len() as u64)?;
            buf.copy_from_slice(&self.bytes.read()[range]);
            Ok(())
        })
    }

    fn read(&self, offset: u64, len: usize, mut buf: BytesMut) -> BoxFuture<'_, BlockResult<BytesMut>> {
        self.after_a_turn(move || {
            let range = self.range(offset, len as u64)?;
            buf.extend_from_slice(&self.bytes.read()[range]);
            Ok(buf)
        })
    }

    fn try_write(&self, offset: u64, data: &[u8]) -> Option<BlockResult<()>> {
        (!self.late).then(|| self.put(offset, data))
    }

    fn write(&self, offset: u64, data: Bytes, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.after_a_turn(move || self.put(offset, &data))
    }

    fn flush(&self) -> BoxFuture<'_, BlockResult<()>> {
        self.after_a_turn(|| Ok(()))
    }

    fn discard(&self, offset: u64, len: u64, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.after_a_turn(move || self.zero(offset, len))
    }

    fn write_zeroes(&self, offset: u64, len: u64, _may_unmap: bool, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.after_a_turn(move || self.zero(offset, len))
    }

    fn block_status(&self, offset: u64, len: u64, max: usize) -> BoxFuture<'_, BlockResult<Vec<Extent>>> {
        self.after_a_turn(move || {
            let range = self.range(offset, len)?;
            let bytes = self.bytes.read();
            let one = |chunk: &[u8]| Extent { len: chunk.len() as u64, hole: chunk.iter().all(|b| *b == 0) };
            Ok(bytes[range].chunks(4096).map(one).take(max).collect())
        })
    }

    fn prefetch(&self, offset: u64, len: u64) -> BoxFuture<'_, BlockResult<()>> {
        self.after_a_turn(move || self.range(offset, len).map(drop))
    }

    fn batch(&self, ops: Vec<BatchOp>, _fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.after_a_turn(move || {
            ops.into_iter().try_for_each(|op| match op {
                BatchOp::Write { offset, data } => self.put(offset, &data),
                BatchOp::Zero { offset, len } => self.zero(offset, len),
            })
        })
    }
}
