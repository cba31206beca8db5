//! Calls that fill a caller's array: processes and utilisation samples.
//!
//! All follow one rule: the needed count is always stored; an array that is too small gets nothing.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlProcessInfo_t, nvmlProcessUtilizationSample_t, nvmlReturn_t,
};

use super::{about, answer, find};
use crate::Refusal;
use crate::driver::Call;
use crate::scenario::{List, Nonsense};

/// What the driver reports for an instance where the device is not partitioned.
pub(super) const NO_INSTANCE: c_uint = 0xFFFF_FFFF;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe { processes("nvmlDeviceGetComputeRunningProcesses_v3", List::Compute, device, count, infos) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe { processes("nvmlDeviceGetGraphicsRunningProcesses_v3", List::Graphics, device, count, infos) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe { processes("nvmlDeviceGetMPSComputeRunningProcesses_v3", List::Mps, device, count, infos) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvmlDevice_t,
    utilization: *mut nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    last_seen_us: c_ulonglong,
) -> nvmlReturn_t {
    about("nvmlDeviceGetProcessUtilization", device, |call, at| {
        if count.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        if call.story().mig_on(at, call.now.wall_ns) {
            return Err(Refusal::NotSupported);
        }
        let samples = call.story().samples(at, last_seen_us, call.now.wall_ns);
        if samples.is_empty() {
            return Err(Refusal::NotFound);
        }
        call.record.samples = Some(samples.iter().map(|s| (s.pid, s.timestamp_us, s.percent)).collect());
        let answer = samples.iter().map(|sample| nvmlProcessUtilizationSample_t {
            pid: sample.pid,
            timeStamp: sample.timestamp_us,
            smUtil: sample.percent,
            memUtil: sample.percent / 2,
            encUtil: 0,
            decUtil: 0,
        });
        // SAFETY: as this function's own.
        unsafe { fill(call, &answer.collect::<Vec<_>>(), count, utilization) }
    })
}

/// # Safety
/// As [`fill`].
unsafe fn processes(
    name: &str,
    list: List,
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    answer(name, |call| {
        let (at, part) = find(call, device)?;
        call.sync_proc()?;
        let mut instances = Vec::new();
        let mut answer = Vec::new();
        let (story, now_ns) = (call.story(), call.now.wall_ns);
        for actor in story.listed(at, list, now_ns) {
            let mig = actor.part().and_then(|part| story.mig_device(at, part, now_ns));
            // Through the whole device, what is on its MIG devices is shown to the privileged alone.
            let shown = if part.is_some() {
                actor.part() == part
            } else {
                actor.part().is_none() || story.scenario.privileged
            };
            if !shown {
                continue;
            }
            let ids = mig.map_or((NO_INSTANCE, NO_INSTANCE), |mig| (mig.gpu_instance, mig.compute_instance));
            instances.push(ids);
            answer.push(nvmlProcessInfo_t {
                pid: actor.process.pid,
                usedGpuMemory: actor.process.memory_bytes,
                gpuInstanceId: ids.0,
                computeInstanceId: ids.1,
            });
        }
        let mig_on = story.mig_on(at, now_ns);
        call.record.processes = Some(answer.iter().map(|info| (info.pid, info.usedGpuMemory)).collect());
        call.record.instances = mig_on.then_some(instances);
        let answer = if call.talks(Nonsense::Pids) { with_none(answer) } else { answer };
        let answer = if call.talks(Nonsense::Memory) { with_too_much(answer) } else { answer };
        // SAFETY: as this function's own.
        unsafe { fill(call, &answer, count, infos) }
    })
}

/// With processes that are none.
fn with_none(mut answer: Vec<nvmlProcessInfo_t>) -> Vec<nvmlProcessInfo_t> {
    let none = |pid| nvmlProcessInfo_t {
        pid,
        usedGpuMemory: 0,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    };
    answer.extend([none(0), none(c_uint::MAX)]);
    answer
}

/// With more memory than any GPU has.
fn with_too_much(mut answer: Vec<nvmlProcessInfo_t>) -> Vec<nvmlProcessInfo_t> {
    answer.iter_mut().for_each(|info| info.usedGpuMemory = c_ulonglong::MAX - 1);
    answer
}

/// Stores the needed count, and the items if they fit.
///
/// # Safety
/// `count` is null or valid for reading and writing; `to` is null or valid for writing `*count` items.
pub(super) unsafe fn fill<T: Copy>(
    call: &mut Call<'_>,
    items: &[T],
    count: *mut c_uint,
    to: *mut T,
) -> Result<(), Refusal> {
    if count.is_null() {
        return Err(Refusal::InvalidArgument);
    }
    // SAFETY: not null, and then valid by this function's contract.
    let room = unsafe { count.read() } as usize;
    // SAFETY: as above.
    unsafe { count.write(c_uint::try_from(items.len()).map_err(|_| Refusal::Unknown)?) };
    if items.len() > room {
        call.probe = room == 0;
        call.record.processes = None;
        call.record.instances = None;
        call.record.samples = None;
        return Err(Refusal::InsufficientSize);
    }
    if call.talks(Nonsense::Counts) {
        // SAFETY: as above.
        unsafe { count.write(c_uint::MAX) };
    }
    if items.is_empty() {
        return Ok(());
    }
    if to.is_null() {
        return Err(Refusal::InvalidArgument);
    }
    // SAFETY: `to` has room for `room` items, which are no fewer than these, and is not ours.
    unsafe { std::ptr::copy_nonoverlapping(items.as_ptr(), to, items.len()) };
    Ok(())
}
