//! A record that is being filled.

use super::core::Core;
use super::record::{State, set_state};

/// A record that is being filled: its number is taken, its body belongs to the holder.
///
/// Fill [`Slot::body`], make the position known to readers (the in-memory index), then [`Slot::complete`]. A slot that
/// is dropped instead leaves a void record: an operation that never happened. A process that dies leaves the same.
#[must_use = "a slot that is dropped is an operation that never happened"]
pub struct Slot<'a> {
    pub(super) core: &'a Core,
    pub(super) op: u64,
    pub(super) place: usize,
    pub(super) body_at: u64,
    pub(super) body_place: usize,
    pub(super) len: usize,
}

impl Slot<'_> {
    /// The operation's number.
    pub fn op(&self) -> u64 {
        self.op
    }

    /// The position of the body for [`super::Ring::read_at`]; nobody may read there before the body is filled.
    /// The data of a batch's writes lies back to back from here.
    pub fn body_at(&self) -> u64 {
        self.body_at
    }

    /// The data to fill in: the blocks of the write, or of all writes of a batch back to back; empty for a trim.
    /// What it holds before is arbitrary.
    pub fn body(&mut self) -> &mut [u8] {
        self.core.mem.exclusive(self.body_place, self.len)
    }

    /// The operation happened: from here on it survives the death of the process.
    pub fn complete(self) {
        set_state(&self.core.mem, self.place, State::Complete);
        std::mem::forget(self);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        set_state(&self.core.mem, self.place, State::Void);
    }
}
