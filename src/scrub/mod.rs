//! Looking for damage: reads a pool as it lies in the bucket and says what is wrong with it, and where.
//!
//! Nothing is written, taken or deleted: volumes may be attached elsewhere and written to meanwhile. Objects never change,
//! so bytes that do not authenticate are damage for good; what seems to be missing or left over may be a moment's state,
//! so it counts only if it is still so where the log has not moved on, or was so in a second pass too. What is only in a
//! writer's journal is not in the bucket, and not looked at.
//!
//! | file | what |
//! | --- | --- |
//! | `source`, `runs` | reading: pace, patience, records merged into ranges |
//! | `keys`, `listing` | which keys there are, and what they name |
//! | `chains` | pool records and catalogues |
//! | `volume`, `epochs`, `log`, `segments` | one volume: openings and seals, the log in order, each segment's index |
//! | `tree`, `walk`, `data` | its map node by node, against the log from the beginning; its data |
//! | `accounts`, `recount` | what the newest checkpoint says of each segment, against a count of its tree |
//! | `leaks` | what nothing refers to |
//! | `explain` | why each object is there, or goes |
//! | `finding`, `report` | what comes of it |

mod accounts;
mod chains;
mod data;
mod epochs;
mod explain;
mod finding;
mod keys;
mod leaks;
mod listing;
mod log;
mod recount;
mod report;
mod runs;
mod segments;
mod source;
mod tree;
mod volume;
mod walk;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use explain::{Explained, Explanation, Reason, explain};
pub use finding::{ByteRange, Finding, Findings, Kind, Ranges, Severity};
pub use report::{Report, State, Usage, VolumeReport};

use crate::env::Env;
use crate::pool::{Pool, PoolError};
use crate::store::StoreError;
use source::Source;

/// What to do, and at what pace.
#[derive(Debug, Clone, Copy)]
pub struct ScrubOptions {
    /// Read all live data, too. Without, only openings, seals, indexes and map nodes are read.
    pub data: bool,
    /// Bytes per second that are read at most.
    pub rate: Option<u64>,
    /// Requests side by side.
    pub parallel: usize,
    /// Memory for the map as the log tells it from its beginning, in bytes. A log that needs more is not compared with
    /// the map; the report says so.
    pub replay_bytes: usize,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { data: true, rate: None, parallel: 16, replay_bytes: 512 << 20 }
    }
}

/// Is told how far a run has come.
pub trait Progress: Send + Sync {
    /// `what` begins, which has `len` steps (0: not known).
    fn begin(&self, what: &str, len: u64);
    /// So many steps of it are done.
    fn at(&self, done: u64);
}

impl Progress for () {
    fn begin(&self, _: &str, _: u64) {}
    fn at(&self, _: u64) {}
}

/// Why a run ended without a report.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScrubError {
    /// The store does not answer, or refuses. Nothing is concluded from that.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No volume has this name.
    #[error("there is no volume {0:?} in the pool")]
    NoSuchVolume(String),
    /// A worker thread failed.
    #[error("a worker thread failed")]
    Worker,
}

/// Looks at the whole pool, or at one volume and what it needs of the pool.
///
/// # Errors
/// [`ScrubError`]; damage is no error, but in the report.
pub async fn scrub(
    pool: &Pool,
    volume: Option<&str>,
    options: ScrubOptions,
    env: &Env,
    progress: &dyn Progress,
) -> Result<Report, ScrubError> {
    let source = Source::new(pool, env, options, progress);
    let mut report = Report::default();
    progress.begin("pool", 0);
    // Keys before the catalogue: each volume that has objects is in it by then.
    let top = match volume {
        None => Some(listing::top(&source).await?),
        Some(_) => None,
    };
    let known = chains::check(&source, &mut report).await?;
    let chosen = match volume {
        // Damage of the chains may be why it is not found.
        Some(name) => match known.find(name) {
            None if !report.is_damaged() => return Err(ScrubError::NoSuchVolume(name.to_owned())),
            found => found.into_iter().collect(),
        },
        None => known.all(top.iter().flat_map(|t| t.volumes.iter().copied())),
    };
    for volume in &chosen {
        let (about, found) = volume::check(&source, volume).await?;
        report.findings.extend(found);
        report.volumes.extend(about);
    }
    if let Some(top) = top {
        top.tell(&source, &mut report).await?;
    }
    Ok(report)
}

/// The report on a pool that cannot be opened; `None` if `error` is about something else than damage.
pub fn unopenable(error: &PoolError) -> Option<Report> {
    let PoolError::Damaged { key, why } = error else { return None };
    let mut report = Report::default();
    let finding = report.findings.add(Kind::DamagedPoolRecord, None, key, why.clone());
    finding.meaning("the pool cannot be opened; nothing else was looked at");
    Some(report)
}
