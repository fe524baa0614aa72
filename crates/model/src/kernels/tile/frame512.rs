//! What AVX-512 and AMX share: panels filled by AVX-512, and float terms added to sixteen results at once. How
//! sums are formed in between is up to [`Multiply`].

use super::{MAX_PANELS, PANEL_LEN, PANEL_ROWS, Panel, Rows, Scratch, Task, n_pairs};
use crate::kernels::activations::{Activations, Blocks256};
use crate::kernels::avx512::*;
use crate::kernels::dot::x86::prefetch;
use crate::kernels::format::*;
use std::arch::x86_64::*;
use std::array::from_fn;
use std::marker::PhantomData;

/// How panels are multiplied.
pub(super) trait Multiply {
    /// Whether quants are multiplied without the offset of the type: those of units of 32 as signed bytes, those of
    /// super-blocks as [`Multiply::prepare`] leaves them.
    const SIGNED: bool;
    /// What there is to do before a task, and after it.
    ///
    /// # Safety
    /// The machine has the instruction set that the implementation is for; so for the others.
    unsafe fn begin(small: bool);
    /// # Safety
    /// As [`Multiply::begin`].
    unsafe fn end();
    /// What there is to do with a panel of super-blocks before it is multiplied.
    ///
    /// # Safety
    /// As [`Multiply::begin`].
    unsafe fn prepare<F: Format256>(panel: &mut Panel);
    /// Adds the products of super-block `b` to the results.
    ///
    /// # Safety
    /// As [`Multiply::begin`]; the activations have a super-block `b`, and the results a row for each of theirs
    /// and for their padding in every panel.
    unsafe fn large<F: Format256>(
        panels: &[Panel],
        acts: &Activations,
        b: usize,
        out: &mut [[f32; PANEL_ROWS]],
    );
    /// Adds the products of units `first` to `first + n - 1`.
    ///
    /// # Safety
    /// As [`Multiply::large`], for the blocks of the units.
    unsafe fn small<F: Format32>(
        panels: &[Panel],
        acts: &Activations,
        first: usize,
        n: usize,
        out: &mut [[f32; PANEL_ROWS]],
    );
}

/// The task of a format with one way to multiply.
pub(super) struct TaskOf<M>(pub(super) PhantomData<M>);

impl<M: Multiply> FormatVisitor for TaskOf<M> {
    type Out = Task;
    fn small<F: Format32>(self) -> Task {
        task_32::<F, M>
    }
    fn large<F: Format256>(self) -> Task {
        task_256::<F, M>
    }
}

/// # Safety
/// As [`Task`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn task_256<F: Format256, M: Multiply>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
    let n_panels = rows.n_panels().min(MAX_PANELS);
    scratch.clear(n_panels, acts.n_rows());
    // SAFETY: as the caller promises.
    unsafe {
        M::begin(false);
        for b in 0..acts.row_len() / PANEL_LEN {
            for (i, panel) in scratch.panels[..n_panels].iter_mut().enumerate() {
                fill_256::<F, M>(panel, &rows.of_panel(i).map(|row| row.add(b * F::TYPE.block_bytes())));
                M::prepare::<F>(panel);
            }
            M::large::<F>(&scratch.panels[..n_panels], acts, b, &mut scratch.results);
        }
        M::end();
    }
}

/// # Safety
/// As [`Task`].
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn task_32<F: Format32, M: Multiply>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
    let n_panels = rows.n_panels().min(MAX_PANELS);
    scratch.clear(n_panels, acts.n_rows());
    let n_units = acts.row_len() / 32 * F::PARTS;
    // SAFETY: as the caller promises.
    unsafe {
        M::begin(true);
        for first in (0..n_units).step_by(PANEL_LEN / 32) {
            let n = (n_units - first).min(PANEL_LEN / 32);
            for (i, panel) in scratch.panels[..n_panels].iter_mut().enumerate() {
                fill_32::<F>(panel, &rows.of_panel(i), first, n, M::SIGNED);
            }
            M::small::<F>(&scratch.panels[..n_panels], acts, first, n, &mut scratch.results);
        }
        M::end();
    }
}

/// Stores the first `N` (a multiple of four) of sixteen vectors at `out`, where vector i holds elements i of all `rows`;
/// elements are 32 bits.
///
/// # Safety
/// `N` times 64 bytes at `out` are writable.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn store_transposed<const N: usize>(rows: &[__m512i; 16], out: *mut __m512i) {
    let zero = _mm512_setzero_si512();
    let mut pairs = [zero; 16];
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // fours[4i + c]: in lane L of 128 bits, element 4L + c of rows 4i to 4i + 3.
    let mut fours = [zero; 16];
    for i in (0..16).step_by(4) {
        for half in 0..2 {
            let (a, b) = (pairs[i + half], pairs[i + half + 2]);
            fours[i + 2 * half] = _mm512_unpacklo_epi64(a, b);
            fours[i + 2 * half + 1] = _mm512_unpackhi_epi64(a, b);
        }
    }
    for c in 0..4 {
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        // Lanes 0 and 2, and 1 and 3, of rows 0 to 7 and of rows 8 to 15.
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
        let odd = [_mm512_shuffle_i32x4::<0xDD>(a, b), _mm512_shuffle_i32x4::<0xDD>(d, e)];
        // SAFETY: as the caller promises; no alignment is asked for.
        unsafe {
            _mm512_storeu_si512(out.add(c), _mm512_shuffle_i32x4::<0x88>(even[0], even[1]));
            if N > 4 {
                _mm512_storeu_si512(out.add(4 + c), _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]));
            }
            if N > 8 {
                _mm512_storeu_si512(out.add(8 + c), _mm512_shuffle_i32x4::<0xDD>(even[0], even[1]));
                _mm512_storeu_si512(out.add(12 + c), _mm512_shuffle_i32x4::<0xDD>(odd[0], odd[1]));
            }
        }
    }
}

/// Puts `panel.rows` in the order of steps.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn transpose_rows(panel: &mut Panel) {
    for quarter in 0..4 {
        let mut rows = [_mm512_setzero_si512(); 16];
        // SAFETY: 64 bytes of a row of 256, and 16 vectors of 64 bytes of a quarter of the plane.
        unsafe {
            for (place, row) in rows.iter_mut().zip(&panel.rows) {
                *place = _mm512_loadu_si512(row.as_ptr().add(64 * quarter).cast());
            }
            store_transposed::<16>(&rows, panel.quants[0].as_mut_ptr().add(1024 * quarter).cast());
        }
    }
}

/// Whether pairs of minimums are there: those of the type, or what the offset adds to products of unsigned quants.
const fn has_pairs<F: Format256>(signed: bool) -> bool {
    const { assert!(F::OFFSET == 0 || !F::HAS_MINIMUMS) };
    F::HAS_MINIMUMS || F::OFFSET != 0 && !signed
}

/// The sums of activations of row `t` that the pairs of minimums are multiplied with.
#[inline]
pub(super) fn pair_sums<'a, F: Format256>(acts: &Blocks256<'a>, t: usize) -> &'a [[i16; 2]] {
    match n_pairs::<F>() {
        4 => acts.sums_of_32[t].as_chunks().0,
        _ => acts.sums[t].as_chunks().0,
    }
}

/// Unpacks one super-block of each row.
///
/// # Safety
/// All blocks are readable.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn fill_256<F: Format256, M: Multiply>(panel: &mut Panel, blocks: &[*const u8; PANEL_ROWS]) {
    let mut block = Super::EMPTY;
    let mut scales = [_mm512_setzero_si512(); PANEL_ROWS];
    let mut minimums = [_mm512_setzero_si512(); PANEL_ROWS];
    for r in 0..PANEL_ROWS {
        // SAFETY: as the caller promises; a row of the panel has room for four vectors.
        unsafe {
            let quarters = F::quarters_512(blocks[r], &mut block);
            for (i, quarter) in quarters.into_iter().enumerate() {
                _mm512_storeu_si512(panel.rows[r].as_mut_ptr().add(64 * i).cast(), quarter);
            }
            let scales_of_16 = _mm256_loadu_si256(block.scales.as_ptr().cast());
            let wide = _mm512_cvtepu16_epi32(scales_of_16);
            scales[r] = _mm512_or_si512(wide, _mm512_slli_epi32::<16>(wide));
            if has_pairs::<F>(M::SIGNED) {
                let of_16 = match F::HAS_MINIMUMS {
                    true => _mm256_loadu_si256(block.minimums.as_ptr().cast()),
                    // What the offset of the quants adds is taken off as if it were a minimum.
                    false => _mm256_mullo_epi16(scales_of_16, _mm256_set1_epi16(i16::from(F::OFFSET))),
                };
                minimums[r] = match n_pairs::<F>() {
                    // Of two equal neighbours one is kept.
                    4 => _mm512_castsi128_si512(_mm256_cvtepi32_epi16(of_16)),
                    _ => _mm512_castsi256_si512(of_16),
                };
            }
            // The next block of the row: so many rows at once are too many for the processor to foresee.
            prefetch(blocks[r].wrapping_add(F::TYPE.block_bytes()), F::TYPE.block_bytes());
        }
        panel.unit_scales[0][r] = block.scale;
        panel.unit_minimums[0][r] = block.minimum_scale;
    }
    transpose_rows(panel);
    // SAFETY: the arrays are vectors of 64 bytes.
    unsafe {
        store_transposed::<16>(&scales, panel.scales.as_mut_ptr().cast());
        if has_pairs::<F>(M::SIGNED) {
            let place = panel.minimums.as_mut_ptr().cast();
            match n_pairs::<F>() {
                4 => store_transposed::<4>(&minimums, place),
                _ => store_transposed::<8>(&minimums, place),
            }
        }
    }
}

/// Unpacks `n` units of each row from unit `first` on.
///
/// # Safety
/// All units are readable.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn fill_32<F: Format32>(
    panel: &mut Panel,
    rows: &[*const u8; PANEL_ROWS],
    first: usize,
    n: usize,
    signed: bool,
) {
    let last = first + n - 1;
    let bytes_of = |unit: usize| unit / F::PARTS * 32 / F::TYPE.block_len() * F::TYPE.block_bytes();
    for row in rows {
        // The next units of the row: so many rows at once are too many for the processor to foresee.
        let next = bytes_of(first + n);
        prefetch(row.wrapping_add(next), bytes_of(first + 2 * n) + 64 - next);
    }
    let halves: [[*const u8; 8]; 2] = [from_fn(|r| rows[r]), from_fn(|r| rows[8 + r])];
    for pair in 0..n.div_ceil(2) {
        let units = [first + 2 * pair, (first + 2 * pair + 1).min(last)];
        // SAFETY: as the caller promises; a row of the panel has room for four vectors.
        unsafe {
            for (row, place) in rows.iter().zip(&mut panel.rows) {
                let mut quants = F::pair_512(*row, units);
                if signed {
                    quants = _mm512_sub_epi8(quants, _mm512_set1_epi8(F::OFFSET as i8));
                }
                _mm512_storeu_si512(place.as_mut_ptr().add(64 * pair).cast(), quants);
            }
            let low = F::scales_512(&halves[0], units);
            let high = F::scales_512(&halves[1], units);
            store_pair(&mut panel.unit_scales, pair, low[0], high[0]);
            if F::HAS_MINIMUM {
                store_pair(&mut panel.unit_minimums, pair, low[1], high[1]);
            }
        }
    }
    transpose_rows(panel);
}

/// Floats of two units: `low` holds those of weight rows 0 to 7 (the first unit's, then the second's), `high` those
/// of the others.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn store_pair(units: &mut [[f32; PANEL_ROWS]; 8], pair: usize, low: __m512, high: __m512) {
    // SAFETY: a unit is 16 floats.
    unsafe {
        _mm512_storeu_ps(units[2 * pair].as_mut_ptr(), _mm512_shuffle_f32x4::<0x44>(low, high));
        _mm512_storeu_ps(units[2 * pair + 1].as_mut_ptr(), _mm512_shuffle_f32x4::<0xEE>(low, high));
    }
}

/// The sixteen 32-bit values of `row`, whatever they are.
///
/// # Safety
/// `T` is 64 bytes of plain values.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn vector<T>(row: &T) -> __m512i {
    const { assert!(size_of::<T>() == 64) };
    // SAFETY: 64 bytes, as just checked.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(row).cast()) }
}

/// Adds the terms of a super-block to the results of one row of activations.
///
/// `sum` is the integer dot of each weight row as `M` forms it, `scale` that of the activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) fn add_large<F: Format256, M: Multiply, D: Dp>(
    panel: &Panel,
    mut sum: __m512i,
    scale: f32,
    sums: &[[i16; 2]],
    out: &mut [f32; PANEL_ROWS],
) {
    let scale = _mm512_set1_ps(scale);
    // SAFETY: all rows are 16 values; the callers have what `D` needs.
    unsafe {
        let mut minimum = _mm512_setzero_si512();
        if has_pairs::<F>(M::SIGNED) {
            for (pair, sum) in panel.minimums.iter().zip(sums) {
                let sum = sum.as_ptr().cast::<i32>().read_unaligned();
                minimum = D::dp_16(minimum, vector(pair), _mm512_set1_epi32(sum));
            }
        }
        if !F::HAS_MINIMUMS {
            sum = _mm512_sub_epi32(sum, minimum);
        }
        let scales = _mm512_mul_ps(_mm512_castsi512_ps(vector(&panel.unit_scales[0])), scale);
        let mut acc = _mm512_castsi512_ps(vector(out));
        acc = _mm512_fmadd_ps(scales, _mm512_cvtepi32_ps(sum), acc);
        if F::HAS_MINIMUMS {
            let scales = _mm512_mul_ps(_mm512_castsi512_ps(vector(&panel.unit_minimums[0])), scale);
            acc = _mm512_fnmadd_ps(scales, _mm512_cvtepi32_ps(minimum), acc);
        }
        _mm512_storeu_ps(out.as_mut_ptr(), acc);
    }
}

/// Adds the terms of a unit of 32; `row` are the scale and the scaled sum of the activations.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) fn add_small<F: Format32>(
    panel: &Panel,
    unit: usize,
    sum: __m512i,
    (scale, scaled_sum): (f32, f32),
    mut acc: __m512,
) -> __m512 {
    // SAFETY: all rows are 16 values.
    unsafe {
        let scales = _mm512_castsi512_ps(vector(&panel.unit_scales[unit]));
        let scales = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
        acc = _mm512_fmadd_ps(scales, _mm512_cvtepi32_ps(sum), acc);
        if F::HAS_MINIMUM {
            let minimums = _mm512_castsi512_ps(vector(&panel.unit_minimums[unit]));
            acc = _mm512_fmadd_ps(minimums, _mm512_set1_ps(scaled_sum), acc);
        }
        acc
    }
}
