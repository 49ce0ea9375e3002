//! What an operator chooses when a volume is attached.

use std::path::PathBuf;
use std::time::Duration;

use crate::pool::Compression;

/// What happens to requests while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOutage {
    /// They wait until it does.
    Wait,
    /// They fail with EIO once the outage has lasted this long; nothing acknowledged is dropped.
    FailAfter(Duration),
}

/// Who attaches: written into the opening, and compared with the last one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Stays the same across boots of one machine.
    pub id: [u8; 16],
    /// Changes with every boot.
    pub boot: [u8; 16],
    /// For messages to people.
    pub name: String,
}

/// How space is given back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompactOptions {
    /// Off: nothing is deleted or rewritten but with the volume.
    pub enabled: bool,
    /// Stored bytes by visible stored bytes, above which segments are rewritten.
    pub target: f64,
    /// Garbage of fewer bytes than this is left alone.
    pub slack: u64,
    /// So many segments under an eighth of the usual size may stay.
    pub tiny_segments: usize,
    /// How copies are compressed; `None`: as the volume.
    pub compression: Option<Compression>,
    /// What rewriting in the background may read and write together, in bytes per second; `None`: as much as it finds
    /// right.
    pub max_bandwidth: Option<u64>,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self { enabled: true, target: 1.2, slack: 32 << 20, tiny_segments: 256, compression: None, max_bandwidth: None }
    }
}

/// Everything [`super::Volume::attach`] needs besides pool and volume.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// Who we are.
    pub host: Host,
    /// Directory of the journal ring; a tmpfs.
    pub journal_dir: PathBuf,
    /// Size of a new ring in bytes.
    pub journal_bytes: u64,
    /// Refuse a journal directory that is not a tmpfs. Off in tests only.
    pub require_tmpfs: bool,
    /// Directory of the local high-water marks.
    pub state_dir: PathBuf,
    /// Memory for decrypted pieces, in bytes.
    pub cache_bytes: u64,
    /// Memory for clean map leaves, in bytes.
    pub leaf_cache_bytes: usize,
    /// Memory for changed map nodes, in bytes: a checkpoint starts beyond it.
    pub dirty_map_bytes: usize,
    /// A segment is cut at this many bytes of writes.
    pub segment_bytes: usize,
    /// Segments on their way to the store at once, besides those of flushes.
    pub max_in_flight: usize,
    /// A write goes to the store at the latest after this long.
    pub max_unflushed_age: Duration,
    /// Log segments since the last checkpoint at which the next one starts.
    pub checkpoint_segments: u64,
    /// How space is given back.
    pub compact: CompactOptions,
    /// Policy for store trouble.
    pub on_outage: OnOutage,
    /// Writes are refused.
    pub read_only: bool,
    /// Take the volume although its owner may be alive.
    pub takeover: bool,
    /// Go on although acknowledged writes in a journal are lost by it.
    pub lose_journal: bool,
    /// The random id that names this attach in its opening and seals; `None` draws one. Given by who must have it on
    /// record before the opening can exist. Never used for a second attach.
    pub writer: Option<[u8; 16]>,
    /// Attach only as the continuation of what one of these writers left: the newest opening is theirs, and its journal is
    /// here or its log was sealed cleanly by its owner. `takeover` and `lose_journal` count for nothing then.
    pub resume: Option<Vec<[u8; 16]>>,
    /// Refuse if the newest epoch is lower than this: the bucket was rolled back.
    pub expect_epoch: Option<u32>,
}

impl AttachOptions {
    /// The defaults, with the given host and directories.
    pub fn new(host: Host, journal_dir: PathBuf, state_dir: PathBuf) -> Self {
        Self {
            host,
            journal_dir,
            journal_bytes: 256 << 20,
            require_tmpfs: true,
            state_dir,
            cache_bytes: 256 << 20,
            leaf_cache_bytes: 64 << 20,
            dirty_map_bytes: 64 << 20,
            segment_bytes: 8 << 20,
            max_in_flight: 16,
            max_unflushed_age: Duration::from_secs(1),
            checkpoint_segments: 400,
            compact: CompactOptions::default(),
            on_outage: OnOutage::Wait,
            read_only: false,
            takeover: false,
            lose_journal: false,
            writer: None,
            resume: None,
            expect_epoch: None,
        }
    }
}
