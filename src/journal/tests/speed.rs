//! What an operation costs. Run with `--ignored`, best in a release build; the bound is generous.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "a measurement"]
fn a_small_write_costs_less_than_a_microsecond() {
    let dir = dir();
    let path = dir.path().join("ring");
    let options = RingOptions { mlock: MlockPolicy::Try, ..options() };
    let ring = Ring::create(&path, &RingSpec { bytes: 256 << 20, ..spec() }, &options).unwrap();
    let data = vec![7u8; 4096];
    let mut best = f64::MAX;
    for _ in 0..5 {
        let n = 50_000;
        let start = Instant::now();
        for lba in 0..n {
            let mut slot = ring.reserve(&OpHeader::write(lba, 1)).unwrap();
            slot.body().copy_from_slice(&data);
            slot.complete();
        }
        let write = start.elapsed().as_secs_f64() / n as f64 * 1e9;
        let start = Instant::now();
        let mut out = Vec::with_capacity(n as usize);
        ring.collect(0, u64::MAX, usize::MAX, &mut out);
        let collect = start.elapsed().as_secs_f64() / n as f64 * 1e9;
        let bodies: Vec<u64> = out
            .iter()
            .map(|r| match &r.kind {
                RecordKind::Write { body, .. } => body.at(),
                other => panic!("{other:?}"),
            })
            .collect();
        let mut buf = vec![0; 4096];
        let start = Instant::now();
        for at in &bodies {
            ring.read_at(*at, &mut buf);
        }
        let read = start.elapsed().as_secs_f64() / n as f64 * 1e9;
        let start = Instant::now();
        ring.free_through(u64::MAX);
        let free = start.elapsed().as_secs_f64() / n as f64 * 1e9;
        println!("4 KiB write {write:.0} ns, collect {collect:.0} ns, read {read:.0} ns, free {free:.0} ns");
        best = best.min(write);
    }
    assert!(best < 1000.0, "{best} ns");
}
