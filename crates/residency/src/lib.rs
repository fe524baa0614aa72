//! Where weight bytes live.
//!
//! This crate knows byte ranges ([`Extent`]) of files, not tensors. A [`Lease`] is the only way to reach
//! weight bytes, and a [`Source`] is what hands leases out:
//!
//! - [`MappedSource`] maps the files read-only and lends the page cache itself: nothing is copied.
//! - [`FaultySource`] wraps another source and fails on demand; the tests of every layer above use it.
//!
//! A forward pass announces what it will read, in order, as a [`PassPlan`], so that reading ahead is the
//! source's business and never leaks into the code that computes.
//!
//! [`Spill`] puts pages that a computation makes (and not the model's file) away in a scratch file, and reads them back
//! ahead of their use.
//!
//! [`MappedSource::scan`] reads a file once, in order, for checksums; [`MappedSource::hold`] keeps files in memory.
//!
//! [`budget`] holds the memory ledger: what a run will use is added up and checked before it is allocated.
//!
//! # Invariants
//! - Files of models are opened for reading only and never copied.
//! - A failed or short read is an error of the pass that met it, never wrong bytes: [`Lease::release`] and
//!   [`Source::end_pass`] report faults that happened while the bytes were in use (a file truncated under a
//!   live map, a device that went away), and a source whose file changed refuses every later pass.
#![deny(unsafe_code)]

mod ahead;
mod blocks;
pub mod budget;
mod buffer;
mod extent;
mod faulty;
mod file;
mod hold;
mod lease;
#[allow(unsafe_code)]
mod mapped;
#[allow(unsafe_code)]
pub mod os;
mod readers;
mod scan;
mod source;
mod spill;
mod streamed;

pub use blocks::{ALIGNMENT, N_READERS};
pub use buffer::Buffer;
pub use extent::Extent;
pub use faulty::{Fault, FaultySource};
pub use file::{FileIdentity, OpenError, PartedFile};
pub use hold::Held;
pub use lease::{Health, Lease};
pub use mapped::{MappedBytes, MappedSource};
pub use scan::ScanError;
pub use source::{Arrived, Choice, PassPlan, Planned, ReadError, Source};
pub use spill::{FaultyStorage, ScratchFile, Spill, SpillError, SpillFault, SpilledPage, Storage};
pub use streamed::{
    ChoiceStats, Eviction, EvictionOrder, Placement, StagePlacement, StreamStats, StreamedOptions,
    StreamedSource,
};
