//! Reads and writes of one owner.

use esker_block::{BatchOp, BlockError, Extent};

use super::*;

#[test]
fn what_is_written_is_read_before_and_after_flush_and_detach() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        let data = noise(1 << 20, 1);
        v.write(4096 * 5, data.clone(), false).await.unwrap();
        assert_eq!(read(&v, 4096 * 5, 1 << 20).await.unwrap(), data);
        v.flush().await.unwrap();
        assert_eq!(read(&v, 4096 * 5, 1 << 20).await.unwrap(), data);
        assert_eq!(read(&v, 0, 4096).await.unwrap(), vec![0; 4096]);
        v.detach().await.unwrap();
        assert_eq!(v.write(0, block(1), false).await, Err(BlockError::ShuttingDown));
        drop(v);
        let v = w.attach().await.unwrap();
        assert_eq!(v.epoch(), 2);
        assert_eq!(read(&v, 4096 * 5, 1 << 20).await.unwrap(), data);
    });
}

#[test]
fn any_alignment_is_right() {
    let w = World::with_blocks(8 << 20, 512);
    w.run(async {
        let v = w.attach().await.unwrap();
        let mut model = vec![0u8; 8 << 20];
        let put = |model: &mut Vec<u8>, at: usize, d: &[u8]| model[at..at + d.len()].copy_from_slice(d);
        for (n, (at, len)) in
            [(0, 512), (511, 2), (4095, 2), (4096, 4096), (100, 9000), (32767, 3), (12288, 1), ((1 << 20) - 5, 1 << 20)]
                .into_iter()
                .enumerate()
        {
            let data = noise(len, n as u64 + 3);
            v.write(at as u64, data.clone(), n % 2 == 0).await.unwrap();
            put(&mut model, at, &data);
        }
        v.write_zeroes(5000, 40_000, true, false).await.unwrap();
        model[5000..45_000].fill(0);
        v.write_zeroes(4097, 10, true, false).await.unwrap();
        model[4097..4107].fill(0);
        for (at, len) in [(0, 100_000), (4090, 10), (511, 2), (900_000, 1_300_000)] {
            assert!(read(&v, at as u64, len).await.unwrap() == model[at..at + len], "{at}+{len}");
        }
        v.detach().await.unwrap();
        let v = w.attach().await.unwrap();
        assert!(read(&v, 0, 4 << 20).await.unwrap() == model[..4 << 20]);
    });
}

#[test]
fn trims_and_zeroes_read_as_zeroes_and_cost_the_same_at_any_size() {
    let w = World::new(1 << 50);
    w.run(async {
        let v = w.attach().await.unwrap();
        let far = (1 << 49) + 4096;
        v.write(far, block(7), false).await.unwrap();
        v.write(0, block(8), true).await.unwrap();
        v.discard(4096, (1 << 50) - 4096, false).await.unwrap();
        assert_eq!(read(&v, far, 4096).await.unwrap(), vec![0; 4096]);
        v.flush().await.unwrap();
        assert_eq!(read(&v, far, 4096).await.unwrap(), vec![0; 4096]);
        assert_eq!(read(&v, 0, 4096).await.unwrap(), block(8));
        let status = v.block_status(0, 1 << 50, 10).await.unwrap();
        assert_eq!(status[0], Extent { len: 4096, hole: false });
        assert!(status[1].hole && status[1].len >= 1 << 30, "{status:?}");
        // Partial blocks at the edges of a discard are left as they are.
        v.write(8192, block(9), false).await.unwrap();
        v.discard(8193, 4095, false).await.unwrap();
        assert_eq!(read(&v, 8192, 4096).await.unwrap(), block(9));
    });
}

#[test]
fn a_batch_is_one_operation_and_its_later_part_wins() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        let ops = vec![
            BatchOp::Zero { offset: 0, len: 32768 },
            BatchOp::Write { offset: 4096, data: noise(8192, 2) },
            BatchOp::Write { offset: 8192, data: block(3) },
            BatchOp::Zero { offset: 12288, len: 4096 },
        ];
        v.write(0, block(1), false).await.unwrap();
        v.batch(ops, true).await.unwrap();
        for _ in 0..2 {
            assert_eq!(read(&v, 0, 4096).await.unwrap(), vec![0; 4096]);
            assert_eq!(read(&v, 4096, 4096).await.unwrap(), noise(8192, 2)[..4096]);
            assert_eq!(read(&v, 8192, 4096).await.unwrap(), block(3));
            w.env.clock.sleep(Duration::from_secs(5)).await;
        }
        let misaligned = vec![BatchOp::Zero { offset: 1, len: 4096 }];
        assert!(matches!(v.batch(misaligned, false).await, Err(BlockError::Invalid(_))));
    });
}

#[test]
fn bounds_are_checked_and_read_only_is_kept() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        assert!(matches!(v.write(1 << 20, block(1), false).await, Err(BlockError::OutOfRange { .. })));
        assert!(matches!(read(&v, u64::MAX - 5, 100).await, Err(BlockError::OutOfRange { .. })));
        v.detach().await.unwrap();
        drop(v);
        let v = w.attach_as(AttachOptions { read_only: true, ..w.options(1, 1) }).await.unwrap();
        assert_eq!(v.write(0, block(1), false).await, Err(BlockError::ReadOnly));
        assert_eq!(v.discard(0, 4096, false).await, Err(BlockError::ReadOnly));
        assert_eq!(v.try_write(0, &[1; 4096]), Some(Err(BlockError::ReadOnly)));
    });
}

#[test]
fn data_can_be_filled_in_and_a_source_that_fails_writes_nothing() {
    let w = World::with_blocks(1 << 20, 512);
    w.run(async {
        let v = w.attach().await.unwrap();
        for (offset, len) in [(0, 8192), (16384, 512)] {
            let mut fill = |place: &mut [u8]| -> std::io::Result<()> {
                place.fill(7);
                Ok(())
            };
            // Parts of blocks are in memory: nothing was ever written there.
            assert_eq!(v.try_write_with(offset, len, &mut fill), Some(Ok(())));
            assert_eq!(read(&v, offset, len).await.unwrap(), vec![7; len]);
            let mut fail = |place: &mut [u8]| -> std::io::Result<()> {
                place.fill(8);
                Err(std::io::Error::other("gone"))
            };
            assert_eq!(v.try_write_with(offset, len, &mut fail), Some(Err(BlockError::Source("gone".into()))));
            assert_eq!(read(&v, offset, len).await.unwrap(), vec![7; len]);
            v.flush().await.unwrap();
        }
        let mut never = |_: &mut [u8]| -> std::io::Result<()> { panic!("the source is asked") };
        for len in [4096, 512] {
            assert!(matches!(v.try_write_with(1 << 20, len, &mut never), Some(Err(BlockError::OutOfRange { .. }))));
        }
        w.crash(v).await;
        let v = w.attach().await.unwrap();
        assert_eq!(read(&v, 0, 8192).await.unwrap(), vec![7; 8192]);
        v.detach().await.unwrap();
        for len in [4096, 512] {
            assert_eq!(v.try_write_with(0, len, &mut never), Some(Err(BlockError::ShuttingDown)));
        }
    });
}

#[test]
fn more_than_the_journal_holds_goes_through_and_waits_its_turn() {
    let w = World::new(64 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        for i in 0..32u64 {
            v.write(i << 20, noise(1 << 20, i), false).await.unwrap();
        }
        for i in 0..32u64 {
            assert!(read(&v, i << 20, 1 << 20).await.unwrap() == noise(1 << 20, i), "MiB {i}");
        }
        v.detach().await.unwrap();
    });
}

#[test]
fn an_idle_volume_asks_nothing_of_the_store() {
    let w = World::new(1 << 20);
    w.run(async {
        let v = w.attach().await.unwrap();
        for i in 0..500u64 {
            v.write(i % 64 * 4096, block(i as u8), i % 3 == 0).await.unwrap();
        }
        v.discard(0, 1 << 16, true).await.unwrap();
        // What was written last has left, and what it made necessary has been done.
        w.env.clock.sleep(Duration::from_secs(60)).await;
        let requests = || w.pool.store().counts().iter().map(|c| c.requests).sum::<u64>();
        let before = requests();
        w.env.clock.sleep(Duration::from_secs(600)).await;
        v.flush().await.unwrap();
        assert_eq!(requests(), before);
    });
}
