//! What a daemon asks of Linux: that reclaim never waits for it, where files really lie, who and where it is, a
//! socket to be asked on, and what the kernel has to offer.

mod backing;
mod control;
mod devices;
mod identity;
mod kernel;
mod mounts;
mod process;
mod reclaim;
mod socket;
mod usage;

pub use backing::{Backing, BackingDevice, HostTree, StackedError, backing_chain, check_not_stacked, swap_on_stacked};
pub use control::{
    ControlError, ControlServer, Done, Refusal, Say, StatusSource, ask, ask_status, find_sockets, remove_stale_socket,
};
pub use devices::{
    DeviceRecord, Devices, DevicesError, HeldDevice, MAX_WRITERS, Numbers, Records, Stage, UnreadableRecord,
    device_number_of,
};
pub use identity::{Dirs, HostIdentity, boot_id, hex16, is_tmpfs, make_private_dir};
pub use kernel::{
    Capability, ControlDevice, Driver, IoUring, JournalFacts, NbdFacts, Release, Rights, UblkFacts,
    usual_journal_bytes, why_no_ublk,
};
pub use process::{ProcessHandle, process_start};
pub use reclaim::{Measure, ReclaimReport, prepare_process};
pub use socket::{SocketError, SocketFile, listen_on};
pub use usage::{DeviceUser, claim, describe_users, is_held_by_kernel, users_of};
