//! What devices report of themselves beside use: clocks, errors, links, accounting.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, field_id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
    nvmlAccountingStats_t, nvmlClockType_enum_NVML_CLOCK_COUNT, nvmlClockType_enum_NVML_CLOCK_MEM,
    nvmlClockType_t, nvmlDevice_t, nvmlEccCounterType_enum_NVML_AGGREGATE_ECC, nvmlEccCounterType_t,
    nvmlEnableState_t, nvmlFieldValue_t, nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_CORRECTED,
    nvmlMemoryErrorType_t, nvmlPcieUtilCounter_t, nvmlReturn_t, nvmlValue_t,
    nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
};

use super::lists::fill;
use super::{about, code, get, put};
use crate::Refusal;
use crate::driver::Call;
use crate::scenario::List;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(
    device: nvmlDevice_t,
    kind: nvmlClockType_t,
    clock: *mut c_uint,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| {
        if kind >= nvmlClockType_enum_NVML_CLOCK_COUNT {
            return Err(Refusal::InvalidArgument);
        }
        let memory = call.story().scenario.device[at].signals.memory_clock_mhz;
        let sm = call.story().sm_clock_mhz(at, call.now.wall_ns);
        Ok(if kind == nvmlClockType_enum_NVML_CLOCK_MEM { memory } else { sm })
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetClockInfo", device, clock, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksEventReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| Ok(call.story().clocks_event_reasons(at, call.now.wall_ns));
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetCurrentClocksEventReasons", device, reasons, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: nvmlDevice_t,
    reasons: *mut c_ulonglong,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| Ok(call.story().clocks_event_reasons(at, call.now.wall_ns));
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetCurrentClocksThrottleReasons", device, reasons, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    error: nvmlMemoryErrorType_t,
    counter: nvmlEccCounterType_t,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| {
        if error > 1 || counter > 1 {
            return Err(Refusal::InvalidArgument);
        }
        let corrected = error == nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_CORRECTED;
        let ever = counter == nvmlEccCounterType_enum_NVML_AGGREGATE_ECC;
        call.story().ecc(at, corrected, ever, call.now.wall_ns).ok_or(Refusal::NotSupported)
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetTotalEccErrors", device, count, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRemappedRows(
    device: nvmlDevice_t,
    correctable: *mut c_uint,
    uncorrectable: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> nvmlReturn_t {
    about("nvmlDeviceGetRemappedRows", device, |call, at| {
        let rows = call.story().scenario.device[at].signals.remapped_rows.ok_or(Refusal::NotSupported)?;
        // SAFETY: each is null or the caller's, by NVML's contract.
        unsafe {
            put(correctable, rows.correctable)?;
            put(uncorrectable, rows.uncorrectable)?;
            put(pending, c_uint::from(rows.pending))?;
            put(failed, c_uint::from(rows.failed))
        }
    })
}

/// Forced off where MIG is on.
fn accounts(call: &Call<'_>, at: usize) -> bool {
    call.story().scenario.device[at].signals.accounting && !call.story().mig_on(at, call.now.wall_ns)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAccountingMode(
    device: nvmlDevice_t,
    mode: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| Ok(nvmlEnableState_t::from(accounts(call, at)));
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetAccountingMode", device, mode, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAccountingPids(
    device: nvmlDevice_t,
    count: *mut c_uint,
    pids: *mut c_uint,
) -> nvmlReturn_t {
    about("nvmlDeviceGetAccountingPids", device, |call, at| {
        if !accounts(call, at) {
            return Err(Refusal::NotSupported);
        }
        let listed = call.story().listed(at, List::Compute, call.now.wall_ns);
        let known: Vec<c_uint> = listed.map(|actor| actor.process.pid).collect();
        // SAFETY: as this function's own.
        unsafe { fill(call, &known, count, pids) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAccountingStats(
    device: nvmlDevice_t,
    pid: c_uint,
    stats: *mut nvmlAccountingStats_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetAccountingStats", device, |call, at| {
        if !accounts(call, at) {
            return Err(Refusal::NotSupported);
        }
        let now_ns = call.now.wall_ns;
        let (percent, length_ns, memory) =
            call.story().accounted(at, pid, now_ns).ok_or(Refusal::NotFound)?;
        let value = nvmlAccountingStats_t {
            gpuUtilization: percent,
            memoryUtilization: percent / 2,
            maxMemoryUsage: memory,
            // Of a process that runs it is not known yet.
            time: 0,
            startTime: u64::try_from((now_ns - length_ns) / 1_000).unwrap_or(0),
            isRunning: 1,
            reserved: [0; 5],
        };
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(stats, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPcieThroughput(
    device: nvmlDevice_t,
    counter: nvmlPcieUtilCounter_t,
    value: *mut c_uint,
) -> nvmlReturn_t {
    let now = |call: &mut Call<'_>, at: usize| {
        if counter > 1 {
            return Err(Refusal::InvalidArgument);
        }
        c_uint::try_from(call.story().pcie_kib_s(at, call.now.wall_ns)).map_err(|_| Refusal::Unknown)
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetPcieThroughput", device, value, now) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    link: c_uint,
    active: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| {
        let links = call.story().scenario.device[at].signals.nvlinks;
        if links == 0 {
            return Err(Refusal::NotSupported);
        }
        if link < links { Ok(1) } else { Err(Refusal::InvalidArgument) }
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetNvLinkState", device, active, value) }
}

/// Fields are answered one by one: what is not known of one says nothing of the others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetFieldValues", device, |call, at| {
        let count = usize::try_from(count).map_err(|_| Refusal::InvalidArgument)?;
        if values.is_null() || count == 0 {
            return Err(Refusal::InvalidArgument);
        }
        // SAFETY: not null, and then so many of the caller's, by NVML's contract.
        for field in unsafe { std::slice::from_raw_parts_mut(values, count) } {
            let links = call.story().scenario.device[at].signals.nvlinks;
            let known = [NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX]
                .contains(&field.fieldId);
            let value = if known && links > 0 && field.scopeId == c_uint::MAX {
                Ok(call.story().nvlink_kib(at, call.now.wall_ns))
            } else {
                Err(Refusal::NotSupported)
            };
            field.timestamp = call.now.wall_ns / 1_000;
            field.latencyUsec = 0;
            field.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
            field.nvmlReturn = code(value.map(|_| ()));
            field.value = nvmlValue_t { ullVal: value.unwrap_or(0) };
        }
        Ok(())
    })
}
