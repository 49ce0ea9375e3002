//! Pools with accounts: what they say against what there is, and logs with holes.

use super::model::{Table, index};
use super::*;
use crate::map::{
    NodeContent, NodeLoad, USAGE_DIRECTORY_LEVEL, USAGE_PAGE_LEVEL, Usage as Accounts, UsageChange,
    encode_usage_directory, encode_usage_pages, read_node,
};
use crate::segment::{
    CheckpointRef, OpRange, Opening, RecordRef, RootRef, Seal, SegmentBuilder, SegmentKind, SegmentTail, open_node,
};

/// A pool whose log names accounts, made up as an owner would.
pub(super) struct Accounted {
    pub w: World,
    /// The object in which they are.
    pub table: String,
    pub checkpoint: CheckpointRef,
    usage: Accounts,
}

async fn read(w: &World, load: &NodeLoad) -> NodeContent {
    let r = load.record;
    let body = w.object(&r.segment.key()).await;
    let bytes = &body[r.offset as usize..(r.offset + r.len) as usize];
    let plain = open_node(w.pool.keys(), &r, load.level, load.index, bytes).unwrap();
    read_node(load.level, load.index, &plain).unwrap()
}

/// Counts what lies below a node.
async fn count(w: &World, top: NodeLoad, change: &mut UsageChange) {
    let mut stack = vec![top];
    while let Some(load) = stack.pop() {
        change.count_node(&load.record, 1);
        match read(w, &load).await {
            NodeContent::Inner(children) => stack.extend(children),
            NodeContent::Leaf(pieces) => pieces.iter().for_each(|(_, p)| change.count_piece(p, 1)),
        }
    }
}

async fn leaves(w: &World, root: RootRef) -> Vec<NodeLoad> {
    let (mut stack, mut leaves) = (vec![top(root)], Vec::new());
    while let Some(load) = stack.pop() {
        match read(w, &load).await {
            NodeContent::Inner(children) => stack.extend(children),
            NodeContent::Leaf(_) => leaves.push(load),
        }
    }
    leaves
}

fn top(root: RootRef) -> NodeLoad {
    NodeLoad { level: root.levels, index: 0, record: root.record }
}

async fn segments(w: &World) -> Vec<(SegmentId, u64)> {
    let mut all = Vec::new();
    for key in w.keys("log/").await.into_iter().chain(w.keys("data/").await) {
        if let keys::Name::Segment(id) = keys::name_of(&key)
            && (id.kind() == SegmentKind::Data || id.number() > 0)
            && index(w, id).await.is_some()
        {
            all.push((id, w.object(&key).await.len() as u64));
        }
    }
    all
}

/// Puts accounts that were changed by `edit` into the open log of the newest epoch: a segment that names the newest
/// checkpoint with them.
async fn name_accounts(w: &World, edit: impl FnOnce(&mut Accounts)) -> (String, CheckpointRef, Accounts) {
    let epoch = (1..).take_while(|e| exists(w, &w.log(*e, 0))).last().unwrap();
    let end = (1..5000).filter(|s| exists(w, &w.log(epoch, *s))).max().unwrap_or(0);
    let opening = Opening::open(w.pool.keys(), w.volume.number, epoch, &w.object(&w.log(epoch, 0)).await).unwrap();
    let last = match end {
        0 => None,
        _ => index(w, SegmentId::log(w.volume.number, epoch, end)).await,
    };
    let mut checkpoint = last.as_ref().and_then(|i| i.checkpoint).unwrap_or(opening.start);
    let mut usage = Accounts::default();
    for (id, size) in segments(w).await {
        if id.kind() == SegmentKind::Data
            || (id.epoch(), id.number()) <= (checkpoint.covers_epoch, checkpoint.covers_seq)
        {
            usage.add(id, size as u32, 1);
        }
    }
    let mut change = UsageChange::default();
    count(w, top(checkpoint.root.unwrap()), &mut change).await;
    usage.apply(&change).unwrap();
    edit(&mut usage);

    let id = SegmentId::data(w.volume.number, epoch, 900);
    let mut builder = SegmentBuilder::new(w.pool.keys().clone(), id, [42; 16], Compression::Zstd);
    let pages: Vec<RecordRef> =
        (0..).zip(encode_usage_pages(&usage)).map(|(n, page)| builder.add_node(USAGE_PAGE_LEVEL, n, &page)).collect();
    checkpoint.usage = Some(builder.add_node(USAGE_DIRECTORY_LEVEL, 0, &encode_usage_directory(&pages).unwrap()));
    let none = SegmentTail { ops: OpRange::NONE, predecessor_salt: [0; 16], checkpoint: None, deletable: Vec::new() };
    w.put(&id.key(), &builder.finish(none).bytes).await;

    let next = SegmentId::log(w.volume.number, epoch, end + 1);
    let tail = SegmentTail {
        ops: OpRange::NONE,
        predecessor_salt: last.map_or(opening.writer, |i| i.salt),
        checkpoint: Some(checkpoint),
        deletable: Vec::new(),
    };
    let builder = SegmentBuilder::new(w.pool.keys().clone(), next, [43; 16], Compression::Zstd);
    w.put(&next.key(), &builder.finish(tail).bytes).await;
    (id.key(), checkpoint, usage)
}

fn exists(w: &World, key: &str) -> bool {
    use futures::FutureExt;
    let path = Path::from(format!("p/{key}"));
    w.objects.head(&path).now_or_never().is_some_and(|answer| answer.is_ok())
}

impl Accounted {
    /// Over a history of four epochs of which the last is open, with a checkpoint and dead segments of its own.
    pub(super) async fn new(w: World, edit: impl FnOnce(&mut Accounts)) -> Self {
        let v = w.attach().await;
        for i in 0..30u64 {
            v.write(50 << 20, noise(4096, i), true).await.unwrap();
        }
        w.env.clock.sleep(Duration::from_secs(5)).await;
        drop(v);
        w.env.clock.sleep(Duration::from_millis(1)).await;
        let (table, checkpoint, usage) = name_accounts(&w, edit).await;
        assert_eq!(checkpoint.covers_epoch, 4);
        Self { w, table, checkpoint, usage }
    }

    /// Those that may be deleted.
    pub(super) fn dead(&self) -> Vec<SegmentId> {
        self.usage.segments.iter().filter(|(_, a)| a.is_dead()).map(|(id, _)| *id).collect()
    }
}

#[test]
fn accounts_that_are_right_are_no_finding_and_what_is_dead_may_be_gone() {
    let w = World::with_history();
    w.time.clone().run(async {
        let a = Accounted::new(w, |_| {}).await;
        let (dead, w) = (a.dead(), &a.w);
        assert!(
            dead.iter().any(|id| id.kind() == SegmentKind::Log) && dead.iter().any(|id| id.kind() == SegmentKind::Data)
        );
        let bytes: u64 = dead.iter().map(|id| u64::from(a.usage.segments[id].bytes)).sum();
        for report in [w.scrub().await, w.fsck().await] {
            clean(&report);
            let v = &report.volumes[0];
            assert_eq!(v.accounts, Some(a.usage.totals()));
            assert_eq!((v.dead_objects, v.dead_bytes), (dead.len() as u64, bytes));
            assert_eq!((&v.accounts_unchecked, &v.not_compared, &v.leaks_unknown), (&None, &None, &None));
        }
        let live = w.fsck().await.volumes[0].live_blocks;
        for id in &dead {
            w.delete(&id.key()).await;
        }
        for report in [w.scrub().await, w.fsck().await] {
            clean(&report);
            let v = &report.volumes[0];
            assert_eq!((v.dead_objects, v.dead_bytes, v.live_blocks), (0, 0, live));
            assert!(v.not_compared.as_ref().unwrap().contains("deleted"), "{:?}", v.not_compared);
        }
        // Attaching and scrub agree on where such a log ends.
        let v = w.attach().await;
        v.write(0, noise(4096, 1), true).await.unwrap();
        drop(v);
        w.env.clock.sleep(Duration::from_millis(1)).await;
        clean(&w.scrub().await);
    });
}

#[test]
fn what_the_map_or_the_log_needs_may_not_be_gone() {
    let w = World::with_history();
    w.time.clone().run(async {
        let a = Accounted::new(w, |_| {}).await;
        let (w, table) = (&a.w, Table::of(&a.w).await);
        for id in a.dead() {
            w.delete(&id.key()).await;
        }
        let live = table.live();
        let covered = (a.checkpoint.covers_epoch, a.checkpoint.covers_seq);
        let old = live.keys().map(|r| r.segment).filter(|id| (id.epoch(), id.number()) <= covered).min().unwrap();
        let body = w.object(&old.key()).await;
        w.delete(&old.key()).await;
        for report in [w.scrub().await, w.fsck().await] {
            assert_eq!(said(&report), [("missing-object", old.key(), table.ranges(|r| r.segment == old))]);
            assert!(!only(&report).blocks_attach);
        }
        w.put(&old.key(), &body).await;
        clean(&w.fsck().await);
        // After the checkpoint: whatever is in it.
        let after = SegmentId::log(w.volume.number, covered.0, covered.1 + 1);
        w.delete(&after.key()).await;
        let report = w.fsck().await;
        assert!(said(&report).iter().any(|(_, key, _)| *key == after.key()), "{:?}", said(&report));
    });
}

/// The root of the first checkpoint that a log segment names.
async fn oldest_root(w: &World) -> RootRef {
    for seq in 1.. {
        let named = index(w, SegmentId::log(w.volume.number, 1, seq)).await.unwrap().checkpoint;
        if let Some(root) = named.and_then(|checkpoint| checkpoint.root) {
            return root;
        }
    }
    unreachable!("the log ends, and its index is none then")
}

/// A subtree that a trim dropped: a leaf of an older map; and what that changes.
pub(super) async fn trimmed(w: &World) -> (NodeLoad, UsageChange) {
    let old = oldest_root(w).await;
    let dropped = leaves(w, old).await[0];
    let mut change = UsageChange { dropped: vec![dropped], ..UsageChange::default() };
    count(w, dropped, &mut change).await;
    (dropped, change)
}

#[test]
fn what_was_missing_when_it_was_counted_is_no_damage_once_it_is_back() {
    let w = World::with_history();
    w.time.clone().run(async {
        let forget = |usage: &mut Accounts| usage.segments.values_mut().take(1).for_each(|account| account.bytes = 0);
        let a = Accounted::new(w, forget).await;
        clean(&a.w.fsck().await);
    });
}

#[test]
fn what_is_on_the_free_list_counts_as_needed() {
    let w = World::with_history();
    w.time.clone().run(async {
        let (dropped, change) = trimmed(&w).await;
        let a = Accounted::new(w, |usage| usage.apply(&change).unwrap()).await;
        let w = &a.w;
        for report in [w.scrub().await, w.fsck().await] {
            clean(&report);
            assert_eq!(report.volumes[0].accounts_unchecked, None);
        }
        let key = dropped.record.segment.key();
        w.delete(&key).await;
        let report = w.fsck().await;
        assert_eq!(said(&report)[0].0, "missing-object");
        assert_eq!(only(&report).key, key);
        assert!(report.volumes[0].accounts_unchecked.as_ref().unwrap().contains(&key));
    });
}

#[test]
fn wrong_accounts_are_told_one_by_one() {
    type Edit = fn(&mut Accounts) -> SegmentId;
    let edits: [(&str, Edit); 5] = [
        ("kept although", |u| {
            let (id, a) = u.segments.iter_mut().find(|(_, a)| a.is_dead()).unwrap();
            (a.blocks, a.live) = (1, 100);
            *id
        }),
        ("may be deleted although", |u| {
            let (id, a) = u.segments.iter_mut().find(|(_, a)| a.blocks > 0).unwrap();
            (a.blocks, a.live) = (0, 0);
            *id
        }),
        ("decided wrongly", |u| {
            let (id, a) = u.segments.iter_mut().find(|(_, a)| a.blocks > 0).unwrap();
            a.blocks += 1;
            *id
        }),
        ("sums are off", |u| {
            let (id, a) = u.segments.iter_mut().next().unwrap();
            a.bytes += 1;
            *id
        }),
        ("may be deleted although", |u| {
            let id = *u.segments.iter().find(|(_, a)| a.nodes > 0).unwrap().0;
            u.segments.remove(&id);
            id
        }),
    ];
    for (effect, edit) in edits {
        let w = World::with_history();
        w.time.clone().run(async {
            let mut wrong = None;
            let a = Accounted::new(w, |usage| wrong = Some(edit(usage))).await;
            for report in [a.w.scrub().await, a.w.fsck().await] {
                assert_eq!(said(&report), [("wrong-account", wrong.unwrap().key(), vec![])]);
                assert!(only(&report).effect().contains(effect), "{}", only(&report).effect());
                assert!(report.is_damaged());
            }
        });
    }
}

#[test]
fn what_the_accounts_do_not_know_is_leaked_once_its_epoch_is_over() {
    let w = World::with_history();
    w.time.clone().run(async {
        let a = Accounted::new(w, |usage| {
            let dead: Vec<SegmentId> = usage.segments.iter().filter(|(_, a)| a.is_dead()).map(|(id, _)| *id).collect();
            dead.iter().for_each(|id| usage.remove(*id));
        })
        .await;
        let w = &a.w;
        let mut expected = Vec::new();
        for (id, size) in segments(w).await {
            let after = (id.epoch(), id.number()) > (a.checkpoint.covers_epoch, a.checkpoint.covers_seq);
            let replayed = id.kind() == SegmentKind::Log && after;
            if !a.usage.segments.contains_key(&id) && !replayed && id.epoch() < 4 {
                expected.push((id.key(), size));
            }
        }
        expected.sort();
        assert!(
            expected.iter().any(|(k, _)| k.starts_with("log/")) && expected.iter().any(|(k, _)| k.starts_with("data/"))
        );
        for report in [w.scrub().await, w.fsck().await] {
            let got: Vec<_> = report.findings.sorted().iter().map(|f| (f.key.clone(), f.wasted)).collect();
            assert_eq!(got, expected);
            assert!(report.findings.iter().all(|f| f.kind == Kind::LeakedObject));
        }
    });
}

#[test]
fn accounts_that_cannot_be_read_are_told_and_nothing_is_concluded_from_that() {
    for damage in ["flipped", "gone", "cut"] {
        let w = World::with_history();
        w.time.clone().run(async {
            let a = Accounted::new(w, |_| {}).await;
            let w = &a.w;
            for id in a.dead() {
                w.delete(&id.key()).await;
            }
            let at = a.checkpoint.usage.unwrap().offset;
            let kind = match damage {
                "flipped" => {
                    w.flip(&a.table, i64::from(at) + 30).await;
                    "damaged-node"
                }
                "gone" => {
                    w.delete(&a.table).await;
                    "missing-object"
                }
                _ => {
                    w.cut(&a.table, at as usize + 3).await;
                    "truncated-object"
                }
            };
            let report = w.fsck().await;
            assert_eq!(said(&report), [(kind, a.table.clone(), vec![])], "{damage}");
            assert!(only(&report).effect().contains("not known"), "{}", only(&report).effect());
            let v = &report.volumes[0];
            assert!(v.leaks_unknown.is_some() && v.accounts_unchecked.is_some() && v.accounts.is_none());
        });
    }
}

#[test]
fn a_seal_where_segments_were_deleted_is_nothing() {
    let w = World::with_history();
    w.time.clone().run(async {
        let a = Accounted::new(w, |_| {}).await;
        let w = &a.w;
        let dead = a.dead();
        for id in &dead {
            w.delete(&id.key()).await;
        }
        for epoch in [1, 4] {
            let id = *dead.iter().rfind(|id| id.kind() == SegmentKind::Log && id.epoch() == epoch).unwrap();
            let seal = Seal {
                volume: w.volume.number,
                epoch,
                seq: id.number(),
                writer: [7; 16],
                clean: false,
                predecessor_salt: [9; 16],
                wall_ms: 0,
            };
            w.put(&id.key(), &seal.seal(w.pool.keys(), [epoch as u8; 16])).await;
        }
        let report = w.scrub().await;
        clean(&report);
        assert_eq!(report.volumes[0].state, State::Open);
        drop(w.attach().await);
        clean(&w.scrub().await);
    });
}
