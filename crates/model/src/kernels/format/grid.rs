//! Types whose quants are points of a grid: `IQ1`, `IQ2` and `IQ3`.
//!
//! Eight quants are made at once in the bytes of a word: all of them, and all that is added on the way, fit 7
//! bits, so nothing is carried from one byte to the next. Scales of groups are odd integers, `2s + 1`; the power
//! of two that makes them what the formula says is part of the block's scale.

use super::{Format256, Super, f16_at};
use half::f16;
use rawrz_gguf::TensorType;
use rawrz_gguf::quant::tables::{
    IQ1_GRID, IQ2S_GRID, IQ2XS_GRID, IQ2XXS_GRID, IQ3S_GRID, IQ3XXS_GRID, SIGNS,
};

/// Each byte of a word.
const fn bytes(value: u8) -> u64 {
    0x0101_0101_0101_0101 * value as u64
}

/// `offset` plus magnitudes, minus them where a bit of `signs` is set.
#[inline(always)]
fn signed(magnitudes: u64, signs: u8, offset: u8) -> [u8; 8] {
    // Byte i is not 0 if bit i is set; adding 0x7F then sets its top bit, from where it fills the byte.
    let set = bytes(signs) & 0x8040_2010_0804_0201;
    let mask = ((set + bytes(0x7F)) >> 7 & bytes(1)) * 0xFF;
    (bytes(offset) + magnitudes - ((magnitudes & mask) << 1)).to_le_bytes()
}

/// Two grid points of 4 as one of 8.
#[inline(always)]
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// `2s + 1` for the 4-bit scale of each 16 weights, low nibbles first.
#[inline(always)]
fn scales_of_16(packed: &[u8], out: &mut Super) {
    let packed = &packed[..8];
    for (out, packed) in out.scales.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
        *out = [packed & 15, packed >> 4].map(|s| i16::from(2 * s + 1));
    }
}

#[inline(always)]
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

pub(in super::super) struct IQ2XXS;
impl Format256 for IQ2XXS {
    const TYPE: TensorType = TensorType::IQ2XXS;
    const OFFSET: u8 = 43;
    const MAX_QUANT: u8 = 86;
    const GROUP: usize = 32;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..66];
        let groups = block[2..].as_chunks::<8>().0;
        for (g, (packed, quants)) in groups.iter().zip(out.quants.as_chunks_mut::<32>().0).enumerate() {
            let high = u32_at(packed, 4);
            for (l, quants) in quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let signs = SIGNS[(high >> (7 * l) & 127) as usize];
                *quants = signed(IQ2XXS_GRID[usize::from(packed[l])], signs, Self::OFFSET);
            }
            out.scales[2 * g..2 * g + 2].fill((high >> 28) as i16 * 2 + 1);
        }
        out.scale = f16_at(block, 0) / 8.0;
    }
}

pub(in super::super) struct IQ2XS;
impl Format256 for IQ2XS {
    const TYPE: TensorType = TensorType::IQ2XS;
    const OFFSET: u8 = 43;
    const MAX_QUANT: u8 = 86;
    const GROUP: usize = 16;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..74];
        for (l, quants) in out.quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let point = u16_at(block, 2 + 2 * l);
            let signs = SIGNS[usize::from(point >> 9)];
            *quants = signed(IQ2XS_GRID[usize::from(point & 511)], signs, Self::OFFSET);
        }
        scales_of_16(&block[66..], out);
        out.scale = f16_at(block, 0) / 8.0;
    }
}

pub(in super::super) struct IQ2S;
impl Format256 for IQ2S {
    const TYPE: TensorType = TensorType::IQ2S;
    const OFFSET: u8 = 43;
    const MAX_QUANT: u8 = 86;
    const GROUP: usize = 16;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..82];
        for (l, quants) in out.quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = usize::from(block[66 + l / 4] >> (2 * (l % 4)) & 3);
            let magnitudes = IQ2S_GRID[usize::from(block[2 + l]) | high << 8];
            *quants = signed(magnitudes, block[34 + l], Self::OFFSET);
        }
        scales_of_16(&block[74..], out);
        out.scale = f16_at(block, 0) / 8.0;
    }
}

pub(in super::super) struct IQ3XXS;
impl Format256 for IQ3XXS {
    const TYPE: TensorType = TensorType::IQ3XXS;
    const OFFSET: u8 = 62;
    const MAX_QUANT: u8 = 124;
    const GROUP: usize = 32;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..98];
        for (g, quants) in out.quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let points = &block[2 + 8 * g..][..8];
            let word = u32_at(block, 66 + 4 * g);
            for (l, quants) in quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let point = |i: usize| IQ3XXS_GRID[usize::from(points[i])];
                let signs = SIGNS[(word >> (7 * l) & 127) as usize];
                *quants = signed(pair(point(2 * l), point(2 * l + 1)), signs, Self::OFFSET);
            }
            out.scales[2 * g..2 * g + 2].fill((word >> 28) as i16 * 2 + 1);
        }
        out.scale = f16_at(block, 0) / 4.0;
    }
}

pub(in super::super) struct IQ3S;
impl Format256 for IQ3S {
    const TYPE: TensorType = TensorType::IQ3S;
    const OFFSET: u8 = 15;
    const MAX_QUANT: u8 = 30;
    const GROUP: usize = 32;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..110];
        for (l, quants) in out.quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = usize::from(block[66 + l / 4]) >> (2 * (l % 4));
            let first = IQ3S_GRID[usize::from(block[2 + 2 * l]) | (high & 1) << 8];
            let second = IQ3S_GRID[usize::from(block[3 + 2 * l]) | (high >> 1 & 1) << 8];
            *quants = signed(pair(first, second), block[74 + l], Self::OFFSET);
        }
        for (out, packed) in out.scales.as_chunks_mut::<4>().0.iter_mut().zip(&block[106..]) {
            let [low, high] = [packed & 15, packed >> 4].map(|s| i16::from(2 * s + 1));
            *out = [low, low, high, high];
        }
        out.scale = f16_at(block, 0);
    }
}

/// `8 * (grid +- 1/8)`, 9 too large: 0 to 18.
#[inline(always)]
fn shifted(grid: u64, minus: bool) -> [u8; 8] {
    // Grid bytes are -1, 0 or 1: one more is 0, 1 or 2; adding it to the lower 7 bits carries nothing out.
    let digits = ((grid & bytes(0x7F)) + bytes(1)) ^ (grid & bytes(0x80));
    (digits * 8 + if minus { 0 } else { bytes(2) }).to_le_bytes()
}

pub(in super::super) struct IQ1S;
impl Format256 for IQ1S {
    const TYPE: TensorType = TensorType::IQ1S;
    const OFFSET: u8 = 9;
    const MAX_QUANT: u8 = 18;
    const GROUP: usize = 32;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..50];
        for (g, quants) in out.quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (low, high) = (&block[2 + 4 * g..][..4], u16_at(block, 34 + 2 * g));
            for (l, quants) in quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let index = usize::from(low[l]) | usize::from(high >> (3 * l) & 7) << 8;
                *quants = shifted(IQ1_GRID[index], high >> 15 == 1);
            }
            out.scales[2 * g..2 * g + 2].fill((high >> 12 & 7) as i16 * 2 + 1);
        }
        out.scale = f16_at(block, 0) / 8.0;
    }
}

pub(in super::super) struct IQ1M;
impl Format256 for IQ1M {
    const TYPE: TensorType = TensorType::IQ1M;
    const OFFSET: u8 = 9;
    const MAX_QUANT: u8 = 18;
    const GROUP: usize = 16;
    const HAS_MINIMUMS: bool = false;
    #[inline(always)]
    fn unpack(block: &[u8], out: &mut Super) {
        let block = &block[..56];
        for (l, quants) in out.quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = block[32 + l / 2] >> (4 * (l % 2)) & 15;
            let index = usize::from(block[l]) | usize::from(high & 7) << 8;
            *quants = shifted(IQ1_GRID[index], high >> 3 == 1);
        }
        // Four words of four 3-bit scales; their top nibbles together are the scale of the block.
        let mut bits = 0;
        for (w, out) in out.scales.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let word = u16_at(block, 48 + 2 * w);
            for (i, out) in out.iter_mut().enumerate() {
                *out = (word >> (3 * i) & 7) as i16 * 2 + 1;
            }
            bits |= word >> 12 << (4 * w);
        }
        out.scale = f16::from_bits(bits).to_f32_const() / 8.0;
    }
}
