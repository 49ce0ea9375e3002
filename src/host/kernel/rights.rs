//! What this process may ask of the kernel.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

/// A capability, by its number in the masks of `/proc/self/status` (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// CAP_IPC_LOCK: memory may be locked without limit.
    IpcLock = 14,
    /// CAP_SYS_ADMIN: ublk devices that outlive their daemon.
    SysAdmin = 21,
    /// CAP_SYS_RESOURCE: limits may be raised, and the process may be an I/O flusher.
    SysResource = 24,
}

impl Capability {
    /// Whether the process holds it against the kernel itself: one held only inside a user namespace does not count for
    /// any of these.
    pub fn held(self, proc: &Path) -> bool {
        let Ok(status) = fs::read_to_string(proc.join("self/status")) else { return false };
        let effective = status
            .lines()
            .find_map(|l| l.strip_prefix("CapEff:"))
            .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
            .unwrap_or(0);
        effective >> self as u32 & 1 == 1 && in_initial_user_namespace(proc)
    }
}

fn in_initial_user_namespace(proc: &Path) -> bool {
    let Ok(map) = fs::read_to_string(proc.join("self/uid_map")) else { return false };
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rights {
    /// CAP_SYS_ADMIN is held.
    pub sys_admin: bool,
    /// CAP_SYS_RESOURCE is held.
    pub sys_resource: bool,
    /// CAP_IPC_LOCK is held.
    pub ipc_lock: bool,
    /// Bytes of memory that may be locked; `None` without limit.
    pub memlock: Option<u64>,
}

impl Rights {
    /// Of this process.
    pub fn of_this_process() -> Self {
        let held = |capability: Capability| capability.held(Path::new("/proc"));
        Self {
            sys_admin: held(Capability::SysAdmin),
            sys_resource: held(Capability::SysResource),
            ipc_lock: held(Capability::IpcLock),
            memlock: getrlimit(Resource::Memlock).current,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fake_proc(cap_eff: &str, uid_map: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("self")).unwrap();
        fs::write(dir.path().join("self/status"), format!("Name:\tx\nCapEff:\t{cap_eff}\nCapBnd:\t0\n")).unwrap();
        fs::write(dir.path().join("self/uid_map"), uid_map).unwrap();
        dir
    }

    #[test]
    fn capabilities_inside_a_user_namespace_do_not_count() {
        let initial = "         0          0 4294967295\n";
        let held = |caps, map| Capability::IpcLock.held(fake_proc(caps, map).path());
        assert!(held("0000000000004000", initial));
        assert!(!held("0000000000003fff", initial));
        assert!(!held("000001ffffffffff", "0 1000 1\n"));
        assert!(!Capability::SysAdmin.held(Path::new("/nonexistent")));
        assert!(Capability::SysAdmin.held(fake_proc("0000000000200000", initial).path()));
    }
}
