//! AVX2 and AVX-VNNI: one weight row in each lane of the float accumulator.
//!
//! `dot_32` and `dot_256` are the kernels of all types. They take blocks as vectors from an [`Unpack32`] or
//! [`Unpack256`]: hand-written ones in `small.rs` and `large.rs`, and [`Portable`] for the rest of the large
//! types. They are generic over the instruction set as well, and inlined into functions that have its
//! features.
//!
//! Weights stay unsigned for `vpmaddubsw`, the offset of a format being taken off with the sums of the
//! activations. Its pair sums cannot saturate: 2 * 127 * 127 is the largest of formats below 8 bits, and for
//! 8 bits the sign moves to the activation, giving at most 2 * 128 * 127.

mod large;
mod small;

use super::x86::*;
use super::{Dot, TILE_ROWS, TileOut, TileRows, WIDE};
use crate::kernels::activations::{Row32, Row256};
use crate::kernels::format::*;
use rawrz_gguf::TensorType;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

pub(super) fn dot_of(ty: TensorType) -> Option<Dot> {
    visit_unpackers(ty, Dots::<Avx2>(PhantomData))
}

/// The same with AVX-VNNI, for machines that have it.
pub(super) fn vnni_dot_of(ty: TensorType) -> Option<Dot> {
    visit_unpackers(ty, Dots::<AvxVnni>(PhantomData))
}

struct Dots<S>(PhantomData<S>);

impl<S: Set> UnpackVisitor for Dots<S> {
    type Out = Dot;
    fn small<K: Unpack32>(self) -> Dot {
        S::dot_32::<K>()
    }
    fn large<K: Unpack256>(self) -> Dot {
        S::dot_256::<K>()
    }
}

/// Code that is generic over how blocks are unpacked, to be instantiated for one type by [`visit_unpackers`].
pub(in super::super) trait UnpackVisitor {
    type Out;
    fn small<K: Unpack32>(self) -> Self::Out;
    fn large<K: Unpack256>(self) -> Self::Out;
}

/// Calls `visitor` with the code that unpacks `ty`; `None` for types without blocks.
pub(in super::super) fn visit_unpackers<V: UnpackVisitor>(ty: TensorType, visitor: V) -> Option<V::Out> {
    visit(ty, Unpackers(visitor)).flatten()
}

struct Unpackers<V>(V);

impl<V: UnpackVisitor> FormatVisitor for Unpackers<V> {
    type Out = Option<V::Out>;

    // The type is a constant here, so that only the code of one arm is made.
    fn small<F: Format32>(self) -> Option<V::Out> {
        Some(match F::TYPE {
            TensorType::Q4_0 => self.0.small::<small::Q4_0>(),
            TensorType::Q4_1 => self.0.small::<small::Q4_1>(),
            TensorType::Q5_0 => self.0.small::<small::Q5_0>(),
            TensorType::Q5_1 => self.0.small::<small::Q5_1>(),
            TensorType::Q8_0 => self.0.small::<small::Q8_0>(),
            TensorType::Q8_1 => self.0.small::<small::Q8_1>(),
            TensorType::IQ4NL => self.0.small::<small::IQ4NL>(),
            TensorType::MXFP4 => self.0.small::<small::MXFP4>(),
            TensorType::NVFP4 => self.0.small::<small::NVFP4>(),
            TensorType::Q1_0 => self.0.small::<small::Q1_0>(),
            TensorType::Q2_0 => self.0.small::<small::Q2_0>(),
            _ => return None,
        })
    }

    fn large<F: Format256>(self) -> Option<V::Out> {
        Some(match F::TYPE {
            TensorType::Q2K => self.0.large::<large::Q2K>(),
            TensorType::Q3K => self.0.large::<large::Q3K>(),
            TensorType::Q4K => self.0.large::<large::Q4K>(),
            TensorType::Q5K => self.0.large::<large::Q5K>(),
            TensorType::Q6K => self.0.large::<large::Q6K>(),
            TensorType::IQ4XS => self.0.large::<large::IQ4XS>(),
            TensorType::IQ2XXS => self.0.large::<large::IQ2XXS>(),
            TensorType::IQ2XS => self.0.large::<large::IQ2XS>(),
            TensorType::IQ2S => self.0.large::<large::IQ2S>(),
            TensorType::IQ3XXS => self.0.large::<large::IQ3XXS>(),
            TensorType::IQ3S => self.0.large::<large::IQ3S>(),
            TensorType::IQ1S => self.0.large::<large::IQ1S>(),
            TensorType::TQ2_0 => self.0.large::<large::TQ2_0>(),
            _ => self.0.large::<Portable<F>>(),
        })
    }
}

/// An instruction set: how it multiplies and adds, and the kernels compiled for it.
pub(in super::super) trait Set: 'static {
    /// Whether [`Set::bytes`] takes weights of all 8 bits.
    const WHOLE_BYTES: bool;

    /// `acc` plus the products of each four unsigned weights and signed activations.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn bytes(acc: __m256i, weights: __m256i, activations: __m256i) -> __m256i;

    /// `acc` plus the products of each two 16-bit integers.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn words(acc: __m256i, a: __m256i, b: __m256i) -> __m256i;

    fn dot_32<K: Unpack32>() -> Dot;
    fn dot_256<K: Unpack256>() -> Dot;
}

macro_rules! instruction_set {
    ($(#[$doc:meta])* $name:ident, $features:literal, whole_bytes: $whole_bytes:literal,
     bytes: |$acc:ident, $w:ident, $a:ident| $bytes:expr, words: |$acc2:ident, $x:ident, $y:ident| $words:expr) => {
        $(#[$doc])*
        pub(in super::super) struct $name;
        impl Set for $name {
            const WHOLE_BYTES: bool = $whole_bytes;

            #[inline(always)]
            unsafe fn bytes($acc: __m256i, $w: __m256i, $a: __m256i) -> __m256i {
                // SAFETY: the caller promises the instruction set.
                unsafe { $bytes }
            }

            #[inline(always)]
            unsafe fn words($acc2: __m256i, $x: __m256i, $y: __m256i) -> __m256i {
                // SAFETY: the caller promises the instruction set.
                unsafe { $words }
            }

            fn dot_32<K: Unpack32>() -> Dot {
                /// # Safety
                /// As [`super::Dot32`].
                #[target_feature(enable = $features)]
                unsafe fn kernel<K: Unpack32, const N: usize>(
                    rows: &TileRows,
                    acts: [Row32<'_>; N],
                    out: &mut TileOut<N>,
                ) {
                    // SAFETY: as the caller promises; the features are enabled.
                    unsafe { dot_32::<K, $name, N>(rows, acts, out) };
                }
                Dot::Block32(kernel::<K, 1>, kernel::<K, 2>, kernel::<K, WIDE>)
            }

            fn dot_256<K: Unpack256>() -> Dot {
                /// # Safety
                /// As [`super::Dot256`].
                #[target_feature(enable = $features)]
                unsafe fn kernel<K: Unpack256, const N: usize>(
                    rows: &TileRows,
                    acts: [Row256<'_>; N],
                    out: &mut TileOut<N>,
                ) {
                    // SAFETY: as the caller promises; the features are enabled.
                    unsafe { dot_256::<K, $name, N>(rows, acts, out) };
                }
                Dot::Block256(kernel::<K, 1>, kernel::<K, 2>, kernel::<K, WIDE>)
            }
        }
    };
}

instruction_set!(
    /// AVX2, FMA and F16C.
    Avx2, "avx2,fma,f16c", whole_bytes: false,
    bytes: |acc, weights, activations| _mm256_add_epi32(
        acc,
        _mm256_madd_epi16(_mm256_maddubs_epi16(weights, activations), _mm256_set1_epi16(1)),
    ),
    words: |acc, a, b| _mm256_add_epi32(acc, _mm256_madd_epi16(a, b))
);

instruction_set!(
    /// The same with AVX-VNNI.
    AvxVnni, "avx2,fma,f16c,avxvnni", whole_bytes: true,
    bytes: |acc, weights, activations| _mm256_dpbusd_avx_epi32(acc, weights, activations),
    words: |acc, a, b| _mm256_dpwssd_avx_epi32(acc, a, b)
);

/// 32 weights of each row of a tile.
pub(in super::super) struct Tile32 {
    pub(in super::super) quants: [__m256i; TILE_ROWS],
    /// Of each row, for each part of the 32; the second is not looked at where there is one part.
    pub(in super::super) scales: [__m256; 2],
}

pub(in super::super) trait Unpack32: 'static {
    type Format: Format32;

    /// Where the f16 minimum of a block of 32 stands, for formats that have minimums.
    const MINIMUM_AT: usize = 0;

    /// Reads weights 32b to 32b + 31 of each row, as unsigned quants with the format's offset, or signed ones
    /// without it.
    ///
    /// # Safety
    /// The rows have so many weights, and the machine has AVX2 and F16C.
    unsafe fn unpack(rows: &TileRows, b: usize, signed: bool) -> Tile32;
}

/// A super-block.
pub(in super::super) struct Block256 {
    /// 32 each.
    pub(in super::super) quants: [__m256i; 8],
    /// 16 bits for each group of 16, [even groups first](evens_then_odds).
    pub(in super::super) scales: __m256i,
    /// As the scales; not looked at where the format has none.
    pub(in super::super) minimums: __m256i,
}

pub(in super::super) trait Unpack256: 'static {
    type Format: Format256;

    /// Where the f16 scale and minimum scale of a block stand. Where this is `None`, `unpack` leaves them in
    /// the scratch.
    const F16_AT: Option<[usize; 2]>;

    /// What the f16 scale is multiplied by; a power of two.
    const FACTOR: f32 = 1.0;

    /// Reads a block, as unsigned quants with the format's offset, or signed ones without it.
    ///
    /// # Safety
    /// The format's bytes of a block at `block` are readable, and the machine has AVX2 and F16C.
    unsafe fn unpack(block: *const u8, signed: bool, scratch: &mut Super) -> Block256;
}

/// Blocks as the format itself unpacks them, compiled for the instruction set.
struct Portable<F>(PhantomData<F>);

impl<F: Format256> Unpack256 for Portable<F> {
    type Format = F;
    const F16_AT: Option<[usize; 2]> = None;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, signed: bool, scratch: &mut Super) -> Block256 {
        // SAFETY: as the caller promises; the arrays of the scratch are as long as what is loaded.
        unsafe {
            F::unpack(std::slice::from_raw_parts(block, F::TYPE.block_bytes()), scratch);
            let mut quants = [_mm256_setzero_si256(); 8];
            for (j, quants) in quants.iter_mut().enumerate() {
                *quants = load(scratch.quants.as_ptr().add(32 * j));
                if signed {
                    *quants = _mm256_sub_epi8(*quants, _mm256_set1_epi8(F::OFFSET as i8));
                }
            }
            Block256 {
                quants,
                scales: evens_then_odds(load(scratch.scales.as_ptr().cast())),
                minimums: evens_then_odds(load(scratch.minimums.as_ptr().cast())),
            }
        }
    }
}

/// # Safety
/// As [`super::Dot32`], and inlined into a function with the features of `S`.
#[inline(always)]
unsafe fn dot_32<K: Unpack32, S: Set, const N: usize>(
    rows: &TileRows,
    acts: [Row32<'_>; N],
    out: &mut TileOut<N>,
) {
    // The offset cannot be taken off a part of 32 activations, whose sum is that of all.
    let signed = K::Format::PARTS > 1 || K::Format::MAX_QUANT > 127 && !S::WHOLE_BYTES;
    // SAFETY: every row has weights for all activations, whose slices hold 32 quants and one of all else for
    // each block.
    unsafe {
        let mut acc = [_mm256_setzero_ps(); N];
        let tile_bytes = TILE_ROWS * K::Format::TYPE.block_bytes() * 32 / K::Format::TYPE.block_len();
        let ahead = ahead(rows);
        for b in 0..acts[0].scales.len() {
            prefetch(ahead.wrapping_add(tile_bytes * b), tile_bytes);
            let Tile32 { quants, scales } = K::unpack(rows, b, signed);
            for t in 0..N {
                let activations = load(acts[t].quants.as_ptr().add(32 * b).cast());
                // Two rows are folded as soon as they are there: with all eight alive, registers would not do.
                let mut pairs = [_mm256_setzero_si256(); TILE_ROWS / 2];
                for (pair, out) in pairs.iter_mut().enumerate() {
                    let mut partial = [_mm256_setzero_si256(); 2];
                    for (i, partial) in partial.iter_mut().enumerate() {
                        let weights = quants[2 * pair + i];
                        *partial = if signed {
                            let activations = _mm256_sign_epi8(activations, weights);
                            S::bytes(*partial, _mm256_abs_epi8(weights), activations)
                        } else {
                            S::bytes(*partial, weights, activations)
                        };
                    }
                    *out = fold_rows(partial[0], partial[1]);
                }
                let [low, high] = sum_halves(pairs);
                let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(b));
                if K::Format::PARTS > 1 {
                    let [low, high] = [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)];
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales[0], scale), low, acc[t]);
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales[1], scale), high, acc[t]);
                } else {
                    let mut sums = _mm256_add_epi32(low, high);
                    if !signed {
                        let offset = i32::from(K::Format::OFFSET) * *acts[t].sums.get_unchecked(b);
                        sums = _mm256_sub_epi32(sums, _mm256_set1_epi32(offset));
                    }
                    let sums = _mm256_cvtepi32_ps(sums);
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales[0], scale), sums, acc[t]);
                }
            }
            if K::Format::HAS_MINIMUM {
                let minimums = f16s(at(rows, b * K::Format::TYPE.block_bytes() + K::MINIMUM_AT));
                for t in 0..N {
                    let sum = _mm256_set1_ps(*acts[t].scaled_sums.get_unchecked(b));
                    acc[t] = _mm256_fmadd_ps(minimums, sum, acc[t]);
                }
            }
        }
        for t in 0..N {
            store(&mut out[t], acc[t]);
        }
    }
}

/// Blocks that memory is asked for at once: whole cache lines of the larger types.
const ASKED_FOR: usize = 4;

/// Of a block of each row of a tile, what waits for the scales.
struct Sums<const N: usize> {
    partial: [[__m256i; TILE_ROWS]; N],
    minimums: [[__m256i; TILE_ROWS]; N],
    minimums_of_32: [[__m128i; TILE_ROWS]; N],
    /// Scales and minimum scales, where unpacking gives them.
    floats: [[f32; TILE_ROWS]; 2],
}

/// # Safety
/// As [`super::Dot256`], and inlined into a function with the features of `S`.
#[inline(always)]
unsafe fn dot_256<K: Unpack256, S: Set, const N: usize>(
    rows: &TileRows,
    acts: [Row256<'_>; N],
    out: &mut TileOut<N>,
) {
    let scaled = K::Format::GROUP < 256;
    let signed = K::Format::MAX_QUANT > 127 && (scaled || !S::WHOLE_BYTES);
    // Whether sums of all products of a block that come together in 16 bits fit there.
    let narrow =
        !scaled && !S::WHOLE_BYTES && 8 * 2 * 127 * K::Format::MAX_QUANT as usize <= i16::MAX as usize;
    let (n_blocks, bytes) = (acts[0].scales.len(), K::Format::TYPE.block_bytes());
    // SAFETY: every row has a block for each block of activations, which has 256 quants, 16 sums and a scale;
    // arrays of floats are 8 long.
    unsafe {
        let (run, ahead) = runs(N, rows, n_blocks, bytes);
        // Of the blocks of a run; every element is written for each run.
        let mut of_run: [MaybeUninit<Sums<N>>; RUN] = [const { MaybeUninit::uninit() }; RUN];
        let mut of_acts: [[MaybeUninit<(__m256i, __m128i)>; N]; RUN] =
            [const { [const { MaybeUninit::uninit() }; N] }; RUN];
        let mut scratch = Super::EMPTY;
        let mut acc = [_mm256_setzero_ps(); N];
        for first in (0..n_blocks).step_by(run) {
            let n = (n_blocks - first).min(run);
            for (i, of_acts) in of_acts[..n].iter_mut().enumerate() {
                for t in 0..N {
                    let sums = evens_then_odds(load(acts[t].sums.as_ptr().add(16 * (first + i)).cast()));
                    // At most 32 * 127, which fits 16 bits.
                    let (evens, odds) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                    of_acts[t].write((sums, _mm_add_epi16(evens, odds)));
                }
            }
            for (r, row) in rows.iter().enumerate() {
                for i in 0..n {
                    let (offset, place) = ((first + i) * bytes, TILE_ROWS * first + r * n + i);
                    if place % ASKED_FOR == 0 {
                        prefetch(ahead.wrapping_add(place * bytes), ASKED_FOR * bytes);
                    }
                    let sums = of_run[i].as_mut_ptr();
                    let mut activations = [std::ptr::null::<u8>(); N];
                    for t in 0..N {
                        activations[t] = acts[t].quants.as_ptr().add(256 * (first + i)).cast();
                    }
                    let block = K::unpack(row.add(offset), signed, &mut scratch);
                    if K::F16_AT.is_none() {
                        ((*sums).floats[0][r], (*sums).floats[1][r]) = (scratch.scale, scratch.minimum_scale);
                    }
                    let mut row = [_mm256_setzero_si256(); N];
                    if K::Format::OFFSET > 0 && !signed {
                        let offset = _mm256_set1_epi16(-i16::from(K::Format::OFFSET));
                        let offsets = _mm256_mullo_epi16(block.scales, offset);
                        for t in 0..N {
                            row[t] = _mm256_madd_epi16(offsets, of_acts[i][t].assume_init_ref().0);
                        }
                    }
                    // Without scales nothing else is in the way of the additions: two chains of them hide latency.
                    let mut odd = [_mm256_setzero_si256(); N];
                    let mut words = [_mm256_setzero_si256(); N];
                    for j in 0..8 {
                        let scale = broadcast_16(block.scales, j);
                        for t in 0..N {
                            let (mut weights, mut activations) =
                                (block.quants[j], load(activations[t].add(32 * j)));
                            if signed {
                                activations = _mm256_sign_epi8(activations, weights);
                                weights = _mm256_abs_epi8(weights);
                            }
                            if narrow {
                                words[t] =
                                    _mm256_add_epi16(words[t], _mm256_maddubs_epi16(weights, activations));
                            } else if scaled {
                                row[t] = S::words(row[t], _mm256_maddubs_epi16(weights, activations), scale);
                            } else if j % 2 == 0 {
                                row[t] = S::bytes(row[t], weights, activations);
                            } else {
                                odd[t] = S::bytes(odd[t], weights, activations);
                            }
                        }
                    }
                    for t in 0..N {
                        if !scaled && !narrow {
                            row[t] = _mm256_add_epi32(row[t], odd[t]);
                        }
                        if narrow {
                            row[t] = S::words(row[t], words[t], _mm256_set1_epi16(1));
                        }
                        (*sums).partial[t][r] = row[t];
                        let (of_16, of_32) = *of_acts[i][t].assume_init_ref();
                        if K::Format::HAS_MINIMUMS && K::Format::GROUP == 16 {
                            (*sums).minimums[t][r] = _mm256_madd_epi16(block.minimums, of_16);
                        } else if K::Format::HAS_MINIMUMS {
                            let row = _mm256_castsi256_si128(block.minimums);
                            (*sums).minimums_of_32[t][r] = _mm_madd_epi16(row, of_32);
                        }
                    }
                }
            }
            for (i, sums) in of_run[..n].iter().enumerate() {
                let (b, sums) = (first + i, sums.as_ptr());
                let [scales, minimum_scales] = match K::F16_AT {
                    Some([scale, minimum]) => [
                        _mm256_mul_ps(f16s(at(rows, b * bytes + scale)), _mm256_set1_ps(K::FACTOR)),
                        f16s(at(rows, b * bytes + minimum)),
                    ],
                    None => {
                        let [scales, minimum_scales] = (*sums).floats;
                        [_mm256_loadu_ps(scales.as_ptr()), _mm256_loadu_ps(minimum_scales.as_ptr())]
                    }
                };
                for t in 0..N {
                    let scale = _mm256_set1_ps(*acts[t].scales.get_unchecked(b));
                    let of_rows = _mm256_cvtepi32_ps(sum_rows((*sums).partial[t]));
                    acc[t] = _mm256_fmadd_ps(_mm256_mul_ps(scales, scale), of_rows, acc[t]);
                    if K::Format::HAS_MINIMUMS {
                        let of_rows = match K::Format::GROUP {
                            16 => sum_rows((*sums).minimums[t]),
                            _ => sum_half_rows((*sums).minimums_of_32[t]),
                        };
                        let scales = _mm256_mul_ps(minimum_scales, scale);
                        acc[t] = _mm256_fnmadd_ps(scales, _mm256_cvtepi32_ps(of_rows), acc[t]);
                    }
                }
            }
        }
        for t in 0..N {
            store(&mut out[t], acc[t]);
        }
    }
}
