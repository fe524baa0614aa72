//! AVX2: a tile is two vectors of eight weight rows.
//!
//! `vpmaddubsw` leaves pair sums of 16 bits, of which several steps add up before they can overflow: eight of
//! 4-bit weights (8 * 2 * 15 * 127 = 30,480), four of 5-bit ones (31,496), two of 6-bit ones (32,004). Only then
//! `vpmaddwd` widens them, applying the sub-block's scale where there is one. Weights of 8 bits are signed, so
//! each step is widened on its own.

use super::{TILE_ROWS, Tile, TileRows};
use crate::kernels::activations::Activations;
use crate::kernels::dot::x86::*;
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;
use std::array::from_fn;

/// Rows of activations that are multiplied at once, so that each load of weights serves so many.
const WIDE: usize = 4;

/// Weights of each row that one panel holds.
const PANEL: usize = 256;

pub(super) fn tile_of(ty: TensorType) -> Option<Tile> {
    Some(match ty {
        TensorType::Q4_0 => tile_q4_0,
        TensorType::Q4_1 => tile_q4_1,
        TensorType::Q5_0 => tile_q5_0,
        TensorType::Q5_1 => tile_q5_1,
        TensorType::Q8_0 => tile_q8_0,
        TensorType::Q4K => tile_q4_k,
        TensorType::Q5K => tile_q5_k,
        TensorType::Q6K => tile_q6_k,
        _ => return None,
    })
}

/// [`PANEL`] weights of each row of a tile, unpacked.
#[repr(C, align(64))]
struct Panel {
    /// `[k / 4][row][4]`
    quants: [u8; PANEL * TILE_ROWS],
    /// Scales of the chunks that are widened together, twice for the two sums of a row: `[chunk][row][2]`.
    scales: [[[i16; 2]; TILE_ROWS]; 32],
    /// Minimums of two neighbouring groups, `[pair][row][2]`.
    minimums: [[[i16; 2]; TILE_ROWS]; 8],
}

/// Results of one step of the loop over activations: for each row of them, two vectors of eight weight rows.
type Sums = [[__m256i; 2]; WIDE];

/// `v[i]` holds elements i of all rows afterwards, where `v[r]` held those of row r before; elements are 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(v: [__m256i; 8]) -> [__m256i; 8] {
    let pair = |i: usize| {
        (_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]), _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]))
    };
    let [(a_low, a_high), (b_low, b_high), (c_low, c_high), (d_low, d_high)] = [pair(0), pair(1), pair(2), pair(3)];
    // Elements 0 and 4, 1 and 5, 2 and 6, 3 and 7 of rows 0 to 3, and of rows 4 to 7.
    let first = [
        _mm256_unpacklo_epi64(a_low, b_low),
        _mm256_unpackhi_epi64(a_low, b_low),
        _mm256_unpacklo_epi64(a_high, b_high),
        _mm256_unpackhi_epi64(a_high, b_high),
    ];
    let second = [
        _mm256_unpacklo_epi64(c_low, d_low),
        _mm256_unpackhi_epi64(c_low, d_low),
        _mm256_unpacklo_epi64(c_high, d_high),
        _mm256_unpackhi_epi64(c_high, d_high),
    ];
    from_fn(|i| match i {
        0..4 => _mm256_permute2x128_si256::<0x20>(first[i], second[i]),
        _ => _mm256_permute2x128_si256::<0x31>(first[i - 4], second[i - 4]),
    })
}

impl Panel {
    const EMPTY: Panel = Panel {
        quants: [0; PANEL * TILE_ROWS],
        scales: [[[0; 2]; TILE_ROWS]; 32],
        minimums: [[[0; 2]; TILE_ROWS]; 8],
    };

    /// Stores weights 32 `chunk` to 32 `chunk` + 31 of all rows, eight rows at a time.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn set_quants(&mut self, chunk: usize, half: usize, rows: [__m256i; 8]) {
        let groups = &mut self.quants[chunk * 32 * TILE_ROWS..][..32 * TILE_ROWS];
        for (i, group) in transpose(rows).into_iter().enumerate() {
            let place = &mut groups[(i * TILE_ROWS + half * 8) * 4..][..32];
            // SAFETY: the slice is 32 bytes; the store asks for no alignment.
            unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), group) };
        }
    }

    /// The weights of step `step` (four of each row), as two vectors.
    ///
    /// # Safety
    /// `step` is below 64.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn step(&self, step: usize) -> [__m256i; 2] {
        // SAFETY: a step is 64 bytes of the quants.
        unsafe {
            let at = self.quants.as_ptr().add(step * 4 * TILE_ROWS);
            [load(at), load(at.add(32))]
        }
    }

    /// Adds the products of `STEPS` steps from `first` on, widened and scaled, to `sums`.
    ///
    /// # Safety
    /// All steps are below 64, and of each row of activations as many times four bytes from `acts` on are readable.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn chunk<const STEPS: usize>(
        &self,
        first: usize,
        acts: &[*const u8; WIDE],
        scales: [__m256i; 2],
        sums: &mut Sums,
    ) {
        let mut narrow = [[_mm256_setzero_si256(); 2]; WIDE];
        for step in first..first + STEPS {
            // SAFETY: as the caller promises.
            let weights = unsafe { self.step(step) };
            for t in 0..WIDE {
                // SAFETY: as the caller promises.
                let quants = _mm256_set1_epi32(unsafe { acts[t].add(4 * step).cast::<i32>().read_unaligned() });
                for half in 0..2 {
                    let products = _mm256_maddubs_epi16(weights[half], quants);
                    narrow[t][half] = _mm256_add_epi16(narrow[t][half], products);
                }
            }
        }
        for t in 0..WIDE {
            for half in 0..2 {
                let wide = _mm256_madd_epi16(narrow[t][half], scales[half]);
                sums[t][half] = _mm256_add_epi32(sums[t][half], wide);
            }
        }
    }

    /// The same for one step of signed weights.
    ///
    /// # Safety
    /// As [`Panel::chunk`].
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn signed_step(&self, step: usize, acts: &[*const u8; WIDE], sums: &mut Sums) {
        // SAFETY: as the caller promises.
        let weights = unsafe { self.step(step) };
        let magnitudes = weights.map(|w| _mm256_abs_epi8(w));
        let ones = _mm256_set1_epi16(1);
        for t in 0..WIDE {
            // SAFETY: as the caller promises.
            let quants = _mm256_set1_epi32(unsafe { acts[t].add(4 * step).cast::<i32>().read_unaligned() });
            for half in 0..2 {
                let quants = _mm256_sign_epi8(quants, weights[half]);
                let products = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes[half], quants), ones);
                sums[t][half] = _mm256_add_epi32(sums[t][half], products);
            }
        }
    }
}

/// Both vectors of pairs of 16-bit factors.
#[inline]
#[target_feature(enable = "avx2")]
fn factors(pairs: &[[i16; 2]; TILE_ROWS]) -> [__m256i; 2] {
    // SAFETY: the array is 64 bytes.
    unsafe { [load(pairs.as_ptr().cast()), load(pairs.as_ptr().add(8).cast())] }
}

/// Both vectors of a row of results.
#[inline]
#[target_feature(enable = "avx2")]
fn floats(row: &[f32; TILE_ROWS]) -> [__m256; 2] {
    // SAFETY: the array is 64 bytes.
    unsafe { [_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(8))] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(row: &mut [f32; TILE_ROWS], values: [__m256; 2]) {
    // SAFETY: the array is 64 bytes.
    unsafe {
        _mm256_storeu_ps(row.as_mut_ptr(), values[0]);
        _mm256_storeu_ps(row.as_mut_ptr().add(8), values[1]);
    }
}

/// The f16 at the same place of each row, widened.
///
/// # Safety
/// Two bytes at every pointer are readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn f16s_of(rows: &TileRows, offset: usize) -> [__m256; 2] {
    // SAFETY: as the caller promises.
    from_fn(|half| unsafe { f16s(from_fn(|r| rows[half * 8 + r].add(offset))) })
}

/// Rows of activations from `first` on, the last one repeated where there are fewer than [`WIDE`].
fn wide_rows(first: usize, n_rows: usize) -> [usize; WIDE] {
    from_fn(|t| (first + t).min(n_rows - 1))
}

/// The loop of the formats of 32, a panel being up to eight blocks. `$unpack` gives a block's quants;
/// `$offset` is what unsigned quants are too large by, `$minimum` where the minimum stands. `$add` adds the
/// products of one block to the sums.
macro_rules! tile_32 {
    ($name:ident, bytes: $bytes:expr, offset: $offset:expr, minimum: $minimum:expr,
     unpack: |$block:ident| $unpack:expr, add: |$panel:ident, $first:ident, $acts:ident, $sums:ident| $add:expr) => {
        /// # Safety
        /// As [`Tile`].
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(rows: &TileRows, acts: &Activations, out: &mut [[f32; TILE_ROWS]]) {
            const MINIMUM: Option<usize> = $minimum;
            const BLOCKS: usize = PANEL / 32;
            let n_blocks = acts.row_len() / 32;
            let mut panel = Panel::EMPTY;
            let mut scales = [[_mm256_setzero_ps(); 2]; BLOCKS];
            let mut minimums = [[_mm256_setzero_ps(); 2]; BLOCKS];
            out.fill([0.0; TILE_ROWS]);
            for first_block in (0..n_blocks).step_by(BLOCKS) {
                let n = BLOCKS.min(n_blocks - first_block);
                for b in 0..n {
                    let start = (first_block + b) * $bytes;
                    // SAFETY: every row has a block for each block of activations.
                    unsafe {
                        for half in 0..2 {
                            panel.set_quants(b, half, from_fn(|r| {
                                let $block = rows[half * 8 + r].add(start);
                                $unpack
                            }));
                        }
                        scales[b] = f16s_of(rows, start);
                        if let Some(offset) = MINIMUM {
                            minimums[b] = f16s_of(rows, start + offset);
                        }
                    }
                }
                for first in (0..acts.n_rows()).step_by(WIDE) {
                    let places = wide_rows(first, acts.n_rows());
                    let inputs = places.map(|t| acts.row_32(t));
                    // SAFETY: a panel's blocks are in the activations, which have 32 quants for each.
                    unsafe {
                        let $acts = &inputs.map(|row| row.quants.as_ptr().add(32 * first_block).cast::<u8>());
                        let mut acc = places.map(|t| floats(&out[t]));
                        for b in 0..n {
                            let ($panel, $first) = (&panel, 8 * b);
                            let mut sums = [[_mm256_setzero_si256(); 2]; WIDE];
                            let $sums = &mut sums;
                            $add;
                            for t in 0..WIDE {
                                let at = first_block + b;
                                let offset = _mm256_set1_epi32($offset * *inputs[t].sums.get_unchecked(at));
                                let scale = _mm256_set1_ps(*inputs[t].scales.get_unchecked(at));
                                for half in 0..2 {
                                    let sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[t][half], offset));
                                    let scale = _mm256_mul_ps(scales[b][half], scale);
                                    acc[t][half] = _mm256_fmadd_ps(scale, sum, acc[t][half]);
                                }
                                if MINIMUM.is_some() {
                                    let sum = _mm256_set1_ps(*inputs[t].scaled_sums.get_unchecked(at));
                                    for half in 0..2 {
                                        acc[t][half] = _mm256_fmadd_ps(minimums[b][half], sum, acc[t][half]);
                                    }
                                }
                            }
                        }
                        for t in 0..WIDE {
                            store(&mut out[places[t]], acc[t]);
                        }
                    }
                }
            }
        }
    };
}

tile_32!(tile_q4_0, bytes: 18, offset: 8, minimum: None, unpack: |block| load_nibbles(block.add(2)),
    add: |panel, first, acts, sums| add_4_bit(panel, first, acts, sums));
tile_32!(tile_q4_1, bytes: 20, offset: 0, minimum: Some(2), unpack: |block| load_nibbles(block.add(4)),
    add: |panel, first, acts, sums| add_4_bit(panel, first, acts, sums));
tile_32!(tile_q5_0, bytes: 22, offset: 16, minimum: None,
    unpack: |block| _mm256_or_si256(load_nibbles(block.add(6)), load_fifth_bits(block.add(2))),
    add: |panel, first, acts, sums| add_5_bit(panel, first, acts, sums));
tile_32!(tile_q5_1, bytes: 24, offset: 0, minimum: Some(2),
    unpack: |block| _mm256_or_si256(load_nibbles(block.add(8)), load_fifth_bits(block.add(4))),
    add: |panel, first, acts, sums| add_5_bit(panel, first, acts, sums));
tile_32!(tile_q8_0, bytes: 34, offset: 0, minimum: None, unpack: |block| load(block.add(2)),
    add: |panel, first, acts, sums| add_8_bit(panel, first, acts, sums));

/// The products of a block of 32 from step `first` on.
///
/// # Safety
/// As [`Panel::chunk`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_4_bit(panel: &Panel, first: usize, acts: &[*const u8; WIDE], sums: &mut Sums) {
    // SAFETY: as the caller promises.
    unsafe { panel.chunk::<8>(first, acts, [_mm256_set1_epi16(1); 2], sums) };
}

/// # Safety
/// As [`Panel::chunk`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_5_bit(panel: &Panel, first: usize, acts: &[*const u8; WIDE], sums: &mut Sums) {
    for first in [first, first + 4] {
        // SAFETY: as the caller promises.
        unsafe { panel.chunk::<4>(first, acts, [_mm256_set1_epi16(1); 2], sums) };
    }
}

/// # Safety
/// As [`Panel::chunk`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_8_bit(panel: &Panel, first: usize, acts: &[*const u8; WIDE], sums: &mut Sums) {
    for step in first..first + 8 {
        // SAFETY: as the caller promises.
        unsafe { panel.signed_step(step, acts, sums) };
    }
}

/// The loop of the super-blocks of 256, each a panel. `$steps` is the number of steps that are widened together.
/// `$quants` gives weights 32j to 32j + 31 of a block as unsigned bytes, `$scales` the scale of each chunk and
/// `$minimums` the minimum of each group of `$group` weights, which is multiplied with `$minimum_scale`: the f16
/// at `Some(offset)`, subtracted in floats, or, where it is `None`, the block's scale, subtracted as an integer.
macro_rules! tile_256 {
    ($name:ident, bytes: $bytes:expr, steps: $steps:expr, group: $group:expr, scale: $scale:expr,
     minimum_scale: $minimum_scale:expr,
     quants: |$block:ident, $j:ident| $quants:expr, row: |$row:ident, $scales:ident, $minimums:ident| $unpack:expr) => {
        /// # Safety
        /// As [`Tile`].
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(rows: &TileRows, acts: &Activations, out: &mut [[f32; TILE_ROWS]]) {
            const MINIMUM_SCALE: Option<usize> = $minimum_scale;
            const CHUNKS: usize = 64 / $steps;
            const GROUPS: usize = 256 / $group;
            let mut panel = Panel::EMPTY;
            out.fill([0.0; TILE_ROWS]);
            for b in 0..acts.row_len() / 256 {
                let start = b * $bytes;
                // SAFETY: every row has a block for each block of activations.
                let (block_scales, minimum_scales) = unsafe {
                    for half in 0..2 {
                        for $j in 0..8usize {
                            panel.set_quants($j, half, from_fn(|r| {
                                let $block = rows[half * 8 + r].add(start);
                                $quants
                            }));
                        }
                    }
                    for (r, row) in rows.iter().enumerate() {
                        let $row = row.add(start);
                        let (mut $scales, mut $minimums) = ([0i16; CHUNKS], [0i16; GROUPS]);
                        $unpack;
                        for (place, scale) in panel.scales.iter_mut().zip($scales) {
                            place[r] = [scale; 2];
                        }
                        for (place, pair) in panel.minimums.iter_mut().zip($minimums.as_chunks::<2>().0) {
                            place[r] = *pair;
                        }
                    }
                    (f16s_of(rows, start + $scale), MINIMUM_SCALE.map(|offset| f16s_of(rows, start + offset)))
                };
                for first in (0..acts.n_rows()).step_by(WIDE) {
                    let places = wide_rows(first, acts.n_rows());
                    let inputs = places.map(|t| acts.row_256(t));
                    // SAFETY: the activations have 256 quants and 16 sums for each block.
                    unsafe {
                        let quants = inputs.map(|row| row.quants.as_ptr().add(256 * b).cast::<u8>());
                        let mut sums = [[_mm256_setzero_si256(); 2]; WIDE];
                        for chunk in 0..CHUNKS {
                            let scales = factors(&panel.scales[chunk]);
                            panel.chunk::<{ $steps }>(chunk * $steps, &quants, scales, &mut sums);
                        }
                        for t in 0..WIDE {
                            let row = &inputs[t];
                            let group_sums = load(row.sums.as_ptr().add(16 * b).cast());
                            // As many sums as there are groups, two to each 32 bits.
                            let pairs: [i32; 8] = if GROUPS == 16 {
                                std::mem::transmute::<__m256i, [i32; 8]>(group_sums)
                            } else {
                                let sums = _mm256_hadd_epi16(group_sums, _mm256_setzero_si256());
                                let sums = _mm256_permute4x64_epi64::<0x08>(sums);
                                std::mem::transmute::<__m256i, [i32; 8]>(sums)
                            };
                            let mut minimums = [_mm256_setzero_si256(); 2];
                            for pair in 0..GROUPS / 2 {
                                let sums = _mm256_set1_epi32(pairs[pair]);
                                for (half, factor) in factors(&panel.minimums[pair]).into_iter().enumerate() {
                                    let product = _mm256_madd_epi16(factor, sums);
                                    minimums[half] = _mm256_add_epi32(minimums[half], product);
                                }
                            }
                            let scale = _mm256_set1_ps(*row.scales.get_unchecked(b));
                            let mut acc = floats(&out[places[t]]);
                            for half in 0..2 {
                                let scaled = _mm256_mul_ps(block_scales[half], scale);
                                match minimum_scales {
                                    None => {
                                        let sum = _mm256_sub_epi32(sums[t][half], minimums[half]);
                                        acc[half] = _mm256_fmadd_ps(scaled, _mm256_cvtepi32_ps(sum), acc[half]);
                                    }
                                    Some(minimum_scales) => {
                                        let sum = _mm256_cvtepi32_ps(sums[t][half]);
                                        acc[half] = _mm256_fmadd_ps(scaled, sum, acc[half]);
                                        let scaled = _mm256_mul_ps(minimum_scales[half], scale);
                                        let sum = _mm256_cvtepi32_ps(minimums[half]);
                                        acc[half] = _mm256_fnmadd_ps(scaled, sum, acc[half]);
                                    }
                                }
                            }
                            store(&mut out[places[t]], acc);
                        }
                    }
                }
            }
        }
    };
}

/// Scales and minimums of a `Q4_K` or `Q5_K` block.
///
/// # Safety
/// 12 bytes at `p` are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn scales_and_minimums(p: *const u8) -> ([i16; 8], [i16; 8]) {
    // SAFETY: as the caller promises; 16 values of 16 bits are two arrays of 8.
    unsafe { std::mem::transmute::<__m256i, ([i16; 8], [i16; 8])>(six_bit_scales(p)) }
}

tile_256!(tile_q4_k, bytes: 144, steps: 8, group: 32, scale: 0, minimum_scale: Some(2),
    quants: |block, j| chunked_nibbles(block.add(16), j),
    row: |block, scales, minimums| (scales, minimums) = scales_and_minimums(block.add(4)));
tile_256!(tile_q5_k, bytes: 176, steps: 4, group: 32, scale: 0, minimum_scale: Some(2),
    quants: |block, j| five_bits(block.add(16), block.add(48), j),
    row: |block, scales, minimums| {
        let (of_32, m) = scales_and_minimums(block.add(4));
        scales = from_fn(|chunk| of_32[chunk / 2]);
        minimums = m;
    });
tile_256!(tile_q6_k, bytes: 210, steps: 2, group: 16, scale: 208, minimum_scale: None,
    quants: |block, j| six_bits(block, j),
    row: |block, scales, minimums| {
        let of_16: [i8; 16] = from_fn(|g| block.add(192 + g).cast::<i8>().read());
        scales = from_fn(|chunk| i16::from(of_16[chunk / 2]));
        // Quants are 32 too large.
        minimums = of_16.map(|scale| i16::from(scale) * 32);
    });
