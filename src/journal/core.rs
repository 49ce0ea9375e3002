//! The inside of an open ring, shared by the ring, its slots and its holds.

use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::Refused;
use super::layout::{Fixed, Tail, note_next_op, place};
use super::memory::Memory;
use super::pins::Pins;
use super::record::{HEADER, OpHeader, State, clear, state, write_table};
use super::slot::Slot;
use super::space::{Mark, Space, Walk};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{self, Mutex};

type Notifier = Box<dyn Fn() + Send + Sync>;

/// An open ring. The lock order is `freeing`, then `space`.
pub(super) struct Core {
    pub mem: Memory,
    pub fixed: Fixed,
    pub path: PathBuf,
    /// Holds the flock.
    pub file: File,
    /// Tells apart the rings of this process, in [`super::Body`].
    pub tag: u32,
    pub space: Mutex<Space>,
    pub pins: Pins,
    /// Copies of `space`'s positions, for readers without the lock. The tail is stored before any pin phase turns
    /// for it; the head after the records before it are in place.
    pub tail: AtomicU64,
    pub head: AtomicU64,
    pub next_op: AtomicU64,
    pub freeing: Mutex<()>,
    pub notifier: OnceLock<Notifier>,
}

impl Core {
    /// Reserves a record: number and header under the lock, a batch's table outside.
    pub fn reserve(&self, op: &OpHeader<'_>) -> Result<Slot<'_>, Refused> {
        let (mut header, table) = op.prepare()?;
        let size = header.size();
        let ring = &self.fixed.ring;
        let mut space = self.space.lock();
        let room = space.room(size).ok_or(Refused::Full)?;
        Mark { op: header.op, position: header.position } = room.record;
        let at = self.place(header.position);
        // From the end backwards: nothing is a record before what follows it is marked as none.
        clear(&self.mem, self.place(header.end()));
        if let Some(pad) = room.pad {
            clear(&self.mem, at);
            pad.write(&self.mem, self.place(pad.position), ring);
        }
        header.write(&self.mem, at, ring);
        space.extend(room.record, size);
        note_next_op(&self.mem, header.op + 1);
        self.head.store(space.head.position, Ordering::Release);
        // Sequentially consistent, as the load: who goes to sleep looks once more, and one of the two sees the other.
        self.next_op.store(space.head.op, Ordering::SeqCst);
        drop(space);
        if let OpHeader::Batch(parts) = op {
            write_table(&self.mem, at, parts);
        }
        let skip = HEADER + table;
        Ok(Slot {
            core: self,
            op: header.op,
            place: at,
            body_at: header.position + skip,
            body_place: at + skip as usize,
            len: (u64::from(header.body) - table) as usize,
        })
    }

    /// Frees all records up to `op`, but none that is incomplete; answers the first record left.
    pub fn free_through(&self, op: u64) -> u64 {
        let freeing = self.freeing.lock();
        let (from, head, sequence) = {
            let space = self.space.lock();
            (space.tail, space.head.position, space.tail_sequence + 1)
        };
        let mut walk = self.walk(from.position, head);
        let mut next = from.op;
        while let Some((header, at)) = walk.peek() {
            let unfinished =
                state(&self.mem, at) == Some(State::Incomplete) && !sync::weak("free what is being filled");
            if header.op > op || unfinished {
                break;
            }
            walk.pass(&header);
            next = header.op + 1;
        }
        if walk.position == from.position {
            return next;
        }
        // Persisted before the space can be overwritten, so that replay never starts in the middle of something.
        let tail = Mark { op: next, position: walk.position };
        Tail { sequence, position: tail.position, op: tail.op }.write(&self.mem, &self.fixed.ring);
        let mut space = self.space.lock();
        space.tail_sequence = sequence;
        space.set_tail(tail);
        self.tail.store(tail.position, Ordering::SeqCst);
        let more = space.advance(&self.pins);
        drop(space);
        drop(freeing);
        if more {
            self.notify();
        }
        next
    }

    /// Copies bytes out if they are still there.
    pub fn try_read_at(&self, position: u64, buf: &mut [u8]) -> bool {
        let pin = self.pins.enter();
        let there = position >= self.tail.load(Ordering::SeqCst);
        if there {
            let end = position.checked_add(buf.len() as u64);
            assert!(end.is_some_and(|e| e <= self.head.load(Ordering::Acquire)), "a position the ring never gave out");
            self.mem.copy_out(self.place(position), buf);
        }
        if self.pins.leave(pin) {
            self.advance();
        }
        there
    }

    /// Lets more space be reused if possible, and tells.
    pub fn advance(&self) {
        let more = self.space.lock().advance(&self.pins);
        if more {
            self.notify();
        }
    }

    fn notify(&self) {
        if let Some(notifier) = self.notifier.get() {
            notifier();
        }
    }

    /// The place in the file of a position.
    pub fn place(&self, position: u64) -> usize {
        place(position, self.fixed.bytes)
    }

    /// A walk over sound records; what lies between must be kept from being reused.
    pub fn walk(&self, position: u64, head: u64) -> Walk<'_> {
        Walk { mem: &self.mem, bytes: self.fixed.bytes, position, head }
    }
}
