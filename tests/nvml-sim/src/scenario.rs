//! The scenario file: what is on the node, and when. Only shape and validity; [`crate::story`] gives it time.
//!
//! Times are seconds since scenario second 0, which `epoch_ns` puts on the wall clock.

use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) mod check;
pub mod cut;
mod faults;
mod parts;

pub use faults::{Faults, Garbage, Hang, Nonsense, Refuse};
pub use parts::{MigDevice, RemappedRows, Signals, Vgpu, Xid};

/// Everything that a simulated node is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Wall time of scenario second 0; absent = the moment the driver is loaded.
    pub epoch_ns: Option<i64>,
    /// Scenario seconds per second. Scales when things happen; time stamps served stay in the clock's own time.
    #[serde(default = "default_speed")]
    pub speed: f64,
    #[serde(default = "default_driver_version")]
    pub driver_version: String,
    /// Distance between two utilisation samples of one process.
    #[serde(default = "default_sample_period_ms")]
    pub sample_period_ms: u32,
    #[serde(default = "default_boot_id")]
    pub boot_id: String,
    /// The caller may see what is on MIG devices through the handle of the whole device.
    #[serde(default = "default_privileged")]
    pub privileged: bool,
    #[serde(default)]
    pub faults: Faults,
    #[serde(default)]
    pub device: Vec<Device>,
    #[serde(default)]
    pub process: Vec<Process>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub uuid: String,
    pub model: String,
    pub memory_bytes: u64,
    pub minor: u32,
    pub pci_bus_id: String,
    pub idle_mw: u32,
    /// Power at 100 percent; a scenario that runs more than that on one device draws more.
    pub busy_mw: u32,
    /// Gone from enumeration, and lost to those who hold a handle, from here
    pub missing_from_s: Option<f64>,
    /// to here (absent = for good).
    pub missing_to_s: Option<f64>,
    /// MIG mode is on, for a device that has `mig`, from here (absent = from the beginning)
    pub mig_from_s: Option<f64>,
    /// to here (absent = for good).
    pub mig_to_s: Option<f64>,
    /// MIG devices; absent = the device cannot be partitioned, empty = it is, and not cut into anything.
    pub mig: Option<Vec<MigDevice>>,
    #[serde(default)]
    pub signals: Signals,
    #[serde(default)]
    pub xid: Vec<Xid>,
    /// Absent = the device is no host of virtual GPUs.
    pub vgpu: Option<Vec<Vgpu>>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: u32,
    /// UUIDs; empty = on the node, on no GPU.
    #[serde(default)]
    pub devices: Vec<String>,
    /// UUID of the MIG device that it is on, of its one device; its utilisation is of that.
    pub instance: Option<String>,
    /// Which of NVML's process lists show it.
    #[serde(default = "default_lists")]
    pub lists: Vec<List>,
    pub start_s: f64,
    pub end_s: Option<f64>,
    /// Comes again every so often: the same pid with a new start time.
    pub repeat_s: Option<f64>,
    #[serde(default)]
    pub memory_bytes: u64,
    /// `[from, percent]` steps in seconds since its start; 0 before the first.
    #[serde(default)]
    pub utilisation: Vec<(f64, u32)>,
    /// By how much its utilisation samples are late.
    #[serde(default)]
    pub lag_us: u32,
    /// Lines of `/proc/<pid>/cgroup`.
    #[serde(default)]
    pub cgroup: Vec<String>,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub comm: String,
    /// The truth, for who judges the agent: the driver shows it to nobody.
    #[serde(default)]
    pub owner: String,
}

/// NVML's lists of processes with a context on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum List {
    Compute,
    Graphics,
    Mps,
}

/// A scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("cannot read scenario {path}")]
    Read { path: String, source: std::io::Error },
    #[error("scenario is not understood")]
    Parse(#[from] toml::de::Error),
    #[error("{field}: {value}: {reason}")]
    Invalid { field: String, value: String, reason: &'static str },
}

impl Scenario {
    /// # Errors
    /// If the file cannot be read, or [`Scenario::parse`] refuses it.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// # Errors
    /// If a field is unknown, missing or makes no sense; the error names it and its value.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// No device, no process, nothing wrong.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            epoch_ns: None,
            speed: default_speed(),
            driver_version: default_driver_version(),
            sample_period_ms: default_sample_period_ms(),
            boot_id: default_boot_id(),
            privileged: default_privileged(),
            faults: Faults::default(),
            device: Vec::new(),
            process: Vec::new(),
        }
    }
}

fn default_speed() -> f64 {
    1.0
}

fn default_driver_version() -> String {
    "580.95.05".to_owned()
}

fn default_sample_period_ms() -> u32 {
    1_000
}

fn default_boot_id() -> String {
    "5a1f9f7e-3f56-4f57-9c2e-2b6f6e0c7a11".to_owned()
}

fn default_privileged() -> bool {
    true
}

fn default_lists() -> Vec<List> {
    vec![List::Compute]
}

#[cfg(test)]
mod tests;
