//! Weights times activations, on all threads.

use super::activations::{ActivationKind, Activations};
use super::dot::{Dot, TILE_ROWS, TileOut, TileRows, WIDE, dot_of};
use super::float::{FLOAT_ACTS, FLOAT_ROWS, Ops};
use super::pool::{DisjointRows, Pool};
use super::tile::{self, MAX_PANELS, PANEL_ROWS};
use rawrz_gguf::TensorType;
use std::cell::RefCell;

/// Tasks that each thread gets of one matmul, so that a slow core can leave some to the others.
const TASKS_PER_THREAD: usize = 6;

/// The most rows in one task: their blocks stay in the second-level cache while all activations pass over them.
const MAX_TASK_ROWS: usize = 64;

/// How inputs of matmuls are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8-bit blocks where the type of the weights has integer kernels: fast.
    #[default]
    Quantized,
    /// f32 for all types, weights decoded: slow, and free of the noise that quantized inputs add.
    Float,
}

/// The form in which weights of type `ty` take their input.
pub(crate) fn activation_kind(ty: TensorType, ops: &Ops, precision: Precision) -> ActivationKind {
    integer_dot(ty, ops, precision).map_or(ActivationKind::Float, Dot::activation_kind)
}

/// Bytes of scratch that each thread takes for products with up to `n_rows` rows of activations.
pub(crate) fn thread_scratch_bytes(n_rows: usize) -> u64 {
    tile::scratch_bytes(n_rows) + (DECODED_LEN * size_of::<f32>()) as u64
}

fn integer_dot(ty: TensorType, ops: &Ops, precision: Precision) -> Option<Dot> {
    match precision {
        Precision::Quantized => dot_of(ty, ops.isa()),
        Precision::Float => None,
    }
}

/// Whole rows of weights, as they lie in the file.
#[derive(Clone, Copy)]
pub(crate) struct WeightRows<'a> {
    pub(crate) ty: TensorType,
    pub(crate) bytes: &'a [u8],
    pub(crate) row_bytes: usize,
}

/// A product: `out[t][column + r] = rows[r] . acts[t]` for every weight row r and activation row t.
pub(crate) struct Product<'a> {
    pub(crate) rows: WeightRows<'a>,
    /// Prepared for the kind that [`activation_kind`] gives.
    pub(crate) acts: &'a Activations,
    /// A row of outputs for each row of activations.
    pub(crate) out: &'a DisjointRows<'a>,
    pub(crate) column: usize,
}

/// Computes products in one go of all threads: small ones do not wait for each other.
///
/// # Panics
/// When the sizes do not fit together.
pub(crate) fn matmul(products: &[Product<'_>], ops: &Ops, pool: &Pool) {
    let jobs: Vec<Job<'_>> = products.iter().map(|product| Job::new(product, ops, pool)).collect();
    pool.run(jobs.iter().map(Job::n_tasks).sum(), &|mut task| {
        for job in &jobs {
            match task.checked_sub(job.n_tasks()) {
                Some(rest) => task = rest,
                None => return job.run(task, ops),
            }
        }
    });
}

/// How the weight rows of a product are computed.
#[derive(Clone, Copy)]
enum Path {
    /// Panels, for many rows of activations.
    Panels(tile::Task),
    Dots(Dot),
    /// Weights decoded to floats.
    Decoded,
}

/// A product cut into tasks of `task_rows` weight rows.
struct Job<'a> {
    product: &'a Product<'a>,
    path: Path,
    n_rows: usize,
    task_rows: usize,
}

impl<'a> Job<'a> {
    fn new(product: &'a Product<'a>, ops: &Ops, pool: &Pool) -> Job<'a> {
        let acts = product.acts;
        let WeightRows { ty, bytes, row_bytes } = product.rows;
        let n_rows = bytes.len() / row_bytes;
        let n_blocks = acts.row_len() / ty.block_len();
        assert_eq!(bytes.len(), n_rows * row_bytes);
        assert_eq!(row_bytes, n_blocks * ty.block_bytes());
        assert_eq!(acts.row_len(), n_blocks * ty.block_len());
        let many = acts.n_rows() >= tile::LEAST_ROWS;
        let path = match integer_dot(ty, ops, acts.precision()) {
            None => Path::Decoded,
            Some(dot) => match tile::task_of(ty, ops.isa()).filter(|_| many) {
                Some(task) => Path::Panels(task),
                None => Path::Dots(dot),
            },
        };
        let share = n_rows.div_ceil(pool.n_threads() * TASKS_PER_THREAD);
        let task_rows = match path {
            Path::Panels(_) => share.next_multiple_of(2 * PANEL_ROWS).min(MAX_PANELS * PANEL_ROWS),
            _ => share.next_multiple_of(TILE_ROWS).clamp(TILE_ROWS, MAX_TASK_ROWS),
        };
        Job { product, path, n_rows, task_rows }
    }

    fn n_tasks(&self) -> usize {
        self.n_rows.div_ceil(self.task_rows)
    }

    fn run(&self, task: usize, ops: &Ops) {
        let Product { rows: WeightRows { ty, bytes, row_bytes }, acts, out, column } = *self.product;
        let first = task * self.task_rows;
        let rows = &bytes[first * row_bytes..(first + self.task_rows).min(self.n_rows) * row_bytes];
        // SAFETY: tasks write the columns of their own weight rows, one after the other; the rows are as long as the
        // activations, as checked when the job was made.
        unsafe {
            match self.path {
                Path::Panels(task) => panels_of(task, rows, row_bytes, acts, out, column + first),
                Path::Dots(dot) => tiles(dot, rows, row_bytes, acts, out, column + first),
                Path::Decoded => decoded(ty, rows, row_bytes, acts, out, column + first, ops),
            }
        }
    }
}

/// # Safety
/// No other thread uses the columns that are written, and `acts` has as many blocks as a row.
unsafe fn panels_of(
    task: tile::Task,
    weights: &[u8],
    row_bytes: usize,
    acts: &Activations,
    out: &DisjointRows<'_>,
    column: usize,
) {
    let n_rows = weights.len() / row_bytes;
    tile::with_scratch(|scratch| {
        // SAFETY: the rows are whole and as long as the activations, as the caller promises.
        unsafe { task(tile::Rows { first: weights.as_ptr(), row_bytes, n_rows }, acts, scratch) };
        for t in 0..acts.n_rows() {
            // SAFETY: as the caller promises.
            let out = unsafe { out.slice(t, column, n_rows) };
            for (panel, out) in out.chunks_mut(PANEL_ROWS).enumerate() {
                let results = scratch.results(panel, t, acts.n_rows());
                match <&mut [f32; PANEL_ROWS]>::try_from(&mut *out) {
                    // Of a length that the compiler knows, so that it needs no call.
                    Ok(out) => *out = *results,
                    Err(_) => out.copy_from_slice(&results[..out.len()]),
                }
            }
        }
    });
}

/// # Safety
/// No other thread uses the columns that are written, and `acts` has as many blocks as a row.
unsafe fn tiles(
    dot: Dot,
    weights: &[u8],
    row_bytes: usize,
    acts: &Activations,
    out: &DisjointRows<'_>,
    column: usize,
) {
    for (i, tile) in weights.chunks(row_bytes * TILE_ROWS).enumerate() {
        let n_rows = tile.len() / row_bytes;
        let rows = std::array::from_fn(|r| tile[r.min(n_rows - 1) * row_bytes..].as_ptr());
        let mut t = 0;
        while t < acts.n_rows() {
            let (row_32, row_256) = (|j| acts.row_32(t + j), |j| acts.row_256(t + j));
            let mut store = |j: usize, results: &[f32; TILE_ROWS]| {
                // SAFETY: as the caller promises.
                let out = unsafe { out.slice(t + j, column + i * TILE_ROWS, n_rows) };
                out.copy_from_slice(&results[..n_rows]);
            };
            // SAFETY: each pointer starts a whole row, which has a block for each block of activations.
            t += unsafe {
                match (dot, acts.n_rows() - t) {
                    (Dot::Block32(_, _, f), WIDE..) => tile_of(f, &rows, row_32, &mut store),
                    (Dot::Block32(_, f, _), 2..) => tile_of(f, &rows, row_32, &mut store),
                    (Dot::Block32(f, ..), _) => tile_of(f, &rows, row_32, &mut store),
                    (Dot::Block256(_, _, f), WIDE..) => tile_of(f, &rows, row_256, &mut store),
                    (Dot::Block256(_, f, _), 2..) => tile_of(f, &rows, row_256, &mut store),
                    (Dot::Block256(f, ..), _) => tile_of(f, &rows, row_256, &mut store),
                }
            };
        }
    }
}

/// Stores the results of a tile with the first `N` of some rows of activations, and returns `N`.
///
/// # Safety
/// As `dot`, a [`Dot32`](super::dot::Dot32) or a [`Dot256`](super::dot::Dot256).
unsafe fn tile_of<R, const N: usize>(
    dot: unsafe fn(&TileRows, [R; N], &mut TileOut<N>),
    rows: &TileRows,
    row: impl Fn(usize) -> R,
    store: &mut impl FnMut(usize, &[f32; TILE_ROWS]),
) -> usize {
    let mut results = [[0.0; TILE_ROWS]; N];
    // SAFETY: as the caller promises.
    unsafe { dot(rows, std::array::from_fn(row), &mut results) };
    results.iter().enumerate().for_each(|(j, results)| store(j, results));
    N
}

thread_local! {
    /// Decoded weight rows.
    static DECODED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Weights that are decoded at once where they are more than a tile of rows: they stay in the second-level cache
/// while all activations pass over them.
const DECODED_LEN: usize = 1 << 16;

/// The path of weights that are no blocks, and of all weights at float precision: each row is decoded once for all
/// activations.
///
/// # Safety
/// No other thread uses the columns that are written.
unsafe fn decoded(
    ty: TensorType,
    weights: &[u8],
    row_bytes: usize,
    acts: &Activations,
    out: &DisjointRows<'_>,
    column: usize,
    ops: &Ops,
) {
    let (k, n) = (acts.row_len(), acts.n_rows());
    let at_once = match n {
        ..FLOAT_ACTS => 1,
        _ => (DECODED_LEN / k).next_multiple_of(FLOAT_ROWS).max(FLOAT_ROWS),
    };
    DECODED.with_borrow_mut(|rows| {
        for (i, blocks) in weights.chunks(row_bytes * at_once).enumerate() {
            rows.resize(blocks.len() / row_bytes * k, 0.0);
            to_floats(ty, blocks, rows, ops);
            let column = column + i * at_once;
            let store = |t: usize, row: usize, results: &[f32]| {
                // SAFETY: as the caller promises.
                let out = unsafe { out.slice(t, column + row, results.len()) };
                out.copy_from_slice(results);
            };
            let mut t = 0;
            while t + FLOAT_ACTS <= n {
                let acts = std::array::from_fn(|j| acts.row(t + j));
                for (tile, rows) in rows.chunks(FLOAT_ROWS * k).enumerate() {
                    let n_rows = rows.len() / k;
                    // The last row stands in for those that are missing.
                    let rows = std::array::from_fn(|r| &rows[r.min(n_rows - 1) * k..][..k]);
                    for (j, results) in ops.dot_tile(rows, acts).iter().enumerate() {
                        store(t + j, tile * FLOAT_ROWS, &results[..n_rows]);
                    }
                }
                t += FLOAT_ACTS;
            }
            for (r, row) in rows.chunks(k).enumerate() {
                let mut t = t;
                while t + WIDE <= n {
                    let results = ops.dot_4(row, std::array::from_fn(|j| acts.row(t + j)));
                    results.iter().enumerate().for_each(|(j, result)| store(t + j, r, &[*result]));
                    t += WIDE;
                }
                (t..n).for_each(|t| store(t, r, &[ops.dot(row, acts.row(t))]));
            }
        }
    });
}

/// Decodes blocks of `ty` into floats.
///
/// # Panics
/// When `blocks` is not as long as `out` asks for: rows are cut by sizes that were checked when bound.
pub(crate) fn to_floats(ty: TensorType, blocks: &[u8], out: &mut [f32], ops: &Ops) {
    if ty == TensorType::F16 {
        let (pairs, rest) = blocks.as_chunks::<2>();
        assert!(rest.is_empty() && pairs.len() == out.len());
        let mut bits = [0; 256];
        for (pairs, out) in pairs.chunks(bits.len()).zip(out.chunks_mut(bits.len())) {
            for (bits, pair) in bits.iter_mut().zip(pairs) {
                *bits = u16::from_le_bytes(*pair);
            }
            ops.widen_f16(&bits[..pairs.len()], out);
        }
        return;
    }
    if let Err(error) = rawrz_gguf::decode_row(ty, blocks, out) {
        unreachable!("a row that was checked when it was bound does not decode: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn random_bytes(n: usize, mut state: u64) -> Vec<u8> {
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Bytes below 0x3C keep the high byte of every f16 and bf16 small and finite.
                ((state >> 40) % 0x3C) as u8
            })
            .collect()
    }

    fn run(ty: TensorType, k: usize, n_rows: usize, width: usize, threads: usize, isa: Isa) -> Vec<Vec<u32>> {
        let row_bytes = k / ty.block_len() * ty.block_bytes();
        let weights = random_bytes(n_rows * row_bytes, 3);
        let x: Vec<f32> = (0..k * 64).map(|i| ((i * 37 % 1001) as f32 / 500.0) - 1.0).collect();
        let (ops, pool) = (Ops::new(isa), Pool::new(threads));
        let mut rows = Vec::new();
        for batch in x.chunks(k * width) {
            let m = batch.len() / k;
            let mut acts = Activations::default();
            acts.load(batch, m, &pool);
            acts.prepare(activation_kind(ty, &ops, Precision::Quantized), &ops, &pool);
            let mut out = vec![f32::NAN; m * (n_rows + 3)];
            let matrix = DisjointRows::new(&mut out, n_rows + 3);
            let weight_rows = WeightRows { ty, bytes: &weights, row_bytes };
            let product = Product { rows: weight_rows, acts: &acts, out: &matrix, column: 2 };
            matmul(&[product], &ops, &pool);
            for row in out.chunks(n_rows + 3) {
                assert!(row[0].is_nan() && row[1].is_nan() && row[n_rows + 2].is_nan());
                rows.push(row[2..n_rows + 2].iter().map(|v| v.to_bits()).collect());
            }
        }
        rows
    }

    #[test]
    fn widths_threads_and_instruction_sets_give_the_same_bits() {
        use TensorType::*;
        let blocks = TensorType::ALL.iter().copied().filter(|ty| ty.block_len() > 1);
        for ty in [F32, F16, BF16].into_iter().chain(blocks) {
            for (k, n_rows) in [(256, 1), (512, 13), (768, 100)] {
                let expected = run(ty, k, n_rows, 1, 1, Isa::Scalar);
                assert!(expected.iter().flatten().all(|b| f32::from_bits(*b).is_finite()), "{ty:?}");
                for isa in Isa::available() {
                    for (width, threads) in [(1, 2), (2, 1), (7, 3), (64, 4)] {
                        let got = run(ty, k, n_rows, width, threads, isa);
                        assert!(
                            got == expected,
                            "{ty:?} {k}x{n_rows}, width {width}, {threads} threads, {isa}"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

        /// Placement and company change speed, never a bit: any type, any batch width to 64, any number of threads to 4,
        /// any instruction set, any size and tail.
        #[test]
        fn any_width_threads_and_instruction_set_give_the_same_bits(
            ty in select(TensorType::ALL.to_vec()),
            isa in select(Isa::available()),
            k_blocks in 1usize..4,
            n_rows in 1usize..80,
            width in 1usize..=64,
            threads in 1usize..=4,
        ) {
            let k = 256 * k_blocks;
            // Integers and F64 are not types of weights that are multiplied; bit patterns of theirs may overflow f32.
            prop_assume!(ty.block_len() > 1 || matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::BF16));
            let expected = run(ty, k, n_rows, 1, 1, Isa::Scalar);
            prop_assert!(run(ty, k, n_rows, width, threads, isa) == expected);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (ops, pool) = (Ops::new(Isa::Scalar), Pool::new(1));
        let mut acts = Activations::default();
        acts.load(&[0.0; 64], 1, &pool);
        acts.prepare(ActivationKind::Block32, &ops, &pool);
        for (len, row_bytes) in [(34, 34), (68 + 1, 68), (102, 102)] {
            let weights = vec![0; len];
            let mut out = [0.0; 8];
            let matrix = DisjointRows::new(&mut out, 8);
            let rows = WeightRows { ty: TensorType::Q8_0, bytes: &weights, row_bytes };
            let call = || matmul(&[Product { rows, acts: &acts, out: &matrix, column: 0 }], &ops, &pool);
            assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        }
    }
}
