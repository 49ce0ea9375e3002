//! Finding the records of a ring that some process left behind, believing nothing.
//!
//! `reserve` zeroes the mark of the next header's place before it publishes a header, so after a crash at any
//! instruction the records end at a zero: bytes of earlier laps are never looked at. What else is found is damage.

use super::layout::{Tail, noted_next_op, place};
use super::memory::Memory;
use super::record::{HEADER, Header, Kind, State, state};
use super::space::Mark;
use crate::probe::{Mutant, planted};

/// What went wrong, and at which operation.
pub(super) struct Damage {
    pub op: u64,
    pub why: &'static str,
}

/// A record found.
pub(super) struct Found {
    pub mark: Mark,
    pub place: usize,
    pub state: State,
    pub header: Header,
}

/// Ends of the records found.
pub(super) struct Ends {
    pub tail: Tail,
    pub head: Mark,
}

/// Visits all records from the tail on, in order, and answers where they begin and end.
pub(super) fn replay(mem: &Memory, bytes: u64, ring: &[u8; 16], mut visit: impl FnMut(Found)) -> Result<Ends, Damage> {
    let tail = Tail::read(mem, ring).map_err(|why| Damage { op: 0, why })?;
    if !tail.position.is_multiple_of(HEADER) || tail.position > u64::MAX / 2 || tail.op > u64::MAX / 2 {
        return Err(Damage { op: tail.op, why: "the replay position is out of range" });
    }
    let mut at = Mark { op: tail.op, position: tail.position };
    while let Some(header) = next(mem, bytes, ring, &tail, at).map_err(|why| Damage { op: at.op, why })? {
        if header.kind != Kind::Pad {
            let place = place(at.position, bytes);
            let state = state(mem, place).ok_or(Damage { op: at.op, why: "a record's state is none" })?;
            if state == State::Complete {
                header.kind(mem, place, 0).map_err(|why| Damage { op: at.op, why })?;
            }
            if state == State::Incomplete && planted(Mutant::ReplayStopsAtIncomplete) {
                return Ok(Ends { tail, head: at });
            }
            visit(Found { mark: at, place, state, header });
            at.op += 1;
        }
        at.position = header.end();
    }
    let noted = noted_next_op(mem);
    if noted != at.op && noted.checked_add(1) != Some(at.op) {
        return Err(Damage { op: at.op, why: "the records end before (or after) the operation that was noted last" });
    }
    Ok(Ends { tail, head: at })
}

/// The header at `at`, checked against where and what it must be; none where the records end.
fn next(mem: &Memory, bytes: u64, ring: &[u8; 16], tail: &Tail, at: Mark) -> Result<Option<Header>, &'static str> {
    let used = at.position - tail.position;
    if used + HEADER > bytes {
        return Err("the records do not end");
    }
    let Some(header) = Header::read(mem, place(at.position, bytes), ring)? else { return Ok(None) };
    if header.position != at.position || header.op != at.op {
        return Err("a record with another number or position than is due");
    }
    header.check()?;
    let to_end = bytes - at.position % bytes;
    if header.size() > to_end || (header.kind == Kind::Pad && header.size() != to_end) {
        return Err("a record runs over the end");
    }
    if used + header.size() + HEADER > bytes {
        return Err("the records are longer than the ring");
    }
    Ok(Some(header))
}
