//! Types with a float scale for 32 weights or fewer.

use super::{Format32, Small, f16_at};
use rawrz_gguf::TensorType;

/// Block `index` of a row of blocks of `N` bytes.
#[inline(always)]
fn block_of<const N: usize>(row: &[u8], index: usize) -> &[u8; N] {
    &row.as_chunks::<N>().0[index]
}

/// Nibbles: weight i in the low half of byte i, weight i + 16 in the high half.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let bytes = &bytes[..16];
    let mut out = [0; 32];
    for i in 0..16 {
        out[i] = bytes[i] & 15;
        out[i + 16] = bytes[i] >> 4;
    }
    out
}

/// Nibbles at `nibbles_at` with a fifth bit each, bit i of the word at `high_at`.
#[inline(always)]
fn five_bits(block: &[u8], high_at: usize, nibbles_at: usize) -> [u8; 32] {
    let high =
        u32::from_le_bytes([block[high_at], block[high_at + 1], block[high_at + 2], block[high_at + 3]]);
    let mut out = nibbles(&block[nibbles_at..]);
    for (i, q) in out.iter_mut().enumerate() {
        *q |= ((high >> i & 1) << 4) as u8;
    }
    out
}

pub(in super::super) struct Q4_0;
impl Format32 for Q4_0 {
    const TYPE: TensorType = TensorType::Q4_0;
    const OFFSET: u8 = 8;
    const MAX_QUANT: u8 = 15;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<18>(row, unit);
        Small { quants: nibbles(&block[2..]), scale: f16_at(block, 0), minimum: 0.0 }
    }
}

pub(in super::super) struct Q4_1;
impl Format32 for Q4_1 {
    const TYPE: TensorType = TensorType::Q4_1;
    const OFFSET: u8 = 0;
    const MAX_QUANT: u8 = 15;
    const HAS_MINIMUM: bool = true;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<20>(row, unit);
        Small { quants: nibbles(&block[4..]), scale: f16_at(block, 0), minimum: f16_at(block, 2) }
    }
}

pub(in super::super) struct Q5_0;
impl Format32 for Q5_0 {
    const TYPE: TensorType = TensorType::Q5_0;
    const OFFSET: u8 = 16;
    const MAX_QUANT: u8 = 31;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<22>(row, unit);
        Small { quants: five_bits(block, 2, 6), scale: f16_at(block, 0), minimum: 0.0 }
    }
}

pub(in super::super) struct Q5_1;
impl Format32 for Q5_1 {
    const TYPE: TensorType = TensorType::Q5_1;
    const OFFSET: u8 = 0;
    const MAX_QUANT: u8 = 31;
    const HAS_MINIMUM: bool = true;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<24>(row, unit);
        Small { quants: five_bits(block, 4, 8), scale: f16_at(block, 0), minimum: f16_at(block, 2) }
    }
}

pub(in super::super) struct Q8_0;
impl Format32 for Q8_0 {
    const TYPE: TensorType = TensorType::Q8_0;
    const OFFSET: u8 = 128;
    const MAX_QUANT: u8 = 255;
    const HAS_MINIMUM: bool = false;
    #[inline(always)]
    fn unpack(row: &[u8], unit: usize) -> Small {
        let block = block_of::<34>(row, unit);
        Small { quants: std::array::from_fn(|i| block[2 + i] ^ 0x80), scale: f16_at(block, 0), minimum: 0.0 }
    }
}
