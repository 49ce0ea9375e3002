//! The map over a durable tree that somebody with the key made up: nodes of whatever bytes, under changes, lookups and
//! checkpoints.

use std::collections::HashMap;

use esker::map::{
    Checkpoint, Lookup, Map, MapOptions, NodeLoad, Run, Step, decode_usage_directory, decode_usage_pages,
    encode_usage_directory, encode_usage_pages,
};
use esker::segment::{RecordRef, RootRef, SegmentId};

use crate::input::Input;

/// Operations of one input, and nodes that one of them may ask for.
const MAX_OPS: usize = 200;
const MAX_LOADS: usize = 24;

fn record(number: u32) -> RecordRef {
    RecordRef { segment: SegmentId::data(1, 1, u64::from(number % 3)), offset: 32, len: 4000, number }
}

/// A map, and the plaintexts of nodes by place: the input's next chunk the first time, the same ever after.
struct Rig<'a> {
    map: Map,
    nodes: HashMap<RecordRef, Vec<u8>>,
    input: Input<'a>,
    next: u32,
    blocks: u64,
}

/// Accounts that somebody with the key made up: what is taken is written again, and then means the same.
fn accounts(data: &[u8]) {
    if let Ok(usage) = decode_usage_pages([data]) {
        let again = decode_usage_pages(encode_usage_pages(&usage));
        assert_eq!(again.as_ref(), Ok(&usage));
    }
    if let Ok(places) = decode_usage_directory(data) {
        assert_eq!(encode_usage_directory(&places).and_then(|bytes| decode_usage_directory(&bytes)), Ok(places));
    }
}

/// Accounts; then size and root first, then operations.
pub fn run(data: &[u8]) {
    accounts(data);
    let mut input = Input(data);
    let sizes = [1 << 20, 8 << 30, (8 << 30) + 4096, 5 << 40, 1 << 50, (1 << 63) - 4096];
    let size = sizes[usize::from(input.u8()) % sizes.len()];
    let levels = input.u8();
    let root = (levels != 0).then(|| RootRef { record: record(60_000), levels: levels % 8 });
    let Ok(map) = Map::new(MapOptions { size, leaf_cache_bytes: 64 << 10 }, root) else {
        assert!(levels % 8 == 0 || levels % 8 > 5);
        return;
    };
    let mut rig = Rig { map, nodes: HashMap::new(), input, next: 0, blocks: size / 4096 };
    let mut running: Option<Checkpoint> = None;
    for _ in 0..MAX_OPS {
        if rig.input.is_empty() {
            break;
        }
        match rig.input.u8() % 8 {
            0 => rig.look(),
            1 => rig.write(),
            2 => rig.trim(),
            3 => rig.run_of_holes(),
            4 => rig.loads(),
            5 if running.is_none() => running = Some(rig.map.begin_checkpoint()),
            5 | 6 => running = running.take().and_then(|checkpoint| rig.step(checkpoint)),
            // Given up: what it held is dirty again.
            _ => running = None,
        }
    }
    drop(running);
    rig.map.memory();
}

impl Rig<'_> {
    /// Small numbers mostly, so that operations meet each other and the nodes of the input.
    fn extent(&mut self) -> u64 {
        let (kind, n) = (self.input.u8(), self.input.u64());
        match kind % 4 {
            0 => n % 512,
            1 => n % (512 * 513),
            2 => n % (self.blocks / 8).max(1),
            _ => n % (1 << 52),
        }
    }

    /// Hands in one node; false where its bytes are none.
    fn load(&mut self, load: &NodeLoad) -> bool {
        if !self.nodes.contains_key(&load.record) {
            let bytes = self.input.chunk().to_vec();
            self.nodes.insert(load.record, bytes);
        }
        self.map.loaded(load, &self.nodes[&load.record]).is_ok()
    }

    fn look(&mut self) {
        let (extent, want) = (self.extent(), self.input.u8());
        for _ in 0..MAX_LOADS {
            match self.map.lookup(extent, want) {
                Lookup::Pieces(pieces) => {
                    let mut seen = 0;
                    for p in &pieces {
                        assert!(p.visible != 0 && p.visible & seen == 0 && p.visible & !p.original == 0, "{p:?}");
                        seen |= p.visible;
                    }
                    return;
                }
                Lookup::Load(load) if self.load(&load) => {}
                Lookup::Load(_) => return,
            }
        }
        panic!("extent {extent} asks for more nodes than a tree has levels");
    }

    fn write(&mut self) {
        let (extent, mask) = (self.extent(), self.input.u8());
        self.next += 1;
        self.map.apply_data(extent, mask, record(self.next));
    }

    fn trim(&mut self) {
        let (extent, kind, n) = (self.extent(), self.input.u8(), self.input.u64());
        let blocks = match kind % 3 {
            0 => n % 16,
            1 => n % (1 << 20),
            _ => n,
        };
        self.map.apply_trim(extent * 8 + u64::from(kind >> 4), blocks);
    }

    fn run_of_holes(&mut self) {
        let (extent, max) = (self.extent(), self.input.u64() >> self.input.u8() % 64);
        for _ in 0..MAX_LOADS {
            match self.map.hole_run(extent, max) {
                Run::Hole(n) | Run::Mapped(n) => {
                    assert!((1..=max.max(1)).contains(&n), "a run of {n} of {max}");
                    return;
                }
                Run::Mixed(mask) => {
                    assert!(mask != 0 && mask != 0xff);
                    return;
                }
                Run::Load(load) if self.load(&load) => {}
                Run::Load(_) => return,
            }
        }
    }

    fn loads(&mut self) {
        let first = self.extent();
        let last = first.saturating_add(self.input.u64() >> self.input.u8() % 64);
        let loads = self.map.loads_for(first, last);
        assert!(loads.len() <= 256);
        for load in loads.iter().take(MAX_LOADS) {
            self.load(load);
        }
    }

    /// One step of a checkpoint; `None` where it ended, one way or another.
    fn step(&mut self, mut checkpoint: Checkpoint) -> Option<Checkpoint> {
        match checkpoint.next(64) {
            Step::Load(loads) => {
                for load in &loads {
                    if !self.load(load) {
                        return None;
                    }
                }
            }
            Step::Write(nodes) => {
                for node in nodes {
                    let base = node.base.map(|load| self.base(&load));
                    let Ok(bytes) = checkpoint.encode(&node, base.as_deref()) else { return None };
                    let at = bytes.map(|bytes| {
                        self.next += 1;
                        let at = RecordRef { segment: SegmentId::data(1, 2, 1), ..record(self.next) };
                        self.nodes.insert(at, bytes);
                        at
                    });
                    checkpoint.placed(node, at);
                }
            }
            Step::Done => {
                checkpoint.commit();
                return None;
            }
        }
        Some(checkpoint)
    }

    fn base(&mut self, load: &NodeLoad) -> Vec<u8> {
        if !self.nodes.contains_key(&load.record) {
            let bytes = self.input.chunk().to_vec();
            self.nodes.insert(load.record, bytes);
        }
        self.nodes[&load.record].clone()
    }
}
