//! The library as a foreign caller meets it: opened at run time by nvml-wrapper, in a process of its own because
//! the environment says what it plays.

#![allow(clippy::unwrap_used, reason = "a test ends where its setup fails")]

use std::path::PathBuf;
use std::process::Command;

use nvidia_ml::config;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use tonnage_runtime::clock::{Reading, write_simulated};

const SCENARIO: &str = concat!(
    "epoch_ns = 0\ndriver_version = '570.1.2'\n",
    include_str!("two_gpus.toml"),
    "[[process]]
pid = 10
devices = ['GPU-a']
start_s = 0
memory_bytes = 300
utilisation = [[0, 40]]
"
);
/// Given to the process in which the library is opened; to the test runner it says nothing.
const CHILD: &str = "--skip=of-this-name-there-is-none";

/// Cargo puts the library beside the tests' executables.
fn library() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libnvidia_ml.so")
}

/// This test again, alone in a process of its own.
fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", CHILD]).env_remove(config::SCENARIO);
    command
}

fn is_child() -> bool {
    std::env::args().any(|argument| argument == CHILD)
}

#[test]
fn nvml_wrapper_reads_a_scenario_through_the_loader() {
    if is_child() {
        return read_the_scenario();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("scenario.toml"), SCENARIO).unwrap();
    let clock = std::fs::File::create(dir.path().join("clock")).unwrap();
    let now_ns = 10_000_000_000;
    write_simulated(&clock, Reading { wall_ns: now_ns, monotonic_ns: now_ns, boot_ns: now_ns }).unwrap();
    let child = child("nvml_wrapper_reads_a_scenario_through_the_loader")
        .env(config::SCENARIO, dir.path().join("scenario.toml"))
        .env(config::CLOCK, dir.path().join("clock"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn without_a_scenario_the_driver_does_not_load_and_says_why() {
    if is_child() {
        let loaded = Nvml::builder().lib_path(library().as_os_str()).init();
        assert!(matches!(loaded, Err(NvmlError::DriverNotLoaded)), "{loaded:?}");
        return;
    }
    let child = child("without_a_scenario_the_driver_does_not_load_and_says_why").output().unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("nvml-sim: NVML_SIM_SCENARIO is not set"), "{said}");
}

fn read_the_scenario() {
    let nvml = Nvml::builder().lib_path(library().as_os_str()).init().unwrap();
    assert_eq!(nvml.sys_driver_version().unwrap(), "570.1.2");
    assert_eq!(nvml.device_count().unwrap(), 2);
    let device = nvml.device_by_index(0).unwrap();
    assert_eq!(device.uuid().unwrap(), "GPU-a");
    assert_eq!(device.name().unwrap(), "NVIDIA H200");
    assert_eq!(device.minor_number().unwrap(), 3);
    assert_eq!(device.pci_info().unwrap().bus_id, "00000000:3B:00.0");
    assert_eq!(device.memory_info().unwrap().used, 300);
    let processes = device.running_compute_processes().unwrap();
    assert_eq!(processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [10]);
    assert_eq!(device.process_utilization_stats(None).unwrap()[0].sm_util, 40);
    assert_eq!(device.total_energy_consumption().unwrap(), 1_000_000 + 2_400_000);
    assert_eq!(device.power_usage().unwrap(), 340_000);
    assert!(matches!(device.mig_mode(), Err(NvmlError::NotSupported)));
    assert!(matches!(device.fan_speed(0), Err(NvmlError::FailedToLoadSymbol(_))));
    let idle = nvml.device_by_uuid("GPU-b").unwrap();
    assert!(idle.running_compute_processes().unwrap().is_empty());
    assert!(matches!(idle.process_utilization_stats(None), Err(NvmlError::NotFound)));
}
