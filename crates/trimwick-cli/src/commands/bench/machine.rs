//! What the machine can do, and who used it.

use std::hint::black_box;
use std::time::Instant;

use trimwick_kernels::packed::Crew;

use crate::memory::bytes_of;

/// Bytes that are read to measure memory: more than any cache holds.
const READ: usize = 256 << 20;

/// Bytes that all threads read from memory in a second, the best of five times.
pub(super) fn bandwidth() -> f64 {
    const PIECES: usize = 256;
    let data = vec![1u64; READ / 8];
    let pieces: Vec<&[u64]> = data.chunks(data.len() / PIECES).collect();
    let once = || {
        let begun = Instant::now();
        Crew::with(|crew| {
            crew.each(pieces.len(), |i| {
                black_box(pieces[i].iter().fold(0u64, |sum, x| sum ^ x));
            });
        });
        begun.elapsed().as_secs_f64()
    };
    READ as f64 / (0..5).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// A line of `/proc/self/status` in bytes; `None` where there is no such file.
fn status(key: &str) -> Option<u64> {
    bytes_of("/proc/self/status", key)
}

/// Resident memory.
pub(super) fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most resident memory since [`reset_peak`].
pub(super) fn peak_resident() -> Option<u64> {
    status("VmHWM:")
}

/// Begins to measure the peak anew; where the system does not allow that, it stays the peak of the process.
pub(super) fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Clock ticks of the machine and of this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processors {
    all: u64,
    idle: u64,
    own: u64,
}

impl Processors {
    /// `None` where there is no `/proc`.
    pub(super) fn now() -> Option<Self> {
        let numbers = |text: &str, skip: usize, take: usize| -> Vec<u64> {
            text.split_whitespace().skip(skip).take(take).flat_map(str::parse).collect()
        };
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks = numbers(stat.lines().next()?, 1, 8);
        // User and system time are fields 14 and 15; the name, field 2, may hold spaces.
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        let own = numbers(own.rsplit(')').next()?, 11, 2);
        Some(Self { all: ticks.iter().sum(), idle: ticks.get(3)? + ticks.get(4)?, own: own.iter().sum() })
    }

    /// The share of the machine that other processes had between two looks at it.
    pub(super) fn used_by_others(from: Option<Self>, to: Option<Self>) -> Option<f64> {
        let (from, to) = (from?, to?);
        let all = to.all - from.all;
        let rest = all.saturating_sub(to.idle - from.idle + to.own - from.own);
        (all > 0).then(|| rest as f64 / all as f64)
    }
}
