//! NVML's C calls that the wrapper does not have, or not with a caller's buffer: the driver's one file with `unsafe`.
//!
//! Handles are kept raw, since the wrapper's borrow the library. A [`Handle`], a [`GpmSample`] and an [`EventSet`] live
//! in a session beside the library that gave them, and are dropped before it: that is what makes their use here sound.
//!
//! Lists are asked for with one buffer of fixed size. NVML's own way (ask for the size, then for the list) races
//! against processes that start in between. A list that does not fit is an error, never a part of a list.
#![allow(unsafe_code, reason = "NVML is C; the wrapper lacks these calls")]

use std::ffi::{CStr, c_char, c_uint};

use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    NVML_GPM_METRICS_GET_VERSION, NVML_GPM_SUPPORT_VERSION, NvmlLib,
    field_id::{NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX},
    nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t, nvmlGpmMetricsGet_t, nvmlGpmSample_t,
    nvmlGpmSupport_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t, nvmlProcessInfo_t,
    nvmlProcessUtilizationSample_t, nvmlReturn_t, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT as UNSIGNED_INT,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG as UNSIGNED_LONG,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG as UNSIGNED_LONG_LONG, nvmlValueType_t,
    nvmlVgpuInstance_t, nvmlVgpuInstanceUtilizationSample_t,
};

use super::errors::missing_symbol;
use crate::driver::processes;
use crate::model::{DeviceProcess, RemappedRows, UtilisationSample};

/// Entries of each buffer. A GPU runs tens of processes; MPS allows 60 clients.
pub(super) const ENTRIES: usize = 1024;
/// What NVML says instead of an instance's number where there is none.
const NO_INSTANCE: c_uint = c_uint::MAX;

type ListCall = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut nvmlProcessInfo_t) -> nvmlReturn_t;
type NumberCall = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint) -> nvmlReturn_t;

/// NVML's name for a device; valid while the session's library is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(nvmlDevice_t);

// SAFETY: NVML is thread-safe, and its handles belong to the process, not to a thread.
unsafe impl Send for Handle {}

impl Handle {
    /// To be kept beside the library that gave the device.
    pub(super) fn of(device: &Device<'_>) -> Self {
        // SAFETY: the pointer is not followed; see the module for how long it is used.
        Self(unsafe { device.handle() })
    }

    /// The wrapper's calls for it.
    pub(super) fn device(self, nvml: &Nvml) -> Device<'_> {
        // SAFETY: the handle is of this library's current life, see the module.
        unsafe { Device::new(self.0, nvml) }
    }
}

/// One of NVML's lists of processes on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Compute,
    Graphics,
    Mps,
}

/// A process, and the GPU instance and compute instance that it is on by the driver's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) process: DeviceProcess,
    pub(super) ids: Option<(u32, u32)>,
}

/// Reused for every call; NVML writes at most `ENTRIES` into each.
pub(super) struct Buffers {
    processes: Vec<nvmlProcessInfo_t>,
    samples: Vec<nvmlProcessUtilizationSample_t>,
}

impl Buffers {
    pub(super) fn new() -> Self {
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

    /// `memory`: bytes of the device, which no process has more of.
    pub(super) fn list(
        &mut self,
        lib: &NvmlLib,
        list: List,
        handle: Handle,
        memory: u64,
    ) -> Result<Vec<Listed>, NvmlError> {
        let call: &ListCall = match list {
            List::Compute => lib.nvmlDeviceGetComputeRunningProcesses_v3.as_ref(),
            List::Graphics => lib.nvmlDeviceGetGraphicsRunningProcesses_v3.as_ref(),
            List::Mps => lib.nvmlDeviceGetMPSComputeRunningProcesses_v3.as_ref(),
        }
        .map_err(missing_symbol)?;
        let mut count = room(&self.processes);
        // SAFETY: the handle is live, and the buffer has room for `count` entries.
        nvml_try(unsafe { call(handle.0, &raw mut count, self.processes.as_mut_ptr()) })?;
        fits(&self.processes, count)?;
        let listed = |info: &nvmlProcessInfo_t| {
            let process = DeviceProcess {
                pid: info.pid,
                mps_client: list == List::Mps,
                memory_bytes: processes::memory(info.usedGpuMemory, memory),
            };
            let (gpu, compute) = (info.gpuInstanceId, info.computeInstanceId);
            Listed { process, ids: (gpu != NO_INSTANCE && compute != NO_INSTANCE).then_some((gpu, compute)) }
        };
        Ok(filled(&self.processes, count).map(listed).collect())
    }

    pub(super) fn samples(
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

/// Numbers of a MIG device's GPU instance.
pub(super) fn gpu_instance(mig: &Device<'_>) -> Result<u32, NvmlError> {
    number(mig, mig.nvml().lib().nvmlDeviceGetGpuInstanceId.as_ref().map_err(missing_symbol)?)
}

/// And of its compute instance in that.
pub(super) fn compute_instance(mig: &Device<'_>) -> Result<u32, NvmlError> {
    number(mig, mig.nvml().lib().nvmlDeviceGetComputeInstanceId.as_ref().map_err(missing_symbol)?)
}

fn number(device: &Device<'_>, call: &NumberCall) -> Result<u32, NvmlError> {
    let mut number = 0;
    // SAFETY: the handle is the device's, and the number has room.
    nvml_try(unsafe { call(device.handle(), &raw mut number) }).map(|()| number)
}

/// How many more GPU instances of a profile fit.
pub(super) fn remaining_capacity(device: &Device<'_>, profile_id: u32) -> Result<u32, NvmlError> {
    let lib = device.nvml().lib();
    let call = lib.nvmlDeviceGetGpuInstanceRemainingCapacity.as_ref().map_err(missing_symbol)?;
    let mut count = 0;
    // SAFETY: as in `number`.
    nvml_try(unsafe { call(device.handle(), profile_id, &raw mut count) }).map(|()| count)
}

/// Memory slices that one GPU instance of a profile takes; `None` where the GPU has no place for any.
pub(super) fn profile_memory_slices(device: &Device<'_>, profile_id: u32) -> Result<Option<u32>, NvmlError> {
    let lib = device.nvml().lib();
    let call = lib.nvmlDeviceGetGpuInstancePossiblePlacements_v2.as_ref().map_err(missing_symbol)?;
    // GPUs have eight memory slices, at each of which one may begin.
    let mut places = [nvmlGpuInstancePlacement_t { start: 0, size: 0 }; 64];
    let mut count = room(&places);
    // SAFETY: the handle is the device's, and the buffer has room for `count` places.
    nvml_try(unsafe { call(device.handle(), profile_id, places.as_mut_ptr(), &raw mut count) })?;
    Ok(filled(&places, count).map(|place| place.size).max())
}

/// Memory slices that a GPU instance has.
pub(super) fn memory_slices(device: &Device<'_>, gpu_instance: u32) -> Result<u32, NvmlError> {
    let lib = device.nvml().lib();
    let by_id = lib.nvmlDeviceGetGpuInstanceById.as_ref().map_err(missing_symbol)?;
    let info = lib.nvmlGpuInstanceGetInfo.as_ref().map_err(missing_symbol)?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: as in `number`.
    nvml_try(unsafe { by_id(device.handle(), gpu_instance, &raw mut handle) })?;
    let placement = nvmlGpuInstancePlacement_t { start: 0, size: 0 };
    let mut found = nvmlGpuInstanceInfo_t { device: std::ptr::null_mut(), id: 0, profileId: 0, placement };
    // SAFETY: the driver gave the handle just now, and the answer has room.
    nvml_try(unsafe { info(handle, &raw mut found) })?;
    Ok(found.placement.size)
}

pub(super) fn remapped_rows(device: &Device<'_>) -> Result<RemappedRows, NvmlError> {
    let call = device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref().map_err(missing_symbol)?;
    let [mut correctable, mut uncorrectable, mut pending, mut failed] = [0; 4];
    // SAFETY: as in `number`, four times.
    nvml_try(unsafe {
        call(device.handle(), &raw mut correctable, &raw mut uncorrectable, &raw mut pending, &raw mut failed)
    })?;
    Ok(RemappedRows { correctable, uncorrectable, pending: pending != 0, failed: failed != 0 })
}

/// KiB sent and received over all NVLinks since the driver was loaded.
pub(super) fn nvlink_kib(device: &Device<'_>) -> Result<(u64, u64), NvmlError> {
    let call = device.nvml().lib().nvmlDeviceGetFieldValues.as_ref().map_err(missing_symbol)?;
    // SAFETY: plain numbers, for which zero is a value.
    let mut fields: [nvmlFieldValue_t; 2] = unsafe { std::mem::zeroed() };
    fields[0].fieldId = NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX;
    fields[1].fieldId = NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX;
    // All links together.
    fields.iter_mut().for_each(|field| field.scopeId = c_uint::MAX);
    // SAFETY: the handle is the device's, and there are two fields.
    nvml_try(unsafe { call(device.handle(), 2, fields.as_mut_ptr()) })?;
    for field in &fields {
        nvml_try(field.nvmlReturn)?;
    }
    // SAFETY: NVML says of these fields that they are of this type, and any bits are a number.
    unsafe { Ok((fields[0].value.ullVal, fields[1].value.ullVal)) }
}

/// NVML's numbers of the virtual GPUs that run on a device.
pub(super) fn vgpus(device: &Device<'_>) -> Result<Vec<nvmlVgpuInstance_t>, NvmlError> {
    let call = device.nvml().lib().nvmlDeviceGetActiveVgpus.as_ref().map_err(missing_symbol)?;
    // GPUs have room for 32.
    let mut numbers = [0; 128];
    let mut count = room(&numbers);
    // SAFETY: the handle is the device's, and the buffer has room for `count` numbers.
    nvml_try(unsafe { call(device.handle(), &raw mut count, numbers.as_mut_ptr()) })?;
    Ok(filled(&numbers, count).copied().collect())
}

pub(super) fn vgpu_uuid(lib: &NvmlLib, vgpu: nvmlVgpuInstance_t) -> Result<String, NvmlError> {
    let call = lib.nvmlVgpuInstanceGetUUID.as_ref().map_err(missing_symbol)?;
    let mut text = [0 as c_char; 81];
    // SAFETY: the buffer has one byte more than is said, so the text has an end whatever the driver writes.
    nvml_try(unsafe { call(vgpu, text.as_mut_ptr(), 80) })?;
    // SAFETY: the last byte is zero.
    Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

/// How busy virtual GPUs were, by their numbers; samples newer than `since_us`.
pub(super) fn vgpu_samples(
    lib: &NvmlLib,
    handle: Handle,
    since_us: u64,
) -> Result<Vec<UtilisationSample>, NvmlError> {
    let call = lib.nvmlDeviceGetVgpuUtilization.as_ref().map_err(missing_symbol)?;
    let nothing = nvmlValue_t { ullVal: 0 };
    let sample = nvmlVgpuInstanceUtilizationSample_t {
        vgpuInstance: 0,
        timeStamp: 0,
        smUtil: nothing,
        memUtil: nothing,
        encUtil: nothing,
        decUtil: nothing,
    };
    let mut samples = vec![sample; ENTRIES];
    let (mut count, mut kind) = (room(&samples), 0);
    // SAFETY: as in `Buffers::list`.
    let code = unsafe { call(handle.0, since_us, &raw mut kind, &raw mut count, samples.as_mut_ptr()) };
    match nvml_try(code) {
        Err(NvmlError::NotFound) => return Ok(Vec::new()),
        other => other?,
    }
    fits(&samples, count)?;
    let sample = |raw: &nvmlVgpuInstanceUtilizationSample_t| UtilisationSample {
        pid: raw.vgpuInstance,
        timestamp_us: raw.timeStamp,
        sm_percent: percent(raw.smUtil, kind),
    };
    Ok(filled(&samples, count).map(sample).collect())
}

/// A value of a type that the driver names; of one that is not known here, what no sample can be.
fn percent(value: nvmlValue_t, kind: nvmlValueType_t) -> u32 {
    // SAFETY: any bits are a number of each of these types.
    let number = unsafe {
        match kind {
            UNSIGNED_INT => u64::from(value.uiVal),
            UNSIGNED_LONG | UNSIGNED_LONG_LONG => value.ullVal,
            _ => u64::MAX,
        }
    };
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Room for one GPM sample. Frees itself, which must be before NVML is shut down.
pub(super) struct GpmSample {
    raw: nvmlGpmSample_t,
    free: unsafe extern "C" fn(nvmlGpmSample_t) -> nvmlReturn_t,
}

// SAFETY: as `Handle`.
unsafe impl Send for GpmSample {}

impl GpmSample {
    pub(super) fn new(lib: &NvmlLib) -> Result<Self, NvmlError> {
        let alloc = lib.nvmlGpmSampleAlloc.as_ref().map_err(missing_symbol)?;
        let free = *lib.nvmlGpmSampleFree.as_ref().map_err(missing_symbol)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer has room.
        nvml_try(unsafe { alloc(&raw mut raw) })?;
        Ok(Self { raw, free })
    }

    /// Of a whole device, or of one of its GPU instances.
    pub(super) fn take(
        &mut self,
        lib: &NvmlLib,
        handle: Handle,
        gpu_instance: Option<u32>,
    ) -> Result<(), NvmlError> {
        // SAFETY: the handle is live, and the sample is ours.
        nvml_try(match gpu_instance {
            None => unsafe { lib.nvmlGpmSampleGet.as_ref().map_err(missing_symbol)?(handle.0, self.raw) },
            // SAFETY: as above.
            Some(id) => unsafe {
                lib.nvmlGpmMigSampleGet.as_ref().map_err(missing_symbol)?(handle.0, id, self.raw)
            },
        })
    }

    /// The metrics of these ids, between an earlier sample and this one; `None` for those that are not measured.
    pub(super) fn since<const N: usize>(
        &self,
        lib: &NvmlLib,
        earlier: &Self,
        ids: [u32; N],
    ) -> Result<[Option<f64>; N], NvmlError> {
        let call = lib.nvmlGpmMetricsGet.as_ref().map_err(missing_symbol)?;
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut get: Box<nvmlGpmMetricsGet_t> = Box::new(unsafe { std::mem::zeroed() });
        get.version = NVML_GPM_METRICS_GET_VERSION;
        get.numMetrics = c_uint::try_from(N).unwrap_or(0);
        (get.sample1, get.sample2) = (earlier.raw, self.raw);
        for (metric, id) in get.metrics.iter_mut().zip(ids) {
            metric.metricId = id;
        }
        // SAFETY: both samples are ours, and the structure is whole.
        nvml_try(unsafe { call(&raw mut *get) })?;
        let mut values = [None; N];
        for (value, metric) in values.iter_mut().zip(&get.metrics) {
            *value = (metric.nvmlReturn == 0).then_some(metric.value);
        }
        Ok(values)
    }
}

impl Drop for GpmSample {
    fn drop(&mut self) {
        // SAFETY: allocated by this library and freed once; see the module for when.
        unsafe { (self.free)(self.raw) };
    }
}

/// Whether a device has GPM.
pub(super) fn gpm_support(lib: &NvmlLib, handle: Handle) -> Result<bool, NvmlError> {
    let call = lib.nvmlGpmQueryDeviceSupport.as_ref().map_err(missing_symbol)?;
    let mut support = nvmlGpmSupport_t { version: NVML_GPM_SUPPORT_VERSION, isSupportedDevice: 0 };
    // SAFETY: the handle is live, and the structure is whole.
    nvml_try(unsafe { call(handle.0, &raw mut support) }).map(|()| support.isSupportedDevice != 0)
}

/// What NVML told of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) handle: Handle,
    /// One of NVML's bits.
    pub(super) kind: u64,
    pub(super) data: u64,
    pub(super) ids: Option<(u32, u32)>,
}

/// Frees itself, which must be before NVML is shut down.
pub(super) struct EventSet {
    raw: nvmlEventSet_t,
    free: unsafe extern "C" fn(nvmlEventSet_t) -> nvmlReturn_t,
}

// SAFETY: as `Handle`.
unsafe impl Send for EventSet {}

impl EventSet {
    pub(super) fn new(lib: &NvmlLib) -> Result<Self, NvmlError> {
        let create = lib.nvmlEventSetCreate.as_ref().map_err(missing_symbol)?;
        let free = *lib.nvmlEventSetFree.as_ref().map_err(missing_symbol)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer has room.
        nvml_try(unsafe { create(&raw mut raw) })?;
        Ok(Self { raw, free })
    }

    /// Asks for those of these kinds that the device has; gives the kinds back.
    pub(super) fn register(&self, lib: &NvmlLib, handle: Handle, kinds: u64) -> Result<u64, NvmlError> {
        let supported = lib.nvmlDeviceGetSupportedEventTypes.as_ref().map_err(missing_symbol)?;
        let register = lib.nvmlDeviceRegisterEvents.as_ref().map_err(missing_symbol)?;
        let mut known = 0;
        // SAFETY: the handle is live, and the number has room.
        nvml_try(unsafe { supported(handle.0, &raw mut known) })?;
        let kinds = kinds & known;
        if kinds != 0 {
            // SAFETY: the handle is live, and the set is ours.
            nvml_try(unsafe { register(handle.0, kinds, self.raw) })?;
        }
        Ok(kinds)
    }

    /// The next event, if there is one now. Waits for none.
    pub(super) fn next(&self, lib: &NvmlLib) -> Result<Option<Event>, NvmlError> {
        let wait = lib.nvmlEventSetWait_v2.as_ref().map_err(missing_symbol)?;
        // SAFETY: numbers and a pointer, for which zero is a value.
        let mut data: nvmlEventData_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is ours, and the structure is whole.
        match nvml_try(unsafe { wait(self.raw, &raw mut data, 0) }) {
            Ok(()) => {}
            Err(NvmlError::Timeout) => return Ok(None),
            Err(error) => return Err(error),
        }
        let (gpu, compute) = (data.gpuInstanceId, data.computeInstanceId);
        let ids = (gpu != NO_INSTANCE && compute != NO_INSTANCE).then_some((gpu, compute));
        Ok(Some(Event { handle: Handle(data.device), kind: data.eventType, data: data.eventData, ids }))
    }
}

impl Drop for EventSet {
    fn drop(&mut self) {
        // SAFETY: created by this library and freed once; see the module for when.
        unsafe { (self.free)(self.raw) };
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
