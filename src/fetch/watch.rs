//! Whoever follows a fetch beside the terminal: hears how far it is, and may end it.

use crate::exit::Interrupted;
use rawrz_engine::Cancel;
use std::time::Duration;

/// How often a fetch that waits looks whether it is still wanted.
const PERIOD: Duration = Duration::from_millis(100);

/// What a fetch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Bytes come.
    Fetching,
    /// The bytes that are there are read.
    Checking,
    /// Another process fetches the same.
    Waiting,
}

/// Follows a fetch; by default nobody does.
#[derive(Default)]
pub(crate) struct Watch<'a> {
    /// Ends the fetch; what came so far stays.
    pub(crate) cancel: Cancel,
    /// Told what is done, and how many bytes of the file are behind.
    pub(crate) tell: Option<&'a dyn Fn(Doing, u64)>,
}

impl Watch<'_> {
    /// # Errors
    /// When the fetch was ended.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        if self.cancel.is_cancelled() { Err(Interrupted) } else { Ok(()) }
    }

    /// So many bytes of the file are behind.
    pub(super) fn at(&self, doing: Doing, done_bytes: u64) -> Result<(), Interrupted> {
        if let Some(tell) = self.tell {
            tell(doing, done_bytes);
        }
        self.check()
    }

    /// Waits.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Interrupted> {
        let mut left = time;
        while !left.is_zero() {
            self.check()?;
            let step = left.min(PERIOD);
            std::thread::sleep(step);
            left -= step;
        }
        self.check()
    }
}
