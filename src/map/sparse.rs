//! An array of 512 places that stores only those in use: a bitmap and the items packed in order.

use std::ops::Range;

use super::geometry::FANOUT;

/// Up to 512 items by place. Finding one costs a few population counts; memory follows what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse<T> {
    bits: [u64; FANOUT / 64],
    items: Vec<T>,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self { bits: [0; FANOUT / 64], items: Vec::new() }
    }
}

impl<T> Sparse<T> {
    /// How many items lie before place `at`; `at` may be 512.
    fn rank(&self, at: usize) -> usize {
        let (word, bit) = (at / 64, at % 64);
        let whole: u32 = self.bits[..word].iter().map(|w| w.count_ones()).sum();
        let part = if bit == 0 { 0 } else { (self.bits[word] & ((1 << bit) - 1)).count_ones() };
        (whole + part) as usize
    }

    pub fn has(&self, at: u16) -> bool {
        self.bits[at as usize / 64] >> (at % 64) & 1 != 0
    }

    pub fn get(&self, at: u16) -> Option<&T> {
        self.has(at).then(|| &self.items[self.rank(at.into())])
    }

    /// The item at a place, made where there is none.
    pub fn get_or_insert(&mut self, at: u16, make: impl FnOnce() -> T) -> &mut T {
        let rank = self.rank(at.into());
        if !self.has(at) {
            self.bits[at as usize / 64] |= 1 << (at % 64);
            self.items.insert(rank, make());
        }
        &mut self.items[rank]
    }

    pub fn remove(&mut self, at: u16) -> Option<T> {
        if !self.has(at) {
            return None;
        }
        let rank = self.rank(at.into());
        self.bits[at as usize / 64] &= !(1 << (at % 64));
        Some(self.items.remove(rank))
    }

    /// Takes all items of a range of places out.
    pub fn remove_range(&mut self, range: Range<usize>) -> Vec<T> {
        let ranks = self.rank(range.start)..self.rank(range.end);
        for at in range {
            self.bits[at / 64] &= !(1 << (at % 64));
        }
        self.items.drain(ranks).collect()
    }

    /// The first used place at or after `from`.
    pub fn next(&self, from: u16) -> Option<u16> {
        let mut word = from as usize / 64;
        let mut bits = *self.bits.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.bits.get(word)?;
        }
        Some((word * 64) as u16 + bits.trailing_zeros() as u16)
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Places and items, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &T)> + Clone {
        let mut at = 0;
        self.items.iter().map(move |item| {
            let place = self.next(at).expect("as many bits as items");
            at = place + 1;
            (place, item)
        })
    }

    /// Gives back what growth reserved.
    pub fn shrink(&mut self) {
        self.items.shrink_to_fit();
    }

    /// Bytes on the heap, without what items own.
    pub fn heap_bytes(&self) -> usize {
        self.items.capacity() * size_of::<T>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((0u8..4, 0u16..512, 0u16..512), 0..80)) {
            let mut sparse = Sparse::default();
            let mut model = BTreeMap::new();
            for (op, a, b) in ops {
                match op {
                    0 | 1 => {
                        *sparse.get_or_insert(a, || 0) = b;
                        model.insert(a, b);
                    }
                    2 => prop_assert_eq!(sparse.remove(a), model.remove(&a)),
                    _ => {
                        let (a, b) = (a.min(b), a.max(b));
                        let taken = sparse.remove_range(a.into()..usize::from(b) + 1);
                        let keys: Vec<u16> = model.range(a..=b).map(|(k, _)| *k).collect();
                        prop_assert_eq!(taken, keys.iter().filter_map(|k| model.remove(k)).collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(sparse.iter().map(|(k, v)| (k, *v)).collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(sparse.next(a), model.range(a..).next().map(|(k, _)| *k));
                prop_assert_eq!(sparse.get(a), model.get(&a));
            }
        }
    }
}
