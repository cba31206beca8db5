//! NVML, and nothing but NVML: only this file and its folder touch `nvml-wrapper`.
//!
//! Flow: `session` (the library, its devices, what it tells) -> `slot` (one device) -> `mig` (its instances),
//! `gpm`, `signals`; `raw` has the calls that the wrapper lacks, and all `unsafe`. What to make of the numbers is
//! in the files beside this one, which are pure.
//!
//! When NVML as a whole fails it is shut down, and loaded anew by the next read: so a driver may be upgraded, or
//! installed, under a running agent.

use std::path::PathBuf;

use tonnage_runtime::clock::Clock;

use crate::driver::{Driver, DriverError, DriverInfo};
use crate::model::{DeviceReading, KnownInstance};

mod errors;
mod events;
mod gpm;
mod memory;
mod mig;
mod raw;
mod session;
mod signals;
mod slot;
mod vgpu;

use raw::Buffers;
use session::{Memory, Session};

/// Where the driver's packages put it, found by the loader.
pub const DEFAULT_LIBRARY: &str = "libnvidia-ml.so.1";

/// Shuts NVML down when dropped.
pub struct NvmlDriver {
    library: PathBuf,
    clock: Clock,
    session: Option<Session>,
    /// Devices at the last enumeration that saw any.
    before: usize,
    slow_signals: bool,
    memory: Memory,
    buffers: Buffers,
}

impl NvmlDriver {
    /// Loads nothing yet. `clock` is what sample timestamps are held against.
    #[must_use]
    pub fn new(library: PathBuf, clock: Clock) -> Self {
        let (memory, buffers) = (Memory::default(), Buffers::new());
        Self { library, clock, session: None, before: 0, slow_signals: false, memory, buffers }
    }

    /// So many devices were here in this boot of the node: none at all is then a failure.
    #[must_use]
    pub fn expecting(mut self, devices: usize) -> Self {
        self.before = devices;
        self
    }

    /// These instances were here in this boot of the node: the generations of their ids go on.
    #[must_use]
    pub fn knowing(mut self, instances: Vec<KnownInstance>) -> Self {
        for KnownInstance { device, instance, present } in instances {
            self.memory.lives.entry(device).or_default().know(instance, present);
        }
        self
    }

    /// Also reads what takes tens of milliseconds per device: PCIe and NVLink.
    #[must_use]
    pub fn with_slow_signals(mut self, wanted: bool) -> Self {
        self.slow_signals = wanted;
        self
    }
}

impl Driver for NvmlDriver {
    fn describe(&self) -> DriverInfo {
        self.session.as_ref().map(Session::describe).unwrap_or_default()
    }

    fn read(&mut self) -> Result<Vec<DeviceReading>, DriverError> {
        // Put back only when all went well: what failed is shut down here.
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.library)?,
        };
        session.hear(&mut self.memory);
        session.enumerate_if_due(self.before)?;
        self.before = if session.devices() == 0 { self.before } else { session.devices() };
        let at = self.clock.read();
        let readings = session.read(&mut self.buffers, &mut self.memory, at, self.slow_signals);
        self.session = Some(session);
        Ok(readings)
    }

    fn let_go(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.hear(&mut self.memory);
        }
    }
}
