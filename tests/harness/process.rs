//! One child process: started, signalled by its id, waited for, and never left behind.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_until;

/// Bytes of a log that an error shows.
const TAIL_BYTES: usize = 4_096;

/// A running child, or one that has ended and was not looked at yet. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the command not be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let output = open().with_context(|| format!("log {}", log.display()))?;
        let errors = output.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no line of its code runs any more.
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        // An ended child that was not waited for keeps its id, so this hits no stranger.
        self.child.kill().with_context(|| format!("kill -9 {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM: asks it to stop; [`Process::wait`] for the end.
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid out of range")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("kill -TERM {}", self.name))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// If it has not at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let (what, log) = (format!("the end of {}", self.name), self.log.clone());
        wait_until(deadline, &what, || tail(&log), || self.exited())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    #[must_use]
    pub fn log_tail(&self) -> String {
        format!("--- {} ---\n{}", self.name, tail(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// The end of a log, or why there is none.
#[must_use]
pub fn tail(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned(),
        Err(error) => format!("{}: {error}", path.display()),
    }
}

/// So many loopback ports that nobody has now and no later call gives again.
///
/// # Errors
/// If there are none.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = postgres_server::free_port()?;
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Process {
        Process::start("shell", Command::new("/bin/sh").args(["-c", script]), log).unwrap()
    }

    #[test]
    fn output_is_kept_and_the_end_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut process = shell("echo out; echo err >&2; exit 3", &log);
        assert_eq!(process.wait(Duration::from_secs(10)).unwrap().code(), Some(3));
        let tail = process.log_tail();
        assert!(tail.contains("out") && tail.contains("err"), "{tail}");
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_waited_for_in_vain_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut process = shell("trap '' TERM; echo ready; while :; do sleep 1; done", &log);
        let ready = || Ok(tail(&log).contains("ready").then_some(()));
        wait_until(Duration::from_secs(10), "the shell", || tail(&log), ready).unwrap();
        process.terminate().unwrap();
        let error = process.wait(Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("the end of shell") && error.contains("ready"), "{error}");
        process.kill9().unwrap();
        assert!(process.exited().unwrap().is_some());
    }

    #[test]
    fn ports_are_free_and_different() {
        let [a, b, c] = free_ports().unwrap();
        assert!(a != b && b != c && a != c && a != 0);
    }
}
