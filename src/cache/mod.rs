//! Decrypted pieces in memory, bounded by bytes.
//!
//! Entries are keyed by record, so they never change; what is no longer referred to ages out.

use bytes::Bytes;
use quick_cache::OptionsBuilder;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use rustc_hash::FxBuildHasher;

use crate::probe::{Mutant, planted};
use crate::segment::{RecordRef, SegmentId};

/// Names one record: its segment and its number there.
pub type RecordKey = (SegmentId, u32);

/// The key of a record.
pub fn key_of(record: &RecordRef) -> RecordKey {
    let number = if planted(Mutant::CacheKeyTooShort) { 0 } else { record.number };
    (record.segment, number)
}

/// Parts with a lock and a share of the room each; a fixed number, so that the same requests always evict the same.
const SHARDS: usize = 32;
/// What an entry costs besides its bytes: key, handle, bookkeeping.
const OVERHEAD: u64 = 128;

#[derive(Clone)]
struct ByBytes;

impl Weighter<RecordKey, Bytes> for ByBytes {
    fn weight(&self, _: &RecordKey, value: &Bytes) -> u64 {
        value.len() as u64 + OVERHEAD
    }
}

/// See the module. Shared by all readers of a volume.
pub struct MemoryCache {
    cache: Cache<RecordKey, Bytes, ByBytes, FxBuildHasher>,
}

impl MemoryCache {
    /// A cache of at most `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        let typical = (bytes / 8192).clamp(16, 1 << 22) as usize;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(typical)
            .weight_capacity(bytes)
            .shards(SHARDS)
            .build()
            .expect("items and bytes are given");
        let cache = Cache::with_options(options, ByBytes, FxBuildHasher, DefaultLifecycle::default());
        Self { cache }
    }

    /// The plaintext of a record: the blocks of its original mask, back to back.
    pub fn get(&self, key: &RecordKey) -> Option<Bytes> {
        self.cache.get(key)
    }

    /// Enters a record's plaintext. `Bytes` that are part of something larger would pin it: callers own what they pass.
    pub fn insert(&self, key: RecordKey, plaintext: Bytes) {
        self.cache.insert(key, plaintext);
    }

    /// Forgets a record that nothing refers to any more.
    pub fn remove(&self, key: &RecordKey) {
        self.cache.remove(key);
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.cache.weight()
    }

    /// Bytes allowed.
    pub fn capacity(&self) -> u64 {
        self.cache.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_holds_more_than_it_may() {
        let cache = MemoryCache::new(1 << 20);
        for n in 0..1000u32 {
            cache.insert((SegmentId::log(1, 1, 1), n), Bytes::from(vec![n as u8; 4096]));
        }
        assert!(cache.used() <= 1 << 20);
        assert!(cache.used() > 1 << 19);
        assert_eq!(cache.capacity(), 1 << 20);
        let kept = (0..1000u32).filter_map(|n| Some((n, cache.get(&(SegmentId::log(1, 1, 1), n))?)));
        assert!(kept.inspect(|(n, b)| assert_eq!(b[0], *n as u8)).count() > 100);
        (0..1000u32).for_each(|n| cache.remove(&(SegmentId::log(1, 1, 1), n)));
        assert_eq!(cache.used(), 0);
    }
}
