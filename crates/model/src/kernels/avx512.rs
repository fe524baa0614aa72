//! What the AVX-512 kernels share: the dot product instruction where there is one, and the unpacking of blocks.

use crate::kernels::dot::x86::{iq4_xs_scales, q3_k_scales};
use crate::kernels::format::{Format32, Format256, IQ4_QUANTS, Super};
use std::arch::x86_64::*;
use std::array::from_fn;

/// Multiply-adds, with VNNI or without.
pub(super) trait Dp {
    /// Whether each of these is one instruction.
    const IS_VNNI: bool;
    /// `acc` plus, in each 32-bit lane, four products of an unsigned byte up to 127 with a signed one.
    ///
    /// # Safety
    /// The machine has the instruction set that the implementation is for; so for the others.
    unsafe fn dp(acc: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i;
    /// The same for unsigned bytes up to 255.
    ///
    /// # Safety
    /// As [`Dp::dp`].
    unsafe fn dp_8_bit(acc: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i;
    /// `acc` plus, in each 32-bit lane, two products of 16-bit integers.
    ///
    /// # Safety
    /// As [`Dp::dp`].
    unsafe fn dp_16(acc: __m512i, a: __m512i, b: __m512i) -> __m512i;
}

/// AVX-512 VNNI. Written as assembly, so that one body of a kernel, compiled without VNNI, serves both: the
/// intrinsics are inlined only into functions that have the feature.
pub(super) struct Vnni;

impl Dp for Vnni {
    const IS_VNNI: bool = true;

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn dp(mut acc: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: the machine has VNNI, as the caller promises; registers only.
        unsafe {
            std::arch::asm!(
                "vpdpbusd {acc}, {unsigned}, {signed}",
                acc = inout(zmm_reg) acc,
                unsigned = in(zmm_reg) unsigned,
                signed = in(zmm_reg) signed,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn dp_8_bit(acc: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // SAFETY: as the caller promises. The instruction takes all 8 bits.
        unsafe { Vnni::dp(acc, unsigned, signed) }
    }
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn dp_16(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the machine has VNNI, as the caller promises; registers only.
        unsafe {
            std::arch::asm!(
                "vpdpwssd {acc}, {a}, {b}",
                acc = inout(zmm_reg) acc,
                a = in(zmm_reg) a,
                b = in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        acc
    }
}

/// AVX-512 BW alone.
pub(super) struct NoVnni;

impl Dp for NoVnni {
    const IS_VNNI: bool = false;

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn dp(acc: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // Pair sums stay below 2^15: 2 * 127 * 127.
        let pairs = _mm512_maddubs_epi16(unsigned, signed);
        _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn dp_8_bit(acc: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        // Pair sums of 8-bit quants would saturate: even and odd bytes are multiplied as 16-bit integers.
        let even = _mm512_madd_epi16(
            _mm512_and_si512(unsigned, _mm512_set1_epi16(0xFF)),
            _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(signed)),
        );
        let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(unsigned), _mm512_srai_epi16::<8>(signed));
        _mm512_add_epi32(acc, _mm512_add_epi32(even, odd))
    }
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn dp_16(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(acc, _mm512_madd_epi16(a, b))
    }
}

/// The 32 bits at each pointer. One by one: a gather takes several times as long on AMD's processors, and on those of
/// Intel's that are protected against leaks through it.
///
/// # Safety
/// They are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn words_4(pointers: [*const u8; 4]) -> __m128i {
    // SAFETY: as the caller promises.
    let [a, b, c, d] = pointers.map(|p| unsafe { p.cast::<i32>().read_unaligned() });
    _mm_setr_epi32(a, b, c, d)
}

/// The 32 bits at `offset` of each row.
///
/// # Safety
/// As [`words_4`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn words_8(rows: &[*const u8; 8], offset: usize) -> __m256i {
    let at = |r: usize| rows[r].wrapping_add(offset);
    // SAFETY: as the caller promises.
    unsafe {
        let low = words_4([at(0), at(1), at(2), at(3)]);
        _mm256_set_m128i(words_4([at(4), at(5), at(6), at(7)]), low)
    }
}

/// The first 32 bits of two units of `bytes` bytes of each row: those of the first unit in the lower half.
///
/// # Safety
/// As [`words_4`], for both units.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn words_16(rows: &[*const u8; 8], units: [usize; 2], bytes: usize) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let first = _mm512_castsi256_si512(words_8(rows, units[0] * bytes));
        _mm512_inserti64x4::<1>(first, words_8(rows, units[1] * bytes))
    }
}

/// The f16 at the start of two units of `bytes` bytes of each row, widened: those of the first unit in the lower half.
///
/// # Safety
/// As [`words_4`], for both units.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn scales_512(rows: &[*const u8; 8], units: [usize; 2], bytes: usize) -> [__m512; 2] {
    // SAFETY: as the caller promises.
    let words = unsafe { words_16(rows, units, bytes) };
    [_mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)), _mm512_setzero_ps()]
}

/// The same, and the f16 behind it.
///
/// # Safety
/// As [`scales_512`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn scales_and_minimums_512(
    rows: &[*const u8; 8],
    units: [usize; 2],
    bytes: usize,
) -> [__m512; 2] {
    // SAFETY: as the caller promises.
    let words = unsafe { words_16(rows, units, bytes) };
    [
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)),
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words))),
    ]
}

/// The exponents at the start of two units of `bytes` bytes of each row, each as `e8m0_half` of `rawrz_gguf`.
///
/// # Safety
/// As [`scales_512`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn e8m0_scales_512(rows: &[*const u8; 8], units: [usize; 2], bytes: usize) -> __m512 {
    let one = _mm512_set1_epi32(1);
    // SAFETY: as the caller promises.
    let exponents = _mm512_and_si512(unsafe { words_16(rows, units, bytes) }, _mm512_set1_epi32(0xFF));
    let below_normal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), exponents);
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponents, one));
    let is_normal = _mm512_cmpgt_epi32_mask(exponents, one);
    _mm512_castsi512_ps(_mm512_mask_mov_epi32(below_normal, is_normal, normal))
}

/// Nibbles of 16 bytes at each pointer: low halves, then high halves of the first, then of the second.
///
/// # Safety
/// 16 bytes at each pointer are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn nibbles_512(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let first = _mm512_broadcast_i32x4(_mm_loadu_si128(a.cast()));
        let both = _mm512_mask_broadcast_i32x4(first, 0xFF00, _mm_loadu_si128(b.cast()));
        // High halves are in lanes 1 and 3.
        let shift = _mm512_setr_epi64(
            0,
            0,
            0x0004_0004_0004_0004,
            0x0004_0004_0004_0004,
            0,
            0,
            0x0004_0004_0004_0004,
            0x0004_0004_0004_0004,
        );
        _mm512_and_si512(_mm512_srlv_epi16(both, shift), _mm512_set1_epi8(15))
    }
}

/// The entry of `table` that each byte of `indices` (below 16) stands for.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) fn looked_up(table: &[u8; 16], indices: __m512i) -> __m512i {
    // SAFETY: the table is 16 bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    _mm512_shuffle_epi8(table, indices)
}

/// `quants` with a fifth bit from the 32 bits at `a` and at `b`.
///
/// # Safety
/// Four bytes at each pointer are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn with_fifth_bits(quants: __m512i, a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let low = u64::from(a.cast::<u32>().read_unaligned());
        let mask = low | u64::from(b.cast::<u32>().read_unaligned()) << 32;
        _mm512_mask_add_epi8(quants, mask, quants, _mm512_set1_epi8(16))
    }
}

/// 32 bytes at each pointer.
///
/// # Safety
/// They are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn join_512(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.cast()));
        _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(b.cast()))
    }
}

/// Whole units of a row up to and with `unit`.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn row_up_to<'a, F: Format32>(row: *const u8, unit: usize) -> &'a [u8] {
    let n_blocks = unit / F::PARTS * 32 / F::TYPE.block_len() + 1;
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(row, n_blocks * F::TYPE.block_bytes()) }
}

/// The quants of two units of a row, through the portable form.
///
/// # Safety
/// The units are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn pair_of<F: Format32>(row: *const u8, units: [usize; 2]) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let [a, b] = units.map(|unit| F::unpack(row_up_to::<F>(row, unit), unit).quants);
        join_512(a.as_ptr(), b.as_ptr())
    }
}

/// Scales and minimums of two units of each row, through the portable form.
///
/// # Safety
/// The units are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn floats_of<F: Format32>(rows: &[*const u8; 8], units: [usize; 2]) -> [__m512; 2] {
    let mut floats = [[0.0; 16]; 2];
    for (half, unit) in units.into_iter().enumerate() {
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: as the caller promises.
            let unpacked = F::unpack(unsafe { row_up_to::<F>(*row, unit) }, unit);
            (floats[0][8 * half + r], floats[1][8 * half + r]) = (unpacked.scale, unpacked.minimum);
        }
    }
    // SAFETY: 16 floats each.
    unsafe { [_mm512_loadu_ps(floats[0].as_ptr()), _mm512_loadu_ps(floats[1].as_ptr())] }
}

/// The quants of a super-block in order, through the portable form; the rest of it goes to `out`.
///
/// # Safety
/// The block is readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn quarters_of<F: Format256>(block: *const u8, out: &mut Super) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        F::unpack(std::slice::from_raw_parts(block, F::TYPE.block_bytes()), out);
        from_fn(|i| _mm512_loadu_si512(out.quants.as_ptr().add(64 * i).cast()))
    }
}

/// The quants of a super-block whose nibbles lie in chunks of 64 weights, from `nibbles` on.
///
/// # Safety
/// 128 bytes at `nibbles` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn chunked_nibbles_512(nibbles: *const u8) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        let shift = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(4));
        from_fn(|j| {
            let both = _mm512_broadcast_i64x4(_mm256_loadu_si256(nibbles.add(32 * j).cast()));
            _mm512_and_si512(_mm512_srlv_epi16(both, shift), _mm512_set1_epi8(15))
        })
    }
}

/// Two bits in four planes: see `two_bit_planes` of the portable form.
///
/// # Safety
/// 64 bytes at `p` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn two_bits_512(p: *const u8) -> [__m512i; 4] {
    let mut quarters = [_mm512_setzero_si512(); 4];
    for (q, quarter) in quarters.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        let planes = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(p.add(32 * (q / 2)).cast()) });
        let first = 4 * (q % 2) as i16;
        let shift = _mm512_inserti64x4::<1>(_mm512_set1_epi16(first), _mm256_set1_epi16(first + 2));
        *quarter = _mm512_and_si512(_mm512_srlv_epi16(planes, shift), _mm512_set1_epi8(3));
    }
    quarters
}

/// One more bit, worth `VALUE`, of each quant: bit j of byte i is that of weight 32j + i.
///
/// # Safety
/// 32 bytes at `bits` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
unsafe fn with_higher_bits<const VALUE: i8>(mut quarters: [__m512i; 4], bits: *const u8) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    let bits = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bits.cast()) });
    for (q, quarter) in quarters.iter_mut().enumerate() {
        let (first, second) = ((1u8 << (2 * q)) as i8, (2u8 << (2 * q)) as i8);
        let bit = _mm512_inserti64x4::<1>(_mm512_set1_epi8(first), _mm256_set1_epi8(second));
        let set = _mm512_test_epi8_mask(bits, bit);
        *quarter = _mm512_mask_add_epi8(*quarter, set, *quarter, _mm512_set1_epi8(VALUE));
    }
    quarters
}

/// Scales (or minimums) of each 16 weights, from signed bytes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn store_bytes(bytes: __m128i, out: &mut [i16; 16]) {
    // SAFETY: 16 values of 16 bits.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_cvtepi8_epi16(bytes)) };
}

/// Scales of each 32 weights, once for each 16.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
fn store_twice(words: __m128i, out: &mut [i16; 16]) {
    let wide = _mm256_cvtepu16_epi32(words);
    // SAFETY: 16 values of 16 bits.
    unsafe {
        _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_or_si256(wide, _mm256_slli_epi32::<16>(wide)));
    }
}

/// The quants, scales and minimums of a `Q2_K` block.
///
/// # Safety
/// 84 bytes at `block` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn q2_k_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        let (packed, nibble) = (_mm_loadu_si128(block.cast()), _mm_set1_epi8(15));
        store_bytes(_mm_and_si128(packed, nibble), &mut out.scales);
        store_bytes(_mm_and_si128(_mm_srli_epi16::<4>(packed), nibble), &mut out.minimums);
        two_bits_512(block.add(16))
    }
}

/// The quants and scales of a `Q3_K` block.
///
/// # Safety
/// 110 bytes at `block` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn q3_k_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        store_bytes(q3_k_scales(block.add(96)), &mut out.scales);
        with_higher_bits::<4>(two_bits_512(block.add(32)), block)
    }
}

/// The quants and scales of an `IQ4_XS` block.
///
/// # Safety
/// 136 bytes at `block` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn iq4_xs_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
    let mut quarters = [_mm512_setzero_si512(); 4];
    // SAFETY: as the caller promises.
    unsafe {
        store_twice(iq4_xs_scales(block), &mut out.scales);
        for (q, quarter) in quarters.iter_mut().enumerate() {
            let nibbles = block.add(8 + 32 * q);
            *quarter = looked_up(&IQ4_QUANTS, nibbles_512(nibbles, nibbles.add(16)));
        }
    }
    quarters
}

/// Eight points of 8 of a grid, by 64-bit indices.
///
/// # Safety
/// The grid has them, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn points_of_8(grid: &[u64], indices: __m512i) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_i64gather_epi64::<8>(indices, grid.as_ptr().cast()) }
}

/// Sixteen points of 4 of a grid, by 32-bit indices.
///
/// # Safety
/// As [`points_of_8`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn points_of_4(grid: &[u32], indices: __m512i) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_i32gather_epi32::<4>(indices, grid.as_ptr().cast()) }
}

/// `offset` plus magnitudes, minus them where a bit of `minus` is set.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) fn with_signs_512(magnitudes: __m512i, minus: u64, offset: u8) -> __m512i {
    let offset = _mm512_set1_epi8(offset as i8);
    _mm512_mask_sub_epi8(_mm512_add_epi8(offset, magnitudes), minus, offset, magnitudes)
}

/// The quants of a `Q5_K` block.
///
/// # Safety
/// 176 bytes at `block` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn five_bits_512(block: *const u8) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    unsafe { with_higher_bits::<16>(chunked_nibbles_512(block.add(48)), block.add(16)) }
}

/// The quants of a `Q6_K` block.
///
/// # Safety
/// 192 bytes at `block` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn six_bits_512(block: *const u8) -> [__m512i; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        let (nibble, two_bits) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        let half = |h: usize| {
            let low = _mm512_loadu_si512(block.add(64 * h).cast());
            let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(block.add(128 + 32 * h).cast()));
            // Bits 0 and 1 for the first 32 weights, 2 and 3 for the next, 4 and 5, 6 and 7: to bits 4 and 5.
            let left = _mm512_inserti64x4::<1>(_mm512_set1_epi16(4), _mm256_set1_epi16(2));
            let right = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(2));
            // low nibble | high & 0x30, in one step.
            let join = |low, high| _mm512_ternarylogic_epi32::<0xF8>(low, high, two_bits);
            [
                join(_mm512_and_si512(low, nibble), _mm512_sllv_epi16(high, left)),
                join(_mm512_and_si512(_mm512_srli_epi16::<4>(low), nibble), _mm512_srlv_epi16(high, right)),
            ]
        };
        let ([a, b], [c, d]) = (half(0), half(1));
        [a, b, c, d]
    }
}

/// The scales and minimums of a `Q4_K` or `Q5_K` block: see `six_bit_scales` of the portable form.
///
/// # Safety
/// 12 bytes at `packed` are readable, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn six_bit_scales_512(packed: *const u8, out: &mut Super) {
    // SAFETY: as the caller promises; 16 values of 16 bits are 256 bits.
    unsafe {
        let words = packed.cast::<u32>();
        let [a, b, c] =
            [words.read_unaligned(), words.add(1).read_unaligned(), words.add(2).read_unaligned()];
        let (low, nibble, high) = (0x3F3F_3F3F, 0x0F0F_0F0F, 0x3030_3030);
        let scales = u64::from(a & low) | u64::from(c & nibble | a >> 2 & high) << 32;
        let minimums = u64::from(b & low) | u64::from(c >> 4 & nibble | b >> 2 & high) << 32;
        // Each of 8 bytes twice, as 16-bit integers.
        let spread = |bytes: u64| {
            let wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes as i64));
            _mm256_or_si256(wide, _mm256_slli_epi32::<16>(wide))
        };
        _mm256_storeu_si256(out.scales.as_mut_ptr().cast(), spread(scales));
        _mm256_storeu_si256(out.minimums.as_mut_ptr().cast(), spread(minimums));
    }
}
