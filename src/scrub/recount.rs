//! What the tree of the newest checkpoint and the subtrees on its free list need of each segment, node by node: what its
//! accounts must say.

use std::collections::{BTreeMap, BTreeSet};

use super::ScrubError;
use super::accounts::Accounts;
use super::finding::Kind;
use super::runs::Bad;
use super::volume::Pass;
use crate::map::{NodeContent, NodeLoad, SegmentChange, SegmentUsage, UsageChange};
use crate::segment::SegmentId;

/// Nodes that are read together.
const BATCH: usize = 64;

/// The count so far.
#[derive(Debug, Default)]
pub(super) struct Recount {
    counted: UsageChange,
    /// What of it is on the free list.
    freed: UsageChange,
    /// Why it is not complete.
    lost: Option<String>,
}

impl Recount {
    /// A node was read.
    pub(super) fn node(&mut self, load: &NodeLoad, content: &NodeContent) {
        count(&mut self.counted, load, content);
    }

    /// A node of the free list was read.
    fn freed(&mut self, load: &NodeLoad, content: &NodeContent) {
        self.node(load, content);
        count(&mut self.freed, load, content);
    }

    /// A node cannot be read, so what lies below is not counted.
    pub(super) fn lost(&mut self, load: &NodeLoad) {
        self.lost.get_or_insert_with(|| format!("{} cannot be read", load.record.segment.key()));
    }
}

fn count(change: &mut UsageChange, load: &NodeLoad, content: &NodeContent) {
    change.count_node(&load.record, 1);
    if let NodeContent::Leaf(pieces) = content {
        pieces.iter().for_each(|(_, piece)| change.count_piece(piece, 1));
    }
}

impl Pass<'_> {
    /// Compares the accounts with what the walk has counted and what is on their free list.
    pub(super) async fn check_accounts(&mut self) -> Result<(), ScrubError> {
        let (usage, own) = match std::mem::replace(&mut self.accounts, Accounts::None) {
            Accounts::Known { usage, own } => (usage, own),
            other => {
                self.report.accounts_unchecked = other.unreadable();
                self.accounts = other;
                return Ok(());
            }
        };
        self.walk_dropped(usage.dropped.clone()).await?;
        self.report.accounts = Some(usage.totals());
        let Recount { counted, freed, lost } = std::mem::take(&mut self.recount);
        self.freed = freed.segments;
        self.report.accounts_unchecked = lost;
        if self.report.accounts_unchecked.is_none() {
            self.compare_accounts(&usage.segments, &counted.segments);
        }
        self.accounts = Accounts::Known { usage, own };
        self.count_dead();
        Ok(())
    }

    /// Counts what lies below nodes of the free list.
    async fn walk_dropped(&mut self, mut stack: Vec<NodeLoad>) -> Result<(), ScrubError> {
        self.begin("free list", 0);
        while !stack.is_empty() {
            let mut loads = stack.split_off(stack.len().saturating_sub(BATCH));
            loads.retain(|load| match self.known_bad(&load.record) {
                Some(kind) => {
                    self.recount.lost(load);
                    self.blame((kind, "the free list refers to it".into()), &load.record, std::iter::empty());
                    false
                }
                None => true,
            });
            let nodes = self.read_nodes(&loads).await?;
            for (load, node) in loads.iter().zip(nodes) {
                match node {
                    Ok((_, content)) => {
                        self.recount.freed(load, &content);
                        if let NodeContent::Inner(children) = content {
                            stack.extend(children);
                        }
                    }
                    Err(bad) => {
                        self.recount.lost(load);
                        self.blame_dropped(load, bad);
                    }
                }
            }
        }
        Ok(())
    }

    /// A node that is no part of the map any more: no data depends on it.
    fn blame_dropped(&mut self, load: &NodeLoad, bad: Bad) {
        let what = match bad {
            Bad::Missing => (Kind::MissingObject, "the free list refers to it".into()),
            Bad::Short => (Kind::TruncatedObject, "the free list refers to what lies behind its end".into()),
            Bad::Altered(why) => (Kind::DamagedNode, why),
        };
        self.blame(what, &load.record, std::iter::empty());
    }

    fn compare_accounts(
        &mut self,
        accounts: &BTreeMap<SegmentId, SegmentUsage>,
        counted: &BTreeMap<SegmentId, SegmentChange>,
    ) {
        let all: BTreeSet<SegmentId> = accounts.keys().chain(counted.keys()).copied().collect();
        for id in all {
            let (account, counted) = (accounts.get(&id), counted.get(&id).copied().unwrap_or_default());
            let said =
                account.map(|a| SegmentChange { live: a.live.into(), blocks: a.blocks.into(), nodes: a.nodes.into() });
            if said.unwrap_or_default() != counted {
                let said = said.map_or("nothing".to_owned(), |s| show(&s));
                let finding = self.find(
                    Kind::WrongAccount,
                    &id.key(),
                    format!("they say {said}, the map needs {}", show(&counted)),
                );
                finding.meaning(effect(account, &counted));
            }
            let other = self.bad.contains_key(&id) || self.stray_seals.contains(&id);
            let size = self.sizes.get(&id).copied().filter(|_| !other);
            if let (Some(account), Some(size)) = (account, size)
                // 0: it was missing when it was counted, and is back.
                && ![0, size].contains(&u64::from(account.bytes))
            {
                let why = format!("they say that it has {} bytes, it has {size}", account.bytes);
                self.find(Kind::WrongAccount, &id.key(), why).meaning("sums are off");
            }
        }
    }

    fn count_dead(&mut self) {
        let Accounts::Known { usage, .. } = &self.accounts else { return };
        let dead = usage.segments.iter().filter(|(id, a)| a.is_dead() && self.may_be_gone(**id));
        let sizes: Vec<u64> = dead.filter_map(|(id, _)| self.sizes.get(id).copied()).collect();
        (self.report.dead_objects, self.report.dead_bytes) = (sizes.len() as u64, sizes.iter().sum());
    }
}

fn show(c: &SegmentChange) -> String {
    format!("{} blocks and {} nodes in {} bytes", c.blocks, c.nodes, c.live)
}

fn effect(account: Option<&SegmentUsage>, counted: &SegmentChange) -> &'static str {
    match account.is_none_or(SegmentUsage::is_dead) {
        true => "it may be deleted although the map needs it",
        false if *counted == SegmentChange::default() => "it is kept although nothing needs it",
        false => "when it is deleted, and whether compaction chooses it, is decided wrongly",
    }
}
