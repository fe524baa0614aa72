//! A progress bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use rawrz_engine::{Cancel, Engine};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// Work on so many bytes that can be stopped: its bar appears when the first are behind, from there on.
pub(crate) struct Watched<'a> {
    doing: &'a str,
    cancel: &'a Cancel,
    bar: Option<Progress>,
}

impl<'a> Watched<'a> {
    pub(crate) fn new(doing: &'a str, cancel: &'a Cancel) -> Watched<'a> {
        Watched { doing, cancel, bar: None }
    }

    /// So many bytes of all are behind; says whether to go on.
    pub(crate) fn at(&mut self, done: u64, total: u64) -> ControlFlow<()> {
        self.bar.get_or_insert_with(|| Progress::bytes(self.doing, Some(total), done)).at(done);
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Shows how far a pass over streamed weights has come, on a terminal; nothing elsewhere, or when weights are mapped.
/// Cleared when dropped.
pub(crate) struct Passes {
    stop: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Passes {
    pub(crate) fn watch(engine: &Arc<Engine>) -> Passes {
        let stop = Arc::new(AtomicBool::new(false));
        let is_shown = engine.is_streamed() && std::io::stderr().is_terminal();
        let watcher = is_shown.then(|| {
            let (engine, stop) = (Arc::clone(engine), Arc::clone(&stop));
            std::thread::spawn(move || show_passes(&engine, &stop))
        });
        Passes { stop, watcher }
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            let _ = watcher.join();
        }
    }
}

const WATCH_PERIOD: Duration = Duration::from_millis(250);

fn show_passes(engine: &Engine, stop: &AtomicBool) {
    let n_stages = engine.config().n_layers as u64 + 1;
    let bar = ProgressBar::new(n_stages).with_style(style("layer {pos} of {len} {wide_bar} {msg}"));
    let (mut before, mut at) = (engine.stream_stats().unwrap_or_default(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(WATCH_PERIOD);
        let stats = engine.stream_stats().unwrap_or_default();
        let rate = stats.since(&before).bytes_read as f64 / at.elapsed().as_secs_f64();
        bar.set_position(u64::from(stats.stage) + 1);
        bar.set_message(format!("{:.0} MB/s", rate / 1e6));
        (before, at) = (stats, Instant::now());
    }
    bar.finish_and_clear();
}

fn style(template: &str) -> ProgressStyle {
    // The templates are those above; should one be wrong, a plain bar serves as well.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
