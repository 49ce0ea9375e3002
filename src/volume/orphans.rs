//! Objects of finished epochs that nothing accounts for: what a writer had on its way when it ended, what a checkpoint
//! wrote that no log names, a duplicate that landed after its original was deleted.
//!
//! Looked for once after each attach, by one LIST. The volume's state is what our opening names and what came of it since;
//! no writer of a finished epoch can add to that any more. So an object of such an epoch that neither the accounts nor
//! the replayed log know is an orphan for good. Openings and seals stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_block::BlockResult;
use tracing::{info, warn};

use super::engine::Engine;
use super::{census, deleting};
use crate::probe::{Branch, reached};
use crate::segment::{LogObject, SegmentId, SegmentKind, log_object_kind};
use crate::store::{Cause, Patience, StoreError};

/// Log objects of at most this many bytes may be seals (bytes).
const SEAL_MAX: u64 = 1024;
/// Small log objects whose kind is looked up in one sweep, of the newest epochs.
const LOOKED_AT: usize = 64;
/// Orphans that one sweep deletes; the next attach finds more.
const MOST: usize = 100_000;

/// One sweep. Needs the accounts in memory.
pub(super) async fn sweep(engine: &Arc<Engine>) -> BlockResult<()> {
    if !engine.accounts.are_certain() {
        return Ok(());
    }
    // Accounts that do not know the map's own root must not decide over anything.
    let root = engine.map.root().map(|root| root.record.segment);
    if root.is_some_and(|id| engine.accounts.with(|u| u.segments.get(&id).is_none_or(|s| s.is_dead())) != Some(false)) {
        return Ok(());
    }
    let mut orphans: Vec<SegmentId> = Vec::new();
    let mut bytes = 0;
    // The small objects of each log that are not accounted for. A single one is its seal.
    let mut small: BTreeMap<u32, Vec<SegmentId>> = BTreeMap::new();
    census::for_each_object(engine, |id, size| {
        let finished = id.epoch() < engine.epoch;
        if !finished || engine.accounts.knows(id) || (id.kind() == SegmentKind::Log && id.number() == 0) {
            return;
        }
        if id.kind() == SegmentKind::Log && size <= SEAL_MAX {
            small.entry(id.epoch()).or_default().push(id);
        } else if orphans.len() < MOST {
            bytes += size;
            orphans.push(id);
        }
    })
    .await?;
    let unsure = small.into_values().rev().filter(|of_epoch| of_epoch.len() > 1).flatten();
    for id in unsure.take(LOOKED_AT) {
        if is_segment(engine, id).await? {
            orphans.push(id);
        }
    }
    if orphans.is_empty() {
        return Ok(());
    }
    reached(Branch::OrphansDeleted);
    for batch in orphans.chunks(1000) {
        engine.check_open()?;
        let done = deleting::delete_keys(engine, batch).await;
        engine.compaction.count_deleted(done.len() as u64, 0);
    }
    info!(volume = engine.info.name, objects = orphans.len(), bytes, "deleted what earlier writers left behind");
    Ok(())
}

/// Whether a small object of a log is a segment: a seal stays, whoever put it.
async fn is_segment(engine: &Engine, id: SegmentId) -> BlockResult<bool> {
    let key = id.key();
    match engine.store.get(&key, Cause::Recovery, Patience::Forever).await {
        Ok(bytes) => Ok(log_object_kind(&bytes) == LogObject::Segment),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => {
            warn!(%key, %error, "cannot see whether this is a seal; it stays");
            Ok(false)
        }
    }
}
