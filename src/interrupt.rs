//! Ctrl-C: the first asks the work to stop, the second ends the program.

use crate::exit::INTERRUPTED;
use anyhow::Context;
use rawrz_engine::Cancel;
use std::sync::atomic::{AtomicBool, Ordering};

/// Gives a [`Cancel`] that Ctrl-C, SIGTERM or a closed terminal sets. To be called once.
pub(crate) fn cancel_on_signal() -> anyhow::Result<Cancel> {
    let cancel = Cancel::default();
    let asked = AtomicBool::new(false);
    let handle = cancel.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        handle.cancel();
    })
    .context("cannot watch for Ctrl-C")?;
    Ok(cancel)
}
