//! Requests that meet: partial blocks lose no update, overlapping writes have one order (promises 2 and 5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use esker_testkit::{BLOCK, History, Keeps, What};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::load::{flush, image, rounds, seed, verify, write};
use crate::world::World;

const SECTOR: usize = 512;

fn sector(writer: u8, n: u32) -> Vec<u8> {
    [&[writer][..], &n.to_le_bytes()].concat().into_iter().cycle().take(SECTOR).collect()
}

/// Each of four connections owns two of the eight sectors of one block.
#[test]
fn writers_of_parts_of_one_block_lose_no_update() {
    const UPDATES: u32 = 150;
    let world = World::s3();
    world.create_volume("sectors", &["--block-size", "512"]);
    let host = world.host("a");
    let daemon = host.serve(&world, &["sectors", "--max-unflushed-age", "20ms"]);
    // The block lies across what was flushed, so that it has to be fetched too.
    let at = |writer: u8, second: bool| 5 * BLOCK as u64 + u64::from(writer) * 512 + if second { 2048 } else { 0 };
    thread::scope(|s| {
        for writer in 0..4u8 {
            let nbd = daemon.connect_to("sectors");
            s.spawn(move || {
                for n in 1..=UPDATES {
                    for second in [false, true] {
                        nbd.write(at(writer, second), &sector(writer, n)).unwrap();
                        let there = nbd.read(at(writer, second), SECTOR as u32).unwrap();
                        assert!(there == sector(writer, n), "update {n} of writer {writer} is lost at once");
                    }
                    let other = nbd.read(at(writer, true), SECTOR as u32).unwrap();
                    assert!(other == sector(writer, n), "update {n} of writer {writer} is lost");
                    if n.is_multiple_of(40) {
                        nbd.flush().unwrap();
                    }
                }
            });
        }
    });
    let whole = |daemon: &crate::world::Daemon| {
        let block = daemon.connect_to("sectors").read(5 * BLOCK as u64, BLOCK as u32).unwrap();
        for (n, found) in block.chunks_exact(SECTOR).enumerate() {
            assert!(found == sector(n as u8 % 4, UPDATES), "sector {n} begins with {:?}", &found[..5]);
        }
    };
    whole(&daemon);
    daemon.kill();
    let daemon = host.serve(&world, &["sectors"]);
    whole(&daemon);
    daemon.stop();
    whole(&host.serve(&world, &["sectors"]));
}

/// Four connections write over each other, three read meanwhile: all see one order, which a kill and a restart keep.
#[test]
fn overlapping_writes_have_one_order_for_all_readers_and_after_a_restart() {
    const PLACE: u64 = 12;
    let seed = seed("one order");
    let (world, history) = (World::s3(), Arc::new(History::new()));
    let host = world.host("a");
    for round in 0..rounds(5) {
        let daemon = host.serve(&world, &["--max-unflushed-age", if round % 2 == 0 { "10ms" } else { "30s" }]);
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            let writers: Vec<_> = (0..4)
                .map(|n| {
                    let (nbd, history) = (daemon.connect(), &history);
                    let mut rng = StdRng::seed_from_u64(seed + round * 100 + n);
                    s.spawn(move || {
                        for _ in 0..60 {
                            let blocks = rng.random_range(1..=PLACE);
                            let lba = rng.random_range(0..=PLACE - blocks);
                            write(&nbd, history, lba, blocks, rng.random_range(0..20) == 0).unwrap();
                        }
                        flush(&nbd, history).unwrap();
                    })
                })
                .collect();
            for n in 0..3 {
                let (nbd, history, stop) = (daemon.connect(), &history, &stop);
                let mut rng = StdRng::seed_from_u64(seed + round * 100 + 50 + n);
                s.spawn(move || {
                    for _ in 0..1000 {
                        let lba = rng.random_range(0..PLACE);
                        let id = history.begin(What::Read { saw: None }, lba, 1);
                        let data = nbd.read(lba * BLOCK as u64, BLOCK as u32).unwrap();
                        history.end_read(id, &data).unwrap();
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                    }
                });
            }
            writers.into_iter().for_each(|w| w.join().unwrap());
            stop.store(true, Ordering::SeqCst);
        });
        let (before, _) = verify(&daemon, &history, Keeps::Completed);
        assert!(before == image(&daemon), "two readers of a quiet volume see one content");
        if round % 2 == 0 { daemon.kill() } else { daemon.stop() }
        let daemon = host.serve(&world, &[]);
        assert!(before == image(&daemon), "the order is another after a restart");
        history.settle(&before);
        daemon.kill();
    }
}
