//! Library and system: who uses it, which versions, what an error means.

use std::ffi::{CStr, c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use super::{answer, code, guarded, put, put_text};
use crate::Refusal;
use crate::config::Config;
use crate::driver;

/// CUDA 13.0.
const CUDA_VERSION: c_int = 13_000;

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    nvmlInitWithFlags(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    guarded(|| driver::start(&Config::from_env()))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    guarded(driver::stop)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    const TEXTS: [(Result<(), Refusal>, &CStr); 14] = [
        (Ok(()), c"Success"),
        (Err(Refusal::Uninitialized), c"Uninitialized"),
        (Err(Refusal::InvalidArgument), c"Invalid Argument"),
        (Err(Refusal::NotSupported), c"Not Supported"),
        (Err(Refusal::NoPermission), c"Insufficient Permissions"),
        (Err(Refusal::NotFound), c"Not Found"),
        (Err(Refusal::InsufficientSize), c"Insufficient Size"),
        (Err(Refusal::DriverNotLoaded), c"Driver Not Loaded"),
        (Err(Refusal::ResetRequired), c"GPU requires reset"),
        (Err(Refusal::LibRmVersionMismatch), c"Driver/library version mismatch"),
        (Err(Refusal::FunctionNotFound), c"Function Not Found"),
        (Err(Refusal::GpuIsLost), c"GPU is lost"),
        (Err(Refusal::ArgumentVersionMismatch), c"Argument version mismatch"),
        (Err(Refusal::OperatingSystem), c"Operating system call failed"),
    ];
    TEXTS
        .iter()
        .find(|(answer, _)| code(*answer) == result)
        .map_or(c"Unknown Error", |(_, text)| text)
        .as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer("nvmlSystemGetDriverVersion", |call| {
        // SAFETY: the caller's buffer has `length` bytes, by NVML's contract.
        unsafe { put_text(version, length, call.story().driver_version(call.now.wall_ns)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer("nvmlSystemGetNVMLVersion", |call| {
        let text = format!("{}.{}", CUDA_VERSION / 1_000, call.story().driver_version(call.now.wall_ns));
        // SAFETY: the caller's buffer has `length` bytes, by NVML's contract.
        unsafe { put_text(version, length, &text) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> nvmlReturn_t {
    // SAFETY: null or the caller's, by NVML's contract.
    answer("nvmlSystemGetCudaDriverVersion", |_| unsafe { put(version, CUDA_VERSION) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    // SAFETY: null or the caller's, by NVML's contract.
    answer("nvmlSystemGetCudaDriverVersion_v2", |_| unsafe { put(version, CUDA_VERSION) })
}
