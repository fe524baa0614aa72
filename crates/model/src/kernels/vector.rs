//! Sixteen floats as an instruction set holds them: what float kernels are written over.
//!
//! Every method is one correctly rounded IEEE operation in each lane, or a fixed sequence of them, so a kernel
//! written over [`Vector`] gives the same bits on all instruction sets. (Of a NaN, only that it is one.)

use half::f16;

/// Lanes of every float sum: element k goes to lane k mod 16.
pub(crate) const LANES: usize = 16;

/// Sixteen floats.
///
/// The types for wider instruction sets must only be used in functions compiled for these
/// (`#[target_feature]`), which `Ops` hands out where the machine has them.
pub(super) trait Vector: Copy {
    /// Vectors of a row that a tile of six rows keeps in registers, beside what it reads: 1, 2 or 4.
    const TILE_VECTORS: usize;

    fn splat(x: f32) -> Self;
    fn from_floats(x: &[f32; LANES]) -> Self;
    /// Widens f16 values in the byte order of the machine, exactly.
    fn from_halves(x: &[u8; 2 * LANES]) -> Self;
    /// Exactly.
    fn from_bytes(x: &[i8; LANES]) -> Self;
    fn write(self, to: &mut [f32; LANES]);
    /// Rounds to f16, half to even, in the byte order of the machine.
    fn write_halves(self, to: &mut [u8; 2 * LANES]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    fn fma(self, factor: Self, addend: Self) -> Self;
    /// `if self > other { self } else { other }`
    fn max(self, other: Self) -> Self;
    /// `if self < other { self } else { other }`
    fn min(self, other: Self) -> Self;
    /// `if x < limit { 0.0 } else { self }`
    fn zero_where_less(self, x: Self, limit: Self) -> Self;
    /// 2^n, where the low bits of `self` hold n, from -126 to 127.
    fn power_of_low_bits(self) -> Self;

    /// Adds the lanes in a fixed pairwise tree: 8 apart, 4 apart, 2 apart, neighbours.
    #[inline(always)]
    fn tree(self) -> f32 {
        let mut lanes = [0.0; LANES];
        self.write(&mut lanes);
        let a: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
        let b: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }

    /// The largest lane that is not NaN, at least negative infinity. The sign of a zero is not defined.
    #[inline(always)]
    fn largest(self) -> f32 {
        let mut lanes = [0.0; LANES];
        self.write(&mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, |largest, x| if x > largest { x } else { largest })
    }
}

/// Fewer than 16 values, filled up with zeros, which add nothing to a sum of products.
#[inline(always)]
pub(super) fn padded<V: Vector>(rest: &[f32]) -> V {
    let mut group = [0.0; LANES];
    group[..rest.len()].copy_from_slice(rest);
    V::from_floats(&group)
}

/// e^x to within 2 units in the last place for x in [-87, 88]; 0 below, e^88 above, NaN for NaN.
///
/// Reduction by a two-part ln 2 (Cody and Waite), then the Taylor polynomial of degree 7 on |r| <= ln(2)/2, whose
/// truncation error there is below 6e-9.
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    /// 1.5 * 2^23: adding it rounds to an integer, half to even, that stands in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let lowest = V::splat(-87.0);
    let clamped = V::splat(88.0).min(lowest.max(x));
    let shifted = clamped.fma(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND));
    let n = shifted.sub(V::splat(ROUND));
    let r = n.fma(V::splat(-LN2_LOW), n.fma(V::splat(-LN2_HIGH), clamped));
    let mut p = V::splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.fma(p, V::splat(c));
    }
    p.mul(shifted.power_of_low_bits()).zero_where_less(x, lowest)
}

/// Plain Rust; the oracle for the others.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Portable, f: impl Fn(f32, f32) -> f32) -> Portable {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn splat(x: f32) -> Portable {
        Portable([x; LANES])
    }

    #[inline(always)]
    fn from_floats(x: &[f32; LANES]) -> Portable {
        Portable(*x)
    }

    #[inline(always)]
    fn from_halves(x: &[u8; 2 * LANES]) -> Portable {
        let pairs = x.as_chunks::<2>().0;
        Portable(std::array::from_fn(|i| f16::from_ne_bytes(pairs[i]).to_f32_const()))
    }

    #[inline(always)]
    fn from_bytes(x: &[i8; LANES]) -> Portable {
        Portable(x.map(f32::from))
    }

    #[inline(always)]
    fn write(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn write_halves(self, to: &mut [u8; 2 * LANES]) {
        for (to, x) in to.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *to = f16::from_f32_const(x).to_ne_bytes();
        }
    }

    #[inline(always)]
    fn add(self, other: Portable) -> Portable {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Portable) -> Portable {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Portable) -> Portable {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Portable) -> Portable {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, factor: Portable, addend: Portable) -> Portable {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }

    #[inline(always)]
    fn max(self, other: Portable) -> Portable {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Portable) -> Portable {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn zero_where_less(self, x: Portable, limit: Portable) -> Portable {
        Portable(std::array::from_fn(|i| if x.0[i] < limit.0[i] { 0.0 } else { self.0[i] }))
    }

    #[inline(always)]
    fn power_of_low_bits(self) -> Portable {
        Portable(self.0.map(|x| f32::from_bits(x.to_bits().wrapping_add(127) << 23)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::{LANES, Vector};
    use std::arch::x86_64::*;

    /// Two halves; AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2([__m256; 2]);

    // SAFETY of all blocks below: the type is used only in functions compiled for AVX2, FMA and F16C, which run
    // only where the machine has these (see `Vector`); unaligned loads and stores cover exactly the 16 values of
    // the arrays that are borrowed.
    impl Vector for Avx2 {
        const TILE_VECTORS: usize = 1;

        #[inline(always)]
        fn splat(x: f32) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_set1_ps(x); 2]) }
        }

        #[inline(always)]
        fn from_floats(x: &[f32; LANES]) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))]) }
        }

        #[inline(always)]
        fn from_halves(x: &[u8; 2 * LANES]) -> Avx2 {
            let p = x.as_ptr().cast::<__m128i>();
            // SAFETY: see above.
            unsafe { Avx2([_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))]) }
        }

        #[inline(always)]
        fn from_bytes(x: &[i8; LANES]) -> Avx2 {
            // SAFETY: see above.
            unsafe {
                let all = _mm_loadu_si128(x.as_ptr().cast());
                let low = _mm256_cvtepi8_epi32(all);
                let high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(all, all));
                Avx2([_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)])
            }
        }

        #[inline(always)]
        fn write(self, to: &mut [f32; LANES]) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), self.0[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), self.0[1]);
            }
        }

        #[inline(always)]
        fn write_halves(self, to: &mut [u8; 2 * LANES]) {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
            let p = to.as_mut_ptr().cast::<__m128i>();
            // SAFETY: see above.
            unsafe {
                _mm_storeu_si128(p, _mm256_cvtps_ph::<NEAREST>(self.0[0]));
                _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<NEAREST>(self.0[1]));
            }
        }

        #[inline(always)]
        fn add(self, other: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_add_ps(self.0[0], other.0[0]), _mm256_add_ps(self.0[1], other.0[1])]) }
        }

        #[inline(always)]
        fn sub(self, other: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_sub_ps(self.0[0], other.0[0]), _mm256_sub_ps(self.0[1], other.0[1])]) }
        }

        #[inline(always)]
        fn mul(self, other: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_mul_ps(self.0[0], other.0[0]), _mm256_mul_ps(self.0[1], other.0[1])]) }
        }

        #[inline(always)]
        fn div(self, other: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_div_ps(self.0[0], other.0[0]), _mm256_div_ps(self.0[1], other.0[1])]) }
        }

        #[inline(always)]
        fn fma(self, factor: Avx2, addend: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe {
                Avx2([
                    _mm256_fmadd_ps(self.0[0], factor.0[0], addend.0[0]),
                    _mm256_fmadd_ps(self.0[1], factor.0[1], addend.0[1]),
                ])
            }
        }

        #[inline(always)]
        fn max(self, other: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_max_ps(self.0[0], other.0[0]), _mm256_max_ps(self.0[1], other.0[1])]) }
        }

        #[inline(always)]
        fn min(self, other: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe { Avx2([_mm256_min_ps(self.0[0], other.0[0]), _mm256_min_ps(self.0[1], other.0[1])]) }
        }

        #[inline(always)]
        fn zero_where_less(self, x: Avx2, limit: Avx2) -> Avx2 {
            // SAFETY: see above.
            unsafe {
                let low = _mm256_cmp_ps::<_CMP_LT_OQ>(x.0[0], limit.0[0]);
                let high = _mm256_cmp_ps::<_CMP_LT_OQ>(x.0[1], limit.0[1]);
                Avx2([_mm256_andnot_ps(low, self.0[0]), _mm256_andnot_ps(high, self.0[1])])
            }
        }

        #[inline(always)]
        fn power_of_low_bits(self) -> Avx2 {
            // SAFETY: see above.
            unsafe {
                let bias = _mm256_set1_epi32(127);
                let low = _mm256_add_epi32(_mm256_castps_si256(self.0[0]), bias);
                let high = _mm256_add_epi32(_mm256_castps_si256(self.0[1]), bias);
                Avx2([
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
                ])
            }
        }

        #[inline(always)]
        fn largest(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let none = _mm256_set1_ps(f32::NEG_INFINITY);
                largest_of_8(_mm256_max_ps(self.0[0], _mm256_max_ps(self.0[1], none)))
            }
        }
    }

    /// # Safety
    /// The machine has AVX; no lane is NaN.
    #[inline(always)]
    unsafe fn largest_of_8(x: __m256) -> f32 {
        // SAFETY: as the caller promises.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }

    /// One register; AVX-512 F, BW, DQ and VL.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // SAFETY of all blocks below: as for `Avx2`, with AVX-512 F, BW, DQ and VL.
    impl Vector for Avx512 {
        const TILE_VECTORS: usize = 4;

        #[inline(always)]
        fn splat(x: f32) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_set1_ps(x)) }
        }

        #[inline(always)]
        fn from_floats(x: &[f32; LANES]) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_loadu_ps(x.as_ptr())) }
        }

        #[inline(always)]
        fn from_halves(x: &[u8; 2 * LANES]) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()))) }
        }

        #[inline(always)]
        fn from_bytes(x: &[i8; LANES]) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())))) }
        }

        #[inline(always)]
        fn write(self, to: &mut [f32; LANES]) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn write_halves(self, to: &mut [u8; 2 * LANES]) {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            // SAFETY: see above.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtps_ph::<NEAREST>(self.0)) }
        }

        #[inline(always)]
        fn add(self, other: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn sub(self, other: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn mul(self, other: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn div(self, other: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn fma(self, factor: Avx512, addend: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
        }

        #[inline(always)]
        fn max(self, other: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn min(self, other: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
        }

        #[inline(always)]
        fn zero_where_less(self, x: Avx512, limit: Avx512) -> Avx512 {
            // SAFETY: see above.
            unsafe {
                let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x.0, limit.0);
                Avx512(_mm512_maskz_mov_ps(keep, self.0))
            }
        }

        #[inline(always)]
        fn power_of_low_bits(self) -> Avx512 {
            // SAFETY: see above.
            unsafe {
                let biased = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(127));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
            }
        }

        #[inline(always)]
        fn tree(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let high = _mm512_extractf32x8_ps::<1>(self.0);
                let a = _mm256_add_ps(_mm512_castps512_ps256(self.0), high);
                let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
                _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
            }
        }

        #[inline(always)]
        fn largest(self) -> f32 {
            // SAFETY: see above.
            unsafe {
                let numbers = _mm512_max_ps(self.0, _mm512_set1_ps(f32::NEG_INFINITY));
                let high = _mm512_extractf32x8_ps::<1>(numbers);
                largest_of_8(_mm256_max_ps(_mm512_castps512_ps256(numbers), high))
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::Neon;

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::{LANES, Vector};
    use std::arch::aarch64::*;

    /// Four quarters; baseline aarch64.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Neon([float32x4_t; 4]);

    impl Neon {
        #[inline(always)]
        fn zip(self, other: Neon, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Neon {
            Neon([
                f(self.0[0], other.0[0]),
                f(self.0[1], other.0[1]),
                f(self.0[2], other.0[2]),
                f(self.0[3], other.0[3]),
            ])
        }
    }

    // SAFETY of all blocks below: NEON is part of baseline aarch64; loads and stores cover exactly the 16 values
    // of the arrays that are borrowed.
    impl Vector for Neon {
        const TILE_VECTORS: usize = 1;

        #[inline(always)]
        fn splat(x: f32) -> Neon {
            // SAFETY: see above.
            unsafe { Neon([vdupq_n_f32(x); 4]) }
        }

        #[inline(always)]
        fn from_floats(x: &[f32; LANES]) -> Neon {
            let p = x.as_ptr();
            // SAFETY: see above.
            unsafe { Neon([vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))]) }
        }

        #[inline(always)]
        fn from_halves(x: &[u8; 2 * LANES]) -> Neon {
            let (a, b, c, d): (float32x4_t, float32x4_t, float32x4_t, float32x4_t);
            // SAFETY: see above. Written as assembly because the intrinsics of f16 are not stable.
            unsafe {
                std::arch::asm!(
                    "ldp {b:q}, {d:q}, [{from}]",
                    "fcvtl {a:v}.4s, {b:v}.4h",
                    "fcvtl2 {b:v}.4s, {b:v}.8h",
                    "fcvtl {c:v}.4s, {d:v}.4h",
                    "fcvtl2 {d:v}.4s, {d:v}.8h",
                    from = in(reg) x.as_ptr(),
                    a = out(vreg) a, b = out(vreg) b, c = out(vreg) c, d = out(vreg) d,
                    options(nostack, preserves_flags, readonly, pure)
                );
            }
            Neon([a, b, c, d])
        }

        #[inline(always)]
        fn from_bytes(x: &[i8; LANES]) -> Neon {
            // SAFETY: see above.
            unsafe {
                let all = vld1q_s8(x.as_ptr());
                let (low, high) = (vmovl_s8(vget_low_s8(all)), vmovl_high_s8(all));
                Neon([
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                    vcvtq_f32_s32(vmovl_high_s16(low)),
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                    vcvtq_f32_s32(vmovl_high_s16(high)),
                ])
            }
        }

        #[inline(always)]
        fn write(self, to: &mut [f32; LANES]) {
            let p = to.as_mut_ptr();
            // SAFETY: see above.
            unsafe {
                vst1q_f32(p, self.0[0]);
                vst1q_f32(p.add(4), self.0[1]);
                vst1q_f32(p.add(8), self.0[2]);
                vst1q_f32(p.add(12), self.0[3]);
            }
        }

        #[inline(always)]
        fn write_halves(self, to: &mut [u8; 2 * LANES]) {
            let [a, b, c, d] = self.0;
            // SAFETY: see above. The default rounding mode, to nearest even, is never changed here.
            unsafe {
                std::arch::asm!(
                    "fcvtn {low:v}.4h, {a:v}.4s",
                    "fcvtn2 {low:v}.8h, {b:v}.4s",
                    "fcvtn {high:v}.4h, {c:v}.4s",
                    "fcvtn2 {high:v}.8h, {d:v}.4s",
                    "stp {low:q}, {high:q}, [{to}]",
                    to = in(reg) to.as_mut_ptr(),
                    a = in(vreg) a, b = in(vreg) b, c = in(vreg) c, d = in(vreg) d,
                    low = out(vreg) _, high = out(vreg) _,
                    options(nostack, preserves_flags)
                );
            }
        }

        #[inline(always)]
        fn add(self, other: Neon) -> Neon {
            // SAFETY: see above.
            self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
        }

        #[inline(always)]
        fn sub(self, other: Neon) -> Neon {
            // SAFETY: see above.
            self.zip(other, |a, b| unsafe { vsubq_f32(a, b) })
        }

        #[inline(always)]
        fn mul(self, other: Neon) -> Neon {
            // SAFETY: see above.
            self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
        }

        #[inline(always)]
        fn div(self, other: Neon) -> Neon {
            // SAFETY: see above.
            self.zip(other, |a, b| unsafe { vdivq_f32(a, b) })
        }

        #[inline(always)]
        fn fma(self, factor: Neon, addend: Neon) -> Neon {
            let (a, b, c) = (self.0, factor.0, addend.0);
            // SAFETY: see above.
            unsafe {
                Neon([
                    vfmaq_f32(c[0], a[0], b[0]),
                    vfmaq_f32(c[1], a[1], b[1]),
                    vfmaq_f32(c[2], a[2], b[2]),
                    vfmaq_f32(c[3], a[3], b[3]),
                ])
            }
        }

        #[inline(always)]
        fn max(self, other: Neon) -> Neon {
            // SAFETY: see above.
            self.zip(other, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
        }

        #[inline(always)]
        fn min(self, other: Neon) -> Neon {
            // SAFETY: see above.
            self.zip(other, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
        }

        #[inline(always)]
        fn zero_where_less(self, x: Neon, limit: Neon) -> Neon {
            // SAFETY: see above.
            let less = x.zip(limit, |x, limit| unsafe { vreinterpretq_f32_u32(vcltq_f32(x, limit)) });
            // SAFETY: see above.
            self.zip(less, |value, less| unsafe {
                let kept = vbicq_u32(vreinterpretq_u32_f32(value), vreinterpretq_u32_f32(less));
                vreinterpretq_f32_u32(kept)
            })
        }

        #[inline(always)]
        fn power_of_low_bits(self) -> Neon {
            // SAFETY: see above.
            Neon(self.0.map(|x| unsafe {
                let biased = vaddq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(127));
                vreinterpretq_f32_u32(vshlq_n_u32::<23>(biased))
            }))
        }
    }
}
