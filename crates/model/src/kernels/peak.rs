//! What the arithmetic units of one core can do: multiply-adds on registers alone, in loops of assembly so that no
//! compiler has a say. A share of this is what a kernel may be judged by.

use super::isa::Isa;
use std::arch::asm;
use std::time::{Duration, Instant};

/// What a product multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Signed or unsigned bytes.
    Integer,
    /// f32.
    Float,
}

/// A loop of `n` rounds.
type Loop = unsafe fn(u64);

/// Operations per second of one thread, two for each multiply-add, with the fastest instructions of `isa` for sums of
/// products. `None` for [`Isa::Scalar`], whose instructions are the compiler's choice. The machine must have `isa`:
/// an [`Isa`] is only made where it does.
pub fn peak_ops_per_s(isa: Isa, element: Element) -> Option<f64> {
    const TRIES: usize = 5;
    const TRY: Duration = Duration::from_millis(4);
    let (run, ops_per_round) = loop_of(isa, element)?;
    let time = |n: u64| {
        let started = Instant::now();
        // SAFETY: the loop needs no more than `isa`, which the machine has, and touches registers alone.
        unsafe { run(n) };
        started.elapsed()
    };
    let mut n = 1024;
    while time(n) < TRY {
        n *= 2;
    }
    let best = (0..TRIES).map(|_| time(n)).min()?;
    Some((n * ops_per_round) as f64 / best.as_secs_f64())
}

/// The loop and the operations of one round.
fn loop_of(isa: Isa, element: Element) -> Option<(Loop, u64)> {
    Some(match (isa, element) {
        (Isa::Scalar, _) => return None,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2 | Isa::AvxVnni, Element::Float) => (x86_64::fma_256, 12 * 8 * 2),
        #[cfg(target_arch = "x86_64")]
        (_, Element::Float) => (x86_64::fma_512, 12 * 16 * 2),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Element::Integer) => (x86_64::maddubs_256, 6 * 32 * 2),
        #[cfg(target_arch = "x86_64")]
        (Isa::AvxVnni, Element::Integer) => (x86_64::dpbusd_256, 12 * 32 * 2),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Element::Integer) => (x86_64::maddubs_512, 6 * 64 * 2),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Vnni, Element::Integer) => (x86_64::dpbusd_512, 12 * 64 * 2),
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, Element::Integer) => (x86_64::tdpbusd, 4 * 16 * 16 * 64 * 2),
        #[cfg(target_arch = "aarch64")]
        (_, Element::Float) => (aarch64::fmla, 16 * 4 * 2),
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, Element::Integer) => (aarch64::sdot, 16 * 16 * 2),
        #[cfg(target_arch = "aarch64")]
        (Isa::I8mm, Element::Integer) => (aarch64::smmla, 16 * 32 * 2),
    })
}

/// A function whose body is a loop over the given instructions. Each instruction of a round has a result of its own,
/// so that latency does not count, and 12 of them cover 2 a cycle with a latency of 5 or 6.
#[cfg(target_arch = "x86_64")]
macro_rules! rounds {
    ($(#[$doc:meta])* $name:ident, $features:literal, $($instruction:literal)*) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) fn $name(n: u64) {
            // SAFETY: registers alone are touched, all of them declared, and `n` is at least 1.
            unsafe {
                asm!(
                    // Zeros, so that float sums neither overflow nor become slow denormals.
                    "vzeroall",
                    "2:",
                    $($instruction,)*
                    "dec {n}",
                    "jnz 2b",
                    n = inout(reg) n.max(1) => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack)
                );
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::asm;

    rounds!(fma_256, "avx2,fma",
        "vfmadd231ps ymm0, ymm14, ymm15" "vfmadd231ps ymm1, ymm14, ymm15"
        "vfmadd231ps ymm2, ymm14, ymm15" "vfmadd231ps ymm3, ymm14, ymm15"
        "vfmadd231ps ymm4, ymm14, ymm15" "vfmadd231ps ymm5, ymm14, ymm15"
        "vfmadd231ps ymm6, ymm14, ymm15" "vfmadd231ps ymm7, ymm14, ymm15"
        "vfmadd231ps ymm8, ymm14, ymm15" "vfmadd231ps ymm9, ymm14, ymm15"
        "vfmadd231ps ymm10, ymm14, ymm15" "vfmadd231ps ymm11, ymm14, ymm15");
    rounds!(fma_512, "avx512f",
        "vfmadd231ps zmm0, zmm14, zmm15" "vfmadd231ps zmm1, zmm14, zmm15"
        "vfmadd231ps zmm2, zmm14, zmm15" "vfmadd231ps zmm3, zmm14, zmm15"
        "vfmadd231ps zmm4, zmm14, zmm15" "vfmadd231ps zmm5, zmm14, zmm15"
        "vfmadd231ps zmm6, zmm14, zmm15" "vfmadd231ps zmm7, zmm14, zmm15"
        "vfmadd231ps zmm8, zmm14, zmm15" "vfmadd231ps zmm9, zmm14, zmm15"
        "vfmadd231ps zmm10, zmm14, zmm15" "vfmadd231ps zmm11, zmm14, zmm15");
    rounds!(
        /// With the addition that each product needs, since the instruction does not accumulate.
        maddubs_256, "avx2",
        "vpmaddubsw ymm6, ymm14, ymm15" "vpaddw ymm0, ymm0, ymm6"
        "vpmaddubsw ymm7, ymm14, ymm15" "vpaddw ymm1, ymm1, ymm7"
        "vpmaddubsw ymm8, ymm14, ymm15" "vpaddw ymm2, ymm2, ymm8"
        "vpmaddubsw ymm9, ymm14, ymm15" "vpaddw ymm3, ymm3, ymm9"
        "vpmaddubsw ymm10, ymm14, ymm15" "vpaddw ymm4, ymm4, ymm10"
        "vpmaddubsw ymm11, ymm14, ymm15" "vpaddw ymm5, ymm5, ymm11");
    rounds!(
        /// As [`maddubs_256`].
        maddubs_512, "avx512bw",
        "vpmaddubsw zmm6, zmm14, zmm15" "vpaddw zmm0, zmm0, zmm6"
        "vpmaddubsw zmm7, zmm14, zmm15" "vpaddw zmm1, zmm1, zmm7"
        "vpmaddubsw zmm8, zmm14, zmm15" "vpaddw zmm2, zmm2, zmm8"
        "vpmaddubsw zmm9, zmm14, zmm15" "vpaddw zmm3, zmm3, zmm9"
        "vpmaddubsw zmm10, zmm14, zmm15" "vpaddw zmm4, zmm4, zmm10"
        "vpmaddubsw zmm11, zmm14, zmm15" "vpaddw zmm5, zmm5, zmm11");
    rounds!(dpbusd_256, "avx2",
        "{{vex}} vpdpbusd ymm0, ymm14, ymm15" "{{vex}} vpdpbusd ymm1, ymm14, ymm15"
        "{{vex}} vpdpbusd ymm2, ymm14, ymm15" "{{vex}} vpdpbusd ymm3, ymm14, ymm15"
        "{{vex}} vpdpbusd ymm4, ymm14, ymm15" "{{vex}} vpdpbusd ymm5, ymm14, ymm15"
        "{{vex}} vpdpbusd ymm6, ymm14, ymm15" "{{vex}} vpdpbusd ymm7, ymm14, ymm15"
        "{{vex}} vpdpbusd ymm8, ymm14, ymm15" "{{vex}} vpdpbusd ymm9, ymm14, ymm15"
        "{{vex}} vpdpbusd ymm10, ymm14, ymm15" "{{vex}} vpdpbusd ymm11, ymm14, ymm15");
    rounds!(dpbusd_512, "avx512f",
        "vpdpbusd zmm0, zmm14, zmm15" "vpdpbusd zmm1, zmm14, zmm15"
        "vpdpbusd zmm2, zmm14, zmm15" "vpdpbusd zmm3, zmm14, zmm15"
        "vpdpbusd zmm4, zmm14, zmm15" "vpdpbusd zmm5, zmm14, zmm15"
        "vpdpbusd zmm6, zmm14, zmm15" "vpdpbusd zmm7, zmm14, zmm15"
        "vpdpbusd zmm8, zmm14, zmm15" "vpdpbusd zmm9, zmm14, zmm15"
        "vpdpbusd zmm10, zmm14, zmm15" "vpdpbusd zmm11, zmm14, zmm15");

    /// The memory operand of `ldtilecfg` (Intel SDM, "LDTILECFG"): palette 1, all eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct TileConfig {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    static TILES: TileConfig = {
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            row_bytes[tile] = 64;
            rows[tile] = 16;
            tile += 1;
        }
        TileConfig { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };

    /// Four accumulators, which is what two tiles of weights and two of activations make.
    pub(super) fn tdpbusd(n: u64) {
        // SAFETY: the configuration is 64 readable bytes; beyond it only tiles are touched, all of them declared and
        // given back, and `n` is at least 1.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "2:",
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm4, tmm7",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbusd tmm3, tmm5, tmm7",
                "dec {n}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &raw const TILES,
                n = inout(reg) n.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly)
            );
        }
    }
}

/// As for x86-64, with 16 results: up to 4 instructions a cycle with a latency of 4.
#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::asm;

    macro_rules! rounds {
        ($name:ident, $features:literal, $instruction:literal, $operands:literal) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(n: u64) {
                // SAFETY: registers alone are touched, all of them declared, and `n` is at least 1.
                unsafe {
                    asm!(
                        "movi v30.16b, #0",
                        "movi v31.16b, #0",
                        "2:",
                        concat!($instruction, " v0.4s, ", $operands),
                        concat!($instruction, " v1.4s, ", $operands),
                        concat!($instruction, " v2.4s, ", $operands),
                        concat!($instruction, " v3.4s, ", $operands),
                        concat!($instruction, " v4.4s, ", $operands),
                        concat!($instruction, " v5.4s, ", $operands),
                        concat!($instruction, " v6.4s, ", $operands),
                        concat!($instruction, " v7.4s, ", $operands),
                        concat!($instruction, " v8.4s, ", $operands),
                        concat!($instruction, " v9.4s, ", $operands),
                        concat!($instruction, " v10.4s, ", $operands),
                        concat!($instruction, " v11.4s, ", $operands),
                        concat!($instruction, " v12.4s, ", $operands),
                        concat!($instruction, " v13.4s, ", $operands),
                        concat!($instruction, " v14.4s, ", $operands),
                        concat!($instruction, " v15.4s, ", $operands),
                        "subs {n}, {n}, #1",
                        "b.ne 2b",
                        n = inout(reg) n.max(1) => _,
                        out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                        out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                        out("v8") _, out("v9") _, out("v10") _, out("v11") _,
                        out("v12") _, out("v13") _, out("v14") _, out("v15") _,
                        out("v30") _, out("v31") _,
                        options(nomem, nostack)
                    );
                }
            }
        };
    }

    rounds!(fmla, "neon", "fmla", "v30.4s, v31.4s");
    rounds!(sdot, "neon,dotprod", "sdot", "v30.16b, v31.16b");
    rounds!(smmla, "neon,i8mm", "smmla", "v30.16b, v31.16b");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_but_the_portable_one_has_a_peak() {
        for isa in Isa::available() {
            for element in [Element::Integer, Element::Float] {
                let peak = peak_ops_per_s(isa, element);
                assert_eq!(peak.is_none(), isa == Isa::Scalar, "{isa} {element:?}");
                // Ten nanoseconds an operation are slow for an emulator; a million in one are far above any core.
                assert!(peak.is_none_or(|ops| (1e8..1e15).contains(&ops)), "{isa} {element:?}: {peak:?}");
            }
        }
    }
}
