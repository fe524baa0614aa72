//! Ternary types: blocks of 256 with one scale.

#[cfg(target_arch = "x86_64")]
use super::super::avx512;
use super::k_quants::two_bit_planes;
use super::{Format256, Super, f16_at};
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::trit;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512i;

pub(in super::super) struct TQ1_0;
impl Format256 for TQ1_0 {
    const TYPE: TensorType = TensorType::TQ1_0;
    const OFFSET: u8 = 1;
    const MAX_QUANT: u8 = 2;
    const GROUP: usize = 256;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..54];
        let (first, rest) = out.quants.split_at_mut(160);
        let (second, last) = rest.split_at_mut(80);
        digits(&block[..32], first);
        digits(&block[32..48], second);
        digits(&block[48..52], last);
        out.scales = [1; 16];
        out.scale = f16_at(block, 52);
    }
}

/// As many base-3 digits of each byte as fill `out`, first digits first.
#[inline(always)]
fn digits(bytes: &[u8], out: &mut [u8]) {
    for (n, out) in out.chunks_exact_mut(bytes.len()).enumerate() {
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = trit(*byte, n);
        }
    }
}

pub(in super::super) struct TQ2_0;
impl Format256 for TQ2_0 {
    const TYPE: TensorType = TensorType::TQ2_0;
    const OFFSET: u8 = 1;
    const MAX_QUANT: u8 = 3;
    const GROUP: usize = 256;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..66];
        two_bit_planes(&block[..64], &mut out.quants);
        out.scales = [1; 16];
        out.scale = f16_at(block, 64);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn quarters_512(block: *const u8, out: &mut Super) -> [__m512i; 4] {
        // SAFETY: as the caller promises.
        unsafe {
            out.scales = [1; 16];
            out.scale = f16_at(std::slice::from_raw_parts(block, Self::TYPE.block_bytes()), 64);
            avx512::two_bits_512(block)
        }
    }
}
