//! Which segments are rewritten next.
//!
//! Cost-benefit as in LFS (Rosenblum and Ousterhout, 1992): a segment of utilization u costs 1 + u to clean (read, and
//! write what is live) and yields 1 - u for as long as it stays clean, for which the age of its data is the best guess:
//! `(1 - u) * age / (1 + u)`. Age counts in operations, so nothing depends on a clock, and what is moved keeps its age.

use std::collections::HashSet;

use crate::map::{SegmentUsage, Usage};
use crate::segment::SegmentId;

/// Ahead of need segments are rewritten until the garbage is at this share of what the target allows.
const AHEAD_TARGET: f64 = 0.4;
/// What rewriting a segment has to free of it: at all; where little was rewritten lately; and at any time ahead of need. Of a
/// skewed load there are cheap segments even where little is garbage, of a uniform one not.
const WORTH_IT: f64 = 0.05;
const AHEAD: f64 = 0.125;
const CHEAP: f64 = 0.3;
/// A node that moves makes those above it garbage where they are: segments of nodes are rewritten all together, and only where
/// they hold garbage of such a share of what is visible, and of so many bytes. One by one they would never come to an end.
const NODES: f64 = 0.01;
const NODES_BYTES: u64 = 32 << 10;

/// When to clean, and how much at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Space amplification (stored bytes by visible stored bytes) above which segments are cleaned.
    pub target: f64,
    /// Garbage below this many bytes is left alone, so that small volumes are not rewritten all the time.
    pub slack: u64,
    /// Little was rewritten lately: what is not quite cheap may be rewritten ahead of need, too.
    pub ahead: bool,
    /// Segments smaller than this (bytes) are tiny.
    pub tiny_bytes: u32,
    /// But not those of so many blocks or more.
    pub full_blocks: u32,
    /// So many tiny segments may stay.
    pub tiny_segments: usize,
    /// Live bytes that one batch rewrites at most, if it is more than one segment.
    pub batch_bytes: u64,
    /// Segments of one batch.
    pub batch_segments: usize,
}

/// Why segments were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is too much garbage, and they are the cheapest to get rid of it.
    Garbage,
    /// There is less than the target allows, but they are cheap.
    Ahead,
    /// There are too many small objects.
    Tiny,
}

/// A batch of segments to empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The segments, by name.
    pub segments: Vec<SegmentId>,
    /// Why.
    pub why: Why,
    /// The age of the youngest data in them.
    pub born: u64,
}

/// How full of garbage a volume is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Bytes of objects that are not dead.
    pub stored: u64,
    /// Bytes of all objects, of dead ones too.
    pub held: u64,
    /// Stored bytes of visible blocks and of live map nodes.
    pub visible: u64,
    /// Tiny segments.
    pub tiny: usize,
    /// Dead segments: they wait for a checkpoint, or for the store to delete them.
    pub dead: usize,
}

impl Pressure {
    /// How urgent cleaning is: from 0, where the bucket holds what `policy` allows, to 1, where it holds a quarter more garbage.
    /// Dead segments, which go by themselves, count for half of that at most.
    pub fn strain(&self, policy: &Policy) -> f64 {
        let visible = self.visible as f64;
        let band = (visible * (policy.target - 1.0) / 4.0).max(policy.slack as f64).max(1.0);
        let over = |bytes: u64| (bytes as f64 - visible * policy.target - policy.slack as f64) / band;
        over(self.stored).max(over(self.held).min(0.5)).clamp(0.0, 1.0)
    }

    /// Bytes stored beyond what a space amplification of `target` allows.
    fn excess(&self, target: f64, policy: &Policy) -> u64 {
        self.stored.saturating_sub((self.visible as f64 * target) as u64 + policy.slack)
    }
}

/// Merging cannot make larger what has so many blocks, however small they became: a merge ends its segments there.
fn is_tiny(usage: &SegmentUsage, policy: &Policy) -> bool {
    usage.bytes < policy.tiny_bytes && usage.blocks < policy.full_blocks && !usage.is_dead()
}

/// Looks at all segments. What is in `moved` has been rewritten already and will be dead with the next checkpoint.
pub fn pressure(usage: &Usage, moved: &HashSet<SegmentId>, policy: &Policy) -> Pressure {
    let mut all = Pressure::default();
    for (id, segment) in &usage.segments {
        let live = u64::from(segment.live);
        all.held += u64::from(segment.bytes);
        if segment.is_dead() {
            all.dead += 1;
        } else if moved.contains(id) {
            all.stored += live;
            all.visible += live;
        } else {
            all.stored += u64::from(segment.bytes);
            all.visible += live;
            all.tiny += usize::from(is_tiny(segment, policy));
        }
    }
    all
}

/// The next segments to rewrite; `None` if there is no need. `now` is the last operation number.
pub fn choose(usage: &Usage, moved: &HashSet<SegmentId>, policy: &Policy, now: u64) -> Option<Chosen> {
    let pressure = pressure(usage, moved, policy);
    let candidates = || usage.segments.iter().filter(|(id, s)| !s.is_dead() && !moved.contains(id));
    let mut excess = pressure.excess(policy.target, policy);
    let mut cheap_excess = pressure.excess(1.0 + (policy.target - 1.0) * AHEAD_TARGET, policy);
    let why = if excess > 0 { Why::Garbage } else { Why::Ahead };
    let least = if policy.ahead { AHEAD } else { CHEAP };
    if cheap_excess > 0 {
        let of_nodes: u64 = candidates().filter(|(_, s)| is_of_nodes(s)).map(|(_, s)| garbage(s)).sum();
        let nodes_too = of_nodes > NODES_BYTES.max((pressure.visible as f64 * NODES) as u64);
        let worth_it = |s: &SegmentUsage| yields(s, WORTH_IT) && (nodes_too || !is_of_nodes(s));
        let mut scored: Vec<(f64, SegmentId, &SegmentUsage)> =
            candidates().filter(|(_, s)| worth_it(s)).map(|(id, s)| (benefit(s, now), *id, s)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        // Only as much as brings the garbage below the mark.
        scored.retain(|(_, _, s)| {
            let wanted = excess > 0 || (cheap_excess > 0 && yields(s, least)) || is_of_nodes(s);
            if wanted {
                excess = excess.saturating_sub(garbage(s));
                cheap_excess = cheap_excess.saturating_sub(garbage(s));
            }
            wanted
        });
        let chosen = fill(scored.iter().map(|(_, id, s)| (*id, *s)), policy, why);
        if chosen.is_some() {
            return chosen;
        }
    }
    if pressure.tiny > policy.tiny_segments {
        let tiny = candidates().filter(|(_, s)| is_tiny(s, policy));
        return fill(tiny.map(|(id, s)| (*id, s)), policy, Why::Tiny).filter(|chosen| chosen.segments.len() > 1);
    }
    None
}

/// A checkpoint's segment: map nodes and nothing else.
fn is_of_nodes(s: &SegmentUsage) -> bool {
    s.nodes > 0 && s.blocks == 0
}

/// Bytes that rewriting a segment frees.
fn garbage(s: &SegmentUsage) -> u64 {
    u64::from(s.bytes).saturating_sub(u64::from(s.live) + s.overhead())
}

/// Whether rewriting a segment frees such a share of it at least.
fn yields(s: &SegmentUsage, share: f64) -> bool {
    garbage(s) as f64 >= f64::from(s.bytes) * share
}

fn benefit(s: &SegmentUsage, now: u64) -> f64 {
    let u = f64::from(s.live) / f64::from(s.bytes.max(1));
    let age = now.saturating_sub(s.born) as f64 + 1.0;
    (1.0 - u) * age / (1.0 + u)
}

fn fill<'a>(
    segments: impl Iterator<Item = (SegmentId, &'a SegmentUsage)>,
    policy: &Policy,
    why: Why,
) -> Option<Chosen> {
    let mut chosen = Chosen { segments: Vec::new(), why, born: 0 };
    let mut live = 0;
    for (id, s) in segments.take(policy.batch_segments) {
        live += u64::from(s.live);
        if live > policy.batch_bytes && !chosen.segments.is_empty() {
            break;
        }
        chosen.segments.push(id);
        chosen.born = chosen.born.max(s.born);
    }
    (!chosen.segments.is_empty()).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        target: 1.2,
        slack: 0,
        ahead: false,
        tiny_bytes: 10_000,
        full_blocks: 1000,
        tiny_segments: 3,
        batch_bytes: 250_000,
        batch_segments: 10,
    };

    fn usage(segments: &[(u64, u32, u32, u64)]) -> Usage {
        let mut usage = Usage::default();
        for &(n, bytes, live, born) in segments {
            let blocks = u32::from(live > 0);
            usage.segments.insert(SegmentId::log(1, 1, n), SegmentUsage { bytes, live, blocks, nodes: 0, born });
        }
        usage
    }

    fn numbers(chosen: Option<Chosen>) -> Vec<u64> {
        chosen.map_or(Vec::new(), |c| c.segments.iter().map(|s| s.number()).collect())
    }

    fn pick(usage: &Usage, moved: &[u64]) -> Vec<u64> {
        let moved = moved.iter().map(|n| SegmentId::log(1, 1, *n)).collect();
        numbers(choose(usage, &moved, &POLICY, 1000))
    }

    #[test]
    fn nothing_is_done_without_need() {
        assert!(pick(&usage(&[]), &[]).is_empty());
        assert!(pick(&usage(&[(1, 100_000, 90000, 0), (2, 100_000, 85000, 0)]), &[]).is_empty(), "1.14");
        assert!(
            pick(&usage(&[(1, 100_000, 0, 0), (2, 100_000, 100000, 0)]), &[]).is_empty(),
            "what is dead is deleted anyway"
        );
    }

    #[test]
    fn the_old_and_empty_go_first() {
        let all = usage(&[
            (1, 100_000, 50000, 900),
            (2, 100_000, 50000, 0),
            (3, 100_000, 99000, 0),
            (4, 100_000, 10000, 999),
        ]);
        assert_eq!(pick(&all, &[])[0], 2, "as empty as 1, and older");
        assert_eq!(pick(&all, &[2])[0], 1);
        assert!(!pick(&all, &[]).contains(&3), "full segments yield nothing");
    }

    #[test]
    fn what_is_cheap_goes_before_the_target_is_reached() {
        let some = usage(&[(1, 100_000, 65_000, 0), (2, 100_000, 80_000, 0), (3, 100_000, 98_000, 0)]);
        let below = Policy { target: 1.25, ..POLICY };
        assert_eq!(numbers(choose(&some, &HashSet::new(), &below, 1000)), [1], "1.23 of 1.25: the emptiest alone");
        let even = usage(&[(1, 100_000, 80_000, 0), (2, 100_000, 80_000, 0)]);
        let allowed = Policy { target: 1.3, ..POLICY };
        assert!(choose(&even, &HashSet::new(), &allowed, 1000).is_none(), "1.25 of 1.3, and neither is cheap");
        let ahead = choose(&even, &HashSet::new(), &Policy { ahead: true, ..allowed }, 1000).expect("it is worth it");
        assert_eq!((ahead.segments.len(), ahead.why), (2, Why::Ahead), "where little was rewritten lately");
        let far_below = Policy { target: 1.6, ..POLICY };
        assert!(choose(&some, &HashSet::new(), &far_below, 1000).is_none());
    }

    /// Found by a review: two small checkpoints' segments took turns without end, each made garbage by rewriting the other.
    #[test]
    fn segments_of_nodes_are_rewritten_together_or_not_at_all() {
        let mut all = usage(&[(1, 1_000_000, 870_000, 0)]);
        let checkpoint = |bytes, live| SegmentUsage { bytes, live, blocks: 0, nodes: 2, born: 0 };
        all.segments.extend((10..13).map(|n| (SegmentId::data(1, 1, n), checkpoint(6000, 2000))));
        let ahead = Policy { ahead: true, batch_segments: 100, ..POLICY };
        let chosen = |usage: &Usage| numbers(choose(usage, &HashSet::new(), &ahead, 1000));
        assert_eq!(chosen(&all), [1], "1.16: their garbage is nothing to speak of");
        all.segments.extend((13..30).map(|n| (SegmentId::data(1, 1, n), checkpoint(6000, 2000))));
        assert_eq!(chosen(&all), (10..30).collect::<Vec<_>>(), "all of them");
    }

    #[test]
    fn no_more_than_is_needed_and_than_a_batch_holds() {
        let mut all = usage(&[]);
        (0..20).for_each(|n| all.segments.extend(usage(&[(n, 100_000, 60000, 0)]).segments));
        assert_eq!(pick(&all, &[]), [0, 1, 2, 3], "60,000 live bytes each, 250,000 in a batch");
        let little = usage(&[(1, 100_000, 60000, 0), (2, 100_000, 60000, 0), (3, 900_000, 900_000, 0)]);
        assert!(pick(&little, &[]).is_empty());
    }

    #[test]
    fn what_is_dead_strains_too() {
        let of =
            |stored: u64, dead: u64| Pressure { stored, held: stored + dead, visible: 100_000, ..Pressure::default() };
        let strain = |stored: u64, dead: u64| (of(stored, dead).strain(&POLICY) * 1000.0).round() / 1000.0;
        assert_eq!([90_000, 120_000, 122_500, 125_000, 200_000].map(|n| strain(n, 0)), [0.0, 0.0, 0.5, 1.0, 1.0]);
        assert_eq!((strain(100_000, 21_250), strain(100_000, 90_000)), (0.25, 0.5), "no more by what goes by itself");
        let slack = Policy { slack: 20_000, ..POLICY };
        assert_eq!(of(150_000, 0).strain(&slack), 0.5, "a band as wide as the slack");
        assert_eq!(Pressure::default().strain(&POLICY), 0.0, "an empty volume");
        let usage = usage(&[(1, 100_000, 0, 0), (2, 100_000, 90_000, 0), (3, 50_000, 10_000, 0)]);
        let found = pressure(&usage, &HashSet::from([SegmentId::log(1, 1, 3)]), &POLICY);
        assert_eq!((found.held, found.stored, found.visible, found.dead), (250_000, 110_000, 100_000, 1));
    }

    #[test]
    fn tiny_ones_are_merged_by_number() {
        let all = usage(&[
            (1, 5000, 5000, 0),
            (2, 5000, 5000, 0),
            (3, 5000, 5000, 0),
            (4, 5000, 5000, 0),
            (9, 100_000, 100000, 0),
        ]);
        assert_eq!(pick(&all, &[]), [1, 2, 3, 4]);
        assert!(pick(&all, &[1]).is_empty(), "three may stay");
        let mut full = all;
        full.segments.values_mut().for_each(|s| s.blocks = 1000);
        assert!(pick(&full, &[]).is_empty(), "they are as large as a merge makes them");
    }
}
