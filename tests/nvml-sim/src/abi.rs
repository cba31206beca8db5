//! NVML's C ABI: checks pointers, converts, and asks [`crate::driver`]. Decides nothing.
//!
//! Every pointer from outside may be null. No panic crosses into the caller: it becomes `NVML_ERROR_UNKNOWN`.

#![allow(unsafe_code, reason = "this is the C side: raw pointers from the caller, symbols by name")]
#![allow(non_snake_case, reason = "the names are NVML's")]
#![allow(clippy::missing_safety_doc, reason = "NVML's header is the contract: pointers are null or valid")]

use std::ffi::{c_char, c_uint};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED, nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT, nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_NO_PERMISSION, nvmlReturn_enum_NVML_ERROR_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, nvmlReturn_enum_NVML_ERROR_OPERATING_SYSTEM,
    nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED, nvmlReturn_enum_NVML_ERROR_TIMEOUT,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED, nvmlReturn_enum_NVML_ERROR_UNKNOWN,
    nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t,
};

use crate::Refusal;
use crate::driver::{self, Call};

pub mod device;
pub mod events;
pub mod gpm;
pub mod lists;
pub mod mig;
pub mod places;
pub mod signals;
pub mod system;
pub mod vgpu;

fn code(result: Result<(), Refusal>) -> nvmlReturn_t {
    match result {
        Ok(()) => nvmlReturn_enum_NVML_SUCCESS,
        Err(Refusal::Uninitialized) => nvmlReturn_enum_NVML_ERROR_UNINITIALIZED,
        Err(Refusal::InvalidArgument) => nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT,
        Err(Refusal::NotSupported) => nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED,
        Err(Refusal::NoPermission) => nvmlReturn_enum_NVML_ERROR_NO_PERMISSION,
        Err(Refusal::NotFound) => nvmlReturn_enum_NVML_ERROR_NOT_FOUND,
        Err(Refusal::InsufficientSize) => nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE,
        Err(Refusal::DriverNotLoaded) => nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED,
        Err(Refusal::FunctionNotFound) => nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND,
        Err(Refusal::GpuIsLost) => nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST,
        Err(Refusal::Timeout) => nvmlReturn_enum_NVML_ERROR_TIMEOUT,
        Err(Refusal::ResetRequired) => nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED,
        Err(Refusal::LibRmVersionMismatch) => nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        Err(Refusal::OperatingSystem) => nvmlReturn_enum_NVML_ERROR_OPERATING_SYSTEM,
        Err(Refusal::ArgumentVersionMismatch) => nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        Err(Refusal::Unknown) => nvmlReturn_enum_NVML_ERROR_UNKNOWN,
    }
}

/// Runs what must not unwind into C.
fn guarded(body: impl FnOnce() -> Result<(), Refusal>) -> nvmlReturn_t {
    code(catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Refusal::Unknown)))
}

fn answer(name: &str, body: impl FnOnce(&mut Call<'_>) -> Result<(), Refusal>) -> nvmlReturn_t {
    guarded(|| driver::answer(name, code, body))
}

/// A call about one device that is still there.
fn about(
    name: &str,
    device: nvmlDevice_t,
    body: impl FnOnce(&mut Call<'_>, usize) -> Result<(), Refusal>,
) -> nvmlReturn_t {
    answer(name, |call| {
        let (at, part) = find(call, device)?;
        if part.is_some() { Err(Refusal::InvalidArgument) } else { body(call, at) }
    })
}

/// A call that stores one value of a device.
///
/// # Safety
/// `to` is null or valid for writing.
unsafe fn get<T>(
    name: &str,
    device: nvmlDevice_t,
    to: *mut T,
    value: impl FnOnce(&mut Call<'_>, usize) -> Result<T, Refusal>,
) -> nvmlReturn_t {
    about(name, device, |call, at| {
        if to.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        let value = value(call, at)?;
        // SAFETY: null or valid, by this function's contract.
        unsafe { put(to, value) }
    })
}

/// The device that a handle is of, or the one that its MIG device is on, and that one's place in the scenario.
fn find(call: &mut Call<'_>, handle: nvmlDevice_t) -> Result<(usize, Option<usize>), Refusal> {
    let at = (handle.addr() & DEVICE_MASK).checked_sub(1).ok_or(Refusal::InvalidArgument)?;
    let part = (handle.addr() >> PART_SHIFT).checked_sub(1);
    let info = call.story().scenario.device.get(at).ok_or(Refusal::InvalidArgument)?;
    call.record.device = Some(info.uuid.clone());
    let now_ns = call.now.wall_ns;
    call.refused(Some(at))?;
    if call.story().missing(at, now_ns) {
        return Err(Refusal::GpuIsLost);
    }
    if let Some(part) = part {
        let uuid = call.story().mig_device(at, part, now_ns).map(|mig| mig.uuid.clone());
        call.record.mig = Some(uuid.ok_or(Refusal::InvalidArgument)?);
    }
    Ok((at, part))
}

const PART_SHIFT: u32 = 16;
const DEVICE_MASK: usize = (1 << PART_SHIFT) - 1;

/// A handle is the device's place in the scenario, plus one: never null, never followed. That of a MIG device has its
/// own place there, plus one, in the bits above: so it dies with its MIG device, whatever comes after it.
fn handle(at: usize, part: Option<usize>) -> nvmlDevice_t {
    std::ptr::without_provenance_mut((at + 1) | (part.map_or(0, |part| part + 1) << PART_SHIFT))
}

/// # Safety
/// `to` is null or valid for writing.
unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Refusal> {
    if to.is_null() {
        return Err(Refusal::InvalidArgument);
    }
    // SAFETY: not null, and then valid by this function's contract.
    unsafe { to.write(value) };
    Ok(())
}

/// Stores a text and its closing zero in a buffer of `length` bytes.
///
/// # Safety
/// `to` is null or valid for writing `length` bytes.
unsafe fn put_text(to: *mut c_char, length: c_uint, text: &str) -> Result<(), Refusal> {
    // SAFETY: as this function's own.
    unsafe { put_bytes(to, length, text.as_bytes()) }
}

/// As [`put_text`], of what may be no text.
///
/// # Safety
/// `to` is null or valid for writing `length` bytes.
unsafe fn put_bytes(to: *mut c_char, length: c_uint, text: &[u8]) -> Result<(), Refusal> {
    if to.is_null() {
        return Err(Refusal::InvalidArgument);
    }
    if text.len() >= length as usize {
        return Err(Refusal::InsufficientSize);
    }
    // SAFETY: the text and one zero fit into `length` bytes, and the buffer is not the text's.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast::<u8>(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}
