//! The map against a plain table of blocks, through checkpoints, give-ups, late loads and crashes.
#![allow(clippy::unwrap_used)]

mod accounts;
mod rig;

use proptest::prelude::*;
use rig::Rig;

use super::geometry::LEAF_BLOCKS;
use super::*;
use crate::segment::SegmentId;

/// Leaves that lie next to every kind of boundary of a tree of three levels.
const LEAVES: [u64; 14] =
    [0, 1, 2, 3, 510, 511, 512, 513, 1023, 1024, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (3 << 18) - 1];
const EXTENTS: [u64; 8] = [0, 1, 2, 63, 64, 255, 510, 511];
/// Three levels; ends within a leaf.
const SIZE: u64 = (3 << 42) - (3 << 20);

#[derive(Debug, Clone)]
enum Op {
    Data(u64, u8),
    Fill(u64, u64),
    Trim(u64, u64),
    Move { nth: usize, mask: u8, from: usize, to: Option<usize> },
    Compact(usize),
    Rewrite(u8, u64),
    Walk(usize),
    Lookup(u64, u8),
    Runs(u64),
    Ask(u64),
    Deliver,
    Begin,
    Step(usize),
    Commit,
    Abort,
    Crash,
}

fn extent() -> impl Strategy<Value = u64> {
    (0..LEAVES.len(), 0..EXTENTS.len()).prop_map(|(l, e)| LEAVES[l] << FAN_BITS | EXTENTS[e])
}

fn lba() -> impl Strategy<Value = u64> {
    prop_oneof![
        (extent(), 0u64..8).prop_map(|(e, b)| e * 8 + b),
        (0..LEAVES.len()).prop_map(|l| LEAVES[l] * LEAF_BLOCKS),
        Just(SIZE / 4096),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (extent(), 1u8..).prop_map(|(e, m)| Op::Data(e, m)),
        2 => (extent(), 1u64..1100).prop_map(|(e, n)| Op::Fill(e, n)),
        5 => (lba(), lba()).prop_map(|(a, b)| Op::Trim(a.min(b), a.max(b) - a.min(b))),
        4 => (lba(), 0u64..5000).prop_map(|(a, n)| Op::Trim(a, n)),
        6 => move_op(),
        2 => (0u8..6, extent()).prop_map(|(level, e)| Op::Rewrite(level, e)),
        2 => (1usize..20).prop_map(Op::Walk),
        5 => (extent(), 1u8..).prop_map(|(e, m)| Op::Lookup(e, m)),
        1 => (100u64..20_000).prop_map(Op::Runs),
        2 => extent().prop_map(Op::Ask),
        1 => Just(Op::Deliver),
        4 => Just(Op::Begin),
        4 => (1usize..5).prop_map(Op::Step),
        3 => Just(Op::Commit),
        1 => Just(Op::Abort),
        1 => Just(Op::Crash),
    ]
}

fn move_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u8>(), 1u8.., 0usize..8, prop::option::of(0usize..3)).prop_map(|(nth, mask, from, to)| {
            Op::Move { nth: nth.into(), mask, from, to }
        }),
        3 => any::<u8>().prop_map(|nth| Op::Compact(nth.into())),
    ]
}

/// Few extents, small trims: changes meet.
fn close_op() -> impl Strategy<Value = Op> {
    let extent = || prop_oneof![Just(0u64), Just(1), Just(512 << FAN_BITS | 511)];
    prop_oneof![
        6 => (extent(), 1u8..).prop_map(|(e, m)| Op::Data(e, m)),
        3 => (extent(), 0u64..8, 1u64..9).prop_map(|(e, b, n)| Op::Trim(e * 8 + b, n)),
        1 => extent().prop_map(|e| Op::Trim((e >> FAN_BITS) * LEAF_BLOCKS, LEAF_BLOCKS)),
        10 => move_op(),
        2 => (extent(), 1u8..).prop_map(|(e, m)| Op::Lookup(e, m)),
        3 => Just(Op::Begin),
        2 => (1usize..5).prop_map(Op::Step),
        2 => Just(Op::Commit),
        2 => Just(Op::Abort),
        1 => Just(Op::Crash),
    ]
}

fn run(rig: &mut Rig, ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Data(extent, mask) => rig.data(extent, mask),
            Op::Fill(extent, n) => (extent..extent + n).for_each(|e| rig.data(e, 0xff)),
            Op::Trim(lba, blocks) => rig.trim(lba, blocks),
            Op::Move { nth, mask, from, to } => rig.relocate_some(nth, mask, from, to),
            Op::Compact(nth) => rig.compact(nth),
            Op::Rewrite(level, extent) => rig.rewrite(level, extent),
            Op::Walk(nodes) => rig.accounts.walk(nodes, &rig.bucket),
            Op::Lookup(extent, want) => rig.check(extent, want),
            Op::Runs(step) => rig.check_runs(step << FAN_BITS),
            Op::Ask(extent) => rig.ask(extent),
            Op::Deliver => rig.deliver(),
            Op::Begin => rig.begin(),
            Op::Step(max) => rig.step(max),
            Op::Commit => {
                rig.begin();
                rig.commit();
            }
            Op::Abort => rig.abort(),
            Op::Crash => rig.crash(rig.options.size),
        }
        rig.audit();
    }
    rig.deliver();
    rig.check_all();
    rig.check_runs(u64::MAX);
    rig.commit();
    rig.begin();
    rig.commit();
    rig.check_all();
    rig.crash(rig.options.size);
    rig.check_all();
    rig.accounts.walk(usize::MAX, &rig.bucket);
    rig.accounts.check(rig.map.root(), &rig.bucket);
    assert_eq!(rig.accounts.usage.dropped, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn answers_like_a_table_of_blocks(cache in prop_oneof![Just(0usize), Just(4000), Just(1 << 20)],
                                      ops in prop::collection::vec(op(), 1..60)) {
        run(&mut Rig::new(SIZE, cache), ops);
    }

    #[test]
    fn moves_go_where_they_should(cache in prop_oneof![Just(0usize), Just(1 << 20)], ops in prop::collection::vec(close_op(), 1..80)) {
        run(&mut Rig::new(SIZE, cache), ops);
    }

    #[test]
    fn a_grown_volume_keeps_what_it_held(before in prop::collection::vec((0u64..1 << 17, 1u8..), 0..20),
                                         after in prop::collection::vec(op(), 0..20)) {
        let mut rig = Rig::new(4 << 30, 1 << 20);
        for (extent, mask) in before {
            rig.data(extent, mask);
        }
        rig.begin();
        rig.commit();
        rig.crash(SIZE);
        run(&mut rig, after);
    }
}

#[test]
fn a_range_knows_all_that_it_lacks() {
    let mut rig = Rig::new(SIZE, 8 << 20);
    for leaf in 500..530 {
        rig.data(leaf << FAN_BITS, 0x0f);
    }
    rig.begin();
    rig.commit();
    rig.crash(SIZE);
    rig.data(515 << FAN_BITS, 0xff);
    assert_eq!(rig.map.loads_for(515 << FAN_BITS, 515 << FAN_BITS), [], "the delta decides");
    assert_eq!(rig.map.loads_for(0, 1 << 20).len(), 1, "only the root is known");
    rig.check_loads(500 << FAN_BITS, 531 << FAN_BITS);
}

#[test]
fn a_huge_trim_costs_little() {
    let mut rig = Rig::new(1 << 63, 1 << 20);
    for i in 0..300 {
        rig.data((i * 0x1234_5678_9abc) % (1 << 48), 0xff);
    }
    rig.begin();
    rig.commit();
    rig.crash(1 << 63);
    rig.trim(1, (1 << 51) - 3);
    assert!(rig.map.dirty_bytes() < 2000, "{}", rig.map.dirty_bytes());
    rig.begin();
    let mut loads = 0;
    while let Step::Load(l) = rig.running.as_mut().unwrap().checkpoint.next(100) {
        loads += l.len();
        l.iter().for_each(|l| rig.load(l));
    }
    assert!(loads <= 10, "the two edges only: {loads}");
    rig.abort();
    rig.begin();
    rig.commit();
    assert_eq!(rig.model.len(), 1, "block 0 is left");
    rig.trim(0, 1);
    rig.begin();
    rig.commit();
    assert_eq!(rig.map.root(), None);
}

#[test]
fn a_trim_of_nothing_leaves_no_trace() {
    let rig = Rig::new(SIZE, 1 << 20);
    rig.map.apply_trim(0, SIZE / 4096);
    rig.map.apply_trim(77, 12_345_678);
    rig.map.apply_trim(5, 1);
    rig.map.apply_trim(u64::MAX, u64::MAX);
    assert_eq!(rig.map.dirty_bytes(), 0);
    rig.map.apply_data(u64::MAX, 0xff, RecordRef { segment: SegmentId::log(1, 1, 1), offset: 0, len: 1, number: 0 });
    assert_eq!(rig.map.dirty_bytes(), 0, "no volume of three levels has that extent");
}

#[test]
fn an_unchanged_leaf_is_not_written_again() {
    let mut rig = Rig::new(SIZE, 0);
    rig.data(5, 0x0f);
    rig.begin();
    rig.commit();
    let root = rig.map.root();
    // Zeroes where there were zeroes: the leaf must be read to know, and nothing is written.
    rig.trim(9 * 8, 4);
    rig.trim(3 << 30, 1 << 20);
    let written = rig.bucket.len();
    rig.begin();
    rig.commit();
    assert_eq!((rig.map.root(), rig.bucket.len()), (root, written));
}

#[test]
fn clean_leaves_stay_within_their_bound() {
    let mut rig = Rig::new(SIZE, 64 << 10);
    for leaf in 0..200 {
        (0..64).for_each(|e| rig.data(leaf << FAN_BITS | e, 0xff));
    }
    rig.begin();
    rig.commit();
    for leaf in 0..200 {
        rig.check(leaf << FAN_BITS, 1);
        assert!(rig.map.memory().leaf_bytes <= 64 << 10);
    }
    assert!(rig.map.memory().leaf_bytes > 32 << 10, "and use it");
}

#[test]
fn hostile_nodes_and_roots_are_errors() {
    let record = RecordRef { segment: SegmentId::data(1, 1, 1), offset: 0, len: 100, number: 0 };
    for levels in [0, 6, 255] {
        let root = RootRef { record, levels };
        assert_eq!(
            Map::new(MapOptions { size: SIZE, leaf_cache_bytes: 0 }, Some(root)).err(),
            Some(MapError::Levels(levels))
        );
    }
    let root = RootRef { record, levels: 3 };
    let map = Map::new(MapOptions { size: SIZE, leaf_cache_bytes: 0 }, Some(root)).unwrap();
    let Lookup::Load(load) = map.lookup(0, 1) else { panic!("the root is not loaded") };
    assert_eq!(load, NodeLoad { level: 3, index: 0, record });
    assert!(matches!(map.loaded(&load, b"junk"), Err(MapError::Node { level: 3, index: 0, .. })));
    assert!(matches!(map.loaded(&load, &[]), Err(MapError::Node { .. })));
}

#[test]
fn readers_never_see_a_checkpoint_pass() {
    let mut rig = Rig::new(SIZE, 4096);
    for i in 0..2000u64 {
        rig.data(i * 37 % 5000, 0xff);
    }
    rig.begin();
    rig.commit();
    // What moved stays so while the moves are handed from layer to layer.
    (0..1500).for_each(|nth| rig.compact(nth));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (map, model, bucket) = (rig.map.clone(), rig.model.clone(), rig.bucket.clone());
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut i = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                i += 1;
                // Extents from 5000 on change; those before must not, whatever else happens.
                let extent = i * 101 % 5000;
                match map.lookup(extent, 1) {
                    Lookup::Pieces(p) => {
                        assert_eq!(p.first().map(|p| (p.record, p.original)), model.get(&(extent * 8)).copied())
                    }
                    Lookup::Load(load) => {
                        // A node written meanwhile is not in this copy of the bucket; the leaf is asked for again.
                        if let Some((_, _, bytes)) = bucket.get(&load.record) {
                            map.loaded(&load, bytes).unwrap();
                        }
                    }
                }
            }
        });
        for round in 0..30u64 {
            for i in 0..200 {
                rig.data(5000 + (i * 7 + round) % 3000, 0x3c);
            }
            rig.trim((5000 + round * 10) * 8, 777);
            rig.begin();
            rig.step(4);
            rig.data(5001, 0xff);
            if round % 3 == 0 { rig.abort() } else { rig.commit() }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    rig.check_all();
}

#[test]
fn work_may_go_to_other_threads() {
    fn sendable<T: Send + Sync + 'static>() {}
    sendable::<Map>();
    sendable::<Checkpoint>();
    sendable::<NodeToWrite>();
}

#[test]
fn a_move_of_nothing_leaves_the_leaf_as_it_is() {
    let mut rig = Rig::new(SIZE, 0);
    rig.data(5, 0x0f);
    rig.begin();
    rig.commit();
    let (stale, to) = (rig.new_record(), (rig.new_record(), 0xff));
    let root = rig.map.root();
    rig.relocate(5, 0xff, stale, to);
    assert_ne!(rig.map.dirty_bytes(), 0, "nobody knows yet that nothing moves");
    let written = rig.bucket.len();
    rig.begin();
    rig.commit();
    assert_eq!((rig.map.root(), rig.bucket.len(), rig.map.dirty_bytes()), (root, written, 0));
    rig.relocate(3 << 26, 0xff, stale, to);
    rig.relocate(5, 0xff, stale, (to.0, 0));
    let far = Relocation { extent: u64::MAX, mask: 0xff, from: stale, to: to.0, original: 0xff };
    rig.map.apply_relocation(&far);
    rig.relocate(5, 0, stale, to);
    rig.relocate(5, 1, stale, (stale, 0xff));
    rig.begin();
    rig.commit();
    assert_eq!((rig.map.root(), rig.bucket.len(), rig.map.dirty_bytes()), (root, written, 0));
}

#[test]
fn a_trim_beats_a_later_move() {
    let mut rig = Rig::new(SIZE, 0);
    for checkpointed in [true, false] {
        rig.data(5, 0xff);
        let from = rig.history[&5].last().unwrap().0;
        rig.begin();
        rig.commit();
        rig.trim(5 * 8 + 2, 3);
        if checkpointed {
            rig.begin();
            rig.commit();
        }
        let to = (rig.new_record(), 0xff);
        rig.relocate(5, 0xff, from, to);
        rig.check_all();
        assert_eq!(rig.lookup(5, 0xff)[..], [Piece { visible: 0xe3, original: 0xff, record: to.0 }]);
    }
}

#[test]
fn a_leaf_written_whole_is_not_read_and_its_old_node_is_dropped() {
    let mut rig = Rig::new(SIZE, 0);
    rig.data(5, 0xff);
    rig.data(600, 0xff);
    rig.begin();
    rig.commit();
    rig.crash(SIZE);
    (0..512).filter(|e| *e != 7).for_each(|e| rig.data(e, 0xff));
    rig.trim(7 * 8, 8);
    rig.begin();
    rig.commit();
    let dropped = rig.accounts.usage.dropped.clone();
    assert_eq!(dropped.iter().map(|d| (d.level, d.index)).collect::<Vec<_>>(), [(0, 0)]);
    rig.accounts.walk(1, &rig.bucket);
    rig.accounts.check(rig.map.root(), &rig.bucket);
    // With the leaf in memory nothing has to be dropped.
    rig.check(3, 1);
    (0..512).for_each(|e| rig.data(e, 0xff));
    rig.begin();
    rig.commit();
    assert_eq!(rig.accounts.usage.dropped, []);
}

#[test]
fn moves_act_once_while_a_checkpoint_is_given_up() {
    let mut rig = Rig::new(SIZE, 1 << 20);
    rig.data(5, 0xff);
    rig.begin();
    rig.commit();
    let a = rig.history[&5][0].0;
    let (b, c) = ((rig.new_record(), 0xff), (rig.new_record(), 0xff));
    rig.relocate(5, 0xff, b.0, c);
    rig.relocate(5, 0xff, a, b);
    rig.begin();
    rig.check(5, 0xff);
    {
        let mut state = rig.map.shared.state.write();
        let frozen = state.frozen.clone().unwrap();
        state.delta.adopt(&frozen, 0);
        state.adopted = 1;
    }
    rig.check(5, 0xff);
}

#[test]
fn nodes_are_written_anew_without_a_change() {
    let mut rig = Rig::new(SIZE, 0);
    rig.data(5, 0xff);
    rig.data(1 << 28, 0xff);
    rig.begin();
    rig.commit();
    rig.rewrite(1, 5);
    rig.rewrite(0, 1 << 28);
    rig.rewrite(0, 1 << 27);
    rig.rewrite(3, 1 << 27);
    rig.map.rewrite(0, u64::MAX);
    rig.map.rewrite(255, 0);
    assert_eq!(rig.map.dirty_bytes(), 0);
    let written = rig.bucket.len();
    rig.begin();
    rig.abort();
    rig.begin();
    rig.commit();
    assert_eq!(rig.bucket.len() - written, 6, "one leaf, the inner nodes above it, one other, the nodes above that");
    rig.begin();
    rig.commit();
    assert_eq!(rig.bucket.len() - written, 6, "once only");
}

#[cfg(feature = "sim")]
#[test]
fn planted_bugs_are_noticed() {
    use crate::probe::{Mutant, plant};
    let forgetful = || {
        let mut rig = Rig::new(SIZE, 0);
        for extent in [5, 6] {
            rig.data(extent, 0xff);
            rig.begin();
            rig.commit();
        }
    };
    let bugs: [(Mutant, fn()); 2] =
        [(Mutant::RelocationIgnoresTrims, a_trim_beats_a_later_move), (Mutant::UsageForgetsReplaced, forgetful)];
    for (bug, test) in bugs {
        test();
        plant(Some(bug));
        let noticed = std::panic::catch_unwind(test).is_err();
        plant(None);
        assert!(noticed, "{bug:?}");
    }
}
