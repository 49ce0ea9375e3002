//! Writing the map: changed nodes go to data segments, and once those are durable the log names the new root.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use esker_block::{BlockError, BlockResult};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{join_all, try_join_all};
use tracing::{debug, warn};

use super::engine::Engine;
use crate::map::{Checkpoint, MapError, NodeToWrite, Step};
use crate::segment::{CheckpointRef, Compression, OpRange, SegmentBuilder, SegmentId, SegmentTail};
use crate::store::{Cause, Patience, Put};

/// Nodes whose bases are fetched side by side.
const BATCH: usize = 64;
/// Data segments on their way at once.
const PUTS: usize = 4;
/// How long a checkpoint that failed keeps the next one away.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Runs one checkpoint in the background; a failure is logged and tried again later: the log still has everything.
pub(super) async fn run(engine: Arc<Engine>, point: CheckpointRef, job: Checkpoint) {
    if let Err(e) = write(&engine, point, job).await
        && engine.failure().is_none()
    {
        warn!(volume = engine.info.name, error = %e, "a checkpoint failed; trying again later");
        engine.note_error(format!("checkpoint: {e}"));
        engine.env.clock.sleep(RETRY_AFTER).await;
    }
    engine.checkpointing.store(false, Ordering::Release);
}

/// Writes what `job` froze and has the log name it as `point`.
pub(super) async fn write(engine: &Arc<Engine>, mut point: CheckpointRef, mut job: Checkpoint) -> BlockResult<()> {
    let mut out = DataWriter::new(engine.clone());
    let mut count = 0usize;
    loop {
        let nodes = match job.next(BATCH) {
            Step::Load(loads) => {
                engine.load_nodes(&loads).await?;
                continue;
            }
            Step::Write(nodes) => nodes,
            Step::Done => break,
        };
        count += nodes.len();
        let bases = try_join_all(nodes.iter().map(|node| async {
            match &node.base {
                Some(load) => engine.fetch_node(load, Cause::Checkpoint).await.map(Some),
                None => Ok(None),
            }
        }))
        .await?;
        for (node, base) in nodes.into_iter().zip(bases) {
            let plain = node.encode(base.as_deref()).map_err(|e| node_error(engine, &node, e))?;
            let at = plain.map(|plain| out.room_for(plain.len()).add_node(node.level, node.index, &plain));
            job.placed(node, at);
        }
        out.keep_few().await?;
    }
    point.root = job.root();
    out.finish().await?;
    job.commit();
    engine.remember(point.covers_seq);
    debug!(volume = engine.info.name, nodes = count, covers = point.covers_seq, "checkpoint written");
    {
        let mut log = engine.log.lock();
        log.checkpoint = point;
        log.name_checkpoint = true;
    }
    engine.cutter_wake.notify_one();
    Ok(())
}

fn node_error(engine: &Engine, node: &NodeToWrite, e: MapError) -> BlockError {
    let key = node.base.as_ref().map_or(String::new(), |b| b.record.segment.key());
    engine.corrupt(&key, format!("map node {}/{}: {e}", node.level, node.index))
}

/// Fills data segments and PUTs them, a few at a time.
struct DataWriter {
    engine: Arc<Engine>,
    builder: Option<(SegmentId, SegmentBuilder)>,
    puts: Vec<oneshot::Receiver<BlockResult<()>>>,
}

impl DataWriter {
    fn new(engine: Arc<Engine>) -> Self {
        Self { engine, builder: None, puts: Vec::new() }
    }

    /// A segment with room for a node of `len` bytes; a full one is sent off first.
    fn room_for(&mut self, len: usize) -> &mut SegmentBuilder {
        let limit = self.engine.tuning.segment_bytes;
        if self.builder.as_ref().is_some_and(|(_, b)| !b.has_room(len) || b.size() >= limit) {
            self.ship();
        }
        let engine = &self.engine;
        let start = || {
            let n = engine.next_data.fetch_add(1, Ordering::AcqRel);
            let id = SegmentId::data(engine.volume, engine.epoch, n);
            let salt = engine.env.random16();
            (id, SegmentBuilder::new(engine.keys.clone(), id, salt, Compression::Zstd))
        };
        &mut self.builder.get_or_insert_with(start).1
    }

    /// Waits until only a few are on their way.
    async fn keep_few(&mut self) -> BlockResult<()> {
        while self.puts.len() > PUTS {
            self.puts.remove(0).await.unwrap_or(Err(BlockError::ShuttingDown))?;
        }
        Ok(())
    }

    fn ship(&mut self) {
        let Some((id, builder)) = self.builder.take() else { return };
        let tail =
            SegmentTail { ops: OpRange::NONE, predecessor_salt: [0; 16], checkpoint: None, deletable: Vec::new() };
        let built = builder.finish(tail);
        let (sender, receiver) = oneshot::channel();
        let engine = self.engine.clone();
        let put = async move {
            // The checkpoint may have been given up.
            drop(sender.send(put_data(&engine, id, built.bytes).await));
        };
        self.engine.env.spawner.spawn(put.boxed());
        self.puts.push(receiver);
    }

    async fn finish(mut self) -> BlockResult<()> {
        self.ship();
        for put in join_all(self.puts).await {
            put.unwrap_or(Err(BlockError::ShuttingDown))?;
        }
        Ok(())
    }
}

async fn put_data(engine: &Engine, id: SegmentId, body: Bytes) -> BlockResult<()> {
    let key = id.key();
    match engine.store.put_new(&key, body, Cause::Checkpoint, Patience::Forever).await {
        Ok(Put::Created | Put::Ours) => Ok(()),
        Ok(Put::Taken(_)) => {
            engine.fail(BlockError::Fenced);
            Err(BlockError::Fenced)
        }
        Err(e) => Err(BlockError::Store(format!("PUT {key}: {e}"))),
    }
}
