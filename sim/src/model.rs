//! The reference: what each attach of the volume has been asked to do, and what may be read, lost or refused because of it
//! (docs/semantics.md).
//!
//! The engine numbers its operations; the numbers are taken as its claim of an order and checked: a number is given while
//! the request runs, so the order respects real time, and what a recovery shows must equal the operations up to one number,
//! every unit of it. An **instance** is one successful attach. What it adds to the order is its own branch: it becomes
//! everybody's as far as the next instance begins after it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::stamp::{self, ZERO};

/// An operation number of the engine.
pub type Op = u64;
/// A process; at most one instance each.
pub type Id = u32;

/// Zeroes over more units than this are kept as a range.
const WIDE: u64 = 4096;

/// A run of units that an operation fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// The first unit.
    pub first: u64,
    /// How many.
    pub units: u64,
    /// Whose bytes; [`ZERO`] for zeroes.
    pub stamp: u64,
}

/// What is known of how an attach came about.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// Its host and that host's boot.
    pub host: usize,
    /// See `host`.
    pub boot: u8,
    /// Acknowledged writes may be gone: the operator said so, or took the volume from a living owner.
    pub may_lose_unflushed: bool,
    /// No operator has ever asked for the volume with force.
    pub unforced: bool,
}

/// One successful attach.
struct Instance {
    epoch: u32,
    host: usize,
    boot: u8,
    /// The request of each operation, by number from 1 on.
    ops: Vec<u64>,
    /// When each operation was acknowledged, in events; 0 for what it began with.
    acked: Vec<Option<u64>>,
    /// What each unit was filled with, by operation, ascending.
    units: HashMap<u64, Vec<(Op, u64)>>,
    /// Zeroes over more units than are worth listing one by one.
    wide: Vec<(Op, Fill)>,
    /// Highest operation acknowledged.
    acked_through: Op,
    /// Highest operation that a completed flush covers.
    flushed_through: Op,
}

/// See the module.
pub struct Model {
    unit: usize,
    events: u64,
    instances: BTreeMap<Id, Instance>,
    /// Units that any operation of anybody ever filled, lost and torn ones too: what must not be there is looked at, too.
    ever: BTreeSet<u64>,
}

impl Model {
    /// A volume of zeroes whose smallest piece that can be written is `unit` bytes.
    pub fn new(unit: usize) -> Self {
        Self { unit, events: 0, instances: BTreeMap::new(), ever: BTreeSet::new() }
    }

    /// The time, in events.
    pub fn now(&self) -> u64 {
        self.events
    }

    fn instance(&mut self, id: Id) -> &mut Instance {
        self.events += 1;
        self.instances.get_mut(&id).expect("only instances that attached are asked about")
    }

    /// `id` has attached as `epoch` and begins after operation `last`.
    ///
    /// # Errors
    /// Something that may not be lost is lost, or was never written.
    pub fn attached(&mut self, id: Id, epoch: u32, last: Op, how: Circumstances) -> Result<(), String> {
        self.events += 1;
        if let Some((other, _)) = self.instances.iter().find(|(_, i)| i.epoch == epoch) {
            return Err(format!("processes {other} and {id} both hold epoch {epoch}"));
        }
        let before = self.instances.iter().filter(|(_, i)| i.epoch < epoch).max_by_key(|(_, i)| i.epoch);
        let Some((parent_id, parent)) = before else {
            if last != 0 {
                return Err(format!("the first attach begins after operation {last}"));
            }
            let fresh = Instance::empty(epoch, how);
            self.instances.insert(id, fresh);
            return Ok(());
        };
        if parent.ops.len() < last as usize {
            let had = parent.ops.len();
            return Err(format!("process {id} begins after operation {last}, but process {parent_id} only had {had}"));
        }
        let here = parent.host == how.host && parent.boot == how.boot;
        if here && !how.may_lose_unflushed && last < parent.acked_through {
            let acked = parent.acked_through;
            return Err(format!(
                "acknowledged writes are lost: process {id} begins after operation {last}, process {parent_id} of the same \
                 boot had acknowledged operations up to {acked}"
            ));
        }
        if how.unforced && parent.host != how.host && last < parent.acked_through {
            let acked = parent.acked_through;
            return Err(format!(
                "acknowledged writes are lost: process {id} of another host was let in without force, and begins after \
                 operation {last}; process {parent_id} had acknowledged operations up to {acked}"
            ));
        }
        let ops = parent.ops[..last as usize].to_vec();
        for (other, instance) in self.instances.iter().filter(|(_, i)| i.epoch < epoch) {
            let through = instance.flushed_through as usize;
            if ops.len() < through || ops[..through] != instance.ops[..through] {
                return Err(format!(
                    "flushed writes are lost: process {id} begins after operation {last}, process {other} had flushed \
                     operations up to {through}"
                ));
            }
        }
        let kept = |(at, fills): (&u64, &Vec<(Op, u64)>)| {
            let n = fills.partition_point(|(op, _)| *op <= last);
            (n > 0).then(|| (*at, fills[..n].to_vec()))
        };
        let units = parent.units.iter().filter_map(kept).collect();
        let acked = vec![Some(0); ops.len()];
        let wide = parent.wide.iter().filter(|(op, _)| *op <= last).copied().collect();
        let child = Instance {
            epoch,
            host: how.host,
            boot: how.boot,
            ops,
            acked,
            units,
            wide,
            acked_through: last,
            flushed_through: 0,
        };
        self.instances.insert(id, child);
        Ok(())
    }

    /// The engine gave operation `op` of instance `id` to a piece of `request`.
    ///
    /// # Errors
    /// A number that is not the next one.
    pub fn given(&mut self, id: Id, op: Op, request: u64, fills: &[Fill]) -> Result<(), String> {
        let instance = self.instance(id);
        if op != instance.ops.len() as u64 + 1 {
            return Err(format!("process {id} gave number {op} after {}", instance.ops.len()));
        }
        instance.ops.push(request);
        instance.acked.push(None);
        let mut touched: Vec<std::ops::Range<u64>> = Vec::new();
        for fill in fills {
            if fill.stamp == ZERO && fill.units > WIDE {
                // Of one operation the later part counts, also over a narrow one before it.
                let over = fill.first..fill.first + fill.units;
                for at in touched.iter().cloned().flatten().filter(|at| over.contains(at)) {
                    instance.units.entry(at).or_default().retain(|(by, _)| *by != op);
                }
                instance.wide.push((op, *fill));
                continue;
            }
            touched.push(fill.first..fill.first + fill.units);
            for at in fill.first..fill.first + fill.units {
                let fills = instance.units.entry(at).or_default();
                // Parts of one operation may overlap: the later one counts.
                fills.retain(|(by, _)| *by != op);
                fills.push((op, fill.stamp));
            }
        }
        self.ever.extend(touched.into_iter().flatten());
        Ok(())
    }

    /// Operation `op` never happened: its source failed, or its process died before it was whole.
    pub fn voided(&mut self, id: Id, op: Op) {
        let instance = self.instance(id);
        instance.units.values_mut().for_each(|fills| fills.retain(|(by, _)| *by != op));
        instance.wide.retain(|(by, _)| *by != op);
    }

    /// The client has its reply for `op`.
    pub fn acked(&mut self, id: Id, op: Op) {
        let now = self.events + 1;
        let instance = self.instance(id);
        instance.acked[op as usize - 1] = Some(now);
        instance.acked_through = instance.acked_through.max(op);
    }

    /// A flush begins: it will cover the operations up to the answer.
    pub fn flush_begins(&mut self, id: Id) -> Op {
        self.instance(id).acked_through
    }

    /// A flush, or a FUA operation, that covers the operations up to `through` has succeeded.
    ///
    /// # Errors
    /// Somebody newer holds the volume without them.
    pub fn flushed(&mut self, id: Id, through: Op) -> Result<(), String> {
        let (epoch, ops) = {
            let instance = self.instance(id);
            instance.flushed_through = instance.flushed_through.max(through);
            (instance.epoch, instance.ops[..through as usize].to_vec())
        };
        for (other, newer) in self.instances.iter().filter(|(_, i)| i.epoch > epoch) {
            if newer.ops.len() < ops.len() || newer.ops[..ops.len()] != ops {
                return Err(format!(
                    "a fenced writer flushed: process {id} (epoch {epoch}) completed a flush of operations up to {through}, \
                     which process {other} (epoch {}) does not have",
                    newer.epoch
                ));
            }
        }
        Ok(())
    }

    /// Everything that `id` was ever asked is durable: it gave the volume back.
    ///
    /// # Errors
    /// As [`Model::flushed`].
    pub fn detached(&mut self, id: Id) -> Result<(), String> {
        let all = self.instance(id).ops.len() as Op;
        self.flushed(id, all)
    }

    /// Whether `data`, read at unit `first` by instance `id` since event `begun`, may be what was there.
    ///
    /// # Errors
    /// The first unit that may not.
    pub fn check_read(&mut self, id: Id, begun: u64, first: u64, data: &[u8]) -> Result<(), String> {
        let unit = self.unit;
        let instance = self.instance(id);
        for (at, bytes) in (first..).zip(data.chunks(unit)) {
            let got = stamp::read(at, bytes).map_err(|why| format!("process {id} read {why} at unit {at}"))?;
            let fills = instance.history(at);
            let acked = |op: Op| instance.acked[op as usize - 1].is_some_and(|when| when <= begun);
            let newest = fills.iter().rposition(|(op, _)| acked(*op));
            let allowed = &fills[newest.unwrap_or(0)..];
            let untouched = newest.is_none() && got == ZERO;
            if !untouched && !allowed.iter().any(|(_, stamp)| *stamp == got) {
                let known = fills.iter().rfind(|(_, s)| *s == got).map(|(op, _)| *op);
                return Err(format!(
                    "process {id} (epoch {}) read write {got} at unit {at}, of operation {known:?}; allowed are (operation, \
                     write) {:?}",
                    instance.epoch,
                    &allowed[..allowed.len().min(8)],
                ));
            }
        }
        Ok(())
    }

    /// The units that anybody ever filled, and what lies between near ones, as ranges (first, how many).
    pub fn touched(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for at in self.ever.iter().copied() {
            match ranges.last_mut() {
                Some((first, n)) if at <= *first + *n + 64 => *n = at + 1 - *first,
                _ => ranges.push((at, 1)),
            }
        }
        ranges
    }

    /// The newest epoch that anybody is known to have had.
    pub fn newest_epoch(&self) -> u32 {
        self.instances.values().map(|i| i.epoch).max().unwrap_or(0)
    }

    /// How many operations were given in all instances, and how many instances there were.
    pub fn size(&self) -> (usize, usize) {
        (self.instances.values().map(|i| i.ops.len()).sum(), self.instances.len())
    }
}

impl Instance {
    /// What unit `at` was filled with, by operation, ascending.
    fn history(&self, at: u64) -> Cow<'_, [(Op, u64)]> {
        let narrow = self.units.get(&at).map_or(&[][..], Vec::as_slice);
        let over = |(op, fill): &(Op, Fill)| (fill.first..fill.first + fill.units).contains(&at).then_some((*op, ZERO));
        let wide: Vec<(Op, u64)> = self.wide.iter().filter_map(over).collect();
        if wide.is_empty() {
            return Cow::Borrowed(narrow);
        }
        let mut all: Vec<(Op, u64)> =
            wide.into_iter().filter(|(op, _)| !narrow.iter().any(|(by, _)| by == op)).collect();
        all.extend_from_slice(narrow);
        all.sort_unstable();
        Cow::Owned(all)
    }

    fn empty(epoch: u32, how: Circumstances) -> Self {
        Self {
            epoch,
            host: how.host,
            boot: how.boot,
            ops: Vec::new(),
            acked: Vec::new(),
            units: HashMap::new(),
            wide: Vec::new(),
            acked_through: 0,
            flushed_through: 0,
        }
    }
}

#[cfg(test)]
mod tests;
