//! The element types of ggml: ids, names, and how many weights and bytes one block holds.

use std::fmt;

/// Declares the types in one table, so that id, name and sizes cannot drift apart.
macro_rules! tensor_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $block_len:literal, $block_bytes:expr;)*) => {
        /// Element type of a tensor, with the ids of `enum ggml_type` (llama.cpp b11434).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum TensorType {
            $($(#[$doc])* $variant = $id,)*
        }

        impl TensorType {
            /// Every type, by ascending id.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$variant),*];

            /// The type with this ggml id; `None` for ids never assigned and for removed ones (see [`removed_name`]).
            #[inline]
            pub const fn from_id(id: u32) -> Option<TensorType> {
                match id {
                    $($id => Some(TensorType::$variant),)*
                    _ => None,
                }
            }

            /// The name as ggml spells it, such as `q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(TensorType::$variant => $name,)* }
            }

            /// Weights in one block; 1 for plain types. Rows are whole blocks.
            #[inline]
            pub const fn block_len(self) -> usize {
                match self { $(TensorType::$variant => $block_len,)* }
            }

            /// Bytes of one block.
            #[inline]
            pub const fn block_bytes(self) -> usize {
                match self { $(TensorType::$variant => $block_bytes,)* }
            }
        }
    };
}

// Sizes: `ggml-common.h` and `type_traits` of ggml. Where the PyPI `gguf` package differs (it lists Q8_1 with two f32,
// 40 bytes), ggml's own struct counts. `quant::layout` asserts each size against its fields at compile time.
tensor_types! {
    /// IEEE binary32.
    F32 = 0, "f32", 1, 4;
    /// IEEE binary16.
    F16 = 1, "f16", 1, 2;
    /// 4-bit, 32 weights, f16 scale.
    Q4_0 = 2, "q4_0", 32, 18;
    /// 4-bit, 32 weights, f16 scale and minimum.
    Q4_1 = 3, "q4_1", 32, 20;
    /// 5-bit, 32 weights, f16 scale.
    Q5_0 = 6, "q5_0", 32, 22;
    /// 5-bit, 32 weights, f16 scale and minimum.
    Q5_1 = 7, "q5_1", 32, 24;
    /// 8-bit, 32 weights, f16 scale.
    Q8_0 = 8, "q8_0", 32, 34;
    /// 8-bit, 32 weights, f16 scale and scaled sum; ggml's activation format for `*_1` types.
    Q8_1 = 9, "q8_1", 32, 36;
    /// 2-bit K-quant.
    Q2K = 10, "q2_K", 256, 84;
    /// 3-bit K-quant.
    Q3K = 11, "q3_K", 256, 110;
    /// 4-bit K-quant.
    Q4K = 12, "q4_K", 256, 144;
    /// 5-bit K-quant.
    Q5K = 13, "q5_K", 256, 176;
    /// 6-bit K-quant.
    Q6K = 14, "q6_K", 256, 210;
    /// 8-bit, f32 scale and sums of 16; ggml's activation format for K-quants.
    Q8K = 15, "q8_K", 256, 292;
    /// 2.06 bits per weight, grid of 8.
    IQ2XXS = 16, "iq2_xxs", 256, 66;
    /// 2.31 bits per weight, grid of 8.
    IQ2XS = 17, "iq2_xs", 256, 74;
    /// 3.06 bits per weight, grid of 4.
    IQ3XXS = 18, "iq3_xxs", 256, 98;
    /// 1.56 bits per weight, ternary grid of 8.
    IQ1S = 19, "iq1_s", 256, 50;
    /// 4-bit, non-linear values, 32 weights.
    IQ4NL = 20, "iq4_nl", 32, 18;
    /// 3.44 bits per weight, grid of 4.
    IQ3S = 21, "iq3_s", 256, 110;
    /// 2.56 bits per weight, grid of 8.
    IQ2S = 22, "iq2_s", 256, 82;
    /// 4.25 bits per weight, non-linear values.
    IQ4XS = 23, "iq4_xs", 256, 136;
    /// Signed 8-bit integer.
    I8 = 24, "i8", 1, 1;
    /// Signed 16-bit integer.
    I16 = 25, "i16", 1, 2;
    /// Signed 32-bit integer.
    I32 = 26, "i32", 1, 4;
    /// Signed 64-bit integer.
    I64 = 27, "i64", 1, 8;
    /// IEEE binary64.
    F64 = 28, "f64", 1, 8;
    /// 1.75 bits per weight, ternary grid of 8.
    IQ1M = 29, "iq1_m", 256, 56;
    /// bfloat16: the upper half of a binary32.
    BF16 = 30, "bf16", 1, 2;
    /// Ternary, five weights a byte.
    TQ1_0 = 34, "tq1_0", 256, 54;
    /// Ternary, four weights a byte.
    TQ2_0 = 35, "tq2_0", 256, 66;
    /// OCP microscaling FP4: E8M0 scale, E2M1 values.
    MXFP4 = 39, "mxfp4", 32, 17;
    /// NVIDIA FP4: an unsigned E4M3 scale per 16 E2M1 values.
    NVFP4 = 40, "nvfp4", 64, 36;
    /// 1-bit: plus or minus the f16 scale.
    Q1_0 = 41, "q1_0", 128, 18;
    /// 2-bit: -1, 0, 1 or 2 times the f16 scale.
    Q2_0 = 42, "q2_0", 64, 18;
}

impl TensorType {
    /// The id in the file.
    #[inline]
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of a row of `row_len` weights; `None` when it is not a whole number of blocks or overflows.
    pub const fn row_bytes(self, row_len: usize) -> Option<usize> {
        if !row_len.is_multiple_of(self.block_len()) {
            return None;
        }
        (row_len / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a type that ggml had once under this id and removed.
pub const fn removed_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "q4_2",
        5 => "q4_3",
        31 => "q4_0_4_4",
        32 => "q4_0_4_8",
        33 => "q4_0_8_8",
        36 => "iq4_nl_4_4",
        37 => "iq4_nl_4_8",
        38 => "iq4_nl_8_8",
        _ => return None,
    })
}
