//! Where the fields of each block type lie, as byte ranges of one block.
//!
//! A tensor's data is a run of blocks without gaps; blocks have no alignment of their own (an 18-byte block starts at any
//! even byte), so kernels load unaligned. Multi-byte fields are little-endian. Source: the structs of `ggml-common.h`
//! (llama.cpp b11434). Sizes are checked against [`crate::TensorType`] at compile time.

/// Lays fields one after the other and checks the sum.
macro_rules! layout {
    ($(#[$doc:meta])* $module:ident = $ty:ident { $($(#[$field_doc:meta])* $field:ident: $len:expr,)* }) => {
        $(#[$doc])*
        pub mod $module {
            use crate::TensorType;

            layout!(@fields 0; $($(#[$field_doc])* $field: $len,)*);

            /// Bytes of a block.
            pub const BLOCK_BYTES: usize = TensorType::$ty.block_bytes();
            /// Weights of a block.
            pub const BLOCK_LEN: usize = TensorType::$ty.block_len();

            const _: () = assert!(BLOCK_BYTES == 0 $(+ $len)*, "the fields do not add up to the block");
        }
    };
    (@fields $at:expr;) => {};
    (@fields $at:expr; $(#[$doc:meta])* $field:ident: $len:expr, $($rest:tt)*) => {
        $(#[$doc])*
        pub const $field: std::ops::Range<usize> = $at..$at + $len;
        layout!(@fields $at + $len; $($rest)*);
    };
}

layout! {
    /// `w = d * (q - 8)`.
    q4_0 = Q4_0 {
        /// f16 scale.
        D: 2,
        /// Nibbles: the low ones are weights 0 to 15, the high ones 16 to 31.
        QS: 16,
    }
}
layout! {
    /// `w = d * q + m`.
    q4_1 = Q4_1 {
        /// f16 scale.
        D: 2,
        /// f16 minimum.
        M: 2,
        /// Nibbles: the low ones are weights 0 to 15, the high ones 16 to 31.
        QS: 16,
    }
}
layout! {
    /// `w = d * (q - 16)`.
    q5_0 = Q5_0 {
        /// f16 scale.
        D: 2,
        /// u32: bit `i` is bit 4 of weight `i`.
        QH: 4,
        /// Low nibbles are weights 0 to 15, high ones 16 to 31.
        QS: 16,
    }
}
layout! {
    /// `w = d * q + m`.
    q5_1 = Q5_1 {
        /// f16 scale.
        D: 2,
        /// f16 minimum.
        M: 2,
        /// u32: bit `i` is bit 4 of weight `i`.
        QH: 4,
        /// Low nibbles are weights 0 to 15, high ones 16 to 31.
        QS: 16,
    }
}
layout! {
    /// `w = d * q`.
    q8_0 = Q8_0 {
        /// f16 scale.
        D: 2,
        /// i8 quants.
        QS: 32,
    }
}
layout! {
    /// `w = d * q`.
    q8_1 = Q8_1 {
        /// f16 scale.
        D: 2,
        /// f16 `d` times the sum of the quants.
        S: 2,
        /// i8 quants.
        QS: 32,
    }
}
layout! {
    /// 16 groups of 16: `w = d * scale * q - dmin * min`.
    q2_k = Q2K {
        /// Scale (low nibble) and minimum (high nibble) of each group.
        SCALES: 16,
        /// 2-bit quants: each half of 32 bytes holds 128 weights, bits `2j` of its bytes are weights `32j` to `32j + 31`.
        QS: 64,
        /// f16 scale of the scales.
        D: 2,
        /// f16 scale of the minimums.
        DMIN: 2,
    }
}
layout! {
    /// 16 groups of 16: `w = d * (scale - 32) * (q - 4 * !h)`.
    q3_k = Q3K {
        /// Bit `j` of byte `i` is the high bit of weight `32j + i`; 0 means minus 4.
        HMASK: 32,
        /// Low 2 bits, as in Q2_K.
        QS: 64,
        /// 6-bit scales: low nibbles in 8 bytes, then upper 2 bits in 4 bytes.
        SCALES: 12,
        /// f16 scale of the scales.
        D: 2,
    }
}
layout! {
    /// 8 groups of 32: `w = d * scale * q - dmin * min`.
    q4_k = Q4K {
        /// f16 scale of the scales.
        D: 2,
        /// f16 scale of the minimums.
        DMIN: 2,
        /// 6-bit scales and minimums; see [`super::super::scale_min_k4`].
        SCALES: 12,
        /// Each 32 bytes hold two groups: low nibbles, then high nibbles.
        QS: 128,
    }
}
layout! {
    /// 8 groups of 32: `w = d * scale * q - dmin * min`.
    q5_k = Q5K {
        /// f16 scale of the scales.
        D: 2,
        /// f16 scale of the minimums.
        DMIN: 2,
        /// 6-bit scales and minimums; see [`super::super::scale_min_k4`].
        SCALES: 12,
        /// Bit `j` of byte `i` is bit 4 of weight `32j + i`.
        QH: 32,
        /// Each 32 bytes hold two groups: low nibbles, then high nibbles.
        QS: 128,
    }
}
layout! {
    /// 16 groups of 16: `w = d * scale * (q - 32)`.
    q6_k = Q6K {
        /// Low 4 bits: each half of 64 bytes holds 128 weights, low nibbles the first 64.
        QL: 128,
        /// Upper 2 bits: each half of 32 bytes holds 128 weights, as in Q2_K.
        QH: 64,
        /// i8 scales.
        SCALES: 16,
        /// f16 scale of the scales.
        D: 2,
    }
}
layout! {
    /// `w = d * q`.
    q8_k = Q8K {
        /// f32 scale.
        D: 4,
        /// i8 quants.
        QS: 256,
        /// i16 sums of each 16 quants.
        BSUMS: 32,
    }
}
layout! {
    /// 8 groups of 32, each 4 grid points of 8: `w = d * (0.5 + scale) / 4 * grid * sign`.
    iq2_xxs = IQ2XXS {
        /// f16 scale.
        D: 2,
        /// Per group two u32: four 8-bit grid indices; four 7-bit sign indices and a 4-bit scale on top.
        QS: 64,
    }
}
layout! {
    /// 16 groups of 16, each 2 grid points of 8: `w = d * (0.5 + scale) / 4 * grid * sign`.
    iq2_xs = IQ2XS {
        /// f16 scale.
        D: 2,
        /// Per grid point a u16: 9-bit grid index, 7-bit sign index on top.
        QS: 64,
        /// 4-bit scales, low nibble first.
        SCALES: 8,
    }
}
layout! {
    /// 16 groups of 16, each 2 grid points of 8: `w = d * (0.5 + scale) / 4 * grid * sign`.
    iq2_s = IQ2S {
        /// f16 scale.
        D: 2,
        /// Low 8 bits of the grid indices.
        QS: 32,
        /// Sign bits, one byte per grid point.
        SIGNS: 32,
        /// Upper 2 bits of the grid indices, four a byte.
        QH: 8,
        /// 4-bit scales, low nibble first.
        SCALES: 8,
    }
}
layout! {
    /// 8 groups of 32, each 8 grid points of 4: `w = d * (0.5 + scale) / 2 * grid * sign`.
    iq3_xxs = IQ3XXS {
        /// f16 scale.
        D: 2,
        /// 8-bit grid indices.
        QS: 64,
        /// Per group a u32: four 7-bit sign indices and a 4-bit scale on top.
        SCALES_SIGNS: 32,
    }
}
layout! {
    /// 8 groups of 32, each 8 grid points of 4: `w = d * (1 + 2 * scale) * grid * sign`.
    iq3_s = IQ3S {
        /// f16 scale.
        D: 2,
        /// Low 8 bits of the grid indices.
        QS: 64,
        /// Bit 8 of the grid indices, eight a byte.
        QH: 8,
        /// Sign bits, one byte per two grid points.
        SIGNS: 32,
        /// 4-bit scales, low nibble first.
        SCALES: 4,
    }
}
layout! {
    /// 8 groups of 32, each 4 grid points of 8: `w = d * (2 * scale + 1) * (grid + delta)`.
    iq1_s = IQ1S {
        /// f16 scale.
        D: 2,
        /// Low 8 bits of the grid indices.
        QS: 32,
        /// Per group a u16: four times 3 upper bits of grid indices, a 3-bit scale, and the sign of delta on top.
        QH: 16,
    }
}
layout! {
    /// 16 groups of 16, each 2 grid points of 8: `w = d * (2 * scale + 1) * (grid + delta)`.
    iq1_m = IQ1M {
        /// Low 8 bits of the grid indices.
        QS: 32,
        /// Per grid point a nibble: 3 upper bits of the index and the sign of delta.
        QH: 16,
        /// Four u16: four 3-bit scales each, and a nibble of the f16 scale on top.
        SCALES: 8,
    }
}
layout! {
    /// `w = d * value[q]`.
    iq4_nl = IQ4NL {
        /// f16 scale.
        D: 2,
        /// Nibbles: the low ones are weights 0 to 15, the high ones 16 to 31.
        QS: 16,
    }
}
layout! {
    /// 8 groups of 32: `w = d * (scale - 32) * value[q]`.
    iq4_xs = IQ4XS {
        /// f16 scale.
        D: 2,
        /// u16: upper 2 bits of each group's scale.
        SCALES_H: 2,
        /// Lower 4 bits of the scales, low nibble first.
        SCALES_L: 4,
        /// 16 bytes per group: low nibbles are its first 16 weights.
        QS: 128,
    }
}
layout! {
    /// `w = d * (t - 1)`, `t` a base-3 digit.
    tq1_0 = TQ1_0 {
        /// Five digits a byte: bytes 0 to 31 hold weights 0 to 159, bytes 32 to 47 hold 160 to 239.
        QS: 48,
        /// Four digits a byte: weights 240 to 255.
        QH: 4,
        /// f16 scale.
        D: 2,
    }
}
layout! {
    /// `w = d * (q - 1)`.
    tq2_0 = TQ2_0 {
        /// 2-bit quants, as in Q2_K.
        QS: 64,
        /// f16 scale.
        D: 2,
    }
}
layout! {
    /// `w = 2^(e - 128) * value[q]`, the values being twice those of E2M1.
    mxfp4 = MXFP4 {
        /// E8M0 exponent.
        E: 1,
        /// Nibbles: the low ones are weights 0 to 15, the high ones 16 to 31.
        QS: 16,
    }
}
layout! {
    /// 4 groups of 16: `w = scale / 2 * value[q]`, the values being twice those of E2M1.
    nvfp4 = NVFP4 {
        /// Unsigned E4M3 scales.
        D: 4,
        /// 8 bytes per group: low nibbles are its first 8 weights.
        QS: 32,
    }
}
layout! {
    /// `w = d` where the bit is 1, `-d` where it is 0.
    q1_0 = Q1_0 {
        /// f16 scale.
        D: 2,
        /// Bit `i % 8` of byte `i / 8` is weight `i`.
        QS: 16,
    }
}
layout! {
    /// `w = d * (q - 1)`.
    q2_0 = Q2_0 {
        /// f16 scale.
        D: 2,
        /// Bits `2 * (i % 4)` of byte `i / 4` are weight `i`.
        QS: 16,
    }
}
