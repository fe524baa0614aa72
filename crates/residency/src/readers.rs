//! Reader threads: they take jobs from what lies behind one lock, do them without it, and wake those who wait for what
//! they bring.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What readers work on, behind the lock of a [`Desk`].
pub(crate) trait Jobs {
    type Job;
    type Error;

    /// What a reader should do next; nothing when all that is wanted is under way, or there is no memory for it.
    fn next_job(&mut self) -> Option<Self::Job>;

    /// Whether [`Jobs::next_job`] gave something up that somebody may wait for, since the last call.
    fn take_given_up(&mut self) -> bool {
        false
    }

    /// Takes in what a reader has done: where in its memory the bytes start, or why there are none. Whether somebody may
    /// wait for it: waking a computation that waits for something else costs it and the readers time.
    fn complete(&mut self, job: Self::Job, result: Result<usize, Self::Error>) -> bool;
}

/// Where readers get their jobs.
pub(crate) struct Desk<J> {
    jobs: Mutex<J>,
    /// Set with the lock held.
    stop: AtomicBool,
    /// Readers wait here for something to do.
    work: Condvar,
    /// Others wait here for what readers bring.
    arrived: Condvar,
}

impl<J: Jobs> Desk<J> {
    pub(crate) fn new(jobs: J) -> Desk<J> {
        let (work, arrived) = (Condvar::new(), Condvar::new());
        Desk { jobs: Mutex::new(jobs), stop: AtomicBool::new(false), work, arrived }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, J> {
        // Every change of the jobs is whole before something can panic.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be something to do for one reader.
    pub(crate) fn call_one(&self) {
        self.work.notify_one();
    }

    /// There may be something to do for all readers.
    pub(crate) fn call_all(&self) {
        self.work.notify_all();
    }

    /// Waits for a reader to bring something.
    pub(crate) fn wait<'a>(&self, jobs: MutexGuard<'a, J>) -> MutexGuard<'a, J> {
        self.work.notify_all();
        self.arrived.wait(jobs).unwrap_or_else(PoisonError::into_inner)
    }

    /// What a reader does until it is told to stop: job after job, each by `read`; where that panics, `panicked` makes
    /// an error of it.
    pub(crate) fn serve(
        &self,
        read: impl Fn(&mut J::Job) -> Result<usize, J::Error>,
        panicked: impl Fn(&J::Job, io::Error) -> J::Error,
    ) {
        let mut jobs = self.lock();
        while !self.stop.load(Ordering::Relaxed) {
            let job = jobs.next_job();
            if jobs.take_given_up() {
                self.arrived.notify_all();
            }
            let Some(mut job) = job else {
                jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(jobs);
            // A reader that died without a word would leave others waiting for good.
            let result = catch_unwind(AssertUnwindSafe(|| read(&mut job)))
                .unwrap_or_else(|_| Err(panicked(&job, io::Error::other("the reader panicked"))));
            jobs = self.lock();
            if jobs.complete(job, result) {
                self.arrived.notify_all();
            }
        }
    }

    /// Readers end after the job that they are at.
    pub(crate) fn stop(&self) {
        let jobs = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        drop(jobs);
        self.work.notify_all();
    }
}

/// The threads of a [`Desk`], which must be told to stop before they are dropped.
#[derive(Default)]
pub(crate) struct Readers(Vec<JoinHandle<()>>);

impl Readers {
    /// Starts one more.
    pub(crate) fn start(&mut self, name: &str, serve: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(format!("{name}-{}", self.0.len()));
        self.0.push(thread.spawn(serve)?);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for reader in self.0.drain(..) {
            // A reader catches what panics in it.
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Nothing can be done for what is wanted.
    #[derive(Default)]
    struct Hopeless {
        is_wanted: bool,
        given_up: bool,
    }

    impl Jobs for Hopeless {
        type Job = ();
        type Error = io::Error;

        fn next_job(&mut self) -> Option<()> {
            self.given_up |= std::mem::take(&mut self.is_wanted);
            None
        }

        fn take_given_up(&mut self) -> bool {
            std::mem::take(&mut self.given_up)
        }

        fn complete(&mut self, (): (), _: io::Result<usize>) -> bool {
            unreachable!("there are no jobs")
        }
    }

    #[test]
    fn who_waits_for_what_is_given_up_is_woken() {
        let desk = Arc::new(Desk::new(Hopeless::default()));
        let mut readers = Readers::default();
        let served = Arc::clone(&desk);
        readers.start("reader", move || served.serve(|()| Ok(0), |(), error| error)).unwrap();
        let mut jobs = desk.lock();
        jobs.is_wanted = true;
        while jobs.is_wanted {
            jobs = desk.wait(jobs);
        }
        drop(jobs);
        desk.stop();
    }
}
