//! What clients did to a volume, and whether what is found on it can have come of that (docs/semantics.md, promises 1, 2,
//! 3 and 5).
//!
//! Every write stamps its blocks with its number. Operations have a beginning, taken before the request is sent, and an
//! end, taken when its answer has come. The volume must show the outcome of one order of some of them: one that respects
//! real time, in which each is whole, and which holds all that was promised.

mod check;
mod stamp;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use parking_lot::Mutex;

pub use check::{Outcome, Violation};
pub use stamp::{BLOCK, read_stamp, stamped};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Stamps blocks; the field tells whether with FUA.
    Write {
        /// Durable when completed, and all completed before it began.
        fua: bool,
    },
    /// Makes blocks zero.
    Zero,
    /// Makes durable what was completed before it began.
    Flush,
    /// Reads one block.
    Read {
        /// The write whose block it got, once it has.
        saw: Option<u64>,
    },
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub id: u64,
    pub what: What,
    pub lba: u64,
    pub blocks: u64,
    pub begin: u64,
    /// When it was answered with success.
    pub end: Option<u64>,
    /// After this it can take effect no more: its end, or the crash that it fell victim to.
    pub bound: Option<u64>,
}

/// Which operations a volume must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// All that were completed: only the daemon died, or nobody did.
    Completed,
    /// A prefix of them that holds all that a completed flush or FUA write covers: the journal was lost too.
    Flushed,
}

#[derive(Default)]
pub(crate) struct State {
    pub clock: u64,
    pub last_id: u64,
    pub ops: Vec<Op>,
    /// What blocks showed when the history began; zeroes are left out.
    pub base: HashMap<u64, u64>,
}

/// Operations of all clients of one volume.
#[derive(Default)]
pub struct History {
    state: Mutex<State>,
}

impl History {
    /// Of a volume that is all zeroes.
    pub fn new() -> Self {
        Self::default()
    }

    /// An operation is about to be sent. Answers its number, which is what its blocks are stamped with.
    pub fn begin(&self, what: What, lba: u64, blocks: u64) -> u64 {
        let mut state = self.state.lock();
        state.clock += 1;
        state.last_id += 1;
        let (id, begin) = (state.last_id, state.clock);
        state.ops.push(Op { id, what, lba, blocks, begin, end: None, bound: None });
        id
    }

    /// It was answered with success. What was answered with an error is left open: it may have happened.
    pub fn end(&self, id: u64) {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        if let Some(op) = find(&mut state.ops, id) {
            (op.end, op.bound) = (Some(now), Some(now));
        }
    }

    /// A read of one block was answered with these bytes.
    ///
    /// # Errors
    /// The block is damaged.
    pub fn end_read(&self, id: u64, data: &[u8]) -> Result<(), String> {
        let lba = self.state.lock().ops.iter().rev().find(|o| o.id == id).map_or(0, |o| o.lba);
        let seen = read_stamp(lba, data)?;
        self.end(id);
        if let Some(op) = find(&mut self.state.lock().ops, id) {
            op.what = What::Read { saw: Some(seen) };
        }
        Ok(())
    }

    /// All servers that got requests are dead: what is open now takes effect before whatever begins later, or never.
    pub fn crashed(&self) {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        for op in state.ops.iter_mut().filter(|o| o.bound.is_none()) {
            op.bound = Some(now);
        }
    }

    /// How many operations were completed, and how many begun.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.ops.iter().filter(|o| o.end.is_some()).count(), state.ops.len())
    }

    /// Whether the whole volume's content, `image`, is what these operations may leave.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, image: &[u8], keeps: Keeps) -> Result<Outcome, Violation> {
        check::check(&self.state.lock(), image, keeps)
    }

    /// Begins anew from what [`check`](Self::check) found right, which must be durable as far as coming checks go: after a
    /// loss of the journal, a kill that leaves the journal if only such follow, or a flush.
    pub fn settle(&self, image: &[u8]) {
        let mut state = self.state.lock();
        state.base = base(image);
        state.ops.clear();
    }

    /// The history of what comes after `image`, while this one goes on: its numbers are others.
    pub fn fork(&self, image: &[u8]) -> Self {
        let last_id = self.state.lock().last_id + (1 << 32);
        Self { state: Mutex::new(State { last_id, base: base(image), ..State::default() }) }
    }
}

/// What the blocks show that are not zero.
fn base(image: &[u8]) -> HashMap<u64, u64> {
    let stamps = image.chunks_exact(BLOCK).enumerate().map(|(lba, b)| (lba as u64, read_stamp(lba as u64, b)));
    stamps.filter_map(|(lba, id)| id.ok().filter(|id| *id != 0).map(|id| (lba, id))).collect()
}

/// Ids ascend.
fn find(ops: &mut [Op], id: u64) -> Option<&mut Op> {
    let at = ops.binary_search_by_key(&id, |o| o.id).ok()?;
    ops.get_mut(at)
}
