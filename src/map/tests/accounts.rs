//! Accounts carried along from change to change, and the same counted anew.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::map::*;
use crate::segment::SegmentId;

type Bucket = HashMap<RecordRef, (u8, u64, Vec<u8>)>;

#[derive(Default)]
pub struct Accounts {
    pub usage: Usage,
    /// As the last checkpoint stored them.
    stored: Vec<Vec<u8>>,
}

impl Accounts {
    /// Takes a committed checkpoint's change over and stores the result.
    pub fn checkpoint(&mut self, change: &UsageChange) {
        self.apply(change);
        self.stored = encode_usage_pages(&self.usage);
    }

    fn apply(&mut self, change: &UsageChange) {
        for id in change.segments.keys() {
            self.usage.add(*id, 1 << 20, id.number());
        }
        self.usage.apply(change).unwrap();
    }

    /// What a successor reads.
    pub fn reopened(&self) -> Self {
        Self { usage: decode_usage_pages(&self.stored).unwrap(), stored: self.stored.clone() }
    }

    /// Walks some nodes of the free list.
    pub fn walk(&mut self, nodes: usize, bucket: &Bucket) {
        for _ in 0..nodes {
            let Some(load) = self.usage.dropped.first().copied() else { return };
            let mut change = UsageChange::default();
            change.walk(&load, &node(bucket, &load)).unwrap();
            self.apply(&change);
            assert!(self.usage.apply(&change).is_err(), "nothing is walked twice");
        }
    }

    /// Counts all that the tree and the free list refer to.
    pub fn check(&self, root: Option<RootRef>, bucket: &Bucket) {
        let root = root.map(|r| NodeLoad { level: r.levels, index: 0, record: r.record });
        let mut queue: Vec<NodeLoad> = root.into_iter().chain(self.usage.dropped.iter().copied()).collect();
        let mut counted: BTreeMap<SegmentId, (u32, u32, u32)> = BTreeMap::new();
        let mut seen = HashSet::new();
        while let Some(load) = queue.pop() {
            assert!(seen.insert(load.record), "{load:?} is in the tree and on the free list, or twice on that");
            let account = counted.entry(load.record.segment).or_default();
            account.0 += load.record.len;
            account.2 += 1;
            match read_node(load.level, load.index, &node(bucket, &load)).unwrap() {
                NodeContent::Inner(children) => queue.extend(children),
                NodeContent::Leaf(pieces) => {
                    let distinct: HashSet<_> = pieces.iter().map(|(extent, p)| (extent, p.record)).collect();
                    assert_eq!(distinct.len(), pieces.len(), "two pieces for one record");
                    for (_, p) in pieces {
                        let account = counted.entry(p.record.segment).or_default();
                        let (visible, all) = (p.visible.count_ones(), p.original.count_ones());
                        account.0 += (p.record.len * visible).div_ceil(all);
                        account.1 += visible;
                    }
                }
            }
        }
        let live = self.usage.segments.iter().filter(|(_, s)| !s.is_dead());
        let carried: BTreeMap<_, _> = live.map(|(id, s)| (*id, (s.live, s.blocks, s.nodes))).collect();
        assert_eq!(carried, counted);
    }
}

fn node(bucket: &Bucket, load: &NodeLoad) -> Vec<u8> {
    let (level, index, bytes) = &bucket[&load.record];
    assert_eq!((*level, *index), (load.level, load.index));
    bytes.clone()
}
