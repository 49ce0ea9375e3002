//! The task that shows durable segments in the map, in order, and gives their ring space back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::checkpoint::{self, Begun};
use super::deleting;
use super::engine::Engine;
use super::merge::Moves;
use super::pipeline::Landed;
use crate::cache::{RecordKey, key_of};
use crate::journal::{Part, RecordKind};
use crate::map::{Lookup, Map};
use crate::probe::{Mutant, planted};
use crate::segment::{CheckpointRef, SegmentId, SegmentIndex};
use crate::sync;

/// Bytes that hide nothing worth a checkpoint.
const HIDES_LEAST: u64 = 1 << 20;

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
                let listed = publish(&engine, landed);
                if !listed.is_empty() {
                    deleting::delete(&engine, listed);
                }
                maybe_checkpoint(&engine);
                engine.upkeep.wake();
            }
            None => woken.await,
        }
    }
}

/// Shows what a segment says in the map: relocations first, then trims, then data (docs/format.md).
pub(crate) fn apply(map: &Map, index: &SegmentIndex) {
    index.relocations.iter().for_each(|relocation| map.apply_relocation(relocation));
    let trims_last = planted(Mutant::DataBeforeTrims);
    let trims = || index.trims.iter().for_each(|trim| map.apply_trim(trim.first_lba, trim.blocks));
    if !trims_last {
        trims();
    }
    for data in &index.records {
        map.apply_data(data.extent, data.mask, data.record);
    }
    if trims_last {
        trims();
    }
}

/// Shows a segment. Answers what it lists to be deleted: as it is durable in order, so may that be done now.
fn publish(engine: &Engine, mut landed: Landed) -> Vec<SegmentId> {
    let moves = landed.moves.take();
    for (key, plaintext) in std::mem::take(&mut landed.pieces) {
        engine.cache.insert(key, plaintext);
    }
    if let Some(moves) = &moves {
        keep_warm(engine, moves);
    }
    let _publishing = engine.publishing.lock();
    // The map first, the index after: a reader that misses in the index finds it in the map.
    let dead = superseded(&engine.map, &landed.index);
    let late = sync::weak("the index before the map");
    if !late {
        apply(&engine.map, &landed.index);
    }
    engine.accounts.published(&landed, SegmentId::log(engine.volume, engine.epoch, landed.seq));
    engine.compaction.wrote(landed.bytes, 16 * engine.tuning.segment_bytes as u64);
    engine.compaction.trimmed(landed.index.trims.iter().fold(0, |n: u64, trim| n.saturating_add(trim.blocks)));
    engine.index.published(landed.through_op);
    let moved = moves.iter().flat_map(|moves| &moves.pieces).flat_map(|(_, _, from)| from);
    dead.iter().chain(moved).for_each(|key| engine.cache.remove(key));
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
    if late {
        apply(&engine.map, &landed.index);
    }
    engine.ring.free_through(landed.through_op);
    {
        let mut log = engine.log.lock();
        if landed.through_op > log.published_op {
            log.published_at = engine.env.clock.now();
        }
        log.published_seq = landed.seq;
        log.published_op = landed.through_op;
    }
    if !planted(Mutant::SpaceWaiterForgotten) {
        engine.space.wake();
    }
    for done in moves.into_iter().flat_map(|m| m.done) {
        // The merge may have been given up.
        let _given_up = done.send(()).is_err();
    }
    engine.published.notify_waiters();
    landed.index.deletable
}

/// What readers had in memory they find under its new name.
fn keep_warm(engine: &Engine, moves: &Moves) {
    for (to, plaintext, from) in &moves.pieces {
        if from.iter().any(|key| engine.cache.get(key).is_some()) {
            engine.cache.insert(*to, plaintext.clone());
        }
    }
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
    // A detach writes its own.
    if engine.closing.load(Ordering::Acquire) {
        return;
    }
    let since = engine.log.lock().since_checkpoint(engine.epoch, engine.replayed);
    let least = 4 * engine.tuning.segment_bytes as u64;
    let long = since >= engine.tuning.checkpoint_segments || hides_garbage(engine, least);
    if (long || engine.map.dirty_bytes() >= engine.tuning.dirty_map_bytes)
        && checkpoint::may_begin(engine)
        && !engine.checkpointing.swap(true, Ordering::AcqRel)
    {
        let begun = begin(engine);
        drop(checkpoint::spawn(engine, begun));
    }
}

/// Whether what was written since the last checkpoint may have superseded so much that compaction, which goes by the accounts of
/// the last one, would come too late. Less than `least` bytes is nothing.
pub(super) fn hides_garbage(engine: &Engine, least: u64) -> bool {
    let (compact, (unaccounted, live)) = (&engine.tuning.compact, engine.accounts.unaccounted());
    let allowed = (live as f64 * (compact.target - 1.0) / 8.0) as u64;
    compact.enabled && unaccounted >= allowed.max(compact.slack).max(least).max(HIDES_LEAST)
}

/// Freezes the map as of the last published segment: nothing is published between the two looks.
pub(super) fn begin(engine: &Engine) -> Begun {
    let _publishing = engine.publishing.lock();
    let job = engine.map.begin_checkpoint();
    let fresh = engine.accounts.take_fresh();
    let (number, trimmed) = (engine.compaction.begin(), engine.compaction.take_trimmed());
    let log = engine.log.lock();
    let point = CheckpointRef {
        root: None,
        covers_epoch: engine.epoch,
        covers_seq: log.published_seq + u64::from(planted(Mutant::CheckpointCoversTooMuch)),
        last_op: log.published_op,
        usage: None,
    };
    Begun { point, job, fresh, number, trimmed }
}
