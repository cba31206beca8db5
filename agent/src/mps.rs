//! Looks after MPS: whether its control daemon and servers run, and what a daemon says clients are limited to by default.
//!
//! A task that keeps what it saw for metrics alone: nothing is billed by it, and nobody waits for it. It looks through
//! `/proc` every half minute. Daemons are asked only where `--mps.control` names NVIDIA's program, by a call for each
//! figure with nothing in its environment but the pipe's folder; time and bytes of an answer are limited. Who may write
//! to that folder can answer in the daemon's place, which is why it is no evidence.
//!
//! Not for: whose the clients are (`attribution`), limits of single servers or clients.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tonnage_runtime::shutdown::Shutdown;

use crate::attribution::mps::{Present, present};

/// Where CUDA looks for a daemon by default.
pub const DEFAULT_PIPE_DIRECTORY: &str = "/tmp/nvidia-mps";
const LOOK_EVERY: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 4096;
/// Devices of one daemon that are asked for, by its own numbers.
const DEVICES_MAX: usize = 16;

/// What to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// NVIDIA's `nvidia-cuda-mps-control`; `None`: no daemon is asked.
    pub control: Option<PathBuf>,
    /// One for each daemon.
    pub pipe_directories: Vec<PathBuf>,
}

/// What is known of MPS on this node by now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub present: Present,
    /// Something of MPS ran here once.
    pub was_there: bool,
    pub daemons: Vec<Daemon>,
}

/// What a daemon says.
#[derive(Debug, Clone, PartialEq)]
pub struct Daemon {
    pub pipe_directory: String,
    /// `None`: it did not say, or not so that it could be understood.
    pub thread_percentage: Option<f64>,
    /// By the daemon's own numbers of devices, as far as it said.
    pub pinned_memory_bytes: Vec<u64>,
}

/// What the task knows, shared with who shows it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<Mutex<Seen>>);

impl View {
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Mps {
    pub settings: Settings,
    /// `/proc`, or where the host's is mounted.
    pub procfs: PathBuf,
    pub view: View,
}

impl Mps {
    /// Looks until told to stop.
    pub async fn run(self, stop: Shutdown) {
        tokio::select! {
            () = self.look_for_ever() => {}
            () = stop.wait() => {}
        }
    }

    async fn look_for_ever(&self) {
        loop {
            let procfs = self.procfs.clone();
            let present = tokio::task::spawn_blocking(move || present(&procfs)).await.unwrap_or_default();
            let mut daemons = Vec::new();
            if let Some(control) = &self.settings.control {
                for pipe_directory in &self.settings.pipe_directories {
                    daemons.push(daemon(control, pipe_directory).await);
                }
            }
            {
                let mut seen = self.view.0.lock().unwrap_or_else(PoisonError::into_inner);
                seen.was_there |= present != Present::default();
                (seen.present, seen.daemons) = (present, daemons);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn daemon(control: &Path, pipe_directory: &Path) -> Daemon {
    let answer = ask(control, pipe_directory, "get_default_active_thread_percentage").await;
    let thread_percentage = answer.and_then(|answer| percentage(&answer));
    let mut pinned_memory_bytes = Vec::new();
    while pinned_memory_bytes.len() < DEVICES_MAX && thread_percentage.is_some() {
        let command = format!("get_default_device_pinned_mem_limit {}", pinned_memory_bytes.len());
        let Some(bytes) = ask(control, pipe_directory, &command).await.and_then(|answer| bytes(&answer))
        else {
            break;
        };
        pinned_memory_bytes.push(bytes);
    }
    let pipe_directory = pipe_directory.display().to_string();
    Daemon { pipe_directory, thread_percentage, pinned_memory_bytes }
}

/// The answer to one command. `None`: no daemon is there, or it took too long.
async fn ask(control: &Path, pipe_directory: &Path, command: &str) -> Option<String> {
    let asking = async {
        let mut child = Command::new(control)
            .env_clear()
            .env("CUDA_MPS_PIPE_DIRECTORY", pipe_directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        // Closed once it is written: the program ends when it has worked off its input.
        let mut input = child.stdin.take()?;
        input.write_all(format!("{command}\n").as_bytes()).await.ok()?;
        drop(input);
        let mut answer = Vec::new();
        child.stdout.take()?.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
        let status = child.wait().await.ok()?;
        status.success().then(|| String::from_utf8_lossy(&answer).trim().to_owned())
    };
    tokio::time::timeout(ANSWER_WITHIN, asking).await.ok().flatten()
}

/// "100.0", of all threads.
fn percentage(answer: &str) -> Option<f64> {
    let percentage: f64 = answer.parse().ok()?;
    (0.0..=100.0).contains(&percentage).then_some(percentage)
}

/// A whole number with G or M, as the daemon takes it too. A bare one is of no unit that is written down anywhere.
fn bytes(answer: &str) -> Option<u64> {
    let answer = answer.strip_suffix(['b', 'B']).unwrap_or(answer);
    let (number, shift) = match answer.strip_suffix(['g', 'G']) {
        Some(number) => (number, 30),
        None => (answer.strip_suffix(['m', 'M'])?, 20),
    };
    number.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn figures_that_are_not_understood_are_unknown() {
        assert_eq!(["100.0", "25", "0"].map(percentage), [Some(100.0), Some(25.0), Some(0.0)]);
        assert_eq!(
            ["", "101", "-1", "NaN", "Cannot find MPS control daemon process"].map(percentage),
            [None; 5]
        );
        assert_eq!(["2G", "512M", "1024MB"].map(bytes), [Some(2 << 30), Some(512 << 20), Some(1 << 30)]);
        assert_eq!(
            ["", "2", "G", "-1G", "99999999999999999999M", "18446744073709551615G"].map(bytes),
            [None; 6]
        );
    }

    /// Asks a program made of a shell's words.
    fn asked(script: &str) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("control");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(daemon(&program, Path::new("/a/pipe")))
    }

    #[test]
    fn a_daemon_is_asked_by_its_pipe_with_nothing_else_in_the_environment() {
        let daemon = asked(
            r#"read -r command device
            test "$CUDA_MPS_PIPE_DIRECTORY$HOME" = /a/pipe || exit 1
            case "$command $device" in
            "get_default_active_thread_percentage ") echo 50.0 ;;
            "get_default_device_pinned_mem_limit 0") echo 10G ;;
            "get_default_device_pinned_mem_limit 1") echo 512M ;;
            *) echo "no such device" ;;
            esac"#,
        );
        let pinned_memory_bytes = vec![10 << 30, 512 << 20];
        let pipe_directory = "/a/pipe".to_owned();
        assert_eq!(daemon, Daemon { pipe_directory, thread_percentage: Some(50.0), pinned_memory_bytes });
    }

    #[test]
    fn a_daemon_that_is_not_there_or_says_too_much_says_nothing() {
        for script in ["exit 1", "cat >/dev/null; yes 50.0"] {
            let daemon = asked(script);
            assert_eq!(
                (daemon.thread_percentage, daemon.pinned_memory_bytes),
                (None, Vec::new()),
                "{script}"
            );
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_no_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let daemon = runtime.block_on(daemon(Path::new("/no/such/program"), Path::new("/a/pipe")));
        assert_eq!(daemon.thread_percentage, None);
    }
}
