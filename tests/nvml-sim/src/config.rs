//! The only file that reads the environment: a library that is loaded by its name has no other arguments.

use std::path::PathBuf;

/// The scenario to play.
pub const SCENARIO: &str = "NVML_SIM_SCENARIO";
/// Where to log the answers served.
pub const LOG: &str = "NVML_SIM_LOG";
/// A simulated clock's file.
pub const CLOCK: &str = "NVML_SIM_CLOCK";
/// A folder to keep as a fake `/proc`.
pub const PROC: &str = "NVML_SIM_PROC";

/// Where the driver's inputs and outputs are. Absent = not wanted; the clock is then the system's.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub scenario: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub clock: Option<PathBuf>,
    pub proc: Option<PathBuf>,
}

impl Config {
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the config file")]
    pub fn from_env() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { scenario: path(SCENARIO), log: path(LOG), clock: path(CLOCK), proc: path(PROC) }
    }
}
