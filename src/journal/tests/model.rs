//! Random histories, with deaths at random stores, against a plain list.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::stores::dying_after;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write { lba: u64, blocks: u32, fate: Fate },
    Trim { lba: u64, blocks: u64, fate: Fate },
    Batch { blocks: Vec<u32>, fate: Fate },
    Free { share: u8 },
    Read { share: u8 },
    Collect { from: u8, to: u8, max: usize },
    Reopen,
    Die { stores: u64, blocks: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Complete,
    Drop,
    Forget,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![12 => Just(Fate::Complete), 1 => Just(Fate::Drop), 1 => Just(Fate::Forget)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..1000u64, 1..=256u32, fate()).prop_map(|(lba, blocks, fate)| Step::Write { lba, blocks, fate }),
        2 => (0..1000u64, 1..1u64 << 40, fate()).prop_map(|(lba, blocks, fate)| Step::Trim { lba, blocks, fate }),
        3 => (prop::collection::vec(0..=40u32, 1..6), fate()).prop_map(|(blocks, fate)| Step::Batch { blocks, fate }),
        6 => any::<u8>().prop_map(|share| Step::Free { share }),
        3 => any::<u8>().prop_map(|share| Step::Read { share }),
        3 => (any::<u8>(), any::<u8>(), 0..3_000_000usize).prop_map(|(from, to, max)| Step::Collect { from, to, max }),
        2 => Just(Step::Reopen),
        2 => (0..40u64, 1..=256u32).prop_map(|(stores, blocks)| Step::Die { stores, blocks }),
    ]
}

/// What an operation wrote: pairs of address and length in blocks, and whether it is data.
type Parts = Vec<(u64, u64, bool)>;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Done(Parts),
    Void,
    Open,
}

struct World {
    dir: TempDir,
    ring: Option<Ring>,
    first: u64,
    ops: VecDeque<(State, u64)>,
}

impl World {
    fn ring(&self) -> &Ring {
        self.ring.as_ref().unwrap()
    }

    fn do_op(&mut self, op: &OpHeader<'_>, parts: Parts, fate: Fate) {
        let next = self.first + self.ops.len() as u64;
        let ring = self.ring.as_ref().unwrap();
        let mut slot = match ring.reserve(op) {
            Ok(slot) => slot,
            Err(e) => {
                assert_eq!(e, Refused::Full);
                assert!(ring.used() > 0);
                return;
            }
        };
        assert_eq!(slot.op(), next);
        let at = slot.body_at();
        fill(slot.body(), next);
        let state = match fate {
            Fate::Complete => {
                slot.complete();
                State::Done(parts)
            }
            Fate::Drop => {
                drop(slot);
                State::Void
            }
            Fate::Forget => {
                std::mem::forget(slot);
                State::Open
            }
        };
        self.ops.push_back((state, at));
    }

    fn reopen(&mut self) {
        self.ring = None;
        let path = self.dir.path().join("ring");
        self.ring = Some(Ring::open(&path, &options()).unwrap());
        for (state, _) in &mut self.ops {
            if *state == State::Open {
                *state = State::Void;
            }
        }
        self.check_all();
    }

    /// A write that dies after some stores, then a new process.
    fn die(&mut self, stores: u64, blocks: u32) {
        let ring = self.ring.as_ref().unwrap();
        let next = ring.next_op();
        let mut at = None;
        dying_after(stores, || {
            if let Ok(mut slot) = ring.reserve(&OpHeader::write(3, blocks)) {
                if !super::stores::was_killed() {
                    fill(slot.body(), next);
                }
                at = Some(slot.body_at());
                slot.complete();
            }
        });
        self.ring = None;
        let ring = Ring::open(&self.dir.path().join("ring"), &options()).unwrap();
        let mut out = Vec::new();
        ring.collect(next, next, usize::MAX, &mut out);
        match out.last().map(|r| &r.kind) {
            None => {}
            Some(RecordKind::Void) => self.ops.push_back((State::Void, 0)),
            Some(_) => self.ops.push_back((State::Done(vec![(3, blocks.into(), true)]), at.unwrap())),
        }
        self.ring = Some(ring);
        self.reopen();
    }

    fn check_all(&self) {
        let mut out = Vec::new();
        let c = self.ring().collect(0, u64::MAX, usize::MAX, &mut out);
        assert_eq!(self.ring().next_op(), self.first + self.ops.len() as u64);
        self.check(self.first, c.next_op, &out);
    }

    fn check(&self, from: u64, to: u64, records: &[Record]) {
        assert!(records.iter().map(|r| r.op).eq(from..to), "{from} {to} {records:?}");
        let hold = self.ring().hold(0);
        for r in records {
            let (state, _) = &self.ops[(r.op - self.first) as usize];
            let mut data = Vec::new();
            let mut part = |p: &Part| match *p {
                Part::Write { lba, blocks, ref body } => {
                    data.extend_from_slice(hold.data(body));
                    (lba, u64::from(blocks), true)
                }
                Part::Trim { lba, blocks } => (lba, blocks, false),
            };
            let found = match &r.kind {
                RecordKind::Void => State::Void,
                RecordKind::Write { lba, blocks, body } => {
                    State::Done(vec![part(&Part::Write { lba: *lba, blocks: *blocks, body: *body })])
                }
                RecordKind::Trim { lba, blocks } => State::Done(vec![(*lba, *blocks, false)]),
                RecordKind::Batch(parts) => State::Done(parts.iter().map(part).collect()),
            };
            assert_eq!(&found, state);
            assert_eq!(data, filled(data.len(), r.op));
        }
    }

    fn step(&mut self, step: &Step) {
        let of = |share: u8, n: usize| (usize::from(share) * n / 256) as u64;
        match step {
            Step::Write { lba, blocks, fate } => {
                self.do_op(&OpHeader::write(*lba, *blocks), vec![(*lba, u64::from(*blocks), true)], *fate);
            }
            Step::Trim { lba, blocks, fate } => {
                self.do_op(&OpHeader::trim(*lba, *blocks), vec![(*lba, *blocks, false)], *fate);
            }
            Step::Batch { blocks, fate } => {
                let part = |(i, b): (usize, &u32)| match *b {
                    0 => PartHeader::Trim { lba: i as u64, blocks: 77 },
                    blocks => PartHeader::Write { lba: i as u64, blocks },
                };
                let parts: Vec<_> = blocks.iter().enumerate().map(part).collect();
                let model = parts.iter().map(|p| match *p {
                    PartHeader::Write { lba, blocks } => (lba, u64::from(blocks), true),
                    PartHeader::Trim { lba, blocks } => (lba, blocks, false),
                });
                self.do_op(&OpHeader::Batch(&parts), model.collect(), *fate);
            }
            Step::Free { share } => {
                let want = of(*share, self.ops.len() + 1);
                let open = self.ops.iter().position(|o| o.0 == State::Open).unwrap_or(self.ops.len());
                let gone = want.min(open as u64);
                if want > 0 {
                    assert_eq!(self.ring().free_through(self.first + want - 1), self.first + gone);
                    self.ops.drain(..gone as usize);
                    self.first += gone;
                }
                assert_eq!(self.ring().first_op(), self.first);
            }
            Step::Read { share } if !self.ops.is_empty() => {
                let i = of(*share, self.ops.len());
                let (State::Done(parts), at) = &self.ops[i as usize] else { return };
                let data: u64 = parts.iter().filter(|p| p.2).map(|p| p.1 * 4096).sum();
                let want = filled(data as usize, self.first + i);
                let skip = data as usize / 3;
                let mut got = vec![0; data as usize - skip];
                self.ring().read_at(at + skip as u64, &mut got);
                assert_eq!(got, want[skip..]);
            }
            Step::Read { .. } => {}
            Step::Collect { from, to, max } => {
                let (from, to) = (self.first + of(*from, self.ops.len()), self.first + of(*to, self.ops.len()));
                let mut out = Vec::new();
                let c = self.ring().collect(from, to, *max, &mut out);
                self.check(from, c.next_op.max(from), &out);
                let open = self.ops.get((c.next_op - self.first) as usize).map(|o| o.0 == State::Open);
                match c.stop {
                    Stop::Incomplete => assert_eq!(open, Some(true)),
                    Stop::Through => assert!(c.next_op > to || from > to),
                    Stop::Limit => assert!(!out.is_empty()),
                    Stop::Head => assert_eq!(open, None),
                }
            }
            Step::Reopen => self.reopen(),
            Step::Die { stores, blocks } => self.die(*stores, *blocks),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_ring_is_a_list(steps in prop::collection::vec(step(), 1..150)) {
        let dir = dir();
        let (_, ring) = new_ring(&dir);
        let mut world = World { dir, ring: Some(ring), first: 100, ops: VecDeque::new() };
        for s in &steps {
            world.step(s);
        }
        world.reopen();
    }
}
