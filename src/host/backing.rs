//! What a file really lies on, down to the disks: so that a journal ring or a `file://` pool never comes to lie on a
//! volume that it carries itself, which deadlocks the machine.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::mounts::{self, Mount, parse_dev};

/// Most devices looked at for one path; beyond it the rest is left out.
const MAX_DEVICES: usize = 256;

/// Device numbers of a file: of what it lies on, and of what it is.
type StatFn = Box<dyn Fn(&Path) -> io::Result<FileDevices> + Send + Sync>;

/// What `stat` says about devices.
#[derive(Debug, Clone, Copy)]
struct FileDevices {
    /// Major, minor of the device the file lies on.
    on: (u32, u32),
    /// Major, minor that the file stands for, where it is a block device.
    is: Option<(u32, u32)>,
}

/// Where sysfs and proc are; tests hand in made-up ones.
pub struct HostTree {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
    stat: StatFn,
}

impl Default for HostTree {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), stat: Box::new(real_stat) }
    }
}

#[cfg(test)]
impl HostTree {
    /// Made-up sysfs and proc with the real stat.
    pub(super) fn at(sys: PathBuf, proc: PathBuf) -> Self {
        Self { sys, proc, ..Self::default() }
    }
}

fn real_stat(path: &Path) -> io::Result<FileDevices> {
    use std::os::unix::fs::FileTypeExt;
    let m = fs::metadata(path)?;
    let split = |dev| (rustix::fs::major(dev), rustix::fs::minor(dev));
    Ok(FileDevices { on: split(m.dev()), is: m.file_type().is_block_device().then(|| split(m.rdev())) })
}

/// What one link of a chain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A block device, or a partition of one.
    Block,
    /// A loop device; what its file lies on follows.
    Loop,
    /// A network block device (`nbd*`) or a userspace one (`ublkb*`): it may be a volume of ours.
    UserBlock,
    /// A filesystem in memory.
    Memory,
    /// A FUSE filesystem: a process stands behind it.
    Fuse,
    /// A filesystem without a block device of its own that was looked through.
    Layered,
    /// Nothing more can be found out: a network filesystem, ZFS, a path of another mount namespace.
    Opaque,
}

/// One link of a chain, from the file down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingDevice {
    /// The device's name in sysfs, or the filesystem's type and source.
    pub name: String,
    /// What it is.
    pub kind: Backing,
    /// How many links above it: 0 is what the file lies on itself.
    pub depth: usize,
}

/// A path lies on a device that may be a volume of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{what} {path} lies on {chain}: under memory pressure the machine would wait for itself; move it to another disk, \
     or pass --allow-stacked if that device has nothing to do with esker on this machine"
)]
pub struct StackedError {
    /// What lies there: "the journal directory", "the pool".
    pub what: String,
    /// Its path.
    pub path: String,
    /// The links from the file to the device, `loop0 -> fuse.nbdfuse`.
    pub chain: String,
}

/// Everything that `path` lies on, depth first. A path that does not exist yet is judged by the nearest directory
/// above it that does.
///
/// # Errors
/// Where no directory above `path` can be looked at.
pub fn backing_chain(tree: &HostTree, path: &Path) -> io::Result<Vec<BackingDevice>> {
    let mut walk = Walk::new(tree);
    walk.file(path, 0)?;
    Ok(walk.found)
}

/// Refuses a path whose chain reaches an `nbd*` or `ublkb*` device, or a loop device over a FUSE file. `what` names
/// the path's role in the message. A path that cannot be looked at is not refused: using it will tell.
///
/// # Errors
/// [`StackedError`], with the chain.
pub fn check_not_stacked(tree: &HostTree, what: &str, path: &Path) -> Result<(), StackedError> {
    let Ok(chain) = backing_chain(tree, path) else { return Ok(()) };
    match stacked_at(&chain) {
        None => Ok(()),
        Some(links) => Err(StackedError {
            what: what.into(),
            path: path.display().to_string(),
            chain: links.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(" -> "),
        }),
    }
}

/// The links to the first device that may be ours.
fn stacked_at(chain: &[BackingDevice]) -> Option<Vec<&BackingDevice>> {
    let mut links: Vec<&BackingDevice> = Vec::new();
    for device in chain {
        links.truncate(device.depth);
        links.push(device);
        let over_fuse = device.kind == Backing::Fuse && links.iter().any(|d| d.kind == Backing::Loop);
        if device.kind == Backing::UserBlock || over_fuse {
            return Some(links);
        }
    }
    None
}

/// Swap areas that lie on a device that may be ours: the tmpfs with the ring could be swapped out to its own volume.
pub fn swap_on_stacked(tree: &HostTree) -> Vec<String> {
    let Ok(text) = fs::read_to_string(tree.proc.join("swaps")) else { return Vec::new() };
    let areas = text.lines().skip(1).filter_map(|l| l.split_whitespace().next());
    areas
        .filter(|area| {
            let mut walk = Walk::new(tree);
            walk.device_or_file(Path::new(area), 0).is_ok() && stacked_at(&walk.found).is_some()
        })
        .map(str::to_owned)
        .collect()
}

struct Walk<'a> {
    tree: &'a HostTree,
    mounts: Option<Vec<Mount>>,
    /// Devices looked at, each once under a loop device and once not: that makes a difference for FUSE.
    seen: BTreeSet<((u32, u32), bool)>,
    found: Vec<BackingDevice>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a HostTree) -> Self {
        Self { tree, mounts: None, seen: BTreeSet::new(), found: Vec::new() }
    }

    fn push(&mut self, name: impl fmt::Display, kind: Backing, depth: usize) {
        self.found.push(BackingDevice { name: name.to_string(), kind, depth });
    }

    fn mounts(&mut self) -> &[Mount] {
        let proc = &self.tree.proc;
        self.mounts.get_or_insert_with(|| mounts::parse(&fs::read(proc.join("self/mountinfo")).unwrap_or_default()))
    }

    /// A block device's node counts as that device, anything else by what it lies on.
    fn device_or_file(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        match (self.tree.stat)(path)?.is {
            Some(dev) => {
                self.device(dev, None, depth);
                Ok(())
            }
            None => self.file(path, depth),
        }
    }

    fn file(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        let (stat, existing) = path
            .ancestors()
            .find_map(|p| (self.tree.stat)(p).ok().map(|s| (s, p)))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no directory above the path can be looked at"))?;
        let canonical = fs::canonicalize(existing).unwrap_or_else(|_| existing.to_path_buf());
        self.device(stat.on, Some(&canonical), depth);
        Ok(())
    }

    /// Everything below device `dev`; `path` is a file on it, where one is known.
    fn device(&mut self, dev: (u32, u32), path: Option<&Path>, depth: usize) {
        if self.found.len() >= MAX_DEVICES || !self.seen.insert((dev, self.under_loop(depth))) {
            return;
        }
        let link = self.tree.sys.join(format!("dev/block/{}:{}", dev.0, dev.1));
        match fs::canonicalize(&link) {
            Ok(dir) => self.block(&dir, depth),
            Err(_) => match path.and_then(|p| self.mount_of(dev, p)) {
                Some(mount) => self.filesystem(&mount, depth),
                None => self.push(format_args!("device {}:{}", dev.0, dev.1), Backing::Opaque, depth),
            },
        }
    }

    /// Whether a link at `depth` that comes next would have a loop device above it.
    fn under_loop(&self, depth: usize) -> bool {
        let mut below = depth;
        self.found.iter().rev().any(|d| {
            let above = d.depth < below;
            below = below.min(d.depth);
            above && d.kind == Backing::Loop
        })
    }

    fn block(&mut self, dir: &Path, depth: usize) {
        let name = dir.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
        let backing_file = read_trimmed(&dir.join("loop/backing_file"));
        let kind = if name.starts_with("nbd") || name.starts_with("ublkb") {
            Backing::UserBlock
        } else if backing_file.is_some() {
            Backing::Loop
        } else {
            Backing::Block
        };
        self.push(name, kind, depth);
        let disk = dir.parent().filter(|_| dir.join("partition").exists());
        if let Some(disk) = disk.and_then(device_number) {
            self.device(disk, None, depth + 1);
        }
        for slave in sorted_entries(&dir.join("slaves")) {
            if let Some(dev) = device_number(&slave) {
                self.device(dev, None, depth + 1);
            }
        }
        if let Some(file) = backing_file {
            self.loop_file(&file, depth + 1);
        }
        // zram writes idle pages back to a device, where one is set.
        if let Some(device) = read_trimmed(&dir.join("backing_dev")).filter(|d| d != "none") {
            let _ = self.device_or_file(Path::new(&device), depth + 1);
        }
    }

    fn loop_file(&mut self, file: &str, depth: usize) {
        let file = file.strip_suffix(" (deleted)").unwrap_or(file);
        if self.device_or_file(Path::new(file), depth).is_err() {
            self.push(file, Backing::Opaque, depth);
        }
    }

    /// The mount with this device number; btrfs subvolumes have numbers of their own, so else the one that covers
    /// the path.
    fn mount_of(&mut self, dev: (u32, u32), path: &Path) -> Option<Mount> {
        let mounts = self.mounts();
        mounts.iter().rfind(|m| m.dev == dev).or_else(|| mounts::covering(mounts, path)).cloned()
    }

    fn filesystem(&mut self, mount: &Mount, depth: usize) {
        let name = format!("{} ({})", mount.fs_type, mount.source.to_string_lossy());
        match mount.fs_type.as_str() {
            "tmpfs" | "ramfs" | "devtmpfs" | "hugetlbfs" => self.push(name, Backing::Memory, depth),
            t if t == "fuse" || t.starts_with("fuse.") => self.push(name, Backing::Fuse, depth),
            "overlay" => {
                self.push(name, Backing::Layered, depth);
                self.overlay(mount, depth + 1);
            }
            _ if mount.source.as_bytes().starts_with(b"/dev/") => {
                self.push(name, Backing::Layered, depth);
                self.sources(mount, depth + 1);
            }
            _ => self.push(name, Backing::Opaque, depth),
        }
    }

    fn overlay(&mut self, mount: &Mount, depth: usize) {
        let mut layers: Vec<PathBuf> = mount.option("upperdir").into_iter().collect();
        if let Some(lower) = mount.option("lowerdir") {
            let parts = mounts::split_unescaped(lower.as_os_str().as_bytes(), b':');
            layers.extend(parts.into_iter().filter(|p| !p.is_empty()).map(|p| PathBuf::from(OsStr::from_bytes(p))));
        }
        for layer in layers {
            if self.found.len() >= MAX_DEVICES || !layer.is_absolute() || self.file(&layer, depth).is_err() {
                self.push(layer.display(), Backing::Opaque, depth);
            }
        }
    }

    /// The devices of btrfs and bcachefs, which may be several.
    fn sources(&mut self, mount: &Mount, depth: usize) {
        for part in mount.source.as_bytes().split(|&b| b == b':') {
            let path = Path::new(OsStr::from_bytes(part));
            match (self.tree.stat)(path).ok().and_then(|s| s.is) {
                None => self.push(path.display(), Backing::Opaque, depth),
                Some(dev) => {
                    self.device(dev, None, depth);
                    for sibling in self.btrfs_siblings(dev) {
                        self.device(sibling, None, depth);
                    }
                }
            }
        }
    }

    /// All devices of the btrfs that `dev` belongs to: mountinfo names only one of them.
    fn btrfs_siblings(&self, dev: (u32, u32)) -> Vec<(u32, u32)> {
        for fs in sorted_entries(&self.tree.sys.join("fs/btrfs")) {
            let members: Vec<_> = sorted_entries(&fs.join("devices")).iter().filter_map(|d| device_number(d)).collect();
            if members.contains(&dev) {
                return members;
            }
        }
        Vec::new()
    }
}

pub(super) fn read_trimmed(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty())
}

pub(super) fn device_number(dir: &Path) -> Option<(u32, u32)> {
    read_trimmed(&dir.join("dev")).and_then(|s| parse_dev(&s))
}

pub(super) fn sorted_entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    entries.truncate(MAX_DEVICES);
    entries
}

#[cfg(test)]
#[path = "backing_tests.rs"]
mod tests;
