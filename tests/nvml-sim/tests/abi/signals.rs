//! Clocks, errors, links, accounting and virtual GPUs.

use nvidia_ml::abi::signals::*;
use nvidia_ml::abi::vgpu::*;

use super::mig::h100;
use super::*;

const SIGNALS: &str = "\
[device.signals]
sm_clock_mhz = 1700
clocks_event_reasons = [[0, 1], [30, 4]]
ecc_corrected = [[0, 2], [30, 5]]
ecc_before = 100
remapped_rows = { uncorrectable = 1, pending = true }
accounting = true
nvlinks = 18
[[device.vgpu]]
uuid = 'vgpu-1'
vm = 'vm-1'
kind = 'NVIDIA H100-10C'
memory_bytes = 500
max_instances = 8
utilisation = [[0, 10], [30, 70]]
from_s = 25
";
const BUSY: &str =
    "[[process]]\npid = 7\ndevices = ['GPU-h']\nstart_s = 20\nutilisation = [[0, 50]]\nmemory_bytes = 9\n";

fn unpartitioned() -> String {
    h100("", &[], &format!("mig_from_s = 1000\n{SIGNALS}{BUSY}"))
}

#[test]
fn clocks_errors_and_rows_are_those_of_the_moment() {
    let sim = Sim::new(&unpartitioned());
    let now = || unsafe {
        let (mut sm, mut memory, mut reasons, mut new, mut ever) = (0, 0, 0, 0, 0);
        let rets = [
            nvmlDeviceGetClockInfo(device(0), 1, &mut sm),
            nvmlDeviceGetClockInfo(device(0), 2, &mut memory),
            nvmlDeviceGetCurrentClocksEventReasons(device(0), &mut reasons),
            nvmlDeviceGetTotalEccErrors(device(0), 0, 0, &mut new),
            nvmlDeviceGetTotalEccErrors(device(0), 0, 1, &mut ever),
        ];
        assert_eq!(rets, [0; 5]);
        (sm, memory, reasons, new, ever)
    };
    assert_eq!(now(), (1_700, 2_619, 1, 2, 102));
    sim.at(30 * S);
    assert_eq!(now(), (1_700, 2_619, 4, 5, 105));
    let mut rows = [9; 4];
    let [a, b, c, d] = &mut rows;
    assert_eq!(unsafe { nvmlDeviceGetRemappedRows(device(0), a, b, c, d) }, 0);
    assert_eq!(rows, [0, 1, 1, 0]);
}

#[test]
fn links_move_more_the_more_is_used() {
    let sim = Sim::new(&unpartitioned());
    let read = || {
        let mut field = unsafe { std::mem::zeroed::<nvmlFieldValue_t>() };
        (field.fieldId, field.scopeId) = (138, u32::MAX);
        let mut pcie = 0;
        unsafe {
            assert_eq!(nvmlDeviceGetFieldValues(device(0), 1, &mut field), 0);
            assert_eq!(nvmlDeviceGetPcieThroughput(device(0), 0, &mut pcie), 0);
            assert_eq!(field.nvmlReturn, 0);
            (field.value.ullVal, pcie)
        }
    };
    assert_eq!(read(), (0, 10_000_000));
    sim.at(22 * S);
    assert_eq!(read().0, 18 * 25_000_000);
    let mut active = 9;
    assert_eq!((unsafe { nvmlDeviceGetNvLinkState(device(0), 17, &mut active) }, active), (0, 1));
    let ret = unsafe { nvmlDeviceGetNvLinkState(device(0), 18, &mut active) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
}

#[test]
fn accounting_knows_a_process_from_its_start_and_is_off_under_mig() {
    let sim = Sim::new(&unpartitioned());
    sim.at(24 * S);
    let (mut mode, mut count, mut pids) = (9, 4, [0; 4]);
    let mut stats = unsafe { std::mem::zeroed::<nvmlAccountingStats_t>() };
    unsafe {
        assert_eq!((nvmlDeviceGetAccountingMode(device(0), &mut mode), mode), (0, 1));
        assert_eq!(nvmlDeviceGetAccountingPids(device(0), &mut count, pids.as_mut_ptr()), 0);
        assert_eq!(nvmlDeviceGetAccountingStats(device(0), 7, &mut stats), 0);
    }
    assert_eq!((count, pids[0], stats.gpuUtilization, stats.maxMemoryUsage), (1, 7, 50, 9));
    sim.at(1_000 * S);
    assert_eq!((unsafe { nvmlDeviceGetAccountingMode(device(0), &mut mode) }, mode), (0, 0));
}

#[test]
fn a_host_shows_the_virtual_gpus_that_run() {
    let sim = Sim::new(&unpartitioned());
    let (mut mode, mut count, mut numbers) = (9, 4, [0; 4]);
    let mut active = || {
        count = 4;
        assert_eq!(unsafe { nvmlDeviceGetActiveVgpus(device(0), &mut count, numbers.as_mut_ptr()) }, 0);
        numbers[..count as usize].to_vec()
    };
    assert_eq!(active(), [0; 0]);
    sim.at(25 * S);
    let number = active()[0];
    let (mut text, mut kind, mut bytes, mut length) = ([0 as c_char; 80], 9, 0, 80);
    let said = |text: &[c_char]| unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().unwrap().to_owned();
    unsafe {
        assert_eq!((nvmlDeviceGetVirtualizationMode(device(0), &mut mode), mode), (0, 3));
        assert_eq!(nvmlVgpuInstanceGetVmID(number, text.as_mut_ptr(), 80, &mut kind), 0);
        assert_eq!((said(&text).as_str(), kind), ("vm-1", 1));
        assert_eq!(nvmlVgpuInstanceGetType(number, &mut kind), 0);
        let mut most = 0;
        assert_eq!((nvmlVgpuTypeGetMaxInstances(device(0), kind, &mut most), most), (0, 8));
        assert_eq!(nvmlVgpuTypeGetName(kind, text.as_mut_ptr(), &mut length), 0);
        assert_eq!(said(&text), "NVIDIA H100-10C");
        assert_eq!(nvmlVgpuInstanceGetUUID(number, text.as_mut_ptr(), 80), 0);
        assert_eq!(said(&text), "vgpu-1");
        assert_eq!((nvmlVgpuInstanceGetFbUsage(number, &mut bytes), bytes), (0, 500));
        let gone = nvmlVgpuInstanceGetFbUsage(number + 1, &mut bytes);
        assert_eq!(gone, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    }
    let nothing = nvmlValue_t { ullVal: 0 };
    let empty = nvmlVgpuInstanceUtilizationSample_t {
        vgpuInstance: 0,
        timeStamp: 0,
        smUtil: nothing,
        memUtil: nothing,
        encUtil: nothing,
        decUtil: nothing,
    };
    let used = |since_us: u64| unsafe {
        let (mut samples, mut count, mut kind) = ([empty; 4], 4, 9);
        let code =
            nvmlDeviceGetVgpuUtilization(device(0), since_us, &mut kind, &mut count, samples.as_mut_ptr());
        let [sample, ..] = samples;
        (code, kind, sample.vgpuInstance, sample.smUtil.uiVal, sample.timeStamp)
    };
    let (code, kind, of, percent, at_us) = used(0);
    assert_eq!((code, kind, of, percent), (0, 1, number, 10));
    assert_eq!(used(at_us).0, nvmlReturn_enum_NVML_ERROR_NOT_FOUND, "nothing is newer");
    sim.at(31 * S);
    assert_eq!((used(at_us).0, used(at_us).3), (0, 70));
}
