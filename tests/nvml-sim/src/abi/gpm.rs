//! GPM: mean utilisation of a device or of a GPU instance between two samples that the caller takes.
//!
//! A sample is a number in the caller's pointer; what it holds is in [`crate::handles`].

use std::ffi::{c_char, c_uint};
use std::ptr::null_mut;

use nvml_wrapper_sys::bindings::{
    NVML_GPM_METRICS_GET_VERSION, NVML_GPM_SUPPORT_VERSION, nvmlDevice_t, nvmlGpmMetric_t__bindgen_ty_1,
    nvmlGpmMetricId_t_NVML_GPM_METRIC_ANY_TENSOR_UTIL, nvmlGpmMetricId_t_NVML_GPM_METRIC_DRAM_BW_UTIL,
    nvmlGpmMetricId_t_NVML_GPM_METRIC_GRAPHICS_UTIL, nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_OCCUPANCY,
    nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_UTIL, nvmlGpmMetricsGet_t, nvmlGpmSample_t, nvmlGpmSupport_t,
    nvmlReturn_t,
};

use super::{about, answer, code, find, put};
use crate::Refusal;
use crate::driver::Call;
use crate::handles::Taken;

/// Two samples must be further apart.
const APART_NS: i64 = 100_000_000;
const METRICS_MAX: c_uint = 210;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmQueryDeviceSupport(
    device: nvmlDevice_t,
    support: *mut nvmlGpmSupport_t,
) -> nvmlReturn_t {
    answer("nvmlGpmQueryDeviceSupport", |call| {
        let (at, _) = find(call, device)?;
        if support.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        // SAFETY: not null, and then the caller's, by NVML's contract.
        let version = unsafe { (*support).version };
        if version != NVML_GPM_SUPPORT_VERSION {
            return Err(Refusal::ArgumentVersionMismatch);
        }
        let isSupportedDevice = c_uint::from(call.story().gpm(at));
        // SAFETY: as above.
        unsafe { put(support, nvmlGpmSupport_t { version, isSupportedDevice }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleAlloc(sample: *mut nvmlGpmSample_t) -> nvmlReturn_t {
    answer("nvmlGpmSampleAlloc", |call| {
        if sample.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        let number = call.handles().mint();
        call.handles().gpm_samples.insert(number, None);
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(sample, std::ptr::without_provenance_mut(number)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleFree(sample: nvmlGpmSample_t) -> nvmlReturn_t {
    answer("nvmlGpmSampleFree", |call| {
        call.handles().gpm_samples.remove(&sample.addr()).map(|_| ()).ok_or(Refusal::InvalidArgument)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleGet(device: nvmlDevice_t, sample: nvmlGpmSample_t) -> nvmlReturn_t {
    answer("nvmlGpmSampleGet", |call| {
        let (at, part) = find(call, device)?;
        let (story, now_ns) = (call.story(), call.now.wall_ns);
        let instance = part.and_then(|part| story.mig_device(at, part, now_ns)).map(|mig| mig.gpu_instance);
        take(call, at, instance, sample)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmMigSampleGet(
    device: nvmlDevice_t,
    gpu_instance: c_uint,
    sample: nvmlGpmSample_t,
) -> nvmlReturn_t {
    about("nvmlGpmMigSampleGet", device, |call, at| take(call, at, Some(gpu_instance), sample))
}

fn take(
    call: &mut Call<'_>,
    at: usize,
    gpu_instance: Option<u32>,
    sample: nvmlGpmSample_t,
) -> Result<(), Refusal> {
    let (story, wall_ns) = (call.story(), call.now.wall_ns);
    if !story.gpm(at) {
        return Err(Refusal::NotSupported);
    }
    let part = story.mig_devices(at, wall_ns).find(|(_, mig, _)| Some(mig.gpu_instance) == gpu_instance);
    let part = part.map(|(part, ..)| part);
    if gpu_instance.is_some() && part.is_none() {
        return Err(Refusal::InvalidArgument);
    }
    let used_percent_ns = story.used_percent_ns(at, gpu_instance, wall_ns);
    let room = call.handles().gpm_samples.get_mut(&sample.addr()).ok_or(Refusal::InvalidArgument)?;
    *room = Some(Taken { device: at, gpu_instance, part, wall_ns, used_percent_ns });
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmMetricsGet(get: *mut nvmlGpmMetricsGet_t) -> nvmlReturn_t {
    answer("nvmlGpmMetricsGet", |call| {
        // SAFETY: null or the caller's, by NVML's contract, and nobody else's while this call lasts.
        let get = unsafe { get.as_mut() }.ok_or(Refusal::InvalidArgument)?;
        if get.version != NVML_GPM_METRICS_GET_VERSION {
            return Err(Refusal::ArgumentVersionMismatch);
        }
        if get.numMetrics > METRICS_MAX {
            return Err(Refusal::InvalidArgument);
        }
        let mut taken = |sample: nvmlGpmSample_t| {
            let known = call.handles().gpm_samples.get(&sample.addr()).copied().flatten();
            known.ok_or(Refusal::InvalidArgument)
        };
        let (first, second) = (taken(get.sample1)?, taken(get.sample2)?);
        let of = |taken: &Taken| (taken.device, taken.gpu_instance, taken.part);
        let apart_ns = second.wall_ns - first.wall_ns;
        if of(&first) != of(&second) || apart_ns < APART_NS {
            return Err(Refusal::InvalidArgument);
        }
        let used = second.used_percent_ns - first.used_percent_ns;
        // Thousandths of a percent: exact enough for a float, and an integer in the log.
        let thousandths = u32::try_from(used * 1_000 / i128::from(apart_ns)).unwrap_or(u32::MAX).min(100_000);
        let device = call.story().scenario.device[first.device].uuid.clone();
        call.record.device = Some(device);
        call.record.gpm = Some((first.gpu_instance.unwrap_or(u32::MAX), u64::from(thousandths)));
        let percent = f64::from(thousandths) / 1_000.0;
        for metric in get.metrics.iter_mut().take(get.numMetrics as usize) {
            let value = value(metric.metricId, percent);
            metric.nvmlReturn = code(value.map(|_| ()));
            metric.value = value.unwrap_or(0.0);
            metric.metricInfo = nvmlGpmMetric_t__bindgen_ty_1 {
                shortName: null_mut::<c_char>(),
                longName: null_mut(),
                unit: null_mut(),
            };
        }
        Ok(())
    })
}

#[allow(non_upper_case_globals, reason = "the names are NVML's")]
fn value(metric: c_uint, percent: f64) -> Result<f64, Refusal> {
    match metric {
        nvmlGpmMetricId_t_NVML_GPM_METRIC_GRAPHICS_UTIL | nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_UTIL => {
            Ok(percent)
        }
        nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_OCCUPANCY
        | nvmlGpmMetricId_t_NVML_GPM_METRIC_ANY_TENSOR_UTIL
        | nvmlGpmMetricId_t_NVML_GPM_METRIC_DRAM_BW_UTIL => Ok(percent / 2.0),
        _ => Err(Refusal::NotSupported),
    }
}
