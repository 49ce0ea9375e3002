//! Deleting segments that nothing refers to.
//!
//! What a checkpoint leaves dead is listed by the log segment that names the checkpoint, and deleted once that segment is
//! durable in order: from then on every recovery starts there or later (ARCHITECTURE.md, "Space"). A deletion that comes late, of
//! a writer that was fenced long ago, deletes nothing that anybody needs. Until the store has confirmed it, a dead segment
//! stays in the accounts, and so a later checkpoint lists it again, whoever writes that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::select;
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::engine::Engine;
use crate::map::Usage;
use crate::probe::{Branch, reached};
use crate::segment::{SegmentId, SegmentKind};
use crate::store::{Cause, Patience};
use crate::sync::Mutex;

/// Segments that one log segment lists: the index stays within what recovery fetches at first.
pub(super) const LISTED: usize = 2000;
/// Keys that are handed to the store at once.
const BATCH: usize = 1000;
/// Segments of our own log stay this long after they were listed. Somebody who takes the volume over finds the log's end by a
/// LIST and seals it there a moment later: meanwhile the log may go on, but what it went on with must still be there.
const GRACE: Duration = Duration::from_secs(5);
/// How long one batch is tried.
const PATIENCE: Patience = Patience::For(Duration::from_secs(120));
/// What the store would not delete is tried again after this long, then after twice as long, and so on.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// So often; after that it is left to a checkpoint that comes for other reasons.
const TRIES: u32 = 6;

/// What is to be deleted, and by whom.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    state: Mutex<State>,
    more: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// What was listed.
    waiting: BTreeMap<SegmentId, Due>,
    /// What the store would not delete, however often it was asked.
    refused: BTreeSet<SegmentId>,
    /// A task is at it.
    running: bool,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    /// It may go from then on.
    at: Duration,
    /// How often the store has not deleted it.
    tries: u32,
}

impl Deletions {
    /// The segments that the accounts of a checkpoint leave to be deleted and that are not under way.
    pub(super) fn of(&self, usage: &Usage) -> VecDeque<SegmentId> {
        let state = self.state.lock();
        let dead = || usage.segments.iter().filter(|(_, s)| s.is_dead()).map(|(id, _)| *id);
        let new = dead().filter(|id| !state.waiting.contains_key(id) && !state.refused.contains(id));
        new.chain(dead().filter(|id| state.refused.contains(id)).take(LISTED)).collect()
    }

    /// Whether something is dead that was neither listed nor refused.
    pub(super) fn unlisted(&self, usage: &Usage) -> bool {
        let state = self.state.lock();
        let known = |id: &SegmentId| state.waiting.contains_key(id) || state.refused.contains(id);
        usage.segments.iter().any(|(id, s)| s.is_dead() && !known(id))
    }

    /// Bytes of dead segments that the store would not delete.
    pub(super) fn refused_bytes(&self, usage: &Usage) -> u64 {
        let state = self.state.lock();
        let bytes = |id: &SegmentId| usage.segments.get(id).filter(|s| s.is_dead()).map(|s| u64::from(s.bytes));
        // Once refused is enough to tell: it may take half an hour until nobody tries any more.
        let tried = state.waiting.iter().filter(|(_, due)| due.tries > 0).map(|(id, _)| id);
        state.refused.iter().chain(tried).filter_map(bytes).sum()
    }

    /// How many of the listed segments may go by `now` and are not gone.
    pub(super) fn under_way(&self, now: Duration) -> u64 {
        self.state.lock().waiting.values().filter(|due| due.at <= now).count() as u64
    }

    /// Those of the listed segments that may go by `now`, at most a batch; else how long until the next may.
    fn due(&self, now: Duration) -> Result<Vec<SegmentId>, Option<Duration>> {
        let mut state = self.state.lock();
        let due: Vec<SegmentId> =
            state.waiting.iter().filter(|(_, due)| due.at <= now).map(|(id, _)| *id).take(BATCH).collect();
        if !due.is_empty() {
            return Ok(due);
        }
        let next = state.waiting.values().map(|due| due.at).min().map(|at| at - now);
        state.running = next.is_some();
        Err(next)
    }

    /// The store has answered, at `now`: what is not gone is tried again, less and less often.
    fn done(&self, all: &[SegmentId], gone: &BTreeSet<SegmentId>, now: Duration) {
        let mut state = self.state.lock();
        for id in all {
            let tries = state.waiting.remove(id).map_or(0, |due| due.tries) + 1;
            if gone.contains(id) {
                state.refused.remove(id);
            } else if tries < TRIES {
                state.waiting.insert(*id, Due { at: now + RETRY_AFTER * (1 << (tries - 1)), tries });
            } else {
                state.refused.insert(*id);
            }
        }
    }
}

/// Has deleted what a log segment that is durable in order has listed.
pub(super) fn delete(engine: &Arc<Engine>, listed: Vec<SegmentId>) {
    let now = engine.env.clock.now();
    let start = {
        let mut state = engine.deletions.state.lock();
        for id in listed {
            let ours = id.kind() == SegmentKind::Log && id.epoch() == engine.epoch;
            let at = if ours { now + GRACE } else { now };
            state.waiting.entry(id).or_insert(Due { at, tries: 0 });
        }
        !state.waiting.is_empty() && !std::mem::replace(&mut state.running, true)
    };
    engine.deletions.more.notify_one();
    if start {
        let task = run(Arc::downgrade(engine), engine.env.clone());
        engine.env.spawner.spawn(Box::pin(task));
    }
}

/// Deletes until nothing waits. While it waits itself it does not hold the engine.
async fn run(engine: Weak<Engine>, env: crate::env::Env) {
    let Some(more) = engine.upgrade().map(|engine| engine.deletions.more.clone()) else { return };
    loop {
        let listed = more.notified();
        let rest = {
            let Some(engine) = engine.upgrade() else { return };
            if engine.check_open().is_err() {
                return;
            }
            match engine.deletions.due(env.clock.now()) {
                Ok(due) => {
                    delete_now(&engine, due).await;
                    continue;
                }
                Err(rest) => rest,
            }
        };
        match rest {
            Some(rest) => drop(select(pin!(listed), env.clock.sleep(rest)).await),
            None => return,
        }
    }
}

async fn delete_now(engine: &Arc<Engine>, due: Vec<SegmentId>) {
    if engine.accounts.unread().is_some() {
        // They were found wrong: nothing is deleted until they are counted anew, and then it is listed anew.
        let all = due.iter().copied().collect();
        engine.deletions.done(&due, &all, engine.env.clock.now());
        return;
    }
    let alive =
        |id: &SegmentId| engine.accounts.with(|u| u.segments.get(id).is_some_and(|s| !s.is_dead())).unwrap_or_default();
    let (alive, dead): (Vec<_>, Vec<_>) = due.iter().copied().partition(alive);
    if !alive.is_empty() {
        debug_assert!(false, "segments in use were listed as dead: {alive:?}");
        error!(volume = engine.info.name, ?alive, "segments in use were listed as dead; they stay");
    }
    let gone: BTreeSet<SegmentId> = delete_keys(engine, &dead).await.into_iter().collect();
    // What is in use is off the list; it will be listed again if it is dead one day.
    let settled = alive.iter().copied().chain(gone.iter().copied()).collect();
    if !gone.is_empty() {
        reached(Branch::SegmentsDeleted);
        let size = |u: &Usage| gone.iter().filter_map(|id| Some(u64::from(u.segments.get(id)?.bytes))).sum::<u64>();
        let bytes = engine.accounts.with(size).unwrap_or(0);
        info!(volume = engine.info.name, objects = gone.len(), bytes, "deleted segments that nothing refers to");
        engine.compaction.count_deleted(gone.len() as u64, bytes);
        engine.accounts.deleted(&gone);
    }
    // Only now: what is neither listed nor known to be gone asks for a checkpoint.
    engine.deletions.done(&due, &settled, engine.env.clock.now());
    engine.upkeep.wake();
}

/// Deletes objects; answers those that the store says are gone.
pub(super) async fn delete_keys(engine: &Engine, ids: &[SegmentId]) -> Vec<SegmentId> {
    let keys: Vec<String> = ids.iter().map(|id| id.key()).collect();
    for key in &keys {
        debug!(%key, volume = engine.info.name, "deleting");
    }
    let outcomes = engine.store.delete_many(&keys, Cause::Delete, PATIENCE).await;
    let mut done = Vec::with_capacity(ids.len());
    let mut failed = None;
    for (id, outcome) in ids.iter().zip(outcomes) {
        match outcome {
            Ok(()) => done.push(*id),
            Err(e) => failed = Some((id, e)),
        }
    }
    if let Some((id, error)) = failed {
        let left = ids.len() - done.len();
        warn!(%error, left, "cannot delete segments that nothing refers to; trying again later");
        engine.note_error(format!("DELETE {}: {error}", id.key()));
    }
    done
}
