//! Disjoint ranges of blocks, each with the operation number that it belongs to; the higher number wins.

use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OpRanges {
    /// start -> (end, op)
    map: BTreeMap<u64, (u64, u64)>,
}

impl OpRanges {
    /// Number of ranges.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Enters `[start, end)` with `op`; parts that a higher operation holds stay with it.
    pub(super) fn insert(&mut self, start: u64, end: u64, op: u64) {
        if start >= end {
            return;
        }
        let hit: Vec<(u64, u64, u64)> = self.overlapping(start, end).collect();
        let mut at = start;
        for (s, e, o) in hit {
            if o >= op {
                // The newer range stays; ours fills the gap before it.
                if at < s {
                    self.map.insert(at, (s, op));
                }
                at = at.max(e);
                continue;
            }
            self.map.remove(&s);
            if s < start {
                self.map.insert(s, (start, o));
            }
            if e > end {
                self.map.insert(end, (e, o));
            }
        }
        if at < end {
            self.map.insert(at, (end, op));
        }
    }

    /// The ranges that touch `[start, end)`, in order, as (start, end, op).
    pub(super) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let before = self.map.range(..start).next_back().filter(move |(_, (e, _))| *e > start);
        before.into_iter().chain(self.map.range(start..end)).map(|(s, (e, o))| (*s, *e, *o))
    }

    /// Forgets ranges of operations up to `through`.
    pub(super) fn drop_through(&mut self, through: u64) {
        self.map.retain(|_, (_, op)| *op > through);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_an_array(ops in prop::collection::vec((0u64..64, 1u64..32, 1u64..40), 1..40)) {
            let mut ranges = OpRanges::default();
            let mut model = [0u64; 96];
            for (start, len, op) in ops {
                ranges.insert(start, start + len, op);
                for m in &mut model[start as usize..(start + len) as usize] {
                    *m = (*m).max(op);
                }
                let mut got = [0u64; 96];
                let mut last = 0;
                for (s, e, o) in ranges.overlapping(0, 96) {
                    prop_assert!(s >= last && s < e);
                    last = e;
                    got[s as usize..e as usize].fill(o);
                }
                prop_assert_eq!(got, model);
            }
        }
    }
}
