//! Making, opening, inspecting and removing ring files; every refusal with its message.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use super::*;

fn open(path: &Path) -> Result<Ring, RingError> {
    Ring::open(path, &options())
}

#[test]
fn a_held_ring_is_busy_and_a_dropped_one_is_not() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    put(&ring, 0, 1).unwrap();
    let e = open(&path).err().unwrap();
    assert!(matches!(e, RingError::Busy { .. }));
    assert!(e.to_string().contains("in use"), "{e}");
    let seen = Ring::inspect(&path).unwrap();
    assert!(seen.busy);
    assert_eq!((seen.first_op, seen.next_op, seen.records), (100, 101, 1));
    drop(ring);
    let seen = Ring::inspect(&path).unwrap();
    let expected = RingSummary {
        pool: [1; 16],
        volume: 7,
        ring: [9; 16],
        first_op: 100,
        next_op: 101,
        records: 1,
        bytes: 4160,
        busy: false,
    };
    assert_eq!(seen, expected);
    let ring = open(&path).unwrap();
    assert_eq!((ring.pool(), ring.volume(), ring.id()), ([1; 16], 7, [9; 16]));
    assert_eq!((ring.path(), ring.capacity()), (path.as_path(), MIN_BYTES));
}

#[test]
fn a_hold_keeps_the_lock() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    let hold = ring.hold(0);
    drop(ring);
    assert!(matches!(open(&path), Err(RingError::Busy { .. })));
    drop(hold);
    open(&path).unwrap();
}

#[test]
fn looking_does_not_disturb_taking() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    drop(ring);
    std::thread::scope(|s| {
        s.spawn(|| (0..300).for_each(|_| assert_eq!(Ring::inspect(&path).unwrap().first_op, 100)));
        (0..50).for_each(|_| drop(open(&path).unwrap()));
    });
}

#[test]
fn nothing_is_ever_overwritten() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    assert!(matches!(Ring::create(&path, &spec(), &options()), Err(RingError::Exists { .. })));
    put(&ring, 0, 1).unwrap();
    drop(ring);
    let e = Ring::create(&path, &spec(), &options()).err().unwrap();
    assert!(e.to_string().contains("left alone"), "{e}");
    assert_eq!(open(&path).unwrap().next_op(), 101);
    symlink("/nowhere", dir.path().join("link")).unwrap();
    assert!(matches!(Ring::create(&dir.path().join("link"), &spec(), &options()), Err(RingError::Exists { .. })));
    assert!(open(&dir.path().join("link")).is_err());
}

#[test]
fn an_unfinished_file_of_a_dead_process_is_replaced() {
    let dir = dir();
    std::fs::write(dir.path().join("ring.new"), b"half").unwrap();
    let (path, ring) = new_ring(&dir);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // One that is being made by a living process is not.
    std::fs::rename(&path, dir.path().join("ring.new")).unwrap();
    assert!(matches!(Ring::create(&path, &spec(), &options()), Err(RingError::Busy { .. })));
    drop(ring);
}

#[test]
fn creators_race_and_one_wins() {
    let dir = dir();
    let path = dir.path().join("ring");
    let made: Vec<_> = std::thread::scope(|s| {
        let racers: Vec<_> = (0..4).map(|_| s.spawn(|| Ring::create(&path, &spec(), &options()))).collect();
        racers.into_iter().map(|r| r.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(path.exists());
}

#[test]
fn a_full_file_system_is_said_so_and_nothing_is_left() {
    let dir = dir();
    let spec = RingSpec { bytes: MAX_BYTES, ..spec() };
    let e = Ring::create(&dir.path().join("ring"), &spec, &options()).err().unwrap();
    assert!(matches!(e, RingError::NoSpace { want, .. } if want == MAX_BYTES + 4096), "{e}");
    assert!(e.to_string().contains("choose a smaller journal"), "{e}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn sizes_out_of_range_are_refused() {
    let dir = dir();
    for bytes in [0, MIN_BYTES - 4096, MAX_BYTES + 1, u64::MAX] {
        let made = Ring::create(&dir.path().join("ring"), &RingSpec { bytes, ..spec() }, &options());
        assert!(matches!(made, Err(RingError::Size { .. })));
    }
    let odd = RingSpec { bytes: MIN_BYTES + 1, ..spec() };
    assert_eq!(Ring::create(&dir.path().join("ring"), &odd, &options()).unwrap().capacity(), MIN_BYTES + 4096);
}

#[test]
fn a_disk_is_refused_where_tmpfs_is_required() {
    // The build directory may itself be on tmpfs; /proc surely is not, but takes no files: so ask of both.
    let here = TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = here.path().join("ring");
    let options = RingOptions { mlock: MlockPolicy::Off, require_tmpfs: true };
    match Ring::create(&path, &spec(), &options) {
        Ok(_) => {}
        Err(e) => {
            assert!(matches!(e, RingError::NotTmpfs { .. }), "{e}");
            assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0);
            drop(Ring::create(&path, &spec(), &self::options()).unwrap());
            assert!(matches!(Ring::open(&path, &options), Err(RingError::NotTmpfs { .. })));
        }
    }
    let shm = dir();
    if shm.path().starts_with("/dev/shm") {
        drop(Ring::create(&shm.path().join("ring"), &spec(), &options).unwrap());
        Ring::open(&shm.path().join("ring"), &options).unwrap();
    }
}

#[test]
fn what_is_no_ring_is_refused() {
    let dir = dir();
    let path = dir.path().join("ring");
    let why = |path: &Path| match open(path).err().unwrap() {
        RingError::NotARing { why, .. } => why,
        e => panic!("{e}"),
    };
    assert!(matches!(open(&path), Err(RingError::NotFound { .. })));
    assert!(matches!(Ring::inspect(&path), Err(RingError::NotFound { .. })));
    std::fs::write(&path, b"").unwrap();
    assert_eq!(why(&path), "it is too short");
    std::fs::write(&path, vec![0x55; 1 << 16]).unwrap();
    assert_eq!(why(&path), "its first bytes are not a journal's");
    assert!(open(dir.path()).is_err());
    std::fs::remove_file(&path).unwrap();

    let (path, ring) = new_ring(&dir);
    drop(ring);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for len in [4096, 4096 + MIN_BYTES - 1, 4096 + MIN_BYTES + 4096] {
        file.set_len(len).unwrap();
        assert_eq!(why(&path), "it was cut off or extended");
    }
    file.set_len(4096 + MIN_BYTES).unwrap();
    drop(open(&path).unwrap());
    file.write_all_at(&[8], 12).unwrap();
    assert_eq!(why(&path), "the checksum of its first page is wrong");
    file.write_all_at(&[2], 8).unwrap();
    let e = open(&path).err().unwrap();
    assert!(matches!(e, RingError::Version { found: 2, newest: 1, .. }), "{e}");
    assert!(e.to_string().contains("use a newer one"), "{e}");
}

#[test]
fn removing_takes_only_our_own_file() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    std::fs::rename(&path, dir.path().join("moved")).unwrap();
    assert!(ring.remove().is_err());
    let other = Ring::create(&path, &spec(), &options()).unwrap();
    assert!(ring.remove().is_err());
    other.remove().unwrap();
    assert!(!path.exists());
    put(&other, 0, 1).unwrap();
    assert_eq!(all(&other).len(), 1);
}

#[test]
fn memory_is_locked_or_the_policy_says_what_then() {
    let dir = dir();
    for (i, mlock) in [MlockPolicy::Off, MlockPolicy::Try].into_iter().enumerate() {
        let options = RingOptions { mlock, ..options() };
        put(&Ring::create(&dir.path().join(i.to_string()), &spec(), &options).unwrap(), 0, 1).unwrap();
    }
    let must = RingOptions { mlock: MlockPolicy::Require, ..options() };
    match Ring::create(&dir.path().join("must"), &spec(), &must) {
        Ok(ring) => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let locked = status.lines().find_map(|l| l.strip_prefix("VmLck:")).unwrap();
            let kib: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
            assert!(kib >= MIN_BYTES / 1024, "{locked}");
            drop(ring);
        }
        Err(e) => {
            assert!(matches!(e, RingError::Mlock { .. }), "{e}");
            assert!(e.to_string().contains("LimitMEMLOCK"), "{e}");
            assert!(!dir.path().join("must").exists());
        }
    }
}
