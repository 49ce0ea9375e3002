//! Records that come and go, locks, and files that are none of ours.
#![allow(clippy::unwrap_used)]

use super::*;

pub fn record(id: u32) -> DeviceRecord {
    DeviceRecord {
        format: FORMAT,
        id,
        boot: "b1".into(),
        instance: Some(7),
        mark: 0,
        stage: Stage::Live,
        pool: "ab".repeat(16),
        url: "s3://bucket/pool".into(),
        label: "bucket-pool".into(),
        volume: "data".into(),
        number: 3,
        size: 1 << 30,
        read_only: false,
        queues: 2,
        depth: 128,
        durability: "object".into(),
        journal_dir: None,
        pid: 42,
        started: None,
        control: "/run/esker/attach-42.sock".into(),
        links: Vec::new(),
        arguments: vec!["esker".into(), "attach".into()],
        writers: vec!["0f".repeat(16)],
    }
}

#[test]
fn a_record_is_there_for_its_boot_only() {
    let dir = tempfile::tempdir().unwrap();
    let devices = Devices::below(dir.path(), "b1".into());
    assert_eq!(devices.all().unwrap().readable, []);
    let held = devices.try_hold(5).unwrap().unwrap();
    assert_eq!(held.load().unwrap(), None);
    held.store(&record(5)).unwrap();
    let second = devices.try_hold(11).unwrap().unwrap();
    second.store(&record(11)).unwrap();
    assert_eq!(devices.all().unwrap().readable, [record(5), record(11)]);
    assert_eq!(devices.load(5).unwrap().unwrap().writer_ids(), [[0x0f; 16]]);
    assert_eq!(Devices::below(dir.path(), "b2".into()).all().unwrap().readable, [], "no device outlives its boot");
    held.forget().unwrap();
    held.forget().unwrap();
    assert_eq!(devices.all().unwrap().readable, [record(11)]);
}

#[test]
fn a_lock_is_one_processs_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let devices = Devices::below(dir.path(), "b1".into());
    assert!(!devices.is_held(0).unwrap());
    let held = devices.try_hold(0).unwrap().unwrap();
    assert!(devices.is_held(0).unwrap() && devices.try_hold(0).unwrap().is_none());
    assert!(devices.try_hold(1).unwrap().is_some());
    drop(held);
    assert!(!devices.is_held(0).unwrap() && devices.try_hold(0).unwrap().is_some());
}

#[test]
fn who_looks_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let devices = Devices::below(dir.path(), "b1".into());
    drop(devices.try_hold(0).unwrap());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    devices.is_held(0).unwrap();
                }
            });
        }
        let refused = (0..20_000).filter(|_| devices.try_hold(0).unwrap().is_none()).count();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(refused, 0);
    });
}

#[test]
fn what_is_no_record_is_named_and_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let devices = Devices::below(dir.path(), "b1".into());
    let held = devices.try_hold(0).unwrap().unwrap();
    devices.try_hold(1).unwrap().unwrap().store(&record(1)).unwrap();
    let path = dir.path().join("devices/ublkb0.json");
    let text = serde_json::to_string(&record(0)).unwrap();
    let broken = [
        "".to_owned(),
        "[]".into(),
        "{\"format\":1}".into(),
        text.replace("\"format\":1", "\"format\":2"),
        text.replace("\"id\":0", "\"id\":1"),
        text.replace("0f0f", "zzzz"),
        text[..text.len() - 3].into(),
    ];
    for text in broken {
        fs::write(&path, &text).unwrap();
        let error = held.load().unwrap_err().to_string();
        let all = devices.all().unwrap();
        let unreadable: Vec<_> = all.unreadable.iter().map(|u| u.id).collect();
        assert!(error.contains("ublkb0.json") && unreadable == [0], "{text}: {error}");
        assert_eq!(all.readable, [record(1)], "it is in nobody else's way");
    }
    // What a later version adds is passed over.
    fs::write(&path, text.replace("\"id\":0", "\"id\":0,\"later\":[1]")).unwrap();
    assert!(held.load().unwrap().is_some());
    // Files beside the records concern nobody.
    fs::write(dir.path().join("devices/ublkbx.json"), "").unwrap();
    fs::write(dir.path().join("devices/notes"), "").unwrap();
    assert_eq!(devices.all().unwrap().readable.len(), 2);
}

#[test]
fn numbers_come_from_disks_and_partitions() {
    for (name, id) in [("ublkb0", Some(0)), ("ublkb17", Some(17)), ("ublkb3p12", Some(3)), ("ublkb", None)] {
        assert_eq!(device_number_of(name), id, "{name}");
    }
    for name in ["ublkc0", "sda1", "ublkb-1", "ublkb1p", "ublkb1px", "ublkbp1", "0"] {
        assert_eq!(device_number_of(name), None, "{name}");
    }
}

#[test]
fn a_volume_gets_its_number_again() {
    let dir = tempfile::tempdir().unwrap();
    let numbers = Numbers::below(dir.path());
    assert_eq!(numbers.last("aa", 1), None);
    numbers.remember("aa", 1, 4).unwrap();
    numbers.remember("aa", 2, 5).unwrap();
    numbers.remember("aa", 1, 6).unwrap();
    assert_eq!((numbers.last("aa", 1), numbers.last("aa", 2)), (Some(6), Some(5)));
    fs::write(dir.path().join("devices/aa-00000001"), "x").unwrap();
    assert_eq!(numbers.last("aa", 1), None);
}
