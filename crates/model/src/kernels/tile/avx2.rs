//! AVX2 and AVX-VNNI: a step of a panel is two vectors of eight weight rows, multiplied with four activations that
//! are broadcast from memory.
//!
//! Blocks are unpacked by the code of the dots. Without VNNI, products of low-bit quants are added up in 16 bits for
//! as many steps as cannot saturate, and one multiply-add of pairs widens them and applies the scale.
// One index counts through several arrays in step here.
#![allow(clippy::needless_range_loop)]

use super::{MAX_PANELS, PANEL_LEN, PANEL_ROWS, Panel, Rows, Scratch, TOKENS, Task, n_pairs};
use crate::kernels::activations::Activations;
use crate::kernels::dot::avx2::*;
use crate::kernels::dot::x86::*;
use crate::kernels::dot::{TILE_ROWS, TileRows};
use crate::kernels::format::*;
use crate::kernels::isa::Isa;
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;
use std::array::from_fn;
use std::marker::PhantomData;

/// Rows of activations that are multiplied at once: eight sums fill half of the registers.
const WIDE: usize = 4;

/// Vectors that a step of a panel is made of.
const HALVES: usize = PANEL_ROWS / TILE_ROWS;

/// Sums of a panel with some rows of activations.
type Sums = [[__m256i; HALVES]; WIDE];

pub(super) fn task_of(ty: TensorType, isa: Isa) -> Option<Task> {
    match isa {
        Isa::Avx2 => visit_unpackers(ty, Tasks::<Avx2>(PhantomData)),
        _ => visit_unpackers(ty, Tasks::<AvxVnni>(PhantomData)),
    }
}

struct Tasks<S>(PhantomData<S>);

impl<S: TaskSet> UnpackVisitor for Tasks<S> {
    type Out = Task;
    fn small<K: Unpack32>(self) -> Task {
        S::task_32::<K>()
    }
    fn large<K: Unpack256>(self) -> Task {
        S::task_256::<K>()
    }
}

/// The tasks compiled for an instruction set.
trait TaskSet: Set {
    fn task_32<K: Unpack32>() -> Task;
    fn task_256<K: Unpack256>() -> Task;
}

macro_rules! tasks {
    ($set:ident, $features:literal) => {
        impl TaskSet for $set {
            fn task_32<K: Unpack32>() -> Task {
                /// # Safety
                /// As [`Task`].
                #[target_feature(enable = $features)]
                unsafe fn task<K: Unpack32>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
                    // SAFETY: as the caller promises; the features are enabled.
                    unsafe { task_32::<K, $set>(rows, acts, scratch) };
                }
                task::<K>
            }

            fn task_256<K: Unpack256>() -> Task {
                /// # Safety
                /// As [`Task`].
                #[target_feature(enable = $features)]
                unsafe fn task<K: Unpack256>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
                    // SAFETY: as the caller promises; the features are enabled.
                    unsafe { task_256::<K, $set>(rows, acts, scratch) };
                }
                task::<K>
            }
        }
    };
}

tasks!(Avx2, "avx2,fma,f16c");
tasks!(AvxVnni, "avx2,fma,f16c,avxvnni");

/// How the quants of a format lie in a panel.
struct Quants {
    signed: bool,
    /// The largest magnitude.
    max: usize,
}

impl Quants {
    const fn new(offset: u8, max_quant: u8, signed: bool) -> Quants {
        let (below, above) = (offset as usize, max_quant as usize - offset as usize);
        let max = match signed {
            true if below > above => below,
            true => above,
            false => max_quant as usize,
        };
        Quants { signed, max }
    }

    /// Steps whose sums of pairs fit 16 bits together.
    const fn steps_in_16_bits(&self) -> usize {
        match i16::MAX as usize / (2 * 127 * self.max) {
            8.. => 8,
            4..8 => 4,
            2..4 => 2,
            _ => 1,
        }
    }
}

/// # Safety
/// As [`Task`], and inlined into a function with the features of `S`.
#[inline(always)]
unsafe fn task_32<K: Unpack32, S: Set>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
    let parts = K::Format::PARTS;
    let quants = const {
        let whole = S::WHOLE_BYTES || K::Format::MAX_QUANT <= 127;
        Quants::new(K::Format::OFFSET, K::Format::MAX_QUANT, K::Format::PARTS > 1 || !whole)
    };
    let n_panels = rows.n_panels().min(MAX_PANELS);
    let n_tokens = acts.n_rows();
    scratch.clear(n_panels, n_tokens);
    let n_blocks = acts.row_len() / 32;
    // A panel holds scales of eight units.
    let in_panel = PANEL_LEN / 32 / parts;
    for first in (0..n_blocks).step_by(in_panel) {
        let n = (n_blocks - first).min(in_panel);
        // SAFETY: as the caller promises; all blocks are there.
        unsafe {
            for (i, panel) in scratch.panels[..n_panels].iter_mut().enumerate() {
                fill_32::<K>(panel, &rows.of_panel(i), first, n, quants.signed);
            }
            for t in (0..n_tokens).step_by(WIDE) {
                for (i, panel) in scratch.panels[..n_panels].iter().enumerate() {
                    let out = &mut scratch.results[i * n_tokens.next_multiple_of(TOKENS) + t..][..WIDE];
                    multiply_32::<K, S>(panel, acts, t, first, n, &quants, out);
                }
            }
        }
    }
}

/// # Safety
/// As [`Task`], and inlined into a function with the features of `S`.
#[inline(always)]
unsafe fn task_256<K: Unpack256, S: Set>(rows: Rows, acts: &Activations, scratch: &mut Scratch) {
    let quants = const {
        let signed = K::Format::MAX_QUANT > 127 && !S::WHOLE_BYTES;
        Quants::new(K::Format::OFFSET, K::Format::MAX_QUANT, signed)
    };
    let n_panels = rows.n_panels().min(MAX_PANELS);
    let n_tokens = acts.n_rows();
    scratch.clear(n_panels, n_tokens);
    for b in 0..acts.row_len() / PANEL_LEN {
        // SAFETY: as the caller promises; all blocks are there.
        unsafe {
            for (i, panel) in scratch.panels[..n_panels].iter_mut().enumerate() {
                fill_256::<K>(panel, &rows.of_panel(i), b, quants.signed);
            }
            for t in (0..n_tokens).step_by(WIDE) {
                for (i, panel) in scratch.panels[..n_panels].iter().enumerate() {
                    let out = &mut scratch.results[i * n_tokens.next_multiple_of(TOKENS) + t..];
                    multiply_256::<K, S>(panel, acts, t, b, &quants, out);
                }
            }
        }
    }
}

/// Unpacks blocks of 32 weights of each row from block `first` on.
///
/// # Safety
/// All of them are readable, and the machine has AVX2 and F16C.
#[inline(always)]
unsafe fn fill_32<K: Unpack32>(
    panel: &mut Panel,
    rows: &[*const u8; PANEL_ROWS],
    first: usize,
    n: usize,
    signed: bool,
) {
    let (parts, row_bytes) = (K::Format::PARTS, K::Format::TYPE.block_bytes());
    for half in 0..HALVES {
        let rows: TileRows = from_fn(|r| rows[TILE_ROWS * half + r]);
        let len_bytes = n * 32 / K::Format::TYPE.block_len() * row_bytes;
        let at_bytes = first * 32 / K::Format::TYPE.block_len() * row_bytes;
        rows.iter().for_each(|row| prefetch(row.wrapping_add(at_bytes + len_bytes), len_bytes));
        for block in 0..n {
            // SAFETY: as the caller promises; the panel has eight steps and a scale of each part for every block.
            unsafe {
                let Tile32 { quants, scales } = K::unpack(&rows, first + block, signed);
                store_steps(panel, 8 * block, half, quants);
                for part in 0..parts {
                    store_half(&mut panel.unit_scales[block * parts + part], half, scales[part]);
                }
                if K::Format::HAS_MINIMUM {
                    let minimums = f16s(at(&rows, (first + block) * row_bytes + K::MINIMUM_AT));
                    store_half(&mut panel.unit_minimums[block], half, minimums);
                }
            }
        }
    }
}

/// Unpacks super-block `b` of each row. Groups stand in the order that [`evens_then_odds`] gives.
///
/// # Safety
/// It is readable, and the machine has AVX2 and F16C.
#[inline(always)]
unsafe fn fill_256<K: Unpack256>(panel: &mut Panel, rows: &[*const u8; PANEL_ROWS], b: usize, signed: bool) {
    let bytes = K::Format::TYPE.block_bytes();
    let mut scratch = Super::EMPTY;
    for half in 0..HALVES {
        let rows: TileRows = from_fn(|r| rows[TILE_ROWS * half + r]);
        // SAFETY: as the caller promises; the planes of the panel are as long as what is stored.
        unsafe {
            let zeros = [_mm256_setzero_si256(); TILE_ROWS];
            let (mut quants, mut scales, mut minimums) = ([zeros; 8], [zeros; 2], zeros);
            let mut floats = [[0.0f32; TILE_ROWS]; 2];
            for r in 0..TILE_ROWS {
                let block = rows[r].add(b * bytes);
                prefetch(block.wrapping_add(bytes), bytes);
                let block = K::unpack(block, signed, &mut scratch);
                (floats[0][r], floats[1][r]) = (scratch.scale, scratch.minimum_scale);
                for j in 0..8 {
                    quants[j][r] = block.quants[j];
                }
                // Each scale twice.
                let twice = |low| {
                    let wide = _mm256_cvtepu16_epi32(low);
                    _mm256_or_si256(wide, _mm256_slli_epi32::<16>(wide))
                };
                scales[0][r] = twice(_mm256_castsi256_si128(block.scales));
                scales[1][r] = twice(_mm256_extracti128_si256::<1>(block.scales));
                minimums[r] = match K::Format::HAS_MINIMUMS {
                    true => block.minimums,
                    // What the offset of the quants adds is taken off as if it were a minimum.
                    false => {
                        let offset = _mm256_set1_epi16(i16::from(K::Format::OFFSET));
                        _mm256_mullo_epi16(block.scales, offset)
                    }
                };
            }
            for (j, quants) in quants.into_iter().enumerate() {
                store_steps(panel, 8 * j, half, quants);
            }
            for (i, scales) in scales.into_iter().enumerate() {
                for (group, scales) in transpose(scales).into_iter().enumerate() {
                    store_half(&mut panel.scales[8 * i + group], half, scales);
                }
            }
            for (place, pair) in panel.minimums.iter_mut().zip(transpose(minimums)) {
                store_half(place, half, pair);
            }
            let [scales, minimum_scales] = match K::F16_AT {
                Some([scale, minimum]) => [
                    _mm256_mul_ps(f16s(at(&rows, b * bytes + scale)), _mm256_set1_ps(K::FACTOR)),
                    f16s(at(&rows, b * bytes + minimum)),
                ],
                None => floats.map(|floats| _mm256_loadu_ps(floats.as_ptr())),
            };
            store_half(&mut panel.unit_scales[0], half, scales);
            store_half(&mut panel.unit_minimums[0], half, minimum_scales);
        }
    }
}

/// Stores 32 quants of eight rows as eight steps from step `first` on.
///
/// # Safety
/// The panel has these steps, and the machine has AVX2.
#[inline(always)]
unsafe fn store_steps(panel: &mut Panel, first: usize, half: usize, quants: [__m256i; TILE_ROWS]) {
    // SAFETY: as the caller promises; a step is 64 bytes.
    unsafe {
        let place = panel.quants[0].as_mut_ptr().add(64 * first + 32 * half);
        for (i, step) in transpose(quants).into_iter().enumerate() {
            _mm256_storeu_si256(place.add(64 * i).cast(), step);
        }
    }
}

/// Stores one half of sixteen 32-bit values, whatever they are.
///
/// # Safety
/// `V` is a vector of 256 bits; `half` is 0 or 1, and the machine has AVX2.
#[inline(always)]
unsafe fn store_half<T, V>(place: &mut [T; PANEL_ROWS], half: usize, vector: V) {
    const { assert!(size_of::<T>() == 4 && size_of::<V>() == 32) };
    // SAFETY: 64 bytes, of which these are one half.
    unsafe { std::ptr::from_mut(place).cast::<V>().add(half).write_unaligned(vector) };
}

/// One half of sixteen 32-bit values.
///
/// # Safety
/// `V` is a vector of 256 bits that any bits may be; `half` is 0 or 1.
#[inline(always)]
unsafe fn load_half<T, V>(place: &[T; PANEL_ROWS], half: usize) -> V {
    const { assert!(size_of::<T>() == 4 && size_of::<V>() == 32) };
    // SAFETY: 64 bytes, of which these are one half.
    unsafe { std::ptr::from_ref(place).cast::<V>().add(half).read_unaligned() }
}

/// `v[i]` holds elements i of all rows afterwards, where `v[r]` held those of row r before; elements are 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let pairs: [__m256i; 8] = from_fn(|i| match i % 2 {
        0 => _mm256_unpacklo_epi32(v[i], v[i + 1]),
        _ => _mm256_unpackhi_epi32(v[i - 1], v[i]),
    });
    // fours[4i + c]: in lane L of 128 bits, element 4L + c of rows 4i to 4i + 3.
    let fours: [__m256i; 8] = from_fn(|i| {
        let (first, c) = (i / 4 * 4, i % 4);
        let (a, b) = (pairs[first + c / 2], pairs[first + c / 2 + 2]);
        if c % 2 == 0 { _mm256_unpacklo_epi64(a, b) } else { _mm256_unpackhi_epi64(a, b) }
    });
    from_fn(|i| match i / 4 {
        0 => _mm256_permute2x128_si256::<0x20>(fours[i], fours[4 + i]),
        _ => _mm256_permute2x128_si256::<0x31>(fours[i - 4], fours[i]),
    })
}

/// Adds the products of `N` steps from step `first` on, times `scales` (each twice in a lane), to `totals`.
///
/// # Safety
/// The panel has these steps and each of `acts` as many times four quants; the machine has the instruction set.
#[inline(always)]
unsafe fn steps<S: Set, const N: usize>(
    panel: &Panel,
    first: usize,
    acts: &[*const i8; WIDE],
    quants: &Quants,
    scales: Option<[__m256i; HALVES]>,
    totals: &mut Sums,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let weights = |step: usize, half: usize| load(panel.quants[0].as_ptr().add(64 * step + 32 * half));
        let four =
            |t: usize, step: usize| _mm256_set1_epi32(acts[t].add(4 * step).cast::<i32>().read_unaligned());
        // Unsigned weights, and activations with the signs of signed ones.
        let operands = |weights: __m256i, four: __m256i| match quants.signed {
            true => (_mm256_abs_epi8(weights), _mm256_sign_epi8(four, weights)),
            false => (weights, four),
        };
        if S::WHOLE_BYTES {
            let mut sums = [[_mm256_setzero_si256(); HALVES]; WIDE];
            for step in first..first + N {
                let weights: [__m256i; HALVES] = [weights(step, 0), weights(step, 1)];
                for t in 0..WIDE {
                    let four = four(t, step);
                    for half in 0..HALVES {
                        let (w, a) = operands(weights[half], four);
                        sums[t][half] = S::bytes(sums[t][half], w, a);
                    }
                }
            }
            for t in 0..WIDE {
                for half in 0..HALVES {
                    if let Some(scales) = scales {
                        let scale = _mm256_srai_epi32::<16>(scales[half]);
                        sums[t][half] = _mm256_mullo_epi32(sums[t][half], scale);
                    }
                    totals[t][half] = _mm256_add_epi32(totals[t][half], sums[t][half]);
                }
            }
            return;
        }
        let scales = scales.unwrap_or([_mm256_set1_epi16(1); HALVES]);
        let stretch = quants.steps_in_16_bits().min(N);
        for from in (first..first + N).step_by(stretch) {
            let mut sums = [[_mm256_setzero_si256(); HALVES]; WIDE];
            for step in from..from + stretch {
                let weights: [__m256i; HALVES] = [weights(step, 0), weights(step, 1)];
                for t in 0..WIDE {
                    let four = four(t, step);
                    for half in 0..HALVES {
                        let (w, a) = operands(weights[half], four);
                        sums[t][half] = _mm256_add_epi16(sums[t][half], _mm256_maddubs_epi16(w, a));
                    }
                }
            }
            for t in 0..WIDE {
                for half in 0..HALVES {
                    totals[t][half] = S::words(totals[t][half], sums[t][half], scales[half]);
                }
            }
        }
    }
}

/// Adds the products of `n` blocks of 32 with four rows of activations, of which block `first` is the panel's first.
///
/// # Safety
/// The activations have these blocks, and the machine the instruction set.
#[inline(always)]
unsafe fn multiply_32<K: Unpack32, S: Set>(
    panel: &Panel,
    acts: &Activations,
    t: usize,
    first: usize,
    n: usize,
    quants: &Quants,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let parts = K::Format::PARTS;
    // The last row stands in for those that are missing.
    let rows: [_; WIDE] = from_fn(|i| acts.row_32((t + i).min(acts.n_rows() - 1)));
    // SAFETY: as the caller promises.
    unsafe {
        for block in 0..n {
            let b = first + block;
            // Step 0 of the panel would be here.
            let starts: [*const i8; WIDE] =
                from_fn(|i| rows[i].quants.as_ptr().wrapping_add(32 * b).wrapping_sub(32 * block));
            for part in 0..parts {
                let mut sums = [[_mm256_setzero_si256(); HALVES]; WIDE];
                match parts {
                    1 => steps::<S, 8>(panel, 8 * block, &starts, quants, None, &mut sums),
                    _ => steps::<S, 4>(panel, 8 * block + 4 * part, &starts, quants, None, &mut sums),
                }
                for i in 0..WIDE {
                    let offset = i32::from(K::Format::OFFSET) * rows[i].sums.get_unchecked(b);
                    let scale = _mm256_set1_ps(*rows[i].scales.get_unchecked(b));
                    for half in 0..HALVES {
                        let mut sum = sums[i][half];
                        if !quants.signed {
                            sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(offset));
                        }
                        let scales: __m256 = load_half(&panel.unit_scales[parts * block + part], half);
                        let mut acc: __m256 = load_half(&out[i], half);
                        acc = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), _mm256_cvtepi32_ps(sum), acc);
                        if K::Format::HAS_MINIMUM {
                            let minimums: __m256 = load_half(&panel.unit_minimums[block], half);
                            let sum = _mm256_set1_ps(*rows[i].scaled_sums.get_unchecked(b));
                            acc = _mm256_fmadd_ps(minimums, sum, acc);
                        }
                        store_half(&mut out[i], half, acc);
                    }
                }
            }
        }
    }
}

/// Adds the products of super-block `b` with four rows of activations.
///
/// # Safety
/// The activations have this super-block, and the machine the instruction set.
#[inline(always)]
unsafe fn multiply_256<K: Unpack256, S: Set>(
    panel: &Panel,
    acts: &Activations,
    t: usize,
    b: usize,
    quants: &Quants,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let rows: [_; WIDE] = from_fn(|i| acts.row_256((t + i).min(acts.n_rows() - 1)));
    // SAFETY: as the caller promises; a super-block of activations has 256 quants and 16 sums.
    unsafe {
        let starts: [*const i8; WIDE] = from_fn(|i| rows[i].quants.as_ptr().add(PANEL_LEN * b));
        let mut totals = [[_mm256_setzero_si256(); HALVES]; WIDE];
        let scales_of = |group: usize| from_fn(|half| load_half(&panel.scales[group], half));
        match K::Format::GROUP {
            16 => {
                for group in 0..16 {
                    // Even groups stand first.
                    let scales = scales_of(group / 2 + 8 * (group % 2));
                    steps::<S, 4>(panel, 4 * group, &starts, quants, Some(scales), &mut totals);
                }
            }
            32 => {
                for group in 0..8 {
                    let scales = scales_of(group);
                    steps::<S, 8>(panel, 8 * group, &starts, quants, Some(scales), &mut totals);
                }
            }
            _ => {
                for group in 0..8 {
                    steps::<S, 8>(panel, 8 * group, &starts, quants, None, &mut totals);
                }
            }
        }
        let n_pairs = n_pairs::<K::Format>();
        for i in 0..WIDE.min(acts.n_rows() - t) {
            let mut pairs = [0i32; 8];
            let sums = evens_then_odds(load(rows[i].sums.as_ptr().add(16 * b).cast()));
            // Even and odd groups of a pair share their scales and minimums: at most 32 * 127, which fits 16 bits.
            let sums = match n_pairs {
                4 => _mm256_add_epi16(sums, _mm256_permute2x128_si256::<0x01>(sums, sums)),
                _ => sums,
            };
            _mm256_storeu_si256(pairs.as_mut_ptr().cast(), sums);
            let scale = _mm256_set1_ps(*rows[i].scales.get_unchecked(b));
            for half in 0..HALVES {
                let mut minimums = _mm256_setzero_si256();
                if K::Format::HAS_MINIMUMS || K::Format::OFFSET != 0 && !quants.signed {
                    for pair in 0..n_pairs {
                        let pair_minimums = load_half(&panel.minimums[pair], half);
                        minimums = S::words(minimums, pair_minimums, _mm256_set1_epi32(pairs[pair]));
                    }
                }
                let mut total = totals[i][half];
                if !K::Format::HAS_MINIMUMS {
                    total = _mm256_sub_epi32(total, minimums);
                }
                let scales: __m256 = load_half(&panel.unit_scales[0], half);
                let mut acc: __m256 = load_half(&out[i], half);
                acc = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), _mm256_cvtepi32_ps(total), acc);
                if K::Format::HAS_MINIMUMS {
                    let scales: __m256 = load_half(&panel.unit_minimums[0], half);
                    acc = _mm256_fnmadd_ps(_mm256_mul_ps(scales, scale), _mm256_cvtepi32_ps(minimums), acc);
                }
                store_half(&mut out[i], half, acc);
            }
        }
    }
}
