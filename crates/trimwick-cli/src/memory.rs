//! What Linux says of memory; nothing elsewhere.

/// The bytes behind a key of a file such as `/proc/meminfo`, whose lines are `KEY  NUMBER kB`.
pub(crate) fn bytes_of(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}
