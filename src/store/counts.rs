//! What was asked of the store: requests, bytes and errors by kind and cause.

use std::sync::atomic::{AtomicU64, Ordering};

use super::options::Cause;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A create-only PUT.
    Put,
    /// A GET, whole or ranged.
    Get,
    /// A page of a LIST.
    List,
    /// A DELETE, of one object or of many.
    Delete,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Put, Kind::Get, Kind::List, Kind::Delete];

    /// The HTTP verb, or LIST.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "PUT",
            Kind::Get => "GET",
            Kind::List => "LIST",
            Kind::Delete => "DELETE",
        }
    }
}

/// One line of the accounts. Every attempt counts, hedges too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountRow {
    /// Kind of request.
    pub kind: Kind,
    /// What it was for.
    pub cause: Cause,
    /// Attempts sent.
    pub requests: u64,
    /// Bytes of bodies sent (PUT) or received (GET).
    pub bytes: u64,
    /// Objects that answers to DELETE confirmed to be gone, many per request where the store has that.
    pub objects: u64,
    /// Attempts that failed or timed out; "not there" and "there already" are answers, not errors.
    pub errors: u64,
}

#[derive(Default)]
struct Cell {
    requests: AtomicU64,
    bytes: AtomicU64,
    objects: AtomicU64,
    errors: AtomicU64,
}

/// The live accounts.
#[derive(Default)]
pub(super) struct Counts {
    cells: [[Cell; Cause::ALL.len()]; Kind::ALL.len()],
}

impl Counts {
    fn cell(&self, kind: Kind, cause: Cause) -> &Cell {
        &self.cells[kind as usize][cause as usize]
    }

    pub(super) fn sent(&self, kind: Kind, cause: Cause, bytes: u64) {
        let cell = self.cell(kind, cause);
        cell.requests.fetch_add(1, Ordering::Relaxed);
        cell.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn received(&self, kind: Kind, cause: Cause, bytes: u64) {
        self.cell(kind, cause).bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn deleted(&self, cause: Cause, objects: u64) {
        self.cell(Kind::Delete, cause).objects.fetch_add(objects, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, kind: Kind, cause: Cause) {
        self.cell(kind, cause).errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rows(&self) -> Vec<CountRow> {
        let row = |kind, cause| {
            let cell = self.cell(kind, cause);
            CountRow {
                kind,
                cause,
                requests: cell.requests.load(Ordering::Relaxed),
                bytes: cell.bytes.load(Ordering::Relaxed),
                objects: cell.objects.load(Ordering::Relaxed),
                errors: cell.errors.load(Ordering::Relaxed),
            }
        };
        let pairs = Kind::ALL.iter().flat_map(|&k| Cause::ALL.iter().map(move |&c| (k, c)));
        pairs.map(|(k, c)| row(k, c)).filter(|r| r.requests > 0).collect()
    }
}
