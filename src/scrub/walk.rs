//! The map that attaching would build, from one end of the volume to the other.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::ScrubError;
use super::data::{WINDOW, Want};
use super::finding::Kind;
use super::runs::Bad;
use super::tree::{Node, spans};
use super::volume::Pass;
use crate::map::{Lookup, Map, NodeContent, NodeLoad, Piece, node_extents};
use crate::segment::{EXTENT, RecordRef, SegmentKind};

/// Leaves that are read together.
const BATCH: usize = 64;

type Pieces = SmallVec<[Piece; 2]>;

impl Pass<'_> {
    /// Walks the newest checkpoint's tree with the log applied to it, counts what is alive, compares it with the log,
    /// and reads the data.
    pub(super) async fn walk(&mut self) -> Result<(), ScrubError> {
        let Some(map) = self.map.clone() else { return Ok(()) };
        let size = self.size();
        self.begin(if self.data { "map and data" } else { "map" }, size);
        let mut touched = std::mem::take(&mut self.leaves);
        let root = self.start.and_then(|c| c.root);
        let mut stack: Vec<NodeLoad> =
            root.map(|r| NodeLoad { level: r.levels, index: 0, record: r.record }).into_iter().collect();
        let mut wants = Vec::new();
        while let Some(top) = stack.pop() {
            let mut loads = vec![top];
            while top.level == 0 && loads.len() < BATCH {
                loads.extend(stack.pop_if(|next| next.level == 0));
                if stack.last().is_none_or(|next| next.level > 0) {
                    break;
                }
            }
            let read = self.nodes(&loads).await?;
            for (load, node) in loads.iter().zip(read) {
                if load.level == 0 {
                    self.leaves_before(&map, load.index, &mut touched, &mut wants).await?;
                    touched.remove(&load.index);
                }
                if let Some((plain, content)) = node {
                    if let Err(e) = map.loaded(load, &plain) {
                        self.blame_node(load, Bad::Altered(e.to_string()));
                    }
                    if let NodeContent::Inner(children) = content {
                        stack.extend(children.into_iter().rev());
                    }
                }
                if load.level == 0 {
                    self.leaf(&map, load.index, &mut wants).await?;
                }
            }
        }
        self.leaves_before(&map, u64::MAX, &mut touched, &mut wants).await?;
        self.read_data(wants).await?;
        self.report.not_compared = self.replayed.as_ref().err().cloned();
        Ok(())
    }

    /// Reads nodes of the newest checkpoint. Those that cannot be had are told of.
    async fn nodes(&mut self, loads: &[NodeLoad]) -> Result<Vec<Option<Node>>, ScrubError> {
        let mut known = Vec::with_capacity(loads.len());
        for load in loads {
            let bytes = u64::from(load.record.len);
            self.referenced.insert(load.record.segment);
            self.report.live_node_bytes += bytes;
            let usage = self.report.usage.entry(load.record.segment).or_default();
            usage.records += 1;
            usage.bytes += bytes;
            known.push(self.known_bad(&load.record));
        }
        let wanted: Vec<NodeLoad> =
            loads.iter().zip(&known).filter(|(_, bad)| bad.is_none()).map(|(l, _)| *l).collect();
        let mut read = self.read_nodes(&wanted).await?.into_iter();
        let mut nodes = Vec::with_capacity(loads.len());
        for (load, bad) in loads.iter().zip(known) {
            let answer = match bad {
                Some(kind) => {
                    let extents = node_extents(load.level, load.index);
                    let span = (extents.start * EXTENT as u64, extents.end.saturating_mul(EXTENT as u64));
                    self.blame((kind, "the map refers to it".into()), &load.record, [span].into_iter());
                    None
                }
                None => read.next(),
            };
            match &answer {
                Some(Ok((_, content))) => self.recount.node(load, content),
                _ => self.recount.lost(load),
            }
            let node = match answer {
                Some(Ok(node)) => {
                    self.report.records_read += 1;
                    self.report.bytes_read += u64::from(load.record.len);
                    Some(node)
                }
                Some(Err(bad)) => {
                    self.blame_node(load, bad);
                    None
                }
                None => None,
            };
            if node.is_none() && load.level > 0 {
                self.report.leaks_unknown = Some(format!("{} cannot be read", load.record.segment.key()));
            }
            nodes.push(node);
        }
        Ok(nodes)
    }

    /// The leaves before `end` that only the log has touched.
    async fn leaves_before(
        &mut self,
        map: &Map,
        end: u64,
        touched: &mut BTreeSet<u64>,
        wants: &mut Vec<Want>,
    ) -> Result<(), ScrubError> {
        while let Some(leaf) = touched.first().copied().filter(|leaf| *leaf < end) {
            touched.pop_first();
            self.leaf(map, leaf, wants).await?;
        }
        Ok(())
    }

    /// One leaf: its extents as a reader would find them.
    async fn leaf(&mut self, map: &Map, leaf: u64, wants: &mut Vec<Want>) -> Result<(), ScrubError> {
        let extents = node_extents(0, leaf);
        self.source.progress.at(extents.start.saturating_mul(EXTENT as u64));
        let replayed = self.replayed.as_ref().ok().cloned();
        for extent in extents {
            let (pieces, unknown) = resolve(map, extent);
            if let Some(replayed) = &replayed {
                self.compare(replayed, extent, &pieces, unknown);
            }
            for piece in &pieces {
                self.count(piece);
                let want = Want { extent, visible: piece.visible, original: piece.original, record: piece.record };
                match self.known_bad(&piece.record) {
                    Some(kind) => {
                        let why = "the map refers to it".to_string();
                        self.blame((kind, why), &piece.record, spans(extent, piece.visible));
                    }
                    None if !self.sizes.contains_key(&piece.record.segment) => self.unlisted(&want).await?,
                    None if self.data => wants.push(want),
                    None => {}
                }
            }
        }
        if wants.len() >= WINDOW {
            self.read_data(std::mem::take(wants)).await?;
        }
        Ok(())
    }

    /// A record in an object that the LIST did not show.
    async fn unlisted(&mut self, want: &Want) -> Result<(), ScrubError> {
        if self.source.is_missing(&want.record.segment.key()).await? {
            let what = (Kind::MissingObject, "the map refers to it".to_string());
            self.blame(what, &want.record, spans(want.extent, want.visible));
        } else if self.data {
            self.read_data(vec![*want]).await?;
        }
        Ok(())
    }

    fn count(&mut self, piece: &Piece) {
        let (blocks, bytes) = (u64::from(piece.visible.count_ones()), u64::from(piece.record.len));
        self.report.live_blocks += blocks;
        self.report.live_data_bytes += bytes;
        let usage = self.report.usage.entry(piece.record.segment).or_default();
        usage.blocks += blocks;
        usage.records += 1;
        usage.bytes += bytes;
        if piece.record.segment.kind() == SegmentKind::Data {
            self.referenced.insert(piece.record.segment);
        }
    }

    /// Whether each block resolves to the record that the log from its beginning says.
    fn compare(&mut self, replayed: &Map, extent: u64, pieces: &[Piece], unknown: u8) {
        let (expected, _) = resolve(replayed, extent);
        if expected.as_slice() == pieces {
            return;
        }
        let (map, log) = (by_block(pieces), by_block(&expected));
        let differ = (0..8u8).filter(|b| map[usize::from(*b)] != log[usize::from(*b)]).fold(0, |m, b| m | 1 << b);
        let differ: u8 = differ & !unknown;
        let Some(record) = map.iter().chain(&log).flatten().next().filter(|_| differ != 0) else { return };
        let why = "the newest map does not resolve blocks to the records that the log says".to_string();
        self.blame((Kind::MapMismatch, why), record, spans(extent, differ));
    }
}

/// What the blocks of an extent resolve to, and the blocks of which that is not known.
fn resolve(map: &Map, extent: u64) -> (Pieces, u8) {
    if let Lookup::Pieces(pieces) = map.lookup(extent, 0xff) {
        return (pieces, 0);
    }
    // What was written since the checkpoint is known without its nodes.
    let (mut pieces, mut unknown) = (Pieces::new(), 0);
    for bit in (0..8).map(|b| 1u8 << b) {
        match map.lookup(extent, bit) {
            Lookup::Load(_) => unknown |= bit,
            Lookup::Pieces(found) => {
                for piece in found {
                    match pieces.iter_mut().find(|p| p.record == piece.record) {
                        Some(known) => known.visible |= bit,
                        None => pieces.push(Piece { visible: bit, ..piece }),
                    }
                }
            }
        }
    }
    (pieces, unknown)
}

fn by_block(pieces: &[Piece]) -> [Option<RecordRef>; 8] {
    let mut blocks = [None; 8];
    for piece in pieces {
        for (bit, block) in blocks.iter_mut().enumerate() {
            if piece.visible >> bit & 1 == 1 {
                *block = Some(piece.record);
            }
        }
    }
    blocks
}
