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
    /// Pieces from this one on that are read and leased as one, and that its range covers; none for a piece that an
    /// earlier one covers.
    pub(crate) n_joined: u32,
}

impl Piece {
    /// The most memory that it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        if self.is_covered() { 0 } else { padded_len(self.extent.len) }
    }

    fn is_big_pinned(&self) -> bool {
        self.is_pinned && !self.is_covered() && self.extent.len > KEPT_BYTES
    }

    /// Whether it is a part of an earlier one.
    pub(crate) fn is_covered(&self) -> bool {
        self.n_joined == 0
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
            n_joined: 1,
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

/// The first piece of each read of `plan`, and one more.
pub(crate) fn firsts(pieces: &[Piece], plan: &PassPlan) -> Vec<usize> {
    let mut firsts = Vec::with_capacity(plan.reads.len() + 1);
    let mut at = 0;
    for read in &plan.reads {
        firsts.push(at);
        let mut rest = read.extent.len;
        while rest > 0 {
            rest -= pieces[at].extent.len;
            at += pieces[at].n_joined as usize;
        }
    }
    firsts.push(at);
    firsts
}

/// The most bytes of pieces that are joined: threads that compute meet after each lease, so leases should not be short, and
/// a reader brings it as a whole.
const JOINED_BYTES: u64 = 4 << 20;

/// Joins pinned pieces that follow each other in a read of `plan`.
pub(crate) fn join(pieces: &mut [Piece], plan: &PassPlan) {
    for bounds in firsts(pieces, plan).windows(2) {
        let mut lead = bounds[0];
        for at in bounds[0] + 1..bounds[1] {
            let (len, more) = (pieces[lead].extent.len, pieces[at].extent.len);
            if pieces[lead].is_pinned && pieces[at].is_pinned && len + more <= JOINED_BYTES {
                pieces[lead].extent.len += more;
                pieces[lead].n_joined += 1;
                pieces[at].n_joined = 0;
            } else {
                lead = at;
            }
        }
    }
}

/// Pins pieces, joined where they follow each other, until they take at most `budget_bytes`.
pub(crate) fn place(mut apart: Vec<Piece>, plan: &PassPlan, budget_bytes: u64) -> Vec<Piece> {
    let joined = |pieces: &[Piece]| {
        let mut pieces = pieces.to_vec();
        join(&mut pieces, plan);
        pieces
    };
    let mut all = apart.clone();
    pin(&mut all, u64::MAX);
    let all = joined(&all);
    if pinned_bytes(&all) <= budget_bytes {
        return all;
    }
    let mut pieces = joined(&apart);
    loop {
        // Joined pieces take less than they do one by one: that much more can be pinned.
        let spared = pinned_bytes(&apart) - pinned_bytes(&pieces);
        let before = pinned_bytes(&apart);
        pin(&mut apart, budget_bytes + spared);
        if pinned_bytes(&apart) == before {
            return pieces;
        }
        pieces = joined(&apart);
    }
}

/// Makes a joined piece the pieces again that it was.
pub(crate) fn part(pieces: &mut [Piece], lead: usize) {
    let Piece { is_pinned, n_joined, .. } = pieces[lead];
    let parts = &mut pieces[lead..][..n_joined as usize];
    if let [first, second, ..] = parts {
        first.extent.len = second.extent.offset - first.extent.offset;
    }
    parts.iter_mut().for_each(|piece| (piece.n_joined, piece.is_pinned) = (1, is_pinned));
}

/// Memory that [`unpin`] can give back, in bytes.
pub(crate) fn unpinnable_bytes(pieces: &[Piece]) -> u64 {
    let big = pieces.iter().filter(|piece| piece.is_big_pinned());
    big.map(Piece::memory_bytes).sum()
}

/// Pinned pieces that are let go together: side by side in memory they are whole large pages but for the ends, and the
/// ring reads as much ahead.
const LET_GO_BYTES: u64 = 8 << 20;

/// Lets go of pinned pieces, joined ones as a whole, of at least `bytes`, in runs that are spread evenly over the pass, and
/// gives their indices; of all that can be let go where that is less.
pub(crate) fn unpin(pieces: &mut [Piece], bytes: u64) -> Vec<usize> {
    let share = (bytes as f64 / unpinnable_bytes(pieces).max(1) as f64).min(1.0);
    let (mut run, mut run_bytes) = (Vec::new(), 0);
    let (mut wanted, mut freed, mut let_go) = (0.0, 0, Vec::new());
    for i in 0..=pieces.len() {
        let big = pieces.get(i).filter(|piece| piece.is_big_pinned());
        if let Some(piece) = big {
            run.push(i);
            run_bytes += piece.memory_bytes();
        }
        if run_bytes < LET_GO_BYTES && i < pieces.len() {
            continue;
        }
        wanted += run_bytes as f64 * share;
        // Sooner too many than too few, but of the last run no more than is asked for.
        if (freed as f64) < wanted - 0.5 {
            for &piece in &run {
                if freed >= bytes {
                    break;
                }
                freed += pieces[piece].memory_bytes();
                pieces[piece].is_pinned = false;
                let_go.push(piece);
            }
        }
        run.clear();
        run_bytes = 0;
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
        let total = total_bytes(&all);
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
    fn joined_pieces_are_those_of_a_read_and_can_be_parted() {
        let plan = plan(&[(1, 4096), (4000, 4096), (4000, 4096)]);
        let all = cut(&plan, 256 << 10);
        let before = firsts(&all, &plan);
        for percent in [0, 30, 80, 100] {
            let mut pieces = all.clone();
            pin(&mut pieces, total_bytes(&all) * percent / 100);
            let apart = pieces.clone();
            join(&mut pieces, &plan);
            assert_eq!(firsts(&pieces, &plan), before);
            assert!(pinned_bytes(&pieces) <= pinned_bytes(&apart));
            let leads: Vec<usize> = (0..pieces.len()).filter(|i| !pieces[*i].is_covered()).collect();
            assert_eq!(leads.len() < pieces.len(), percent > 50, "{percent} %");
            for &lead in &leads {
                let Piece { extent, n_joined, .. } = pieces[lead];
                assert!(extent.len <= JOINED_BYTES);
                // Of one read, and nothing is left out.
                assert!(before.windows(2).any(|b| b[0] <= lead && lead + n_joined as usize <= b[1]));
                let parts = &apart[lead..][..n_joined as usize];
                assert_eq!(extent.len, parts.iter().map(|piece| piece.extent.len).sum::<u64>());
                assert!(n_joined == 1 || parts.iter().all(|piece| piece.is_pinned));
            }
            for lead in leads {
                let range = lead..lead + pieces[lead].n_joined as usize;
                part(&mut pieces, lead);
                assert_eq!(pieces[range.clone()], apart[range]);
            }
            assert_eq!(pieces, apart);
        }
    }

    #[test]
    fn what_joining_spares_is_pinned_as_well() {
        let plan = plan(&[(1, 4096), (4000, 4096), (4000, 4096)]);
        let all = cut(&plan, 256 << 10);
        let of_all = place(all.clone(), &plan, u64::MAX);
        let needed = pinned_bytes(&of_all);
        assert!(of_all.iter().all(|piece| piece.is_pinned) && needed < total_bytes(&all));
        assert_eq!(place(all.clone(), &plan, needed), of_all, "what all takes is enough for all");
        for percent in [0, 1, 50, 90, 99] {
            let budget = needed * percent / 100;
            let pinned = pinned_bytes(&place(all.clone(), &plan, budget));
            assert!(pinned <= budget.max(pinned_bytes(&all)), "{percent} %: {pinned} of {budget}");
            assert!(pinned + (300 << 10) > budget, "{percent} %: {pinned} of {budget}");
        }
    }

    fn total_bytes(pieces: &[Piece]) -> u64 {
        pieces.iter().map(Piece::memory_bytes).sum()
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
