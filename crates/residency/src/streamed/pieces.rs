//! How planned ranges are cut into pieces, and which pieces stay in memory.

use crate::blocks::padded_len;
use crate::extent::Extent;
use crate::source::{PassPlan, Planned};

/// Ranges up to this length are always kept: reading them takes a request each, and together they are small.
pub(crate) const KEPT_BYTES: u64 = 64 << 10;

/// What one lease covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Whole rows.
    pub(crate) extent: Extent,
    pub(crate) stage: u32,
    /// Read once and kept; else read in every pass.
    pub(crate) is_pinned: bool,
}

impl Piece {
    /// The most memory that it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        padded_len(self.extent.len)
    }
}

/// The longest row of a plan whose range is not kept anyway, in bytes: what a piece must be able to hold.
pub(crate) fn longest_row(plan: &PassPlan) -> u64 {
    let cut = plan.reads.iter().filter(|read| read.extent.len > KEPT_BYTES);
    cut.map(|read| read.unit).max().unwrap_or(0)
}

/// Cuts the reads of `plan` into pieces whose memory is at most `piece_bytes`, or one row where that is more.
pub(crate) fn cut(plan: &PassPlan, piece_bytes: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for Planned { extent, unit, stage } in &plan.reads {
        let kept = extent.len <= KEPT_BYTES;
        let n_rows = extent.len / unit;
        let most_rows = match kept {
            true => n_rows,
            false => ((piece_bytes.saturating_sub(padded_len(1))) / unit).clamp(1, n_rows),
        };
        // Pieces of even lengths: none is a short rest that costs a request of its own.
        let n_pieces = n_rows.div_ceil(most_rows);
        let row_of = |i: u64| i * n_rows / n_pieces;
        pieces.extend((0..n_pieces).map(|i| Piece {
            extent: extent.slice(row_of(i) * unit, (row_of(i + 1) - row_of(i)) * unit),
            stage: *stage,
            is_pinned: kept,
        }));
    }
    pieces
}

/// Memory of the pieces that are pinned, in bytes.
pub(crate) fn pinned_bytes(pieces: &[Piece]) -> u64 {
    pieces.iter().filter(|piece| piece.is_pinned).map(Piece::memory_bytes).sum()
}

/// Pins pieces until all that are pinned take at most `budget_bytes`, spread evenly over the pass: so the disk has
/// work at every moment of it, and what is read ahead need not be much.
pub(crate) fn pin(pieces: &mut [Piece], budget_bytes: u64) {
    let room = budget_bytes.saturating_sub(pinned_bytes(pieces));
    let total: u64 = pieces.iter().filter(|piece| !piece.is_pinned).map(Piece::memory_bytes).sum();
    if total == 0 {
        return;
    }
    let share = (room as f64 / total as f64).min(1.0);
    let (mut allowed, mut taken) = (0.0, 0);
    for piece in pieces.iter_mut().filter(|piece| !piece.is_pinned) {
        let bytes = piece.memory_bytes();
        allowed += bytes as f64 * share;
        if (taken + bytes) as f64 <= allowed + 0.5 && taken + bytes <= room {
            piece.is_pinned = true;
            taken += bytes;
        }
    }
}

/// Memory that [`unpin`] can give back, in bytes.
pub(crate) fn unpinnable_bytes(pieces: &[Piece]) -> u64 {
    let big = pieces.iter().filter(|piece| piece.is_pinned && piece.extent.len > KEPT_BYTES);
    big.map(Piece::memory_bytes).sum()
}

/// Lets go of pinned pieces of at least `bytes`, spread evenly over the pass, and gives their indices; of all that can
/// be let go where that is less.
pub(crate) fn unpin(pieces: &mut [Piece], bytes: u64) -> Vec<usize> {
    let share = (bytes as f64 / unpinnable_bytes(pieces).max(1) as f64).min(1.0);
    let big = |(_, piece): &(usize, &mut Piece)| piece.is_pinned && piece.extent.len > KEPT_BYTES;
    let (mut wanted, mut freed, mut let_go) = (0.0, 0, Vec::new());
    for (i, piece) in pieces.iter_mut().enumerate().filter(big) {
        wanted += piece.memory_bytes() as f64 * share;
        // Sooner a piece too many than one too few.
        if (freed as f64) < wanted - 0.5 {
            freed += piece.memory_bytes();
            piece.is_pinned = false;
            let_go.push(i);
        }
    }
    let_go
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lens: &[(u64, u64)]) -> PassPlan {
        let mut offset = 32;
        let reads = lens.iter().enumerate().map(|(i, (n_rows, unit))| {
            let extent = Extent { file: 0, offset, len: n_rows * unit };
            offset += extent.len;
            Planned { extent, unit: *unit, stage: i as u32 }
        });
        PassPlan { reads: reads.collect(), choices: Vec::new() }
    }

    #[test]
    fn pieces_are_whole_rows_in_order_and_cover_everything() {
        let plan = plan(&[(1, 4096), (1000, 1000), (7, 300_000), (100, 656)]);
        for piece_bytes in [1, 100_000, 1 << 20, 1 << 30] {
            let pieces = cut(&plan, piece_bytes);
            let mut rest = &pieces[..];
            for read in &plan.reads {
                let mut at = read.extent.offset;
                while at < read.extent.offset + read.extent.len {
                    let (first, others) = rest.split_first().unwrap();
                    assert_eq!((first.extent.offset, first.stage), (at, read.stage));
                    assert_eq!(first.extent.len % read.unit, 0);
                    let one_row = first.extent.len == read.unit;
                    assert!(first.is_pinned || one_row || first.memory_bytes() <= piece_bytes);
                    at += first.extent.len;
                    rest = others;
                }
                assert_eq!(at, read.extent.offset + read.extent.len);
            }
            assert!(rest.is_empty());
            assert!(pieces[0].is_pinned && !pieces[1].is_pinned, "small ranges are kept");
        }
        assert_eq!(longest_row(&plan), 300_000);
    }

    #[test]
    fn what_is_pinned_fits_the_budget_and_is_spread() {
        let plan = plan(&[(1, 4096), (4000, 4096), (4000, 4096)]);
        let all = cut(&plan, 256 << 10);
        let total: u64 = all.iter().map(Piece::memory_bytes).sum();
        for percent in [0, 1, 10, 33, 50, 90, 99, 100] {
            let mut pieces = all.clone();
            let budget = total * percent / 100;
            pin(&mut pieces, budget);
            let floor = pinned_bytes(&all);
            let pinned = pinned_bytes(&pieces);
            assert!(pinned <= budget.max(floor), "{percent} %: {pinned} of {budget}");
            assert!(pinned + (300 << 10) > budget, "{percent} %: {pinned} of {budget}");
            // Each tenth of the pass has its share.
            for tenth in pieces.chunks(pieces.len().div_ceil(10)) {
                let here = pinned_bytes(tenth) * 100 / tenth.iter().map(Piece::memory_bytes).sum::<u64>();
                assert!(here.abs_diff(percent) <= 20, "{percent} %: {here} %");
            }
        }
    }

    #[test]
    fn what_is_let_go_is_enough_and_is_spread() {
        let plan = plan(&[(1, 4096), (4000, 4096), (4000, 4096)]);
        let mut all = cut(&plan, 256 << 10);
        pin(&mut all, u64::MAX);
        let total = unpinnable_bytes(&all);
        for percent in [0, 1, 30, 50, 99, 100, 200] {
            let (mut pieces, wanted) = (all.clone(), total * percent / 100);
            let let_go = unpin(&mut pieces, wanted);
            let freed = total - unpinnable_bytes(&pieces);
            assert!(freed >= wanted.min(total) && freed <= wanted + (300 << 10), "{percent} %: {freed}");
            assert_eq!(let_go.len(), pieces.iter().filter(|piece| !piece.is_pinned).count());
            assert!(pieces[0].is_pinned, "small ranges stay");
        }
    }
}
