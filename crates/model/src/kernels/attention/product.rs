//! The one inner loop of attention: a few rows times a block of keys, or of values.

use super::super::vector::{LANES, Vector};

/// Rows that one product takes at most: with 64 columns they fill the registers of AVX-512, with 16 those of AVX2.
pub(crate) const MAX_ROWS: usize = 6;

/// Sixteen floats of scratch, where a load never crosses a cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [f32; LANES]);

/// Sixteen values that the right side of a product holds.
pub(in super::super) trait Group: Copy {
    fn widen<V: Vector>(&self) -> V;
}

impl Group for Line {
    #[inline(always)]
    fn widen<V: Vector>(&self) -> V {
        V::from_floats(&self.0)
    }
}

/// f16 values.
impl Group for [u8; 2 * LANES] {
    #[inline(always)]
    fn widen<V: Vector>(&self) -> V {
        V::from_halves(self)
    }
}

/// `out[r][..] = left[r][0] * right[0][..] + left[r][1] * right[1][..] + ..`, each element one chain of fused
/// multiply-adds in this order, from zero or going on from what `out` holds.
pub(crate) struct Product<'a, G> {
    /// `[n_rows][left_stride]`, of which the first `n_terms` of each row count.
    pub(crate) left: &'a [f32],
    pub(crate) left_stride: usize,
    /// `[n_terms][right_stride]`, of which the first `n_groups` of each row count.
    pub(crate) right: &'a [G],
    pub(crate) right_stride: usize,
    /// At most [`MAX_ROWS`].
    pub(crate) n_rows: usize,
    pub(crate) n_terms: usize,
    /// Columns of `out` in groups of 16.
    pub(crate) n_groups: usize,
    /// `out` is `[n_rows][out_stride]`.
    pub(crate) out_stride: usize,
    /// Whether chains go on from what `out` holds.
    pub(crate) adds: bool,
}

#[inline(always)]
pub(in super::super) fn multiply<V: Vector, G: Group>(p: &Product<'_, G>, out: &mut [f32]) {
    if p.n_terms == 0 || p.n_rows == 0 {
        return;
    }
    assert!((p.n_rows - 1) * p.left_stride + p.n_terms <= p.left.len());
    assert!((p.n_terms - 1) * p.right_stride + p.n_groups <= p.right.len());
    assert!((p.n_rows - 1) * p.out_stride + p.n_groups * LANES <= out.len());
    // SAFETY: just asserted what `rows` asks for.
    unsafe {
        match p.n_rows {
            1 => rows::<V, G, 1>(p, out),
            2 => rows::<V, G, 2>(p, out),
            3 => rows::<V, G, 3>(p, out),
            4 => rows::<V, G, 4>(p, out),
            5 => rows::<V, G, 5>(p, out),
            MAX_ROWS => rows::<V, G, MAX_ROWS>(p, out),
            _ => unreachable!("a product of at most {MAX_ROWS} rows"),
        }
    }
}

/// # Safety
/// The slices hold what `p` says of them; it has `R` rows.
#[inline(always)]
unsafe fn rows<V: Vector, G: Group, const R: usize>(p: &Product<'_, G>, out: &mut [f32]) {
    let mut group = 0;
    while group < p.n_groups {
        let left = p.n_groups - group;
        // SAFETY: as the caller promises, and the groups stay within `n_groups`.
        unsafe {
            group += if V::TILE_VECTORS >= 4 && left >= 4 {
                tile::<V, G, R, 4>(p, group, out);
                4
            } else if V::TILE_VECTORS >= 2 && left >= 2 {
                tile::<V, G, R, 2>(p, group, out);
                2
            } else {
                tile::<V, G, R, 1>(p, group, out);
                1
            };
        }
    }
}

/// Columns of groups `first..first + C`, kept in registers through all terms.
///
/// # Safety
/// The slices hold what `p` says of them; it has `R` rows and at least `first + C` groups.
// Loops over the constants R and C read as what they unroll to.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn tile<V: Vector, G: Group, const R: usize, const C: usize>(
    p: &Product<'_, G>,
    first: usize,
    out: &mut [f32],
) {
    let left = p.left.as_ptr();
    let out = out.as_mut_ptr();
    let mut acc = [[V::splat(0.0); C]; R];
    // SAFETY: row r of `left` has `n_terms` values, row k of `right` has groups up to `first + C`, row r of `out`
    // has as many; all within their slices, as the caller promises.
    unsafe {
        if p.adds {
            for r in 0..R {
                for c in 0..C {
                    let from = out.add(r * p.out_stride + (first + c) * LANES).cast::<[f32; LANES]>();
                    acc[r][c] = V::from_floats(&*from);
                }
            }
        }
        let mut right = p.right.as_ptr().add(first);
        for k in 0..p.n_terms {
            let mut groups = [V::splat(0.0); C];
            for c in 0..C {
                groups[c] = (*right.add(c)).widen();
            }
            for r in 0..R {
                let factor = V::splat(*left.add(r * p.left_stride + k));
                for c in 0..C {
                    acc[r][c] = factor.fma(groups[c], acc[r][c]);
                }
            }
            // The last step may leave the slice, which a pointer that is not used may not: hence wrapping.
            right = right.wrapping_add(p.right_stride);
        }
        for r in 0..R {
            for c in 0..C {
                let to = out.add(r * p.out_stride + (first + c) * LANES).cast::<[f32; LANES]>();
                acc[r][c].write(&mut *to);
            }
        }
    }
}
