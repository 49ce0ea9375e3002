//! The write path: into the ring, into the index, done. A write never reads, unless it covers part of a block.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use esker_block::{BatchOp, BlockError, BlockResult, MAX_OP_BYTES};

use super::cutter::TRIM_BYTES;
use super::engine::Engine;
use super::fetch::Pins;
use super::read::Window;
use crate::journal::{OpHeader, PartHeader};
use crate::probe::{Branch, Mutant, planted, reached};
use crate::segment::BLOCK;

const B: u64 = BLOCK as u64;

/// How often a read-modify-write starts over because its edge blocks left memory meanwhile.
const EDGE_ROUNDS: usize = 64;

/// What a byte range does to the blocks it touches.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// So many zeroes.
    Zeroes(u64),
}

impl Content<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Data(d) => d.len() as u64,
            Self::Zeroes(n) => *n,
        }
    }
}

/// Bounds of the pieces into which a request is cut, so that each is one operation: none is torn by a crash.
pub(super) fn split(offset: u64, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let left = len - at;
        // Whatever begins inside a block ends at a block: only the first and last piece can be ragged.
        let to_block = (offset + at as u64).next_multiple_of(B) - (offset + at as u64);
        let n = if left <= MAX_OP_BYTES { left } else { MAX_OP_BYTES - BLOCK + to_block as usize };
        at += n;
        Some(at - n..at)
    })
}

impl Engine {
    /// Whether a request can be served: open, writable, inside the device.
    pub(super) fn check_write(&self, offset: u64, len: u64) -> BlockResult<()> {
        self.check_range(offset, len)?;
        if self.info.read_only { Err(BlockError::ReadOnly) } else { Ok(()) }
    }

    /// Whether a request can be served: open, inside the device.
    pub(super) fn check_range(&self, offset: u64, len: u64) -> BlockResult<()> {
        self.check_open()?;
        match offset.checked_add(len) {
            Some(end) if end <= self.info.size => Ok(()),
            _ => Err(BlockError::OutOfRange { offset, len, size: self.info.size }),
        }
    }

    /// Looked at with the gates held: whoever closes the volume passes all gates afterwards, so no operation follows.
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Appends a write of whole blocks. `None`: the ring is full. The caller holds the gates.
    fn append_write(&self, lba: u64, data: &[u8]) -> Option<u64> {
        let copy = |body: &mut [u8]| {
            body.copy_from_slice(data);
            Ok::<_, Infallible>(())
        };
        match self.append_filled(lba, data.len(), copy)? {
            Ok(op) => Some(op),
        }
    }

    /// Appends a write of whole blocks, `len` bytes that `fill` puts into the ring. `None`: the ring is full. If `fill`
    /// fails, the place stays void. The caller holds the gates.
    fn append_filled<E>(
        &self,
        lba: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Option<Result<u64, E>> {
        if self.is_closing() {
            return None;
        }
        let blocks = len / BLOCK;
        let mut slot = self.ring.reserve(&OpHeader::write(lba, blocks as u32)).ok()?;
        if let Err(e) = fill(slot.body()) {
            return Some(Err(e));
        }
        let (op, at) = (slot.op(), slot.body_at());
        // Known to the index before it is complete: what is complete can be cut, published and dropped at once.
        self.index.insert_write(op, lba, blocks as u64, at);
        self.wakes.appending(len as u64);
        slot.complete();
        self.wakes.appended(self.tuning.segment_bytes as u64, &self.cutter_wake);
        Some(Ok(op))
    }

    /// Appends a trim of whole blocks. `None`: the ring is full. The caller holds the gates.
    fn append_trim(&self, lba: u64, blocks: u64) -> Option<u64> {
        if self.is_closing() {
            return None;
        }
        let slot = self.ring.reserve(&OpHeader::trim(lba, blocks)).ok()?;
        let op = slot.op();
        if !planted(Mutant::TrimForgottenInIndex) {
            self.index.insert_trim(op, lba, blocks);
        }
        self.wakes.appending(TRIM_BYTES);
        slot.complete();
        self.wakes.appended(self.tuning.segment_bytes as u64, &self.cutter_wake);
        Some(op)
    }

    /// A write of whole blocks, if there is room.
    pub(super) fn write_now(&self, lba: u64, data: &[u8]) -> Option<u64> {
        let _gates = self.gates.shared(lba, (data.len() / BLOCK) as u64);
        self.append_write(lba, data)
    }

    /// The same, with `fill` to put the data into the ring.
    pub(super) fn write_filled_now(
        &self,
        lba: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Option<io::Result<u64>> {
        let _gates = self.gates.shared(lba, (len / BLOCK) as u64);
        self.append_filled(lba, len, fill)
    }

    /// A write that covers parts of blocks, if its edge blocks are in memory or pinned, and there is room.
    pub(super) fn merge_now(&self, offset: u64, content: Content<'_>, pins: &Pins) -> Merge {
        let end = offset + content.len();
        let (first, last) = (offset / B, end.div_ceil(B));
        let _gates = self.gates.exclusive(first, last - first);
        match content {
            Content::Data(data) => {
                let mut body = vec![0; ((last - first) * B) as usize];
                let at = (offset - first * B) as usize;
                if !self.copy_edges(first, last, offset, end, &mut body, pins) {
                    return Merge::EdgesMissing;
                }
                body[at..at + data.len()].copy_from_slice(data);
                self.append_write(first, &body).map_or(Merge::Full, Merge::Done)
            }
            Content::Zeroes(_) => self.merge_zeroes(first, last, offset, end, pins),
        }
    }

    /// Fills the first and last block of `body`, where the range covers them in part.
    fn copy_edges(&self, first: u64, last: u64, offset: u64, end: u64, body: &mut [u8], pins: &Pins) -> bool {
        let head = !offset.is_multiple_of(B);
        let tail = !end.is_multiple_of(B) && (last - 1 != first || !head);
        let n = body.len();
        (!head || self.copy_now(&mut Window { offset: first * B, buf: &mut body[..BLOCK] }, pins))
            && (!tail || self.copy_now(&mut Window { offset: (last - 1) * B, buf: &mut body[n - BLOCK..] }, pins))
    }

    /// Zeroes over parts of blocks: edge blocks are rewritten, whole ones between them trimmed, as one operation.
    fn merge_zeroes(&self, first: u64, last: u64, offset: u64, end: u64, pins: &Pins) -> Merge {
        let mut parts = Vec::with_capacity(3);
        let mut body = Vec::with_capacity(2 * BLOCK);
        let mut edge = |lba: u64| {
            let mut block = [0u8; BLOCK];
            if !self.copy_now(&mut Window { offset: lba * B, buf: &mut block }, pins) {
                return false;
            }
            let from = offset.max(lba * B) - lba * B;
            let to = end.min((lba + 1) * B) - lba * B;
            block[from as usize..to as usize].fill(0);
            body.extend_from_slice(&block);
            true
        };
        let ragged_head = !offset.is_multiple_of(B);
        let ragged_tail = !end.is_multiple_of(B) && (last - first != 1 || !ragged_head);
        let (mid, mid_end) = (first + u64::from(ragged_head), last - u64::from(ragged_tail));
        if (ragged_head && !edge(first)) || (ragged_tail && !edge(last - 1)) {
            return Merge::EdgesMissing;
        }
        if ragged_head {
            parts.push(PartHeader::Write { lba: first, blocks: 1 });
        }
        if mid < mid_end {
            parts.push(PartHeader::Trim { lba: mid, blocks: mid_end - mid });
        }
        if ragged_tail {
            parts.push(PartHeader::Write { lba: last - 1, blocks: 1 });
        }
        self.append_batch(&parts, &[&body]).map_or(Merge::Full, Merge::Done)
    }

    /// Appends an atomic batch whose writes' data are `bodies` back to back. `None`: the ring is full. The caller holds
    /// the gates.
    fn append_batch(&self, parts: &[PartHeader], bodies: &[&[u8]]) -> Option<u64> {
        if self.is_closing() {
            return None;
        }
        let len: usize = bodies.iter().map(|b| b.len()).sum();
        let mut slot = self.ring.reserve(&OpHeader::Batch(parts)).ok()?;
        let mut at = 0;
        for body in bodies {
            slot.body()[at..at + body.len()].copy_from_slice(body);
            at += body.len();
        }
        let op = slot.op();
        let mut place = slot.body_at();
        let placed = parts.iter().map(|part| match *part {
            PartHeader::Write { lba, blocks } => {
                place += u64::from(blocks) * B;
                Placed { lba, blocks: u64::from(blocks), at: Some(place - u64::from(blocks) * B) }
            }
            PartHeader::Trim { lba, blocks } => Placed { lba, blocks, at: None },
        });
        self.index_parts(op, &placed.collect::<Vec<_>>());
        self.wakes.appending(len as u64);
        slot.complete();
        self.wakes.appended(self.tuning.segment_bytes as u64, &self.cutter_wake);
        Some(op)
    }

    /// Enters the parts of one operation. Of parts that overlap the later one wins; entries of one operation number
    /// cannot tell, so what a later part covers is left out.
    pub(super) fn index_parts(&self, op: u64, parts: &[Placed]) {
        for (i, part) in parts.iter().enumerate() {
            let Some(at) = part.at else {
                self.index.insert_trim(op, part.lba, part.blocks);
                continue;
            };
            let later = &parts[i + 1..];
            if later.is_empty() {
                self.index.insert_write(op, part.lba, part.blocks, at);
                continue;
            }
            for n in 0..part.blocks {
                let lba = part.lba + n;
                if !later.iter().any(|p| (p.lba..p.lba + p.blocks).contains(&lba)) {
                    self.index.insert_write(op, lba, 1, at + n * B);
                }
            }
        }
    }

    /// A write of any alignment, up to [`MAX_OP_BYTES`]: one operation. Waits for room and for edge blocks.
    pub(super) async fn put(self: &Arc<Self>, offset: u64, content: Content<'_>) -> BlockResult<u64> {
        let len = content.len();
        if offset.is_multiple_of(B) && len.is_multiple_of(B) {
            return self
                .when_room(|| match content {
                    Content::Data(data) => self.write_now(offset / B, data),
                    Content::Zeroes(_) => {
                        let _gates = self.gates.shared(offset / B, len / B);
                        self.append_trim(offset / B, len / B)
                    }
                })
                .await;
        }
        let mut pins = Pins::new();
        for _ in 0..EDGE_ROUNDS {
            self.fill_edges(offset, offset + len, &mut pins).await?;
            let merged = self
                .when_room(|| match self.merge_now(offset, content, &pins) {
                    Merge::Full => None,
                    other => Some(other),
                })
                .await?;
            if let Merge::Done(op) = merged {
                return Ok(op);
            }
        }
        Err(BlockError::Store("the caches are too small for this request".into()))
    }

    /// Brings the ragged edge blocks of a range into memory, and pins what came from the store.
    async fn fill_edges(self: &Arc<Self>, offset: u64, end: u64, pins: &mut Pins) -> BlockResult<()> {
        let mut block = [0u8; BLOCK];
        for at in [offset, end] {
            if !at.is_multiple_of(B) {
                reached(Branch::EdgeFetched);
                self.fill(&mut Window { offset: at / B * B, buf: &mut block }, pins).await?;
            }
        }
        Ok(())
    }

    /// Calls `attempt` until there is room in the ring; in turn with all others who wait.
    async fn when_room<T>(&self, attempt: impl Fn() -> Option<T>) -> BlockResult<T> {
        if !self.space.contended()
            && let Some(done) = attempt()
        {
            return Ok(done);
        }
        reached(Branch::WaitedForRoom);
        let wait = self.space.wait(|| {
            if let Err(why) = self.check_open() {
                return Some(Err(why));
            }
            if let Some(done) = attempt() {
                return Some(Ok(done));
            }
            // The ring is full: what is in it must go out, whatever its age.
            self.cutter_wake.notify_one();
            self.outage_error().map(Err)
        });
        wait.await
    }

    /// A whole write request: pieces of at most [`MAX_OP_BYTES`], the last one's durability awaited for `fua`.
    pub(super) async fn write(self: &Arc<Self>, offset: u64, data: Bytes, fua: bool) -> BlockResult<()> {
        self.check_write(offset, data.len() as u64)?;
        let mut last = 0;
        for piece in split(offset, data.len()) {
            last = self.put(offset + piece.start as u64, Content::Data(&data[piece])).await?;
        }
        if fua && !planted(Mutant::FuaIgnored) { self.durable(last).await } else { Ok(()) }
    }

    /// See [`esker_block::BlockDevice::write_zeroes`].
    pub(super) async fn zero(self: &Arc<Self>, offset: u64, len: u64, fua: bool) -> BlockResult<()> {
        self.check_write(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let op = self.put(offset, Content::Zeroes(len)).await?;
        if fua { self.durable(op).await } else { Ok(()) }
    }

    /// See [`esker_block::BlockDevice::discard`].
    pub(super) async fn discard(self: &Arc<Self>, offset: u64, len: u64, fua: bool) -> BlockResult<()> {
        self.check_write(offset, len)?;
        let (start, end) = (offset.next_multiple_of(B), (offset + len) / B * B);
        if start >= end {
            return Ok(());
        }
        let op = self.put(start, Content::Zeroes(end - start)).await?;
        if fua { self.durable(op).await } else { Ok(()) }
    }

    /// See [`esker_block::BlockDevice::batch`].
    pub(super) async fn batch(self: &Arc<Self>, ops: &[BatchOp], fua: bool) -> BlockResult<()> {
        let mut parts = Vec::with_capacity(ops.len());
        let mut bodies: Vec<&[u8]> = Vec::new();
        for op in ops {
            let (offset, len) = match op {
                BatchOp::Write { offset, data } => (*offset, data.len() as u64),
                BatchOp::Zero { offset, len } => (*offset, *len),
            };
            self.check_write(offset, len)?;
            if offset % B != 0 || len % B != 0 {
                return Err(BlockError::Invalid("a batch works in blocks of 4 KiB".into()));
            }
            if len == 0 {
                continue;
            }
            match op {
                BatchOp::Write { data, .. } => {
                    parts.push(PartHeader::Write { lba: offset / B, blocks: (len / B) as u32 });
                    bodies.push(data);
                }
                BatchOp::Zero { .. } => parts.push(PartHeader::Trim { lba: offset / B, blocks: len / B }),
            }
        }
        if bodies.iter().map(|b| b.len()).sum::<usize>() > MAX_OP_BYTES || parts.len() > crate::journal::MAX_PARTS {
            return Err(BlockError::Invalid("more than 1 MiB, or too many parts, in one batch".into()));
        }
        if parts.is_empty() {
            return Ok(());
        }
        let first = parts.iter().map(|p| bounds(p).0).min().unwrap_or(0);
        let last = parts.iter().map(|p| bounds(p).1).max().unwrap_or(0);
        let append = || {
            let _gates = self.gates.shared(first, last - first);
            self.append_batch(&parts, &bodies)
        };
        let op = self.when_room(append).await?;
        if fua { self.durable(op).await } else { Ok(()) }
    }

    /// See [`esker_block::BlockDevice::flush`].
    pub(super) async fn flush(&self) -> BlockResult<()> {
        if let Some(why) = self.failure() {
            return Err(why);
        }
        let forgotten = u64::from(planted(Mutant::FlushForgetsTheLast));
        self.durable((self.ring.next_op() - 1).saturating_sub(forgotten)).await
    }
}

/// What came of a read-modify-write.
pub(super) enum Merge {
    /// Appended under this operation number.
    Done(u64),
    /// No room in the ring.
    Full,
    /// An edge block must be fetched first.
    EdgesMissing,
}

fn bounds(part: &PartHeader) -> (u64, u64) {
    match *part {
        PartHeader::Write { lba, blocks } => (lba, lba + u64::from(blocks)),
        PartHeader::Trim { lba, blocks } => (lba, lba + blocks),
    }
}

/// A part of an operation and where its data lies in the ring (`None`: a trim).
pub(super) struct Placed {
    pub lba: u64,
    pub blocks: u64,
    pub at: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_request_and_only_its_ends_are_ragged() {
        for (offset, len) in [(0, 1), (512, 1 << 20), (100, 5 << 20), (4096, 3 << 20), (4095, (1 << 20) + 1)] {
            let pieces: Vec<_> = split(offset, len).collect();
            assert_eq!(pieces[0].start, 0);
            assert_eq!(pieces[pieces.len() - 1].end, len);
            for pair in pieces.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
                assert_eq!((offset + pair[0].end as u64) % B, 0);
            }
            assert!(pieces.iter().all(|p| p.len() <= MAX_OP_BYTES));
        }
        assert_eq!(split(512, 1 << 20).count(), 1, "up to 1 MiB is one operation at any alignment");
    }
}
