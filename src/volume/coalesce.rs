//! Many operations become one segment's worth of extents: of each block only the newest content is kept.
//!
//! Within a segment trims apply before data, so what a later trim kills leaves the data, and blocks of zeroes become
//! trims.

use std::collections::BTreeMap;

use super::index::{bits, for_extents};
use super::ranges::OpRanges;
use crate::journal::{Part, Record, RecordKind};
use crate::probe::{Mutant, planted};
use crate::segment::{BLOCK, EXTENT_BLOCKS};

/// Ring position of each block of an extent that has data.
type Sources = [Option<u64>; EXTENT_BLOCKS as usize];

/// The net effect of a run of operations.
#[derive(Debug, Default)]
pub(super) struct Coalesced {
    extents: BTreeMap<u64, Sources>,
    trims: OpRanges,
}

impl Coalesced {
    /// The net effect of `records`, which come in operation order.
    pub(super) fn of(records: &[Record]) -> Self {
        let mut out = Self::default();
        for record in records {
            match &record.kind {
                RecordKind::Write { lba, blocks, body } => out.write(*lba, u64::from(*blocks), body.at()),
                RecordKind::Trim { lba, blocks } => out.trim(*lba, *blocks),
                RecordKind::Batch(parts) => parts.iter().for_each(|part| match part {
                    Part::Write { lba, blocks, body } => out.write(*lba, u64::from(*blocks), body.at()),
                    Part::Trim { lba, blocks } => out.trim(*lba, *blocks),
                }),
                RecordKind::Void => {}
            }
        }
        out
    }

    fn write(&mut self, lba: u64, blocks: u64, body_at: u64) {
        for_extents(lba, blocks, |extent, _, mask| {
            let sources = self.extents.entry(extent).or_default();
            for i in bits(mask) {
                let block = extent * EXTENT_BLOCKS + u64::from(i);
                if planted(Mutant::EarlierWriteWins) && sources[i as usize].is_some() {
                    continue;
                }
                sources[i as usize] = Some(body_at + (block - lba) * BLOCK as u64);
            }
        });
    }

    fn trim(&mut self, lba: u64, blocks: u64) {
        let end = lba.saturating_add(blocks);
        self.trims.insert(lba, end, 1);
        let touched: Vec<u64> =
            self.extents.range(lba / EXTENT_BLOCKS..end.div_ceil(EXTENT_BLOCKS)).map(|(e, _)| *e).collect();
        for extent in touched {
            let first = extent * EXTENT_BLOCKS;
            if let Some(sources) = self.extents.get_mut(&extent) {
                for (i, source) in sources.iter_mut().enumerate() {
                    if (lba..end).contains(&(first + i as u64)) {
                        *source = None;
                    }
                }
                if sources.iter().all(Option::is_none) {
                    self.extents.remove(&extent);
                }
            }
        }
    }

    /// Hands out the plaintext of each extent in address order, as `(extent, mask, blocks back to back)`, copying
    /// blocks from ring positions with `copy`; all-zero blocks become trims. Answers the trims, as `(first block, blocks)`.
    pub(super) fn emit(
        mut self,
        copy: impl Fn(u64, &mut [u8]),
        mut data: impl FnMut(u64, u8, Vec<u8>),
    ) -> Vec<(u64, u64)> {
        for (extent, sources) in std::mem::take(&mut self.extents) {
            let count = sources.iter().flatten().count();
            let mut plain = Vec::with_capacity(count * BLOCK);
            let mut mask = 0u8;
            for (i, source) in sources.iter().enumerate() {
                let Some(at) = source else { continue };
                let start = plain.len();
                plain.resize(start + BLOCK, 0);
                copy(*at, &mut plain[start..]);
                if is_zero(&plain[start..]) {
                    plain.truncate(start);
                    let lba = extent * EXTENT_BLOCKS + i as u64;
                    self.trims.insert(lba, lba + 1, 1);
                } else {
                    mask |= 1 << i;
                }
            }
            if mask != 0 {
                data(extent, mask, plain);
            }
        }
        merged(self.trims)
    }
}

/// Adjacent ranges joined.
fn merged(trims: OpRanges) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(trims.len());
    for (start, end, _) in trims.overlapping(0, u64::MAX) {
        match out.last_mut() {
            Some((s, n)) if *s + *n == start => *n += end - start,
            _ => out.push((start, end - start)),
        }
    }
    out
}

/// Whether every byte is zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Whole words first: the compiler vectorises that.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|w| u128::from_ne_bytes(*w) == 0) && rest.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is to be stored (extent, block mask, bytes), and what is trimmed (from, to).
    type Emitted = (Vec<(u64, u8, Vec<u8>)>, Vec<(u64, u64)>);

    fn emit(c: Coalesced, ring: &[u8]) -> Emitted {
        let mut data = Vec::new();
        let copy = |at: u64, buf: &mut [u8]| buf.copy_from_slice(&ring[at as usize..at as usize + BLOCK]);
        let trims = c.emit(copy, |e, m, p| data.push((e, m, p)));
        (data, trims)
    }

    #[test]
    fn the_newest_content_of_a_block_stays() {
        let mut ring = vec![1u8; 4 * BLOCK];
        ring[2 * BLOCK..].fill(2);
        let mut c = Coalesced::default();
        c.write(7, 2, 0);
        c.write(8, 1, 2 * BLOCK as u64);
        let (data, trims) = emit(c, &ring);
        assert_eq!(data, vec![(0, 0x80, vec![1; BLOCK]), (1, 1, vec![2; BLOCK])]);
        assert!(trims.is_empty());
    }

    #[test]
    fn a_later_trim_kills_data_and_later_data_survives_a_trim() {
        let ring = vec![3u8; 4 * BLOCK];
        let mut c = Coalesced::default();
        c.write(0, 4, 0);
        c.trim(1, 1 << 50);
        c.write(2, 1, 0);
        let (data, trims) = emit(c, &ring);
        assert_eq!(data, vec![(0, 0b101, vec![3; 2 * BLOCK])]);
        assert_eq!(trims, vec![(1, 1 << 50)]);
    }

    #[test]
    fn zero_blocks_store_nothing() {
        let mut ring = vec![0u8; 3 * BLOCK];
        ring[BLOCK + 5] = 1;
        let mut c = Coalesced::default();
        c.write(8, 3, 0);
        let (data, trims) = emit(c, &ring);
        assert_eq!(data.len(), 1);
        assert_eq!((data[0].0, data[0].1), (1, 0b10));
        assert_eq!(trims, vec![(8, 1), (10, 1)]);
    }
}
