//! Events: sets of them, and waiting. What happened before a device was registered is not told.

use std::ffi::{c_uint, c_ulonglong};
use std::time::Duration;

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlReturn_t};

use super::lists::NO_INSTANCE;
use super::{about, answer, handle, put};
use crate::Refusal;
use crate::driver::Call;
use crate::story::{Event, MIG_CONFIG_CHANGE, XID};

/// How often a wait looks again.
const LOOK_MS: c_uint = 10;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(
    device: nvmlDevice_t,
    types: *mut c_ulonglong,
) -> nvmlReturn_t {
    about("nvmlDeviceGetSupportedEventTypes", device, |call, at| {
        // SAFETY: null or the caller's, by NVML's contract.
        unsafe { put(types, supported(call, at)?) }
    })
}

fn supported(call: &Call<'_>, at: usize) -> Result<u64, Refusal> {
    if !call.story().scenario.device[at].signals.events {
        return Err(Refusal::NotSupported);
    }
    Ok(if call.story().mig_capable(at) { XID | MIG_CONFIG_CHANGE } else { XID })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    answer("nvmlEventSetCreate", |call| {
        if set.is_null() {
            return Err(Refusal::InvalidArgument);
        }
        let number = call.handles().mint();
        call.handles().event_sets.insert(number, Default::default());
        // SAFETY: not null, and then the caller's, by NVML's contract.
        unsafe { put(set, std::ptr::without_provenance_mut(number)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    answer("nvmlEventSetFree", |call| {
        call.handles().event_sets.remove(&set.addr()).map(|_| ()).ok_or(Refusal::InvalidArgument)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    about("nvmlDeviceRegisterEvents", device, |call, at| {
        if types & !supported(call, at)? != 0 {
            return Err(Refusal::NotSupported);
        }
        let now_ns = call.now.wall_ns;
        let past = call.story().events(at).iter().take_while(|event| event.at_ns <= now_ns).count();
        let set = call.handles().event_sets.get_mut(&set.addr()).ok_or(Refusal::InvalidArgument)?;
        set.insert(at, (types, past));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let mut left_ms = timeout_ms;
    loop {
        let mut again = false;
        let ret = answer("nvmlEventSetWait_v2", |call| {
            if data.is_null() {
                return Err(Refusal::InvalidArgument);
            }
            let Some((at, event)) = next(call, set)? else {
                again = left_ms > 0;
                // Nothing happened: no answer that anybody is judged by.
                call.probe = true;
                return Err(Refusal::Timeout);
            };
            let (gpuInstanceId, computeInstanceId) = event.instance.unwrap_or((NO_INSTANCE, NO_INSTANCE));
            let value = nvmlEventData_t {
                device: handle(at, None),
                eventType: event.kind,
                eventData: event.data,
                gpuInstanceId,
                computeInstanceId,
            };
            // SAFETY: not null, and then the caller's, by NVML's contract.
            unsafe { put(data, value) }
        });
        if !again {
            return ret;
        }
        // Not under the driver's lock: others call meanwhile.
        std::thread::sleep(Duration::from_millis(u64::from(left_ms.min(LOOK_MS))));
        left_ms = left_ms.saturating_sub(LOOK_MS);
    }
}

/// The oldest event of a set that has happened by now. What is of one MIG device is told to the privileged alone.
fn next(call: &mut Call<'_>, set: nvmlEventSet_t) -> Result<Option<(usize, Event)>, Refusal> {
    let now_ns = call.now.wall_ns;
    let mut set_now = call.handles().event_sets.remove(&set.addr()).ok_or(Refusal::InvalidArgument)?;
    let mut oldest: Option<(usize, Event)> = None;
    for (&at, (types, cursor)) in &mut set_now {
        let story = call.story();
        let told = |event: &Event| {
            event.kind & *types != 0 && (event.instance.is_none() || story.scenario.privileged)
        };
        let events = story.events(at);
        while events.get(*cursor).is_some_and(|event| event.at_ns <= now_ns && !told(event)) {
            *cursor += 1;
        }
        let first = events.get(*cursor).filter(|event| event.at_ns <= now_ns);
        if first.is_some_and(|event| oldest.is_none_or(|(_, oldest)| event.at_ns < oldest.at_ns)) {
            oldest = first.map(|event| (at, *event));
        }
    }
    if let Some((_, cursor)) = oldest.and_then(|(at, _)| set_now.get_mut(&at)) {
        *cursor += 1;
    }
    call.handles().event_sets.insert(set.addr(), set_now);
    Ok(oldest)
}
