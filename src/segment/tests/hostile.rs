//! Bytes that were altered, cut, swapped or made up: always an error, never a panic or another content.

use proptest::prelude::*;

use super::super::codec::decode;
use super::super::index::About;
use super::*;
use crate::wire::Put;

/// Everything that a reader gets out of a segment: `Err` if anything at all is refused.
fn read_all(bytes: &[u8], index: &SegmentIndex, id: SegmentId) -> Result<(), SegmentError> {
    let keys = keys();
    assert_eq!(&whole_index(&keys, id, bytes)?, index);
    for d in &index.records {
        open_extent(&keys, &d.record, d.extent, d.mask, part(bytes, &d.record))?;
    }
    for n in &index.nodes {
        open_node(&keys, &n.record, n.level, n.index, part(bytes, &n.record))?;
    }
    Ok(())
}

#[test]
fn every_flipped_bit_is_noticed() {
    let built = sample(Compression::Zstd);
    read_all(&built.bytes, &built.index, built.id).unwrap();
    let mut bytes = built.bytes.to_vec();
    for at in 0..bytes.len() {
        let bit = 1 << (at % 8);
        bytes[at] ^= bit;
        assert!(read_all(&bytes, &built.index, built.id).is_err(), "byte {at}");
        bytes[at] ^= bit;
    }
}

#[test]
fn a_flipped_bit_harms_one_record_only_and_the_error_names_the_object() {
    let built = sample(Compression::Lz4);
    let keys = keys();
    let [a, b, ..] = built.index.records[..] else { panic!("two records") };
    let mut bytes = built.bytes.to_vec();
    bytes[a.record.offset as usize + 100] ^= 1;
    let e = open_extent(&keys, &a.record, a.extent, a.mask, part(&bytes, &a.record)).unwrap_err();
    assert_eq!(e, SegmentError::Auth { key: built.id.key(), part: Part::Record(0) });
    assert!(e.to_string().contains(&built.id.key()));
    open_extent(&keys, &b.record, b.extent, b.mask, part(&bytes, &b.record)).unwrap();
    whole_index(&keys, built.id, &bytes).unwrap();
}

#[test]
fn every_truncation_is_noticed() {
    let built = sample(Compression::Zstd);
    for n in 0..built.bytes.len() {
        let cut = &built.bytes[..n];
        assert!(read_index(&keys(), built.id, n as u64, cut).is_err(), "the first {n} bytes");
        // As if the length were still right: the store answers short.
        assert!(read_index(&keys(), built.id, built.bytes.len() as u64, cut).is_err_or_need(), "the first {n} bytes");
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let (keys, built) = (keys(), sample(Compression::None));
    let size = built.bytes.len() as u64;
    for wrong in [size - 1, size + 1, size + 4096] {
        let tail = &built.bytes[1..];
        let e = read_index(&keys, built.id, wrong, tail).unwrap_err();
        assert!(matches!(e, SegmentError::Malformed { part: Part::Trailer, .. }), "{e}");
    }
    let payload = built.index.encode();
    let end = built.index.nodes.last().map(|n| n.record.offset + n.record.len).unwrap();
    let decode = |first, end| {
        let about = About { id: built.id, version: FORMAT, bytes: built.index.bytes, salt: built.salt, first, end };
        SegmentIndex::decode(&payload, &about)
    };
    assert_eq!(decode(32, end).as_ref(), Ok(&built.index));
    assert!(decode(32, end + 1).is_err() && decode(32, end - 1).is_err() && decode(33, end).is_err());
}

#[test]
fn a_range_that_ends_before_it_starts_is_refused() {
    let mut o = opening();
    o.replay[0].first_seq = 301;
    assert_eq!(Opening::decode(&o.encode(), 2).unwrap_err().0, "range that ends before it starts");
}

trait ErrOrNeed {
    fn is_err_or_need(&self) -> bool;
}

impl ErrOrNeed for Result<IndexRead, SegmentError> {
    fn is_err_or_need(&self) -> bool {
        !matches!(self, Ok(IndexRead::Index(_)))
    }
}

#[test]
fn a_record_opens_only_as_what_it_is() {
    let built = sample(Compression::None);
    let keys = keys();
    let d = built.index.records[1];
    let bytes = part(&built.bytes, &d.record);
    let open = |r: &RecordRef, extent, mask, bytes: &[u8]| open_extent(&keys, r, extent, mask, bytes);
    assert!(open(&d.record, d.extent, d.mask, bytes).is_ok());
    assert!(open(&d.record, d.extent + 1, d.mask, bytes).is_err());
    assert!(open(&d.record, d.extent, 0b11, bytes).is_err(), "another mask of as many blocks");
    assert!(open(&d.record, d.extent, 0, bytes).is_err());
    let moved = |r: &RecordRef, segment| RecordRef { segment, ..*r };
    let elsewhere = [SegmentId::log(3, 2, 0x1235), SegmentId::log(3, 3, 0x1234), SegmentId::data(3, 2, 0x1234)];
    for id in elsewhere {
        assert!(open(&moved(&d.record, id), d.extent, d.mask, bytes).is_err(), "{id:?}");
        assert!(whole_index(&keys, id, &built.bytes).is_err(), "{id:?}");
    }
    let mut renumbered = bytes.to_vec();
    renumbered[16] = 0;
    assert!(open(&RecordRef { number: 0, ..d.record }, d.extent, d.mask, &renumbered).is_err());
    let n = built.index.nodes[0];
    let bytes = part(&built.bytes, &n.record);
    assert!(open_node(&keys, &n.record, n.level, n.index, bytes).is_ok());
    assert!(open_node(&keys, &n.record, n.level + 1, n.index, bytes).is_err());
    assert!(open_node(&keys, &n.record, n.level, n.index ^ 1, bytes).is_err());
}

#[test]
fn other_pools_and_generations_are_refused() {
    let built = sample(Compression::None);
    let d = built.index.records[0];
    let bytes = part(&built.bytes, &d.record);
    let other = PoolKeys::new([0x12; 16], 1, &[0x22; 32]);
    assert!(matches!(whole_index(&other, built.id, &built.bytes), Err(SegmentError::Auth { .. })));
    let newer = PoolKeys::new([0x11; 16], 2, &[0x22; 32]);
    assert!(matches!(whole_index(&newer, built.id, &built.bytes), Err(SegmentError::Generation { found: 1, .. })));
    let e = open_extent(&newer, &d.record, d.extent, d.mask, bytes);
    assert!(matches!(e, Err(SegmentError::Generation { found: 1, ours: 2, .. })));
    let mut v3 = built.bytes.to_vec();
    let at = v3.len() - 40 + 8;
    v3[at] = 3;
    let e = whole_index(&keys(), built.id, &v3).unwrap_err();
    assert!(matches!(e, SegmentError::Version { found: 3, .. }) && e.to_string().contains("newer esker"));
}

#[test]
fn counts_beyond_the_bytes_are_refused() {
    let prefix = || {
        let mut b = vec![1, 0];
        b.extend_from_slice(&[0; 16]);
        b.put_u8(0);
        b
    };
    // Deletable, introduced, table, relocations, trims, records: the n-th count claims far more than follows.
    for n in 0..6 {
        let mut b = prefix();
        b.extend(std::iter::repeat_n(0, n));
        b.put_varint(1 << 40);
        b.extend_from_slice(&[0; 20]);
        let e = SegmentIndex::decode(&b, &about(32)).unwrap_err();
        assert_eq!(e.0, "count larger than what is left", "count {n}");
    }
}

fn payloads() -> Vec<Vec<u8>> {
    vec![sample(Compression::None).index.encode(), opening().encode(), end_of_log().encode()]
}

fn about(end: u32) -> About {
    About { id: SegmentId::log(1, 1, 1), version: FORMAT, bytes: 0, salt: [0; 16], first: 32, end }
}

fn decode_all(bytes: &[u8]) {
    let end = 32 + 100_000;
    if let Ok(index) = SegmentIndex::decode(bytes, &about(end)) {
        assert!(index.records.len() + index.nodes.len() <= MAX_RECORDS);
        assert_eq!(SegmentIndex::decode(&index.encode(), &about(end)), Ok(index));
    }
    if let Ok(o) = Opening::decode(bytes, 2) {
        assert_eq!(Opening::decode(&o.encode(), 2), Ok(o));
    }
    if let Ok(s) = Seal::decode(bytes) {
        assert_eq!(Seal::decode(&s.encode()), Ok(s));
    }
}

proptest! {
    #[test]
    fn decoders_take_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn decoders_take_altered_payloads(
        which in 0usize..3,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = payloads().swap_remove(which);
        for (at, v) in edits {
            let n = bytes.len();
            bytes[at.index(n)] = v;
        }
        if let Some(at) = cut {
            bytes.truncate(at.index(bytes.len()));
        }
        decode_all(&bytes);
    }

    #[test]
    fn readers_take_anything(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        stamp: bool, sealed in prop_oneof![0u32..400, any::<u32>()], size in prop_oneof![0u64..500, any::<u64>()],
    ) {
        let keys = keys();
        let n = bytes.len();
        if stamp && n >= 88 {
            bytes[..16].copy_from_slice(b"ESKERSEG\x01\0\0\0\x01\0\0\0");
            bytes[n - 40..n - 24].copy_from_slice(b"ESKERIDX\x01\0\0\0\x01\0\0\0");
            bytes[n - 8..n - 4].copy_from_slice(&sealed.to_le_bytes());
            bytes[n - 4..].copy_from_slice(&(n as u32).to_le_bytes());
        }
        let id = SegmentId::log(1, 1, 1);
        for size in [n as u64, size] {
            match read_index(&keys, id, size, &bytes) {
                Ok(IndexRead::Index(_)) => prop_assert!(false, "made-up bytes authenticated"),
                Ok(IndexRead::NeedTail(need)) => prop_assert!(need > n as u64 && need <= size),
                Err(_) => {}
            }
        }
        log_object_kind(&bytes);
        let record = RecordRef { segment: id, offset: 32, len: n as u32, number: 0 };
        prop_assert!(open_extent(&keys, &record, 0, 1, &bytes).is_err());
        prop_assert!(open_node(&keys, &record, 0, 0, &bytes).is_err());
        prop_assert!(Opening::open(&keys, 1, 1, &bytes).is_err());
        prop_assert!(Seal::open(&keys, 1, 1, 1, &bytes).is_err());
    }

    #[test]
    fn decompressors_take_anything(bytes in prop::collection::vec(any::<u8>(), 0..300), len in 0usize..5000) {
        for codec in [Codec::Stored, Codec::Lz4, Codec::Zstd] {
            if let Ok(out) = decode(codec, bytes.clone(), len) {
                prop_assert_eq!(out.len(), len);
            }
        }
    }
}

#[test]
fn numbers_at_the_end_of_their_range_are_refused() {
    let keys = keys();
    let opened = |change: &dyn Fn(&mut Opening)| {
        let mut o = opening();
        change(&mut o);
        Opening::open(&keys, 3, 2, &o.seal(&keys, [6; 16])).is_ok()
    };
    assert!(opened(&|_| ()));
    assert!(opened(&|o| o.last_op = MAX_OP) && !opened(&|o| o.last_op = MAX_OP + 1));
    assert!(!opened(&|o| o.start.covers_seq = u64::MAX));
    assert!(!opened(&|o| o.start.last_op = u64::MAX));
    assert!(!opened(&|o| o.replay[0].first_seq = 0), "the opening is no segment");
    assert!(!opened(&|o| o.replay[0].end_seq = u64::MAX));
    assert!(!opened(&|o| o.predecessor.as_mut().unwrap().end_seq = u64::MAX));
    let seal = Seal {
        volume: 3,
        epoch: 2,
        seq: MAX_SEQ + 1,
        writer: [1; 16],
        clean: false,
        predecessor_salt: [2; 16],
        wall_ms: 0,
    };
    assert!(Seal::open(&keys, 3, 2, seal.seq, &seal.seal(&keys, [6; 16])).is_err());
}
