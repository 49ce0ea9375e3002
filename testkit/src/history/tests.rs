//! The checker finds what it is there to find, and nothing else.
#![allow(clippy::unwrap_used)]

use super::*;

const W: What = What::Write { fua: false };
const FUA: What = What::Write { fua: true };

/// What eight blocks show, by the writes.
fn image(ids: [u64; 8]) -> Vec<u8> {
    let block = |(lba, id): (usize, u64)| match id {
        0 => vec![0; BLOCK],
        id => stamped(id, lba as u64, 1),
    };
    ids.into_iter().enumerate().flat_map(block).collect()
}

impl History {
    fn done(&self, what: What, lba: u64, blocks: u64) -> u64 {
        let id = self.begin(what, lba, blocks);
        self.end(id);
        id
    }

    fn holds(&self, ids: [u64; 8], keeps: Keeps) -> bool {
        self.check(&image(ids), keeps).is_ok()
    }
}

#[test]
fn stamps_tell_whole_blocks_from_others() {
    let block = stamped(7, 3, 1);
    assert_eq!(read_stamp(3, &block), Ok(7));
    assert!(read_stamp(4, &block).is_err(), "misplaced");
    let torn = [&stamped(7, 3, 1)[..2048], &stamped(9, 3, 1)[2048..]].concat();
    assert!(read_stamp(3, &torn).is_err());
    assert_eq!(read_stamp(3, &[0; BLOCK]), Ok(0));
}

#[test]
fn completed_writes_stay_when_only_the_daemon_died() {
    let h = History::new();
    let a = h.done(W, 0, 2);
    let b = h.done(W, 1, 2);
    let open = h.begin(W, 4, 2);
    h.crashed();
    assert!(h.holds([a, b, b, 0, 0, 0, 0, 0], Keeps::Completed));
    assert!(h.holds([a, b, b, 0, open, open, 0, 0], Keeps::Completed), "it may have happened");
    assert!(!h.holds([a, b, b, 0, open, 0, 0, 0], Keeps::Completed), "torn");
    assert!(!h.holds([a, a, b, 0, 0, 0, 0, 0], Keeps::Completed), "an older block");
    assert!(!h.holds([a, a, 0, 0, 0, 0, 0, 0], Keeps::Completed), "the second is gone");
    assert!(h.holds([a, a, 0, 0, 0, 0, 0, 0], Keeps::Flushed), "a prefix");
    assert!(!h.holds([a, b, b, a, 0, 0, 0, 0], Keeps::Completed), "never written there");
    assert!(!h.holds([a, b, b, 99, 0, 0, 0, 0], Keeps::Completed), "by nobody");
}

#[test]
fn a_loss_leaves_a_prefix_with_all_that_was_flushed() {
    let h = History::new();
    let a = h.done(W, 0, 1);
    h.done(What::Flush, 0, 0);
    let b = h.done(W, 1, 1);
    let c = h.done(W, 2, 1);
    let open = h.begin(What::Flush, 0, 0);
    assert!(h.holds([a, 0, 0, 0, 0, 0, 0, 0], Keeps::Flushed));
    assert!(h.holds([a, b, 0, 0, 0, 0, 0, 0], Keeps::Flushed));
    assert!(h.holds([a, b, c, 0, 0, 0, 0, 0], Keeps::Flushed));
    assert!(!h.holds([0, 0, 0, 0, 0, 0, 0, 0], Keeps::Flushed), "flushed and gone");
    assert!(!h.holds([a, 0, c, 0, 0, 0, 0, 0], Keeps::Flushed), "a mix");
    h.end(open);
    assert!(!h.holds([a, b, 0, 0, 0, 0, 0, 0], Keeps::Flushed), "the second flush covers it");
    let d = h.done(W, 3, 1);
    let e = h.done(FUA, 4, 1);
    assert!(!h.holds([a, b, c, 0, e, 0, 0, 0], Keeps::Flushed), "FUA covers what was completed before");
    assert!(!h.holds([a, b, c, d, 0, 0, 0, 0], Keeps::Flushed), "FUA covers itself");
    assert!(h.holds([a, b, c, d, e, 0, 0, 0], Keeps::Flushed));
}

#[test]
fn concurrent_writes_may_come_in_either_order_but_in_one() {
    let h = History::new();
    let (a, b) = (h.begin(W, 0, 3), h.begin(W, 1, 3));
    h.end(a);
    h.end(b);
    assert!(h.holds([a, a, a, b, 0, 0, 0, 0], Keeps::Completed));
    assert!(h.holds([a, b, b, b, 0, 0, 0, 0], Keeps::Completed));
    assert!(!h.holds([a, a, b, b, 0, 0, 0, 0], Keeps::Completed), "two orders at once");
}

#[test]
fn zeroes_need_somebody_who_zeroed() {
    let h = History::new();
    let a = h.done(W, 0, 2);
    assert!(!h.holds([0, a, 0, 0, 0, 0, 0, 0], Keeps::Completed));
    h.done(What::Zero, 0, 1);
    assert!(h.holds([0, a, 0, 0, 0, 0, 0, 0], Keeps::Completed));
    assert!(!h.holds([a, a, 0, 0, 0, 0, 0, 0], Keeps::Completed), "the zeroes are gone");
    let b = h.done(W, 0, 1);
    assert!(!h.holds([0, a, 0, 0, 0, 0, 0, 0], Keeps::Completed), "written again since");
    assert!(h.holds([b, a, 0, 0, 0, 0, 0, 0], Keeps::Completed));
    h.settle(&image([b, a, 0, 0, 0, 0, 0, 0]));
    assert!(h.holds([b, a, 0, 0, 0, 0, 0, 0], Keeps::Completed));
    assert!(!h.holds([0, a, 0, 0, 0, 0, 0, 0], Keeps::Completed), "settled");
}

#[test]
fn readers_see_one_order() {
    let read = |h: &History, lba: u64, ids: [u64; 8]| {
        let r = h.begin(What::Read { saw: None }, lba, 1);
        h.end_read(r, &image(ids)[lba as usize * BLOCK..][..BLOCK]).unwrap();
    };
    let race = || {
        let h = History::new();
        let (a, b) = (h.begin(W, 0, 1), h.begin(W, 0, 1));
        (h, a, b)
    };
    let (h, a, b) = race();
    read(&h, 0, [a; 8]);
    read(&h, 0, [b; 8]);
    h.end(a);
    h.end(b);
    assert!(h.holds([b, 0, 0, 0, 0, 0, 0, 0], Keeps::Completed));
    assert!(!h.holds([a, 0, 0, 0, 0, 0, 0, 0], Keeps::Completed), "the reader saw them the other way round");

    let (h, a, b) = race();
    h.end(a);
    h.end(b);
    read(&h, 0, [a; 8]);
    assert!(h.holds([a, 0, 0, 0, 0, 0, 0, 0], Keeps::Completed));
    read(&h, 0, [0; 8]);
    assert!(!h.holds([a, 0, 0, 0, 0, 0, 0, 0], Keeps::Completed), "the second reader missed both");
}

/// The four ways in which data is lost that nobody notices at once.
#[test]
fn what_must_not_be_is_found() {
    let h = History::new();
    let (a, b) = (h.done(W, 0, 4), h.done(W, 2, 2));
    h.done(What::Flush, 0, 0);
    let (c, d) = (h.done(W, 0, 2), h.done(W, 4, 2));
    let open = h.begin(W, 6, 2);
    h.crashed();
    for keeps in [Keeps::Completed, Keeps::Flushed] {
        assert!(h.holds([c, c, b, b, d, d, 0, 0], keeps), "all is there");
        assert!(h.holds([c, c, b, b, d, d, open, open], keeps), "and one more");
        assert!(!h.holds([c, c, a, a, d, d, 0, 0], keeps), "a flushed write is lost");
        assert!(!h.holds([c, c, b, b, d, 0, 0, 0], keeps), "a write is torn");
        assert!(!h.holds([c, a, b, b, d, d, 0, 0], keeps), "a write is torn where something was before");
        assert!(!h.holds([a, a, b, b, d, d, 0, 0], keeps), "the order has a gap");
        assert!(!h.holds([0, 0, 0, 0, 0, 0, 0, 0], keeps), "nothing is there");
    }
    assert!(h.holds([a, a, b, b, 0, 0, 0, 0], Keeps::Flushed), "what was flushed and no more");
    assert!(!h.holds([a, a, b, b, 0, 0, 0, 0], Keeps::Completed));
}

/// A block that was overwritten or zeroed, and seen so, does not come back, not after a crash either.
#[test]
fn a_block_that_rises_again_is_found() {
    let read = |h: &History, lba: u64, ids: [u64; 8]| {
        let r = h.begin(What::Read { saw: None }, lba, 1);
        h.end_read(r, &image(ids)[lba as usize * BLOCK..][..BLOCK]).unwrap();
    };
    let h = History::new();
    let (a, b) = (h.done(W, 0, 1), h.done(W, 1, 1));
    let (over, zero) = (h.begin(W, 0, 1), h.begin(What::Zero, 1, 1));
    h.crashed();
    assert!(h.holds([a, b, 0, 0, 0, 0, 0, 0], Keeps::Completed), "neither happened");
    assert!(h.holds([over, 0, 0, 0, 0, 0, 0, 0], Keeps::Completed), "both did");
    read(&h, 0, [over; 8]);
    assert!(!h.holds([a, b, 0, 0, 0, 0, 0, 0], Keeps::Completed), "it was seen after the crash, and is gone again");
    assert!(h.holds([over, b, 0, 0, 0, 0, 0, 0], Keeps::Completed));
    h.end(zero);
    let settled = image([over, 0, 0, 0, 0, 0, 0, 0]);
    h.settle(&settled);
    assert!(!h.holds([over, b, 0, 0, 0, 0, 0, 0], Keeps::Flushed), "zeroes that were durable");
    assert!(!h.holds([a, 0, 0, 0, 0, 0, 0, 0], Keeps::Flushed), "an older block");
}
