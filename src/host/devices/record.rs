//! What is written down about one device.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of the record's layout. A record of another version is not understood, and says so.
pub(super) const FORMAT: u32 = 1;
/// Most writers of one record. Each try to resume adds one; a try is made only after the store has answered.
pub const MAX_WRITERS: usize = 1024;

/// How far a device has come; the kernel and the lock decide what is done, this is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its number is taken; it may not be in the kernel yet.
    Starting,
    /// It was started.
    Live,
    /// A process is bringing it back.
    Recovering,
    /// It is being written back and removed.
    Removing,
}

/// One device that this host serves, or is to serve again: `<runtime directory>/devices/ublkbN.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Version of this layout.
    pub format: u32,
    /// N of `/dev/ublkbN`.
    pub id: u32,
    /// Which boot it belongs to, in hex: no device outlives one.
    pub boot: String,
    /// The kernel's identity of the device of this number, once it is there: another program's may follow it.
    pub instance: Option<u64>,
    /// A random number that the kernel keeps with the device, from the moment it is there; 0 is none.
    #[serde(default)]
    pub mark: u64,
    /// How far it has come.
    pub stage: Stage,
    /// The pool's id, 32 hex digits.
    pub pool: String,
    /// The pool's URL, as given.
    pub url: String,
    /// The pool's name in `/dev/esker`.
    pub label: String,
    /// The volume's name.
    pub volume: String,
    /// The volume's number in its pool.
    pub number: u32,
    /// Size in bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Where a completed flush is durable.
    pub durability: String,
    /// The directory that its journal lies in: a successor goes on from there, whatever its own flags say.
    #[serde(default)]
    pub journal_dir: Option<PathBuf>,
    /// The process that serves it, or did last. The lock says whether it lives.
    pub pid: u32,
    /// When that process began ([`process_start`](super::super::process_start)): its number may become another's.
    #[serde(default)]
    pub started: Option<u64>,
    /// Its control socket.
    pub control: PathBuf,
    /// The links in `/dev` that the process made itself.
    pub links: Vec<PathBuf>,
    /// Its command line.
    pub arguments: Vec<String>,
    /// Ids, in hex, of the openings under which the device's content was served, or is about to be.
    pub writers: Vec<String>,
}

impl DeviceRecord {
    /// `/dev/ublkbN`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/{}", self.name()))
    }

    /// `ublkbN`.
    pub fn name(&self) -> String {
        kernel_name(self.id)
    }

    /// Whether it is about volume `number` of the pool with this id.
    pub fn is_of(&self, pool: &str, number: u32) -> bool {
        self.pool == pool && self.number == number
    }

    /// The writers as ids.
    pub fn writer_ids(&self) -> Vec<[u8; 16]> {
        self.writers.iter().filter_map(|w| super::super::identity::parse_uuid(w)).collect()
    }
}

/// The kernel's name of device `id`.
pub(super) fn kernel_name(id: u32) -> String {
    format!("ublkb{id}")
}

/// The number in `ublkbN` or `ublkbNpM`.
pub fn device_number_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("ublkb")?;
    let digits =
        rest.split_once('p').map_or(rest, |(disk, part)| if part.parse::<u32>().is_ok() { disk } else { rest });
    digits.parse().ok()
}
