//! Figures of speed and memory, printed: `cargo test -p esker --lib map::speed -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use super::*;
use crate::segment::SegmentId;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 20) % n
    }
}

type Bucket = HashMap<RecordRef, Vec<u8>>;

/// One segment of 2,048 scattered 4 KiB writes; answers nanoseconds.
fn segment(map: &Map, seq: u64, extents: u64, random: &mut Random) -> u128 {
    let pieces: Vec<(u64, u8)> = (0..2048).map(|_| (random.below(extents), 1 << random.below(8))).collect();
    let start = Instant::now();
    for (number, (extent, mask)) in (0u32..).zip(pieces) {
        let record = RecordRef { segment: SegmentId::log(1, 1, seq), offset: 64 + number * 4133, len: 4133, number };
        map.apply_data(extent, mask, record);
    }
    start.elapsed().as_nanos()
}

fn checkpoint(map: &Map, bucket: &mut Bucket, n: u64) -> (usize, usize) {
    let mut checkpoint = map.begin_checkpoint();
    let (mut nodes, mut bytes) = (0, 0);
    loop {
        match checkpoint.next(64) {
            Step::Load(loads) => loads.iter().for_each(|l| map.loaded(l, &bucket[&l.record]).unwrap()),
            Step::Write(batch) => {
                for node in batch {
                    let base = node.base.as_ref().map(|l| &bucket[&l.record][..]);
                    let encoded = node.encode(base).unwrap();
                    let at = encoded.map(|b| {
                        (nodes, bytes) = (nodes + 1, bytes + b.len());
                        let segment = SegmentId::data(1, 1, n * 4096 + nodes as u64 / 1000);
                        let record = RecordRef { segment, offset: 0, len: 1, number: (nodes % 1000) as u32 };
                        bucket.insert(record, b);
                        record
                    });
                    checkpoint.placed(node, at);
                }
            }
            Step::Done => break,
        }
    }
    checkpoint.commit();
    (nodes, bytes)
}

fn figures(name: &str, size: u64, segments: u64) {
    let map = Map::new(MapOptions { size, leaf_cache_bytes: 256 << 20 }, None).unwrap();
    let (extents, mut random, mut bucket) = (size >> 15, Random(7), Bucket::new());
    let mut times: Vec<u128> = (0..segments).map(|s| segment(&map, s + 1, extents, &mut random)).collect();
    times.sort_unstable();
    let (best, median) = (times[0] / 1000, times[times.len() / 2] / 1000);
    let pieces = segments * 2048;
    println!("{name}: apply of 2,048 random 4 KiB pieces: median {median} us, best {best} us");
    println!("{name}: {pieces} dirty pieces: {:.1} B each", map.dirty_bytes() as f64 / pieces as f64);
    lookups(&map, &format!("{name}, from the delta"), extents);
    let start = Instant::now();
    let (nodes, bytes) = checkpoint(&map, &mut bucket, 1);
    println!(
        "{name}: checkpoint of {nodes} nodes, {:.1} B a piece: {:?}",
        bytes as f64 / pieces as f64,
        start.elapsed()
    );
    println!("{name}: then {:?}", map.memory());
    lookups(&map, &format!("{name}, from the base"), extents);
    let mut times: Vec<u128> = (0..8).map(|s| segment(&map, segments + s + 1, extents, &mut random)).collect();
    times.sort_unstable();
    println!("{name}: apply over a base: median {} us, best {} us", times[4] / 1000, times[0] / 1000);
    lookups(&map, &format!("{name}, from delta and base"), extents);
    let start = Instant::now();
    let (nodes, bytes) = checkpoint(&map, &mut bucket, 2);
    println!("{name}: checkpoint of 8 more segments: {nodes} nodes, {bytes} B: {:?}", start.elapsed());
    let start = Instant::now();
    map.apply_trim(0, size / 4096 - 8);
    println!("{name}: trim of nearly all: {:?}", start.elapsed());
}

fn lookups(map: &Map, what: &str, extents: u64) {
    let mut random = Random(99);
    let wanted: Vec<u64> = (0..200_000).map(|_| random.below(extents)).collect();
    let mut missing = 0;
    // In chunks, for the median: a machine that is busy otherwise stops some of them.
    let mut each: Vec<u128> = Vec::new();
    for chunk in wanted.chunks(200) {
        let start = Instant::now();
        for &extent in chunk {
            missing += usize::from(matches!(black_box(map.lookup(extent, 0xff)), Lookup::Load(_)));
        }
        each.push(start.elapsed().as_nanos() / chunk.len() as u128);
    }
    each.sort_unstable();
    let (best, median) = (each[0], each[each.len() / 2]);
    println!("{what}: lookup median {median} ns, best {best} ns, {missing} of {} not in memory", wanted.len());
}

#[test]
#[ignore = "prints figures"]
fn print_figures() {
    figures("1 GiB", 1 << 30, 64);
    figures("64 GiB", 64 << 30, 256);
    figures("1 TiB", 1 << 40, 256);
    figures("1 PiB", 1 << 50, 32);
}
