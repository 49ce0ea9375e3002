//! Round trips, refusals, hostile bytes, golden files.
#![allow(clippy::unwrap_used)]

mod golden;
mod hostile;
mod roundtrip;

use std::sync::Arc;

use super::*;
use crate::pool::keys::PoolKeys;

fn keys() -> Arc<PoolKeys> {
    Arc::new(PoolKeys::new([0x11; 16], 1, &[0x22; 32]))
}

fn tail() -> SegmentTail {
    SegmentTail {
        ops: OpRange { first: 7, last: 9 },
        predecessor_salt: [4; 16],
        checkpoint: None,
        deletable: Vec::new(),
    }
}

/// Bytes that no codec makes shorter, the same every time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed * 2 + 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()[7]
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that every codec makes shorter.
fn prose(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed) / 97 * 31) as u8).collect()
}

fn part<'a>(bytes: &'a [u8], r: &RecordRef) -> &'a [u8] {
    &bytes[r.offset as usize..][..r.len as usize]
}

fn whole_index(keys: &PoolKeys, id: SegmentId, bytes: &[u8]) -> Result<SegmentIndex, SegmentError> {
    match read_index(keys, id, bytes.len() as u64, bytes)? {
        IndexRead::Index(index) => Ok(index),
        IndexRead::NeedTail(n) => panic!("{n} bytes asked for although all {} are there", bytes.len()),
    }
}

/// A log segment with one of everything.
fn sample(how: Compression) -> BuiltSegment {
    let id = SegmentId::log(3, 2, 0x1234);
    let mut b = SegmentBuilder::new(keys(), id, [0x33; 16], how);
    b.add_extent(40, 0b0000_0001, &noise(1, BLOCK));
    b.add_extent(39, 0b1000_0010, &prose(2, 2 * BLOCK));
    b.add_node(1, 513, &noise(3, 100));
    b.add_extent(MAX_EXTENT - 1, 0b0010_0000, &prose(4, BLOCK));
    b.add_node(0, 7, &second_node(how));
    b.add_trim(5, 1000);
    b.add_trim(0, MAX_LBA);
    let record = |segment, n: u32| RecordRef { segment, offset: 32 + n * 1000, len: 900, number: n };
    let from = record(SegmentId::log(3, 1, 17), 4);
    let to = record(SegmentId::data(3, 2, 9), 0);
    b.add_relocation(Relocation { extent: 12, mask: 0b0110, from, to, original: 0b0111 });
    b.add_relocation(Relocation { extent: 13, mask: 0xff, from: to, to: from, original: 0xff });
    b.introduce(Introduced { segment: SegmentId::data(3, 2, 9), bytes: 5000, born: 700 });
    b.finish(SegmentTail {
        ops: OpRange { first: 1000, last: 1300 },
        predecessor_salt: [0x44; 16],
        checkpoint: Some(CheckpointRef {
            root: Some(RootRef { record: record(SegmentId::data(3, 2, 8), 70), levels: 2 }),
            covers_epoch: 2,
            covers_seq: 0x1200,
            last_op: 900,
            usage: Some(record(SegmentId::data(3, 2, 8), 71)),
        }),
        deletable: vec![SegmentId::log(3, 1, 16), SegmentId::data(3, 1, 5)],
    })
}

/// Without compression the sample holds nothing whose bytes depend on a compressor's version.
fn second_node(how: Compression) -> Vec<u8> {
    match how {
        Compression::None => noise(5, 300),
        _ => prose(5, 3000),
    }
}

fn opening() -> Opening {
    Opening {
        volume: 3,
        epoch: 2,
        writer: [1; 16],
        host: [2; 16],
        boot: [3; 16],
        hostname: "höst".into(),
        ring: [4; 16],
        domain: Domain::Journal,
        size: 1 << 40,
        predecessor: Some(Predecessor { epoch: 1, end_seq: 300, salt: [5; 16], seal_writer: [1; 16] }),
        start: CheckpointRef { root: None, covers_epoch: 1, covers_seq: 200, last_op: 5000, usage: None },
        replay: vec![ReplayRange { epoch: 1, first_seq: 201, end_seq: 300 }],
        last_op: 6000,
        wall_ms: 1_700_000_000_000,
        tombstone: false,
    }
}

fn end_of_log() -> Seal {
    Seal {
        volume: 3,
        epoch: 1,
        seq: 300,
        writer: [1; 16],
        clean: true,
        predecessor_salt: [5; 16],
        wall_ms: 1_700_000_000_001,
    }
}

/// The bytes are the sample that was built with `how`, whatever made them.
fn assert_sample(how: Compression, bytes: &[u8]) {
    let keys = keys();
    let index = whole_index(&keys, SegmentId::log(3, 2, 0x1234), bytes).unwrap();
    let texts = [noise(1, BLOCK), prose(2, 2 * BLOCK), prose(4, BLOCK)];
    assert_eq!((index.records.len(), index.nodes.len()), (3, 2));
    for (d, text) in index.records.iter().zip(&texts) {
        let got = open_extent(&keys, &d.record, d.extent, d.mask, part(bytes, &d.record)).unwrap();
        assert_eq!(&got, text);
    }
    for (n, text) in index.nodes.iter().zip([noise(3, 100), second_node(how)]) {
        assert_eq!(open_node(&keys, &n.record, n.level, n.index, part(bytes, &n.record)).unwrap(), text);
    }
}
