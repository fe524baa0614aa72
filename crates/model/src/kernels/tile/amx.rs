//! AMX: sixteen rows of activations times sixteen weight rows in one instruction.
//!
//! A panel has the form that the right operand of a tile product wants, and rows of activations are the left
//! operand as they lie. A tile product sums over 64 weights at once and knows no scales, so the integer scales of
//! super-blocks are multiplied into the weights: `scale * (quant - offset)` fits 16 bits and is split into a
//! signed high and an unsigned low byte, each a plane of the panel. The two integer sums join to the exact dot.
//! Units of 32 have float scales; their tiles are half as long, and each unit's sums are stored and scaled.

use super::frame512::{Multiply, TaskOf, add_large, add_small, pair_sums, vector};
use super::{PANEL_LEN, PANEL_ROWS, Panel, TOKENS, Task};
use crate::kernels::activations::Activations;
use crate::kernels::avx512::Vnni;
use crate::kernels::format::*;
use rawrz_gguf::TensorType;
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

pub(super) fn task_of(ty: TensorType) -> Option<Task> {
    visit(ty, TaskOf(PhantomData::<Amx>))
}

/// The operand of `ldtilecfg` (Intel SDM, volume 1, "TILECFG"): 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// Eight tiles of so many rows and bytes a row.
    const fn new(tiles: [(u8, u16); 8]) -> TileConfig {
        let mut config =
            TileConfig { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut i = 0;
        while i < 8 {
            (config.rows[i], config.row_bytes[i]) = tiles[i];
            i += 1;
        }
        config
    }
}

/// All tiles whole.
static LARGE: TileConfig = TileConfig::new([(16, 64); 8]);

/// Tiles 0 to 3 are sums, 4 and 5 activations and 6 and 7 weights of units of 32.
static SMALL: TileConfig =
    TileConfig::new([(16, 64), (16, 64), (16, 64), (16, 64), (16, 32), (16, 32), (8, 64), (8, 64)]);

/// Sums of a tile: `[activation row][weight row]`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Sums([[i32; PANEL_ROWS]; TOKENS]);

const NO_SUMS: Sums = Sums([[0; PANEL_ROWS]; TOKENS]);

struct Amx;

impl Multiply for Amx {
    const SIGNED: bool = true;

    unsafe fn begin(small: bool) {
        let config = if small { &SMALL } else { &LARGE };
        // SAFETY: the configuration is valid for palette 1: at most 16 rows of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) config, options(nostack, preserves_flags, readonly));
        }
    }

    unsafe fn end() {
        // SAFETY: no tile is used until the next `begin`. Released tiles need not be kept by the system when it
        // switches threads.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn prepare<F: Format256>(panel: &mut Panel) {
        let (low_byte, offset) = (_mm512_set1_epi16(0xFF), _mm512_set1_epi16(i16::from(F::OFFSET)));
        let odd_bytes = 0xAAAA_AAAA_AAAA_AAAA;
        let [low_plane, high_plane] = &mut panel.quants;
        for step in 0..PANEL_LEN / 4 {
            // SAFETY: both planes have 64 steps of 64 bytes, and a group of scales is 64 bytes.
            unsafe {
                let place = low_plane.as_mut_ptr().add(64 * step);
                let quants = _mm512_loadu_si512(place.cast());
                let scale = vector(&panel.scales[step / 4]);
                let mut even = _mm512_and_si512(quants, low_byte);
                let mut odd = _mm512_srli_epi16::<8>(quants);
                if F::OFFSET != 0 {
                    (even, odd) = (_mm512_sub_epi16(even, offset), _mm512_sub_epi16(odd, offset));
                }
                let (even, odd) = (_mm512_mullo_epi16(even, scale), _mm512_mullo_epi16(odd, scale));
                let low = _mm512_mask_blend_epi8(odd_bytes, even, _mm512_slli_epi16::<8>(odd));
                let high = _mm512_mask_blend_epi8(odd_bytes, _mm512_srli_epi16::<8>(even), odd);
                _mm512_storeu_si512(place.cast(), low);
                _mm512_storeu_si512(high_plane.as_mut_ptr().add(64 * step).cast(), high);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn large<F: Format256>(
        panels: &[Panel],
        acts: &Activations,
        b: usize,
        out: &mut [[f32; PANEL_ROWS]],
    ) {
        let (n, acts) = (acts.n_rows(), acts.blocks_256(b));
        // Of two tiles of activations, the low and the high sums.
        let mut sums = [NO_SUMS; 4];
        for first in (0..n).step_by(2 * TOKENS) {
            let second = if first + TOKENS < n { first + TOKENS } else { first };
            let quants = [first, second].map(|t| acts.quants[t..][..TOKENS].as_ptr().cast());
            let here = (n - first).min(2 * TOKENS);
            for (panel, out) in panels.iter().zip(out.chunks_exact_mut(n.next_multiple_of(TOKENS))) {
                // SAFETY: rows are padded to whole tiles; a plane has four tiles of 1 KiB.
                unsafe { multiply_large(&panel.quants, quants, &mut sums) };
                for t in 0..here {
                    let (tile, row) = (t / TOKENS, t % TOKENS);
                    // SAFETY: rows of sums are 64 bytes.
                    let sum = unsafe {
                        let high = vector(&sums[2 * tile + 1].0[row]);
                        _mm512_add_epi32(vector(&sums[2 * tile].0[row]), _mm512_slli_epi32::<8>(high))
                    };
                    let (scale, sums_of_acts) = (acts.scales[first + t], pair_sums::<F>(&acts, first + t));
                    add_large::<F, Amx, Vnni>(panel, sum, scale, sums_of_acts, &mut out[first + t]);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl")]
    unsafe fn small<F: Format32>(
        panels: &[Panel],
        acts: &Activations,
        first_unit: usize,
        n_units: usize,
        out: &mut [[f32; PANEL_ROWS]],
    ) {
        let n = acts.n_rows();
        let (scales, scaled_sums, n_blocks) = acts.floats_32();
        let mut sums = [NO_SUMS; 2];
        for first in (0..n).step_by(TOKENS) {
            // Where the floats of each row begin; the last row stands in for those that are missing.
            let mut starts = [0; TOKENS];
            for (t, start) in starts.iter_mut().enumerate() {
                *start = (first + t).min(n - 1) * n_blocks;
            }
            for (panel, out) in panels.iter().zip(out.chunks_exact_mut(n.next_multiple_of(TOKENS))) {
                let mut acc = [_mm512_setzero_ps(); TOKENS];
                for t in 0..TOKENS {
                    // SAFETY: the results are 16 floats each, padded to whole tiles.
                    acc[t] = _mm512_castsi512_ps(unsafe { vector(&out[first + t]) });
                }
                for unit in 0..n_units {
                    let b = (first_unit + unit) / F::PARTS;
                    let sums = &mut sums[unit % 2];
                    let weights = &panel.quants[0][32 * PANEL_ROWS * unit..][..32 * PANEL_ROWS];
                    // SAFETY: rows are padded to whole tiles; a unit of weights is 512 bytes.
                    unsafe { multiply_small(weights, acts.padded_quants_32(first, b), acts.row_len(), sums) };
                    for t in 0..TOKENS {
                        let row = (scales[starts[t] + b], scaled_sums[starts[t] + b]);
                        // SAFETY: rows of sums are 64 bytes.
                        let sum = unsafe { vector(&sums.0[t]) };
                        acc[t] = add_small::<F>(panel, unit, sum, row, acc[t]);
                    }
                }
                for (out, acc) in out[first..].iter_mut().zip(acc) {
                    // SAFETY: the results are 16 floats each.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), acc) };
                }
            }
        }
    }
}

/// The low and high sums of two tiles of activations (each sixteen rows of 256) with a panel.
///
/// # Safety
/// 16 rows of 256 bytes from each of `acts` are readable, and [`LARGE`] is configured.
#[inline]
unsafe fn multiply_large(
    planes: &[[u8; PANEL_LEN * PANEL_ROWS]; 2],
    acts: [*const i8; 2],
    sums: &mut [Sums; 4],
) {
    // SAFETY: as the caller promises; a tile of weights is 16 rows of 64 bytes, and so is each of the sums.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tileloadd tmm4, [{a0} + {stride}]",
            "tileloadd tmm6, [{low} + {line}]",
            "tileloadd tmm7, [{high} + {line}]",
            "tileloadd tmm5, [{a1} + {stride}]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a0} + {stride} + 64]",
            "tileloadd tmm6, [{low} + {line} + 1024]",
            "tileloadd tmm7, [{high} + {line} + 1024]",
            "tileloadd tmm5, [{a1} + {stride} + 64]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a0} + {stride} + 128]",
            "tileloadd tmm6, [{low} + {line} + 2048]",
            "tileloadd tmm7, [{high} + {line} + 2048]",
            "tileloadd tmm5, [{a1} + {stride} + 128]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a0} + {stride} + 192]",
            "tileloadd tmm6, [{low} + {line} + 3072]",
            "tileloadd tmm7, [{high} + {line} + 3072]",
            "tileloadd tmm5, [{a1} + {stride} + 192]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "tilestored [{out} + {line}], tmm0",
            "tilestored [{out} + {line} + 1024], tmm1",
            "tilestored [{out} + {line} + 2048], tmm2",
            "tilestored [{out} + {line} + 3072], tmm3",
            a0 = in(reg) acts[0],
            a1 = in(reg) acts[1],
            stride = in(reg) PANEL_LEN,
            low = in(reg) planes[0].as_ptr(),
            high = in(reg) planes[1].as_ptr(),
            line = in(reg) 64usize,
            out = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags)
        );
    }
}

/// The sums of a tile of activations (sixteen rows, `stride` bytes apart) with a unit of 32 weights.
///
/// # Safety
/// 16 rows of 32 bytes from `acts` and 512 bytes of `weights` are readable, and [`SMALL`] is configured.
#[inline]
unsafe fn multiply_small(weights: &[u8], acts: *const i8, stride: usize, sums: &mut Sums) {
    // SAFETY: as the caller promises; the sums are 16 rows of 64 bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm4, [{a} + {stride}]",
            "tileloadd tmm6, [{w} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tilestored [{out} + {line}], tmm0",
            a = in(reg) acts,
            stride = in(reg) stride,
            w = in(reg) weights.as_ptr(),
            line = in(reg) 64usize,
            out = in(reg) sums,
            out("tmm0") _, out("tmm4") _, out("tmm6") _,
            options(nostack, preserves_flags)
        );
    }
}
