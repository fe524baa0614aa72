//! AVX-512: a step of a panel is one vector of sixteen weight rows, multiplied with four activations that are
//! broadcast from memory.

use super::frame512::{Multiply, TaskOf, add_large, add_small, pair_sums, vector};
use super::{PANEL_LEN, PANEL_ROWS, Panel, TOKENS, Task};
use crate::kernels::activations::Activations;
use crate::kernels::avx512::*;
use crate::kernels::format::*;
use crate::kernels::isa::Isa;
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Rows of activations that are multiplied at once, so that each load of weights serves so many.
const WIDE: usize = 8;

pub(super) fn task_of(ty: TensorType, isa: Isa) -> Option<Task> {
    match isa {
        Isa::Avx512 => visit(ty, TaskOf(PhantomData::<Rows512<NoVnni>>)),
        _ => visit(ty, TaskOf(PhantomData::<Rows512<Vnni>>)),
    }
}

/// Vector dots.
struct Rows512<D>(PhantomData<D>);

impl<D: Dp> Multiply for Rows512<D> {
    const SIGNED: bool = false;

    unsafe fn begin(_: bool) {}
    unsafe fn end() {}
    unsafe fn prepare<F: Format256>(_: &mut Panel) {}

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn large<F: Format256>(
        panels: &[Panel],
        acts: &Activations,
        b: usize,
        out: &mut [[f32; PANEL_ROWS]],
    ) {
        let n = acts.n_rows();
        for first in (0..n).step_by(WIDE) {
            // The last row stands in for those that are missing, and is not stored twice.
            let mut quants = [std::ptr::null(); WIDE];
            let mut sums_of = [[0; 8]; WIDE];
            for t in 0..WIDE {
                let row = acts.row_256((first + t).min(n - 1));
                quants[t] = row.quants[PANEL_LEN * b..].as_ptr();
                sums_of[t] = pair_sums::<F>(&row.sums.as_chunks::<16>().0[b]);
            }
            for (panel, out) in panels.iter().zip(out.chunks_exact_mut(n.next_multiple_of(TOKENS))) {
                let mut totals = [_mm512_setzero_si512(); WIDE];
                let steps = F::GROUP.min(64) / 4;
                for group in 0..64 / steps {
                    let mut sums = [_mm512_setzero_si512(); WIDE];
                    for step in group * steps..(group + 1) * steps {
                        // SAFETY: step is below 64, of which the plane and 256 activations have so many.
                        unsafe {
                            let weights = _mm512_loadu_si512(panel.quants[0].as_ptr().add(64 * step).cast());
                            for t in 0..WIDE {
                                let four = quants[t].add(4 * step).cast::<i32>().read_unaligned();
                                let four = _mm512_set1_epi32(four);
                                sums[t] = match F::MAX_QUANT {
                                    ..128 => D::dp(sums[t], weights, four),
                                    _ => D::dp_8_bit(sums[t], weights, four),
                                };
                            }
                        }
                    }
                    // SAFETY: a group of scales is 64 bytes.
                    let scale = _mm512_srai_epi32::<16>(unsafe { vector(&panel.scales[group * steps / 4]) });
                    for t in 0..WIDE {
                        totals[t] = _mm512_add_epi32(totals[t], _mm512_mullo_epi32(sums[t], scale));
                    }
                }
                for t in 0..WIDE.min(n - first) {
                    let row = acts.row_256(first + t);
                    let mut total = totals[t];
                    if F::OFFSET != 0 {
                        let sums = &row.sums.as_chunks::<16>().0[b];
                        total = _mm512_sub_epi32(total, offset::<F, D>(panel, sums));
                    }
                    add_large::<F, D>(panel, total, row.scales[b], &sums_of[t], &mut out[first + t]);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn small<F: Format32>(
        panels: &[Panel],
        acts: &Activations,
        first_unit: usize,
        n_units: usize,
        out: &mut [[f32; PANEL_ROWS]],
    ) {
        let n = acts.n_rows();
        for first in (0..n).step_by(WIDE) {
            let mut rows = [acts.row_32(first); WIDE];
            for (t, row) in rows.iter_mut().enumerate() {
                // The last row stands in for those that are missing.
                *row = acts.row_32((first + t).min(n - 1));
            }
            for (panel, out) in panels.iter().zip(out.chunks_exact_mut(n.next_multiple_of(TOKENS))) {
                let mut acc = [_mm512_setzero_ps(); WIDE];
                for t in 0..WIDE {
                    // SAFETY: the results are 16 floats each, padded to more than `WIDE` rows.
                    acc[t] = _mm512_castsi512_ps(unsafe { vector(&out[first + t]) });
                }
                for unit in 0..n_units {
                    let b = (first_unit + unit) / F::PARTS;
                    let mut sums = [_mm512_setzero_si512(); WIDE];
                    for step in 0..8 {
                        // SAFETY: a unit is 8 steps of the plane and 32 activations of block `b`, which is there.
                        unsafe {
                            let at = 64 * (8 * unit + step);
                            let weights = _mm512_loadu_si512(panel.quants[0].as_ptr().add(at).cast());
                            for t in 0..WIDE {
                                let four = rows[t].quants.as_ptr().add(32 * b + 4 * step);
                                let four = _mm512_set1_epi32(four.cast::<i32>().read_unaligned());
                                sums[t] = match F::MAX_QUANT {
                                    ..128 => D::dp(sums[t], weights, four),
                                    _ => D::dp_8_bit(sums[t], weights, four),
                                };
                            }
                        }
                    }
                    for t in 0..WIDE {
                        let offset = i32::from(F::OFFSET) * rows[t].sums[b];
                        let sum = _mm512_sub_epi32(sums[t], _mm512_set1_epi32(offset));
                        let row = (rows[t].scales[b], rows[t].scaled_sums[b]);
                        acc[t] = add_small::<F>(panel, unit, sum, row, acc[t]);
                    }
                }
                for (out, acc) in out[first..].iter_mut().zip(acc) {
                    // SAFETY: the results are 16 floats each.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), acc) };
                }
            }
        }
    }
}

/// What the offset of the quants adds to the dot of each weight row.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn offset<F: Format256, D: Dp>(panel: &Panel, sums: &[i16; 16]) -> __m512i {
    let mut offset = _mm512_setzero_si512();
    for (scales, sum) in panel.scales.iter().zip(sums) {
        // Scales stand twice in a lane: one of them is multiplied with the sum, the other with 0.
        let sum = _mm512_set1_epi32(i32::from(*sum as u16));
        // SAFETY: a group of scales is 64 bytes; the callers have what `D` needs.
        offset = unsafe { D::dp_16(offset, vector(scales), sum) };
    }
    _mm512_mullo_epi32(offset, _mm512_set1_epi32(i32::from(F::OFFSET)))
}
