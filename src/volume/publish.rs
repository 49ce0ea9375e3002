//! The task that shows durable segments in the map, in order, and gives their ring space back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;

use super::checkpoint;
use super::engine::Engine;
use super::pipeline::Landed;
use crate::cache::{RecordKey, key_of};
use crate::journal::{Part, RecordKind};
use crate::map::{Lookup, Map};
use crate::segment::{CheckpointRef, SegmentIndex};

/// Runs until the volume fails or is closed and everything is published.
pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        let woken = engine.publisher_wake.notified();
        let (next, done) = {
            let mut log = engine.log.lock();
            let next = log.to_publish.pop_front();
            let done = log.closed && log.in_flight == 0 && next.is_none();
            (next, done)
        };
        if engine.failure().is_some() || done {
            return;
        }
        match next {
            Some(landed) => {
                publish(&engine, landed);
                maybe_checkpoint(&engine);
            }
            None => woken.await,
        }
    }
}

/// Shows what a segment says in the map: trims first, then data (docs/format.md).
pub(super) fn apply(map: &Map, index: &SegmentIndex) {
    for trim in &index.trims {
        map.apply_trim(trim.first_lba, trim.blocks);
    }
    for data in &index.records {
        map.apply_data(data.extent, data.mask, data.record);
    }
}

fn publish(engine: &Engine, landed: Landed) {
    for (key, plaintext) in landed.pieces {
        engine.cache.insert(key, plaintext);
    }
    let _publishing = engine.publishing.lock();
    // The map first, the index after: a reader that misses in the index finds it in the map.
    let dead = superseded(&engine.map, &landed.index);
    apply(&engine.map, &landed.index);
    engine.index.published(landed.through_op);
    dead.iter().for_each(|key| engine.cache.remove(key));
    for record in &landed.records {
        let through = landed.through_op;
        match &record.kind {
            RecordKind::Write { lba, blocks, .. } => engine.index.drop_writes(*lba, u64::from(*blocks), through),
            RecordKind::Batch(parts) => {
                for part in parts {
                    if let Part::Write { lba, blocks, .. } = part {
                        engine.index.drop_writes(*lba, u64::from(*blocks), through);
                    }
                }
            }
            RecordKind::Trim { .. } | RecordKind::Void => {}
        }
    }
    engine.index.drop_trims(landed.through_op);
    engine.ring.free_through(landed.through_op);
    {
        let mut log = engine.log.lock();
        log.published_seq = landed.seq;
        log.published_op = landed.through_op;
    }
    engine.space.wake();
    engine.published.notify_waiters();
}

/// Records of which nothing is left to see once `index` is applied: they would only push live ones out of the cache.
/// What the map would have to fetch is passed over.
fn superseded(map: &Map, index: &SegmentIndex) -> Vec<RecordKey> {
    let mut dead = Vec::new();
    for data in &index.records {
        if let Lookup::Pieces(pieces) = map.lookup(data.extent, data.mask) {
            dead.extend(pieces.iter().filter(|p| p.visible & !data.mask == 0).map(|p| key_of(&p.record)));
        }
    }
    dead
}

/// Starts a checkpoint when replay would be long or the map has much unsaved.
fn maybe_checkpoint(engine: &Arc<Engine>) {
    let long = {
        let log = engine.log.lock();
        let since = match log.checkpoint.covers_epoch == engine.epoch {
            true => log.published_seq - log.checkpoint.covers_seq,
            false => log.published_seq + engine.replayed,
        };
        since >= engine.tuning.checkpoint_segments
    };
    if (long || engine.map.dirty_bytes() >= engine.tuning.dirty_map_bytes)
        && !engine.checkpointing.swap(true, Ordering::AcqRel)
    {
        let (point, job) = begin(engine);
        engine.env.spawner.spawn(checkpoint::run(engine.clone(), point, job).boxed());
    }
}

/// Freezes the map as of the last published segment: nothing is published between the two looks.
pub(super) fn begin(engine: &Engine) -> (CheckpointRef, crate::map::Checkpoint) {
    let _publishing = engine.publishing.lock();
    let job = engine.map.begin_checkpoint();
    let log = engine.log.lock();
    let point = CheckpointRef {
        root: None,
        covers_epoch: engine.epoch,
        covers_seq: log.published_seq,
        last_op: log.published_op,
    };
    (point, job)
}
