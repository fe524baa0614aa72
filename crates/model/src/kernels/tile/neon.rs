//! NEON: eight weight rows, half a panel, times four rows of activations, by dot products (`sdot`, one weight row in
//! each lane) or by the matrix products of i8mm (`smmla`, two weight rows times two rows of activations).
//!
//! Blocks are unpacked by the portable code of their formats, as signed bytes without the offset. Eight sums and their
//! eight totals are what registers hold beside the operands.

use super::{MAX_PANELS, PANEL_LEN, PANEL_ROWS, Panel, Rows, Scratch, TOKENS, Task, n_pairs};
use crate::kernels::activations::Activations;
use crate::kernels::dot::neon::{Floats, floats, fma, fnma, scaled};
use crate::kernels::format::*;
use crate::kernels::isa::Isa;
use rawrz_gguf::TensorType;
use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;
use std::marker::PhantomData;

/// Rows of activations that are multiplied at once.
const WIDE: usize = 4;

/// Weight rows that are multiplied at once.
const HALF: usize = PANEL_ROWS / 2;

/// Weights of each row in one step, the least that share a scale.
const STEP: usize = 16;

/// Sums of half a panel with [`WIDE`] rows of activations, in the order of a [`Product`].
type Sums = [int32x4_t; 8];

pub(super) fn task_of(ty: TensorType, isa: Isa) -> Option<Task> {
    match isa {
        Isa::I8mm => visit(ty, Tasks::<MatrixProducts>(PhantomData)),
        _ => visit(ty, Tasks::<DotProducts>(PhantomData)),
    }
}

struct Tasks<P>(PhantomData<P>);

impl<P: Product> FormatVisitor for Tasks<P> {
    type Out = Task;
    fn small<F: Format32>(self) -> Task {
        P::task_32::<F>()
    }
    fn large<F: Format256>(self) -> Task {
        P::task_256::<F>()
    }
}

/// How panels are multiplied, and the tasks compiled for the instructions that it takes.
trait Product: 'static {
    /// Weights of a row that lie together in a panel, `[k / TOGETHER][weight row][TOGETHER]`.
    const TOGETHER: usize;

    /// Adds the products of one step: the first of its weights of half a panel is at `weights`.
    ///
    /// # Safety
    /// The step is readable, and the machine has the instructions.
    unsafe fn step(sums: &mut Sums, weights: *const u8, acts: [int8x16_t; WIDE]);

    /// Adds sums times the scales of their weight rows, which stand twice in 32 bits.
    ///
    /// # Safety
    /// The machine has NEON, as all that Rust knows of; so for the others.
    unsafe fn add_scaled(totals: &mut Sums, sums: &Sums, scales: &[[i16; 2]; HALF]);

    /// Sums as `[activation row][weight row]`.
    ///
    /// # Safety
    /// As [`Product::add_scaled`].
    unsafe fn by_rows(sums: &Sums) -> [[int32x4_t; 2]; WIDE];

    fn task_32<F: Format32>() -> Task;
    fn task_256<F: Format256>() -> Task;
}

/// The tasks of a [`Product`], compiled with its features.
macro_rules! tasks {
    ($features:literal) => {
        fn task_32<F: Format32>() -> Task {
            /// # Safety
            /// As [`Task`].
            #[target_feature(enable = $features)]
            unsafe fn task<F: Format32, P: Product>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
                // SAFETY: as the caller promises; the features are enabled.
                unsafe { task_32::<F, P>(rows, acts, scratch) };
            }
            task::<F, Self>
        }

        fn task_256<F: Format256>() -> Task {
            /// # Safety
            /// As [`Task`].
            #[target_feature(enable = $features)]
            unsafe fn task<F: Format256, P: Product>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
                // SAFETY: as the caller promises; the features are enabled.
                unsafe { task_256::<F, P>(rows, acts, scratch) };
            }
            task::<F, Self>
        }
    };
}

/// `sdot`: sums are `[activation row][four weight rows]`.
struct DotProducts;

impl Product for DotProducts {
    const TOGETHER: usize = 4;

    tasks!("neon,dotprod");

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn step(sums: &mut Sums, weights: *const u8, acts: [int8x16_t; WIDE]) {
        // SAFETY: as the caller promises: in a step are four times four weights of all rows.
        let weights: [[int8x16_t; 2]; 4] =
            from_fn(|i| from_fn(|r| unsafe { vld1q_s8(weights.add(64 * i + 16 * r).cast()) }));
        for (t, acts) in acts.into_iter().enumerate() {
            for r in 0..2 {
                let sum = &mut sums[2 * t + r];
                *sum = sdot_lane::<0>(*sum, weights[0][r], acts);
                *sum = sdot_lane::<1>(*sum, weights[1][r], acts);
                *sum = sdot_lane::<2>(*sum, weights[2][r], acts);
                *sum = sdot_lane::<3>(*sum, weights[3][r], acts);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_scaled(totals: &mut Sums, sums: &Sums, scales: &[[i16; 2]; HALF]) {
        for r in 0..2 {
            let scales: &[[i16; 2]] = &scales[4 * r..][..4];
            // SAFETY: four times 32 bits.
            let scales = vshrq_n_s32::<16>(unsafe { vld1q_s32(scales.as_ptr().cast()) });
            for t in 0..WIDE {
                totals[2 * t + r] = vmlaq_s32(totals[2 * t + r], sums[2 * t + r], scales);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn by_rows(sums: &Sums) -> [[int32x4_t; 2]; WIDE] {
        from_fn(|t| [sums[2 * t], sums[2 * t + 1]])
    }
}

/// `acc` plus four products in each lane: of its four `weights` and of group `LANE` of four activations.
///
/// In assembly because the intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_lane<const LANE: i32>(mut acc: int32x4_t, weights: int8x16_t, acts: int8x16_t) -> int32x4_t {
    // SAFETY: only registers are touched, and this function is only for machines with the extension.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {weights:v}.16b, {acts:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            weights = in(vreg) weights,
            acts = in(vreg) acts,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// `smmla`: sums are `[two activation rows][two weight rows]`, in each vector two by two of them.
struct MatrixProducts;

impl Product for MatrixProducts {
    const TOGETHER: usize = 8;

    tasks!("neon,i8mm");

    #[inline]
    #[target_feature(enable = "neon,i8mm")]
    unsafe fn step(sums: &mut Sums, weights: *const u8, acts: [int8x16_t; WIDE]) {
        // SAFETY: as the caller promises: in a step are twice eight weights of all rows.
        let weights: [[int8x16_t; 4]; 2] =
            from_fn(|i| from_fn(|r| unsafe { vld1q_s8(weights.add(128 * i + 16 * r).cast()) }));
        for pair in 0..2 {
            let [a, b] = [acts[2 * pair], acts[2 * pair + 1]].map(|acts| vreinterpretq_s64_s8(acts));
            let eights = [vzip1q_s64(a, b), vzip2q_s64(a, b)].map(|both| vreinterpretq_s8_s64(both));
            for r in 0..4 {
                let sum = &mut sums[4 * pair + r];
                *sum = smmla(smmla(*sum, eights[0], weights[0][r]), eights[1], weights[1][r]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_scaled(totals: &mut Sums, sums: &Sums, scales: &[[i16; 2]; HALF]) {
        for r in 0..4 {
            let scales: &[[i16; 2]] = &scales[2 * r..][..2];
            // SAFETY: twice 32 bits, which both rows of activations take.
            let both = unsafe { vld1q_dup_s64(scales.as_ptr().cast()) };
            let scales = vshrq_n_s32::<16>(vreinterpretq_s32_s64(both));
            for pair in 0..2 {
                totals[4 * pair + r] = vmlaq_s32(totals[4 * pair + r], sums[4 * pair + r], scales);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn by_rows(sums: &Sums) -> [[int32x4_t; 2]; WIDE] {
        from_fn(|t| {
            from_fn(|r| {
                let at = |i: usize| vreinterpretq_s64_s32(sums[4 * (t / 2) + 2 * r + i]);
                vreinterpretq_s32_s64(match t % 2 {
                    0 => vzip1q_s64(at(0), at(1)),
                    _ => vzip2q_s64(at(0), at(1)),
                })
            })
        })
    }
}

/// `acc` plus the products of two rows of eight activations with two rows of eight weights.
///
/// In assembly because the intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut acc: int32x4_t, acts: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: only registers are touched, and this function is only for machines with the extension.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {acts:v}.16b, {weights:v}.16b",
            acc = inout(vreg) acc,
            acts = in(vreg) acts,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// # Safety
/// As [`Task`], and inlined into a function with the features of `P`.
#[inline(always)]
unsafe fn task_32<F: Format32, P: Product>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
    let n_panels = rows.n_panels().min(MAX_PANELS);
    let n_tokens = acts.n_rows();
    scratch.clear(n_panels, n_tokens);
    let row_bytes = acts.row_len() / F::TYPE.block_len() * F::TYPE.block_bytes();
    let n_units = acts.row_len() / 32 * F::PARTS;
    for first in (0..n_units).step_by(PANEL_LEN / 32) {
        let n = (n_units - first).min(PANEL_LEN / 32);
        for (i, panel) in scratch.panels[..n_panels].iter_mut().enumerate() {
            for (r, row) in rows.of_panel(i).into_iter().enumerate() {
                // SAFETY: a row is as long as the activations, as the caller promises.
                let row = unsafe { std::slice::from_raw_parts(row, row_bytes) };
                fill_32::<F, P>(panel, r, row, first, n);
            }
        }
        for t in (0..n_tokens).step_by(WIDE) {
            for (i, panel) in scratch.panels[..n_panels].iter().enumerate() {
                let out = &mut scratch.results[i * n_tokens.next_multiple_of(TOKENS) + t..][..WIDE];
                // SAFETY: as the caller promises.
                unsafe { multiply_32::<F, P>(panel, acts, t, first, n, out) };
            }
        }
    }
}

/// # Safety
/// As [`Task`], and inlined into a function with the features of `P`.
#[inline(always)]
unsafe fn task_256<F: Format256, P: Product>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
    let n_panels = rows.n_panels().min(MAX_PANELS);
    let n_tokens = acts.n_rows();
    scratch.clear(n_panels, n_tokens);
    let mut block = Super::EMPTY;
    for b in 0..acts.row_len() / PANEL_LEN {
        for (i, panel) in scratch.panels[..n_panels].iter_mut().enumerate() {
            for (r, row) in rows.of_panel(i).into_iter().enumerate() {
                let bytes = F::TYPE.block_bytes();
                // SAFETY: a row has a block for each of the activations, as the caller promises.
                let bytes = unsafe { std::slice::from_raw_parts(row.add(b * bytes), bytes) };
                fill_256::<F, P>(panel, r, bytes, &mut block);
            }
        }
        for t in (0..n_tokens).step_by(WIDE) {
            for (i, panel) in scratch.panels[..n_panels].iter().enumerate() {
                let out = &mut scratch.results[i * n_tokens.next_multiple_of(TOKENS) + t..][..WIDE];
                // SAFETY: as the caller promises.
                unsafe { multiply_256::<F, P>(panel, acts, t, b, out) };
            }
        }
    }
}

/// Unpacks `n` units of row `r` of a panel from unit `first` on.
#[inline(always)]
fn fill_32<F: Format32, P: Product>(panel: &mut Panel, r: usize, row: &[u8], first: usize, n: usize) {
    for unit in 0..n {
        let Small { mut quants, scale, minimum } = F::unpack(row, first + unit);
        place::<P>(&mut panel.quants[0], r, 32 * unit, &mut quants, F::OFFSET);
        panel.unit_scales[unit][r] = scale;
        if F::HAS_MINIMUM {
            panel.unit_minimums[unit][r] = minimum;
        }
    }
}

/// Unpacks a block of row `r` of a panel.
#[inline(always)]
fn fill_256<F: Format256, P: Product>(panel: &mut Panel, r: usize, bytes: &[u8], block: &mut Super) {
    F::unpack(bytes, block);
    place::<P>(&mut panel.quants[0], r, 0, &mut block.quants, F::OFFSET);
    if F::GROUP < PANEL_LEN {
        for (place, scale) in panel.scales.iter_mut().zip(block.scales) {
            place[r] = [scale; 2];
        }
    }
    panel.unit_scales[0][r] = block.scale;
    if F::HAS_MINIMUMS {
        for (pair, place) in panel.minimums[..n_pairs::<F>()].iter_mut().enumerate() {
            let apart = 8 / n_pairs::<F>();
            place[r] = [block.minimums[2 * apart * pair], block.minimums[2 * apart * pair + apart]];
        }
        panel.unit_minimums[0][r] = block.minimum_scale;
    }
}

/// Puts quants into a plane, from weight `first` of row `r` on, without their `offset`.
#[inline(always)]
fn place<P: Product>(plane: &mut [u8], r: usize, first: usize, quants: &mut [u8], offset: u8) {
    for quant in &mut *quants {
        *quant = quant.wrapping_sub(offset);
    }
    let steps = plane[first * PANEL_ROWS..].chunks_exact_mut(P::TOGETHER * PANEL_ROWS);
    for (quants, step) in quants.chunks_exact(P::TOGETHER).zip(steps) {
        step[P::TOGETHER * r..][..P::TOGETHER].copy_from_slice(quants);
    }
}

/// Adds one step of half a panel times four rows of activations, whose quants of the panel start at `acts`.
///
/// # Safety
/// The panel and the activations have this step, and the machine the instructions of `P`.
#[inline(always)]
unsafe fn add_step<P: Product>(
    sums: &mut Sums,
    panel: &Panel,
    half: usize,
    step: usize,
    acts: &[*const i8; WIDE],
) {
    // SAFETY: as the caller promises.
    unsafe {
        let weights = panel.quants[0].as_ptr().add(STEP * PANEL_ROWS * step + P::TOGETHER * HALF * half);
        P::step(sums, weights, from_fn(|t| vld1q_s8(acts[t].add(STEP * step))));
    }
}

/// One half of sixteen floats.
#[inline(always)]
fn half_of(row: &[f32; PANEL_ROWS], half: usize) -> Floats {
    let row = &row[HALF * half..][..HALF];
    // SAFETY: eight floats.
    unsafe { [vld1q_f32(row.as_ptr()), vld1q_f32(row.as_ptr().add(4))] }
}

/// Stores one half of sixteen floats.
#[inline(always)]
fn store_half(row: &mut [f32; PANEL_ROWS], half: usize, floats: Floats) {
    let row = &mut row[HALF * half..][..HALF];
    // SAFETY: eight floats.
    unsafe {
        vst1q_f32(row.as_mut_ptr(), floats[0]);
        vst1q_f32(row.as_mut_ptr().add(4), floats[1]);
    }
}

/// Adds the products of `n` units with four rows of activations from row `t` on; unit `first` is the panel's first.
///
/// # Safety
/// The activations have these units, and the machine the instructions of `P`.
#[inline(always)]
unsafe fn multiply_32<F: Format32, P: Product>(
    panel: &Panel,
    acts: &Activations,
    t: usize,
    first: usize,
    n: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    // The last row stands in for those that are missing.
    let rows: [_; WIDE] = from_fn(|i| acts.row_32((t + i).min(acts.n_rows() - 1)));
    for half in 0..2 {
        let mut acc: [Floats; WIDE] = from_fn(|i| half_of(&out[i], half));
        for unit in 0..n {
            let b = (first + unit) / F::PARTS;
            // Step 0 of the panel would be here.
            let starts: [*const i8; WIDE] =
                from_fn(|i| rows[i].quants.as_ptr().wrapping_add(32 * b).wrapping_sub(32 * unit));
            // SAFETY: as the caller promises; zeros are plain values.
            let sums = unsafe {
                let mut sums = [vdupq_n_s32(0); 8];
                for step in 0..32 / STEP {
                    add_step::<P>(&mut sums, panel, half, 32 / STEP * unit + step, &starts);
                }
                P::by_rows(&sums)
            };
            let scales = half_of(&panel.unit_scales[unit], half);
            for i in 0..WIDE {
                // SAFETY: NEON is there.
                unsafe {
                    acc[i] = fma(acc[i], scaled(scales, rows[i].scales[b]), floats(sums[i]));
                    if F::HAS_MINIMUM {
                        let sum = vdupq_n_f32(rows[i].scaled_sums[b]);
                        acc[i] = fma(acc[i], half_of(&panel.unit_minimums[unit], half), [sum; 2]);
                    }
                }
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            store_half(out, half, acc);
        }
    }
}

/// Adds the products of super-block `b` with four rows of activations from row `t` on.
///
/// # Safety
/// The activations have this super-block, and the machine the instructions of `P`.
#[inline(always)]
unsafe fn multiply_256<F: Format256, P: Product>(
    panel: &Panel,
    acts: &Activations,
    t: usize,
    b: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    // The last row stands in for those that are missing.
    let rows: [_; WIDE] = from_fn(|i| acts.row_256((t + i).min(acts.n_rows() - 1)));
    let starts: [*const i8; WIDE] = from_fn(|i| rows[i].quants[PANEL_LEN * b..].as_ptr());
    for half in 0..2 {
        // SAFETY: as the caller promises; NEON is there.
        unsafe {
            let mut totals = [vdupq_n_s32(0); 8];
            let steps = F::GROUP / STEP;
            for group in 0..PANEL_LEN / F::GROUP {
                let mut sums = [vdupq_n_s32(0); 8];
                for step in steps * group..steps * (group + 1) {
                    add_step::<P>(&mut sums, panel, half, step, &starts);
                }
                match panel.scales[steps * group].as_chunks().0 {
                    // No scales: there is one group.
                    _ if F::GROUP == PANEL_LEN => totals = sums,
                    scales => P::add_scaled(&mut totals, &sums, &scales[half]),
                }
            }
            let sums = P::by_rows(&totals);
            let minimum_sums = match F::HAS_MINIMUMS {
                true => minimum_sums::<F>(panel, half, from_fn(|i| &rows[i].sums.as_chunks().0[b])),
                false => [[vdupq_n_s32(0); 2]; WIDE],
            };
            let scales = half_of(&panel.unit_scales[0], half);
            let minimum_scales = half_of(&panel.unit_minimums[0], half);
            for i in 0..WIDE {
                let scale = rows[i].scales[b];
                let mut acc = fma(half_of(&out[i], half), scaled(scales, scale), floats(sums[i]));
                if F::HAS_MINIMUMS {
                    acc = fnma(acc, scaled(minimum_scales, scale), floats(minimum_sums[i]));
                }
                store_half(&mut out[i], half, acc);
            }
        }
    }
}

/// Minimums times the sums of the activations that they count for, of which `sums` has each 16.
#[inline(always)]
fn minimum_sums<F: Format256>(
    panel: &Panel,
    half: usize,
    sums: [&[i16; 16]; WIDE],
) -> [[int32x4_t; 2]; WIDE] {
    // SAFETY: NEON is there; a half of a row of minimums is 16 values of 16 bits.
    unsafe {
        let mut totals = [[vdupq_n_s32(0); 2]; WIDE];
        for (pair, row) in panel.minimums[..n_pairs::<F>()].iter().enumerate() {
            let row: &[[i16; 2]] = &row[HALF * half..][..HALF];
            let int16x8x2_t(first, second) = vld2q_s16(row.as_ptr().cast());
            for (totals, sums) in totals.iter_mut().zip(sums) {
                let [a, b] = match n_pairs::<F>() {
                    8 => [sums[2 * pair], sums[2 * pair + 1]],
                    // At most 32 * 127.
                    _ => [0, 2].map(|i| sums[4 * pair + i] + sums[4 * pair + i + 1]),
                };
                totals[0] = vmlal_n_s16(totals[0], vget_low_s16(first), a);
                totals[1] = vmlal_high_n_s16(totals[1], first, a);
                totals[0] = vmlal_n_s16(totals[0], vget_low_s16(second), b);
                totals[1] = vmlal_high_n_s16(totals[1], second, b);
            }
        }
        totals
    }
}
