//! The input of matmuls: f32 rows, quantized at most once for each block format that the weights ask for.

use super::float::{BLOCK_32, BLOCK_256, Ops};
use super::matmul::Precision;
use super::pool::Pool;
use super::tile;

/// Quantized rows are padded to a multiple of this many, for kernels that read whole tiles of rows. What the padding
/// holds is of no account.
const PADDING: usize = 16;

/// How a weight type wants its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActivationKind {
    /// f32, as it is: weights that are no blocks.
    Float,
    /// i8 in blocks of 32.
    Block32,
    /// i8 in super-blocks of 256.
    Block256,
}

/// One quantized row, block formats of 32.
#[derive(Clone, Copy)]
pub(crate) struct Row32<'a> {
    /// `[k]`
    pub(crate) quants: &'a [i8],
    /// `[k / 32]`
    pub(crate) scales: &'a [f32],
    /// Sum of each block's quants, `[k / 32]`.
    pub(crate) sums: &'a [i32],
    /// The same times the block's scale, for minimum terms, `[k / 32]`.
    pub(crate) scaled_sums: &'a [f32],
}

/// One quantized row, super-blocks of 256.
#[derive(Clone, Copy)]
pub(crate) struct Row256<'a> {
    /// `[k]`
    pub(crate) quants: &'a [i8],
    /// `[k / 256]`
    pub(crate) scales: &'a [f32],
    /// Sum of each 16 quants, `[k / 16]`.
    pub(crate) sums: &'a [i16],
    /// The quants once more, `[k]`, with the second and third of each four groups of 32 exchanged: as the low and high
    /// nibbles of 64 bytes of `Q4_K` and `Q5_K` meet them. Empty unless the rows are few: fewer than panels take.
    #[cfg(target_arch = "x86_64")]
    pub(crate) quants_by_nibble: &'a [i8],
    /// Sum of each 32 quants, `[k / 32]`, if there are those by nibble.
    #[cfg(target_arch = "x86_64")]
    pub(crate) sums_of_32: &'a [i16],
}

/// One super-block of all rows.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Blocks256<'a> {
    /// Of each row, padded to a multiple of [`PADDING`] rows.
    pub(crate) quants: &'a [[i8; BLOCK_256]],
    pub(crate) scales: &'a [f32],
    /// Sum of each 16 quants.
    pub(crate) sums: &'a [[i16; 16]],
    /// Sum of each 32 quants.
    pub(crate) sums_of_32: &'a [[i16; 8]],
}

/// `n_rows` rows of `row_len` floats and their quantized forms. The buffers are kept from one use to the next.
#[derive(Default)]
pub(crate) struct Activations {
    row_len: usize,
    n_rows: usize,
    floats: Vec<f32>,
    quants_32: Vec<i8>,
    scales_32: Vec<f32>,
    sums_32: Vec<i32>,
    scaled_sums_32: Vec<f32>,
    quants_256: Vec<i8>,
    scales_256: Vec<f32>,
    sums_256: Vec<i16>,
    quants_by_nibble: Vec<i8>,
    sums_of_32: Vec<i16>,
    has_32: bool,
    has_256: bool,
    /// Whether super-blocks lie one after the other, each of all rows, and not row after row.
    by_block: bool,
    precision: Precision,
}

impl Activations {
    /// Activations that weights take in the form that `precision` allows.
    pub(crate) fn new(precision: Precision) -> Activations {
        Activations { precision, ..Activations::default() }
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes that `n_rows` rows of up to `row_len` values need at most, spread over `n_parts` of these.
    pub(crate) fn bytes(row_len: usize, n_rows: usize, n_parts: usize) -> u64 {
        let values = row_len as u64 * n_rows as u64;
        let padding = row_len as u64 * (n_parts * (PADDING - 1)) as u64;
        let by_nibble = row_len as u64 * n_rows.min(tile::LEAST_ROWS - 1) as u64 * n_parts as u64;
        // Floats, two i8 copies, and per-block fields: 12 bytes per 32 values, 52 per 256. A third copy of few rows.
        values * 4 + (values + padding) * 2 + values.div_ceil(32) * 19 + by_nibble
    }

    /// Takes new rows: `x` holds `n_rows` rows of one length.
    pub(crate) fn load(&mut self, x: &[f32], n_rows: usize, pool: &Pool) {
        assert!(n_rows > 0 && x.len().is_multiple_of(n_rows));
        let row_len = x.len() / n_rows;
        self.fill(row_len, n_rows, &|i| &x[i * row_len..][..row_len], pool);
    }

    /// Takes new rows: those of `x`, of `row_len` values each, that `rows` lists; at least one.
    pub(crate) fn gather(&mut self, x: &[f32], row_len: usize, rows: &[u32], pool: &Pool) {
        assert!(!rows.is_empty());
        self.fill(row_len, rows.len(), &|i| &x[rows[i] as usize * row_len..][..row_len], pool);
    }

    fn fill<'a>(
        &mut self,
        row_len: usize,
        n_rows: usize,
        row: &(dyn Fn(usize) -> &'a [f32] + Sync),
        pool: &Pool,
    ) {
        self.row_len = row_len;
        self.n_rows = n_rows;
        self.floats.resize(row_len * n_rows, 0.0);
        pool.for_each_chunk(&mut self.floats, row_len, &|i, to| to.copy_from_slice(row(i)));
        self.has_32 = false;
        self.has_256 = false;
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn row_len(&self) -> usize {
        self.row_len
    }

    /// Makes the rows available in the form that `kind` asks for.
    ///
    /// # Panics
    /// When the row length is not a multiple of the block: weights were checked against it when bound.
    pub(crate) fn prepare(&mut self, kind: ActivationKind, ops: &Ops, pool: &Pool) {
        match kind {
            ActivationKind::Float => {}
            ActivationKind::Block32 if self.has_32 => {}
            ActivationKind::Block32 => self.quantize_32(ops, pool),
            ActivationKind::Block256 if self.has_256 => {}
            ActivationKind::Block256 => self.quantize_256(ops, pool),
        }
    }

    fn quantize_32(&mut self, ops: &Ops, pool: &Pool) {
        let (k, blocks) = (self.row_len, self.row_len / BLOCK_32);
        assert!(k.is_multiple_of(BLOCK_32));
        self.quants_32.resize(k * self.n_rows.next_multiple_of(PADDING), 0);
        self.scales_32.resize(blocks * self.n_rows, 0.0);
        self.sums_32.resize(blocks * self.n_rows, 0);
        self.scaled_sums_32.resize(blocks * self.n_rows, 0.0);
        let mut rows: Vec<_> = self
            .floats
            .chunks(k)
            .zip(self.quants_32.chunks_mut(k))
            .zip(self.scales_32.chunks_mut(blocks))
            .zip(self.sums_32.chunks_mut(blocks).zip(self.scaled_sums_32.chunks_mut(blocks)))
            .collect();
        pool.run_on(&mut rows, &|(((x, quants), scales), (sums, scaled_sums))| {
            ops.quantize_32(x, quants, scales, sums, scaled_sums);
        });
        self.has_32 = true;
    }

    fn quantize_256(&mut self, ops: &Ops, pool: &Pool) {
        let (k, blocks) = (self.row_len, self.row_len / BLOCK_256);
        assert!(k.is_multiple_of(BLOCK_256));
        self.quants_256.resize(k * self.n_rows.next_multiple_of(PADDING), 0);
        self.scales_256.resize(blocks * self.n_rows, 0.0);
        self.sums_256.resize(k / 16 * self.n_rows, 0);
        let few = self.n_rows < tile::LEAST_ROWS;
        self.by_block = !few && tile::takes_blocks(ops.isa());
        let derived = if cfg!(target_arch = "x86_64") && few { k * self.n_rows } else { 0 };
        self.quants_by_nibble.resize(derived, 0);
        self.sums_of_32.resize(if self.by_block { self.sums_256.len() / 2 } else { derived / 32 }, 0);
        if self.by_block {
            let (n, floats) = (self.n_rows, &self.floats);
            let mut columns: Vec<_> = self
                .quants_256
                .chunks_mut(BLOCK_256 * n.next_multiple_of(PADDING))
                .zip(self.scales_256.chunks_mut(n))
                .zip(self.sums_256.chunks_mut(16 * n).zip(self.sums_of_32.chunks_mut(8 * n)))
                .enumerate()
                .collect();
            pool.run_on(&mut columns, &|(b, ((quants, scales), (sums, sums_of_32)))| {
                let rows = quants.chunks_mut(BLOCK_256).zip(scales.chunks_mut(1)).zip(sums.chunks_mut(16));
                for (((quants, scale), sums), x) in rows.zip(floats.chunks(k)) {
                    ops.quantize_256(&x[*b * BLOCK_256..][..BLOCK_256], quants, scale, sums);
                }
                add_pairs(sums, sums_of_32);
            });
        } else {
            let mut rows: Vec<_> = self
                .floats
                .chunks(k)
                .zip(self.quants_256.chunks_mut(k))
                .zip(self.scales_256.chunks_mut(blocks))
                .zip(self.sums_256.chunks_mut(k / 16))
                .collect();
            pool.run_on(&mut rows, &|(((x, quants), scales), sums)| {
                ops.quantize_256(x, quants, scales, sums);
            });
            // Of few rows, and where kernels take them: else there is no room for them.
            let quants = self.quants_256.as_chunks::<32>().0;
            for (i, to) in self.quants_by_nibble.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                *to = quants[i / 4 * 4 + [0, 2, 1, 3][i % 4]];
            }
            add_pairs(&self.sums_256, &mut self.sums_of_32);
        }
        self.has_256 = true;
    }

    /// Row `row` as floats.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.row_len..][..self.row_len]
    }

    /// Row `row` in blocks of 32; `prepare` was called for them.
    #[inline]
    pub(crate) fn row_32(&self, row: usize) -> Row32<'_> {
        debug_assert!(self.has_32);
        let (k, blocks) = (self.row_len, self.row_len / BLOCK_32);
        Row32 {
            quants: &self.quants_32[row * k..][..k],
            scales: &self.scales_32[row * blocks..][..blocks],
            sums: &self.sums_32[row * blocks..][..blocks],
            scaled_sums: &self.scaled_sums_32[row * blocks..][..blocks],
        }
    }

    /// Scales and scaled sums of all rows in blocks of 32, `[row][k / 32]`, and the blocks of a row.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn floats_32(&self) -> (&[f32], &[f32], usize) {
        (&self.scales_32, &self.scaled_sums_32, self.row_len / BLOCK_32)
    }

    /// Row `row` in super-blocks of 256; `prepare` was called for them.
    #[inline]
    pub(crate) fn row_256(&self, row: usize) -> Row256<'_> {
        assert!(self.has_256 && !self.by_block);
        let (k, blocks) = (self.row_len, self.row_len / BLOCK_256);
        Row256 {
            quants: &self.quants_256[row * k..][..k],
            scales: &self.scales_256[row * blocks..][..blocks],
            sums: &self.sums_256[row * k / 16..][..k / 16],
            #[cfg(target_arch = "x86_64")]
            quants_by_nibble: self.quants_by_nibble.get(row * k..(row + 1) * k).unwrap_or_default(),
            #[cfg(target_arch = "x86_64")]
            sums_of_32: self.sums_of_32.get(row * k / 32..(row + 1) * k / 32).unwrap_or_default(),
        }
    }

    /// Super-block `b` of all rows; `prepare` was called for them, and there are [as many](tile::LEAST_ROWS) as panels
    /// take, on an instruction set that [takes them so](tile::takes_blocks).
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn blocks_256(&self, b: usize) -> Blocks256<'_> {
        assert!(self.has_256 && self.by_block);
        let (n, padded) = (self.n_rows, self.n_rows.next_multiple_of(PADDING));
        Blocks256 {
            quants: &self.quants_256.as_chunks().0[b * padded..][..padded],
            scales: &self.scales_256[b * n..][..n],
            sums: &self.sums_256.as_chunks().0[b * n..][..n],
            sums_of_32: &self.sums_of_32.as_chunks().0[b * n..][..n],
        }
    }

    /// The quants of block `block` of row `row`, of [`PADDING`] rows of which reads stay inside the buffer when `row` is a
    /// multiple of it: neighbouring rows lie [`Activations::row_len`] bytes apart.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn padded_quants_32(&self, row: usize, block: usize) -> *const i8 {
        let (len, at) = (self.row_len, BLOCK_32 * block);
        debug_assert!(
            row.is_multiple_of(PADDING) && at < len && self.quants_32.len() >= (row + PADDING) * len
        );
        self.quants_32[row * len + at..].as_ptr()
    }
}

/// Sums of 32 from sums of 16: at most 32 * 127, which fits 16 bits.
fn add_pairs(of_16: &[i16], of_32: &mut [i16]) {
    of_32.iter_mut().zip(of_16.as_chunks().0).for_each(|(sum, [a, b])| *sum = a + b);
}
