//! Compaction because somebody asked: everything that is not as it should be, at once.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use esker_block::{BlockError, BlockResult};
use serde::Serialize;

use super::engine::Engine;
use super::merge::{self, Merged, Which};
use super::{checkpoint, detach, publish, upkeep};
use crate::compact::{Chosen, Policy, Reach, choose, is_scattered};
use crate::map::{Piece, Run, Usage, node_extents};
use crate::probe::{Branch, reached};
use crate::segment::{EXTENT, SegmentId};
use crate::sync::atomic::Ordering;

/// Extents that are looked at together: 1 MiB.
const WINDOW: u64 = (1 << 20) / EXTENT as u64;
/// So many leaves ahead the map is loaded, side by side, where its cache holds them: 256 MiB.
const AHEAD: u64 = 16;
/// Extents of a leaf.
const LEAF: u64 = 512;
/// Scattered extents that one merge takes: 8 MiB.
const BATCH: usize = 256;
/// Space amplification that a request for compaction aims at.
const TARGET: f64 = 1.02;
/// How often is looked whether a checkpoint under way has ended.
const TICK: Duration = Duration::from_millis(100);

/// What a request for compaction did. Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// Read from the store.
    pub read: u64,
    /// Written to it.
    pub written: u64,
    /// Segments that were emptied.
    pub segments: u64,
    /// Extents that became one record.
    pub extents: u64,
    /// Stored before, without what was dead.
    pub before: u64,
    /// Stored afterwards.
    pub after: u64,
    /// Beside that, what is dead and waits to be deleted.
    pub dead: u64,
}

impl Compacted {
    fn add(&mut self, merged: &Merged) {
        self.read += merged.read;
        self.written += merged.written;
        self.extents += merged.extents;
    }
}

/// Writes a checkpoint, merges what is scattered, empties what holds garbage, and has the rest deleted. `say` is told
/// how far it is.
pub(super) async fn compact(engine: &Arc<Engine>, say: &(dyn Fn(String) + Send + Sync)) -> BlockResult<Compacted> {
    if engine.info.read_only {
        return Err(BlockError::ReadOnly);
    }
    let mut done = Compacted::default();
    let last = engine.ring.next_op() - 1;
    engine.durable(last).await?;
    say("saving the map".into());
    save(engine).await?;
    while upkeep::walk(engine).await? {}
    done.before = stored(engine);
    gather_scattered(engine, &mut done, say).await?;
    say("saving the map".into());
    save(engine).await?;
    let all = engine.accounts.with(|u| u.segments.keys().copied().collect());
    let mut among: HashSet<SegmentId> = all.unwrap_or_default();
    while let Some(chosen) = next(engine, &among) {
        engine.check_open()?;
        among.retain(|id| !chosen.segments.contains(id));
        say(format!("emptying {} segments, {} so far", chosen.segments.len(), done.segments));
        done.segments += chosen.segments.len() as u64;
        let began = engine.env.clock.now();
        let merged = upkeep::compact(engine, &chosen, Reach::Fair).await?;
        done.add(&merged);
        upkeep::keep_below_ceiling(engine, began, &merged).await;
    }
    save(engine).await?;
    done.after = stored(engine);
    done.dead = engine.accounts.totals().map_or(0, |t| t.dead_bytes);
    Ok(done)
}

fn stored(engine: &Engine) -> u64 {
    engine.accounts.totals().map_or(0, |t| t.bytes - t.dead_bytes)
}

/// What is emptied next, out of the segments that were there at the beginning: under load there are always new ones.
fn next(engine: &Engine, among: &HashSet<SegmentId>) -> Option<Chosen> {
    let policy = Policy { target: TARGET, slack: 0, ahead: false, tiny_segments: 1, ..upkeep::policy(engine) };
    let now = engine.log.lock().published_op;
    let mut passed_over = engine.compaction.passed_over();
    let look = |usage: &Usage| {
        passed_over.extend(usage.segments.keys().filter(|id| !among.contains(id)));
        choose(usage, &passed_over, &policy, now)
    };
    engine.accounts.with(look).flatten()
}

/// Goes through the volume, a MiB at a time, and merges where one would take many GETs to read.
async fn gather_scattered(
    engine: &Arc<Engine>,
    done: &mut Compacted,
    say: &(dyn Fn(String) + Send + Sync),
) -> BlockResult<()> {
    let end = engine.info.size.div_ceil(EXTENT as u64);
    let mut batch: BTreeSet<u64> = BTreeSet::new();
    let mut at = 0;
    while at < end {
        engine.check_open()?;
        match engine.map.hole_run(at, end - at) {
            Run::Hole(extents) => {
                at += extents;
                continue;
            }
            Run::Load(load) => {
                let leaves = AHEAD.min(merge::leaves_at_once(engine) as u64);
                let ahead = engine.map.loads_for(at, (at + leaves * LEAF).min(end) - 1);
                if ahead.len() > 1 && engine.load_nodes(&ahead).await.is_ok() {
                    continue;
                }
                match engine.load_nodes(&[load]).await {
                    // What lies below a damaged node stays as it is.
                    Err(BlockError::Corrupt { .. }) => at = node_extents(load.level, load.index).end,
                    loaded => loaded?,
                }
                continue;
            }
            Run::Mapped(_) | Run::Mixed(_) => {}
        }
        let first = at - at % WINDOW;
        let window = first..(first + WINDOW).min(end);
        at = window.end;
        let extents: Vec<u64> = window.collect();
        let found = match merge::resolve(engine, extents).await {
            Err(BlockError::Corrupt { .. }) => continue,
            found => found?,
        };
        let pieces: Vec<(u64, Piece)> = found.iter().flat_map(|(e, ps)| ps.iter().map(|p| (*e, *p))).collect();
        if is_scattered(&pieces) {
            batch.extend(found.iter().filter(|(_, ps)| !ps.is_empty()).map(|(e, _)| *e));
        }
        if batch.len() >= BATCH || at >= end {
            say(format!("merging, {} % of the volume", at * 100 / end));
            flush(engine, &mut batch, done).await?;
        }
    }
    flush(engine, &mut batch, done).await
}

async fn flush(engine: &Arc<Engine>, batch: &mut BTreeSet<u64>, done: &mut Compacted) -> BlockResult<()> {
    if batch.is_empty() {
        return Ok(());
    }
    reached(Branch::ScatteredMerged);
    let turn = engine.compaction.turn.lock().await;
    let born = engine.log.lock().published_op;
    let began = engine.env.clock.now();
    let merged = merge::extents_of(engine, &std::mem::take(batch), &Which::Scattered, born).await?;
    done.add(&merged);
    engine.compaction.moved(&[], &merged);
    // The rest may be long, and whoever walks the free list waits for the turn.
    drop(turn);
    upkeep::keep_below_ceiling(engine, began, &merged).await;
    Ok(())
}

/// Writes a checkpoint of all that is published, and waits until the log names it: what it leaves dead is deleted from then
/// on. The checkpoint goes on if nobody waits for it any more.
async fn save(engine: &Arc<Engine>) -> BlockResult<()> {
    while engine.checkpointing.swap(true, Ordering::AcqRel) {
        engine.check_open()?;
        engine.env.clock.sleep(TICK).await;
    }
    let begun = publish::begin(engine);
    checkpoint::spawn(engine, begun).await.unwrap_or(Err(BlockError::ShuttingDown))?;
    detach::wait_until(engine, |e| detach::named(e) || e.closing.load(Ordering::Acquire)).await
}
