//! MIG as the driver shows it: modes, handles, profiles, what is left, and whose processes are seen by whom.

use nvidia_ml::abi::mig::*;

use super::*;

/// Cut into a 3g and, 10 s later, a 1g; from second 40 on into one of 7g.
fn partitioned() -> String {
    let part = |uuid: &str, slices: u32, gpu_instance: u32, times: &str| {
        format!(
            "{{ uuid = 'MIG-{uuid}', profile_slices = {slices}, gpu_instance = {gpu_instance}, \
             compute_instance = 0{times} }}"
        )
    };
    let mig = [
        part("1", 3, 2, ", to_s = 40"),
        part("2", 1, 9, ", from_s = 30, to_s = 40"),
        part("3", 7, 0, ", from_s = 40"),
    ];
    SCENARIO.replacen("minor = 3\n", &format!("minor = 3\nmig = [{}]\n", mig.join(", ")), 1)
}

fn mig_device(index: u32) -> Result<nvmlDevice_t, nvmlReturn_t> {
    let mut mig = null_mut();
    match unsafe { nvmlDeviceGetMigDeviceHandleByIndex(device(0), index, &mut mig) } {
        0 => Ok(mig),
        ret => Err(ret),
    }
}

fn uuid(device: nvmlDevice_t) -> Result<String, nvmlReturn_t> {
    let mut buffer = [0 as c_char; 80];
    match unsafe { nvmlDeviceGetUUID(device, buffer.as_mut_ptr(), 80) } {
        0 => Ok(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_owned()),
        ret => Err(ret),
    }
}

fn attributes() -> nvmlDeviceAttributes_t {
    unsafe { std::mem::zeroed() }
}

#[test]
fn a_device_that_is_not_partitioned_knows_nothing_of_mig() {
    let _sim = Sim::new(SCENARIO);
    let (mut a, mut b, mut mig) = (0, 0, null_mut());
    let whole = device(0);
    assert_eq!(
        unsafe { nvmlDeviceGetMigMode(whole, &mut a, &mut b) },
        nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED
    );
    assert_eq!((unsafe { nvmlDeviceGetMaxMigDeviceCount(whole, &mut a) }, a), (0, 0));
    let answers = unsafe {
        [
            nvmlDeviceGetMigDeviceHandleByIndex(whole, 0, &mut mig),
            nvmlDeviceIsMigDeviceHandle(whole, &mut a),
            nvmlDeviceGetAttributes_v2(whole, &mut attributes()),
        ]
    };
    assert_eq!(answers, [nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED; 3]);
}

#[test]
fn a_mig_device_is_in_its_slot_while_it_is_there_and_other_slots_are_not_found() {
    let sim = Sim::new(&partitioned());
    let (mut current, mut pending, mut slots) = (9, 9, 0);
    assert_eq!(unsafe { nvmlDeviceGetMigMode(device(0), &mut current, &mut pending) }, 0);
    assert_eq!((unsafe { nvmlDeviceGetMaxMigDeviceCount(device(0), &mut slots) }, slots), (0, 7));
    assert_eq!((current, pending), (NVML_DEVICE_MIG_ENABLE, NVML_DEVICE_MIG_ENABLE));
    let there = |seconds| {
        sim.at(seconds * S);
        (0..7).filter_map(|slot| mig_device(slot).ok()).map(|mig| uuid(mig).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(there(29), ["MIG-1"]);
    assert_eq!(there(30), ["MIG-1", "MIG-2"]);
    assert_eq!(there(40), ["MIG-3"]);
    assert_eq!(mig_device(1), Err(nvmlReturn_enum_NVML_ERROR_NOT_FOUND));
    assert_eq!(mig_device(7), Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT));
    let known = |record: &Record| record.ret == nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
    assert!(!sim.log().iter().any(known), "an empty slot is no refusal");
}

#[test]
fn a_mig_handle_says_what_it_is_and_what_it_is_on_until_it_is_gone() {
    let sim = Sim::new(&partitioned());
    let mig = mig_device(0).unwrap();
    let (mut is_mig, mut parent, mut found) = (9, null_mut(), null_mut());
    let (mut gpu_instance, mut compute_instance, mut attributes) = (9, 9, attributes());
    let ask = |mig, is_mig: &mut u32, parent: &mut nvmlDevice_t, ids: (&mut u32, &mut u32), attributes| unsafe {
        [
            nvmlDeviceIsMigDeviceHandle(mig, is_mig),
            nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig, parent),
            nvmlDeviceGetGpuInstanceId(mig, ids.0),
            nvmlDeviceGetComputeInstanceId(mig, ids.1),
            nvmlDeviceGetAttributes_v2(mig, attributes),
        ]
    };
    let ids = (&mut gpu_instance, &mut compute_instance);
    assert_eq!(ask(mig, &mut is_mig, &mut parent, ids, &mut attributes), [0; 5]);
    assert_eq!((is_mig, uuid(parent)), (1, Ok("GPU-a".to_owned())));
    assert_eq!((gpu_instance, compute_instance), (2, 0));
    assert_eq!((attributes.computeInstanceSliceCount, attributes.gpuInstanceSliceCount), (3, 3));
    assert_eq!(unsafe { nvmlDeviceGetHandleByUUID(c"MIG-1".as_ptr(), &mut found) }, 0);
    assert_eq!(found, mig);
    sim.at(40 * S);
    let ids = (&mut gpu_instance, &mut compute_instance);
    let invalid = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
    assert_eq!(ask(mig, &mut is_mig, &mut parent, ids, &mut attributes), [invalid; 5]);
    assert_eq!(uuid(mig), Err(invalid));
}

#[test]
fn calls_about_the_other_kind_of_handle_are_refused() {
    let _sim = Sim::new(&partitioned());
    let (whole, mig, mut number, mut other) = (device(0), mig_device(0).unwrap(), 0, null_mut());
    assert_eq!((unsafe { nvmlDeviceIsMigDeviceHandle(whole, &mut number) }, number), (0, 0));
    let ret = unsafe { nvmlDeviceGetAttributes_v2(whole, &mut attributes()) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    let answers = unsafe {
        [
            nvmlDeviceGetDeviceHandleFromMigDeviceHandle(whole, &mut other),
            nvmlDeviceGetGpuInstanceId(whole, &mut number),
            nvmlDeviceGetComputeInstanceId(whole, &mut number),
            nvmlDeviceGetMigMode(mig, &mut number, &mut 0),
            nvmlDeviceGetMaxMigDeviceCount(mig, &mut number),
            nvmlDeviceGetMigDeviceHandleByIndex(mig, 0, &mut other),
            nvmlDeviceGetMigDeviceHandleByIndex(whole, 0, null_mut()),
            nvmlDeviceGetGpuInstanceId(mig, null_mut()),
            nvmlDeviceGetAttributes_v2(mig, null_mut()),
            nvmlDeviceGetAttributes_v2(null_mut(), &mut attributes()),
        ]
    };
    assert_eq!(answers, [nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT; 10]);
}

#[test]
fn utilisation_is_not_supported_where_a_device_is_partitioned() {
    let _sim = Sim::new(&partitioned());
    let (mut count, mut rates) = (0, nvmlUtilization_t { gpu: 0, memory: 0 });
    let answers = unsafe {
        [
            nvmlDeviceGetProcessUtilization(device(0), null_mut(), &mut count, 0),
            nvmlDeviceGetUtilizationRates(device(0), &mut rates),
        ]
    };
    assert_eq!(answers, [nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED; 2]);
}

#[test]
fn what_needs_privileges_can_be_refused() {
    let faults = "[faults]\nno_permission = ['nvmlDeviceGetMigDeviceHandleByIndex']\n[[device]]\n";
    let _sim = Sim::new(&partitioned().replacen("[[device]]\n", faults, 1));
    assert_eq!(mig_device(0), Err(nvmlReturn_enum_NVML_ERROR_NO_PERMISSION));
}

/// An H100 of 80 GB with these MIG devices, and a scenario's rest.
pub(crate) fn h100(fields: &str, mig: &[&str], rest: &str) -> String {
    let head = "[[device]]\nuuid = 'GPU-h'\nmodel = 'NVIDIA H100 80GB HBM3'\nmemory_bytes = 85899345920\n\
                minor = 0\npci_bus_id = '00000000:3B:00.0'\nidle_mw = 70000\nbusy_mw = 700000\n";
    let parts: Vec<String> = mig.iter().map(|part| format!("{{ {part} }}")).collect();
    format!("epoch_ns = 0\n{fields}\n{head}mig = [{}]\n{rest}", parts.join(", "))
}

pub(crate) fn name(device: nvmlDevice_t) -> String {
    let mut buffer = [0 as c_char; 96];
    assert_eq!(unsafe { nvmlDeviceGetName(device, buffer.as_mut_ptr(), 96) }, 0);
    unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_owned()
}

const THREE: &str = "uuid = 'MIG-a', profile = '3g.40gb', gpu_instance = 1, compute_instance = 0";
const ONE_OF_THREE: &str = "uuid = 'MIG-b', profile = '1c.3g.40gb', gpu_instance = 2, compute_instance = 0";
const TWO_OF_THREE: &str = "uuid = 'MIG-c', profile = '2c.3g.40gb', gpu_instance = 2, compute_instance = 1";

#[test]
fn a_mig_device_has_its_profile_in_its_name_and_memory_of_its_own() {
    let process =
        "[[process]]\npid = 7\ndevices = ['GPU-h']\ninstance = 'MIG-b'\nstart_s = 0\nmemory_bytes = 300";
    let _sim = Sim::new(&h100("", &[THREE, ONE_OF_THREE, TWO_OF_THREE], process));
    let names: Vec<String> = (0..3).map(|index| name(mig_device(index).unwrap())).collect();
    let of = |profile: &str| format!("NVIDIA H100 80GB HBM3 MIG {profile}");
    assert_eq!(names, [of("3g.40gb"), of("1c.3g.40gb"), of("2c.3g.40gb")]);
    let (mut memory, mut about) = (nvmlMemory_t { total: 0, free: 0, used: 0 }, attributes());
    assert_eq!(unsafe { nvmlDeviceGetMemoryInfo(mig_device(1).unwrap(), &mut memory) }, 0);
    assert_eq!((memory.total, memory.used), (40 << 30, 300));
    assert_eq!(unsafe { nvmlDeviceGetAttributes_v2(mig_device(1).unwrap(), &mut about) }, 0);
    let slices = (about.gpuInstanceSliceCount, about.computeInstanceSliceCount);
    assert_eq!((slices, about.memorySizeMB), ((3, 1), 40 << 10));
}

fn remaining(profile: u32) -> (u32, u32, u32) {
    let (mut info, mut count) = (unsafe { std::mem::zeroed::<nvmlGpuInstanceProfileInfo_t>() }, 99);
    assert_eq!(unsafe { nvmlDeviceGetGpuInstanceProfileInfo(device(0), profile, &mut info) }, 0);
    assert_eq!(unsafe { nvmlDeviceGetGpuInstanceRemainingCapacity(device(0), info.id, &mut count) }, 0);
    (info.sliceCount, info.instanceCount, count)
}

#[test]
fn profiles_say_what_they_take_and_how_many_more_there_is_room_for() {
    let sim = Sim::new(&h100("", &[&format!("{THREE}, from_s = 30")], ""));
    let numbers = [
        NVML_GPU_INSTANCE_PROFILE_1_SLICE,
        NVML_GPU_INSTANCE_PROFILE_2_SLICE,
        NVML_GPU_INSTANCE_PROFILE_3_SLICE,
        NVML_GPU_INSTANCE_PROFILE_4_SLICE,
        NVML_GPU_INSTANCE_PROFILE_7_SLICE,
    ];
    assert_eq!(numbers.map(remaining), [(1, 7, 7), (2, 3, 3), (3, 2, 2), (4, 1, 1), (7, 1, 1)]);
    sim.at(30 * S);
    // The driver put it behind, so that a 4g still fits before it.
    assert_eq!(numbers.map(remaining), [(1, 7, 4), (2, 3, 2), (3, 2, 1), (4, 1, 1), (7, 1, 0)]);
    let mut versioned = unsafe { std::mem::zeroed::<nvmlGpuInstanceProfileInfo_v2_t>() };
    let ret = unsafe { nvmlDeviceGetGpuInstanceProfileInfoV(device(0), 2, &mut versioned) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    versioned.version = u32::try_from(size_of_val(&versioned)).unwrap() | 2 << 24;
    assert_eq!(unsafe { nvmlDeviceGetGpuInstanceProfileInfoV(device(0), 2, &mut versioned) }, 0);
    assert_eq!(unsafe { CStr::from_ptr(versioned.name.as_ptr()) }, c"MIG 3g.40gb");
    let ret = unsafe { nvmlDeviceGetGpuInstanceProfileInfoV(device(0), 5, &mut versioned) };
    assert_eq!(ret, nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
}

#[test]
fn mig_can_be_switched_on_and_off_and_takes_its_devices_with_it() {
    let sim = Sim::new(&h100("", &[THREE], "mig_from_s = 25\nmig_to_s = 40\n"));
    let mode = || {
        let (mut current, mut pending, mut slots) = (9, 9, 9);
        unsafe {
            assert_eq!(nvmlDeviceGetMigMode(device(0), &mut current, &mut pending), 0);
            assert_eq!(nvmlDeviceGetMaxMigDeviceCount(device(0), &mut slots), 0);
        }
        (current, slots, mig_device(0).is_ok())
    };
    assert_eq!(mode(), (0, 0, false));
    assert_eq!(mig_device(0), Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED));
    sim.at(25 * S);
    assert_eq!(mode(), (1, 7, true));
    sim.at(40 * S);
    assert_eq!(mode(), (0, 0, false));
}

#[test]
fn ids_and_a_uuid_are_used_again_at_once_and_an_old_handle_is_dead_all_the_same() {
    let cut = [
        "uuid = 'MIG-a', profile = '3g.40gb', gpu_instance = 1, compute_instance = 0, to_s = 30",
        "uuid = 'MIG-a', profile = '2g.20gb', gpu_instance = 1, compute_instance = 0, from_s = 30",
    ];
    let sim = Sim::new(&h100("", &cut, ""));
    let old = mig_device(0).unwrap();
    sim.at(30 * S);
    let new = mig_device(0).unwrap();
    assert_eq!(uuid(old), Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT));
    assert_eq!(uuid(new), Ok("MIG-a".to_owned()));
    assert!(name(new).ends_with("MIG 2g.20gb"));
}

/// Pid, GPU instance and compute instance.
fn listed(device: nvmlDevice_t) -> Vec<(u32, u32, u32)> {
    let (mut infos, mut count) = ([process_info(); 8], 8);
    assert_eq!(unsafe { nvmlDeviceGetComputeRunningProcesses_v3(device, &mut count, infos.as_mut_ptr()) }, 0);
    let one = |info: &nvmlProcessInfo_t| (info.pid, info.gpuInstanceId, info.computeInstanceId);
    infos[..count as usize].iter().map(one).collect()
}

const ON_TWO: &str = "[[process]]\npid = 7\ndevices = ['GPU-h']\ninstance = 'MIG-a'\nstart_s = 0\n\
                      [[process]]\npid = 8\ndevices = ['GPU-h']\ninstance = 'MIG-c'\nstart_s = 0\n";

#[test]
fn a_process_is_listed_by_its_mig_device_and_by_the_whole_device_with_its_ids() {
    let sim = Sim::new(&h100("", &[THREE, ONE_OF_THREE, TWO_OF_THREE], ON_TWO));
    assert_eq!(listed(device(0)), [(7, 1, 0), (8, 2, 1)]);
    assert_eq!(
        (0..3).map(|at| listed(mig_device(at).unwrap())).collect::<Vec<_>>(),
        [vec![(7, 1, 0)], vec![], vec![(8, 2, 1)]]
    );
    let log = sim.log();
    assert_eq!(log[1].instances, Some(vec![(1, 0), (2, 1)]));
    assert_eq!(log[2].mig.as_deref(), Some("MIG-a"));
}

#[test]
fn without_privileges_the_whole_device_does_not_tell_what_is_on_its_mig_devices() {
    let _sim = Sim::new(&h100("privileged = false", &[THREE, ONE_OF_THREE, TWO_OF_THREE], ON_TWO));
    assert_eq!(listed(device(0)), []);
    assert_eq!(listed(mig_device(0).unwrap()), [(7, 1, 0)]);
}
