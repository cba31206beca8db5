//! The few calls of CUDA's driver library that a load needs, loaded at run time.
//!
//! Constraints: one thread, which has the context. What is made lives as long as the process: its end frees it.

#![allow(unsafe_code, reason = "calls into a C library")]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;

use anyhow::{Context, ensure};
use libloading::Library;

use crate::ptx;

/// The driver's own, not the toolkit's.
pub const LIBRARY: &str = "libcuda.so.1";

type Code = c_int;
type Handle = *mut c_void;

/// The first GPU as CUDA counts, with a context and the kernel in it.
pub struct Gpu {
    api: Api,
    uuid: [u8; 16],
    kernel: Handle,
    /// Eight bytes on the GPU, where the kernel stores its end.
    end: u64,
    begun: Handle,
    ended: Handle,
}

struct Api {
    mem_alloc: unsafe extern "C" fn(*mut u64, usize) -> Code,
    event_record: unsafe extern "C" fn(Handle, Handle) -> Code,
    event_synchronize: unsafe extern "C" fn(Handle) -> Code,
    event_elapsed: unsafe extern "C" fn(*mut f32, Handle, Handle) -> Code,
    launch: unsafe extern "C" fn(
        Handle,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        Handle,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> Code,
    // Last: what is above points into it.
    library: Library,
}

impl Gpu {
    /// # Errors
    /// If the library, a GPU or the kernel cannot be had; says which.
    pub fn open(library: &str) -> anyhow::Result<Self> {
        // SAFETY: NVIDIA's library has no initialiser that asks anything of who loads it.
        let library = unsafe { Library::new(library) }.with_context(|| format!("cannot load {library}"))?;
        // SAFETY: the types are those of cuda.h, and the library outlives what is copied out of it.
        unsafe {
            let init: unsafe extern "C" fn(c_uint) -> Code = symbol(&library, "cuInit")?;
            check("cuInit", init(0))?;
            let uuid = make_current(&library)?;
            let kernel = load_kernel(&library)?;
            let create: unsafe extern "C" fn(*mut Handle, c_uint) -> Code =
                symbol(&library, "cuEventCreate")?;
            let (mut begun, mut ended) = (ptr::null_mut(), ptr::null_mut());
            check("cuEventCreate", create(&raw mut begun, 0))?;
            check("cuEventCreate", create(&raw mut ended, 0))?;
            let api = Api {
                mem_alloc: symbol(&library, "cuMemAlloc_v2")?,
                event_record: symbol(&library, "cuEventRecord")?,
                event_synchronize: symbol(&library, "cuEventSynchronize")?,
                event_elapsed: symbol(&library, "cuEventElapsedTime")?,
                launch: symbol(&library, "cuLaunchKernel")?,
                library,
            };
            let mut gpu = Self { api, uuid, kernel, end: 0, begun, ended };
            gpu.end = gpu.allocate(8)?;
            Ok(gpu)
        }
    }

    /// As NVML writes it.
    #[must_use]
    pub fn uuid(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let groups = [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| hex(&self.uuid[range]));
        format!("GPU-{}", groups.join("-"))
    }

    /// Takes GPU memory, and keeps it.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn allocate(&self, bytes: usize) -> anyhow::Result<u64> {
        let mut at = 0;
        // SAFETY: this thread has the context, and `at` is valid for writing.
        check("cuMemAlloc", unsafe { (self.api.mem_alloc)(&raw mut at, bytes) })?;
        Ok(at)
    }

    /// Works for so long, and says for how long it did by the GPU's events, in nanoseconds. With others on the GPU that is
    /// longer: it is from the kernel's beginning to its end, and they had their turns.
    ///
    /// # Errors
    /// If the GPU does not do it.
    pub fn work(&self, nanoseconds: u64) -> anyhow::Result<u64> {
        let (mut nanoseconds, mut end) = (nanoseconds, self.end);
        let mut parameters = [(&raw mut nanoseconds).cast::<c_void>(), (&raw mut end).cast::<c_void>()];
        let mut milliseconds = 0.0_f32;
        let none = ptr::null_mut();
        // SAFETY: this thread has the context; kernel and events are of it; the parameters are as the kernel declares
        // them, and copied by the call.
        unsafe {
            check("cuEventRecord", (self.api.event_record)(self.begun, none))?;
            let launched = (self.api.launch)(
                self.kernel,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                none,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            );
            check("cuLaunchKernel", launched)?;
            check("cuEventRecord", (self.api.event_record)(self.ended, none))?;
            check("cuEventSynchronize", (self.api.event_synchronize)(self.ended))?;
            let elapsed = (self.api.event_elapsed)(&raw mut milliseconds, self.begun, self.ended);
            check("cuEventElapsedTime", elapsed)?;
        }
        Ok(std::time::Duration::from_secs_f32(milliseconds.max(0.0) / 1000.0).as_nanos().try_into()?)
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("uuid", &self.uuid()).field("library", &self.api.library).finish()
    }
}

/// Gives this thread the first GPU's context; returns the GPU's UUID.
///
/// # Safety
/// `library` is CUDA's, initialised.
unsafe fn make_current(library: &Library) -> anyhow::Result<[u8; 16]> {
    let (mut device, mut uuid, mut context) = (0, [0_u8; 16], ptr::null_mut());
    // SAFETY: types as in cuda.h; every pointer is valid for writing what is asked for.
    unsafe {
        let get: unsafe extern "C" fn(*mut c_int, c_int) -> Code = symbol(library, "cuDeviceGet")?;
        check("cuDeviceGet", get(&raw mut device, 0))?;
        let get: unsafe extern "C" fn(*mut [u8; 16], c_int) -> Code = symbol(library, "cuDeviceGetUuid")?;
        check("cuDeviceGetUuid", get(&raw mut uuid, device))?;
        let retain: unsafe extern "C" fn(*mut Handle, c_int) -> Code =
            symbol(library, "cuDevicePrimaryCtxRetain")?;
        check("cuDevicePrimaryCtxRetain", retain(&raw mut context, device))?;
        let set: unsafe extern "C" fn(Handle) -> Code = symbol(library, "cuCtxSetCurrent")?;
        check("cuCtxSetCurrent", set(context))?;
    }
    Ok(uuid)
}

/// Has the kernel compiled.
///
/// # Safety
/// `library` is CUDA's, and this thread has a context.
unsafe fn load_kernel(library: &Library) -> anyhow::Result<Handle> {
    let (mut module, mut kernel) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: types as in cuda.h; both texts end as C's do.
    unsafe {
        let load: unsafe extern "C" fn(*mut Handle, *const c_char) -> Code =
            symbol(library, "cuModuleLoadData")?;
        check("cuModuleLoadData", load(&raw mut module, ptx::SPIN.as_ptr().cast()))?;
        let get: unsafe extern "C" fn(*mut Handle, Handle, *const c_char) -> Code =
            symbol(library, "cuModuleGetFunction")?;
        check("cuModuleGetFunction", get(&raw mut kernel, module, ptx::NAME.as_ptr().cast()))?;
    }
    Ok(kernel)
}

/// # Safety
/// `T` is the symbol's type.
unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> anyhow::Result<T> {
    // SAFETY: as this function's own.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    Ok(*found.with_context(|| format!("{LIBRARY} has no {name}"))?)
}

fn check(call: &str, code: Code) -> anyhow::Result<()> {
    ensure!(code == 0, "{call} failed with CUDA's error {code}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let error = Gpu::open("libcuda-is-not-here.so.1").unwrap_err().to_string();
        assert!(error.contains("libcuda-is-not-here.so.1"), "{error}");
    }

    #[test]
    fn a_library_that_is_not_cudas_lacks_its_calls() {
        let error = Gpu::open("libc.so.6").unwrap_err().to_string();
        assert!(error.contains("cuInit"), "{error}");
    }

    #[test]
    fn a_failed_call_is_named_with_its_code() {
        assert_eq!(check("cuInit", 100).unwrap_err().to_string(), "cuInit failed with CUDA's error 100");
    }
}
