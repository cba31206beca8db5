//! Virtual GPUs, as the host of virtual machines sees them.

use std::ffi::{c_char, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU,
    nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_NONE, nvmlGpuVirtualizationMode_t, nvmlReturn_t,
    nvmlValue_t, nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT, nvmlValueType_t, nvmlVgpuInstance_t,
    nvmlVgpuInstanceUtilizationSample_t, nvmlVgpuTypeId_t, nvmlVgpuVmIdType_NVML_VGPU_VM_ID_UUID,
    nvmlVgpuVmIdType_t,
};

use super::lists::fill;
use super::{about, answer, get, put, put_text};
use crate::Refusal;
use crate::driver::Call;
use crate::story::Vgpu;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetVirtualizationMode(
    device: nvmlDevice_t,
    mode: *mut nvmlGpuVirtualizationMode_t,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| {
        let is_host = call.story().scenario.device[at].vgpu.is_some();
        Ok(if is_host {
            nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU
        } else {
            nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_NONE
        })
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetVirtualizationMode", device, mode, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetActiveVgpus(
    device: nvmlDevice_t,
    count: *mut c_uint,
    vgpus: *mut nvmlVgpuInstance_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetActiveVgpus", device, |call, at| {
        let active = call.story().vgpus(at, call.now.wall_ns).ok_or(Refusal::NotSupported)?;
        let numbers: Vec<nvmlVgpuInstance_t> = active.iter().map(|vgpu| vgpu.number).collect();
        // SAFETY: as this function's own.
        unsafe { fill(call, &numbers, count, vgpus) }
    })
}

fn vgpu(call: &Call<'_>, number: nvmlVgpuInstance_t) -> Result<Vgpu, Refusal> {
    let (story, now_ns) = (call.story(), call.now.wall_ns);
    let all = story.present(now_ns).filter_map(|at| story.vgpus(at, now_ns)).flatten();
    let found = all.into_iter().find(|vgpu| vgpu.number == number);
    found.ok_or(Refusal::InvalidArgument)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlVgpuInstanceGetVmID(
    number: nvmlVgpuInstance_t,
    id: *mut c_char,
    length: c_uint,
    kind: *mut nvmlVgpuVmIdType_t,
) -> nvmlReturn_t {
    answer("nvmlVgpuInstanceGetVmID", |call| {
        let vgpu = vgpu(call, number)?;
        // SAFETY: null or the caller's, which has `length` bytes, by NVML's contract.
        unsafe {
            put_text(id, length, &vgpu.info.vm)?;
            put(kind, nvmlVgpuVmIdType_NVML_VGPU_VM_ID_UUID)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlVgpuInstanceGetUUID(
    number: nvmlVgpuInstance_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    answer("nvmlVgpuInstanceGetUUID", |call| {
        let vgpu = vgpu(call, number)?;
        // SAFETY: the caller's buffer has `length` bytes, by NVML's contract.
        unsafe { put_text(uuid, length, &vgpu.info.uuid) }
    })
}

/// Types are numbered as the virtual GPUs that have them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlVgpuInstanceGetType(
    number: nvmlVgpuInstance_t,
    kind: *mut nvmlVgpuTypeId_t,
) -> nvmlReturn_t {
    answer("nvmlVgpuInstanceGetType", |call| {
        let vgpu = vgpu(call, number)?;
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(kind, vgpu.number) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlVgpuTypeGetName(
    kind: nvmlVgpuTypeId_t,
    name: *mut c_char,
    length: *mut c_uint,
) -> nvmlReturn_t {
    answer("nvmlVgpuTypeGetName", |call| {
        let vgpu = vgpu(call, kind)?;
        if length.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        // SAFETY: not null, and then the caller's; the buffer has so many bytes, by NVML's contract.
        unsafe { put_text(name, length.read(), &vgpu.info.kind) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlVgpuTypeGetMaxInstances(
    device: nvmlDevice_t,
    kind: nvmlVgpuTypeId_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    let value =
        |call: &mut Call<'_>, _: usize| vgpu(call, kind)?.info.max_instances.ok_or(Refusal::NotSupported);
    // SAFETY: as this function's own.
    unsafe { get("nvmlVgpuTypeGetMaxInstances", device, count, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetVgpuUtilization(
    device: nvmlDevice_t,
    last_seen_us: c_ulonglong,
    kind: *mut nvmlValueType_t,
    count: *mut c_uint,
    utilization: *mut nvmlVgpuInstanceUtilizationSample_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetVgpuUtilization", device, |call, at| {
        let now_ns = call.now.wall_ns;
        let samples = call.story().vgpu_samples(at, last_seen_us, now_ns).ok_or(Refusal::NotSupported)?;
        if samples.is_empty() {
            return Err(Refusal::NotFound);
        }
        let value = |percent: u32| nvmlValue_t { uiVal: percent };
        let answer = samples.iter().map(|sample| nvmlVgpuInstanceUtilizationSample_t {
            vgpuInstance: sample.pid,
            timeStamp: sample.timestamp_us,
            smUtil: value(sample.percent),
            memUtil: value(0),
            encUtil: value(0),
            decUtil: value(0),
        });
        // SAFETY: null or the caller's, by NVML's contract; the list as this function's own.
        unsafe {
            put(kind, nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT)?;
            fill(call, &answer.collect::<Vec<_>>(), count, utilization)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlVgpuInstanceGetFbUsage(
    number: nvmlVgpuInstance_t,
    bytes: *mut c_ulonglong,
) -> nvmlReturn_t {
    answer("nvmlVgpuInstanceGetFbUsage", |call| {
        let vgpu = vgpu(call, number)?;
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(bytes, vgpu.info.memory_bytes) }
    })
}
