//! Many threads: writers, readers, a builder that frees; every byte checked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::*;

/// Ends the readers, also when the test fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Gate {
    turns: Mutex<u64>,
    wake: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.turns.lock().unwrap() += 1;
        self.wake.notify_all();
    }

    /// Waits until `f` answers something, asking after every wake-up. No polling: a lost wake-up hangs.
    fn until<T>(&self, mut f: impl FnMut() -> Option<T>) -> T {
        loop {
            let seen = *self.turns.lock().unwrap();
            if let Some(t) = f() {
                return t;
            }
            let turns = self.turns.lock().unwrap();
            let (_turns, late) = self.wake.wait_timeout_while(turns, Duration::from_secs(20), |t| *t == seen).unwrap();
            assert!(!late.timed_out(), "a wake-up was lost");
        }
    }
}

/// Operations completed lately: number, position, length.
type Recent = Mutex<VecDeque<(u64, u64, usize)>>;

fn writer(ring: &Ring, gate: &Gate, recent: &Recent, ops: u64, seed: u64) {
    for i in 0..ops {
        let blocks = 1 + ((seed + i) * 7919 % 61) as u32;
        let mut slot = gate.until(|| ring.reserve(&OpHeader::write(i, blocks)).ok());
        let op = slot.op();
        fill(slot.body(), op);
        let mut recent = recent.lock().unwrap();
        recent.push_back((op, slot.body_at(), blocks as usize * 4096));
        if recent.len() > 300 {
            recent.pop_front();
        }
        drop(recent);
        if i % 17 == 5 {
            drop(slot);
        } else {
            slot.complete();
        }
    }
}

fn reader(ring: &Ring, recent: &Recent, done: &AtomicBool, hits: &AtomicU64, seed: usize) {
    let mut buf = vec![0; 1 << 20];
    let mut turn = seed;
    while !done.load(Ordering::Relaxed) {
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let found = {
            let recent = recent.lock().unwrap();
            recent.get((turn >> 33) % recent.len().max(1)).copied()
        };
        let Some((op, at, len)) = found else { continue };
        if ring.try_read_at(at, &mut buf[..len]) {
            assert_eq!(buf[..len], filled(len, op), "operation {op}");
            hits.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Checks all operations in order and frees them, some late; answers how many it saw.
fn builder(ring: &Ring, total: u64) -> u64 {
    let (mut next, mut voids) = (ring.first_op(), 0);
    let end = next + total;
    let mut records = Vec::new();
    while next < end {
        let hold = ring.hold(next);
        records.clear();
        let c = ring.collect(next, u64::MAX, 700_000, &mut records);
        assert!(records.iter().map(|r| r.op).eq(next..c.next_op));
        for r in &records {
            match &r.kind {
                RecordKind::Write { body, .. } => assert_eq!(hold.data(body), filled(body.len(), r.op)),
                RecordKind::Void => voids += 1,
                other => panic!("{other:?}"),
            }
        }
        if records.is_empty() {
            std::thread::yield_now();
            continue;
        }
        next = c.next_op;
        ring.free_through(next - 1);
        // The hold outlives the freeing: what it lends must not change.
        for r in &records {
            if let RecordKind::Write { body, .. } = &r.kind {
                assert_eq!(hold.data(body)[..64], filled(64, r.op));
            }
        }
    }
    voids
}

#[test]
fn writers_readers_and_a_builder_agree_on_every_byte() {
    const WRITERS: u64 = 4;
    const OPS: u64 = 1500;
    let dir = dir();
    let (path, ring) = new_ring(&dir);
    let gate = Arc::new(Gate::default());
    let waker = Arc::clone(&gate);
    ring.on_space(move || waker.open());
    let (recent, done, hits) = (Recent::default(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        let _end = SetAtEnd(&done);
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                s.spawn({
                    let (ring, gate, recent) = (&ring, &gate, &recent);
                    move || writer(ring, gate, recent, OPS, w * 13)
                })
            })
            .collect();
        for r in 0..2 {
            let (ring, recent, done, hits) = (&ring, &recent, &done, &hits);
            s.spawn(move || reader(ring, recent, done, hits, r + 1));
        }
        // Copies taken in mid-flight are not rings in general (a copy is not an instant); the kill test does that.
        let voids = builder(&ring, WRITERS * OPS);
        for w in writers {
            w.join().unwrap();
        }
        assert_eq!(voids, WRITERS * (OPS - 5).div_ceil(17));
    });
    assert!(hits.load(Ordering::Relaxed) > 100);
    assert_eq!(ring.used(), 0);
    drop(ring);
    assert_eq!(Ring::open(&path, &options()).unwrap().next_op(), 100 + WRITERS * OPS);
}

#[test]
fn a_pinned_reader_delays_reuse_and_its_leaving_is_told() {
    // Readers and a freeing thread, with one record's room: every reuse needs the readers out, and a missed notice hangs.
    let dir = dir();
    let (_, ring) = new_ring(&dir);
    let gate = Arc::new(Gate::default());
    let waker = Arc::clone(&gate);
    ring.on_space(move || waker.open());
    let done = AtomicBool::new(false);
    let latest = Mutex::new((0, 0));
    let start = Instant::now();
    std::thread::scope(|s| {
        let _end = SetAtEnd(&done);
        for _ in 0..3 {
            s.spawn(|| {
                let mut buf = vec![0; 1 << 20];
                while !done.load(Ordering::Relaxed) {
                    let (op, at) = *latest.lock().unwrap();
                    if op > 0 && ring.try_read_at(at, &mut buf) {
                        assert_eq!(buf[..4096], filled(4096, op));
                        assert_eq!(buf[(1 << 20) - 8..], filled(1 << 20, op)[(1 << 20) - 8..]);
                    }
                }
            });
        }
        while start.elapsed() < Duration::from_secs(2) {
            let mut slot = gate.until(|| ring.reserve(&OpHeader::write(0, 256)).ok());
            let (op, at) = (slot.op(), slot.body_at());
            fill(slot.body(), op);
            slot.complete();
            *latest.lock().unwrap() = (op, at);
            ring.free_through(op - 1);
        }
    });
    assert!(ring.next_op() > 200);
}
