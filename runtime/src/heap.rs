//! How this process's heap is kept. The only file that talks to the allocator.
//!
//! glibc gives large buffers pages of their own, until one of them is freed: then it takes buffers of that size from the
//! heap, too, among small allocations that outlive them. sled frees and makes buffers of half a MiB all the time, so the
//! agent's heap filled with holes: 23.9 MiB of anonymous memory instead of 6.2 (docs/measurements.md).
#![allow(unsafe_code, reason = "mallopt is C; the standard library has no word for it")]

/// Buffers from this size on have pages of their own for good; it is glibc's first threshold. Does nothing elsewhere.
pub fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    {
        const FROM_BYTES: libc::c_int = 128 << 10;
        // SAFETY: sets a number in the allocator; any value is allowed, and no pointer is passed.
        let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_BYTES) };
        if set == 0 {
            tracing::warn!(
                "The allocator does not take its threshold; memory may grow beyond what it needs."
            );
        }
    }
}
