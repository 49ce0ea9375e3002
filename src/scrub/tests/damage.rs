//! Each object of a volume, damaged in each way.

use super::model::{Table, index, logs};
use super::*;
use crate::segment::{OpRange, SegmentBuilder, SegmentTail};

/// A finished epoch's segment with live data that attaching does not read.
async fn old_segment(w: &World, table: &Table) -> String {
    let live = table.live();
    let newest = newest_checkpoint(w).await;
    let old = live.keys().map(|r| r.segment).filter(|id| (id.epoch(), id.number()) <= newest).min();
    old.unwrap().key()
}

/// What the newest checkpoint covers: epoch and seq.
async fn newest_checkpoint(w: &World) -> (u32, u64) {
    let c = logs(w).await.pop().unwrap().1.checkpoint.unwrap();
    (c.covers_epoch, c.covers_seq)
}

/// The last segment of the log: attaching reads it.
async fn last_segment(w: &World) -> String {
    logs(w).await.pop().unwrap().0.key()
}

fn in_object(table: &Table, key: &str) -> Vec<(u64, u64)> {
    table.ranges(|r| r.segment.key() == key)
}

/// Length of the sealed index and trailer at the end of a segment.
async fn end_of(w: &World, key: &str) -> usize {
    let body = w.object(key).await;
    let at = body.len() - 8;
    u32::from_le_bytes(body[at..at + 4].try_into().unwrap()) as usize + 40
}

#[test]
fn a_flipped_bit_of_a_record_names_the_blocks_that_it_holds() {
    let w = World::with_history();
    w.run(async {
        let table = Table::of(&w).await;
        let key = old_segment(&w, &table).await;
        let record = table.record_in(&key);
        w.flip(&key, i64::from(record.offset + record.len / 2)).await;
        let report = w.scrub().await;
        assert_eq!(said(&report), [("damaged-record", key.clone(), table.ranges(|r| *r == record))]);
        let finding = only(&report);
        assert_eq!((finding.volume, finding.kind.severity()), (Some(w.volume.number), Severity::Damage));
        assert_eq!(finding.effect(), "reads of these ranges fail with EIO");
        clean(&w.fsck().await);
        // The engine agrees.
        let v = w.attach().await;
        for (block, holder) in &table.blocks {
            let read = v.read(block * 4096, 4096, bytes::BytesMut::new()).await;
            assert_eq!(read.is_err(), *holder == record, "block {block}");
        }
    });
}

#[test]
fn a_flipped_bit_of_what_is_dead_is_nothing() {
    let w = World::with_history();
    w.run(async {
        let live = Table::of(&w).await.live();
        let mut dead = None;
        for (_, index) in logs(&w).await {
            dead = dead.or(index.records.iter().map(|d| d.record).find(|r| !live.contains_key(r)));
        }
        let dead = dead.unwrap();
        w.flip(&dead.segment.key(), i64::from(dead.offset + 30)).await;
        clean(&w.scrub().await);
    });
}

#[test]
fn a_flipped_bit_of_an_index_or_a_trailer_blocks_attaching_only_where_it_is_read() {
    for part in ["index", "trailer", "trailer magic", "header"] {
        let w = World::with_history();
        w.run(async {
            let table = Table::of(&w).await;
            for (key, blocks) in [(old_segment(&w, &table).await, false), (last_segment(&w).await, true)] {
                let whole = w.object(&key).await;
                let at = match part {
                    "index" => -(end_of(&w, &key).await as i64) + 3,
                    "trailer" => -10,
                    "trailer magic" => -40,
                    _ => 20,
                };
                w.flip(&key, at).await;
                for report in [w.scrub().await, w.fsck().await] {
                    assert_eq!(said(&report), [("damaged-index", key.clone(), vec![])], "{part}");
                    let finding = only(&report);
                    assert_eq!(finding.blocks_attach, blocks, "{part}");
                    let effect = if blocks { "the volume cannot be attached" } else { "no data is affected" };
                    assert_eq!(finding.effect(), effect);
                }
                // A header is not read by recovery where the trailer tells all; here the object is small.
                let attached = Volume::attach(&w.pool, &w.volume, w.options(), w.env.clone()).await;
                assert_eq!(attached.is_err(), blocks, "{part}");
                drop(attached);
                if blocks {
                    return;
                }
                w.put(&key, &whole).await;
                // The attach has begun an epoch: what it seals is read again as it should be.
                clean(&w.scrub().await);
            }
        });
    }
}

#[test]
fn a_damaged_node_names_what_it_covers_and_the_rest_goes_on() {
    let w = World::with_history();
    w.run(async {
        let v = w.attach().await;
        v.detach().await.unwrap();
        drop(v);
        let report = w.scrub().await;
        let nodes: Vec<SegmentId> =
            report.volumes[0].usage.keys().filter(|i| i.key().starts_with("data/")).copied().collect();
        let mut seen = BTreeSet::new();
        for id in nodes {
            for node in index(&w, id).await.unwrap().nodes {
                let whole = w.object(&id.key()).await;
                w.flip(&id.key(), i64::from(node.record.offset) + 40).await;
                for report in [w.scrub().await, w.fsck().await] {
                    if report.findings.iter().count() == 0 {
                        continue; // Superseded.
                    }
                    let leaf = (node.index * (16 << 20), 16 << 20);
                    let covers = if node.level == 0 { leaf } else { (0, SIZE) };
                    assert_eq!(said(&report), [("damaged-node", id.key(), vec![covers])]);
                    seen.insert((node.level, node.index));
                }
                w.put(&id.key(), &whole).await;
            }
        }
        assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]));
        clean(&w.scrub().await);
    });
}

#[test]
fn a_damaged_opening_blocks_attaching_if_it_is_the_newest() {
    let w = World::with_history();
    w.run(async {
        for epoch in 1..=3 {
            let key = w.log(epoch, 0);
            let whole = w.object(&key).await;
            w.flip(&key, 60).await;
            for report in [w.scrub().await, w.fsck().await] {
                assert_eq!(said(&report), [("damaged-opening", key.clone(), vec![])]);
                assert_eq!(only(&report).blocks_attach, epoch == 3);
            }
            w.cut(&key, 70).await;
            assert_eq!(said(&w.fsck().await), [("truncated-object", key.clone(), vec![])]);
            w.delete(&key).await;
            assert_eq!(said(&w.fsck().await), [("missing-object", key.clone(), vec![])]);
            w.put(&key, &w.object(&w.log(epoch % 3 + 1, 0)).await).await;
            assert_eq!(said(&w.fsck().await), [("foreign-object", key.clone(), vec![])]);
            w.put(&key, &whole).await;
        }
        clean(&w.scrub().await);
    });
}

#[test]
fn a_damaged_seal_is_told_and_a_missing_one_says_what_it_means() {
    let w = World::with_history();
    w.run(async {
        let mut at = 1;
        while index(&w, SegmentId::log(w.volume.number, 1, at)).await.is_some() {
            at += 1;
        }
        let key = w.log(1, at);
        let whole = w.object(&key).await;
        w.flip(&key, -3).await;
        assert_eq!(said(&w.scrub().await), [("damaged-seal", key.clone(), vec![])]);
        w.cut(&key, 20).await;
        assert_eq!(said(&w.scrub().await), [("truncated-object", key.clone(), vec![])]);
        w.put(&key, &w.object(&w.log(1, 1)).await).await;
        assert_eq!(said(&w.scrub().await), [("foreign-object", key.clone(), vec![])]);
        w.delete(&key).await;
        let report = w.scrub().await;
        assert_eq!(said(&report), [("missing-object", key.clone(), vec![])]);
        assert!(only(&report).effect().contains("would not be stopped"), "{}", only(&report).effect());
        w.put(&key, &whole).await;
        clean(&w.scrub().await);
    });
}

#[test]
fn an_object_that_was_cut_short_names_what_lay_behind_its_end() {
    let w = World::with_history();
    w.run(async {
        let table = Table::of(&w).await;
        let newest = newest_checkpoint(&w).await;
        for key in [old_segment(&w, &table).await, last_segment(&w).await] {
            let record = table.record_in(&key);
            let whole = w.object(&key).await;
            for len in [0, 20, record.offset as usize + 50, whole.len() - 1] {
                w.put(&key, &whole[..len]).await;
                let gone = |r: &crate::segment::RecordRef| {
                    let old = (r.segment.epoch(), r.segment.number()) <= newest;
                    old && r.segment.key() == key && (r.offset + r.len) as usize > len
                };
                // Of a segment that recovery needs nothing is known but that it is lost.
                let expected = table.ranges(gone);
                for report in [w.scrub().await, w.fsck().await] {
                    let finding = only(&report);
                    assert_eq!((finding.kind, &finding.key), (Kind::TruncatedObject, &key), "{len}");
                    assert_eq!(said(&report)[0].2, expected, "{len}");
                }
            }
            w.put(&key, &whole).await;
        }
        clean(&w.scrub().await);
    });
}

#[test]
fn swapped_objects_and_old_bodies_under_new_names_are_told_from_damaged_ones() {
    let w = World::with_history();
    w.run(async {
        let table = Table::of(&w).await;
        let (a, b) = (w.log(1, 2), w.log(1, 5));
        w.swap(&a, &b).await;
        let expected: Vec<Said> =
            [&a, &b].iter().map(|k| ("foreign-object", (*k).clone(), in_object(&table, k))).collect();
        for report in [w.scrub().await, w.fsck().await] {
            assert_eq!(said(&report), expected);
        }
        assert!(w.fsck().await.findings.sorted()[0].why.contains(&b));
        w.swap(&a, &b).await;

        w.put(&a, &w.object(&b).await).await;
        assert_eq!(said(&w.fsck().await), [("foreign-object", a.clone(), in_object(&table, &a))]);
        w.put(&a, b"something else altogether, and long enough not to be taken for a trailer of anything at all").await;
        assert_eq!(said(&w.fsck().await), [("foreign-object", a.clone(), in_object(&table, &a))]);
    });
}

#[test]
fn a_missing_segment_of_the_log_names_what_was_in_it() {
    let w = World::with_history();
    w.run(async {
        let table = Table::of(&w).await;
        let key = old_segment(&w, &table).await;
        let whole = w.object(&key).await;
        w.delete(&key).await;
        for report in [w.scrub().await, w.fsck().await] {
            assert_eq!(said(&report), [("missing-object", key.clone(), in_object(&table, &key))]);
            assert!(!only(&report).blocks_attach);
            assert!(report.volumes[0].not_compared.is_some());
        }
        w.put(&key, &whole).await;
    });
}

#[test]
fn a_gap_at_the_end_of_an_open_log_is_a_note_unless_something_proves_it_a_loss() {
    let w = World::new();
    w.run(async {
        let v = w.attach().await;
        for i in 0..6u64 {
            v.write(i * 4096, noise(4096, i), true).await.unwrap();
        }
        let gap = w.log(1, 3);
        let whole = w.object(&gap).await;
        w.delete(&gap).await;
        let report = w.scrub().await;
        assert_eq!(said(&report), [("log-gap", gap.clone(), vec![])]);
        assert!(!report.is_damaged());

        w.put(&gap, &whole).await;
        v.detach().await.unwrap();
        clean(&w.scrub().await);
        w.delete(&gap).await;
        let report = w.scrub().await;
        assert_eq!(said(&report), [("missing-object", gap.clone(), vec![(8192, 4096)])]);
        assert!(!only(&report).blocks_attach, "the checkpoint contains it: {}", only(&report).effect());
        drop(w.attach().await);
    });
    let w = World::new();
    w.run(async {
        for count in [5, 2] {
            let v = w.attach().await;
            for i in 0..count {
                v.write(i * 4096, noise(4096, i), true).await.unwrap();
            }
            drop(v);
            w.env.clock.sleep(Duration::from_millis(1)).await;
        }
        clean(&w.scrub().await);
        w.delete(&w.log(1, 3)).await;
        let report = w.scrub().await;
        assert_eq!(said(&report), [("missing-object", w.log(1, 3), vec![])]);
        assert!(only(&report).blocks_attach, "{}", only(&report).effect());
    });
}

#[test]
fn a_missing_segment_of_nodes_names_what_they_cover() {
    let w = World::with_history();
    w.run(async {
        let report = w.scrub().await;
        let usage = &report.volumes[0].usage;
        let id = *usage.keys().filter(|i| i.key().starts_with("data/")).max().unwrap();
        w.delete(&id.key()).await;
        for report in [w.scrub().await, w.fsck().await] {
            assert_eq!(said(&report), [("missing-object", id.key(), vec![(0, SIZE)])], "the root is in it");
            assert!(report.volumes[0].leaks_unknown.is_none(), "every other segment was referred to once");
        }
    });
}

#[test]
fn an_epoch_of_which_nothing_is_left_is_told_with_all_that_was_in_it() {
    let w = World::with_history();
    w.run(async {
        let table = Table::of(&w).await;
        let prefix = w.log(2, 0).rsplit_once('/').unwrap().0.to_owned();
        let keys = w.keys(&prefix).await;
        assert!(keys.len() > 4);
        let newest = newest_checkpoint(&w).await;
        for key in &keys {
            w.delete(key).await;
        }
        // What is applied after the checkpoint is not known any more.
        let lost = |key: &String| {
            let which = |r: &crate::segment::RecordRef| {
                r.segment.key() == *key && (r.segment.epoch(), r.segment.number()) <= newest
            };
            ("missing-object", key.clone(), table.ranges(which))
        };
        let report = w.fsck().await;
        assert_eq!(said(&report), keys.iter().map(lost).collect::<Vec<_>>());
    });
}

#[test]
fn several_things_at_once_are_all_found() {
    let w = World::with_history();
    w.run(async {
        let table = Table::of(&w).await;
        let key = old_segment(&w, &table).await;
        let record = table.record_in(&key);
        w.flip(&key, i64::from(record.offset + 30)).await;
        w.flip(&w.log(2, 0), 60).await;
        w.put("stray", b"x").await;
        let expected = [
            ("damaged-opening", w.log(2, 0), vec![]),
            ("damaged-record", key, table.ranges(|r| *r == record)),
            ("unknown-object", "stray".to_owned(), vec![]),
        ];
        assert_eq!(said(&w.scrub().await), expected);
    });
}

#[test]
fn a_map_that_says_other_than_the_log_is_told() {
    let w = World::with_history();
    w.run(async {
        let table = Table::of(&w).await;
        // The same salt and the same neighbours, but its record is of another extent.
        let id = SegmentId::log(w.volume.number, 1, 2);
        let old = index(&w, id).await.unwrap();
        let mut builder = SegmentBuilder::new(w.pool.keys().clone(), id, old.salt, Compression::None);
        for d in &old.records {
            let plain = noise(4096 * d.mask.count_ones() as usize, 99);
            builder.add_extent(d.extent + 1, d.mask, &plain);
        }
        let tail = SegmentTail {
            ops: OpRange { first: old.ops.first, last: old.ops.last },
            predecessor_salt: old.predecessor_salt,
            checkpoint: old.checkpoint,
            deletable: Vec::new(),
        };
        w.put(&id.key(), &builder.finish(tail).bytes).await;
        let report = w.fsck().await;
        let kinds: BTreeSet<_> = said(&report).into_iter().map(|(kind, ..)| kind).collect();
        assert_eq!(kinds, BTreeSet::from(["map-mismatch"]), "{:?}", said(&report));
        let was = in_object(&table, &id.key());
        let (offset, length) = was[0];
        let told = |r: ByteRange| r.offset <= offset && r.offset + r.length >= offset + length;
        assert!(report.findings.iter().any(|f| f.ranges.iter().any(told)), "{was:?} {:?}", said(&report));
    });
}
