//! Two settings that libraries read from the environment alone.
//!
//! `RAYON_NUM_THREADS`: unless it is set, candle asks for the number of *physical* cores of the machine: it parses
//! `/proc/cpuinfo` at every matmul, and it knows nothing of the affinity and the cgroup that a scheduler or a container
//! has put the process in. It reads the variable anew each time, so that a rayon pool of the right size is not enough.
//!
//! `MIMALLOC_PURGE_DELAY`: after 10 ms the allocator gives free memory back to the system, and the next step of training
//! takes the same hundreds of megabytes again, page by page. Keeping them took 13 s out of 114 (the system's part went
//! from 20 s to 7) in four steps of a model of 135 million parameters, and added 4 % to the largest resident set. A streamed run,
//! whose blocks have stages of different sizes after each other, gives it back ([`give_back`]): kept, it was 6.1 GB instead of
//! 4.5 for a model of 7 billion parameters. So does generating, which would keep the copies that packing a model made.
//!
//! Setting a variable of a running process is `unsafe`, because another thread may be reading the environment. So the
//! program starts itself over with both set: on Unix that is one `exec`, which takes about a millisecond and keeps the
//! process id, the open files and the signals. What the user has set stays.

use std::num::NonZero;

use anyhow::{Error, Result};

const THREADS: &str = "RAYON_NUM_THREADS";
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";
/// Set where the delay above is this program's choice, and not the user's.
const CHOSEN: &str = "TRIMWICK_CHOSE_PURGE_DELAY";

/// Sets what is not set yet, and starts the threads.
///
/// # Errors
/// The operating system's refusal of a thread.
pub(crate) fn settle() -> Result<()> {
    let given = std::env::var(THREADS).ok().and_then(|text| text.parse::<usize>().ok());
    let mut missing = Vec::new();
    // Rayon takes 0 for "as many as there are", candle does not.
    let threads = given.filter(|&threads| threads > 0).unwrap_or_else(available).min(most());
    if given != Some(threads) {
        missing.push((THREADS, threads.to_string()));
    }
    if std::env::var_os(PURGE_DELAY).is_none() {
        missing.extend([(PURGE_DELAY, "-1".to_string()), (CHOSEN, "kept".to_string())]);
    }
    if !missing.is_empty() {
        // Where there is no exec, or it failed, rayon's own pool at least has the right size.
        start_over(&missing);
    }
    // Rayon panics where the pool is started by its first use and a thread is refused.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| {
        Error::msg(format!("{THREADS}: cannot start {threads} threads ({error}); set it to a smaller number"))
    })
}

/// Lets the allocator give free memory back after 10 ms, unless the user has said otherwise: for work that needs to be small rather
/// than fast. The process starts over; what it has done so far it does again.
pub(crate) fn give_back() {
    if std::env::var_os(CHOSEN).is_some_and(|choice| choice == "kept") {
        start_over(&[(PURGE_DELAY, "10".to_string()), (CHOSEN, "given back".to_string())]);
    }
}

/// More threads than this only wait for each other.
fn most() -> usize {
    available().saturating_mul(4).max(64)
}

/// The processors that this process may use: affinity counts and, on Linux, the quota of the cgroup.
fn available() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Replaces this process by itself with these variables; returns only if that fails.
#[cfg(unix)]
fn start_over(variables: &[(&str, String)]) {
    use std::os::unix::process::CommandExt;

    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into_os_string());
    let mut command = std::process::Command::new(program);
    // The error is dropped: the program can do its work without.
    let _ = command.arg0(name).args(arguments).envs(variables.iter().map(|(k, v)| (k, v))).exec();
}

#[cfg(not(unix))]
fn start_over(_variables: &[(&str, String)]) {}
