//! Getting records and map nodes from the store: each once, neighbours together, all in parallel.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use esker_block::{BlockError, BlockResult};
use futures::future::{join_all, try_join_all};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::engine::Engine;
use super::merge::make_way;
use super::single_flight::{Lead, SingleFlight};
use crate::cache::{RecordKey, key_of};
use crate::map::{Lookup, NodeLoad};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::{RecordRef, open_extent, open_node};
use crate::store::{Cause, StoreError};

/// Records this close to each other in one object are fetched by one GET.
const GAP: u32 = 16 << 10;
/// The most that one GET asks for; longer runs become several, in parallel.
const RUN: u32 = 1 << 20;
/// GETs of one bulk read side by side.
const SIDE_BY_SIDE: usize = 8;
/// So many blocks of a bulk read are decrypted before other tasks get the thread: tenths of a millisecond.
const BLOCKS_IN_A_ROW: u32 = 16;

/// A record that a read needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub extent: u64,
    pub original: u8,
    pub record: RecordRef,
}

/// Why a fetch brought nothing.
#[derive(Debug, Clone)]
pub(super) enum Miss {
    /// The object is gone, and so is what referred to it: whoever wants the block looks it up again.
    Moved,
    /// It failed.
    Failed(BlockError),
}

/// Plaintexts that one request holds on to, whatever the cache does.
pub(super) type Pins = HashMap<RecordKey, Bytes>;

/// What is being fetched.
pub(super) struct Fetches {
    pieces: SingleFlight<RecordKey, Result<Bytes, Miss>>,
    nodes: SingleFlight<NodeLoad, BlockResult<()>>,
}

impl Fetches {
    pub(super) fn new() -> Self {
        Self { pieces: SingleFlight::new(), nodes: SingleFlight::new() }
    }
}

type PieceLead = (Want, Lead<RecordKey, Result<Bytes, Miss>>);

impl Engine {
    /// Fetches `wants` into the cache and into `pins`; those that have moved meanwhile are left out.
    pub(super) async fn fetch_pieces(self: &Arc<Self>, wants: &[Want], pins: &mut Pins) -> BlockResult<()> {
        let mut waits = Vec::with_capacity(wants.len());
        let mut ours: Vec<PieceLead> = Vec::new();
        for want in wants {
            let key = key_of(&want.record);
            let (waiting, lead) = self.fetches.pieces.join(key);
            waits.push(async move { (key, waiting.await) });
            ours.extend(lead.map(|lead| (*want, lead)));
        }
        for run in runs(ours) {
            self.env.spawner.spawn(self.clone().fetch_run(run).boxed());
        }
        for (key, answer) in join_all(waits).await {
            match answer.unwrap_or(Err(Miss::Failed(BlockError::ShuttingDown))) {
                Ok(plain) => drop(pins.insert(key, plain)),
                Err(Miss::Moved) => reached(Branch::ReadFoundMoved),
                Err(Miss::Failed(e)) => return Err(e),
            }
        }
        Ok(())
    }

    /// One GET, several records.
    async fn fetch_run(self: Arc<Self>, run: Vec<PieceLead>) {
        let key = run[0].0.record.segment.key();
        let from = run[0].0.record.offset;
        let end = run.iter().map(|(w, _)| w.record.offset + w.record.len).max().unwrap_or(from);
        let range = u64::from(from)..u64::from(end);
        let wants: Vec<Want> = run.iter().map(|(w, _)| *w).collect();
        let mut got = match self.try_get_range(&key, range.clone(), Cause::Read).await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => return self.finish_missing(&key, run).await,
            Err(e) => Err(e),
        };
        let mut plain: Vec<_> = wants.iter().map(|w| self.open_piece(&got, w, from)).collect();
        if got.is_ok() && plain.iter().any(Result::is_err) {
            // Damage on the way is not damage in the bucket: look once more before saying so.
            reached(Branch::RecordFetchedTwice);
            got = self.get_object_range(&key, range, Cause::Read).await;
            for (want, plain) in wants.iter().zip(&mut plain).filter(|(_, p)| p.is_err()) {
                *plain = self.open_piece(&got, want, from).map_err(|e| match e {
                    BlockError::Corrupt { why, .. } => self.corrupt(&key, why),
                    other => other,
                });
            }
        }
        for ((want, lead), plain) in run.into_iter().zip(plain) {
            if let Ok(plain) = &plain {
                self.cache.insert(key_of(&want.record), plain.clone());
            }
            self.fetches.pieces.finish(lead, plain.map_err(Miss::Failed));
        }
    }

    /// The object of a run is not there. Compaction may have moved what was in it, since the reader looked.
    async fn finish_missing(&self, key: &str, run: Vec<PieceLead>) {
        let wanted = |w: &Want| match self.map.lookup(w.extent, w.original) {
            _ if planted(Mutant::ReadGivesUpOnMoved) => true,
            Lookup::Pieces(pieces) => pieces.iter().any(|p| p.record == w.record),
            // Nobody knows without the leaf: whoever looks again loads it.
            Lookup::Load(_) => false,
        };
        let (still, moved): (Vec<_>, Vec<_>) = run.into_iter().partition(|(w, _)| wanted(w));
        moved.into_iter().for_each(|(_, lead)| self.fetches.pieces.finish(lead, Err(Miss::Moved)));
        if !still.is_empty() {
            let why = self.explain_missing(key).await;
            let tell = |lead| self.fetches.pieces.finish(lead, Err(Miss::Failed(why.clone())));
            still.into_iter().for_each(|(_, lead)| tell(lead));
        }
    }

    /// Reads records past the cache, near neighbours with one GET. Left out are those that are damaged (which is logged),
    /// and those that are gone.
    pub(super) async fn read_records(&self, wants: &[Want], cause: Cause) -> BlockResult<Pins> {
        let all: Vec<Want> = wants.to_vec();
        let mut found = Pins::new();
        let (cached, rest): (Vec<_>, Vec<_>) =
            all.into_iter().map(|w| (self.cache.get(&key_of(&w.record)), w)).partition(|(plain, _)| plain.is_some());
        found.extend(cached.into_iter().filter_map(|(plain, w)| Some((key_of(&w.record), plain?))));
        let runs = runs(rest.into_iter().map(|(_, w)| (w, ())).collect());
        let mut read = stream::iter(runs.into_iter().map(|run| async move {
            let (key, from) = (run[0].0.record.segment.key(), run[0].0.record.offset);
            let end = run.iter().map(|(w, ())| w.record.offset + w.record.len).max().unwrap_or(from);
            let got = match self.try_get_range(&key, u64::from(from)..u64::from(end), cause).await {
                // Too short: logged, and left out like what is damaged.
                Err(BlockError::Corrupt { .. }) => None,
                got => got?,
            };
            Ok::<_, BlockError>((key, from, run, got))
        }))
        .buffered(SIDE_BY_SIDE);
        while let Some((key, from, run, got)) = read.try_next().await? {
            let Some(bytes) = got else { continue };
            let end = from + bytes.len() as u32;
            let run: Vec<Want> = run.into_iter().map(|(want, ())| want).collect();
            let bad = self.open_run(&key, from, bytes, &run, &mut found, false).await?;
            if bad.is_empty() {
                continue;
            }
            // It may have been damaged on the way here only.
            match self.try_get_range(&key, u64::from(from)..u64::from(end), cause).await {
                Ok(Some(bytes)) => drop(self.open_run(&key, from, bytes, &bad, &mut found, true).await?),
                Ok(None) | Err(BlockError::Corrupt { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// Opens records out of the bytes of a run that starts at `from`. Answers those that are damaged, logged where this was the
    /// last look.
    async fn open_run(
        &self,
        key: &str,
        from: u32,
        bytes: Bytes,
        wants: &[Want],
        found: &mut Pins,
        last: bool,
    ) -> BlockResult<Vec<Want>> {
        let (got, mut blocks, mut bad) = (Ok(bytes), 0, Vec::new());
        for want in wants {
            blocks += want.original.count_ones();
            if blocks >= BLOCKS_IN_A_ROW {
                blocks = 0;
                make_way().await;
            }
            match self.open_piece(&got, want, from) {
                Ok(plain) => drop(found.insert(key_of(&want.record), plain)),
                Err(BlockError::Corrupt { why, .. }) => {
                    bad.push(*want);
                    if last {
                        drop(self.corrupt(key, why));
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(bad)
    }

    /// Opens one record out of the bytes of a run that starts at `from`.
    fn open_piece(&self, got: &BlockResult<Bytes>, want: &Want, from: u32) -> BlockResult<Bytes> {
        let bytes = got.as_ref().map_err(Clone::clone)?;
        let at = (want.record.offset - from) as usize;
        let record = &bytes[at..at + want.record.len as usize];
        if planted(Mutant::DamageReadsAsZero) {
            let zeroes = vec![0; want.original.count_ones() as usize * crate::segment::BLOCK];
            let opened = open_extent(&self.keys, &want.record, want.extent, want.original, record);
            return Ok(opened.unwrap_or(zeroes.into()));
        }
        open_extent(&self.keys, &want.record, want.extent, want.original, record)
            .map_err(|e| BlockError::Corrupt { key: want.record.segment.key(), why: e.to_string() })
    }

    /// Brings map nodes into the map.
    pub(super) async fn load_nodes(self: &Arc<Self>, loads: &[NodeLoad]) -> BlockResult<()> {
        let waits: Vec<_> = loads
            .iter()
            .map(|load| {
                let (waiting, lead) = self.fetches.nodes.join(*load);
                if let Some(lead) = lead {
                    self.env.spawner.spawn(self.clone().load_node(*load, lead).boxed());
                }
                async move { waiting.await.unwrap_or(Err(BlockError::ShuttingDown)) }
            })
            .collect();
        try_join_all(waits).await.map(|_| ())
    }

    async fn load_node(self: Arc<Self>, load: NodeLoad, lead: Lead<NodeLoad, BlockResult<()>>) {
        reached(Branch::NodeLoaded);
        let key = load.record.segment.key();
        let answer = match self.try_fetch_node(&load, Cause::Map).await {
            Ok(Some(plain)) => self.map.loaded(&load, &plain).map_err(|e| self.corrupt(&key, e.to_string())),
            // A checkpoint has replaced the node meanwhile, and it was deleted: who wants it looks again.
            Ok(None) if self.map.holds(&load) != Some(true) => {
                reached(Branch::ReadFoundMoved);
                Ok(())
            }
            Ok(None) => Err(self.explain_missing(&key).await),
            Err(e) => Err(e),
        };
        self.fetches.nodes.finish(lead, answer);
    }

    /// The plaintext of a map node that must be there.
    pub(super) async fn fetch_node(&self, load: &NodeLoad, cause: Cause) -> BlockResult<Vec<u8>> {
        match self.try_fetch_node(load, cause).await? {
            Some(plain) => Ok(plain),
            None => Err(self.explain_missing(&load.record.segment.key()).await),
        }
    }

    /// The plaintext of a map node; `None` if its object does not exist.
    async fn try_fetch_node(&self, load: &NodeLoad, cause: Cause) -> BlockResult<Option<Vec<u8>>> {
        let record = &load.record;
        let key = record.segment.key();
        let range = u64::from(record.offset)..u64::from(record.offset) + u64::from(record.len);
        let mut last = String::new();
        for _ in 0..2 {
            let Some(bytes) = self.try_get_range(&key, range.clone(), cause).await? else { return Ok(None) };
            match open_node(&self.keys, record, load.level, load.index, &bytes) {
                Ok(plain) => return Ok(Some(plain)),
                Err(e) => last = e.to_string(),
            }
        }
        Err(self.corrupt(&key, last))
    }

    /// A part of an object that must be there.
    pub(super) async fn get_object_range(
        &self,
        key: &str,
        range: std::ops::Range<u64>,
        cause: Cause,
    ) -> BlockResult<Bytes> {
        match self.try_get_range(key, range, cause).await? {
            Some(bytes) => Ok(bytes),
            None => Err(self.explain_missing(key).await),
        }
    }

    /// A part of an object; `None` if there is no such object.
    pub(super) async fn try_get_range(
        &self,
        key: &str,
        range: std::ops::Range<u64>,
        cause: Cause,
    ) -> BlockResult<Option<Bytes>> {
        match self.store.get_range(key, range, cause, self.patience()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(e @ StoreError::Short { .. }) => Err(self.corrupt(key, e.to_string())),
            Err(e) => {
                self.note_error(format!("GET {key}: {e}"));
                Err(BlockError::Store(e.to_string()))
            }
        }
    }
}

/// Groups records by object and place: near neighbours share a GET.
fn runs<T>(mut ours: Vec<(Want, T)>) -> Vec<Vec<(Want, T)>> {
    ours.sort_by_key(|(w, _)| (w.record.segment, w.record.offset));
    let mut out: Vec<Vec<(Want, T)>> = Vec::new();
    for (want, lead) in ours {
        let r = &want.record;
        let joins = out.last().is_some_and(|run| {
            let (first, last) = (&run[0].0.record, &run[run.len() - 1].0.record);
            first.segment == r.segment
                && r.offset <= last.offset + last.len + GAP
                && r.offset + r.len - first.offset <= RUN
        });
        match out.last_mut() {
            Some(run) if joins => run.push((want, lead)),
            _ => out.push(vec![(want, lead)]),
        }
    }
    out
}
