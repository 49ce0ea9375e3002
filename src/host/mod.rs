//! What a daemon asks of Linux: that reclaim never waits for it, where files really lie, who and where it is, a
//! socket to be asked on, and what the kernel has to offer.

mod backing;
mod control;
mod identity;
mod kernel;
mod mounts;
mod reclaim;
mod socket;

pub use backing::{Backing, BackingDevice, HostTree, StackedError, backing_chain, check_not_stacked, swap_on_stacked};
pub use control::{ControlError, ControlServer, StatusSource, ask_status, find_sockets};
pub use identity::{Dirs, HostIdentity, hex16, is_tmpfs, make_private_dir};
pub use kernel::{
    Capability, ControlDevice, Driver, IoUring, JournalFacts, NbdFacts, Release, Rights, UblkFacts,
    usual_journal_bytes, why_no_ublk,
};
pub use reclaim::{Measure, ReclaimReport, prepare_process};
pub use socket::{SocketError, SocketFile, listen_on};
