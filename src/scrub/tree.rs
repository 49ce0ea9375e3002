//! Nodes of maps, and where the records that they name lie.

use std::sync::Arc;

use super::ScrubError;
use super::finding::{Finding, Kind};
use super::runs::{self, Bad};
use super::volume::Pass;
use crate::map::{NodeContent, NodeLoad, node_extents, read_node};
use crate::segment::{BLOCK, EXTENT, RecordRef, open_node};
use crate::store::Cause;

/// A node that was read: its plaintext, and what it says.
pub(super) type Node = (Vec<u8>, NodeContent);

impl Pass<'_> {
    /// Reads nodes, side by side; answers in their order.
    pub(super) async fn read_nodes(&self, loads: &[NodeLoad]) -> Result<Vec<Result<Node, Bad>>, ScrubError> {
        let records: Vec<RecordRef> = loads.iter().map(|l| l.record).collect();
        let (keys, all) = (self.source.keys().clone(), loads.to_vec());
        let open = move |at: usize, bytes: &[u8]| {
            let load = &all[at];
            let plain = open_node(&keys, &load.record, load.level, load.index, bytes).map_err(|e| e.to_string())?;
            let content = read_node(load.level, load.index, &plain).map_err(|e| e.to_string())?;
            Ok((plain, content))
        };
        runs::read(self.source, &records, Cause::Map, Arc::new(open)).await
    }

    /// What is known to be wrong with the object that a record lies in, as far as the record is concerned.
    pub(super) fn known_bad(&self, record: &RecordRef) -> Option<Kind> {
        let end = u64::from(record.offset) + u64::from(record.len);
        let beyond = self.sizes.get(&record.segment).is_some_and(|size| end > *size);
        match self.bad.get(&record.segment) {
            Some(Kind::TruncatedObject) if !beyond => None,
            Some(kind) => Some(*kind),
            None => beyond.then_some(Kind::TruncatedObject),
        }
    }

    /// Enters that a record cannot be read, which covers the bytes of `spans`.
    pub(super) fn blame(
        &mut self,
        (kind, why): (Kind, String),
        record: &RecordRef,
        spans: impl Iterator<Item = (u64, u64)>,
    ) {
        let (size, key) = (self.size(), record.segment.key());
        if !matches!(kind, Kind::DamagedRecord | Kind::DamagedNode) {
            self.bad.entry(record.segment).or_insert(kind);
        }
        let by_record = matches!(kind, Kind::DamagedRecord | Kind::DamagedNode);
        let new = self.findings.of(kind, &key).is_none();
        let finding: Option<&mut Finding> = match by_record || new {
            true => Some(self.find(kind, &key, why)),
            // One object, one finding, however many records are in it.
            false => self.findings.of(kind, &key),
        };
        if let Some(finding) = finding {
            spans.for_each(|(begin, end)| finding.ranges.add(begin, end.min(size)));
        }
    }

    /// Enters that a node cannot be read.
    pub(super) fn blame_node(&mut self, load: &NodeLoad, bad: Bad) {
        let extents = node_extents(load.level, load.index);
        let span = (extents.start * EXTENT as u64, extents.end.saturating_mul(EXTENT as u64));
        let what = match bad {
            Bad::Missing => (Kind::MissingObject, "the map refers to it".into()),
            Bad::Short => (Kind::TruncatedObject, "the map refers to what lies behind its end".into()),
            Bad::Altered(why) => (Kind::DamagedNode, why),
        };
        self.blame(what, &load.record, [span].into_iter());
    }
}

/// The bytes of the blocks `mask` of an extent, as begin and end.
pub(super) fn spans(extent: u64, mask: u8) -> impl Iterator<Item = (u64, u64)> {
    let blocks = (0..8u64).filter(move |b| mask >> b & 1 == 1);
    blocks.map(move |b| {
        let begin = extent * EXTENT as u64 + b * BLOCK as u64;
        (begin, begin + BLOCK as u64)
    })
}
