//! A load for real GPUs that needs no CUDA toolkit: the driver's own library compiles its kernel.
//!
//! Not for: speed of anything, and any figure that is billed.

pub mod cuda;
pub mod duty;
pub mod ptx;

use serde::{Deserialize, Serialize};

/// What the load says once it has a context on the GPU. One line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// As NVML writes it.
    pub uuid: String,
    pub wall_ns: i64,
}

/// What it says at its end. One line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Time that its kernels ran, by the GPU's own events.
    pub busy_ns: u64,
    pub wall_ns: i64,
}
