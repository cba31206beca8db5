//! A folder kept as `/proc` would be: the processes of the story that live now, and what belongs to the machine.
//!
//! Constraints: a process's start never changes while it lives, not even where the driver is loaded anew or the
//! wall clock is set; so each life is written once, with a mark that says which life it is. Costs nothing while
//! the same processes live on.
//!
//! Non-goals: threads, and any file that the agent does not read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};

use tonnage_runtime::clock::Reading;

use crate::story::{Actor, Story};

mod text;

/// The kernel's clock tick as `/proc` shows it: 100 Hz.
pub const TICK_NS: i64 = 10_000_000;

/// Holds the wall time of the start of the life that a pid's folder describes.
const LIFE: &str = ".life";

/// The folder, and which lives are in it.
#[derive(Debug)]
pub struct FakeProc {
    dir: PathBuf,
    written: BTreeMap<u32, i64>,
    /// Wall times for which nothing has to be done.
    in_step: Range<i64>,
}

impl FakeProc {
    /// Takes over what is there.
    ///
    /// # Errors
    /// If the folder cannot be made, read or written.
    pub fn open(dir: &Path, boot_id: &str, now: Reading) -> io::Result<Self> {
        let random = dir.join("sys/kernel/random");
        fs::create_dir_all(&random)?;
        fs::write(random.join("boot_id"), format!("{boot_id}\n"))?;
        fs::write(dir.join("stat"), text::machine_stat(now))?;
        fs::write(dir.join("uptime"), text::uptime(now))?;
        let mut written = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Without a mark it was left half written: no life began then, so the next sync makes it anew.
            let life = fs::read_to_string(entry.path().join(LIFE)).ok().and_then(|text| text.parse().ok());
            written.insert(pid, life.unwrap_or(i64::MIN));
        }
        Ok(Self { dir: dir.to_owned(), written, in_step: 0..0 })
    }

    /// Brings the folder in step with the story at `now`.
    ///
    /// # Errors
    /// If a file or folder cannot be made or removed.
    pub fn sync(&mut self, story: &Story, now: Reading) -> io::Result<()> {
        if self.in_step.contains(&now.wall_ns) {
            return Ok(());
        }
        // Until it is done it is not: a call that fails half way is made good by the next.
        self.in_step = 0..0;
        let live: BTreeMap<u32, (&Actor, i64)> = story
            .live(now.wall_ns)
            .map(|(actor, started_ns)| (actor.process.pid, (actor, started_ns)))
            .collect();
        let over: Vec<u32> = self
            .written
            .iter()
            .filter(|(pid, started_ns)| live.get(pid).is_none_or(|(_, live_ns)| live_ns != *started_ns))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in over {
            fs::remove_dir_all(self.dir.join(pid.to_string()))?;
            self.written.remove(&pid);
        }
        for (&pid, &(actor, started_ns)) in &live {
            if !self.written.contains_key(&pid) {
                self.write(actor, started_ns, now)?;
                self.written.insert(pid, started_ns);
            }
        }
        self.in_step = now.wall_ns..story.next_change_ns(now.wall_ns);
        Ok(())
    }

    fn write(&self, actor: &Actor, started_ns: i64, now: Reading) -> io::Result<()> {
        let process = &actor.process;
        let dir = self.dir.join(process.pid.to_string());
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("comm"), format!("{}\n", process.comm))?;
        fs::write(
            dir.join("cgroup"),
            process.cgroup.iter().map(|line| format!("{line}\n")).collect::<String>(),
        )?;
        fs::write(dir.join("status"), text::status(process))?;
        fs::write(dir.join("stat"), text::stat(process, start_ticks(started_ns, now)))?;
        // Last: a folder with this mark is whole.
        fs::write(dir.join(LIFE), started_ns.to_string())
    }
}

/// A start on the wall clock as field 22 of `stat`: ticks since boot. Before boot counts as at boot.
#[must_use]
pub fn start_ticks(started_wall_ns: i64, now: Reading) -> i64 {
    let started_boot_ns = now.boot_ns - (now.wall_ns - started_wall_ns);
    started_boot_ns.max(0) / TICK_NS
}

#[cfg(test)]
mod tests;
