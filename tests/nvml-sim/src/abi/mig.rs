//! MIG: whether a device is partitioned, which MIG devices are on it, and what these are.
//!
//! A MIG device's handle is good while the MIG device is there; a device that is not partitioned has none.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE, NVML_GPU_INSTANCE_PROFILE_COUNT, nvmlDevice_t,
    nvmlDeviceAttributes_t, nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v2_t, nvmlReturn_t,
};

use super::device::c_text;
use super::{about, answer, find, handle, put};
use crate::Refusal;
use crate::driver::Call;
use crate::models::Profile;
use crate::scenario::MigDevice;
use crate::scenario::cut::Cut;

/// Per compute slice; only about what GPUs have.
const MULTIPROCESSORS: c_uint = 16;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    about("nvmlDeviceGetMigMode", device, |call, at| {
        if current.is_null() || pending.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        if !call.story().mig_capable(at) {
            return Err(Refusal::NotSupported);
        }
        let on = call.story().mig_on(at, call.now.wall_ns);
        let mode = if on { NVML_DEVICE_MIG_ENABLE } else { NVML_DEVICE_MIG_DISABLE };
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(current, mode).and_then(|()| put(pending, mode)) }
    })
}

/// Not how many there are: how many slots there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(
    device: nvmlDevice_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    about("nvmlDeviceGetMaxMigDeviceCount", device, |call, at| {
        let on = call.story().mig_on(at, call.now.wall_ns);
        let slots = if on { call.story().model(at).slices } else { 0 };
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(count, slots) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    mig: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetMigDeviceHandleByIndex", device, |call, at| {
        if mig.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        let now_ns = call.now.wall_ns;
        if !call.story().mig_on(at, now_ns) {
            return Err(Refusal::NotSupported);
        }
        if index >= call.story().model(at).slices {
            return Err(Refusal::InvalidArgument);
        }
        let found = call.story().mig_devices(at, now_ns).find(|(_, _, cut)| cut.index == index as usize);
        let Some((part, ..)) = found else {
            // Asking slot by slot is how one learns which are there.
            call.probe = true;
            return Err(Refusal::NotFound);
        };
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(mig, handle(at, Some(part))) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(
    device: nvmlDevice_t,
    is_mig: *mut c_uint,
) -> nvmlReturn_t {
    answer("nvmlDeviceIsMigDeviceHandle", |call| {
        let (at, part) = find(call, device)?;
        if is_mig.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        if !call.story().mig_capable(at) {
            return Err(Refusal::NotSupported);
        }
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(is_mig, c_uint::from(part.is_some())) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    mig: nvmlDevice_t,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe {
        get(
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
            mig,
            device,
            Refusal::InvalidArgument,
            |at, _, _| handle(at, None),
        )
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(mig: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe {
        get("nvmlDeviceGetGpuInstanceId", mig, id, Refusal::InvalidArgument, |_, mig, _| mig.gpu_instance)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(mig: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe {
        get("nvmlDeviceGetComputeInstanceId", mig, id, Refusal::InvalidArgument, |_, mig, _| {
            mig.compute_instance
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAttributes_v2(
    device: nvmlDevice_t,
    attributes: *mut nvmlDeviceAttributes_t,
) -> nvmlReturn_t {
    let value = |_, _: &MigDevice, cut: &Cut| nvmlDeviceAttributes_t {
        multiprocessorCount: MULTIPROCESSORS * cut.compute_slices,
        sharedCopyEngineCount: cut.profile.slices,
        sharedDecoderCount: cut.profile.slices / 2,
        sharedEncoderCount: 0,
        sharedJpegCount: 1,
        sharedOfaCount: 0,
        gpuInstanceSliceCount: cut.profile.slices,
        computeInstanceSliceCount: cut.compute_slices,
        memorySizeMB: cut.profile.memory_bytes >> 20,
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetAttributes_v2", device, attributes, Refusal::NotSupported, value) }
}

/// A call that stores one value of a MIG device; of a whole device it is refused by `whole`.
///
/// # Safety
/// `to` is null or valid for writing.
unsafe fn get<T>(
    name: &str,
    mig: nvmlDevice_t,
    to: *mut T,
    whole: Refusal,
    value: impl FnOnce(usize, &MigDevice, &Cut) -> T,
) -> nvmlReturn_t {
    answer(name, |call| {
        let (at, part) = find(call, mig)?;
        let part = part.ok_or(whole)?;
        let (story, now_ns) = (call.story(), call.now.wall_ns);
        let mig = story.mig_device(at, part, now_ns).ok_or(Refusal::InvalidArgument)?;
        let cut = story.cut(at, part).ok_or(Refusal::Unknown)?;
        // SAFETY: null or valid, by this function's contract.
        unsafe { put(to, value(at, mig, cut)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceProfileInfo(
    device: nvmlDevice_t,
    profile: c_uint,
    info: *mut nvmlGpuInstanceProfileInfo_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetGpuInstanceProfileInfo", device, |call, at| {
        if info.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        let of = profile_of(call, at, profile)?;
        let value = nvmlGpuInstanceProfileInfo_t {
            id: of.id,
            isP2pSupported: 0,
            sliceCount: of.slices,
            instanceCount: of.instances,
            multiprocessorCount: MULTIPROCESSORS * of.slices,
            copyEngineCount: of.slices,
            decoderCount: of.slices / 2,
            encoderCount: 0,
            jpegCount: 0,
            ofaCount: 0,
            memorySizeMB: of.memory_bytes >> 20,
        };
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(info, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceProfileInfoV(
    device: nvmlDevice_t,
    profile: c_uint,
    info: *mut nvmlGpuInstanceProfileInfo_v2_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetGpuInstanceProfileInfoV", device, |call, at| {
        if info.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        // SAFETY: not null, and then the caller's, by NVML's contract.
        let version = unsafe { (*info).version };
        if version as usize != size_of::<nvmlGpuInstanceProfileInfo_v2_t>() | 2 << 24 {
            return Err(Refusal::ArgumentVersionMismatch);
        }
        let of = profile_of(call, at, profile)?;
        let value = nvmlGpuInstanceProfileInfo_v2_t {
            version,
            id: of.id,
            isP2pSupported: 0,
            sliceCount: of.slices,
            instanceCount: of.instances,
            multiprocessorCount: MULTIPROCESSORS * of.slices,
            copyEngineCount: of.slices,
            decoderCount: of.slices / 2,
            encoderCount: 0,
            jpegCount: 0,
            ofaCount: 0,
            memorySizeMB: of.memory_bytes >> 20,
            name: c_text(&format!("MIG {}", of.name)),
        };
        // SAFETY: as above.
        unsafe { put(info, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceRemainingCapacity(
    device: nvmlDevice_t,
    profile_id: c_uint,
    count: *mut c_uint,
) -> nvmlReturn_t {
    about("nvmlDeviceGetGpuInstanceRemainingCapacity", device, |call, at| {
        if !call.story().mig_on(at, call.now.wall_ns) {
            return Err(Refusal::NotSupported);
        }
        let remaining = call.story().remaining(at, profile_id, call.now.wall_ns);
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(count, remaining.ok_or(Refusal::InvalidArgument)?) }
    })
}

/// A profile by NVML's number of it. A device that cannot be partitioned has none; which it has does not depend on
/// whether MIG is on.
fn profile_of(call: &Call<'_>, at: usize, number: c_uint) -> Result<Profile, Refusal> {
    if number >= NVML_GPU_INSTANCE_PROFILE_COUNT {
        return Err(Refusal::InvalidArgument);
    }
    let profiles = if call.story().mig_capable(at) { call.story().model(at).profiles } else { Vec::new() };
    profiles.into_iter().find(|profile| profile.number == number).ok_or(Refusal::NotSupported)
}
