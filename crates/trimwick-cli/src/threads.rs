//! As many threads as this process may use.
//!
//! Unless `RAYON_NUM_THREADS` is set, candle asks for the number of *physical* cores of the machine: it parses
//! `/proc/cpuinfo` at every matmul, and it knows nothing of the affinity and the cgroup that a scheduler or a container
//! has put the process in. The variable is the only thing that it reads instead, and it reads it anew each time, so that a
//! rayon pool of the right size is not enough. Setting a variable of a running process is `unsafe`, because another
//! thread may be reading the environment. So the program starts itself over with the variable set: on Unix that is
//! one `exec`, which takes about a millisecond and keeps the process id, the open files and the signals.

use std::num::NonZero;

const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Sets the number of threads for rayon and candle, unless the user has.
pub(crate) fn settle() {
    let given = std::env::var(VARIABLE).ok().and_then(|text| text.parse::<usize>().ok());
    if given.is_some_and(|threads| threads > 0) {
        return;
    }
    // Honours affinity and, on Linux, the quota of the cgroup.
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    start_over(threads);
    // Where there is no exec, or it failed, rayon's own pool at least has the right size. That it exists already would mean
    // that something ran before this function.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}

/// Replaces this process by itself with the variable set; returns only if that fails.
#[cfg(unix)]
fn start_over(threads: usize) {
    use std::os::unix::process::CommandExt;

    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into_os_string());
    let mut command = std::process::Command::new(program);
    // The error is dropped: the program can do its work without.
    let _ = command.arg0(name).args(arguments).env(VARIABLE, threads.to_string()).exec();
}

#[cfg(not(unix))]
fn start_over(_threads: usize) {}
