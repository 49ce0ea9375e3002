//! Looking at a ring without taking it.

use std::path::Path;

use super::error::RingError;
use super::file;
use super::layout::{DATA_AT, Fixed, Tail, noted_next_op};
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
        let (file, fixed) = file::open_to_look(path)?;
        let len = usize::try_from(DATA_AT + fixed.bytes).unwrap_or(usize::MAX);
        let mem = Memory::map_read_only(&file, len).map_err(|e| file::io_error("mapping the journal", path, e))?;
        let damaged = |Damage { op, why }| RingError::Damaged { path: path.to_owned(), op, why };
        if !file::is_busy(path, &file)? {
            let summary = idle(&mem, &fixed);
            // Whoever took it while it was looked at may have changed it under our eyes.
            if !file::is_busy(path, &file)? {
                return summary.map_err(damaged);
            }
        }
        busy(&mem, &fixed).map_err(damaged)
    }
}

/// Walks all records of a ring that nobody holds.
fn idle(mem: &Memory, fixed: &Fixed) -> Result<RingSummary, Damage> {
    let (mut records, mut bytes) = (0, 0);
    let ends = replay(mem, fixed.bytes, &fixed.ring, |found| {
        if found.state == State::Complete {
            records += 1;
            bytes += found.header.size();
        }
    })?;
    Ok(summary(fixed, ends.tail.op, ends.head.op, records, bytes, false))
}

/// Looks only at the ends of a ring whose holder changes it meanwhile.
fn busy(mem: &Memory, fixed: &Fixed) -> Result<RingSummary, Damage> {
    let mut tries = 0;
    let tail = loop {
        match Tail::read(mem, &fixed.ring) {
            Ok(tail) => break tail,
            // It may have been read in the middle of a change.
            Err(_) if tries < 1000 => tries += 1,
            Err(why) => return Err(Damage { op: 0, why }),
        }
    };
    let next_op = noted_next_op(mem).max(tail.op);
    Ok(summary(fixed, tail.op, next_op, next_op - tail.op, 0, true))
}

fn summary(fixed: &Fixed, first_op: u64, next_op: u64, records: u64, bytes: u64, busy: bool) -> RingSummary {
    let Fixed { pool, volume, ring, .. } = *fixed;
    RingSummary { pool, volume, ring, first_op, next_op, records, bytes, busy }
}
