//! AVX-512: a step of a panel is one vector of sixteen weight rows, multiplied with four activations that are
//! broadcast from memory.
// One index counts through several arrays in step here.
#![allow(clippy::needless_range_loop)]

use super::frame512::{Multiply, TaskOf, add_large, add_small, pair_sums, vector};
use super::{PANEL_LEN, PANEL_ROWS, Panel, TOKENS, Task};
use crate::kernels::activations::{Activations, Blocks256};
use crate::kernels::avx512::*;
use crate::kernels::dot::x86::prefetch;
use crate::kernels::format::*;
use crate::kernels::isa::Isa;
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Panels, and rows of activations, that are multiplied at once: their sums and totals fill three quarters of the
/// registers, and so many sums hide the latency of a product.
const TOGETHER: usize = 2;
const WIDE: usize = 6;

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
        let stride = acts.n_rows().next_multiple_of(TOKENS);
        let next = if b + 1 < acts.row_len() / PANEL_LEN { acts.blocks_256(b + 1).quants } else { &[] };
        let acts = acts.blocks_256(b);
        let n_calls = panels.len().div_ceil(TOGETHER);
        for (i, (panels, out)) in panels.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER * stride)).enumerate() {
            // The first call reads the activations from memory, the others from the cache, which has room for the next.
            let next = if i + 1 == n_calls { next } else { &[] };
            // SAFETY: as the caller promises.
            unsafe {
                match panels {
                    [first, second] => large::<F, D, 2>([first, second], acts, next, out),
                    _ => large::<F, D, 1>([&panels[0]], acts, next, out),
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn small<F: Format32>(
        panels: &[Panel],
        acts: &Activations,
        first: usize,
        n: usize,
        out: &mut [[f32; PANEL_ROWS]],
    ) {
        let stride = acts.n_rows().next_multiple_of(TOKENS);
        for (panels, out) in panels.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER * stride)) {
            // SAFETY: as the caller promises.
            unsafe {
                match panels {
                    [a, b] => small::<F, D, 2>([a, b], acts, first, n, out),
                    _ => small::<F, D, 1>([&panels[0]], acts, first, n, out),
                }
            }
        }
    }
}

/// Four activations for all rows of a panel.
///
/// # Safety
/// Four bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn broadcast(p: *const i8) -> __m512i {
    // SAFETY: as the caller promises.
    _mm512_set1_epi32(unsafe { p.cast::<i32>().read_unaligned() })
}

/// Adds the products of steps `first` to `first + n - 1` of panels whose quants start at `weights`, and of rows of
/// activations that start at `acts`.
///
/// # Safety
/// Panels and activations have these steps, and the machine what `D` needs.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn add_steps<D: Dp, const EIGHT_BITS: bool, const P: usize>(
    sums: &mut [[__m512i; WIDE]; P],
    weights: &[*const u8; P],
    acts: &[*const i8; WIDE],
    first: usize,
    n: usize,
) {
    for step in first..first + n {
        let mut of_panels = [_mm512_setzero_si512(); P];
        // SAFETY: as the caller promises; a step is 64 bytes of a panel and 4 activations.
        unsafe {
            for p in 0..P {
                of_panels[p] = _mm512_loadu_si512(weights[p].add(64 * step).cast());
            }
            for t in 0..WIDE {
                let four = broadcast(acts[t].add(4 * step));
                for p in 0..P {
                    sums[p][t] = match EIGHT_BITS {
                        false => D::dp(sums[p][t], of_panels[p], four),
                        true => D::dp_8_bit(sums[p][t], of_panels[p], four),
                    };
                }
            }
        }
    }
}

/// Adds the products of a super-block of some panels to their results, and asks for the activations `next`.
///
/// # Safety
/// As [`Multiply::large`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn large<F: Format256, D: Dp, const P: usize>(
    panels: [&Panel; P],
    acts: Blocks256<'_>,
    next: &[[i8; PANEL_LEN]],
    out: &mut [[f32; PANEL_ROWS]],
) {
    let n = acts.scales.len();
    let stride = n.next_multiple_of(TOKENS);
    let mut weights = [std::ptr::null(); P];
    for p in 0..P {
        weights[p] = panels[p].quants[0].as_ptr();
    }
    // Steps of a group, whose sum the scale is applied to: by one multiply-add of pairs where the sum fits 16 bits. A
    // group of 32 is longer than that, and one product of 32 bits for all of it is as cheap as two of those.
    let steps = F::GROUP / 4;
    let in_16_bits = steps * 4 * 127 * F::MAX_QUANT as usize <= i16::MAX as usize;
    for first in (0..n).step_by(WIDE) {
        // The last row stands in for those that are missing, and is not stored twice.
        let mut quants = [std::ptr::null(); WIDE];
        for t in 0..WIDE {
            quants[t] = acts.quants[(first + t).min(n - 1)].as_ptr();
            if let Some(next) = next.get(first + t) {
                prefetch(next.as_ptr().cast(), PANEL_LEN);
            }
        }
        let mut totals = [[_mm512_setzero_si512(); WIDE]; P];
        // SAFETY: a plane has 64 steps, and so have 256 activations; a group of scales is 64 bytes.
        unsafe {
            if F::GROUP == PANEL_LEN {
                match F::MAX_QUANT {
                    ..128 => add_steps::<D, false, P>(&mut totals, &weights, &quants, 0, 64),
                    _ => add_steps::<D, true, P>(&mut totals, &weights, &quants, 0, 64),
                }
            } else {
                for at in (0..64).step_by(steps) {
                    let mut sums = [[_mm512_setzero_si512(); WIDE]; P];
                    match F::MAX_QUANT {
                        ..128 => add_steps::<D, false, P>(&mut sums, &weights, &quants, at, steps),
                        _ => add_steps::<D, true, P>(&mut sums, &weights, &quants, at, steps),
                    }
                    for p in 0..P {
                        let scales = vector(&panels[p].scales[at / 4]);
                        if in_16_bits {
                            // The upper halves, which repeat the sign, count nothing.
                            let scales = _mm512_and_si512(scales, _mm512_set1_epi32(0xFFFF));
                            for t in 0..WIDE {
                                totals[p][t] = D::dp_16(totals[p][t], sums[p][t], scales);
                            }
                        } else {
                            let scales = _mm512_srai_epi32::<16>(scales);
                            for t in 0..WIDE {
                                let scaled = _mm512_mullo_epi32(sums[p][t], scales);
                                totals[p][t] = _mm512_add_epi32(totals[p][t], scaled);
                            }
                        }
                    }
                }
            }
        }
        // Of a length that the compiler knows, so that totals stay in registers.
        for t in 0..WIDE {
            if first + t == n {
                break;
            }
            let (scale, sums) = (acts.scales[first + t], pair_sums::<F>(&acts, first + t));
            for p in 0..P {
                let out = &mut out[p * stride + first + t];
                add_large::<F, Rows512<D>, D>(panels[p], totals[p][t], scale, sums, out);
            }
        }
    }
}

/// Adds the products of units `first_unit` to `first_unit + n_units - 1` of some panels to their results.
///
/// # Safety
/// As [`Multiply::small`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn small<F: Format32, D: Dp, const P: usize>(
    panels: [&Panel; P],
    acts: &Activations,
    first_unit: usize,
    n_units: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let n = acts.n_rows();
    let stride = n.next_multiple_of(TOKENS);
    for first in (0..n).step_by(WIDE) {
        let here = WIDE.min(n - first);
        let mut rows = [acts.row_32(first); WIDE];
        for (t, row) in rows.iter_mut().enumerate() {
            // The last row stands in for those that are missing, and is not stored twice.
            *row = acts.row_32((first + t).min(n - 1));
        }
        let mut acc = [[_mm512_setzero_ps(); WIDE]; P];
        for p in 0..P {
            for t in 0..here {
                // SAFETY: the results are 16 floats each.
                acc[p][t] = _mm512_castsi512_ps(unsafe { vector(&out[p * stride + first + t]) });
            }
        }
        for unit in 0..n_units {
            let b = (first_unit + unit) / F::PARTS;
            let mut weights = [std::ptr::null(); P];
            for p in 0..P {
                weights[p] = panels[p].quants[0][32 * PANEL_ROWS * unit..].as_ptr();
            }
            let mut quants = [std::ptr::null(); WIDE];
            let mut sums = [[_mm512_setzero_si512(); WIDE]; P];
            for t in 0..WIDE {
                quants[t] = rows[t].quants[32 * b..].as_ptr();
                if F::OFFSET != 0 {
                    let offset = _mm512_set1_epi32(-i32::from(F::OFFSET) * rows[t].sums[b]);
                    for p in 0..P {
                        sums[p][t] = offset;
                    }
                }
            }
            // SAFETY: a unit is 8 steps of the plane and 32 activations of block `b`, which is there.
            unsafe {
                match F::MAX_QUANT {
                    ..128 => add_steps::<D, false, P>(&mut sums, &weights, &quants, 0, 8),
                    _ => add_steps::<D, true, P>(&mut sums, &weights, &quants, 0, 8),
                }
            }
            for t in 0..WIDE {
                let row = (rows[t].scales[b], rows[t].scaled_sums[b]);
                for p in 0..P {
                    acc[p][t] = add_small::<F>(panels[p], unit, sums[p][t], row, acc[p][t]);
                }
            }
        }
        for p in 0..P {
            for t in 0..here {
                // SAFETY: the results are 16 floats each.
                unsafe { _mm512_storeu_ps(out[p * stride + first + t].as_mut_ptr(), acc[p][t]) };
            }
        }
    }
}
