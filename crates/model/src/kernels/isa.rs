//! Which instruction set the kernels use, found when the program runs.

use std::fmt;
use std::str::FromStr;

/// A set of instructions that kernels are written for. The same binary holds all those of its architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Portable code; the oracle for the others.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// The same with AMX tiles of 8-bit integers, for many rows.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// aarch64 with the dot product extension.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same with matrix products of 8-bit integers, for many rows.
    #[cfg(target_arch = "aarch64")]
    I8mm,
}

impl Isa {
    /// The best set that this machine has.
    pub fn detect() -> Isa {
        Isa::available().last().copied().unwrap_or(Isa::Scalar)
    }

    /// Every set that this machine can run, slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut found = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        x86_64(&mut found);
        #[cfg(target_arch = "aarch64")]
        aarch64(&mut found);
        found
    }

    /// Its name, as the `RAWRZ_ISA` environment variable spells it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => "i8mm",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn x86_64(found: &mut Vec<Isa>) {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma") && has!("f16c")) {
        return;
    }
    found.push(Isa::Avx2);
    if has!("avxvnni") {
        found.push(Isa::AvxVnni);
    }
    if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
        return;
    }
    found.push(Isa::Avx512);
    if !has!("avx512vnni") {
        return;
    }
    found.push(Isa::Avx512Vnni);
    if amx::is_usable() {
        found.push(Isa::Amx);
    }
}

#[cfg(target_arch = "aarch64")]
fn aarch64(found: &mut Vec<Isa>) {
    use std::arch::is_aarch64_feature_detected as has;
    if !has!("dotprod") {
        return;
    }
    found.push(Isa::Neon);
    if has!("i8mm") {
        found.push(Isa::I8mm);
    }
}

/// Whether this processor has AMX, and this process may use it.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::__cpuid_count;
    use std::sync::OnceLock;

    /// CPUID leaf 7, register EDX (Intel SDM, volume 2A, "CPUID"): AMX-TILE and AMX-INT8.
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;

    /// The system keeps the tiles of a thread only once the process has asked for it, and the answer holds.
    pub(super) fn is_usable() -> bool {
        static USABLE: OnceLock<bool> = OnceLock::new();
        // The leaf exists: AVX-512 was found in it.
        *USABLE.get_or_init(|| __cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8 && ask())
    }

    /// Linux: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, for all threads of the process.
    #[cfg(target_os = "linux")]
    fn ask() -> bool {
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XFEATURE_XTILEDATA: usize = 18;
        const SYS_ARCH_PRCTL: usize = 158;
        let result: isize;
        // SAFETY: the call changes no memory of this process; the kernel clobbers rcx and r11 only.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") SYS_ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _,
                out("r11") _,
                options(nostack)
            );
        }
        result == 0
    }

    /// Untested elsewhere, so not used there.
    #[cfg(not(target_os = "linux"))]
    fn ask() -> bool {
        false
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    /// Accepts only what this machine can run, so that a forced path cannot end in an illegal instruction.
    fn from_str(name: &str) -> Result<Isa, String> {
        let available = Isa::available();
        available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            format!("instruction set {name:?} is not one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::available() {
            assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        }
        assert!("avx1024".parse::<Isa>().is_err());
    }
}
