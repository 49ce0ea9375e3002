#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn any_segment() -> impl Strategy<Value = SegmentId> {
    (0u32..3, prop_oneof![0u32..3, Just(u32::MAX)], prop_oneof![0u64..500, Just((1 << 63) - 1)], any::<bool>())
        .prop_map(|(v, e, n, log)| if log { SegmentId::log(v, e, n) } else { SegmentId::data(v, e, n) })
}

fn any_record() -> impl Strategy<Value = RecordRef> {
    (any_segment(), 0u32..=65_535, 0u32..1 << 31, 1u32..1 << 31).prop_map(|(segment, number, offset, len)| RecordRef {
        segment,
        offset,
        len,
        number,
    })
}

fn any_account() -> impl Strategy<Value = SegmentUsage> {
    (any::<u32>(), 1u32.., any::<u32>(), 1u32.., any::<u64>(), any::<bool>()).prop_map(
        |(bytes, live, blocks, nodes, born, dead)| {
            if dead {
                SegmentUsage { bytes, born, ..SegmentUsage::default() }
            } else {
                SegmentUsage { bytes, live, blocks, nodes, born }
            }
        },
    )
}

fn any_dropped() -> impl Strategy<Value = NodeLoad> {
    (0u8..=5, any::<u64>(), any_record()).prop_map(|(level, index, record)| NodeLoad {
        level,
        index: index & ((1 << (9 * (5 - level))) - 1),
        record,
    })
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let segments = prop::collection::btree_map(any_segment(), any_account(), 0..60);
    (segments, prop::collection::hash_set(any_dropped(), 0..20))
        .prop_map(|(segments, dropped)| Usage { segments, dropped: dropped.into_iter().collect() })
}

proptest! {
    #[test]
    fn accounts_round_trip(usage in any_usage()) {
        let pages = encode_usage_pages(&usage);
        prop_assert_eq!(decode_usage_pages(&pages).unwrap(), usage);
        if let Some(page) = pages.first() {
            prop_assert!(decode_usage_pages([page, page]).is_err(), "the same page twice");
        }
    }

    #[test]
    fn directories_round_trip(pages in prop::collection::vec(any_record(), 0..40)) {
        let bytes = encode_usage_directory(&pages).unwrap();
        prop_assert_eq!(decode_usage_directory(&bytes).unwrap(), pages);
        prop_assert!(decode_usage_pages([&bytes]).is_err());
    }

    #[test]
    fn damage_is_an_error_or_has_one_form(usage in any_usage(), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
                                          cut in any::<prop::sample::Index>()) {
        for mut bytes in encode_usage_pages(&usage) {
            prop_assert!(decode_usage_pages([&bytes[..cut.index(bytes.len())]]).is_err());
            bytes.push(0);
            prop_assert!(decode_usage_pages([&bytes]).is_err(), "bytes left over");
            bytes.pop();
            for (at, v) in &hits {
                let at = at.index(bytes.len());
                bytes[at] = *v;
            }
            // Names have two forms where they could be relative, so bytes may differ; the content may not.
            if let Ok(read) = decode_usage_pages([&bytes]) {
                prop_assert_eq!(decode_usage_pages(encode_usage_pages(&read)).unwrap(), read);
            }
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        bytes.splice(0..0, [1, USAGE_PAGE_LEVEL]);
        decode_usage_pages([&bytes]).ok();
        bytes[1] = USAGE_DIRECTORY_LEVEL;
        decode_usage_directory(&bytes).ok();
    }
}

#[test]
fn many_accounts_take_several_pages() {
    let mut usage = Usage::default();
    for n in 0..50_000 {
        let account = SegmentUsage { bytes: 8 << 20, live: 7_654_321, blocks: 2000, nodes: 1, born: n * 2000 };
        usage.segments.insert(SegmentId::log(1, 3, n), account);
    }
    let record = RecordRef { segment: SegmentId::data(1, 2, 3), offset: 64, len: 1000, number: 7 };
    usage.dropped.extend((0..30_000).map(|index| NodeLoad { level: 0, index, record }));
    let pages = encode_usage_pages(&usage);
    assert!(pages.len() > 2 && pages.iter().all(|p| p.len() <= MAX_USAGE_PAGE), "{}", pages.len());
    assert!(pages[..pages.len() - 1].iter().all(|p| p.len() > MAX_USAGE_PAGE - 200));
    assert_eq!(decode_usage_pages(&pages).unwrap(), usage);
    assert!(decode_usage_pages(pages.iter().rev()).is_err());
    let per_segment = pages.iter().map(Vec::len).sum::<usize>() as f64 / 80_000.0;
    assert!(per_segment < 20.0, "{per_segment}");
}

#[test]
fn too_many_pages_are_refused() {
    let record = RecordRef { segment: SegmentId::data(1, 2, 3), offset: 64, len: 1000, number: 7 };
    assert!(encode_usage_directory(&vec![record; MAX_USAGE_PAGES]).unwrap().len() <= 1 << 20);
    assert_eq!(encode_usage_directory(&vec![record; 4001]), Err(MapError::UsagePages(4001)));
}

/// These bytes are in buckets: if this test fails, the version must change and this form must still be read.
#[test]
fn golden() {
    let mut usage = Usage::default();
    usage
        .segments
        .insert(SegmentId::log(3, 1, 70), SegmentUsage { bytes: 5000, live: 300, blocks: 9, nodes: 0, born: 1000 });
    usage
        .segments
        .insert(SegmentId::data(3, 1, 70), SegmentUsage { bytes: 5000, live: 0, blocks: 0, nodes: 0, born: 1001 });
    let record = RecordRef { segment: SegmentId::data(3, 1, 9), offset: 32, len: 700, number: 2 };
    usage.dropped.push(NodeLoad { level: 1, index: 5, record });
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let golden = concat!(
        "01f00201", // version, level, 2 accounts, 1 dropped node
        "0003018c01",
        "8827ac020900e807", // log 70 of epoch 1 of volume 3: bytes, live, blocks, nodes, born
        "01",
        "8827000000e907", // data 70
        "0105",
        "00030113",
        "20bc0502", // level, index; data 9; offset, length, number
    );
    assert_eq!(hex(&encode_usage_pages(&usage)[0]), golden);
    assert_eq!(hex(&encode_usage_directory(&[record]).unwrap()), "01f1010003011320bc0502");
}
