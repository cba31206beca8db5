//! Devices: enumeration, what they are, and single values of the moment.

use std::ffi::{CStr, c_char, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlReturn_t, nvmlTemperatureSensors_t,
    nvmlUtilization_t,
};

use super::{about, answer, find, get, handle, put, put_bytes, put_text};
use crate::Refusal;
use crate::driver::Call;
use crate::scenario::Nonsense;
use crate::scenario::check::parse_pci;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    answer("nvmlDeviceGetCount_v2", |call| {
        let present = call.story().present(call.now.wall_ns).count();
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(count, c_uint::try_from(present).map_err(|_| Refusal::Unknown)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    answer("nvmlDeviceGetHandleByIndex_v2", |call| {
        let at =
            call.story().present(call.now.wall_ns).nth(index as usize).ok_or(Refusal::InvalidArgument)?;
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(device, handle(at, None)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    answer("nvmlDeviceGetHandleByUUID", |call| {
        if uuid.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        // SAFETY: not null, and then a C string, by NVML's contract.
        let uuid = unsafe { CStr::from_ptr(uuid) }.to_bytes();
        let (story, now_ns) = (call.story(), call.now.wall_ns);
        let part = |at| {
            story
                .mig_devices(at, now_ns)
                .find(|(_, mig, _)| mig.uuid.as_bytes() == uuid)
                .map(|(part, ..)| part)
        };
        let found = story.present(now_ns).find_map(|at| match part(at) {
            None => (story.scenario.device[at].uuid.as_bytes() == uuid).then(|| handle(at, None)),
            part => Some(handle(at, part)),
        });
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(device, found.ok_or(Refusal::NotFound)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    answer("nvmlDeviceGetUUID", |call| {
        let (at, part) = find(call, device)?;
        let mig = part.and_then(|part| call.story().mig_device(at, part, call.now.wall_ns));
        let text = mig.map_or(&call.story().scenario.device[at].uuid, |mig| &mig.uuid);
        // SAFETY: the caller's buffer has `length` bytes, by NVML's contract.
        unsafe { put_text(uuid, length, text) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    answer("nvmlDeviceGetName", |call| {
        let (at, part) = find(call, device)?;
        let model = &call.story().scenario.device[at].model;
        let text = match part.and_then(|part| call.story().cut(at, part)) {
            _ if call.talks(Nonsense::Text) => b"\xff\xfe".to_vec(),
            Some(cut) => format!("{model} MIG {}", cut.name).into_bytes(),
            None => model.clone().into_bytes(),
        };
        // SAFETY: the caller's buffer has `length` bytes, by NVML's contract.
        unsafe { put_bytes(name, length, &text) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at| {
        call.story().present(call.now.wall_ns).take_while(|&other| other < at).count()
    };
    // SAFETY: as this function's own.
    unsafe {
        get("nvmlDeviceGetIndex", device, index, |call, at| {
            c_uint::try_from(value(call, at)).map_err(|_| Refusal::Unknown)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: as this function's own.
    unsafe {
        get("nvmlDeviceGetMinorNumber", device, minor, |call, at| Ok(call.story().scenario.device[at].minor))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_t,
) -> nvmlReturn_t {
    answer("nvmlDeviceGetMemoryInfo", |call| {
        let (at, part) = find(call, device)?;
        let (total, used) = memory_of(call, at, part);
        let nonsense = nvmlMemory_t { total, free: c_ulonglong::MAX, used: c_ulonglong::MAX };
        let info = nvmlMemory_t { total, free: total - used, used };
        let info = if call.talks(Nonsense::Memory) { nonsense } else { info };
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(memory, info) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    answer("nvmlDeviceGetMemoryInfo_v2", |call| {
        let (at, part) = find(call, device)?;
        if memory.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        // SAFETY: not null, and then the caller's, by NVML's contract.
        let version = unsafe { (*memory).version };
        // NVML's mark of a versioned structure: its size, and the version in the highest byte.
        if version as usize != size_of::<nvmlMemory_v2_t>() | 2 << 24 {
            return Err(Refusal::ArgumentVersionMismatch);
        }
        let (total, used) = memory_of(call, at, part);
        // SAFETY: as above.
        unsafe { put(memory, nvmlMemory_v2_t { version, total, reserved: 0, free: total - used, used }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(
    device: nvmlDevice_t,
    pci: *mut nvmlPciInfo_t,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| {
        let bus_id = &call.story().scenario.device[at].pci_bus_id;
        let (domain, bus, slot) = parse_pci(bus_id).unwrap_or_default();
        Ok(nvmlPciInfo_t {
            busIdLegacy: c_text(&format!("{domain:04X}:{bus:02X}:{slot:02X}.0")),
            domain,
            bus,
            device: slot,
            pciDeviceId: 0x2335_10DE,
            pciSubSystemId: 0x18BE_10DE,
            busId: c_text(bus_id),
        })
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetPciInfo_v3", device, pci, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: nvmlDevice_t,
    energy: *mut c_ulonglong,
) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| {
        let mut energy_mj = call.story().energy_mj(at, call.now.wall_ns);
        if call.talks(Nonsense::Energy) {
            energy_mj = if call.now.wall_ns / 1_000_000_000 % 2 == 0 { c_ulonglong::MAX } else { 0 };
        }
        call.record.energy_mj = Some(energy_mj);
        Ok(energy_mj)
    };
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetTotalEnergyConsumption", device, energy, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    utilization: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    about("nvmlDeviceGetUtilizationRates", device, |call, at| {
        if call.story().mig_on(at, call.now.wall_ns) {
            return Err(Refusal::NotSupported);
        }
        let gpu = call.story().percent(at, call.now.wall_ns).min(100);
        let gpu = if call.talks(Nonsense::Utilisation) { gpu + 4_000 } else { gpu };
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(utilization, nvmlUtilization_t { gpu, memory: gpu / 2 }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint) -> nvmlReturn_t {
    let value = |call: &mut Call<'_>, at: usize| Ok(call.story().power_mw(at, call.now.wall_ns));
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetPowerUsage", device, power, value) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: nvmlTemperatureSensors_t,
    temperature: *mut c_uint,
) -> nvmlReturn_t {
    let value =
        |call: &mut Call<'_>, at: usize| Ok(30 + call.story().percent(at, call.now.wall_ns).min(100) / 2);
    // SAFETY: as this function's own.
    unsafe { get("nvmlDeviceGetTemperature", device, temperature, value) }
}

/// Total and used, of a device or of its MIG device.
fn memory_of(call: &Call<'_>, at: usize, part: Option<usize>) -> (u64, u64) {
    let (story, now_ns) = (call.story(), call.now.wall_ns);
    let total = part
        .and_then(|part| story.cut(at, part))
        .map_or(story.scenario.device[at].memory_bytes, |cut| cut.profile.memory_bytes);
    (total, story.memory_used_bytes(at, part, now_ns).min(total))
}

/// A text in a field of its own; what does not fit is cut, the closing zero stays.
pub(super) fn c_text<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    for (to, byte) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = c_char::from_ne_bytes([byte]);
    }
    field
}
