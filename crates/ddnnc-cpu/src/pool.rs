//! A fixed pool of threads that runs numbered tasks, without allocation.
//!
//! Rayon's injector allocates a block of queue now and then, which a step must not; a step also needs no nested
//! parallelism. So the pool is a counter of tasks that the caller and the workers draw from, and a condition variable
//! to sleep on. A step is hundreds of jobs that follow one another at once: threads look for the next one a little while
//! before they sleep.

use ddnnc_passes::DeviceError;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What runs for (task, worker).
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// A job as the workers see it.
#[derive(Clone, Copy)]
struct Job {
    body: *const Body<'static>,
    tasks: usize,
}

// SAFETY: the body is `Sync`, and `Pool::run` keeps it alive until no worker uses it.
unsafe impl Send for Job {}

#[derive(Default)]
struct State {
    job: Option<Job>,
    /// Grows with every job, so that a worker joins each job once.
    generation: u64,
    /// Workers inside the job.
    inside: usize,
    /// Workers that sleep.
    asleep: usize,
    /// Whether the caller sleeps.
    waits: bool,
    stop: bool,
}

/// Turns for which a thread looks for news before it sleeps.
const TURNS: usize = 1 << 10;

/// Waits a little for `news`; whoever wakes a sleeping thread waits too.
fn look(news: impl Fn() -> bool) {
    for _ in 0..TURNS {
        for _ in 0..8 {
            if news() {
                return;
            }
            std::hint::spin_loop();
        }
        // Where there are more threads than processors, another may be the one that is waited for.
        std::thread::yield_now();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A job has come, or the end.
    wake: Condvar,
    /// The last worker has left the job.
    left: Condvar,
    next: AtomicUsize,
    /// The generation and the workers inside, to look at without the lock.
    generation: AtomicU64,
    inside: AtomicUsize,
    panicked: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole at every unlock: nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws tasks until none is left.
    fn work(&self, body: &Body<'_>, tasks: usize, worker: usize) {
        let run = || {
            loop {
                let task = self.next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                body(task, worker);
            }
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
            self.next.store(tasks, Ordering::Relaxed);
        }
    }

    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            look(|| self.generation.load(Ordering::Relaxed) != seen);
            let mut state = self.lock();
            while state.generation == seen && !state.stop {
                state.asleep += 1;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.asleep -= 1;
            }
            if state.stop {
                return;
            }
            seen = state.generation;
            // What came is over where it was short.
            let Some(job) = state.job else { continue };
            state.inside += 1;
            self.inside.store(state.inside, Ordering::Relaxed);
            drop(state);
            // SAFETY: `Pool::run` does not return before this worker has left the job.
            self.work(unsafe { &*job.body }, job.tasks, worker);
            let mut state = self.lock();
            state.inside -= 1;
            self.inside.store(state.inside, Ordering::Relaxed);
            if state.inside == 0 && state.waits {
                self.left.notify_one();
            }
        }
    }
}

/// Threads that run tasks together with the caller.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the one caller whose job runs.
    turn: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool in which `threads` threads work, the caller being one of them.
    pub fn new(threads: usize) -> Result<Pool, DeviceError> {
        let shared = Arc::new(Shared::default());
        let mut pool = Pool { shared, turn: Mutex::new(()), threads: Vec::new() };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let spawned = std::thread::Builder::new()
                .name(format!("ddnnc-cpu-{worker}"))
                .spawn(move || shared.serve(worker));
            match spawned {
                Ok(thread) => pool.threads.push(thread),
                Err(e) => return Err(DeviceError::Failed(format!("cannot start thread {worker}: {e}"))),
            }
        }
        Ok(pool)
    }

    /// How many threads work, the caller included.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `body(task, worker)` for every task; worker is below [`Pool::threads`], and no two tasks at a time have the
    /// same worker.
    pub fn run(&self, tasks: usize, body: &Body<'_>) {
        if tasks <= 1 || self.threads.is_empty() {
            for task in 0..tasks {
                body(task, 0);
            }
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let pointer: *const Body<'_> = body;
        // SAFETY: only the lifetime changes; the job is withdrawn below before `body` ends.
        let pointer = unsafe { std::mem::transmute::<*const Body<'_>, *const Body<'static>>(pointer) };
        self.shared.next.store(0, Ordering::Relaxed);
        {
            let mut state = self.shared.lock();
            state.job = Some(Job { body: pointer, tasks });
            state.generation += 1;
            self.shared.generation.store(state.generation, Ordering::Relaxed);
            if state.asleep > 0 {
                self.shared.wake.notify_all();
            }
        }
        self.shared.work(body, tasks, 0);
        // From here on no worker joins the job.
        self.shared.lock().job = None;
        look(|| self.shared.inside.load(Ordering::Relaxed) == 0);
        let mut state = self.shared.lock();
        while state.inside > 0 {
            state.waits = true;
            state = self.shared.left.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waits = false;
        }
        drop(state);
        drop(turn);
        let panicked = self.shared.panicked.swap(false, Ordering::Relaxed);
        assert!(!panicked, "a kernel panicked on another thread");
    }

    /// Cuts `out` into pieces of `piece` elements (the last may be shorter) and runs `body(index, piece, worker)`.
    pub fn split<T: Send>(&self, out: &mut [T], piece: usize, body: impl Fn(usize, &mut [T], usize) + Sync) {
        let piece = piece.max(1);
        let tasks = out.len().div_ceil(piece);
        let out = Pieces::new(out, piece);
        self.run(tasks, &|task, worker| {
            // SAFETY: each task is run once, so each piece is borrowed once.
            body(task, unsafe { out.get(task) }, worker);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its tasks, so it ends in order.
            let _ = thread.join();
        }
    }
}

/// A slice cut into pieces that different threads write.
pub struct Pieces<'a, T> {
    start: *mut T,
    len: usize,
    piece: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of elements that may go to other threads.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    /// Pieces of `piece` elements, the last of which may be shorter.
    pub fn new(out: &'a mut [T], piece: usize) -> Pieces<'a, T> {
        Pieces { start: out.as_mut_ptr(), len: out.len(), piece, borrow: PhantomData }
    }

    /// Where piece `index` lies, and its elements.
    pub fn place(&self, index: usize) -> (*const T, usize) {
        let from = (index * self.piece).min(self.len);
        (self.start.wrapping_add(from).cast_const(), self.piece.min(self.len - from))
    }

    /// Piece `index`; empty past the end.
    ///
    /// # Safety
    ///
    /// No piece is asked for twice.
    #[expect(clippy::mut_from_ref, reason = "the pieces do not overlap")]
    pub unsafe fn get(&self, index: usize) -> &mut [T] {
        let from = (index * self.piece).min(self.len);
        let len = self.piece.min(self.len - from);
        // SAFETY: the range lies in the borrowed slice, and pieces of different indices are apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}
