//! Which pieces of an extent a merge takes along.

use crate::map::Piece;
use crate::segment::SegmentId;

/// How far a merge reaches beyond the segments that it empties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing else: the cheapest way to get rid of garbage.
    Bare,
    /// Pieces of other segments come along where they are fewer blocks than those that move anyway: an extent becomes
    /// whole again at no more than twice the cost, and random overwrites do not drag eight blocks along for each.
    Fair,
    /// All pieces: the extent becomes one record whatever that costs.
    Whole,
}

/// The pieces of an extent to merge, given those that must move. None: nothing there moves.
pub fn gather(pieces: &[Piece], moves: impl Fn(&Piece) -> bool, reach: Reach) -> Vec<Piece> {
    let blocks = |p: &Piece| p.visible.count_ones();
    let (ours, others): (Vec<Piece>, Vec<Piece>) = pieces.iter().partition(|p| moves(p));
    let (mine, rest): (u32, u32) = (ours.iter().map(blocks).sum(), others.iter().map(blocks).sum());
    let along = match reach {
        Reach::Bare => false,
        Reach::Fair => mine > 0 && rest <= mine,
        Reach::Whole => pieces.len() > 1,
    };
    if along { pieces.to_vec() } else { ours }
}

/// Records closer to each other than this (bytes) are one GET.
const GAP: u32 = 16 << 10;

/// How many GETs pieces take: runs of records of one segment that lie close to each other.
pub fn ranges<'a>(pieces: impl Iterator<Item = &'a Piece>) -> usize {
    let mut records: Vec<_> = pieces.map(|p| (p.record.segment, p.record.offset, p.record.len)).collect();
    records.sort_unstable();
    let apart = |w: &&[(SegmentId, u32, u32)]| w[0].0 != w[1].0 || w[1].1 > w[0].1 + w[0].2 + GAP;
    records.windows(2).filter(apart).count() + usize::from(!records.is_empty())
}

/// Whether reading a MiB takes more GETs than the two that it takes where a segment ends in it.
pub fn is_scattered(pieces: &[(u64, Piece)]) -> bool {
    ranges(pieces.iter().map(|(_, p)| p)) > 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::RecordRef;

    fn piece(segment: u64, visible: u8) -> Piece {
        let record = RecordRef { segment: SegmentId::log(1, 1, segment), offset: 32, len: 100, number: 0 };
        Piece { visible, original: visible, record }
    }

    #[test]
    fn ranges_are_runs_of_neighbours() {
        let at = |segment: u64, offset: u32| {
            let record = RecordRef { offset, ..piece(segment, 1).record };
            Piece { record, ..piece(segment, 1) }
        };
        let pieces = [at(1, 32), at(1, 132), at(1, 40_000), at(2, 32)];
        assert_eq!(ranges(pieces.iter()), 3);
        assert_eq!(ranges([].iter()), 0);
        assert!(is_scattered(&pieces.map(|p| (0, p))) && !is_scattered(&[(0, pieces[0]), (1, pieces[3])]));
    }

    #[test]
    fn others_come_along_where_they_are_not_more() {
        let pieces = [piece(1, 0b1), piece(2, 0b10), piece(3, 0b1100)];
        let of = |segment: u64| move |p: &Piece| p.record.segment.number() == segment;
        assert_eq!(gather(&pieces, of(1), Reach::Fair), [pieces[0]]);
        assert_eq!(gather(&pieces, of(3), Reach::Fair), pieces);
        assert_eq!(gather(&pieces, of(3), Reach::Bare), [pieces[2]]);
        assert!(gather(&pieces, of(9), Reach::Fair).is_empty());
        assert_eq!(gather(&pieces, of(9), Reach::Whole), pieces);
        assert!(gather(&pieces[..1], of(9), Reach::Whole).is_empty(), "one piece is whole already");
        assert_eq!(gather(&pieces[..1], of(1), Reach::Whole), pieces[..1]);
    }
}
