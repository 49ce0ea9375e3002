//! Small pieces, each by itself: files of rooms that keep their insides to themselves.

#[path = "../../../src/volume/gate.rs"]
mod gate;
#[path = "../../../src/journal/pins.rs"]
mod pins;
#[path = "../../../src/volume/single_flight.rs"]
mod single_flight;
#[path = "../../../src/volume/space.rs"]
mod space;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Plain;

use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use shuttle::{future, thread};

use crate::harness::{Model, holds};
use crate::{explore, sync};
use gate::Gates;
use pins::Pins;
use single_flight::SingleFlight;
use space::Space;

pub const MODELS: &[Model] = &[
    Model {
        name: "pins::what_a_reader_found_stays_until_it_leaves",
        weak: &["a pin without a second look"],
        explore: |n| explore(1500 * n, 1500 * n, pins_protect),
    },
    Model {
        name: "gates::of_any_two_ranges_never_lock_each_other_up",
        weak: &["gates in any order"],
        explore: |n| explore(300 * n, 300 * n, two_ranges),
    },
    Model {
        name: "single_flight::each_is_fetched_once_and_all_get_it",
        weak: &["a join in two steps"],
        explore: |n| explore(300 * n, 300 * n, one_fetch),
    },
    Model {
        name: "space::who_waits_for_room_gets_it",
        weak: &["an attempt before the registration"],
        explore: |n| explore(500 * n, 500 * n, room),
    },
];

/// Readers rely on what lies at or behind the tail; two rounds of moving it and of reusing what is before it.
fn pins_protect() {
    let pins = Arc::new(Pins::default());
    let tail = Arc::new(AtomicU64::new(0));
    // Reused up to here; plain, as bytes are.
    let reused = Arc::new(Plain::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (pins, tail, reused) = (pins.clone(), tail.clone(), reused.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    let pin = pins.enter();
                    let at = tail.load(Ordering::SeqCst);
                    sync::step();
                    holds(reused.load(Ordering::SeqCst) as u64 <= at, || "reused under a reader".into());
                    pins.leave(pin);
                }
            })
        })
        .collect();
    for round in 1..3 {
        tail.store(round, Ordering::SeqCst);
        let phase = pins.turn();
        while !pins.left(phase) {
            thread::yield_now();
        }
        reused.store(round as usize, Ordering::SeqCst);
    }
    readers.into_iter().for_each(|r| r.join().unwrap());
}

fn two_ranges() {
    const MIB: u64 = 256;
    let gates = Arc::new(Gates::new());
    let held = Arc::new(Plain::new(0));
    // Neighbours around the end of the table, and a range over all of it: only the latter closes a circle.
    let threads: Vec<_> = [(62 * MIB, 3 * MIB), (63 * MIB, 2 * MIB), (0, 64 * MIB)]
        .into_iter()
        .map(|(lba, blocks)| {
            let (gates, held) = (gates.clone(), held.clone());
            thread::spawn(move || {
                drop(gates.shared(lba, blocks));
                let exclusive = gates.exclusive(lba, blocks);
                holds(held.swap(1, Ordering::SeqCst) == 0, || "two hold a gate that they share".into());
                sync::step();
                held.store(0, Ordering::SeqCst);
                drop(exclusive);
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

fn one_fetch() {
    let flight = Arc::new(SingleFlight::<u8, usize>::new());
    let under_way = Arc::new(Plain::new(0));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (flight, under_way) = (flight.clone(), under_way.clone());
            thread::spawn(move || {
                let (waiting, lead) = flight.join(7);
                if let Some(lead) = lead {
                    holds(under_way.fetch_add(1, Ordering::SeqCst) == 0, || "two fetch the same".into());
                    sync::step();
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    flight.finish(lead, 9);
                }
                let got = future::block_on(waiting);
                holds(got == Ok(9), || format!("{got:?} was fetched"));
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

/// Three take one unit each, and two are given back meanwhile; a wake that is missed leaves somebody waiting for ever.
fn room() {
    let space = Arc::new(Space::default());
    let room = Arc::new(AtomicUsize::new(1));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (space, room) = (space.clone(), room.clone());
            thread::spawn(move || {
                let take = || room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |r| r.checked_sub(1)).ok();
                future::block_on(space.wait(take));
            })
        })
        .collect();
    for _ in 0..2 {
        room.fetch_add(1, Ordering::SeqCst);
        space.wake();
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    holds(!space.contended(), || "somebody is still counted as waiting".into());
}
