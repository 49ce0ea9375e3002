//! A second opinion: the volume's blocks as a plain table, made of every index in the bucket.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::segment::{IndexRead, LogObject, RecordRef, SegmentIndex, log_object_kind, read_index};

/// Block to the record that holds it, as the log says.
pub(super) struct Table {
    pub blocks: BTreeMap<u64, RecordRef>,
}

impl Table {
    pub(super) async fn of(w: &World) -> Self {
        let mut blocks = BTreeMap::new();
        for (_, index) in logs(w).await {
            for t in &index.trims {
                blocks.retain(|b, _| !(t.first_lba..t.first_lba + t.blocks).contains(b));
            }
            for d in &index.records {
                for bit in (0..8).filter(|bit| d.mask >> bit & 1 == 1) {
                    blocks.insert(d.extent * 8 + bit, d.record);
                }
            }
        }
        Self { blocks }
    }

    /// The bytes of the volume that resolve to records for which `which` says so.
    pub(super) fn ranges(&self, which: impl Fn(&RecordRef) -> bool) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (block, _) in self.blocks.iter().filter(|(_, r)| which(r)) {
            match ranges.last_mut() {
                Some((offset, length)) if *offset + *length == block * 4096 => *length += 4096,
                _ => ranges.push((block * 4096, 4096)),
            }
        }
        ranges
    }

    /// Live records, each once, with the number of blocks that resolve to it.
    pub(super) fn live(&self) -> HashMap<RecordRef, u64> {
        let mut live = HashMap::new();
        for record in self.blocks.values() {
            *live.entry(*record).or_insert(0) += 1;
        }
        live
    }

    /// Some live record of a segment.
    pub(super) fn record_in(&self, key: &str) -> RecordRef {
        *self.blocks.values().find(|r| r.segment.key() == key).unwrap()
    }
}

/// The indexes of the log in order, all epochs.
pub(super) async fn logs(w: &World) -> Vec<(SegmentId, SegmentIndex)> {
    let mut all = Vec::new();
    for epoch in 1..10 {
        for seq in 1..1000 {
            let id = SegmentId::log(w.volume.number, epoch, seq);
            if !w.keys(&id.key()).await.is_empty() {
                all.extend(index(w, id).await.map(|i| (id, i)));
            }
        }
        if w.keys(&w.log(epoch + 1, 0)).await.is_empty() {
            break;
        }
    }
    all
}

/// The index of a segment; `None` for a seal.
pub(super) async fn index(w: &World, id: SegmentId) -> Option<SegmentIndex> {
    let body = w.object(&id.key()).await;
    if log_object_kind(&body) == LogObject::Seal {
        return None;
    }
    match read_index(w.pool.keys(), id, body.len() as u64, &body).unwrap() {
        IndexRead::Index(index) => Some(index),
        IndexRead::NeedTail(_) => unreachable!("the whole object is there"),
    }
}
