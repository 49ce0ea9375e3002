//! One thread: what goes in comes out, space, wrap-around, reopening.

use super::*;

#[test]
fn what_goes_in_comes_out() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    assert_eq!(put(&ring, 5, 2).unwrap().0, 100);
    ring.reserve(&OpHeader::trim(8, 1 << 40)).unwrap().complete();
    drop(ring.reserve(&OpHeader::write(1, 1)).unwrap());
    let parts = [
        PartHeader::Write { lba: 1, blocks: 1 },
        PartHeader::Trim { lba: 2, blocks: 9 },
        PartHeader::Write { lba: 3, blocks: 2 },
    ];
    let mut slot = ring.reserve(&OpHeader::Batch(&parts)).unwrap();
    assert_eq!(slot.body().len(), 3 * 4096);
    fill(slot.body(), 103);
    let at = slot.body_at();
    slot.complete();

    for ring in [ring, Ring::open(&path, &options()).unwrap_err_busy(&path)] {
        let records = all(&ring);
        assert_eq!(records.iter().map(|r| r.op).collect::<Vec<_>>(), [100, 101, 102, 103]);
        let hold = ring.hold(0);
        let RecordKind::Write { lba: 5, blocks: 2, body } = &records[0].kind else { panic!("{:?}", records[0]) };
        assert_eq!(hold.data(body), filled(8192, 100));
        assert_eq!(records[1].kind, RecordKind::Trim { lba: 8, blocks: 1 << 40 });
        assert_eq!(records[2].kind, RecordKind::Void);
        let RecordKind::Batch(parts) = &records[3].kind else { panic!("{:?}", records[3]) };
        let data = filled(3 * 4096, 103);
        let [
            Part::Write { lba: 1, blocks: 1, body: a },
            Part::Trim { lba: 2, blocks: 9 },
            Part::Write { lba: 3, blocks: 2, body: b },
        ] = &parts[..]
        else {
            panic!("{parts:?}")
        };
        assert_eq!((a.at(), b.at()), (at, at + 4096));
        assert_eq!(hold.data(a), &data[..4096]);
        assert_eq!(hold.data(b), &data[4096..]);
        let mut buf = [0; 100];
        assert!(ring.try_read_at(at + 5000, &mut buf));
        assert_eq!(buf, data[5000..5100]);
    }
}

trait Reopen {
    fn unwrap_err_busy(self, path: &Path) -> Ring;
}

impl Reopen for Result<Ring, RingError> {
    /// The ring is open, so this one must be busy; opens a copy of the file instead.
    fn unwrap_err_busy(self, path: &Path) -> Ring {
        assert!(matches!(self, Err(RingError::Busy { .. })));
        let copy = path.with_extension("copy");
        std::fs::copy(path, &copy).unwrap();
        Ring::open(&copy, &options()).unwrap()
    }
}

#[test]
fn a_full_ring_refuses_until_freed_and_wraps() {
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    let mut first = 100;
    for lap in 0..5 {
        while put(&ring, lap, 37).is_ok() {}
        assert_eq!(put(&ring, 0, 37), Err(Refused::Full));
        assert!(ring.used() <= ring.capacity() - 64);
        assert!(ring.capacity() - ring.used() < 2 * (37 * 4096 + 64));
        let next = ring.next_op();
        let copy = path.with_extension("copy");
        std::fs::copy(&path, &copy).unwrap();
        let other = Ring::open(&copy, &options()).unwrap();
        assert_eq!((other.first_op(), other.next_op()), (first, next));
        let hold = other.hold(0);
        let records = all(&other);
        assert_eq!(records.len() as u64, next - first);
        for r in &records {
            let RecordKind::Write { blocks: 37, body, .. } = &r.kind else { panic!("{r:?}") };
            assert_eq!(hold.data(body), filled(37 * 4096, r.op));
        }
        first = next - 1 - lap;
        assert_eq!(ring.free_through(first - 1), first);
        assert_eq!(ring.first_op(), first);
    }
    assert_eq!(ring.free_through(u64::MAX), ring.next_op());
    assert_eq!(ring.used(), 0);
}

#[test]
fn any_record_fits_an_empty_ring_wherever_its_head_stands() {
    let dir = dir();
    let (_, ring) = new_ring(&dir);
    let parts = vec![PartHeader::Trim { lba: 0, blocks: 1 }; MAX_PARTS - 256];
    let writes = [PartHeader::Write { lba: 0, blocks: 1 }; 256];
    let big = [parts, writes.to_vec()].concat();
    for i in 0..200 {
        ring.reserve(&OpHeader::Batch(&big)).unwrap().complete();
        ring.free_through(u64::MAX);
        put(&ring, 0, 1 + i % 13).unwrap();
        ring.free_through(u64::MAX);
        assert_eq!(ring.used(), 0);
    }
}

#[test]
fn collect_stops_where_it_should() {
    let dir = dir();
    let (_, ring) = new_ring(&dir);
    for i in 0..10 {
        put(&ring, i, 1).unwrap();
    }
    let open = ring.reserve(&OpHeader::write(0, 1)).unwrap();
    put(&ring, 11, 1).unwrap();
    let mut out = Vec::new();
    let mut collect = |from, through, max| {
        out.clear();
        let c = ring.collect(from, through, max, &mut out);
        assert_eq!(c.body_bytes, out.len() * 4096);
        assert!(out.iter().map(|r| r.op).eq(u64::max(from, 100)..c.next_op));
        (c.next_op, c.stop)
    };
    assert_eq!(collect(0, u64::MAX, usize::MAX), (110, Stop::Incomplete));
    assert_eq!(collect(103, 105, usize::MAX), (106, Stop::Through));
    assert_eq!(collect(103, 109, usize::MAX), (110, Stop::Through));
    assert_eq!(collect(103, u64::MAX, 8192), (105, Stop::Limit));
    assert_eq!(collect(103, u64::MAX, 0), (104, Stop::Limit));
    assert_eq!(ring.free_through(u64::MAX), 110);
    open.complete();
    assert_eq!(collect(110, u64::MAX, usize::MAX), (112, Stop::Head));
    assert_eq!(collect(112, u64::MAX, usize::MAX), (112, Stop::Head));
    assert_eq!(collect(500, u64::MAX, usize::MAX).1, Stop::Head);
}

#[test]
fn freed_positions_are_refused_and_held_ones_stay() {
    let dir = dir();
    let (_, ring) = new_ring(&dir);
    let (op, at) = put(&ring, 0, 256).unwrap();
    let (second, _) = put(&ring, 0, 256).unwrap();
    let hold = ring.hold(second);
    let body = match &all(&ring)[1].kind {
        RecordKind::Write { body, .. } => *body,
        other => panic!("{other:?}"),
    };
    ring.free_through(second);
    assert!(!ring.try_read_at(at, &mut [0; 8]));
    assert_eq!(op, 100);
    // The first record's place is free again, the second's is not, whatever is written.
    let mut laps = 0;
    while ring.next_op() < 200 && put(&ring, 0, 100).is_ok() {
        ring.free_through(u64::MAX);
        laps += 1;
    }
    assert!((4..100).contains(&laps), "{laps}");
    assert_eq!(hold.data(&body), filled(1 << 20, second));
    drop(hold);
    assert_eq!(ring.used(), 0);
    put(&ring, 0, 100).unwrap();
}

#[test]
fn senseless_operations_are_refused() {
    let dir = dir();
    let (_, ring) = new_ring(&dir);
    let refused = |op: OpHeader<'_>| matches!(ring.reserve(&op), Err(Refused::Invalid(_)));
    assert!(refused(OpHeader::write(0, 0)));
    // 1 MiB that begins inside a block is 257 of them.
    assert!(refused(OpHeader::write(0, 258)));
    assert!(refused(OpHeader::write(1 << 52, 1)));
    assert!(refused(OpHeader::trim(u64::MAX, 2)));
    assert!(refused(OpHeader::Batch(&[])));
    assert!(refused(OpHeader::Batch(&[PartHeader::Write { lba: 0, blocks: 129 }; 2])));
    assert!(refused(OpHeader::Batch(&vec![PartHeader::Trim { lba: 0, blocks: 1 }; MAX_PARTS + 1])));
    assert_eq!(ring.next_op(), 100);
    ring.reserve(&OpHeader::write((1 << 52) - 1, 1)).unwrap().complete();
}
