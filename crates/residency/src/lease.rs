//! A lease: bytes that stay good until it is released, or that say why they did not.

use crate::source::ReadError;
use crate::streamed::Owned;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the bytes behind leases can still be trusted.
///
/// A signal handler may set the flag, so it is a lone atomic; once set it stays set.
#[derive(Debug)]
pub struct Health {
    failed: AtomicBool,
    path: PathBuf,
}

impl Health {
    /// A healthy state for bytes that come from `path`.
    pub fn new(path: PathBuf) -> Health {
        Health { failed: AtomicBool::new(false), path }
    }

    /// Marks the bytes as bad for good.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// An error when the bytes went bad.
    pub fn check(&self) -> Result<(), ReadError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(ReadError::Faulted { path: self.path.clone() });
        }
        Ok(())
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.failed
    }
}

#[derive(Debug)]
enum Held<'a> {
    /// The page cache itself.
    Mapped(&'a [u8], &'a Health),
    /// A range that straddles two raw byte parts, put together for this lease alone.
    Joined(Box<[u8]>, &'a Health),
    /// Memory of a streamed source.
    Owned(Owned<'a>),
}

/// Bytes of an extent, lent by a [`Source`](crate::Source). Dereferences to `[u8]`.
///
/// The bytes are those of the file unless [`Lease::release`] says otherwise, so results computed from a lease
/// count only after it was released without an error. No alignment is promised.
#[derive(Debug)]
#[must_use = "a lease must be released: only then is it known that its bytes were good"]
pub struct Lease<'a> {
    held: Held<'a>,
    injected: Option<ReadError>,
}

impl<'a> Lease<'a> {
    pub(crate) fn mapped(bytes: &'a [u8], health: &'a Health) -> Lease<'a> {
        Lease { held: Held::Mapped(bytes, health), injected: None }
    }

    pub(crate) fn joined(bytes: Box<[u8]>, health: &'a Health) -> Lease<'a> {
        Lease { held: Held::Joined(bytes, health), injected: None }
    }

    pub(crate) fn owned(owned: Owned<'a>) -> Lease<'a> {
        Lease { held: Held::Owned(owned), injected: None }
    }

    /// Makes the release report `error`, as when the bytes went bad while they were held.
    pub(crate) fn poisoned(mut self, error: ReadError) -> Lease<'a> {
        self.injected = Some(error);
        self
    }

    /// Gives the bytes back and says whether they stayed good while they were held.
    pub fn release(self) -> Result<(), ReadError> {
        match self.injected {
            Some(error) => Err(error),
            None => match self.held {
                Held::Mapped(_, health) | Held::Joined(_, health) => health.check(),
                // Read before it was lent, and ours since.
                Held::Owned(_) => Ok(()),
            },
        }
    }
}

impl Deref for Lease<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.held {
            Held::Mapped(bytes, _) => bytes,
            Held::Joined(bytes, _) => bytes,
            Held::Owned(owned) => owned.bytes(),
        }
    }
}
