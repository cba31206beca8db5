//! Which core what runs on, so that what makes the load does not take its time from what is measured.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The core of what is measured, and the one of this process; the same where there is only one.
fn cores() -> anyhow::Result<(CpuSet, CpuSet)> {
    let mine = sched_getaffinity(None)?;
    let mut numbers = (0..CpuSet::MAX_CPU).filter(|core| mine.is_set(*core));
    let first = numbers.next().unwrap_or_default();
    let set = |core| {
        let mut set = CpuSet::new();
        set.set(core);
        set
    };
    Ok((set(first), set(numbers.next().unwrap_or(first))))
}

/// Runs `start` with all that it starts on the first core, this thread included while it lasts.
///
/// # Errors
/// What `start` returns, or if the kernel refuses.
pub(crate) fn on_first<T>(start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = sched_getaffinity(None)?;
    sched_setaffinity(None, &both()?.0)?;
    let started = start();
    sched_setaffinity(None, &before)?;
    started
}

/// Keeps this thread, and those that it starts from now on, to the second core.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn keep_to_second() -> anyhow::Result<()> {
    let (_, second) = both()?;
    Ok(sched_setaffinity(None, &second)?)
}

/// [`cores`] as they were when it was first asked: a thread that is kept to one sees that one alone.
fn both() -> anyhow::Result<(CpuSet, CpuSet)> {
    static BOTH: std::sync::OnceLock<(CpuSet, CpuSet)> = std::sync::OnceLock::new();
    if let Some(both) = BOTH.get() {
        return Ok(*both);
    }
    let found = cores()?;
    Ok(*BOTH.get_or_init(|| found))
}
