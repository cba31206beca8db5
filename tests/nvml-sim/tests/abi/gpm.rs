//! GPM: samples that belong to the caller, and what lies between two of them.

use nvidia_ml::abi::gpm::*;

use super::mig::h100;
use super::*;

const CUT: [&str; 2] = [
    "uuid = 'MIG-a', profile = '3g.40gb', gpu_instance = 1, compute_instance = 0",
    "uuid = 'MIG-b', profile = '2g.20gb', gpu_instance = 5, compute_instance = 0, to_s = 40",
];
/// 80 % of MIG-a from second 20 on, 50 % from second 22.
const BUSY: &str = "[[process]]\npid = 7\ndevices = ['GPU-h']\ninstance = 'MIG-a'\nstart_s = 20\n\
                    utilisation = [[0, 80], [2, 50]]\n";

fn sample() -> nvmlGpmSample_t {
    let mut sample = null_mut();
    assert_eq!(unsafe { nvmlGpmSampleAlloc(&mut sample) }, 0);
    sample
}

/// Graphics utilisation between two samples, and what one gets for a metric that is not measured.
fn between(sample1: nvmlGpmSample_t, sample2: nvmlGpmSample_t) -> Result<f64, nvmlReturn_t> {
    let mut get = unsafe { std::mem::zeroed::<nvmlGpmMetricsGet_t>() };
    (get.version, get.numMetrics, get.sample1, get.sample2) = (1, 2, sample1, sample2);
    (get.metrics[0].metricId, get.metrics[1].metricId) = (1, 11);
    match unsafe { nvmlGpmMetricsGet(&mut get) } {
        0 => {
            assert_eq!(get.metrics[1].nvmlReturn, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
            Ok(get.metrics[0].value)
        }
        ret => Err(ret),
    }
}

#[test]
fn between_two_samples_lies_the_mean_use_of_that_gpu_instance() {
    let sim = Sim::new(&h100("", &CUT, BUSY));
    let samples = [sample(), sample(), sample(), sample()];
    let take = |instance, sample| unsafe { nvmlGpmMigSampleGet(device(0), instance, sample) };
    sim.at(21 * S);
    assert_eq!((take(1, samples[0]), take(5, samples[1])), (0, 0));
    sim.at(23 * S);
    assert_eq!((take(1, samples[2]), take(5, samples[3])), (0, 0));
    assert_eq!(between(samples[0], samples[2]), Ok(65.0));
    assert_eq!(between(samples[1], samples[3]), Ok(0.0));
    let invalid = Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    assert_eq!(between(samples[0], samples[3]), invalid, "of two instances");
    assert_eq!(between(samples[2], samples[0]), invalid, "backwards");
    assert_eq!(take(9, samples[0]), nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
}

#[test]
fn samples_less_than_a_tenth_of_a_second_apart_are_refused() {
    let sim = Sim::new(&h100("", &CUT, BUSY));
    let (first, second) = (sample(), sample());
    unsafe { nvmlGpmMigSampleGet(device(0), 1, first) };
    sim.at(20 * S + S / 10 - 1);
    unsafe { nvmlGpmMigSampleGet(device(0), 1, second) };
    assert_eq!(between(first, second), Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT));
    sim.at(20 * S + S / 10);
    unsafe { nvmlGpmMigSampleGet(device(0), 1, second) };
    assert_eq!(between(first, second), Ok(80.0));
}

#[test]
fn samples_that_nobody_freed_are_counted_when_the_driver_is_let_go() {
    let sim = Sim::new(&h100("", &CUT, BUSY));
    let (kept, freed) = (sample(), sample());
    assert_eq!(unsafe { nvmlGpmSampleFree(freed) }, 0);
    assert_eq!(unsafe { nvmlGpmSampleFree(freed) }, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    assert!(!kept.is_null());
    nvmlShutdown();
    let log = sim.log();
    let end = log.last().unwrap();
    assert_eq!(end.unfreed, Some((1, 0)));
    assert_eq!(end.calls.as_ref().unwrap()["nvmlGpmSampleAlloc"], 2);
}

#[test]
fn gpus_before_hopper_have_no_gpm() {
    let _sim = Sim::new(&h100("", &CUT, "").replace("H100", "A100"));
    let mut support = nvmlGpmSupport_t { version: 1, isSupportedDevice: 9 };
    assert_eq!(unsafe { nvmlGpmQueryDeviceSupport(device(0), &mut support) }, 0);
    assert_eq!(support.isSupportedDevice, 0);
    let ret = unsafe { nvmlGpmMigSampleGet(device(0), 1, sample()) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
}
