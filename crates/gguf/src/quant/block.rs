//! Small helpers to read blocks.

use std::ops::Range;

use half::f16;

/// Calls `decode` for each block and its weights. Lengths were checked by the caller.
#[inline]
pub(super) fn each_block<const BYTES: usize, const LEN: usize>(
    blocks: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let blocks = blocks.as_chunks::<BYTES>().0;
    let out = out.as_chunks_mut::<LEN>().0;
    for (block, out) in blocks.iter().zip(out) {
        decode(block, out);
    }
}

/// The field of `N` bytes at `range`.
#[inline]
pub(super) fn bytes<const N: usize>(block: &[u8], range: Range<usize>) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&block[range]);
    field
}

#[inline]
pub(super) fn f16_at(block: &[u8], range: Range<usize>) -> f32 {
    f16::from_le_bytes(bytes(block, range)).to_f32()
}

#[inline]
pub(super) fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(block, at..at + 2))
}

#[inline]
pub(super) fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(block, at..at + 4))
}

/// Nibble `i` of `bytes`, low ones first.
#[inline]
pub(super) fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 0xf
}
