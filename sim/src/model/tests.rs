//! The checker is not blind: histories that break a promise are told from those that keep it.
#![allow(clippy::unwrap_used)]

use super::*;

const HERE: Circumstances = Circumstances { host: 0, boot: 1, may_lose_unflushed: false, unforced: false };
const REBOOTED: Circumstances = Circumstances { host: 0, boot: 2, may_lose_unflushed: false, unforced: false };
const ELSEWHERE: Circumstances = Circumstances { host: 1, boot: 1, may_lose_unflushed: true, unforced: false };

fn write(model: &mut Model, id: Id, op: Op, first: u64, units: u64) {
    model.given(id, op, 100 + op, &[Fill { first, units, stamp: 100 + op }]).unwrap();
}

fn bytes(stamps: &[(u64, u64)]) -> Vec<u8> {
    let mut all = vec![0; stamps.len() * 512];
    for ((at, stamp), unit) in stamps.iter().zip(all.chunks_mut(512)) {
        stamp::fill(*stamp, *at, unit);
    }
    all
}

/// Process 1 with three acknowledged writes, the first flushed.
fn three() -> Model {
    let mut m = Model::new(512);
    m.attached(1, 1, 0, HERE).unwrap();
    for op in 1..=3 {
        write(&mut m, 1, op, 0, op);
        m.acked(1, op);
        if op == 1 {
            let covers = m.flush_begins(1);
            m.flushed(1, covers).unwrap();
        }
    }
    m
}

#[test]
fn a_daemon_may_lose_nothing_a_host_what_was_not_flushed_and_nobody_a_flush() {
    assert!(three().attached(2, 2, 3, HERE).is_ok());
    assert!(three().attached(2, 2, 2, HERE).is_err(), "an acknowledged write");
    assert!(three().attached(2, 2, 2, REBOOTED).is_ok());
    assert!(three().attached(2, 2, 1, ELSEWHERE).is_ok());
    assert!(three().attached(2, 2, 0, ELSEWHERE).is_err(), "a flushed write");
    let polite = Circumstances { unforced: true, ..ELSEWHERE };
    assert!(three().attached(2, 2, 2, polite).is_err(), "another host, and nobody said that it may");
    assert!(three().attached(2, 2, 3, polite).is_ok());
    assert!(three().attached(2, 2, 4, HERE).is_err(), "a write from nowhere");
    assert!(three().attached(2, 1, 3, HERE).is_err(), "an epoch twice");
}

#[test]
fn a_recovery_shows_exactly_a_prefix() {
    let mut m = three();
    m.attached(2, 2, 2, REBOOTED).unwrap();
    let now = m.now();
    m.check_read(2, now, 0, &bytes(&[(0, 102), (1, 102), (2, 0)])).unwrap();
    assert!(m.check_read(2, now, 0, &bytes(&[(0, 102), (1, 102), (2, 103)])).is_err(), "a mix");
    assert!(m.check_read(2, now, 0, &bytes(&[(0, 101), (1, 102), (2, 0)])).is_err(), "torn");
    assert!(m.check_read(2, now, 1, &bytes(&[(0, 102)])).is_err(), "another unit's bytes");
}

#[test]
fn what_was_lost_or_torn_is_looked_at_too() {
    let mut m = three();
    write(&mut m, 1, 4, 1000, 2);
    m.voided(1, 4);
    write(&mut m, 1, 5, 2000, 1);
    m.attached(2, 2, 4, REBOOTED).unwrap();
    assert_eq!(m.touched(), [(0, 3), (1000, 2), (2000, 1)]);
    let now = m.now();
    for (at, stamp) in [(1001, 104), (2000, 105)] {
        assert!(m.check_read(2, now, at, &bytes(&[(at, stamp)])).is_err(), "{stamp} is back");
    }
}

#[test]
fn a_read_may_see_what_runs_beside_it_and_nothing_older_than_what_was_complete() {
    let mut m = three();
    let begun = m.now();
    write(&mut m, 1, 4, 0, 1);
    for (stamp, fine) in [(103, true), (104, true), (102, false), (0, false)] {
        assert_eq!(m.check_read(1, begun, 0, &bytes(&[(0, stamp)])).is_ok(), fine, "{stamp}");
    }
    m.acked(1, 4);
    assert!(m.check_read(1, begun, 0, &bytes(&[(0, 103)])).is_ok(), "it began before");
    let begun = m.now();
    assert!(m.check_read(1, begun, 0, &bytes(&[(0, 103)])).is_err());
    m.voided(1, 4);
    assert!(m.check_read(1, begun, 0, &bytes(&[(0, 103)])).is_ok(), "it never happened");
}

#[test]
fn a_fenced_flush_is_noticed_before_and_after_the_successor_is_known() {
    let mut m = three();
    m.attached(2, 2, 1, ELSEWHERE).unwrap();
    assert!(m.flushed(1, 1).is_ok(), "nothing new");
    assert!(m.flushed(1, 3).is_err());
    let mut m = three();
    m.flushed(1, 3).unwrap();
    assert!(m.attached(2, 2, 1, ELSEWHERE).is_err());
    let mut m = three();
    m.detached(1).unwrap();
    assert!(m.attached(2, 2, 2, REBOOTED).is_err(), "given back whole");
}

#[test]
fn numbers_come_in_order() {
    let mut m = three();
    assert!(m.given(1, 5, 9, &[]).is_err());
    assert!(m.given(1, 3, 9, &[]).is_err());
    assert!(m.given(1, 4, 9, &[]).is_ok());
}
