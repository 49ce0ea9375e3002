//! What was received and not handled yet.

use std::io;

use crate::proto::REQUEST_LEN;
use crate::stream::Stream;

/// Size of the receive buffer in bytes: a queue of 32 writes of 4 KiB, or two of 128 KiB, in one system call.
const CAPACITY: usize = 256 << 10;

/// From this many missing bytes on, a request's data is received for itself: no more is taken than it needs, so that
/// the next request begins a fresh buffer and nothing is moved.
const ALONE: usize = 16 << 10;

/// The receive buffer of a connection.
#[derive(Debug)]
pub(crate) struct Input {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { buf: vec![0; CAPACITY + REQUEST_LEN].into_boxed_slice(), start: 0, end: 0 }
    }

    /// What is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Whether `len` bytes can be there at once.
    pub(crate) fn fits(&self, len: usize) -> bool {
        len <= self.buf.len()
    }

    /// Drops the first `len` bytes of what is there.
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.end - self.start);
        self.start += len;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Waits for more; false where the peer sends no more. `want`: how much the next request needs in all.
    pub(crate) fn fill(&mut self, stream: &Stream, want: usize) -> io::Result<bool> {
        // Moved to the front only when it must be: the tail is often a part of a write.
        if self.start + want > self.buf.len() || self.end == self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let missing = want.saturating_sub(self.end - self.start);
        let got = if missing >= ALONE {
            stream.recv_wanted(&mut self.buf[self.end..self.end + missing])?
        } else {
            stream.recv(&mut self.buf[self.end..])?
        };
        self.end += got;
        Ok(got > 0)
    }
}
