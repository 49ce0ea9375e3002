//! A device that answers nothing at once, and writes and reads only when the test lets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use esker_block::{BatchOp, BlockDevice, BlockError, BlockResult, DeviceInfo, Extent};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use super::device::Memory;

/// Memory behind gates: each read, write and flush takes a permit of its gate. Prefetch panics.
pub struct Gated {
    pub memory: Memory,
    pub reads: Semaphore,
    pub writes: Semaphore,
    pub flushes: Semaphore,
    /// Writes that were asked for.
    pub asked: AtomicUsize,
    /// Writes and flushes with FUA that were asked for.
    pub fua: AtomicUsize,
}

impl Gated {
    pub fn new(size: u64) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::new("gated", size, false),
            reads: Semaphore::new(0),
            writes: Semaphore::new(0),
            flushes: Semaphore::new(0),
            asked: AtomicUsize::new(0),
            fua: AtomicUsize::new(0),
        })
    }
}

async fn pass(gate: &Semaphore) -> BlockResult<()> {
    gate.acquire().await.map_err(|_| BlockError::Store("the gate is broken".into()))?.forget();
    Ok(())
}

impl BlockDevice for Gated {
    fn info(&self) -> &DeviceInfo {
        self.memory.info()
    }

    fn try_read(&self, _offset: u64, _buf: &mut [u8]) -> Option<BlockResult<()>> {
        None
    }

    fn read(&self, offset: u64, len: usize, buf: BytesMut) -> BoxFuture<'_, BlockResult<BytesMut>> {
        async move {
            pass(&self.reads).await?;
            self.memory.read(offset, len, buf).await
        }
        .boxed()
    }

    fn try_write(&self, _offset: u64, _data: &[u8]) -> Option<BlockResult<()>> {
        None
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.fua.fetch_add(usize::from(fua), Ordering::SeqCst);
        async move {
            pass(&self.writes).await?;
            self.memory.write(offset, data, fua).await
        }
        .boxed()
    }

    fn flush(&self) -> BoxFuture<'_, BlockResult<()>> {
        pass(&self.flushes).boxed()
    }

    fn discard(&self, offset: u64, len: u64, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.memory.discard(offset, len, fua)
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.memory.write_zeroes(offset, len, may_unmap, fua)
    }

    fn block_status(&self, offset: u64, len: u64, max: usize) -> BoxFuture<'_, BlockResult<Vec<Extent>>> {
        self.memory.block_status(offset, len, max)
    }

    fn prefetch(&self, _offset: u64, _len: u64) -> BoxFuture<'_, BlockResult<()>> {
        async { panic!("a device that panics is wanted here") }.boxed()
    }

    fn batch(&self, ops: Vec<BatchOp>, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.memory.batch(ops, fua)
    }
}
