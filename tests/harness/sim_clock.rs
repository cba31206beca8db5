//! A clock that stands still until a test moves it, for all processes of a world at once.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tonnage_runtime::clock::{Reading, write_simulated};

/// Where simulated time begins: 2027-01-15 08:00 UTC, the edge of a slot.
pub const BEGIN_NS: i64 = 1_800_000_000_000_000_000;
/// The machine has been up for an hour then.
const UP_NS: i64 = 3_600_000_000_000;

/// The clock's file and what it shows.
#[derive(Debug)]
pub struct SimClock {
    path: PathBuf,
    file: File,
    now: Reading,
}

impl SimClock {
    /// # Errors
    /// If the file cannot be written.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("simulated clock {}", path.display()))?;
        let now = Reading { wall_ns: BEGIN_NS, monotonic_ns: UP_NS, boot_ns: UP_NS };
        write_simulated(&file, now)?;
        Ok(Self { path: path.to_owned(), file, now })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn now(&self) -> Reading {
        self.now
    }

    /// Time passes: all three clocks go on by as much.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn advance(&mut self, step_ns: i64) -> anyhow::Result<Reading> {
        self.set(Reading {
            wall_ns: self.now.wall_ns + step_ns,
            monotonic_ns: self.now.monotonic_ns + step_ns,
            boot_ns: self.now.boot_ns + step_ns,
        })
    }

    /// Someone sets the wall clock by so much.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn step(&mut self, by_ns: i64) -> anyhow::Result<Reading> {
        self.set(Reading { wall_ns: self.now.wall_ns + by_ns, ..self.now })
    }

    /// Someone sets the clocks: a step of the wall clock, a suspend.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&mut self, now: Reading) -> anyhow::Result<Reading> {
        write_simulated(&self.file, now)?;
        self.now = now;
        Ok(now)
    }
}
