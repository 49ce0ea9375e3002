//! Getting records and map nodes from the store: each once, neighbours together, all in parallel.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use esker_block::{BlockError, BlockResult};
use futures::FutureExt;
use futures::future::{join_all, try_join_all};

use super::engine::Engine;
use super::single_flight::{Lead, SingleFlight};
use crate::cache::{RecordKey, key_of};
use crate::map::NodeLoad;
use crate::segment::{RecordRef, open_extent, open_node};
use crate::store::{Cause, StoreError};

/// Records this close to each other in one object are fetched by one GET.
const GAP: u32 = 16 << 10;
/// The most that one GET asks for; longer runs become several, in parallel.
const RUN: u32 = 1 << 20;

/// A record that a read needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub extent: u64,
    pub original: u8,
    pub record: RecordRef,
}

/// Plaintexts that one request holds on to, whatever the cache does.
pub(super) type Pins = HashMap<RecordKey, Bytes>;

/// What is being fetched.
pub(super) struct Fetches {
    pieces: SingleFlight<RecordKey, BlockResult<Bytes>>,
    nodes: SingleFlight<NodeLoad, BlockResult<()>>,
}

impl Fetches {
    pub(super) fn new() -> Self {
        Self { pieces: SingleFlight::new(), nodes: SingleFlight::new() }
    }
}

type PieceLead = (Want, Lead<RecordKey, BlockResult<Bytes>>);

impl Engine {
    /// Fetches `wants` into the cache and into `pins`.
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
            pins.insert(key, answer.unwrap_or(Err(BlockError::ShuttingDown))?);
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
        let mut got = self.get_object_range(&key, range.clone(), Cause::Read).await;
        let mut plain: Vec<_> = wants.iter().map(|w| self.open_piece(&got, w, from)).collect();
        if got.is_ok() && plain.iter().any(Result::is_err) {
            // Damage on the way is not damage in the bucket: look once more before saying so.
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
            self.fetches.pieces.finish(lead, plain);
        }
    }

    /// Opens one record out of the bytes of a run that starts at `from`.
    fn open_piece(&self, got: &BlockResult<Bytes>, want: &Want, from: u32) -> BlockResult<Bytes> {
        let bytes = got.as_ref().map_err(Clone::clone)?;
        let at = (want.record.offset - from) as usize;
        let record = &bytes[at..at + want.record.len as usize];
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
        let answer = match self.fetch_node(&load, Cause::Map).await {
            Ok(plain) => {
                self.map.loaded(&load, &plain).map_err(|e| self.corrupt(&load.record.segment.key(), e.to_string()))
            }
            Err(e) => Err(e),
        };
        self.fetches.nodes.finish(lead, answer);
    }

    /// The plaintext of a map node.
    pub(super) async fn fetch_node(&self, load: &NodeLoad, cause: Cause) -> BlockResult<Vec<u8>> {
        let record = &load.record;
        let key = record.segment.key();
        let range = u64::from(record.offset)..u64::from(record.offset) + u64::from(record.len);
        let mut last = String::new();
        for _ in 0..2 {
            let bytes = self.get_object_range(&key, range.clone(), cause).await?;
            match open_node(&self.keys, record, load.level, load.index, &bytes) {
                Ok(plain) => return Ok(plain),
                Err(e) => last = e.to_string(),
            }
        }
        Err(self.corrupt(&key, last))
    }

    async fn get_object_range(&self, key: &str, range: std::ops::Range<u64>, cause: Cause) -> BlockResult<Bytes> {
        match self.store.get_range(key, range, cause, self.patience()).await {
            Ok(bytes) => Ok(bytes),
            Err(StoreError::NotFound { .. }) => Err(self.explain_missing(key).await),
            Err(e @ StoreError::Short { .. }) => Err(self.corrupt(key, e.to_string())),
            Err(e) => {
                self.note_error(format!("GET {key}: {e}"));
                Err(BlockError::Store(e.to_string()))
            }
        }
    }
}

/// Groups records by object and place: near neighbours share a GET.
fn runs(mut ours: Vec<PieceLead>) -> Vec<Vec<PieceLead>> {
    ours.sort_by_key(|(w, _)| (w.record.segment, w.record.offset));
    let mut out: Vec<Vec<PieceLead>> = Vec::new();
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
