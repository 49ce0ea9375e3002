//! Ranges of whole leaves that a change erased: what a large trim costs, however large it is.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-adjacent, non-empty ranges of leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cuts {
    /// start -> end (exclusive)
    ranges: BTreeMap<u64, u64>,
}

impl Cuts {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&a, &b)| a..b)
    }

    /// Adds a range, joining what it touches.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&a, &b)) = self.ranges.range(..start).next_back()
            && b >= start
        {
            start = a;
            end = end.max(b);
        }
        while let Some((&a, &b)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&a);
            end = end.max(b);
        }
        self.ranges.insert(start, end);
    }

    /// The end of the range that holds `leaf`, if one does.
    pub fn end_at(&self, leaf: u64) -> Option<u64> {
        if self.ranges.is_empty() {
            return None;
        }
        let (_, &end) = self.ranges.range(..=leaf).next_back()?;
        (end > leaf).then_some(end)
    }

    /// Whether one leaf is cut.
    pub fn holds(&self, leaf: u64) -> bool {
        self.end_at(leaf).is_some()
    }

    /// Whether all of a non-empty range is cut.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        self.end_at(range.start).is_some_and(|end| end >= range.end)
    }

    /// Whether any leaf of a range is cut.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.holds(range.start) || self.ranges.range(range.clone()).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(ranges in prop::collection::vec((0u64..60, 0u64..12), 0..30), probe in (0u64..60, 1u64..12)) {
            let mut cuts = Cuts::default();
            let mut set = std::collections::BTreeSet::new();
            for (a, n) in ranges {
                cuts.insert(a..a + n);
                set.extend(a..a + n);
            }
            let flat: Vec<u64> = cuts.iter().flatten().collect();
            prop_assert_eq!(flat, set.iter().copied().collect::<Vec<_>>());
            let ends: Vec<_> = cuts.iter().collect();
            prop_assert!(ends.windows(2).all(|w| w[0].end < w[1].start));
            let r = probe.0..probe.0 + probe.1;
            prop_assert_eq!(cuts.covers(&r), r.clone().all(|x| set.contains(&x)));
            prop_assert_eq!(cuts.touches(&r), r.clone().any(|x| set.contains(&x)));
            prop_assert_eq!(cuts.holds(r.start), set.contains(&r.start));
        }
    }
}
