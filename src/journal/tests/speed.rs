//! What an operation costs. Run with `--ignored`, best in a release build; the bound is generous.

use super::*;

/// Time this thread spent on a CPU, in nanoseconds: other work on the machine does not count.
fn cpu_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

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
        let start = cpu_ns();
        for lba in 0..n {
            let mut slot = ring.reserve(&OpHeader::write(lba, 1)).unwrap();
            slot.body().copy_from_slice(&data);
            slot.complete();
        }
        let write = (cpu_ns() - start) / n as f64;
        let start = cpu_ns();
        let mut out = Vec::with_capacity(n as usize);
        ring.collect(0, u64::MAX, usize::MAX, &mut out);
        let collect = (cpu_ns() - start) / n as f64;
        let bodies: Vec<u64> = out
            .iter()
            .map(|r| match &r.kind {
                RecordKind::Write { body, .. } => body.at(),
                other => panic!("{other:?}"),
            })
            .collect();
        let mut buf = vec![0; 4096];
        let start = cpu_ns();
        for at in &bodies {
            ring.read_at(*at, &mut buf);
        }
        let read = (cpu_ns() - start) / n as f64;
        let start = cpu_ns();
        ring.free_through(u64::MAX);
        let free = (cpu_ns() - start) / n as f64;
        println!("4 KiB write {write:.0} ns, collect {collect:.0} ns, read {read:.0} ns, free {free:.0} ns");
        best = best.min(write);
        let start = cpu_ns();
        for lba in 0..n {
            ring.reserve(&OpHeader::trim(lba, 1)).unwrap().complete();
        }
        let trim = (cpu_ns() - start) / n as f64;
        ring.free_through(u64::MAX);
        // The floor: the same copies into ordinary memory, as cold.
        let mut plain = vec![1u8; 256 << 20];
        let start = cpu_ns();
        for at in plain.chunks_exact_mut(4160).take(n as usize) {
            at[..4096].copy_from_slice(&data);
        }
        let copy = (cpu_ns() - start) / n as f64;
        println!("trim {trim:.0} ns, bare copy {copy:.0} ns");
    }
    assert!(best < 1000.0, "{best} ns");
}
