//! A progress bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// How far some work has come. Cleared when dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Counts bytes, from `at` of `total`. indicatif draws on standard error, only if that is a terminal.
    pub(crate) fn bytes(what: &str, total: Option<u64>, at: u64) -> Progress {
        let bar = match total {
            Some(total) => ProgressBar::new(total).with_style(style(
                "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            )),
            None => {
                ProgressBar::no_length().with_style(style("{msg} {binary_bytes}, {binary_bytes_per_sec}"))
            }
        };
        bar.set_message(what.to_owned());
        bar.set_position(at);
        // Counts the speed from here, not from the bytes of an earlier run.
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(bar)
    }

    /// Counts steps of work.
    pub(crate) fn steps(what: &str, total: u64) -> Progress {
        let bar = ProgressBar::new(total).with_style(style("{msg} {wide_bar} {pos} of {len}, {eta} left"));
        bar.set_message(what.to_owned());
        Progress(bar)
    }

    pub(crate) fn at(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are the two above; should one be wrong, a plain bar serves as well.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
