//! Rewriting what is live of some segments, or what is scattered in some extents: read, merge, write, and have the log move
//! the blocks.
//!
//! Nothing here changes what a block reads as. A block moves only if it still resolves to the record that was copied when
//! the log says so; whatever was written or trimmed meanwhile stays.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use esker_block::{BlockError, BlockResult};
use futures::channel::oneshot;
use futures::future::{BoxFuture, Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tracing::{debug, warn};

use super::data_writer::DataWriter;
use super::engine::Engine;
use super::fetch::Want;
use super::index::{bits, mask_of};
use crate::cache::{RecordKey, key_of};
use crate::compact::{Chosen, Reach, gather};
use crate::map::{Lookup, NodeLoad, Piece, leaf_of};
use crate::probe::{Branch, reached};
use crate::segment::{
    BLOCK, EXTENT_BLOCKS, IndexRead, Introduced, Relocation, SegmentId, SegmentIndex, read_index, tail_range,
};
use crate::store::Cause;

/// Indexes that are read side by side.
const INDEXES: usize = 16;
/// Leaves that are looked at side by side, at most; what one may take in memory (bytes).
const LEAVES: usize = 32;
const LEAF_ROOM: usize = 256 << 10;
/// Rounds of loading map nodes for one leaf's extents.
const ROUNDS: usize = 64;
/// Plaintext that is in memory at once while extents are merged, about (bytes).
const WINDOW: usize = 4 << 20;
/// Relocations of one log segment, about: at most so many blocks' plaintext is in memory until the log has it (4 MiB), and the
/// index stays within what recovery fetches at first.
pub(super) const PART: usize = 1024;

/// Parts of a merge that are copied or on their way into the log at once.
const PARTS: usize = 8;

/// Blocks that moved, on their way into the log.
pub(super) struct Moves {
    /// Where from and where to.
    pub relocations: Vec<Relocation>,
    /// The data segments they moved to.
    pub introduced: Vec<Introduced>,
    /// The merged records' plaintext, for readers who had the old ones in memory.
    pub pieces: Vec<(RecordKey, Bytes, Vec<RecordKey>)>,
    /// Told when the map shows it.
    pub done: Vec<oneshot::Sender<()>>,
}

impl Moves {
    /// Whether one segment's index holds both and stays within what recovery fetches at first.
    pub(super) fn has_room_for(&self, next: &Self) -> bool {
        self.relocations.len() + next.relocations.len() <= 2 * PART
    }

    /// Puts `next` behind these.
    pub(super) fn append(&mut self, next: Self) {
        self.relocations.extend(next.relocations);
        self.introduced.extend(next.introduced);
        self.pieces.extend(next.pieces);
        self.done.extend(next.done);
    }
}

/// What one merge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// Stored bytes read.
    pub read: u64,
    /// Bytes of data segments written.
    pub written: u64,
    /// Blocks that moved, at most: some may have been overwritten meanwhile.
    pub blocks: u64,
    /// Extents that became one record.
    pub extents: u64,
}

impl Merged {
    fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.written += other.written;
        self.blocks += other.blocks;
        self.extents += other.extents;
    }
}

/// Which pieces move.
pub(super) enum Which<'a> {
    /// Those in these segments, and others of the same extents.
    Of(&'a HashSet<SegmentId>, Reach),
    /// All of an extent that is in several pieces, and single ones too if they lie apart from their neighbours.
    Scattered,
}

impl Which<'_> {
    fn pick(&self, pieces: &[Piece]) -> Vec<Piece> {
        match self {
            Which::Of(segments, reach) => gather(pieces, |p| segments.contains(&p.record.segment), *reach),
            Which::Scattered => gather(pieces, |_| true, Reach::Whole),
        }
    }
}

/// Empties segments: their live pieces are written anew, their live map nodes are marked for the next checkpoint.
pub(super) async fn segments(engine: &Arc<Engine>, chosen: &Chosen, reach: Reach) -> BlockResult<Merged> {
    let victims = &chosen.segments;
    let looks: Vec<_> = victims.iter().map(|id| index_of(engine, *id)).collect();
    let indexes: Vec<Option<SegmentIndex>> = stream::iter(looks).buffered(INDEXES).try_collect().await?;
    let indexes = || indexes.iter().flatten();
    let extents: BTreeSet<u64> = indexes().flat_map(|index| &index.records).map(|d| d.extent).collect();
    let nodes = indexes().flat_map(|index| &index.nodes);
    let rewritten: Vec<_> =
        nodes.map(|n| rewrite_node(engine, NodeLoad { level: n.level, index: n.index, record: n.record })).collect();
    stream::iter(rewritten).buffer_unordered(leaves_at_once(engine)).try_collect::<()>().await?;
    let victims: HashSet<SegmentId> = victims.iter().copied().collect();
    extents_of(engine, &extents, &Which::Of(&victims, reach), chosen.born).await
}

/// Parts of a merge that are on their way into the log.
type Parts<'a> = FuturesUnordered<BoxFuture<'a, BlockResult<Merged>>>;

/// Merges what lies in pieces in these extents. `born` is the age that the copies have.
pub(super) async fn extents_of(
    engine: &Arc<Engine>,
    extents: &BTreeSet<u64>,
    which: &Which<'_>,
    born: u64,
) -> BlockResult<Merged> {
    let (mut merged, mut parts) = (Merged::default(), Parts::new());
    let mut outcome = copy(engine, extents, which, born, &mut parts, &mut merged).await;
    // What is on its way ends, whatever became of the rest.
    while let Some(part) = parts.next().await {
        match part {
            Ok(part) => merged.add(&part),
            Err(e) => outcome = outcome.and(Err(e)),
        }
    }
    outcome.map(|()| merged)
}

/// Copies what lies in pieces, a part after the other. While the next blocks are read `parts` become durable and move; what has
/// moved is added to `merged`.
async fn copy<'a>(
    engine: &'a Arc<Engine>,
    extents: &BTreeSet<u64>,
    which: &Which<'_>,
    born: u64,
    parts: &mut Parts<'a>,
    merged: &mut Merged,
) -> BlockResult<()> {
    let mut job = Job::new(engine, born);
    let looks: Vec<_> = by_leaf(extents).into_iter().map(|of_leaf| resolve(engine, of_leaf)).collect();
    let mut looks = stream::iter(looks).buffered(leaves_at_once(engine));
    loop {
        let found = match select(looks.next(), parts.next()).await {
            Either::Left((found, _)) => found,
            Either::Right((Some(part), _)) => {
                merged.add(&part?);
                continue;
            }
            Either::Right((None, looking)) => looking.await,
        };
        let Some(found) = found else { break };
        engine.check_open()?;
        let found = match found {
            // The leaf is damaged: what it holds stays where it is.
            Err(BlockError::Corrupt { .. }) => continue,
            found => found?,
        };
        for (extent, pieces) in found {
            let pieces = which.pick(&pieces);
            if !pieces.is_empty() {
                job.bytes += pieces.iter().map(|p| p.original.count_ones() as usize * BLOCK).sum::<usize>();
                job.waiting.insert(extent, pieces);
            }
            if job.bytes >= WINDOW {
                job.write(engine).await?;
            }
            if job.moves.relocations.len() >= PART {
                let full = std::mem::replace(&mut job, Job::new(engine, born));
                parts.push(full.finish(engine).boxed());
                if parts.len() >= PARTS
                    && let Some(part) = parts.next().await
                {
                    merged.add(&part?);
                }
            }
        }
    }
    parts.push(job.finish(engine).boxed());
    Ok(())
}

/// Leaves that are looked at side by side: few where the map's cache is small, so that they do not push each other out.
pub(super) fn leaves_at_once(engine: &Engine) -> usize {
    (engine.tuning.leaf_cache_bytes / LEAF_ROOM).clamp(1, LEAVES)
}

/// Extents, those of one leaf together.
fn by_leaf(extents: &BTreeSet<u64>) -> Vec<Vec<u64>> {
    let all: Vec<u64> = extents.iter().copied().collect();
    all.chunk_by(|a, b| leaf_of(*a) == leaf_of(*b)).map(<[u64]>::to_vec).collect()
}

/// Lets other tasks have the thread: sealing a few MiB in a row would hold up requests for milliseconds.
pub(super) async fn make_way() {
    let mut made = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut made, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// One merge under way.
struct Job {
    out: DataWriter,
    moves: Moves,
    merged: Merged,
    /// Extents to be read and written.
    waiting: BTreeMap<u64, Vec<Piece>>,
    bytes: usize,
}

impl Job {
    fn new(engine: &Arc<Engine>, born: u64) -> Self {
        let compression = engine.compaction.compression(engine);
        Self {
            out: DataWriter::new(engine.clone(), compression, Cause::Compaction, born),
            moves: Moves { relocations: Vec::new(), introduced: Vec::new(), pieces: Vec::new(), done: Vec::new() },
            merged: Merged::default(),
            waiting: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Reads what waits, and writes it merged.
    async fn write(&mut self, engine: &Arc<Engine>) -> BlockResult<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let want = |(extent, p): (&u64, &Piece)| Want { extent: *extent, original: p.original, record: p.record };
        let wants: Vec<Want> = waiting.iter().flat_map(|(e, ps)| ps.iter().map(move |p| want((e, p)))).collect();
        self.merged.read += wants.iter().map(|w| u64::from(w.record.len)).sum::<u64>();
        let mut plain = engine.read_records(&wants, Cause::Compaction).await?;
        for (extent, pieces) in waiting {
            // What cannot be read stays where it is; so does what is gone, which nobody refers to any more.
            let pieces: Vec<Piece> = pieces.into_iter().filter(|p| plain.contains_key(&key_of(&p.record))).collect();
            if pieces.is_empty() {
                continue;
            }
            let (mask, merged) = merge(&pieces, |p| plain.get(&key_of(&p.record)));
            self.add(engine, extent, mask, merged, &pieces);
            make_way().await;
            pieces.iter().for_each(|p| drop(plain.remove(&key_of(&p.record))));
        }
        self.out.keep_few().await
    }

    fn add(&mut self, engine: &Engine, extent: u64, mask: u8, plain: Vec<u8>, pieces: &[Piece]) {
        let to = self.out.room_for(plain.len()).add_extent(extent, mask, &plain);
        for p in pieces {
            let relocation = Relocation { extent, mask: p.visible, from: p.record, to, original: mask };
            self.moves.relocations.push(relocation);
        }
        // Only what somebody has in memory stays in memory.
        let sources: Vec<RecordKey> = pieces.iter().map(|p| key_of(&p.record)).collect();
        if sources.iter().any(|key| engine.cache.get(key).is_some()) {
            self.moves.pieces.push((key_of(&to), Bytes::from(plain), sources));
        }
        self.merged.blocks += u64::from(mask.count_ones());
        self.merged.extents += 1;
    }

    /// Waits until the data is durable, and the log has moved the blocks.
    async fn finish(mut self, engine: &Arc<Engine>) -> BlockResult<Merged> {
        self.write(engine).await?;
        let (segments, on_the_way) = self.out.ship_all();
        if segments.is_empty() {
            return Ok(self.merged);
        }
        if let Err(e) = on_the_way.all().await {
            engine.accounts.waste(segments);
            return Err(e);
        }
        reached(Branch::ExtentsMoved);
        self.merged.written = segments.iter().map(|s| u64::from(s.bytes)).sum();
        self.moves.introduced = segments;
        let (sender, shown) = oneshot::channel();
        self.moves.done.push(sender);
        {
            let mut log = engine.log.lock();
            // Looked at under the lock: who closes or fails the volume drops what is there.
            engine.check_open()?;
            log.push_moves(self.moves);
        }
        engine.cutter_wake.notify_one();
        shown.await.map_err(|_| engine.failure().unwrap_or(BlockError::ShuttingDown))?;
        debug!(volume = engine.info.name, ?self.merged, "compacted");
        Ok(self.merged)
    }
}

/// The visible blocks of disjoint pieces as one record: its mask, and its blocks back to back.
fn merge<'a>(pieces: &[Piece], plain: impl Fn(&Piece) -> Option<&'a Bytes>) -> (u8, Vec<u8>) {
    let mask = pieces.iter().fold(0, |m, p| m | p.visible);
    let mut out = Vec::with_capacity(mask.count_ones() as usize * BLOCK);
    for i in 0..EXTENT_BLOCKS as u8 {
        let Some(piece) = pieces.iter().find(|p| p.visible >> i & 1 == 1) else { continue };
        let Some(bytes) = plain(piece) else { continue };
        let before = (piece.original & mask_of(0, i)).count_ones() as usize;
        out.extend_from_slice(&bytes[before * BLOCK..(before + 1) * BLOCK]);
    }
    assert_eq!(out.len(), bits(mask).count() * BLOCK, "each visible block of a piece is in its record");
    (mask, out)
}

/// What extents of one leaf resolve to.
pub(super) async fn resolve(engine: &Arc<Engine>, extents: Vec<u64>) -> BlockResult<Vec<(u64, Vec<Piece>)>> {
    let mut found = Vec::with_capacity(extents.len());
    let mut rest = extents.as_slice();
    for _ in 0..ROUNDS {
        while let Some((extent, later)) = rest.split_first() {
            match engine.map.lookup(*extent, 0xff) {
                Lookup::Pieces(pieces) => found.push((*extent, pieces.to_vec())),
                Lookup::Load(load) => {
                    engine.load_nodes(&[load]).await?;
                    break;
                }
            }
            rest = later;
        }
        if rest.is_empty() {
            return Ok(found);
        }
    }
    Err(BlockError::Store("the map's cache is too small to compact".into()))
}

/// A live node is written anew by the next checkpoint. Where it, or a node above it, cannot be read its segment stays: a
/// checkpoint has to read them, and would fail each time.
async fn rewrite_node(engine: &Arc<Engine>, node: NodeLoad) -> BlockResult<()> {
    for _ in 0..ROUNDS {
        let needed = match engine.map.holds(&node) {
            Some(true) => vec![node],
            Some(false) => return Ok(()),
            None => engine.map.above(&node).into_iter().collect(),
        };
        match engine.load_nodes(&needed).await {
            Ok(()) if needed == [node] => {
                engine.map.rewrite(node.level, node.index);
                return Ok(());
            }
            Ok(()) => {}
            Err(BlockError::Corrupt { .. }) => {
                engine.compaction.leave_alone(node.record.segment);
                return Ok(());
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The index of a segment; `None` where it cannot be read: then it stays as it is.
async fn index_of(engine: &Arc<Engine>, id: SegmentId) -> BlockResult<Option<SegmentIndex>> {
    let Some(size) = engine.accounts.with(|u| u.segments.get(&id).map(|s| u64::from(s.bytes))).flatten() else {
        return Ok(None);
    };
    if size == 0 {
        // It was missing when it was counted.
        engine.compaction.leave_alone(id);
        return Ok(None);
    }
    let key = id.key();
    let deleted = || engine.accounts.with(|u| u.segments.get(&id).is_none_or(|s| s.is_dead())).unwrap_or(true);
    let (mut range, mut looked) = (tail_range(size), false);
    for _ in 0..3 {
        let tail = match engine.try_get_range(&key, range.clone(), Cause::Compaction).await {
            Ok(Some(tail)) => tail,
            Ok(None) if deleted() => return Ok(None),
            Ok(None) => match engine.explain_missing(&key).await {
                BlockError::Corrupt { .. } => break,
                e => return Err(e),
            },
            // It may have been damaged on the way here only.
            Err(BlockError::Corrupt { .. }) if !std::mem::replace(&mut looked, true) => continue,
            Err(BlockError::Corrupt { .. }) => break,
            Err(e) => return Err(e),
        };
        match read_index(&engine.keys, id, size, &tail) {
            Ok(IndexRead::Index(index)) => return Ok(Some(index)),
            Ok(IndexRead::NeedTail(bytes)) => range = size.saturating_sub(bytes)..size,
            Err(_) if !std::mem::replace(&mut looked, true) => {}
            Err(error) => {
                warn!(%key, %error, "cannot compact a segment whose index is damaged");
                break;
            }
        }
    }
    engine.compaction.leave_alone(id);
    Ok(None)
}
