//! A small disk that a test can fill, and free again.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount that goes with its test.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, said aloud, where this machine does not allow it.
    #[must_use]
    #[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
    pub fn mount(at: &Path, options: &str) -> Option<Self> {
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            refused => {
                eprintln!("SKIPPED: no tmpfs can be mounted here: {refused:?}");
                None
            }
        }
    }

    /// Takes all room that is left.
    ///
    /// # Errors
    /// If the file that takes it cannot be opened.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast())?;
        for bytes in [64 << 10, 4 << 10] {
            while file.write_all(&vec![1; bytes]).is_ok() {}
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// If it was not filled.
    pub fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
