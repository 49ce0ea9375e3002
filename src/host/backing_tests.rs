//! Made-up sysfs and proc trees.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::os::unix::fs::symlink;

use super::*;

/// A machine on paper: devices in a sysfs, mounts in a proc, and what `stat` says of paths.
struct Machine {
    dir: tempfile::TempDir,
    files: HashMap<PathBuf, FileDevices>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sys/dev/block")).unwrap();
        fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        Self { dir, files: HashMap::new() }
    }

    /// A device at `sys/devices/<path>`; answers its directory.
    fn device(&self, path: &str, dev: &str) -> PathBuf {
        let dir = self.dir.path().join("sys/devices").join(path);
        fs::create_dir_all(dir.join("slaves")).unwrap();
        fs::write(dir.join("dev"), format!("{dev}\n")).unwrap();
        symlink(&dir, self.dir.path().join("sys/dev/block").join(dev)).unwrap();
        dir
    }

    fn mounts(&self, text: &str) {
        fs::write(self.dir.path().join("proc/self/mountinfo"), text).unwrap();
    }

    fn file(&mut self, path: &str, on: (u32, u32)) {
        self.files.insert(path.into(), FileDevices { on, is: None });
    }

    fn node(&mut self, path: &str, is: (u32, u32)) {
        self.files.insert(path.into(), FileDevices { on: (0, 6), is: Some(is) });
    }

    fn tree(&self) -> HostTree {
        let files = self.files.clone();
        let stat = move |p: &Path| files.get(p).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        HostTree { sys: self.dir.path().join("sys"), proc: self.dir.path().join("proc"), stat: Box::new(stat) }
    }

    fn names(&self, path: &str) -> Vec<String> {
        backing_chain(&self.tree(), Path::new(path)).unwrap().into_iter().map(|d| d.name).collect()
    }

    fn refusal(&self, path: &str) -> Option<String> {
        check_not_stacked(&self.tree(), "the pool", Path::new(path)).err().map(|e| e.to_string())
    }
}

#[test]
fn a_partition_leads_to_its_disk_and_is_fine() {
    let mut m = Machine::new();
    m.device("pci/block/sda", "8:0");
    let part = m.device("pci/block/sda/sda1", "8:1");
    fs::write(part.join("partition"), "1\n").unwrap();
    m.file("/srv", (8, 1));
    assert_eq!(m.names("/srv/pool/not/there/yet"), ["sda1", "sda"]);
    assert_eq!(m.refusal("/srv/pool"), None);
}

#[test]
fn mapped_devices_lead_to_all_that_carry_them() {
    let mut m = Machine::new();
    let sda = m.device("sda", "8:0");
    let nbd = m.device("nbd3", "43:96");
    let dm = m.device("dm-0", "253:0");
    symlink(&sda, dm.join("slaves/sda")).unwrap();
    symlink(&nbd, dm.join("slaves/nbd3")).unwrap();
    m.file("/srv", (253, 0));
    // Depth first in name order; the message names only the links that lead there.
    assert_eq!(m.names("/srv"), ["dm-0", "nbd3", "sda"]);
    let message = m.refusal("/srv").unwrap();
    assert!(message.contains("the pool /srv lies on dm-0 -> nbd3:"), "{message}");
    assert!(message.contains("--allow-stacked"));
}

#[test]
fn the_partition_of_a_ublk_device_is_refused() {
    let mut m = Machine::new();
    m.device("ublkb0", "259:0");
    let part = m.device("ublkb0/ublkb0p1", "259:1");
    fs::write(part.join("partition"), "1\n").unwrap();
    m.file("/mnt", (259, 1));
    assert!(m.refusal("/mnt").unwrap().contains("ublkb0p1"));
}

#[test]
fn a_loop_over_a_fuse_file_is_refused_and_fuse_alone_is_not() {
    let mut m = Machine::new();
    let lo = m.device("loop7", "7:7");
    fs::create_dir(lo.join("loop")).unwrap();
    fs::write(lo.join("loop/backing_file"), "/tmp/n/nbd\n").unwrap();
    m.file("/mnt", (7, 7));
    m.file("/tmp/n/nbd", (0, 77));
    m.mounts("50 1 0:77 / /tmp/n rw - fuse.nbdfuse nbdfuse rw,user_id=0\n");
    let message = m.refusal("/mnt/pool").unwrap();
    assert!(message.contains("loop7 -> fuse.nbdfuse (nbdfuse)"), "{message}");
    assert_eq!(m.refusal("/tmp/n/nbd"), None);
}

#[test]
fn a_fuse_file_seen_before_is_seen_again_below_a_loop() {
    let mut m = Machine::new();
    let lo = m.device("loop1", "7:1");
    fs::create_dir(lo.join("loop")).unwrap();
    fs::write(lo.join("loop/backing_file"), "/fuse/nbd\n").unwrap();
    m.file("/", (0, 50));
    m.file("/fuse", (0, 77));
    m.file("/fuse/nbd", (0, 77));
    m.file("/onloop", (7, 1));
    m.mounts(
        "1 0 0:50 / / rw - overlay overlay rw,lowerdir=/onloop,upperdir=/fuse,workdir=/w\n\
         2 1 0:77 / /fuse rw - fuse.x x rw\n",
    );
    assert!(m.refusal("/x").unwrap().contains("overlay (overlay) -> loop1 -> fuse.x (x)"));
}

#[test]
fn a_loop_over_an_ordinary_file_is_fine_and_a_vanished_file_is_opaque() {
    let mut m = Machine::new();
    m.device("vda", "254:0");
    for (n, file) in [(1, "/img"), (2, "/gone (deleted)")] {
        let lo = m.device(&format!("loop{n}"), &format!("7:{n}"));
        fs::create_dir(lo.join("loop")).unwrap();
        fs::write(lo.join("loop/backing_file"), format!("{file}\n")).unwrap();
    }
    m.file("/img", (254, 0));
    m.file("/mnt/one", (7, 1));
    m.file("/mnt/two", (7, 2));
    assert_eq!(m.names("/mnt/one"), ["loop1", "vda"]);
    assert_eq!(m.refusal("/mnt/one"), None);
    let chain = backing_chain(&m.tree(), Path::new("/mnt/two")).unwrap();
    assert_eq!(chain[1].kind, Backing::Opaque);
}

#[test]
fn btrfs_is_looked_through_to_every_member() {
    let mut m = Machine::new();
    let vda = m.device("vda", "254:0");
    let nbd = m.device("nbd0", "43:0");
    let members = m.dir.path().join("sys/fs/btrfs/uuid/devices");
    fs::create_dir_all(&members).unwrap();
    symlink(vda, members.join("vda")).unwrap();
    symlink(nbd, members.join("nbd0")).unwrap();
    m.node("/dev/vda", (254, 0));
    // The subvolume's device number is not the one that mountinfo shows.
    m.file("/data/sub", (0, 99));
    m.mounts("1 0 0:40 / / rw - ext4 /dev/vda rw\n2 1 0:41 / /data rw - btrfs /dev/vda rw\n");
    assert_eq!(m.names("/data/sub"), ["btrfs (/dev/vda)", "vda", "nbd0"]);
    assert!(m.refusal("/data/sub").unwrap().contains("btrfs (/dev/vda) -> nbd0"));
}

#[test]
fn overlay_is_looked_through_and_memory_ends_a_chain() {
    let mut m = Machine::new();
    m.device("nbd1", "43:32");
    m.file("/", (0, 50));
    m.file("/upper", (43, 32));
    m.file("/dev/shm", (0, 23));
    m.mounts(
        "1 0 0:50 / / rw - overlay overlay rw,lowerdir=/lower:/lower2,upperdir=/upper,workdir=/w\n\
         2 1 0:23 / /dev/shm rw - tmpfs tmpfs rw\n",
    );
    assert!(m.refusal("/x").unwrap().contains("overlay (overlay) -> nbd1"));
    let shm = backing_chain(&m.tree(), Path::new("/dev/shm/esker")).unwrap();
    assert_eq!((shm.len(), &shm[0].kind), (1, &Backing::Memory));
}

#[test]
fn a_circle_ends() {
    let mut m = Machine::new();
    let a = m.device("dm-1", "253:1");
    let b = m.device("dm-2", "253:2");
    symlink(&b, a.join("slaves/dm-2")).unwrap();
    symlink(&a, b.join("slaves/dm-1")).unwrap();
    m.file("/mnt", (253, 1));
    assert_eq!(m.names("/mnt"), ["dm-1", "dm-2"]);
}

#[test]
fn swap_on_such_a_device_is_found() {
    let mut m = Machine::new();
    m.device("nbd2", "43:64");
    m.device("vda", "254:0");
    m.node("/dev/nbd2", (43, 64));
    m.node("/dev/vda", (254, 0));
    fs::write(
        m.dir.path().join("proc/swaps"),
        "Filename\tType\tSize\tUsed\tPriority\n/dev/vda partition 1 0 -2\n/dev/nbd2 partition 1 0 -3\n",
    )
    .unwrap();
    assert_eq!(swap_on_stacked(&m.tree()), ["/dev/nbd2"]);
}

#[test]
fn the_real_tree_answers_something_for_the_root() {
    let chain = backing_chain(&HostTree::default(), Path::new("/")).unwrap();
    assert!(!chain.is_empty());
}
