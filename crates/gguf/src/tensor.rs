//! A tensor as the directory describes it: name, type, shape and where its bytes lie.

use std::fmt;
use std::ops::Index;

use crate::TensorType;

/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
pub const MAX_DIMS: usize = 4;

/// The shape of a tensor in ggml's order: `dims[0]` is the row, contiguous in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    /// Absent dimensions are 1, so that products need no special case.
    ne: [u64; MAX_DIMS],
    n_dims: u8,
}

impl Dims {
    /// The shape `dims`, row first; `None` for more than [`MAX_DIMS`] dimensions or 2^63 weights and more.
    pub fn new(dims: &[u64]) -> Option<Dims> {
        let mut ne = [1; MAX_DIMS];
        ne.get_mut(..dims.len())?.copy_from_slice(dims);
        let mut product: u64 = 1;
        for &dim in &ne {
            // A zero dimension must not hide an oversized one.
            product = product.checked_mul(dim.max(1))?;
        }
        (product <= i64::MAX as u64).then_some(Dims { ne, n_dims: dims.len() as u8 })
    }

    /// The dimensions that the file names.
    pub fn as_slice(&self) -> &[u64] {
        &self.ne[..usize::from(self.n_dims)]
    }

    /// All four dimensions; absent ones are 1.
    pub fn padded(&self) -> [u64; MAX_DIMS] {
        self.ne
    }

    /// Number of dimensions that the file names, 0 to 4.
    pub fn n_dims(&self) -> usize {
        usize::from(self.n_dims)
    }

    /// Weights in a row. In a tensor without weights (some dimension 0) no file length bounds this.
    pub fn row_len(&self) -> u64 {
        self.ne[0]
    }

    /// Number of rows.
    pub fn n_rows(&self) -> u64 {
        self.ne[1] * self.ne[2] * self.ne[3]
    }

    /// Number of weights.
    pub fn n_elements(&self) -> u64 {
        self.ne.iter().product()
    }
}

/// `dims[i]` for `i` up to 3; absent dimensions are 1.
impl Index<usize> for Dims {
    type Output = u64;

    fn index(&self, i: usize) -> &u64 {
        &self.ne[i]
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// `576 x 49152`, row first.
impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, dim) in self.as_slice().iter().enumerate() {
            if i > 0 {
                f.write_str(" x ")?;
            }
            dim.fmt(f)?;
        }
        Ok(())
    }
}

/// One entry of the tensor directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: &'a str,
    /// Element type.
    pub ty: TensorType,
    /// Shape, row first.
    pub dims: Dims,
    /// First byte of the data, from the start of the file; a multiple of the file's alignment from the start of the
    /// data section.
    pub file_offset: u64,
    /// Bytes of the data, without padding. `file_offset + len_bytes` is inside the file.
    pub len_bytes: u64,
}

/// Bytes of a tensor of this type and shape. `Err` says which rule broke.
pub(crate) fn tensor_bytes(ty: TensorType, dims: &Dims) -> Result<u64, SizeError> {
    let block_len = ty.block_len() as u64;
    if !dims.row_len().is_multiple_of(block_len) {
        return Err(SizeError::RowNotWholeBlocks);
    }
    (dims.n_elements() / block_len).checked_mul(ty.block_bytes() as u64).ok_or(SizeError::Overflow)
}

/// Why a shape has no size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SizeError {
    RowNotWholeBlocks,
    Overflow,
}
