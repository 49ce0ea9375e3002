//! Getting the accounts of segments: out of the newest table, or, where there is none, by counting.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use esker_block::{BlockError, BlockResult};
use futures::future::try_join_all;
use tracing::{info, warn};

use super::deleting;
use super::engine::Engine;
use crate::map::{
    MapError, NodeContent, NodeLoad, USAGE_DIRECTORY_LEVEL, USAGE_PAGE_LEVEL, Usage, UsageChange,
    decode_usage_directory, decode_usage_pages, read_node,
};
use crate::probe::{Branch, reached};
use crate::segment::{Introduced, RecordRef, SegmentId, SegmentKind, open_node};
use crate::store::{Cause, Listed, Patience, StoreError};

/// Nodes that are read side by side.
const BATCH: usize = 64;
/// Segments of the table that are.
const SIDE_BY_SIDE: usize = 8;
/// Keys of one LIST.
const PAGE: usize = 1000;

/// Sees to it that the accounts are in memory. Answers whether they are: where the map cannot be read whole there are none, and
/// nothing is deleted or compacted until the volume is attached again.
pub(super) async fn load(engine: &Arc<Engine>) -> BlockResult<bool> {
    let Some(at) = engine.accounts.unread() else { return Ok(true) };
    if engine.accounts.are_hopeless() {
        return Ok(false);
    }
    if let Some(at) = at {
        // Damage on the way is not damage in the bucket.
        let table = match read(engine, at).await {
            Err(BlockError::Corrupt { .. }) => read(engine, at).await,
            other => other,
        };
        match table {
            Ok((usage, tables)) => {
                let dead = usage.segments.iter().filter(|(_, s)| s.is_dead()).map(|(id, _)| *id).collect();
                engine.accounts.loaded(Some(at), usage, tables);
                delete_what_was_dead(engine, dead);
                return Ok(true);
            }
            Err(e @ BlockError::Corrupt { .. }) => {
                warn!(volume = engine.info.name, error = %e, "the accounts of segments cannot be read; counting anew");
            }
            Err(e) => return Err(e),
        }
    }
    engine.accounts.doubt();
    reached(Branch::AccountsCounted);
    match count(engine).await {
        Ok(usage) => engine.accounts.loaded(at, usage, Vec::new()),
        Err(e @ BlockError::Corrupt { .. }) => {
            warn!(volume = engine.info.name, error = %e, "what segments hold cannot be counted; no space is given back");
            engine.accounts.give_up();
            return Ok(false);
        }
        Err(e) => return Err(e),
    }
    Ok(true)
}

/// What was dead in the checkpoint that our opening names. The opening authorises that as a segment does that names one: it is
/// durable, and every recovery starts there or later. Whoever held the volume before may have come to no deletion.
fn delete_what_was_dead(engine: &Arc<Engine>, dead: Vec<SegmentId>) {
    if engine.tuning.compact.enabled && !engine.info.read_only && !dead.is_empty() {
        reached(Branch::DeadOfPredecessorDeleted);
        deleting::delete(engine, dead);
    }
}

/// Reads the table whose directory is `at`; answers the segments that hold it, too. They are read whole: nothing else is in
/// them, and their lengths are needed.
async fn read(engine: &Arc<Engine>, at: RecordRef) -> BlockResult<(Usage, Vec<Introduced>)> {
    let mut objects: BTreeMap<SegmentId, Bytes> = BTreeMap::new();
    objects.insert(at.segment, whole(engine, at.segment).await?);
    let wrong = |record: &RecordRef, why: String| engine.corrupt(&record.segment.key(), format!("accounts: {why}"));
    let open = |objects: &BTreeMap<SegmentId, Bytes>, level, index, record: &RecordRef| {
        let (from, to) = (record.offset as usize, record.offset as usize + record.len as usize);
        let bytes = objects.get(&record.segment).and_then(|o| o.get(from..to));
        let bytes = bytes.ok_or_else(|| wrong(record, "it is shorter than its records".into()))?;
        open_node(&engine.keys, record, level, index, bytes).map_err(|e| wrong(record, e.to_string()))
    };
    let directory = open(&objects, USAGE_DIRECTORY_LEVEL, 0, &at)?;
    let places = decode_usage_directory(&directory).map_err(|e| wrong(&at, e.to_string()))?;
    let mut others: Vec<SegmentId> = places.iter().map(|p| p.segment).filter(|id| *id != at.segment).collect();
    others.dedup();
    for batch in others.chunks(SIDE_BY_SIDE) {
        let read = try_join_all(batch.iter().map(|id| async move { Ok((*id, whole(engine, *id).await?)) })).await?;
        objects.extend(read);
    }
    let pages: Vec<Vec<u8>> = (0..)
        .zip(&places)
        .map(|(index, record)| open(&objects, USAGE_PAGE_LEVEL, index, record))
        .collect::<BlockResult<_>>()?;
    let usage = decode_usage_pages(&pages).map_err(|e| wrong(&at, e.to_string()))?;
    let table = |(id, bytes): (&SegmentId, &Bytes)| Introduced { segment: *id, bytes: bytes.len() as u32, born: 0 };
    Ok((usage, objects.iter().map(table).collect()))
}

async fn whole(engine: &Engine, id: SegmentId) -> BlockResult<Bytes> {
    let key = id.key();
    match engine.store.get(&key, Cause::Recovery, Patience::Forever).await {
        Ok(bytes) => Ok(bytes),
        Err(StoreError::NotFound { .. }) => Err(engine.explain_missing(&key).await),
        Err(e) => Err(BlockError::Store(e.to_string())),
    }
}

/// Counts what the durable tree refers to. Everything else of finished epochs is an orphan then.
async fn count(engine: &Arc<Engine>) -> BlockResult<Usage> {
    let mut change = UsageChange::default();
    let root = engine.map.root();
    let mut stack: Vec<NodeLoad> =
        root.map(|r| NodeLoad { level: r.levels, index: 0, record: r.record }).into_iter().collect();
    while !stack.is_empty() {
        let loads = stack.split_off(stack.len().saturating_sub(BATCH));
        let nodes = try_join_all(loads.iter().map(|load| engine.fetch_node(load, Cause::Recovery))).await?;
        for (load, plain) in loads.iter().zip(nodes) {
            change.count_node(&load.record, 1);
            let wrong = |e: MapError| engine.corrupt(&load.record.segment.key(), e.to_string());
            match read_node(load.level, load.index, &plain).map_err(wrong)? {
                NodeContent::Leaf(pieces) => pieces.iter().for_each(|(_, piece)| change.count_piece(piece, 1)),
                NodeContent::Inner(children) => stack.extend(children),
            }
        }
    }
    let mut usage = Usage::default();
    // What the map refers to and the store does not have is damage that reads will tell of.
    change.segments.keys().for_each(|id| usage.add(*id, 0, 0));
    for_each_object(engine, |id, size| {
        if change.segments.contains_key(&id) {
            usage.add(id, u32::try_from(size).unwrap_or(u32::MAX), 0);
        }
    })
    .await?;
    usage.apply(&change).map_err(|e| BlockError::Store(format!("counting what segments hold: {e}")))?;
    info!(volume = engine.info.name, segments = usage.segments.len(), "counted what segments hold");
    Ok(usage)
}

/// Shows all objects of the volume's logs and data, openings and seals too, with their sizes in bytes.
pub(super) async fn for_each_object(engine: &Engine, mut show: impl FnMut(SegmentId, u64)) -> BlockResult<()> {
    for kind in [SegmentKind::Log, SegmentKind::Data] {
        let prefix = match kind {
            SegmentKind::Log => format!("log/{:08x}/", engine.volume),
            SegmentKind::Data => format!("data/{:08x}/", engine.volume),
        };
        let mut after: Option<String> = None;
        loop {
            let page: Vec<Listed> = engine
                .store
                .list(&prefix, after.as_deref(), PAGE, Cause::Recovery, Patience::Forever)
                .await
                .map_err(|e| BlockError::Store(e.to_string()))?;
            page.iter().filter_map(|l| Some((SegmentId::from_key(&l.key)?, l.size))).for_each(|(id, n)| show(id, n));
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                _ => break,
            }
            engine.check_open()?;
        }
    }
    Ok(())
}
