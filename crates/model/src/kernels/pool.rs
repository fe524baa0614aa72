//! The thread pool of a forward pass: one barrier per operation, workers that spin briefly and then sleep.

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How often a worker looks for a job before it sleeps: tens of microseconds, longer than the serial work
/// between two operations of a layer and far shorter than a pause between requests.
const SPINS_BEFORE_SLEEP: u32 = 20_000;

/// Values that one thread is done with before another would have begun.
const ONE_THREAD_LEN: usize = 8 << 10;

/// A job with its lifetime erased; valid while `Pool::run` waits for it.
type Job = *const (dyn Fn(usize) + Sync);

/// Where the current job stands, in one word so that a worker joins it in one step:
///
/// ```text
///   63            17   16   15             0
///   | generation   | open | workers inside |
/// ```
///
/// A worker joins only an open job, and the caller of [`Pool::run`] closes the job when no task is left and
/// waits only for workers inside: one that was not scheduled in time costs nothing.
struct Gate(AtomicU64);

const INSIDE: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const GENERATION_SHIFT: u32 = 17;

impl Gate {
    fn generation(state: u64) -> u64 {
        state >> GENERATION_SHIFT
    }

    fn open(&self) {
        let generation = Gate::generation(self.0.load(Ordering::Relaxed)) + 1;
        self.0.store(generation << GENERATION_SHIFT | OPEN, Ordering::Release);
    }

    /// Enters the job of `generation` if it is still open.
    fn join(&self, generation: u64) -> bool {
        let enter = |state| (Gate::generation(state) == generation && state & OPEN != 0).then_some(state + 1);
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while self.0.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_SLEEP { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

/// The next task of one thread's share, on a cache line of its own.
#[repr(align(64))]
struct Cursor(AtomicUsize);

struct Shared {
    gate: Gate,
    job: UnsafeCell<Option<Job>>,
    n_tasks: AtomicUsize,
    cursors: Vec<Cursor>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `job` is written by the one thread inside `Pool::run` (it holds `Pool::running`) while the gate is
// closed and nobody inside, and read by workers only inside the gate, which they enter with acquire order.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is used only while `Pool::run` keeps its target alive.
unsafe impl Send for Shared {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The first task of the share of `thread`, of `n_tasks` in all.
    fn share_start(&self, thread: usize, n_tasks: usize) -> usize {
        thread * n_tasks / self.cursors.len()
    }

    /// Works through the share of `thread`, in order, then takes what is left of the others': neighbouring tasks stay
    /// on one core, whose prefetched memory they use, and a slow core does not hold the rest.
    fn work(&self, thread: usize, job: &(dyn Fn(usize) + Sync)) {
        let n_tasks = self.n_tasks.load(Ordering::Relaxed);
        for i in 0..self.cursors.len() {
            let share = (thread + i) % self.cursors.len();
            let end = self.share_start(share + 1, n_tasks);
            loop {
                let task = self.cursors[share].0.fetch_add(1, Ordering::Relaxed);
                if task >= end {
                    break;
                }
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(task))) {
                    lock(&self.panic).get_or_insert(payload);
                }
            }
        }
    }

    fn worker(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_past(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if self.gate.join(seen) {
                // SAFETY: inside the gate the job is set and alive: `run` waits for this worker to leave.
                if let Some(job) = unsafe { (*self.job.get()).map(|job| &*job) } {
                    self.work(thread, job);
                }
                self.gate.leave();
            }
        }
    }

    /// Waits until the generation is past `seen`, and returns it.
    fn wait_past(&self, seen: u64) -> u64 {
        let generation = || Gate::generation(self.gate.0.load(Ordering::Acquire));
        for _ in 0..SPINS_BEFORE_SLEEP {
            if generation() != seen {
                return generation();
            }
            std::hint::spin_loop();
        }
        let mut sleepers = lock(&self.sleepers);
        *sleepers += 1;
        // Looked at under the lock that `publish` takes to wake sleepers: no wake-up is lost.
        while generation() == seen {
            sleepers = self.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
        }
        *sleepers -= 1;
        generation()
    }

    fn publish(&self) {
        self.gate.open();
        if *lock(&self.sleepers) > 0 {
            self.wake.notify_all();
        }
    }
}

/// A fixed set of threads that run one job at a time. The calling thread works too.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    running: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `n_threads` threads, the caller of [`Pool::run`] being one of them.
    ///
    /// Fewer where the system refuses to start that many; `n_threads` of 0 counts as 1.
    pub(crate) fn new(n_threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            gate: Gate(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            n_tasks: AtomicUsize::new(0),
            cursors: (0..n_threads.max(1)).map(|_| Cursor(AtomicUsize::new(0))).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers = (1..n_threads.max(1))
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                let thread = std::thread::Builder::new().name(format!("rawrz-{i}"));
                thread.spawn(move || shared.worker(i)).ok()
            })
            .collect();
        Pool { shared, running: Mutex::new(()), workers }
    }

    /// Threads that work on a job, the caller included.
    pub(crate) fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` once for each of `0..n_tasks`, on all threads, and returns when all are done. Tasks are
    /// handed out as threads come free, so a slow core does not hold the rest.
    ///
    /// # Panics
    /// When a task panicked, with its payload, after all tasks ended. `job` must not call `run` itself.
    pub(crate) fn run(&self, n_tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        if n_tasks <= 1 || self.workers.is_empty() {
            (0..n_tasks).for_each(job);
            return;
        }
        let _running = lock(&self.running);
        let shared = &*self.shared;
        shared.n_tasks.store(n_tasks, Ordering::Relaxed);
        for (thread, cursor) in shared.cursors.iter().enumerate() {
            cursor.0.store(shared.share_start(thread, n_tasks), Ordering::Relaxed);
        }
        // SAFETY: only the lifetime changes. The pointer is used by workers inside the gate, which this call
        // waits for below, so `job` outlives every use; nobody is inside now, so nobody reads the cell.
        unsafe {
            let erased = std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job);
            *shared.job.get() = Some(erased);
        }
        shared.publish();
        shared.work(0, job);
        shared.gate.close();
        if let Some(payload) = lock(&shared.panic).take() {
            resume_unwind(payload);
        }
    }
}

impl Pool {
    /// Calls `job` once for each of `items`, on all threads.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub(crate) fn run_on<T: Send>(&self, items: &mut [T], job: &(dyn Fn(&mut T) + Sync)) {
        let items = Items { first: items.as_mut_ptr(), len: items.len() };
        self.run(items.len, &|i| {
            // SAFETY: `run` calls each index once, and all are below `len`: no item is shared.
            job(unsafe { items.get(i) });
        });
    }

    /// Calls `job` once for each chunk of `chunk_len` values, with its index, on all threads.
    ///
    /// # Panics
    /// As [`Pool::run`], and when the chunks do not divide `data`.
    pub(crate) fn for_each_chunk(
        &self,
        data: &mut [f32],
        chunk_len: usize,
        job: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let n_chunks = data.len() / chunk_len;
        assert_eq!(n_chunks * chunk_len, data.len());
        if data.len() <= ONE_THREAD_LEN {
            data.chunks_exact_mut(chunk_len).enumerate().for_each(|(i, chunk)| job(i, chunk));
            return;
        }
        let rows = DisjointRows::new(data, chunk_len);
        self.run(n_chunks, &|i| {
            // SAFETY: `run` calls each index once, and each has a row of its own.
            job(i, unsafe { rows.slice(i, 0, chunk_len) });
        });
    }
}

/// Items of a slice, each to be taken by one task.
struct Items<T> {
    first: *mut T,
    len: usize,
}

// SAFETY: each item is used by one thread at a time, and `T` may be sent to it.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    /// # Safety
    /// Each index is below `len` and taken once.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, i: usize) -> &mut T {
        // SAFETY: as the caller promises.
        unsafe { &mut *self.first.add(i) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.publish();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// A matrix that tasks write to at the same time, each its own elements.
pub(crate) struct DisjointRows<'a> {
    data: *mut f32,
    len: usize,
    stride: usize,
    _borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]` that several threads write through; `slice` asks its callers to keep apart.
unsafe impl Sync for DisjointRows<'_> {}

impl<'a> DisjointRows<'a> {
    /// Rows of `stride` values in `data`.
    pub(crate) fn new(data: &'a mut [f32], stride: usize) -> DisjointRows<'a> {
        DisjointRows { data: data.as_mut_ptr(), len: data.len(), stride, _borrow: PhantomData }
    }

    /// The same matrix from row `row` on.
    ///
    /// # Panics
    /// When it has fewer rows.
    pub(crate) fn starting_at(&self, row: usize) -> DisjointRows<'_> {
        let skip = row * self.stride;
        assert!(skip <= self.len);
        // SAFETY: within the borrowed slice, or just past its end, as just checked.
        let data = unsafe { self.data.add(skip) };
        DisjointRows { data, len: self.len - skip, stride: self.stride, _borrow: PhantomData }
    }

    /// `len` values of row `row`, from column `column`.
    ///
    /// # Panics
    /// When the values lie outside the row or the matrix.
    ///
    /// # Safety
    /// No two live slices of one matrix may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, row: usize, column: usize, len: usize) -> &mut [f32] {
        assert!(column + len <= self.stride && row * self.stride + column + len <= self.len);
        // SAFETY: in bounds of the borrowed slice as just checked; the caller keeps slices apart.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + column), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for n_threads in [0, 1, 2, 4, 7] {
            let pool = Pool::new(n_threads);
            assert_eq!(pool.n_threads(), n_threads.max(1));
            for n_tasks in [0, 1, 2, 3, 100] {
                let counts: Vec<_> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(n_tasks, &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(30));
            let sum = AtomicUsize::new(0);
            pool.run(64, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 63 * 64 / 2);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let run = catch_unwind(AssertUnwindSafe(|| {
            pool.run(16, &|i| assert!(i != 5, "task five"));
        }));
        assert!(run.is_err());
        let done = AtomicUsize::new(0);
        pool.run(16, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 16);
    }

    #[test]
    fn rows_are_bounds_checked() {
        let mut data = vec![0.0; 12];
        let rows = DisjointRows::new(&mut data, 4);
        // SAFETY: the slices are used one at a time.
        unsafe { rows.slice(2, 1, 3) }.fill(1.0);
        for (row, column, len) in [(0, 2, 3), (3, 0, 1), (2, 4, 1)] {
            let out = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: as above.
                unsafe { rows.slice(row, column, len) }.fill(2.0);
            }));
            assert!(out.is_err());
        }
        assert_eq!(data, [0., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1.]);
    }
}
