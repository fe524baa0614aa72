//! Decoders of the types whose quants are points of a grid: IQ1, IQ2 and IQ3.

use half::f16;

use super::block::{f16_at, nibble, u16_at, u32_at};
use super::layout::{iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs};
use super::tables::{IQ1_DELTA, IQ1_GRID, IQ2S_GRID, IQ2XS_GRID, IQ2XXS_GRID, IQ3S_GRID, IQ3XXS_GRID, SIGNS};

/// One grid point of 8 magnitudes with its sign bits.
#[inline]
fn signed8(out: &mut [f32; 8], db: f32, grid: u64, signs: u8) {
    for (j, (out, magnitude)) in out.iter_mut().zip(grid.to_le_bytes()).enumerate() {
        let weight = db * f32::from(magnitude);
        *out = if signs >> j & 1 == 1 { -weight } else { weight };
    }
}

/// Two grid points of 4 as one of 8.
#[inline]
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

pub(super) fn iq2_xxs(block: &[u8; iq2_xxs::BLOCK_BYTES], out: &mut [f32; iq2_xxs::BLOCK_LEN]) {
    let d = f16_at(block, iq2_xxs::D);
    let groups = block[iq2_xxs::QS].as_chunks::<8>().0;
    for (out, qs) in out.as_chunks_mut::<32>().0.iter_mut().zip(groups) {
        let high = u32_at(qs, 4);
        let db = d * (0.5 + (high >> 28) as f32) * 0.25;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let signs = SIGNS[(high >> (7 * l) & 0x7f) as usize];
            signed8(out, db, IQ2XXS_GRID[usize::from(qs[l])], signs);
        }
    }
}

pub(super) fn iq2_xs(block: &[u8; iq2_xs::BLOCK_BYTES], out: &mut [f32; iq2_xs::BLOCK_LEN]) {
    let d = f16_at(block, iq2_xs::D);
    let scales = &block[iq2_xs::SCALES];
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let db = d * (0.5 + f32::from(nibble(scales, l / 2))) * 0.25;
        let q = u16_at(block, iq2_xs::QS.start + 2 * l);
        let grid = IQ2XS_GRID[usize::from(q & 0x1ff)];
        signed8(out, db, grid, SIGNS[usize::from(q >> 9)]);
    }
}

pub(super) fn iq2_s(block: &[u8; iq2_s::BLOCK_BYTES], out: &mut [f32; iq2_s::BLOCK_LEN]) {
    let d = f16_at(block, iq2_s::D);
    let qs = &block[iq2_s::QS];
    let signs = &block[iq2_s::SIGNS];
    let qh = &block[iq2_s::QH];
    let scales = &block[iq2_s::SCALES];
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let db = d * (0.5 + f32::from(nibble(scales, l / 2))) * 0.25;
        let high = usize::from(qh[l / 4] >> (l % 4 * 2) & 3);
        let grid = IQ2S_GRID[usize::from(qs[l]) | high << 8];
        signed8(out, db, grid, signs[l]);
    }
}

pub(super) fn iq3_xxs(block: &[u8; iq3_xxs::BLOCK_BYTES], out: &mut [f32; iq3_xxs::BLOCK_LEN]) {
    let d = f16_at(block, iq3_xxs::D);
    let qs = &block[iq3_xxs::QS];
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u32_at(block, iq3_xxs::SCALES_SIGNS.start + l / 4 * 4);
        let db = d * (0.5 + (word >> 28) as f32) * 0.5;
        let signs = SIGNS[(word >> (l % 4 * 7) & 0x7f) as usize];
        let grid = pair(IQ3XXS_GRID[usize::from(qs[2 * l])], IQ3XXS_GRID[usize::from(qs[2 * l + 1])]);
        signed8(out, db, grid, signs);
    }
}

pub(super) fn iq3_s(block: &[u8; iq3_s::BLOCK_BYTES], out: &mut [f32; iq3_s::BLOCK_LEN]) {
    let d = f16_at(block, iq3_s::D);
    let qs = &block[iq3_s::QS];
    let qh = &block[iq3_s::QH];
    let signs = &block[iq3_s::SIGNS];
    let scales = &block[iq3_s::SCALES];
    let point = |i: usize| {
        let high = usize::from(qh[i / 8] >> (i % 8) & 1);
        IQ3S_GRID[usize::from(qs[i]) | high << 8]
    };
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let db = d * f32::from(1 + 2 * nibble(scales, l / 4));
        signed8(out, db, pair(point(2 * l), point(2 * l + 1)), signs[l]);
    }
}

/// One grid point of 8 ternary values, shifted by delta.
#[inline]
fn shifted8(out: &mut [f32; 8], dl: f32, grid: u64, delta: f32) {
    for (out, value) in out.iter_mut().zip(grid.to_le_bytes()) {
        *out = dl * (f32::from(value as i8) + delta);
    }
}

pub(super) fn iq1_s(block: &[u8; iq1_s::BLOCK_BYTES], out: &mut [f32; iq1_s::BLOCK_LEN]) {
    let d = f16_at(block, iq1_s::D);
    let qs = &block[iq1_s::QS];
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let qh = u16_at(block, iq1_s::QH.start + l / 4 * 2);
        let dl = d * f32::from(2 * (qh >> 12 & 7) + 1);
        let delta = if qh >> 15 == 0 { IQ1_DELTA } else { -IQ1_DELTA };
        let high = usize::from(qh >> (l % 4 * 3) & 7);
        shifted8(out, dl, IQ1_GRID[usize::from(qs[l]) | high << 8], delta);
    }
}

pub(super) fn iq1_m(block: &[u8; iq1_m::BLOCK_BYTES], out: &mut [f32; iq1_m::BLOCK_LEN]) {
    let words: [u16; 4] = std::array::from_fn(|i| u16_at(block, iq1_m::SCALES.start + 2 * i));
    let bits = (0..4).fold(0, |bits, i| bits | words[i] >> 12 << (4 * i));
    let d = f16::from_bits(bits).to_f32();
    let qs = &block[iq1_m::QS];
    let qh = &block[iq1_m::QH];
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = words[l / 8] >> (l / 2 % 4 * 3) & 7;
        let dl = d * f32::from(2 * scale + 1);
        let high = nibble(qh, l);
        let delta = if high >> 3 == 0 { IQ1_DELTA } else { -IQ1_DELTA };
        let grid = IQ1_GRID[usize::from(qs[l]) | usize::from(high & 7) << 8];
        shifted8(out, dl, grid, delta);
    }
}
