//! One device: what it is, and a reading of it. What it does not support is asked for again after an enumeration only.

use std::sync::Arc;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::errors::{Missing, ask, is_gone, is_lasting, list_error};
use super::gpm::{Gpm, asked_for_gpm};
use super::mig::{self, Gpu, Mig};
use super::raw::{Buffers, Handle};
use super::signals;
use super::vgpu::Host;
use crate::driver::lives::Lives;
use crate::driver::processes;
use crate::driver::utilisation::Seen;
use crate::driver::xids::Xids;
use crate::model::{DeviceInfo, DeviceReading, GpmUse, Signals, UtilisationSample};

/// Reads between two of what hardly changes: instances, whether MIG is on, error counters.
const RARELY: u32 = 10;
/// Reads between two lists of instances, where the driver does not tell that a GPU was cut anew.
const UNTOLD: u32 = 5;

pub(super) struct Slot {
    pub(super) handle: Handle,
    pub(super) index: u32,
    pub(super) info: Arc<DeviceInfo>,
    pub(super) missing: Missing,
    pub(super) lost: bool,
    /// Where MIG is on.
    mig: Option<Mig>,
    /// MIG can be on.
    partitionable: bool,
    gpm: Gpm,
    gpm_asked: bool,
    host: Host,
    signals: Signals,
    reads: u32,
    /// It was cut anew, or MIG was switched, by the driver's word.
    cut_anew: bool,
}

/// What a reading needs beside the device.
pub(super) struct Tools<'a> {
    pub(super) nvml: &'a Nvml,
    pub(super) buffers: &'a mut Buffers,
    pub(super) seen: &'a mut Seen,
    pub(super) lives: &'a mut Lives,
    pub(super) xids: &'a Xids,
    /// Wall time in microseconds, and monotonic time.
    pub(super) now_us: u64,
    pub(super) now_ns: i64,
    pub(super) slow_signals: bool,
    /// The driver tells when this device is cut anew.
    pub(super) told: bool,
}

impl Slot {
    /// Takes what is known of the same device from `known`.
    pub(super) fn open(nvml: &Nvml, index: u32, known: &mut Vec<Self>) -> Result<Self, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let mut missing = Missing::new();
        let model = device.name()?;
        let mode = match device.mig_mode() {
            // For this once: the device would be another, of other slices.
            Err(error) if !is_lasting(&error) && !is_gone(&error) => return Err(error),
            mode => mode,
        };
        let partitioned = mode.as_ref().is_ok_and(|mode| mode.current == 1);
        let (slices, profiles) =
            if partitioned { mig::slices(&device, &model, &mut missing)? } else { (1, Vec::new()) };
        let info = DeviceInfo {
            uuid: device.uuid()?.into(),
            slices,
            model,
            memory_bytes: device.memory_info().map_or(0, |memory| memory.total),
            minor: device.minor_number().ok(),
            pci_bus_id: device.pci_info().map(|pci| pci.bus_id).unwrap_or_default(),
        };
        let handle = Handle::of(&device);
        let same = known.iter().position(|slot| *slot.info == info && slot.mig.is_some() == partitioned);
        let mut slot = match same {
            Some(at) => known.swap_remove(at),
            None => Self {
                handle,
                index,
                info: Arc::new(info),
                missing: Missing::new(),
                lost: false,
                mig: partitioned.then(|| Mig::new(profiles)),
                partitionable: mode.is_ok(),
                gpm: Gpm::default(),
                gpm_asked: false,
                host: Host::default(),
                signals: Signals::default(),
                reads: 0,
                cut_anew: false,
            },
        };
        (slot.handle, slot.index, slot.missing, slot.lost) = (handle, index, missing, false);
        (slot.partitionable, slot.gpm_asked) = (mode.is_ok(), false);
        if let Some(mig) = &mut slot.mig {
            mig.ask_again();
        }
        Ok(slot)
    }

    pub(super) fn note_cut(&mut self) {
        self.cut_anew = true;
        if let Some(mig) = &mut self.mig {
            mig.is_stale();
        }
    }

    /// The UUID of the instance that has these ids, if one is known.
    pub(super) fn instance(&self, ids: (u32, u32)) -> Option<Arc<str>> {
        self.mig.as_ref()?.instance(ids).map(|instance| Arc::clone(&instance.uuid))
    }

    /// MIG was switched on or off: the device is then another, in slices.
    pub(super) fn is_switched(&mut self, nvml: &Nvml) -> bool {
        let listing = self.mig.as_ref().is_some_and(Mig::is_due);
        let due = self.cut_anew || listing || self.turn();
        if !due || !self.partitionable {
            return false;
        }
        let mode = self.handle.device(nvml).mig_mode();
        // What cannot be asked now is asked by the next read.
        self.cut_anew &= mode.is_err();
        mode.is_ok_and(|mode| (mode.current == 1) != self.mig.is_some())
    }

    /// Once in so many reads, not all devices at once.
    fn turn(&self) -> bool {
        self.reads == 0 || self.reads.wrapping_add(self.index).is_multiple_of(RARELY)
    }

    pub(super) fn read(&mut self, tools: &mut Tools<'_>) -> DeviceReading {
        let device = self.handle.device(tools.nvml);
        let gpu = Gpu {
            nvml: tools.nvml,
            handle: self.handle,
            slices: self.info.slices,
            memory_bytes: self.info.memory_bytes,
            now_ns: tools.now_ns,
        };
        let every = if tools.told { RARELY } else { UNTOLD };
        let (mig, processes) = match &mut self.mig {
            Some(mig) => mig.read(&gpu, tools.buffers, tools.lives, &mut self.missing, every),
            None => {
                let listed = mig::lists(&gpu, self.handle, tools.buffers, &mut self.missing);
                (None, listed.map(|listed| processes::merge(listed.into_iter().map(|one| one.process))))
            }
        };
        let turn = self.turn();
        if turn {
            self.host.look(&device, &mut self.missing);
        }
        let guests = self.host.guests(&device, self.info.memory_bytes, &mut self.missing);
        let listed = processes.and_then(|processes| Ok((processes, guests?)));
        let listed = listed.map_err(|error| {
            self.lost |= matches!(error, NvmlError::GpuLost | NvmlError::Uninitialized);
            list_error(&error)
        });
        let (processes, vgpus) = match listed {
            Ok((processes, vgpus)) => (Ok(processes), vgpus),
            Err(reason) => (Err(reason), Vec::new()),
        };
        let utilisation = self.utilisation(tools);
        let gauges = signals::gauges(&device, &mut self.missing);
        signals::quick(&device, &mut self.missing, &mut self.signals);
        if turn {
            signals::rare(&device, &mut self.missing, &mut self.signals);
            if tools.slow_signals {
                self.signals.links = signals::slow(&device, &mut self.missing);
            }
        }
        self.signals.sees_instances = self.mig.as_ref().and_then(Mig::sees_instances);
        self.signals.gpm = if self.mig.is_none() { self.gpm(tools) } else { None };
        let energy_mj = ask(&mut self.missing, "energy counter", || device.total_energy_consumption());
        let signals = Signals { xids: tools.xids.totals(), ..self.signals.clone() };
        self.reads = self.reads.wrapping_add(1).max(1);
        DeviceReading {
            info: Arc::clone(&self.info),
            index: self.index,
            mig,
            processes,
            vgpus,
            utilisation,
            energy_mj,
            gauges,
            signals,
        }
    }

    fn utilisation(&mut self, tools: &mut Tools<'_>) -> Option<Vec<UtilisationSample>> {
        let since_us = tools.seen.since_us(tools.now_us);
        let (handle, is_host) = (self.handle, self.host.is_host());
        let what = if is_host { "utilisation per virtual GPU" } else { "utilisation per process" };
        let samples = ask(&mut self.missing, what, || {
            if is_host {
                Host::samples(tools.nvml, handle, since_us)
            } else {
                tools.buffers.samples(tools.nvml.lib(), handle, since_us)
            }
        })?;
        Some(tools.seen.accept(samples, tools.now_us))
    }

    /// Of the whole device.
    fn gpm(&mut self, tools: &Tools<'_>) -> Option<GpmUse> {
        const WHAT: &str = "utilisation by GPM";
        let lib = tools.nvml.lib();
        if !self.gpm_asked {
            self.gpm_asked = asked_for_gpm(lib, self.handle, WHAT, &mut self.missing);
        }
        if !self.gpm_asked || self.missing.contains_key(WHAT) {
            return None;
        }
        let used = self.gpm.read(lib, self.handle, None, &[], tools.now_ns);
        if let Err(error) = &used
            && is_lasting(error)
        {
            self.missing.insert(WHAT, error.to_string());
        }
        used.ok().flatten()
    }
}
