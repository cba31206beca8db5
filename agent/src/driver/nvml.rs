//! NVML, and nothing but NVML: the only file that touches `nvml-wrapper`.
//!
//! Lists are asked for with one buffer of fixed size. NVML's own way (ask for the size, then for the list) races
//! against processes that start in between. A list that does not fit is an error, never a part of a list.
//!
//! Devices are enumerated at the first read, every 60 reads, when their number changes and when one is lost. What a
//! device does not support is asked for again only then. When NVML as a whole fails it is shut down, and loaded
//! anew by the next read: so a driver may be upgraded, or installed, under a running agent.
//!
//! Device handles are kept raw, since the wrapper's borrow the library: they live in `Session` beside it, and
//! are used only through it.
//!
//! A GPU with MIG on is read as a whole. Which MIG devices are on it is listed every 10 reads, since it may be cut anew
//! at any time. Their handles are not kept: who holds one may keep the GPU from being cut anew. Not for: what runs on a
//! MIG device.
#![allow(unsafe_code, reason = "NVML is C; the wrapper has no calls with a caller's buffer")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_uint;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlProcessInfo_t, nvmlProcessUtilizationSample_t, nvmlReturn_t,
};
use tonnage_runtime::clock::Clock;

use crate::driver::utilisation::Seen;
use crate::driver::{Driver, DriverError, DriverInfo, processes};
use crate::model::{
    DeviceInfo, DeviceProcess, DeviceReading, Gauges, Instance, InstanceReading, MigReading,
    UtilisationSample,
};

/// Where the driver's packages put it, found by the loader.
pub const DEFAULT_LIBRARY: &str = "libnvidia-ml.so.1";
const ENUMERATE_EVERY: u32 = 60;
const LIST_MIG_EVERY: u32 = 10;
/// What cannot be opened, as while a GPU is reset, is tried again after so many reads.
const RETRY_BROKEN_EVERY: u32 = 10;
/// Slots of a GPU for MIG devices that are looked into; GPUs have seven.
const MIG_SLOTS_MAX: u32 = 64;
/// Entries of each buffer. A GPU runs tens of processes; MPS allows 60 clients.
const ENTRIES: usize = 1024;

type ListCall = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut nvmlProcessInfo_t) -> nvmlReturn_t;
type NumberCall = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint) -> nvmlReturn_t;
/// What a device cannot tell, and why.
type Missing = BTreeMap<&'static str, String>;

/// Shuts NVML down when dropped.
pub struct NvmlDriver {
    library: PathBuf,
    clock: Clock,
    session: Option<Session>,
    /// Devices at the last enumeration that saw any.
    before: usize,
    /// By UUID, so that it outlives a session.
    seen: HashMap<Arc<str>, Seen>,
    buffers: Buffers,
}

impl NvmlDriver {
    /// Loads nothing yet. `clock` is what sample timestamps are held against.
    #[must_use]
    pub fn new(library: PathBuf, clock: Clock) -> Self {
        Self { library, clock, session: None, before: 0, seen: HashMap::new(), buffers: Buffers::new() }
    }

    /// So many devices were here in this boot of the node: none at all is then a failure.
    #[must_use]
    pub fn expecting(mut self, devices: usize) -> Self {
        self.before = devices;
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
        session.enumerate_if_due(self.before)?;
        self.before = if session.slots.is_empty() { self.before } else { session.slots.len() };
        let now_us = self.clock.wall_ns().max(0).unsigned_abs() / 1_000;
        let mut readings = Vec::with_capacity(session.slots.len());
        for slot in &mut session.slots {
            let seen = self.seen.entry(Arc::clone(&slot.info.uuid)).or_default();
            readings.push(slot.read(&session.nvml, &mut self.buffers, seen, now_us));
        }
        self.session = Some(session);
        Ok(readings)
    }

    fn let_go(&mut self) {
        self.session = None;
    }
}

/// One initialised library with its devices.
struct Session {
    nvml: Nvml,
    slots: Vec<Slot>,
    count: u32,
    /// Reads until the next enumeration.
    reads_left: u32,
    /// Devices that are counted but cannot be opened.
    broken: Vec<String>,
}

impl Session {
    fn open(library: &Path) -> Result<Self, DriverError> {
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init().map_err(|error| match error {
            NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => {
                DriverError::Library { path: library.to_owned(), reason: error.to_string() }
            }
            other => init_error(&other),
        })?;
        Ok(Self { nvml, slots: Vec::new(), count: 0, reads_left: 0, broken: Vec::new() })
    }

    fn describe(&self) -> DriverInfo {
        let of_devices = self.slots.iter().flat_map(|slot| {
            slot.missing.iter().map(|(what, why)| format!("{}: no {what}: {why}", slot.info.uuid))
        });
        DriverInfo {
            driver_version: self.nvml.sys_driver_version().unwrap_or_default(),
            nvml_version: self.nvml.sys_nvml_version().unwrap_or_default(),
            missing: self.broken.iter().cloned().chain(of_devices).collect(),
        }
    }

    fn enumerate_if_due(&mut self, before: usize) -> Result<(), DriverError> {
        let count = self.nvml.device_count().map_err(|error| init_error(&error))?;
        let lost = self.slots.iter().any(|slot| slot.lost);
        if count == self.count && self.reads_left > 0 && !lost {
            self.reads_left -= 1;
            return Ok(());
        }
        (self.count, self.reads_left) = (count, ENUMERATE_EVERY);
        let known = std::mem::take(&mut self.slots);
        self.broken.clear();
        let mut last_error = None;
        for index in 0..count {
            match Slot::open(&self.nvml, index, &known) {
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
        match last_error {
            _ if !self.slots.is_empty() => Ok(()),
            Some(error) => {
                Err(DriverError::NoneReadable { count, text: error.to_string(), advice: advice(&error) })
            }
            None if before > 0 => Err(DriverError::NoneVisible { before }),
            None => Ok(()),
        }
    }
}

/// NVML's name for a device; valid while the session's library is initialised.
#[derive(Clone, Copy)]
struct Handle(nvmlDevice_t);

// SAFETY: NVML is thread-safe, and its handles belong to the process, not to a thread.
unsafe impl Send for Handle {}

struct Slot {
    handle: Handle,
    index: u32,
    info: Arc<DeviceInfo>,
    missing: Missing,
    lost: bool,
    /// Where MIG is on.
    mig: Option<Mig>,
}

impl Slot {
    fn open(nvml: &Nvml, index: u32, known: &[Self]) -> Result<Self, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let model = device.name()?;
        let partitioned = device.mig_mode().is_ok_and(|mode| mode.current == 1);
        let info = DeviceInfo {
            uuid: device.uuid()?.into(),
            slices: if partitioned { whole_slices(&model) } else { 1 },
            model,
            memory_bytes: device.memory_info().map_or(0, |memory| memory.total),
            minor: device.minor_number().ok(),
            pci_bus_id: device.pci_info().map(|pci| pci.bus_id).unwrap_or_default(),
        };
        let same = known.iter().find(|slot| *slot.info == info);
        let mig = partitioned.then(|| Mig {
            devices: same.and_then(|slot| slot.mig.as_ref()).map_or_else(Vec::new, |mig| mig.devices.clone()),
            reads_left: 0,
        });
        let info = same.map_or_else(|| Arc::new(info), |slot| Arc::clone(&slot.info));
        // SAFETY: kept beside the library that gave it, see `Handle`.
        let handle = Handle(unsafe { device.handle() });
        Ok(Self { handle, index, info, missing: Missing::new(), lost: false, mig })
    }

    fn read(&mut self, nvml: &Nvml, buffers: &mut Buffers, seen: &mut Seen, now_us: u64) -> DeviceReading {
        // SAFETY: the handle is of this library's current life: a session's slots are dropped with it.
        let device = unsafe { Device::new(self.handle.0, nvml) };
        let mig = self.mig.as_mut().and_then(|mig| {
            let reading =
                |instance| InstanceReading { instance, processes: Ok(Vec::new()), utilisation: None };
            let instances = mig.read(&device, &mut self.missing).into_iter().map(reading).collect();
            (mig.reads_left <= LIST_MIG_EVERY).then_some(MigReading { instances, stranded_slices: None })
        });
        let processes = self.processes(nvml.lib(), buffers).map_err(|error| {
            self.lost |= matches!(error, NvmlError::GpuLost | NvmlError::Uninitialized);
            list_error(&error)
        });
        let utilisation = self.utilisation(nvml.lib(), buffers, seen, now_us);
        let missing = &mut self.missing;
        let energy_mj = ask(missing, "energy counter", || device.total_energy_consumption());
        let rates = ask(missing, "device utilisation", || device.utilization_rates());
        let memory = ask(missing, "memory in use", || device.memory_info());
        let gauges = Gauges {
            gpu_utilisation_percent: rates.map(|rates| rates.gpu).filter(|percent| *percent <= 100),
            memory_used_bytes: memory.map(|memory| memory.used),
            power_mw: ask(missing, "power", || device.power_usage()),
            temperature_celsius: ask(missing, "temperature", || device.temperature(TemperatureSensor::Gpu)),
        };
        DeviceReading {
            info: Arc::clone(&self.info),
            index: self.index,
            mig,
            processes,
            utilisation,
            energy_mj,
            gauges,
        }
    }

    fn processes(&mut self, lib: &NvmlLib, buffers: &mut Buffers) -> Result<Vec<DeviceProcess>, NvmlError> {
        let compute = lib.nvmlDeviceGetComputeRunningProcesses_v3.as_ref().map_err(missing_symbol)?;
        let mut listed = buffers.list(*compute, self.handle, self.info.memory_bytes)?;
        // The driver may lack these two: then a GPU's other processes are still known.
        let graphics = lib.nvmlDeviceGetGraphicsRunningProcesses_v3.as_ref().map_err(missing_symbol);
        let mps = lib.nvmlDeviceGetMPSComputeRunningProcesses_v3.as_ref().map_err(missing_symbol);
        for (what, call) in [("graphics processes", graphics), ("MPS clients", mps)] {
            if self.missing.contains_key(what) {
                continue;
            }
            match call.and_then(|call| buffers.list(*call, self.handle, self.info.memory_bytes)) {
                Ok(more) => listed.extend(more),
                Err(error) if is_lasting(&error) => {
                    self.missing.insert(what, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(processes::merge(listed))
    }

    fn utilisation(
        &mut self,
        lib: &NvmlLib,
        buffers: &mut Buffers,
        seen: &mut Seen,
        now_us: u64,
    ) -> Option<Vec<UtilisationSample>> {
        let since_us = seen.since_us(now_us);
        let samples = ask(&mut self.missing, "utilisation per process", || {
            buffers.samples(lib, self.handle, since_us)
        })?;
        Some(seen.accept(samples, now_us))
    }
}

/// The MIG devices of a GPU as they were listed last: data only, no handles.
struct Mig {
    devices: Vec<Arc<Instance>>,
    /// Reads until they are listed again.
    reads_left: u32,
}

impl Mig {
    /// Lists them if it is time. What fails for this once leaves what was known, and is tried again by the next read;
    /// what is refused is tried again after the next enumeration.
    fn read(&mut self, device: &Device<'_>, missing: &mut Missing) -> Vec<Arc<Instance>> {
        if self.reads_left > 0 {
            self.reads_left -= 1;
            return self.devices.clone();
        }
        let known = match Self::list(device, missing) {
            Ok(devices) => {
                (self.devices, self.reads_left) = (devices, LIST_MIG_EVERY - 1);
                "MIG devices are known for allocation".to_owned()
            }
            Err(error) if is_lasting(&error) => {
                (self.devices, self.reads_left) = (Vec::new(), u32::MAX);
                format!("MIG devices are not known: {error}")
            }
            Err(error) => format!("MIG devices could not be listed: {error}"),
        };
        missing.insert("MIG instances", format!("MIG is on, and the GPU is read as a whole; {known}"));
        self.devices.clone()
    }

    fn list(device: &Device<'_>, missing: &mut Missing) -> Result<Vec<Arc<Instance>>, NvmlError> {
        let mut devices = Vec::new();
        for slot in 0..device.mig_device_count()?.min(MIG_SLOTS_MAX) {
            match Self::open(device, slot, missing) {
                Ok(device) => devices.push(Arc::new(device)),
                // An empty slot, or one that was emptied just now.
                Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(devices)
    }

    fn open(device: &Device<'_>, slot: u32, missing: &mut Missing) -> Result<Instance, NvmlError> {
        let mig = device.mig_device_by_index(slot)?;
        let uuid = mig.uuid()?;
        let attributes = lacking("compute slices of MIG devices", mig.attributes(), missing)?;
        // A compute instance may be a part of its GPU instance.
        let slices = attributes.and_then(|of| {
            [of.compute_instance_slice_count, of.gpu_instance_slice_count].into_iter().find(|n| *n > 0)
        });
        let lib = mig.nvml().lib();
        let number = |call: Result<&NumberCall, NvmlError>| {
            let mut number = 0;
            // SAFETY: the handle was given just now, and the number has room.
            nvml_try(unsafe { call?(mig.handle(), &raw mut number) }).map(|()| number)
        };
        let gpu_instance = number(lib.nvmlDeviceGetGpuInstanceId.as_ref().map_err(missing_symbol));
        let compute_instance = number(lib.nvmlDeviceGetComputeInstanceId.as_ref().map_err(missing_symbol));
        Ok(Instance {
            uuid: uuid.into(),
            slices: slices.unwrap_or(1),
            slices_guessed: slices.is_none(),
            generation: 0,
            profile: String::new(),
            memory_bytes: 0,
            gpu_instance: lacking("GPU instances of MIG devices", gpu_instance, missing)?,
            compute_instance: lacking("compute instances of MIG devices", compute_instance, missing)?,
        })
    }
}

/// A100, H100, H200 and B200 have seven.
fn whole_slices(model: &str) -> u32 {
    if model.contains("A30") { 4 } else { 7 }
}

/// What a driver may lack for good is then not known.
fn lacking<T>(
    what: &'static str,
    answer: Result<T, NvmlError>,
    missing: &mut Missing,
) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_lasting(&error) => {
            missing.insert(what, error.to_string());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Reused for every call; NVML writes at most `ENTRIES` into each.
struct Buffers {
    processes: Vec<nvmlProcessInfo_t>,
    samples: Vec<nvmlProcessUtilizationSample_t>,
}

impl Buffers {
    fn new() -> Self {
        let process = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let sample = nvmlProcessUtilizationSample_t {
            pid: 0,
            timeStamp: 0,
            smUtil: 0,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        };
        Self { processes: vec![process; ENTRIES], samples: vec![sample; ENTRIES] }
    }

    fn list(&mut self, call: ListCall, handle: Handle, memory: u64) -> Result<Vec<DeviceProcess>, NvmlError> {
        let mut count = room(&self.processes);
        // SAFETY: the handle is live, and the buffer has room for `count` entries.
        nvml_try(unsafe { call(handle.0, &raw mut count, self.processes.as_mut_ptr()) })?;
        fits(&self.processes, count)?;
        let process = |info: &nvmlProcessInfo_t| DeviceProcess {
            pid: info.pid,
            mps_client: false,
            memory_bytes: processes::memory(info.usedGpuMemory, memory),
        };
        Ok(filled(&self.processes, count).map(process).collect())
    }

    fn samples(
        &mut self,
        lib: &NvmlLib,
        handle: Handle,
        since_us: u64,
    ) -> Result<Vec<UtilisationSample>, NvmlError> {
        let call = lib.nvmlDeviceGetProcessUtilization.as_ref().map_err(missing_symbol)?;
        let mut count = room(&self.samples);
        // SAFETY: as in `list`.
        let code = unsafe { call(handle.0, self.samples.as_mut_ptr(), &raw mut count, since_us) };
        match nvml_try(code) {
            // An idle GPU.
            Err(NvmlError::NotFound) => return Ok(Vec::new()),
            other => other?,
        }
        fits(&self.samples, count)?;
        let sample = |raw: &nvmlProcessUtilizationSample_t| UtilisationSample {
            pid: raw.pid,
            timestamp_us: raw.timeStamp,
            sm_percent: raw.smUtil,
        };
        Ok(filled(&self.samples, count).map(sample).collect())
    }
}

fn room<T>(buffer: &[T]) -> c_uint {
    c_uint::try_from(buffer.len()).unwrap_or(c_uint::MAX)
}

/// A driver may call it a success and mean that there was no room.
fn fits<T>(buffer: &[T], count: c_uint) -> Result<(), NvmlError> {
    if count <= room(buffer) { Ok(()) } else { Err(NvmlError::InsufficientSize(None)) }
}

fn filled<T>(buffer: &[T], count: c_uint) -> impl Iterator<Item = &T> {
    buffer.iter().take(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Asks unless the device has answered before that it cannot.
fn ask<T>(
    missing: &mut Missing,
    what: &'static str,
    answer: impl FnOnce() -> Result<T, NvmlError>,
) -> Option<T> {
    if missing.contains_key(what) {
        return None;
    }
    match answer() {
        Ok(value) => Some(value),
        Err(error) => {
            if is_lasting(&error) {
                missing.insert(what, error.to_string());
            }
            None
        }
    }
}

fn is_lasting(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
    )
}

fn missing_symbol(error: &impl std::fmt::Display) -> NvmlError {
    NvmlError::FailedToLoadSymbol(error.to_string())
}

fn list_error(error: &NvmlError) -> String {
    match error {
        NvmlError::InsufficientSize(_) => format!("more than {ENTRIES} processes on the device"),
        NvmlError::FailedToLoadSymbol(_) => format!("the driver is too old to list processes: {error}"),
        other => other.to_string(),
    }
}

fn init_error(error: &NvmlError) -> DriverError {
    DriverError::Init { text: error.to_string(), advice: advice(error) }
}

fn advice(error: &NvmlError) -> &'static str {
    match error {
        NvmlError::LibRmVersionMismatch => {
            "The driver was upgraded while it was loaded: reload its kernel modules or reboot; a container that \
             mounts the old libraries must be restarted"
        }
        NvmlError::Unknown => {
            "A container that lost its access to the GPUs shows it so (`systemctl daemon-reload` on the node does \
             that): restart the container"
        }
        NvmlError::DriverNotLoaded => {
            "Load the kernel module (`modprobe nvidia`) and look into the kernel's log"
        }
        NvmlError::NoPermission => "The agent needs to open /dev/nvidiactl and /dev/nvidia<n>",
        NvmlError::GpuLost | NvmlError::ResetRequired => {
            "Look for Xid errors in the kernel's log; reset the GPU or reboot"
        }
        _ => "Look into the kernel's log for lines of NVRM",
    }
}
