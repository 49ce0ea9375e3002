//! Clean leaves in memory, bounded; the least recently used go first, approximately (second chance).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::hash::FastHash;
use super::node::Leaf;
use crate::segment::RecordRef;

const SHARDS: usize = 16;
/// So many leaves stay, however large and however small the limit: a request that needs two at once must find both.
const FEWEST: usize = 8;
/// What an entry costs beyond its leaf.
const ENTRY_BYTES: usize = 96;

#[derive(Debug)]
struct Cached {
    /// What the leaf was read from: an entry counts only for who wants this record.
    record: RecordRef,
    leaf: Leaf,
    used: AtomicBool,
}

#[derive(Debug, Default)]
struct Shard {
    by_leaf: HashMap<u64, Cached, FastHash>,
    /// The clock: all leaves of the shard, and its hand.
    ring: Vec<u64>,
    hand: usize,
}

/// The cache. An entry is found by leaf and record, and a record never changes: a stale entry is merely not found.
#[derive(Debug)]
pub struct LeafCache {
    shards: [RwLock<Shard>; SHARDS],
    bytes: AtomicUsize,
    leaves: AtomicUsize,
    limit: usize,
    sweep: AtomicUsize,
}

impl LeafCache {
    pub fn new(limit: usize) -> Self {
        Self {
            shards: Default::default(),
            bytes: AtomicUsize::new(0),
            leaves: AtomicUsize::new(0),
            limit,
            sweep: AtomicUsize::new(0),
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    fn shard(&self, leaf: u64) -> &RwLock<Shard> {
        &self.shards[(leaf ^ (leaf >> 9)) as usize % SHARDS]
    }

    /// Looks into a leaf.
    pub fn with<T>(&self, leaf: u64, record: &RecordRef, f: impl FnOnce(&Leaf) -> T) -> Option<T> {
        let shard = self.shard(leaf).read();
        let cached = shard.by_leaf.get(&leaf).filter(|c| c.record == *record)?;
        if !cached.used.load(Ordering::Relaxed) {
            cached.used.store(true, Ordering::Relaxed);
        }
        Some(f(&cached.leaf))
    }

    pub fn get(&self, leaf: u64, record: &RecordRef) -> Option<Leaf> {
        let shard = self.shard(leaf).read();
        shard.by_leaf.get(&leaf).filter(|c| c.record == *record).map(|c| c.leaf.clone())
    }

    pub fn has(&self, leaf: u64, record: &RecordRef) -> bool {
        self.shard(leaf).read().by_leaf.get(&leaf).is_some_and(|c| c.record == *record)
    }

    /// Keeps a leaf, and makes room. The newest leaves stay, however large: [`FEWEST`].
    pub fn insert(&self, leaf: u64, record: RecordRef, content: Leaf) {
        let size = content.bytes() + ENTRY_BYTES;
        let new = Cached { record, leaf: content, used: AtomicBool::new(false) };
        let old = {
            let mut shard = self.shard(leaf).write();
            let shard = &mut *shard;
            match shard.by_leaf.entry(leaf) {
                Entry::Occupied(mut e) => Some(e.insert(new)),
                Entry::Vacant(e) => {
                    e.insert(new);
                    shard.ring.push(leaf);
                    self.leaves.fetch_add(1, Ordering::Relaxed);
                    None
                }
            }
        };
        self.bytes.fetch_add(size, Ordering::Relaxed);
        if let Some(old) = old {
            self.bytes.fetch_sub(old.leaf.bytes() + ENTRY_BYTES, Ordering::Relaxed);
        }
        let mut idle = 0;
        while self.bytes() > self.limit && self.leaves.load(Ordering::Relaxed) > FEWEST && idle < SHARDS {
            let at = self.sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
            match self.shards[at].write().evict(leaf) {
                Some(freed) => {
                    self.bytes.fetch_sub(freed, Ordering::Relaxed);
                    self.leaves.fetch_sub(1, Ordering::Relaxed);
                    idle = 0;
                }
                None => idle += 1,
            }
        }
    }
}

impl Shard {
    /// Drops one leaf that was not used since the hand last passed, never `except`; answers the bytes it held.
    fn evict(&mut self, except: u64) -> Option<usize> {
        for _ in 0..2 * self.ring.len() {
            self.hand %= self.ring.len();
            let leaf = self.ring[self.hand];
            let cached = self.by_leaf.get(&leaf).expect("the ring names what is in the map");
            if leaf == except || cached.used.swap(false, Ordering::Relaxed) {
                self.hand += 1;
                continue;
            }
            self.ring.swap_remove(self.hand);
            let cached = self.by_leaf.remove(&leaf).expect("just seen");
            return Some(cached.leaf.bytes() + ENTRY_BYTES);
        }
        None
    }
}
