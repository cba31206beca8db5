//! Memory slices as the driver shows them: where instances lie, and where they could.

use nvidia_ml::abi::places::*;

use super::mig::h100;
use super::*;

const CUT: [&str; 3] = [
    "uuid = 'MIG-a', profile = '1c.3g.40gb', gpu_instance = 1, compute_instance = 0, to_s = 40",
    "uuid = 'MIG-b', profile = '2c.3g.40gb', gpu_instance = 1, compute_instance = 1",
    "uuid = 'MIG-c', profile = '1g.20gb', gpu_instance = 2, compute_instance = 0",
];

fn gpu_instance(id: u32) -> Result<nvmlGpuInstance_t, nvmlReturn_t> {
    let mut found = null_mut();
    match unsafe { nvmlDeviceGetGpuInstanceById(device(0), id, &mut found) } {
        0 => Ok(found),
        ret => Err(ret),
    }
}

fn info(of: nvmlGpuInstance_t) -> Result<(u32, u32, u32, u32), nvmlReturn_t> {
    let mut info = unsafe { std::mem::zeroed::<nvmlGpuInstanceInfo_t>() };
    match unsafe { nvmlGpuInstanceGetInfo(of, &mut info) } {
        0 => {
            assert_eq!(info.device, device(0));
            Ok((info.id, info.profileId, info.placement.start, info.placement.size))
        }
        ret => Err(ret),
    }
}

fn places(profile_id: u32, room: u32) -> Result<Vec<(u32, u32)>, nvmlReturn_t> {
    let mut found = [nvmlGpuInstancePlacement_t { start: 9, size: 9 }; 8];
    let mut count = room;
    let ret = unsafe {
        nvmlDeviceGetGpuInstancePossiblePlacements_v2(device(0), profile_id, found.as_mut_ptr(), &mut count)
    };
    match ret {
        0 => Ok(found[..count as usize].iter().map(|place| (place.start, place.size)).collect()),
        ret => Err(ret),
    }
}

#[test]
fn a_gpu_instance_lies_where_it_was_put_until_it_is_gone() {
    let sim = Sim::new(&h100("", &CUT, ""));
    // The driver puts a 3g behind, and what is small before it.
    let one = gpu_instance(1).unwrap();
    assert_eq!(info(one), Ok((1, 9, 4, 4)));
    assert_eq!(info(gpu_instance(2).unwrap()), Ok((2, 15, 0, 2)));
    assert_eq!(gpu_instance(3), Err(nvmlReturn_enum_NVML_ERROR_NOT_FOUND));
    sim.at(40 * S);
    assert_eq!(info(one), Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT));
    assert_eq!(info(gpu_instance(1).unwrap()), Ok((1, 9, 4, 4)), "its other compute instance is there");
}

#[test]
fn the_largest_profile_takes_all_memory_slices() {
    let _sim = Sim::new(&h100("", &CUT, ""));
    assert_eq!(places(0, 8), Ok(vec![(0, 8)]));
    assert_eq!(places(9, 8), Ok(vec![(4, 4), (0, 4)]));
    assert_eq!(places(9, 1), Err(nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE));
    assert_eq!(places(77, 8), Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED));
    let mut count = 0;
    let ret = unsafe { nvmlDeviceGetGpuInstancePossiblePlacements_v2(device(0), 14, null_mut(), &mut count) };
    assert_eq!((ret, count), (0, 3), "how many there are");
}

#[test]
fn without_privileges_nothing_is_told_of_memory_slices() {
    let _sim = Sim::new(&h100("privileged = false", &CUT, ""));
    let refused = nvmlReturn_enum_NVML_ERROR_NO_PERMISSION;
    assert_eq!((gpu_instance(1), places(0, 8)), (Err(refused), Err(refused)));
    assert_eq!(info(null_mut()), Err(refused));
}
