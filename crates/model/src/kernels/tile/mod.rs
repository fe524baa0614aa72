//! Many rows of activations: weights of a tile are unpacked once into cache-sized scratch, in an order that puts
//! one weight row into each lane, and multiplied by all activations.
//!
//! ```text
//!   quants  [k / 4][weight row][4]      one step of a dot: four products in each row's lane
//! ```
//!
//! No sum crosses lanes, and up to eight steps accumulate before a scale is applied. Results have the bits of
//! the dots in [`super::dot`], by the definition in [`super`].

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::activations::Activations;
use super::isa::Isa;
use rawrz_gguf::TensorType;

/// Weight rows in a tile: two vectors of eight lanes, or one of sixteen.
pub(super) const TILE_ROWS: usize = 16;

/// The first blocks of the rows of a tile; a tile with fewer rows repeats its last one.
pub(super) type TileRows = [*const u8; TILE_ROWS];

/// A kernel: `out[t][r] = rows[r] . acts[t]` for every row of activations.
///
/// # Safety
/// Every pointer is good for as many blocks as the activations have, which were prepared for the type, and the
/// machine has the kernel's instruction set.
pub(super) type Tile = unsafe fn(&TileRows, &Activations, &mut [[f32; TILE_ROWS]]);

/// The kernel of `ty` on `isa`, where there is one.
pub(super) fn tile_of(ty: TensorType, isa: Isa) -> Option<Tile> {
    match isa {
        Isa::Scalar => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::tile_of(ty),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => None,
    }
}
