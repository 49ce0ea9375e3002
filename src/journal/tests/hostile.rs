//! Files that no esker wrote: refused, or read without a panic; damage never passes for fewer writes.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

/// A ring after a lap and a half with records of all kinds, two of them incomplete; and where its headers are.
fn sample(dir: &TempDir) -> (PathBuf, Vec<u64>) {
    let (path, ring) = new_ring(dir);
    for lba in 0..30 {
        put(&ring, lba, 50).unwrap();
        ring.free_through(u64::MAX);
    }
    let mut headers = Vec::new();
    for lba in 0..12 {
        let at = put(&ring, lba, 1 + lba as u32 * 9 % 64).unwrap().1;
        headers.push(4096 + at % MIN_BYTES - 64);
    }
    let parts = [PartHeader::Write { lba: 1, blocks: 2 }, PartHeader::Trim { lba: 2, blocks: 9 }];
    let slot = ring.reserve(&OpHeader::Batch(&parts)).unwrap();
    headers.push(4096 + slot.body_at() % MIN_BYTES - 128);
    slot.complete();
    std::mem::forget(ring.reserve(&OpHeader::write(5, 5)).unwrap());
    put(&ring, 6, 1).unwrap();
    drop(ring);
    (path, headers)
}

/// Opens and uses a ring, whatever its file holds; answers the operations found complete.
fn exercise(path: &Path) -> Result<Vec<u64>, RingError> {
    let seen = Ring::inspect(path);
    let ring = match Ring::open(path, &options()) {
        Ok(ring) => ring,
        Err(e) => {
            assert!(seen.is_err(), "inspect took what open refused: {e}");
            return Err(e);
        }
    };
    let hold = ring.hold(0);
    let records = all(&ring);
    assert_eq!(records.len() as u64, ring.next_op() - ring.first_op());
    for r in &records {
        match &r.kind {
            RecordKind::Write { body, .. } => assert_eq!(hold.data(body).len(), body.len()),
            RecordKind::Batch(parts) => {
                for part in parts {
                    if let Part::Write { body, .. } = part {
                        assert!(ring.try_read_at(body.at(), &mut vec![0; hold.data(body).len()]));
                    }
                }
            }
            _ => {}
        }
    }
    drop(hold);
    put(&ring, 0, 3).ok();
    ring.free_through(u64::MAX);
    put(&ring, 0, 3).unwrap();
    assert_eq!(all(&ring).len(), 1);
    Ok(records.into_iter().filter(|r| r.kind != RecordKind::Void).map(|r| r.op).collect())
}

fn patched(bytes: &[u8], path: &Path, patches: &[(u64, u8)]) -> Result<Vec<u64>, RingError> {
    std::fs::write(path, bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for (at, byte) in patches {
        file.write_all_at(&[*byte], *at).unwrap();
    }
    exercise(path)
}

#[test]
fn a_flipped_bit_in_a_header_is_damage_and_never_fewer_writes() {
    let dir = dir();
    let (path, headers) = sample(&dir);
    let bytes = std::fs::read(&path).unwrap();
    let sound = exercise(&path).unwrap();
    assert_eq!(sound.len(), 14);
    for header in [headers[0], headers[5], headers[11], headers[12]] {
        for byte in 0..56 {
            let at = header + byte;
            let e = patched(&bytes, &path, &[(at, bytes[at as usize] ^ 1 << (byte % 8))]).unwrap_err();
            assert!(matches!(e, RingError::Damaged { .. }), "byte {byte}: {e}");
        }
        // A header wiped as a whole looks like the end of the records; the noted number tells.
        let wiped: Vec<_> = (0..64).map(|b| (header + b, 0)).collect();
        let e = patched(&bytes, &path, &wiped).unwrap_err();
        assert!(matches!(e, RingError::Damaged { .. }), "{e}");
        assert!(e.to_string().contains("noted last"), "{e}");
        for byte in 56..64 {
            let at = header + byte;
            let e = patched(&bytes, &path, &[(at, bytes[at as usize] ^ 1 << (byte % 8))]).unwrap_err();
            assert!(e.to_string().contains("state"), "{e}");
        }
    }
    for at in (0..76).chain(1024..1056).chain(2048..2080).chain(3072..3080) {
        assert!(patched(&bytes, &path, &[(at, bytes[at as usize] ^ 0x10)]).is_err(), "byte {at}");
    }
}

#[test]
fn a_batch_with_a_broken_table_is_damage() {
    let dir = dir();
    let (path, headers) = sample(&dir);
    let bytes = std::fs::read(&path).unwrap();
    for at in [64, 72 + 7, 80, 88] {
        let e = patched(&bytes, &path, &[(headers[12] + at, 0xee)]).unwrap_err();
        assert!(matches!(e, RingError::Damaged { .. }), "{e}");
    }
}

#[test]
fn records_of_another_ring_or_lap_are_not_taken() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    let twin_dir = super::dir();
    let twin_path = twin_dir.path().join("ring");
    let twin = Ring::create(&twin_path, &spec(), &options()).unwrap();
    for ring in [&ring, &twin] {
        for _ in 0..40 {
            put(ring, 0, 25).unwrap();
            ring.free_through(u64::MAX);
        }
    }
    let head = 4096 + ring_head(&ring) % MIN_BYTES;
    assert_eq!(head, 4096 + ring_head(&twin) % MIN_BYTES);
    // The twin runs ahead; its bytes are laid over the free part of the ring, forged for the very position and number.
    for _ in 0..10 {
        put(&twin, 0, 25).unwrap();
    }
    drop((ring, twin));
    let ahead = std::fs::read(&twin_path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // All of it but the eight bytes that end the records: those esker zeroed itself.
    let from = head as usize;
    file.write_all_at(&ahead[from..from + 48], head).unwrap();
    file.write_all_at(&ahead[from + 56..], head + 56).unwrap();
    drop(file);
    let ring = Ring::open(&path, &options()).unwrap();
    assert_eq!(all(&ring), []);
    assert_eq!(ring.next_op(), 141);
    // And with every later record of the twin lying in wait, one more record does not connect to them.
    put(&ring, 0, 25).unwrap();
    drop(ring);
    let ring = Ring::open(&path, &options()).unwrap();
    assert_eq!(ring.next_op(), 142);
}

/// The position after one more trim, which is where the next record's header comes.
fn ring_head(ring: &Ring) -> u64 {
    let slot = ring.reserve(&OpHeader::trim(0, 1)).unwrap();
    let at = slot.body_at();
    slot.complete();
    ring.free_through(u64::MAX);
    at
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read_without_a_panic(
        patches in prop::collection::vec((0..16usize, 0..160u64, any::<u8>()), 1..6),
        page in prop::collection::vec((0..4096u64, any::<u8>()), 0..3),
    ) {
        let dir = dir();
        let (path, headers) = sample(&dir);
        let bytes = std::fs::read(&path).unwrap();
        let mut all: Vec<_> = page;
        all.extend(patches.iter().map(|(h, at, b)| (headers[h % headers.len()] + at, *b)));
        let sound: Vec<u64> = exercise(&path).unwrap();
        match patched(&bytes, &path, &all) {
            Ok(ops) => prop_assert!(ops.iter().all(|op| sound.contains(op))),
            Err(e) => prop_assert!(!e.to_string().is_empty()),
        }
    }
}
