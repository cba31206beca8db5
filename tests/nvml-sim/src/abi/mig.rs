//! MIG: whether a device is partitioned, which MIG devices are on it, and what these are.
//!
//! A MIG device's handle is good while the MIG device is there; a device that is not partitioned has none.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_MIG_ENABLE, nvmlDevice_t, nvmlDeviceAttributes_t, nvmlReturn_t,
};

use super::{about, answer, find, handle, put};
use crate::Refusal;
use crate::scenario::MigDevice;

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
        call.story().mig_slots(at).ok_or(Refusal::NotSupported)?;
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(current, NVML_DEVICE_MIG_ENABLE).and_then(|()| put(pending, NVML_DEVICE_MIG_ENABLE)) }
    })
}

/// Not how many there are: how many slots there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(
    device: nvmlDevice_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    about("nvmlDeviceGetMaxMigDeviceCount", device, |call, at| {
        let slots = call.story().mig_slots(at).unwrap_or(0);
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(count, c_uint::try_from(slots).map_err(|_| Refusal::Unknown)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    mig: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetMigDeviceHandleByIndex", device, |call, at| {
        let slot = index as usize;
        if mig.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        if slot >= call.story().mig_slots(at).ok_or(Refusal::NotSupported)? {
            return Err(Refusal::InvalidArgument);
        }
        if call.story().mig_device(at, slot, call.now.wall_ns).is_none() {
            // Asking slot by slot is how one learns which are there.
            call.probe = true;
            return Err(Refusal::NotFound);
        }
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(mig, handle(at, Some(slot))) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceIsMigDeviceHandle(
    device: nvmlDevice_t,
    is_mig: *mut c_uint,
) -> nvmlReturn_t {
    answer("nvmlDeviceIsMigDeviceHandle", |call| {
        let (at, slot) = find(call, device)?;
        if is_mig.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        call.story().mig_slots(at).ok_or(Refusal::NotSupported)?;
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(is_mig, c_uint::from(slot.is_some())) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    mig: nvmlDevice_t,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe {
        get("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", mig, device, Refusal::InvalidArgument, |at, _| {
            handle(at, None)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceId(mig: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetGpuInstanceId", mig, id, Refusal::InvalidArgument, |_, mig| mig.gpu_instance) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeInstanceId(mig: nvmlDevice_t, id: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe {
        get("nvmlDeviceGetComputeInstanceId", mig, id, Refusal::InvalidArgument, |_, mig| {
            mig.compute_instance
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAttributes_v2(
    device: nvmlDevice_t,
    attributes: *mut nvmlDeviceAttributes_t,
) -> nvmlReturn_t {
    let value = |_, mig: &MigDevice| nvmlDeviceAttributes_t {
        multiprocessorCount: 16 * mig.profile_slices,
        sharedCopyEngineCount: mig.profile_slices,
        sharedDecoderCount: mig.profile_slices,
        sharedEncoderCount: 0,
        sharedJpegCount: 1,
        sharedOfaCount: 0,
        gpuInstanceSliceCount: mig.profile_slices,
        computeInstanceSliceCount: mig.profile_slices,
        memorySizeMB: 9_984 * u64::from(mig.profile_slices),
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
    value: impl FnOnce(usize, &MigDevice) -> T,
) -> nvmlReturn_t {
    answer(name, |call| {
        let (at, slot) = find(call, mig)?;
        let slot = slot.ok_or(whole)?;
        let mig = call.story().mig_device(at, slot, call.now.wall_ns).ok_or(Refusal::InvalidArgument)?;
        // SAFETY: null or valid, by this function's contract.
        unsafe { put(to, value(at, mig)) }
    })
}
