//! Settings of MPS.

use std::path::PathBuf;

use clap::Args;
use tonnage_runtime::settings::{SettingsError, wrong};

use super::File;
use crate::mps::{DEFAULT_PIPE_DIRECTORY, Settings};

/// Daemons that one node may have: a few for each resource of a device plugin.
const PIPE_DIRECTORIES_MAX: usize = 32;

#[derive(Debug, Default, Args)]
pub(super) struct MpsArgs {
    /// NVIDIA's nvidia-cuda-mps-control, to ask daemons of MPS what clients are limited to by default; without it none
    /// is asked
    #[arg(long = "mps.control", value_name = "FILE", env = "TONNAGE_MPS_CONTROL")]
    pub(super) mps_control: Option<PathBuf>,
    /// A daemon's CUDA_MPS_PIPE_DIRECTORY; may be repeated [default: /tmp/nvidia-mps]
    #[arg(long = "mps.pipe-directory", value_name = "DIR")]
    pub(super) mps_pipe_directory: Vec<PathBuf>,
}

/// Flags outweigh the file.
pub(super) fn resolve(args: MpsArgs, file: &mut File) -> Result<Settings, SettingsError> {
    let control = args.mps_control.or(file.mps_control.take());
    let mut pipe_directories = args.mps_pipe_directory;
    if pipe_directories.is_empty() {
        pipe_directories = std::mem::take(&mut file.mps_pipe_directory);
    }
    if let Some(path) = control.as_ref().filter(|path| !path.is_absolute()) {
        return Err(wrong("mps_control", path.display(), "use a path that begins with /"));
    }
    if let Some(path) = pipe_directories.iter().find(|path| !path.is_absolute()) {
        return Err(wrong("mps_pipe_directory", path.display(), "use a path that begins with /"));
    }
    if pipe_directories.len() > PIPE_DIRECTORIES_MAX {
        let right = format!("name at most {PIPE_DIRECTORIES_MAX}");
        return Err(wrong("mps_pipe_directory", pipe_directories.len(), right));
    }
    if pipe_directories.is_empty() {
        pipe_directories.push(DEFAULT_PIPE_DIRECTORY.into());
    }
    Ok(Settings { control, pipe_directories })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(control: &str, pipes: &[&str]) -> Result<Settings, SettingsError> {
        let mps_pipe_directory = pipes.iter().map(PathBuf::from).collect();
        resolve(MpsArgs { mps_control: Some(control.into()), mps_pipe_directory }, &mut File::default())
    }

    #[test]
    fn the_daemon_that_cuda_finds_by_itself_is_the_default() {
        assert_eq!(resolved("/bin/c", &[]).unwrap().pipe_directories, [PathBuf::from("/tmp/nvidia-mps")]);
        assert_eq!(resolved("/bin/c", &["/a", "/b"]).unwrap().pipe_directories.len(), 2);
    }

    #[test]
    fn a_relative_path_and_too_many_daemons_are_wrong() {
        let cases = [("c", vec![], "mps_control"), ("/c", vec!["a"], "mps_pipe_directory")];
        let many = ("/c", vec!["/a"; PIPE_DIRECTORIES_MAX + 1], "mps_pipe_directory");
        for (control, pipes, field) in cases.into_iter().chain([many]) {
            let error = resolved(control, &pipes).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
