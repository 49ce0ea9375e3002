//! The bytes of format version 1: a ring made today has them, and one that has them is read.

use std::os::unix::fs::FileExt;

use super::*;

/// The first bytes of a ring after [`make`]; the rest of the file is zero.
const GOLDEN: &[u8] = include_bytes!("../golden/ring-v1.bin");

fn make(ring: &Ring) {
    put(ring, 0x1234, 1).unwrap();
    ring.free_through(100);
    ring.reserve(&OpHeader::trim(0x55, 1 << 33)).unwrap().complete();
    let parts = [PartHeader::Trim { lba: 7, blocks: 3 }, PartHeader::Write { lba: 9, blocks: 1 }];
    let mut slot = ring.reserve(&OpHeader::Batch(&parts)).unwrap();
    fill(slot.body(), 102);
    slot.complete();
    drop(ring.reserve(&OpHeader::write(1, 1)).unwrap());
    std::mem::forget(ring.reserve(&OpHeader::trim(2, 2)).unwrap());
}

#[test]
fn a_new_ring_has_the_golden_bytes() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    make(&ring);
    drop(ring);
    let bytes = std::fs::read(&path).unwrap();
    if std::env::var_os("ESKER_WRITE_GOLDEN").is_some() {
        let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/journal/golden/ring-v1.bin");
        std::fs::write(golden, &bytes[..end]).unwrap();
    }
    let differs = bytes.iter().zip(GOLDEN).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the format changed: that takes a new version");
    assert!(bytes[GOLDEN.len()..].iter().all(|b| *b == 0));
}

#[test]
fn a_golden_ring_is_read() {
    let dir = dir();
    let path = dir.path().join("ring");
    std::fs::write(&path, GOLDEN).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0], MIN_BYTES + 4095).unwrap();
    let seen = Ring::inspect(&path).unwrap();
    assert_eq!((seen.pool, seen.volume, seen.ring), ([1; 16], 7, [9; 16]));
    assert_eq!((seen.first_op, seen.next_op, seen.records, seen.bytes), (101, 105, 2, 64 + 128 + 4096));
    let ring = Ring::open(&path, &options()).unwrap();
    let records = all(&ring);
    assert_eq!(records[0].kind, RecordKind::Trim { lba: 0x55, blocks: 1 << 33 });
    let RecordKind::Batch(parts) = &records[1].kind else { panic!("{records:?}") };
    let [Part::Trim { lba: 7, blocks: 3 }, Part::Write { lba: 9, blocks: 1, body }] = &parts[..] else {
        panic!("{parts:?}")
    };
    assert_eq!(ring.hold(0).data(body), filled(4096, 102));
    assert!(records[2..].iter().all(|r| r.kind == RecordKind::Void));
    assert_eq!(records.len(), 4);
}

#[test]
fn the_ring_goes_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Ring>();
    shared::<Hold>();
    sent::<Slot<'_>>();
}
