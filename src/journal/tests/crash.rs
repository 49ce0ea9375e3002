//! Every operation of the ring, cut after each of its stores, leaves a ring that replays to what was complete.

use super::stores::dying_after;
use super::*;

/// Operations (number, void or not) that a ring holds, with the data of writes checked.
fn contents(ring: &Ring) -> Vec<(u64, bool)> {
    let hold = ring.hold(0);
    let list = all(ring).into_iter().map(|r| {
        if let RecordKind::Write { body, .. } = &r.kind {
            assert_eq!(hold.data(body), filled(body.len(), r.op), "data of operation {}", r.op);
        }
        (r.op, r.kind == RecordKind::Void)
    });
    list.collect()
}

/// Lets `work` die after each of its stores, on a fresh ring that `prepare` made; then `check` sees the ring reopened.
fn cut_everywhere(prepare: impl Fn(&Ring), work: impl Fn(&Ring), check: impl Fn(&Ring)) {
    let dir = dir();
    for stores in 0.. {
        let path = dir.path().join("ring");
        let ring = Ring::create(&path, &spec(), &options()).unwrap();
        prepare(&ring);
        let died = dying_after(stores, || work(&ring));
        drop(ring);
        // Twice: the first adoption is itself cut short by another death.
        for again in [0, 1, 2, 3, u64::MAX] {
            dying_after(again, || drop(Ring::open(&path, &options()).unwrap()));
        }
        let summary = Ring::inspect(&path).unwrap();
        let ring = Ring::open(&path, &options()).unwrap();
        assert_eq!((summary.first_op, summary.next_op), (ring.first_op(), ring.next_op()));
        let voids = contents(&ring).iter().filter(|c| c.1).count() as u64;
        assert_eq!(summary.records + voids, ring.next_op() - ring.first_op());
        check(&ring);
        // It goes on: the next operations are found again.
        let before = contents(&ring);
        let (op, _) = put(&ring, 1, 1).unwrap();
        let (next, _) = put(&ring, 1, 3).unwrap();
        drop(ring);
        let ring = Ring::open(&path, &options()).unwrap();
        assert_eq!(contents(&ring), [before, vec![(op, false), (next, false)]].concat());
        ring.remove().unwrap();
        if !died {
            assert!(stores > 0);
            return;
        }
    }
}

/// Fills the ring with records whose bytes are all ones, and frees them, so that stale bytes of an earlier lap lie
/// everywhere; the head ends `left` bytes or less before the end.
fn dirty(ring: &Ring, left: u64) {
    let mut at = 0;
    let end = ring.capacity() - left;
    while at < end {
        let blocks = ((end - at) / 4096).clamp(1, 50) as u32;
        let mut slot = ring.reserve(&OpHeader::write(0, blocks)).unwrap();
        slot.body().fill(0xff);
        at = slot.body_at() + u64::from(blocks) * 4096;
        slot.complete();
        ring.free_through(u64::MAX);
    }
}

#[test]
fn a_write_is_there_when_complete_and_void_or_absent_before() {
    for left in [1 << 20, 40_000, 9000, 4500, 200] {
        cut_everywhere(
            |ring| {
                dirty(ring, left);
                put(ring, 0, 1).unwrap();
            },
            |ring| {
                put(ring, 1, 2).unwrap();
                put(ring, 2, 3).unwrap();
            },
            |ring| {
                let ops = contents(ring);
                let first = ops[0].0;
                assert!(ops.len() <= 3 && !ops[0].1, "{ops:?}");
                assert!(ops.iter().map(|o| o.0).eq(first..first + ops.len() as u64));
                // Only the last may be void: the one before it was completed.
                assert!(ops.iter().rev().skip(1).all(|o| !o.1), "{ops:?}");
            },
        );
    }
}

#[test]
fn a_batch_is_whole_or_void() {
    let parts = [
        PartHeader::Write { lba: 1, blocks: 2 },
        PartHeader::Trim { lba: 2, blocks: 9 },
        PartHeader::Write { lba: 3, blocks: 1 },
    ];
    cut_everywhere(
        |ring| dirty(ring, 30_000),
        |ring| ring.reserve(&OpHeader::Batch(&parts)).unwrap().complete(),
        |ring| match &all(ring)[..] {
            [] => {}
            [Record { kind: RecordKind::Void, .. }] => {}
            [Record { kind: RecordKind::Batch(found), .. }] => {
                let lens = found.iter().map(|p| match p {
                    Part::Write { lba, body, .. } => (*lba, body.len() as u64),
                    Part::Trim { lba, blocks } => (*lba, *blocks),
                });
                assert!(lens.eq([(1, 8192), (2, 9), (3, 4096)]), "{found:?}");
            }
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn freeing_moves_the_tail_or_leaves_it() {
    cut_everywhere(
        |ring| {
            for i in 0..6 {
                put(ring, i, 4).unwrap();
            }
            ring.free_through(101);
        },
        |ring| {
            ring.free_through(102);
            ring.free_through(104);
        },
        |ring| {
            let ops: Vec<u64> = contents(ring).iter().map(|c| c.0).collect();
            assert!([102, 103, 105].iter().any(|first| ops.iter().copied().eq(*first..106)), "{ops:?}");
        },
    );
}

#[test]
fn space_is_overwritten_only_after_the_tail_has_moved() {
    // The work frees and writes over what was freed; a death in between must find nothing half overwritten.
    cut_everywhere(
        |ring| while put(ring, 0, 40).is_ok() {},
        |ring| {
            ring.free_through(103);
            for i in 0..4 {
                put(ring, i, 30).ok();
            }
        },
        |ring| {
            let ops = contents(ring);
            assert!(ops.iter().map(|o| o.0).eq(ring.first_op()..ring.next_op()));
            assert!(ring.first_op() == 100 || ring.first_op() == 104);
            // Room for the writes that the caller goes on with.
            ring.free_through(110);
        },
    );
}

#[test]
fn forgotten_slots_are_void_after_reopening() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    put(&ring, 0, 1).unwrap();
    std::mem::forget(ring.reserve(&OpHeader::write(1, 5)).unwrap());
    put(&ring, 2, 1).unwrap();
    std::mem::forget(ring.reserve(&OpHeader::trim(1, 5)).unwrap());
    assert_eq!(contents(&ring), [(100, false)]);
    drop(ring);
    assert_eq!(Ring::inspect(&path).unwrap().records, 2);
    let ring = Ring::open(&path, &options()).unwrap();
    assert_eq!(contents(&ring), [(100, false), (101, true), (102, false), (103, true)]);
}
