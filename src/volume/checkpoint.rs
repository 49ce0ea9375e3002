//! Writing the map: changed nodes go to data segments, then the accounts, and once those are durable the log names the new
//! root.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use esker_block::{BlockError, BlockResult};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::try_join_all;
use tracing::{debug, warn};

use super::accounts::Added;
use super::data_writer::{DataWriter, OnTheWay};
use super::engine::Engine;
use super::merge::make_way;
use super::{census, deleting};
use crate::map::{
    Checkpoint, MapError, NodeToWrite, Step, USAGE_DIRECTORY_LEVEL, USAGE_PAGE_LEVEL, Usage, UsageChange,
    encode_usage_directory, encode_usage_pages,
};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{CheckpointRef, Compression, Introduced, RecordRef};
use crate::store::Cause;

/// Nodes whose bases are fetched side by side.
const BATCH: usize = 64;
/// How long a checkpoint that failed keeps the next one away.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// A checkpoint that has begun.
pub(super) struct Begun {
    /// What it covers.
    pub point: CheckpointRef,
    /// The frozen changes.
    pub job: Checkpoint,
    /// Segments that came into use before it began.
    pub fresh: Vec<Introduced>,
    /// Its number, as [`super::compaction`] counts.
    pub number: u64,
    /// Blocks that were trimmed since the last one began.
    pub trimmed: u64,
}

/// Runs one checkpoint in a task of its own, whoever waits for it; the flag [`Engine::checkpointing`] is the caller's until then.
/// A failure is logged and tried again later: the log still has everything.
pub(super) fn spawn(engine: &Arc<Engine>, begun: Begun) -> oneshot::Receiver<BlockResult<()>> {
    let (sender, receiver) = oneshot::channel();
    let task = run(engine.clone(), begun).map(|outcome| drop(sender.send(outcome)));
    engine.env.spawner.spawn(task.boxed());
    receiver
}

/// The flag [`Engine::checkpointing`], given back however a checkpoint ends.
struct Turn(Arc<Engine>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.checkpointing.store(false, Ordering::Release);
        self.0.upkeep.wake();
    }
}

async fn run(engine: Arc<Engine>, begun: Begun) -> BlockResult<()> {
    let _turn = Turn(engine.clone());
    let outcome = write(&engine, begun).await;
    if let Err(e) = &outcome
        && engine.failure().is_none()
    {
        reached(Branch::CheckpointFailed);
        warn!(volume = engine.info.name, error = %e, "a checkpoint failed; trying again later");
        engine.note_error(format!("checkpoint: {e}"));
        *engine.no_checkpoint_before.lock() = engine.env.clock.now() + RETRY_AFTER;
    }
    outcome
}

/// Whether the last failure is long enough ago for a checkpoint that nobody asked for.
pub(super) fn may_begin(engine: &Engine) -> bool {
    engine.env.clock.now() >= *engine.no_checkpoint_before.lock()
}

/// Writes what was frozen and has the log name it.
pub(super) async fn write(engine: &Arc<Engine>, begun: Begun) -> BlockResult<()> {
    let Begun { point, job, fresh, number, trimmed } = begun;
    let mut added = Added { fresh, nodes: Vec::new() };
    let outcome = write_all(engine, point, number, job, &mut added).await;
    if outcome.is_err() {
        engine.accounts.give_back(added);
        engine.compaction.trimmed(trimmed);
    }
    outcome
}

async fn write_all(
    engine: &Arc<Engine>,
    mut point: CheckpointRef,
    number: u64,
    mut job: Checkpoint,
    added: &mut Added,
) -> BlockResult<()> {
    let accounted = census::load(engine).await?;
    let born = point.last_op;
    let mut out = DataWriter::new(engine.clone(), Compression::Zstd, Cause::Checkpoint, born);
    let nodes = write_nodes(engine, &mut job, &mut out).await?;
    point.root = job.root();
    let change = job.change().clone();
    let late = planted(Mutant::CheckpointTooEarly);
    let (segments, written) = out.ship_all();
    added.nodes = segments;
    let table = if accounted { Some(Table::write(engine, added, &change, born)?) } else { None };
    point.usage = table.as_ref().map(|t| t.at);
    let (usage, stored) = match table {
        Some(table) => (Some((table.usage, table.at, table.segments)), table.written),
        None => (None, OnTheWay::default()),
    };
    if late {
        let late = async move { drop(futures::join!(written.all(), stored.all())) };
        engine.env.spawner.spawn(late.boxed());
    } else {
        let (written, stored) = futures::join!(written.all(), stored.all());
        written.and(stored)?;
    }
    reached(Branch::CheckpointWritten);
    job.commit();
    let mut deletable = VecDeque::new();
    match usage {
        Some((usage, at, tables)) => {
            engine.accounts.committed(added, &change, at, tables);
            engine.compaction.checkpointed(number, &usage);
            if engine.tuning.compact.enabled {
                deletable = engine.deletions.of(&usage);
            }
        }
        None => {
            engine.accounts.committed_without();
            engine.compaction.abandoned(number);
        }
    }
    engine.remember(point.covers_seq);
    debug!(volume = engine.info.name, nodes, covers = point.covers_seq, "checkpoint written");
    if planted(Mutant::DeletesBeforeNamed) {
        deleting::delete(engine, deletable.iter().copied().collect());
    }
    {
        let mut log = engine.log.lock();
        log.checkpoint = point;
        log.name_checkpoint = true;
        log.checkpoint_named_by = None;
        log.deletable = deletable;
    }
    engine.cutter_wake.notify_one();
    Ok(())
}

/// Encodes and places all changed nodes; answers how many.
async fn write_nodes(engine: &Arc<Engine>, job: &mut Checkpoint, out: &mut DataWriter) -> BlockResult<usize> {
    let mut count = 0usize;
    loop {
        let nodes = match job.next(BATCH) {
            Step::Load(loads) => {
                engine.load_nodes(&loads).await?;
                continue;
            }
            Step::Write(nodes) => nodes,
            Step::Done => return Ok(count),
        };
        count += nodes.len();
        let bases = try_join_all(nodes.iter().map(|node| async {
            match &node.base {
                Some(load) => engine.fetch_node(load, Cause::Checkpoint).await.map(Some),
                None => Ok(None),
            }
        }))
        .await?;
        for (node, base) in nodes.into_iter().zip(bases) {
            let plain = node.encode(base.as_deref()).map_err(|e| node_error(engine, &node, e))?;
            let at = plain.map(|plain| out.room_for(plain.len()).add_node(node.level, node.index, &plain));
            job.placed(node, at);
            make_way().await;
        }
        out.keep_few().await?;
    }
}

/// The accounts of a checkpoint, on their way to the store.
struct Table {
    usage: Usage,
    at: RecordRef,
    segments: Vec<Introduced>,
    written: OnTheWay,
}

impl Table {
    /// Writes the accounts into segments of their own, which they do not account for.
    fn write(engine: &Arc<Engine>, added: &Added, change: &UsageChange, born: u64) -> BlockResult<Self> {
        let wrong = |e: MapError| BlockError::Store(format!("accounts of segments: {e}"));
        let usage = engine.accounts.next(added, change).inspect_err(|e| engine.accounts.forget(e)).map_err(wrong)?;
        let gone = || BlockError::Store("the accounts of segments have to be counted anew".into());
        let usage = usage.ok_or_else(gone)?;
        let mut out = DataWriter::new(engine.clone(), Compression::Zstd, Cause::Checkpoint, born);
        let mut add = |level, index, plain: &[u8]| out.room_for(plain.len()).add_node(level, index, plain);
        let pages = encode_usage_pages(&usage);
        let places: Vec<RecordRef> =
            (0..).zip(&pages).map(|(index, page)| add(USAGE_PAGE_LEVEL, index, page)).collect();
        let at = add(USAGE_DIRECTORY_LEVEL, 0, &encode_usage_directory(&places).map_err(wrong)?);
        let (segments, written) = out.ship_all();
        Ok(Self { usage, at, segments, written })
    }
}

fn node_error(engine: &Engine, node: &NodeToWrite, e: MapError) -> BlockError {
    let key = node.base.as_ref().map_or(String::new(), |b| b.record.segment.key());
    engine.corrupt(&key, format!("map node {}/{}: {e}", node.level, node.index))
}
