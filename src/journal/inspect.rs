//! Looking at a ring without taking it.

use std::path::Path;

use super::error::RingError;
use super::file;
use super::layout::{DATA_AT, Tail, noted_next_op};
use super::memory::Memory;
use super::record::State;
use super::replay::{Damage, replay};
use super::ring::Ring;

/// What a ring file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSummary {
    /// The pool's id.
    pub pool: [u8; 16],
    /// The volume's number.
    pub volume: u32,
    /// The ring's id.
    pub ring: [u8; 16],
    /// The oldest operation left.
    pub first_op: u64,
    /// The number the next operation gets.
    pub next_op: u64,
    /// Operations that happened and are left. Of a busy ring: all that are left, the unfinished ones too.
    pub records: u64,
    /// Bytes those records take; 0 of a busy ring.
    pub bytes: u64,
    /// Somebody holds the ring now; what this says of it may be past already.
    pub busy: bool,
}

impl Ring {
    /// Looks at a ring file without taking or changing it.
    pub fn inspect(path: &Path) -> Result<RingSummary, RingError> {
        let (file, fixed, busy) = file::open_to_look(path)?;
        let len = usize::try_from(DATA_AT + fixed.bytes).unwrap_or(usize::MAX);
        let mem = Memory::map_read_only(&file, len).map_err(|e| file::io_error("mapping the journal", path, e))?;
        let damaged = |Damage { op, why }| RingError::Damaged { path: path.to_owned(), op, why };
        let (mut records, mut bytes) = (0, 0);
        let (first_op, next_op) = if busy {
            // Its holder changes it under our eyes, so only what is one word each is looked at.
            let none = Damage { op: 0, why: "neither copy of the replay position is valid" };
            let tail = Tail::read(&mem, &fixed.ring).ok_or(none).map_err(damaged)?;
            let next_op = noted_next_op(&mem).max(tail.op);
            records = next_op - tail.op;
            (tail.op, next_op)
        } else {
            let ends = replay(&mem, fixed.bytes, &fixed.ring, |found| {
                if found.state == State::Complete {
                    records += 1;
                    bytes += found.header.size();
                }
            });
            let ends = ends.map_err(damaged)?;
            (ends.tail.op, ends.head.op)
        };
        let (pool, volume, ring) = (fixed.pool, fixed.volume, fixed.ring);
        Ok(RingSummary { pool, volume, ring, first_op, next_op, records, bytes, busy })
    }
}
