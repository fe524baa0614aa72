//! Constant tables of the formats: value tables, sign patterns and grids.

use super::grid_data;

/// The 16 values of IQ4_NL and IQ4_XS (`kvalues_iq4nl` of ggml).
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The 16 values of FP4 E2M1, doubled to be integers (OCP Microscaling Formats 1.0, section 5.3.3).
pub const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// What IQ1_S and IQ1_M add to a grid point, or subtract from it.
pub const IQ1_DELTA: f32 = 0.125;

/// Sign bits of 8 weights by 7-bit index: bit 7 makes the number of negative weights even (`ksigns_iq2xs` of ggml).
pub const SIGNS: [u8; 128] = {
    let mut signs = [0; 128];
    let mut i = 0;
    while i < 128 {
        signs[i] = i as u8 | ((i as u8).count_ones() as u8 & 1) << 7;
        i += 1;
    }
    signs
};

const IQ2_LEVELS: [u8; 4] = [0x08, 0x19, 0x2b, 0];
const IQ3XXS_LEVELS: [u8; 8] = [0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3e];
const IQ3S_LEVELS: [u8; 8] = [0x01, 0x03, 0x05, 0x07, 0x09, 0x0b, 0x0d, 0x0f];
/// -1, 0, 1 as i8.
const IQ1_LEVELS: [u8; 4] = [0xff, 0x00, 0x01, 0];

/// Eight 2-bit coordinates become eight bytes.
const fn expand8<const N: usize>(packed: &[u16; N], levels: &[u8; 4]) -> [u64; N] {
    let mut grid = [0; N];
    let mut i = 0;
    while i < N {
        let mut j = 0;
        while j < 8 {
            let level = levels[(packed[i] >> (2 * j) & 3) as usize];
            grid[i] |= (level as u64) << (8 * j);
            j += 1;
        }
        i += 1;
    }
    grid
}

/// Four 4-bit coordinates become four bytes.
const fn expand4<const N: usize>(packed: &[u16; N], levels: &[u8; 8]) -> [u32; N] {
    let mut grid = [0; N];
    let mut i = 0;
    while i < N {
        let mut j = 0;
        while j < 4 {
            let level = levels[(packed[i] >> (4 * j) & 7) as usize];
            grid[i] |= (level as u32) << (8 * j);
            j += 1;
        }
        i += 1;
    }
    grid
}

/// Grid of IQ2_XXS: byte `j` (lowest first) is the magnitude of weight `j`.
pub static IQ2XXS_GRID: [u64; 256] = expand8(&grid_data::IQ2XXS, &IQ2_LEVELS);
/// Grid of IQ2_XS, as [`IQ2XXS_GRID`].
pub static IQ2XS_GRID: [u64; 512] = expand8(&grid_data::IQ2XS, &IQ2_LEVELS);
/// Grid of IQ2_S, as [`IQ2XXS_GRID`].
pub static IQ2S_GRID: [u64; 1024] = expand8(&grid_data::IQ2S, &IQ2_LEVELS);
/// Grid of IQ1_S and IQ1_M: byte `j` (lowest first) is weight `j` as i8, -1, 0 or 1.
pub static IQ1_GRID: [u64; 2048] = expand8(&grid_data::IQ1S, &IQ1_LEVELS);
/// Grid of IQ3_XXS: byte `j` (lowest first) is the magnitude of weight `j`.
pub static IQ3XXS_GRID: [u32; 256] = expand4(&grid_data::IQ3XXS, &IQ3XXS_LEVELS);
/// Grid of IQ3_S, as [`IQ3XXS_GRID`].
pub static IQ3S_GRID: [u32; 512] = expand4(&grid_data::IQ3S, &IQ3S_LEVELS);
