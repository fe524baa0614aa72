//! Reading bytes as fast as memory gives them: what bounds a product with one row of activations.

use super::isa::Isa;
use std::hint::black_box;

/// How many places are read in turn. One is what a kernel with a single row of weights does; several keep more loads
/// in flight than the processor's prefetching does for one. Which is fastest differs between machines and sizes.
const STREAMS: [usize; 3] = [1, 4, 16];

/// A way to read bytes, each of them once.
#[derive(Clone, Copy)]
pub(crate) struct ReadAll {
    sum: unsafe fn(&[u8]) -> u64,
}

impl ReadAll {
    /// A way for each of [`STREAMS`]. The machine must have `isa`: an [`Isa`] is only made where it does.
    pub(crate) fn ways(isa: Isa) -> [ReadAll; STREAMS.len()] {
        let sums: [unsafe fn(&[u8]) -> u64; STREAMS.len()] = match isa {
            Isa::Scalar => [portable::<1>, portable::<4>, portable::<16>],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => [x86_64::avx2::<1>, x86_64::avx2::<4>, x86_64::avx2::<16>],
            #[cfg(target_arch = "x86_64")]
            _ => [x86_64::avx512::<1>, x86_64::avx512::<4>, x86_64::avx512::<16>],
            // 128 bits are all that there is.
            #[cfg(not(target_arch = "x86_64"))]
            _ => [portable::<1>, portable::<4>, portable::<16>],
        };
        sums.map(|sum| ReadAll { sum })
    }

    /// Reads `bytes`.
    pub(crate) fn read(self, bytes: &[u8]) {
        black_box(self.add_up(bytes));
    }

    /// A sum that needs every byte and costs far less than reading it.
    fn add_up(self, bytes: &[u8]) -> u64 {
        // SAFETY: the function needs no more than the instruction set it was compiled for, which this machine has.
        unsafe { (self.sum)(bytes) }
    }
}

/// Adds the bytes up as 64-bit words, from `N` places at a time: in 16 lanes, which compilers keep in registers of
/// 128 bits.
fn portable<const N: usize>(bytes: &[u8]) -> u64 {
    const LANES: usize = 16;
    let add = |lanes: [u64; LANES], group: &[u8; LANES * 8]| -> [u64; LANES] {
        let words = group.as_chunks::<8>().0;
        std::array::from_fn(|i| lanes[i].wrapping_add(u64::from_le_bytes(words[i])))
    };
    let (groups, rest) = bytes.as_chunks::<{ LANES * 8 }>();
    let n = groups.len() / N;
    let streams: [&[[u8; LANES * 8]]; N] = std::array::from_fn(|s| &groups[s * n..][..n]);
    let mut lanes = [0; LANES];
    for i in 0..n {
        for stream in &streams {
            lanes = add(lanes, &stream[i]);
        }
    }
    lanes = groups[N * n..].iter().fold(lanes, add);
    lanes.into_iter().fold(words(rest), u64::wrapping_add)
}

/// The same sum of a few bytes, the last ones short of a word.
fn words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// With intrinsics: of the portable loop compiled for these registers, the compiler makes gathers.
#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::words;
    use std::arch::x86_64::*;

    macro_rules! sum {
        ($name:ident, $features:literal, $vector:ty, $zero:ident, $load:ident, $add:ident) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name<const N: usize>(bytes: &[u8]) -> u64 {
                /// Vectors that a stream reads at a time, each added to a sum of its own.
                const UNROLL: usize = 4;
                const GROUP_BYTES: usize = UNROLL * size_of::<$vector>();
                let mut sums = [$zero(); UNROLL];
                let mut add = |group: &[u8; GROUP_BYTES]| {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: the vector lies inside the group; the load asks for no alignment.
                        let vector = unsafe { $load(group.as_ptr().cast::<$vector>().add(i)) };
                        *sum = $add(*sum, vector);
                    }
                };
                let (groups, rest) = bytes.as_chunks::<GROUP_BYTES>();
                let n = groups.len() / N;
                let streams: [&[[u8; GROUP_BYTES]]; N] = std::array::from_fn(|s| &groups[s * n..][..n]);
                for i in 0..n {
                    for stream in &streams {
                        add(&stream[i]);
                    }
                }
                groups[N * n..].iter().for_each(add);
                // SAFETY: both are plain bits of one size.
                let sums = unsafe { std::mem::transmute::<[$vector; UNROLL], [u8; GROUP_BYTES]>(sums) };
                words(&sums).wrapping_add(words(rest))
            }
        };
    }

    sum!(avx2, "avx2", __m256i, _mm256_setzero_si256, _mm256_loadu_si256, _mm256_add_epi64);
    sum!(avx512, "avx512f", __m512i, _mm512_setzero_si512, _mm512_loadu_si512, _mm512_add_epi64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts_once() {
        for len in [0, 1, 7, 8, 127, 128, 2047, 2048, 5000, 16 * 256 * 3 + 130] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 + 11) as u8).collect();
            // Byte i is worth 256^(i mod 8).
            let worth = |(i, byte): (usize, &u8)| u64::from(*byte) << (i % 8 * 8);
            let expected = bytes.iter().enumerate().map(worth).fold(0, u64::wrapping_add);
            for isa in Isa::available() {
                for (way, streams) in ReadAll::ways(isa).into_iter().zip(STREAMS) {
                    assert_eq!(way.add_up(&bytes), expected, "{len} bytes in {streams} streams on {isa}");
                }
            }
        }
    }
}
