//! Many rows of activations: panels of weights are unpacked once into cache-sized scratch, in an order that puts
//! one weight row into each lane, and multiplied by all activations.
//!
//! ```text
//!   quants  [k / 4][weight row][4]      one step of a dot: four products in each row's lane
//! ```
//!
//! (with i8mm eight, two rows of which are an operand). No sum crosses lanes. Results have the bits of the dots in [`super::dot`], by the definition in [`super`].

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod frame512;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::activations::Activations;
use super::format::Format256;
use super::isa::Isa;
use rawrz_gguf::TensorType;
use std::cell::RefCell;

/// Weight rows in a panel.
pub(super) const PANEL_ROWS: usize = 16;

/// Weights of each row in a panel: a super-block, or eight blocks of 32.
const PANEL_LEN: usize = 256;

/// The most panels of rows that one task works on, so that the activations are read once for all of them.
pub(super) const MAX_PANELS: usize = 4;

/// Rows of activations that the products are padded to; see [`Activations`].
const TOKENS: usize = 16;

/// Whole weight rows, one after the other: at least one, at most `MAX_PANELS * PANEL_ROWS`.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) first: *const u8,
    pub(super) row_bytes: usize,
    pub(super) n_rows: usize,
}

impl Rows {
    /// The starts of the rows of panel `panel`; the last row stands in for those that are missing.
    fn of_panel(&self, panel: usize) -> [*const u8; PANEL_ROWS] {
        std::array::from_fn(|r| {
            let row = (panel * PANEL_ROWS + r).min(self.n_rows - 1);
            self.first.wrapping_add(row * self.row_bytes)
        })
    }

    fn n_panels(&self) -> usize {
        self.n_rows.div_ceil(PANEL_ROWS)
    }
}

/// A kernel: the products of the rows with all activations go to [`Scratch::results`].
///
/// # Safety
/// The rows are as long as the activations, which were prepared for the type, and the machine has the kernel's
/// instruction set.
pub(super) type Task = unsafe fn(Rows, &Activations, &mut Scratch);

/// [`PANEL_LEN`] weights of each row of a panel, unpacked.
#[repr(C, align(64))]
struct Panel {
    /// `[k / 4][row][4]`, or `[k / 8][row][8]` with i8mm; a second plane of the same form is for kernels that split weights into two bytes.
    quants: [[u8; PANEL_LEN * PANEL_ROWS]; 2],
    /// Of super-blocks: integer scales of each 16 weights, twice for the two halves of a lane, `[group][row][2]`. The
    /// order of groups is the kernel's.
    scales: [[[i16; 2]; PANEL_ROWS]; 16],
    /// Of super-blocks: minimums of two groups of 16, `[pair][row][2]`, or in their place what the offset of the quants
    /// adds to each activation.
    minimums: [[[i16; 2]; PANEL_ROWS]; 8],
    /// Float scales: of the super-block in `[0]`, or of each unit of 32.
    unit_scales: [[f32; PANEL_ROWS]; 8],
    /// Float scales of the minimums of the super-block in `[0]`, or the minimums of each unit of 32.
    unit_minimums: [[f32; PANEL_ROWS]; 8],
    /// The quants of each row as they were unpacked.
    rows: [[u8; PANEL_LEN]; PANEL_ROWS],
}

/// Pairs of minimums of a super-block: of each 32 weights where those share theirs, else of each 16.
const fn n_pairs<F: Format256>() -> usize {
    if F::GROUP < 32 { 8 } else { 4 }
}

/// What a task works in; each thread keeps one.
pub(super) struct Scratch {
    panels: Box<[Panel; MAX_PANELS]>,
    /// `[panel][activation row][weight row]`
    results: Vec<[f32; PANEL_ROWS]>,
}

impl Scratch {
    fn new() -> Scratch {
        const EMPTY: Panel = Panel {
            quants: [[0; PANEL_LEN * PANEL_ROWS]; 2],
            scales: [[[0; 2]; PANEL_ROWS]; 16],
            minimums: [[[0; 2]; PANEL_ROWS]; 8],
            unit_scales: [[0.0; PANEL_ROWS]; 8],
            unit_minimums: [[0.0; PANEL_ROWS]; 8],
            rows: [[0; PANEL_LEN]; PANEL_ROWS],
        };
        Scratch { panels: Box::new([EMPTY; MAX_PANELS]), results: Vec::new() }
    }

    /// Zeros, one row of them for each row of activations (and of padding) and each panel.
    fn clear(&mut self, n_panels: usize, n_rows: usize) {
        self.results.clear();
        self.results.resize(n_panels * n_rows.next_multiple_of(TOKENS), [0.0; PANEL_ROWS]);
    }

    /// Results of panel `panel` with activation row `t`, in weight rows.
    pub(super) fn results(&self, panel: usize, t: usize, n_rows: usize) -> &[f32; PANEL_ROWS] {
        &self.results[panel * n_rows.next_multiple_of(TOKENS) + t]
    }
}

/// Bytes of one thread's scratch for `n_rows` rows of activations.
pub(super) fn scratch_bytes(n_rows: usize) -> u64 {
    let results = MAX_PANELS * n_rows.next_multiple_of(TOKENS) * PANEL_ROWS * size_of::<f32>();
    (size_of::<[Panel; MAX_PANELS]>() + results) as u64
}

/// Calls `work` with the scratch of this thread.
pub(super) fn with_scratch(work: impl FnOnce(&mut Scratch)) {
    thread_local! {
        static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
    }
    SCRATCH.with_borrow_mut(|scratch| work(scratch.get_or_insert_with(Scratch::new)));
}

/// The kernel of `ty` on `isa`, where there is one.
pub(super) fn task_of(ty: TensorType, isa: Isa) -> Option<Task> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => avx2::task_of(ty, isa),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni => avx512::task_of(ty, isa),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::task_of(ty),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::I8mm => neon::task_of(ty, isa),
        Isa::Scalar => None,
    }
}

/// Whether the kernels of super-blocks on `isa` take activations block by block: as many rows lie too far apart for
/// caches, which keep few addresses that are a power of two apart.
pub(super) fn takes_blocks(isa: Isa) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Vnni | Isa::Amx => true,
        _ => false,
    }
}

/// Rows of activations from which on panels are faster than the dots; measured with the bench `kernels`.
pub(super) const LEAST_ROWS: usize = 12;
