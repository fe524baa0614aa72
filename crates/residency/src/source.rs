//! The source trait: who hands out leases, and what a pass tells it beforehand.

use crate::extent::Extent;
use crate::lease::Lease;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why weight bytes could not be had, or can no longer be trusted.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The operating system reported an error.
    #[error("reading {path} at byte {offset}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Where in the logical file.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Fewer bytes came than the file promised when it was opened.
    #[error("reading {path} at byte {offset}: {got} of {wanted} bytes came; the file is shorter than when it was opened", path = path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Where in the logical file.
        offset: u64,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The file was changed, truncated or replaced since it was opened.
    #[error("{path} changed since it was opened ({what}); open the model again", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs, for people.
        what: String,
    },
    /// A mapped page could not be read: the file was truncated under the map, or its device failed.
    #[error("{path} could not be read while it was in use: it was truncated or its device failed; open the model again", path = path.display())]
    Faulted {
        /// The file.
        path: PathBuf,
    },
    /// The extent does not lie inside the files of this source.
    #[error("bytes {offset}+{len} are outside logical file {file}")]
    OutOfRange {
        /// Index of the logical file.
        file: u32,
        /// Start of the extent.
        offset: u64,
        /// Length of the extent.
        len: u64,
    },
}

/// The ranges a forward pass reads, in the order in which it reads them.
///
/// Rows of the embedding table are not in it: which ones are read depends on the tokens.
#[derive(Clone, Debug, Default)]
pub struct PassPlan {
    /// In reading order.
    pub extents: Vec<Extent>,
}

/// Hands out leases on byte ranges of a fixed list of files.
///
/// One pass at a time: callers bracket the leases of a pass with [`Source::begin_pass`] and
/// [`Source::end_pass`] and use what they computed only if both succeeded. Leases may be read from many threads.
pub trait Source: Send + Sync {
    /// Starts a pass over `plan`; fails when a file is not the one that was opened.
    fn begin_pass(&self, plan: &PassPlan) -> Result<(), ReadError>;

    /// How many bytes from the start of `extent` one lease can cover, a multiple of `unit` (a row) and at
    /// least one unit. `unit` divides `extent.len` and is not 0.
    fn lease_len(&self, extent: Extent, unit: u64) -> u64;

    /// The bytes of `extent`.
    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError>;

    /// Ends a pass; an error means that something read since `begin_pass` may have been wrong.
    fn end_pass(&self) -> Result<(), ReadError>;
}

impl<S: Source + ?Sized> Source for std::sync::Arc<S> {
    fn begin_pass(&self, plan: &PassPlan) -> Result<(), ReadError> {
        (**self).begin_pass(plan)
    }

    fn lease_len(&self, extent: Extent, unit: u64) -> u64 {
        (**self).lease_len(extent, unit)
    }

    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError> {
        (**self).lease(extent)
    }

    fn end_pass(&self) -> Result<(), ReadError> {
        (**self).end_pass()
    }
}
