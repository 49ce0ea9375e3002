//! What a running volume tells of itself.

use std::time::Duration;

use serde::Serialize;

use super::engine::Engine;

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
    /// How long the store has not answered, if it does not.
    pub outage_ms: Option<u64>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

pub(super) fn of(engine: &Engine) -> VolumeStatus {
    let now = engine.env.clock.now();
    let map = engine.map.memory();
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
        outage_ms: engine.outage().map(|o| o.lasted.as_millis() as u64),
        last_error: engine.last_error(),
    }
}
