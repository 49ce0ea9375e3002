//! Any sequence of requests leaves what it would leave in plain bytes: whether the device answers at once or later.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::LazyLock;

use common::gated::Gated;
use common::{Client, Running};
use nbd_compat::ServerOptions;
use nbd_compat::proto::cmd;
use proptest::prelude::*;

const SIZE: usize = 2 << 20;

static AT_ONCE: LazyLock<Running> = LazyLock::new(Running::usual);
static LATER: LazyLock<Running> = LazyLock::new(|| {
    let gated = Gated::new(SIZE as u64);
    gated.reads.add_permits(1 << 30);
    gated.writes.add_permits(1 << 30);
    gated.flushes.add_permits(1 << 30);
    Running::start(vec![gated], ServerOptions::default())
});

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize, u8),
    Zero(usize, usize),
    Trim(usize, usize),
    Read(usize, usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 1usize..5000, 2 => 1usize..300_000, 1 => 1usize..SIZE];
    let range = (0..SIZE, len).prop_map(|(offset, len)| (offset, len.min(SIZE - offset)));
    prop_oneof![
        4 => (range.clone(), any::<u8>()).prop_map(|((offset, len), byte)| Step::Write(offset, len, byte)),
        1 => range.clone().prop_map(|(offset, len)| Step::Zero(offset, len)),
        1 => range.clone().prop_map(|(offset, len)| Step::Trim(offset, len)),
        4 => range.prop_map(|(offset, len)| Step::Read(offset, len)),
        1 => Just(Step::Flush),
    ]
}

fn run(client: &mut Client, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = vec![0u8; SIZE];
    let all = client.request(0, cmd::WRITE_ZEROES, 0, SIZE as u32, &[]);
    prop_assert_eq!(client.status(all), 0);
    for step in steps {
        let error = match *step {
            Step::Write(offset, len, byte) => {
                // A pattern that tells a shifted write from a right one.
                let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect();
                model[offset..offset + len].copy_from_slice(&data);
                client.write(offset as u64, &data)
            }
            Step::Zero(offset, len) | Step::Trim(offset, len) => {
                model[offset..offset + len].fill(0);
                let kind = if matches!(step, Step::Zero(..)) { cmd::WRITE_ZEROES } else { cmd::TRIM };
                let cookie = client.request(0, kind, offset as u64, len as u32, &[]);
                client.status(cookie)
            }
            Step::Read(offset, len) => {
                let data = client.read(offset as u64, len as u32).unwrap();
                prop_assert!(data == model[offset..offset + len], "a read at {offset}+{len} differs");
                0
            }
            Step::Flush => {
                let cookie = client.request(0, cmd::FLUSH, 0, 0, &[]);
                client.status(cookie)
            }
        };
        prop_assert_eq!(error, 0);
    }
    prop_assert!(client.read(0, SIZE as u32).unwrap() == model, "the device differs in the end");
    Ok(())
}

/// The two servers' devices are each one for all cases, so cases take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn requests_do_what_bytes_would(
        at_once in any::<bool>(),
        structured in any::<bool>(),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let _turn = TURN.lock().unwrap();
        let server = if at_once { &*AT_ONCE } else { &*LATER };
        run(&mut server.client(structured), &steps)?;
    }
}
