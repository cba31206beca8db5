//! Where cargo put what is tested: beside the running executable, or one folder above it for tests.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The project's executables and the simulated driver.
#[derive(Debug, Clone)]
pub struct Binaries {
    pub agent: PathBuf,
    pub aggregator: PathBuf,
    pub cli: PathBuf,
    /// The simulated `libnvidia-ml.so.1`.
    pub nvml: PathBuf,
}

impl Binaries {
    /// # Errors
    /// If one of them is not built.
    pub fn find() -> anyhow::Result<Self> {
        let executable = std::env::current_exe().context("where this executable is")?;
        let beside = executable.parent().context("an executable without a folder")?;
        let dir = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
        Self::in_dir(dir)
    }

    /// # Errors
    /// If one of them is not in `dir`.
    pub fn in_dir(dir: &Path) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let path = dir.join(name);
            if !path.is_file() {
                bail!("{} is missing: run `cargo build --workspace` first", path.display());
            }
            Ok(path)
        };
        Ok(Self {
            agent: find("tonnage-agent")?,
            aggregator: find("tonnage-aggregator")?,
            cli: find("tonnage")?,
            nvml: find("libnvidia_ml.so")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_built_is_named_with_the_command_that_builds_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = Binaries::in_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tonnage-agent is missing: run `cargo build --workspace`"), "{error}");
    }
}
