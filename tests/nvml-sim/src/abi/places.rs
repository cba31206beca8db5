//! Where GPU instances lie in a device's memory slices, and where those of a profile could. All of it is told to the privileged
//! alone, as NVML's header has it.
//!
//! A GPU instance's handle is that of the first of its MIG devices which is there, and is good for as long.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t, nvmlReturn_t,
};

use super::{about, answer, find, handle, put};
use crate::Refusal;
use crate::driver::Call;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstancePossiblePlacements_v2(
    device: nvmlDevice_t,
    profile_id: c_uint,
    placements: *mut nvmlGpuInstancePlacement_t,
    count: *mut c_uint,
) -> nvmlReturn_t {
    about("nvmlDeviceGetGpuInstancePossiblePlacements_v2", device, |call, at| {
        privileged(call)?;
        if count.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        if !call.story().mig_capable(at) {
            return Err(Refusal::NotSupported);
        }
        let profiles = call.story().model(at).profiles;
        let profile =
            profiles.into_iter().find(|profile| profile.id == profile_id).ok_or(Refusal::NotSupported)?;
        let found = c_uint::try_from(profile.starts.len()).unwrap_or(c_uint::MAX);
        // SAFETY: not null, and then the caller's, by NVML's contract.
        let room = unsafe { *count };
        if !placements.is_null() {
            if room < found {
                return Err(Refusal::InsufficientSize);
            }
            for (place, &start) in profile.starts.iter().enumerate() {
                let value = nvmlGpuInstancePlacement_t { start, size: profile.memory_slices };
                // SAFETY: the caller has room for as many as it said, and there are no more.
                unsafe { put(placements.add(place), value)? };
            }
        }
        // SAFETY: as above.
        unsafe { put(count, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuInstanceById(
    device: nvmlDevice_t,
    id: c_uint,
    gpu_instance: *mut nvmlGpuInstance_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetGpuInstanceById", device, |call, at| {
        privileged(call)?;
        let now_ns = call.now.wall_ns;
        if !call.story().mig_on(at, now_ns) {
            return Err(Refusal::NotSupported);
        }
        let found = call.story().mig_devices(at, now_ns).find(|(_, mig, _)| mig.gpu_instance == id);
        let part = found.map(|(part, ..)| part).ok_or(Refusal::NotFound)?;
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(gpu_instance, handle(at, Some(part)).cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpuInstanceGetInfo(
    gpu_instance: nvmlGpuInstance_t,
    info: *mut nvmlGpuInstanceInfo_t,
) -> nvmlReturn_t {
    answer("nvmlGpuInstanceGetInfo", |call| {
        privileged(call)?;
        let (at, part) = find(call, gpu_instance.cast())?;
        let part = part.ok_or(Refusal::InvalidArgument)?;
        let now_ns = call.now.wall_ns;
        let story = call.story();
        let mig = story.mig_device(at, part, now_ns).ok_or(Refusal::InvalidArgument)?;
        let cut = story.cut(at, part).ok_or(Refusal::Unknown)?;
        let place = &cut.place;
        let value = nvmlGpuInstanceInfo_t {
            device: handle(at, None),
            id: mig.gpu_instance,
            profileId: cut.profile.id,
            placement: nvmlGpuInstancePlacement_t { start: place.start, size: place.end - place.start },
        };
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(info, value) }
    })
}

fn privileged(call: &Call<'_>) -> Result<(), Refusal> {
    if call.story().scenario.privileged { Ok(()) } else { Err(Refusal::NoPermission) }
}
