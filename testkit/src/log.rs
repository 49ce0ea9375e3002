//! Which requests came: counted by kind, and kept in order with key, status and time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// PUT of an object without a condition.
    Put,
    /// PUT with `If-None-Match: *`.
    Create,
    /// PUT with `If-Match`.
    Swap,
    /// Copy of an object.
    Copy,
    /// GET of an object, whole or in part.
    Get,
    /// HEAD of an object.
    Head,
    /// LIST, one page.
    List,
    /// DELETE of one object.
    Delete,
    /// DELETE of many objects in one request.
    DeleteMany,
    /// Any step of a multipart upload.
    Multipart,
    /// Anything about a bucket, or the list of them.
    Bucket,
    /// Anything else.
    Other,
}

impl Kind {
    /// The kinds that send one whole object.
    pub const PUTS: [Self; 3] = [Self::Put, Self::Create, Self::Swap];
    /// The kinds that change nothing.
    pub const READS: [Self; 3] = [Self::Get, Self::Head, Self::List];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Put => "put",
            Self::Create => "create",
            Self::Swap => "swap",
            Self::Copy => "copy",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::DeleteMany => "delete_many",
            Self::Multipart => "multipart",
            Self::Bucket => "bucket",
            Self::Other => "other",
        })
    }
}

/// One request that was answered (or whose connection was dropped).
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// From 1, in the order of their ends; goes on over [`RequestLog::clear`].
    pub number: u64,
    /// What it is.
    pub kind: Kind,
    /// The HTTP method.
    pub method: String,
    /// The bucket; empty for the list of buckets.
    pub bucket: String,
    /// The object's key; for a LIST, its prefix.
    pub key: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The status of the reply; 0 where the connection was dropped without one.
    pub status: u16,
    /// The fault that was made.
    pub fault: Option<String>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the reply's body.
    pub bytes_out: u64,
    /// When the request's head had arrived, since the server's start.
    pub begin: Duration,
    /// When the reply was handed to the connection.
    pub end: Duration,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        write!(f, "{:>10.1} ms  {:<11} {:>3}", ms(self.begin), self.kind, self.status)?;
        write!(f, " {:>8.1} ms  {}/{}", ms(self.end.saturating_sub(self.begin)), self.bucket, self.key)?;
        if let Some(range) = &self.range {
            write!(f, "  {range}")?;
        }
        if let Some(fault) = &self.fault {
            write!(f, "  [{fault}]")?;
        }
        write!(f, "  in {} out {}", self.bytes_in, self.bytes_out)
    }
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    in_flight: u64,
    entries: VecDeque<Entry>,
    counts: BTreeMap<Kind, u64>,
    bytes_in: u64,
    bytes_out: u64,
}

/// Requests are kept up to this many; counts go on.
const KEPT: usize = 200_000;

/// The requests that a server has answered.
#[derive(Debug)]
pub struct RequestLog {
    start: Instant,
    state: Mutex<State>,
}

impl RequestLog {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), state: Mutex::default() }
    }

    /// Time since the server's start, as in [`Entry::begin`].
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn arrived(&self) {
        self.state.lock().in_flight += 1;
    }

    pub(crate) fn left(&self) {
        self.state.lock().in_flight -= 1;
    }

    pub(crate) fn push(&self, mut entry: Entry) {
        let mut state = self.state.lock();
        state.last += 1;
        entry.number = state.last;
        *state.counts.entry(entry.kind).or_default() += 1;
        state.bytes_in += entry.bytes_in;
        state.bytes_out += entry.bytes_out;
        if state.entries.len() == KEPT {
            state.entries.pop_front();
        }
        state.entries.push_back(entry);
    }

    /// Requests of one kind that were answered since the last [`clear`](Self::clear).
    pub fn count(&self, kind: Kind) -> u64 {
        self.state.lock().counts.get(&kind).copied().unwrap_or(0)
    }

    /// Requests by kind since the last [`clear`](Self::clear); kinds that did not come are absent.
    pub fn counts(&self) -> BTreeMap<Kind, u64> {
        self.state.lock().counts.clone()
    }

    /// All requests that were answered since the last [`clear`](Self::clear).
    pub fn total(&self) -> u64 {
        self.state.lock().counts.values().sum()
    }

    /// Requests that have arrived and are not answered.
    pub fn in_flight(&self) -> u64 {
        self.state.lock().in_flight
    }

    /// Bytes of bodies since the last [`clear`](Self::clear): received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.bytes_in, state.bytes_out)
    }

    /// The latest requests (200,000 at most) in the order of their ends, since the last [`clear`](Self::clear).
    pub fn entries(&self) -> Vec<Entry> {
        self.state.lock().entries.iter().cloned().collect()
    }

    /// The latest `n` requests.
    pub fn tail(&self, n: usize) -> Vec<Entry> {
        let state = self.state.lock();
        let skip = state.entries.len().saturating_sub(n);
        state.entries.iter().skip(skip).cloned().collect()
    }

    /// Forgets all that was answered so far.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        *state = State { last: state.last, in_flight: state.in_flight, ..State::default() };
    }

    /// The log as text, one request a line: what a failing test prints.
    pub fn dump(&self) -> String {
        self.entries().iter().map(|e| format!("{e}\n")).collect()
    }
}

/// How many of the requests followed one another: the most of them of which no two were under way at once. With a delay
/// on every request this is the number of sequential round trips.
pub fn round_trips(entries: &[Entry]) -> usize {
    let mut by_end: Vec<_> = entries.iter().map(|e| (e.end, e.begin)).collect();
    by_end.sort();
    let mut trips = 0;
    let mut last = None;
    for (end, begin) in by_end {
        if last.is_none_or(|l| begin >= l) {
            trips += 1;
            last = Some(end);
        }
    }
    trips
}

/// The most requests that were under way at once.
pub fn max_in_flight(entries: &[Entry]) -> usize {
    let mut steps: Vec<_> = entries.iter().flat_map(|e| [(e.begin, 1i64), (e.end, -1)]).collect();
    steps.sort();
    let mut now = 0;
    let peak = steps.iter().map(|(_, step)| {
        now += step;
        now
    });
    usize::try_from(peak.max().unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(begin: u64, end: u64) -> Entry {
        Entry {
            number: 0,
            kind: Kind::Get,
            method: "GET".into(),
            bucket: "b".into(),
            key: "k".into(),
            range: None,
            status: 200,
            fault: None,
            bytes_in: 0,
            bytes_out: 7,
            begin: Duration::from_millis(begin),
            end: Duration::from_millis(end),
        }
    }

    #[test]
    fn round_trips_are_those_that_followed_one_another() {
        assert_eq!(round_trips(&[]), 0);
        let fan_out = [entry(0, 20), entry(21, 41), entry(21, 42), entry(22, 43), entry(44, 64)];
        assert_eq!(round_trips(&fan_out), 3);
        assert_eq!(max_in_flight(&fan_out), 3);
        assert_eq!(round_trips(&[entry(0, 100), entry(1, 10), entry(11, 20)]), 2);
        assert_eq!(max_in_flight(&[entry(0, 10), entry(10, 20)]), 1);
    }

    #[test]
    fn counts_go_on_where_entries_end() {
        let log = RequestLog::new();
        for _ in 0..3 {
            log.push(entry(0, 1));
        }
        assert_eq!((log.count(Kind::Get), log.count(Kind::Put), log.total(), log.bytes()), (3, 0, 3, (0, 21)));
        assert_eq!(log.tail(2).iter().map(|e| e.number).collect::<Vec<_>>(), [2, 3]);
        log.clear();
        assert_eq!((log.total(), log.entries().len()), (0, 0));
        log.push(entry(0, 1));
        assert_eq!(log.entries()[0].number, 4);
    }
}
