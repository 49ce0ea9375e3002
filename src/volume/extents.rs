//! Which parts of a range are allocated, for block status.

use std::sync::Arc;

use esker_block::{BlockResult, Extent};

use super::engine::Engine;
use crate::map::{Lookup, Run};
use crate::segment::{BLOCK, EXTENT, EXTENT_BLOCKS};

/// Extents looked at for one answer: it covers a prefix of what was asked for.
const LOOKS: usize = 65_536;

/// Runs of one kind, gathered.
struct Runs {
    out: Vec<Extent>,
    max: usize,
    end: u64,
    at: u64,
}

impl Runs {
    /// Adds `[at, to)`; false when the answer is full.
    fn add(&mut self, to: u64, hole: bool) -> bool {
        let to = to.min(self.end);
        if to <= self.at {
            return true;
        }
        let len = to - self.at;
        let full = self.out.len() == self.max;
        match self.out.last_mut() {
            Some(last) if last.hole == hole => last.len += len,
            _ if full => return false,
            _ => self.out.push(Extent { len, hole }),
        }
        self.at = to;
        true
    }
}

impl Engine {
    /// See [`esker_block::BlockDevice::block_status`].
    pub(super) async fn block_status(self: &Arc<Self>, offset: u64, len: u64, max: usize) -> BlockResult<Vec<Extent>> {
        self.check_range(offset, len)?;
        let mut runs = Runs { out: Vec::new(), max: max.max(1), end: offset + len, at: offset };
        let mut looks = 0;
        while runs.at < runs.end && looks < LOOKS {
            looks += 1;
            let extent = runs.at / EXTENT as u64;
            let base = extent * EXTENT as u64;
            // Many extents in one step, where neither journal nor map knows anything.
            if runs.at == base && self.index.is_empty() {
                let (count, hole) = match self.map.hole_run(extent, (runs.end - base).div_ceil(EXTENT as u64)) {
                    Run::Hole(n) => (n, true),
                    Run::Mapped(n) => (n, false),
                    Run::Load(load) => {
                        self.load_nodes(&[load]).await?;
                        continue;
                    }
                    Run::Mixed(_) => (0, false),
                };
                if count > 0 {
                    if !runs.add(base.saturating_add(count.saturating_mul(EXTENT as u64)), hole) {
                        break;
                    }
                    continue;
                }
            }
            let mask = self.allocated(extent).await?;
            let first = ((runs.at - base) / BLOCK as u64) as u8;
            let full = (first..EXTENT_BLOCKS as u8)
                .any(|i| !runs.add(base + (u64::from(i) + 1) * BLOCK as u64, mask >> i & 1 == 0));
            if full {
                break;
            }
        }
        Ok(runs.out)
    }

    /// The blocks of an extent that hold data.
    async fn allocated(self: &Arc<Self>, extent: u64) -> BlockResult<u8> {
        loop {
            let known = self.index.lookup(extent, 0xff, |_, _| ());
            let rest = !(known.data | known.zero);
            if rest == 0 {
                return Ok(known.data);
            }
            match self.map.lookup(extent, rest) {
                Lookup::Load(load) => self.load_nodes(&[load]).await?,
                Lookup::Pieces(pieces) => {
                    let mapped = pieces.iter().fold(0, |m, p| m | p.visible);
                    return Ok(known.data | (mapped & rest));
                }
            }
        }
    }

    /// See [`esker_block::BlockDevice::prefetch`].
    pub(super) async fn prefetch(self: &Arc<Self>, offset: u64, len: u64) {
        // More than the cache holds would only push itself out.
        let len = len.min(self.tuning.cache_bytes / 2);
        // Advice: a read that needs these bytes meets the error itself.
        drop(self.warm(offset, len).await);
    }
}
