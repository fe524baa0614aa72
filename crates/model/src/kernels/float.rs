//! Float code: norms, rotary embedding, activations, attention, float dots, and the quantization of activations.
//!
//! Each function is written once, over groups of [`LANES`] values with explicit fused multiply-adds, and
//! compiled once for each instruction set. Nothing here depends on how the compiler vectorises it: Rust never
//! reorders or contracts float operations, so all copies give the same bits.

use super::isa::Isa;
use half::f16;

/// Lanes of every float sum: element k goes to lane k mod 16.
pub(crate) const LANES: usize = 16;

/// Positions in one block of attention, counted from position 0 of the timeline whatever the batch.
pub(crate) const ATTENTION_BLOCK: usize = 64;

/// Weights or activations in one quantized block of the `Q8_0` family.
pub(crate) const BLOCK_32: usize = 32;

/// Weights or activations in one super-block of the K-quants.
pub(crate) const BLOCK_256: usize = 256;

/// One query head against the cached keys and values of its key-value head.
#[derive(Clone, Copy)]
pub(crate) struct AttentionHead<'a> {
    /// The query, `[head_dim]`, already rotated.
    pub(crate) query: &'a [f32],
    /// f16 bits, `[position][head_dim]` from position 0.
    pub(crate) keys: &'a [u16],
    /// f16 bits, `[position][value_dim]` from position 0.
    pub(crate) values: &'a [u16],
    /// First visible position.
    pub(crate) first: usize,
    /// One past the last visible position; past `first`.
    pub(crate) end: usize,
    /// Factor of every score.
    pub(crate) scale: f32,
}

/// What instruction sets do differently and a compiler does not find by itself.
trait Vector {
    /// Widens 16 f16 values, exactly.
    fn widen(bits: &[u16; LANES]) -> [f32; LANES];
}

struct Portable;

impl Vector for Portable {
    #[inline(always)]
    fn widen(bits: &[u16; LANES]) -> [f32; LANES] {
        bits.map(|b| f16::from_bits(b).to_f32_const())
    }
}

#[cfg(target_arch = "x86_64")]
struct F16c;

#[cfg(target_arch = "x86_64")]
impl Vector for F16c {
    #[inline(always)]
    fn widen(bits: &[u16; LANES]) -> [f32; LANES] {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let mut out = [0.0; LANES];
        // SAFETY: reached only through the copies compiled for AVX2, which `Ops::new` hands out where the
        // machine has F16C; the loads and stores cover exactly the 16 values of each array.
        unsafe {
            let p = bits.as_ptr().cast::<__m128i>();
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(p)));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))));
        }
        out
    }
}

#[cfg(target_arch = "aarch64")]
struct NeonF16;

#[cfg(target_arch = "aarch64")]
impl Vector for NeonF16 {
    #[inline(always)]
    fn widen(bits: &[u16; LANES]) -> [f32; LANES] {
        let mut out = [0.0f32; LANES];
        // SAFETY: f16 conversion is part of baseline aarch64; loads and stores cover exactly 16 values.
        unsafe {
            std::arch::asm!(
                "ldp {a:q}, {b:q}, [{src}]",
                "fcvtl {c:v}.4s, {a:v}.4h",
                "fcvtl2 {d:v}.4s, {a:v}.8h",
                "stp {c:q}, {d:q}, [{dst}]",
                "fcvtl {c:v}.4s, {b:v}.4h",
                "fcvtl2 {d:v}.4s, {b:v}.8h",
                "stp {c:q}, {d:q}, [{dst}, #32]",
                src = in(reg) bits.as_ptr(),
                dst = in(reg) out.as_mut_ptr(),
                a = out(vreg) _, b = out(vreg) _, c = out(vreg) _, d = out(vreg) _,
                options(nostack, preserves_flags)
            );
        }
        out
    }
}

/// Declares every operation once: its generic body lives in [`body`], and here it is compiled for each
/// instruction set and put behind a safe method of [`Ops`].
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        /// The float operations, compiled for one instruction set.
        #[derive(Clone, Copy)]
        pub(crate) struct Ops {
            isa: Isa,
            $($name: unsafe fn($($ty),*) $(-> $ret)?,)*
        }

        mod portable {
            use super::*;
            $(pub(super) fn $name($($arg: $ty),*) $(-> $ret)? { body::$name::<Portable>($($arg),*) })*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx2 {
            use super::*;
            $(
                #[target_feature(enable = "avx2,fma,f16c")]
                pub(super) fn $name($($arg: $ty),*) $(-> $ret)? { body::$name::<F16c>($($arg),*) }
            )*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx512 {
            use super::*;
            $(
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
                pub(super) fn $name($($arg: $ty),*) $(-> $ret)? { body::$name::<F16c>($($arg),*) }
            )*
        }

        #[cfg(target_arch = "aarch64")]
        mod neon {
            use super::*;
            $(pub(super) fn $name($($arg: $ty),*) $(-> $ret)? { body::$name::<NeonF16>($($arg),*) })*
        }

        impl Ops {
            /// The operations for `isa`, which the machine must have: an [`Isa`] is only made where it does.
            pub(crate) fn new(isa: Isa) -> Ops {
                match isa {
                    Isa::Scalar => Ops { isa, $($name: portable::$name,)* },
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 | Isa::AvxVnni => Ops { isa, $($name: avx2::$name,)* },
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => Ops { isa, $($name: avx512::$name,)* },
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon | Isa::NeonI8mm => Ops { isa, $($name: neon::$name,)* },
                }
            }

            /// The instruction set.
            pub(crate) fn isa(&self) -> Isa {
                self.isa
            }

            $(
                $(#[$doc])*
                #[inline]
                pub(crate) fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the function needs no more than the instruction set it was compiled for, which
                    // this machine has.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
        }
    };
}

operations! {
    /// Sum of products of two vectors of one length.
    fn dot(a: &[f32], b: &[f32]) -> f32;
    /// Four of them with one `a`, each to the same bits as [`Ops::dot`]: four chains hide the latency of one.
    fn dot_4(a: &[f32], b: [&[f32]; 4]) -> [f32; 4];
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, all of one length.
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
    /// Rotates pairs `(x[2i], x[2i+1])` by the angles whose cosines and sines are given; the rest stays.
    fn rope_adjacent(x: &mut [f32], cos: &[f32], sin: &[f32]);
    /// Rotates pairs `(x[i], x[i + n])`, `n` being the number of angles; the rest stays.
    fn rope_halves(x: &mut [f32], cos: &[f32], sin: &[f32]);
    /// `gate = silu(gate) * up`.
    fn silu_mul(gate: &mut [f32], up: &[f32]);
    /// `gate = gelu(gate) * up`, gelu in its tanh form.
    fn gelu_mul(gate: &mut [f32], up: &[f32]);
    /// `x += y`.
    fn add(x: &mut [f32], y: &[f32]);
    /// `x *= factor`.
    fn scale(x: &mut [f32], factor: f32);
    /// `x = cap * tanh(x / cap)`.
    fn soft_cap(x: &mut [f32], cap: f32);
    /// Softmax-weighted sum of the visible values, `[value_dim]`, online over blocks of [`ATTENTION_BLOCK`].
    fn attend(head: &AttentionHead<'_>, out: &mut [f32]);
    /// Widens f16 bits.
    fn widen_f16(bits: &[u16], out: &mut [f32]);
    /// Quantizes blocks of 32 the way `Q8_0` does: `d = f16(max|x| / 127)`, quants rounded half to even.
    /// `sums` gets each block's sum of quants, and `scaled_sums` that sum times the scale before its rounding,
    /// rounded to f16 as `Q8_1` stores it.
    fn quantize_32(x: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [i32], scaled_sums: &mut [f32]);
    /// Quantizes super-blocks of 256 the way `Q8_K` does: the value of largest magnitude becomes -127, scales
    /// stay f32. `sums` gets the sum of each 16 quants.
    fn quantize_256(x: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [i16]);
}

mod body {
    use super::*;

    /// Adds the lanes in a fixed pairwise tree: 8 apart, 4 apart, 2 apart, neighbours.
    #[inline(always)]
    fn tree(lanes: [f32; LANES]) -> f32 {
        let a: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
        let b: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }

    #[inline(always)]
    fn fma(a: &[f32; LANES], b: &[f32; LANES], acc: &mut [f32; LANES]) {
        for i in 0..LANES {
            acc[i] = a[i].mul_add(b[i], acc[i]);
        }
    }

    /// The last, shorter group of a vector, filled up with zeros, which add nothing to a sum of products.
    #[inline(always)]
    fn padded<T: Copy + Default>(rest: &[T]) -> [T; LANES] {
        std::array::from_fn(|i| rest.get(i).copied().unwrap_or_default())
    }

    #[inline(always)]
    pub(super) fn dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        let mut acc = [0.0; LANES];
        let (a_groups, a_rest) = a.as_chunks::<LANES>();
        let (b_groups, b_rest) = b.as_chunks::<LANES>();
        for (x, y) in a_groups.iter().zip(b_groups) {
            fma(x, y, &mut acc);
        }
        if !a_rest.is_empty() {
            fma(&padded(a_rest), &padded(b_rest), &mut acc);
        }
        tree(acc)
    }

    #[inline(always)]
    pub(super) fn dot_4<V: Vector>(a: &[f32], b: [&[f32]; 4]) -> [f32; 4] {
        let b = b.map(|b| &b[..a.len()]);
        let mut acc = [[0.0; LANES]; 4];
        let (a_groups, a_rest) = a.as_chunks::<LANES>();
        let b_groups = b.map(|b| &b.as_chunks::<LANES>().0[..a_groups.len()]);
        for (i, x) in a_groups.iter().enumerate() {
            for (b, acc) in b_groups.iter().zip(&mut acc) {
                fma(x, &b[i], acc);
            }
        }
        if !a_rest.is_empty() {
            for (b, acc) in b.iter().zip(&mut acc) {
                fma(&padded(a_rest), &padded(b.as_chunks::<LANES>().1), acc);
            }
        }
        acc.map(tree)
    }

    #[inline(always)]
    fn dot_f16<V: Vector>(a: &[f32], bits: &[u16]) -> f32 {
        let mut acc = [0.0; LANES];
        let (a_groups, a_rest) = a.as_chunks::<LANES>();
        let (b_groups, b_rest) = bits.as_chunks::<LANES>();
        for (x, y) in a_groups.iter().zip(b_groups) {
            fma(x, &V::widen(y), &mut acc);
        }
        if !a_rest.is_empty() {
            fma(&padded(a_rest), &V::widen(&padded(b_rest)), &mut acc);
        }
        tree(acc)
    }

    #[inline(always)]
    pub(super) fn rms_norm<V: Vector>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        let factor = 1.0 / (dot::<V>(x, x) / x.len() as f32 + eps).sqrt();
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * factor * w;
        }
    }

    #[inline(always)]
    pub(super) fn rope_adjacent<V: Vector>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
        for ((pair, c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            let [a, b] = *pair;
            *pair = [a * c - b * s, a * s + b * c];
        }
    }

    #[inline(always)]
    pub(super) fn rope_halves<V: Vector>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
        let (first, second) = x.split_at_mut(cos.len());
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
        }
    }

    /// e^x to within 2 units in the last place for x in [-87, 88]; 0 below, e^88 above.
    ///
    /// Reduction by a two-part ln 2 (Cody and Waite), then the Taylor polynomial of degree 7 on
    /// |r| <= ln(2)/2, whose truncation error there is below 6e-9.
    #[inline(always)]
    pub(super) fn exp(x: f32) -> f32 {
        /// 1.5 * 2^23: adding it rounds to an integer, half to even, that stands in the low mantissa bits.
        const ROUND: f32 = 12_582_912.0;
        const LN2_HIGH: f32 = 0.693_145_75;
        const LN2_LOW: f32 = 1.428_606_8e-6;
        let clamped = if x > 88.0 {
            88.0
        } else if x > -87.0 {
            x
        } else {
            -87.0
        };
        let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
        let mut p = 1.0 / 5040.0;
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = r.mul_add(p, c);
        }
        let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        if x < -87.0 { 0.0 } else { p * power }
    }

    #[inline(always)]
    pub(super) fn silu_mul<V: Vector>(gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + exp(-*g)) * u;
        }
    }

    #[inline(always)]
    pub(super) fn gelu_mul<V: Vector>(gate: &mut [f32], up: &[f32]) {
        /// 2 * sqrt(2 / pi): with it `0.5 x (1 + tanh(u))` is `x / (1 + exp(-2u))`.
        const FACTOR: f32 = 1.595_769;
        for (g, u) in gate.iter_mut().zip(up) {
            let x = *g;
            let inner = FACTOR * x * (0.044_715 * x).mul_add(x, 1.0);
            *g = x / (1.0 + exp(-inner)) * u;
        }
    }

    #[inline(always)]
    pub(super) fn soft_cap<V: Vector>(x: &mut [f32], cap: f32) {
        for x in x {
            // tanh(y) = 1 - 2 / (1 + e^(2y))
            *x = cap * (1.0 - 2.0 / (1.0 + exp(2.0 * (*x / cap))));
        }
    }

    #[inline(always)]
    pub(super) fn add<V: Vector>(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }

    #[inline(always)]
    pub(super) fn scale<V: Vector>(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }

    #[inline(always)]
    pub(super) fn widen_f16<V: Vector>(bits: &[u16], out: &mut [f32]) {
        assert_eq!(bits.len(), out.len());
        let (groups, rest) = bits.as_chunks::<LANES>();
        let (out_groups, out_rest) = out.as_chunks_mut::<LANES>();
        for (o, b) in out_groups.iter_mut().zip(groups) {
            *o = V::widen(b);
        }
        let widened = V::widen(&padded(rest));
        out_rest.copy_from_slice(&widened[..rest.len()]);
    }

    #[inline(always)]
    fn scale_lanes(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }

    /// `out += p * value`, the value being f16.
    #[inline(always)]
    fn add_scaled<V: Vector>(p: f32, value: &[u16], out: &mut [f32]) {
        let (groups, rest) = value.as_chunks::<LANES>();
        let (out_groups, out_rest) = out.as_chunks_mut::<LANES>();
        for (o, b) in out_groups.iter_mut().zip(groups) {
            fma(&[p; LANES], &V::widen(b), o);
        }
        if !rest.is_empty() {
            let widened = V::widen(&padded(rest));
            for (o, v) in out_rest.iter_mut().zip(widened) {
                *o = p.mul_add(v, *o);
            }
        }
    }

    #[inline(always)]
    pub(super) fn attend<V: Vector>(head: &AttentionHead<'_>, out: &mut [f32]) {
        let AttentionHead { query, keys, values, first, end, scale } = *head;
        let (key_dim, value_dim) = (query.len(), out.len());
        assert!(end * key_dim <= keys.len() && end * value_dim <= values.len() && first < end);
        out.fill(0.0);
        let mut maximum = f32::NEG_INFINITY;
        let mut sum = 0.0f32;
        let mut block = first / ATTENTION_BLOCK * ATTENTION_BLOCK;
        while block < end {
            let (from, to) = (block.max(first), (block + ATTENTION_BLOCK).min(end));
            // A position's place in the block fixes its lane in the sum, masked ones count as zero.
            let mut weights = [f32::NEG_INFINITY; ATTENTION_BLOCK];
            let mut block_maximum = f32::NEG_INFINITY;
            for position in from..to {
                let key = &keys[position * key_dim..][..key_dim];
                let score = dot_f16::<V>(query, key) * scale;
                weights[position - block] = score;
                block_maximum = if score > block_maximum { score } else { block_maximum };
            }
            if block_maximum > maximum {
                let correction = exp(maximum - block_maximum);
                scale_lanes(out, correction);
                sum *= correction;
                maximum = block_maximum;
            }
            let mut lanes = [0.0; LANES];
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = exp(*weight - maximum);
                lanes[i % LANES] += *weight;
            }
            sum += tree(lanes);
            for position in from..to {
                add_scaled::<V>(weights[position - block], &values[position * value_dim..][..value_dim], out);
            }
            block += ATTENTION_BLOCK;
        }
        scale_lanes(out, 1.0 / sum);
    }

    #[inline(always)]
    fn max_abs(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        for group in x.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                let magnitude = group[i].abs();
                lanes[i] = if magnitude > lanes[i] { magnitude } else { lanes[i] };
            }
        }
        lanes.iter().fold(0.0, |m, l| if *l > m { *l } else { m })
    }

    /// x * factor rounded half to even, within [-127, 127] whatever x is.
    #[inline(always)]
    fn round_scaled(x: f32, factor: f32) -> i32 {
        const ROUND: f32 = 12_582_912.0;
        ((x * factor + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).clamp(-127, 127)
    }

    #[inline(always)]
    pub(super) fn quantize_32<V: Vector>(
        x: &[f32],
        quants: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
        scaled_sums: &mut [f32],
    ) {
        let blocks = x.as_chunks::<BLOCK_32>().0.iter().zip(quants.as_chunks_mut::<BLOCK_32>().0);
        for (b, (x, quants)) in blocks.enumerate() {
            let maximum = max_abs(x);
            let d = maximum / 127.0;
            // A maximum that is not finite would make every product NaN; zeros keep the rounding defined.
            let inverse = if maximum > 0.0 && maximum < f32::INFINITY { 127.0 / maximum } else { 0.0 };
            let mut sum = 0;
            for (q, x) in quants.iter_mut().zip(x) {
                let rounded = round_scaled(*x, inverse);
                sum += rounded;
                *q = rounded as i8;
            }
            scales[b] = f16::from_f32_const(d).to_f32_const();
            sums[b] = sum;
            scaled_sums[b] = f16::from_f32_const(d * sum as f32).to_f32_const();
        }
    }

    #[inline(always)]
    pub(super) fn quantize_256<V: Vector>(
        x: &[f32],
        quants: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i16],
    ) {
        let blocks = x.as_chunks::<BLOCK_256>().0.iter().zip(quants.as_chunks_mut::<BLOCK_256>().0);
        for (b, (x, quants)) in blocks.enumerate() {
            let magnitude = max_abs(x);
            let sums = &mut sums[b * 16..][..16];
            if !(magnitude > 0.0 && magnitude < f32::INFINITY) {
                quants.fill(0);
                sums.fill(0);
                scales[b] = magnitude;
                continue;
            }
            let largest = x.iter().copied().find(|x| x.abs() == magnitude).unwrap_or(magnitude);
            let inverse = -127.0 / largest;
            for (group, (quants, x)) in
                quants.as_chunks_mut::<16>().0.iter_mut().zip(x.as_chunks::<16>().0).enumerate()
            {
                let mut sum = 0;
                for (q, x) in quants.iter_mut().zip(x) {
                    let rounded = round_scaled(*x, inverse);
                    sum += rounded;
                    *q = rounded as i8;
                }
                sums[group] = sum as i16;
            }
            scales[b] = 1.0 / inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic values in [-range, range).
    fn values(n: usize, seed: u64, range: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * range
            })
            .collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|v| v.to_bits()).collect()
    }

    fn f16_bits(x: &[f32]) -> Vec<u16> {
        x.iter().map(|v| f16::from_f32(*v).to_bits()).collect()
    }

    /// Runs `f` with every instruction set and checks that all results have the same bits as the portable ones.
    fn same_on_all(f: impl Fn(&Ops) -> Vec<f32>) -> Vec<f32> {
        let expected = f(&Ops::new(Isa::Scalar));
        for isa in Isa::available() {
            assert_eq!(bits(&f(&Ops::new(isa))), bits(&expected), "{isa}");
        }
        expected
    }

    #[test]
    fn sums_of_products_at_all_lengths() {
        for n in 0..100 {
            let (a, b) = (values(n, 1, 2.0), values(n, 2, 2.0));
            let got = same_on_all(|ops| vec![ops.dot(&a, &b)])[0];
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(got) - exact).abs() < 1e-4, "{n}: {got} {exact}");
            let c = values(n, 3, 2.0);
            let four = same_on_all(|ops| ops.dot_4(&a, [&b, &a, &c, &b]).to_vec());
            let single = same_on_all(|ops| [&b, &a, &c, &b].map(|x| ops.dot(&a, x)).to_vec());
            assert_eq!(bits(&four), bits(&single), "{n}");
        }
    }

    #[test]
    fn norm_matches_its_formula() {
        for n in [1, 15, 64, 576, 577] {
            let (x, w) = (values(n, 3, 5.0), values(n, 4, 1.0));
            let got = same_on_all(|ops| {
                let mut out = vec![0.0; n];
                ops.rms_norm(&x, &w, 1e-5, &mut out);
                out
            });
            let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let exact = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(w[i]);
                assert!((f64::from(got[i]) - exact).abs() < 1e-5, "{n} {i}");
            }
        }
    }

    #[test]
    fn exponential_is_accurate_and_total() {
        for i in -8_700..8_800 {
            let x = i as f32 / 100.0;
            let (got, exact) = (f64::from(body::exp(x)), f64::from(x).exp());
            assert!((got / exact - 1.0).abs() < 2.5e-7, "{x}: {got} {exact}");
        }
        assert_eq!(body::exp(0.0), 1.0);
        assert_eq!(body::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(body::exp(-88.0), 0.0);
        assert!(body::exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn gates_match_their_formulas() {
        let (gate, up) = (values(1000, 5, 12.0), values(1000, 6, 2.0));
        let run = |f: fn(&Ops, &mut [f32], &[f32])| {
            same_on_all(|ops| {
                let mut out = gate.clone();
                f(ops, &mut out, &up);
                out
            })
        };
        let silu = run(|ops, g, u| ops.silu_mul(g, u));
        let gelu = run(|ops, g, u| ops.gelu_mul(g, u));
        for i in 0..gate.len() {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            let exact = g / (1.0 + (-g).exp()) * u;
            assert!((f64::from(silu[i]) - exact).abs() < 1e-5, "silu {g}");
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g * g * g);
            let exact = 0.5 * g * (1.0 + inner.tanh()) * u;
            assert!((f64::from(gelu[i]) - exact).abs() < 1e-5, "gelu {g}: {} {exact}", gelu[i]);
        }
    }

    #[test]
    fn soft_cap_is_tanh() {
        let x = values(200, 7, 100.0);
        let got = same_on_all(|ops| {
            let mut out = x.clone();
            ops.soft_cap(&mut out, 30.0);
            out
        });
        for (x, y) in x.iter().zip(&got) {
            assert!((30.0 * (x / 30.0).tanh() - y).abs() < 1e-4);
        }
    }

    #[test]
    fn rotations_keep_lengths_and_leave_the_rest() {
        let x = values(80, 8, 1.0);
        let angles: Vec<f32> = (0..32).map(|i| i as f32 * 0.1).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let adjacent = same_on_all(|ops| {
            let mut y = x.clone();
            ops.rope_adjacent(&mut y, &cos, &sin);
            y
        });
        let halves = same_on_all(|ops| {
            let mut y = x.clone();
            ops.rope_halves(&mut y, &cos, &sin);
            y
        });
        for i in 0..32 {
            let expect = |a: f32, b: f32| (a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]);
            assert_eq!((adjacent[2 * i], adjacent[2 * i + 1]), expect(x[2 * i], x[2 * i + 1]));
            assert_eq!((halves[i], halves[i + 32]), expect(x[i], x[i + 32]));
        }
        assert_eq!(adjacent[64..], x[64..]);
        assert_eq!(halves[64..], x[64..]);
    }

    #[test]
    fn attention_matches_a_plain_softmax() {
        for (dim, n) in [(64, 1), (64, 63), (64, 64), (64, 65), (128, 300), (40, 130)] {
            let query = values(dim, 9, 1.0);
            let keys = f16_bits(&values(dim * n, 10, 3.0));
            let cache = f16_bits(&values(dim * n, 11, 1.0));
            for first in [0, n / 2] {
                let head =
                    AttentionHead { query: &query, keys: &keys, values: &cache, first, end: n, scale: 0.3 };
                let got = same_on_all(|ops| {
                    let mut out = vec![0.0; dim];
                    ops.attend(&head, &mut out);
                    out
                });
                let wide = |b: &[u16]| b.iter().map(|b| f16::from_bits(*b).to_f64()).collect::<Vec<_>>();
                let (k, v) = (wide(&keys), wide(&cache));
                let scores: Vec<f64> = (first..n)
                    .map(|p| (0..dim).map(|d| f64::from(query[d]) * k[p * dim + d]).sum::<f64>() * 0.3)
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let exact: f64 =
                        weights.iter().enumerate().map(|(i, w)| w * v[(first + i) * dim + d]).sum::<f64>()
                            / total;
                    assert!((f64::from(got[d]) - exact).abs() < 1e-5, "{dim} {n} {first} {d}");
                }
            }
        }
    }

    #[test]
    fn attention_ignores_what_lies_past_the_end() {
        let (dim, n) = (64, 200);
        let query = values(dim, 12, 1.0);
        let keys = f16_bits(&values(dim * n, 13, 1.0));
        let cache = f16_bits(&values(dim * n, 14, 1.0));
        let ops = Ops::new(Isa::detect());
        let run = |len: usize| {
            let mut out = vec![0.0; dim];
            let (keys, values) = (&keys[..len * dim], &cache[..len * dim]);
            ops.attend(
                &AttentionHead { query: &query, keys, values, first: 3, end: 130, scale: 1.0 },
                &mut out,
            );
            bits(&out)
        };
        assert_eq!(run(130), run(200));
    }

    #[test]
    fn half_floats_widen_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).filter(|b| !f16::from_bits(*b).is_nan()).collect();
        let got = same_on_all(|ops| {
            let mut out = vec![0.0; all.len()];
            ops.widen_f16(&all, &mut out);
            out
        });
        assert!(all.iter().zip(&got).all(|(b, x)| f16::from_bits(*b).to_f32() == *x));
    }

    #[test]
    fn quantized_blocks_are_close_and_sums_exact() {
        for (range, n) in [(3.0, 256 * 3), (1e-30, 256), (0.0, 256), (1e30, 256)] {
            let x = values(n, 15, range);
            for isa in Isa::available() {
                let ops = Ops::new(isa);
                let (mut q, mut d) = (vec![0; n], vec![0.0; n / 32]);
                let (mut s, mut ds) = (vec![0; n / 32], vec![0.0; n / 32]);
                ops.quantize_32(&x, &mut q, &mut d, &mut s, &mut ds);
                let (mut qk, mut dk, mut sk) = (vec![0; n], vec![0.0; n / 256], vec![0; n / 16]);
                ops.quantize_256(&x, &mut qk, &mut dk, &mut sk);
                for i in 0..n {
                    if range == 3.0 {
                        assert!((f32::from(q[i]) * d[i / 32] - x[i]).abs() < range / 127.0);
                    }
                    assert!((f32::from(qk[i]) * dk[i / 256] - x[i]).abs() <= range / 127.0);
                }
                for (b, block) in q.chunks(32).enumerate() {
                    assert_eq!(block.iter().map(|q| i32::from(*q)).sum::<i32>(), s[b]);
                }
                for (b, block) in qk.chunks(16).enumerate() {
                    assert_eq!(block.iter().map(|q| i16::from(*q)).sum::<i16>(), sk[b]);
                }
            }
        }
    }

    #[test]
    fn quantization_gives_the_same_bits_on_all() {
        let mut x = values(1024, 16, 7.0);
        x[300] = f32::NAN;
        x[600] = f32::INFINITY;
        same_on_all(|ops| {
            let n = x.len();
            let (mut q, mut d) = (vec![0; n], vec![0.0; n / 32]);
            let (mut s, mut ds) = (vec![0; n / 32], vec![0.0; n / 32]);
            ops.quantize_32(&x, &mut q, &mut d, &mut s, &mut ds);
            let (mut qk, mut dk, mut sk) = (vec![0; n], vec![0.0; n / 256], vec![0; n / 16]);
            ops.quantize_256(&x, &mut qk, &mut dk, &mut sk);
            let ints = q.iter().chain(&qk).map(|q| f32::from(*q));
            let sums = s.iter().map(|s| *s as f32).chain(sk.iter().map(|s| f32::from(*s)));
            ints.chain(sums)
                .chain(ds)
                .chain(dk)
                .chain(d.into_iter().map(|d| if d.is_nan() { -1.0 } else { d }))
                .collect()
        });
    }
}
