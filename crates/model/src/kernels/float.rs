//! Float code: norms, rotary embedding, activations, float dots, the quantization of activations, and the list of
//! all operations over floats (the bodies of those of attention are in `attention`).
//!
//! Each function is written once, over groups of [`LANES`] values with explicit fused multiply-adds, and
//! compiled once for each instruction set. Nothing here depends on how the compiler vectorises it: Rust never
//! reorders or contracts float operations, so all copies give the same bits.

use super::attention::product::{Line, Product};
use super::attention::softmax::{Rows, Visible};
use super::isa::Isa;
#[cfg(target_arch = "aarch64")]
use super::vector::Neon;
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{LANES, Portable, Vector, exp, padded};
use half::f16;

/// Weights or activations in one quantized block of the `Q8_0` family.
pub(crate) const BLOCK_32: usize = 32;

/// Weights or activations in one super-block of the K-quants.
pub(crate) const BLOCK_256: usize = 256;

/// Weight rows of a [tile of dots](Ops::dot_tile).
pub(crate) const FLOAT_ROWS: usize = 4;

/// Rows of activations of it: with the weight rows, 24 sums, which AVX-512 has registers for.
pub(crate) const FLOAT_ACTS: usize = 6;

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
                pub(super) fn $name($($arg: $ty),*) $(-> $ret)? { body::$name::<Avx2>($($arg),*) }
            )*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx512 {
            use super::*;
            $(
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
                pub(super) fn $name($($arg: $ty),*) $(-> $ret)? { body::$name::<Avx512>($($arg),*) }
            )*
        }

        #[cfg(target_arch = "aarch64")]
        mod neon {
            use super::*;
            $(pub(super) fn $name($($arg: $ty),*) $(-> $ret)? { body::$name::<Neon>($($arg),*) })*
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
                    Isa::Neon | Isa::I8mm => Ops { isa, $($name: neon::$name,)* },
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
    /// The dots of a few weight rows with a few rows of activations, all of one length, `[activation row][weight row]`,
    /// each to the same bits as [`Ops::dot`]: what is loaded serves several sums.
    fn dot_tile(weights: [&[f32]; FLOAT_ROWS], acts: [&[f32]; FLOAT_ACTS]) -> [[f32; FLOAT_ROWS]; FLOAT_ACTS];
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
    /// `x += factor * y`, rounded once.
    fn add_scaled(x: &mut [f32], factor: f32, y: &[f32]);
    /// `x = e^x / sum(e^x)`; all NaN when a value is NaN or positive infinity.
    fn softmax(x: &mut [f32]);
    /// `x *= factor`.
    fn scale(x: &mut [f32], factor: f32);
    /// `x = cap * tanh(x / cap)`.
    fn soft_cap(x: &mut [f32], cap: f32);
    /// A product whose right side is widened.
    fn multiply_lines(product: &Product<'_, Line>, out: &mut [f32]);
    /// A product whose right side is f16.
    fn multiply_halves(product: &Product<'_, [u8; 2 * LANES]>, out: &mut [f32]);
    /// Turns products of queries and keys of one block of attention into weights.
    fn weights(visible: &[Visible], scale: f32, products: &mut [f32], rows: &mut Rows<'_>);
    /// Adds what rows of attention have seen in `part` to `total`, which comes before.
    fn merge(total: &mut Rows<'_>, part: &Rows<'_>);
    /// Puts a key and a value into a block of the cache of type `F16`, at `place`.
    fn store_halves(key: &[f32], value: &[f32], place: usize, keys: &mut [u8], values: &mut [u8]);
    /// The same for `Q8_0`.
    fn store_q8_0(key: &[f32], value: &[f32], place: usize, keys: &mut [u8], values: &mut [u8]);
    /// The same for `Q4_0`.
    fn store_q4_0(key: &[f32], value: &[f32], place: usize, keys: &mut [u8], values: &mut [u8]);
    /// Widens f16 in the byte order of the machine.
    fn widen_halves(halves: &[u8], out: &mut [Line]);
    /// Widens the keys of a block of the cache of type `Q8_0`.
    fn widen_q8_0_keys(keys: &[u8], out: &mut [Line]);
    /// Its values.
    fn widen_q8_0_values(values: &[u8], out: &mut [Line]);
    /// Widens the keys of a block of the cache of type `Q4_0`.
    fn widen_q4_0_keys(keys: &[u8], out: &mut [Line]);
    /// Its values.
    fn widen_q4_0_values(values: &[u8], out: &mut [Line]);
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

    use crate::kernels::attention::product::multiply;
    pub(super) use crate::kernels::attention::softmax::{merge, weights};
    pub(super) use crate::kernels::attention::{
        store_halves, store_q4_0, store_q8_0, widen_halves, widen_q4_0_keys, widen_q4_0_values,
        widen_q8_0_keys, widen_q8_0_values,
    };

    #[inline(always)]
    pub(super) fn multiply_lines<V: Vector>(product: &Product<'_, Line>, out: &mut [f32]) {
        multiply::<V, _>(product, out);
    }

    #[inline(always)]
    pub(super) fn multiply_halves<V: Vector>(product: &Product<'_, [u8; 2 * LANES]>, out: &mut [f32]) {
        multiply::<V, _>(product, out);
    }

    /// A function of one or two elements. A closure would do, were closures always inlined: one that is not
    /// loses the instruction set that it is used in.
    trait Elementwise: Copy {
        fn of<V: Vector>(self, x: V, y: V) -> V;
    }

    /// Replaces each `x` by `f(x, y)`.
    #[inline(always)]
    fn map<V: Vector>(x: &mut [f32], y: &[f32], f: impl Elementwise) {
        assert_eq!(x.len(), y.len());
        let ((x, x_rest), (y, y_rest)) = (x.as_chunks_mut::<LANES>(), y.as_chunks::<LANES>());
        for (x, y) in x.iter_mut().zip(y) {
            f.of(V::from_floats(x), V::from_floats(y)).write(x);
        }
        if !x_rest.is_empty() {
            write_rest(x_rest, f.of(padded::<V>(x_rest), padded(y_rest)));
        }
    }

    /// Replaces each `x` by `f(x, x)`.
    #[inline(always)]
    fn map_alone<V: Vector>(x: &mut [f32], f: impl Elementwise) {
        let (groups, rest) = x.as_chunks_mut::<LANES>();
        for group in groups {
            let values = V::from_floats(group);
            f.of(values, values).write(group);
        }
        if !rest.is_empty() {
            let values = padded::<V>(rest);
            write_rest(rest, f.of(values, values));
        }
    }

    #[inline(always)]
    fn write_rest<V: Vector>(rest: &mut [f32], values: V) {
        let mut group = [0.0; LANES];
        values.write(&mut group);
        rest.copy_from_slice(&group[..rest.len()]);
    }

    #[inline(always)]
    pub(super) fn dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        let mut acc = V::splat(0.0);
        let (a_groups, a_rest) = a.as_chunks::<LANES>();
        let (b_groups, b_rest) = b.as_chunks::<LANES>();
        for (x, y) in a_groups.iter().zip(b_groups) {
            acc = V::from_floats(x).fma(V::from_floats(y), acc);
        }
        if !a_rest.is_empty() {
            acc = padded::<V>(a_rest).fma(padded(b_rest), acc);
        }
        acc.tree()
    }

    #[inline(always)]
    pub(super) fn dot_4<V: Vector>(a: &[f32], b: [&[f32]; 4]) -> [f32; 4] {
        let b = b.map(|b| &b[..a.len()]);
        let mut acc = [V::splat(0.0); 4];
        let (a_groups, a_rest) = a.as_chunks::<LANES>();
        let b_groups = b.map(|b| &b.as_chunks::<LANES>().0[..a_groups.len()]);
        for (i, x) in a_groups.iter().enumerate() {
            let x = V::from_floats(x);
            for (b, acc) in b_groups.iter().zip(&mut acc) {
                *acc = x.fma(V::from_floats(&b[i]), *acc);
            }
        }
        if !a_rest.is_empty() {
            let x = padded::<V>(a_rest);
            for (b, acc) in b.iter().zip(&mut acc) {
                *acc = x.fma(padded(b.as_chunks::<LANES>().1), *acc);
            }
        }
        [acc[0].tree(), acc[1].tree(), acc[2].tree(), acc[3].tree()]
    }

    #[inline(always)]
    pub(super) fn dot_tile<V: Vector>(
        weights: [&[f32]; FLOAT_ROWS],
        acts: [&[f32]; FLOAT_ACTS],
    ) -> [[f32; FLOAT_ROWS]; FLOAT_ACTS] {
        let len = weights[0].len();
        assert!(weights.iter().chain(&acts).all(|row| row.len() == len));
        let mut out = [[0.0; FLOAT_ROWS]; FLOAT_ACTS];
        if V::TILE_VECTORS >= 4 {
            dots_of::<V, FLOAT_ROWS, FLOAT_ACTS>(&weights, &acts, 0, 0, &mut out);
        } else {
            // Where a vector is several registers, six sums fill them.
            for t in (0..FLOAT_ACTS).step_by(3) {
                for r in (0..FLOAT_ROWS).step_by(2) {
                    dots_of::<V, 2, 3>(&weights, &acts, r, t, &mut out);
                }
            }
        }
        out
    }

    /// The dots of `R` weight rows from `first_row` on with `T` rows of activations from `first_act` on.
    // Loops over the constants read as what they unroll to.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn dots_of<V: Vector, const R: usize, const T: usize>(
        weights: &[&[f32]; FLOAT_ROWS],
        acts: &[&[f32]; FLOAT_ACTS],
        first_row: usize,
        first_act: usize,
        out: &mut [[f32; FLOAT_ROWS]; FLOAT_ACTS],
    ) {
        let mut acc = [[V::splat(0.0); R]; T];
        let n_groups = weights[0].len() / LANES;
        // Of the length that the compiler knows the loop by.
        let mut w: [&[[f32; LANES]]; R] = [&[]; R];
        let mut a: [&[[f32; LANES]]; T] = [&[]; T];
        for r in 0..R {
            w[r] = &weights[first_row + r].as_chunks::<LANES>().0[..n_groups];
        }
        for t in 0..T {
            a[t] = &acts[first_act + t].as_chunks::<LANES>().0[..n_groups];
        }
        for i in 0..n_groups {
            let mut rows = [V::splat(0.0); R];
            for r in 0..R {
                rows[r] = V::from_floats(&w[r][i]);
            }
            for t in 0..T {
                let x = V::from_floats(&a[t][i]);
                for r in 0..R {
                    acc[t][r] = rows[r].fma(x, acc[t][r]);
                }
            }
        }
        if !weights[0].len().is_multiple_of(LANES) {
            for t in 0..T {
                let x = padded::<V>(acts[first_act + t].as_chunks::<LANES>().1);
                for r in 0..R {
                    let row = padded::<V>(weights[first_row + r].as_chunks::<LANES>().1);
                    acc[t][r] = row.fma(x, acc[t][r]);
                }
            }
        }
        for t in 0..T {
            for r in 0..R {
                out[first_act + t][first_row + r] = acc[t][r].tree();
            }
        }
    }

    #[inline(always)]
    pub(super) fn rms_norm<V: Vector>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        let factor = 1.0 / (dot::<V>(x, x) / x.len() as f32 + eps).sqrt();
        out.copy_from_slice(x);
        map::<V>(out, weight, Normed(factor));
    }

    #[derive(Clone, Copy)]
    struct Normed(f32);

    impl Elementwise for Normed {
        #[inline(always)]
        fn of<V: Vector>(self, x: V, weight: V) -> V {
            x.mul(V::splat(self.0)).mul(weight)
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

    #[inline(always)]
    pub(super) fn silu_mul<V: Vector>(gate: &mut [f32], up: &[f32]) {
        map::<V>(gate, up, Silu);
    }

    #[derive(Clone, Copy)]
    struct Silu;

    impl Elementwise for Silu {
        #[inline(always)]
        fn of<V: Vector>(self, gate: V, up: V) -> V {
            gate.div(V::splat(1.0).add(exp(gate.mul(V::splat(-1.0))))).mul(up)
        }
    }

    #[inline(always)]
    pub(super) fn gelu_mul<V: Vector>(gate: &mut [f32], up: &[f32]) {
        map::<V>(gate, up, Gelu);
    }

    #[derive(Clone, Copy)]
    struct Gelu;

    impl Elementwise for Gelu {
        #[inline(always)]
        fn of<V: Vector>(self, x: V, up: V) -> V {
            /// 2 * sqrt(2 / pi): with it `0.5 x (1 + tanh(u))` is `x / (1 + exp(-2u))`.
            const FACTOR: f32 = 1.595_769;
            let cubic = V::splat(0.044_715).mul(x).fma(x, V::splat(1.0));
            let inner = V::splat(FACTOR).mul(x).mul(cubic);
            x.div(V::splat(1.0).add(exp(inner.mul(V::splat(-1.0))))).mul(up)
        }
    }

    #[inline(always)]
    pub(super) fn soft_cap<V: Vector>(x: &mut [f32], cap: f32) {
        map_alone::<V>(x, SoftCap(cap));
    }

    #[derive(Clone, Copy)]
    struct SoftCap(f32);

    impl Elementwise for SoftCap {
        #[inline(always)]
        fn of<V: Vector>(self, x: V, _: V) -> V {
            // tanh(y) = 1 - 2 / (1 + e^(2y))
            let (one, two, cap) = (V::splat(1.0), V::splat(2.0), V::splat(self.0));
            cap.mul(one.sub(two.div(one.add(exp(two.mul(x.div(cap)))))))
        }
    }

    #[inline(always)]
    pub(super) fn add<V: Vector>(x: &mut [f32], y: &[f32]) {
        map::<V>(x, y, Sum);
    }

    #[derive(Clone, Copy)]
    struct Sum;

    impl Elementwise for Sum {
        #[inline(always)]
        fn of<V: Vector>(self, x: V, y: V) -> V {
            x.add(y)
        }
    }

    #[inline(always)]
    pub(super) fn add_scaled<V: Vector>(x: &mut [f32], factor: f32, y: &[f32]) {
        map::<V>(x, y, SumWithScaled(factor));
    }

    #[derive(Clone, Copy)]
    struct SumWithScaled(f32);

    impl Elementwise for SumWithScaled {
        #[inline(always)]
        fn of<V: Vector>(self, x: V, y: V) -> V {
            y.fma(V::splat(self.0), x)
        }
    }

    #[inline(always)]
    pub(super) fn softmax<V: Vector>(x: &mut [f32]) {
        let largest = x.iter().fold(f32::NEG_INFINITY, |largest, x| if *x > largest { *x } else { largest });
        map_alone::<V>(x, ExpOfDifference(largest));
        let sum = x.iter().fold(0.0, |sum, x| sum + x);
        x.iter_mut().for_each(|x| *x /= sum);
    }

    #[derive(Clone, Copy)]
    struct ExpOfDifference(f32);

    impl Elementwise for ExpOfDifference {
        #[inline(always)]
        fn of<V: Vector>(self, x: V, _: V) -> V {
            exp(x.sub(V::splat(self.0)))
        }
    }

    #[inline(always)]
    pub(super) fn scale<V: Vector>(x: &mut [f32], factor: f32) {
        map_alone::<V>(x, Scaled(factor));
    }

    #[derive(Clone, Copy)]
    struct Scaled(f32);

    impl Elementwise for Scaled {
        #[inline(always)]
        fn of<V: Vector>(self, x: V, _: V) -> V {
            x.mul(V::splat(self.0))
        }
    }

    #[inline(always)]
    pub(super) fn widen_f16<V: Vector>(bits: &[u16], out: &mut [f32]) {
        assert_eq!(bits.len(), out.len());
        let (groups, rest) = bits.as_chunks::<LANES>();
        let (out_groups, out_rest) = out.as_chunks_mut::<LANES>();
        for (out, bits) in out_groups.iter_mut().zip(groups) {
            halves::<V>(bits).write(out);
        }
        let mut last = [0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        write_rest(out_rest, halves::<V>(&last));
    }

    #[inline(always)]
    fn halves<V: Vector>(bits: &[u16; LANES]) -> V {
        let mut halves = [0; 2 * LANES];
        for (half, bits) in halves.as_chunks_mut::<2>().0.iter_mut().zip(bits) {
            *half = bits.to_ne_bytes();
        }
        V::from_halves(&halves)
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
pub(super) mod tests {
    use super::*;
    use crate::kernels::attention::BLOCK;

    /// Deterministic values in [-range, range).
    pub(in crate::kernels) fn values(n: usize, seed: u64, range: f32) -> Vec<f32> {
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
    fn softmax_matches_its_formula() {
        for n in [1, 2, 8, 16, 37] {
            let x = values(n, 9, 8.0);
            let got = same_on_all(|ops| {
                let mut out = x.clone();
                ops.softmax(&mut out);
                out
            });
            let sum: f64 = x.iter().map(|v| f64::from(*v).exp()).sum();
            for (got, x) in got.iter().zip(&x) {
                assert!((f64::from(*got) - f64::from(*x).exp() / sum).abs() < 1e-6, "{n}: {got}");
            }
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [0.0, bad, 1.0];
            Ops::new(Isa::detect()).softmax(&mut x);
            assert!(x.iter().all(|x| x.is_nan()), "{bad}: {x:?}");
        }
    }

    #[test]
    fn scaled_values_are_added_with_one_rounding() {
        for n in [1, 16, 37] {
            let (x, y) = (values(n, 10, 3.0), values(n, 11, 3.0));
            let got = same_on_all(|ops| {
                let mut out = x.clone();
                ops.add_scaled(&mut out, 0.3, &y);
                out
            });
            let exact: Vec<f32> = x.iter().zip(&y).map(|(x, y)| y.mul_add(0.3, *x)).collect();
            assert_eq!(bits(&got), bits(&exact), "{n}");
        }
    }

    /// e^x as the gates compute it.
    fn exps(x: &[f32]) -> Vec<f32> {
        same_on_all(|ops| {
            let mut rows = vec![0.0; x.len() * Rows::len(1, LANES)];
            let mut all = Vec::new();
            for (x, floats) in x.iter().zip(rows.chunks_mut(Rows::len(1, LANES))) {
                // The weight of a score is its exponential once the row has seen a larger one, 0.
                let mut rows = Rows::new(floats, 1, LANES);
                rows.clear();
                let mut products = vec![0.0; BLOCK];
                products[1] = *x;
                ops.weights(&[(0, 2)], 1.0, &mut products, &mut rows);
                all.push(products[1]);
            }
            all
        })
    }

    #[test]
    fn exponential_is_accurate_and_total() {
        let x: Vec<f32> = (-8_700..=0).map(|i| i as f32 / 100.0).collect();
        for (x, got) in x.iter().zip(exps(&x)) {
            let exact = f64::from(*x).exp();
            assert!((f64::from(got) / exact - 1.0).abs() < 2.5e-7, "{x}: {got} {exact}");
        }
        let [one, none, below, nan] = *exps(&[0.0, f32::NEG_INFINITY, -88.0, f32::NAN]) else { panic!() };
        assert_eq!((one, none, below), (1.0, 0.0, 0.0));
        assert!(nan.is_nan());
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
