//! A simulated NVIDIA driver: NVML's C ABI over a scenario file.
//!
//! Flow: [`config`] (environment) -> [`scenario`] (the file) -> [`story`] (pure: scenario and time give the
//! node's state) -> [`driver`] (one process's view of it, with its [`served`] log and [`fake_proc`]) -> [`abi`]
//! (C in, C out, nothing else).
//!
//! Constraints: every answer is a function of the scenario and of one reading of the clock, so that the log of
//! answers and the scenario are enough to judge the agent by. It behaves as real drivers do where that has hurt
//! people: an idle GPU's utilisation is an error, lists that do not fit say how long they are, samples lag.
//!
//! Non-goals: being fast, being complete. Functions that the agent does not call are not here; a caller sees
//! them as it would in an old driver, as a missing symbol.

pub mod abi;
pub mod config;
pub mod driver;
pub mod fake_proc;
pub mod handles;
pub mod models;
pub mod scenario;
pub mod served;
pub mod story;

use serde::{Deserialize, Serialize};

/// Why a call was not answered: NVML's error codes, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    Uninitialized,
    InvalidArgument,
    NotSupported,
    NoPermission,
    NotFound,
    InsufficientSize,
    DriverNotLoaded,
    FunctionNotFound,
    GpuIsLost,
    /// Nothing happened while it was waited for.
    Timeout,
    ResetRequired,
    LibRmVersionMismatch,
    OperatingSystem,
    ArgumentVersionMismatch,
    Unknown,
}
