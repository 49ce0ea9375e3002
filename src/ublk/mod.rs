//! The ublk target: a volume as `/dev/ublkbN`, served by threads of this process through io_uring.
//!
//! It knows [`esker_block::BlockDevice`] and nothing behind it. Sources: `include/uapi/linux/ublk_cmd.h` and
//! `Documentation/block/ublk.rst` of Linux. Why there is no libublk between: docs/decisions/0011-ublk-without-libublk.md.
//!
//! | file | what |
//! | --- | --- |
//! | `uapi` | numbers and structures of the kernel's interface |
//! | `features` | which of them a kernel has, and which we ask for |
//! | `control`, `error` | `/dev/ublk-control`: commands with a time limit |
//! | `params` | what the block device says of itself: sizes, limits, cache |
//! | `target` | adding, starting, recovering, stopping, leaving a device |
//! | `serving` | the threads of a device: starting, ending, where they run |
//! | `queue` | the thread of one queue: requests in, answers out |
//! | `request` | one request of the kernel, and how the device is asked |
//! | `data` | how a request's bytes get in and out: user copy, or a buffer per tag |
//! | `lanes` | how many bytes waiting requests may hold |
//! | `mailbox` | answers that come from other threads, and the eventfd that announces them |
//! | `status` | counters |

mod control;
mod data;
mod error;
mod features;
mod lanes;
mod mailbox;
mod params;
mod queue;
mod request;
mod serving;
mod status;
mod target;
mod uapi;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use control::{CONTROL_PATH, Control, DeviceState, State};
pub use error::UblkError;
pub use features::{CopyMode, Feature, Features};
pub use status::{QueueStatus, TargetStatus};
pub use target::{Added, MAX_DEPTH, MAX_QUEUES, Target, TargetOptions};

/// Most devices that a listing answers; the kernel's own bound is far above what a host has.
const MAX_LISTED: usize = 65_536;

/// The block device of number `id`: `/dev/ublkbN`.
pub fn block_path(id: u32) -> PathBuf {
    format!("/dev/ublkb{id}").into()
}

/// The character device through which the block device of number `id` is served: `/dev/ublkcN`.
pub fn char_path(id: u32) -> PathBuf {
    format!("/dev/ublkc{id}").into()
}

/// The numbers of all ublk devices of this kernel, started or not, ours or not, in order.
///
/// # Errors
/// Where sysfs cannot be read. A kernel without ublk has none.
pub fn device_ids() -> io::Result<Vec<u32>> {
    ids_in(Path::new("/sys/class/ublk-char"))
}

fn ids_in(class: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(class) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("ublkc")?.parse().ok();
    let mut ids: Vec<u32> = entries.flatten().take(MAX_LISTED).filter_map(|e| number(e.file_name())).collect();
    ids.sort_unstable();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn devices_are_listed_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ublkc10", "ublkc2", "ublkb2", "ublkc", "ublkcx", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(ids_in(dir.path()).unwrap(), [2, 10]);
        assert_eq!(ids_in(&dir.path().join("none")).unwrap(), Vec::<u32>::new());
        assert_eq!(block_path(3), Path::new("/dev/ublkb3"));
        assert_eq!(char_path(3), Path::new("/dev/ublkc3"));
    }
}
