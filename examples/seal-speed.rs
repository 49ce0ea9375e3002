//! How fast segments are compressed and sealed on all cores, as JSON: the ceiling that `scripts/bench` compares streams
//! with. Incompressible data, as whole extents and as single blocks.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use esker::pool::keys::PoolKeys;
use esker::segment::{BLOCK, Compression, EXTENT, OpRange, SegmentBuilder, SegmentId, SegmentTail};

/// Plaintext of one segment, in bytes.
const SEGMENT: usize = 8 << 20;

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let limit = Duration::from_secs_f64(seconds);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let keys = Arc::new(PoolKeys::new([1; 16], 1, &[7; 32]));
    let mut data = vec![0; SEGMENT];
    getrandom::fill(&mut data).expect("getrandom(2) works once the kernel is up");
    let rate = |piece: usize| {
        let begin = Instant::now();
        let segments: u64 = std::thread::scope(|scope| {
            let (keys, data) = (&keys, &data);
            let run =
                move || (0..).take_while(|n| begin.elapsed() < limit && build(keys, data, piece, *n)).count() as u64;
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            running.into_iter().map(|t| t.join().expect("building a segment does not panic")).sum()
        });
        (segments as f64 * SEGMENT as f64 / begin.elapsed().as_secs_f64()).round()
    };
    let (extents, blocks) = (rate(EXTENT), rate(BLOCK));
    println!("{{\"threads\":{threads},\"extents_bytes_per_s\":{extents},\"blocks_bytes_per_s\":{blocks}}}");
}

/// Builds one segment of pieces of `piece` bytes. Always true.
fn build(keys: &Arc<PoolKeys>, data: &[u8], piece: usize, seq: u64) -> bool {
    let id = SegmentId::log(1, 1, seq);
    let mut salt = [0; 16];
    salt[..8].copy_from_slice(&seq.to_le_bytes());
    let mut builder = SegmentBuilder::new(keys.clone(), id, salt, Compression::Lz4);
    let mask = ((1u16 << (piece / BLOCK)) - 1) as u8;
    for (extent, plain) in (0..).zip(data.chunks_exact(piece)) {
        builder.add_extent(extent, mask, plain);
    }
    let ops = OpRange { first: 1, last: SEGMENT as u64 / BLOCK as u64 };
    let tail = SegmentTail { ops, predecessor_salt: [0; 16], checkpoint: None, deletable: Vec::new() };
    black_box(builder.finish(tail));
    true
}
