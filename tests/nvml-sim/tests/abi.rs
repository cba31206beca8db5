//! The C functions, called as C calls them: what real drivers do that surprises their callers.

#![allow(unsafe_code, reason = "calls the C side")]
#![allow(clippy::unwrap_used, reason = "a test ends where its setup fails")]

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nvidia_ml::abi::device::*;
use nvidia_ml::abi::lists::*;
use nvidia_ml::abi::system::*;
use nvidia_ml::config::Config;
use nvidia_ml::served::{self, INIT, Record, SHUTDOWN};
use nvml_wrapper_sys::bindings::*;
use tonnage_runtime::clock::{Reading, write_simulated};

const S: i64 = 1_000_000_000;
const SCENARIO: &str = concat!(
    "epoch_ns = 0\n",
    include_str!("two_gpus.toml"),
    "[[process]]
pid = 10
devices = ['GPU-a']
start_s = 10
memory_bytes = 300
utilisation = [[0, 40]]
[[process]]
pid = 11
devices = ['GPU-a']
lists = ['compute', 'graphics']
start_s = 10
memory_bytes = 200
utilisation = [[0, 40]]
"
);

#[path = "abi/events.rs"]
mod events;
#[path = "abi/gpm.rs"]
mod gpm;
#[path = "abi/mig.rs"]
mod mig;
#[path = "abi/places.rs"]
mod places;
#[path = "abi/signals.rs"]
mod signals;

static ONE_DRIVER: Mutex<()> = Mutex::new(());

/// The driver loaded for one test, under a clock of its own.
struct Sim {
    dir: tempfile::TempDir,
    clock: File,
    _alone: MutexGuard<'static, ()>,
}

impl Sim {
    fn new(scenario: &str) -> Self {
        let alone = ONE_DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("scenario.toml"), scenario).unwrap();
        let clock = File::create(dir.path().join("clock")).unwrap();
        let sim = Self { dir, clock, _alone: alone };
        sim.at(20 * S);
        nvidia_ml::driver::start(&sim.config()).unwrap();
        sim
    }

    fn config(&self) -> Config {
        let path = |name: &str| Some(self.dir.path().join(name));
        Config { scenario: path("scenario.toml"), log: path("log"), clock: path("clock"), proc: path("proc") }
    }

    fn at(&self, wall_ns: i64) {
        write_simulated(&self.clock, Reading { wall_ns, monotonic_ns: wall_ns, boot_ns: wall_ns }).unwrap();
    }

    fn log(&self) -> Vec<Record> {
        served::parse(&std::fs::read(self.dir.path().join("log")).unwrap()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = nvidia_ml::driver::stop();
    }
}

fn device(index: u32) -> nvmlDevice_t {
    let mut device = null_mut();
    assert_eq!(unsafe { nvmlDeviceGetHandleByIndex_v2(index, &mut device) }, 0);
    device
}

fn process_info() -> nvmlProcessInfo_t {
    nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 }
}

fn sample() -> nvmlProcessUtilizationSample_t {
    nvmlProcessUtilizationSample_t { pid: 0, timeStamp: 0, smUtil: 0, memUtil: 0, encUtil: 0, decUtil: 0 }
}

#[test]
fn a_call_before_init_or_after_shutdown_is_uninitialized() {
    let sim = Sim::new(SCENARIO);
    assert_eq!(nvmlShutdown(), 0);
    let mut count = 0;
    assert_eq!(unsafe { nvmlDeviceGetCount_v2(&mut count) }, nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
    assert_eq!(nvmlShutdown(), nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
    drop(sim);
}

#[test]
fn initialising_twice_needs_two_shutdowns() {
    let sim = Sim::new(SCENARIO);
    nvidia_ml::driver::start(&sim.config()).unwrap();
    assert_eq!(nvmlShutdown(), 0);
    let mut count = 0;
    assert_eq!((unsafe { nvmlDeviceGetCount_v2(&mut count) }, count), (0, 2));
}

#[test]
fn a_list_that_does_not_fit_says_how_long_it_is_and_is_not_written() {
    let _sim = Sim::new(SCENARIO);
    let device = device(0);
    let call = |count: &mut u32, to| unsafe { nvmlDeviceGetComputeRunningProcesses_v3(device, count, to) };
    let mut count = 0;
    assert_eq!(call(&mut count, null_mut()), nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    assert_eq!(count, 2);
    let mut infos = [process_info(); 2];
    let mut count = 1;
    assert_eq!(call(&mut count, infos.as_mut_ptr()), nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    assert_eq!((count, infos[0].pid), (2, 0));
    assert_eq!(call(&mut count, null_mut()), nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    assert_eq!(call(&mut count, infos.as_mut_ptr()), 0);
    assert_eq!(
        infos.map(|info| (info.pid, info.usedGpuMemory, info.gpuInstanceId)),
        [(10, 300, u32::MAX), (11, 200, u32::MAX)]
    );
}

#[test]
fn an_empty_list_is_a_success_with_count_0() {
    let _sim = Sim::new(SCENARIO);
    let mut count = 0;
    assert_eq!(unsafe { nvmlDeviceGetComputeRunningProcesses_v3(device(1), &mut count, null_mut()) }, 0);
    let mut count = 5;
    assert_eq!(unsafe { nvmlDeviceGetMPSComputeRunningProcesses_v3(device(0), &mut count, null_mut()) }, 0);
    assert_eq!(count, 0);
}

#[test]
fn the_utilisation_of_an_idle_device_is_an_error() {
    let _sim = Sim::new(SCENARIO);
    let mut count = 0;
    let ret = unsafe { nvmlDeviceGetProcessUtilization(device(1), null_mut(), &mut count, 0) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_NOT_FOUND);
}

#[test]
fn nothing_newer_than_the_last_sample_seen_is_an_error_too() {
    let _sim = Sim::new(SCENARIO);
    let device = device(0);
    let mut samples = [sample(); 2];
    let mut count = 0;
    let ret = unsafe { nvmlDeviceGetProcessUtilization(device, null_mut(), &mut count, 0) };
    assert_eq!((ret, count), (nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE, 2));
    assert_eq!(unsafe { nvmlDeviceGetProcessUtilization(device, samples.as_mut_ptr(), &mut count, 0) }, 0);
    assert_eq!(samples.map(|sample| sample.smUtil), [40, 40]);
    assert_ne!(samples[0].timeStamp, samples[1].timeStamp, "each process has its own time");
    let newest = samples.map(|sample| sample.timeStamp).into_iter().max().unwrap();
    let ret = unsafe { nvmlDeviceGetProcessUtilization(device, samples.as_mut_ptr(), &mut count, newest) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_NOT_FOUND);
}

#[test]
fn null_pointers_and_handles_of_nothing_are_invalid_arguments() {
    let _sim = Sim::new(SCENARIO);
    let device = device(0);
    let mut number = 0;
    let beyond: nvmlDevice_t = std::ptr::without_provenance_mut(77);
    let answers = unsafe {
        [
            nvmlDeviceGetCount_v2(null_mut()),
            nvmlDeviceGetHandleByIndex_v2(0, null_mut()),
            nvmlDeviceGetHandleByIndex_v2(9, &mut null_mut()),
            nvmlDeviceGetHandleByUUID(null_mut(), &mut null_mut()),
            nvmlDeviceGetUUID(device, null_mut(), 80),
            nvmlDeviceGetMemoryInfo(device, null_mut()),
            nvmlDeviceGetPciInfo_v3(device, null_mut()),
            nvmlDeviceGetTotalEnergyConsumption(device, null_mut()),
            nvmlDeviceGetComputeRunningProcesses_v3(device, null_mut(), null_mut()),
            nvmlDeviceGetProcessUtilization(device, null_mut(), null_mut(), 0),
            nvmlDeviceGetMinorNumber(null_mut(), &mut number),
            nvmlDeviceGetMinorNumber(beyond, &mut number),
            nvmlSystemGetDriverVersion(null_mut(), 80),
        ]
    };
    assert_eq!(answers, [nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT; 13]);
}

#[test]
fn a_text_that_does_not_fit_is_not_cut() {
    let _sim = Sim::new(SCENARIO);
    let mut buffer = [0 as c_char; 6];
    let call =
        |buffer: &mut [c_char], length| unsafe { nvmlDeviceGetUUID(device(0), buffer.as_mut_ptr(), length) };
    assert_eq!(call(&mut buffer, 5), nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    assert_eq!(call(&mut buffer, 6), 0);
    assert_eq!(unsafe { CStr::from_ptr(buffer.as_ptr()) }, c"GPU-a");
}

#[test]
fn functions_can_be_unsupported_or_missing() {
    let faults = "[faults]\nnot_supported = ['nvmlDeviceGetTotalEnergyConsumption']\n\
                  function_not_found = ['nvmlDeviceGetMPSComputeRunningProcesses_v3']\n";
    let _sim = Sim::new(
        &SCENARIO.replace("[[device]]\nuuid = 'GPU-a'", &format!("{faults}[[device]]\nuuid = 'GPU-a'")),
    );
    let (mut energy, mut count) = (0, 0);
    let energy_ret = unsafe { nvmlDeviceGetTotalEnergyConsumption(device(0), &mut energy) };
    let mps_ret = unsafe { nvmlDeviceGetMPSComputeRunningProcesses_v3(device(0), &mut count, null_mut()) };
    assert_eq!(energy_ret, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    assert_eq!(mps_ret, nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND);
}

#[test]
fn a_lost_device_leaves_enumeration_and_its_old_handle_says_so() {
    let lost = "minor = 3\nmissing_from_s = 30\nmissing_to_s = 40";
    let sim = Sim::new(&SCENARIO.replace("minor = 3", lost));
    let (first, mut count, mut minor) = (device(0), 0, 0);
    sim.at(30 * S);
    assert_eq!((unsafe { nvmlDeviceGetCount_v2(&mut count) }, count), (0, 1));
    assert_eq!(
        unsafe { nvmlDeviceGetMinorNumber(first, &mut minor) },
        nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST
    );
    assert_eq!((unsafe { nvmlDeviceGetMinorNumber(device(0), &mut minor) }, minor), (0, 4));
    sim.at(40 * S);
    assert_eq!((unsafe { nvmlDeviceGetMinorNumber(first, &mut minor) }, minor), (0, 3));
}

#[test]
fn a_bad_scenario_refuses_to_load() {
    let sim = Sim::new(SCENARIO);
    assert_eq!(nvmlShutdown(), 0);
    std::fs::write(sim.path("scenario.toml"), "speed = 'fast'").unwrap();
    assert!(nvidia_ml::driver::start(&sim.config()).is_err());
    assert!(nvidia_ml::driver::start(&Config::default()).is_err());
}

#[test]
fn the_log_has_what_was_served_and_not_the_probes() {
    let sim = Sim::new(SCENARIO);
    let (device, mut count, mut energy) = (device(0), 0, 0);
    let mut infos = [process_info(); 4];
    unsafe {
        nvmlDeviceGetComputeRunningProcesses_v3(device, &mut count, null_mut());
        sim.at(21 * S);
        nvmlDeviceGetComputeRunningProcesses_v3(device, &mut count, infos.as_mut_ptr());
        nvmlDeviceGetTotalEnergyConsumption(device, &mut energy);
        nvmlDeviceGetProcessUtilization(device, null_mut(), &mut count, u64::MAX);
    }
    nvmlShutdown();
    let log = sim.log();
    let calls: Vec<_> = log.iter().map(|record| (record.call.as_str(), record.ret)).collect();
    assert_eq!(
        calls,
        [
            (INIT, 0),
            ("nvmlDeviceGetComputeRunningProcesses_v3", 0),
            ("nvmlDeviceGetTotalEnergyConsumption", 0),
            ("nvmlDeviceGetProcessUtilization", nvmlReturn_enum_NVML_ERROR_NOT_FOUND),
            (SHUTDOWN, 0),
        ]
    );
    assert_eq!((log[0].pid, log[0].boot_ns), (Some(std::process::id()), Some(20 * S)));
    assert_eq!((log[1].wall_ns, log[1].device.as_deref()), (21 * S, Some("GPU-a")));
    assert_eq!(log[1].processes, Some(vec![(10, 300), (11, 200)]));
    // 21 s idle at 100 W and 11 s of 80 percent of 600 W more.
    assert_eq!(log[2].energy_mj, Some(2_100_000 + 11 * 480_000));
}

#[test]
fn processes_are_in_proc_before_they_are_listed() {
    let sim = Sim::new(SCENARIO);
    assert!(sim.path("proc/10/stat").exists(), "not at init");
    std::fs::remove_dir_all(sim.path("proc/10")).unwrap();
    nvmlShutdown();
    sim.at(5 * S);
    nvidia_ml::driver::start(&sim.config()).unwrap();
    assert!(!sim.path("proc/11").exists());
    sim.at(10 * S);
    let mut count = 0;
    unsafe { nvmlDeviceGetComputeRunningProcesses_v3(device(0), &mut count, null_mut()) };
    assert!(sim.path("proc/10/stat").exists() && sim.path("proc/11/stat").exists());
}
