//! Where the ring's head and tail stand and what may be reused: the part behind the ring's one short lock.

use std::collections::VecDeque;

use super::layout::place;
use super::memory::Memory;
use super::pins::Pins;
use super::record::{HEADER, Header, Kind};
use crate::sync;

/// A mark is kept at least every so many operations and bytes, so that finding a record walks over few others.
const MARK_OPS: u64 = 256;
const MARK_BYTES: u64 = 1 << 20;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub op: u64,
    pub position: u64,
}

/// Places of some records, in order, so that finding any walks over few others.
pub(super) struct Marks(VecDeque<Mark>);

impl Marks {
    /// None yet. Preallocated: under memory pressure the write path must not need more.
    pub fn new(bytes: u64) -> Self {
        Self(VecDeque::with_capacity((bytes / (MARK_OPS * HEADER) + bytes / MARK_BYTES + 2) as usize))
    }

    /// Remembers where a record is, if the last remembered one is far.
    pub fn add(&mut self, record: Mark) {
        let near = |last: &Mark| record.op - last.op < MARK_OPS && record.position - last.position < MARK_BYTES;
        if !self.0.back().is_some_and(near) {
            self.0.push_back(record);
        }
    }
}

struct Grace {
    phase: u64,
    target: u64,
}

/// Positions of a ring, all virtual.
pub(super) struct Space {
    bytes: u64,
    /// The next record: its number and position.
    pub head: Mark,
    /// The oldest record that replay would see.
    pub tail: Mark,
    /// Sequence number of the tail as persisted.
    pub tail_sequence: u64,
    /// Everything before it may be overwritten.
    pub reuse: u64,
    /// Everything before it was freed, and all pins from before that have left.
    unpinned: u64,
    grace: Option<Grace>,
    marks: Marks,
    holds: Vec<(u64, u64)>,
    next_hold: u64,
}

/// Where `reserve` puts a record: a pad first, if the record would straddle the end.
pub(super) struct Room {
    pub pad: Option<Header>,
    pub record: Mark,
}

impl Space {
    /// The space between two marks of a ring of `bytes`.
    pub fn new(bytes: u64, tail: Mark, head: Mark, tail_sequence: u64, marks: Marks) -> Self {
        Self {
            bytes,
            head,
            tail,
            tail_sequence,
            reuse: tail.position,
            unpinned: tail.position,
            grace: None,
            marks,
            holds: Vec::with_capacity(64),
            next_hold: 0,
        }
    }

    /// Room for a record of `size` bytes at the head, or none. One more header fits after it: the mark that the
    /// records end there.
    pub fn room(&self, size: u64) -> Option<Room> {
        let to_end = self.bytes - self.head.position % self.bytes;
        let pad = if to_end < size { to_end } else { 0 };
        if self.head.position - self.reuse + pad + size + HEADER > self.bytes {
            return None;
        }
        let Mark { op, position } = self.head;
        let body = pad.saturating_sub(HEADER) as u32;
        let header = Header { op, position, lba: 0, blocks: 0, body, parts: 0, kind: Kind::Pad };
        Some(Room { pad: (pad > 0).then_some(header), record: Mark { op, position: position + pad } })
    }

    /// Notes a record that was put at the head.
    pub fn extend(&mut self, record: Mark, size: u64) {
        self.marks.add(record);
        self.head = Mark { op: record.op + 1, position: record.position + size };
    }

    /// A record at or before `op`, as near as is known without walking; the tail if that is later.
    pub fn near(&self, op: u64) -> Mark {
        let after = self.marks.0.partition_point(|m| m.op <= op);
        let mark = after.checked_sub(1).and_then(|i| self.marks.0.get(i)).copied();
        mark.filter(|m| m.op > self.tail.op).unwrap_or(self.tail)
    }

    /// Moves the tail; it was persisted.
    pub fn set_tail(&mut self, tail: Mark) {
        self.tail = tail;
        while self.marks.0.front().is_some_and(|m| m.op < tail.op) {
            self.marks.0.pop_front();
        }
    }

    /// Lets more space be reused if its readers have left; true if there is more than before.
    pub fn advance(&mut self, pins: &Pins) -> bool {
        loop {
            if let Some(grace) = &self.grace {
                if !pins.left(grace.phase) && !sync::weak("reuse under readers") {
                    break;
                }
                self.unpinned = grace.target;
                self.grace = None;
            }
            if self.unpinned == self.tail.position {
                break;
            }
            pins.set_waiting(true);
            self.grace = Some(Grace { phase: pins.turn(), target: self.tail.position });
        }
        if self.grace.is_none() {
            pins.set_waiting(false);
        }
        let before = self.reuse;
        let held = self.holds.iter().map(|(_, at)| *at).min().unwrap_or(u64::MAX);
        self.reuse = self.unpinned.min(held).max(before);
        self.reuse > before
    }

    /// Keeps everything from `position` on from being reused; answers the hold's id.
    pub fn add_hold(&mut self, position: u64) -> u64 {
        self.next_hold += 1;
        self.holds.push((self.next_hold, position));
        self.next_hold
    }

    /// Moves a hold to a later position.
    pub fn move_hold(&mut self, id: u64, position: u64) {
        for (_, at) in self.holds.iter_mut().filter(|h| h.0 == id) {
            *at = position;
        }
    }

    /// Ends a hold.
    pub fn drop_hold(&mut self, id: u64) {
        self.holds.retain(|h| h.0 != id);
    }
}

/// Walks over records that are known to be sound, from `from` up to the position `head`; pads are passed over.
pub(super) struct Walk<'a> {
    pub mem: &'a Memory,
    pub bytes: u64,
    pub position: u64,
    pub head: u64,
}

impl Walk<'_> {
    /// The next record that is not a pad and its place; the position stays on it.
    pub fn peek(&mut self) -> Option<(Header, usize)> {
        while self.position < self.head {
            let at = place(self.position, self.bytes);
            let header = Header::read_own(self.mem, at);
            if header.kind != Kind::Pad {
                return Some((header, at));
            }
            self.position = header.end();
        }
        None
    }

    /// Goes behind `header`, which [`Walk::peek`] answered.
    pub fn pass(&mut self, header: &Header) {
        self.position = header.end();
    }
}
