//! Events: each is told once, to those who may know, and only what happened since one asked for it.

use nvidia_ml::abi::events::*;

use super::mig::h100;
use super::*;

const CUT: [&str; 2] = [
    "uuid = 'MIG-a', profile = '3g.40gb', gpu_instance = 1, compute_instance = 0",
    "uuid = 'MIG-b', profile = '2g.20gb', gpu_instance = 5, compute_instance = 0, from_s = 30, to_s = 40",
];
const XIDS: &str = "[[device.xid]]\nat_s = 10\ncode = 13\n[[device.xid]]\nat_s = 35\ncode = 31\ninstance = 'MIG-b'\n\
                    [[device.xid]]\nat_s = 35.5\ncode = 79\n";

fn set_of(types: u64) -> nvmlEventSet_t {
    let mut set = null_mut();
    assert_eq!(unsafe { nvmlEventSetCreate(&mut set) }, 0);
    assert_eq!(unsafe { nvmlDeviceRegisterEvents(device(0), types, set) }, 0);
    set
}

/// Kind, number, GPU instance and compute instance of all that there is now.
fn all(set: nvmlEventSet_t) -> Vec<(u64, u64, u32, u32)> {
    let mut told = Vec::new();
    loop {
        let mut data = unsafe { std::mem::zeroed::<nvmlEventData_t>() };
        match unsafe { nvmlEventSetWait_v2(set, &mut data, 0) } {
            0 => told.push((data.eventType, data.eventData, data.gpuInstanceId, data.computeInstanceId)),
            ret => {
                assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_TIMEOUT);
                return told;
            }
        }
    }
}

#[test]
fn xids_and_cuts_are_told_once_and_in_order_with_the_instance_that_they_are_of() {
    let sim = Sim::new(&h100("", &CUT, XIDS));
    let mut types = 0;
    assert_eq!(unsafe { nvmlDeviceGetSupportedEventTypes(device(0), &mut types) }, 0);
    let set = set_of(types);
    assert_eq!(all(set), [], "what was before");
    sim.at(36 * S);
    let none = u32::MAX;
    assert_eq!(all(set), [(256, 0, none, none), (8, 31, 5, 0), (8, 79, none, none)]);
    assert_eq!(all(set), []);
    sim.at(40 * S);
    assert_eq!(all(set), [(256, 0, none, none)]);
    assert!(sim.log().iter().all(|record| record.ret == 0), "a wait for nothing is no refusal");
    assert_eq!(unsafe { nvmlEventSetFree(set) }, 0);
    let mut data = unsafe { std::mem::zeroed::<nvmlEventData_t>() };
    let ret = unsafe { nvmlEventSetWait_v2(set, &mut data, 0) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
}

#[test]
fn only_what_was_asked_for_is_told_and_to_the_unprivileged_nothing_of_one_instance() {
    let sim = Sim::new(&h100("privileged = false", &CUT, XIDS));
    let set = set_of(8);
    sim.at(50 * S);
    assert_eq!(all(set), [(8, 79, u32::MAX, u32::MAX)]);
}

#[test]
fn a_driver_can_be_without_events() {
    let rest = "[device.signals]\nevents = false\n";
    let _sim = Sim::new(&h100("", &CUT, rest));
    let mut set = null_mut();
    assert_eq!(unsafe { nvmlEventSetCreate(&mut set) }, 0);
    let ret = unsafe { nvmlDeviceRegisterEvents(device(0), 8, set) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
}
