//! What the kernel says a process uses.

use anyhow::Context;

/// The kernel shows times in `/proc` in hundredths of a second, whatever it counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory at one moment, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Its own: heap, stacks, data. What a limit on its memory counts first, and what nothing but it can free.
    pub(crate) anonymous_kib: u64,
    /// Pages of files, mostly its own code; given back under pressure.
    pub(crate) file_kib: u64,
}

/// # Errors
/// If there is no such process.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse().ok());
        value.with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory { anonymous_kib: field("RssAnon:")?, file_kib: field("RssFile:")? })
}

/// CPU time of all its threads since it began, user and kernel, in seconds.
///
/// # Errors
/// If there is no such process.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name before the last parenthesis may hold anything; utime and stime are fields 14 and 15 of the file.
    let fields: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u32>().ok());
    let ticks = field(11).zip(field(12)).with_context(|| format!("{path} has no times"))?;
    Ok((f64::from(ticks.0) + f64::from(ticks.1)) / TICKS_PER_SECOND)
}
