//! The ring: reserving, filling, reading, collecting and freeing at once, around its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool as Plain;

use shuttle::sync::atomic::Ordering;
use shuttle::thread;

use crate::explore;
use crate::harness::{Model, holds};
use crate::journal::{MIN_BYTES, MlockPolicy, OpHeader, RecordKind, Ring, RingOptions, RingSpec, Stop};

pub const MODELS: &[Model] = &[Model {
    name: "ring::readers_writers_and_a_builder_agree",
    weak: &["reuse under readers", "free what is being filled"],
    explore: |n| explore(100 * n, 2500 * n, everybody),
}];

/// Blocks of one record: three fill the ring.
const BLOCKS: u32 = 256;

fn path() -> PathBuf {
    let dir = PathBuf::from(format!("/dev/shm/esker-models-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("there is room in /dev/shm");
    dir.join("model.ring")
}

/// A new, empty ring of the least size, whose file is gone already.
fn ring() -> Ring {
    let path = path();
    drop(std::fs::remove_file(&path));
    let spec = RingSpec { pool: [1; 16], volume: 1, ring: [2; 16], bytes: MIN_BYTES, first_op: 1 };
    let ring = Ring::create(&path, &spec, &RingOptions { mlock: MlockPolicy::Off, require_tmpfs: true })
        .expect("there is room in /dev/shm");
    std::fs::remove_dir_all(path.parent().expect("a directory of ours")).expect("a file of ours");
    ring
}

/// What blocks of an operation are filled with. A whole block is marked at its ends only: filling all of it is slow.
fn mark(body: &mut [u8], op: u64) {
    body[..8].copy_from_slice(&op.to_le_bytes());
    let end = body.len() - 8;
    body[end..].copy_from_slice(&op.to_le_bytes());
}

fn marked(first: &[u8], last: &[u8], op: u64) -> bool {
    first == op.to_le_bytes() && last == op.to_le_bytes()
}

struct World {
    ring: Ring,
    /// Number and position of the newest filled write, for readers; nothing hands over at it.
    newest: parking_lot::Mutex<(u64, u64)>,
    /// Which writes are about to be marked complete.
    complete: [Plain; 8],
}

/// Two writers, a reader, and one that collects what is complete and frees it.
fn everybody() {
    let world = Arc::new(World { ring: ring(), newest: parking_lot::Mutex::default(), complete: Default::default() });
    let writers: Vec<_> = (0..2).map(|_| spawn(&world, writer)).collect();
    let others: Vec<_> = [reader, builder].map(|f| spawn(&world, f)).into_iter().collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    others.into_iter().for_each(|o| o.join().unwrap());
    holds(world.ring.first_op() == world.ring.next_op(), || "something is left".into());
    holds(world.ring.used() == 0, || "nobody reads, and not all is reusable".into());
}

fn spawn(world: &Arc<World>, f: fn(&World)) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}

fn writer(world: &World) {
    for n in 0..3 {
        let mut slot = loop {
            match world.ring.reserve(&OpHeader::write(n * 256, BLOCKS)) {
                Ok(slot) => break slot,
                Err(_) => thread::yield_now(),
            }
        };
        let (op, at) = (slot.op(), slot.body_at());
        crate::sync::steps();
        mark(slot.body(), op);
        crate::sync::step();
        *world.newest.lock() = (op, at);
        crate::sync::step();
        world.complete[op as usize].store(true, Ordering::SeqCst);
        slot.complete();
    }
}

fn reader(world: &World) {
    let mut first = [0; 8];
    for _ in 0..6 {
        let (op, at) = *world.newest.lock();
        crate::sync::step();
        // Positions are never given out twice: what is found there is this operation, or it is found gone.
        if op > 0 && world.ring.try_read_at(at, &mut first) {
            let found = u64::from_le_bytes(first);
            holds(found == op, || format!("bytes of operation {found} instead of {op}'s"));
        }
        thread::yield_now();
    }
}

fn builder(world: &World) {
    let mut from = 1;
    while from <= 6 {
        let hold = world.ring.hold(from);
        let mut records = Vec::new();
        let collected = world.ring.collect(from, u64::MAX - 1, 2 << 20, &mut records);
        for record in &records {
            let RecordKind::Write { body, .. } = &record.kind else { panic!("{record:?}") };
            let data = hold.data(body);
            assert_eq!(record.op, from);
            let whole = marked(&data[..8], &data[data.len() - 8..], from);
            holds(whole, || format!("operation {from} is not what was written"));
            from += 1;
        }
        assert_eq!(collected.next_op, from);
        drop(hold);
        // More than is complete: what is still being filled stays.
        let first = world.ring.free_through(from + 1);
        for op in 1..first {
            holds(world.complete[op as usize].load(Ordering::SeqCst), || format!("{op} was freed while it was filled"));
        }
        // What was completed and freed in between is not to be had any more.
        from = from.max(first);
        if collected.stop != Stop::Limit {
            thread::yield_now();
        }
    }
    world.ring.free_through(u64::MAX);
}
