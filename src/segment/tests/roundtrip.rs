//! What is written is what is read.

use proptest::prelude::*;

use super::*;

#[test]
fn a_sample_reads_back_under_every_compression() {
    let keys = keys();
    for how in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let built = sample(how);
        let index = whole_index(&keys, built.id, &built.bytes).unwrap();
        assert_eq!(index, built.index);
        assert_eq!((index.relocations.len(), index.trims.len()), (2, 2));
        assert_sample(how, &built.bytes);
        let bytes = &built.bytes[..];
        for seen in [bytes, &bytes[..12], &bytes[bytes.len() - 40..], &bytes[1..]] {
            assert_eq!(log_object_kind(seen), LogObject::Segment);
        }
        assert_eq!(log_object_kind(&bytes[1..100]), LogObject::Unknown);
    }
}

#[test]
fn compression_shrinks_what_shrinks_and_stores_the_rest() {
    let len = |how, text: &[u8]| {
        let mask = (1u32 << (text.len() / BLOCK)).wrapping_sub(1) as u8;
        SegmentBuilder::new(keys(), SegmentId::log(1, 1, 1), [9; 16], how).add_extent(0, mask, text).len as usize
    };
    let overhead = 38;
    for how in [Compression::Lz4, Compression::Zstd] {
        assert_eq!(len(how, &noise(1, EXTENT)), EXTENT + overhead);
        assert_eq!(len(how, &noise(1, BLOCK)), BLOCK + overhead);
        assert!(len(how, &prose(1, EXTENT)) < EXTENT / 10);
        let given_up = [noise(1, BLOCK), prose(1, BLOCK)].concat();
        assert_eq!(len(how, &given_up), 2 * BLOCK + overhead, "a first block that does not shrink decides");
    }
    // 96 zeroes at the end save about 2 %: not worth a decompression.
    let little = [noise(1, BLOCK - 96), vec![0; 96]].concat();
    assert_eq!(len(Compression::Lz4, &little), BLOCK + overhead);
    assert_eq!(len(Compression::None, &prose(1, EXTENT)), EXTENT + overhead);
}

#[test]
fn what_never_shrinks_is_tried_less_often_and_what_shrinks_again_is_found() {
    let mut builder = SegmentBuilder::new(keys(), SegmentId::log(1, 1, 1), [9; 16], Compression::Lz4);
    let mut shrinks = |extent, text: &[u8]| (builder.add_extent(extent, 1, text).len as usize) < BLOCK;
    for extent in 0..20 {
        assert!(!shrinks(extent, &noise(extent, BLOCK)));
    }
    // The builder has given up: at most one in sixteen is tried. Once one shrinks, all are tried again.
    let missed = (20..60).take_while(|extent| !shrinks(*extent, &prose(1, BLOCK))).count();
    assert!((1..16).contains(&missed), "{missed}");
    assert!((60..100).all(|extent| shrinks(extent, &prose(1, BLOCK))));
}

#[test]
fn an_index_longer_than_the_tail_asks_for_what_it_needs() {
    let keys = keys();
    let id = SegmentId::data(1, 1, 1);
    let mut b = SegmentBuilder::new(keys.clone(), id, [9; 16], Compression::None);
    for i in 0..30_000 {
        b.add_trim(i * 1000, 999);
    }
    let built = b.finish(tail());
    let size = built.bytes.len() as u64;
    let first = tail_range(size);
    assert_eq!(first.end - first.start, 64 << 10);
    let end_from = |at: u64| &built.bytes[at as usize..];
    let IndexRead::NeedTail(need) = read_index(&keys, id, size, end_from(first.start)).unwrap() else {
        panic!("64 KiB cannot hold 30,000 trims");
    };
    assert!(need > 64 << 10 && need < size);
    assert_eq!(read_index(&keys, id, size, end_from(size - need)).unwrap(), IndexRead::Index(built.index));
    assert_eq!(read_index(&keys, id, size, end_from(size - need + 1)).unwrap(), IndexRead::NeedTail(need));
    assert_eq!(read_index(&keys, id, size, &[]).unwrap(), IndexRead::NeedTail(64 << 10));
    assert_eq!(tail_range(100), 0..100);
}

#[test]
fn room_ends_before_the_limits() {
    let mut b = SegmentBuilder::new(keys(), SegmentId::data(1, 1, 1), [9; 16], Compression::None);
    let mut n = 0;
    while b.has_room(1) {
        b.add_node(0, n, b"x");
        n += 1;
    }
    assert_eq!(n as usize, MAX_RECORDS);
    let built = b.finish(tail());
    assert_eq!(whole_index(&keys(), built.id, &built.bytes).unwrap().nodes.len(), MAX_RECORDS);
    let b = SegmentBuilder::new(keys(), SegmentId::data(1, 1, 1), [9; 16], Compression::None);
    assert!(b.is_empty() && b.has_room(EXTENT) && !b.has_room(MAX_SEGMENT as usize));
}

#[test]
fn names_of_compressions() {
    for c in [Compression::None, Compression::Lz4, Compression::Zstd] {
        assert_eq!(c.to_string().parse(), Ok(c));
        assert_eq!(Compression::from_u8(c as u8), Some(c));
    }
    assert_eq!(
        "gzip".parse::<Compression>().unwrap_err().to_string(),
        "unknown compression \"gzip\": one of none, lz4, zstd"
    );
    assert_eq!((Compression::from_u8(3), Codec::from_u8(3)), (None, None));
}

#[test]
fn openings_and_seals_read_back() {
    let (keys, o, s) = (keys(), opening(), end_of_log());
    let bytes = o.seal(&keys, [6; 16]);
    assert_eq!(Opening::open(&keys, 3, 2, &bytes).unwrap(), o);
    assert_eq!(log_object_kind(&bytes), LogObject::Opening);
    assert!(Opening::open(&keys, 3, 1, &bytes).is_err());
    assert!(Opening::open(&keys, 4, 2, &bytes).is_err());
    let first = Opening { predecessor: None, replay: vec![], domain: Domain::Object, tombstone: true, ..o };
    assert_eq!(Opening::open(&keys, 3, 2, &first.seal(&keys, [7; 16])).unwrap(), first);
    let bytes = s.seal(&keys, [6; 16]);
    assert_eq!(Seal::open(&keys, 3, 1, 300, &bytes).unwrap(), s);
    assert_eq!(log_object_kind(&bytes), LogObject::Seal);
    assert!(Seal::open(&keys, 3, 1, 301, &bytes).is_err());
    assert!(Opening::open(&keys, 3, 1, &bytes).is_err());
    assert_eq!(log_object_kind(b"ESKEROBJ\x01\0\x01\0"), LogObject::Unknown);
    assert_eq!(log_object_kind(b"ESKER"), LogObject::Unknown);
}

#[test]
fn a_long_host_name_is_cut_between_characters() {
    let keys = keys();
    let o = Opening { hostname: "ä".repeat(200), ..opening() };
    assert_eq!(Opening::open(&keys, 3, 2, &o.seal(&keys, [6; 16])).unwrap().hostname, "ä".repeat(127));
}

fn segment_id() -> impl Strategy<Value = SegmentId> {
    (any::<u32>(), any::<u32>(), 0..u64::MAX >> 1, any::<bool>()).prop_map(|(v, k, n, log)| match log {
        true => SegmentId::log(v, k, n),
        false => SegmentId::data(v, k, n),
    })
}

fn record() -> impl Strategy<Value = RecordRef> {
    (segment_id(), 0u32..32 << 20, 38u32..32 << 20, 0u32..1 << 16)
        .prop_map(|(segment, offset, len, number)| RecordRef { segment, offset, len, number })
}

prop_compose! {
    fn relocation()(extent in 0..MAX_EXTENT, original in 1u8.., pick: u8, from in record(), to in record()) -> Relocation {
        let mask = if pick & original == 0 { original } else { pick & original };
        Relocation { extent, mask, from, to, original }
    }
}

prop_compose! {
    fn checkpoint()(
        root in prop::option::of((record(), any::<u8>())), covers_epoch: u32, covers_seq in 0..=MAX_SEQ,
        last_op in 0..=MAX_OP, usage in prop::option::of(record())
    )
        -> CheckpointRef
    {
        let root = root.map(|(record, levels)| RootRef { record, levels });
        CheckpointRef { root, covers_epoch, covers_seq, last_op, usage }
    }
}

#[derive(Debug, Clone)]
enum Add {
    Extent(u64, u8, bool),
    Node(u8, u64, usize),
    Trim(u64, u64),
    Relocation(Relocation),
    Introduce(u64, u32, u64),
}

fn add() -> impl Strategy<Value = Add> {
    let extent = prop_oneof![0..100u64, 0..MAX_EXTENT];
    prop_oneof![
        4 => (extent, 1u8.., any::<bool>()).prop_map(|(e, m, c)| Add::Extent(e, m, c)),
        1 => (any::<u8>(), 0u64..1 << 56, 0usize..3000).prop_map(|(l, i, n)| Add::Node(l, i, n)),
        1 => (0..MAX_LBA, any::<u64>()).prop_map(|(lba, n)| Add::Trim(lba, n % (MAX_LBA - lba + 1))),
        1 => relocation().prop_map(Add::Relocation),
        1 => (0..u64::MAX >> 1, 0..MAX_SEGMENT as u32, 0..=MAX_OP).prop_map(|(n, bytes, born)| Add::Introduce(n, bytes, born)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn anything_built_reads_back(
        adds in prop::collection::vec(add(), 0..30),
        id in segment_id(),
        how in prop::sample::select(vec![Compression::None, Compression::Lz4, Compression::Zstd]),
        ops in (0..=MAX_OP, 0..=MAX_OP), predecessor_salt: [u8; 16], salt: [u8; 16],
        checkpoint in prop::option::of(checkpoint()),
        deletable in prop::collection::vec(segment_id(), 0..5),
    ) {
        let keys = keys();
        let mut b = SegmentBuilder::new(keys.clone(), id, salt, how);
        let mut texts = Vec::new();
        for (i, a) in adds.iter().enumerate() {
            match *a {
                Add::Extent(e, m, shrinks) => {
                    let n = m.count_ones() as usize * BLOCK;
                    let text = if shrinks { prose(i, n) } else { noise(i as u64, n) };
                    texts.push((b.add_extent(e, m, &text), e, m, text));
                }
                Add::Node(level, index, n) => {
                    let text = prose(i, n);
                    let r = b.add_node(level, index, &text);
                    texts.push((r, u64::from(level) << 56 | index, 0, text));
                }
                Add::Trim(lba, n) => b.add_trim(lba, n),
                Add::Introduce(n, bytes, born) => {
                    b.introduce(Introduced { segment: SegmentId::data(1, 2, n), bytes, born });
                }
                Add::Relocation(r) => b.add_relocation(r),
            }
        }
        prop_assert_eq!(b.is_empty(), adds.is_empty());
        let most = b.size() + 20 * deletable.len();
        let ops = OpRange { first: ops.0, last: ops.1 };
        let built = b.finish(SegmentTail { ops, predecessor_salt, checkpoint, deletable });
        prop_assert!(built.bytes.len() <= most, "{} bytes, estimated {most}", built.bytes.len());
        prop_assert_eq!(&whole_index(&keys, id, &built.bytes).unwrap(), &built.index);
        for (r, place, mask, text) in texts {
            let bytes = part(&built.bytes, &r);
            let got = match mask {
                0 => open_node(&keys, &r, (place >> 56) as u8, place & ((1 << 56) - 1), bytes).unwrap(),
                m => open_extent(&keys, &r, place, m, bytes).unwrap().to_vec(),
            };
            prop_assert_eq!(got, text);
        }
    }
}
