//! What users ask for.

use bytes::Bytes;
use esker_block::MAX_OP_BYTES;

use crate::model::Fill;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::stamp::{self, ZERO};

const BLOCK: u64 = 4096;

/// A request, in units.
#[derive(Debug, Clone)]
pub enum Request {
    /// Checked against what may be there.
    Read {
        /// The first unit.
        first: u64,
        /// How many.
        units: u64,
    },
    /// New bytes, or zeroes.
    Write {
        /// The first unit.
        first: u64,
        /// How many.
        units: u64,
    },
    /// Zeroes, however long.
    Zero {
        /// The first unit.
        first: u64,
        /// How many.
        units: u64,
    },
    /// The whole blocks of a range become zeroes.
    Discard {
        /// The first unit.
        first: u64,
        /// How many.
        units: u64,
    },
    /// Parts that happen together.
    Batch(Vec<Fill>),
    /// All that was acknowledged becomes durable.
    Flush,
}

/// A request and how it is sent.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What.
    pub request: Request,
    /// Whose bytes.
    pub stamp: u64,
    /// Complete once durable.
    pub fua: bool,
    /// By the form that may wait, at once.
    pub slow: bool,
}

impl Wish {
    /// A request after the plan's taste.
    pub fn draw(plan: &Plan, rng: &mut Rng, mut stamp: impl FnMut() -> u64) -> Self {
        let (first, units) = range(plan, rng, 1);
        let request = if rng.chance(1.0 / plan.flush_every as f64) {
            Request::Flush
        } else {
            match if plan.discards_only && !rng.chance(0.01) { 17 } else { rng.below(20) } {
                0..5 => Request::Read { first, units },
                5..15 => Request::Write { first, units },
                15 | 16 => {
                    // Now and then most of the volume at once.
                    let units = if rng.chance(plan.wipe) { plan.size / plan.unit as u64 - first } else { units };
                    Request::Zero { first, units }
                }
                17 => Request::Discard { first, units },
                _ => Request::Batch(batch(plan, rng, &mut stamp)),
            }
        };
        let zeroes = rng.chance(0.05);
        Self {
            request,
            stamp: if zeroes { ZERO } else { stamp() },
            fua: rng.chance(if plan.discards_only { 0.0 } else { 0.08 }),
            slow: rng.chance(0.4),
        }
    }

    /// The bytes of a write.
    pub fn bytes(&self, unit: u64) -> Bytes {
        match self.request {
            Request::Write { first, units } => bytes_of(&Fill { first, units, stamp: self.stamp }, unit),
            _ => Bytes::new(),
        }
    }

    /// What each operation fills that the engine makes of the request, in order.
    pub fn pieces(&self, unit: u64) -> Vec<Vec<Fill>> {
        match &self.request {
            Request::Read { .. } | Request::Flush => Vec::new(),
            Request::Write { first, units } => {
                let pieces = split(first * unit, units * unit);
                let fill = |(at, len): (u64, u64)| Fill { first: at / unit, units: len / unit, stamp: self.stamp };
                pieces.into_iter().map(|piece| vec![fill(piece)]).collect()
            }
            Request::Zero { first, units } => vec![vec![Fill { first: *first, units: *units, stamp: ZERO }]],
            Request::Discard { first, units } => {
                let (start, end) = ((first * unit).next_multiple_of(BLOCK), (first + units) * unit / BLOCK * BLOCK);
                match start < end {
                    true => vec![vec![Fill { first: start / unit, units: (end - start) / unit, stamp: ZERO }]],
                    false => Vec::new(),
                }
            }
            Request::Batch(parts) if parts.is_empty() => Vec::new(),
            Request::Batch(parts) => vec![parts.clone()],
        }
    }
}

/// The bytes that `fill` stands for.
pub fn bytes_of(fill: &Fill, unit: u64) -> Bytes {
    let mut bytes = vec![0; (fill.units * unit) as usize];
    for (at, piece) in (fill.first..).zip(bytes.chunks_mut(unit as usize)) {
        stamp::fill(fill.stamp, at, piece);
    }
    bytes.into()
}

/// Operations of a long write, as (offset, length) in bytes: up to 1 MiB is one; of more each but the last ends at a block.
fn split(offset: u64, len: u64) -> Vec<(u64, u64)> {
    let (mut at, end) = (offset, offset + len);
    let mut pieces = Vec::new();
    while at < end {
        let most = MAX_OP_BYTES as u64;
        let n = if end - at <= most { end - at } else { most - BLOCK + (at.next_multiple_of(BLOCK) - at) };
        pieces.push((at, n));
        at += n;
    }
    pieces
}

/// A range near one of the plan's places, in multiples of `step` units.
fn range(plan: &Plan, rng: &mut Rng, step: u64) -> (u64, u64) {
    let all = plan.size / plan.unit as u64 / step;
    let longest = (plan.longest / step).clamp(1, all);
    let place = rng.in_range(0..plan.places) * (all / plan.places);
    let first = (place + rng.in_range(0..longest * 3)).min(all - 1);
    let units = rng.in_range(1..longest + 1).min(all - first);
    (first * step, units * step)
}

/// Parts in whole blocks, 1 MiB of data at most; they may overlap.
fn batch(plan: &Plan, rng: &mut Rng, stamp: &mut impl FnMut() -> u64) -> Vec<Fill> {
    let step = BLOCK / plan.unit as u64;
    let mut room = MAX_OP_BYTES as u64 / plan.unit as u64;
    let mut parts = Vec::new();
    for _ in 0..=rng.below(4) {
        let (first, units) = range(plan, rng, step);
        let stamp = if rng.chance(0.3) { ZERO } else { stamp() };
        if stamp == ZERO || units <= room {
            room -= if stamp == ZERO { 0 } else { units };
            parts.push(Fill { first, units, stamp });
        }
    }
    parts
}
