//! Random operations, crashes and takeovers, against a plain array.

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 2 << 20;

#[derive(Debug, Clone)]
enum Step {
    Write {
        at: u64,
        len: usize,
        seed: u64,
        fua: bool,
    },
    Zero {
        at: u64,
        len: u64,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Read {
        at: u64,
        len: usize,
    },
    Flush,
    Wait(u64),
    /// The daemon dies; the journal stays.
    Crash,
    /// The host dies; the journal is gone.
    HostCrash,
    Detach,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..SIZE - 200_000;
    let len = prop_oneof![1..600u64, Just(4096), (1..8u64).prop_map(|b| b * 4096), 1..200_000u64];
    let aligned = prop::bool::ANY;
    let place = (at, len, aligned).prop_map(|(at, len, aligned)| match aligned {
        true => (at / 4096 * 4096, len.next_multiple_of(4096)),
        false => (at, len),
    });
    prop_oneof![
        8 => (place.clone(), any::<u64>(), prop::bool::weighted(0.1))
            .prop_map(|((at, len), seed, fua)| Step::Write { at, len: len as usize, seed, fua }),
        2 => place.clone().prop_map(|(at, len)| Step::Zero { at, len }),
        1 => place.clone().prop_map(|(at, len)| Step::Discard { at, len }),
        4 => place.prop_map(|(at, len)| Step::Read { at, len: len as usize }),
        2 => Just(Step::Flush),
        1 => (1..3000u64).prop_map(Step::Wait),
        1 => Just(Step::Crash),
        1 => Just(Step::HostCrash),
        1 => Just(Step::Detach),
    ]
}

/// The volume after each operation since the last flush: a host crash may leave any of them.
struct Model {
    states: Vec<Vec<u8>>,
}

impl Model {
    fn now(&self) -> &Vec<u8> {
        self.states.last().unwrap()
    }

    fn change(&mut self, f: impl FnOnce(&mut Vec<u8>)) {
        let mut next = self.now().clone();
        f(&mut next);
        self.states.push(next);
    }

    fn flushed(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }
}

fn zeroed_by_discard(at: u64, len: u64) -> std::ops::Range<usize> {
    let (start, end) = (at.next_multiple_of(4096), (at + len) / 4096 * 4096);
    start as usize..end.max(start) as usize
}

async fn check(volume: &Volume, model: &mut Model, prefix: bool) -> Result<(), TestCaseError> {
    let got = read(volume, 0, SIZE as usize).await.unwrap();
    match model.states.iter().rposition(|s| *s == got) {
        Some(at) => {
            prop_assert!(prefix || at + 1 == model.states.len(), "an acknowledged write is lost");
            model.states.truncate(at + 1);
            model.flushed();
            Ok(())
        }
        None => {
            let differs = got.iter().zip(model.now()).position(|(a, b)| a != b);
            Err(TestCaseError::fail(format!("the volume is in no state that it ever had; first at {differs:?}")))
        }
    }
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let w = World::with_blocks(SIZE, 512);
    w.run(async {
        let mut boot = 1;
        let mut v = Some(w.attach().await.unwrap());
        let mut model = Model { states: vec![vec![0; SIZE as usize]] };
        for step in steps {
            let volume = v.as_ref().unwrap();
            match step {
                Step::Write { at, len, seed, fua } => {
                    let data = noise(len, seed);
                    volume.write(at, data.clone(), fua).await.unwrap();
                    model.change(|m| m[at as usize..at as usize + len].copy_from_slice(&data));
                    if fua {
                        model.flushed();
                    }
                }
                Step::Zero { at, len } => {
                    volume.write_zeroes(at, len, true, false).await.unwrap();
                    model.change(|m| m[at as usize..(at + len) as usize].fill(0));
                }
                Step::Discard { at, len } => {
                    volume.discard(at, len, false).await.unwrap();
                    model.change(|m| m[zeroed_by_discard(at, len)].fill(0));
                }
                Step::Read { at, len } => {
                    let got = read(volume, at, len).await.unwrap();
                    prop_assert!(got == model.now()[at as usize..at as usize + len], "read {at}+{len}");
                }
                Step::Flush => {
                    volume.flush().await.unwrap();
                    model.flushed();
                }
                Step::Wait(ms) => w.env.clock.sleep(Duration::from_millis(ms)).await,
                Step::Crash => {
                    w.crash(v.take().unwrap()).await;
                    v = Some(w.attach_as(w.options(1, boot)).await.unwrap());
                    // Acknowledged is enough, and it stays so across the next crash, but only the daemon's.
                    let got = read(v.as_ref().unwrap(), 0, SIZE as usize).await.unwrap();
                    prop_assert!(got == *model.now(), "a crash of the daemon lost something");
                }
                Step::HostCrash => {
                    w.crash(v.take().unwrap()).await;
                    w.lose_journals(1);
                    boot += 1;
                    v = Some(w.attach_as(w.options(1, boot)).await.unwrap());
                    check(v.as_ref().unwrap(), &mut model, true).await?;
                }
                Step::Detach => {
                    volume.detach().await.unwrap();
                    w.crash(v.take().unwrap()).await;
                    v = Some(w.attach_as(w.options(1, boot)).await.unwrap());
                    check(v.as_ref().unwrap(), &mut model, false).await?;
                }
            }
        }
        check(v.as_ref().unwrap(), &mut model, false).await
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_volume_is_an_array(steps in prop::collection::vec(step(), 1..60)) {
        run(steps)?;
    }
}
