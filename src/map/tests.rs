//! The map against a plain table of blocks, through checkpoints, give-ups, late loads and crashes.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::geometry::LEAF_BLOCKS;
use super::*;
use crate::segment::SegmentId;

/// Leaves that lie next to every kind of boundary of a tree of three levels.
const LEAVES: [u64; 14] =
    [0, 1, 2, 3, 510, 511, 512, 513, 1023, 1024, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (3 << 18) - 1];
const EXTENTS: [u64; 8] = [0, 1, 2, 63, 64, 255, 510, 511];
/// Three levels; ends within a leaf.
const SIZE: u64 = (3 << 42) - (3 << 20);

type Model = BTreeMap<u64, (RecordRef, u8)>;

#[derive(Debug, Clone)]
enum Change {
    Data { extent: u64, mask: u8, record: RecordRef },
    Trim { lba: u64, blocks: u64 },
}

/// A map, what it should say, and a bucket with its nodes.
struct Rig {
    options: MapOptions,
    map: Map,
    model: Model,
    bucket: HashMap<RecordRef, (u8, u64, Vec<u8>)>,
    /// Changes that the durable root lacks.
    log: Vec<Change>,
    records: u32,
    late: Vec<NodeLoad>,
    running: Option<Running>,
}

struct Running {
    checkpoint: Checkpoint,
    model: Model,
    /// How much of the log it covers.
    covers: usize,
    done: bool,
}

fn apply(model: &mut Model, change: &Change) {
    match change {
        Change::Data { extent, mask, record } => {
            for bit in (0..8).filter(|b| mask >> b & 1 != 0) {
                model.insert(extent * 8 + bit, (*record, *mask));
            }
        }
        Change::Trim { lba, blocks } => {
            let keys: Vec<u64> = model.range(*lba..lba.saturating_add(*blocks)).map(|(k, _)| *k).collect();
            for key in keys {
                model.remove(&key);
            }
        }
    }
}

impl Rig {
    fn new(size: u64, leaf_cache_bytes: usize) -> Self {
        let options = MapOptions { size, leaf_cache_bytes };
        Self {
            options,
            map: Map::new(options, None).unwrap(),
            model: Model::new(),
            bucket: HashMap::new(),
            log: Vec::new(),
            records: 0,
            late: Vec::new(),
            running: None,
        }
    }

    fn new_record(&mut self) -> RecordRef {
        self.records += 1;
        let n = self.records;
        let segment = if n.is_multiple_of(5) {
            SegmentId::data(7, 2, n.into())
        } else {
            SegmentId::log(7, n / 16, (n / 4).into())
        };
        RecordRef { segment, offset: n * 4133, len: 1000 + n % 7, number: n % 60_000 }
    }

    fn change(&mut self, change: Change) {
        match &change {
            Change::Data { extent, mask, record } => self.map.apply_data(*extent, *mask, *record),
            Change::Trim { lba, blocks } => self.map.apply_trim(*lba, *blocks),
        }
        apply(&mut self.model, &change);
        self.log.push(change);
    }

    /// A write; the engine lets none through beyond the volume's end.
    fn data(&mut self, extent: u64, mask: u8) {
        if extent * 8 >= self.map.shared.blocks {
            return;
        }
        let record = self.new_record();
        self.change(Change::Data { extent, mask, record });
    }

    fn trim(&mut self, lba: u64, blocks: u64) {
        self.change(Change::Trim { lba, blocks });
    }

    fn fetch(&self, load: &NodeLoad) -> &[u8] {
        let (level, index, bytes) = &self.bucket[&load.record];
        assert_eq!((*level, *index), (load.level, load.index), "asked for a node by a wrong name");
        bytes
    }

    fn load(&self, load: &NodeLoad) {
        self.map.loaded(load, self.fetch(load)).unwrap();
    }

    fn lookup(&self, extent: u64, want: u8) -> SmallVec<[Piece; 2]> {
        for _ in 0..8 {
            match self.map.lookup(extent, want) {
                Lookup::Pieces(pieces) => return pieces,
                Lookup::Load(load) => self.load(&load),
            }
        }
        panic!("asks for nodes without end");
    }

    fn check(&self, extent: u64, want: u8) {
        let pieces = self.lookup(extent, want);
        let mut seen = 0;
        for p in &pieces {
            assert_ne!(p.visible & want, 0, "a piece that nobody wanted");
            assert_eq!(p.visible & seen, 0, "pieces overlap");
            seen |= p.visible;
            for bit in (0..8).filter(|b| p.visible >> b & 1 != 0) {
                assert_eq!(
                    self.model.get(&(extent * 8 + bit)),
                    Some(&(p.record, p.original)),
                    "block {bit} of {extent:#x}"
                );
            }
        }
        for bit in (0..8).filter(|b| want & !seen & (1 << b) != 0) {
            assert_eq!(self.model.get(&(extent * 8 + bit)), None, "block {bit} of {extent:#x} is lost");
        }
    }

    fn check_all(&self) {
        let mut extents: Vec<u64> = self.model.keys().map(|k| k / 8).collect();
        for leaf in LEAVES {
            extents.extend(EXTENTS.map(|e| leaf << FAN_BITS | e));
        }
        extents.dedup();
        for extent in extents {
            self.check(extent, 0xff);
        }
    }

    /// Walks `hole_run` over the whole volume.
    fn check_runs(&self, step: u64) {
        let end = self.map.shared.blocks.div_ceil(8);
        let (mut at, mut calls) = (0, 0);
        let mut mapped = Model::new();
        while at < end {
            calls += 1;
            assert!(calls < 200_000, "steps are too small");
            match self.map.hole_run(at, step.min(end - at)) {
                Run::Load(load) => self.load(&load),
                Run::Hole(n) => {
                    assert!(n > 0 && n <= step);
                    assert_eq!(self.model.range(at * 8..(at + n) * 8).next(), None, "a hole that is none");
                    at += n;
                }
                Run::Mapped(n) => {
                    assert!(n > 0 && n <= step);
                    for lba in at * 8..(at + n) * 8 {
                        mapped.insert(lba, self.model[&lba]);
                    }
                    at += n;
                }
                Run::Mixed(mask) => {
                    for bit in 0..8 {
                        let lba = at * 8 + bit;
                        assert_eq!(mask >> bit & 1 != 0, self.model.contains_key(&lba));
                        mapped.extend(self.model.get(&lba).map(|v| (lba, *v)));
                    }
                    at += 1;
                }
            }
        }
        assert_eq!(mapped, self.model);
    }

    /// After its loads a range is answered without further ones, if the cache is large enough.
    fn check_loads(&self, first: u64, last: u64) {
        loop {
            let loads = self.map.loads_for(first, last);
            if loads.is_empty() {
                break;
            }
            loads.iter().for_each(|l| self.load(l));
        }
        for extent in first..=last {
            assert!(matches!(self.map.lookup(extent, 0xff), Lookup::Pieces(_)));
        }
    }

    fn begin(&mut self) {
        if self.running.is_none() {
            let checkpoint = self.map.begin_checkpoint();
            self.running = Some(Running { checkpoint, model: self.model.clone(), covers: self.log.len(), done: false });
        }
    }

    fn step(&mut self, max: usize) {
        let Some(mut running) = self.running.take() else { return };
        match running.checkpoint.next(max) {
            Step::Load(loads) => {
                assert!(!loads.is_empty() && loads.len() <= max);
                loads.iter().for_each(|l| self.load(l));
            }
            Step::Write(nodes) => {
                assert!(!nodes.is_empty() && nodes.len() <= max);
                for node in nodes {
                    let base = node.base.map(|l| self.fetch(&l).to_vec());
                    let bytes = running.checkpoint.encode(&node, base.as_deref()).unwrap();
                    let at = bytes.is_some().then(|| self.new_record());
                    if let (Some(at), Some(bytes)) = (at, bytes) {
                        self.bucket.insert(at, (node.level, node.index, bytes));
                    }
                    running.checkpoint.placed(node, at);
                }
            }
            Step::Done => running.done = true,
        }
        self.running = Some(running);
    }

    /// Finishes the checkpoint that runs; a map of its root alone must say what held at its begin.
    fn commit(&mut self) {
        while self.running.as_ref().is_some_and(|r| !r.done) {
            self.step(3);
        }
        let Some(running) = self.running.take() else { return };
        let root = running.checkpoint.root();
        running.checkpoint.commit();
        self.log.drain(..running.covers);
        assert_eq!(self.map.root(), root);
        if self.log.is_empty() {
            assert_eq!(self.map.dirty_bytes(), 0, "all is committed, yet dirty");
        }
        let fresh = self.reopened(root, self.options.size, running.model);
        fresh.check_all();
        fresh.check_runs(u64::MAX);
    }

    fn abort(&mut self) {
        drop(self.running.take());
    }

    fn reopened(&self, root: Option<RootRef>, size: u64, model: Model) -> Rig {
        let options = MapOptions { size, ..self.options };
        let map = Map::new(options, root).unwrap();
        let bucket = self.bucket.clone();
        Rig { options, map, model, bucket, log: Vec::new(), records: self.records, late: Vec::new(), running: None }
    }

    /// The process dies: what comes back is the committed root and the changes that it lacks.
    fn crash(&mut self, size: u64) {
        self.abort();
        let mut after = self.reopened(self.map.root(), size, Model::new());
        for change in std::mem::take(&mut self.log) {
            after.change(change);
        }
        after.model = std::mem::take(&mut self.model);
        *self = after;
    }

    /// What the map says of its memory is so.
    fn audit(&self) {
        let state = self.map.shared.state.read();
        state.base.audit();
        for layer in [Some(&state.delta), state.frozen.as_deref()].into_iter().flatten() {
            assert_eq!(layer.bytes(), layer.counted_bytes());
            assert_eq!(layer.bytes() == 0, layer.is_empty());
        }
    }

    /// Asks for a node now, and gets it at some later time.
    fn ask(&mut self, extent: u64) {
        if let Lookup::Load(load) = self.map.lookup(extent, 0xff) {
            self.late.push(load);
        }
    }

    fn deliver(&mut self) {
        for load in std::mem::take(&mut self.late) {
            self.load(&load);
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Data(u64, u8),
    Fill(u64, u64),
    Trim(u64, u64),
    Lookup(u64, u8),
    Runs(u64),
    Ask(u64),
    Deliver,
    Begin,
    Step(usize),
    Commit,
    Abort,
    Crash,
}

fn extent() -> impl Strategy<Value = u64> {
    (0..LEAVES.len(), 0..EXTENTS.len()).prop_map(|(l, e)| LEAVES[l] << FAN_BITS | EXTENTS[e])
}

fn lba() -> impl Strategy<Value = u64> {
    prop_oneof![
        (extent(), 0u64..8).prop_map(|(e, b)| e * 8 + b),
        (0..LEAVES.len()).prop_map(|l| LEAVES[l] * LEAF_BLOCKS),
        Just(SIZE / 4096),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (extent(), 1u8..).prop_map(|(e, m)| Op::Data(e, m)),
        2 => (extent(), 1u64..1100).prop_map(|(e, n)| Op::Fill(e, n)),
        5 => (lba(), lba()).prop_map(|(a, b)| Op::Trim(a.min(b), a.max(b) - a.min(b))),
        4 => (lba(), 0u64..5000).prop_map(|(a, n)| Op::Trim(a, n)),
        5 => (extent(), 1u8..).prop_map(|(e, m)| Op::Lookup(e, m)),
        1 => (100u64..20_000).prop_map(Op::Runs),
        2 => extent().prop_map(Op::Ask),
        1 => Just(Op::Deliver),
        4 => Just(Op::Begin),
        4 => (1usize..5).prop_map(Op::Step),
        3 => Just(Op::Commit),
        1 => Just(Op::Abort),
        1 => Just(Op::Crash),
    ]
}

fn run(rig: &mut Rig, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Data(extent, mask) => rig.data(extent, mask),
            Op::Fill(extent, n) => (extent..extent + n).for_each(|e| rig.data(e, 0xff)),
            Op::Trim(lba, blocks) => rig.trim(lba, blocks),
            Op::Lookup(extent, want) => rig.check(extent, want),
            Op::Runs(step) => rig.check_runs(step << FAN_BITS),
            Op::Ask(extent) => rig.ask(extent),
            Op::Deliver => rig.deliver(),
            Op::Begin => rig.begin(),
            Op::Step(max) => rig.step(max),
            Op::Commit => {
                rig.begin();
                rig.commit();
            }
            Op::Abort => rig.abort(),
            Op::Crash => rig.crash(rig.options.size),
        }
        rig.audit();
    }
    rig.deliver();
    rig.check_all();
    rig.check_runs(u64::MAX);
    rig.commit();
    rig.begin();
    rig.commit();
    rig.check_all();
    rig.crash(rig.options.size);
    rig.check_all();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn answers_like_a_table_of_blocks(cache in prop_oneof![Just(0usize), Just(4000), Just(1 << 20)],
                                      ops in prop::collection::vec(op(), 1..60)) {
        run(&mut Rig::new(SIZE, cache), ops);
    }

    #[test]
    fn a_grown_volume_keeps_what_it_held(before in prop::collection::vec((0u64..1 << 17, 1u8..), 0..20),
                                         after in prop::collection::vec(op(), 0..20)) {
        let mut rig = Rig::new(4 << 30, 1 << 20);
        for (extent, mask) in before {
            rig.data(extent, mask);
        }
        rig.begin();
        rig.commit();
        rig.crash(SIZE);
        run(&mut rig, after);
    }
}

#[test]
fn a_range_knows_all_that_it_lacks() {
    let mut rig = Rig::new(SIZE, 8 << 20);
    for leaf in 500..530 {
        rig.data(leaf << FAN_BITS, 0x0f);
    }
    rig.begin();
    rig.commit();
    rig.crash(SIZE);
    rig.data(515 << FAN_BITS, 0xff);
    assert_eq!(rig.map.loads_for(515 << FAN_BITS, 515 << FAN_BITS), [], "the delta decides");
    assert_eq!(rig.map.loads_for(0, 1 << 20).len(), 1, "only the root is known");
    rig.check_loads(500 << FAN_BITS, 531 << FAN_BITS);
}

#[test]
fn a_huge_trim_costs_little() {
    let mut rig = Rig::new(1 << 63, 1 << 20);
    for i in 0..300 {
        rig.data((i * 0x1234_5678_9abc) % (1 << 48), 0xff);
    }
    rig.begin();
    rig.commit();
    rig.crash(1 << 63);
    rig.trim(1, (1 << 51) - 3);
    assert!(rig.map.dirty_bytes() < 2000, "{}", rig.map.dirty_bytes());
    rig.begin();
    let mut loads = 0;
    while let Step::Load(l) = rig.running.as_mut().unwrap().checkpoint.next(100) {
        loads += l.len();
        l.iter().for_each(|l| rig.load(l));
    }
    assert!(loads <= 10, "the two edges only: {loads}");
    rig.abort();
    rig.begin();
    rig.commit();
    assert_eq!(rig.model.len(), 1, "block 0 is left");
    rig.trim(0, 1);
    rig.begin();
    rig.commit();
    assert_eq!(rig.map.root(), None);
}

#[test]
fn a_trim_of_nothing_leaves_no_trace() {
    let rig = Rig::new(SIZE, 1 << 20);
    rig.map.apply_trim(0, SIZE / 4096);
    rig.map.apply_trim(77, 12_345_678);
    rig.map.apply_trim(5, 1);
    rig.map.apply_trim(u64::MAX, u64::MAX);
    assert_eq!(rig.map.dirty_bytes(), 0);
    rig.map.apply_data(u64::MAX, 0xff, RecordRef { segment: SegmentId::log(1, 1, 1), offset: 0, len: 1, number: 0 });
    assert_eq!(rig.map.dirty_bytes(), 0, "no volume of three levels has that extent");
}

#[test]
fn an_unchanged_leaf_is_not_written_again() {
    let mut rig = Rig::new(SIZE, 0);
    rig.data(5, 0x0f);
    rig.begin();
    rig.commit();
    let root = rig.map.root();
    // Zeroes where there were zeroes: the leaf must be read to know, and nothing is written.
    rig.trim(9 * 8, 4);
    rig.trim(3 << 30, 1 << 20);
    let written = rig.bucket.len();
    rig.begin();
    rig.commit();
    assert_eq!((rig.map.root(), rig.bucket.len()), (root, written));
}

#[test]
fn clean_leaves_stay_within_their_bound() {
    let mut rig = Rig::new(SIZE, 64 << 10);
    for leaf in 0..200 {
        (0..64).for_each(|e| rig.data(leaf << FAN_BITS | e, 0xff));
    }
    rig.begin();
    rig.commit();
    for leaf in 0..200 {
        rig.check(leaf << FAN_BITS, 1);
        assert!(rig.map.memory().leaf_bytes <= 64 << 10);
    }
    assert!(rig.map.memory().leaf_bytes > 32 << 10, "and use it");
}

#[test]
fn hostile_nodes_and_roots_are_errors() {
    let record = RecordRef { segment: SegmentId::data(1, 1, 1), offset: 0, len: 100, number: 0 };
    for levels in [0, 6, 255] {
        let root = RootRef { record, levels };
        assert_eq!(
            Map::new(MapOptions { size: SIZE, leaf_cache_bytes: 0 }, Some(root)).err(),
            Some(MapError::Levels(levels))
        );
    }
    let root = RootRef { record, levels: 3 };
    let map = Map::new(MapOptions { size: SIZE, leaf_cache_bytes: 0 }, Some(root)).unwrap();
    let Lookup::Load(load) = map.lookup(0, 1) else { panic!("the root is not loaded") };
    assert_eq!(load, NodeLoad { level: 3, index: 0, record });
    assert!(matches!(map.loaded(&load, b"junk"), Err(MapError::Node { level: 3, index: 0, .. })));
    assert!(matches!(map.loaded(&load, &[]), Err(MapError::Node { .. })));
}

#[test]
fn readers_never_see_a_checkpoint_pass() {
    let mut rig = Rig::new(SIZE, 4096);
    for i in 0..2000u64 {
        rig.data(i * 37 % 5000, 0xff);
    }
    rig.begin();
    rig.commit();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (map, model, bucket) = (rig.map.clone(), rig.model.clone(), rig.bucket.clone());
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut i = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                i += 1;
                // Extents from 5000 on change; those before must not, whatever else happens.
                let extent = i * 101 % 5000;
                match map.lookup(extent, 1) {
                    Lookup::Pieces(p) => {
                        assert_eq!(p.first().map(|p| (p.record, p.original)), model.get(&(extent * 8)).copied())
                    }
                    Lookup::Load(load) => {
                        // A node written meanwhile is not in this copy of the bucket; the leaf is asked for again.
                        if let Some((_, _, bytes)) = bucket.get(&load.record) {
                            map.loaded(&load, bytes).unwrap();
                        }
                    }
                }
            }
        });
        for round in 0..30u64 {
            for i in 0..200 {
                rig.data(5000 + (i * 7 + round) % 3000, 0x3c);
            }
            rig.trim((5000 + round * 10) * 8, 777);
            rig.begin();
            rig.step(4);
            rig.data(5001, 0xff);
            if round % 3 == 0 { rig.abort() } else { rig.commit() }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    rig.check_all();
}

#[test]
fn work_may_go_to_other_threads() {
    fn sendable<T: Send + Sync + 'static>() {}
    sendable::<Map>();
    sendable::<Checkpoint>();
    sendable::<NodeToWrite>();
}
