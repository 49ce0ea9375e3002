//! Filling data segments and PUTting them, a few at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use esker_block::{BlockError, BlockResult};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::join_all;

use super::engine::Engine;
use crate::segment::{Compression, Introduced, OpRange, SegmentBuilder, SegmentId, SegmentTail};
use crate::store::{Cause, Patience, Put};

/// Data segments on their way at once.
const PUTS: usize = 4;

/// See the module.
pub(super) struct DataWriter {
    engine: Arc<Engine>,
    compression: Compression,
    cause: Cause,
    /// The age that is written down for the segments.
    born: u64,
    builder: Option<SegmentBuilder>,
    segments: Vec<Introduced>,
    puts: Vec<oneshot::Receiver<BlockResult<()>>>,
}

/// PUTs that were sent.
#[derive(Default)]
pub(super) struct OnTheWay(Vec<oneshot::Receiver<BlockResult<()>>>);

impl OnTheWay {
    /// Completes when all are durable, or the first has failed.
    pub(super) async fn all(self) -> BlockResult<()> {
        for put in join_all(self.0).await {
            put.unwrap_or(Err(BlockError::ShuttingDown))?;
        }
        Ok(())
    }
}

impl DataWriter {
    pub(super) fn new(engine: Arc<Engine>, compression: Compression, cause: Cause, born: u64) -> Self {
        Self { engine, compression, cause, born, builder: None, segments: Vec::new(), puts: Vec::new() }
    }

    /// A segment with room for a record of `len` bytes; a full one is sent off first.
    pub(super) fn room_for(&mut self, len: usize) -> &mut SegmentBuilder {
        let limit = self.engine.tuning.segment_bytes;
        if self.builder.as_ref().is_some_and(|b| !b.has_room(len) || b.size() >= limit) {
            self.ship();
        }
        let engine = &self.engine;
        let start = || {
            let n = engine.next_data.fetch_add(1, Ordering::AcqRel);
            let id = SegmentId::data(engine.volume, engine.epoch, n);
            SegmentBuilder::new(engine.keys.clone(), id, engine.env.random16(), self.compression)
        };
        self.builder.get_or_insert_with(start)
    }

    /// Waits until only a few are on their way.
    pub(super) async fn keep_few(&mut self) -> BlockResult<()> {
        while self.puts.len() > PUTS {
            self.puts.remove(0).await.unwrap_or(Err(BlockError::ShuttingDown))?;
        }
        Ok(())
    }

    /// Sends what is left: all segments, and what is not durable of them.
    pub(super) fn ship_all(mut self) -> (Vec<Introduced>, OnTheWay) {
        self.ship();
        (std::mem::take(&mut self.segments), OnTheWay(std::mem::take(&mut self.puts)))
    }

    fn ship(&mut self) {
        let Some(builder) = self.builder.take() else { return };
        let tail =
            SegmentTail { ops: OpRange::NONE, predecessor_salt: [0; 16], checkpoint: None, deletable: Vec::new() };
        let built = builder.finish(tail);
        self.segments.push(Introduced { segment: built.id, bytes: built.index.bytes, born: self.born });
        let (sender, receiver) = oneshot::channel();
        let (engine, cause) = (self.engine.clone(), self.cause);
        let put = async move {
            // Whoever wrote it may have given up.
            drop(sender.send(put_data(&engine, built.id, built.bytes, cause).await));
        };
        self.engine.env.spawner.spawn(put.boxed());
        self.puts.push(receiver);
    }
}

impl Drop for DataWriter {
    fn drop(&mut self) {
        // Given up: nothing will refer to them.
        self.engine.accounts.waste(std::mem::take(&mut self.segments));
    }
}

async fn put_data(engine: &Engine, id: SegmentId, body: Bytes, cause: Cause) -> BlockResult<()> {
    let key = id.key();
    match engine.store.put_new(&key, body, cause, Patience::Forever).await {
        Ok(Put::Created | Put::Ours) => Ok(()),
        Ok(Put::Taken(_)) => {
            engine.fail(BlockError::Fenced);
            Err(BlockError::Fenced)
        }
        Err(e) => Err(BlockError::Store(format!("PUT {key}: {e}"))),
    }
}
