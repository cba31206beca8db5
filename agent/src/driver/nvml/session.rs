//! One initialised library with its devices.
//!
//! Devices are enumerated at the first read, every 60 reads, when their number changes and when one is lost. When NVML
//! as a whole fails the session is dropped, and the next read opens another.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use tonnage_runtime::clock::Reading;

use super::errors::{advice, init_error};
use super::events::{CUT_ANEW, Events, XID};
use super::raw::Buffers;
use super::slot::{Slot, Tools};
use crate::driver::lives::Lives;
use crate::driver::utilisation::Seen;
use crate::driver::xids::Xids;
use crate::driver::{DriverError, DriverInfo};
use crate::model::DeviceReading;

const ENUMERATE_EVERY: u32 = 60;
/// What cannot be opened, as while a GPU is reset, is tried again after so many reads.
const RETRY_BROKEN_EVERY: u32 = 10;

/// What of the devices outlives a session, by UUID.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) seen: HashMap<Arc<str>, Seen>,
    pub(super) lives: HashMap<Arc<str>, Lives>,
    pub(super) xids: HashMap<Arc<str>, Xids>,
}

/// Dropped from the top to the bottom: all that NVML gave before NVML itself.
pub(super) struct Session {
    events: Events,
    slots: Vec<Slot>,
    count: u32,
    /// Reads until the next enumeration.
    reads_left: u32,
    /// Devices that are counted but cannot be opened.
    broken: Vec<String>,
    nvml: Nvml,
}

impl Session {
    pub(super) fn open(library: &Path) -> Result<Self, DriverError> {
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init().map_err(|error| match error {
            NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => {
                DriverError::Library { path: library.to_owned(), reason: error.to_string() }
            }
            other => init_error(&other),
        })?;
        let (events, slots, broken) = (Events::default(), Vec::new(), Vec::new());
        Ok(Self { events, slots, count: 0, reads_left: 0, broken, nvml })
    }

    pub(super) fn devices(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn describe(&self) -> DriverInfo {
        let of_devices = self.slots.iter().flat_map(|slot| {
            let untold = (!self.events.tells(slot.handle, XID))
                .then(|| format!("{}: no events: the driver does not tell of errors (XID)", slot.info.uuid));
            let missing = slot.missing.iter();
            missing.map(|(what, why)| format!("{}: no {what}: {why}", slot.info.uuid)).chain(untold)
        });
        DriverInfo {
            driver_version: self.nvml.sys_driver_version().unwrap_or_default(),
            nvml_version: self.nvml.sys_nvml_version().unwrap_or_default(),
            missing: self.broken.iter().cloned().chain(of_devices).collect(),
        }
    }

    /// `before`: so many devices were there.
    pub(super) fn enumerate_if_due(&mut self, before: usize) -> Result<(), DriverError> {
        let count = self.nvml.device_count().map_err(|error| init_error(&error))?;
        let lost = self.slots.iter().any(|slot| slot.lost);
        if count == self.count && self.reads_left > 0 && !lost {
            self.reads_left -= 1;
            return Ok(());
        }
        (self.count, self.reads_left) = (count, ENUMERATE_EVERY);
        let mut known = std::mem::take(&mut self.slots);
        self.broken.clear();
        let mut last_error = None;
        for index in 0..count {
            match Slot::open(&self.nvml, index, &mut known) {
                Ok(slot) => self.slots.push(slot),
                Err(error) => {
                    self.broken.push(format!("device {index} cannot be opened: {error}"));
                    last_error = Some(error);
                }
            }
        }
        if !self.broken.is_empty() {
            self.reads_left = RETRY_BROKEN_EVERY;
        }
        let handles: Vec<_> = self.slots.iter().map(|slot| slot.handle).collect();
        self.events.listen(self.nvml.lib(), &handles, lost);
        match last_error {
            _ if !self.slots.is_empty() => Ok(()),
            Some(error) => {
                Err(DriverError::NoneReadable { count, text: error.to_string(), advice: advice(&error) })
            }
            None if before > 0 => Err(DriverError::NoneVisible { before }),
            None => Ok(()),
        }
    }

    /// Counts and notes what was told, before an enumeration may begin to listen anew and so drop what waits.
    pub(super) fn hear(&mut self, memory: &mut Memory) {
        for event in self.events.take(self.nvml.lib()) {
            let Some(slot) = self.slots.iter_mut().find(|slot| slot.handle == event.handle) else { continue };
            match event.kind {
                XID => {
                    let instance = event.ids.and_then(|ids| slot.instance(ids));
                    memory.xids.entry(Arc::clone(&slot.info.uuid)).or_default().count(event.data, instance);
                }
                CUT_ANEW => slot.note_cut(),
                _ => {}
            }
        }
    }

    pub(super) fn read(
        &mut self,
        buffers: &mut Buffers,
        memory: &mut Memory,
        at: Reading,
        slow_signals: bool,
    ) -> Vec<DeviceReading> {
        let mut readings = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            let lives = memory.lives.entry(Arc::clone(&slot.info.uuid)).or_default();
            if slot.is_switched(&self.nvml) {
                // Numbers of devices may have changed with it.
                self.reads_left = 0;
                match Slot::open(&self.nvml, slot.index, &mut Vec::new()) {
                    Ok(opened) => {
                        // Whatever was there is gone.
                        lives.listed(Vec::new());
                        *slot = opened;
                    }
                    Err(_) => slot.note_cut(),
                }
            }
            let seen = memory.seen.entry(Arc::clone(&slot.info.uuid)).or_default();
            let xids = memory.xids.entry(Arc::clone(&slot.info.uuid)).or_default();
            readings.push(slot.read(&mut Tools {
                nvml: &self.nvml,
                buffers,
                seen,
                lives,
                xids,
                now_us: at.wall_ns.max(0).unsigned_abs() / 1_000,
                now_ns: at.monotonic_ns,
                slow_signals,
                told: self.events.tells(slot.handle, CUT_ANEW),
            }));
        }
        readings
    }
}
