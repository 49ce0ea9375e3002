//! A map next to what it should say, with a bucket of nodes and accounts beside it.

use std::collections::{BTreeMap, HashMap};

use super::accounts::Accounts;
use super::{EXTENTS, LEAVES};
use crate::map::*;
use crate::segment::SegmentId;

pub type Model = BTreeMap<u64, (RecordRef, u8)>;

#[derive(Debug, Clone)]
pub enum Change {
    Data { extent: u64, mask: u8, record: RecordRef },
    Trim { lba: u64, blocks: u64 },
    Move(Relocation),
}

/// A map, what it should say, and a bucket with its nodes.
pub struct Rig {
    pub options: MapOptions,
    pub map: Map,
    pub model: Model,
    pub bucket: HashMap<RecordRef, (u8, u64, Vec<u8>)>,
    /// Changes that the durable root lacks.
    pub log: Vec<Change>,
    pub records: u32,
    pub late: Vec<NodeLoad>,
    pub running: Option<Running>,
    /// All records that an extent ever had.
    pub history: BTreeMap<u64, Vec<(RecordRef, u8)>>,
    pub accounts: Accounts,
    /// Nodes that the next checkpoint is to write anew.
    pub rewrites: Vec<NodeLoad>,
}

pub struct Running {
    pub checkpoint: Checkpoint,
    pub model: Model,
    pub rewrites: Vec<NodeLoad>,
    /// How much of the log it covers.
    pub covers: usize,
    pub done: bool,
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
        Change::Move(r) => {
            for bit in (0..8).filter(|b| (r.mask & r.original) >> b & 1 != 0) {
                if let Some(at) = model.get_mut(&(r.extent * 8 + bit)).filter(|at| at.0 == r.from) {
                    *at = (r.to, r.original);
                }
            }
        }
    }
}

impl Rig {
    pub fn new(size: u64, leaf_cache_bytes: usize) -> Self {
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
            history: BTreeMap::new(),
            accounts: Accounts::default(),
            rewrites: Vec::new(),
        }
    }

    pub fn new_record(&mut self) -> RecordRef {
        self.records += 1;
        let n = self.records;
        let segment = if n.is_multiple_of(5) {
            SegmentId::data(7, 2, n.into())
        } else {
            SegmentId::log(7, n / 16, (n / 4).into())
        };
        RecordRef { segment, offset: n * 4133, len: 1000 + n % 7, number: n % 60_000 }
    }

    pub fn change(&mut self, change: Change) {
        match &change {
            Change::Data { extent, mask, record } => self.map.apply_data(*extent, *mask, *record),
            Change::Trim { lba, blocks } => self.map.apply_trim(*lba, *blocks),
            Change::Move(relocation) => self.map.apply_relocation(relocation),
        }
        apply(&mut self.model, &change);
        self.log.push(change);
    }

    /// A write; the engine lets none through beyond the volume's end.
    pub fn data(&mut self, extent: u64, mask: u8) {
        if extent * 8 >= self.map.shared.blocks {
            return;
        }
        let record = self.new_record();
        self.history.entry(extent).or_default().push((record, mask));
        self.change(Change::Data { extent, mask, record });
    }

    pub fn relocate(&mut self, extent: u64, mask: u8, from: RecordRef, to: (RecordRef, u8)) {
        let known = self.history.entry(extent).or_default();
        if !known.contains(&to) {
            known.push(to);
        }
        self.change(Change::Move(Relocation { extent, mask, from, to: to.0, original: to.1 }));
    }

    /// Moves some blocks of the `nth` extent that was ever written from any of its records, present or past, to a new
    /// one or to one of those.
    pub fn relocate_some(&mut self, nth: usize, mask: u8, from: usize, to: Option<usize>) {
        let Some((&extent, known)) = self.history.iter().nth(nth % self.history.len().max(1)) else { return };
        let current: Vec<RecordRef> = self.model.range(extent * 8..extent * 8 + 8).map(|(_, at)| at.0).collect();
        let from = match from.checked_sub(4) {
            None if !current.is_empty() => current[from % current.len()],
            _ => known[from % known.len()].0,
        };
        let to = to.map(|nth| known[known.len() - 1 - nth % known.len().min(3)]);
        let to = to.unwrap_or_else(|| (self.new_record(), 0xff));
        self.relocate(extent, mask, from, to);
    }

    /// Merges an extent into one record, as compaction does.
    pub fn compact(&mut self, nth: usize) {
        let Some(&extent) = self.history.keys().nth(nth % self.history.len().max(1)) else { return };
        let mut sources: BTreeMap<RecordRef, u8> = BTreeMap::new();
        for (block, (record, _)) in self.model.range(extent * 8..extent * 8 + 8) {
            *sources.entry(*record).or_default() |= 1 << (block % 8);
        }
        let to = (self.new_record(), sources.values().fold(0, |all, m| all | m));
        sources.into_iter().for_each(|(from, mask)| self.relocate(extent, mask, from, to));
    }

    /// Has a node written anew.
    pub fn rewrite(&mut self, level: u8, extent: u64) {
        let index = extent >> (FAN_BITS * (u32::from(level) + 1));
        self.map.rewrite(level, index);
        loop {
            let located = self.map.shared.state.read().base.locate(level, index);
            match located {
                Located::Absent(_) => break,
                Located::At(record) => {
                    let load = NodeLoad { level, index, record };
                    assert_eq!(self.map.holds(&load), Some(true));
                    self.rewrites.push(load);
                    break;
                }
                Located::Load(load) => {
                    assert_eq!(self.map.above(&NodeLoad { level, index, record: load.record }), Some(load));
                    self.load(&load);
                }
            }
        }
    }

    fn check_rewritten(&self, rewrites: &[NodeLoad]) {
        for load in rewrites {
            while let Some(above) = self.map.above(load) {
                self.load(&above);
            }
            assert_eq!(self.map.holds(load), Some(false), "{load:?} was not written anew");
        }
    }

    pub fn trim(&mut self, lba: u64, blocks: u64) {
        self.change(Change::Trim { lba, blocks });
    }

    pub fn fetch(&self, load: &NodeLoad) -> &[u8] {
        let (level, index, bytes) = &self.bucket[&load.record];
        assert_eq!((*level, *index), (load.level, load.index), "asked for a node by a wrong name");
        bytes
    }

    pub fn load(&self, load: &NodeLoad) {
        self.map.loaded(load, self.fetch(load)).unwrap();
    }

    pub fn lookup(&self, extent: u64, want: u8) -> SmallVec<[Piece; 2]> {
        for _ in 0..8 {
            match self.map.lookup(extent, want) {
                Lookup::Pieces(pieces) => return pieces,
                Lookup::Load(load) => self.load(&load),
            }
        }
        panic!("asks for nodes without end");
    }

    pub fn check(&self, extent: u64, want: u8) {
        let pieces = self.lookup(extent, want);
        let mut seen = 0;
        for p in &pieces {
            assert_ne!(p.visible & want, 0, "a piece that nobody wanted");
            assert_eq!(p.visible & seen, 0, "pieces overlap");
            assert_eq!(pieces.iter().filter(|q| q.record == p.record && q.original == p.original).count(), 1);
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

    pub fn check_all(&self) {
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
    pub fn check_runs(&self, step: u64) {
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
    pub fn check_loads(&self, first: u64, last: u64) {
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

    pub fn begin(&mut self) {
        if self.running.is_none() {
            let checkpoint = self.map.begin_checkpoint();
            let (model, rewrites) = (self.model.clone(), std::mem::take(&mut self.rewrites));
            self.running = Some(Running { checkpoint, model, rewrites, covers: self.log.len(), done: false });
        }
    }

    pub fn step(&mut self, max: usize) {
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
    pub fn commit(&mut self) {
        while self.running.as_ref().is_some_and(|r| !r.done) {
            self.step(3);
        }
        let Some(running) = self.running.take() else { return };
        let root = running.checkpoint.root();
        self.accounts.checkpoint(running.checkpoint.change());
        running.checkpoint.commit();
        self.log.drain(..running.covers);
        assert_eq!(self.map.root(), root);
        self.accounts.check(root, &self.bucket);
        self.check_rewritten(&running.rewrites);
        if self.log.is_empty() {
            assert_eq!(self.map.dirty_bytes(), 0, "all is committed, yet dirty");
        }
        let fresh = self.reopened(root, self.options.size, running.model);
        fresh.check_all();
        fresh.check_runs(u64::MAX);
    }

    pub fn abort(&mut self) {
        if let Some(running) = self.running.take() {
            self.rewrites.extend(running.rewrites);
        }
    }

    pub fn reopened(&self, root: Option<RootRef>, size: u64, model: Model) -> Rig {
        let options = MapOptions { size, ..self.options };
        let map = Map::new(options, root).unwrap();
        let bucket = self.bucket.clone();
        let (history, accounts) = (self.history.clone(), self.accounts.reopened());
        Rig { options, map, model, bucket, records: self.records, history, accounts, ..Rig::new(size, 0) }
    }

    /// The process dies: what comes back is the committed root and the changes that it lacks.
    pub fn crash(&mut self, size: u64) {
        self.abort();
        let mut after = self.reopened(self.map.root(), size, Model::new());
        for change in std::mem::take(&mut self.log) {
            after.change(change);
        }
        after.model = std::mem::take(&mut self.model);
        *self = after;
    }

    /// What the map says of its memory is so.
    pub fn audit(&self) {
        let state = self.map.shared.state.read();
        state.base.audit();
        for layer in [Some(&state.delta), state.frozen.as_deref()].into_iter().flatten() {
            assert_eq!(layer.bytes(), layer.counted_bytes());
            layer.audit_moves();
            assert_eq!(layer.bytes() == 0, layer.is_empty());
        }
    }

    /// Asks for a node now, and gets it at some later time.
    pub fn ask(&mut self, extent: u64) {
        if let Lookup::Load(load) = self.map.lookup(extent, 0xff) {
            self.late.push(load);
        }
    }

    pub fn deliver(&mut self) {
        for load in std::mem::take(&mut self.late) {
            self.load(&load);
        }
    }
}
