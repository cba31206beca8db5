//! Why no device can be read, and what a person can do about it.

use std::path::PathBuf;

/// A reading that gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error(
        "cannot load NVML from {path} ({reason}). Install the NVIDIA driver on the node; in a container mount its \
         libraries (NVIDIA container runtime with NVIDIA_DRIVER_CAPABILITIES=utility), or name the library with \
         --nvml-library. On a node without GPUs use --driver none"
    )]
    Library { path: PathBuf, reason: String },

    #[error("NVML does not answer: {text}. {advice}")]
    Init { text: String, advice: &'static str },

    #[error(
        "no GPU is visible, but there were {before}: the reading counts as failed, not as idle. If the GPUs are \
         there, the container lost its access to them: restart it"
    )]
    NoneVisible { before: usize },

    #[error("NVML counts {count} GPUs, but none can be opened: {text}. {advice}")]
    NoneReadable { count: u32, text: String, advice: &'static str },
}
