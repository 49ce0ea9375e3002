//! Who uses a block device: before it is taken away from them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::backing::{HostTree, device_number, read_trimmed, sorted_entries};
use super::mounts;

/// Processes and open files looked at; beyond it the rest is left out.
const MAX_LOOKS: usize = 1 << 18;
/// Users named.
const MAX_USERS: usize = 64;

/// One user of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceUser {
    /// It, or a partition of it, is mounted there.
    Mount(PathBuf),
    /// It, or a partition of it, is a swap area.
    Swap(String),
    /// Another block device stands on it, such as `dm-0` or `md127`.
    Holder(String),
    /// The kernel holds it exclusively: a mount in another namespace, a ZFS pool.
    Kernel,
    /// A process has it open.
    Process {
        /// Its id.
        pid: u32,
        /// The name of its program.
        name: String,
    },
}

impl fmt::Display for DeviceUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(point) => write!(f, "mounted on {}", point.display()),
            Self::Swap(area) => write!(f, "{area} is swapped to"),
            Self::Holder(name) => write!(f, "under {name}"),
            Self::Kernel => f.write_str("held by the kernel (a mount in another namespace, or a ZFS pool)"),
            Self::Process { pid, name } => write!(f, "open in process {pid} ({name})"),
        }
    }
}

/// A sentence's worth of users.
pub fn describe_users(users: &[DeviceUser]) -> String {
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Who uses disk `name` (`ublkb0`) or its partitions, as far as can be seen without touching it.
pub fn users_of(tree: &HostTree, name: &str) -> Vec<DeviceUser> {
    let mut users = Vec::new();
    let disk = tree.sys.join("block").join(name);
    let is_partition = |p: &PathBuf| p.join("partition").exists();
    let parts = sorted_entries(&disk).into_iter().filter(is_partition);
    let all: Vec<PathBuf> = [disk.clone()].into_iter().chain(parts).collect();
    let numbers: Vec<_> = all.iter().filter_map(|p| device_number(p)).collect();
    let nodes: Vec<String> =
        all.iter().filter_map(|p| Some(format!("/dev/{}", p.file_name()?.to_string_lossy()))).collect();
    let is_node = |text: &str| nodes.iter().any(|n| n == text);

    let mounts = mounts::parse(&fs::read(tree.proc.join("self/mountinfo")).unwrap_or_default());
    // Btrfs shows a number of its own, but its source is the device.
    let ours = |m: &&mounts::Mount| numbers.contains(&m.dev) || m.source.to_str().is_some_and(is_node);
    users.extend(mounts.iter().filter(ours).map(|m| DeviceUser::Mount(m.point.clone())));
    let swaps = fs::read_to_string(tree.proc.join("swaps")).unwrap_or_default();
    let areas = swaps.lines().skip(1).filter_map(|l| l.split_whitespace().next());
    users.extend(areas.filter(|a| is_node(a)).map(|a| DeviceUser::Swap(a.to_owned())));
    for dir in &all {
        let holders = sorted_entries(&dir.join("holders"));
        users.extend(holders.iter().filter_map(|h| Some(DeviceUser::Holder(h.file_name()?.to_str()?.to_owned()))));
    }
    users.extend(openers(tree, &nodes));
    users.truncate(MAX_USERS);
    users
}

/// Processes other than this one that have one of `nodes` open. Links are read, not followed: a look at a file of an
/// absent server would hang.
fn openers(tree: &HostTree, nodes: &[String]) -> Vec<DeviceUser> {
    let Ok(entries) = fs::read_dir(&tree.proc) else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let mut looks = 0;
    let mut found = Vec::new();
    for pid in pids.filter(|pid| *pid != std::process::id()) {
        let dir = tree.proc.join(pid.to_string());
        // Gone, or another user's.
        let Ok(fds) = fs::read_dir(dir.join("fd")) else { continue };
        let opens = fds.flatten().any(|fd| {
            looks += 1;
            fs::read_link(fd.path()).is_ok_and(|to| to.to_str().is_some_and(|to| nodes.iter().any(|n| n == to)))
        });
        if opens {
            let name = read_trimmed(&dir.join("comm")).unwrap_or_else(|| "?".into());
            found.push(DeviceUser::Process { pid, name });
        }
        if looks > MAX_LOOKS {
            break;
        }
    }
    found
}

/// Whether the kernel holds the disk or one of its partitions exclusively, as for a mount in any namespace. Opens and
/// closes it, which can wait for its I/O: not for the process that serves it.
pub fn is_held_by_kernel(tree: &HostTree, name: &str) -> bool {
    let disk = tree.sys.join("block").join(name);
    let parts = sorted_entries(&disk).into_iter().filter(|p| p.join("partition").exists());
    let nodes = [disk.clone()].into_iter().chain(parts).filter_map(|p| Some(Path::new("/dev").join(p.file_name()?)));
    let busy = |node: PathBuf| open_exclusively(&node).is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy);
    nodes.into_iter().any(busy)
}

/// Holds the disk exclusively, as a mount does, until it is closed: nobody can mount it or a partition of it meanwhile.
/// `None` where somebody has one of them so. Opens it, as [`is_held_by_kernel`] does.
///
/// # Errors
/// Where it cannot be opened.
pub fn claim(name: &str) -> io::Result<Option<File>> {
    match open_exclusively(&Path::new("/dev").join(name)) {
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Ok(None),
        other => other.map(Some),
    }
}

fn open_exclusively(node: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(node)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_kind_of_user_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (sys, proc) = (dir.path().join("sys"), dir.path().join("proc"));
        let disk = sys.join("block/ublkb0");
        let part = disk.join("ublkb0p1");
        fs::create_dir_all(disk.join("holders/dm-0")).unwrap();
        fs::create_dir_all(&part).unwrap();
        fs::write(disk.join("dev"), "259:0\n").unwrap();
        fs::write(part.join("dev"), "259:1\n").unwrap();
        fs::write(part.join("partition"), "1\n").unwrap();
        fs::create_dir_all(proc.join("self")).unwrap();
        fs::create_dir_all(proc.join("4294967294/fd")).unwrap();
        symlink("/dev/ublkb0", proc.join("4294967294/fd/3")).unwrap();
        fs::write(proc.join("4294967294/comm"), "dd\n").unwrap();
        let mounts = "1 0 259:1 / /mnt rw - ext4 /dev/ublkb0p1 rw\n2 0 0:9 / /b rw - btrfs /dev/ublkb0 rw\n\
                      3 0 259:2 / /other rw - ext4 /dev/ublkb1 rw\n";
        fs::write(proc.join("self/mountinfo"), mounts).unwrap();
        fs::write(proc.join("swaps"), "Filename Type Size Used Priority\n/dev/ublkb0p1 partition 1 0 -2\n").unwrap();
        let tree = HostTree::at(sys, proc);
        let text = describe_users(&users_of(&tree, "ublkb0"));
        let expected = "mounted on /mnt, mounted on /b, /dev/ublkb0p1 is swapped to, under dm-0, \
                        open in process 4294967294 (dd)";
        assert_eq!(text, expected);
        assert_eq!(users_of(&tree, "ublkb7"), []);
    }
}
