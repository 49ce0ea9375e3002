//! Finding the newest epoch of a volume and what its log holds, by LIST alone.

use futures::future::try_join_all;

use crate::probe::{Branch, reached};
use crate::segment::log_prefix;
use crate::store::{Cause, Listed, Patience, Store, StoreError};

/// Keys of one LIST page.
const PAGE: usize = 1000;
/// Probes sent side by side to find the end of a long log.
const PROBES: u64 = 24;

/// One object of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogEntry {
    pub seq: u64,
    /// Bytes.
    pub size: u64,
}

/// The newest epoch and its log objects after the opening, ascending; those of a long log from somewhere before its
/// last page on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub epoch: u32,
    /// `entries` are all that stand after this seq.
    pub after: u64,
    pub entries: Vec<LogEntry>,
}

/// One LIST for logs of up to a page; a few rounds of parallel ones for longer logs.
pub(super) async fn newest(store: &Store, volume: u32, patience: Patience) -> Result<Option<Found>, StoreError> {
    let listed = store.list(&format!("log/{volume:08x}/"), None, PAGE, Cause::Recovery, patience).await?;
    let Some(epoch) = listed.iter().find_map(|l| Some(parse(&l.key)?.0)) else { return Ok(None) };
    let mut entries = of_epoch(&listed, epoch);
    let mut after = 0;
    if listed.len() == PAGE && entries.len() == PAGE {
        reached(Branch::LongLog);
        let last = entries[PAGE - 1].seq;
        if let Some(near_end) = find_end(store, volume, epoch, last, patience).await? {
            after = near_end.saturating_sub(PAGE as u64);
            entries = range(store, volume, epoch, after, None, patience).await?;
        }
    }
    entries.retain(|e| e.seq > 0);
    Ok(Some(Found { epoch, after, entries }))
}

/// A seq less than a page before the end of a log that goes beyond `after`; `None` if it ends there.
async fn find_end(
    store: &Store,
    volume: u32,
    epoch: u32,
    after: u64,
    patience: Patience,
) -> Result<Option<u64>, StoreError> {
    let exists_after = |seq: u64| async move {
        let start = format!("{}{seq:016x}", log_prefix(volume, epoch));
        let got = store.list(&log_prefix(volume, epoch), Some(&start), 1, Cause::Recovery, patience).await?;
        Ok::<_, StoreError>(!got.is_empty())
    };
    // `low` has something after it, `high` has nothing.
    let steps = (0..PROBES).map(|i| after.saturating_add(((PAGE as u64) << i) - PAGE as u64));
    let hits = try_join_all(steps.clone().map(exists_after)).await?;
    let Some(mut low) = steps.clone().zip(&hits).filter(|(_, hit)| **hit).map(|(s, _)| s).last() else {
        return Ok(None);
    };
    let mut high = steps.zip(&hits).find(|(s, hit)| *s > low && !**hit).map_or(u64::MAX, |(s, _)| s);
    while high - low > PAGE as u64 {
        let step = ((high - low) / PROBES).max(1);
        let marks: Vec<u64> = (1..PROBES).map(|i| low + i * step).filter(|m| *m < high).collect();
        let hits = try_join_all(marks.iter().map(|m| exists_after(*m))).await?;
        for (mark, hit) in marks.into_iter().zip(hits) {
            if hit {
                low = low.max(mark);
            } else {
                high = high.min(mark);
            }
        }
    }
    Ok(Some(low))
}

/// The log objects of an epoch after seq `after` (`None` as `end`: to the end), page after page.
pub(super) async fn range(
    store: &Store,
    volume: u32,
    epoch: u32,
    after: u64,
    end: Option<u64>,
    patience: Patience,
) -> Result<Vec<LogEntry>, StoreError> {
    let prefix = log_prefix(volume, epoch);
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut after = after;
    loop {
        let start = format!("{prefix}{after:016x}");
        let page = store.list(&prefix, Some(&start), PAGE, Cause::Recovery, patience).await?;
        let full = page.len() == PAGE;
        entries.extend(of_epoch(&page, epoch));
        match entries.last() {
            Some(last) if full && end.is_none_or(|e| last.seq < e) => after = last.seq,
            _ => break,
        }
    }
    entries.retain(|e| end.is_none_or(|end| e.seq < end));
    Ok(entries)
}

fn of_epoch(listed: &[Listed], epoch: u32) -> Vec<LogEntry> {
    let parsed = listed.iter().filter_map(|l| parse(&l.key).map(|(e, seq)| (e, LogEntry { seq, size: l.size })));
    parsed.take_while(|(e, _)| *e == epoch).map(|(_, entry)| entry).collect()
}

/// The epoch and seq in a log object's key; `None` for a key of another shape.
fn parse(key: &str) -> Option<(u32, u64)> {
    let mut parts = key.rsplit('/');
    let seq = number(parts.next()?)?;
    let epoch = !number(parts.next()?)?;
    Some((u32::try_from(epoch).ok()?, seq))
}

/// 16 lower-case hex digits, and nothing else.
fn number(digits: &str) -> Option<u64> {
    let n = u64::from_str_radix(digits, 16).ok()?;
    (format!("{n:016x}") == digits).then_some(n)
}

/// The maximal runs of segments at consecutive seqs, ascending. A seal is part of none, and parts what stands before it
/// from what stands behind it.
pub(super) fn runs(entries: &[LogEntry], is_seal: impl Fn(u64) -> bool) -> Vec<&[LogEntry]> {
    let follows = |a: &LogEntry, b: &LogEntry| a.seq + 1 == b.seq && !is_seal(a.seq) && !is_seal(b.seq);
    entries.chunk_by(follows).filter(|run| run.first().is_some_and(|e| !is_seal(e.seq))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentId;

    #[test]
    fn keys_parse_and_strangers_do_not() {
        assert_eq!(parse(&SegmentId::log(7, 3, 258).key()), Some((3, 258)));
        assert_eq!(parse("log/00000007/x/1"), None);
        assert_eq!(parse("log"), None);
        assert_eq!(parse("log/00000007/fffffffffffffffe/5"), None);
        assert_eq!(parse("log/00000007/fffffffffffffffe/+000000000000005"), None);
    }

    #[test]
    fn the_end_of_a_long_log_is_found() {
        use object_store::ObjectStoreExt;
        let time = crate::store::timeline::Timeline::default();
        for count in [999u64, 1000, 1001, 2500, 7777] {
            let objects = std::sync::Arc::new(object_store::memory::InMemory::new());
            let store = Store::over(objects.clone(), "p", "test", time.env());
            let found = time.run(async {
                for seq in 0..count {
                    let path = format!("p/{}", SegmentId::log(1, 4, seq).key());
                    objects.put(&path.into(), "x".into()).await.expect("memory");
                }
                for seq in 0..5 {
                    let path = format!("p/{}", SegmentId::log(1, 3, seq).key());
                    objects.put(&path.into(), "x".into()).await.expect("memory");
                }
                newest(&store, 1, Patience::Forever).await
            });
            let found = found.expect("memory").expect("epoch 4");
            assert_eq!(found.epoch, 4);
            assert_eq!(found.entries.last().map(|e| e.seq), Some(count - 1), "{count}");
            assert_eq!(runs(&found.entries, |_| false).len(), 1);
            assert_eq!(found.entries[0].seq, found.after + 1);
            assert!(found.entries.len() as u64 >= (count - 1).min(1000));
        }
    }

    #[test]
    fn the_end_of_a_long_log_with_holes_is_found() {
        use object_store::ObjectStoreExt;
        let time = crate::store::timeline::Timeline::default();
        // Every `step`-th is left of what is before the dense end.
        for (count, step, dense) in [(5000u64, 3u64, 100u64), (9000, 2, 900), (20_000, 7, 1), (1200, 50, 1100)] {
            let objects = std::sync::Arc::new(object_store::memory::InMemory::new());
            let store = Store::over(objects.clone(), "p", "test", time.env());
            let seqs: Vec<u64> = (0..count).filter(|s| s % step == 0 || *s >= count - dense).collect();
            let found = time.run(async {
                for seq in &seqs {
                    let path = format!("p/{}", SegmentId::log(1, 4, *seq).key());
                    objects.put(&path.into(), "x".into()).await.expect("memory");
                }
                newest(&store, 1, Patience::Forever).await
            });
            let found = found.expect("memory").expect("epoch 4");
            let expected: Vec<u64> = seqs.iter().copied().filter(|s| *s > found.after).collect();
            assert_eq!(found.entries.iter().map(|e| e.seq).collect::<Vec<_>>(), expected, "{count}");
            assert!(found.after < count - dense || found.entries.len() >= 900, "{count}: after {}", found.after);
        }
    }

    #[test]
    fn gaps_and_seals_end_runs() {
        let entries: Vec<_> = [1, 2, 4, 5, 6, 7, 9].map(|seq| LogEntry { seq, size: 1 }).into();
        let got = |seals: &[u64]| -> Vec<(u64, u64)> {
            let all = runs(&entries, |s| seals.contains(&s));
            all.iter().map(|r| (r[0].seq, r[r.len() - 1].seq)).collect()
        };
        assert_eq!(got(&[]), [(1, 2), (4, 7), (9, 9)]);
        assert_eq!(got(&[5, 9]), [(1, 2), (4, 4), (6, 7)]);
        assert_eq!(got(&[1, 4, 7]), [(2, 2), (5, 6), (9, 9)]);
        assert!(runs(&[], |_| false).is_empty());
    }
}
