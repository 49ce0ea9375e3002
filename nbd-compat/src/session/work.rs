//! What the device is asked to do when it cannot answer at once.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use esker_block::{BlockDevice, BlockError, BlockResult};
use futures::FutureExt;

use super::reply::Answer;

/// One operation of the device, with all it needs.
#[derive(Debug)]
pub(crate) enum Work {
    Read { offset: u64, len: usize },
    Write { offset: u64, data: Bytes, fua: bool },
    Flush,
    Trim { offset: u64, len: u64, fua: bool },
    WriteZeroes { offset: u64, len: u64, may_unmap: bool, fua: bool },
    Prefetch { offset: u64, len: u64 },
    BlockStatus { offset: u64, len: u64, max: usize },
}

/// Does `work`. A device that panics is answered for with EIO: a client must not wait for ever.
pub(crate) async fn perform(device: Arc<dyn BlockDevice>, work: Work) -> BlockResult<Answer> {
    match AssertUnwindSafe(ask(&*device, work)).catch_unwind().await {
        Ok(result) => result,
        Err(_) => {
            tracing::error!(volume = device.info().name, "the device panicked in a request");
            Err(BlockError::Store("internal error".into()))
        }
    }
}

async fn ask(device: &dyn BlockDevice, work: Work) -> BlockResult<Answer> {
    match work {
        Work::Read { offset, len } => {
            let data = device.read(offset, len, BytesMut::with_capacity(len)).await?;
            return Ok(Answer::Data(data.freeze()));
        }
        Work::BlockStatus { offset, len, max } => {
            return Ok(Answer::Extents(device.block_status(offset, len, max).await?));
        }
        Work::Write { offset, data, fua } => device.write(offset, data, fua).await?,
        Work::Flush => device.flush().await?,
        Work::Trim { offset, len, fua } => device.discard(offset, len, fua).await?,
        Work::WriteZeroes { offset, len, may_unmap, fua } => {
            device.write_zeroes(offset, len, may_unmap, fua).await?;
        }
        Work::Prefetch { offset, len } => device.prefetch(offset, len).await?,
    }
    Ok(Answer::Done)
}
