//! Threads that stay awake between small pieces of work.
//!
//! A generated token is some hundred products of a few microseconds. Waking rayon's sleeping threads for each would
//! cost as much again, so a [`Crew`] borrows the threads of the pool for a while: between jobs they watch a counter.
//! A job is a number of pieces. Each thread begins with a run of them that is its own, the same for jobs of as many
//! pieces, so that it reads on where memory goes on; who is done takes what is left of the others'. So nothing waits for a
//! thread that the system has put aside before it took a piece, and nothing hangs where the pool's threads are busy
//! elsewhere: the caller does the rest.

use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::yield_now;

/// Looks at a counter before the processor is offered to others.
const SPINS: usize = 4000;

type Work = dyn Fn(usize) + Sync;

/// A job: its work and the number of its pieces.
#[derive(Clone, Copy)]
struct Job {
    work: *const Work,
    pieces: usize,
}

/// A counter that shares its cache line with no other.
#[derive(Default)]
#[repr(align(64))]
struct Counter(AtomicUsize);

struct Shared {
    job: UnsafeCell<Option<Job>>,
    /// Counts jobs; a helper takes part in each once.
    epoch: AtomicUsize,
    /// Whether the job may be entered.
    open: AtomicBool,
    /// Of each thread's run the next piece that nobody has taken.
    next: Vec<Counter>,
    /// Helpers that are inside of the job, or about to see that it is closed.
    active: AtomicUsize,
    failed: AtomicBool,
    done: AtomicBool,
}

// SAFETY: `job` is written by the leader alone, while `open` is false and `active` is 0, and read by helpers that
// counted themselves into `active` and saw `open` after that. What it points to is `Sync` and outlives the job.
unsafe impl Sync for Shared {}

/// Counts a helper out, also when a piece panics.
struct Inside<'a>(&'a Shared);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::SeqCst);
        }
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Closes a job and waits for the helpers inside of it, also when the leader's piece panics.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.open.store(false, Ordering::SeqCst);
        wait(|| self.0.active.load(Ordering::SeqCst) == 0);
    }
}

thread_local! {
    /// Whether this thread leads a crew. The helpers of a second one would be those of the first, which do not come
    /// back before that ends.
    static LEADS: Cell<bool> = const { Cell::new(false) };
}

/// Sends the helpers home, however the leader leaves.
struct Home<'a>(&'a Shared);

impl Drop for Home<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::SeqCst);
        LEADS.set(false);
    }
}

fn wait(until: impl Fn() -> bool) {
    let mut spins = 0;
    while !until() {
        spins += 1;
        if spins < SPINS { spin_loop() } else { yield_now() }
    }
}

impl Shared {
    fn serve(&self, me: usize) {
        let mut seen = 0;
        loop {
            let open = || self.epoch.load(Ordering::Acquire) != seen && self.open.load(Ordering::Acquire);
            wait(|| open() || self.done.load(Ordering::Acquire));
            if self.done.load(Ordering::Acquire) {
                return;
            }
            self.active.fetch_add(1, Ordering::SeqCst);
            let inside = Inside(self);
            // Either the leader sees this helper in `active` and waits, or this sees that the job was closed.
            if self.open.load(Ordering::SeqCst) {
                seen = self.epoch.load(Ordering::SeqCst);
                // SAFETY: the job is open and this helper is counted, so the leader does not write.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.take_part(job, me);
                }
            }
            drop(inside);
        }
    }

    fn take_part(&self, job: Job, me: usize) {
        // SAFETY: the leader keeps the work alive until nobody is inside of the job.
        let work = unsafe { &*job.work };
        let size = self.next.len();
        for thread in (me..size).chain(0..me) {
            let end = (thread + 1) * job.pieces / size;
            loop {
                let piece = self.next[thread].0.fetch_add(1, Ordering::Relaxed);
                if piece >= end {
                    break;
                }
                work(piece);
            }
        }
    }
}

/// The threads of the current rayon pool, waiting for work; see [`Crew::with`].
pub struct Crew<'a> {
    /// None: the calling thread alone.
    shared: Option<&'a Shared>,
    size: usize,
    /// The leader's number among the threads.
    leader: usize,
}

impl Crew<'_> {
    /// Calls `f` on a thread of the pool with the others at hand. They use their cores until `f` returns: keep it to
    /// computation. Within the `f` of another crew there are no others.
    ///
    /// # Panics
    /// When `f` or a piece of its jobs does.
    pub fn with<R: Send>(f: impl FnOnce(&Crew<'_>) -> R + Send) -> R {
        let shared = Shared {
            job: UnsafeCell::new(None),
            epoch: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            next: (0..rayon::current_num_threads()).map(|_| Counter::default()).collect(),
            active: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            done: AtomicBool::new(false),
        };
        rayon::scope(|scope| {
            let size = rayon::current_num_threads();
            if size < 2 || LEADS.get() {
                return f(&Crew { shared: None, size: 1, leader: 0 });
            }
            let leader = rayon::current_thread_index().unwrap_or(0);
            let helpers = &shared;
            scope.spawn_broadcast(move |_, context| {
                // The leader may come by here when it waits for others in rayon's own way.
                if context.index() != leader {
                    helpers.serve(context.index());
                }
            });
            LEADS.set(true);
            let _home = Home(helpers);
            f(&Crew { shared: Some(helpers), size, leader })
        })
    }

    /// The calling thread alone, for work too small to share.
    pub fn alone() -> Crew<'static> {
        Crew { shared: None, size: 1, leader: 0 }
    }

    /// The number of threads.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Calls `work` for every piece from 0, on whichever thread is free, and returns when all are done.
    ///
    /// # Panics
    /// When a piece does, or when called from within a piece of a job of the same crew.
    pub fn each(&self, pieces: usize, work: impl Fn(usize) + Sync) {
        let Some(shared) = self.shared.filter(|_| pieces > 1) else {
            (0..pieces).for_each(work);
            return;
        };
        assert!(!shared.open.load(Ordering::SeqCst), "crew: a job within a job");
        let work: &(dyn Fn(usize) + Sync) = &work;
        // SAFETY: only the lifetime changes; `Closing` waits for everyone who may call it before it ends.
        let work = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Work>(work) };
        let job = Job { work, pieces };
        // SAFETY: the job is not open and nobody is inside, as `Closing` has seen.
        unsafe { *shared.job.get() = Some(job) };
        for (thread, next) in shared.next.iter().enumerate() {
            next.0.store(thread * pieces / self.size, Ordering::SeqCst);
        }
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        shared.open.store(true, Ordering::SeqCst);
        let closing = Closing(shared);
        shared.take_part(job, self.leader);
        drop(closing);
        assert!(!shared.failed.load(Ordering::SeqCst), "crew: a piece panicked");
    }
}

impl std::fmt::Debug for Crew<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crew of {}", self.size)
    }
}
