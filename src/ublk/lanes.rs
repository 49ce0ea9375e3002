//! How many bytes the waiting requests of a queue may hold: what is beyond stays with the kernel until others are done.
//!
//! Reads and writes have a lane each, so that reads go on while writes wait for room in the journal.

use std::collections::VecDeque;

use super::params::MAX_IO;
use super::request::Request;

/// Bytes of one lane: a few of the largest requests.
const LANE: usize = 8 * MAX_IO;

/// One lane: bytes that are held, and tags that wait for theirs, first come first served.
#[derive(Debug)]
struct Lane {
    held: usize,
    waiting: VecDeque<(u16, Request)>,
}

/// The lanes of one queue.
#[derive(Debug)]
pub(super) struct Lanes {
    reads: Lane,
    writes: Lane,
}

impl Lane {
    fn new(depth: u16) -> Self {
        Self { held: 0, waiting: VecDeque::with_capacity(usize::from(depth)) }
    }

    /// What is alone is let in at any size, so that there is always something whose end lets the next in.
    fn fits(&self, len: usize) -> bool {
        self.held == 0 || self.held + len <= LANE
    }
}

impl Lanes {
    /// For a queue of `depth` tags.
    pub(super) fn new(depth: u16) -> Self {
        Self { reads: Lane::new(depth), writes: Lane::new(depth) }
    }

    fn lane(&mut self, request: Request) -> Option<(&mut Lane, usize)> {
        match request {
            Request::Read { len, .. } => Some((&mut self.reads, len)),
            Request::Write { len, .. } => Some((&mut self.writes, len)),
            Request::Flush | Request::Discard { .. } | Request::WriteZeroes { .. } => None,
        }
    }

    /// Whether `request` may be asked for now; if not, [`Lanes::next`] answers with it later.
    pub(super) fn enter(&mut self, tag: u16, request: Request) -> bool {
        let Some((lane, len)) = self.lane(request) else { return true };
        if lane.waiting.is_empty() && lane.fits(len) {
            lane.held += len;
            return true;
        }
        lane.waiting.push_back((tag, request));
        false
    }

    /// `request`, which was let in, is done.
    pub(super) fn leave(&mut self, request: Request) {
        if let Some((lane, len)) = self.lane(request) {
            lane.held -= len;
        }
    }

    /// The next request that may be asked for, of those that wait.
    pub(super) fn next(&mut self) -> Option<(u16, Request)> {
        [&mut self.reads, &mut self.writes].into_iter().find_map(|lane| {
            let (_, request) = *lane.waiting.front()?;
            let (Request::Read { len, .. } | Request::Write { len, .. }) = request else { return None };
            if !lane.fits(len) {
                return None;
            }
            lane.held += len;
            lane.waiting.pop_front()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn write(len: usize) -> Request {
        Request::Write { offset: 0, len, fua: false }
    }

    #[test]
    fn writes_wait_in_order_and_reads_pass_them() {
        let mut lanes = Lanes::new(128);
        let let_in = (0..20).filter(|tag| lanes.enter(*tag, write(MIB))).count();
        assert_eq!(let_in, 8);
        assert!(!lanes.enter(20, write(512)), "behind those that wait, however small");
        assert!(lanes.enter(21, Request::Read { offset: 0, len: MIB }));
        assert!(lanes.enter(22, Request::Flush));
        assert_eq!(lanes.next(), None);
        for tag in 8..20 {
            lanes.leave(write(MIB));
            assert_eq!(lanes.next(), Some((tag, write(MIB))));
            assert_eq!(lanes.next(), None);
        }
        lanes.leave(write(MIB));
        assert_eq!(lanes.next(), Some((20, write(512))));
        assert_eq!(lanes.next(), None);
    }

    #[test]
    fn whatever_is_let_in_is_let_out() {
        let mut lanes = Lanes::new(4);
        for round in 0..1000_usize {
            let request = write(round % MIB + 1);
            assert!(lanes.enter(0, request));
            lanes.leave(request);
        }
        assert_eq!((lanes.writes.held, lanes.next()), (0, None));
    }
}
