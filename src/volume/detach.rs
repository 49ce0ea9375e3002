//! Giving a volume back: everything durable, a checkpoint, the log sealed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use esker_block::{BlockError, BlockResult};
use tracing::{info, warn};

use super::engine::Engine;
use super::{checkpoint, publish};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{Seal, SegmentId};
use crate::store::{Cause, Patience, Put};

/// How often a wait looks again by itself.
const TICK: Duration = Duration::from_millis(200);

/// Flushes, checkpoints, seals, and removes the empty journal. On an error the volume is as after a crash: the next
/// attach recovers it.
pub(super) async fn detach(engine: &Arc<Engine>) -> BlockResult<()> {
    engine.closing.store(true, Ordering::Release);
    // Whoever saw the volume open holds a gate until its operation is in the ring: after this there are no more.
    drop(engine.gates.exclusive(0, u64::MAX));
    engine.space.wake();
    engine.upkeep.wake();
    let last = engine.ring.next_op() - 1;
    if planted(Mutant::DetachWithoutFlush) {
        return seal(engine).await;
    }
    engine.durable(last).await?;
    // The flag is kept: no other checkpoint begins any more.
    let alone = |e: &Engine| e.log.lock().published_op >= last && !e.checkpointing.swap(true, Ordering::AcqRel);
    wait_until(engine, alone).await?;
    if unsaved(engine) {
        let begun = publish::begin(engine);
        match checkpoint::write(engine, begun).await {
            Ok(()) => wait_until(engine, named).await?,
            // Without it the next attach replays more: slower, not wrong.
            Err(e) => {
                reached(Branch::DetachWithoutCheckpoint);
                warn!(volume = engine.info.name, error = %e, "detaching without a checkpoint");
            }
        }
    }
    wait_until(engine, close).await?;
    seal(engine).await
}

/// Closes the log, if all of it is published: nothing is cut from then on.
fn close(engine: &Engine) -> bool {
    let mut log = engine.log.lock();
    let published = log.in_flight == 0 && log.to_publish.is_empty() && log.published_seq + 1 == log.next_seq;
    if !published || log.name_checkpoint {
        return false;
    }
    assert!(log.published_op == engine.ring.next_op() - 1, "nothing acknowledged is left in the journal");
    log.closed = true;
    // Merges that were too late: what they wrote is refuse, and whoever attaches next finds it.
    log.forget_moves();
    true
}

/// Whether the log has something that no durable checkpoint contains.
fn unsaved(engine: &Engine) -> bool {
    let log = engine.log.lock();
    log.checkpoint.last_op != log.published_op || (engine.replayed > 0 && log.checkpoint.covers_epoch != engine.epoch)
}

/// Whether the newest checkpoint is named by a log segment that is durable in order.
pub(super) fn named(engine: &Engine) -> bool {
    let log = engine.log.lock();
    log.checkpoint_named_by.is_some_and(|seq| log.durable_seq > seq)
}

async fn seal(engine: &Arc<Engine>) -> BlockResult<()> {
    let (seq, salt) = {
        let mut log = engine.log.lock();
        assert!(log.closed || planted(Mutant::DetachWithoutFlush), "a log is closed before it is sealed");
        log.closed = true;
        (log.next_seq, log.last_salt)
    };
    engine.cutter_wake.notify_one();
    engine.publisher_wake.notify_one();
    engine.upkeep.wake();
    let id = SegmentId::log(engine.volume, engine.epoch, seq);
    let seal = Seal {
        volume: engine.volume,
        epoch: engine.epoch,
        seq,
        writer: engine.writer,
        clean: true,
        predecessor_salt: salt,
        wall_ms: engine.env.clock.wall_ms(),
    };
    let body = seal.seal(&engine.keys, engine.env.random16());
    match engine.store.put_new(&id.key(), body, Cause::Recovery, Patience::Forever).await {
        Ok(Put::Created | Put::Ours) => {}
        Ok(Put::Taken(_)) => {
            engine.fail(BlockError::Fenced);
            return Err(BlockError::Fenced);
        }
        Err(e) => return Err(BlockError::Store(e.to_string())),
    }
    engine.remember(seq - 1);
    if let Err(e) = engine.ring.remove() {
        warn!(path = %engine.ring.path().display(), error = %e, "cannot remove the empty journal");
    }
    reached(Branch::DetachedClean);
    info!(volume = engine.info.name, epoch = engine.epoch, "detached");
    Ok(())
}

/// Waits for a condition that publications change.
pub(super) async fn wait_until(engine: &Arc<Engine>, condition: impl Fn(&Engine) -> bool) -> BlockResult<()> {
    loop {
        let published = engine.published.notified();
        if let Some(why) = engine.failure() {
            return Err(why);
        }
        if condition(engine) {
            return Ok(());
        }
        futures::future::select(std::pin::pin!(published), engine.env.clock.sleep(TICK)).await;
    }
}
