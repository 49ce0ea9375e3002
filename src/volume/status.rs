//! What a running volume tells of itself.

use std::time::Duration;

use serde::Serialize;

use super::engine::Engine;
use crate::segment::BLOCK;

/// The state of an attached volume, for people and scripts. Sizes in bytes, times in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct VolumeStatus {
    /// The volume's name.
    pub name: String,
    /// Its size.
    pub size: u64,
    /// The epoch held.
    pub epoch: u32,
    /// Where a completed flush is durable.
    pub durability: &'static str,
    /// `ok`, or why requests fail.
    pub state: String,
    /// The number of the last operation: each write, trim or batch has one, in the order that a crash keeps.
    pub last_operation: u64,
    /// The last operation that is durable, and with it all before.
    pub durable_operation: u64,
    /// Data that no durable segment carries yet.
    pub unflushed_bytes: u64,
    /// How long the oldest such data has waited.
    pub unflushed_age_ms: u64,
    /// Ring space in use.
    pub journal_used: u64,
    /// Ring size.
    pub journal_size: u64,
    /// Segments on their way.
    pub segments_in_flight: usize,
    /// Decrypted pieces in memory.
    pub cache_used: u64,
    /// The most that may be.
    pub cache_size: u64,
    /// Map nodes changed since the last checkpoint.
    pub map_dirty: u64,
    /// Clean map leaves in memory.
    pub map_leaves: u64,
    /// Extents that the journal's index knows.
    pub index_extents: usize,
    /// Log segments since the last checkpoint.
    pub segments_since_checkpoint: u64,
    /// What is stored, and what of it is needed; `None` until the accounts were read.
    pub space: Option<SpaceStatus>,
    /// How long the store has not answered, if it does not.
    pub outage_ms: Option<u64>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// What a volume takes in the store, as of its newest checkpoint. Sizes in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SpaceStatus {
    /// Blocks that hold something, in bytes of the volume.
    pub written: u64,
    /// Stored bytes of records that the volume needs, map included.
    pub live: u64,
    /// Stored bytes of all segments, without openings and seals.
    pub stored: u64,
    /// Of the stored bytes, those that came after the newest checkpoint: how much of them is needed is not counted yet.
    pub new: u64,
    /// Of the stored bytes, what segments take besides their records, about, and the accounts of segments.
    pub overhead: u64,
    /// Segments.
    pub objects: u64,
    /// Of the stored bytes, those of segments that nothing needs and that wait to be deleted.
    pub dead: u64,
    /// Such segments.
    pub dead_objects: u64,
    /// Of those, the ones whose deletion is under way.
    pub deleting: u64,
    /// Read by compaction since the volume was attached.
    pub compaction_read: u64,
    /// Written by it.
    pub compaction_written: u64,
    /// Segments that it has emptied.
    pub compacted_segments: u64,
    /// Objects deleted since the volume was attached.
    pub deleted_objects: u64,
    /// Their bytes, as far as they are known.
    pub deleted: u64,
}

fn space(engine: &Engine) -> Option<SpaceStatus> {
    let totals = engine.accounts.totals()?;
    let done = engine.compaction.done();
    Some(SpaceStatus {
        written: totals.blocks * BLOCK as u64,
        live: totals.live,
        stored: totals.bytes,
        new: engine.accounts.new_bytes(),
        overhead: totals.overhead,
        objects: totals.objects,
        dead: totals.dead_bytes,
        dead_objects: totals.dead_objects,
        deleting: engine.deletions.under_way(engine.env.clock.now()),
        compaction_read: done.read,
        compaction_written: done.written,
        compacted_segments: done.segments,
        deleted_objects: done.deleted,
        deleted: done.deleted_bytes,
    })
}

pub(super) fn of(engine: &Engine) -> VolumeStatus {
    let now = engine.env.clock.now();
    let map = engine.map.memory();
    let space = space(engine);
    let log = engine.log.lock();
    let since = match log.checkpoint.covers_epoch == engine.epoch {
        true => log.next_seq - 1 - log.checkpoint.covers_seq,
        false => log.next_seq - 1 + engine.replayed,
    };
    let age = log.uncut_since.map_or(Duration::ZERO, |t| now.saturating_sub(t));
    VolumeStatus {
        name: engine.info.name.clone(),
        size: engine.info.size,
        epoch: engine.epoch,
        durability: "object",
        state: engine.failure().map_or_else(|| "ok".into(), |why| why.to_string()),
        last_operation: engine.ring.next_op() - 1,
        durable_operation: log.durable_op,
        unflushed_bytes: engine.unflushed_bytes(&log),
        unflushed_age_ms: age.as_millis() as u64,
        journal_used: engine.ring.used(),
        journal_size: engine.ring.capacity(),
        segments_in_flight: log.in_flight,
        cache_used: engine.cache.used(),
        cache_size: engine.cache.capacity(),
        map_dirty: map.dirty_bytes as u64,
        map_leaves: map.leaf_bytes as u64,
        index_extents: engine.index.extents(),
        segments_since_checkpoint: since,
        space,
        outage_ms: engine.outage().map(|o| o.lasted.as_millis() as u64),
        last_error: engine.last_error(),
    }
}
