//! Recognises sequential readers, and says what to fetch ahead of them.

use std::ops::Range;

use parking_lot::Mutex;

/// Readers followed at once.
const STREAMS: usize = 8;
/// Requests in a row before anything is fetched ahead.
const PATIENCE: u32 = 2;
/// The first window and the largest, in bytes.
const FIRST: u64 = 256 << 10;
const LARGEST: u64 = 8 << 20;

#[derive(Clone, Copy, Default)]
struct Stream {
    next: u64,
    fetched: u64,
    window: u64,
    hits: u32,
    used: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Readahead {
    state: Mutex<(u64, [Stream; STREAMS])>,
}

impl Readahead {
    /// A read of `[offset, offset + len)` had to wait for the store. Answers what to fetch beyond it, if it belongs to
    /// a sequence.
    pub(super) fn missed(&self, offset: u64, len: u64, size: u64) -> Option<Range<u64>> {
        let mut state = self.state.lock();
        let (clock, streams) = &mut *state;
        *clock += 1;
        let end = offset.saturating_add(len);
        // A stream whose next read is here, or anywhere in what was fetched ahead for it.
        let found = streams.iter_mut().find(|s| s.used > 0 && offset >= s.next && offset <= s.next.max(s.fetched));
        let Some(stream) = found else {
            if let Some(oldest) = streams.iter_mut().min_by_key(|s| s.used) {
                *oldest = Stream { next: end, fetched: end, window: FIRST, hits: 1, used: *clock };
            }
            return None;
        };
        stream.used = *clock;
        stream.next = end;
        stream.hits += 1;
        if stream.hits < PATIENCE {
            return None;
        }
        let from = stream.fetched.max(end);
        let to = end.saturating_add(stream.window).min(size);
        stream.window = (stream.window * 2).min(LARGEST);
        if from >= to {
            return None;
        }
        stream.fetched = to;
        Some(from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_grows_its_window_and_random_reads_get_none() {
        let r = Readahead::default();
        let size = 1 << 40;
        assert_eq!(r.missed(0, 4096, size), None);
        let first = r.missed(4096, 4096, size).expect("second in a row");
        assert_eq!(first, 8192..8192 + FIRST);
        // Hits do not come here; the next miss is where the fetched range ends.
        let second = r.missed(first.end, 4096, size).expect("goes on");
        assert_eq!(second.start, first.end + 4096);
        assert!(second.end - second.start >= FIRST);
        let random = [7 << 30, 5 << 30, 3 << 30, 9 << 30];
        assert!(random.iter().all(|at| r.missed(*at, 4096, size).is_none()));
        assert_eq!(r.missed(size - 8192, 4096, size), None);
        assert_eq!(r.missed(size - 4096, 4096, size), None, "nothing beyond the end");
    }
}
