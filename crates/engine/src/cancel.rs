//! A request to stop, shared between whoever asks and whoever works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Clones share one state. Work stops at the next batch or token after [`Cancel::cancel`].
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop. May be called from any thread, and more than once.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
