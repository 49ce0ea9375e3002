//! What a load asks of the store, by rule of thumb. docs/cost.md has the formulas in the same order.

use serde::Serialize;

use super::bill::{Line, MONTH, Month, Verb};

const BLOCK: f64 = 4096.0;
/// An extent, which is encrypted as one and so is read as one.
const EXTENT: f64 = 32.0 * 1024.0;
const SEGMENT: f64 = 8.0 * 1024.0 * 1024.0;
/// A write leaves for the store after this many seconds at the latest, flushed or not.
const LONGEST_WAIT: f64 = 1.0;
/// Log segments between checkpoints.
const CHECKPOINT_SEGMENTS: f64 = 400.0;
/// Bytes of the volume that a leaf of the map covers.
const LEAF_COVERS: f64 = 16.0 * 1024.0 * 1024.0;
/// Bytes of a leaf: 512 whole extents, or 4096 scattered blocks.
const LEAF_WHOLE: f64 = 512.0 * 7.0;
const LEAF_SCATTERED: f64 = 4096.0 * 8.5;
/// Leaves kept in memory, in bytes.
const LEAF_CACHE: f64 = 64.0 * 1024.0 * 1024.0;
/// Live share of the segments that compaction picks where writes are uniform and `--compact-target` is what it is by default
/// (docs/performance.md measures it).
const PICKED_LIVE: f64 = 0.69;
/// Bytes that compaction rewrites per byte written in sequence: segments die whole, but for their ends.
const REWRITE_SEQUENTIAL: f64 = 0.1;
/// Objects smaller than this share of a segment are merged.
const TINY: f64 = 0.25;
/// Bytes in the bucket per live byte.
const SPACE_RANDOM: f64 = 1.25;
const SPACE_SEQUENTIAL: f64 = 1.1;
/// Bytes that one GET fetches: of neighbouring leaves, and of a stream that is read in sequence, which ends with its object.
const LEAVES_PER_GET: f64 = 1024.0 * 1024.0;
const STREAM_PER_GET: f64 = 4.0 * 1024.0 * 1024.0;
/// Keys of one request that deletes many.
const BATCH: f64 = 1000.0;

/// A load, per second and in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Load {
    /// Flushes per second that have something to flush.
    pub flushes: f64,
    /// Bytes per second written in scattered blocks.
    pub random: f64,
    /// Bytes per second written in sequence.
    pub sequential: f64,
    /// Scattered reads per second.
    pub reads: f64,
    /// The share of these that caches answer.
    pub hits: f64,
    /// Bytes per second read in sequence.
    pub read_bytes: f64,
    /// Live bytes.
    pub stored: f64,
}

impl Load {
    /// Both at once; the share of hits is that of the one that reads.
    pub fn and(self, other: Load) -> Load {
        Load {
            flushes: self.flushes + other.flushes,
            random: self.random + other.random,
            sequential: self.sequential + other.sequential,
            reads: self.reads + other.reads,
            hits: self.hits.max(other.hits),
            read_bytes: self.read_bytes + other.read_bytes,
            stored: self.stored + other.stored,
        }
    }

    /// What a month of it asks of the store.
    pub fn month(mut self) -> Month {
        let mut lines = Vec::new();
        if self.random + self.sequential == 0.0 {
            // A flush without data to flush asks nothing: the least it can carry is a block.
            self.random = self.flushes * BLOCK;
        }
        let written = self.random + self.sequential;
        if written == 0.0 {
            self.read(&mut lines);
            return Month { lines, stored: Some(self.stored * SPACE_SEQUENTIAL) };
        }
        let segments = self.segments(written, &mut lines);
        let checkpoint = self.checkpoint(segments, &mut lines);
        let merged = self.compact(segments, written, &mut lines);
        self.delete(segments + checkpoint.puts + merged, checkpoint.seconds, &mut lines);
        self.read(&mut lines);
        let space = if self.random > 0.0 { SPACE_RANDOM } else { SPACE_SEQUENTIAL };
        // Nothing is deleted before the checkpoint after it died; a month writes no more than it writes.
        let waiting = written * (2.0 * checkpoint.seconds).min(MONTH);
        let stored = self.stored * space + waiting;
        Month { lines, stored: Some(stored) }
    }

    /// Log segments per second.
    fn segments(&self, written: f64, lines: &mut Vec<Line>) -> f64 {
        let all = self.flushes.max(written / SEGMENT).max(1.0 / LONGEST_WAIT);
        let flush = self.flushes.min(all);
        let each = written / all;
        for (cause, n) in [("flush", flush), ("stream", all - flush)] {
            if n > 0.0 {
                lines.push(Line::rate(Verb::Put, cause, n, n * each));
            }
        }
        all
    }

    /// Bytes of the whole leaf level.
    fn leaf_level(&self) -> (f64, f64) {
        let leaves = (self.stored / LEAF_COVERS).max(1.0);
        let leaf = if self.random > 0.0 { LEAF_SCATTERED } else { LEAF_WHOLE };
        (leaves, leaf)
    }

    fn checkpoint(&self, segments: f64, lines: &mut Vec<Line>) -> Checkpoints {
        let seconds = CHECKPOINT_SEGMENTS / segments;
        let (leaves, leaf) = self.leaf_level();
        // Blocks that fall anywhere, into leaves: those that none hits stay as they are.
        let blocks = self.random * seconds / BLOCK;
        let scattered = leaves * (1.0 - (-blocks / leaves).exp());
        let touched = (scattered + self.sequential * seconds / LEAF_COVERS).clamp(1.0, leaves);
        let bytes = touched * leaf;
        // Nodes, and the accounts in an object of their own.
        let puts = ((bytes / SEGMENT).ceil() + 1.0) / seconds;
        lines.push(Line::rate(Verb::Put, "checkpoint", puts, bytes / seconds));
        let missed = bytes * (1.0 - LEAF_CACHE / (leaves * leaf)).max(0.0);
        if missed > 0.0 {
            let gets = (missed / LEAVES_PER_GET).ceil() / seconds;
            lines.push(Line::rate(Verb::Get, "checkpoint", gets, missed / seconds));
        }
        Checkpoints { seconds, puts }
    }

    /// Objects per second that compaction makes.
    fn compact(&self, segments: f64, written: f64, lines: &mut Vec<Line>) -> f64 {
        let tiny = written / segments < TINY * SEGMENT;
        let random = self.random * PICKED_LIVE / (1.0 - PICKED_LIVE);
        let rewritten = random + self.sequential * if tiny { 1.0 } else { REWRITE_SEQUENTIAL };
        let rewritten = if tiny { rewritten.max(written) } else { rewritten };
        let puts = rewritten / SEGMENT;
        lines.push(Line::rate(Verb::Put, "compaction", puts, rewritten));
        // Each tiny object is fetched once, what is emptier than it should be in whole segments.
        let gets = rewritten / PICKED_LIVE / SEGMENT + if tiny { segments } else { 0.0 };
        lines.push(Line::rate(Verb::Get, "compaction", gets, rewritten / PICKED_LIVE));
        puts
    }

    /// What is made is deleted some day, in batches that a checkpoint allows.
    fn delete(&self, objects: f64, seconds: f64, lines: &mut Vec<Line>) {
        let requests = (objects * seconds / BATCH).max(1.0) / seconds;
        lines.push(Line::rate(Verb::Delete, "delete", requests, 0.0));
    }

    fn read(&self, lines: &mut Vec<Line>) {
        let misses = self.reads * (1.0 - self.hits);
        let gets = misses + self.read_bytes / STREAM_PER_GET;
        if gets > 0.0 {
            lines.push(Line::rate(Verb::Get, "read", gets, misses * EXTENT + self.read_bytes));
        }
        let (leaves, leaf) = self.leaf_level();
        let cold = misses * (1.0 - LEAF_CACHE / (leaves * leaf)).max(0.0);
        if cold > 0.0 {
            lines.push(Line::rate(Verb::Get, "map", cold, cold * leaf));
        }
    }
}

struct Checkpoints {
    /// Between two of them.
    seconds: f64,
    /// Per second.
    puts: f64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn per_second(month: &Month, verb: Verb, cause: &str) -> f64 {
        month.lines.iter().find(|l| l.verb == verb && l.cause == cause).map_or(0.0, |l| l.requests / MONTH)
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= b.abs() * 0.01
    }

    #[test]
    fn nothing_asks_nothing() {
        let month = Load { stored: 1e11, ..Load::default() }.month();
        assert_eq!(month.lines, []);
        assert!(near(month.stored.unwrap(), 1.1e11));
    }

    #[test]
    fn a_stream_makes_full_segments_and_little_else() {
        let load = Load { sequential: 16.0 * SEGMENT, stored: 1e12, ..Load::default() };
        let month = load.month();
        assert!(near(per_second(&month, Verb::Put, "stream"), 16.0));
        assert_eq!(per_second(&month, Verb::Put, "flush"), 0.0);
        // 25 s and 3.36 GB between checkpoints: 200 leaves of 3.5 KiB, one object and the accounts.
        assert!(near(per_second(&month, Verb::Put, "checkpoint"), 2.0 / 25.0));
        assert!(near(per_second(&month, Verb::Put, "compaction"), 1.6));
    }

    #[test]
    fn each_flush_is_a_put_and_its_object_is_merged_and_deleted() {
        let month = Load { flushes: 20.0, stored: 1e10, ..Load::default() }.month();
        assert!(near(per_second(&month, Verb::Put, "flush"), 20.0));
        assert_eq!(per_second(&month, Verb::Put, "stream"), 0.0);
        assert!(per_second(&month, Verb::Get, "compaction") >= 20.0);
        let deletes = per_second(&month, Verb::Delete, "delete");
        assert!((0.04..0.06).contains(&deletes), "once per checkpoint: {deletes}");
    }

    #[test]
    fn a_trickle_without_flushes_is_a_put_a_second() {
        let month = Load { random: 4096.0, stored: 1e9, ..Load::default() }.month();
        assert!(near(per_second(&month, Verb::Put, "stream"), 1.0));
    }

    #[test]
    fn scattered_writes_touch_most_leaves() {
        let month = Load { flushes: 20.0, random: 5e6, stored: 200e9, ..Load::default() }.month();
        // 20 s: 24,414 blocks into 11,921 leaves touch 10,383 of them: 361 MB, 44 objects and one more.
        assert!(near(per_second(&month, Verb::Put, "checkpoint"), 45.0 / 20.0));
        assert!(per_second(&month, Verb::Get, "checkpoint") > 0.0, "they do not fit the cache");
    }

    #[test]
    fn hits_cost_nothing() {
        let month = |hits| Load { reads: 100.0, hits, stored: 1e9, ..Load::default() }.month();
        assert!(near(per_second(&month(0.0), Verb::Get, "read"), 100.0));
        assert!(near(per_second(&month(0.9), Verb::Get, "read"), 10.0));
        assert_eq!(month(1.0).lines, []);
    }
}
