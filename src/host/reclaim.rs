//! A process that writes out a filesystem's dirty pages must not wait for those pages to be written: it asks the
//! kernel not to, stays in memory, and is not the one the OOM killer takes.
//!
//! Each measure needs a privilege. A refusal is not fatal: over a network, or for a client that is not this kernel's
//! own filesystem, none of this matters. But it is said, with what it means.

use std::fs;
use std::path::Path;

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, configure_io_flusher_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};
use serde::Serialize;

use super::kernel::Capability;

/// The OOM score that exempts a process.
const OOM_EXEMPT: i32 = -1000;

/// Whether one measure is in force, and if not, why and what that means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measure {
    /// The measure is in force.
    pub active: bool,
    /// Where it is not: what was refused, what that means, what helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl Measure {
    fn active() -> Self {
        Self { active: true, warning: None }
    }

    fn refused(warning: String) -> Self {
        Self { active: false, warning: Some(warning) }
    }
}

/// What the process could arrange against waiting for itself; `esker status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReclaimReport {
    /// PR_SET_IO_FLUSHER: allocations of this process never wait for write-out.
    pub io_flusher: Measure,
    /// mlockall: code, stacks and buffers stay in memory once touched.
    pub memory_locked: Measure,
    /// OOM score -1000: the OOM killer passes this process by.
    pub oom_exempt: Measure,
}

impl ReclaimReport {
    /// The warnings, each a sentence for an operator.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        [&self.io_flusher, &self.memory_locked, &self.oom_exempt].into_iter().filter_map(|m| m.warning.as_deref())
    }
}

/// Prepares this process to stand under a filesystem. Must run before the first thread starts: threads inherit the
/// I/O-flusher mark from the one that creates them.
pub fn prepare_process() -> ReclaimReport {
    raise_open_files();
    let report = ReclaimReport {
        io_flusher: io_flusher(),
        memory_locked: lock_memory(),
        oom_exempt: oom_exempt(Path::new("/proc")),
    };
    // Last: from here on files below /proc/self are root's.
    forbid_core_dumps();
    report
}

/// A core file would hold plaintext and keys; no file outside tmpfs may.
fn forbid_core_dumps() {
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("cannot forbid core dumps, which would hold plaintext: {e}");
    }
}

/// As many open files as this user may have: the usual 1,024 is less than the connections of a busy server.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("cannot raise the limit of open files from {:?}: {e}", limit.current);
    }
}

fn io_flusher() -> Measure {
    match configure_io_flusher_behavior(true) {
        Ok(()) => Measure::active(),
        Err(e) => Measure::refused(format!(
            "cannot mark the process as an I/O flusher ({}): when memory is short, a filesystem on a volume served to \
             this same machine can hang; grant CAP_SYS_RESOURCE (the systemd unit does) or serve other machines only",
            errno_text(e)
        )),
    }
}

/// Whether locking all memory is safe. With a finite limit it is not: once the limit is reached, every further
/// allocation fails and the process aborts.
#[derive(Debug, PartialEq, Eq)]
enum LockPlan {
    Lock,
    Limited(u64),
}

fn lock_plan(limit: Option<u64>, ipc_lock: bool) -> LockPlan {
    match limit {
        None => LockPlan::Lock,
        Some(_) if ipc_lock => LockPlan::Lock,
        Some(bytes) => LockPlan::Limited(bytes),
    }
}

fn lock_memory() -> Measure {
    // Raising the limit needs CAP_SYS_RESOURCE, so a refusal is expected and the plan below deals with it.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let ipc_lock = Capability::IpcLock.held(Path::new("/proc"));
    let why = match lock_plan(getrlimit(Resource::Memlock).current, ipc_lock) {
        LockPlan::Lock => match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
            Ok(()) => return Measure::active(),
            Err(e) => errno_text(e),
        },
        LockPlan::Limited(bytes) => format!("RLIMIT_MEMLOCK is {bytes} bytes"),
    };
    Measure::refused(format!(
        "cannot lock memory ({why}): parts of the server can be swapped out or dropped, and bringing them back can \
         hang behind the volume itself; set LimitMEMLOCK=infinity or grant CAP_IPC_LOCK"
    ))
}

fn oom_exempt(proc: &Path) -> Measure {
    let file = proc.join("self/oom_score_adj");
    let current = || fs::read_to_string(&file).ok().and_then(|s| s.trim().parse::<i32>().ok());
    if current() == Some(OOM_EXEMPT) {
        return Measure::active();
    }
    match fs::write(&file, OOM_EXEMPT.to_string()) {
        Ok(()) => Measure::active(),
        Err(e) => Measure::refused(format!(
            "cannot leave the OOM killer's reach (oom_score_adj stays {}: {e}): when memory runs out the server can be \
             killed under a mounted filesystem; set OOMScoreAdjust=-1000 or grant CAP_SYS_RESOURCE",
            current().map_or("unknown".into(), |v| v.to_string())
        )),
    }
}

fn errno_text(e: Errno) -> String {
    std::io::Error::from(e).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_finite_limit_without_the_capability_locks_nothing() {
        assert_eq!(lock_plan(None, false), LockPlan::Lock);
        assert_eq!(lock_plan(Some(65536), true), LockPlan::Lock);
        assert_eq!(lock_plan(Some(8 << 20), false), LockPlan::Limited(8 << 20));
    }

    #[test]
    fn the_oom_score_is_written_and_a_refusal_says_what_it_means() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("self")).unwrap();
        let file = dir.path().join("self/oom_score_adj");
        fs::write(&file, "0\n").unwrap();
        assert_eq!(oom_exempt(dir.path()), Measure::active());
        assert_eq!(fs::read_to_string(&file).unwrap(), "-1000");

        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let refused = oom_exempt(dir.path());
        assert!(!refused.active);
        assert!(refused.warning.unwrap().contains("OOMScoreAdjust"));
    }

    #[test]
    fn a_report_lists_only_what_failed() {
        let report = ReclaimReport {
            io_flusher: Measure::active(),
            memory_locked: Measure::refused("no".into()),
            oom_exempt: Measure::active(),
        };
        assert_eq!(report.warnings().collect::<Vec<_>>(), ["no"]);
    }
}
