//! What a run found out, apart from findings.

use std::collections::HashMap;

use super::finding::{Findings, Severity};
use crate::map::UsageTotals;
use crate::segment::SegmentId;

/// The result of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is wrong.
    pub findings: Findings,
    /// The volumes looked at, by ascending number.
    pub volumes: Vec<VolumeReport>,
    /// Objects of the pool that belong to no volume.
    pub pool_objects: u64,
    /// Their bytes.
    pub pool_bytes: u64,
}

impl Report {
    /// Whether anything is damaged.
    pub fn is_damaged(&self) -> bool {
        self.findings.count(Severity::Damage) > 0
    }
}

/// What the newest opening of a volume says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Nobody has ever opened it.
    #[default]
    Unused,
    /// Its log has no seal: it is attached, or was not detached cleanly.
    Open,
    /// Its log is sealed.
    Sealed,
    /// It has been deleted.
    Deleted,
    /// The newest opening cannot be read.
    Unreadable,
}

impl State {
    /// A lower-case word that stays the same from version to version.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Deleted => "deleted",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What is alive in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Blocks of 4 KiB that the map resolves to it.
    pub blocks: u64,
    /// Records that hold such blocks, and nodes of the newest map.
    pub records: u64,
    /// Bytes of those records as they are stored.
    pub bytes: u64,
}

/// What was counted in one volume.
#[derive(Debug, Clone, Default)]
pub struct VolumeReport {
    /// Its number.
    pub number: u32,
    /// Its name, or the last one that it had.
    pub name: Option<String>,
    /// Whether it is attached, sealed, deleted..
    pub state: State,
    /// The newest epoch; 0: none.
    pub epoch: u32,
    /// Its objects.
    pub objects: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Blocks of 4 KiB that hold something, by the map.
    pub live_blocks: u64,
    /// Bytes of the records that hold them, as they are stored.
    pub live_data_bytes: u64,
    /// Bytes of the nodes of the newest checkpoint.
    pub live_node_bytes: u64,
    /// Bytes of objects that nothing refers to.
    pub leaked_bytes: u64,
    /// Objects that the accounts know to be needless, and that have not been deleted yet.
    pub dead_objects: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// What the accounts of the newest checkpoint sum up to; `None`: there are none, or they cannot be read.
    pub accounts: Option<UsageTotals>,
    /// Why those were not compared with what was counted, if they were not.
    pub accounts_unchecked: Option<String>,
    /// Data records that were read and authenticated, and map nodes.
    pub records_read: u64,
    /// Their bytes as they are stored.
    pub bytes_read: u64,
    /// Why the map was not compared with the log from its beginning, if it was not.
    pub not_compared: Option<String>,
    /// Why leaked segments were not looked for, if they were not.
    pub leaks_unknown: Option<String>,
    /// What is alive, by segment.
    pub usage: HashMap<SegmentId, Usage>,
}

impl VolumeReport {
    /// Bytes that are neither live nor leaked: superseded records and nodes, indexes, openings, seals. Those of dead
    /// objects are among them.
    pub fn garbage_bytes(&self) -> u64 {
        let live = self.live_data_bytes + self.live_node_bytes;
        self.stored_bytes.saturating_sub(live + self.leaked_bytes)
    }
}
