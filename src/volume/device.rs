//! The volume as a block device: the fast forms answer from memory, the others wait.

use std::io;

use bytes::{Bytes, BytesMut};
use esker_block::{
    BatchOp, BlockDevice, BlockError, BlockResult, DeviceInfo, Extent, MAX_OP_BYTES, try_write_gathered,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Volume;
use super::fetch::Pins;
use super::read::Window;
use super::write::{Content, Merge};
use crate::segment::BLOCK;

impl BlockDevice for Volume {
    fn info(&self) -> &DeviceInfo {
        &self.engine.info
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<BlockResult<()>> {
        if let Err(e) = self.engine.check_range(offset, buf.len() as u64) {
            return Some(Err(e));
        }
        self.engine.copy_now(&mut Window { offset, buf }, &Pins::new()).then_some(Ok(()))
    }

    fn read(&self, offset: u64, len: usize, buf: BytesMut) -> BoxFuture<'_, BlockResult<BytesMut>> {
        async move {
            self.engine.check_range(offset, len as u64)?;
            self.engine.read(offset, len, buf).await
        }
        .boxed()
    }

    fn try_write(&self, offset: u64, data: &[u8]) -> Option<BlockResult<()>> {
        if let Err(e) = self.engine.check_write(offset, data.len() as u64) {
            return Some(Err(e));
        }
        if data.is_empty() {
            return Some(Ok(()));
        }
        if data.len() > MAX_OP_BYTES || self.engine.space.contended() {
            return None;
        }
        let block = BLOCK as u64;
        if offset.is_multiple_of(block) && data.len().is_multiple_of(BLOCK) {
            return self.engine.write_now(offset / block, data).map(|_| Ok(()));
        }
        match self.engine.merge_now(offset, Content::Data(data), &Pins::new()) {
            Merge::Done(_) => Some(Ok(())),
            Merge::Full | Merge::EdgesMissing => None,
        }
    }

    fn try_write_with(
        &self,
        offset: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Option<BlockResult<()>> {
        // Before the source is asked: what it says does not matter where the volume serves nobody any more.
        if let Err(e) = self.engine.check_write(offset, len as u64) {
            return Some(Err(e));
        }
        let block = BLOCK as u64;
        if len == 0 || len > MAX_OP_BYTES || !offset.is_multiple_of(block) || !len.is_multiple_of(BLOCK) {
            return try_write_gathered(self, offset, len, fill);
        }
        if self.engine.space.contended() {
            return None;
        }
        let written = self.engine.write_filled_now(offset / block, len, fill)?;
        Some(written.map(drop).map_err(|e| BlockError::Source(e.to_string())))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        async move { self.engine.write(offset, data, fua).await }.boxed()
    }

    fn flush(&self) -> BoxFuture<'_, BlockResult<()>> {
        self.engine.flush().boxed()
    }

    fn discard(&self, offset: u64, len: u64, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.engine.discard(offset, len, fua).boxed()
    }

    fn write_zeroes(&self, offset: u64, len: u64, _may_unmap: bool, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        self.engine.zero(offset, len, fua).boxed()
    }

    fn block_status(&self, offset: u64, len: u64, max: usize) -> BoxFuture<'_, BlockResult<Vec<Extent>>> {
        self.engine.block_status(offset, len, max).boxed()
    }

    fn prefetch(&self, offset: u64, len: u64) -> BoxFuture<'_, BlockResult<()>> {
        async move {
            self.engine.check_range(offset, len)?;
            self.engine.prefetch(offset, len).await;
            Ok(())
        }
        .boxed()
    }

    fn batch(&self, ops: Vec<BatchOp>, fua: bool) -> BoxFuture<'_, BlockResult<()>> {
        async move { self.engine.batch(&ops, fua).await }.boxed()
    }
}
