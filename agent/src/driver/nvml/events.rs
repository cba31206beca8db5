//! What NVML tells by itself: errors (XID), and that a GPU was cut anew. Never waits: each read takes what is there.

use nvml_wrapper_sys::bindings::{NvmlLib, nvmlEventMigConfigChange, nvmlEventTypeXidCriticalError};

use super::raw::{Event, EventSet, Handle};

pub(super) const XID: u64 = nvmlEventTypeXidCriticalError as u64;
pub(super) const CUT_ANEW: u64 = nvmlEventMigConfigChange as u64;
/// Taken by one read; the rest waits in the driver for the next.
const EVENTS_MAX: usize = 256;

/// Of one session.
#[derive(Default)]
pub(super) struct Events {
    set: Option<EventSet>,
    /// Which kinds each device tells of.
    told: Vec<(Handle, u64)>,
}

impl Events {
    /// Asks for what these devices have to tell, anew where they are others than before. What happens meanwhile is not
    /// told.
    pub(super) fn listen(&mut self, lib: &NvmlLib, handles: &[Handle], anew: bool) {
        if !anew && self.told.iter().map(|(handle, _)| handle).eq(handles) {
            return;
        }
        *self = Self::default();
        let Ok(set) = EventSet::new(lib) else { return };
        self.told = handles
            .iter()
            .map(|&handle| (handle, set.register(lib, handle, XID | CUT_ANEW).unwrap_or(0)))
            .collect();
        self.set = Some(set);
    }

    /// Whether this device tells of events of this kind.
    pub(super) fn tells(&self, handle: Handle, kind: u64) -> bool {
        self.told.iter().any(|(other, kinds)| *other == handle && kinds & kind != 0)
    }

    pub(super) fn take(&self, lib: &NvmlLib) -> Vec<Event> {
        let Some(set) = self.set.as_ref().filter(|_| self.told.iter().any(|(_, kinds)| *kinds != 0)) else {
            return Vec::new();
        };
        std::iter::from_fn(|| set.next(lib).ok().flatten()).take(EVENTS_MAX).collect()
    }
}
