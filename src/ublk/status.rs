//! Counters of a device's queues.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::features::CopyMode;

/// A counter that one thread writes and others read.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// For the thread that owns it only: no read-modify-write.
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a queue's thread counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub reads: Count,
    pub writes: Count,
    pub flushes: Count,
    pub others: Count,
    pub read_bytes: Count,
    pub written_bytes: Count,
    pub inline: Count,
    pub errors: Count,
    pub sleeps: Count,
    pub rings: Count,
}

/// What one queue has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// Reads taken.
    pub reads: u64,
    /// Writes taken.
    pub writes: u64,
    /// Flushes taken.
    pub flushes: u64,
    /// Discards, zeroings and requests that were not understood.
    pub others: u64,
    /// Bytes of the reads.
    pub read_bytes: u64,
    /// Bytes of the writes.
    pub written_bytes: u64,
    /// Requests that the queue's own thread answered at once, from memory.
    pub inline: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// How often the thread waited for the kernel: at most one system call and one wake-up each.
    pub sleeps: u64,
    /// How often another thread's answer had to wake it.
    pub rings: u64,
}

impl From<&Counters> for QueueStatus {
    fn from(c: &Counters) -> Self {
        Self {
            reads: c.reads.get(),
            writes: c.writes.get(),
            flushes: c.flushes.get(),
            others: c.others.get(),
            read_bytes: c.read_bytes.get(),
            written_bytes: c.written_bytes.get(),
            inline: c.inline.get(),
            errors: c.errors.get(),
            sleeps: c.sleeps.get(),
            rings: c.rings.get(),
        }
    }
}

/// A device that this process serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    /// Its number.
    pub id: u32,
    /// Requests that one queue can hold.
    pub depth: u16,
    /// How bytes get in and out.
    pub copy: CopyMode,
    /// The names of the features it was made with.
    pub features: Vec<&'static str>,
    /// Its queues.
    pub queues: Vec<QueueStatus>,
}
