//! The read path: ring, cache, store; each block from the newest of them.

use std::sync::Arc;

use bytes::BytesMut;
use esker_block::{BlockError, BlockResult};
use futures::FutureExt;

use super::engine::Engine;
use super::fetch::{Pins, Want};
use super::index::{bits, mask_of};
use crate::cache::key_of;
use crate::map::{Lookup, NodeLoad};
use crate::segment::{BLOCK, EXTENT};

/// Rounds of fetching after which a read gives up: each round makes progress, so only a thrashing cache gets here.
const ROUNDS: usize = 64;

/// The part of a request's buffer that blocks are copied to.
pub(super) struct Window<'a> {
    /// Byte address of `buf[0]`.
    pub offset: u64,
    pub buf: &'a mut [u8],
}

impl Window<'_> {
    fn end(&self) -> u64 {
        self.offset + self.buf.len() as u64
    }

    /// The piece of the buffer that block `lba` covers, and where in the block it begins.
    fn part(&mut self, lba: u64) -> (&mut [u8], usize) {
        let start = lba * BLOCK as u64;
        let from = start.max(self.offset);
        let to = (start + BLOCK as u64).min(self.end());
        let at = (from - self.offset) as usize;
        (&mut self.buf[at..at + (to - from) as usize], (from - start) as usize)
    }

    fn put(&mut self, lba: u64, block: &[u8]) {
        let (part, skip) = self.part(lba);
        let n = part.len();
        part.copy_from_slice(&block[skip..skip + n]);
    }

    fn zero(&mut self, lba: u64) {
        self.part(lba).0.fill(0);
    }
}

/// What a read lacks.
#[derive(Default)]
pub(super) struct Missing {
    nodes: Vec<NodeLoad>,
    pieces: Vec<Want>,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.pieces.is_empty()
    }
}

impl Engine {
    /// Copies the window's bytes if all are in memory.
    pub(super) fn copy_now(&self, window: &mut Window<'_>, pins: &Pins) -> bool {
        let mut complete = true;
        for_window(window.offset, window.end(), |extent, want| {
            complete = complete && self.copy_extent(window, extent, want, pins, None);
        });
        complete
    }

    /// Copies what is in memory and lists what is not.
    fn copy_or_list(&self, window: &mut Window<'_>, pins: &Pins) -> Missing {
        let mut missing = Missing::default();
        for_window(window.offset, window.end(), |extent, want| {
            self.copy_extent(window, extent, want, pins, Some(&mut missing));
        });
        missing
    }

    /// One extent's part of a read; false where something is missing (and listed, if asked).
    fn copy_extent(
        &self,
        window: &mut Window<'_>,
        extent: u64,
        want: u8,
        pins: &Pins,
        mut list: Option<&mut Missing>,
    ) -> bool {
        let first = extent * crate::segment::EXTENT_BLOCKS;
        let known = self.index.lookup(extent, want, |i, at| {
            let (part, skip) = window.part(first + u64::from(i));
            self.ring.read_at(at + skip as u64, part);
        });
        let mut zero = known.zero;
        let rest = want & !known.data & !known.zero;
        let mut complete = true;
        if rest != 0 {
            match self.map.lookup(extent, rest) {
                Lookup::Load(load) => {
                    complete = false;
                    if let Some(missing) = list.as_deref_mut() {
                        missing.nodes.push(load);
                    }
                }
                Lookup::Pieces(pieces) => {
                    zero |= rest;
                    for piece in pieces {
                        let take = piece.visible & rest;
                        zero &= !take;
                        let key = key_of(&piece.record);
                        // A pin goes first: it is there to make progress certain.
                        match pins.get(&key).cloned().or_else(|| self.cache.get(&key)) {
                            Some(plain) => {
                                for i in bits(take) {
                                    let before = (piece.original & mask_of(0, i)).count_ones() as usize;
                                    let block = &plain[before * BLOCK..(before + 1) * BLOCK];
                                    window.put(first + u64::from(i), block);
                                }
                            }
                            None => {
                                complete = false;
                                if let Some(missing) = list.as_deref_mut() {
                                    let want = Want { extent, original: piece.original, record: piece.record };
                                    missing.pieces.push(want);
                                }
                            }
                        }
                    }
                }
            }
        }
        bits(zero).for_each(|i| window.zero(first + u64::from(i)));
        complete
    }

    /// Fills the window, fetching what is missing in parallel, and keeps what was fetched in `pins`.
    pub(super) async fn fill(self: &Arc<Self>, window: &mut Window<'_>, pins: &mut Pins) -> BlockResult<()> {
        for round in 0..ROUNDS {
            let missing = self.copy_or_list(window, pins);
            if missing.is_empty() {
                return Ok(());
            }
            if round == 0 {
                self.read_ahead(window.offset, window.buf.len() as u64);
            }
            self.fetch_missing(missing, pins).await?;
        }
        Err(BlockError::Store("the caches are too small for this request".into()))
    }

    async fn fetch_missing(self: &Arc<Self>, mut missing: Missing, pins: &mut Pins) -> BlockResult<()> {
        missing.nodes.sort_by_key(|n| (n.level, n.index));
        missing.nodes.dedup();
        missing.pieces.sort_by_key(|w| w.record);
        missing.pieces.dedup();
        let (nodes, pieces) = futures::join!(self.load_nodes(&missing.nodes), self.fetch_pieces(&missing.pieces, pins));
        nodes.and(pieces)
    }

    /// Starts fetching ahead of a sequential reader.
    fn read_ahead(self: &Arc<Self>, offset: u64, len: u64) {
        let Some(range) = self.readahead.missed(offset, len, self.info.size) else { return };
        let engine = self.clone();
        let task = async move {
            // Advice only: a read that needs these bytes meets the error itself.
            drop(engine.warm(range.start, range.end - range.start).await);
        };
        self.env.spawner.spawn(task.boxed());
    }

    /// Brings a range into the cache, 1 MiB at a time.
    pub(super) async fn warm(self: &Arc<Self>, offset: u64, len: u64) -> BlockResult<()> {
        const STEP: u64 = 1 << 20;
        let end = offset + len;
        let mut scratch = vec![0; STEP.min(len) as usize];
        let mut at = offset;
        while at < end {
            let n = STEP.min(end - at) as usize;
            let mut window = Window { offset: at, buf: &mut scratch[..n] };
            let mut pins = Pins::new();
            for _ in 0..ROUNDS {
                let missing = self.copy_or_list(&mut window, &pins);
                if missing.is_empty() {
                    break;
                }
                self.fetch_missing(missing, &mut pins).await?;
            }
            at += n as u64;
        }
        Ok(())
    }

    /// The slow form of a read: see [`esker_block::BlockDevice::read`].
    pub(super) async fn read(self: &Arc<Self>, offset: u64, len: usize, mut buf: BytesMut) -> BlockResult<BytesMut> {
        let old = buf.len();
        buf.resize(old + len, 0);
        let mut window = Window { offset, buf: &mut buf[old..] };
        self.fill(&mut window, &mut Pins::new()).await?;
        Ok(buf)
    }
}

/// Calls `visit(extent, mask)` for the extents that the bytes `[offset, end)` touch, edge blocks included.
fn for_window(offset: u64, end: u64, mut visit: impl FnMut(u64, u8)) {
    let mut at = offset;
    while at < end {
        let extent = at / EXTENT as u64;
        let base = extent * EXTENT as u64;
        let stop = end.min(base.saturating_add(EXTENT as u64));
        let first = ((at - base) / BLOCK as u64) as u8;
        let last = ((stop - 1 - base) / BLOCK as u64) as u8;
        visit(extent, mask_of(first, last - first + 1));
        at = stop;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_touch_whole_and_partial_blocks() {
        let mut seen = Vec::new();
        for_window(4095, 4097, |e, m| seen.push((e, m)));
        for_window(32767, 65536, |e, m| seen.push((e, m)));
        assert_eq!(seen, [(0, 0b11), (0, 0x80), (1, 0xff)]);
        let mut buf = [9u8; 4];
        let mut w = Window { offset: 4094, buf: &mut buf };
        w.put(0, &[1; BLOCK]);
        w.zero(1);
        assert_eq!(buf, [1, 1, 0, 0]);
    }
}
