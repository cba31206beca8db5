//! The only file that reads a clock. Everything else is handed a [`Clock`], or better, a time.
//!
//! [`Clock::system`] reads the kernel. [`Clock::simulated`] reads three numbers from a file that a test
//! advances, so that whole processes run under one time that stands still until the test moves it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::ClockId;

/// One reading of the node's clocks, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Since the Unix epoch; people and daemons set it, so it jumps.
    pub wall_ns: i64,
    /// Monotonic, stands still in suspend.
    pub monotonic_ns: i64,
    /// Monotonic since boot, suspend included.
    pub boot_ns: i64,
}

/// Where time comes from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Simulated(Arc<Simulated>),
}

#[derive(Debug)]
struct Simulated {
    file: File,
    path: PathBuf,
}

/// A simulated clock's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("simulated clock {path}: {reason}")]
pub struct ClockError {
    path: PathBuf,
    reason: String,
}

/// Bytes of a simulated clock's file: wall, monotonic and boot time, each a little-endian i64.
pub const SIMULATED_BYTES: usize = 24;

impl Clock {
    /// The kernel's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The clock in `path`: see [`write_simulated`].
    ///
    /// # Errors
    /// If the file cannot be opened or is too short.
    pub fn simulated(path: &Path) -> Result<Self, ClockError> {
        let error = |reason: String| ClockError { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|e| error(e.to_string()))?;
        let clock = Simulated { file, path: path.to_owned() };
        clock.read().map_err(|e| error(e.to_string()))?;
        Ok(Self(Source::Simulated(Arc::new(clock))))
    }

    /// All three clocks at one moment, as close as reading them in turn allows.
    #[must_use]
    pub fn read(&self) -> Reading {
        match &self.0 {
            Source::System => Reading {
                wall_ns: kernel(ClockId::Realtime),
                monotonic_ns: kernel(ClockId::Monotonic),
                boot_ns: kernel(ClockId::Boottime),
            },
            // The file was readable at start; if a test removes it, that test ends here.
            Source::Simulated(clock) => match clock.read() {
                Ok(reading) => reading,
                Err(error) => panic!("simulated clock {}: {error}", clock.path.display()),
            },
        }
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ns(&self) -> i64 {
        self.read().wall_ns
    }

    /// Monotonic nanoseconds, for durations.
    #[must_use]
    pub fn monotonic_ns(&self) -> i64 {
        self.read().monotonic_ns
    }

    /// Blocks this thread until the monotonic clock shows `deadline_ns`, or until `stop` says so.
    ///
    /// Wakes at least every 50 ms to ask `stop`.
    pub fn sleep_until(&self, deadline_ns: i64, stop: impl Fn() -> bool) {
        loop {
            let left_ns = deadline_ns - self.monotonic_ns();
            if left_ns <= 0 || stop() {
                return;
            }
            std::thread::sleep(self.nap(left_ns));
        }
    }

    /// As [`Clock::sleep_until`], for tasks; cancelled by dropping it.
    pub async fn sleep_until_async(&self, deadline_ns: i64) {
        loop {
            let left_ns = deadline_ns - self.monotonic_ns();
            if left_ns <= 0 {
                return;
            }
            match self.0 {
                Source::System => tokio::time::sleep(Duration::from_nanos(left_ns.unsigned_abs())).await,
                Source::Simulated(_) => tokio::time::sleep(self.nap(left_ns)).await,
            }
        }
    }

    fn nap(&self, left_ns: i64) -> Duration {
        match self.0 {
            Source::System => Duration::from_nanos(left_ns.unsigned_abs()).min(Duration::from_millis(50)),
            // Simulated time moves when the test says so: look often.
            Source::Simulated(_) => Duration::from_micros(500),
        }
    }
}

impl Simulated {
    fn read(&self) -> std::io::Result<Reading> {
        let mut bytes = [0_u8; SIMULATED_BYTES];
        self.file.read_exact_at(&mut bytes, 0)?;
        let [wall_ns, monotonic_ns, boot_ns] = [0, 8, 16].map(|at| {
            let mut part = [0_u8; 8];
            part.copy_from_slice(&bytes[at..at + 8]);
            i64::from_le_bytes(part)
        });
        Ok(Reading { wall_ns, monotonic_ns, boot_ns })
    }
}

/// Sets a simulated clock. Readers see the whole reading or the one before (one write of 24 bytes).
///
/// # Errors
/// If the file cannot be written.
pub fn write_simulated(file: &File, reading: Reading) -> std::io::Result<()> {
    let mut bytes = [0_u8; SIMULATED_BYTES];
    for (at, value) in [reading.wall_ns, reading.monotonic_ns, reading.boot_ns].into_iter().enumerate() {
        bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
    }
    file.write_all_at(&bytes, 0)
}

#[allow(clippy::disallowed_methods, reason = "this is the clock file")]
fn kernel(id: ClockId) -> i64 {
    let time = rustix::time::clock_gettime(id);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_does_not_go_back() {
        let clock = Clock::system();
        let first = clock.read();
        let second = clock.read();
        assert!(second.monotonic_ns >= first.monotonic_ns);
        assert!(second.boot_ns >= second.monotonic_ns);
    }

    #[test]
    fn a_simulated_clock_shows_what_was_written_and_wakes_sleepers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write_simulated(file.as_file(), Reading { wall_ns: 5, monotonic_ns: 6, boot_ns: 7 }).unwrap();
        let clock = Clock::simulated(file.path()).unwrap();
        assert_eq!(clock.read(), Reading { wall_ns: 5, monotonic_ns: 6, boot_ns: 7 });
        let sleeper = std::thread::spawn({
            let clock = clock.clone();
            move || clock.sleep_until(100, || false)
        });
        write_simulated(file.as_file(), Reading { wall_ns: 99, monotonic_ns: 100, boot_ns: 101 }).unwrap();
        sleeper.join().unwrap();
    }

    #[test]
    fn a_file_too_short_for_a_clock_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Clock::simulated(file.path()).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
    }
}
