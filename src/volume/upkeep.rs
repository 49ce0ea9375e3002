//! The task that gives space back: reads the accounts, looks for orphans, walks what trims dropped, checkpoints when that
//! frees something, and compacts. Foreground work comes first: between two steps it rests, longer while requests come.
//!
//! With nothing to do it waits to be woken, and asks the store for nothing.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use esker_block::{BlockError, BlockResult};
use futures::future::{Either, join_all, select};
use tokio::sync::Notify;
use tracing::warn;

use super::engine::Engine;
use super::merge::Merged;
use super::{census, checkpoint, deleting, merge, orphans, publish};
use crate::compact::{Chosen, Policy, Reach, Why, choose, pressure};
use crate::map::{MapError, Usage, UsageChange};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::BLOCK;
use crate::store::Cause;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicBool;

/// Nodes of the free list that are read side by side.
const WALK: usize = 64;
/// How long a failed step keeps the next one away.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// How long after it was woken the task looks what there is to do.
const GATHER: Duration = Duration::from_millis(500);
/// No publication for so long: the volume is quiet.
const QUIET: Duration = Duration::from_secs(10);
/// What a checkpoint would free waits for a quiet moment so long at most.
const OVERDUE: Duration = Duration::from_secs(60);
/// How much has to be unsaved for a checkpoint of a quiet volume: log segments, or trimmed bytes.
const QUIET_SEGMENTS: u64 = 16;
const QUIET_TRIMMED: u64 = 16 << 20;
/// This share of what is live, in emptied segments, waits for a checkpoint while there is more to compact: each one writes
/// most leaves of the map anew where the blocks that moved lie all over the volume.
const WAITING: u64 = 64;
/// So many times as much, and compaction waits for the checkpoint.
const TOO_MUCH: u64 = 8;
/// This share of what is live, or the slack if that is more, may be dead and refused to be deleted.
const REFUSED_SHARE: u64 = 20;
const TICK: Duration = Duration::from_millis(100);
/// And no more than so many segments.
const WAITING_SEGMENTS: usize = 1 << 16;
/// The longest rest that a ceiling asks for.
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// A rest between two merges while requests come, and while none do: so many times what the merge took.
const REST: f64 = 3.0;
const REST_IDLE: f64 = 0.5;

/// What wakes the task, and what it has done once and for all.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    wake: Notify,
    swept: AtomicBool,
    /// The store does not delete, so nothing is compacted.
    stuck: AtomicBool,
    /// Since when a checkpoint would free something.
    frees_since: Mutex<Option<Duration>>,
    /// The next merge begins no earlier.
    not_before: Mutex<Duration>,
}

impl Upkeep {
    /// There may be something to do.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// What a step came to.
enum Step {
    /// Something was done, and there may be more after a rest.
    Again(Duration),
    /// Nothing to do before so long, if ever.
    Idle(Option<Duration>),
}

/// Runs until the volume is closed or has failed.
pub(super) async fn run(engine: Arc<Engine>) {
    if !engine.tuning.compact.enabled || engine.info.read_only {
        return;
    }
    loop {
        if engine.check_open().is_err() {
            if planted(Mutant::FencedStillDeletes) {
                let dead = engine.accounts.with(|u| engine.deletions.of(u)).unwrap_or_default();
                deleting::delete_keys(&engine, &Vec::from(dead)).await;
            }
            return;
        }
        let Some((outcome, woken)) = unless_closed(&engine, step(&engine)).await else { continue };
        match outcome {
            Ok(Step::Again(rest)) => pause(&engine, rest).await,
            // What woke it meanwhile may be news.
            Ok(Step::Idle(_)) if woken => pause(&engine, GATHER).await,
            Ok(Step::Idle(limit)) => {
                let woken = engine.upkeep.wake.notified();
                match limit {
                    None => woken.await,
                    Some(limit) => drop(select(pin!(woken), engine.env.clock.sleep(limit)).await),
                }
                // Publications come many at a time: one look for all of them.
                pause(&engine, GATHER).await;
            }
            Err(_) if engine.check_open().is_err() => {}
            Err(e) => {
                warn!(volume = engine.info.name, error = %e, "giving space back failed; trying again later");
                engine.note_error(format!("compaction: {e}"));
                pause(&engine, RETRY_AFTER).await;
            }
        }
    }
}

/// Awaits a step, and whether something woke the task meanwhile; `None`: the volume was closed or has failed. The step may wait for
/// a store that is away, and would keep the volume and its journal as long.
async fn unless_closed<T>(engine: &Engine, step: impl Future<Output = T>) -> Option<(T, bool)> {
    let (mut step, mut news) = (pin!(step), false);
    loop {
        match select(step.as_mut(), pin!(engine.upkeep.wake.notified())).await {
            Either::Left((outcome, _)) => return Some((outcome, news)),
            Either::Right(_) if engine.check_open().is_err() => return None,
            Either::Right(_) => news = true,
        }
    }
}

/// Rests, but not longer than the volume is open.
async fn pause(engine: &Engine, rest: Duration) {
    let end = engine.env.clock.now() + rest;
    while engine.check_open().is_ok() {
        let left = end.saturating_sub(engine.env.clock.now());
        if left.is_zero() {
            return;
        }
        let woken = engine.upkeep.wake.notified();
        drop(select(pin!(woken), engine.env.clock.sleep(left)).await);
    }
}

async fn step(engine: &Arc<Engine>) -> BlockResult<Step> {
    if matches!(engine.accounts.unread(), Some(Some(_))) && !engine.accounts.are_hopeless() {
        census::load(engine).await?;
    }
    if engine.accounts.unread().is_none() && !engine.upkeep.swept.load(Ordering::Acquire) {
        orphans::sweep(engine).await?;
        engine.upkeep.swept.store(true, Ordering::Release);
    }
    if walk(engine).await? {
        return Ok(Step::Again(Duration::ZERO));
    }
    let began = engine.env.clock.now();
    let early = engine.upkeep.not_before.lock().saturating_sub(began);
    let chosen = next_batch(engine);
    if chosen.is_some() && !early.is_zero() {
        // The operator's ceiling holds up merges, and nothing else.
        return Ok(Step::Idle(Some(maybe_save(engine).map_or(early, |limit| limit.min(early)))));
    }
    if let Some(chosen) = chosen {
        let strain = strain(engine);
        let waiting = waits_for_checkpoint(engine);
        if waiting >= 1 {
            save(engine);
        }
        if waiting >= TOO_MUCH {
            return Ok(Step::Again(TICK));
        }
        let merged = compact(engine, &chosen, reach(engine, chosen.why)).await?;
        let took = engine.env.clock.now().saturating_sub(began);
        *engine.upkeep.not_before.lock() = began + ceiling(engine, &merged);
        return Ok(Step::Again(rest(engine, took, strain)));
    }
    Ok(Step::Idle(maybe_save(engine)))
}

/// Reads a part of what trims dropped from the map. Answers whether there was any.
pub(super) async fn walk(engine: &Arc<Engine>) -> BlockResult<bool> {
    // Nobody else takes the same nodes off the list meanwhile.
    let _turn = match planted(Mutant::WalksTwice) {
        false => Some(engine.compaction.turn.lock().await),
        true => None,
    };
    let loads = engine.accounts.dropped(WALK, |load| engine.compaction.is_readable(load));
    if loads.is_empty() {
        return Ok(false);
    }
    reached(Branch::FreeListWalked);
    let nodes = join_all(loads.iter().map(|load| engine.fetch_node(load, Cause::Compaction))).await;
    let mut change = UsageChange::default();
    for (load, plain) in loads.iter().zip(nodes) {
        let corrupt = |e: MapError| engine.corrupt(&load.record.segment.key(), e.to_string());
        match plain.and_then(|plain| change.walk(load, &plain).map_err(corrupt)) {
            Ok(()) => {}
            // The space below stays taken; reads are not affected, as nothing there is part of the volume.
            Err(BlockError::Corrupt { .. }) => engine.compaction.pass_by(*load),
            Err(e) => return Err(e),
        }
    }
    engine.accounts.walked(&change);
    Ok(true)
}

pub(super) fn policy(engine: &Engine) -> Policy {
    let segment = engine.tuning.segment_bytes as u64;
    Policy {
        target: engine.tuning.compact.target,
        slack: engine.tuning.compact.slack,
        ahead: engine.compaction.may_go_ahead(),
        tiny_bytes: (segment / 8) as u32,
        full_blocks: merge::PART as u32,
        // Blocks and map nodes never come into one segment: one of each always stays.
        tiny_segments: engine.tuning.compact.tiny_segments.max(2),
        batch_bytes: 4 * segment,
        batch_segments: 512,
    }
}

/// What to compact next: nothing while the store refuses to delete what was emptied, as each merge would make the bill higher.
fn next_batch(engine: &Engine) -> Option<Chosen> {
    let stuck = |u: &Usage| {
        let refused = engine.deletions.refused_bytes(u);
        refused > engine.tuning.compact.slack && refused > u.totals().live / REFUSED_SHARE
    };
    let stuck = engine.accounts.with(stuck).unwrap_or(false);
    if stuck != engine.upkeep.stuck.swap(stuck, Ordering::AcqRel) && stuck {
        reached(Branch::CompactionStuck);
        let why = "compaction stops until the store deletes what it has emptied";
        warn!(volume = engine.info.name, "{why}");
        engine.note_error(why.into());
    }
    if stuck {
        return None;
    }
    let (passed_over, policy) = (engine.compaction.passed_over(), policy(engine));
    let now = engine.log.lock().published_op;
    engine.accounts.with(|usage| choose(usage, &passed_over, &policy, now)).flatten()
}

/// Empties the segments of a batch.
pub(super) async fn compact(engine: &Arc<Engine>, chosen: &Chosen, reach: Reach) -> BlockResult<Merged> {
    let _turn = engine.compaction.turn.lock().await;
    reached(match chosen.why {
        Why::Garbage => Branch::CompactedGarbage,
        Why::Ahead => Branch::CompactedAhead,
        Why::Tiny => Branch::CompactedTiny,
    });
    let merged = merge::segments(engine, chosen, reach).await?;
    engine.compaction.moved(&chosen.segments, &merged);
    Ok(merged)
}

/// How many times as much was emptied as is worth a checkpoint.
fn waits_for_checkpoint(engine: &Engine) -> u64 {
    let waiting = engine.compaction.waiting_segments();
    let bytes = |u: &Usage| {
        let emptied = waiting.iter().filter_map(|id| u.segments.get(id)).map(|s| u64::from(s.bytes)).sum::<u64>();
        (emptied, u.totals().live)
    };
    let (emptied, live) = engine.accounts.with(bytes).unwrap_or_default();
    let worth = (live / WAITING).max(4 * engine.tuning.segment_bytes as u64);
    (emptied / worth).max((waiting.len() / WAITING_SEGMENTS) as u64)
}

/// How long a merge has to take, with the rest after it, to stay below the operator's ceiling.
fn ceiling(engine: &Engine, merged: &Merged) -> Duration {
    let Some(rate) = engine.tuning.compact.max_bandwidth else { return Duration::ZERO };
    Duration::from_secs_f64((merged.read + merged.written) as f64 / rate.max(1) as f64).min(LONGEST_REST)
}

/// Waits until what was merged since `began` is below the operator's ceiling, or the volume is closed.
pub(super) async fn keep_below_ceiling(engine: &Engine, began: Duration, merged: &Merged) {
    let until = began + ceiling(engine, merged);
    pause(engine, until.saturating_sub(engine.env.clock.now())).await;
}

/// How long foreground work has the store for itself after a merge that took so long: the less, the further garbage is above
/// what it should be, and nothing where it runs away.
fn rest(engine: &Engine, took: Duration, strain: f64) -> Duration {
    let busy = engine.log.lock().in_flight > 0;
    let rest = took.mul_f64((1.0 - strain) * if busy { REST } else { REST_IDLE });
    rest.clamp(Duration::from_millis(1), Duration::from_secs(30))
}

/// How far a merge for the sake of garbage reaches: extents become whole while nobody writes.
fn reach(engine: &Engine, why: Why) -> Reach {
    let last = engine.log.lock().published_at;
    if why == Why::Tiny || engine.env.clock.now() >= last + QUIET {
        return Reach::Fair;
    }
    reached(Branch::CompactedBare);
    Reach::Bare
}

/// How urgent it is, from 0 to 1: garbage, or tiny segments, of which four times as many as may stay are far too many.
fn strain(engine: &Engine) -> f64 {
    let (policy, passed_over) = (policy(engine), engine.compaction.passed_over());
    let pressure = engine.accounts.with(|u| pressure(u, &passed_over, &policy)).unwrap_or_default();
    let tiny = (pressure.tiny as f64 / policy.tiny_segments as f64 - 1.0) / 3.0;
    pressure.strain(&policy).max(tiny.min(1.0))
}

/// Starts a checkpoint if that frees something and the volume is quiet; answers when to look again.
fn maybe_save(engine: &Arc<Engine>) -> Option<Duration> {
    let unlisted = engine.accounts.with(|u| engine.deletions.unlisted(u)).unwrap_or(false);
    let (unsaved, segments, last, naming) = {
        let log = engine.log.lock();
        let unsaved = log.published_op > log.checkpoint.last_op;
        // What a segment on its way lists is not known to be under way yet.
        let naming = log.name_checkpoint || log.published_seq + 1 != log.next_seq;
        (unsaved, log.since_checkpoint(engine.epoch, engine.replayed), log.published_at, naming)
    };
    let trimmed = engine.compaction.trimmed_blocks().saturating_mul(BLOCK as u64) >= QUIET_TRIMMED;
    let hides = unsaved && publish::hides_garbage(engine, 0);
    let frees = (unsaved && trimmed) || hides || engine.compaction.waiting() > 0 || unlisted;
    let worthwhile = frees || (unsaved && segments >= QUIET_SEGMENTS);
    let now = engine.env.clock.now();
    let since = {
        let mut since = engine.upkeep.frees_since.lock();
        *since = if frees { since.or(Some(now)) } else { None };
        *since
    };
    if !worthwhile || naming || engine.checkpointing.load(Ordering::Acquire) {
        return None;
    }
    let due = since.map_or(last + QUIET, |since| (last + QUIET).min(since + OVERDUE));
    if now < due {
        return Some(due - now);
    }
    let blocked = engine.no_checkpoint_before.lock().saturating_sub(engine.env.clock.now());
    if !blocked.is_zero() {
        return Some(blocked);
    }
    *engine.upkeep.frees_since.lock() = None;
    save(engine);
    None
}

/// Starts a checkpoint, if none is under way.
fn save(engine: &Arc<Engine>) {
    if engine.check_open().is_ok()
        && checkpoint::may_begin(engine)
        && !engine.checkpointing.swap(true, Ordering::AcqRel)
    {
        reached(Branch::CheckpointToFree);
        let begun = publish::begin(engine);
        drop(checkpoint::spawn(engine, begun));
    }
}
