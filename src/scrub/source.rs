//! Reading the bucket: at a bounded pace, several requests side by side, and once more before bytes count as damaged.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Progress, ScrubError, ScrubOptions};
use crate::env::Env;
use crate::pool::Pool;
use crate::pool::keys::PoolKeys;
use crate::segment::{
    IndexRead, LogObject, Seal, SegmentError, SegmentId, SegmentIndex, SegmentKind, log_object_kind, read_index,
    tail_range,
};
use crate::store::{Cause, Listed, MAX_OBJECT, Patience, Store, StoreError};

/// How long the store may be away before the run ends.
const PATIENCE: Patience = Patience::For(Duration::from_secs(60));
/// Keys of one LIST.
pub(super) const PAGE: usize = 1000;
/// What a request costs besides its bytes, where the pace is limited.
const REQUEST_BYTES: u64 = 512;

/// What came of reading an object.
#[derive(Debug)]
pub(super) enum Got<T> {
    /// What it says.
    Good(T),
    /// It is not there.
    Missing,
    /// It is shorter than it was, or than what must be in it.
    Short,
    /// It does not say what it should; and its bytes.
    Bad(String, Bytes),
}

/// A log object that was read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub(super) enum InLog {
    Segment(SegmentIndex),
    Seal(Seal),
}

/// The pool, and how to read it.
pub(super) struct Source<'a> {
    pub pool: &'a Pool,
    pub env: &'a Env,
    pub options: ScrubOptions,
    pub progress: &'a dyn Progress,
    pace: Pace,
}

impl<'a> Source<'a> {
    pub(super) fn new(pool: &'a Pool, env: &'a Env, options: ScrubOptions, progress: &'a dyn Progress) -> Self {
        Self { pool, env, options, progress, pace: Pace { rate: options.rate, next: Mutex::new(Duration::ZERO) } }
    }

    pub(super) fn keys(&self) -> &Arc<PoolKeys> {
        self.pool.keys()
    }

    fn store(&self) -> &Store {
        self.pool.store()
    }

    /// Requests side by side.
    pub(super) fn parallel(&self) -> usize {
        self.options.parallel.max(1)
    }

    /// One page of the keys below `prefix`.
    pub(super) async fn page(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, ScrubError> {
        self.pace.wait(self.env, REQUEST_BYTES).await;
        Ok(self.store().list(prefix, after, PAGE, Cause::Recovery, PATIENCE).await?)
    }

    /// The bytes `range` of an object; a store that does not answer ends the run.
    pub(super) async fn bytes(&self, key: &str, range: Range<u64>, cause: Cause) -> Result<Got<Bytes>, ScrubError> {
        if range.end.saturating_sub(range.start) > MAX_OBJECT {
            return Ok(Got::Bad(format!("it has {} bytes, more than any object of a pool", range.end), Bytes::new()));
        }
        self.pace.wait(self.env, REQUEST_BYTES + (range.end - range.start)).await;
        match self.store().get_range(key, range, cause, PATIENCE).await {
            Ok(bytes) => Ok(Got::Good(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(Got::Missing),
            Err(StoreError::Short { .. }) => Ok(Got::Short),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether there is no object under `key`. A LIST may have been taken before it was put.
    pub(super) async fn is_missing(&self, key: &str) -> Result<bool, ScrubError> {
        Ok(matches!(self.bytes(key, 0..1, Cause::Recovery).await?, Got::Missing))
    }

    /// Reads a whole object of `size` bytes.
    pub(super) async fn whole<T, E: Display>(
        &self,
        key: &str,
        size: u64,
        parse: impl Fn(&Bytes) -> Result<T, E>,
    ) -> Result<Got<T>, ScrubError> {
        let mut last = Got::Missing;
        for _ in 0..2 {
            let bytes = match self.bytes(key, 0..size, Cause::Recovery).await? {
                Got::Good(bytes) => bytes,
                Got::Missing => return Ok(Got::Missing),
                Got::Short => return Ok(Got::Short),
                Got::Bad(why, bytes) => return Ok(Got::Bad(why, bytes)),
            };
            last = match parse(&bytes) {
                Ok(good) => return Ok(Got::Good(good)),
                Err(e) => Got::Bad(e.to_string(), bytes),
            };
        }
        Ok(last)
    }

    /// Reads a segment's index, or a seal, from the end of an object of `size` bytes.
    pub(super) async fn tail(&self, id: SegmentId, size: u64) -> Result<Got<InLog>, ScrubError> {
        let key = id.key();
        let mut range = tail_range(size);
        let mut bad = None;
        // Once for a longer tail, once more before the bytes count as damaged.
        for _ in 0..4 {
            let bytes = match self.bytes(&key, range.clone(), Cause::Recovery).await? {
                Got::Good(bytes) => bytes,
                Got::Missing => return Ok(Got::Missing),
                Got::Short => return Ok(Got::Short),
                Got::Bad(why, bytes) => return Ok(Got::Bad(why, bytes)),
            };
            match parse_tail(self.keys(), id, size, &bytes) {
                Ok(Parsed::Whole(what)) => return Ok(Got::Good(what)),
                Ok(Parsed::More(len)) => range = size.saturating_sub(len)..size,
                Err(e) if bad.is_some() => return Ok(Got::Bad(e.to_string(), bytes)),
                Err(e) => bad = Some((e.to_string(), bytes)),
            }
        }
        Ok(bad
            .map_or_else(|| Got::Bad("its index is longer than it says".into(), Bytes::new()), |(w, b)| Got::Bad(w, b)))
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
pub(super) enum Parsed {
    Whole(InLog),
    /// So many bytes of the end are needed.
    More(u64),
}

/// What the end of an object says under the name `id`.
pub(super) fn parse_tail(keys: &PoolKeys, id: SegmentId, size: u64, tail: &[u8]) -> Result<Parsed, SegmentError> {
    if id.kind() == SegmentKind::Log && log_object_kind(tail) == LogObject::Seal {
        return Seal::open(keys, id.volume(), id.epoch(), id.number(), tail).map(|s| Parsed::Whole(InLog::Seal(s)));
    }
    Ok(match read_index(keys, id, size, tail)? {
        IndexRead::Index(index) => Parsed::Whole(InLog::Segment(index)),
        IndexRead::NeedTail(len) => Parsed::More(len),
    })
}

/// Spreads requests over time.
struct Pace {
    /// Bytes per second.
    rate: Option<u64>,
    /// When the next request may start.
    next: Mutex<Duration>,
}

impl Pace {
    async fn wait(&self, env: &Env, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let pause = {
            let now = env.clock.now();
            let mut next = self.next.lock();
            let start = now.max(*next);
            *next = start.saturating_add(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
            start - now
        };
        if !pause.is_zero() {
            env.clock.sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::timeline::Timeline;

    #[test]
    fn a_limited_pace_is_kept() {
        let time = Timeline::default();
        let env = time.env();
        let pace = Pace { rate: Some(1000), next: Mutex::new(Duration::ZERO) };
        time.run(async {
            for _ in 0..11 {
                pace.wait(&env, 100).await;
            }
        });
        assert_eq!(time.now(), Duration::from_secs(1));
    }
}
