//! Reading the node's GPUs. [`nvml`] and its folder are the only part of the project that touches NVML; the rest of
//! `driver/` is pure and says what to make of what NVML returned.
//!
//! A driver may block for as long as the kernel module likes, so it runs on the sampler's own thread. Failing is
//! not fatal: the time is unobserved, and the next read tries again, from loading the library if need be.
//!
//! Not for: owners, or time.

mod error;
mod lives;
pub mod nvml;
mod partition;
mod processes;
mod utilisation;
mod xids;

pub use error::DriverError;

use crate::model::DeviceReading;

/// Where readings come from.
pub trait Driver: Send {
    /// What is known of the driver by now; what is missing is known after the first reading.
    fn describe(&self) -> DriverInfo;

    /// Reads every device. A device that could not be read at all is absent, one whose processes could not be
    /// listed says so itself.
    ///
    /// # Errors
    /// If no device can be read: no library, no driver, or no visible GPU where there were some.
    fn read(&mut self) -> Result<Vec<DeviceReading>, DriverError>;

    /// Gives back all that is held of the driver; the next reading takes it up again.
    fn let_go(&mut self) {}
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverInfo {
    /// E.g. "550.54.15"; empty where unknown.
    pub driver_version: String,
    pub nvml_version: String,
    /// What cannot be measured and on which device, for people. Empty: everything can.
    pub missing: Vec<String>,
}

/// `--driver none`: a node without GPUs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDriver;

impl Driver for NoDriver {
    fn describe(&self) -> DriverInfo {
        DriverInfo::default()
    }

    fn read(&mut self) -> Result<Vec<DeviceReading>, DriverError> {
        Ok(Vec::new())
    }
}
