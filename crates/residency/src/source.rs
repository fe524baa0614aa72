//! The source trait: who hands out leases, and what a pass tells it beforehand.

use crate::blocks::padded_len;
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

/// A range that every pass reads whole, in rows that must not be torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Where it lies.
    pub extent: Extent,
    /// Bytes of a row; divides `extent.len` and is not 0.
    pub unit: u64,
    /// The stage of the pass that reads it (a layer), counted from 0; never falls from one range to the next.
    pub stage: u32,
}

/// A choice that a pass makes as it goes: some of these alternatives are read (the experts of a layer), which
/// ones is known only then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The stage that makes it.
    pub stage: u32,
    /// The ranges of each alternative, read together.
    pub alternatives: Vec<Vec<Extent>>,
    /// How many alternatives one token takes.
    pub n_picked: usize,
}

impl Choice {
    /// Bytes of the largest alternative.
    pub fn alternative_bytes(&self) -> u64 {
        self.alternatives.iter().map(|a| a.iter().map(|e| e.len).sum()).max().unwrap_or(0)
    }

    /// Memory that the largest alternative takes in a cache, in bytes.
    pub fn alternative_memory_bytes(&self) -> u64 {
        let bytes = |ranges: &Vec<Extent>| ranges.iter().map(|extent| padded_len(extent.len)).sum();
        self.alternatives.iter().map(bytes).max().unwrap_or(0)
    }

    /// Memory that what one token picks takes in a cache, in bytes.
    pub fn picked_memory_bytes(&self) -> u64 {
        self.alternative_memory_bytes() * self.n_picked as u64
    }
}

/// What a forward pass reads, in the order in which it reads it.
///
/// Rows of the embedding table are not in it: which ones are read depends on the tokens.
#[derive(Clone, Debug, Default)]
pub struct PassPlan {
    /// What every pass reads, in reading order.
    pub reads: Vec<Planned>,
    /// What passes choose from, in the order of stages.
    pub choices: Vec<Choice>,
}

impl PassPlan {
    /// Bytes of weights that a pass of one token touches: all reads, and what is picked of each choice.
    pub fn bytes_per_token(&self) -> u64 {
        self.read_bytes() + self.picked_bytes()
    }

    /// Bytes of all reads.
    pub fn read_bytes(&self) -> u64 {
        self.reads.iter().map(|read| read.extent.len).sum()
    }

    /// Bytes that one token picks of all choices.
    pub fn picked_bytes(&self) -> u64 {
        self.choices.iter().map(|c| c.alternative_bytes() * c.n_picked as u64).sum()
    }

    /// The least memory of a cache of alternatives, in bytes: what one token picks of one choice is read together.
    pub fn least_cache_bytes(&self) -> u64 {
        self.choices.iter().map(Choice::picked_memory_bytes).max().unwrap_or(0)
    }

    /// How many stages there are.
    pub fn n_stages(&self) -> u32 {
        self.reads.last().map_or(0, |read| read.stage + 1)
    }
}

/// One alternative of a [`Choice`] in memory: which of those asked for, and its ranges in their order.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Index into what was asked for.
    pub index: usize,
    /// One for each range.
    pub leases: Vec<Lease<'a>>,
}

/// Hands out leases on byte ranges of a fixed list of files.
///
/// One pass at a time: callers bracket the leases of a pass with [`Source::begin_pass`] and
/// [`Source::end_pass`] and use what they computed only if both succeeded. Leases may be read from many threads.
pub trait Source: Send + Sync {
    /// Starts a pass over `reads`, the plan's or the first of them; fails when a file is not the one that was
    /// opened.
    fn begin_pass(&self, reads: &[Planned]) -> Result<(), ReadError>;

    /// How many bytes from the start of `extent` one lease can cover, a multiple of `unit` (a row) and at
    /// least one unit. `unit` divides `extent.len` and is not 0.
    fn lease_len(&self, extent: Extent, unit: u64) -> u64;

    /// The most bytes of planned ranges that may be held at the same time, beside one lease of any length.
    fn max_held_bytes(&self) -> u64;

    /// The bytes of `extent`, of a length that [`Source::lease_len`] gave, in the order of the plan.
    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError>;

    /// Copies ranges outside the plan, of the same length each, one after the other into `out`.
    fn copy(&self, extents: &[Extent], out: &mut Vec<u8>) -> Result<(), ReadError> {
        out.clear();
        for extent in extents {
            let lease = self.lease(*extent)?;
            out.extend_from_slice(&lease);
            lease.release()?;
        }
        Ok(())
    }

    /// Starts to read alternatives that the pass will take: the first so many of `wanted`, at least one, as the
    /// answer says. Each of these must then be taken by [`Source::take_any`] before more are asked for.
    fn request(&self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        Ok(wanted.len())
    }

    /// Waits until one of `wanted`, which were requested and not taken yet, is in memory.
    ///
    /// # Panics
    /// When `wanted` is empty.
    fn take_any(&self, wanted: &[&[Extent]]) -> Result<Arrived<'_>, ReadError> {
        let leases = wanted[0].iter().map(|extent| self.lease(*extent)).collect::<Result<_, _>>()?;
        Ok(Arrived { index: 0, leases })
    }

    /// As [`Source::take_any`] when one is in memory already, else `None`: what is there can be used together.
    fn take_ready(&self, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        let _ = wanted;
        Ok(None)
    }

    /// Ends a pass; an error means that something read since `begin_pass` may have been wrong.
    fn end_pass(&self) -> Result<(), ReadError>;
}

impl<S: Source + ?Sized> Source for std::sync::Arc<S> {
    fn begin_pass(&self, reads: &[Planned]) -> Result<(), ReadError> {
        (**self).begin_pass(reads)
    }

    fn lease_len(&self, extent: Extent, unit: u64) -> u64 {
        (**self).lease_len(extent, unit)
    }

    fn max_held_bytes(&self) -> u64 {
        (**self).max_held_bytes()
    }

    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError> {
        (**self).lease(extent)
    }

    fn copy(&self, extents: &[Extent], out: &mut Vec<u8>) -> Result<(), ReadError> {
        (**self).copy(extents, out)
    }

    fn request(&self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        (**self).request(wanted)
    }

    fn take_any(&self, wanted: &[&[Extent]]) -> Result<Arrived<'_>, ReadError> {
        (**self).take_any(wanted)
    }

    fn take_ready(&self, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        (**self).take_ready(wanted)
    }

    fn end_pass(&self) -> Result<(), ReadError> {
        (**self).end_pass()
    }
}
