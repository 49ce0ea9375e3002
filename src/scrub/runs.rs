//! Records by ranged GETs: neighbours in one object together, several requests side by side.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::ScrubError;
use super::source::{Got, Source};
use crate::segment::{RecordRef, SegmentId};
use crate::store::Cause;

/// Records this close to each other in one object are fetched by one GET.
const GAP: u64 = 16 << 10;
/// The most that one GET asks for, unless one record is larger.
const RUN: u64 = 1 << 20;

/// Why a record cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bad {
    /// Its object is not there.
    Missing,
    /// Its object ends before it does.
    Short,
    /// It does not authenticate, or is not what it should be.
    Altered(String),
}

/// One GET for several records: `items` are their positions among those wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    segment: SegmentId,
    range: Range<u64>,
    items: Vec<usize>,
}

/// Opens a record, by its position among those wanted, out of its bytes.
pub(super) type Open<T> = dyn Fn(usize, &[u8]) -> Result<T, String> + Send + Sync;

/// Reads and opens `records`; answers in their order. What does not open is fetched once more.
pub(super) async fn read<T: Send + 'static>(
    source: &Source<'_>,
    records: &[RecordRef],
    cause: Cause,
    open: Arc<Open<T>>,
) -> Result<Vec<Result<T, Bad>>, ScrubError> {
    let places: Arc<Vec<RecordRef>> = Arc::new(records.to_vec());
    let mut answers: Vec<Option<Result<T, Bad>>> = records.iter().map(|_| None).collect();
    let mut done = stream::iter(runs(records).into_iter().map(|run| {
        let (places, open) = (places.clone(), open.clone());
        async move { read_run(source, run, cause, &places, &open).await }
    }))
    .buffer_unordered(source.parallel());
    while let Some(part) = done.try_next().await? {
        for (at, answer) in part {
            answers[at] = Some(answer);
        }
    }
    let answers: Option<Vec<_>> = answers.into_iter().collect();
    answers.ok_or(ScrubError::Worker)
}

async fn read_run<T: Send + 'static>(
    source: &Source<'_>,
    run: Run,
    cause: Cause,
    places: &Arc<Vec<RecordRef>>,
    open: &Arc<Open<T>>,
) -> Result<Vec<(usize, Result<T, Bad>)>, ScrubError> {
    let key = run.segment.key();
    let mut opened = Vec::with_capacity(run.items.len());
    let mut left = run.items;
    for last in [false, true] {
        let bytes = match source.bytes(&key, run.range.clone(), cause).await? {
            Got::Good(bytes) => bytes,
            Got::Missing => return Ok(all(opened, left, &Bad::Missing)),
            Got::Short => return Ok(all(opened, left, &Bad::Short)),
            Got::Bad(why, _) => return Ok(all(opened, left, &Bad::Altered(why))),
        };
        let results = open_all(source, left, bytes, run.range.start, places, open).await?;
        let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(|(_, r)| r.is_ok());
        opened.extend(good);
        if last || bad.is_empty() {
            opened.extend(bad);
            return Ok(opened);
        }
        // Damage on the way is not damage in the bucket.
        left = bad.into_iter().map(|(at, _)| at).collect();
    }
    Ok(opened)
}

fn all<T>(mut opened: Vec<(usize, Result<T, Bad>)>, left: Vec<usize>, bad: &Bad) -> Vec<(usize, Result<T, Bad>)> {
    opened.extend(left.into_iter().map(|at| (at, Err(bad.clone()))));
    opened
}

/// Decrypting and decompressing is for a worker thread.
async fn open_all<T: Send + 'static>(
    source: &Source<'_>,
    items: Vec<usize>,
    bytes: Bytes,
    from: u64,
    places: &Arc<Vec<RecordRef>>,
    open: &Arc<Open<T>>,
) -> Result<Vec<(usize, Result<T, Bad>)>, ScrubError> {
    let (places, open) = (places.clone(), open.clone());
    let job = move || {
        let one = |at: usize| {
            let begin = (u64::from(places[at].offset) - from) as usize;
            let record = bytes.get(begin..begin + places[at].len as usize);
            let opened = record.ok_or_else(|| "it lies beyond what was read".to_string()).and_then(|r| open(at, r));
            (at, opened.map_err(Bad::Altered))
        };
        items.into_iter().map(one).collect()
    };
    source.env.heavy(job).await.ok_or(ScrubError::Worker)
}

/// Groups records by object and place.
fn runs(records: &[RecordRef]) -> Vec<Run> {
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_unstable_by_key(|at| (records[*at].segment, records[*at].offset));
    let mut out: Vec<Run> = Vec::new();
    for at in order {
        let r = &records[at];
        let (begin, end) = (u64::from(r.offset), u64::from(r.offset) + u64::from(r.len));
        match out.last_mut() {
            Some(run) if run.segment == r.segment && begin <= run.range.end + GAP && end <= run.range.start + RUN => {
                run.range.end = run.range.end.max(end);
                run.items.push(at);
            }
            _ => out.push(Run { segment: r.segment, range: begin..end, items: vec![at] }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_get() {
        let at = |n: u64, offset: u32, len: u32| RecordRef { segment: SegmentId::log(1, 1, n), offset, len, number: 0 };
        let got = runs(&[at(2, 32, 100), at(1, 132, 50), at(1, 32, 100), at(1, 40_000, 10), at(1, 50_000, 1 << 20)]);
        let got: Vec<_> = got.into_iter().map(|r| (r.segment.number(), r.range, r.items)).collect();
        let expected = [
            (1, 32..182, vec![2, 1]),
            (1, 40_000..40_010, vec![3]),
            (1, 50_000..50_000 + (1 << 20), vec![4]),
            (2, 32..132, vec![0]),
        ];
        assert_eq!(got, expected);
    }
}
