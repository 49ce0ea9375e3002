//! One node of a checkpoint: the frozen layer's changes folded into what the durable tree has there.

use std::sync::{Arc, OnceLock};

use super::codec;
use super::error::MapError;
use super::moves::through;
use super::node::{Inner, Leaf, NumberTooHigh};
use super::overlay::Overlay;
use super::piece::{NodeLoad, Piece};
use crate::segment::RecordRef;

/// One node that a checkpoint writes. It can be encoded on any thread.
#[derive(Debug)]
pub struct NodeToWrite {
    /// Levels above the leaves; 0 is a leaf.
    pub level: u8,
    /// Its index among the nodes of its level.
    pub index: u64,
    /// The node whose plaintext `encode` must be given, if any. Only leaves that are not in memory have one.
    pub base: Option<NodeLoad>,
    /// The node of the durable tree in whose place it comes, unless that is dropped unread.
    pub(super) replaces: Option<RecordRef>,
    pub(super) work: Work,
    pub(super) built: OnceLock<Built>,
}

#[derive(Debug)]
pub enum Work {
    /// `anew`: to be written even if it is as it was.
    Leaf {
        frozen: Arc<Overlay>,
        base: Option<Leaf>,
        anew: bool,
    },
    Inner(Arc<Inner>),
}

/// What a node became.
#[derive(Debug, Clone)]
pub struct Built {
    pub what: What,
    /// The leaf that was there before, for the accounts.
    pub old: Option<Leaf>,
}

#[derive(Debug, Clone)]
pub enum What {
    /// The node holds nothing any more.
    Empty,
    /// The node is as it was.
    Same,
    Leaf(Leaf),
    Inner(Arc<Inner>),
}

impl NodeToWrite {
    /// The node's plaintext, to be sealed as a map node; `None` if there is nothing to write: it became empty or did
    /// not change. `base` is the plaintext of the node that [`NodeToWrite::base`] names.
    ///
    /// # Errors
    /// [`MapError::Node`] if the base cannot be decoded, [`MapError::NoBase`] if it is not given.
    pub fn encode(&self, base: Option<&[u8]>) -> Result<Option<Vec<u8>>, MapError> {
        let (built, bytes) =
            match &self.work {
                Work::Inner(inner) => {
                    let built = Built { what: What::Inner(inner.clone()), old: None };
                    (built, Some(codec::encode_inner(self.level, inner)))
                }
                Work::Leaf { frozen, base: cached, anew } => {
                    let old = self.old(cached.as_ref(), base)?;
                    let index = self.index;
                    let leaf = merge(frozen, index, old.as_ref())
                        .map_err(|NumberTooHigh(number)| MapError::Number { level: 0, index, number })?;
                    let (what, bytes) = if leaf.pieces.is_empty() {
                        (What::Empty, None)
                    } else if !anew && old.as_ref() == Some(&leaf) {
                        (What::Same, None)
                    } else {
                        let bytes = codec::encode_leaf(&leaf);
                        (What::Leaf(leaf), Some(bytes))
                    };
                    (Built { what, old }, bytes)
                }
            };
        // Encoding twice gives the same answer: the first stays.
        self.built.get_or_init(|| built);
        Ok(bytes)
    }

    fn old(&self, cached: Option<&Leaf>, base: Option<&[u8]>) -> Result<Option<Leaf>, MapError> {
        let index = self.index;
        match (cached, &self.base, base) {
            (Some(leaf), _, _) => Ok(Some(leaf.clone())),
            (None, None, _) => Ok(None),
            (None, Some(_), None) => Err(MapError::NoBase { index }),
            (None, Some(_), Some(bytes)) => match codec::decode_leaf(bytes) {
                Ok(leaf) => Ok(Some(leaf)),
                Err(source) => Err(MapError::Node { level: 0, index, source }),
            },
        }
    }
}

/// A leaf with its changes, if there are any, on top of its base.
fn merge(frozen: &Overlay, index: u64, base: Option<&Leaf>) -> Result<Leaf, NumberTooHigh> {
    let Some(delta) = frozen.leaf(index) else {
        return Ok(base.cloned().unwrap_or_default());
    };
    let below = base.map_or(0, |b| b.pieces.len());
    let mut pieces: Vec<(u16, Piece)> = Vec::with_capacity(delta.pieces().len() + below);
    pieces.extend(delta.pieces().iter().map(|p| (p.extent, frozen.piece(p))));
    if let Some(base) = base {
        let decided = delta.decided();
        for p in base.pieces.iter() {
            let visible = p.visible & !decided[usize::from(p.extent)];
            if visible != 0 {
                let moves = frozen.spell(delta.moves_at(p.extent));
                through(&moves, Piece { visible, ..base.piece(p) }, |piece| pieces.push((p.extent, piece)));
            }
        }
    }
    Leaf::new(pieces)
}
